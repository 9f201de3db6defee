"""Annotation files and pictures on disk: json, splits, image sizes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..errors import DataError, ImageError
from ..files import write_text
from ..inputs.sources import SUFFIXES
from ..output.files import write_picture
from ..records import Size
from .dataset import Dataset, Sample

LABELS = ("labels.txt", "class_names.txt", "classes.txt")
_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that turn the picture by a quarter


def read_json(path: Path) -> Any:
    """The content of a json file. Raises DataError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: want json, got {error}") from error


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
    """The split that a file or folder is named after: train, val, test or trainval."""
    words = re.findall(r"(?<![a-z])(trainval|train|valid|val|test)", name.lower())
    return {"valid": "val"}.get(words[-1], words[-1]) if words else None


def pick_split(paths: Sequence[Path], split: str | None, where: Path) -> Path:
    """The one file or folder of the wanted split; without a wish, train.

    Raises DataError where there is none, or more than one.
    """
    wanted = split or "train"
    fits = [
        p for p in paths if split_of(p.name) == split_of(wanted) and (split_of(wanted) or wanted in p.stem)
    ]
    if len(fits) == 1:
        return fits[0]
    if len(paths) == 1 and split is None:
        return paths[0]
    raise DataError(
        f"{where}: want one annotation for split {wanted!r}, got {len(fits)} among "
        f"{', '.join(p.name for p in paths)}; name the file itself, or another split"
    )


def class_list(folder: Path, used: Iterable[str], options: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names in a stated order, ``options`` or the lines of a ``labels.txt`` in the folder or above it, then the
    rest of ``used`` by name. Lines in underscores, such as ``_background_``, are no classes."""
    listed = list(options)
    if not listed:
        file = next(
            (d / name for d in (folder, folder.parent) for name in LABELS if (d / name).is_file()), None
        )
        rows = file.read_text("utf-8").splitlines() if file is not None else []
        listed = [row.strip() for row in rows if row.strip() and not re.fullmatch(r"_+\w+_+", row.strip())]
    return tuple(dict.fromkeys((*listed, *sorted(used))))


def write_labels(folder: Path, names: Sequence[str]) -> None:
    """The class names, one a line, for formats that have no list of their own."""
    write_text(folder / LABELS[0], "".join(f"{name}\n" for name in names))


def write_json(path: Path, content: Any) -> None:
    """Write one json file, whole or not at all."""
    write_text(path, json.dumps(content))


class PictureFinder:
    """Where the pictures of an annotation file are: beside it, in ``images``, above it, in folders of the split's name.

    The folder in which one was found is tried first for the next.
    """

    def __init__(self, folder: Path, split: str = "") -> None:
        here = [folder, folder / "images", folder.parent, folder.parent / "images"]
        self.folders = here + [home / split for home in here if split]

    def __call__(self, name: str) -> Path:
        """The picture's file; where there is none, the place where it should be."""
        name = name.replace("\\", "/")
        for i, folder in enumerate(self.folders):
            if (folder / name).is_file():
                self.folders.insert(0, self.folders.pop(i))
                return folder / name
        bare = self.folders[0] / name.rpartition("/")[2]
        return bare if bare.is_file() else self.folders[0] / name


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The picture files of a folder under their names without ending, in order."""
    if not folder.is_dir():
        return {}
    return {f.stem: f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix.lower() in SUFFIXES}


def read_ids(file: Path, colours: bool = True) -> np.ndarray:
    """(h, w) numbers of a mask file: grey values, palette indices, or one number for each colour (black is 0).

    Raises DataError for a file that cannot be read or, without ``colours``, has several channels.
    """
    try:
        with PIL.Image.open(file) as opened:
            ids = np.asarray(opened.convert("L") if opened.mode in ("1", "LA") else opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file}: want a mask picture, got one that cannot be read ({error})") from error
    if ids.ndim == 2:
        return ids
    if not colours:
        raise DataError(f"{file}: want one channel, got {ids.shape[2]}")
    visible = ids[..., 3] > 0 if ids.shape[2] == 4 else True
    return np.where(visible, ids[..., :3].astype(np.int64) @ (1, 256, 65536), 0)


def export_pictures(dataset: Dataset, folder: Path, apart: bool = False) -> Iterator[tuple[Sample, Path]]:
    """Copy each picture into the folder as it comes, under a name of its own; pictures in memory become PNG.

    apart : each goes to STEM/images inside the folder
    Stems differ from each other, since annotations are stored by stem. Raises DataError for a missing picture.
    """
    taken: set[str] = set()
    for i in range(len(dataset)):
        sample = dataset[i]
        source = sample.image if isinstance(sample.image, Path) else None
        suffix = source.suffix if source is not None else ".png"
        stem = Path(sample.name).stem if Path(sample.name).suffix.lower() in SUFFIXES else sample.name
        stem = re.sub(r"[^\w.-]+", "_", stem)
        while stem.lower() in taken:
            stem = f"{stem}_{i}"
        taken.add(stem.lower())
        target = (folder / stem / "images" if apart else folder) / (stem + suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            write_picture(target, sample.read().pixels)
        elif not source.is_file():
            raise DataError(
                f"{source}: want the picture of {sample.image_id!r}, there is none; repair the data first"
            )
        else:
            shutil.copyfile(source, target)
        yield sample, target
