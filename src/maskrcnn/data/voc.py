"""PASCAL VOC: index PNGs of objects and classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import write_text
from ..output.files import write_picture
from .dataset import Dataset, Instance, Sample, Samples
from .files import LABELS, class_list, export_pictures, picture_size, pictures_by_stem, read_ids, write_labels
from .findings import Finding
from .outlines import ids_to_masks, outline_box

VOID = 255  # the rim between object and background, which counts as neither
NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def is_voc(folder: Path) -> bool:
    """Whether this folder has VOC's index PNGs."""
    return (folder / "SegmentationObject").is_dir() and (folder / "SegmentationClass").is_dir()


def read_voc(folder: Path, split: str | None) -> Samples:
    """SegmentationObject numbers the instances of an image, SegmentationClass says what they are.

    Names are those of ``class_names.txt`` or ``labels.txt`` (class 1 first, lines in underscores left out), else VOC's
    twenty. ``split`` is a list in ImageSets/Segmentation.
    """
    names = class_list(folder, set()) if any((folder / f).exists() for f in LABELS) else NAMES
    findings: list[Finding] = []
    samples = []
    pictures = pictures_by_stem(folder / "JPEGImages")
    for stem in _stems(folder, split):
        objects = folder / "SegmentationObject" / f"{stem}.png"
        picture = pictures.get(stem, folder / "JPEGImages" / f"{stem}.jpg")
        try:
            ids, classes = read_ids(objects), read_ids(folder / "SegmentationClass" / f"{stem}.png")
        except DataError as error:
            findings.append(Finding("broken mask", str(error), objects, stem, cure="stops"))
            continue
        instances = []
        for number, mask in ids_to_masks(np.where(ids == VOID, 0, ids)).items():
            inside = classes[(ids == number) & (classes != VOID)]
            label = int(np.bincount(inside).argmax()) - 1 if inside.size else -1
            if 0 <= label < len(names):
                instances.append(Instance(label, outline_box(mask), mask, key=f"object {number}"))
            else:
                findings.append(Finding("unknown category", f"want a class 1..{len(names)} in SegmentationClass, got "
                                        f"{label + 1}", objects, f"object {number}", cure="stops"))  # fmt: skip
        samples.append(Sample(stem, picture, picture_size(picture) or ids.shape, tuple(instances),
                              classes=len(names), source=objects))  # fmt: skip
    return Samples(tuple(names), tuple(samples), "voc", folder, tuple(findings))


def write_voc(dataset: Dataset, folder: Path) -> None:
    """JPEGImages, SegmentationObject, SegmentationClass, the list train and the class names.

    A pixel belongs to one instance: the smaller one is on top. Raises DataError for more than 254 instances in an
    image, or classes.
    """
    stems = []
    for sample, file in export_pictures(dataset, folder / "JPEGImages"):
        if max(len(sample.instances), len(dataset.names)) >= VOID:
            got = f"{len(sample.instances)} and {len(dataset.names)}"
            raise DataError(
                f"{file.name}: want at most 254 instances and classes for VOC, got {got}; write coco or masks"
            )
        objects, classes = np.zeros((2, *sample.size), np.uint8)
        dense = [(one.dense(sample.size), one.label) for one in sample.instances]
        for i, (mask, label) in sorted(enumerate(dense, start=1), key=lambda row: -int(row[1][0].sum())):
            objects[mask], classes[mask] = i, label + 1
        write_picture(folder / "SegmentationObject" / f"{file.stem}.png", objects)
        write_picture(folder / "SegmentationClass" / f"{file.stem}.png", classes)
        stems.append(file.stem + "\n")
    write_labels(folder, dataset.names)
    write_text(folder / "ImageSets" / "Segmentation" / "train.txt", "".join(stems))


def _stems(folder: Path, split: str | None) -> list[str]:
    lists = {f.stem: f for f in (folder / "ImageSets" / "Segmentation").glob("*.txt")}
    chosen = lists.get(split or "train")
    if chosen is not None:
        return [line.split()[0] for line in chosen.read_text("utf-8").splitlines() if line.strip()]
    if split is not None:
        raise DataError(
            f"{folder}: want a list ImageSets/Segmentation/{split}.txt, there are: {', '.join(lists) or 'none'}"
        )
    return sorted(f.stem for f in (folder / "SegmentationObject").glob("*.png"))
