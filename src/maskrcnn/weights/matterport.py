"""Matterport's arrays as ours: one table of names and shapes, and what differs between the conventions.

Matterport's habits are folded into the tensors, each exactly:
  convolution bias     into the mean of the batch norm behind it       mean' = mean - bias
  epsilon 1e-3         into its variance, as our norms have 1e-5       variance' = variance + 1e-3 - 1e-5
  two-way objectness   to one logit                                    foreground - background
  deltas dy dx dh dw   to dx dy dw dh
  anchor ratios w/h    to h/w ascending, so anchors change places
  background row       first to last for classes; dropped for boxes and masks, which it never had
The unit of the proposals' deltas (RPN_BBOX_STD_DEV) stays a setting, `Config.rpn_std`: losses are in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError, WeightsError
from .matterport_config import DEFAULTS, to_config

# layer, the batch norm behind it, our name, shape of its kernel. {s} is a stage, {b} the letter and {i} the
# number of a block, {k} that of a mask convolution. Kernels are (height, width, in, out), dense layers (in,
# out), the transposed convolution (height, width, OUT, IN).
TABLE = (
    ("conv1",              "bn_conv1",          "backbone.stem",              "7 7 channels width"),
    ("res{s}{b}_branch2a", "bn{s}{b}_branch2a", "backbone.s{s}.{i}.conv1",    "1 1 in{s}_{i} mid{s}"),
    ("res{s}{b}_branch2b", "bn{s}{b}_branch2b", "backbone.s{s}.{i}.conv2",    "3 3 mid{s} mid{s}"),
    ("res{s}{b}_branch2c", "bn{s}{b}_branch2c", "backbone.s{s}.{i}.conv3",    "1 1 mid{s} out{s}"),
    ("res{s}a_branch1",    "bn{s}a_branch1",    "backbone.s{s}.0.shortcut",   "1 1 in{s}_0 out{s}"),
    ("fpn_c{s}p{s}",       "",                  "fpn.lateral{s}",             "1 1 out{s} fpn"),
    ("fpn_p{s}",           "",                  "fpn.output{s}",              "3 3 fpn fpn"),
    ("rpn_conv_shared",    "",                  "rpn.conv1",                  "3 3 fpn rpn"),
    ("rpn_class_raw",      "",                  "rpn.objectness",             "1 1 rpn 2*anchors"),
    ("rpn_bbox_pred",      "",                  "rpn.deltas",                 "1 1 rpn 4*anchors"),
    ("mrcnn_class_conv1",  "mrcnn_class_bn1",   "box.fc1",                    "pool pool fpn fc"),
    ("mrcnn_class_conv2",  "mrcnn_class_bn2",   "box.fc2",                    "1 1 fc fc"),
    ("mrcnn_class_logits", "",                  "box.class_logits",           "fc classes"),
    ("mrcnn_bbox_fc",      "",                  "box.deltas",                 "fc 4*classes"),
    ("mrcnn_mask_conv{k}", "mrcnn_mask_bn{k}",  "mask.conv{k}",               "3 3 mask_in{k} mask"),
    ("mrcnn_mask_deconv",  "",                  "mask.deconv",                "2 2 mask mask"),
    ("mrcnn_mask",         "",                  "mask.logits",                "1 1 mask classes"),
)  # fmt: skip
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
YX_TO_XY = [1, 0, 3, 2]
KERAS_EPSILON, OUR_EPSILON = 1e-3, 1e-5


@dataclass(frozen=True)
class Row:
    """One line of the table, its letters filled in."""

    layer: str
    norm: str
    native: str
    shape: tuple[str, ...]


def read(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of a Matterport checkpoint.

    arrays   : every array of the file by its path in it, such as ``conv1/conv1/kernel:0``; prefixes such as
               ``model_weights/``, endings such as ``_1`` and optimizer state don't matter
    settings : attributes of the Matterport ``Config`` it was trained with; its defaults for what is missing
    options  : our fields, see `Config.with_options`; they win over ``settings``

    With ``anchor_ratios`` among the options, the file's anchors are taken to be in the order of Matterport's
    default: tall ones first. Raises WeightsError for missing, surplus, misshapen or not finite arrays, and
    ConfigError where settings contradict the arrays.
    """
    found, paths = by_layer(arrays)
    table = rows(*_depth(found))
    _check_names(table, found, paths)
    filled = sizes(found)
    _check_arrays(table, found, paths, filled)
    config, order = configure(filled, settings or {}, options)
    return config, to_state(table, {key: _tensor(array) for key, array in found.items()}, order)


