"""Whether another runtime finds what PyTorch finds: the largest differences on real pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..ops.boxes import iou
from ..records import Result

BOX_LIMIT, SCORE_LIMIT, MASK_LIMIT = (
    0.1,
    1e-3,
    0.02,
)  # pixels, and probabilities of which 1 is the whole range


@dataclass(frozen=True)
class Parity:
    """Differences over several pictures.

    detections : how many the reference found
    unmatched  : those of either side without a partner of the same class at an IoU of one half; one whose score
                 lies within ``SCORE_LIMIT`` of the least is not counted
    boxes (pixels), scores, masks : largest differences between partners
    """

    detections: int
    unmatched: int
    boxes: float
    scores: float
    masks: float

    @property
    def holds(self) -> bool:
        """Whether every difference is within its limit."""
        small = self.boxes <= BOX_LIMIT and self.scores <= SCORE_LIMIT and self.masks <= MASK_LIMIT
        return self.unmatched == 0 and small

    def text(self) -> str:
        """One line."""
        return (
            f"{self.detections} detections, {self.unmatched} without a partner; largest differences: "
            f"boxes {self.boxes:.4f} px, scores {self.scores:.1e}, masks {self.masks:.1e}"
        )


def compare(pairs: Iterable[tuple[Result, Result]], least: float) -> Parity:
    """Differences of (reference, other) results of the same pictures; ``least`` is the score both start at."""
    count, alone, boxes, scores, masks = 0, 0, 0.0, 0.0, 0.0
    for reference, other in pairs:
        count += len(reference)
        partners = match(reference, other)
        sure = least + SCORE_LIMIT
        matched = torch.zeros(len(other), dtype=torch.bool)
        for i, j in enumerate(partners.tolist()):
            if j < 0:
                alone += bool(reference.scores[i] > sure)
                continue
            matched[j] = True
            boxes = max(boxes, float((reference.boxes[i] - other.boxes[j]).abs().max()))
            scores = max(scores, abs(float(reference.scores[i] - other.scores[j])))
            masks = max(masks, float((reference.roi_masks[i] - other.roi_masks[j]).abs().max()))
        alone += int((other.scores[~matched] > sure).sum())
    return Parity(count, alone, boxes, scores, masks)


def match(reference: Result, other: Result) -> torch.Tensor:
    """For each detection of the reference the one of ``other`` that stands for it, of its class and at an IoU of one
    half or more, -1 for none; each stands for one, the best-scored choose first."""
    overlap = iou(reference.boxes, other.boxes)
    overlap = torch.where(reference.labels[:, None] == other.labels, overlap, torch.zeros_like(overlap))
    partners = torch.full((len(reference),), -1)
    for i in range(len(reference)):
        if len(other) and overlap[i].max() >= 0.5:
            partners[i] = overlap[i].argmax()
            overlap[:, partners[i]] = 0
    return partners
