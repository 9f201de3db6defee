"""Every image and instance is looked at: what training repairs, and what stops it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MaskRCNNError
from ..records import Size
from .dataset import Box, Dataset, Instance, Sample, Samples
from .files import picture_size
from .findings import Cure, Finding
from .outlines import outline_box, polygon_area, rle_area

BOX_MISMATCH = 0.5  # IoU of the annotated box and the mask's below which they are called different
SMALL = 1.0  # pixels: boxes of thinner sides vanish in any resize

Note = Callable[..., None]


@dataclass(frozen=True, eq=False)
class Picture:
    """What one picture file turned out to be.

    size : (h, w), None where it cannot be read; error says why
    mean, square : for each channel over all pixels, 0..255 (16 bit divided by 257, float in 0..1 times 255); None
                   where it was not decoded
    """

    size: Size | None
    error: str = ""
    mean: np.ndarray | None = None
    square: np.ndarray | None = None


def look(samples: Sequence[Sample], decode: bool) -> list[Picture]:
    """Look at the picture of each sample; with ``decode`` all of it, else at the header of its file."""
    with ThreadPoolExecutor() as pool:  # decoding happens outside Python's lock
        return list(pool.map(_decoded if decode else _header, samples))


def check(dataset: Dataset, decode: bool) -> tuple[Samples, tuple[Finding, ...], list[Picture]]:
    """The data set after all safe repairs, what was found, and the pictures of the samples that are left."""
    samples = [dataset[i] for i in range(len(dataset))]
    findings: list[Finding] = list(getattr(dataset, "findings", ()))
    findings += _unique_ids(samples)
    findings += _names(dataset.names)
    pictures = look(samples, decode)
    findings += _same_content(samples)
    kept, seen = [], []
    for sample, picture in zip(samples, pictures, strict=True):
        whole = _check_picture(sample, picture, findings)
        if whole is not None:
            kept.append(check_instances(whole, len(dataset.names), findings))
            seen.append(picture)
    if not kept:
        findings.append(Finding("no pictures", f"want pictures with annotations, got none of {len(samples)} that "
                                "can be read", getattr(dataset, "path", None), cure="stops"))  # fmt: skip
    findings += _counts(dataset.names, kept)
    repaired = Samples(
        dataset.names, tuple(kept), getattr(dataset, "format", ""), getattr(dataset, "path", None)
    )
    return repaired, tuple(findings), seen


def check_instances(sample: Sample, classes: int, findings: list[Finding]) -> Sample:
    """The sample with boxes clipped to the image, and without instances that cannot be learnt from."""
    kept: list[Instance] = []
    seen: dict[Any, list[Instance]] = defaultdict(list)
    for number, one in enumerate(sample.instances):

        def note(
            kind: str, detail: str, key: str, cure: Cure, number: int = number, one: Instance = one
        ) -> None:
            record = f"{sample.name}, {one.key or f'instance {number}'}"
            findings.append(Finding(kind, detail, sample.source, record, key, cure))

        if not 0 <= one.label < classes:
            note("unknown category", f"want a class index below {classes}, got {one.label}", "label", "stops")
            continue
        alike = seen[one.box, one.label, one.crowd]
        if any(_same_mask(one, other) for other in alike):
            note("duplicate instance", "the same box and mask are there before", "", "drops")
            continue
        alike.append(one)
        good = _solid_box(one, sample.size, note)
        whole = None if good is None else _solid_mask(good, sample.size, note)
        if whole is not None:
            kept.append(whole)
    return replace(sample, instances=tuple(kept))


def _header(sample: Sample) -> Picture:
    if not isinstance(sample.image, Path):
        return Picture(sample.image.size)
    if not sample.image.is_file():
        return Picture(None, "there is no such file")
    size = picture_size(sample.image)
    return Picture(size, "" if size else "not a picture, or a damaged one")


def _decoded(sample: Sample) -> Picture:
    if isinstance(sample.image, Path) and not sample.image.is_file():
        return Picture(None, "there is no such file")
    try:
        image = sample.read()
    except MaskRCNNError as error:
        return Picture(None, str(error))
    full = {np.dtype(np.uint8): 1.0, np.dtype(np.uint16): 1 / 257}.get(image.pixels.dtype, 255.0)
    values = image.pixels.reshape(-1, image.pixels.shape[2])
    values = values[:: max(len(values) // 100_000, 1)].astype(np.float64) * full
    return Picture(image.size, mean=values.mean(0), square=(values**2).mean(0))


def _check_picture(sample: Sample, picture: Picture, findings: list[Finding]) -> Sample | None:
    """The sample if its picture can be used. A size that was not annotated is taken from the picture."""
    file = sample.image if isinstance(sample.image, Path) else sample.source
    record = f"image {sample.image_id}"
    if picture.size is None:
        kind = "missing image" if picture.error == "there is no such file" else "broken image"
        findings.append(Finding(kind, f"want a picture, {picture.error}", file, record, "", "drops"))
        return None
    if sample.size == (0, 0):
        return replace(sample, size=picture.size)
    if sample.size != picture.size:
        findings.append(Finding("wrong image size", f"annotated as {_by(sample.size)}, the picture has "
                                f"{_by(picture.size)}: the masks do not lie on it; annotate or export it again",
                                file, record, "width, height", "stops"))  # fmt: skip
    return sample


def _solid_box(one: Instance, size: Size, note: Note) -> Instance | None:
    """The instance with its box inside the image; None where nothing of it is left."""
    x1, y1, x2, y2 = one.box
    said = f"box {_box(one.box)}"
    if not np.isfinite(one.box).all():
        note("degenerate box", f"want numbers, got {said}", "bbox", "drops")
        return None
    if x2 - x1 <= 0 or y2 - y1 <= 0:
        note("degenerate box", f"want x2 > x1 and y2 > y1, got {said}", "bbox", "drops")
        return None
    h, w = size
    box = max(x1, 0.0), max(y1, 0.0), min(x2, float(w)), min(y2, float(h))
    if box[2] <= box[0] or box[3] <= box[1]:
        note("box outside image", f"{said} lies outside {_by(size)}", "bbox", "drops")
        return None
    if min(box[2] - box[0], box[3] - box[1]) < SMALL:
        note("degenerate box", f"want sides of at least a pixel, got {said}", "bbox", "drops")
        return None
    if box == one.box:
        return one
    if max(-x1, -y1, x2 - w, y2 - h) >= SMALL:  # less is rounding
        note("box leaves image", f"{said} leaves {_by(size)}", "bbox", "clips")
    return replace(one, box=box)


def _solid_mask(one: Instance, size: Size, note: Note) -> Instance | None:
    """The instance with those of its polygons that have an area; None where the mask covers nothing. Not decoded."""
    if isinstance(one.mask, dict):
        return one if _solid_runs(one.mask, size, note) else None
    solid = [
        ring for ring in one.mask if len(ring) > 2 and np.isfinite(ring).all() and polygon_area(ring) > 0
    ]
    short = [len(ring) for ring in one.mask if len(ring) < 3]
    if short:
        note("short polygon", f"want 3 points or more, got {short[0]}", "segmentation", "drops")
    if not solid:
        if not short:
            note("empty mask", "the polygon has no area", "segmentation", "drops")
        return None
    (x1, y1, x2, y2), (h, w) = outline_box(solid), size
    around = max(x1, 0.0), max(y1, 0.0), min(x2, float(w)), min(y2, float(h))
    if around[2] <= around[0] or around[3] <= around[1]:
        note("mask outside image", f"the polygon lies outside {_by(size)}", "segmentation", "drops")
        return None
    if not one.crowd and _iou(around, one.box) < BOX_MISMATCH:
        note("box is not the mask's", f"box {_box(one.box)}, but the mask spans {_box(around)}; "
             "COCO boxes are x, y, width, height", "bbox", "none")  # fmt: skip
    return one if len(solid) == len(one.mask) else replace(one, mask=solid)


def _solid_runs(mask: dict[str, Any], size: Size, note: Note) -> bool:
    """Whether run lengths fit the image and cover something."""
    h, w = size
    counts = mask["counts"]
    if tuple(mask["size"]) != (h, w):
        note(
            "wrong mask size",
            f"want run lengths of {_by(size)}, got {_by(mask['size'])}",
            "segmentation",
            "stops",
        )
    elif isinstance(counts, list) and sum(counts) != h * w:
        note(
            "wrong mask size",
            f"want run lengths of {h * w} pixels in all, got {sum(counts)}",
            "segmentation",
            "stops",
        )
    elif rle_area(mask) == 0:
        note("empty mask", "the run lengths cover no pixel", "segmentation", "drops")
    else:
        return True
    return False


def _same_mask(one: Instance, other: Instance) -> bool:
    if isinstance(one.mask, dict) or isinstance(other.mask, dict):
        return type(one.mask) is type(other.mask) and one.mask == other.mask
    return len(one.mask) == len(other.mask) and all(map(np.array_equal, one.mask, other.mask))


def _unique_ids(samples: Iterable[Sample]) -> list[Finding]:
    """Two samples of one id: evaluation would mix them up."""
    seen: dict[Any, Sample] = {}
    found = []
    for sample in samples:
        if sample.image_id in seen:
            found.append(Finding("duplicate id", "want each id once", sample.source, f"image {sample.image_id}",
                                 "id", "stops"))  # fmt: skip
        seen[sample.image_id] = sample
    return found


def _names(names: Sequence[str]) -> list[Finding]:
    counts = Counter(names)
    return [
        Finding("duplicate class name", f"{name!r} is there {n} times", key="name")
        for name, n in counts.items()
        if n > 1
    ]


def _same_content(samples: Sequence[Sample]) -> list[Finding]:
    """Files of the same bytes, perhaps under other names; only files of one length are read."""
    by_length: dict[int, set[Path]] = defaultdict(set)
    for sample in samples:
        if isinstance(sample.image, Path) and sample.image.is_file():
            by_length[sample.image.stat().st_size].add(sample.image)
    first: dict[bytes, Path] = {}
    found = []
    for files in by_length.values():
        for file in sorted(files) if len(files) > 1 else ():
            digest = hashlib.blake2b(file.read_bytes()).digest()
            if digest in first:
                found.append(Finding("duplicate image", f"the same picture as {first[digest].name}; in two splits, it "
                                     "makes validation too good", file))  # fmt: skip
            first.setdefault(digest, file)
    return found


def _counts(names: Sequence[str], samples: Sequence[Sample]) -> list[Finding]:
    found = [
        Finding("empty image", "no instance: learnt from as background", s.source, f"image {s.name}")
        for s in samples if not s.instances
    ]  # fmt: skip
    used = {one.label for s in samples for one in s.instances}
    if samples and not used:
        found.append(Finding("no objects", "want objects to learn, got pictures only; annotate them, or name the file "
                             "with the annotations", samples[0].source, cure="stops"))  # fmt: skip
    return found + [
        Finding("class without instances", f"nothing is labelled {name!r}: it cannot be learnt", key="names")
        for i, name in enumerate(names) if i not in used
    ]  # fmt: skip


def _iou(a: Box, b: Box) -> float:
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def _by(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


def _box(box: Box) -> str:
    return ", ".join(f"{v:.6g}" for v in box)
