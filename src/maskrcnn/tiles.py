"""Pictures larger than the network likes: predicted tile by tile, and put together again.

Tiles overlap. An instance is whole in a tile unless it touches an edge behind which the picture goes on; then it is
cut. Merging asks three questions, of instances of one class in different tiles:

1. Is a cut one part of a whole one (at least half of it lies in there)? Then it goes.
2. Does another tile, in which the edge that cuts a cut one lies, continue it? At least half of the cut one's part in
   the strip that both tiles see lies in the other then. They are one, and so on through any number of tiles.
3. Are two that are left the same (IoU of at least a half)? Then the better scored stays.

Masks are runs all the way, so memory is that of a few tiles and of the results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np
import torch

from .errors import ConfigError
from .inputs.ahead import ahead
from .inputs.large import Large
from .ops.runs import Window, area, clip, common, from_crop, union
from .records import Image, Result

SAME = 0.5  # share of common pixels that makes two instances one
_NEAR = 3.0  # pixels from an edge that count as touching it ...
_NEAR_SHARE = 0.05  # ... and of the box's side, because large masks are coarser
_AHEAD = 2  # tiles


@dataclass(frozen=True, eq=False)
class Piece:
    """One instance as a tile saw it, in pixels of the whole picture.

    box (4,) float32 xyxy · runs as of `ops.runs` · tiles that saw it, one until it is merged · cut the edges of its
    tile that it touches and behind which the picture goes on, as far as its box, as windows of no width
    """

    box: np.ndarray
    label: int
    score: float
    runs: np.ndarray
    tiles: frozenset[Window]
    cut: tuple[Window, ...] = ()


def grid(size: tuple[int, int], tile: int, overlap: float) -> list[Window]:
    """Windows that cover a picture of (h, w), row by row, each ``tile`` wide and high where the picture is.

    Neighbours share at least ``overlap`` of a tile's side. Raises ConfigError for what cannot work.
    """
    if tile < 1:
        raise ConfigError(f"tile: want at least 1 pixel, got {tile}")
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"overlap: want a share of the tile, 0..0.9, got {overlap}")
    ys, xs = (_starts(side, tile, overlap) for side in size)
    return [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in ys for x in xs]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    step = max(int(tile * (1 - overlap)), 1)
    count = -(-(side - tile) // step) + 1
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def predict_tiles(
    predict: Callable[[Sequence[Image]], list[Result]], picture: Large, names: tuple[str, ...], tile: int,
    overlap: float, batch_size: int = 1,
) -> Result:  # fmt: skip
    """The instances of a picture of any size; ``predict`` finds those of decoded tiles."""
    windows = grid(picture.size, tile, overlap)

    def read() -> Iterator[tuple[Window, Image]]:
        for window in windows:
            pixels = picture.window(window)
            if pixels is not None:
                yield window, Image(pixels)

    pieces: list[Piece] = []
    tiles = ahead(read(), _AHEAD)
    try:
        while batch := list(islice(tiles, batch_size)):
            results = predict([image for _, image in batch])
            for (window, _), result in zip(batch, results, strict=True):
                pieces += cut(result, window, picture.size)
    finally:
        tiles.close()  # type: ignore[attr-defined]
    return _result(merge(pieces, tile), names, picture)


def cut(result: Result, tile: Window, size: tuple[int, int]) -> list[Piece]:
    """The instances of one tile's result, in the frame of the whole picture of (h, w)."""
    x, y = tile[:2]
    pieces = []
    for i, (box, label, score) in enumerate(
        zip(result.boxes.numpy(), result.labels.tolist(), result.scores.tolist(), strict=True)
    ):
        crop, corner = result.crop(i)
        runs = from_crop(crop, (corner[0] + y, corner[1] + x))
        place = box + np.array([x, y, x, y], np.float32)
        pieces.append(Piece(place, label, score, runs, frozenset((tile,)), _touched(place, tile, size)))
    return pieces


def _touched(box: np.ndarray, tile: Window, size: tuple[int, int]) -> tuple[Window, ...]:
    x1, y1, x2, y2 = tile
    near_x, near_y = (max(_NEAR, _NEAR_SHARE * side) for side in (box[2] - box[0], box[3] - box[1]))
    top, bottom, left, right = int(box[1]), int(np.ceil(box[3])), int(box[0]), int(np.ceil(box[2]))
    edges = (
        (x1 > 0 and box[0] - x1 < near_x, (x1, top, x1, bottom)),
        (y1 > 0 and box[1] - y1 < near_y, (left, y1, right, y1)),
        (x2 < size[1] and x2 - box[2] < near_x, (x2, top, x2, bottom)),
        (y2 < size[0] and y2 - box[3] < near_y, (left, y2, right, y2)),
    )
    return tuple(edge for touches, edge in edges if touches)


def merge(pieces: list[Piece], cell: int) -> list[Piece]:
    """One piece for each object, best first; see the head of this file. ``cell``: about the side of a tile, pixels."""
    whole = [p for p in pieces if not p.cut]
    places = _Places(whole, cell)
    parts = [p for p in pieces if p.cut and not any(_within(p, w) for w in places.near(p))]
    left, kept = sorted(whole + _joined(parts, cell), key=lambda p: -p.score), _Places([], cell)
    return [p for p in left if not any(_same(p, other) for other in kept.near(p)) and kept.add(p)]


