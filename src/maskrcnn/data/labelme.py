"""LabelMe: one json beside each picture."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from ..records import Size
from .dataset import Dataset, Instance, Polygons, Sample, Samples
from .files import (
    PictureFinder,
    class_list,
    export_pictures,
    picture_size,
    read_json,
    write_json,
    write_labels,
)
from .findings import Finding
from .outlines import ellipse, outline_box, rectangle, run_lengths, stroke, union

_SHAPES = ("polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask")
LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels, as LabelMe's own shape_to_mask draws them


def is_labelme(content: Any) -> bool:
    """Whether this json is a LabelMe file."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(files: Iterable[Path], folder: Path, others: Iterable[Path] = ()) -> Samples:
    """LabelMe files, one for each picture.

    Shapes of one label and one ``group_id`` are one instance. A line is 10 pixels wide and a point has
    a radius of 5, as in LabelMe. Classes are in the order of a ``labels.txt``, else by
    name; those of ``others`` are among them.
    """
    contents = {file: read_json(file) for file in files}
    used = {str(s["label"]) for c in (*contents.values(), *map(read_json, others)) for s in c["shapes"]}
    names = class_list(folder, used)
    label_of = {name: i for i, name in enumerate(names)}
    findings: list[Finding] = []
    find, samples = PictureFinder(folder), []
    for file, content in contents.items():
        picture = find(str(content["imagePath"]))
        size = content.get("imageHeight"), content.get("imageWidth")
        height, width = size if all(size) else picture_size(picture) or (0, 0)
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, shape in enumerate(content["shapes"]):
            group = shape.get("group_id")
            groups[(shape["label"], i if group is None else f"group {group}")].append(i)
        instances = []
        for (label, _), members in groups.items():
            record = f"shapes {', '.join(map(str, members))}"
            masks = [_read_shape(content["shapes"][i], (height, width)) for i in members]
            known = [mask for mask in masks if mask is not None]
            if len(known) < len(masks):
                got = ", ".join(repr(content["shapes"][i].get("shape_type")) for i in members)
                findings.append(Finding("unknown shape", f"want a whole {', '.join(_SHAPES)}, got {got}",
                                        file, record, "shape_type", "stops"))  # fmt: skip
            else:
                mask = union(known, (height, width))
                instances.append(Instance(label_of[str(label)], outline_box(mask), mask, key=record))
        samples.append(Sample(picture.name if picture.exists() else file.stem, _picture(picture, content),
                              (height, width), tuple(instances), classes=len(names), source=file))  # fmt: skip
    return Samples(names, tuple(samples), "labelme", folder, tuple(findings))


def write_labelme(dataset: Dataset, folder: Path) -> None:
    """A json beside each picture; opens in LabelMe. Run lengths become its mask shape, nothing is lost of them."""
    write_labels(folder, dataset.names)
    for sample, file in export_pictures(dataset, folder):
        shapes = []
        for i, one in enumerate(sample.instances):
            parts = [_mask_shape(one.dense(sample.size))] if isinstance(one.mask, dict) else [
                {"shape_type": "polygon", "points": ring.tolist()} for ring in one.mask
            ]  # fmt: skip
            shapes += [
                {"label": dataset.names[one.label], "group_id": i if len(parts) > 1 else None, "flags": {},
                 "description": "", **part}
                for part in parts if part is not None
            ]  # fmt: skip
        write_json(file.with_suffix(".json"), {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file.name, "imageData": None,
            "imageHeight": sample.size[0], "imageWidth": sample.size[1],
        })  # fmt: skip


def _read_shape(shape: dict[str, Any], size: Size) -> Polygons | dict[str, Any] | None:
    """None for a shape of an unknown type, or without its points."""
    try:
        return _outline(shape, size)
    except (KeyError, IndexError, TypeError, ValueError, OSError):
        return None


def _outline(shape: dict[str, Any], size: Size) -> Polygons | dict[str, Any] | None:
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    kind = shape.get("shape_type") or "polygon"  # old files have none
    if kind == "polygon":
        return [points]
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        return [rectangle(x1, y1, x2, y2)]
    if kind == "circle":  # its centre and a point on it
        radius = float(np.hypot(*(points[1] - points[0])))
        return [ellipse(points[0, 0], points[0, 1], radius, radius)]
    if kind in ("line", "linestrip"):
        return stroke(points, LINE_WIDTH)
    if kind in ("point", "points"):
        return [ellipse(x, y, POINT_RADIUS, POINT_RADIUS) for x, y in points]
    if kind == "mask":
        x, y = points[0].round().astype(int).tolist()
        with PIL.Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as png:
            crop = np.asarray(png) > 0
        whole = np.zeros(size, bool)
        window = whole[y : y + crop.shape[0], x : x + crop.shape[1]]
        window[:] = crop[: window.shape[0], : window.shape[1]]
        return run_lengths(whole)
    return None


def _picture(file: Path, content: dict[str, Any]) -> Any:
    """The picture's file; where there is none, the picture inside the json, if there is one."""
    if file.exists() or not content.get("imageData"):
        return file
    from ..inputs import read

    return read(base64.b64decode(content["imageData"]))


def _mask_shape(mask: np.ndarray) -> dict[str, Any] | None:
    """LabelMe's mask: a PNG of the part inside the box, whose second corner is its last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    y1, y2, x1, x2 = (int(v) for v in (rows[0], rows[-1], columns[0], columns[-1]))
    _, png = cv2.imencode(".png", mask[y1 : y2 + 1, x1 : x2 + 1].astype(np.uint8))
    return {
        "shape_type": "mask",
        "points": [[x1, y1], [x2, y2]],
        "mask": base64.b64encode(png.tobytes()).decode(),
    }
