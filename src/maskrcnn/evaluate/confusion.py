"""What is taken for what, and which images go worst, with detections kept from one score on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import Found, Matches, Truth, overlaps


@dataclass(frozen=True)
class ImageScore:
    """How one image went at IoU 0.5 with the detections from a score on.

    index  : of the image in the data set
    missed : row in `Truth` and label of each object that no detection found
    false  : row in `Found` and label of each detection of nothing, or of what a better one had found
    """

    index: int
    image_id: int | str
    name: str
    hits: int
    missed: tuple[tuple[int, int], ...]
    false: tuple[tuple[int, int], ...]

    @property
    def f1(self) -> float:
        """0..1; 1 for an image without objects and detections."""
        wrong = len(self.missed) + len(self.false)
        return 1.0 if not wrong else 2 * self.hits / (2 * self.hits + wrong)


def image_score(
    index: int, image_id: int | str, name: str, matches: Matches, truth: Truth, score: float
) -> ImageScore:
    """Count one image. Crowds are never missed, and what falls on them is not false."""
    kept = (matches.scores >= score) & ~matches.ignored[0, 0]
    hit = matches.hit[0, 0]
    missed = ~truth.crowd
    missed[matches.partner[kept & hit]] = False
    return ImageScore(
        index,
        image_id,
        name,
        int((kept & hit).sum()),
        _rows(missed, truth.labels),
        _rows(kept & ~hit, matches.labels),
    )


def worst_first(images: Sequence[ImageScore]) -> list[ImageScore]:
    """By F1, then by the number of errors; images without an error are left out."""
    wrong = [one for one in images if one.missed or one.false]
    return sorted(wrong, key=lambda one: (one.f1, -len(one.missed) - len(one.false)))


def confusion(found: Found, truth: Truth, score: float, classes: int) -> np.ndarray:
    """(classes + 1, classes + 1) counts of one image: row the object's class, column the detection's.

    The last row is detections of nothing, the last column objects without a detection. Pairs have an IoU of at
    least 0.5; right classes are paired first, then by IoU. Detections inside a crowd of their class are not
    counted.
    """
    found = found[found.scores >= score]
    ious = overlaps(found, truth, found.masks is not None)
    same = found.labels[:, None] == truth.labels
    table = np.zeros((classes + 1, classes + 1), np.int64)
    d, g = np.nonzero((ious >= 0.5) & ~truth.crowd)
    free_d, free_g = np.ones(len(found.labels), bool), ~truth.crowd
    for i in np.lexsort((-ious[d, g], ~same[d, g])):
        if free_d[d[i]] and free_g[g[i]]:
            free_d[d[i]] = free_g[g[i]] = False
            table[truth.labels[g[i]], found.labels[d[i]]] += 1
    free_d &= ~((ious >= 0.5) & same & truth.crowd).any(1)
    np.add.at(table[classes], found.labels[free_d], 1)
    np.add.at(table[:, classes], truth.labels[free_g], 1)
    return table


def _rows(chosen: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple((i, int(labels[i])) for i in np.flatnonzero(chosen).tolist())
