"""From boxes to features of one size: each RoI from the pyramid level that fits it. (FPN, eq. 1.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import Config
from ..ops.boxes import area, shrink
from ..ops.roi_align import crop_and_resize, roi_align, roi_pool

POOLED_LEVELS = 4  # P2..P5; P6 only proposes


@dataclass(frozen=True, eq=False)
class RoIFeatures:
    """Pooled features (n, c, size, size) of RoIs sorted by level, and each one's place in the caller's order.

    Heads run in sorted order, and `restore` puts their small outputs back: cheaper than moving the features.
    """

    values: Tensor
    order: Tensor

    def restore(self, rows: Tensor) -> Tensor:
        """Rows computed from ``values``, in the caller's order."""
        return rows[torch.argsort(self.order)]


def roi_levels(boxes: Tensor, padded: tuple[int, int], config: Config) -> Tensor:
    """Level of each box (n, 4), 0 for P2 to 3 for P5: the larger the box, the coarser."""
    dialect = config.dialect
    if dialect.level_rule == "round":
        # Matterport measures in units of (size - 1), then scales by the full size.
        sides = shrink(boxes, 1.0)[:, 2:] - boxes[:, :2]
        height, width = padded
        scaled = sides / sides.new_tensor([width - 1, height - 1])
        level = 4 + torch.round(torch.log2(scaled.prod(1).sqrt() / (224.0 / (height * width) ** 0.5)))
    elif dialect.level_rule == "floor_eps_inside":
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224 + 1e-8))
    else:
        level = torch.floor(4 + torch.log2(area(boxes).sqrt() / 224) + 1e-6)
    return level.clamp(2, 5).nan_to_num(2).long() - 2


def pool_rois(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    padded: tuple[int, int],
    size: int,
    config: Config,
) -> RoIFeatures:
    """Pool boxes (n, 4), pixels of the padded image, to size x size with the dialect's operation."""
    dialect = config.dialect
    level = roi_levels(boxes, padded, config)
    parts, orders = [], []
    for i in range(POOLED_LEVELS):
        mine = torch.nonzero(level == i).squeeze(1)
        features, rois, images = pyramid[i], boxes[mine], image_index[mine]
        scale = 1.0 / (4 * 2**i)
        if dialect.roi_op == "crop_and_resize":
            norm = rois.new_tensor([padded[1] - 1, padded[0] - 1]).repeat(2)
            end = float(dialect.inclusive_ends)
            part = crop_and_resize(features, shrink(rois, end) / norm, images, size)
        elif dialect.roi_op == "pool":
            part = roi_pool(features, rois, images, size, scale)
        else:
            aligned = dialect.roi_op == "align"
            part = roi_align(features, rois, images, size, scale, dialect.sampling_ratio, aligned)
        parts.append(part)
        orders.append(mine)
    return RoIFeatures(torch.cat(parts), torch.cat(orders))
