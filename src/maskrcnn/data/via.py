"""VGG Image Annotator: json of version 1 (regions are a dict) and 2 (a list), plain or inside a project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset, Instance, Polygons, Sample, Samples
from .files import PictureFinder, class_list, export_pictures, picture_size, write_json
from .findings import Finding
from .outlines import ellipse, one_ring, outline_box, rectangle

# Where several attributes are filled in everywhere, the class is the one with such a name.
_CLASS_KEYS = ("class", "label", "name", "category", "type", "object", "object_name")
_NO_CLASS = "object"  # of files whose regions have no attributes at all, as one-class sets often do


def is_via(content: Any) -> bool:
    """Whether this json is a VIA project or annotation export."""
    if not isinstance(content, dict):
        return False
    entries = content.get("_via_img_metadata", content)
    return isinstance(entries, dict) and (
        (bool(entries) or "_via_img_metadata" in content)
        and all(isinstance(e, dict) and "filename" in e and "regions" in e for e in entries.values())
    )


def read_via(path: Path, content: dict[str, Any], others: Iterable[dict[str, Any]] = ()) -> Samples:
    """The content of a VIA file.

    The class is the region attribute that most regions fill in; of several, one called class, label, name,
    category or type. Classes are in the order of the project's options or of a ``labels.txt``, else by name; those of
    ``others`` (the same data set's other splits) are among them.
    A polyline is closed; a circle and an ellipse become polygons; a point is the pixel it lies in.
    """
    entries = content.get("_via_img_metadata", content)
    every = [content, *others]
    key = _class_key([region for one in every for region in _all_regions(one)])
    used = {name for one in every for region in _all_regions(one) if (name := _class(region, key))}
    names = class_list(path.parent, used, _options(content, key))
    label_of = {name: i for i, name in enumerate(names)}
    findings: list[Finding] = []
    find, samples = PictureFinder(path.parent), []
    for image_id, entry in entries.items():
        instances = []
        for number, region in _regions(entry):
            record, name = f"{image_id} regions {number}", _class(region, key)
            shape = region.get("shape_attributes", {})
            mask = _outline(shape)
            if mask is None:
                findings.append(Finding("unknown shape", "want polygon, polyline, rect, circle, ellipse, point, got "
                                        f"{shape.get('name')!r}", path, record, "name", "stops"))  # fmt: skip
            elif name is None:
                findings.append(Finding("no class", f"want a class in region attribute {key!r}, got "
                                        f"{region.get('region_attributes')!r}; choose one",
                                        path, record, "region_attributes", "stops"))  # fmt: skip
            else:
                instances.append(Instance(label_of[name], outline_box(mask), mask, key=record))
        file = find(str(entry["filename"]))
        samples.append(Sample(image_id, file, picture_size(file) or (0, 0), tuple(instances),
                              classes=len(names), source=path))  # fmt: skip
    return Samples(names, tuple(samples), "via", path, tuple(findings))


def write_via(dataset: Dataset, folder: Path) -> None:
    """A VIA 2 project beside its pictures; opens in VIA. Masks become polygons, see `one_ring`."""
    entries = {}
    for sample, file in export_pictures(dataset, folder):
        regions = []
        for one in sample.instances:
            ring = one_ring(one.mask, sample.size)
            if ring is not None:
                x, y = ring.T.tolist()
                regions.append({"shape_attributes": {"name": "polygon", "all_points_x": x, "all_points_y": y},
                                "region_attributes": {"class": dataset.names[one.label]}})  # fmt: skip
        size = file.stat().st_size
        entries[f"{file.name}{size}"] = {
            "filename": file.name, "size": size, "regions": regions, "file_attributes": {},
        }  # fmt: skip
    options = dict.fromkeys(dataset.names, "")
    write_json(folder / "via_project.json", {
        "_via_settings": {"core": {"default_filepath": ""}, "project": {"name": "via_project"}},
        "_via_img_metadata": entries,
        "_via_attributes": {"region": {"class": {"type": "dropdown", "description": "", "options": options,
                                                 "default_options": {}}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(entries),
    })  # fmt: skip


def _regions(entry: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    regions = entry["regions"] or {}
    return [(str(k), r) for k, r in (regions.items() if isinstance(regions, dict) else enumerate(regions))]


def _all_regions(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in content.get("_via_img_metadata", content).values():
        yield from (region for _, region in _regions(entry))


def _class_key(regions: list[dict[str, Any]]) -> str | None:
    """The attribute that holds the class, or None where no region has any."""
    filled: Counter[str] = Counter()
    for region in regions:
        filled.update(k for k, v in region.get("region_attributes", {}).items() if _value(v) is not None)
    rank = {key: i for i, key in enumerate(_CLASS_KEYS)}
    best = sorted(filled, key=lambda k: (-filled[k], rank.get(k.lower(), len(rank)), k))
    return best[0] if best else None


def _class(region: dict[str, Any], key: str | None) -> str | None:
    return _NO_CLASS if key is None else _value(region.get("region_attributes", {}).get(key))


def _value(value: Any) -> str | None:
    """The text of an attribute; a checkbox gives the one option that is ticked."""
    if isinstance(value, dict):
        ticked = [k for k, v in value.items() if v]
        return str(ticked[0]) if len(ticked) == 1 else None
    text = "" if value is None else str(value).strip()
    return text or None


def _options(content: dict[str, Any], key: str | None) -> tuple[str, ...]:
    attribute = content.get("_via_attributes", {}).get("region", {}).get(key, {})
    return tuple(str(option) for option in attribute.get("options", {}) or {})


def _outline(shape: dict[str, Any]) -> Polygons | None:
    """None for a shape of an unknown name or without its numbers."""
    try:
        if shape["name"] in ("polygon", "polyline"):
            return [np.stack((shape["all_points_x"], shape["all_points_y"]), axis=1).astype(np.float64)]
        if shape["name"] == "rect":
            x, y = float(shape["x"]), float(shape["y"])
            return [rectangle(x, y, x + float(shape["width"]), y + float(shape["height"]))]
        if shape["name"] not in ("circle", "ellipse", "point"):
            return None
        x, y = float(shape["cx"]), float(shape["cy"])
        if shape["name"] == "circle":
            return [ellipse(x, y, float(shape["r"]), float(shape["r"]))]
        if shape["name"] == "ellipse":
            return [ellipse(x, y, float(shape["rx"]), float(shape["ry"]), float(shape.get("theta") or 0))]
        return [rectangle(np.floor(x), np.floor(y), np.floor(x) + 1, np.floor(y) + 1)]
    except (KeyError, TypeError, ValueError):
        return None
