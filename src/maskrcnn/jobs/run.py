"""One process: the pictures of a folder through the network, and their results into files beside each other."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, ImageError, MissingExtraError
from ..files import write_text
from ..inputs import MAX_PIXELS, Source, is_many, open_large, read_ahead
from ..inputs.decode import is_path
from ..output import CocoWriter, draw, write, write_picture
from ..records import Result
from ..tiles import grid, predict_tiles, shrunk
from .batches import batched, predict_batch
from .behind import behind
from .lanes import lanes, side_by_side
from .listing import Job, find_jobs
from .settings import DEFAULT_OUT, agree, result_settings, writing

if TYPE_CHECKING:
    from ..model import MaskRCNN

ColorBy = Literal["instance", "class"]
Outcome = tuple[Job, Result | ImageError]
_MANY = 4  # pictures from which on it pays to have one at a time on each share of the threads
_OVERLAY_SIDE = 8192  # pixels, of a picture above MAX_PIXELS


@dataclass(frozen=True)
class Step:
    """One picture is done: how many instances were found, or why there is no result."""

    name: str
    instances: int
    error: str | None
    done: int
    total: int | None  # None while the sources come from an iterator


@dataclass(frozen=True)
class Report:
    """What a run did.

    out     : the folder with the results, a URI where it is not on this machine
    json    : its COCO file, None if it was not asked for
    done    : pictures written by this run
    skipped : pictures that an earlier run had done
    failed  : name and reason of each picture without a result
    """

    out: Path | str
    json: Path | str | None
    done: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    instances: int
    seconds: float


def predict_files(
    model: MaskRCNN,
    source: Any,
    out: str | Path | None = None,
    *,
    save: Sequence[str] = ("overlay", "json"),
    batch_size: int = 1,
    score: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
    resume: bool = False,
    recursive: bool = False,
    color_by: ColorBy = "instance",
    max_pixels: int = MAX_PIXELS,
    tile: int | None = None,
    overlap: float = 0.2,
    progress: Callable[[Step], None] = lambda step: None,
) -> Report:
    """Predict every picture of ``source`` and write the results as they come.

    out        : folder of the results, which keeps the sources' folders. Without it, overlay and json of a
                 single file go beside it (STEM_overlay.jpg, STEM_results.json), all else into ``out``
    save       : some of `SAVE`; ``json`` is one COCO file for all pictures, results.json, the others are as
                 `maskrcnn.output.write` says
    batch_size : pictures that go through the network together; on a CPU side by side, two at least if there are many
    score, classes, max_detections : as `MaskRCNN.predict`
    resume     : keep what an earlier run into this folder has in its results.json, even one that was killed;
                 pictures that failed are tried again
    recursive  : also look into the folders of a folder
    color_by   : ``instance`` or ``class``, for the overlay
    max_pixels : pictures of more pixels are refused, unless they can be read tile by tile
    tile, overlap : as `MaskRCNN.predict`; ``batch_size`` counts tiles then
    progress   : called after every picture

    A picture that cannot be read is reported and left out. On Ctrl-C and on errors results.json is completed
    with what there is. Nothing is written over a source.
    Raises ConfigError for settings that cannot work, or that differ from those of the run to be resumed;
    ImageError for a path that does not exist and for a folder or glob without pictures; MaskRCNNError if
    results cannot be written.
    """
    start = time.monotonic()
    save = list(dict.fromkeys(save))
    settings = result_settings(model, save, score, classes, max_detections, color_by)
    if tile is not None:
        grid((tile, tile), tile, overlap)  # raises for what cannot work
        settings |= {"tile": tile, "overlap": overlap}
    if batch_size < 1:
        raise ConfigError(f"batch_size: want at least 1, got {batch_size}")
    if resume and "json" not in save:
        raise ConfigError("resume: want json among save, since results.json says what is done; add it")
    beside = out is None and is_path(source) and not is_many(source) and set(save) <= {"overlay", "json"}
    folder = Path(source).expanduser().parent if beside else Path(out or DEFAULT_OUT).expanduser()
    jobs, total = find_jobs(source, folder, recursive)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not beside:
            run_json = folder / "run.json"
            agree(run_json.read_bytes() if resume and run_json.exists() else None, settings, folder)
            write_text(run_json, json.dumps(settings, indent=1))
        target = folder / (f"{Path(source).stem}_results.json" if beside else "results.json")
        writer = CocoWriter(target, model.names, resume) if "json" in save else None
    run = _Run(writer, folder, save, color_by, progress, total)
    options = {"score": score, "classes": classes, "max_detections": max_detections}
    left = run.left(jobs, frozenset(writer.done) if writer else frozenset())
    try:
        if tile is None:
            outcomes = _predict_whole(model, left, options, batch_size, max_pixels, (total or 0) >= _MANY)
        else:
            outcomes = _predict_tiled(model, left, options, batch_size, max_pixels, tile, overlap)
        with closing(behind(outcomes, run.write_files)) as written:
            for outcome in written:
                run.finish(outcome)
    finally:
        if writer:
            with writing(folder):
                writer.close()
    seconds = time.monotonic() - start
    return Report(
        folder, target if writer else None, run.done, run.skipped, tuple(run.failed), run.instances, seconds
    )


def _predict_whole(
    model: MaskRCNN, jobs: Iterable[Job], options: dict[str, Any], batch_size: int, max_pixels: int, many: bool
) -> Iterator[Outcome]:  # fmt: skip
    """Pictures are read ahead of the network; many go through it side by side, where the model allows it."""
    waiting: deque[Job] = deque()

    def sources() -> Iterator[Source]:
        for job in jobs:
            waiting.append(job)
            yield job.source

    read = read_ahead(sources(), keep_alpha=model.config.channels == 4, max_pixels=max_pixels)
    pictures = ((waiting.popleft(), image) for _, image in read)
    pool = lanes(model, max(batch_size, 2)) if many else None
    if pool is not None:
        return side_by_side(pictures, lambda picture: next(predict_batch(model, [picture], options)), pool)
    return chain.from_iterable(
        predict_batch(model, batch, options) for batch in batched(pictures, batch_size)
    )


def _predict_tiled(
    model: MaskRCNN, jobs: Iterable[Job], options: dict[str, Any], batch_size: int, max_pixels: int,
    tile: int, overlap: float,
) -> Iterator[Outcome]:  # fmt: skip
    network = partial(model.predict_images, **options)
    for job in jobs:
        try:
            with open_large(
                job.source, keep_alpha=model.config.channels == 4, max_pixels=max_pixels
            ) as picture:
                found = predict_tiles(network, picture, model.names, tile, overlap, batch_size)
        except MissingExtraError as error:  # concerns this picture alone
            yield job, ImageError(str(error))
        except ImageError as error:
            yield job, error
        else:
            yield job, found


@dataclass
class _Run:
    """Counts, and writes what comes."""

    writer: CocoWriter | None
    folder: Path
    save: Sequence[str]
    color_by: ColorBy
    progress: Callable[[Step], None]
    total: int | None
    done: int = 0
    skipped: int = 0
    instances: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def left(self, jobs: Iterable[Job], earlier: frozenset[str]) -> Iterator[Job]:
        """Those that an earlier run does not have; the others are counted."""
        for job in jobs:
            if job.name in earlier:
                self.skipped += 1
            else:
                yield job

    def write_files(self, outcome: Outcome) -> None:
        """Everything but results.json; in a thread of its own."""
        job, result = outcome
        if isinstance(result, ImageError):
            return
        with writing(self.folder):
            if "overlay" in self.save:
                pixels = draw(_drawable(result), color_by=self.color_by)
                write_picture(self.folder / f"{job.stem}_overlay.jpg", pixels)
            others = [kind for kind in self.save if kind not in ("json", "overlay")]
            write(result, self.folder, job.stem, others)

    def finish(self, outcome: Outcome) -> None:
        """Count, and write results.json last: it says that the other files are there."""
        job, result = outcome
        error, found = None, 0
        if isinstance(result, ImageError):
            error = str(result)
            self.failed.append((job.name, error))
        else:
            found = len(result)
            if self.writer:
                with writing(self.folder):
                    self.writer.add(result, job.name)
            self.done += 1
            self.instances += found
        done = self.done + self.skipped + len(self.failed)
        self.progress(Step(job.name, found, error, done, self.total))


def _drawable(result: Result) -> Result:
    """The result itself, or a smaller one where the picture is too large to be drawn on."""
    if result.size[0] * result.size[1] <= MAX_PIXELS:
        return result
    with open_large(result.image, max_pixels=result.size[0] * result.size[1]) as picture:
        return shrunk(result, picture, _OVERLAY_SIDE)
