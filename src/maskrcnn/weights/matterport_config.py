"""Matterport's ``Config``: what its attributes mean here, and how to read one from wherever it is.

A ``.h5`` holds arrays only. Image sizes, mean, anchors, thresholds and class names were attributes of a class
in the training script. That script is read here without being run.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import MATTERPORT, Config
from ..errors import ConfigError
from .names import COCO

# Attributes that inference reads, with the defaults of mrcnn/config.py (commit 3deaec5d).
DEFAULTS: dict[str, Any] = {
    "BACKBONE_STRIDES": (4, 8, 16, 32, 64),
    "RPN_ANCHOR_SCALES": (32, 64, 128, 256, 512),
    "RPN_ANCHOR_RATIOS": (0.5, 1, 2),
    "RPN_ANCHOR_STRIDE": 1,
    "RPN_NMS_THRESHOLD": 0.7,
    "PRE_NMS_LIMIT": 6000,
    "POST_NMS_ROIS_INFERENCE": 1000,
    "IMAGE_RESIZE_MODE": "square",
    "IMAGE_MIN_DIM": 800,
    "IMAGE_MAX_DIM": 1024,
    "IMAGE_MIN_SCALE": 0,
    "MEAN_PIXEL": (123.7, 116.8, 103.9),
    "MASK_POOL_SIZE": 14,
    "MASK_SHAPE": (28, 28),
    "RPN_BBOX_STD_DEV": (0.1, 0.1, 0.2, 0.2),
    "BBOX_STD_DEV": (0.1, 0.1, 0.2, 0.2),
    "DETECTION_MAX_INSTANCES": 100,
    "DETECTION_MIN_CONFIDENCE": 0.7,
    "DETECTION_NMS_THRESHOLD": 0.3,
}
# Attributes that the arrays decide: a value that is given has to agree with them.
IN_ARRAYS = {
    "NUM_CLASSES": "classes",
    "IMAGE_CHANNEL_COUNT": "channels",
    "POOL_SIZE": "pool",
    "TOP_DOWN_PYRAMID_SIZE": "fpn",
    "FPN_CLASSIF_FC_LAYERS_SIZE": "fc",
}
CLASS_NAMES = ("CLASS_NAMES", "CLASSES", "class_names", "classes")
READ = frozenset({*DEFAULTS, *IN_ARRAYS, *CLASS_NAMES, "BACKBONE"})
# Attributes of training or of the graph, which change nothing here.
UNREAD = frozenset({
    "NAME", "GPU_COUNT", "IMAGES_PER_GPU", "STEPS_PER_EPOCH", "VALIDATION_STEPS", "COMPUTE_BACKBONE_SHAPE",
    "RPN_TRAIN_ANCHORS_PER_IMAGE", "POST_NMS_ROIS_TRAINING", "USE_MINI_MASK", "MINI_MASK_SHAPE",
    "TRAIN_ROIS_PER_IMAGE", "ROI_POSITIVE_RATIO", "MAX_GT_INSTANCES", "LEARNING_RATE", "LEARNING_MOMENTUM",
    "WEIGHT_DECAY", "LOSS_WEIGHTS", "USE_RPN_ROIS", "TRAIN_BN", "GRADIENT_CLIP_NORM", "BATCH_SIZE",
    "IMAGE_SHAPE", "IMAGE_META_SIZE",
})  # fmt: skip
# Fields of our Config that options cannot change, since the arrays decide them.
STRUCTURE = (
    "depth", "width", "groups", "group_width", "channels", "fpn_channels", "fpn_norm", "rpn_convs", "rpn_channels",
    "box_pool", "box_convs", "box_conv_norm", "box_fcs", "box_fc_norm", "box_features", "class_agnostic_boxes",
    "mask_convs", "mask_channels", "mask_norm", "class_agnostic_masks",
)  # fmt: skip


def to_config(
    settings: Mapping[str, Any], sizes: Mapping[str, int], depth: int, options: Mapping[str, Any]
) -> Config:
    """Our configuration from Matterport's attributes, what the arrays say, and our own options, which win.

    settings : attributes by name; what is missing has Matterport's default
    sizes    : channels, width, fpn, rpn, pool, fc, classes (with background), mask, mask_convs

    Raises ConfigError where they contradict each other, or where a setting cannot be had here.
    """
    given = {**DEFAULTS, **settings}
    mode = given["IMAGE_RESIZE_MODE"] = options.get("resize", given["IMAGE_RESIZE_MODE"])
    _check(given, sizes, depth)
    max_size = int(given["IMAGE_MAX_DIM"] or 0) or DEFAULTS["IMAGE_MAX_DIM"]
    min_size = int(given["IMAGE_MIN_DIM"] or 0) or 1  # none: enlarge nothing
    # Only `square` obeys the larger limit; there, a smaller limit above it never has a say.
    if mode == "square":
        min_size = min(min_size, max_size)
    else:
        max_size = max(min_size, max_size)
    if sizes["channels"] != len(_floats(given["MEAN_PIXEL"])) and "mean" not in options:
        raise ConfigError(
            f"mean: the file has {sizes['channels']} input channels and does not hold their means; "
            "give mean=(...), one value in 0..255 a channel, or config= with a MEAN_PIXEL of that length"
        )
    mean = options.get("mean", _floats(given["MEAN_PIXEL"]))
    config = Config(
        names=_names(settings, sizes["classes"] - 1),
        depth=depth, width=sizes["width"], channels=sizes["channels"], stride_in_1x1=True,
        fpn_channels=sizes["fpn"],
        rpn_channels=sizes["rpn"], rpn_stride=int(given["RPN_ANCHOR_STRIDE"]),
        rpn_std=_std(given["RPN_BBOX_STD_DEV"]),
        anchor_sizes=tuple(_floats(scale) for scale in given["RPN_ANCHOR_SCALES"]),
        anchor_ratios=tuple(sorted(1 / ratio for ratio in _floats(given["RPN_ANCHOR_RATIOS"]))),
        box_pool=sizes["pool"], box_fc_norm=True, box_features=sizes["fc"],
        box_std=_std(given["BBOX_STD_DEV"]),
        mask_size=2 * int(given["MASK_POOL_SIZE"]), mask_convs=sizes["mask_convs"],
        mask_channels=sizes["mask"], mask_norm=True,
        mean=tuple(mean), min_size=min_size, max_size=max_size,
        min_scale=float(given["IMAGE_MIN_SCALE"] or 0),
        rpn_nms=float(given["RPN_NMS_THRESHOLD"]), pre_nms=int(given["PRE_NMS_LIMIT"]),
        proposals=int(given["POST_NMS_ROIS_INFERENCE"]), score=float(given["DETECTION_MIN_CONFIDENCE"] or 0),
        nms=float(given["DETECTION_NMS_THRESHOLD"]), max_detections=int(given["DETECTION_MAX_INSTANCES"]),
        dialect=MATTERPORT,
    ).with_options(resize=mode)  # fmt: skip
    return refine(config, options)


def refine(config: Config, options: Mapping[str, Any]) -> Config:
    """`Config.with_options` for a network whose arrays are there.

    Raises ConfigError for an option that the arrays contradict.
    """
    refined = config.with_options(**options)
    for field in STRUCTURE:
        have, want = getattr(config, field), getattr(refined, field)
        if have != want:
            raise ConfigError(f"{field}: the file's arrays say {have!r}, the options {want!r}; leave it out")
    if refined.num_classes != config.num_classes:
        raise ConfigError(
            f"names: want {config.num_classes}, as many as the file has, background not among them; "
            f"got {refined.num_classes}"
        )
    return refined


def _check(given: Mapping[str, Any], sizes: Mapping[str, int], depth: int) -> None:
    for attribute, size in IN_ARRAYS.items():
        if attribute in given and given[attribute] != sizes[size]:
            raise ConfigError(
                f"{attribute}: the config says {given[attribute]}, the arrays of the file {sizes[size]}; "
                "is it the config of these weights?"
            )
    backbone = given.get("BACKBONE")
    if isinstance(backbone, str) and backbone != f"resnet{depth}":
        raise ConfigError(f"BACKBONE: the config says {backbone}, the arrays of the file resnet{depth}")
    mode = given["IMAGE_RESIZE_MODE"]
    if mode == "crop":
        raise ConfigError(
            "IMAGE_RESIZE_MODE: crop takes random parts of an image and is for training only; "
            "give resize='square', 'pad64' or 'none'"
        )
    if mode not in ("square", "pad64", "none"):
        raise ConfigError(f"IMAGE_RESIZE_MODE: want square, pad64 or none, got {mode!r}")
    if _floats(given["BACKBONE_STRIDES"]) != DEFAULTS["BACKBONE_STRIDES"]:
        raise ConfigError(f"BACKBONE_STRIDES: want 4, 8, 16, 32, 64, got {given['BACKBONE_STRIDES']}")
    if _floats(given["MASK_SHAPE"]) != (2 * given["MASK_POOL_SIZE"],) * 2:
        raise ConfigError(
            f"MASK_SHAPE: want twice MASK_POOL_SIZE, {given['MASK_POOL_SIZE']}, got {given['MASK_SHAPE']}"
        )


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(value))


def _std(value: Any) -> tuple[float, float, float, float]:
    y, x, h, w = _floats(value)
    return x, y, w, h


def _names(settings: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    given = next((settings[key] for key in CLASS_NAMES if key in settings), None)
    if given is None:
        return COCO if classes == len(COCO) else tuple(f"class_{i}" for i in range(1, classes + 1))
    names = tuple(str(name) for name in given)
    if len(names) == classes + 1:  # Matterport's lists begin with the background, "BG"
        names = names[1:]
    if len(names) != classes:
        raise ConfigError(f"class names: want {classes}, or background and {classes}, got {len(names)}")
    return names


# --- reading ---


def read_settings(source: Any) -> dict[str, Any]:
    """Attributes of a Matterport ``Config``: a class or an instance, a dict, or the path of a .json or .py.

    A ``.py`` is parsed, never run; ``train.py:BalloonConfig`` names the class where a file has several.
    Raises ConfigError for a source that holds no such attributes, or one that only running it would tell.
    """
    if isinstance(source, (str, Path)):
        return _from_file(str(source))
    if isinstance(source, Mapping):
        unknown = sorted(str(key) for key in source.keys() - READ - UNREAD)
        if unknown:
            raise ConfigError(
                f"config: {', '.join(unknown)}: no attribute of a Matterport Config; "
                f"there are: {', '.join(sorted(READ | UNREAD))}"
            )
        return {key: source[key] for key in source if key in READ}
    found = {key: getattr(source, key) for key in READ if hasattr(source, key)}
    if not found:
        raise ConfigError(
            f"config: want a Matterport Config, a dict, a .json or a .py of one, got {source!r}"
        )
    if found.get("NUM_CLASSES") == 1:  # the base class's own value: not yet told
        del found["NUM_CLASSES"]
    return found


def _from_file(source: str) -> dict[str, Any]:
    path, _, name = source.rpartition(":") if ".py:" in source else (source, "", "")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from None
    if path.lower().endswith(".py"):
        return _from_python(text, path, name)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"config: want a .json or .py, got {path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config: want one JSON object in {path}, got a {type(values).__name__}")
    return read_settings(values)


def _from_python(text: str, path: str, name: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(f"config: {path} is not Python 3: {error}") from None
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    module: dict[str, Any] = {}
    for node in tree.body:
        _assign(node, module, {})
    scopes = {key: _scope(node, classes, module) for key, node in classes.items()}
    configs = {key for key, scope in scopes.items() if scope.keys() & READ}
    bases = {base for key in configs for base in _bases(classes[key])}
    leaves = [name] if name else sorted(configs - bases)
    if len(leaves) != 1 or leaves[0] not in configs:
        raise ConfigError(
            f"config: want one class of Matterport's attributes in {path}, got {', '.join(leaves) or 'none'}"
            + (f"; name one, such as {path}:{leaves[0]}" if len(leaves) > 1 else "")
        )
    scope = scopes[leaves[0]]
    for key in READ & scope.keys():
        if isinstance(scope[key], _Unread):
            raise ConfigError(
                f"config: {key} in {path}, line {scope[key].line}, takes running the file to know; "
                "give config= a dict with its value"
            )
    return {key: scope[key] for key in READ & scope.keys()}


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]


def _scope(
    node: ast.ClassDef,
    classes: Mapping[str, ast.ClassDef],
    module: dict[str, Any],
    below: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Attributes of a class, those of its bases in the same file included."""
    scope: dict[str, Any] = {}
    for base in reversed(_bases(node)):
        if base in classes and base not in (node.name, *below):
            scope |= _scope(classes[base], classes, module, (*below, node.name))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            for inner in statement.body:
                _assign(inner, scope, module)
        else:
            _assign(statement, scope, module)
    return scope


