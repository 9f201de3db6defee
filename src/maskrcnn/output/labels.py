"""Labels that stay in the picture and out of each other's way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import RGB, text_colour

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2

MOST_COVERED = 0.25  # share of a label that others may cover before it gives way


@dataclass(frozen=True)
class Label:
    """What to write at a box (xyxy pixels): the long text, or the short one where there is little room."""

    short: str
    long: str
    box: tuple[float, ...]
    colour: RGB


def draw_labels(canvas: np.ndarray, labels: list[Label], letters: int, font: str | Path | None) -> None:
    """Place the labels in order and draw them on the (h, w, 3) uint8 canvas; ``letters`` is their height."""
    face = _font(letters, font)
    placed = np.empty((0, 4), np.int64)
    for label in labels:
        for text in (label.long, label.short):
            spot = _place(label.box, _extent(text, face), canvas.shape[:2], placed)
            if spot is not None:
                placed = np.concatenate((placed, np.array([spot])))
                _draw(canvas, spot, text, face, label.colour)
                break


def _place(
    box: tuple[float, ...], extent: tuple[int, int], size: tuple[int, int], placed: np.ndarray
) -> Rectangle | None:
    """The first place around the box that is free, else the least covered, or None if that is too much."""
    w, h = extent
    if w > size[1] or h > size[0]:
        return None
    x1, y1, x2, y2 = (round(v) for v in box)
    spots = [
        (x1, y1 - h), (x2 - w, y1 - h), (x1, y1), (x1, y2), (x2 - w, y2), (x2 - w, y1), (x1, y2 - h), (x2 - w, y2 - h),
        ((x1 + x2 - w) // 2, y1 - h), ((x1 + x2 - w) // 2, (y1 + y2 - h) // 2), (x2, y1), (x1 - w, y1),
    ]  # fmt: skip
    best, least = None, MOST_COVERED
    for x, y in spots:
        x, y = min(max(x, 0), size[1] - w), min(max(y, 0), size[0] - h)
        spot = (x, y, x + w, y + h)
        covered = _covered(spot, placed)
        if covered < least:
            best, least = spot, covered
        if covered == 0:
            break
    return best


def _covered(spot: Rectangle, placed: np.ndarray) -> float:
    """Greatest overlap with a placed label, as a share of the smaller of the two."""
    if len(placed) == 0:
        return 0.0
    low, high = np.maximum(placed[:, :2], spot[:2]), np.minimum(placed[:, 2:], spot[2:])
    shared = (high - low).clip(0).prod(1)
    areas = (placed[:, 2:] - placed[:, :2]).prod(1)
    own = (spot[2] - spot[0]) * (spot[3] - spot[1])
    return float((shared / np.minimum(areas, own)).max())


def _draw(canvas: np.ndarray, spot: Rectangle, text: str, font: Font, colour: RGB) -> None:
    x1, y1, x2, y2 = spot
    w, h = x2 - x1, y2 - y1
    shape = Image.new("L", (4 * w, 4 * h))  # four times as large, for smooth corners
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, 4 * w - 1, 4 * h - 1), radius=h, fill=255)
    cover = np.asarray(shape.resize((w, h), Image.Resampling.BOX), np.float32)[..., None] / 255
    patch = Image.new("RGB", (w, h), colour)
    ImageDraw.Draw(patch).text(
        (_padding(font), _metrics(font)[0]), text, text_colour(colour), font, anchor="ls"
    )
    under = canvas[y1:y2, x1:x2]
    under[:] = np.rint(under * (1 - cover) + np.asarray(patch, np.float32) * cover).astype(np.uint8)


def _extent(text: str, font: Font) -> tuple[int, int]:
    """Width and height of a label in pixels."""
    return round(font.getlength(text)) + 2 * _padding(font), sum(_metrics(font))


def _metrics(font: Font) -> tuple[int, int]:
    return font.getmetrics()


def _padding(font: Font) -> int:
    return max(2, sum(_metrics(font)) // 5)


@lru_cache(maxsize=32)
def _font(letters: int, path: str | Path | None) -> Font:
    return ImageFont.load_default(letters) if path is None else ImageFont.truetype(str(path), letters)
