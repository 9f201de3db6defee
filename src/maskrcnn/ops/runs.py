"""Masks as runs: what a mask costs that has no frame of its own, such as one that crosses many tiles.

Runs are (k, 3) int32: column x, first row, row after the last; in order of x, then of rows; without overlap, and
without two that touch in one column. Everything here takes time and memory by runs, not by pixels.
"""

from __future__ import annotations

import numpy as np

Window = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 exclusive

NONE = np.zeros((0, 3), np.int32)
_ROW = 2**32 - 1


def from_crop(crop: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Runs of a (bh, bw) bool array whose first pixel is at ``corner``, (y, x)."""
    steps = np.diff(crop.astype(np.int8).T, axis=1, prepend=0, append=0)
    x, start = np.nonzero(steps == 1)
    stop = np.nonzero(steps == -1)[1]
    return np.stack((x + corner[1], start + corner[0], stop + corner[0]), axis=1).astype(np.int32)


def to_crop(runs: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The inverse of `from_crop`: the array that just holds all runs, and the (y, x) of its first pixel."""
    x1, y1, x2, y2 = bounds(runs)
    steps = np.zeros((y2 - y1 + 1, x2 - x1), np.int8)
    steps[runs[:, 1] - y1, runs[:, 0] - x1] = 1
    steps[runs[:, 2] - y1, runs[:, 0] - x1] = -1
    return np.cumsum(steps[:-1], axis=0, dtype=np.int8).astype(bool), (y1, x1)


def bounds(runs: np.ndarray) -> Window:
    """The window that just holds all runs; 0, 0, 0, 0 for none."""
    if not len(runs):
        return 0, 0, 0, 0
    return int(runs[0, 0]), int(runs[:, 1].min()), int(runs[-1, 0]) + 1, int(runs[:, 2].max())


def area(runs: np.ndarray) -> int:
    """Number of pixels."""
    return int((runs[:, 2].astype(np.int64) - runs[:, 1]).sum())


def clip(runs: np.ndarray, window: Window) -> np.ndarray:
    """The part within a window."""
    x1, y1, x2, y2 = window
    first, last = np.searchsorted(runs[:, 0], (x1, x2))
    part = runs[first:last].copy()
    np.clip(part[:, 1:], y1, y2, out=part[:, 1:])
    return part[part[:, 2] > part[:, 1]]


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Number of pixels that both have."""
    return area(a) + area(b) - area(union([a, b]))


def union(several: list[np.ndarray]) -> np.ndarray:
    """What at least one of them has."""
    runs = np.concatenate([NONE, *several])
    if not len(runs):
        return runs
    line = (
        runs[:, :1].astype(np.int64) * 2**32 + runs[:, 1:]
    )  # columns one after the other, with gaps between
    start, stop = line[np.argsort(line[:, 0])].T
    reach = np.maximum.accumulate(stop)
    first = np.r_[True, start[1:] > reach[:-1]]
    start, stop = start[first], reach[np.r_[first[1:], True]]
    return np.stack((start >> 32, start & _ROW, stop & _ROW), axis=1).astype(np.int32)


def lengths(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """int64 lengths of alternating runs of 0 and 1 down the columns of an image of this (h, w), the first of 0."""
    starts = runs[:, 0].astype(np.int64) * size[0] + runs[:, 1]
    stops = runs[:, 0].astype(np.int64) * size[0] + runs[:, 2]
    apart = starts[1:] > stops[:-1]  # a run that ends a column may go on in the next
    starts, stops = starts[np.r_[True, apart][: len(starts)]], stops[np.r_[apart, True][: len(stops)]]
    edges = np.stack((starts, stops), axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=size[0] * size[1])
    return counts if counts[-1] else counts[:-1]
