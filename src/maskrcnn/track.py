"""The same object, the same number: instances of one frame matched to those of the frames before.

A track is where an object was last seen and how it moved. Each new frame is matched twice, by the assignment
that makes the sum of overlaps largest (Hungarian): first by IoU of masks, the track's moved on to where it should be
now; then what is left by IoU of boxes enlarged by half their size, which finds small and fast objects whose masks
no longer meet (Yang et al., "Hard to Track Objects with Irregular Motions and Similar Appearances? Make It Easier
by Buffering the Matching Space", 2023). A track that is not seen waits, moving on, for a number of frames. A weak
detection may carry a track on, but not start one (Zhang et al., "ByteTrack", 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .errors import ConfigError, MissingExtraError
from .records import Result

_OTHER_CLASS = 0.7  # of the overlap counts where the class has changed: car and truck may be one object
_INERTIA = 0.6  # share of the old in the mean of movements
_BUFFER = 0.5  # of a box's width and height, to each side


@dataclass(frozen=True)
class Tracking:
    """How instances are followed.

    overlap  : least IoU of masks, and of enlarged boxes, 0..1
    start    : least score of a new track, 0..1; weaker instances that carry none on are left out
    patience : frames for which an object that is not seen keeps its number
    """

    overlap: float = 0.3
    start: float = 0.5
    patience: int = 30

    def __post_init__(self) -> None:
        if not (0 < self.overlap <= 1 and 0 <= self.start <= 1 and self.patience >= 0):
            raise ConfigError(f"want overlap in 0..1 above 0, start in 0..1, patience >= 0, got {self}")


@dataclass(frozen=True, eq=False)
class Track:
    """An object as it was seen last.

    box (4,) xyxy · speed (2,) pixels a frame, x and y · crop, corner as of `Result.crop` · missed frames since
    """

    number: int
    label: int
    box: np.ndarray
    speed: np.ndarray
    crop: np.ndarray
    corner: tuple[int, int]
    missed: int = 0

    @property
    def shift(self) -> np.ndarray:
        """(2,) x, y: how far it should have moved until the frame that is matched now."""
        return self.speed * (self.missed + 1)


@dataclass(frozen=True, eq=False)
class Tracks:
    """All objects that are followed, and the number of the next new one."""

    now: tuple[Track, ...] = ()
    next: int = 1


def followed(results: Iterator[Result], track: bool | Tracking) -> Iterator[Result]:
    """Results of frames in their order, with ``ids`` by the rule given, the usual one if True, or as they are."""
    if track is False:
        return results
    return _followed(results, Tracking() if track is True else track)


def _followed(results: Iterator[Result], rule: Tracking) -> Iterator[Result]:
    tracks = Tracks()
    with closing(results):  # type: ignore[type-var]
        for result in results:
            tracks, result = follow(tracks, result, rule)
            yield result


def follow(tracks: Tracks, result: Result, rule: Tracking) -> tuple[Tracks, Result]:
    """The tracks after one more frame, and its result with ``ids``, less the weak instances that belong to none.

    Raises MissingExtraError without SciPy.
    """
    seen = [
        Track(0, label, box, np.zeros(2), *result.crop(i))
        for i, (label, box) in enumerate(zip(result.labels.tolist(), result.boxes.numpy(), strict=True))
    ]
    pairs = dict(match(tracks.now, seen, rule.overlap))
    after, numbers, number = [], [0] * len(seen), tracks.next
    for i, track in enumerate(tracks.now):
        if i in pairs:
            numbers[pairs[i]] = track.number
            after.append(_carried_on(track, seen[pairs[i]]))
        elif track.missed < rule.patience:
            after.append(replace(track, missed=track.missed + 1))
    for j, new in enumerate(seen):
        if not numbers[j] and result.scores[j] >= rule.start:
            numbers[j] = number
            after.append(replace(new, number=number))
            number += 1
    ids = torch.tensor(numbers, dtype=torch.int64)
    return Tracks(tuple(after), number), replace(result, ids=ids)[ids > 0]


def match(before: tuple[Track, ...], seen: list[Track], least: float) -> list[tuple[int, int]]:
    """Positions in ``before`` and ``seen`` that belong together, each at most once."""
    pairs: list[tuple[int, int]] = []
    for overlaps in (mask_overlaps, buffered_overlaps):
        left = sorted(set(range(len(before))) - {i for i, _ in pairs})
        right = sorted(set(range(len(seen))) - {j for _, j in pairs})
        table = overlaps([before[i] for i in left], [seen[j] for j in right])
        pairs += [(left[i], right[j]) for i, j in assign(table, least)]
    return pairs


def assign(table: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Row and column pairs of the largest sum, of entries that are at least ``least``."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtraError("tracking needs SciPy; pip install 'maskrcnn[video]'") from error
    table = np.where(table >= least, table, 0.0)
    return [(i, j) for i, j in zip(*linear_sum_assignment(-table), strict=True) if table[i, j] > 0]


def mask_overlaps(before: list[Track], seen: list[Track]) -> np.ndarray:
    """(n, m) IoU of masks, those of ``before`` moved on to now."""
    table = np.zeros((len(before), len(seen)))
    moved = [np.rint(track.shift).astype(int) for track in before]
    for i, track in enumerate(before):
        corner = track.corner[0] + moved[i][1], track.corner[1] + moved[i][0]
        for j, new in enumerate(seen):
            table[i, j] = crop_iou(track.crop, corner, new.crop, new.corner) * _agreement(track, new)
    return table


def buffered_overlaps(before: list[Track], seen: list[Track]) -> np.ndarray:
    """(n, m) IoU of boxes enlarged by half their size to each side, those of ``before`` moved on to now."""
    table = np.zeros((len(before), len(seen)))
    for i, track in enumerate(before):
        old = _enlarged(track.box + np.tile(track.shift, 2))
        for j, new in enumerate(seen):
            fresh = _enlarged(new.box)
            common = np.minimum(old[2:], fresh[2:]) - np.maximum(old[:2], fresh[:2])
            shared = float(common.clip(0).prod())
            both = float((old[2:] - old[:2]).prod() + (fresh[2:] - fresh[:2]).prod()) - shared
            table[i, j] = shared / max(both, 1e-9) * _agreement(track, new)
    return table


def crop_iou(a: np.ndarray, at: tuple[Any, Any], b: np.ndarray, bt: tuple[Any, Any]) -> float:
    """IoU of two masks that are given as bool arrays and the (y, x) of their first pixels; 0 if both are empty."""
    y1, x1 = max(at[0], bt[0]), max(at[1], bt[1])
    y2, x2 = min(at[0] + a.shape[0], bt[0] + b.shape[0]), min(at[1] + a.shape[1], bt[1] + b.shape[1])
    if y2 <= y1 or x2 <= x1:
        return 0.0
    common = int(np.count_nonzero(
        a[y1 - at[0] : y2 - at[0], x1 - at[1] : x2 - at[1]] & b[y1 - bt[0] : y2 - bt[0], x1 - bt[1] : x2 - bt[1]]
    ))  # fmt: skip
    return common / max(int(np.count_nonzero(a)) + int(np.count_nonzero(b)) - common, 1)


def _carried_on(track: Track, new: Track) -> Track:
    """The track at its new place; its speed a running mean of the centre's movement a frame."""
    move = (_centre(new.box) - _centre(track.box)) / (track.missed + 1)
    known = bool(track.speed.any())
    speed = _INERTIA * track.speed + (1 - _INERTIA) * move if known else move
    return replace(new, number=track.number, speed=speed)


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]).astype(np.float64) / 2


def _enlarged(box: np.ndarray) -> np.ndarray:
    margin = _BUFFER * np.tile(box[2:] - box[:2], 2)
    return box + margin * (-1, -1, 1, 1)


def _agreement(track: Track, new: Track) -> float:
    return 1.0 if track.label == new.label else _OTHER_CLASS
