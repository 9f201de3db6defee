"""What one worker does: a shard in, a part out. Knows nothing of where it runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ImageError
from ..inputs import Source, read_ahead
from ..jobs import batched, predict_batch
from ..records import Image
from .parts import read_part, row_of, write_part
from .pictures import Columns, Row, Shard, pictures_of
from .place import Place

if TYPE_CHECKING:
    from ..model import MaskRCNN


@dataclass(frozen=True)
class Task:
    """What is the same for every shard.

    folder  : path or URI of the parts
    options : ``score``, ``classes``, ``max_detections`` of `MaskRCNN.predict`
    """

    folder: str
    columns: Columns
    options: dict[str, Any]
    batch_size: int
    max_pixels: int


@dataclass(frozen=True)
class Done:
    """A shard that is done: how many pictures are new, what could not be read, and what it took."""

    part: str
    pictures: int
    instances: int
    failed: tuple[tuple[str, str], ...]
    seconds: float


def do_shard(model: MaskRCNN, task: Task, shard: Shard) -> Done:
    """Predict the pictures of a shard and write its part.

    Rows that its part has already are kept, unless they failed: whoever does a shard, however often it is
    begun, its part is the same.
    """
    start = time.monotonic()
    place = Place.of(task.folder) / shard.part
    earlier = _earlier(place)
    rows: list[dict[str, Any]] = []
    new: list[int] = []
    waiting: deque[tuple[int, Row]] = deque()

    def sources() -> Iterator[Source]:
        for i, (row, source) in enumerate(pictures_of(shard, task.columns)):
            kept = i < len(earlier) and earlier[i]["error"] is None
            rows.append(earlier[i] if kept else {})
            if not kept:
                waiting.append((i, row))
                yield source

    def pictures() -> Iterator[tuple[tuple[int, Row], Image | ImageError]]:
        alpha = model.config.channels == 4
        for _, image in read_ahead(sources(), keep_alpha=alpha, max_pixels=task.max_pixels):
            yield waiting.popleft(), image

    for batch in batched(pictures(), task.batch_size):
        for (i, row), outcome in predict_batch(model, batch, task.options):
            rows[i] = row_of(row.image_id, row.name, outcome)
            new.append(i)
    if new:
        write_part(place, rows, model.names)
    good = [rows[i] for i in new if rows[i]["error"] is None]
    failed = tuple((rows[i]["file_name"], rows[i]["error"]) for i in new if rows[i]["error"] is not None)
    found = sum(len(row["instances"]) for row in good)
    return Done(shard.part, len(good), found, failed, time.monotonic() - start)


def _earlier(place: Place) -> list[dict[str, Any]]:
    try:
        return read_part(place)
    except FileNotFoundError:
        return []
