"""What the parity tests of torchvision and Detectron2 share: their recordings have one shape."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import maskrcnn
from maskrcnn.config import Config
from maskrcnn.model.box_head import detect
from maskrcnn.model.image import to_batch
from maskrcnn.model.pooling import pooled_scales, roi_levels
from maskrcnn.model.restore import restore
from maskrcnn.model.rpn import suppress
from maskrcnn.ops.boxes import clip
from maskrcnn.records import (
    AnchorScores,
    BoxScores,
    Candidates,
    Detections,
    Image,
    ImageBatch,
    Proposals,
    Result,
)


def module(path: Path) -> ModuleType:
    """A Python file, by its path: both folders have a make_weights.py."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@dataclass(frozen=True)
class Recording:
    """One recorded run, read through the conventions of ours.

    bgr              : channels of ``input`` are blue, green, red
    background_first : in class logits and box deltas
    """

    arrays: Any
    folder: Path
    bgr: bool = False
    background_first: bool = False

    def __getitem__(self, name: str) -> Tensor:
        value = self.arrays[name]
        return torch.from_numpy(np.ascontiguousarray(value)) if value.ndim else torch.tensor(value.item())

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __len__(self) -> int:
        return len(self.arrays["image_sizes"])

    def images(self) -> list[Image]:
        return [Image(self.image(i)) for i in range(len(self))]

    def image(self, i: int) -> np.ndarray:
        if f"image_{i}" in self.arrays:
            return self.arrays[f"image_{i}"]
        recipe = str(self.arrays[f"image_{i}_recipe"])  # images.grid_image(900, 1500, 19)
        name, arguments = recipe.removeprefix("images.").rstrip(")").split("(")
        return getattr(module(self.folder / "images.py"), name)(*map(int, arguments.split(",")))

    def batch(self, config: Config) -> ImageBatch:
        return to_batch(self.images(), config)

    def classes(self, rows: Tensor) -> Tensor:
        """Class logits with the background last."""
        return rows.roll(-1, 1) if self.background_first else rows

    def deltas(self, rows: Tensor) -> Tensor:
        """(n, 4 k) to (n, classes, 4) without background."""
        return rows.unflatten(1, (-1, 4))[:, int(self.background_first) :]

    def labels(self, i: int, stage: str) -> Tensor:
        name = f"{stage}_{i}_labels" if self.background_first else f"{stage}_{i}_classes"
        return self[name].long() - int(self.background_first)

    def candidate_labels(self, i: int) -> Tensor:
        return self[f"cand_label_{i}" if self.background_first else f"cand_class_{i}"].long() - int(
            self.background_first
        )

    def masks(self, i: int) -> np.ndarray:
        shape = self.arrays[f"result_{i}_masks_shape"]
        bits = np.unpackbits(self.arrays[f"result_{i}_masks_packed"])[: np.prod(shape)]
        return bits.reshape(shape).astype(bool)

    def proposals(self) -> Proposals:
        boxes = [self[f"proposal_boxes_{i}"] for i in range(len(self))]
        index = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
        return Proposals(torch.cat(boxes), torch.zeros(len(index)), index)

    def detections(self) -> Detections:
        boxes = torch.cat([self[f"det_boxes_{i}"] for i in range(len(self))])
        index = torch.cat([torch.full((len(self[f"det_boxes_{i}"]),), i) for i in range(len(self))])
        rows = [self[f"det_cand_{i}"].long() for i in range(len(self))]
        labels = torch.cat([self.candidate_labels(i)[rows[i]] for i in range(len(self))])
        scores = torch.cat([self[f"cand_score_{i}"][rows[i]] for i in range(len(self))])
        return Detections(boxes, labels, scores, index, index)


# --- each stage, from the recorded input of that stage ---


def input_difference(recording: Recording, batch: ImageBatch, std: Tensor) -> float:
    """Largest difference of the network input; ``std`` in the order of the recorded channels."""
    step = int(recording["input_step"])
    pixels = batch.pixels.flip(1) if recording.bgr else batch.pixels
    ours = (pixels / std[:, None, None])[:, :, ::step, ::step]
    return (ours - recording["input"]).abs().max().item()


