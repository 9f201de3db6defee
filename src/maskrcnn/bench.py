"""What a picture costs on this machine: time of each stage, of each engine, and of settings that trade accuracy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .model import MaskRCNN
from .model.image import batches
from .model.restore import restore
from .records import Image

STAGES = (
    "network input", "body", "FPN", "RPN", "proposals", "box RoIAlign", "box head", "detections, mask RoIAlign",
    "mask head", "restore",
)  # fmt: skip


@torch.inference_mode()
def time_stages(model: MaskRCNN, image: Image, runs: int = 5) -> dict[str, float]:
    """Median seconds of each of `STAGES` for one picture, after a first pass that is not counted."""
    passes = [_pass(model, image) for _ in range(runs + 1)][1:]
    return {stage: statistics.median(p[stage] for p in passes) for stage in STAGES}


def time_models(models: Mapping[str, MaskRCNN], image: Image, runs: int = 5) -> dict[str, float]:
    """Median seconds of ``predict`` on one picture with each model. They take turns, after a round not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(runs + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_images([image])
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _pass(model: MaskRCNN, image: Image) -> dict[str, float]:
    """Seconds of each stage of one pass."""
    marks: list[float] = []
    hooks = _watch(model, marks)

    def keep(**stage: Any) -> None:
        if "proposals" in stage:
            marks.append(_now(model))

    try:
        marks.append(_now(model))
        _, batch = next(batches([image], model.config))
        batch = batch.to(model.device)
        marks.append(_now(model))
        detections, masks = model(batch, keep=keep)
        restore(detections, masks, batch, [image], model.config)
        marks.append(_now(model))
    finally:
        for hook in hooks:
            hook.remove()
    return {stage: b - a for stage, a, b in zip(STAGES, marks[:-1], marks[1:], strict=True)}


def _watch(model: MaskRCNN, marks: list[float]) -> Sequence[torch.utils.hooks.RemovableHandle]:
    """Note when the rooms of the network are entered or left, where one stage ends and another begins."""

    def note(*_: object) -> None:
        marks.append(_now(model))

    leave = (model.backbone, model.fpn, model.rpn, model.box, model.mask)
    enter: tuple[torch.nn.Module, ...] = (model.box, model.mask)
    left: list[Callable[..., Any]] = [module.register_forward_hook for module in leave]
    entered: list[Callable[..., Any]] = [module.register_forward_pre_hook for module in enter]
    return [register(note) for register in (*left, *entered)]


def _now(model: MaskRCNN) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
