"""Predict many files into a folder: read ahead, write each result as it is done, survive what goes wrong."""

from __future__ import annotations

import glob
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import torch

from .errors import ConfigError, ImageError, MaskRCNNError, MissingExtraError
from .files import write_text
from .inputs import MAX_PIXELS, Source, expand, is_many, open_large, read_ahead
from .inputs.decode import is_path, is_url
from .inputs.sources import is_glob
from .output import KINDS, CocoWriter, draw, write, write_picture
from .records import Image, Result
from .tiles import grid, predict_tiles, shrunk

if TYPE_CHECKING:
    from .model import MaskRCNN

SAVE = ("json", *KINDS)
DEFAULT_OUT = "out"
K = TypeVar("K")  # whatever tells one picture from another
_OVERLAY_SIDE = 8192  # pixels, of a picture above MAX_PIXELS
_RESERVED = ("results", "run")  # results.json, run.json


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


@dataclass(frozen=True)
class Job:
    """One picture to be done, and what it is called."""

    source: Source
    name: str  # in results.json: path relative to the sources' common folder
    stem: str  # of its output files, relative to the output folder


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
    color_by: Literal["instance", "class"] = "instance",
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
    batch_size : pictures that go through the network together
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
    earlier = frozenset(writer.done) if writer else frozenset()
    run = _Run(writer, folder, save, color_by, progress, total)
    options = {"score": score, "classes": classes, "max_detections": max_detections}
    try:
        keep_alpha = model.config.channels == 4
        outcomes: Iterator[tuple[Job, Result | ImageError]]
        if tile is None:
            pictures = _read(run.left(jobs, earlier), keep_alpha, max_pixels)
            outcomes = chain.from_iterable(
                predict_batch(model, batch, options) for batch in batched(pictures, batch_size)
            )
        else:
            outcomes = (
                (job, _predict_tiled(model, job, options, keep_alpha, max_pixels, tile, overlap, batch_size))
                for job in run.left(jobs, earlier)
            )
        for job, outcome in _behind(outcomes, run.write_files):
            run.finish(job, outcome)
    finally:
        if writer:
            with writing(folder):
                writer.close()
    seconds = time.monotonic() - start
    return Report(
        folder, target if writer else None, run.done, run.skipped, tuple(run.failed), run.instances, seconds
    )


def _behind(
    outcomes: Iterator[tuple[Job, Result | ImageError]], work: Callable[[Job, Result | ImageError], None],
    depth: int = 4,
) -> Iterator[tuple[Job, Result | ImageError]]:  # fmt: skip
    """Do work on each outcome in a thread while the next ones are made; each comes out when its work is done.

    At most ``depth`` wait. When ``outcomes`` fails, or on Ctrl-C, what came before is done first.
    """
    waiting: deque[tuple[Job, Result | ImageError, Future[None]]] = deque()
    failure: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        while True:
            try:
                job, outcome = next(outcomes)
            except StopIteration:
                break
            except BaseException as error:
                failure = error
                break
            waiting.append((job, outcome, pool.submit(work, job, outcome)))
            while len(waiting) > depth or (waiting and waiting[0][2].done()):
                job, outcome, future = waiting.popleft()
                future.result()
                yield job, outcome
        for job, outcome, future in waiting:
            future.result()
            yield job, outcome
    if failure is not None:
        raise failure


class _Run:
    """Counts, and writes what comes."""

    def __init__(
        self,
        writer: CocoWriter | None,
        folder: Path,
        save: Sequence[str],
        color_by: Literal["instance", "class"],
        progress: Callable[[Step], None],
        total: int | None,
    ) -> None:
        self.writer, self.folder, self.color_by, self.progress, self.total = (
            writer,
            folder,
            color_by,
            progress,
            total,
        )
        self.kinds = [kind for kind in save if kind not in ("json", "overlay")]
        self.overlay = "overlay" in save
        self.done = self.skipped = self.instances = 0
        self.failed: list[tuple[str, str]] = []

    def left(self, jobs: Iterable[Job], earlier: frozenset[str]) -> Iterator[Job]:
        """Those that an earlier run does not have; the others are counted."""
        for job in jobs:
            if job.name in earlier:
                self.skipped += 1
            else:
                yield job

    def write_files(self, job: Job, outcome: Result | ImageError) -> None:
        """Everything but results.json; in a thread of its own."""
        if isinstance(outcome, Result):
            with writing(self.folder):
                if self.overlay:
                    pixels = draw(_drawable(outcome), color_by=self.color_by)
                    write_picture(self.folder / f"{job.stem}_overlay.jpg", pixels)
                write(outcome, self.folder, job.stem, self.kinds)

    def finish(self, job: Job, outcome: Result | ImageError) -> None:
        """Count, and write results.json last: it says that the other files are there."""
        if isinstance(outcome, Result):
            if self.writer:
                with writing(self.folder):
                    self.writer.add(outcome, job.name)
            self.done += 1
            self.instances += len(outcome)
        else:
            self.failed.append((job.name, str(outcome)))
        error = None if isinstance(outcome, Result) else str(outcome)
        found = len(outcome) if isinstance(outcome, Result) else 0
        count = self.done + self.skipped + len(self.failed)
        self.progress(Step(job.name, found, error, count, self.total))


