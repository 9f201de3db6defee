"""Labels that stay in the picture and out of each other's way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import RGB, text_colour

Font = ImageFont.FreeTypeFont
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2

SMALL = 2.5  # a box of less than so many times the label's area would vanish under it
MOST_HIDDEN = 0.5  # share of a label that may lie over small boxes
LARGEST = 1 / 6  # share of the picture that one label may take


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
    boxes = np.array([label.box for label in labels]).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    placed = np.empty((0, 4))
    for label in labels:
        for text in (label.long, label.short):
            w, h = _extent(text, face)
            small = boxes[areas < SMALL * w * h]
            spot = _place(label.box, (w, h), canvas.shape[:2], placed, small)
            if spot is not None:
                placed = np.concatenate((placed, np.array([spot])))
                _draw(canvas, spot, text, face, label.colour)
                break


def _place(
    box: tuple[float, ...],
    extent: tuple[int, int],
    size: tuple[int, int],
    placed: np.ndarray,
    small: np.ndarray,
) -> Rectangle | None:
    """The place around the box that hides the least, None if each of them hides too much.

    extent : (w, h) of the label · size : (h, w) of the picture
    placed, small : (n, 4) labels not to touch, and boxes to spare
    """
    w, h = extent
    if w > size[1] or h > size[0] or w * h > LARGEST * size[0] * size[1]:
        return None
    x1, y1, x2, y2 = (round(v) for v in box)
    mid_x, mid_y = (x1 + x2 - w) // 2, (y1 + y2 - h) // 2
    spots = [
        (x1, y1 - h), (x1, y1), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2), (x2, y1), (x1 - w, y1),
        (x2 - w, y1), (x1, y2 - h), (x2 - w, y2 - h), (mid_x, y1 - h), (mid_x, y2), (x2, mid_y),
        (x1 - w, mid_y), (x2, y2 - h), (x1 - w, y2 - h), (x2, y1 - h), (x1 - w, y1 - h),
        (x2, y2), (x1 - w, y2),
    ]  # fmt: skip
    best, least = None, float("inf")
    for rank, (x, y) in enumerate(spots):
        if rank / 50 >= least:
            break  # no later one can cost less
        x, y = min(max(x, 0), size[1] - w), min(max(y, 0), size[0] - h)
        spot = (x, y, x + w, y + h)
        hidden = _shared(spot, small) / (w * h)
        cost = hidden + rank / 50  # the usual places first, unless another hides clearly less
        if _shared(spot, placed) == 0 and hidden < MOST_HIDDEN and cost < least:
            best, least = spot, cost
    return best


def _shared(spot: Rectangle, others: np.ndarray) -> float:
    """Area that a rectangle has in common with others, added up."""
    low, high = np.maximum(others[:, :2], spot[:2]), np.minimum(others[:, 2:], spot[2:])
    return float((high - low).clip(0).prod(1).sum())


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
    if path is not None:
        return ImageFont.truetype(str(path), letters)
    face = ImageFont.load_default(letters)
    assert isinstance(face, ImageFont.FreeTypeFont)  # every Pillow wheel has FreeType
    return face
