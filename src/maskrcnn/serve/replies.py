"""A Result as the caller wants it: bytes and their media type. Blocks, so not for the event loop."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np

from ..output import coco_file, colour, draw, to_geojson
from ..output.files import TOLERANCE
from ..output.shapes import crop_rings, encode_crop
from ..records import Result
from .options import Options


def reply(result: Result, options: Options, model: str, name: str | None) -> tuple[bytes, str]:
    """Body and media type."""
    if options.format == "overlay":
        return _png(draw(result)), "image/png"
    if options.format == "coco":
        return _json(coco_file(result, file_name=name or "")), "application/json"
    if options.format == "geojson":
        return _json(to_geojson(result)), "application/geo+json"
    return _json(to_json(result, model, options.outlines)), "application/json"


def to_json(result: Result, model: str, outlines: bool = False) -> dict[str, Any]:
    """Instances with xyxy boxes (pixels, x2 and y2 exclusive) and COCO run lengths.

    outlines: each instance also has ``parts``, a list of polygons, each the list of its rings (outer first,
    then holes) of x, y pairs along pixel edges, simplified by at most half a pixel; and its ``color``
    """
    rows = []
    for i, name in enumerate(result.class_names):
        crop, corner = result.crop(i)
        row = {
            "id": i,
            "label": int(result.labels[i]),
            "name": name,
            "score": float(result.scores[i]),
            "box": result.boxes[i].tolist(),
            "area": int(crop.sum()),
            "mask": encode_crop(crop, corner, result.size),
        }
        if outlines:
            rings = crop_rings(crop, corner, TOLERANCE)
            row["parts"] = [[ring.ravel().tolist() for ring in (outer, *holes)] for outer, holes in rings]
            row["color"] = css(i)
        rows.append(row)
    height, width = result.size
    return {"model": model, "height": height, "width": width, "names": list(result.names), "instances": rows}


def css(i: int) -> str:
    """Colour number i as ``#rrggbb``: the one that the overlay has."""
    return "#{:02x}{:02x}{:02x}".format(*colour(i))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _png(pixels: np.ndarray) -> bytes:
    good, data = cv2.imencode(
        ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 1)
    )
    if not good:
        raise ValueError("OpenCV cannot write this PNG")
    return data.tobytes()