def _drawable(result: Result) -> Result:
    """The result itself, or a smaller one where the picture is too large to be drawn on."""
    if result.size[0] * result.size[1] <= MAX_PIXELS:
        return result
    with open_large(result.image, max_pixels=result.size[0] * result.size[1]) as picture:
        return shrunk(result, picture, _OVERLAY_SIDE)


def result_settings(
    model: MaskRCNN,
    save: Sequence[str],
    score: float | None,
    classes: Sequence[str | int] | None,
    max_detections: int | None,
    color_by: str = "instance",
    forms: Sequence[str] = SAVE,
) -> dict[str, Any]:
    """What decides the results, checked before an earlier run's files are touched. ``save``: some of ``forms``."""
    given = {"score": score, "max_detections": max_detections}
    config = model.config.with_options(**{k: v for k, v in given.items() if v is not None})
    unknown = [kind for kind in save if kind not in forms]
    if unknown or not save:
        raise ConfigError(f"save: want some of {', '.join(forms)}, got {', '.join(unknown) or 'none'}")
    if color_by not in ("instance", "class"):
        raise ConfigError(f"color_by: want instance or class, got {color_by!r}")
    wrong = [c for c in classes or () if c not in model.names and c not in range(len(model.names))]
    if wrong:
        raise ConfigError(f"classes: want some of {', '.join(model.names)}, got {', '.join(map(str, wrong))}")
    values = config.to_dict() | {
        "weights": Path(str(model.source)).name,
        "classes": None if classes is None else list(classes),
        "save": sorted(save),
    }
    return json.loads(json.dumps(values))


def agree(before: bytes | None, settings: dict[str, Any], where: Path | str) -> None:
    """Raises ConfigError unless ``before``, the run.json of the run to be resumed in ``where``, has these settings."""
    if before is None:
        return
    try:
        earlier = json.loads(before)
    except ValueError:
        earlier = {}
    differ = [k for k in settings if earlier.get(k) != settings[k]]
    if differ:
        raise ConfigError(
            f"resume: want the settings of the earlier run in {where}, got other values for "
            f"{', '.join(differ)} (see run.json); use the same, another folder, or no resume"
        )


