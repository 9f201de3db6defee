"""What our stages compute, in Matterport's layout: a batch axis, normalised y-first boxes, background first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops.boxes import shrink, swap_xy
from ..records import AnchorScores, BoxScores, Detections

YX = [1, 0, 3, 2]  # dx dy dw dh to dy dx dh dw, and back


def normalised(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """xyxy pixels of the padded (h, w) to y1, x1, y2, x2 in 0..1."""
    return swap_xy(shrink(boxes, 1.0) / boxes.new_tensor([size[1] - 1, size[0] - 1]).repeat(2))


def pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `normalised`."""
    return shrink(swap_xy(boxes) * boxes.new_tensor([size[1] - 1, size[0] - 1]).repeat(2), -1.0)


def file_anchors(rows: Tensor, order: Sequence[int]) -> Tensor:
    """(b, n, ...) of our anchors in the order of Matterport's; see `maskrcnn.weights.matterport.configure`."""
    cells = rows.unflatten(1, (-1, len(order)))
    return cells[:, :, np.argsort(order).tolist()].flatten(1, 2)


def rpn_class_logits(scores: AnchorScores, order: Sequence[int]) -> Tensor:
    """(b, n, 2) background and object; their difference is the network's, their mean is 0 here."""
    half = file_anchors(scores.objectness, order) / 2
    return torch.stack([-half, half], dim=2)


def rpn_bbox(scores: AnchorScores, order: Sequence[int]) -> Tensor:
    """(b, n, 4) raw dy, dx, dlogh, dlogw."""
    return file_anchors(scores.deltas, order)[..., YX]


def class_logits(scores: BoxScores, batch: int) -> Tensor:
    """(b, r, classes) background first."""
    return scores.class_logits.roll(1, 1).unflatten(0, (batch, -1))


def class_deltas(scores: BoxScores, batch: int) -> Tensor:
    """(b, r, classes, 4) raw; zeros for background, whose deltas nobody reads."""
    deltas = scores.deltas[..., YX]
    return torch.cat([torch.zeros_like(deltas[:, :1]), deltas], dim=1).unflatten(0, (batch, -1))


def detections(found: Detections, batch: int, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """(b, count, 6) y1, x1, y2, x2, class id, score, then zeros; and (n,) the row of each detection in its image."""
    rows = torch.cat(
        [normalised(found.boxes, size), found.labels[:, None] + 1.0, found.scores[:, None]], dim=1
    )
    first = torch.searchsorted(found.image_index, torch.arange(batch, device=found.image_index.device))
    place = torch.arange(len(found), device=first.device) - first[found.image_index]
    padded = rows.new_zeros(batch, count, 6)
    padded[found.image_index, place] = rows
    return padded, place
