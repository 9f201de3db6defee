"""ResNets of ImageNet as the start of a Mask R-CNN: the backbone from a file, everything behind it random.

Read are torchvision's (and timm's, where they have its names), Keras's ``notop`` files of both generations,
Detectron2's and Detectron's ``R-50.pkl``, and MMDetection's caffe-style ones. Input conventions are folded in, so
training starts from what the backbone learnt: red, green, blue, whatever the file was trained with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError, WeightsError
from ..model import MaskRCNN
from ..model.resnet import ResNet
from . import detectron, detectron2, hdf5, state_dict, torchvision
from .keras import keras_names
from .state_dict import Conventions
from .tables import Table, rename

IMAGENET = (123.675, 116.28, 103.53)
KERAS = (123.68, 116.779, 103.939)


def _without(prefix: str, table: Table) -> Table:
    """The rows of a backbone, as its own file names them."""
    rows = [row for row in table if row[2].startswith("backbone.")]
    return tuple((conv.removeprefix(prefix), norm.removeprefix(prefix), ours) for conv, norm, ours in rows)


KERAS_TABLE = (
    ("conv1_conv", "conv1_bn", "backbone.stem"),
    ("conv{s}_block{i+1}_0_conv", "conv{s}_block{i+1}_0_bn", "backbone.s{s}.{i}.shortcut"),
    ("conv{s}_block{i+1}_{k}_conv", "conv{s}_block{i+1}_{k}_bn", "backbone.s{s}.{i}.conv{k}"),
)
# Before Keras 2.2: letters of branches and blocks, which `_keras_arrays` turns into numbers.
KERAS_OLD_TABLE = (
    ("conv1", "bn_conv1", "backbone.stem"),
    ("res{s}_{i}_branch1", "bn{s}_{i}_branch1", "backbone.s{s}.{i}.shortcut"),
    ("res{s}_{i}_branch2_{k}", "bn{s}_{i}_branch2_{k}", "backbone.s{s}.{i}.conv{k}"),
)


@dataclass(frozen=True)
class Found:
    """A backbone in a file.

    arrays   : by the file's own names
    kind     : whose file it is, for people to read
    mean     : of the input, red first
    stride_in_1x1 : where the stride of a stage is
    """

    arrays: Mapping[str, Tensor]
    kind: str
    conventions: Conventions
    mean: tuple[float, ...]
    stride_in_1x1: bool


def find(arrays: Mapping[str, Tensor], content: Any = None, style: str | None = None) -> Found | None:
    """The backbone that these arrays of a pickle are; None for anything else.

    content : the whole file, whose other entries tell where a Detectron2 file comes from
    style   : ``"caffe"`` for MMDetection's files of that style, which have torchvision's names
    """
    known = r".*\.num_batches_tracked|(fc|stem\.fc|last_linear|linear|pred|fc1000)\..*|stem\.conv1\.bias"
    msra = Conventions(_without("backbone.bottom_up.", detectron2.TABLE), known, bgr=True)
    if detectron.is_detectron(arrays) and not detectron.is_whole(arrays):
        arrays = detectron.dotted(arrays)
        conventions = replace(msra, table=detectron.BACKBONE, known=detectron.KNOWN, epsilon=0.0)
        mean = detectron.MEAN_BGR[::-1]
        return Found(arrays, "Caffe2", conventions, mean, detectron.stride_in_1x1(arrays))
    if "stem.conv1.weight" in arrays and "res2.0.conv1.weight" in arrays:
        arrays = _affine(arrays)
        if isinstance(content, Mapping) and content.get("__author__") == "torchvision":
            conventions = replace(msra, bgr=False, std=torchvision.STD)
            return Found(arrays, "torchvision by way of Detectron2", conventions, IMAGENET, False)
        grouped = arrays["res2.0.conv2.weight"].shape[0] != arrays["res2.0.conv2.weight"].shape[1]
        conventions = replace(msra, std=detectron2.X101_STD_BGR) if grouped else msra
        return Found(arrays, "Detectron2", conventions, detectron2.MEAN_BGR[::-1], not grouped)
    if "conv1.weight" in arrays and "layer1.0.conv1.weight" in arrays and "layer4.0.conv1.weight" in arrays:
        table = _without("backbone.body.", torchvision.TABLE)
        if style == "caffe":
            return Found(arrays, "caffe style", replace(msra, table=table), detectron2.MEAN_BGR[::-1], True)
        return Found(arrays, "torchvision", Conventions(table, known, std=torchvision.STD), IMAGENET, False)
    return None


def find_keras(path: Path) -> Found | None:
    """The backbone that an .h5 of Keras's applications is; None for anything else."""
    names = " ".join(hdf5.names(path))
    if "mrcnn_" in names or not re.search(r"res5a_branch2a|conv5_block1_1_conv", names):
        return None
    old = "res5a_branch2a" in names
    # The first generation's norms have Keras's default epsilon, the second's one of their own.
    conventions = Conventions(
        KERAS_OLD_TABLE if old else KERAS_TABLE, r"(fc1000|predictions|probs)\..*", bgr=True,
        epsilon=1e-3 if old else 1.001e-5,
    )  # fmt: skip
    return Found(_keras_arrays(hdf5.read(path)), "Keras", conventions, KERAS, True)


