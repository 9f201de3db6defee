"""Compiled loops of suppression and resize.

Importing them imports numba, for a fifth of a second: the functions that call them do so when they are called.
"""

from __future__ import annotations

import numpy as np

from .compiling import loop


@loop
def greedy(
    boxes: np.ndarray, images: np.ndarray, groups: np.ndarray, threshold: float, limit: int
) -> np.ndarray:
    """Positions of the boxes that `nms` keeps, of sorted ones."""
    kept = np.empty(boxes.shape[0], np.int64)
    areas = np.empty(boxes.shape[0], np.float32)
    first = count = 0  # those kept of the current image
    for i in range(boxes.shape[0]):
        if i > 0 and images[i] != images[i - 1]:
            first = count
        if count - first == limit:
            continue
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        size = (x2 - x1) * (y2 - y1)
        alive = True
        for k in range(first, count):
            j = kept[k]
            if groups[j] != groups[i]:
                continue
            w = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
            h = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            if w <= 0 or h <= 0:
                continue
            both = w * h
            if both / (size + areas[k] - both) > threshold:
                alive = False
                break
        if alive:
            kept[count] = i
            areas[count] = size
            count += 1
    return kept[:count].copy()


@loop
def inside(low, first, second, length):  # type: ignore[no-untyped-def]
    """Both taps of each sample; those outside 0..length - 1 weigh nothing and point somewhere harmless."""
    at, weights = np.empty((len(low), 2), np.int64), np.empty((len(low), 2))
    for i in range(len(low)):
        for j in range(2):
            place = int(low[i]) + j
            real = place >= 0 and place < length
            at[i, j] = min(max(place, 0), length - 1)
            weights[i, j] = (second[i] if j else first[i]) if real else 0.0
    return at, weights


@loop
def zoom_taps(length, out, start, stop):  # type: ignore[no-untyped-def]
    """Taps of scipy.ndimage.zoom (order 1, grid_mode), ``length`` to ``out`` samples, for start..stop - 1.

    (n, 2) int64 positions and (n, 2) float64 weights. The second is 1 - (1 - t), not t, because that is how scipy
    rounds it.
    """
    at = (np.arange(start, stop) + 0.5) * (length / out) - 0.5
    first = 1.0 - (at - np.floor(at))
    return inside(np.floor(at), first, 1.0 - first, length)


@loop
def zoom(image, ys, wy, xs, wx, low, high, out):  # type: ignore[no-untyped-def]
    """The samples of `skimage_resize`."""
    for i in range(out.shape[0]):
        upper, lower = image[ys[i, 0]], image[ys[i, 1]]
        a, b = wy[i, 0], wy[i, 1]
        for j in range(out.shape[1]):
            left, right, c, d = xs[j, 0], xs[j, 1], wx[j, 0], wx[j, 1]
            for k in range(out.shape[2]):  # the order of products and sums is scipy's
                value = upper[left, k] * a * c + upper[right, k] * a * d
                value = value + lower[left, k] * b * c + lower[right, k] * b * d
                out[i, j, k] = min(max(value, low), high)
