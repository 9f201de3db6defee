"""The compiled loops of `paste`."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from .compiling import kernel, loop
from .loops import inside, zoom_taps
from .vectors import address, draw

ALIGNED, TORCHVISION, LAST_PIXEL, SKIMAGE = range(4)  # in the order of paste.RULES
THRESHOLD = np.float32(0.5)
MARGIN = 1e-6  # more than sums of four products in another order differ by


@loop
def hard(mask, box, h, w, rule):  # type: ignore[no-untyped-def]
    """`paste.paste_crop`: the crop, and the y and x of its first pixel."""
    ys, wy, y, xs, wx, x, low, high = _plan(mask, box, h, w, rule)
    out = np.empty((len(ys), len(xs)), np.bool_)
    _hard(mask, ys, wy, xs, wx, low, high, THRESHOLD, out)
    return out, y, x


@loop
def soft(mask, box, h, w, rule):  # type: ignore[no-untyped-def]
    """`paste.paste_soft`."""
    ys, wy, y, xs, wx, x, low, high = _plan(mask, box, h, w, rule)
    out = np.empty((len(ys), len(xs)), np.float32)
    _soft(mask, ys, wy, xs, wx, low, high, out)
    return out, y, x


@loop
def into(out, mask, box, rule):  # type: ignore[no-untyped-def]
    """The same into the whole image, (h, w), which is False so far."""
    crop, y, x = hard(mask, box, out.shape[0], out.shape[1], rule)
    out[y : y + crop.shape[0], x : x + crop.shape[1]] = crop


@functools.cache
def whole() -> Any:
    """`paste.paste_whole` as a C function that every thread of a team calls with the same job, see `team.run`."""

    @kernel
    def made(pointer):  # type: ignore[no-untyped-def]
        job = numba.carray(pointer, 11)
        n, m, h, w = job[5], job[6], job[7], job[8]
        masks = numba.carray(address(job[2]), (n, m, m), dtype=np.float32)  # type: ignore[call-arg]
        boxes = numba.carray(address(job[3]), (n, 4), dtype=np.float32)
        out = numba.carray(address(job[4]), (n, h, w), dtype=np.bool_)
        threads = job[10]
        each = (n + threads - 1) // threads
        while True:
            drawn = draw(pointer)
            if drawn >= each * threads:
                break
            # Far from the others' masks: one waits for a page that another is being given.
            i = drawn % threads * each + drawn // threads
            if i < n:
                into(out[i], masks[i], boxes[i], job[9])

    return made


@loop
def _plan(mask, box, h, w, rule):  # type: ignore[no-untyped-def]
    """Taps of the rows and the first row, of the columns and the first column, and what values are kept within."""
    ys, wy, y = _axis(rule, mask.shape[0], box[1], box[3], h)
    xs, wx, x = _axis(rule, mask.shape[1], box[0], box[2], w)
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if rule == SKIMAGE:
        low, high = mask.min(), mask.max()
    return ys, wy, y, xs, wx, x, low, high


@loop
def _axis(rule, m, low, high, limit):  # type: ignore[no-untyped-def]
    """Taps of the pixels along an axis that a box low..high covers in 0..limit, and the first of these."""
    if rule == TORCHVISION:
        return _stretched(m, low, high, limit)
    if rule == LAST_PIXEL:
        return _stretched(m, low, np.float32(high) - np.float32(1), limit)
    start, end = float(low), float(high)
    if rule == SKIMAGE:
        start, end = np.rint(start), np.rint(end)
    if not end > start:
        return np.empty((0, 2), np.int64), np.empty((0, 2)), _within(start, limit)
    # beyond the box a mask fades out over half a cell, but always below 0.5
    first = _within(np.floor(start), limit)
    last = max(_within(np.ceil(end), limit), first)
    if rule == SKIMAGE:
        at, weights = zoom_taps(m, int(end - start), first - int(start), last - int(start))
        return at, weights, first
    # pixel centre x + 0.5 is at (x + 0.5 - low) / (high - low) * m - 0.5 in the mask
    place = (np.arange(first, last) + 0.5 - start) / (end - start) * m - 0.5
    floor = np.floor(place)
    at, weights = inside(floor, 1.0 - (place - floor), place - floor, m)
    return at, weights, first


@loop
def _stretched(m, low, high, limit):  # type: ignore[no-untyped-def]
    """torch's bilinear interpolation of the padded mask over an integer box with inclusive ends."""
    low, high = np.float32(low), np.float32(high)  # or a cut could fall differently
    centre = (high + low) * np.float32(0.5)
    half = (high - low) * np.float32(0.5) * np.float32((m + 2) / m)
    # towards zero, as the source does
    start, end = np.trunc(float(centre - half)), np.trunc(float(centre + half))
    length = max(end - start + 1.0, 1.0)
    first = _within(start, limit)
    last = max(_within(end + 1, limit), first)
    place = np.maximum((np.arange(first, last) - start + 0.5) * ((m + 2) / length) - 0.5, 0.0)
    floor = np.minimum(np.floor(place), m + 1.0)
    at, weights = inside(floor - 1.0, 1.0 - (place - floor), place - floor, m)
    return at, weights, first


@loop
def _within(place, limit):  # type: ignore[no-untyped-def]
    """A whole number as far as it lies in 0..limit; 0 for what is none."""
    if not place > 0:
        return 0
    return int(min(place, float(limit)))


@loop
def _scaled_rows(mask, at, weight, upper, lower):  # type: ignore[no-untyped-def]
    """The two mask rows that an image row lies between, times their weights."""
    for j in range(mask.shape[1]):
        upper[j] = mask[at[0], j] * weight[0]
        lower[j] = mask[at[1], j] * weight[1]


@loop
def _value(upper, lower, at, weight, low, high):  # type: ignore[no-untyped-def]
    """One pixel. The four products are added in scipy's order, then rounded to float32 and kept in range."""
    value = np.float32(
        upper[at[0]] * weight[0]
        + upper[at[1]] * weight[1]
        + lower[at[0]] * weight[0]
        + lower[at[1]] * weight[1]
    )
    return min(max(value, low), high)


@loop
def _hard(mask, ys, wy, xs, wx, low, high, threshold, out):  # type: ignore[no-untyped-def]
    """Pixels between the same two rows and columns lie between their four values: most need no more than these."""
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
                mask[top, left], mask[top, right], mask[bottom, left], mask[bottom, right], full, low, high,
                threshold,
            )  # fmt: skip
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


@loop
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


@loop
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


@loop
def _soft(mask, ys, wy, xs, wx, low, high, out):  # type: ignore[no-untyped-def]
    upper = np.empty(mask.shape[1])
    lower = np.empty(mask.shape[1])
    for i in range(out.shape[0]):
        _scaled_rows(mask, ys[i], wy[i], upper, lower)
        for j in range(out.shape[1]):
            out[i, j] = _value(upper, lower, xs[j], wx[j], low, high)
