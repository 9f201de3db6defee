"""Where each pooling operation reads the feature map, for one region: what `ops.roi_align` does, as geometry.

Unit: cells of the map, cell i from i to i + 1, so that its value lies at i + 0.5; a box of the padded input
divided by the stride is in the same unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..model.pooling import roi_levels
from ..ops.boxes import shrink
from ..ops.roi_align import roi_align, roi_pool
from ..records import Size
from .study import Followed, Study


@dataclass(frozen=True, eq=False)
class Reading:
    """One operation on one region.

    name    : for people
    box     : xyxy of the area that is read
    bins_x, bins_y : (start, stop) of each of the 7 columns and rows
    points  : (k, 2) x, y of the sampling points; none for RoIPool, which takes every cell of a bin
    output  : (c, 7, 7)
    own     : whether it is what the model did
    """

    name: str
    box: tuple[float, float, float, float]
    bins_x: list[tuple[float, float]]
    bins_y: list[tuple[float, float]]
    points: np.ndarray
    output: Tensor
    own: bool


@dataclass(frozen=True, eq=False)
class Level:
    """Why a region goes to its level: side in pixels, the value before rounding, the level k (2 for P2).

    shift : what is added to the rounded value, since the maps are taken to be finer than they are
    """

    side: float
    value: float
    k: int
    shift: int


def level_of(box: Tensor, padded: Size, config: Config, scales: Sequence[float]) -> Level:
    """FPN, eq. 1, with its numbers for one box (4,); ``scales`` as of `pooled_scales`."""
    end = 1.0 if config.dialect.level_rule == "round" else 0.0
    w, h = (shrink(box, end)[2:] - box[:2]).clamp(min=0).tolist()
    side = math.sqrt(w * h)
    if end:  # measured in units of (size - 1), then scaled by the full size
        side *= math.sqrt(padded[0] * padded[1] / ((padded[0] - 1) * (padded[1] - 1)))
    value = 4 + math.log2(side / 224) if side > 0 else -math.inf
    shift = 2 + round(math.log2(scales[0]))
    return Level(side, value, int(roi_levels(box[None], padded, config, scales)) + 2, shift)


@torch.inference_mode()
def readings(study: Study, followed: Followed, k: int) -> list[Reading]:
    """RoIPool; the model's own operation if it is another; RoIAlign as in the paper, if that is a third.

    The model's own output is the trace's.
    """
    config, dialect = study.config, study.config.dialect
    features, stride, size = study.trace.pyramid[k - 2], study.stride(k), config.box_pool
    box, image = (
        followed.proposal.to(features.device)[None],
        torch.zeros(1, dtype=torch.long, device=features.device),
    )
    own = study.trace.roi_features[followed.roi]
    exact = [v / stride for v in followed.proposal.tolist()]

    def pool() -> Reading:
        mine = dialect.roi_op == "pool"
        output = own if mine else roi_pool(features, box, image, size, 1 / stride)[0]
        return _pool_reading(exact, size, (features.shape[2], features.shape[3]), output, mine)

    def align() -> Reading:
        mine = dialect.roi_op == "align"
        ratio = dialect.sampling_ratio if mine else 2
        output = own if mine else roi_align(features, box, image, size, 1 / stride, ratio)[0]
        return _align_reading("RoIAlign", exact, size, ratio, 0.0, output, mine)

    shown = [pool()]
    if dialect.roi_op == "crop_and_resize":
        shown.append(_crop_reading(study, followed, features, size, own))
    elif dialect.roi_op == "align_legacy":
        legacy = [*exact[:2], exact[0] + max(exact[2] - exact[0], 1), exact[1] + max(exact[3] - exact[1], 1)]
        name = "RoIAlign as first released (half a cell off)"
        shown.append(_align_reading(name, legacy, size, dialect.sampling_ratio, 0.5, own, True))
    return [*shown, align()]


def align_rounded(study: Study, pool: Reading, k: int) -> Tensor:
    """(c, 7, 7) of RoIAlign over RoIPool's rounded box: what the rounding alone does."""
    features, stride = study.trace.pyramid[k - 2], study.stride(k)
    box = torch.tensor([pool.box], device=features.device) * stride
    image = torch.zeros(1, dtype=torch.long, device=features.device)
    return roi_align(features, box, image, study.config.box_pool, 1 / stride, 2)[0]


def _pool_reading(exact: list[float], size: int, extent: Size, output: Tensor, own: bool) -> Reading:
    x1, y1, x2, y2 = (math.floor(abs(v) + 0.5) * (1 if v >= 0 else -1) for v in exact)
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)

    def bins(start: int, length: int, limit: int) -> list[tuple[float, float]]:
        step = np.float32(length) / np.float32(size)
        low = [start + math.floor(i * step) for i in range(size)]
        high = [start + math.ceil((i + 1) * step) for i in range(size)]
        return [(min(max(a, 0), limit), min(max(b, 0), limit)) for a, b in zip(low, high, strict=True)]

    columns, rows, nowhere = bins(x1, w, extent[1]), bins(y1, h, extent[0]), np.empty((0, 2))
    return Reading("RoIPool", (x1, y1, x1 + w, y1 + h), columns, rows, nowhere, output, own)


def _align_reading(
    name: str, box: list[float], size: int, ratio: int, off: float, output: Tensor, own: bool
) -> Reading:
    """``off``: how far right and down of their true place the values are taken, in cells."""
    low, high = np.array(box[:2]) + off, np.array(box[2:]) + off
    step = (high - low) / size
    bins, points = [], []
    for axis in (0, 1):
        count = ratio if ratio > 0 else max(math.ceil(step[axis]), 1)
        bins.append([(low[axis] + i * step[axis], low[axis] + (i + 1) * step[axis]) for i in range(size)])
        points.append(low[axis] + (np.arange(size * count) + 0.5) * step[axis] / count)
    return Reading(name, (low[0], low[1], high[0], high[1]), bins[0], bins[1], _product(points), output, own)


def _crop_reading(study: Study, followed: Followed, features: Tensor, size: int, output: Tensor) -> Reading:
    """From corner to corner, one point a bin: RoIAlign's grid on a box stretched by size / (size - 1)."""
    (h, w), end = study.padded, float(study.config.dialect.inclusive_ends)
    norm = shrink(followed.proposal, end).numpy().astype(np.float64) / np.array([w - 1, h - 1, w - 1, h - 1])
    bins, points = [], []
    for axis, extent in ((0, features.shape[3]), (1, features.shape[2])):
        low, high = norm[axis] * (extent - 1) + 0.5, norm[axis + 2] * (extent - 1) + 0.5
        at = np.linspace(low, high, size)
        half = (high - low) / (size - 1) / 2
        points.append(at)
        bins.append([(v - half, v + half) for v in at])
    box = (bins[0][0][0], bins[1][0][0], bins[0][-1][1], bins[1][-1][1])
    return Reading("crop_and_resize", box, bins[0], bins[1], _product(points), output, True)


def _product(axes: list[np.ndarray]) -> np.ndarray:
    x, y = np.meshgrid(*axes)
    return np.stack([x.ravel(), y.ravel()], axis=1)
