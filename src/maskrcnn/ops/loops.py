"""Compiled loops of suppression, paste and resize.

Importing them imports numba, for a fifth of a second: the functions that call them do so when they are called.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MARGIN = 1e-6  # more than sums of four products in another order differ by


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def inside(low, first, second, length):  # type: ignore[no-untyped-def]
    """Both taps of each sample; those outside 0..length - 1 weigh nothing and point somewhere harmless."""
    at, weights = np.empty((len(low), 2), np.int64), np.empty((len(low), 2))
    for i in range(len(low)):
        for j in range(2):
            place = low[i] + j
            real = place >= 0 and place < length
            at[i, j] = min(max(place, 0), length - 1)
            weights[i, j] = (second[i] if j else first[i]) if real else 0.0
    return at, weights


@njit(cache=True, nogil=True)
def _scaled_rows(mask, at, weight, upper, lower):  # type: ignore[no-untyped-def]
    """The two mask rows that an image row lies between, times their weights."""
    for j in range(mask.shape[1]):
        upper[j] = mask[at[0], j] * weight[0]
        lower[j] = mask[at[1], j] * weight[1]


@njit(cache=True, nogil=True)
def _value(upper, lower, at, weight, low, high):  # type: ignore[no-untyped-def]
    """One pixel. The four products are added in scipy's order, then rounded to float32 and kept in range."""
    value = np.float32(
        upper[at[0]] * weight[0]
        + upper[at[1]] * weight[1]
        + lower[at[0]] * weight[0]
        + lower[at[1]] * weight[1]
    )
    return min(max(value, low), high)


@njit(cache=True, nogil=True)
def paste_hard(mask, ys, wy, xs, wx, low, high, threshold, out):  # type: ignore[no-untyped-def]
    """The pixels of `paste_crop`.

    Those between the same two rows and columns lie between their four values: most need no more than these."""
    upper, lower = np.empty(mask.shape[1]), np.empty(mask.shape[1])
    bands, full_rows = _stretches(ys, wy)
    stretches, full_columns = _stretches(xs, wx)
    unsure = np.empty(len(full_columns), np.int64)
    for b in range(len(full_rows)):
        first, top, bottom = bands[b], ys[bands[b], 0], ys[bands[b], 1]
        count = 0
        for k in range(len(full_columns)):
            start, end = stretches[k], stretches[k + 1]
            left, right = xs[start]
            full = full_rows[b] and full_columns[k]
            side = _side(
                mask[top, left],
                mask[top, right],
                mask[bottom, left],
                mask[bottom, right],
                full,
                low,
                high,
                threshold,
            )
            out[first, start:end] = side > 0
            if side == 0:
                unsure[count] = k
                count += 1
        for i in range(first + 1, bands[b + 1]):
            out[i] = out[first]
        if count:
            for i in range(first, bands[b + 1]):
                _scaled_rows(mask, ys[i], wy[i], upper, lower)
                for k in unsure[:count]:
                    left = upper[xs[stretches[k], 0]] + lower[xs[stretches[k], 0]]
                    right = upper[xs[stretches[k], 1]] + lower[xs[stretches[k], 1]]
                    for j in range(stretches[k], stretches[k + 1]):
                        value = min(max(left * wx[j, 0] + right * wx[j, 1], low), high) - threshold
                        if abs(value) > MARGIN:
                            out[i, j] = value > 0
                        else:
                            out[i, j] = _value(upper, lower, xs[j], wx[j], low, high) >= threshold


@njit(cache=True, nogil=True)
def _side(a, b, c, d, full, low, high, threshold):  # type: ignore[no-untyped-def]
    """Whether all between four values lies above the threshold (1), below it (-1), or may lie on both sides (0).

    Weights that are not ``full``, but sum to less than 1, let values be as near to 0 as they like.
    """
    least, most = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    if not full:
        least, most = min(least, np.float32(0)), max(most, np.float32(0))
    if min(max(least, low), high) > threshold + MARGIN:
        return 1
    return -1 if min(max(most, low), high) < threshold - MARGIN else 0


@njit(cache=True, nogil=True)
def _stretches(at, weights):  # type: ignore[no-untyped-def]
    """Where samples between the same two taps begin, with the end of all; and whether all their weights sum to 1."""
    starts, whole = np.empty(len(at) + 1, np.int64), np.empty(len(at), np.bool_)
    count = 0
    for i in range(len(at)):
        full = abs(weights[i, 0] + weights[i, 1] - 1.0) < MARGIN
        if i > 0 and at[i, 0] == at[i - 1, 0] and at[i, 1] == at[i - 1, 1]:
            whole[count - 1] &= full
        else:
            starts[count], whole[count] = i, full
            count += 1
    starts[count] = len(at)
    return starts[: count + 1], whole[:count]


@njit(cache=True, nogil=True)
def paste_soft(mask, ys, wy, xs, wx, low, high, out):  # type: ignore[no-untyped-def]
    """The pixels of `paste.paste_soft`."""
    upper = np.empty(mask.shape[1])
    lower = np.empty(mask.shape[1])
    for i in range(out.shape[0]):
        _scaled_rows(mask, ys[i], wy[i], upper, lower)
        for j in range(out.shape[1]):
            out[i, j] = _value(upper, lower, xs[j], wx[j], low, high)


@njit(cache=True, nogil=True)
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
