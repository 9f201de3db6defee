"""Results as parquet: one row a picture, its instances in a list, masks as COCO run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..output import coco_categories, encode_crop
from ..output.coco import write_tables
from ..records import Result
from .place import Place

_INSTANCE = pa.struct([
    ("label", pa.int32()),
    ("name", pa.string()),
    ("score", pa.float32()),
    ("box", pa.list_(pa.float32(), 4)),
    ("area", pa.int64()),
    ("counts", pa.string()),
])  # fmt: skip
SCHEMA = pa.schema([
    ("image_id", pa.int64()),
    ("file_name", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("error", pa.string()),
    ("instances", pa.list_(_INSTANCE)),
])  # fmt: skip


def row_of(image_id: int, name: str, outcome: Result | Exception) -> dict[str, Any]:
    """One picture's row.

    box    : xyxy float pixels of the picture, x2 and y2 exclusive
    area   : pixels of the mask
    counts : COCO run lengths; with ``size`` [height, width] pycocotools reads them
    error  : why there is no result, else null; then height and width are null
    """
    row = {"image_id": image_id, "file_name": name, "height": None, "width": None, "instances": []}
    if not isinstance(outcome, Result):
        return row | {"error": str(outcome)}
    instances = []
    for i, label in enumerate(outcome.labels.tolist()):
        crop, corner = outcome.crop(i)
        instances.append({
            "label": label, "name": outcome.names[label], "score": float(outcome.scores[i]),
            "box": outcome.boxes[i].tolist(), "area": int(crop.sum()),
            "counts": encode_crop(crop, corner, outcome.size)["counts"],
        })  # fmt: skip
    height, width = outcome.size
    return row | {"height": height, "width": width, "error": None, "instances": instances}


def write_part(place: Place, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """One shard's rows, whole or not at all; the footer has the class names and how many pictures failed."""
    failed = sum(row["error"] is not None for row in rows)
    told = {"maskrcnn.names": json.dumps(list(names)), "maskrcnn.failed": str(failed)}
    table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata(told))
    with place.writing() as path:
        pq.write_table(table, path, compression="zstd")


def read_part(place: Place) -> list[dict[str, Any]]:
    """The rows of a part."""
    return pq.read_table(place.path, filesystem=place.system).to_pylist()


def tally(place: Place) -> tuple[int, int]:
    """How many pictures a part has, and how many of them failed; only its footer is read."""
    footer = pq.read_metadata(place.path, filesystem=place.system)
    return footer.num_rows, int((footer.metadata or {}).get(b"maskrcnn.failed", b"0"))


def write_results_json(place: Place, parts: Iterable[Place], names: Sequence[str]) -> None:
    """All parts as one COCO file; pictures without a result are left out, as `jobs.predict_files` does."""
    parts = list(parts)

    def rows() -> Iterator[dict[str, Any]]:
        return (row for part in parts for row in read_part(part) if row["error"] is None)

    with place.writing() as path, path.open("w", encoding="utf-8") as out:
        write_tables(out, coco_categories(names), _annotations(rows()), _images(rows()))


def _images(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {
            "id": row["image_id"],
            "file_name": row["file_name"],
            "width": row["width"],
            "height": row["height"],
        }


def _annotations(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    number = 0
    for row in rows:
        for one in row["instances"]:
            number += 1
            x1, y1, x2, y2 = one["box"]
            rle = {"size": [row["height"], row["width"]], "counts": one["counts"]}
            yield {"id": number, "image_id": row["image_id"], "category_id": one["label"] + 1,
                   "bbox": [x1, y1, x2 - x1, y2 - y1], "score": one["score"], "segmentation": rle,
                   "area": one["area"], "iscrowd": 0}  # fmt: skip
