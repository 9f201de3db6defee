"""CVAT for images 1.1: one XML file for all pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from ..errors import DataError
from ..records import Size
from .dataset import Instance, Mask, Sample, Samples
from .files import PictureFinder, class_list
from .findings import Finding
from .outlines import ellipse, outline_box, rectangle, run_lengths, union

_SHAPES = ("polygon", "polyline", "box", "ellipse", "mask")
_OTHERS = ("points", "cuboid", "skeleton")  # shapes without an inside; tags are of the whole picture


def read_cvat(path: Path, root: Element) -> Samples:
    """The content of a CVAT file, as `open_xml` gives it.

    Shapes of one label and one ``group_id`` are one instance. A polyline is closed. Classes are in the order of the
    file's labels, else by name. Raises DataError for a file of tracks, which says nothing of pictures.
    """
    if root.find("image") is None:
        raise DataError(
            f"{path}: want an export 'CVAT for images 1.1', got one without pictures; export it again"
        )
    listed = [str(name.text) for name in root.iterfind("meta//label/name")]
    shapes = [shape for kind in _SHAPES for shape in root.iterfind(f"image/{kind}")]
    names = class_list(path.parent, {_needed(path, shape, "label")[0] for shape in shapes}, listed)
    label_of = {name: i for i, name in enumerate(names)}
    findings: list[Finding] = []
    find, samples = PictureFinder(path.parent), []
    for image in root.iterfind("image"):
        name, height, width = _needed(path, image, "name", "height", "width")
        size = int(height), int(width)
        groups: dict[tuple[str, str], list[Mask]] = defaultdict(list)
        for number, shape in enumerate(image):
            record = f"image {name}, {shape.tag} {number}"
            if shape.tag in _OTHERS:
                findings.append(Finding("unknown shape", f"want {', '.join(_SHAPES)}, got {shape.tag}", path, record,
                                        cure="stops"))  # fmt: skip
            elif shape.tag in _SHAPES:
                try:
                    group = shape.get("group_id") or f"shape {number}"
                    groups[(shape.attrib["label"], group)].append(_outline(shape, size))
                except (KeyError, ValueError) as error:
                    findings.append(Finding("unknown shape", f"want a whole {shape.tag}, got one that cannot be read "
                                            f"({error!r})", path, record, cure="stops"))  # fmt: skip
        instances = []
        for (label, group), masks in groups.items():
            mask = union(masks, size)
            key = f"image {name}, {group if group.startswith('shape') else f'group {group}'}"
            instances.append(Instance(label_of[label], outline_box(mask), mask, key=key))
        samples.append(Sample(name, find(name), size, tuple(instances), classes=len(names), source=path))
    return Samples(names, tuple(samples), "cvat", path, tuple(findings))


def open_xml(path: Path) -> Element | None:
    """The root of a CVAT file; None for XML of others. Raises DataError for what is no XML."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: want xml, got {error}") from error
    return root if root.tag == "annotations" and root.find("meta") is not None else None


def _needed(path: Path, element: Element, *keys: str) -> list[str]:
    if any(key not in element.attrib for key in keys):
        raise DataError(f"{path}: want {', '.join(keys)} in every {element.tag}, got {dict(element.attrib)}")
    return [element.attrib[key] for key in keys]


def _outline(shape: Element, size: Size) -> Mask:
    if shape.tag in ("polygon", "polyline"):
        return [np.array([point.split(",") for point in shape.attrib["points"].split(";")], np.float64)]
    turn = math.radians(float(shape.get("rotation", "0")))
    if shape.tag == "ellipse":
        cx, cy, rx, ry = (float(shape.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        return [ellipse(cx, cy, rx, ry, turn)]
    if shape.tag == "box":
        corners = rectangle(*(float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")))
        centre, (c, s) = corners.mean(0), (math.cos(turn), math.sin(turn))
        return [(corners - centre) @ np.array([[c, s], [-s, c]]) + centre]
    x, y, w, h = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    crop = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)  # row by row, beginning outside
    whole = np.zeros(size, bool)
    window = whole[y : y + h, x : x + w]
    window[:] = crop[: window.shape[0], : window.shape[1]]
    return run_lengths(whole)