class _Unread:
    """A value that cannot be had without running the file."""

    def __init__(self, line: int) -> None:
        self.line = line


def _assign(node: ast.stmt, scope: dict[str, Any], outer: Mapping[str, Any]) -> None:
    """Carry out one assignment to a name or to an attribute of ``self``."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        try:
            value = _value(node.value, {**outer, **scope})
        except (ValueError, TypeError, ArithmeticError):
            value = _Unread(node.lineno)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, (ast.Name, ast.Attribute)):
                scope[target.id if isinstance(target, ast.Name) else target.attr] = value
                continue
            scope.update({n.id: _Unread(node.lineno) for n in ast.walk(target) if isinstance(n, ast.Name)})
        return
    for inner in ast.walk(node):  # under an if, a for, a try: who knows
        if isinstance(inner, (ast.Name, ast.Attribute)) and isinstance(inner.ctx, ast.Store):
            scope[inner.id if isinstance(inner, ast.Name) else inner.attr] = _Unread(inner.lineno)


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_CALLS: dict[str, Callable[..., Any]] = {
    "len": len, "int": int, "float": float, "round": round,
    "tuple": tuple, "list": list, "min": min, "max": max,
}  # fmt: skip


def _value(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    """A literal, arithmetic on literals, np.array of them, or a name that has one. Raises ValueError else."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple() | ast.List():
            return [_value(e, scope) for e in node.elts]
        case ast.Name() if node.id in scope and not isinstance(scope[node.id], _Unread):
            return scope[node.id]
        case ast.Attribute(value=ast.Name(id="self")) if node.attr in scope:
            return _value(ast.Name(node.attr), scope)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = _value(node.operand, scope)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            left, right = _value(node.left, scope), _value(node.right, scope)
            power = isinstance(node.op, ast.Pow) and not abs(right) <= 64
            repeated = isinstance(node.op, ast.Mult) and (isinstance(left, list) or isinstance(right, list))
            if power or repeated:
                raise ValueError("too big to be a setting")
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
            return _CALLS[name](*(_value(a, scope) for a in node.args))
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="array" | "asarray")):
            return np.asarray(_value(node.args[0], scope))
    raise ValueError("not a literal")
