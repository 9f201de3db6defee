"""`predict_fleet`: the pictures of a folder, table or COCO json through many workers, with Ray Data.

The list is cut into shards, shard k's results are part k, and a part gets its name when it is whole. So it does not
matter which worker does a shard, how often one dies on the way, or whether the run goes on another day.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch

from ..errors import ConfigError, MaskRCNNError
from ..inputs import MAX_PIXELS
from ..jobs import DEFAULT_OUT, Report, Step, agree, result_settings, writing
from ..model import MaskRCNN
from .cluster import Share, Workers, cluster
from .parts import tally, write_results_json
from .pictures import Shard, columns_of, count_rows, cut, list_pictures, tables_of, write_list
from .place import Place
from .work import Done, Task, do_shard

SAVE = ("parquet", "json")
_SHARD = 1000  # pictures at most, unless told
_TRIES = 5  # workers that may die over one shard
_BLOCKS = 10_000  # Ray's objects; more shards than that share them
_PARTS, _LISTS = r"part-\d{7,}\.parquet", r"\d{5,}\.parquet"
_FOOTERS = 32  # threads that look at what an earlier run has


def predict_fleet(
    model: MaskRCNN,
    source: Any,
    out: str | Path | None = None,
    *,
    workers: Workers | None = None,
    save: Sequence[str] = SAVE,
    shard: int | None = None,
    column: str | None = None,
    batch_size: int = 1,
    score: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
    resume: bool = False,
    recursive: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[Step], None] = lambda step: None,
) -> Report:
    """Predict every picture of ``source`` on the workers of a Ray cluster.

    source  : a folder or glob of pictures, or a list of these; a COCO json; a parquet file, or a folder of them,
              with a column of paths or of encoded pictures. Paths, or URIs that pyarrow reads (s3://, gs://, ...)
    out     : folder or URI; gets results/part-*.parquet, results.json, run.json, and pictures/, the list that is
              worked through. Workers on other machines must see it, and the pictures, under the same name
    workers : how many, and what each may use
    save    : ``parquet`` always; ``json`` for results.json as well, which the driver writes in the end
    shard   : pictures that a worker takes at a time, and results in a part; default: by their number, at most 1000
    column  : of a table, the one with the pictures
    resume  : keep the parts of an earlier run into this folder; its list, its shards and its settings stay. Pictures
              that failed are tried again
    batch_size, score, classes, max_detections, recursive, max_pixels, progress : as `jobs.predict_files`; progress
              is called for every part and every picture without a result

    Each picture is in one part, once, whether workers were killed or the run was, and its row is what
    `MaskRCNN.predict` gives. A shard whose worker dies again and again is reported as failed.
    Raises ConfigError, ImageError, DataError as `jobs.predict_files`; MaskRCNNError for what stopped a worker.
    """
    start = time.monotonic()
    settings = result_settings(model, list(save), score, classes, max_detections, forms=SAVE)
    settings |= {"source": [str(one) for one in (source if isinstance(source, (list, tuple)) else [source])]}
    if batch_size < 1 or (shard is not None and shard < 1):
        raise ConfigError(f"batch_size, shard: want at least 1, got {batch_size} and {shard}")
    place = Place.of(out or DEFAULT_OUT)
    options = {"score": score, "classes": classes, "max_detections": max_detections}
    with cluster(workers or Workers()) as share, writing(place.uri):
        before = _before(place) if resume else None
        tables = tables_of(source, place, recursive)
        if before is not None:
            shard = shard or json.loads(before).get("shard")
            tables = tables or _files(place / "pictures", _LISTS)
        else:
            _clear(place)
        rows = [] if tables else list_pictures(source, place.local or Path(DEFAULT_OUT), recursive)
        size = shard or min(max((len(rows) or count_rows(tables)) // (8 * share.count), 1), _SHARD)
        tables = tables or write_list(rows, place / "pictures", size)
        shards = cut(tables, size)
        total = sum(one.count for one in shards)
        settings |= {"shard": size, "pictures": total}
        agree(before, settings, place.uri)
        (place / "run.json").write(json.dumps(settings, indent=1).encode())
        task = Task((place / "results").uri, columns_of(tables[0], column), options, batch_size, max_pixels)
        todo, earlier = _todo(place / "results", shards) if before is not None else (shards, 0)
        run = _Run(total, earlier, progress)
        target = place / "results.json" if "json" in save else None
        try:
            for done in _map(model, task, todo, share):
                run.add(done)
        finally:
            if target:
                write_results_json(target, _files(place / "results", _PARTS), model.names)
    where, file = place.local or place.uri, (target.local or target.uri) if target else None
    seconds = time.monotonic() - start
    return Report(where, file, run.done, earlier, tuple(run.failed), run.instances, seconds)


class _Run:
    """Counts what comes."""

    def __init__(self, total: int, earlier: int, progress: Callable[[Step], None]) -> None:
        self.total, self.earlier, self.progress = total, earlier, progress
        self.done = self.instances = 0
        self.failed: list[tuple[str, str]] = []

    def add(self, done: Done) -> None:
        """One part is there."""
        self.done += done.pictures
        self.instances += done.instances
        self.failed += done.failed
        count = self.done + self.earlier + len(self.failed)
        for name, error in done.failed:
            self.progress(Step(name, 0, error, count, self.total))
        self.progress(Step(done.part, done.instances, None, count, self.total))


def _before(place: Place) -> bytes | None:
    """The run.json of an earlier run. It is written when the list is whole; without it there is nothing to keep."""
    try:
        return (place / "run.json").read()
    except FileNotFoundError:
        return None


def _clear(place: Place) -> None:
    """Take away what an earlier run has left, run.json first."""
    if place.local:
        place.local.mkdir(parents=True, exist_ok=True)
    parts, lists = _files(place / "results", _PARTS), _files(place / "pictures", _LISTS)
    for one in (place / "run.json", *parts, *lists):
        one.delete()


def _files(folder: Place, pattern: str) -> list[Place]:
    """Our own files of a folder, in order."""
    return [one for one in folder.files() if re.fullmatch(pattern, one.path.rpartition("/")[2])]


def _todo(folder: Place, shards: Sequence[Shard]) -> tuple[list[Shard], int]:
    """The shards without a part, or with pictures that failed; and how many pictures are done."""
    there = {one.path.rpartition("/")[2]: one for one in _files(folder, _PARTS)}
    with ThreadPoolExecutor(_FOOTERS) as pool:
        tallies = dict(zip(there, pool.map(tally, there.values()), strict=True))
    todo = [one for one in shards if tallies.get(one.part, (0, 1))[1]]
    return todo, sum(rows - failed for rows, failed in tallies.values())


def _map(model: MaskRCNN, task: Task, shards: Sequence[Shard], share: Share) -> Iterator[Done]:
    """Each shard through one of the workers, in whatever order they are done."""
    if not shards:
        return
    held = ray.put(model.to("cpu"))
    tries: Any = ray.remote(Tries).options(num_cpus=0).remote()
    worker: Any = Worker  # a class, which Ray calls for each worker, then its object for each row
    rows = [dataclasses.asdict(one) for one in shards]
    with _quiet():
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS)).map(
            worker,
            fn_constructor_kwargs={
                "model": [held],
                "task": task,
                "share": share,
                "begin": lambda part: ray.get(tries.begin.remote(part)),
            },
            compute=ray.data.ActorPoolStrategy(
                size=min(share.count, len(rows)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
        )
        for row in data.iter_rows():
            if row["error"]:
                raise MaskRCNNError(row["error"])
            failed = tuple((one["name"], one["error"]) for one in json.loads(row["failed"]))
            yield Done(row["part"], row["pictures"], row["instances"], failed, row["seconds"])


class Tries:
    """How often each shard was begun. Ray gives a shard to the next worker as often as one dies."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def begin(self, part: str) -> int:
        """The number of this try, from 1."""
        self.counts[part] += 1
        return self.counts[part]


class Worker:
    """One process with the model. Errors go back as rows, so that only a death counts as one to Ray."""

    def __init__(
        self, model: list[ray.ObjectRef], task: Task, share: Share, begin: Callable[[str], int]
    ) -> None:
        torch.set_num_threads(share.threads)
        self.model = ray.get(model[0]).to(share.device)
        self.task = task
        self.begin = begin

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the list of shards becomes one that says how it went."""
        shard, error = Shard(**row), ""
        done = Done(shard.part, 0, 0, (), 0.0)
        if self.begin(shard.part) > _TRIES:
            said = (
                f"{shard.part}: want {shard.count} pictures from number {shard.first}, got a dead worker {_TRIES} "
                "times; Ray's log may say why, then go on with --resume"
            )
            done = dataclasses.replace(done, failed=((shard.part, said),))
        else:
            try:
                done = do_shard(self.model, self.task, shard)
            except MaskRCNNError as raised:
                error = str(raised)
            except Exception:
                error = traceback.format_exc()
        failed = json.dumps([{"name": name, "error": said} for name, said in done.failed])
        return dataclasses.asdict(done) | {"failed": failed, "error": error}


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without bars and lines of its own."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, log.level
    context.enable_progress_bars = context.print_on_execution_start = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        log.setLevel(before[2])
