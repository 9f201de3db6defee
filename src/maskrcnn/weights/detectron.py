"""Detectron's ``.pkl`` as ours: blobs by Caffe2's names, of the end-to-end Mask R-CNN models with FPN.

Its norms are affine layers, a scale and a shift: mean 0 and variance 1 without epsilon. Boxes are refined in pixels of
the network input here, in those of the picture there, where a side counts one pixel more: that is less than a pixel's
share of the deltas. Source: Detectron lib/core/test.py, lib/modeling/{FPN,generate_anchors}.py, lib/utils/segms.py;
names as in detectron2 checkpoint/c2_model_loading.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import DETECTRON, Config
from ..errors import WeightsError
from . import state_dict
from .state_dict import Conventions

BACKBONE = (
    ("conv1", "res_conv1_bn", "backbone.stem"),
    ("res{s}_{i}_branch2a", "res{s}_{i}_branch2a_bn", "backbone.s{s}.{i}.conv1"),
    ("res{s}_{i}_branch2b", "res{s}_{i}_branch2b_bn", "backbone.s{s}.{i}.conv2"),
    ("res{s}_{i}_branch2c", "res{s}_{i}_branch2c_bn", "backbone.s{s}.{i}.conv3"),
    ("res{s}_{i}_branch1", "res{s}_{i}_branch1_bn", "backbone.s{s}.{i}.shortcut"),
)
TABLE = (
    *BACKBONE,
    ("fpn_inner_res{s}", "", "fpn.lateral{s}"),  # without the number of the last block, see `dotted`
    ("fpn_res{s}", "", "fpn.output{s}"),
    ("conv_rpn_fpn2", "", "rpn.conv1"),  # the levels share them
    ("rpn_cls_logits_fpn2", "", "rpn.objectness"),
    ("rpn_bbox_pred_fpn2", "", "rpn.deltas"),
    ("fc{k+5}", "", "box.fc{k}"),
    ("cls_score", "", "box.class_logits"),
    ("bbox_pred", "", "box.deltas"),
    ("_[mask]_fcn{k}", "", "mask.conv{k}"),
    ("conv5_mask", "", "mask.deconv"),
    ("mask_fcn_logits", "", "mask.logits"),
)
# The stem's bias is left over from the ImageNet file and was never used; a classifier's last layer is too.
KNOWN = r".*_momentum|lr|conv1\.bias|(fc1000|pred)\.(weight|bias)"
MEAN_BGR = (102.9801, 115.9465, 122.7717)
ENDINGS = {"_bn_s": "_bn.weight", "_bn_b": "_bn.bias", "_w": ".weight", "_b": ".bias"}

OTHERS = (
    (r".*_gn_[sb]", "group normalisation"),
    (r"conv_fcn\d_w|kps_score.*", "a keypoint head"),
    (r"retnet_.*", "RetinaNet"),
)


def is_detectron(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these arrays have Caffe2's names, of a whole model or of a backbone alone."""
    return "conv1_w" in arrays and "res2_0_branch2a_w" in arrays


def is_whole(arrays: Mapping[str, Tensor]) -> bool:
    """Whether there is more than a backbone."""
    return any(name.startswith(("conv_rpn", "cls_score", "rpn_", "retnet_")) for name in arrays)


def read(arrays: Mapping[str, Tensor], text: str = "", **options: Any) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of Detectron's blobs.

    text    : of the configuration, which lies beside the blobs
    options : as in `detectron2.read`; ``dialect="detectron2"`` gives what Detectron2 makes of such a file

    Raises WeightsError that names what is missing for models without FPN or masks; else as `state_dict.read`.
    """
    other = [word for pattern, word in OTHERS if any(re.fullmatch(pattern, name) for name in arrays)]
    if not any(name.startswith("fpn_inner") for name in arrays):
        other.append("a C4 model: its heads run the ResNet's last stage on one feature map, without FPN")
    if not any(name.startswith("mask_fcn_logits") for name in arrays):
        other.append("a detector without a mask head")
    if other:
        raise WeightsError(
            f"want a Mask R-CNN on ResNet with FPN, got {', '.join(other)}; this is not built here"
        )
    arrays = dotted(arrays)
    conventions = Conventions(TABLE, KNOWN, background_first=True, bgr=True, ratio_major=True, epsilon=0.0)
    fields = {"dialect": DETECTRON, "stride_in_1x1": stride_in_1x1(arrays, text), "mean": MEAN_BGR[::-1]}
    return state_dict.read(arrays, conventions, fields, options)


def stride_in_1x1(arrays: Mapping[str, Tensor], text: str = "") -> bool:
    """As the configuration says, else as published: MSRA's ResNets have it, ResNeXts don't."""
    said = re.search(r"\bSTRIDE_1X1: *(true|false)", text, re.IGNORECASE)
    if said:
        return said[1].lower() == "true"
    weight = arrays["res2_0_branch2b.weight"]
    return weight.shape[0] == weight.shape[1]


def dotted(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blobs as ``layer.parameter``, and for each affine layer the statistics that change nothing."""
    named: dict[str, Tensor] = {}
    for name, value in arrays.items():
        short = re.sub(r"^(fpn_(?:inner_)?res\d)_\d+_sum(_lateral)?", r"\1", name)
        ending = next((e for e in ENDINGS if short.endswith(e)), "")
        key = short.removesuffix(ending) + ENDINGS.get(ending, "")
        named[name if key in named else key] = value
    for name in [name for name in named if name.endswith("_bn.weight")]:
        norm = name.removesuffix("weight")
        named.setdefault(f"{norm}running_mean", torch.zeros_like(named[name]))
        named.setdefault(f"{norm}running_var", torch.ones_like(named[name]))
    return named
