"""VIA 3 projects, told as projects of VIA 2: numbered shapes and attributes get their names."""

from __future__ import annotations

from typing import Any

import numpy as np

# _VIA_RSHAPE of its source; the numbers that follow in a row of metadata
_SHAPES = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
}
_LINES = {5: "line", 6: "polyline", 7: "polygon"}
_EXTREME = 8  # a rectangle by four points on its sides
_CHECKBOX, _RADIO, _SELECT = 2, 3, 4  # _VIA_ATTRIBUTE_TYPE: those with numbered options


def is_via3(content: Any) -> bool:
    """Whether this json is a project of VIA 3."""
    return isinstance(content, dict) and all(
        isinstance(content.get(table), dict) for table in ("project", "attribute", "file", "metadata", "view")
    )


def as_via2(content: dict[str, Any]) -> dict[str, Any]:
    """The same pictures, regions and attributes as a project of VIA 2; segments of time are left out."""
    attributes = content["attribute"]
    entries: dict[str, dict[str, Any]] = {}
    for view, row in content["view"].items():
        files = [content["file"][str(number)] for number in row["fid_list"]]
        if files:
            entries[view] = {"filename": files[0]["fname"], "regions": []}
    for row in content["metadata"].values():
        if row["xy"] and str(row["vid"]) in entries:
            values = {
                attributes[number]["aname"]: _value(attributes[number], value)
                for number, value in row["av"].items() if number in attributes
            }  # fmt: skip
            region = {"shape_attributes": _shape(row["xy"]), "region_attributes": values}
            entries[str(row["vid"])]["regions"].append(region)
    options = {
        one["aname"]: {"options": dict.fromkeys(_options(one).values(), "")} for one in attributes.values()
    }
    # Keys are ids of images, and stand in messages.
    named = {f"{view} {entry['filename']}": entry for view, entry in entries.items()}
    return {"_via_img_metadata": named, "_via_attributes": {"region": options}}


def _shape(row: list[Any]) -> dict[str, Any]:
    kind, *numbers = row
    if kind in _SHAPES:
        name, keys = _SHAPES[kind]
        return {"name": name, **dict(zip(keys, numbers, strict=False))}
    if kind == _EXTREME:
        points = np.array(numbers, float).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {
        "name": _LINES.get(kind, f"number {kind}"),
        "all_points_x": numbers[::2],
        "all_points_y": numbers[1::2],
    }


def _options(attribute: dict[str, Any]) -> dict[str, str]:
    numbered = attribute.get("type") in (_CHECKBOX, _RADIO, _SELECT)
    return {str(k): str(v) for k, v in (attribute.get("options") or {}).items()} if numbered else {}


def _value(attribute: dict[str, Any], value: Any) -> Any:
    """The text of a chosen option; of several ticked ones, as VIA 2 has them."""
    options = _options(attribute)
    if not options:
        return value
    chosen = [options[part] for part in str(value).split(",") if part in options]
    return dict.fromkeys(chosen, True)
