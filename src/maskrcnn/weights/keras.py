"""Matterport's network as Keras listed it: layers in their order, first values, and its .h5 read and written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import replacing
from . import hdf5
from .matterport import BLOCKS, Row, by_layer, shapes

# Behind the backbone, as in the released mask_rcnn_coco.h5; {k} counts on from the backbone's activations.
TAIL = """
fpn_c5p5 fpn_p5upsampled fpn_c4p4 fpn_p4add fpn_p4upsampled fpn_c3p3 fpn_p3add fpn_p3upsampled fpn_c2p2 fpn_p2add
fpn_p5 fpn_p2 fpn_p3 fpn_p4 fpn_p6 rpn_model rpn_class rpn_bbox input_gt_boxes ROI input_gt_class_ids lambda_1
input_gt_masks proposal_targets roi_align_mask mrcnn_mask_conv1 mrcnn_mask_bn1 activation_{4} mrcnn_mask_conv2
roi_align_classifier mrcnn_mask_bn2 mrcnn_class_conv1 activation_{5} mrcnn_class_bn1 mrcnn_mask_conv3 activation_{1}
mrcnn_mask_bn3 mrcnn_class_conv2 activation_{6} mrcnn_class_bn2 mrcnn_mask_conv4 activation_{2} mrcnn_mask_bn4
pool_squeeze activation_{7} mrcnn_bbox_fc mrcnn_mask_deconv input_image_meta rpn_class_logits mrcnn_class_logits
mrcnn_bbox mrcnn_mask input_rpn_match input_rpn_bbox lambda_4 mrcnn_class output_rois rpn_class_loss rpn_bbox_loss
mrcnn_class_loss mrcnn_bbox_loss mrcnn_mask_loss
"""
KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
RPN = ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")  # three layers in the group of rpn_model
KINDS = (
    (r"bn.*|mrcnn_.*_bn\d", "BatchNorm"), (r"mrcnn_class_logits|mrcnn_bbox_fc", "Dense"),
    (r"mrcnn_mask_deconv", "Conv2DTranspose"), (r"zero_padding.*", "ZeroPadding2D"), (r"input_.*", "InputLayer"),
    (r"activation_\d+|res.*_out|mrcnn_class", "Activation"), (r"add_\d+|fpn_.*add", "Add"),
    (r"fpn_.*upsampled", "UpSampling2D"), (r"max_pooling.*|fpn_p6", "MaxPooling2D"), (r"ROI", "ProposalLayer"),
    (r"proposal_targets", "DetectionTargetLayer"), (r"roi_align_.*", "PyramidROIAlign"),
    (r"rpn_(class|bbox|class_logits)", "Concatenate"), (r"mrcnn_bbox", "Reshape"), (r"rpn_model", "Model"),
    (r"lambda_\d|.*_loss|output_rois|pool_squeeze", "Lambda"), (r".*", "Conv2D"),
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One Keras layer.

    kind  : the name of its class; of the one inside, where ``wrapped`` by TimeDistributed
    group : the group of its arrays in the file: its own name, or rpn_model
    keys  : its arrays, as ``layer/parameter``, in Keras's order; empty where it has none
    """

    name: str
    kind: str
    wrapped: bool
    group: str
    keys: tuple[str, ...]


def layers(table: Sequence[Row], sizes: Mapping[str, int], depth: int) -> list[Layer]:
    """All layers in the order of Keras; those inside rpn_model follow it."""
    keys: dict[str, tuple[str, ...]] = {}
    for row in table:
        for key in shapes(row, sizes):
            layer = key.split("/")[0]
            keys[layer] = (*keys.get(layer, ()), key)
    found = []
    for name in _names(depth):
        kind = next(kind for pattern, kind in KINDS if re.fullmatch(pattern, name))
        own = keys.pop(name, ())
        found.append(Layer(name, kind, name.startswith("mrcnn_") and bool(own), name, own))
        if name == "rpn_model":
            found += [Layer(inner, "Conv2D", False, name, keys.pop(inner)) for inner in RPN]
    assert not keys, keys
    return found


def _names(depth: int) -> Iterator[str]:
    yield from ("input_image", "zero_padding2d_1", "conv1", "bn_conv1", "activation_1", "max_pooling2d_1")
    activations, sums = 1, 0
    for stage, blocks in enumerate(BLOCKS[depth], 2):
        for i in range(blocks):
            block = f"{stage}{chr(97 + i)}"
            for branch in ("2a", "2b"):
                activations += 1
                yield from (
                    f"res{block}_branch{branch}",
                    f"bn{block}_branch{branch}",
                    f"activation_{activations}",
                )
            short = i == 0
            yield from (f"res{block}_branch2c", *[f"res{block}_branch1"] * short)
            yield from (f"bn{block}_branch2c", *[f"bn{block}_branch1"] * short)
            sums += 1
            yield from (f"add_{sums}", f"res{block}_out")
    yield from re.sub(r"{(\d)}", lambda found: str(activations + int(found[1])), TAIL).split()


