"""State dicts of other PyTorch code as ours: names by a table, the architecture from shapes, conventions folded in.

Each exactly, or to float32 rounding:
  background row        first to last for classes; dropped for boxes and masks, which never used it
  blue, green, red      to red, green, blue: the first convolution's input channels change places
  standard deviations   of the input into the first convolution
  batch norm's epsilon  into its variance, as our norms have 1e-5
  anchors               ratio by ratio to size by size, where a level has anchors of several sizes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError, WeightsError
from ..model import MaskRCNN
from ..model.layers import NORM_EPS
from ..model.resnet import BLOCKS
from .matterport_config import refine
from .names import default_names
from .tables import Table, rename, spell

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "weights", "blobs")
NORM = ("weight", "bias", "running_mean", "running_var")
PER_ANCHOR = {"rpn.objectness": 1, "rpn.deltas": 4}  # rows for each anchor of a cell
PREFIXES = ("module.", "_orig_mod.", "model.", "detector.")


@dataclass(frozen=True)
class Conventions:
    """What the arrays of a checkpoint mean, where they don't say it themselves.

    known   : pattern of names that are known and not needed
    bgr     : input channels are blue, green, red
    ratio_major : the anchors of a cell are listed ratio by ratio, else size by size
    std     : the input is divided by these, in the order of its channels
    epsilon : of every batch norm
    """

    table: Table
    known: str
    background_first: bool = False
    bgr: bool = False
    ratio_major: bool = False
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    epsilon: float = NORM_EPS


def find_state(content: Any) -> dict[str, Tensor]:
    """The arrays of a checkpoint by name, out of what training scripts wrap around them; empty if it has none."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def read(
    arrays: Mapping[str, Tensor],
    conventions: Conventions,
    fields: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names).

    fields  : of our `Config`, as the framework that wrote the file has them
    options : the same, as the user wants them; and what is folded in, where the file was made otherwise than its
              framework's published ones: ``input_order`` ("RGB" or "BGR"), ``input_std`` in that order,
              ``norm_epsilon`` of every batch norm

    Raises WeightsError that lists missing, surplus, misshapen and not finite arrays, and ConfigError for options
    that the arrays contradict.
    """
    conventions, options = adjust(conventions, options)
    named, theirs, surplus = rename(arrays, conventions.table, conventions.known)
    try:
        found = architecture(named, conventions.background_first)
    except KeyError as error:
        raise _misfit([f"missing: {spell(str(error.args[0]), conventions.table)}"], surplus, arrays) from None
    classes = found.pop("classes")
    names = tuple(fields.get("names", default_names(classes)))
    if len(names) != classes:
        raise WeightsError(f"want {classes} class names, as the arrays have rows, the file has {len(names)}")
    if found["channels"] != 3 and "mean" not in options:
        raise ConfigError(
            f"mean: the file has {found['channels']} input channels and does not hold their means; give mean=(...), "
            "one value in 0..255 a channel, and input_std=(...) if the input was divided by deviations"
        )
    mean = {"mean": tuple(options["mean"])} if "mean" in options else {}
    config = refine(Config(**{**found, **fields, **mean, "names": names}), options)
    _check_anchors(config, named)
    state = convert(named, conventions, config)
    _check(config, state, theirs, surplus, arrays, conventions.table)
    return config, state


def adjust(conventions: Conventions, options: Mapping[str, Any]) -> tuple[Conventions, dict[str, Any]]:
    """Conventions as the options want them, and the options that are left."""
    options = dict(options)
    order, std = options.pop("input_order", None), options.pop("input_std", None)
    epsilon = options.pop("norm_epsilon", None)
    if order not in (None, "RGB", "BGR"):
        raise ConfigError(f"input_order: want 'RGB' or 'BGR', got {order!r}")
    changes: dict[str, Any] = {} if order is None else {"bgr": order == "BGR"}
    if std is not None:
        changes["std"] = tuple(float(value) for value in std)
    elif order is not None and (order == "BGR") != conventions.bgr:
        changes["std"] = conventions.std[::-1]
    if epsilon is not None:
        changes["epsilon"] = float(epsilon)
    return replace(conventions, **changes), options


def write(config: Config, state: Mapping[str, Tensor], conventions: Conventions) -> dict[str, Tensor]:
    """The inverse of `read`: arrays by the names and in the conventions of another framework.

    A norm that the framework has no place for is folded into the layer before it, which needs no name for it.
    Background rows of boxes and masks, which nothing reads, are zero. Raises WeightsError for what has no name, and
    for a network that the framework cannot build.
    """
    if config.rpn_stride != 1:
        raise WeightsError("rpn_stride: the other framework's is 1, this network's 2; save as .safetensors")
    if conventions.background_first and (config.class_agnostic_boxes or config.class_agnostic_masks):
        raise WeightsError(
            "class_agnostic_*: the other framework's heads have rows for each class; save as .safetensors"
        )
    layers = sorted(
        {name.removesuffix(".weight") for name in state if name.endswith(".weight") and ".norm." not in name}
    )
    arrays: dict[str, Tensor] = {}
    for layer in layers:
        tensors = {
            key: state[f"{layer}.{key}"].detach().cpu()
            for key in ("weight", "bias")
            if f"{layer}.{key}" in state
        }
        tensors = _outward(layer, tensors, config, conventions)
        if conventions.ratio_major and layer in PER_ANCHOR:
            ratios, rows = len(config.anchor_ratios), PER_ANCHOR[layer]
            tensors = {key: _turn(value, ratios, rows) for key, value in tensors.items()}
        norm = {
            key: state[f"{layer}.norm.{key}"].detach().cpu() for key in NORM if f"{layer}.norm.{key}" in state
        }
        if norm and spell(f"{layer}.norm.weight", conventions.table) == f"{layer}.norm.weight":
            scale = norm["weight"] * torch.rsqrt(norm["running_var"] + NORM_EPS)
            tensors["weight"] = tensors["weight"] * scale.reshape(-1, *[1] * (tensors["weight"].ndim - 1))
            tensors["bias"] = norm["bias"] - norm["running_mean"] * scale
            norm = {}
        for key, value in (*tensors.items(), *((f"norm.{k}", v) for k, v in norm.items())):
            name = spell(f"{layer}.{key}", conventions.table)
            if name == f"{layer}.{key}":
                raise WeightsError(f"{name}: the other framework has no such layer; save as .safetensors")
            arrays[name] = value.contiguous()
    return arrays


def _outward(
    layer: str, tensors: dict[str, Tensor], config: Config, conventions: Conventions
) -> dict[str, Tensor]:
    """Weight and bias of one layer in the conventions of another framework."""
    if layer == "backbone.stem":
        stem = tensors["weight"].flip(1) if conventions.bgr else tensors["weight"]
        std = torch.tensor(conventions.std, dtype=torch.float64)[:, None, None]
        return {**tensors, "weight": (stem.double() * std).float()}
    if layer == "rpn.deltas":  # the others' are in units of 1
        tensors = _units(tensors, config.rpn_std, (1.0, 1.0, 1.0, 1.0))
    if layer == "box.deltas":
        tensors = _units(tensors, config.box_std, (0.1, 0.1, 0.2, 0.2))
    if layer == "box.class_logits" and conventions.background_first:
        return {key: value.roll(1, 0) for key, value in tensors.items()}
    rows = {"box.deltas": 4, "mask.logits": 1}.get(layer, 0)
    if rows and conventions.background_first:
        return {k: torch.cat([v.new_zeros(rows, *v.shape[1:]), v]) for k, v in tensors.items()}
    return tensors


def _units(
    tensors: dict[str, Tensor], ours: tuple[float, ...], theirs: tuple[float, ...]
) -> dict[str, Tensor]:
    """Rows of deltas in other units; as they are where these are the same."""
    if ours == theirs:
        return tensors
    factor = torch.tensor([a / b for a, b in zip(ours, theirs, strict=True)], dtype=torch.float64)
    return {
        key: (value.double() * factor.repeat(len(value) // 4).reshape(-1, *[1] * (value.ndim - 1))).float()
        for key, value in tensors.items()
    }


# --- architecture ---


def backbone(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of `Config` that the backbone's shapes decide. Raises KeyError with our name of a missing array."""
    width, channels = named["backbone.stem.weight"].shape[:2]
    blocks = tuple(
        sum(bool(re.fullmatch(rf"backbone\.s{s}\.\d+\.conv1\.weight", name)) for name in named)
        for s in range(2, 6)
    )
    bottleneck = "backbone.s2.0.conv3.weight" in named
    depth = next((d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck), None)
    if depth is None:
        raise WeightsError(
            f"want a ResNet of depth 18, 34, 50, 101 or 152, got {blocks} blocks in its stages"
        )
    mid, per_group = named["backbone.s2.0.conv2.weight"].shape[:2]
    return {
        "depth": depth, "width": width, "channels": channels,
        "groups": mid // per_group if bottleneck else 1,
        "group_width": per_group if bottleneck and mid != width else None,
    }  # fmt: skip


