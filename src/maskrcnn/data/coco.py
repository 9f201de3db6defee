"""COCO json: polygons, run lengths (plain and compressed), crowds, partial labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Instance, Polygons, Sample, Samples, decode, mask_box
from .files import picture_size
from .findings import Finding


def read_coco(path: Path, content: dict[str, Any]) -> Samples:
    """The content of a COCO annotation file.

    ``annotated_category_ids`` of an image, where given, becomes ``labelled``. Categories are numbered in the
    order of their ids. ``file_name`` is looked for beside the json, above it, and in folders ``images``.
    """
    categories = sorted(content.get("categories", []), key=lambda row: row["id"])
    label_of = {row["id"]: i for i, row in enumerate(categories)}
    findings = list(_duplicates(path, content))
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
    finder = _Finder(path)
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
        box = shape_box(mask)
    if isinstance(mask, list) and not mask:  # a box alone: its rectangle is the mask
        x1, y1, x2, y2 = box
        mask = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    return Instance(label, box, mask, bool(row.get("iscrowd", 0)), record, row.get("area"))


def shape_box(mask: Polygons | dict[str, Any]) -> tuple[float, float, float, float]:
    """xyxy around polygons or run lengths; zeros where there is nothing."""
    if isinstance(mask, dict):
        return mask_box(decode(mask, tuple(mask["size"]))) or (0.0, 0.0, 0.0, 0.0)
    if not sum(map(len, mask)):
        return 0.0, 0.0, 0.0, 0.0
    points = np.concatenate(mask)
    return (*map(float, points.min(0)), *map(float, points.max(0)))  # type: ignore[return-value]


def _size(row: dict[str, Any], file: Path) -> tuple[int, int]:
    if row.get("height") and row.get("width"):
        return int(row["height"]), int(row["width"])
    return picture_size(file) or (0, 0)


def _duplicates(path: Path, content: dict[str, Any]) -> list[Finding]:
    """Ids that are there twice, table by table."""
    found = []
    for table in ("images", "annotations", "categories"):
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


class _Finder:
    """Where a json's pictures are: the folder in which one was found is tried first for the next."""

    def __init__(self, json: Path) -> None:
        beside = json.resolve().parent
        stem = json.stem.removeprefix("instances_")
        self.folders = [
            beside, beside / "images", beside.parent, beside.parent / "images", beside / stem, beside.parent / stem,
            beside / "images" / stem, beside.parent / "images" / stem,
        ]  # fmt: skip

    def __call__(self, name: str) -> Path:
        for i, folder in enumerate(self.folders):
            if (folder / name).is_file():
                self.folders.insert(0, self.folders.pop(i))
                return folder / name
        return self.folders[0] / name
