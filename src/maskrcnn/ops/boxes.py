"""Box arithmetic. Boxes are xyxy; sides are x2 - x1, unless a caller shifts the ends (see `shrink`)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Std4 = tuple[float, float, float, float]


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Width times height, in squared units of the boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """The area that every pair has in common, in squared units of the boxes."""
    # An axis at a time: reductions over a last axis of two are slow.
    width, height = (
        torch.minimum(a[:, None, i + 2], b[None, :, i + 2]) - torch.maximum(a[:, None, i], b[None, :, i])
        for i in (0, 1)
    )
    return width.clamp(min=0) * height.clamp(min=0)


def iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair; 0 where the union has no area."""
    both = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - both
    return torch.where(
        union > 0, both / union.clamp(min=torch.finfo(both.dtype).tiny), torch.zeros_like(both)
    )


def encode(boxes: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], std: Std4) -> Float[Tensor, "n 4"]:
    """The deltas dx, dy, dlogw, dlogh, in units of ``std``, that turn anchors into boxes.

    Both xyxy in the same frame, with positive sides. Source: Faster R-CNN, eq. 2.
    """
    size, anchor_size = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + 0.5 * size - anchors[:, :2] - 0.5 * anchor_size) / anchor_size
    return torch.cat([shift, torch.log(size / anchor_size)], dim=1) / shift.new_tensor(std)


def decode(
    deltas: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], std: Std4, clamp: float | None = None
) -> Float[Tensor, "n 4"]:
    """Shift and stretch anchors.

    deltas  : dx, dy, dlogw, dlogh; unitless, before * std
    anchors : xyxy, any frame; the result is in the same
    clamp   : largest dlogw and dlogh, or None
    Source  : Faster R-CNN, eq. 2
    """
    deltas = deltas * deltas.new_tensor(std)
    stretch = deltas[:, 2:] if clamp is None else deltas[:, 2:].clamp(max=clamp)
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + 0.5 * anchor_size + deltas[:, :2] * anchor_size
    size = anchor_size * torch.exp(stretch)
    low = centre - 0.5 * size
    return torch.cat([low, low + size], dim=1)


def clip(
    boxes: Float[Tensor, "n 4"], window: Float[Tensor, "*n 4"], least: float = 0.0
) -> Float[Tensor, "n 4"]:
    """Move corners that lie outside onto the window, one for all boxes (4,) or one each (n, 4).

    least : x1 and y1 stay this far from the far side of the window, x2 and y2 from the near one
    """
    low, high = window[..., :2], window[..., 2:]
    return torch.cat(
        [boxes[:, :2].clamp(min=low, max=high - least), boxes[:, 2:].clamp(min=low + least, max=high)], dim=1
    )


def shrink(boxes: Float[Tensor, "*n 4"], end: float) -> Float[Tensor, "*n 4"]:
    """Take ``end`` off x2 and y2; 0 leaves boxes as they are, -1 undoes 1.

    Matterport measures sides as x2 - x1 - 1, because it normalises corners by size - 1: its arithmetic is
    ours on boxes shrunk by 1.
    """
    return boxes - boxes.new_tensor([0.0, 0.0, end, end]) if end else boxes


def frame(size: tuple[int, int], like: Tensor) -> Float[Tensor, "4"]:
    """The box around all of an image of this (h, w), in dtype and place of another tensor.

    A product rather than a list of numbers, which would fix the size in an exported graph.
    """
    return torch.stack([like.new_ones(()) * side for side in (0, 0, size[1], size[0])])


def swap_xy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """xyxy to yxyx, or back."""
    return boxes[..., [1, 0, 3, 2]]
