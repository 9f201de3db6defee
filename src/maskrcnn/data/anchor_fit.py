"""Do the anchors of a model fit the objects of a data set?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..model.image import resized_size
from ..records import Size

BAD = 0.5  # IoU with the best anchor below which an object is hard to propose
_MOST = 4000  # objects that the search for better sizes looks at
_MARGIN = 0.02  # share of objects that other sizes must win to be suggested


@dataclass(frozen=True, eq=False)
class AnchorFit:
    """Objects against anchors, both in pixels of the network input.

    sides     : (n, 2) h, w of each object after the resize of the configuration
    best_iou  : (n,) with the best anchor laid on the object's centre
    sizes     : the configuration's anchor sizes
    suggested : sizes that fit clearly better, one a level; None where the present ones do
    poor, poor_suggested : share of objects whose best IoU is below 0.5, now and with ``suggested``
    """

    sides: np.ndarray
    best_iou: np.ndarray
    sizes: tuple[float, ...]
    poor: float
    suggested: tuple[float, ...] | None = None
    poor_suggested: float | None = None


def fit_anchors(boxes: Sequence[np.ndarray], images: Sequence[Size], config: Config) -> AnchorFit:
    """Compare objects with the anchors of a configuration.

    boxes  : (n, 4) xyxy for each image, pixels of the image
    images : (h, w) of each
    """
    sides = [np.zeros((0, 2))]
    for these, size in zip(boxes, images, strict=True):
        scale = np.array(resized_size(size, config)) / size
        sides.append(np.stack((these[:, 3] - these[:, 1], these[:, 2] - these[:, 0]), axis=1) * scale)
    every = np.concatenate(sides)
    ratios = np.array(config.anchor_ratios)
    sizes = tuple(float(s) for level in config.anchor_sizes for s in level)
    best = best_iou(every, np.array(sizes), ratios)
    poor = float((best < BAD).mean()) if len(best) else 0.0
    better = _search(every[:: max(len(every) // _MOST, 1)], ratios) if len(every) else None
    if better is None:
        return AnchorFit(every, best, sizes, poor)
    poor_better = float((best_iou(every, np.array(better), ratios) < BAD).mean())
    if poor_better > poor - _MARGIN:
        return AnchorFit(every, best, sizes, poor)
    return AnchorFit(every, best, sizes, poor, better, poor_better)


def best_iou(sides: np.ndarray, sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """(n,) IoU of each object (h, w) with the best of the anchors, on one centre.

    An anchor of size s and ratio r is s * sqrt(r) high and s / sqrt(r) wide.
    """
    best = np.zeros(len(sides))
    area = sides.prod(1)
    for size in sizes:
        for root in np.sqrt(ratios):
            inter = np.minimum(sides[:, 0], size * root) * np.minimum(sides[:, 1], size / root)
            best = np.maximum(best, inter / (area + size * size - inter))
    return best


def _search(sides: np.ndarray, ratios: np.ndarray) -> tuple[float, ...]:
    """Five sizes, each the same factor above the one before, that leave the fewest objects poor."""
    tries = [
        tuple(float(round(start * factor**k)) for k in range(5))
        for start in (4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)
        for factor in (1.4, 1.6, 1.8, 2.0, 2.2, 2.5)
    ]
    found = [best_iou(sides, np.array(sizes), ratios) for sizes in tries]
    return tries[min(range(len(tries)), key=lambda i: ((found[i] < BAD).mean(), -found[i].mean()))]