def to_state(table: Sequence[Row], arrays: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """State dict (float32, our names) of arrays by ``layer/parameter``; gradients flow back to the arrays.

    order : for each of our anchors the number of theirs, see `configure`
    """
    state: dict[str, Tensor] = {}
    for row in table:
        state.update(_convert(row, arrays, order))
    return state


# --- names ---


def is_matterport(paths: Collection[str]) -> bool:
    """Whether these arrays have a layer that no other network has: the class scores of Matterport's."""
    return any("mrcnn_class_logits" in path for path in paths)


def describe(paths: Collection[str]) -> str:
    """What an HDF5 file without Matterport's heads is, for an error message."""
    layers = {_plain(part) for path in paths for part in path.split("/")}
    blocks = {layer[4] for layer in layers if re.fullmatch(r"res4[a-z]_branch2a", layer)}
    if blocks:
        depth = 101 if len(blocks) > 6 else 50
        return f"the backbone alone of a ResNet-{depth}, such as ImageNet weights, without FPN, RPN and heads"
    if any(re.search(r"(^|/)layers/.*/vars/\d+$", path) for path in paths):
        return (
            "Keras 3's .weights.h5 layout, which numbers arrays rather than naming their layers; "
            "save it with the framework that wrote it as a legacy .h5 (Keras 2: save_weights('x.h5'))"
        )
    if not paths:
        return "an HDF5 file without any array"
    return f"an HDF5 file of {len(paths)} other arrays, {', '.join(sorted(paths)[:3])} among them"


def _plain(layer: str) -> str:
    """Keras appends _1, _2 to a layer's name when a session builds the model more than once."""
    return re.sub(r"_\d+$", "", layer)


def by_layer(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and their paths by ``layer/parameter``: ``conv1/kernel``."""
    found: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}
    twice = []
    for path, array in arrays.items():
        parts = [_plain(part) for part in path.strip("/").split("/")]
        # TF2 forks keep the anchors in a layer of that name. They follow from the settings.
        if "optimizer_weights" in parts or "anchors" in parts or len(parts) < 2:
            continue
        # The innermost name that is one of Matterport's: wrappers put their own around it or inside it.
        layer = next((part for part in reversed(parts[:-1]) if _LAYER.fullmatch(part)), parts[-2])
        key = f"{layer}/{_plain(parts[-1].split(':')[0])}"
        if key in found:
            twice.append(f"{paths[key]} and {path}")
        found[key], paths[key] = array, path
    if twice:
        raise WeightsError(f"want one array for each parameter, got two: {'; '.join(twice)}")
    return found, paths


def _pattern(name: str) -> str:
    return name.replace("{s}", "[2-5]").replace("{b}", "[a-z]").replace("{k}", r"\d")


_LAYER = re.compile("|".join(_pattern(name) for layer, norm, *_ in TABLE for name in (layer, norm) if name))


def _depth(found: Collection[str]) -> tuple[int, int]:
    """The depth of the backbone, and the number of mask convolutions."""
    letters = {key[4] for key in found if re.match(r"res4[a-z]_branch2a/", key)}
    mask_convs = max((int(key[15]) for key in found if re.match(r"mrcnn_mask_conv\d/", key)), default=4)
    return 101 if max(letters, default="a") > "f" else 50, mask_convs


def rows(depth: int, mask_convs: int = 4) -> list[Row]:
    """The table with its letters filled in."""
    return list(_rows(BLOCKS[depth], mask_convs))


def _rows(blocks: Sequence[int], mask_convs: int) -> Iterator[Row]:
    for names in TABLE:
        stages = range(2, 6) if "{s}" in names[2] else [0]
        for s in stages:
            numbers = range(blocks[s - 2]) if "{i}" in names[2] else [0]
            for i in numbers:
                for k in range(1, mask_convs + 1) if "{k}" in names[2] else [0]:
                    layer, norm, native, shape = (n.format(s=s, i=i, b=chr(97 + i), k=k) for n in names)
                    yield Row(layer, norm, native, tuple(shape.split()))


def _keys(row: Row) -> tuple[list[str], list[str]]:
    """Arrays that a row needs, and those that it takes where they are.

    Early releases had no bias in front of a batch norm.
    """
    if not row.norm:
        return [f"{row.layer}/kernel", f"{row.layer}/bias"], []
    return [f"{row.layer}/kernel", *(f"{row.norm}/{p}" for p in NORM)], [f"{row.layer}/bias"]


def _check_names(table: Sequence[Row], found: Mapping[str, np.ndarray], paths: Mapping[str, str]) -> None:
    needed = {key for row in table for key in _keys(row)[0]}
    known = needed.union(*(_keys(row)[1] for row in table))
    missing = sorted(needed - found.keys())
    surplus = sorted(found.keys() - known)
    if missing or surplus:
        sides = {f"{row.layer}/kernel": " x ".join(row.shape) for row in table}
        lines = [f"missing: {key}" + (f" ({sides[key]})" if key in sides else "") for key in missing]
        lines += [f"surplus: {paths[key]} {tuple(found[key].shape)}" for key in surplus]
        raise WeightsError(
            f"want the arrays of a Mask R-CNN by Matterport, each once; {len(missing)} are missing and "
            f"{len(surplus)} are not known here:\n  " + "\n  ".join(lines)
        )


# --- sizes ---


def sizes(found: Mapping[str, np.ndarray | Tensor]) -> dict[str, int]:
    """The numbers behind the letters of the table's shapes."""

    def shape(layer: str, rank: int) -> tuple[int, ...]:
        got = found[f"{layer}/kernel"].shape
        if len(got) != rank:
            raise WeightsError(f"{layer}/kernel: want an array of {rank} dimensions, got the shape {got}")
        return got

    _, _, channels, width = shape("conv1", 4)
    fpn, rpn = shape("fpn_c5p5", 4)[3], shape("rpn_conv_shared", 4)[3]
    pool, _, _, fc = shape("mrcnn_class_conv1", 4)
    depth, convs = _depth(found)
    return fill_sizes(
        depth, channels=channels, width=width, fpn=fpn, rpn=rpn, pool=pool, fc=fc,
        anchors=shape("rpn_bbox_pred", 4)[3] // 4, classes=shape("mrcnn_class_logits", 2)[1],
        mask=shape("mrcnn_mask_conv1", 4)[3], mask_convs=convs,
    )  # fmt: skip


def fill_sizes(depth: int, **sizes: int) -> dict[str, int]:
    """All letters of the table's shapes from the independent ones.

    sizes : channels, width, fpn, rpn, anchors, pool, fc, classes (with background), mask, mask_convs
    """
    sizes |= {f"{c}*{name}": c * sizes[name] for c, name in ((2, "anchors"), (4, "anchors"), (4, "classes"))}
    sizes |= {f"mask_in{k}": sizes["fpn" if k == 1 else "mask"] for k in range(1, sizes["mask_convs"] + 1)}
    width = before = sizes["width"]
    for s, blocks in enumerate(BLOCKS[depth], 2):
        mid, out = width * 2 ** (s - 2), width * 2**s
        sizes |= {f"blocks{s}": blocks, f"mid{s}": mid, f"out{s}": out}
        sizes |= {f"in{s}_{i}": before if i == 0 else out for i in range(blocks)}
        before = out
    return sizes


def shapes(row: Row, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a row, in Keras's order within a layer."""
    kernel = tuple(int(d) if d.isdigit() else sizes[d] for d in row.shape)
    out = (kernel[2] if row.native == "mask.deconv" else kernel[-1],)
    norm = {f"{row.norm}/{name}": out for name in NORM} if row.norm else {}
    return {f"{row.layer}/kernel": kernel, f"{row.layer}/bias": out, **norm}


def _check_arrays(
    table: Sequence[Row], found: Mapping[str, np.ndarray], paths: Mapping[str, str], sizes: Mapping[str, int]
) -> None:
    """Every shape follows from the others, and every number is one."""
    wrong = []
    for row in table:
        for key, want in shapes(row, sizes).items():
            if key not in found:  # the bias in front of a norm
                continue
            array = found[key]
            if array.shape != want:
                wrong.append(f"{paths[key]}: want {want}, got {array.shape}")
            elif not np.isfinite(array).all():
                wrong.append(f"{paths[key]}: want finite numbers, got NaN or infinity; training diverged")
    if wrong:
        raise WeightsError(f"{len(wrong)} arrays do not fit:\n  " + "\n  ".join(wrong))
    if sizes["classes"] < 2:
        raise WeightsError(
            "want background and at least one class, got one row of class scores: NUM_CLASSES was 1"
        )


# --- settings ---


def configure(
    sizes: Mapping[str, int], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Config, list[int]]:
    """The configuration, and for each of our anchors the number of the file's."""
    depth = next(depth for depth, blocks in BLOCKS.items() if blocks[2] == sizes["blocks4"])
    config = to_config(settings, sizes, depth, options)
    ratios = np.ravel(settings.get("RPN_ANCHOR_RATIOS", DEFAULTS["RPN_ANCHOR_RATIOS"])).astype(float)
    if "anchor_ratios" in options and "RPN_ANCHOR_RATIOS" not in settings:
        ratios = 1 / np.asarray(config.anchor_ratios[::-1], float)
    if config.anchors_per_cell != sizes["anchors"] or len(ratios) != len(config.anchor_ratios):
        raise ConfigError(
            f"anchor_ratios: the file has {sizes['anchors']} anchors at each position, the settings "
            f"{config.anchors_per_cell}; give anchor_ratios=(...) as h/w ascending, or config="
        )
    # Matterport counts anchors ratio by ratio, and sizes within one; we count size by size.
    numbers = np.arange(sizes["anchors"]).reshape(len(ratios), -1)
    return config, numbers[np.argsort(1 / ratios, kind="stable")].T.ravel().tolist()


# --- tensors ---


def _convert(row: Row, found: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of one row, by our names."""
    kernel = found[f"{row.layer}/kernel"]
    weight = (kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T).contiguous()
    if row.native.startswith("box."):
        weight = weight.flatten(1)
    bias = found.get(f"{row.layer}/bias")
    if row.norm:
        norm = {ours: found[f"{row.norm}/{theirs}"].double() for theirs, ours in NORM.items()}
        norm["running_mean"] = norm["running_mean"] - (0 if bias is None else bias.double())
        norm["running_var"] = norm["running_var"] + (KERAS_EPSILON - OUR_EPSILON)
        tensors = {"weight": weight, **{f"norm.{name}": value for name, value in norm.items()}}
    else:
        assert bias is not None  # its name was checked
        rows_first = _ROWS.get(row.native, lambda rows, _: rows)
        tensors = {"weight": rows_first(weight, order), "bias": rows_first(bias, order)}
    return {f"{row.native}.{name}": value.float().contiguous() for name, value in tensors.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _one_logit(rows: Tensor, order: Sequence[int]) -> Tensor:
    """(2a, ...) background and foreground in turn, to (a, ...)."""
    pairs = rows.unflatten(0, (-1, 2))[list(order)]
    return pairs[:, 1] - pairs[:, 0]


def _anchor_deltas(rows: Tensor, order: Sequence[int]) -> Tensor:
    """(4a, ...) dy dx dh dw of each anchor."""
    return rows.unflatten(0, (-1, 4))[list(order)][:, YX_TO_XY].flatten(0, 1)


def _class_deltas(rows: Tensor, order: Sequence[int]) -> Tensor:
    """(4 (k + 1), ...) dy dx dh dw of each class, background first."""
    return rows.unflatten(0, (-1, 4))[1:, YX_TO_XY].flatten(0, 1)


_ROWS: dict[str, Callable[[Tensor, Sequence[int]], Tensor]] = {
    "rpn.objectness": _one_logit,
    "rpn.deltas": _anchor_deltas,
    "box.class_logits": lambda rows, _: rows.roll(-1, 0),
    "box.deltas": _class_deltas,
    "mask.logits": lambda rows, _: rows[1:],
}
