"""Boxes and anchors as Matterport counts them: y1, x1, y2, x2, NumPy arrays, anchors in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError


def extract_bboxes(mask: np.ndarray) -> np.ndarray:
    """(n, 4) int32 boxes around masks (h, w, n); zeros for an empty mask."""
    if mask.ndim != 3:
        raise ShapeError(f"mask: want (h, w, n), got {mask.shape}; add the last axis with mask[..., None]")
    boxes = np.zeros((mask.shape[-1], 4), np.int32)
    for i in range(len(boxes)):
        rows, columns = np.flatnonzero(mask[..., i].any(1)), np.flatnonzero(mask[..., i].any(0))
        if len(rows):
            boxes[i] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return boxes


def compute_iou(
    box: np.ndarray, boxes: np.ndarray, box_area: float, boxes_area: np.ndarray
) -> np.ndarray:  # fmt: skip
    """(n,) IoU of one box (4,) with others (n, 4); the areas are given, since callers need them often."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(1)
    return common / (box_area + boxes_area - common)


def compute_overlaps(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """(n1, n2) float64 IoU of two sets of boxes."""
    areas1, areas2 = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes1, boxes2))
    overlaps = np.zeros((len(boxes1), len(boxes2)))
    for j, box in enumerate(boxes2):
        overlaps[:, j] = compute_iou(box, boxes1, areas2[j], areas1)
    return overlaps


def non_max_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """int32 indices of the boxes that no better one overlaps by more than ``threshold``, best first."""
    boxes = np.asarray(boxes, np.float64 if boxes.dtype.kind != "f" else boxes.dtype)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    waiting, kept = np.argsort(scores)[::-1], []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        waiting = waiting[compute_iou(boxes[best], boxes[waiting], areas[best], areas[waiting]) <= threshold]
    return np.array(kept, np.int32)


def apply_box_deltas(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """(n, 4) float32: boxes moved and stretched by dy, dx, dlogh, dlogw."""
    boxes = boxes.astype(np.float32)
    size = boxes[:, 2:4] - boxes[:, :2]
    centre = (boxes[:, :2] + 0.5 * size + deltas[:, :2] * size).astype(np.float32)
    size = (size * np.exp(deltas[:, 2:4])).astype(np.float32)
    low = centre - 0.5 * size
    return np.concatenate([low, low + size], axis=1)


def box_refinement(box: np.ndarray, gt_box: np.ndarray) -> np.ndarray:
    """(n, 4) float32 dy, dx, dlogh, dlogw that turn each box into the true one."""
    box, gt_box = box.astype(np.float32), gt_box.astype(np.float32)
    size, gt_size = box[:, 2:4] - box[:, :2], gt_box[:, 2:4] - gt_box[:, :2]
    shift = (gt_box[:, :2] + 0.5 * gt_size - (box[:, :2] + 0.5 * size)) / size
    return np.concatenate([shift, np.log(gt_size / size)], axis=1)


def norm_boxes(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """float32 boxes from pixels to 0..1 of (h, w): 1 is the centre of the last pixel."""
    h, w = shape[0], shape[1]
    shift, scale = np.array([0, 0, 1, 1]), np.array([h - 1, w - 1, h - 1, w - 1])
    return np.divide(boxes - shift, scale).astype(np.float32)


def denorm_boxes(boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """int32 pixels from normalised boxes, rounded half to even."""
    h, w = shape[0], shape[1]
    shift, scale = np.array([0, 0, 1, 1]), np.array([h - 1, w - 1, h - 1, w - 1])
    return np.around(np.multiply(boxes, scale) + shift).astype(np.int32)


def feature_shapes(strides: Sequence[int], image_shape: Sequence[int]) -> np.ndarray:
    """(levels, 2) height and width of each level of the pyramid, for an image (h, w, ...)."""
    return np.ceil(np.asarray(image_shape[:2])[None] / np.asarray(strides)[:, None]).astype(np.int64)


def generate_anchors(
    scales: Sequence[float] | float, ratios: Sequence[float], shape: Sequence[int],
    feature_stride: int, anchor_stride: int,
) -> np.ndarray:  # fmt: skip
    """(n, 4) float64 anchors of one level, in pixels; row by row, at each position ratio by ratio.

    scales : square roots of the areas; ratios: w/h; shape: (h, w) of the feature map
    """
    scale, ratio = (grid.ravel() for grid in np.meshgrid(np.array(scales), np.array(ratios)))
    size = np.stack([scale / np.sqrt(ratio), scale * np.sqrt(ratio)], axis=1)
    y, x = (np.arange(0, extent, anchor_stride) * feature_stride for extent in shape[:2])
    centre = np.stack(np.meshgrid(y, x, indexing="ij"), axis=2).reshape(-1, 1, 2)
    return np.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=2).reshape(-1, 4)


def generate_pyramid_anchors(
    scales: Sequence[float], ratios: Sequence[float], feature_shapes: np.ndarray,
    feature_strides: Sequence[int], anchor_stride: int,
) -> np.ndarray:  # fmt: skip
    """(n, 4) float64 anchors of all levels, one scale each, finest level first."""
    return np.concatenate([
        generate_anchors(scale, ratios, shape, stride, anchor_stride)
        for scale, shape, stride in zip(scales, feature_shapes, feature_strides, strict=False)
    ])  # fmt: skip


def trim_zeros(x: np.ndarray) -> np.ndarray:
    """The rows of a matrix that are not all zero."""
    return x[np.any(x != 0, axis=1)]
