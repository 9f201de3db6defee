"""The picture with its instances drawn on it. Only the boxes are touched, at the original resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numba import njit

from ..errors import ConfigError, ImageError, ShapeError
from ..records import Result
from .labels import Label, draw_labels
from .palette import RGB, colour
from .shapes import crop_rings

SHADE = 0.6  # darkness beside the outlines


@dataclass(frozen=True)
class _Pen:
    """Line widths and letter height in pixels, for one size of picture."""

    contour: int
    box: int
    casing: int
    letters: int

    @staticmethod
    def of(size: tuple[int, int]) -> _Pen:
        side = (size[0] * size[1]) ** 0.5
        casing = max(1, round(side / 1200)) if side > 160 else 0  # nothing but dark on a thumbnail
        return _Pen(max(1, round(side / 400)), max(1, round(side / 550)), casing, max(9, round(side / 36)))


def draw(
    result: Result,
    *,
    color_by: Literal["instance", "class"] = "instance",
    alpha: float = 0.45,
    boxes: bool = True,
    labels: bool = True,
    masks: bool = True,
    contours: bool = True,
    font: str | Path | None = None,
) -> np.ndarray:
    """The picture with masks, outlines, boxes and labels, (h, w, 3) uint8, at its own resolution.

    color_by : one colour for each ``instance`` or each ``class``; number i always has the same colour, and so has
               an object of a tracked video, whose label shows its number
    alpha    : opacity of the masks, 0..1
    font     : a TrueType file for names that the default (Latin) letters lack, such as Chinese

    Large instances are drawn first, so that small ones stay visible. Labels keep within the picture, the
    best-scored are placed first. Where room is short they lose the score; one that would cover another label,
    mostly cover small instances, or take a sixth of the picture, is left out.
    Raises ImageError if the result has no picture, ConfigError for a value that has no meaning.
    """
    if color_by not in ("instance", "class"):
        raise ConfigError(f"color_by: want 'instance' or 'class', got {color_by!r}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: want 0..1, got {alpha!r}")
    canvas = _picture(result)
    pen = _Pen.of(result.size)
    ids = None if result.ids is None else result.ids.tolist()
    by_instance = range(len(result)) if ids is None else [i - 1 for i in ids]
    colours = [colour(i) for i in (result.labels.tolist() if color_by == "class" else by_instance)]
    corners = result.boxes.numpy()
    sides = corners[:, 2:] - corners[:, :2]
    for i in np.argsort(-(sides[:, 0] * sides[:, 1]), kind="stable").tolist():
        if masks or contours:
            crop, (y, x) = result.crop(i)
            if masks:
                _blend(canvas[y : y + crop.shape[0], x : x + crop.shape[1]], crop, colours[i], alpha)
            if contours:
                rings = [ring for outer, inner in crop_rings(crop, (y, x), 0.5) for ring in (outer, *inner)]
                if pen.casing and rings:
                    _shade(canvas, rings, pen.contour + 2 * pen.casing)
                _lines(canvas, rings, colours[i], pen.contour)
        if boxes:
            x1, y1, x2, y2 = corners[i].tolist()
            inset = pen.box / 2  # the line lies within the box, so that it stays visible at the border
            x2, y2 = max(x2 - inset, x1 + inset), max(y2 - inset, y1 + inset)
            frame = np.array([[x1 + inset, y1 + inset], [x2, y1 + inset], [x2, y2], [x1 + inset, y2]])
            _lines(canvas, [frame], colours[i], pen.box)
    if labels:
        names = result.class_names
        if ids is not None:
            names = tuple(f"{name} #{i}" for name, i in zip(names, ids, strict=True))
        wanted = [
            Label(names[i], f"{names[i]} {score:.2f}", tuple(corners[i].tolist()), colours[i])
            for i, score in enumerate(result.scores.tolist())
        ]
        draw_labels(canvas, wanted, pen.letters, font)
    return canvas


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Any picture as (h, w, 3) uint8 to look at, always a copy.

    One or two channels show the first as grey, more show the first three. uint8 stays; float in 0..1 is
    multiplied by 255, float in 0..255 stays; everything else is stretched from its least
    to its greatest value. NaN is black.
    """
    layers = pixels if pixels.ndim == 3 else pixels[..., None]
    layers = layers[..., :3] if layers.shape[2] >= 3 else np.repeat(layers[..., :1], 3, axis=2)
    if layers.dtype == np.uint8:
        return np.array(layers, order="C")
    values = layers.astype(np.float32)
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    if np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    values = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return np.ascontiguousarray(np.rint(values.clip(0, 255)).astype(np.uint8))


def _picture(result: Result) -> np.ndarray:
    """A drawable copy of the picture that belongs to the result."""
    pixels = result.pixels
    if pixels is None:
        raise ImageError(
            "draw: want a result with its picture, got none; set it by dataclasses.replace(result, image=...)"
        )
    if pixels.shape[:2] != tuple(result.size):
        raise ShapeError(f"draw: want a picture of {result.size} (h, w), got {pixels.shape[:2]}")
    return as_rgb(pixels)


def _lines(canvas: np.ndarray, rings: list[np.ndarray], ink: RGB | int, width: int) -> None:
    """Closed smooth lines."""
    # cv2 puts whole numbers at pixel centres, and takes sixteenths of a pixel
    points = [np.rint((ring - 0.5) * 16).astype(np.int32)[:, None] for ring in rings]
    cv2.polylines(canvas, points, True, ink, width, cv2.LINE_AA, 4)


def _shade(canvas: np.ndarray, rings: list[np.ndarray], width: int) -> None:
    """Darken the picture along the rings, so that a line there stands out from a bright one."""
    points = np.concatenate(rings)
    low = np.maximum(np.floor(points.min(0)).astype(int) - width, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + width, canvas.shape[1::-1])
    stroke = np.zeros((high - low)[::-1], np.uint8)
    _lines(stroke, [ring - low for ring in rings], 255, width)
    _blend(canvas[low[1] : high[1], low[0] : high[0]], stroke, (0, 0, 0), SHADE / 255)


@njit(cache=True, nogil=True)
def _blend(canvas, cover, rgb, alpha):  # type: ignore[no-untyped-def]
    """canvas = (1 - a) canvas + a rgb, rounded, where a = alpha * cover."""
    for i in range(cover.shape[0]):
        for j in range(cover.shape[1]):
            if cover[i, j]:
                a = alpha * cover[i, j]
                for k in range(3):
                    canvas[i, j, k] = np.uint8(canvas[i, j, k] * (1 - a) + rgb[k] * a + 0.5)
