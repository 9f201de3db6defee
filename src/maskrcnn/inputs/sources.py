"""Many pictures: folders, globs, lists and iterators, opened one by one and decoded ahead of their use."""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from ..errors import ImageError, MissingExtraError
from ..records import Image
from .decode import MAX_PIXELS, Source, is_path, read

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".avif", ".jp2",
     ".ppm", ".pgm", ".pbm", ".npy")
)  # fmt: skip

DRAWN = b"maskrcnn drew this"  # comment in the JPEG files that `predict` draws


def is_many(source: Any) -> bool:
    """Whether this is any number of pictures: list, tuple, iterator, folder, glob, 4-D array or tensor."""
    if isinstance(source, (np.ndarray, Tensor)):
        return source.ndim == 4
    if isinstance(source, (str, os.PathLike)):
        return is_path(source) and (Path(source).expanduser().is_dir() or is_glob(source))
    if isinstance(source, (Image, PIL.Image.Image, bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return False
    return isinstance(source, Iterable)


def is_glob(source: str | os.PathLike[str]) -> bool:
    """Whether this text is a pattern: it has ``*``, ``?`` or ``[...]``, and no file is called so."""
    return glob.has_magic(os.fspath(source)) and not Path(source).expanduser().exists()


def expand(source: Any, *, recursive: bool = False) -> Iterator[Source]:
    """The single sources of a source, in order. Files are found now, items of an iterable when reached.

    A folder gives its pictures (known by their endings), a glob those that match (``**`` goes down into
    folders); both in natural order (2 before 10), without hidden files and folders, and without the overlays that
    earlier runs have drawn there. Lists may mix files, folders and globs. A single source gives itself.

    recursive : also look into the folders of a folder.

    Raises ImageError for a folder without pictures and for a glob that matches none.
    """
    if isinstance(source, (np.ndarray, Tensor)) and source.ndim == 4:
        return iter(source)
    if not is_many(source):
        return iter((source,))
    if not isinstance(source, (str, os.PathLike)):
        return (one for item in source for one in expand(item, recursive=recursive))
    path = Path(source).expanduser()
    if path.is_dir():
        found = list(_walk(path, recursive))
        empty = "has no pictures" + (
            "" if recursive else "; pictures deeper down? use a glob such as 'folder/**/*.jpg'"
        )
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
        found = [p for p in found if p.suffix.lower() in SUFFIXES]
        empty = "matches no pictures; check the pattern"
    found = [p for p in found if not _is_drawn(p)]
    if not found:
        known = ", ".join(sorted(SUFFIXES))
        raise ImageError(f"{source}: want a picture ({known}), got none: it {empty}")
    return iter(sorted(found, key=natural))


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that counts: img2 before img10, capitals beside small letters."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)] + [(-1, str(path))]


def read_ahead(
    sources: Iterable[Source],
    workers: int = 2,
    depth: int = 8,
    *,
    keep_alpha: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[Source, Image | ImageError]]:
    """Decode in threads while the caller works on what came before; order is kept.

    At most ``depth`` pictures are in memory or being read, however many there are. A picture that cannot be
    read comes as its error. ``sources`` is advanced in the caller's thread; closing the iterator stops the
    threads. ``keep_alpha`` and ``max_pixels`` as in `read`.
    """

    def attempt(source: Source) -> Image | ImageError:
        try:
            return read(source, keep_alpha=keep_alpha, max_pixels=max_pixels)
        except ImageError as error:
            return error
        except MissingExtraError as error:  # concerns this picture alone: the others go on
            return ImageError(str(error))

    waiting: deque[tuple[Source, Future[Image | ImageError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    failure: Exception | None = None
    try:
        remaining = iter(sources)
        while True:
            try:
                source = next(remaining)
            except StopIteration:
                break
            except Exception as error:  # raised below, after the pictures that came before it
                failure = error
                break
            waiting.append((source, pool.submit(attempt, source)))
            while waiting and (
                len(waiting) >= depth or waiting[0][1].done()
            ):  # a slow camera need not fill depth
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _is_drawn(path: Path) -> bool:
    """Whether this is an overlay of ours: by its comment, which is only looked for where the name fits."""
    if not path.name.endswith("_overlay.jpg"):
        return False
    try:
        with path.open("rb") as file:
            return DRAWN in file.read(64)
    except OSError:  # will be said when it is its turn
        return False


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise ImageError(
            f"{folder}: want a folder of pictures, got '{error.strerror}'; check its permissions"
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, recursive) if recursive and not entry.is_symlink() else ()
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
