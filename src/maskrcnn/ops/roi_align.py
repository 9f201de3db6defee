"""RoIAlign, RoIPool and TensorFlow's crop_and_resize, as sums over rows of a (pixels, channels) table.

Each output bin is a weighted sum (RoIAlign, crop_and_resize) or a maximum (RoIPool) of feature pixels, which is
what ``embedding_bag`` computes: over channels-last maps it reads whole pixels in order, is differentiable to the
features and, through the weights, to the boxes, and runs on every device. Nothing here is compiled; `roi_kernel` has
a CPU's kernel for the sums, of the same taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .boxes import frame

Features = Float[Tensor, "b c h w"]
Boxes = Float[Tensor, "n 4"]
Index = Int[Tensor, "n"]
Pooled = Float[Tensor, "n c p p"]
Taps = tuple[
    Tensor, Tensor
]  # (n, 2, p, t): pixels along x and y that go into each bin, int64, and how much of each


def roi_align(
    features: Features, boxes: Boxes, image_index: Index, size: int, scale: float, sampling_ratio: int,
    aligned: bool = True,
) -> Pooled:  # fmt: skip
    """Average bilinear samples, a regular grid of them in each of size x size bins.

    boxes          : xyxy pixels of the padded image; times ``scale`` they are pixels of the map
    sampling_ratio : samples a bin side; 0 takes ceil(side of the box on the map / size), box by box
    aligned        : pixel centres lie at .5 (Detectron2); else at integers, and sides are at least 1 (Detectron)
    Source         : Mask R-CNN, section 3; detectron2 ROIAlign_cpu.cpp for what happens at the border
    """
    if torch.compiler.is_exporting():  # one node, for which other runtimes have a kernel
        return torch.ops.maskrcnn.roi_align(
            features, boxes, image_index, size, scale, sampling_ratio, aligned
        )
    extent = frame((features.shape[2], features.shape[3]), boxes)[2:]
    if sampling_ratio > 0:
        return _sum_map(
            features, image_index, align_taps(boxes, extent, size, scale, sampling_ratio, aligned)
        )
    low, bins, counts = _bins(boxes, size, scale, 0, aligned)
    shape = (boxes.shape[0], size, size)
    bag, row, col, starts = _ragged(
        counts[:, 1, None, None].expand(shape).reshape(-1), counts[:, 0, None, None].expand(shape).reshape(-1)
    )
    roi, bin_y, bin_x = bag // size**2, bag // size % size, bag % size
    per_side = counts[roi]
    at_x = low[roi, 0] + bin_x * bins[roi, 0] + (col + 0.5) * bins[roi, 0] / per_side[:, 0]
    at_y = low[roi, 1] + bin_y * bins[roi, 1] + (row + 0.5) * bins[roi, 1] / per_side[:, 1]
    (iy, wy), (ix, wx) = _taps(at_y, extent[1]), _taps(at_x, extent[0])
    pixel = _pixel(features, image_index[roi][:, None, None], iy[:, :, None], ix[:, None, :])
    weight = wy[:, :, None] * wx[:, None, :] / per_side.prod(1)[:, None, None]
    return _bag(_table(features), pixel.reshape(-1), starts * 4, "sum", weight.reshape(-1), size)


def align_taps(
    boxes: Boxes, extent: Tensor, size: int, scale: float | Tensor, sampling_ratio: int, aligned: bool
) -> Taps:
    """What `roi_align` sums. Where a box has fewer samples than another, taps without weight fill the rest.

    extent : (2,) or (n, 2), width and height of the map
    scale  : of all boxes, or (n, 1)
    """
    low, bins, counts = (a[:, :, None, None] for a in _bins(boxes, size, scale, sampling_ratio, aligned))
    bin_ = torch.arange(size, device=boxes.device)[:, None]
    most = sampling_ratio or (int(counts.max()) if len(counts) else 0)
    sample = torch.arange(most, device=boxes.device)
    points = low + bin_ * bins + (sample + 0.5) * bins / counts.clamp(min=1)
    index, weight = _taps(points, extent[..., None, None])
    share = (sample < counts) / counts.clamp(min=1)
    return index.flatten(3), (weight * share[..., None]).flatten(3)


def _bins(
    boxes: Boxes, size: int, scale: float | Tensor, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 2) each, of x and y: where a box begins on its map, the side of its bins, and their samples a side."""
    low = boxes[:, :2] * scale - (0.5 if aligned else 0.0)
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale
    bins = (sides if aligned else sides.clamp(min=1.0)) / size
    adaptive = torch.ceil(bins.detach()).clamp(min=0).long()
    return low, bins, torch.full_like(adaptive, sampling_ratio) if sampling_ratio > 0 else adaptive


