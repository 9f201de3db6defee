"""A data set in another format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from .coco import write_coco
from .dataset import Dataset, Samples
from .findings import Finding
from .labelme import write_labelme
from .masks import write_masks
from .via import write_via
from .voc import write_voc
from .yolo import write_yolo

FORMATS: dict[str, Callable[[Dataset, Path], None]] = {
    "coco": write_coco, "via": write_via, "labelme": write_labelme, "yolo": write_yolo, "voc": write_voc,
    "masks": write_masks,
}  # fmt: skip


def write_dataset(dataset: Dataset, path: str | Path, format: str) -> tuple[Finding, ...]:
    """Write pictures and annotations into a new folder, which `open_dataset` reads again.

    format : coco, via, labelme, yolo, voc or masks
    Pictures are copied as they are. Returns what the format cannot say and is therefore lost: crowds are left
    out, and partial labels become full ones, except in coco.
    Raises DataError for an unknown format, a folder with something in it, or a missing picture.
    """
    folder = Path(path)
    if format not in FORMATS:
        raise DataError(f"format: want one of {', '.join(FORMATS)}, got {format!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: want a new or empty folder, got one with files; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    lost: list[Finding] = []
    if format != "coco":
        dataset, lost = _plain(dataset, format)
    FORMATS[format](dataset, folder)
    return tuple(lost)


def _plain(dataset: Dataset, format: str) -> tuple[Dataset, list[Finding]]:
    """Without crowds and partial labels, and how many there were."""
    samples = [dataset[i] for i in range(len(dataset))]
    crowds = sum(one.crowd for sample in samples for one in sample.instances)
    partial = sum(
        sample.labelled is not None and len(sample.labelled) < len(dataset.names) for sample in samples
    )
    lost = []
    if crowds:
        lost.append(Finding("crowds left out", f"{format} has no crowds: {crowds} are left out"))
    if partial:
        detail = (
            f"{format} cannot say which classes are labelled: {partial} images will count as labelled in full"
        )
        lost.append(Finding("partial labels lost", detail))
    plain = [
        replace(s, labelled=None, instances=tuple(i for i in s.instances if not i.crowd)) for s in samples
    ]
    return Samples(dataset.names, tuple(plain)), lost
