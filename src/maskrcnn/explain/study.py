"""The numbers that the page shows: one traced image, and the region that it follows through the heads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError
from ..model import MaskRCNN
from ..model.box_head import detect
from ..model.pooling import pool_rois, pooled_scales
from ..model.restore import restore_boxes
from ..ops.boxes import area, clip, decode, iou, shrink
from ..records import Image, Result, Size, Trace

REASONABLE = (0.005, 0.6)  # share of the picture that the box of a good example takes


@dataclass(frozen=True, eq=False)
class Followed:
    """The region that the page follows from proposal to mask. Boxes (4,) are xyxy, padded frame.

    instance    : row of the Result; None when nothing was detected, and the best proposal stands in
    roi         : row of Proposals and BoxScores
    label, score: its class and probability
    proposal    : before the box head
    box         : refined by the box head and clipped
    deltas      : (4,) raw dx, dy, dlogw, dlogh for its class
    mask        : (m, m) float32 probabilities
    """

    instance: int | None
    roi: int
    label: int
    score: float
    proposal: Tensor
    box: Tensor
    deltas: Tensor
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Study:
    """All that the page needs. ``followed`` is None when there is not one proposal."""

    config: Config
    image: Image
    source: str
    trace: Trace
    followed: Followed | None

    @property
    def result(self) -> Result:
        """What the network finds in the photo."""
        return self.trace.results[0]

    @property
    def padded(self) -> Size:
        """(h, w) of the network input."""
        return self.trace.batch.size

    @property
    def window(self) -> tuple[float, float, float, float]:
        """xyxy of the content in the network input."""
        x1, y1, x2, y2 = self.trace.batch.windows[0].tolist()
        return x1, y1, x2, y2

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels for one pixel of the photo, along x and y."""
        x1, y1, x2, y2 = self.window
        return (x2 - x1) / self.image.size[1], (y2 - y1) / self.image.size[0]

    @property
    def scales(self) -> tuple[float, ...]:
        """What the model takes for the pixels of P2..P5 for one pixel of the input."""
        return pooled_scales(self.trace.pyramid, self.trace.batch, self.config)

    def stride(self, k: int) -> float:
        """Input pixels for one of P``k``, by the same reckoning."""
        return 1 / self.scales[k - 2]

    def to_photo(self, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) of the padded frame as exact pixels of the photo, not rounded, not clipped."""
        x1, y1, _, _ = self.window
        return (boxes.cpu().double() - boxes.new_tensor([x1, y1, x1, y1]).cpu()) / torch.tensor(
            self.scale * 2
        )


@torch.inference_mode()
def study(model: MaskRCNN, image: Image, instance: int | None) -> Study:
    """Trace an image and choose the region to follow.

    Raises ConfigError for an ``instance`` that the result does not have.
    """
    trace = model.trace(image)
    count = len(trace.results[0])
    if instance is not None and not 0 <= instance < count:
        want = f"0 to {count - 1}" if count else "None, because nothing was detected"
        raise ConfigError(f"instance: want {want}, got {instance}; the result of this picture has {count}")
    followed = _detected(model, trace, instance) if count else _best_proposal(model, trace)
    return Study(model.config, image, model.source, trace, followed)


def default_instance(result: Result) -> int:
    """The best instance that is neither tiny nor the whole picture; the best of all if there is none such."""
    share = area(result.boxes) / (result.size[0] * result.size[1])
    good = torch.nonzero((share >= REASONABLE[0]) & (share <= REASONABLE[1])).flatten().tolist()
    return good[0] if good else 0


def detection_rows(trace: Trace, config: Config) -> Tensor:
    """Row of Detections for each row of the Result, which leaves out boxes without area."""
    boxes = restore_boxes(
        trace.detections.boxes.cpu(), trace.batch.windows[0].cpu(), trace.batch.sizes[0], config
    )
    return torch.nonzero(((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)).flatten()


def _detected(model: MaskRCNN, trace: Trace, instance: int | None) -> Followed:
    instance = default_instance(trace.results[0]) if instance is None else instance
    found, row = trace.detections, int(detection_rows(trace, model.config)[instance])
    roi, label = int(found.roi_index[row]), int(found.labels[row])
    return Followed(
        instance, roi, label, float(found.scores[row]),
        trace.proposals.boxes[roi].cpu(), found.boxes[row].cpu(),
        _class_deltas(trace, roi, label).cpu(), trace.mask_logits[row].sigmoid().float().cpu().numpy(),
    )  # fmt: skip


def _best_proposal(model: MaskRCNN, trace: Trace) -> Followed | None:
    """The proposal most like any class, refined and masked as that, though its score did not suffice."""
    config = model.config
    count = real_proposals(trace, config)
    if not count:
        return None
    scores, labels = trace.box_scores.class_logits[:count].softmax(1)[:, :-1].max(1)
    roi = int(scores.argmax())
    label, proposal = labels[roi], trace.proposals.boxes[roi]
    deltas, end = _class_deltas(trace, roi, int(label)), float(config.dialect.inclusive_ends)
    box = decode(deltas[None], shrink(proposal[None], end), config.box_std, config.dialect.delta_clamp)
    box = shrink(clip(box, shrink(trace.batch.windows[0], end)), -end)
    image = trace.proposals.image_index[:1]
    scales = pooled_scales(trace.pyramid, trace.batch, config)
    features = pool_rois(trace.pyramid, box, image, trace.batch.size, config.mask_size // 2, config, scales)
    mask = model.mask(features.values, label[None])[0].sigmoid().float().cpu().numpy()
    return Followed(
        None, roi, int(label), float(scores[roi]), proposal.cpu(), box[0].cpu(), deltas.cpu(), mask
    )


def _class_deltas(trace: Trace, roi: int, label: int) -> Tensor:
    deltas = trace.box_scores.deltas[roi]
    return deltas[label if len(deltas) > 1 else 0]


def real_proposals(trace: Trace, config: Config) -> int:
    """Number of proposals, without the zero boxes that some dialects fill up with."""
    return int((trace.proposals.scores > 0).sum()) if config.dialect.pad_proposals else len(trace.proposals)


def level_grids(study: Study) -> list[tuple[int, int]]:
    """(h, w) of the positions that carry anchors, P2 to P6."""
    stride = study.config.rpn_stride
    return [(-(-p.shape[2] // stride), -(-p.shape[3] // stride)) for p in study.trace.pyramid]


def by_level(study: Study, values: Tensor) -> list[Tensor]:
    """Values of all anchors, (n, ...), as one (h, w, anchors of a cell, ...) tensor a level."""
    parts = values.split(list(study.trace.anchor_scores.level_sizes))
    cells = study.config.anchors_per_cell
    return [p.reshape(h, w, cells, *p.shape[1:]) for p, (h, w) in zip(parts, level_grids(study), strict=True)]


def anchor_levels(study: Study) -> Tensor:
    """(n,) level of every anchor, 0 for P2."""
    sizes = torch.tensor(study.trace.anchor_scores.level_sizes)
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def silenced(study: Study, followed: Followed) -> tuple[int, Tensor]:
    """The level whose anchor made the proposal, and rows of Candidates that NMS dropped as too like it."""
    seen, config = study.trace.candidates, study.config
    end = float(config.dialect.inclusive_ends)
    boxes, mine = seen.boxes.cpu(), followed.proposal
    itself = int((boxes - mine).abs().sum(1).argmin())
    level = int(seen.level[itself])
    clash = iou(shrink(boxes, end), shrink(mine[None], end))[:, 0] > config.rpn_nms
    if config.dialect.per_level:
        clash &= seen.level.cpu() == level
    clash[itself] = False
    return level, torch.nonzero(clash).flatten()


def rivals(study: Study, followed: Followed) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4), padded frame, and scores of the RoIs of the same class that lost against the instance."""
    trace, end = study.trace, float(study.config.dialect.inclusive_ends)
    if followed.instance is None:
        return followed.box[None][:0], followed.box[:0]
    wanted = torch.arange(study.config.num_classes) == followed.label
    everything = dataclasses.replace(study.config, nms=1.0, max_detections=len(trace.proposals) + 1)
    found = detect(trace.box_scores, trace.proposals, trace.batch, everything, wanted)
    overlap = iou(shrink(found.boxes.cpu(), end), shrink(followed.box[None], end))[:, 0]
    kept = trace.detections.roi_index[trace.detections.labels == followed.label]
    lost = (overlap > study.config.nms) & ~torch.isin(found.roi_index, kept).cpu()
    return found.boxes.cpu()[lost], found.scores.cpu()[lost]