def align_weights(boxes: Boxes, shape: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """How much of each row, (n, p, h), and of each column, (n, p, w), of a map goes into each bin of its boxes.

    RoIAlign (``aligned``, samples by the box) is separable: on a map of one channel it is
    ``rows @ map @ columns.T``, which for many samples in each bin is far less work than the samples one by one.
    """
    index, weight = align_taps(boxes, frame((shape[0], shape[1]), boxes)[2:], size, 1.0, 0, True)
    columns, rows = (
        boxes.new_zeros(len(boxes), size, side).scatter_add_(2, index[:, i], weight[:, i])
        for i, side in enumerate(shape[::-1])
    )
    return rows, columns


def crop_and_resize(features: Features, boxes: Boxes, image_index: Index, size: int) -> Pooled:
    """One bilinear sample a bin, from corner to corner of the box: ``tf.image.crop_and_resize``.

    boxes  : xyxy, normalised so that 0 and 1 are the centres of the first and the last pixel
    Source : tensorflow core/kernels/image/crop_and_resize_op.cc. A sample beyond the last pixel is 0, and
             float32 puts the last sample of a box that ends at 1.0 there in one case of seven; hence the
             arithmetic is in float32 and in that order.
    """
    extent = frame((features.shape[2], features.shape[3]), boxes)[2:]
    if torch.compiler.is_exporting():  # RoIAlign with one sample a bin, there, and zeros for those outside
        points, step = _points(boxes, extent, size)
        low = points[:, :, 0] - 0.5 * step + 0.5
        pooled = roi_align(features, torch.cat([low, low + size * step], dim=1), image_index, size, 1.0, 1)
        inside = ((points >= 0) & (points <= extent[:, None] - 1)).to(pooled.dtype)
        return pooled * inside[:, 1, None, :, None] * inside[:, 0, None, None, :]
    return _sum_map(features, image_index, crop_taps(boxes, extent, size))


def crop_taps(boxes: Boxes, extent: Tensor, size: int) -> Taps:
    """What `crop_and_resize` sums; ``extent`` as for `align_taps`. A point outside counts as 0."""
    points, _ = _points(boxes, extent, size)
    index, weight = _taps(points, extent[..., None])
    inside = (points >= 0.0) & (points <= extent[..., None] - 1.0)
    return index, weight * inside[..., None]


def _points(boxes: Tensor, extent: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where `crop_and_resize` samples, (n, 2, size), and the distance of two samples, (n, 2)."""
    span = extent - 1
    if size == 1:
        return (0.5 * (boxes[:, :2] + boxes[:, 2:]) * span)[:, :, None], torch.zeros_like(boxes[:, 2:])
    step = (boxes[:, 2:] - boxes[:, :2]) * span / (size - 1)
    places = torch.arange(size, device=boxes.device, dtype=boxes.dtype)
    return (boxes[:, :2] * span)[:, :, None] + places * step[:, :, None], step


@torch.library.custom_op(
    "maskrcnn::roi_align",
    mutates_args=(),
    schema="(Tensor features, Tensor boxes, Tensor images, int size, float scale, int ratio, bool aligned) -> Tensor",
)
def _roi_align_node(features: Tensor, boxes: Tensor, images: Tensor, size: int, *settings: Any) -> Tensor:
    return roi_align(features, boxes, images, size, *settings).contiguous()


@_roi_align_node.register_fake
def _(features: Tensor, boxes: Tensor, images: Tensor, size: int, *settings: Any) -> Tensor:
    return features.new_empty(boxes.shape[0], features.shape[1], size, size)


def roi_pool(features: Features, boxes: Boxes, image_index: Index, size: int, scale: float) -> Pooled:
    """The maximum in each of size x size bins of the box rounded to whole feature pixels; 0 for an empty bin.

    boxes  : xyxy pixels of the padded image
    Source : Fast R-CNN, section 2.1; torchvision csrc/ops/cpu/roi_pool_kernel.cpp
    """
    # Half away from zero, as C's round does; torch.round takes halves to the even number.
    corner = boxes.detach() * scale
    corner = (torch.sign(corner) * torch.floor(corner.abs() + 0.5)).long()
    sides = (corner[:, 2:] - corner[:, :2] + 1).clamp(min=1)
    step = (sides.to(boxes.dtype) / size)[:, :, None]
    places = torch.arange(size, device=boxes.device)
    limit = torch.tensor([features.shape[3], features.shape[2]], device=boxes.device)[:, None]
    first = corner[:, :2, None]
    start = (torch.floor(places * step).long() + first).clamp(min=0).minimum(limit)
    stop = (torch.ceil((places + 1) * step).long() + first).clamp(min=0).minimum(limit)
    count = (stop - start).clamp(min=0)

    shape = (boxes.shape[0], size, size)
    rows, cols = (
        count[:, 1, :, None].expand(shape).reshape(-1),
        count[:, 0, None, :].expand(shape).reshape(-1),
    )
    bag, row, col, starts = _ragged(rows, cols)
    roi = bag // size**2
    y, x = start[roi, 1, bag // size % size] + row, start[roi, 0, bag % size] + col
    return _bag(_table(features), _pixel(features, image_index[roi], y, x), starts, "max", None, size)


def _taps(points: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels on an axis beside each point, and their weights, as (..., 2) each.

    Points up to one pixel outside take the border pixel; farther out they count as 0.
    """
    inside = (points >= -1.0) & (points <= extent)
    last = extent - 1.0
    points = points.clamp(min=0.0).minimum(last)
    low = points.detach().floor()
    upper = points - low
    index = torch.stack([low, (low + 1).minimum(last)], dim=-1).long()
    return index, torch.stack([1.0 - upper, upper], dim=-1) * inside[..., None]


def _sum_map(features: Tensor, image_index: Tensor, taps: Taps) -> Tensor:
    """The sums of boxes that all read one map."""
    image = image_index[:, None, None, None, None]
    return _sum_taps(_table(features), lambda y, x: _pixel(features, image, y, x), taps)


def _sum_taps(table: Tensor, pixel: Callable[[Tensor, Tensor], Tensor], taps: Taps) -> Tensor:
    """The sum over all pairs of a bin's taps along x and y; ``pixel`` is the table's row of each pair."""
    (ix, iy), (wx, wy) = (part.unbind(1) for part in taps)
    n, size, count = ix.shape
    rows = pixel(iy[:, :, None, :, None], ix[:, None, :, None, :])
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    starts = torch.arange(n * size * size, device=rows.device) * count**2
    return _bag(table, rows.reshape(-1), starts, "sum", weight.reshape(-1), size)


def sum_levels(pyramid: Sequence[Tensor], level: Index, image_index: Index, taps: Taps) -> Pooled:
    """The sums of boxes that each read a map of their own, in one call; ``taps`` as of that map.

    Copies the maps into one table, which costs a GPU less than to tell the host how many boxes each has.
    """
    sides = [(m.shape[2], m.shape[3]) for m in pyramid]
    starts = [0]
    for m in pyramid[:-1]:
        starts.append(starts[-1] + m.shape[0] * m.shape[2] * m.shape[3])
    h, w, start = torch.tensor(
        [*zip(*sides, strict=True), starts], device=level.device
    )[:, level, None, None, None, None]  # fmt: skip
    table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in pyramid])
    image = image_index[:, None, None, None, None]
    return _sum_taps(table, lambda y, x: start + (image * h + y) * w + x, taps)


def _pixel(features: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Row of the (b * h * w, c) table."""
    return (image * features.shape[2] + y) * features.shape[3] + x


def _table(features: Tensor) -> Tensor:
    """A map's pixels as rows (b * h * w, c): a view of channels-last maps."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _bag(table: Tensor, pixel: Tensor, starts: Tensor, mode: str, weight: Tensor | None, size: int) -> Tensor:
    """Sum or maximum of table rows for each bag, as a (n, c, size, size) channels-last tensor."""
    weight = None if weight is None else weight.to(table.dtype)
    bags = F.embedding_bag(pixel, table, starts, mode=mode, per_sample_weights=weight)
    return bags.reshape(-1, size, size, table.shape[1]).permute(0, 3, 1, 2)


def _ragged(rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """List the cells of grids of different sizes: grid, row and column of each cell, and each grid's start."""
    cells = rows * cols
    ends = cells.cumsum(0)
    grid = torch.repeat_interleave(torch.arange(cells.shape[0], device=cells.device), cells)
    place = torch.arange(grid.shape[0], device=cells.device) - (ends - cells)[grid]
    return grid, place // cols[grid], place % cols[grid], ends - cells
