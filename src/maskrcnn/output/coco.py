"""COCO: results as a list, and a results.json that stands alone.

``pycocotools.coco.COCO("results.json")`` loads the file as it is; its ``annotations`` are also what
``loadRes`` takes. Category ids are 1..K in the order of the class names, boxes are x, y, width, height.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import ConfigError
from ..files import replacing
from ..records import Result


def to_coco(result: Result, image_id: int = 1) -> list[dict[str, Any]]:
    """COCO results of one image: image_id, category_id, bbox (xywh pixels), score and segmentation (RLE)."""
    boxes = zip(
        result.boxes.tolist(), result.labels.tolist(), result.scores.tolist(), result.rle(), strict=True
    )
    return [
        {
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "segmentation": rle,
        }
        for (x1, y1, x2, y2), label, score, rle in boxes
    ]


def coco_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The categories table: ids 1..K in the order of the names."""
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)]


def coco_image(result: Result, image_id: int = 1, file_name: str | None = None) -> dict[str, Any]:
    """One row of the images table; without ``file_name`` the name of the file that the picture came from."""
    height, width = result.size
    if file_name is None:
        source = source_of(result)
        file_name = source.name if source is not None else ""
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def coco_annotations(result: Result, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
    """Rows of the annotations table: `to_coco` with id (from ``first_id``), area (mask pixels), iscrowd."""
    rows = to_coco(result, image_id)
    return [
        {"id": first_id + i, **row, "area": int(result.crop(i)[0].sum()), "iscrowd": 0}
        for i, row in enumerate(rows)
    ]


def coco_file(result: Result, image_id: int = 1, file_name: str | None = None) -> dict[str, Any]:
    """The whole results.json of one image."""
    return {
        "images": [coco_image(result, image_id, file_name)],
        "categories": coco_categories(result.names),
        "annotations": coco_annotations(result, image_id),
    }


def source_of(result: Result) -> Path | None:
    """The file that the picture came from, if any."""
    return result.image if result.image is None or isinstance(result.image, Path) else result.image.source


class CocoWriter:
    """Writes one results.json for any number of images, holding one at a time.

    Every image goes at once, as one line, into a journal beside the file (``results.json.partial``); leaving
    the ``with`` block, also by an error or Ctrl-C, turns the journal into results.json. With ``resume`` the
    images of an earlier run, finished or killed, are kept, and ``done`` has their names.

        with CocoWriter(out / "results.json", model.names, resume=True) as writer:
            for path in paths:
                if path.name not in writer.done:
                    writer.add(model.predict(path), path.name)

    Raises ConfigError if it is to resume a file of other classes.
    """

    def __init__(self, path: str | Path, names: Sequence[str], resume: bool = False) -> None:
        self.path = Path(path)
        self.journal = self.path.with_name(self.path.name + ".partial")
        self.categories = coco_categories(names)
        self.done: set[str] = set()
        self._annotations = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume and not self.journal.exists() and self.path.exists():
            self._reopen()
        if resume and self.journal.exists():
            self._take_up()
        else:
            self.journal.write_bytes(_line({"categories": self.categories}))
        self._file = self.journal.open("ab")

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, result: Result, file_name: str) -> None:
        """Write the instances of one image. Raises ConfigError for a name that is there already."""
        image_id = len(self.done) + 1
        if file_name in self.done:
            raise ConfigError(
                f"file_name: want one that is not in {self.path.name} yet, got {file_name!r} again"
            )
        annotations = coco_annotations(result, image_id, self._annotations + 1)
        self._file.write(
            _line({"image": coco_image(result, image_id, file_name), "annotations": annotations})
        )
        self._file.flush()
        self._note(file_name, len(annotations))

    def close(self) -> None:
        """Turn the journal into results.json."""
        self._file.close()
        annotations = (row for entry in _entries(self.journal) for row in entry["annotations"])
        images = (entry["image"] for entry in _entries(self.journal))
        with replacing(self.path) as part, part.open("w", encoding="utf-8") as out:
            write_tables(out, self.categories, annotations, images)
        self.journal.unlink()

    def _note(self, file_name: str, annotations: int) -> None:
        self.done.add(file_name)
        self._annotations += annotations

    def _take_up(self) -> None:
        """Go on with a journal, less a last line that a kill left half written."""
        with self.journal.open("r+b") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
            file.truncate(whole)
            file.seek(0)
            self._check(json.loads(file.readline() or b"{}").get("categories"), self.journal)
        for entry in _entries(self.journal):
            self._note(entry["image"]["file_name"], len(entry["annotations"]))

    def _reopen(self) -> None:
        """Turn a finished results.json back into a journal."""
        finished = json.loads(self.path.read_bytes())
        self._check(finished.get("categories"), self.path)
        rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in finished["images"]}
        for row in finished["annotations"]:
            rows[row["image_id"]].append(row)
        with replacing(self.journal) as part, part.open("wb") as out:
            out.write(_line({"categories": self.categories}))
            for image in finished["images"]:
                out.write(_line({"image": image, "annotations": rows[image["id"]]}))

    def _check(self, categories: Any, path: Path) -> None:
        if categories != self.categories:
            raise ConfigError(
                f"resume: want the classes of this model in {path.name}, got others; choose another folder"
            )


def write_tables(
    out: TextIO,
    categories: list[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
    images: Iterable[dict[str, Any]],
) -> None:
    """A results.json, its tables row by row; ``images`` is asked for when all annotations are written."""
    out.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
    _write_rows(out, annotations)
    out.write('],\n"images": [')
    _write_rows(out, images)
    out.write("]}\n")


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    """The images of a journal, one at a time; its first line has the categories."""
    with journal.open("rb") as file:
        file.readline()
        for line in file:
            yield json.loads(line)


def _write_rows(out: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    """JSON values with commas between them, one a line."""
    for i, row in enumerate(rows):
        out.write(("\n" if i == 0 else ",\n") + json.dumps(row))
