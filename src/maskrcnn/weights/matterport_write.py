"""Our weights as a Matterport ``.h5``, by the same table that reads one: each convention undone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..errors import WeightsError
from ..model.layers import NORM_EPS
from . import keras, matterport
from .matterport import KERAS_EPSILON, NORM, TABLE, YX_TO_XY

UNITS = (0.1, 0.1, 0.2, 0.2)  # of Matterport's deltas, unless its Config says otherwise


def write(config: Config, state: Mapping[str, Tensor], path: Path) -> None:
    """A file with every layer of Keras's, in its order, so that ``load_weights(path, by_name=True)`` finds all arrays.

    The settings go into a Matterport ``Config`` by hand. A norm that Matterport's network has and ours lacks becomes
    one that changes nothing; one that it lacks is folded into the layer before it. Deltas are in the units of its
    default ``RPN_BBOX_STD_DEV`` and ``BBOX_STD_DEV``.

    Raises WeightsError for networks that Matterport's code cannot build.
    """
    wanted = {"depth": (50, 101), "groups": (1,), "stride_in_1x1": (True,), "rpn_convs": (1,), "box_convs": (0,),
              "box_fcs": (2,), "mask_convs": (4,), "class_agnostic_boxes": (False,),
              "class_agnostic_masks": (False,)}  # fmt: skip
    for field, values in wanted.items():
        if getattr(config, field) not in values:
            raise WeightsError(
                f"{field}: Matterport's network has {' or '.join(map(str, values))}, "
                f"this one {getattr(config, field)}; save as .safetensors"
            )
    arrays: dict[str, Tensor] = {}
    for name in (n.removesuffix(".weight") for n in state if n.endswith(".weight") and ".norm." not in n):
        layer, norm = _names(name)
        tensors = {
            k: state[f"{name}.{k}"].detach().cpu().double()
            for k in ("weight", "bias")
            if f"{name}.{k}" in state
        }
        stats = {
            k: state[f"{name}.norm.{k}"].detach().cpu().double()
            for k in NORM.values()
            if f"{name}.norm.{k}" in state
        }
        weight = tensors["weight"]
        bias = tensors.get("bias", weight.new_zeros(len(weight)))
        if stats and not norm:
            scale = stats["weight"] / (stats["running_var"] + NORM_EPS).sqrt()
            weight, bias = (
                weight * scale.reshape(-1, *[1] * (weight.ndim - 1)),
                stats["bias"] - stats["running_mean"] * scale,
            )
        weight, bias = (_rows(name, rows, config) for rows in (weight, bias))
        arrays[f"{layer}/kernel"] = _kernel(name, weight, config)
        arrays[f"{layer}/bias"] = torch.zeros_like(bias) if norm else bias
        if norm:
            arrays |= {f"{norm}/{key}": values for key, values in _norm(stats, bias).items()}
    network = keras.layers(matterport.rows(config.depth), matterport.sizes(arrays), config.depth)
    keras.save(path, network, {key: array.float() for key, array in arrays.items()})


def _names(native: str) -> tuple[str, str]:
    """Matterport's layer, and the norm behind it ("" for none), for one of ours."""
    for layer, norm, ours, _ in TABLE:
        match = re.fullmatch(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(ours)), native)
        if match:
            letters = match.groupdict()
            letters["b"] = chr(97 + int(letters.get("i", 0)))
            return layer.format(**letters), norm.format(**letters)
    raise WeightsError(f"{native}: Matterport's network has no such layer; save as .safetensors")


def _rows(name: str, rows: Tensor, config: Config) -> Tensor:
    """Output rows of one layer in Matterport's order and units."""
    if name == "rpn.objectness":  # softmax over (0, x) is the sigmoid of x
        rows = _anchors_back(rows[:, None], config)
        return torch.cat([torch.zeros_like(rows), rows], dim=1).flatten(0, 1)
    if name == "rpn.deltas":
        return _anchors_back(_units(rows, config.rpn_std), config)[:, YX_TO_XY].flatten(0, 1)
    if name == "box.class_logits":
        return rows.roll(1, 0)
    if name == "box.deltas":
        deltas = _units(rows, config.box_std)[:, YX_TO_XY].flatten(0, 1)
        return torch.cat([deltas.new_zeros(4, *deltas.shape[1:]), deltas])
    if name == "mask.logits":
        return torch.cat([rows.new_zeros(1, *rows.shape[1:]), rows])
    return rows


def _units(rows: Tensor, std: tuple[float, ...]) -> Tensor:
    """(4n, ...) to (n, 4, ...) in Matterport's units."""
    factor = torch.tensor(std, dtype=torch.float64) / torch.tensor(UNITS, dtype=torch.float64)
    groups = rows.unflatten(0, (-1, 4))
    return groups * factor.reshape(1, 4, *[1] * (groups.ndim - 2))


def _anchors_back(rows: Tensor, config: Config) -> Tensor:
    """(a, ...) from size by size, h/w ascending, to ratio by ratio, w/h ascending."""
    ratios = len(config.anchor_ratios)
    return rows.unflatten(0, (-1, ratios)).flip(1).transpose(0, 1).flatten(0, 1)


def _kernel(name: str, weight: Tensor, config: Config) -> Tensor:
    if name in ("box.fc1", "box.fc2"):
        side = config.box_pool if name == "box.fc1" else 1
        weight = weight.unflatten(1, (-1, side, side))
    return keras.from_torch(weight)


def _norm(stats: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
    """Keras's four arrays, which have its epsilon; without ``stats`` those of a norm that adds the bias."""
    if not stats:
        one = torch.ones_like(bias)
        stats = {"weight": one, "bias": bias, "running_mean": 0 * one, "running_var": one - NORM_EPS}
    wanted = stats["running_var"] + NORM_EPS
    variance = (wanted - KERAS_EPSILON).clamp(min=0)
    weight = torch.where(
        wanted < KERAS_EPSILON,
        stats["weight"] * ((variance + KERAS_EPSILON) / wanted).sqrt(),
        stats["weight"],
    )
    values = {**stats, "weight": weight, "running_var": variance}
    return {theirs: values[ours] for theirs, ours in NORM.items()}
