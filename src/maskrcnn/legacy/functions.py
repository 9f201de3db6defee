"""Matterport's graph functions on torch tensors, with its arguments: boxes are y1, x1, y2, x2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.boxes import clip, decode, encode, iou, swap_xy
from . import images, losses

UNIT = (1.0, 1.0, 1.0, 1.0)


def overlaps(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(n1, n2) IoU."""
    return iou(boxes1, boxes2)


def clip_boxes(boxes: Tensor, window: Tensor) -> Tensor:
    """(n, 4) boxes moved into the window (4,)."""
    return clip(boxes, window)


def class_loss_of_first(
    target_class_ids: Tensor, pred_class_logits: Tensor, active_class_ids: Tensor
) -> Tensor:
    """Mean cross entropy of the RoIs; the classes of the first image count for the batch, as they did there.

    `losses.mrcnn_class_loss` takes each image's own, and so does training.
    """
    active = active_class_ids[:1].expand_as(active_class_ids)
    return losses.mrcnn_class_loss(target_class_ids, pred_class_logits, active)


def mask_loss(target_masks: Tensor, target_class_ids: Tensor, pred_masks: Tensor) -> Tensor:
    """Mean binary cross entropy of the positive RoIs: (b, r, h, w), (b, r), (b, r, h, w, classes)."""
    image, roi = torch.nonzero(target_class_ids > 0, as_tuple=True)
    chosen = pred_masks[image, roi, :, :, target_class_ids[image, roi].long()]
    return losses.mrcnn_mask_loss(target_masks[image, roi], chosen)


def box_refinement(box: Tensor, gt_box: Tensor) -> Tensor:
    """(n, 4) dy, dx, dlogh, dlogw from boxes to true ones, with gradients."""
    return swap_xy(encode(swap_xy(gt_box.float()), swap_xy(box.float()), UNIT))


def apply_box_deltas(boxes: Tensor, deltas: Tensor) -> Tensor:
    """(n, 4) boxes moved and stretched by dy, dx, dlogh, dlogw."""
    return swap_xy(decode(swap_xy(deltas), swap_xy(boxes), UNIT))


def norm_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., 4) pixels as 0..1 of (h, w)."""
    return (boxes - boxes.new_tensor([0, 0, 1, 1])) / _far_corner(boxes, shape)


def denorm_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., 4) 0..1 of (h, w) as int32 pixels."""
    return (boxes * _far_corner(boxes, shape) + boxes.new_tensor([0, 0, 1, 1])).round().int()


def _far_corner(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    h, w = float(shape[0]), float(shape[1])
    return boxes.new_tensor([h - 1, w - 1, h - 1, w - 1])


def trim_zeros(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are not zero, and (n,) bool, which those are."""
    real = boxes.abs().sum(1) > 0
    return boxes[real], real


def pack(x: Tensor, counts: Sequence[int], num_rows: int) -> Tensor:
    """The first ``counts[i]`` rows of each ``x[i]``, one after the other."""
    return torch.cat([x[i, : int(counts[i])] for i in range(num_rows)])


def parse_image_meta(meta: Tensor) -> dict[str, Tensor]:
    """The parts of (b, 12 + classes) by name."""
    return {name: meta[:, columns] for name, (columns, _) in images.META.items()}
