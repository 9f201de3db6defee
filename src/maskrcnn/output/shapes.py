"""A mask as run lengths or as outlines, straight from its crop: the full image is never laid out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numba import njit
from pycocotools import mask as coco_mask

from ..errors import ShapeError
from ..ops.runs import lengths

Corner = tuple[int, int]


def encode_crop(crop: np.ndarray, corner: Corner, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask, as ``{"size": [h, w], "counts": str}``.

    crop   : (bh, bw) bool, within the image
    corner : (y, x) of its first pixel
    size   : (h, w) of the image
    """
    return _compressed(_run_lengths(crop, *corner, *size), size)


def encode_runs(runs: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """As `encode_crop`, of runs as of `maskrcnn.ops.runs`."""
    return _compressed(lengths(runs, size), size)


def _compressed(counts: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    h, w = size
    if h * w >= 2**32:
        raise ShapeError(
            f"rle: want less than 2^32 pixels, which is what pycocotools can count, got {w} x {h}; use polygons, "
            "GeoJSON or result.runs"
        )
    rle = coco_mask.frPyObjects({"size": [h, w], "counts": counts}, h, w)
    return {"size": [h, w], "counts": rle["counts"].decode("ascii")}


def crop_polygons(crop: np.ndarray, corner: Corner, tolerance: float = 0.0) -> list[np.ndarray]:
    """Outer outlines along the edges of the pixels, largest part first; holes are filled.

    crop      : (bh, bw) bool
    corner    : (y, x) of its first pixel
    tolerance : pixels that a simplified outline may run beside the exact one; 0 keeps every corner

    Returns one (k, 2) float32 array of x, y for each part, not closed. Pixels that touch at a corner are
    one part.
    Pixel (x, y) is the square from (x, y) to (x + 1, y + 1), so a single pixel has an outline of area 1.
    """
    return [outer for outer, _ in crop_rings(crop, corner, tolerance, holes=False)]


def crop_rings(
    crop: np.ndarray, corner: Corner, tolerance: float = 0.0, holes: bool = True
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """As `crop_polygons`, each outline with the outlines of its holes."""
    if not crop.any():
        return []
    # Twice the resolution, every pixel with its edges: contours then run along edges, not through centres.
    lattice = np.zeros((2 * crop.shape[0] + 1, 2 * crop.shape[1] + 1), np.uint8)
    lattice[1::2, 1::2] = crop
    lattice = cv2.dilate(lattice, np.ones((3, 3), np.uint8))
    mode = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    contours, hierarchy = cv2.findContours(lattice, mode, cv2.CHAIN_APPROX_SIMPLE)
    offset = np.array(corner[::-1], np.float32)
    outlines = [_simplify(c, tolerance)[:, 0].astype(np.float32) / 2 + offset for c in contours]
    parents = hierarchy[0][:, 3]
    order = sorted(np.flatnonzero(parents < 0).tolist(), key=lambda i: -cv2.contourArea(contours[i]))
    inner = {i: [outlines[j] for j in np.flatnonzero(parents == i) if len(outlines[j]) > 2] for i in order}
    return [(outlines[i], inner[i]) for i in order]


def join_parts(parts: list[np.ndarray]) -> np.ndarray:
    """One ring through all parts, for formats that know one only: bridges without width, there and back."""
    ring = parts[0]
    for part in parts[1:]:
        distance = ((ring[:, None] - part[None]) ** 2).sum(2)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        ring = np.concatenate((ring[: i + 1], part[j:], part[: j + 1], ring[i:]))
    return ring


def _simplify(contour: np.ndarray, tolerance: float) -> np.ndarray:
    return cv2.approxPolyDP(contour, 2 * tolerance, True) if tolerance > 0 else contour


@njit(cache=True, nogil=True)
def _run_lengths(crop, y, x, h, w):  # type: ignore[no-untyped-def]
    """Lengths of alternating runs of 0 and 1 down the columns of the image, the first of 0."""
    runs = [0 for _ in range(0)]
    start, inside = 0, False
    for j in range(crop.shape[1]):
        at = (x + j) * h + y
        for i in range(crop.shape[0]):
            if crop[i, j] != inside:
                runs.append(at + i - start)
                start, inside = at + i, not inside
        # a run goes on in the next column only where the crop is as high as the image
        if inside and (crop.shape[0] < h or j == crop.shape[1] - 1):
            runs.append(at + crop.shape[0] - start)
            start, inside = at + crop.shape[0], False
    if start < h * w:
        runs.append(h * w - start)
    return np.array(runs)
