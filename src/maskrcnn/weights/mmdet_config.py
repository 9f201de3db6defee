"""What the text of an MMDetection configuration says of the network, read without running it.

Understood are assignments of literals and of ``dict(...)``, and names that were assigned before: what mmcv and mmengine
write into a checkpoint. Anything else in the text is left out, so that the defaults hold for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 1_000_000  # characters; real ones have some ten thousand


class _Unknown(Exception):
    """An expression that is no literal."""


def parse(text: str) -> dict[str, Any]:
    """Top-level names and their values; empty for a text that is no Python."""
    if len(text) > LONGEST:
        return {}
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    known: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                try:
                    known[target.id] = _value(statement.value, known)
                except (_Unknown, RecursionError, TypeError, ValueError):
                    continue
    return known


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return _entries(((word.arg, word.value) for word in node.keywords), known)
    if isinstance(node, ast.Dict):
        return _entries(
            ((getattr(k, "value", None), v) for k, v in zip(node.keys, node.values, strict=True)), known
        )
    raise _Unknown


def _entries(pairs: Iterator[tuple[Any, ast.expr]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of a dict that are understood."""
    entries = {}
    for key, value in pairs:
        if isinstance(key, str):
            try:
                entries[key] = _value(value, known)
            except _Unknown:
                continue
    return entries


def settings(text: str) -> dict[str, Any]:
    """Fields of our `Config` and `Dialect` that the text decides; those that it does not name are left out."""
    config = parse(text)
    model = _dict(config, "model")
    test = _dict(model, "test_cfg") or _dict(config, "test_cfg")
    rpn, rcnn = _dict(test, "rpn"), _dict(test, "rcnn")
    rpn_head, roi_head = _dict(model, "rpn_head"), _dict(model, "roi_head")
    align = _dict(roi_head, "bbox_roi_extractor", "roi_layer")
    size = _sizes(config)
    found = {
        "rpn_nms": _number(_dict(rpn, "nms").get("iou_threshold", rpn.get("nms_thr"))),
        "pre_nms": _number(rpn.get("nms_pre"), int),
        "proposals": _number(rpn.get("max_per_img", rpn.get("max_num")), int),
        "score": _number(rcnn.get("score_thr")),
        "nms": _number(_dict(rcnn, "nms").get("iou_threshold", _dict(rcnn, "nms").get("iou_thr"))),
        "max_detections": _number(rcnn.get("max_per_img"), int),
        "min_size": None if size is None else size[0],
        "max_size": None if size is None else size[1],
        "rpn_std": _numbers(_dict(rpn_head, "bbox_coder").get("target_stds"), 4),
        "box_std": _numbers(_dict(roi_head, "bbox_head", "bbox_coder").get("target_stds"), 4),
        "roi_op": {True: "align", False: "align_legacy"}.get(align.get("aligned", ...)),
        "sampling_ratio": _number(align.get("sampling_ratio"), int),
        **_anchors(_dict(rpn_head, "anchor_generator")),
    }
    pooled = _number(_dict(roi_head, "mask_roi_extractor", "roi_layer").get("output_size"), int)
    found["mask_size"] = None if pooled is None else 2 * pooled
    return {name: value for name, value in found.items() if value is not None}


def style(text: str) -> str | None:
    """The backbone's style. A text that is no Python may still say it; the last word is that of the derived part."""
    said = _dict(parse(text), "model", "backbone").get("style")
    if isinstance(said, str):
        return said
    found = re.findall(r"""\bstyle=['"](\w+)['"]""", text)
    return found[-1] if found else None


def normalisation(text: str) -> dict[str, Any]:
    """``mean``, ``std`` and ``rgb``, whether the input is turned to red, green, blue; as far as they are there."""
    config = parse(text)
    said = _dict(config, "model", "data_preprocessor") or _dict(config, "data_preprocessor")
    said = said or _dict(config, "img_norm_cfg") or next(_steps(config, "Normalize"), {})
    found = {name: _numbers(said.get(name)) for name in ("mean", "std")}
    if not said:
        for name in found:
            match = re.search(rf"\b{name}=\[([-+.\de, \n]+)\]", text)
            found[name] = _numbers([float(v) for v in match[1].split(",") if v.strip()]) if match else None
    rgb = said.get("bgr_to_rgb", said.get("to_rgb"))
    if rgb is None and (match := re.search(r"\b(?:to_rgb|bgr_to_rgb)=(True|False)", text)):
        rgb = match[1] == "True"
    return {k: v for k, v in {**found, "rgb": rgb}.items() if v is not None}


def _anchors(generator: Mapping[str, Any]) -> dict[str, Any]:
    scales, strides = _numbers(generator.get("scales")), _numbers(generator.get("strides"), 5)
    ratios = _numbers(generator.get("ratios"))
    found: dict[str, Any] = {}
    if scales and strides:
        found["anchor_sizes"] = tuple(tuple(scale * stride for scale in scales) for stride in strides)
    if ratios and list(ratios) == sorted(ratios):
        found["anchor_ratios"] = ratios
    return found


def _sizes(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Short and long side that pictures are brought to when they are tested; (long, short) or (short, long) there."""
    for step in (*_steps(config, "MultiScaleFlipAug"), *_steps(config, "Resize")):
        pair = _numbers(step.get("scale", step.get("img_scale")), 2)
        if pair and step.get("keep_ratio", True) is True:
            return int(min(pair)), int(max(pair))
    return None


def _steps(config: Mapping[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The steps of that type in the pipeline for tests."""
    pipeline = config.get("test_pipeline", _dict(config, "data", "test").get("pipeline"))
    waiting = list(pipeline) if isinstance(pipeline, list) else []
    for _ in range(100):  # a text may nest one list in another many times over
        if not waiting:
            return
        step = waiting.pop(0)
        if isinstance(step, dict):
            if step.get("type") == kind:
                yield step
            inner = step.get("transforms")
            waiting += inner if isinstance(inner, list) else []


def _dict(config: Any, *path: str) -> dict[str, Any]:
    """The dict at a path of names; empty where there is none."""
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


def _number(value: Any, kind: type = float) -> Any:
    return kind(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _numbers(values: Any, count: int | None = None) -> tuple[float, ...] | None:
    if not isinstance(values, list) or not values or count not in (None, len(values)):
        return None
    found = tuple(_number(value) for value in values)
    return None if None in found else found
