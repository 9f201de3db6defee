"""Our operators in those of ONNX, for torch.onnx.export. Imports onnxscript, so `onnx.py` imports it when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # typed for single operators, not for what one gives to the next
FLOAT = 1  # onnx.TensorProto.FLOAT


def top_k(scores: Any, k: int) -> Any:
    """Of equal values TopK takes the lower index first, as ours does."""
    have = op.Shape(scores, start=1, end=2)
    return op.TopK(scores, op.Min(have, op.Constant(value_ints=[k])), axis=1)[1]


def nms_sorted(boxes: Any, images: Any, groups: Any, threshold: float, limit: int, shift_up_to: int) -> Any:
    """NonMaxSuppression with a class for each group of each image, and falling scores for the order."""
    zero, one = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    count = op.Shape(boxes, start=0, end=1)
    positions = _range(count)
    image_count = op.Add(op.ReduceMax(op.Concat(zero, images, axis=0)), one)
    group_count = op.Add(op.ReduceMax(op.Concat(zero, groups, axis=0)), one)
    if shift_up_to:
        boxes = _apart(boxes, images, groups, image_count, shift_up_to)
    family = op.Add(op.Mul(images, group_count), groups)
    families = _range(op.Mul(image_count, group_count))
    member = op.Equal(op.Unsqueeze(families, one), op.Unsqueeze(family, zero))
    falling = op.Cast(op.Unsqueeze(op.Sub(count, positions), zero), to=FLOAT)
    scores = op.Where(member, falling, op.Constant(value_floats=[0.0]))
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, zero), op.Unsqueeze(scores, zero), count if limit < 0 else op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[threshold]), op.Constant(value_floats=[0.5]),
    )  # fmt: skip
    rows = op.Squeeze(op.Gather(chosen, op.Constant(value_ints=[2]), axis=1), one)
    # The positions in ascending order are image by image and by falling score.
    kept = _sorted(rows)
    if limit < 0:
        return kept
    # The limit is that of an image over all its groups.
    image = op.Gather(images, kept)
    ones = _same(image, 1)
    per_image = op.ScatterElements(op.Expand(zero, image_count), image, ones, axis=0, reduction="add")
    before = op.Gather(op.CumSum(per_image, zero, exclusive=1), image)
    place = op.Sub(op.CumSum(ones, zero, exclusive=1), before)
    return op.Compress(kept, op.Less(place, op.Constant(value_ints=[limit])), axis=0)


def roi_align(
    features: Any, boxes: Any, images: Any, size: int, scale: float, ratio: int, aligned: bool
) -> Any:
    """RoiAlign; its ``output_half_pixel`` is Detectron's, with sides of at least one pixel."""
    return op.RoiAlign(
        features, boxes, images, mode="avg", output_height=size, output_width=size, sampling_ratio=ratio,
        spatial_scale=scale, coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )  # fmt: skip


def stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """TopK of all of a (n,), for which torch.onnx has no translation of its own."""
    return op.TopK(values, op.Shape(values), axis=dim, largest=int(descending))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.maskrcnn.top_k.default: top_k,
    torch.ops.maskrcnn.nms_sorted.default: nms_sorted,
    torch.ops.maskrcnn.roi_align.default: roi_align,
    torch.ops.aten.sort.stable: stable_sort,
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


def _sorted(rows: Any) -> Any:
    """Distinct (n,) int64, ascending."""
    return op.TopK(rows, op.Shape(rows), axis=0, largest=0)[0]
