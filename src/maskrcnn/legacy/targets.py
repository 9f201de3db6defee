"""What Matterport's network should have said: anchors, and proposals, matched with the true instances.

Boxes are y1, x1, y2, x2; draws come from NumPy's global generator where the original's do, so that a seed gives
the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError
from ..ops.boxes import encode, iou, swap_xy
from ..ops.roi_align import crop_and_resize
from .boxes import box_refinement, compute_overlaps
from .images import resize


def build_rpn_targets(
    anchors: np.ndarray, gt_class_ids: np.ndarray, gt_boxes: np.ndarray, count: int, std: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Which anchors are positive, and how they differ from their instance.

    anchors : (n, 4) pixels; gt_class_ids: (g,), negative for a crowd, which anchors must not touch to be negative

    Positive from IoU 0.7, and those that overlap an instance most; negative below 0.3; at most ``count`` in all,
    half of them positive. Returns match (n,) int32 of 1, -1 and 0, and deltas (count, 4) float64 in units of
    ``std``, those of the positive anchors first.
    """
    apart = np.ones(len(anchors), bool)
    if (gt_class_ids < 0).any():
        apart = compute_overlaps(anchors, gt_boxes[gt_class_ids < 0]).max(1) < 0.001
        gt_boxes = gt_boxes[gt_class_ids > 0]
    if not len(gt_boxes):
        raise ShapeError("gt_boxes: want at least one instance, got none; leave such images out")
    overlaps = compute_overlaps(anchors, gt_boxes)
    nearest, best = overlaps.argmax(1), overlaps.max(1)
    match = np.zeros(len(anchors), np.int32)
    match[(best < 0.3) & apart] = -1
    match[(overlaps == overlaps.max(0)).any(1)] = 1
    match[best >= 0.7] = 1
    _thin(match, 1, count // 2)
    _thin(match, -1, count - int((match == 1).sum()))

    deltas = np.zeros((count, 4))
    chosen = np.flatnonzero(match == 1)
    anchor, truth = anchors[chosen], gt_boxes[nearest[chosen]]
    size, true_size = anchor[:, 2:] - anchor[:, :2], truth[:, 2:] - truth[:, :2]
    shift = (truth[:, :2] + 0.5 * true_size - (anchor[:, :2] + 0.5 * size)) / size
    deltas[: len(chosen)] = np.concatenate([shift, np.log(true_size / size)], axis=1) / std
    return match, deltas


def _thin(match: np.ndarray, value: int, most: int) -> None:
    """Reset random entries of this value to 0 until ``most`` are left."""
    found = np.flatnonzero(match == value)
    if len(found) > most:
        match[np.random.choice(found, len(found) - most, replace=False)] = 0  # noqa: NPY002


def generate_random_rois(
    image_shape: Sequence[int], count: int, gt_class_ids: np.ndarray, gt_boxes: np.ndarray
) -> np.ndarray:
    """(count, 4) int32 boxes with an area: nine of ten around the instances, the rest anywhere."""
    height, width = image_shape[:2]
    each = int(0.9 * count / gt_boxes.shape[0])
    rois = []
    for y1, x1, y2, x2 in gt_boxes:
        h, w = y2 - y1, x2 - x1
        rows = max(y1 - h, 0), min(y2 + h, height)
        rois.append(_random_boxes(rows, (max(x1 - w, 0), min(x2 + w, width)), each))
    rois.append(_random_boxes((0, height), (0, width), count - each * len(gt_boxes)))
    return np.concatenate(rois).astype(np.int32)


def _random_boxes(rows: tuple[int, int], columns: tuple[int, int], count: int) -> np.ndarray:
    while True:  # twice as many as are wanted, of which some have no area
        y = np.random.randint(*rows, (count * 2, 2))  # noqa: NPY002
        x = np.random.randint(*columns, (count * 2, 2))  # noqa: NPY002
        y, x = (np.sort(pairs[pairs[:, 0] != pairs[:, 1]][:count], axis=1) for pairs in (y, x))
        if len(y) == len(x) == count:
            return np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1)


