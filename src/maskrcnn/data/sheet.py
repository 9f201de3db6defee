"""Annotations drawn on small pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..output import as_rgb, colour
from ..output.labels import Label, draw_labels
from .dataset import Dataset, Sample


def draw_annotations(sample: Sample, names: Sequence[str], longest: int = 360) -> np.ndarray:
    """The picture with masks, boxes and class names, (h, w, 3) uint8, no side above ``longest``.

    Each class has its colour, and its name if there are several; crowds are hatched.
    """
    pixels = as_rgb(sample.read().pixels)
    factor = min(longest / max(pixels.shape[:2]), 1.0)
    h, w = (max(round(side * factor), 1) for side in pixels.shape[:2])
    canvas = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA) if factor < 1 else pixels
    labels: list[Label] = []
    hatch = (np.add.outer(np.arange(h), np.arange(w)) // 4) % 2 == 0
    for one in sorted(sample.instances, key=lambda one: -_area(one.box)):
        ink = colour(one.label)
        dense = one.dense(sample.size).astype(np.uint8)
        mask = cv2.resize(dense, (w, h), interpolation=cv2.INTER_AREA) if factor < 1 else dense
        inside = (mask > 0) & hatch if one.crowd else mask > 0
        canvas[inside] = (canvas[inside] * 0.55 + np.array(ink) * 0.45 + 0.5).astype(np.uint8)
        rings, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, rings, -1, ink, 1, cv2.LINE_AA)
        x1, y1, x2, y2 = (float(v * factor) for v in one.box)
        cv2.rectangle(canvas, (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1), ink, 1)
        if not one.crowd and len(names) > 1:
            labels.append(Label(names[one.label], names[one.label], (x1, y1, x2, y2), ink))
    draw_labels(canvas, labels[::-1][:12], 10, None)
    return canvas


def choose(dataset: Dataset, count: int) -> list[int]:
    """Which samples to show: the rarest classes first, one each, then evenly through the data set."""
    where: dict[int, list[int]] = {}
    for i in range(len(dataset)):
        for label in {one.label for one in dataset[i].instances}:
            where.setdefault(label, []).append(i)
    rare = [images[len(images) // 2] for images in sorted(where.values(), key=len)]
    shown = list(dict.fromkeys(rare))[: count // 2]
    rest = [i for i in range(len(dataset)) if i not in set(shown)]
    even = np.linspace(0, len(rest) - 1, min(count - len(shown), len(rest))).round().astype(int)
    return sorted([*shown, *(rest[i] for i in even.tolist())])


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