def map_differences(recording: Recording, stages: dict[str, Any]) -> dict[str, float]:
    differences = {}
    maps = [*enumerate(stages["backbone"], 2), *enumerate(stages["pyramid"], 2)]
    for i, (level, features) in enumerate(maps):
        name = f"{'C' if i < 4 else 'P'}{level}"
        wanted = recording[name]
        if wanted.shape != features.shape:
            step = max(1, int((features.shape[2] * features.shape[3]) ** 0.5) // 16)
            features = features[:, :: features.shape[1] // wanted.shape[1], ::step, ::step]
        differences[name] = (features - wanted).abs().max().item()
    return differences


def anchor_differences(recording: Recording, scores: AnchorScores) -> tuple[float, float, float]:
    """Anchors in pixels, objectness logits, deltas."""
    step = int(recording["anchor_step"])
    assert list(scores.level_sizes) == recording["anchors_per_level"].tolist()
    return (
        (scores.anchors[::step] - recording["anchors"]).abs().max().item(),
        (scores.objectness[:, ::step] - recording["rpn_logits"]).abs().max().item(),
        (scores.deltas[:, ::step] - recording["rpn_deltas"]).abs().max().item(),
    )


def proposed(recording: Recording, batch: ImageBatch, config: Config) -> list[Tensor]:
    """For each image, rows of the recorded candidates that become proposals, in order."""
    counts = [min(n, config.pre_nms) for n in recording["anchors_per_level"].tolist()]
    level = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    rows = []
    for i in range(len(recording)):
        boxes, logits = recording[f"pre_nms_boxes_{i}"], recording[f"pre_nms_logit_{i}"]
        boxes = clip(boxes, batch.windows[i])
        index = torch.arange(len(boxes))
        big = ((boxes[:, 2:] - boxes[:, :2]) > config.dialect.min_proposal).all(dim=1)
        probability = logits.sigmoid()
        candidates = Candidates(
            boxes[big], probability[big], torch.zeros_like(index[big]), index[big], level[big]
        )
        scores = AnchorScores(boxes, logits[None], torch.zeros(1, len(boxes), 4), tuple(counts))
        one = ImageBatch(batch.pixels[i : i + 1], batch.windows[i : i + 1], batch.sizes[i : i + 1])
        kept = suppress(candidates, scores, one, config)
        rows_of: dict[tuple[float, ...], list[int]] = {}
        for row in index[big].tolist():
            rows_of.setdefault((*boxes[row].tolist(), probability[row].item()), []).append(row)
        pairs = zip(kept.boxes.tolist(), kept.scores.tolist(), strict=True)
        rows.append(torch.tensor([rows_of[(*box, score)].pop(0) for box, score in pairs]))
    return rows


def levels(recording: Recording, boxes: Tensor, batch: ImageBatch, config: Config) -> Tensor:
    pyramid = [torch.empty(1, 0, *recording[f"P{i}_shape"].tolist()[2:]) for i in range(2, 6)]
    return roi_levels(boxes, batch.size, config, pooled_scales(pyramid, batch, config))


def detected(recording: Recording, batch: ImageBatch, config: Config) -> Detections:
    """From the recorded scores and deltas of each RoI and class above the threshold."""
    proposals = recording.proposals()
    n, classes = len(proposals), config.num_classes
    probability = torch.zeros(n, classes + 1, dtype=torch.float64)
    deltas = torch.zeros(n, classes, 4)
    start = 0
    for i in range(len(recording)):
        roi, label = recording[f"cand_roi_{i}"].long() + start, recording.candidate_labels(i)
        probability[roi, label] = recording[f"cand_score_{i}"].double()
        deltas[roi, label] = recording[f"cand_deltas_{i}"]
        start += len(recording[f"proposal_boxes_{i}"])
    probability[:, -1] = 1 - probability[:, :-1].sum(1)
    return detect(BoxScores(probability.clamp(min=1e-30).log(), deltas), proposals, batch, config)


def restored(recording: Recording, batch: ImageBatch, config: Config) -> list[Result]:
    masks = torch.cat([recording[f"det_mask_probs_{i}"].reshape(-1, 28, 28) for i in range(len(recording))])
    return restore(recording.detections(), masks, batch, recording.images(), config)


# --- end to end ---


@dataclass(frozen=True)
class Agreement:
    """How two lists of detections compare, matched by class and nearest box."""

    wanted: int
    got: int
    matched: int
    boxes: float  # largest difference in pixels, of matched ones
    scores: float
    iou: float  # smallest, of masks of 100 pixels and more
    pixels: int  # that differ in all masks


def agreement(recording: Recording, i: int, result: Result, near: float = 0.1) -> Agreement:
    boxes, scores = recording[f"result_{i}_boxes"], recording[f"result_{i}_scores"]
    labels, masks, ours = recording.labels(i, "result"), recording.masks(i), result.masks.numpy()
    free, matched, worst, score, iou, pixels = list(range(len(result))), 0, 0.0, 0.0, 1.0, 0
    for j in range(len(boxes)):
        same = [k for k in free if result.labels[k] == labels[j]]
        if not same:
            continue
        best = min(same, key=lambda k: (result.boxes[k] - boxes[j]).abs().max().item())
        distance = (result.boxes[best] - boxes[j]).abs().max().item()
        if distance > near:
            continue
        free.remove(best)
        matched += 1
        worst, score = max(worst, distance), max(score, abs(result.scores[best] - scores[j]).item())
        pixels += int((ours[best] != masks[j]).sum())
        if masks[j].sum() >= 100:
            iou = min(iou, (ours[best] & masks[j]).sum() / (ours[best] | masks[j]).sum())
    return Agreement(len(boxes), len(result), matched, worst, score, float(iou), pixels)


def run(model: maskrcnn.MaskRCNN, recording: Recording) -> tuple[ImageBatch, dict[str, Any]]:
    batch = recording.batch(model.config)
    stages: dict[str, Any] = {}
    with torch.inference_mode():
        model(batch, keep=stages.update)
    return batch, stages
