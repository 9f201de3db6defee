"""Which files there are, and what theirs are called."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch

from ..errors import ConfigError, ImageError
from ..inputs import Source, expand, is_many
from ..inputs.decode import is_path, is_url
from ..inputs.sources import is_glob
from ..records import Image

_RESERVED = ("results", "run")  # results.json, run.json


@dataclass(frozen=True)
class Job:
    """One picture to be done, and what it is called."""

    source: Source
    name: str  # in results.json: path relative to the sources' common folder
    stem: str  # of its output files, relative to the output folder


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
