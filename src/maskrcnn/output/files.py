"""Every form a result can be written in. A file is there whole or not at all.

Polygons in LabelMe, YOLO and GeoJSON run along pixel edges, simplified by at most half a pixel: see `shapes`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import ConfigError, ImageError
from ..files import write_bytes, write_text
from ..inputs import Georeference, georeference
from ..inputs.sources import DRAWN
from ..records import Result
from .coco import coco_file, source_of
from .overlay import as_rgb, draw
from .shapes import crop_polygons, crop_rings, join_parts
from .tables import instance_row, to_csv

TOLERANCE = 0.5  # pixels

_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95,
         cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)  # fmt: skip
PICTURES: dict[str, tuple[int, ...]] = {
    ".png": (cv2.IMWRITE_PNG_COMPRESSION, 1),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": (cv2.IMWRITE_WEBP_QUALITY, 95),
    ".tif": (),
    ".tiff": (),
    ".bmp": (),
}


def save(result: Result, path: str | Path, **options: Any) -> Path:
    """Write one file; its ending chooses the form.

    .png .jpg .jpeg .webp .tif .tiff .bmp : the overlay; ``options`` as `draw`
    .json : COCO, standing alone     .csv : one row an instance
    .geojson : see `to_geojson`      .txt : YOLO segmentation
    Raises ConfigError for another ending, or for options that the form does not have.
    """
    path = Path(path)
    texts: dict[str, Callable[[Result], str]] = {
        ".json": lambda r: json.dumps(coco_file(r)),
        ".csv": to_csv,
        ".geojson": lambda r: json.dumps(to_geojson(r)),
        ".txt": to_yolo,
    }
    ending = path.suffix.lower()
    if ending in PICTURES:
        return write_picture(path, draw(result, **options))
    if ending not in texts:
        raise ConfigError(f"save: want an ending of {', '.join([*PICTURES, *texts])}, got {path.name!r}")
    if options:
        raise ConfigError(f"save: {ending} has no options, got {', '.join(options)}")
    return write_text(path, texts[ending](result))


def write(result: Result, folder: str | Path, stem: str, kinds: Iterable[str]) -> list[Path]:
    """Write the wanted forms of one image into ``folder``; names begin with ``stem`` (or ``sub/stem``).

    overlay   STEM_overlay.jpg
    masks     STEM_masks/instances.png (16 bit, instance i is i + 1) and one 0/255 PNG an instance
    cutouts   STEM_cutouts/ one PNG an instance, transparent around it
    labelme   STEM.json          yolo   STEM.txt
    csv       STEM.csv           geojson STEM.geojson
    Returns the paths. The one results.json of a run is written by `CocoWriter`, so ``json`` is no kind here.
    Raises ConfigError for an unknown kind.
    """
    base = Path(folder) / stem
    kinds = list(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"save: want some of {', '.join(KINDS)}, got {', '.join(unknown)}")
    return [path for kind in kinds for path in KINDS[kind](result, base)]


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    """Write RGB, RGBA or grey pixels, uint8 or (PNG, TIFF) uint16, in the form that the ending names."""
    channels = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    swapped = cv2.cvtColor(pixels, channels[pixels.shape[2]]) if pixels.ndim == 3 else pixels
    try:
        good, data = cv2.imencode(path.suffix.lower(), swapped, PICTURES[path.suffix.lower()])
    except cv2.error as error:
        raise ImageError(
            f"{path.name}: {pixels.shape[:2]} pixels cannot be written in this form: {error}"
        ) from error
    if not good:
        raise ImageError(f"{path.name}: {pixels.shape[:2]} pixels cannot be written in this form; try .png")
    return write_bytes(path, _signed(data.tobytes()))


def _signed(data: bytes) -> bytes:
    """A JPEG with a comment, behind its first segment, that says who drew it; anything else as it is."""
    if not data.startswith(b"\xff\xd8\xff\xe0"):
        return data
    first = 4 + int.from_bytes(data[4:6], "big")
    return data[:first] + b"\xff\xfe" + (len(DRAWN) + 2).to_bytes(2, "big") + DRAWN + data[first:]


def to_labelme(result: Result, image_path: str = "") -> dict[str, Any]:
    """A LabelMe file: one polygon for each part; the parts of an instance share their group_id."""
    shapes = []
    for i, name in enumerate(result.class_names):
        parts = crop_polygons(*result.crop(i), TOLERANCE)
        shapes += [
            {
                "label": name,
                "points": part.tolist(),
                "group_id": i if len(parts) > 1 else None,
                "description": f"{float(result.scores[i]):.4f}",
                "shape_type": "polygon",
                "flags": {},
            }
            for part in parts
        ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": result.size[0],
        "imageWidth": result.size[1],
    }


def to_yolo(result: Result) -> str:
    """YOLO segmentation: a line an instance, class index from 0 and x y pairs as shares of width and height.

    The parts of an instance are joined by bridges without width. An instance without mask pixels has no line.
    """
    lines = []
    for i, label in enumerate(result.labels.tolist()):
        parts = crop_polygons(*result.crop(i), TOLERANCE)
        if parts:
            shares = join_parts(parts) / np.array(result.size[::-1])
            lines.append(f"{label} " + " ".join(f"{v:.6f}" for v in shares.ravel()) + "\n")
    return "".join(lines)


def to_geojson(result: Result) -> dict[str, Any]:
    """A GeoJSON FeatureCollection, holes kept; several parts are a MultiPolygon.

    Of a picture from a GeoTIFF the coordinates are those of its coordinate system, which ``crs`` names (GeoJSON of
    2008, as GDAL and QGIS read and write it); RFC 7946 knows longitude and latitude only. Of any other picture
    they are pixels, y downwards. Properties are those of `instance_row`, always in pixels. An instance without a
    mask pixel has a null geometry. Raises MissingExtraError for a GeoTIFF without rasterio.
    """
    source = source_of(result)
    place = georeference(source) if source is not None else None
    features = []
    for i in range(len(result)):
        parts = [
            [_closed(_placed(ring, place, hole=k > 0)) for k, ring in enumerate((outer, *inner))]
            for outer, inner in crop_rings(*result.crop(i), TOLERANCE)
        ]
        geometry: dict[str, Any] | None = None
        if len(parts) == 1:
            geometry = {"type": "Polygon", "coordinates": parts[0]}
        elif parts:
            geometry = {"type": "MultiPolygon", "coordinates": parts}
        row = {k: None if v != v else v for k, v in instance_row(result, i).items()}
        features.append({"type": "Feature", "id": i + 1, "geometry": geometry, "properties": row})
    crs = {} if place is None else {"crs": {"type": "name", "properties": {"name": place.crs}}}
    return {"type": "FeatureCollection", **crs, "features": features}


def _placed(ring: np.ndarray, place: Georeference | None, hole: bool) -> np.ndarray:
    """A (k, 2) ring of pixels on the ground: outlines against the clock and holes with it, as RFC 7946 wants them."""
    if place is None:
        return ring
    a, b, c, d, e, f = place.transform
    x, y = ring.astype(np.float64).T
    there = np.stack((a * x + b * y + c, d * x + e * y + f), axis=1)
    u, v = (there - there[0]).T  # large coordinates would drown the area
    doubled = (u * np.roll(v, -1) - v * np.roll(u, -1)).sum()
    return there[::-1] if (doubled < 0) != hole else there


def instance_map(result: Result) -> np.ndarray:
    """(h, w) uint16: 0 is background, i + 1 instance i; where masks overlap, the better score is on top."""
    numbers = np.zeros(result.size, np.uint16)
    for i in reversed(range(len(result))):
        crop, (y, x) = result.crop(i)
        numbers[y : y + crop.shape[0], x : x + crop.shape[1]][crop] = i + 1
    return numbers


def _closed(ring: np.ndarray) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]


def _overlay(result: Result, base: Path) -> list[Path]:
    return [write_picture(_named(base, "_overlay.jpg"), draw(result))]


def _masks(result: Result, base: Path) -> list[Path]:
    folder = _named(base, "_masks")
    paths = [write_picture(folder / "instances.png", instance_map(result))]
    mask = np.zeros(result.size, np.uint8)
    for i in range(len(result)):
        crop, (y, x) = result.crop(i)
        window = mask[y : y + crop.shape[0], x : x + crop.shape[1]]
        window[:] = crop * np.uint8(255)
        paths.append(write_picture(folder / f"{_instance_name(result, i)}.png", mask))
        window[:] = 0
    return paths


def _cutouts(result: Result, base: Path) -> list[Path]:
    folder = _named(base, "_cutouts")
    if result.pixels is None:
        raise ImageError("cutouts: want a result with its picture, got none")
    rgb = as_rgb(result.pixels)
    paths = []
    for i in range(len(result)):
        crop, (y, x) = result.crop(i)
        if crop.any():
            under = rgb[y : y + crop.shape[0], x : x + crop.shape[1]]
            rgba = np.dstack((under, np.full(crop.shape, 255, np.uint8))) * crop[..., None]
            paths.append(write_picture(folder / f"{_instance_name(result, i)}.png", rgba))
    return paths


def _labelme(result: Result, base: Path) -> list[Path]:
    source = source_of(result)
    there = Path(os.path.relpath(source, base.parent)).as_posix() if source is not None else ""
    return [write_text(_named(base, ".json"), json.dumps(to_labelme(result, there), indent=2))]


def _text(ending: str, convert: Callable[[Result], str]) -> Callable[[Result, Path], list[Path]]:
    return lambda result, base: [write_text(_named(base, ending), convert(result))]


def _named(base: Path, ending: str) -> Path:
    """``with_suffix`` would cut a stem such as ``frame.001`` at its dot."""
    return base.with_name(base.name + ending)


def _instance_name(result: Result, i: int) -> str:
    """Such as 003_traffic_light: safe on every file system."""
    name = re.sub(r"[^\w-]+", "_", result.class_names[i])
    return f"{i:03d}_{name}"


KINDS: dict[str, Callable[[Result, Path], list[Path]]] = {
    "overlay": _overlay,
    "masks": _masks,
    "cutouts": _cutouts,
    "labelme": _labelme,
    "yolo": _text(".txt", to_yolo),
    "csv": _text(".csv", to_csv),
    "geojson": _text(".geojson", lambda result: json.dumps(to_geojson(result))),
}
