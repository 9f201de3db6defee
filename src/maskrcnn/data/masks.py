"""Instances as PNGs: one numbered map for each picture, or one mask for each instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from ..errors import DataError
from ..inputs.sources import SUFFIXES
from ..output.files import write_picture
from .dataset import Dataset, Instance, Sample, Samples
from .files import class_list, export_pictures, picture_size, pictures_by_stem, read_ids, write_labels
from .findings import Finding
from .outlines import ids_to_masks, outline_box, run_lengths

NO_CLASS = "object"


def id_mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """The two folders of pictures and of their instance maps (as PNGImages and PedMasks), if there are such.

    Maps are PNGs of one channel, each named after its picture, perhaps with an ending such as ``_mask``.
    """
    below = [d for d in sorted(folder.iterdir()) if d.is_dir()]
    first = {d: pictures_by_stem(d) for d in below}
    for maps in below:
        stems = first[maps]
        if not stems or any(f.suffix.lower() != ".png" for f in stems.values()):
            continue
        for pictures in below:
            fits = pictures != maps and first[pictures] and all(_partner(s, first[pictures]) for s in stems)
            if fits and all(_is_map(f, first[pictures]) for f in list(stems.values())[:3]):
                return pictures, maps
    return None


def read_id_masks(pictures: Path, maps: Path) -> Samples:
    """Every number but 0 in a map is one instance; there is one class, called object (or the one of labels.txt)."""
    files = pictures_by_stem(pictures)
    names = class_list(pictures.parent, set()) or (NO_CLASS,)
    map_of = {_partner(stem, files): file for stem, file in pictures_by_stem(maps).items()}
    findings: list[Finding] = []
    samples = []
    for stem, picture in files.items():
        instances: tuple[Instance, ...] = ()
        if stem in map_of:
            try:
                found = ids_to_masks(read_ids(map_of[stem]))
            except DataError as error:
                findings.append(Finding("broken mask", str(error), map_of[stem], stem, cure="stops"))
                continue
            instances = tuple(Instance(0, outline_box(m), m, key=f"number {n}") for n, m in found.items())
        samples.append(Sample(stem, picture, picture_size(picture) or (0, 0), instances,
                              classes=len(names), source=map_of.get(stem)))  # fmt: skip
    return Samples(names[:1], tuple(samples), "id masks", pictures.parent, tuple(findings))


def mask_folders(folder: Path) -> Iterator[Path]:
    """Folders with ``images`` and ``masks`` inside, one for each picture (Data Science Bowl 2018)."""
    for below in sorted(folder.iterdir()):
        if below.is_dir() and (below / "images").is_dir() and len(pictures_by_stem(below / "images")) == 1:
            yield below


def read_masks(folder: Path) -> Samples:
    """One folder a picture: ``images`` has the picture, ``masks`` a PNG for each instance, not 0 inside.

    Masks in a subfolder of ``masks`` are of the class that it is named after; others are called object.
    """
    found = {below: _mask_files(below / "masks") for below in mask_folders(folder)}
    names = class_list(folder, {name for files in found.values() for _, name in files})
    findings: list[Finding] = []
    samples = []
    for below, files in found.items():
        picture = next(iter(pictures_by_stem(below / "images").values()))
        instances = []
        for file, name in files:
            try:
                mask = run_lengths(read_ids(file) > 0)
            except DataError as error:
                findings.append(Finding("broken mask", str(error), file, below.name, cure="stops"))
                continue
            instances.append(Instance(names.index(name), outline_box(mask), mask, key=file.name))
        samples.append(Sample(below.name, picture, picture_size(picture) or (0, 0), tuple(instances),
                              classes=len(names), source=below / "masks"))  # fmt: skip
    return Samples(names, tuple(samples), "masks", folder, tuple(findings))


def write_masks(dataset: Dataset, folder: Path) -> None:
    """One folder a picture: ``images`` with the picture, ``masks/CLASS`` with a 0/255 PNG for each instance."""
    write_labels(folder, dataset.names)
    for sample, file in export_pictures(dataset, folder, apart=True):
        masks = file.parent.parent / "masks"
        masks.mkdir()
        for i, one in enumerate(sample.instances):
            home = masks / quote(dataset.names[one.label], safe=" ")
            write_picture(home / f"{i:04d}.png", one.dense(sample.size).astype(np.uint8) * 255)


def _mask_files(folder: Path) -> list[tuple[Path, str]]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    return [(f, NO_CLASS if f.parent == folder else unquote(f.parent.name)) for f in files]


def _partner(stem: str, pictures: dict[str, Path]) -> str | None:
    """The picture that a map belongs to: of the same name, or of its beginning up to an underscore."""
    if stem in pictures:
        return stem
    cut = stem.rpartition("_")[0]
    return cut if cut in pictures else None


def _is_map(file: Path, pictures: dict[str, Path]) -> bool:
    """Numbers of instances: one channel with 0 among its values, and fewer of them than the picture has."""
    try:
        numbers = np.unique(read_ids(file, colours=False))
        seen = np.unique(read_ids(pictures[_partner(file.stem, pictures) or ""]))
    except DataError:
        return False
    return 0 in numbers and len(numbers) < len(seen)
