"""From boxes to features of one size: each RoI from the pyramid level that fits it. (FPN, eq. 1.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config
from ..ops.boxes import area, frame, shrink
from ..ops.roi_align import Taps, align_taps, crop_and_resize, crop_taps, roi_align, roi_pool, sum_levels
from ..records import ImageBatch

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of P2..P5; P6 only proposes


@dataclass(frozen=True, eq=False)
class RoIFeatures:
    """Pooled features (n, c, size, size) of RoIs, and their order where it is not the caller's but by level.

    Heads run in that order, and `restore` puts their small outputs back: cheaper than moving the features.
    """

    values: Tensor
    order: Tensor | None

    def arrange(self, rows: Tensor) -> Tensor:
        """Rows in the caller's order, in that of ``values``."""
        return rows if self.order is None else rows[self.order]

    def restore(self, rows: Tensor) -> Tensor:
        """Rows computed from ``values``, in the caller's order."""
        return rows if self.order is None else rows[torch.argsort(self.order)]


def pooled_scales(pyramid: Sequence[Tensor], batch: ImageBatch, config: Config) -> tuple[float, ...]:
    """Pixels of P2..P5 for a pixel of the network input.

    Source: torchvision ops/poolers.py, _infer_scale, for dialects with ``inferred_scales``: it goes by the height
    of the tallest image before padding. An exported graph has fixed scales, which differ below 68 rows alone.
    """
    if not config.dialect.inferred_scales or torch.compiler.is_exporting():
        return SCALES
    height = float((batch.windows[:, 3] - batch.windows[:, 1]).max())
    return tuple(2.0 ** round(math.log2(p.shape[2] / height)) for p in pyramid[: len(SCALES)])


def roi_levels(
    boxes: Tensor, padded: tuple[int, int], config: Config, scales: Sequence[float] = SCALES
) -> Tensor:
    """Level of each box (n, 4), 0 for P2 to 3 for P5: the larger the box, the coarser."""
    dialect = config.dialect
    if dialect.level_rule == "round":
        # Matterport measures in units of (size - 1), then scales by the full size.
        sides = shrink(boxes, 1.0)[:, 2:] - boxes[:, :2]
        height, width = padded
        scaled = sides / (frame(padded, sides)[2:] - 1)
        level = 4 + torch.round(torch.log2(scaled.prod(1).sqrt() / (224.0 / (height * width) ** 0.5)))
    elif dialect.level_rule == "floor_eps_inside":
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-8))
    elif dialect.level_rule == "floor_eps_large":
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-6))
    elif dialect.level_rule == "floor_56":
        level = 2 + torch.floor(torch.log2(area(boxes).sqrt() / 56 + 1e-6))
    else:
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224) + 1e-6)
    finest, coarsest = -math.log2(scales[0]), -math.log2(scales[-1])
    return (level.clamp(finest, coarsest).nan_to_num(finest) - finest).long()


def pool_rois(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    padded: tuple[int, int],
    size: int,
    config: Config,
    scales: Sequence[float] = SCALES,
) -> RoIFeatures:
    """Pool boxes (n, 4), pixels of the padded image, to size x size with the dialect's operation."""
    dialect = config.dialect
    level = roi_levels(boxes, padded, config, scales)
    boxes = shrink(boxes, float(dialect.last_pixel_in))
    pyramid = pyramid[: len(scales)]
    if dialect.roi_op != "pool":
        from ..ops import roi_kernel  # and with it numba, which takes a while

        if roi_kernel.fits(pyramid, boxes):
            taps = _taps(pyramid, boxes, level, padded, size, config, scales)
            return RoIFeatures(roi_kernel.Sum.apply(*taps, level, image_index, *pyramid), None)
        fixed = dialect.roi_op == "crop_and_resize" or dialect.sampling_ratio > 0
        if boxes.device.type != "cpu" and fixed and not torch.compiler.is_compiling():
            taps = _taps(pyramid, boxes, level, padded, size, config, scales)
            return RoIFeatures(sum_levels(pyramid, level, image_index, taps), None)
    parts, orders = [], []
    for i, scale in enumerate(scales):
        mine = torch.nonzero(level == i).squeeze(1)
        features, rois, images = pyramid[i], boxes.index_select(0, mine), image_index.index_select(0, mine)
        if dialect.roi_op == "crop_and_resize":
            part = crop_and_resize(features, _unit(rois, padded, config), images, size)
        elif dialect.roi_op == "pool":
            part = roi_pool(features, rois, images, size, scale)
        else:
            aligned = dialect.roi_op == "align"
            part = roi_align(features, rois, images, size, scale, dialect.sampling_ratio, aligned)
        parts.append(part)
        orders.append(mine)
    return RoIFeatures(torch.cat(parts), torch.cat(orders))


def _taps(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    level: Tensor,
    padded: tuple[int, int],
    size: int,
    config: Config,
    scales: Sequence[float],
) -> Taps:
    """Where and how much the dialect's operation reads of each box's own level."""
    extent = boxes.new_tensor([[m.shape[3], m.shape[2]] for m in pyramid])[level]
    if config.dialect.roi_op == "crop_and_resize":
        return crop_taps(_unit(boxes, padded, config), extent, size)
    scale = boxes.new_tensor(scales)[level, None]
    aligned = config.dialect.roi_op == "align"
    return align_taps(boxes, extent, size, scale, config.dialect.sampling_ratio, aligned)


def _unit(boxes: Tensor, padded: tuple[int, int], config: Config) -> Tensor:
    """Boxes as `crop_and_resize` takes them."""
    norm = (frame(padded, boxes)[2:] - 1).repeat(2)
    return shrink(boxes, float(config.dialect.inclusive_ends)) / norm