def build_detection_targets(
    rpn_rois: np.ndarray, gt_class_ids: np.ndarray, gt_boxes: np.ndarray, gt_masks: np.ndarray,
    *, count: int, positive: float, classes: int, std: Sequence[float], mask_shape: Sequence[int],
    mini_masks: bool, image_shape: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Samples of proposals (n, 4) in pixels with what the heads should say of them, for looking at.

    Returns RoIs (count, 4), class ids (count,), deltas (count, classes, 4) and masks (count, h, w, classes), both
    float32 and zero but for the true class.
    """
    if not len(rpn_rois) or not (gt_class_ids > 0).any():
        raise ShapeError("rpn_rois, gt_class_ids: want at least one of each, got none")
    real = gt_class_ids > 0
    gt_class_ids, gt_boxes, gt_masks = gt_class_ids[real], gt_boxes[real], gt_masks[..., real]
    overlaps = compute_overlaps(rpn_rois, gt_boxes)
    nearest, best = overlaps.argmax(1), overlaps.max(1)
    over, under = np.flatnonzero(best > 0.5), np.flatnonzero(best < 0.5)
    over = _some(over, int(count * positive))
    under = _some(under, count - len(over))
    keep = np.concatenate([over, under])
    if len(keep) < count:  # too few: repeat background, or what there is
        source = under if len(under) else keep
        keep = np.concatenate([keep, np.random.choice(source, count - len(keep))])  # noqa: NPY002

    class_ids = np.where(best > 0.5, gt_class_ids[nearest], 0)[keep].astype(gt_class_ids.dtype)
    rois, instance = rpn_rois[keep], nearest[keep]
    deltas = np.zeros((count, classes, 4), np.float32)
    masks = np.zeros((count, *tuple(mask_shape), classes), np.float32)
    rows = np.flatnonzero(class_ids > 0)
    deltas[rows, class_ids[rows]] = box_refinement(rois[rows], gt_boxes[instance[rows]])
    deltas /= std
    for i in rows:
        mask = gt_masks[..., instance[i]]
        if mini_masks:
            y1, x1, y2, x2 = gt_boxes[instance[i]]
            full = np.zeros(tuple(image_shape[:2]), bool)
            full[y1:y2, x1:x2] = np.round(resize(mask, (y2 - y1, x2 - x1))).astype(bool)
            mask = full
        y1, x1, y2, x2 = rois[i].astype(np.int32)
        masks[i, :, :, class_ids[i]] = resize(mask[y1:y2, x1:x2], mask_shape)
    return rois, class_ids, deltas, masks


def _some(positions: np.ndarray, most: int) -> np.ndarray:
    return np.random.choice(positions, most, replace=False) if len(positions) > most else positions  # noqa: NPY002


@dataclass(frozen=True, eq=False)
class DetectionTargets:
    """What the heads learn from in one image; r rows, zeros behind the samples. q positives come first.

    rois (r, 4) normalised · class_ids (r,) int64 · deltas (q, 4) in units of std · masks (q, m, m) 0 or 1
    """

    rois: Tensor
    class_ids: Tensor
    deltas: Tensor
    masks: Tensor


def detection_targets(
    proposals: Tensor, gt_class_ids: Tensor, gt_boxes: Tensor, gt_masks: Tensor,
    *, count: int, positive: float, std: Sequence[float], mask_side: int, mini_masks: bool,
) -> DetectionTargets:  # fmt: skip
    """Sample the proposals of one image.

    proposals, gt_boxes : (n, 4), (g, 4) normalised; rows of zeros are padding
    gt_masks : (h, w, g), of the whole image or, with ``mini_masks``, of each instance's box

    Positive from IoU 0.5, ``count * positive`` of them at most; background in proportion to them, below 0.5 with
    all and clear of crowds. An image without positives gives no background either. The wanted deltas have a
    gradient to the proposals. (model.py, detection_targets_graph)
    """
    proposals = proposals[proposals.abs().sum(1) > 0]
    real = gt_boxes.abs().sum(1) > 0
    crowd, single = real & (gt_class_ids < 0), real & (gt_class_ids > 0)
    class_ids, boxes, masks = gt_class_ids[single], gt_boxes[single], gt_masks[..., single]
    overlaps = iou(proposals.detach(), boxes)
    best, nearest = overlaps.max(1) if len(boxes) else (proposals.new_zeros(len(proposals)),) * 2
    apart = (iou(proposals.detach(), gt_boxes[crowd]) < 0.001).all(1)
    over = _shuffled(torch.nonzero(best >= 0.5).squeeze(1))[: int(count * positive)]
    background = int(np.float32(1.0 / positive) * np.float32(len(over))) - len(over)
    under = _shuffled(torch.nonzero((best < 0.5) & apart).squeeze(1))[:background]

    rois, instance = proposals[over], nearest[over].long()
    wanted = encode(swap_xy(boxes[instance]), swap_xy(rois), (1.0, 1.0, 1.0, 1.0))
    windows = rois
    if mini_masks:
        low, high = boxes[instance][:, :2], boxes[instance][:, 2:]
        windows = (rois - low.repeat(1, 2)) / (high - low).repeat(1, 2)
    maps = masks.permute(2, 0, 1)[:, None].to(rois.dtype)
    cut = crop_and_resize(maps, swap_xy(windows.detach()), instance, mask_side)[:, 0].round()
    padding = count - len(over) - len(under)
    return DetectionTargets(
        torch.cat([rois, proposals[under], rois.new_zeros(padding, 4)]),
        torch.cat([class_ids[instance].long(), class_ids.new_zeros(count - len(over), dtype=torch.int64)]),
        swap_xy(wanted) / rois.new_tensor(np.asarray(std).tolist()),
        cut,
    )


def _shuffled(positions: Tensor) -> Tensor:
    return positions[torch.randperm(len(positions)).to(positions.device)]
