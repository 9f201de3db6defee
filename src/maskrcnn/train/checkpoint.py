"""What a run needs to go on: one folder for each checkpoint, which appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from ..errors import WeightsError
from ..model import MaskRCNN
from ..weights import native
from .optimize import Average

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    step : steps done · best : best mask AP so far, 0..1, or None · since : validations since then
    """

    step: int = 0
    best: float | None = None
    since: int = 0


def write(
    run: Path,
    progress: Progress,
    model: MaskRCNN,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any],
) -> None:
    """Keep the state after ``progress.step`` steps, then drop older ones.

    No random state is in it: order, augmentation and samples of a step follow from the seed and its number.
    """
    folder = run / FOLDER
    for dead in folder.glob(".*.part"):  # of a process that was killed
        shutil.rmtree(dead)
    part = folder / f".{uuid4().hex}.part"
    part.mkdir(parents=True)
    native.save(model, part / "weights.safetensors")
    if average is not None:
        native.save(average.model, part / "average.safetensors")
    state = {"progress": asdict(progress), "optimizer": optimizer.state_dict(), "scaler": scaler}
    torch.save(state, part / "state.pt")
    older = _complete(run)
    whole = folder / f"{progress.step:08d}"
    if whole in older:  # the same step, reached again
        shutil.rmtree(part)
        return
    part.replace(whole)
    for path in older:
        shutil.rmtree(path)


def restore(
    run: Path,
    model: MaskRCNN,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    load_scaler: Callable[[dict[str, Any]], None],
) -> Progress:
    """Set all to the latest checkpoint of a run.

    Raises WeightsError for one that does not fit the model or the settings.
    """
    folder = latest(run)
    state = torch.load(folder / "state.pt", weights_only=True, map_location=model.device)
    try:
        model.load_state_dict(native.read(folder / "weights.safetensors")[1])
        if average is not None:
            average.model.load_state_dict(native.read(folder / "average.safetensors")[1])
        kinds = [group["fused"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, fused in zip(optimizer.param_groups, kinds, strict=True):
            group["fused"] = fused  # how a step is computed is no state: older checkpoints did without
    except (RuntimeError, ValueError, WeightsError) as error:
        raise WeightsError(
            f"{folder}: does not fit this model and these settings: {error}; train into another folder"
        ) from None
    load_scaler(state["scaler"])
    return Progress(**state["progress"])


def latest(run: Path) -> Path:
    """The folder of the latest checkpoint. Raises WeightsError where there is none."""
    found = _complete(run)
    if not found:
        raise WeightsError(
            f"{run}: want a run with a checkpoint to go on from, got none; start it anew elsewhere"
        )
    return found[-1]


def _complete(run: Path) -> list[Path]:
    return sorted(path for path in (run / FOLDER).glob("[0-9]*") if (path / "state.pt").is_file())