def architecture(named: Mapping[str, Tensor], background_first: bool = False) -> dict[str, Any]:
    """Fields of `Config` that the shapes decide, and ``classes``. Raises KeyError with our name of a missing array.

    background_first: boxes and masks have rows for the background
    """

    def shape(name: str) -> tuple[int, ...]:
        return tuple(named[f"{name}.weight"].shape)

    def count(pattern: str) -> int:
        return sum(bool(re.fullmatch(pattern, name)) for name in named)

    fpn = shape("fpn.lateral5")[0]
    classes = shape("box.class_logits")[0] - 1
    fc, flat = shape("box.fc1")
    deltas, masks = (
        rows - background_first for rows in (shape("box.deltas")[0] // 4, shape("mask.logits")[0])
    )
    return {
        **backbone(named),
        "fpn_channels": fpn, "fpn_norm": "fpn.lateral5.norm.weight" in named,
        "rpn_convs": count(r"rpn\.conv\d+\.weight"), "rpn_channels": shape("rpn.objectness")[1],
        "box_pool": round((flat / fpn) ** 0.5), "box_features": fc,
        "box_convs": count(r"box\.conv\d+\.weight"), "box_fcs": count(r"box\.fc\d+\.weight"),
        "box_conv_norm": "box.conv1.norm.weight" in named,
        "class_agnostic_boxes": deltas == 1 < classes,
        "mask_convs": count(r"mask\.conv\d+\.weight"), "mask_channels": shape("mask.deconv")[1],
        "mask_norm": "mask.conv1.norm.weight" in named, "class_agnostic_masks": masks == 1 < classes,
        "classes": classes,
    }  # fmt: skip


def _check_anchors(config: Config, named: Mapping[str, Tensor]) -> None:
    anchors = named["rpn.objectness.weight"].shape[0]
    if anchors != config.anchors_per_cell:
        raise ConfigError(
            f"anchor_ratios: the file has {anchors} anchors at each position, the settings "
            f"{config.anchors_per_cell}; give anchor_ratios=(...) as h/w ascending, or anchor_sizes=(...)"
        )


def _check(
    config: Config, named: Mapping[str, Tensor], theirs: Mapping[str, str], surplus: list[str],
    arrays: Mapping[str, Tensor], table: Table,
) -> None:  # fmt: skip
    """Every array is there, has the shape that follows from the others, and is made of numbers."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in MaskRCNN(config).state_dict().items()}
    lines = [f"missing: {spell(k, table)} {shape}" for k, shape in wanted.items() if k not in named]
    surplus = surplus + [theirs[name] for name in named if name not in wanted]
    for name in named.keys() & wanted.keys():
        # Rows of the background are dropped by now, so where one is missing the file's shape looks right.
        if tuple(named[name].shape) != wanted[name]:
            lines.append(f"{theirs[name]}: want {wanted[name]}, got {tuple(named[name].shape)}")
        elif not named[name].isfinite().all():
            lines.append(f"{theirs[name]}: want finite numbers, got NaN or infinity; training diverged")
    if lines or surplus:
        raise _misfit(sorted(lines), surplus, arrays)


def _misfit(lines: list[str], surplus: Iterable[str], arrays: Mapping[str, Tensor]) -> WeightsError:
    lines = lines + [f"surplus: {name} {tuple(arrays[name].shape)}" for name in surplus]
    return WeightsError("the arrays are not those of a Mask R-CNN with FPN:\n  " + "\n  ".join(lines))


# --- tensors ---


def convert(named: Mapping[str, Tensor], conventions: Conventions, config: Config) -> dict[str, Tensor]:
    """Our state dict, conventions folded in."""
    state = convert_backbone(named, conventions)
    if conventions.background_first:
        for end in ("weight", "bias"):
            state[f"box.class_logits.{end}"] = state[f"box.class_logits.{end}"].roll(-1, 0)
            state[f"box.deltas.{end}"] = state[f"box.deltas.{end}"][4:].contiguous()
            state[f"mask.logits.{end}"] = state[f"mask.logits.{end}"][1:].contiguous()
    if conventions.ratio_major and len(config.anchor_sizes[0]) > 1:
        for layer, rows in PER_ANCHOR.items():
            for end in ("weight", "bias"):
                state[f"{layer}.{end}"] = _turn(state[f"{layer}.{end}"], len(config.anchor_sizes[0]), rows)
    return state


def convert_backbone(named: Mapping[str, Tensor], conventions: Conventions) -> dict[str, Tensor]:
    """The arrays in float32, with the conventions of the input and of the norms folded in."""
    state = {name: value.to(torch.float32) for name, value in named.items()}
    stem = state["backbone.stem.weight"].double()
    std = conventions.std if len(conventions.std) > 1 else conventions.std * stem.shape[1]
    if len(std) != stem.shape[1]:
        raise ConfigError(f"input_std: want one value for each of {stem.shape[1]} channels, got {std}")
    stem = stem / torch.tensor(std, dtype=torch.float64)[:, None, None]
    state["backbone.stem.weight"] = (stem.flip(1) if conventions.bgr else stem).float().contiguous()
    if conventions.epsilon != NORM_EPS:
        for name in [n for n in state if n.endswith("running_var")]:
            norm = name.removesuffix("running_var")
            state[name], state[f"{norm}weight"] = fold_epsilon(
                state[name], state[f"{norm}weight"], conventions.epsilon
            )
    return state


def _turn(values: Tensor, inner: int, rows: int) -> Tensor:
    """Anchors listed in runs of ``inner``, in runs of what is counted from run to run.

    values: (n * rows, ...), ``rows`` for each anchor of a cell
    """
    anchors = values.unflatten(0, (-1, rows))
    return anchors.unflatten(0, (-1, inner)).transpose(0, 1).flatten(0, 1).flatten(0, 1).contiguous()


def fold_epsilon(variance: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Variance and weight of a norm with our epsilon that does what this one does with its own.

    Variances so small that the difference of the epsilons would make them negative, or lose their digits, become
    our epsilon, and the weight makes up for it.
    """
    wanted = variance.double() + epsilon
    if not (wanted > 0).all():
        raise WeightsError(f"want positive running variances, got {wanted.min():g} with epsilon {epsilon:g}")
    ours = (wanted - NORM_EPS).clamp(min=NORM_EPS)
    return ours.float(), (weight.double() * ((ours + NORM_EPS) / wanted).sqrt()).float()
