"""From a RoI mask to pixels, inside its box only.

Each of the rules says which two rows and columns of the RoI mask an image row and column lies between,
and with which weights; one kernel does the rest. A tap that falls outside the RoI mask weighs nothing, which
is the same as zeros around it. The arithmetic is float64, in the order of scipy.ndimage.zoom.

aligned     detectron2: box as it is, sampled at pixel centres, zeros outside.
torchvision the mask padded by 1, the box stretched to match and cut to integers, x2 and y2 inclusive.
last_pixel  so, for boxes whose x2 - 1 and y2 - 1 are these inclusive ends: Detectron and maskrcnn-benchmark.
skimage     Matterport: integer box, skimage.transform.resize with zeros outside, kept in the mask's range.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Rule = Literal["aligned", "torchvision", "last_pixel", "skimage"]
Corner = tuple[int, int]
Taps = tuple[np.ndarray, np.ndarray]  # (n, 2) int64 positions and (n, 2) float64 weights

THRESHOLD = 0.5


def paste_crop(
    roi_mask: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: Rule = "aligned"
) -> tuple[np.ndarray, Corner]:
    """Where the pasted mask is at least 0.5.

    roi_mask : (m, m) float32 probabilities
    box      : (4,) xyxy, pixels of the image; `skimage` rounds it half to even
    size     : (h, w) of the image
    rule     : see the head of this file

    Returns the (bh, bw) bool array that covers the box as far as it lies in the image, and the (y, x) of its
    first pixel. Without common pixels the array is empty. Equals Matterport's masks in every pixel, and those
    of detectron2 up to values within float32 rounding of 0.5.
    """
    from . import loops

    rows, columns, corner, low, high = _plan(roi_mask, box, size, rule)
    crop = np.empty((len(rows[0]), len(columns[0])), np.bool_)
    if crop.size:
        loops.paste_hard(roi_mask, *rows, *columns, low, high, np.float32(THRESHOLD), crop)
    return crop, corner


def paste_soft(
    roi_mask: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: Rule = "aligned"
) -> tuple[np.ndarray, Corner]:
    """As `paste_crop`, with the probabilities themselves: (bh, bw) float32 and the (y, x) corner.

    Only inside the box: detectron2 lets `aligned` masks fade out half a mask cell further.
    """
    from . import loops

    rows, columns, corner, low, high = _plan(roi_mask, box, size, rule)
    crop = np.empty((len(rows[0]), len(columns[0])), np.float32)
    if crop.size:
        loops.paste_soft(roi_mask, *rows, *columns, low, high, crop)
    return crop, corner


def zoom_taps(length: int, out: int, start: int, stop: int) -> Taps:
    """Taps of scipy.ndimage.zoom (order 1, grid_mode), ``length`` to ``out`` samples, for start..stop - 1.

    The second weight is 1 - (1 - t), not t, because that is how scipy rounds it.
    """
    at = (np.arange(start, stop) + 0.5) * (length / out) - 0.5
    floor = np.floor(at)
    first = 1.0 - (at - floor)
    return _inside(floor.astype(np.int64), first, 1.0 - first, length)


def _plan(
    roi_mask: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: Rule
) -> tuple[Taps, Taps, Corner, np.float32, np.float32]:
    """Taps of the rows and columns, the corner they start at, and the range that values are kept within."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    axis = {
        "aligned": _aligned, "torchvision": _torchvision, "last_pixel": _last_pixel, "skimage": _skimage
    }[rule]  # fmt: skip
    if rule == "skimage":
        low, high = roi_mask.min(), roi_mask.max()
    columns, x = axis(roi_mask.shape[1], box[0], box[2], size[1])
    rows, y = axis(roi_mask.shape[0], box[1], box[3], size[0])
    return rows, columns, (y, x), low, high


def _aligned(m: int, low: float, high: float, limit: int) -> tuple[Taps, int]:
    """Pixel centre x + 0.5 in a box low..high is at (x + 0.5 - low) / (high - low) * m - 0.5 in the mask."""
    if not high > low:
        return _nothing(low, limit)
    low, high = float(low), float(high)
    # beyond the box a mask fades out over half a cell, but always below 0.5
    first, last = _span(np.floor(low), np.ceil(high), limit)
    at = (np.arange(first, last) + 0.5 - low) / (high - low) * m - 0.5
    floor = np.floor(at)
    return _inside(floor.astype(np.int64), 1.0 - (at - floor), at - floor, m), first


def _torchvision(m: int, low: float, high: float, limit: int) -> tuple[Taps, int]:
    """torch's bilinear interpolation of the padded mask over an integer box with inclusive ends."""
    first_edge, last_edge = np.float32(low), np.float32(high)  # float32, or a cut could fall differently
    centre = (last_edge + first_edge) * np.float32(0.5)
    half = (last_edge - first_edge) * np.float32(0.5) * np.float32((m + 2) / m)
    start, end = int(centre - half), int(centre + half)  # cut towards zero, as the source does
    length = max(end - start + 1, 1)
    first, last = _span(start, end + 1, limit)
    at = np.maximum((np.arange(first, last) - start + 0.5) * ((m + 2) / length) - 0.5, 0.0)
    floor = np.minimum(np.floor(at), m + 1)
    return _inside(floor.astype(np.int64) - 1, 1.0 - (at - floor), at - floor, m), first


def _last_pixel(m: int, low: float, high: float, limit: int) -> tuple[Taps, int]:
    """As `_torchvision`, for a box that ends behind its last pixel."""
    return _torchvision(m, low, float(np.float32(high) - np.float32(1)), limit)


def _skimage(m: int, low: float, high: float, limit: int) -> tuple[Taps, int]:
    """Resizing of the mask to the integer box."""
    start, end = round(float(low)), round(float(high))
    if end <= start:
        return _nothing(low, limit)
    first, last = _span(start, end, limit)
    return zoom_taps(m, end - start, first - start, last - start), first


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """start..end as far as it lies in 0..limit; empty if it does not."""
    first = min(max(int(start), 0), limit)
    return first, max(min(int(end), limit), first)


def _inside(low: np.ndarray, first: np.ndarray, second: np.ndarray, length: int) -> Taps:
    from . import loops

    taps: Taps = loops.inside(low, first, second, length)
    return taps


def _nothing(at: float, limit: int) -> tuple[Taps, int]:
    """No taps, at a corner within the image."""
    return (np.empty((0, 2), np.int64), np.empty((0, 2))), int(np.clip(np.nan_to_num(at), 0, limit))