def start(found: Found, source: str, options: Mapping[str, Any]) -> MaskRCNN:
    """A network with this backbone, and random weights for pyramid, proposals and heads.

    options : fields of `Config`, ``names`` among them; ``input_order``, ``input_std`` and ``norm_epsilon`` as in
              `state_dict.read`

    All its classes are listed in ``untrained``, so that it refuses to predict. Raises ConfigError without names, and
    WeightsError where the arrays are not those of a ResNet.
    """
    options = dict(options)
    names = tuple(options.pop("names", ()))
    if not names:
        raise ConfigError(
            f"names: {source} holds the backbone of a {found.kind} ResNet alone, which knows no objects; to train from "
            "it, give names=[...], or its name to 'maskrcnn train DATA --weights'"
        )
    conventions, options = state_dict.adjust(found.conventions, options)
    named, theirs, surplus = rename(found.arrays, conventions.table, conventions.known)
    biases = {
        name: named.pop(name) for name in [n for n in named if n.endswith(".bias") and ".norm." not in n]
    }
    try:
        fields = state_dict.backbone(named)
    except KeyError as error:
        raise WeightsError(f"want the backbone of a ResNet, it has no {error.args[0]}") from None
    mean = tuple(options.get("mean", found.mean))
    config = Config(names=names, **{**fields, "stride_in_1x1": found.stride_in_1x1, "mean": mean})
    config = config.with_options(**options)  # pyramid and heads may be of any width
    for field, have in fields.items():
        if getattr(config, field) != have:
            raise ConfigError(
                f"{field}: the file's arrays say {have!r}, the options {getattr(config, field)!r}; leave it out"
            )
    state = {
        k.removeprefix("backbone."): v for k, v in state_dict.convert_backbone(named, conventions).items()
    }
    for name, bias in biases.items():  # a bias in front of a norm is a shift of its mean
        state[f"{name.removeprefix('backbone.').removesuffix('bias')}norm.running_mean"] -= bias
    _check(config, state, theirs, surplus, found.arrays)
    model = MaskRCNN(config, source=f"the {found.kind} backbone of {source}, the rest random")
    model.backbone.load_state_dict(state)
    model.untrained = names
    return model


def _check(
    config: Config, state: Mapping[str, Tensor], theirs: Mapping[str, str], surplus: list[str],
    arrays: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """Every array is there, fits and is made of numbers."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in ResNet(config).state_dict().items()}
    lines = [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in state]
    lines += [f"surplus: {name} {tuple(arrays[name].shape)}" for name in surplus]
    for name, value in state.items():
        whose = theirs.get(f"backbone.{name}", name)
        if name not in wanted:
            lines.append(f"surplus: {whose} {tuple(value.shape)}")
        elif tuple(value.shape) != wanted[name]:
            lines.append(f"{whose}: want {wanted[name]}, got {tuple(value.shape)}")
        elif not value.isfinite().all():
            lines.append(f"{whose}: want finite numbers, got NaN or infinity")
    if lines:
        raise WeightsError("the arrays are not those of a ResNet:\n  " + "\n  ".join(sorted(lines)))


def _affine(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where a file has scales and shifts alone, as those made from Caffe2's: with statistics that change nothing."""
    full = dict(arrays)
    for name in [n for n in arrays if n.endswith(".norm.weight")]:
        norm = name.removesuffix("weight")
        full.setdefault(f"{norm}running_mean", torch.zeros_like(arrays[name]))
        full.setdefault(f"{norm}running_var", torch.ones_like(arrays[name]) - state_dict.NORM_EPS)
    return full


PARAMETERS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
              "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip


def _keras_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Keras's arrays as ``layer.parameter``, in torch's order of axes."""
    named = {}
    for key, array in keras_names(arrays).items():
        layer, _, parameter = key.partition("/")
        layer = re.sub(r"^(res|bn)(\d)([a-z])_", lambda m: f"{m[1]}{m[2]}_{ord(m[3]) - 97}_", layer)
        layer = re.sub(r"branch2([abc])$", lambda m: f"branch2_{ord(m[1]) - 96}", layer)
        value = torch.from_numpy(np.ascontiguousarray(array, np.float32))
        value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value
        named[f"{layer}.{PARAMETERS.get(parameter, parameter)}"] = value.contiguous()
    return named