@contextmanager
def writing(folder: Path | str) -> Iterator[None]:
    """A full disk or a missing permission in words."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MaskRCNNError):
            raise
        raise MaskRCNNError(
            f"{folder}: want to write results, got '{error.strerror or error}'; make room "
            "or choose another folder (--out), then go on with --resume"
        ) from error


def _read(jobs: Iterable[Job], keep_alpha: bool, max_pixels: int) -> Iterator[tuple[Job, Image | ImageError]]:
    """Their pictures, read ahead."""
    waiting: deque[Job] = deque()

    def sources() -> Iterator[Source]:
        for job in jobs:
            waiting.append(job)
            yield job.source

    for _, image in read_ahead(sources(), keep_alpha=keep_alpha, max_pixels=max_pixels):
        yield waiting.popleft(), image


def batched(
    pictures: Iterable[tuple[K, Image | ImageError]], size: int
) -> Iterator[list[tuple[K, Image | ImageError]]]:
    """``size`` readable pictures a time, with those between them that are not."""
    batch: list[tuple[K, Image | ImageError]] = []
    readable = 0
    for job, image in pictures:
        batch.append((job, image))
        readable += isinstance(image, Image)
        if readable == size or readable == 0:
            yield batch
            batch, readable = [], 0
    if batch:
        yield batch


def predict_batch(
    model: MaskRCNN, batch: list[tuple[K, Image | ImageError]], options: dict[str, Any]
) -> Iterator[tuple[K, Result | ImageError]]:
    """Results in the order of the batch. One picture that does not fit the model must not cost the others."""
    images = [image for _, image in batch if isinstance(image, Image)]
    try:
        results = iter(model.predict_images(images, **options) if images else ())
    except ImageError as error:
        if len(images) > 1:
            for one in batch:
                yield from predict_batch(model, [one], options)
            return
        for job, image in batch:
            yield job, error if isinstance(image, Image) else image
        return
    except torch.OutOfMemoryError as error:
        raise MaskRCNNError(
            f"{len(images)} picture(s) want more memory than the device has ({str(error).splitlines()[0]}); "
            "lower --batch-size or --max-size, or use --device cpu"
        ) from error
    for job, image in batch:
        yield job, next(results) if isinstance(image, Image) else image


def _predict_tiled(
    model: MaskRCNN, job: Job, options: dict[str, Any], keep_alpha: bool, max_pixels: int,
    tile: int, overlap: float, batch_size: int,
) -> Result | ImageError:  # fmt: skip
    try:
        with open_large(job.source, keep_alpha=keep_alpha, max_pixels=max_pixels) as picture:
            return predict_tiles(
                partial(model.predict_images, **options), picture, model.names, tile, overlap, batch_size
            )
    except MissingExtraError as error:  # concerns this picture alone
        return ImageError(str(error))
    except ImageError as error:
        return error


# Which files there are, and what theirs are called


def find_jobs(source: Any, out: Path, recursive: bool) -> tuple[Iterator[Job], int | None]:
    """The jobs and their number, None where only an iterator knows. What lies in ``out`` is left out."""
    if (
        is_many(source)
        and not is_path(source)
        and not isinstance(source, (list, tuple, np.ndarray, torch.Tensor))
    ):
        return _named(expand(source, recursive=recursive), Path.cwd(), out, set()), None
    arguments = source if isinstance(source, (list, tuple)) else [source]
    found = [one for argument in arguments for one in expand(argument, recursive=recursive)]
    places = [argument for argument in arguments if is_path(argument)]
    if (
        len(found) == len(places) == 1
        and not Path(places[0]).expanduser().exists()
        and not is_many(places[0])
    ):
        raise ImageError(
            f"{places[0]}: want a picture, folder or glob, got nothing of that name; check the path"
        )
    results = out.resolve()
    for place in places:
        if is_many(place) and _root(place).resolve() == results:
            raise ConfigError(
                f"out: want a folder other than that of the pictures, got {out}; choose another"
            )
    try:
        root = Path(os.path.commonpath([_root(place) for place in places])) if places else Path.cwd()
    except ValueError:  # on different drives
        root = Path.cwd()
    if results not in (root.resolve(), *root.resolve().parents):  # what an earlier run left in the folder
        found = [one for one in found if not (is_path(one) and results in Path(one).resolve().parents)]
    unique = {str(Path(one).resolve()) if is_path(one) else str(i): one for i, one in enumerate(found)}
    paths = {Path(one).resolve() for one in unique.values() if is_path(one)}
    return _named(unique.values(), root, out, paths), len(unique)


def _named(sources: Iterable[Source], root: Path, out: Path, paths: set[Path]) -> Iterator[Job]:
    """Give each source a name, and its outputs a stem, that no other has (on any file system)."""
    names: set[str] = set()
    stems: set[str] = set(_RESERVED)

    def free(stem: str) -> bool:
        overlay = (out / f"{stem}_overlay.jpg").resolve()
        return stem.lower() not in stems and overlay not in paths

    for i, source in enumerate(sources, start=1):
        path = source.source if isinstance(source, Image) else source
        name = _name(path, root) if isinstance(path, (str, os.PathLike)) else f"{i:06d}"
        if name in names:
            name = next(other for k in count(2) if (other := f"{name}_{k}") not in names)
        names.add(name)
        short = str(Path(name).with_suffix("")) if Path(name).suffix else name
        stem = next(s for s in chain((short, name), (f"{name}_{k}" for k in count(2))) if free(s))
        stems.add(stem.lower())
        yield Job(source, name, stem)


def _name(path: str | os.PathLike[str], root: Path) -> str:
    """Relative to ``root`` where it lies below, else its whole path; the last part of a URL."""
    if isinstance(path, str) and is_url(path):
        parts = urlsplit(path)
        return re.sub(
            r'[\\/:*?"<>|]', "_", unquote(parts.path.rstrip("/").rsplit("/", 1)[-1]) or parts.netloc
        )
    whole = _absolute(path)
    return (
        whole.relative_to(root) if whole.is_relative_to(root) else whole.relative_to(whole.anchor)
    ).as_posix()


def _root(argument: str | os.PathLike[str]) -> Path:
    """The folder that an argument's pictures are named from: its own, its parent, or a glob's fixed part."""
    path = _absolute(argument)
    if path.is_dir():
        return path
    if is_glob(argument):
        fixed = 0
        while not glob.has_magic(path.parts[fixed]):
            fixed += 1
        return Path(*path.parts[:fixed])
    return path.parent


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Without ``..``; links stay, so that a linked file keeps the name it has here."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))
