"""Annotated pictures, whatever format they are stored in.

A `Dataset` of your own needs ``names``, ``__len__`` and ``__getitem__``; `Samples` holds any list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ..errors import DataError
from ..records import Image, Size, Target
from .findings import Finding

Polygons = list[np.ndarray]
Mask = Polygons | dict[str, Any]  # or COCO run lengths
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Instance:
    """One annotated object, in pixels of its image.

    label : index into the data set's ``names``
    box   : xyxy float, x2 and y2 exclusive, as annotated: it may have no area or leave the image, see `repair`
    mask  : polygons, each (k, 2) x, y, of which the mask is the union; or COCO run lengths
            ``{"size": [h, w], "counts": list, str or bytes}``. Decoded when asked for
    crowd : a region of many objects that are not told apart
    key   : where it stands in its annotation file, for messages
    area  : pixels, as annotated; None takes those of the mask. COCO's evaluation sorts objects by it
    """

    label: int
    box: Box
    mask: Polygons | dict[str, Any] = field(repr=False)
    crowd: bool = False
    key: str = ""
    area: float | None = None

    def dense(self, size: Size) -> np.ndarray:
        """(h, w) bool of an image of that size, by the rasteriser of pycocotools; outside is cut off.

        Raises DataError for run lengths of another size.
        """
        return decode(self.mask, size, self.key)


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated picture.

    image_id  : as in the annotation file, unique in the data set
    image     : its file, or the picture itself
    size      : (h, w), as annotated where the format says it
    instances : the objects, crowds among them
    labelled  : the classes annotated in this image, as indices; objects of other classes may be visible without
                an annotation. None: all classes
    classes   : how many classes the data set has; needed where ``labelled`` is given
    source    : the annotation file that it comes from
    """

    image_id: int | str
    image: Path | Image
    size: Size
    instances: tuple[Instance, ...]
    labelled: frozenset[int] | None = None
    classes: int = 0
    source: Path | None = None

    @property
    def name(self) -> str:
        """The name of its file, or its id."""
        path = self.image if isinstance(self.image, Path) else self.image.source
        return path.name if path is not None else str(self.image_id)

    def read(self) -> Image:
        """The picture, upright. Raises ImageError where it cannot be read."""
        from ..inputs import read

        return read(self.image)

    def target(self) -> Target:
        """What training wants. Crowds are no instances: only their boxes are there, as ``crowds``.

        Raises ShapeError for boxes without area (`repair` drops them).
        """
        single = [one for one in self.instances if not one.crowd]
        masks = np.zeros((len(single), *self.size), bool)
        for row, one in zip(masks, single, strict=True):
            row[:] = one.dense(self.size)
        crowds = [one.box for one in self.instances if one.crowd]
        return Target(
            torch.tensor([one.box for one in single], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([one.label for one in single], dtype=torch.int64),
            torch.from_numpy(masks),
            torch.tensor(crowds, dtype=torch.float32).reshape(-1, 4),
            self._labelled(),
        )

    def _labelled(self) -> torch.Tensor | None:
        if self.labelled is None:
            return None
        if self.labelled and max(self.labelled) >= self.classes:
            raise DataError(
                f"{self.name}: want class indices below {self.classes} in labelled, got {max(self.labelled)}; "
                "set Sample.classes to the number of classes"
            )
        flags = torch.zeros(self.classes, dtype=torch.bool)
        flags[list(self.labelled)] = True
        return flags


class Dataset(Protocol):
    """What training and evaluation read: class names (background not among them) and samples."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes; their place is the number of the class."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


@dataclass(frozen=True, eq=False)
class Samples:
    """A `Dataset` in memory; pictures and masks stay in their files until they are asked for.

    format   : the format it was read from
    path     : the file or folder it was read from
    findings : what was wrong in the annotation files themselves, see `doctor`
    category_ids : the number of each class in its annotation files, which results files use too
    """

    names: tuple[str, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    format: str = ""
    path: Path | None = None
    findings: tuple[Finding, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int, /) -> Sample:
        return self.samples[i]


def decode(mask: Polygons | dict[str, Any], size: Size, key: str = "") -> np.ndarray:
    """Polygons or COCO run lengths as (h, w) bool. Polygons of fewer than three points cover nothing."""
    h, w = size
    if isinstance(mask, dict):
        if tuple(mask["size"]) != (h, w):
            raise DataError(f"{key}: want run lengths of size {[h, w]}, got {list(mask['size'])}")
        rle = coco_mask.frPyObjects(mask, h, w) if isinstance(mask["counts"], list) else mask
        try:
            return coco_mask.decode(rle).astype(bool)
        except ValueError as error:
            raise DataError(
                f"{key}: want COCO run lengths, got some that cannot be decoded ({error})"
            ) from error
    rings = [ring.astype(np.float64).reshape(-1).tolist() for ring in mask if len(ring) > 2]
    if not rings:
        return np.zeros((h, w), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, h, w))).astype(bool)


def mask_box(mask: np.ndarray) -> Box | None:
    """xyxy of the pixels of a (h, w) mask, ends exclusive; None where it has none."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def open_dataset(path: str | Path, split: str | None = None) -> Dataset:
    """Read a data set; its format is recognised from its content.

    path  : an annotation file, or a folder
    split : ``train``, ``val``, ``test`` or another, where the folder holds several; None takes ``train`` if
            there is one, and everything where there are none

    Formats: COCO json, VIA 1.x and 2.x json, a folder of LabelMe json, YOLO segmentation (data.yaml), PASCAL
    VOC, instance PNGs (PNGImages and PedMasks, or a folder ``images`` and ``masks`` for each picture).
    Raises DataError where nothing known is found, or the split is not there.
    """
    from .recognise import recognise

    return recognise(Path(path).expanduser(), split)


def relabel(dataset: Dataset, names: Sequence[str]) -> Samples:
    """The same data set with labels by another list of names, such as a model's.

    Instances of classes that are not in ``names`` are left out. Classes of ``names`` that this data set does not
    have become unlabelled in each of its images: nothing there counts as their background.
    """
    place = {name: i for i, name in enumerate(names)}
    to = {i: place[name] for i, name in enumerate(dataset.names) if name in place}
    complete = len(set(to.values())) == len(names)
    samples = []
    for i in range(len(dataset)):
        sample = dataset[i]
        labelled = to.keys() if sample.labelled is None else to.keys() & sample.labelled
        samples.append(replace(
            sample,
            instances=tuple(replace(one, label=to[one.label]) for one in sample.instances if one.label in to),
            labelled=None if complete and sample.labelled is None else frozenset(to[c] for c in labelled),
            classes=len(names),
        ))  # fmt: skip
    found = getattr(dataset, "findings", ())
    return Samples(
        tuple(names), tuple(samples), getattr(dataset, "format", ""), getattr(dataset, "path", None), found
    )


def join(datasets: Sequence[Dataset]) -> Samples:
    """Several data sets as one, with the classes of all; no image is background for classes that its data set lacks.

    Image ids become ``number/id``, since those of different data sets may be equal.
    """
    names = tuple(dict.fromkeys(name for one in datasets for name in one.names))
    parts = [relabel(one, names) for one in datasets]
    samples = [replace(s, image_id=f"{i}/{s.image_id}") for i, part in enumerate(parts) for s in part.samples]
    return Samples(names, tuple(samples), findings=tuple(f for part in parts for f in part.findings))
