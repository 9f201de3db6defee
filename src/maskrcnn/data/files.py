"""Annotation files and pictures on disk: json, splits, image sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..errors import ConfigError, ImageError
from ..records import Size

_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter


def read_json(path: Path) -> Any:
    """The content of a json file. Raises ConfigError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: want json, got {error}") from error


def picture_size(path: Path) -> Size | None:
    """(h, w) of the upright picture, from the header of its file; None where it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            h, w, *_ = np.load(path, mmap_mode="r").shape
            return h, w
        with PIL.Image.open(path) as opened:
            w, h = opened.size
            return (w, h) if opened.getexif().get(274) in _SWAPPED else (h, w)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        pass
    try:  # what Pillow does not know, such as TIFF of many bands
        from ..inputs import read

        return read(path).size
    except (ImageError, OSError):
        return None


def split_of(name: str) -> str | None:
    """The split that a file or folder is named after: train, val or test."""
    words = re.findall(r"train|valid|val|test", name.lower())
    return {"valid": "val"}.get(words[-1], words[-1]) if words else None


def pick_split(paths: Sequence[Path], split: str | None, where: Path) -> Path:
    """The one file or folder of the wanted split; without a wish, train.

    Raises ConfigError where there is none, or more than one.
    """
    wanted = split or "train"
    fits = [
        p for p in paths if split_of(p.name) == split_of(wanted) and (split_of(wanted) or wanted in p.stem)
    ]
    if len(fits) == 1:
        return fits[0]
    if len(paths) == 1 and split is None:
        return paths[0]
    raise ConfigError(
        f"{where}: want one annotation for split {wanted!r}, got {len(fits)} among "
        f"{', '.join(p.name for p in paths)}; name the file itself, or another split"
    )