def _joined(parts: list[Piece], cell: int) -> list[Piece]:
    """Cut pieces with those that continue them; any number in a chain."""
    places = _Places(parts, cell)
    leader = {id(p): p for p in parts}

    def lead(piece: Piece) -> Piece:
        while leader[id(piece)] is not piece:
            leader[id(piece)] = leader[id(leader[id(piece)])]  # shortens the way for the next
            piece = leader[id(piece)]
        return piece

    for piece in parts:
        for other in places.near(piece):
            if lead(piece) is not lead(other) and _continues(piece, other):
                leader[id(lead(piece))] = lead(other)
    groups: dict[int, list[Piece]] = defaultdict(list)
    for piece in parts:
        groups[id(lead(piece))].append(piece)
    return [_one(group) for group in groups.values()]


def _one(group: list[Piece]) -> Piece:
    boxes = np.stack([p.box for p in group])
    return Piece(
        np.r_[boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)],
        group[0].label,
        max(p.score for p in group),
        union([p.runs for p in group]),
        frozenset().union(*(p.tiles for p in group)),
    )


def _within(part: Piece, whole: Piece) -> bool:
    return part.tiles.isdisjoint(whole.tiles) and common(part.runs, whole.runs) >= max(
        SAME * area(part.runs), 1
    )


def _same(a: Piece, b: Piece) -> bool:
    if not a.tiles.isdisjoint(b.tiles):  # the network has told these apart
        return False
    shared = common(a.runs, b.runs)
    return shared >= max(SAME * (area(a.runs) + area(b.runs) - shared), 1)


def _continues(part: Piece, other: Piece) -> bool:
    """Whether the other cut piece goes on where this one is cut: see question 2 at the head of this file."""
    (here,), (there,) = part.tiles, other.tiles
    if not _cut_inside(part, there):
        return False
    strip = _meet(here, there)
    mine = clip(part.runs, strip)
    return common(mine, clip(other.runs, strip)) >= max(SAME * area(mine), 1)


def _cut_inside(piece: Piece, tile: Window) -> bool:
    """Whether an edge that cuts the piece lies inside of another tile."""
    x1, y1, x2, y2 = tile
    return any(
        (x1 < ex1 < x2 if ex1 == ex2 else ex1 < x2 and ex2 > x1)
        and (y1 < ey1 < y2 if ey1 == ey2 else ey1 < y2 and ey2 > y1)
        for ex1, ey1, ex2, ey2 in piece.cut
    )


def _meet(a: Window, b: Window) -> Window:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


class _Places:
    """Pieces by class and by the squares of a grid that their boxes lie in."""

    def __init__(self, pieces: list[Piece], cell: int) -> None:
        self.cell = cell
        self.squares: dict[tuple[int, int, int], list[Piece]] = defaultdict(list)
        for piece in pieces:
            self.add(piece)

    def add(self, piece: Piece) -> bool:
        """Always true, to stand in a condition."""
        for square in self._squares(piece):
            self.squares[square].append(piece)
        return True

    def near(self, piece: Piece) -> Iterator[Piece]:
        """Those of the same class whose boxes meet this one's, itself left out."""
        found = {id(p): p for square in self._squares(piece) for p in self.squares.get(square, ())}
        found.pop(id(piece), None)
        low, high = piece.box[:2], piece.box[2:]
        return (p for p in found.values() if (p.box[:2] < high).all() and (p.box[2:] > low).all())

    def _squares(self, piece: Piece) -> Iterator[tuple[int, int, int]]:
        x1, y1, x2, y2 = (int(v // self.cell) for v in piece.box)
        return ((piece.label, x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1))


def shrunk(result: Result, picture: Large, longest: int) -> Result:
    """A result and its picture with no side above ``longest``, to look at."""
    factor = min(longest / max(result.size), 1)
    size = max(round(result.size[0] * factor), 1), max(round(result.size[1] * factor), 1)
    scale = np.array(size[::-1]) / result.size[::-1]  # x, y
    runs = []
    for i in range(len(result)):
        crop, (y, x) = result.crop(i)
        low = np.floor((x, y) * scale).astype(int)
        high = np.maximum(np.ceil((np.array((x, y)) + crop.shape[::-1]) * scale).astype(int), low + 1)
        small = cv2.resize(crop.astype(np.float32), (high - low).tolist(), interpolation=cv2.INTER_AREA)
        runs.append(from_crop(small >= 0.5, (int(low[1]), int(low[0]))))
    boxes = result.boxes * torch.from_numpy(np.tile(scale, 2)).float()
    return replace(
        result, boxes=boxes, roi_masks=torch.zeros(len(result), 0, 0), runs=tuple(runs), size=size,
        image=Image(picture.small(size)),
    )  # fmt: skip


def _result(pieces: list[Piece], names: tuple[str, ...], picture: Large) -> Result:
    return Result(
        torch.from_numpy(np.stack([p.box for p in pieces]) if pieces else np.zeros((0, 4), np.float32)),
        torch.tensor([p.label for p in pieces], dtype=torch.int64),
        torch.tensor([p.score for p in pieces], dtype=torch.float32),
        torch.zeros(len(pieces), 0, 0),
        names,
        picture.size,
        picture.image,
        runs=tuple(p.runs for p in pieces),
    )
