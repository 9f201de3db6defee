"""COCO json: polygons, run lengths (plain and compressed), crowds, partial labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..output import coco_categories
from ..records import Size
from .dataset import Dataset, Instance, Polygons, Sample, Samples
from .files import PictureFinder, export_pictures, picture_size, write_json
from .findings import Finding
from .outlines import outline_box, rectangle, run_lengths


def read_coco(path: Path, content: dict[str, Any]) -> Samples:
    """The content of a COCO annotation file.

    ``annotated_category_ids`` of an image, where given, becomes ``labelled``. Categories are numbered in the
    order of their ids. ``file_name`` is looked for beside the json, above it, and in folders ``images``.
    """
    for table, needs in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for i, row in enumerate(content[table]):
            if not all(key in row for key in needs):
                raise DataError(
                    f"{path}: want {' and '.join(needs)} in every row of {table}, got {row} in row {i}"
                )
    categories = sorted(content["categories"], key=lambda row: row["id"])
    label_of = {row["id"]: i for i, row in enumerate(categories)}
    findings = _duplicates(path, content)
    ids = [row["id"] for row in categories]
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        findings.append(Finding("class gaps", f"category ids {ids[0]}..{ids[-1]} have gaps; they are numbered by place",
                                path, "categories", "id"))  # fmt: skip
    known = {row["id"] for row in content["images"]}
    rows: dict[Any, list[Instance]] = defaultdict(list)
    sizes = {row["id"]: (row.get("height"), row.get("width")) for row in content["images"]}
    for i, row in enumerate(content.get("annotations", [])):
        record = f"annotations id {row.get('id', f'[{i}]')}"
        if row.get("image_id") not in known:
            findings.append(Finding("annotation without image", f"no image has id {row.get('image_id')!r}",
                                    path, record, "image_id", "drops"))  # fmt: skip
        elif row.get("category_id") not in label_of:
            findings.append(Finding("unknown category", f"no category has id {row.get('category_id')!r}; add it",
                                    path, record, "category_id", "stops"))  # fmt: skip
        else:
            rows[row["image_id"]].append(_instance(row, label_of[row["category_id"]], record, sizes))
    finder = PictureFinder(path.resolve().parent, path.stem.removeprefix("instances_"))
    samples = []
    for row in content["images"]:
        file = finder(row["file_name"])
        labelled = row.get("annotated_category_ids")
        samples.append(Sample(
            row["id"], file, _size(row, file), tuple(rows[row["id"]]),
            None if labelled is None else frozenset(label_of[c] for c in labelled if c in label_of),
            len(categories), path,
        ))  # fmt: skip
    return Samples(tuple(row["name"] for row in categories), tuple(samples), "coco", path, tuple(findings),
                   tuple(label_of))  # fmt: skip


def _instance(row: dict[str, Any], label: int, record: str, sizes: dict[Any, tuple[Any, Any]]) -> Instance:
    shape = row.get("segmentation") or []
    mask: Polygons | dict[str, Any] = shape
    if isinstance(shape, list):
        mask = [np.array(ring[: len(ring) // 2 * 2], np.float64).reshape(-1, 2) for ring in shape]
    if row.get("bbox"):
        x, y, w, h = map(float, row["bbox"])
        box = x, y, x + w, y + h
    else:
        box = outline_box(mask)
    if isinstance(mask, list) and not mask:  # a box alone: its rectangle is the mask
        mask = [rectangle(*box)]
    return Instance(label, box, mask, bool(row.get("iscrowd", 0)), record, row.get("area"))


def is_coco(content: Any) -> bool:
    """Whether this json is a COCO file of instances (captions have no categories)."""
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "categories" in content


def _size(row: dict[str, Any], file: Path) -> tuple[int, int]:
    if row.get("height") and row.get("width"):
        return int(row["height"]), int(row["width"])
    return picture_size(file) or (0, 0)


def _duplicates(path: Path, content: dict[str, Any]) -> list[Finding]:
    """Ids that are there twice; those of images are looked at by `check`."""
    found = []
    for table in ("annotations", "categories"):
        counts = Counter(row.get("id") for row in content.get(table, []))
        cure = (
            "none" if table == "annotations" else "stops"
        )  # only the ids of annotations are never referred to
        found += [
            Finding("duplicate id", f"want each id once, got {n} times; renumber them", path, f"{table} id {key}",
                    "id", cure)  # type: ignore[arg-type]
            for key, n in counts.items() if n > 1 and key is not None
        ]  # fmt: skip
    return found


def write_coco(dataset: Dataset, folder: Path) -> None:
    """annotations.json and images; nothing is lost. Reads in pycocotools and everything that uses it."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (sample, file) in enumerate(export_pictures(dataset, folder / "images"), start=1):
        image_id = sample.image_id if isinstance(sample.image_id, int) else i
        h, w = sample.size
        partial = (
            {}
            if sample.labelled is None
            else {"annotated_category_ids": [c + 1 for c in sorted(sample.labelled)]}
        )
        images.append({"id": image_id, "file_name": file.name, "height": h, "width": w, **partial})
        for one in sample.instances:
            x1, y1, x2, y2 = one.box
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": one.label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(one.dense(sample.size).sum()),
                "iscrowd": int(one.crowd), "segmentation": _segmentation(one, sample.size),
            })  # fmt: skip
    tables = {"images": images, "categories": coco_categories(dataset.names), "annotations": annotations}
    write_json(folder / "annotations.json", tables)


def _segmentation(one: Instance, size: Size) -> Any:
    if isinstance(one.mask, dict):
        counts = one.mask["counts"]
        return {**one.mask, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
    # pycocotools wants run lengths for crowds
    return run_lengths(one.dense(size)) if one.crowd else [ring.reshape(-1).tolist() for ring in one.mask]