def initial(table: Sequence[Row], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """First values as Keras draws them, by ``layer/parameter``: Glorot's uniform kernels, zeros, ones for norms.

    Kernels are views, in Keras's order of axes, of memory in torch's order: no copy lies between the two.
    """
    arrays: dict[str, Tensor] = {}
    for row in table:
        for key, shape in shapes(row, sizes).items():
            parameter = key.split("/")[1]
            if parameter == "kernel":
                field = int(np.prod(shape[:-2]))
                limit = (6.0 / (field * (shape[-2] + shape[-1]))) ** 0.5
                stored = torch.empty(torch_shape(shape)).uniform_(-limit, limit)
                arrays[key] = from_torch(stored)
            else:
                ones = parameter in ("gamma", "moving_variance")
                arrays[key] = torch.ones(shape) if ones else torch.zeros(shape)
    return arrays


def torch_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(h, w, in, out) as (out, in, h, w), and (in, out) as (out, in)."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape[::-1])


def from_torch(stored: Tensor) -> Tensor:
    """A view in Keras's order of axes of a kernel in torch's; anything else as it is."""
    return stored.permute(2, 3, 1, 0) if stored.ndim == 4 else stored.T if stored.ndim == 2 else stored


def to_torch(array: Tensor) -> Tensor:
    """The inverse of `from_torch`."""
    return array.permute(3, 2, 0, 1) if array.ndim == 4 else array.T if array.ndim == 2 else array


def load_into(
    arrays: Mapping[str, Tensor], network: Sequence[Layer], path: Path, *, by_name: bool,
    exclude: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """Read a Matterport .h5, or Keras's ResNet of ImageNet, into ``arrays``, in place.

    by_name : layers that the file lacks keep their values; else they are an error
    exclude : names of layers to leave as they are

    Returns the layers that were left. Raises WeightsError where nothing fits, or a shape differs; then no array
    has changed.
    """
    found = keras_names(hdf5.read(path))
    wanted = [layer for layer in network if layer.keys and not {layer.name, layer.group} & set(exclude)]
    plan: dict[str, np.ndarray | None] = {}
    left, wrong = [layer.name for layer in network if layer.keys and layer not in wanted], []
    for layer in wanted:
        have = {key: found[key] for key in layer.keys if key in found}
        # Keras's own ResNet, and early releases, have no bias in front of a norm.
        if not have or (missing := [k for k in layer.keys if k not in have and not k.endswith("/bias")]):
            if have:
                wrong.append(f"{layer.name}: want {', '.join(missing)}")
            left.append(layer.name)
            continue
        for key in layer.keys:
            if key in have and have[key].shape != tuple(arrays[key].shape):
                wrong.append(f"{key}: want {tuple(arrays[key].shape)}, got {have[key].shape}")
            plan[key] = have.get(key)
    if wrong:
        heads = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
        raise WeightsError(
            f"{path}: {len(wrong)} arrays do not fit the config. For another number of classes, train with "
            f"load_weights(path, by_name=True, exclude={heads}); to detect, set NUM_CLASSES (background "
            "included), BACKBONE and RPN_ANCHOR_RATIOS as they were in training:\n  " + "\n  ".join(wrong)
        )
    if not plan or (left and not by_name):
        names = ", ".join(left[:8]) + (" ..." if len(left) > 8 else "")
        raise WeightsError(f"{path}: want the layers of the network, lacking are {names}")
    for key, array in plan.items():
        with torch.no_grad():
            arrays[key].copy_(torch.zeros(()) if array is None else torch.from_numpy(np.asarray(array)))
    return left


def keras_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file by ``layer/parameter``, as Keras 2 names them; files of Keras 1 too."""
    return {_keras2(key): array for key, array in by_layer(arrays)[0].items()}


def _keras2(key: str) -> str:
    """The name of an array in Keras 2, of files of Keras 1 too: ``conv1/conv1_W`` is ``conv1/kernel``."""
    layer, name = key.split("/")
    plain = name.removeprefix(f"{layer}_")
    return f"{layer}/{KERAS_1.get(plain, plain)}"


def write(path: Path, network: Sequence[Layer], arrays: Mapping[str, Tensor]) -> Path:
    """`save`, so that the file appears whole or not at all."""
    with replacing(path) as part:
        save(part, network, arrays)
    return path


def save(path: Path, network: Sequence[Layer], arrays: Mapping[str, Tensor]) -> None:
    """An .h5 with every layer, as Keras 2.0 wrote it with save_weights.

    Keras finds groups by name, but the arrays of a group by their place: those of rpn_model have Keras's order.
    """
    import h5py

    groups: dict[str, list[str]] = {}
    for layer in network:
        groups.setdefault(layer.group, []).extend(layer.keys)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in groups])
        # Of fixed length, h5py 3 gives bytes back, which old Keras decodes; a plain bytes object would come as str.
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(b"2.0.8")
        for name, keys in groups.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([f"{key}:0".encode() for key in keys])
            for key in keys:
                group.create_dataset(f"{key}:0", data=arrays[key].detach().contiguous().numpy())
