"""What OpenAPI says beyond the signatures."""

from __future__ import annotations

from typing import Any

ABOUT = """Instance segmentation with Mask R-CNN.

Boxes are x1, y1, x2, y2 in pixels of the upright picture, x2 and y2 exclusive. Masks are COCO run lengths, which
`pycocotools.mask.decode` reads. Errors are `{"error": {"status", "message"}}`; 429 and 503 say in `Retry-After` when to
come back."""

_FILE = {"type": "string", "format": "binary"}
_FIELDS = {
    "score": {"type": "number", "minimum": 0, "maximum": 1},
    "classes": {"type": "array", "items": {"type": "string"}},
    "max_detections": {"type": "integer", "minimum": 1, "maximum": 1000},
    "format": {"type": "string", "enum": ["json", "coco", "overlay", "geojson"]},
    "outlines": {"type": "boolean"},
}

PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One picture. Parameters may be in the query or beside the picture.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE, **_FIELDS}}
            },
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "contentEncoding": "base64"},
                        "name": {"type": "string"},
                        **_FIELDS,
                    },
                }
            },
        },
    }
}

_INSTANCE = {
    "type": "object",
    "required": ["id", "label", "name", "score", "box", "area", "mask"],
    "properties": {
        "id": {"type": "integer"},
        "label": {"type": "integer", "description": "Index into names."},
        "name": {"type": "string"},
        "score": {"type": "number"},
        "box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "area": {"type": "integer", "description": "Pixels of the mask."},
        "mask": {
            "type": "object",
            "description": "COCO run lengths.",
            "properties": {
                "size": {"type": "array", "items": {"type": "integer"}, "description": "height, width"},
                "counts": {"type": "string"},
            },
        },
        "parts": {
            "type": "array",
            "description": "With outlines: polygons, each a list of rings (the first outer, then holes) x, y, ...",
            "items": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        },
        "color": {"type": "string", "description": "With outlines: #rrggbb."},
    },
}
_RESULT = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "height": {"type": "integer"},
        "width": {"type": "integer"},
        "names": {"type": "array", "items": {"type": "string"}},
        "instances": {"type": "array", "items": _INSTANCE},
    },
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"description": "Broken request"},
    401: {"description": "Token missing or wrong"},
    408: {"description": "The upload took too long"},
    413: {"description": "Too many bytes"},
    415: {"description": "Neither a form, nor a picture, nor JSON"},
    422: {"description": "The picture cannot be read, or a parameter has no meaning"},
    429: {"description": "The queue is full; see Retry-After"},
    503: {"description": "Not ready, or no answer in time; see Retry-After"},
}
PREDICTED: dict[int | str, dict[str, Any]] = _REFUSED | {
    200: {
        "description": "The instances, best first.",
        "content": {
            "application/json": {"schema": _RESULT},
            "application/geo+json": {"schema": {"type": "object"}},
            "image/png": {"schema": _FILE},
        },
    }
}
EXPLAINED: dict[int | str, dict[str, Any]] = _REFUSED | {
    200: {"description": "One HTML page.", "content": {"text/html": {"schema": {"type": "string"}}}}
}
