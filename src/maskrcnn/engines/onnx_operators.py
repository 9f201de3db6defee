"""Our operators in those of ONNX, for torch.onnx.export. Imports onnxscript, so `onnx.py` imports it when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # typed for single operators, not for what one gives to the next
FLOAT = 1  # onnx.TensorProto.FLOAT
LEAST = torch.finfo(torch.float32).min  # below every score


def top_k(scores: Any, k: int) -> Any:
    """Of equal values TopK takes the lower index first, as ours does."""
    have = op.Shape(scores, start=1, end=2)
    return op.TopK(scores, op.Min(have, op.Constant(value_ints=[k])), axis=1)[1]


def nms(
    boxes: Any, scores: Any, images: Any, groups: Any, threshold: float, limit: int, shift_up_to: int
) -> Any:
    """NonMaxSuppression, which sorts by itself, with a class for each group of each image; then the best of each image.

    What was not kept is not sorted again: runtimes may sort slowly.
    """
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    count, least = op.Shape(boxes, start=0, end=1), op.Constant(value_floats=[LEAST])
    images = op.Expand(zero, count) if images is None else images
    image_count = op.Add(op.ReduceMax(op.Concat(zero, images, axis=0)), one)
    family, family_count = images, image_count
    if groups is not None:
        group_count = op.Add(op.ReduceMax(op.Concat(zero, groups, axis=0)), one)
        family, family_count = op.Add(op.Mul(images, group_count), groups), op.Mul(image_count, group_count)
        if shift_up_to:
            boxes = _apart(boxes, images, groups, image_count, shift_up_to)
    most = count if limit < 0 else op.Constant(value_ints=[limit])
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, zero), op.Unsqueeze(_by_owner(scores, family, family_count), zero), most,
        op.Constant(value_floats=[threshold]), least,
    )  # fmt: skip
    rows = op.Squeeze(op.Gather(chosen, op.Constant(value_ints=[2]), axis=1), one)
    # Ascending, for the sake of ties. The limit is that of an image over all its groups.
    kept = op.Squeeze(op.NonZero(op.ScatterElements(op.Expand(zero, count), rows, _same(rows, 1))), zero)
    theirs = _by_owner(op.Gather(scores, kept), op.Gather(images, kept), image_count)
    best, place = op.TopK(theirs, op.Min(op.Shape(kept), most), axis=1)
    flat = op.Constant(value_ints=[-1])
    real = op.Reshape(op.Greater(best, least), flat)
    return op.Compress(op.Reshape(op.Gather(kept, place), flat), real, axis=0)


def roi_align(
    features: Any, boxes: Any, images: Any, size: int, scale: float, ratio: int, aligned: bool
) -> Any:
    """RoiAlign; its ``output_half_pixel`` is Detectron's, with sides of at least one pixel."""
    return op.RoiAlign(
        features, boxes, images, mode="avg", output_height=size, output_width=size, sampling_ratio=ratio,
        spatial_scale=scale, coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )  # fmt: skip


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.maskrcnn.top_k.default: top_k,
    torch.ops.maskrcnn.nms.default: nms,
    torch.ops.maskrcnn.roi_align.default: roi_align,
}


def _apart(boxes: Any, images: Any, groups: Any, image_count: Any, shift_up_to: int) -> Any:
    """As `ops.nms.apart` in each image of no more boxes than ``shift_up_to``. Boxes lie at 0 and above."""
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    per_image = op.ScatterElements(
        op.Expand(zero, image_count), images, _same(images, 1), axis=0, reduction="add"
    )
    largest = op.ScatterElements(
        op.Expand(op.Constant(value_floats=[0.0]), image_count), images, op.ReduceMax(boxes, one, keepdims=0),
        axis=0, reduction="max",
    )  # fmt: skip
    step = op.Gather(op.Add(largest, op.Constant(value_floats=[1.0])), images)
    few = op.LessOrEqual(op.Gather(per_image, images), op.Constant(value_ints=[shift_up_to]))
    shift = op.Where(few, op.Mul(op.Cast(groups, to=FLOAT), step), op.Constant(value_floats=[0.0]))
    return op.Add(boxes, op.Unsqueeze(shift, one))


def _range(count: Any) -> Any:
    """0 to count - 1, of a (1,) count."""
    scalar = op.Squeeze(count, op.Constant(value_ints=[0]))
    return op.Range(op.Constant(value_int=0), scalar, op.Constant(value_int=1))


def _same(values: Any, number: int) -> Any:
    """The number as often as there are values."""
    return op.Expand(op.Constant(value_ints=[number]), op.Shape(values))


def _by_owner(scores: Any, owner: Any, count: Any) -> Any:
    """(n,) scores in the row of (count, n) that each is owned by, elsewhere `LEAST`."""
    mine = op.Equal(op.Unsqueeze(_range(count), op.Constant(value_ints=[1])), owner)
    return op.Where(mine, scores, op.Constant(value_floats=[LEAST]))
