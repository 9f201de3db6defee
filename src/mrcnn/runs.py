"""Folders and files of training runs: ``{model_dir}/{name}{time}/mask_rcnn_{name}_{epoch}.h5``."""

from __future__ import annotations

import datetime
import errno
import os
import re
from pathlib import Path

PATTERN = re.compile(r".*[/\\][\w-]+(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})[/\\]mask\_rcnn\_[\w-]+(\d{4})\.h5")


def started(checkpoint: str) -> tuple[datetime.datetime, int] | None:
    """When the run of a checkpoint began, and its epoch; None for a file named otherwise."""
    found = PATTERN.match(checkpoint)
    if found is None:
        return None
    year, month, day, hour, minute, epoch = (int(part) for part in found.groups())
    return datetime.datetime(year, month, day, hour, minute), epoch


def folder(model_dir: str, name: str, begun: datetime.datetime) -> str:
    """Where a run that began then keeps its files."""
    return os.path.join(model_dir, f"{name}{begun:%Y%m%dT%H%M}")  # noqa: PTH118  # a str, as scripts expect


def last(model_dir: str, name: str) -> str:
    """The last checkpoint of the last run of that name. Raises FileNotFoundError if there is none."""
    root = Path(model_dir)
    runs = (
        sorted(p.name for p in root.iterdir() if p.is_dir() and p.name.startswith(name))
        if root.is_dir()
        else []
    )
    if not runs:
        raise FileNotFoundError(errno.ENOENT, f"Could not find model directory under {model_dir}")
    found = os.path.join(model_dir, runs[-1])  # noqa: PTH118
    files = sorted(p.name for p in Path(found).iterdir() if p.is_file() and p.name.startswith("mask_rcnn"))
    if not files:
        raise FileNotFoundError(errno.ENOENT, f"Could not find weight files in {found}")
    return os.path.join(found, files[-1])  # noqa: PTH118
