"""The shapes that annotation tools draw, as polygons. Coordinates are pixels, pixel (0, 0) spans 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..output.shapes import crop_rings, encode_crop, join_parts
from ..records import Size
from .dataset import Box, Mask, Polygons, decode, mask_box

ROUND = 96  # corners of a circle: its area comes out 0.07 % too small


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """(4, 2) corners of the box between two opposite corners."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
    """(96, 2) points; ``angle`` in radians turns the rx axis towards +y."""
    t = np.arange(ROUND) * (2 * np.pi / ROUND)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack((cx + c * x - s * y, cy + s * x + c * y), axis=1)


def stroke(points: np.ndarray, width: float) -> Polygons:
    """An open line (k, 2) as one rectangle for each of its segments."""
    parts = []
    for a, b in pairwise(points):
        along = b - a
        length = float(np.hypot(*along))
        if length > 0:
            side = np.array([-along[1], along[0]]) * (width / 2 / length)
            parts.append(np.stack((a + side, b + side, b - side, a - side)))
    return parts


def outline_box(mask: Polygons | dict[str, Any]) -> Box:
    """xyxy around polygons or run lengths; zeros where there is nothing."""
    if isinstance(mask, dict):
        return mask_box(decode(mask, tuple(mask["size"]))) or (0.0, 0.0, 0.0, 0.0)
    if not sum(map(len, mask)):
        return 0.0, 0.0, 0.0, 0.0
    points = np.concatenate(mask)
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return float(x1), float(y1), float(x2), float(y2)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A (h, w) bool mask as COCO's compressed run lengths."""
    box = mask_box(mask)
    if box is None:
        return encode_crop(np.zeros((0, 0), bool), (0, 0), mask.shape)
    x1, y1, x2, y2 = map(int, box)
    return encode_crop(mask[y1:y2, x1:x2], (y1, x1), mask.shape)


def union(masks: Sequence[Mask], size: Size) -> Mask:
    """Several masks of one instance as one."""
    if len(masks) == 1:
        return masks[0]
    polygons = [mask for mask in masks if isinstance(mask, list)]
    if len(polygons) == len(masks):
        return [ring for mask in polygons for ring in mask]
    return run_lengths(np.logical_or.reduce([decode(mask, size) for mask in masks]))


def one_ring(mask: Polygons | dict[str, Any], size: Size) -> np.ndarray | None:
    """A mask as one closed line (k, 2), for formats that know nothing else; None where it is empty.

    A single polygon stays as it is. Otherwise the outlines of all parts and holes, along the edges of the pixels,
    are joined by bridges without width; filled by the even-odd rule, they give the mask back.
    """
    if isinstance(mask, list) and len(mask) == 1 and len(mask[0]) > 2:
        return mask[0]
    dense = decode(mask, size)
    rings = [ring for outer, holes in crop_rings(dense, (0, 0)) for ring in (outer, *holes)]
    return join_parts(rings) if rings else None


def ids_to_masks(ids: np.ndarray) -> dict[int, dict[str, Any]]:
    """Each number but 0 in a (h, w) map of instances, with its pixels as run lengths."""
    numbers = np.unique(ids)
    return {int(n): run_lengths(ids == n) for n in numbers if n != 0}


def rle_area(mask: dict[str, Any]) -> int:
    """Pixels of run lengths, without decoding them."""
    counts = mask["counts"]
    return int(sum(counts[1::2])) if isinstance(counts, list) else int(coco_mask.area(mask))


def polygon_area(ring: np.ndarray) -> float:
    """Area inside a closed line (k, 2), by the shoelace formula."""
    return float(cv2.contourArea(ring.astype(np.float32)))
