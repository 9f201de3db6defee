"""Matches of all images as COCO's numbers, and as curves over the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .matching import AREAS, IOUS, Matches

RECALLS = np.linspace(0, 1, 101)
CONFIDENCES = np.linspace(0, 1, 101)
Measure = Literal["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar"]


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision, recall and F1 of what is kept above a score, at IoU 0.5.

    precision, recall : (classes, 101), at the scores 0, 0.01, ... 1; precision is 1 where nothing is kept
    threshold         : (classes,) the score to keep from, where F1 is greatest; nan where no detection is right
    best              : (classes,) that greatest F1
    The last row is all classes pooled: every object counts the same, and so does every false detection, also of
    classes that have no object.
    """

    precision: np.ndarray
    recall: np.ndarray
    threshold: np.ndarray
    best: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(classes, 101)."""
        return 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)


@dataclass(frozen=True, eq=False)
class Metrics:
    """COCO's numbers for boxes or for masks, 0..1; nan where there is no object to find.

    names      : the k classes
    truths     : (areas, k) objects to find, crowds not among them
    average    : (areas, ious, k) AP of each class; areas are all, small, medium, large
    recall     : (areas, ious, k) recall of each class with at most ``max_detections`` an image
    recall_few : (2, ious, k) the same with at most 1 and 10, all areas
    precision  : (ious, 101, k) precision at recall 0, 0.01, ... 1, all areas
    curves     : over the score
    """

    names: tuple[str, ...]
    max_detections: int
    truths: np.ndarray
    average: np.ndarray = field(repr=False)
    recall: np.ndarray = field(repr=False)
    recall_few: np.ndarray = field(repr=False)
    precision: np.ndarray = field(repr=False)
    curves: Curves = field(repr=False)

    def of_classes(self, measure: Measure) -> np.ndarray:
        """(k,) one measure of each class: AP at IoU 0.5:0.95, at 0.5, at 0.75, by size; AR at 0.5:0.95."""
        if measure in ("ap50", "ap75"):
            return self.average[0, 0 if measure == "ap50" else 5]
        table = self.recall if measure == "ar" else self.average
        area = list(AREAS).index(measure.partition("_")[2] or "all")
        return table[area].mean(0)

    def mean(self, measure: Measure, at_least: int = 1) -> float:
        """The mean of a measure over the classes with at least so many objects."""
        return _mean(self.of_classes(measure)[self.truths[0] >= at_least])

    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers."""
        most = f"ar_{self.max_detections}"
        named = {
            "ap": _mean(self.average[0]), "ap50": _mean(self.average[0, 0]), "ap75": _mean(self.average[0, 5]),
            "ap_small": _mean(self.average[1]), "ap_medium": _mean(self.average[2]),
            "ap_large": _mean(self.average[3]),
            "ar_1": _mean(self.recall_few[0]), "ar_10": _mean(self.recall_few[1]), most: _mean(self.recall[0]),
        }  # fmt: skip
        sizes = {f"ar_{size}": _mean(self.recall[i]) for i, size in enumerate(AREAS) if i}
        return named | sizes

    @property
    def ap(self) -> float:
        """AP over IoU 0.5:0.95."""
        return self.summary()["ap"]

    @property
    def ap50(self) -> float:
        """AP at IoU 0.5."""
        return self.summary()["ap50"]

    @property
    def ap75(self) -> float:
        """AP at IoU 0.75."""
        return self.summary()["ap75"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None for nan: the summary, the pooled curves, every class that has objects."""
        measures: tuple[Measure, ...] = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")
        columns: dict[str, np.ndarray] = {m: self.of_classes(m) for m in measures}
        columns |= {"threshold": self.curves.threshold, "f1": self.curves.best}
        return {
            **{name: plain(value) for name, value in self.summary().items()},
            "curves": {
                "score": CONFIDENCES.round(2).tolist(),
                **{c: [plain(v) for v in getattr(self.curves, c)[-1]] for c in ("precision", "recall", "f1")},
            },
            "classes": {
                name: {"objects": int(self.truths[0, i])} | {m: plain(c[i]) for m, c in columns.items()}
                for i, name in enumerate(self.names)
                if self.truths[0, i]
            },
        }


def accumulate(images: Sequence[Matches], names: tuple[str, ...], max_detections: int = 100) -> Metrics:
    """COCO's numbers from the matches of all images.

    images : in the order of their ids, which decides between equal scores
    Source : pycocotools 2.0, COCOeval.accumulate and summarize.
    """
    k, shape = len(names), (len(AREAS), len(IOUS), len(names))
    labels, rank, truth_labels, scores = (
        np.concatenate([getattr(m, name) for m in images] or [np.zeros(0)])
        for name in ("labels", "rank", "truth_labels", "scores")
    )
    hit, ignored = (_joined(images, name, (*shape[:2], 0)) for name in ("hit", "ignored"))
    wanted = ~_joined(images, "truth_ignored", (shape[0], 0))
    truths = np.stack([np.bincount(truth_labels[row].astype(int), minlength=k) for row in wanted])
    average, recall, few = np.full(shape, np.nan), np.full(shape, np.nan), np.full((2, *shape[1:]), np.nan)
    precision = np.full((len(IOUS), len(RECALLS), k), np.nan)
    for i in range(k):
        rows = np.flatnonzero(labels == i)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        for area in range(len(AREAS)):
            count = truths[area, i]
            if not count:
                continue
            counts = ~ignored[area][:, rows]
            right = hit[area][:, rows] & counts
            curve = precision_at(right, counts & ~right, count)
            average[area, :, i], recall[area, :, i] = curve.mean(1), right.sum(1) / count
            if area == 0:
                precision[:, :, i] = curve
                few[:, :, i] = [(right & (rank[rows] < most)).sum(1) / count for most in (1, 10)]
    every = hit[0, 0] & ~ignored[0, 0], ~hit[0, 0] & ~ignored[0, 0]
    curves = curves_of(labels, scores, *every, truths[0])
    return Metrics(names, max_detections, truths, average, recall, few, precision, curves)


def precision_at(right: np.ndarray, wrong: np.ndarray, count: int) -> np.ndarray:
    """(t, 101) the best precision at each recall or above; 0 beyond the greatest recall.

    right, wrong : (t, d) bool, detections in order of falling score
    count        : objects to find
    """
    true, false = right.cumsum(1).astype(float), wrong.cumsum(1).astype(float)
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(precision, ((0, 0), (0, 1)))
    return np.stack([
        row[np.searchsorted(recall, RECALLS, side="left")] for row, recall in zip(padded, true / count, strict=True)
    ])  # fmt: skip


def curves_of(
    labels: np.ndarray, scores: np.ndarray, right: np.ndarray, wrong: np.ndarray, truths: np.ndarray
) -> Curves:
    """Curves of each class and of all; arguments (d,), truths (k,) objects to find."""
    rows = [
        _curve(scores[labels == i], right[labels == i], wrong[labels == i], n) for i, n in enumerate(truths)
    ]
    rows.append(_curve(scores, right, wrong, truths.sum()))
    return Curves(*(np.stack(column) for column in zip(*rows, strict=True)))


def _curve(scores: np.ndarray, right: np.ndarray, wrong: np.ndarray, count: int) -> tuple[Any, Any, Any, Any]:
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    true, false = (np.concatenate([[0], x[order].cumsum()]) for x in (right, wrong))
    precision = np.where(true + false > 0, true / np.maximum(true + false, 1), 1.0)
    recall = true / count if count else np.full(len(true), np.nan)
    kept = np.searchsorted(-scores, -CONFIDENCES, side="right")  # detections of at least that score
    if not count or not len(scores):
        return precision[kept], recall[kept], np.nan, 0.0 if count else np.nan
    f1 = 2 * true / (true + false + count)
    f1[1:-1][scores[:-1] == scores[1:]] = -1  # no threshold falls between equal scores
    best = int(f1[1:].argmax()) + 1
    if not true[best]:
        return precision[kept], recall[kept], np.nan, 0.0
    # halfway to the next score, so that neither > nor >= changes what is kept
    threshold = (scores[best - 1] + (scores[best] if best < len(scores) else 0)) / 2
    return precision[kept], recall[kept], threshold, f1[best]


def plain(value: float) -> float | None:
    """A number as JSON has it: None for nan."""
    return None if np.isnan(value) else float(value)


def _joined(images: Sequence[Matches], name: str, empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([getattr(m, name) for m in images] or [np.zeros(empty, bool)], axis=-1)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
