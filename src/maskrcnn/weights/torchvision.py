"""torchvision's state dicts as ours: ``maskrcnn_resnet50_fpn`` and ``_v2``, and what was trained from them.

Names are those of torchvision 0.29; the older ones are those that its own loading code still upgrades.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import TORCHVISION, Config
from ..errors import WeightsError
from . import state_dict
from .state_dict import Conventions

TABLE = (
    ("backbone.body.conv1", "backbone.body.bn1", "backbone.stem"),
    ("backbone.body.layer{s-1}.{i}.conv{k}", "backbone.body.layer{s-1}.{i}.bn{k}", "backbone.s{s}.{i}.conv{k}"),
    ("backbone.body.layer{s-1}.{i}.downsample.0", "backbone.body.layer{s-1}.{i}.downsample.1",
     "backbone.s{s}.{i}.shortcut"),
    ("backbone.fpn.inner_blocks.{s-2}.0", "backbone.fpn.inner_blocks.{s-2}.1", "fpn.lateral{s}"),
    ("backbone.fpn.layer_blocks.{s-2}.0", "backbone.fpn.layer_blocks.{s-2}.1", "fpn.output{s}"),
    ("rpn.head.conv.{k-1}.0", "", "rpn.conv{k}"),
    ("rpn.head.cls_logits", "", "rpn.objectness"),
    ("rpn.head.bbox_pred", "", "rpn.deltas"),
    ("roi_heads.box_head.{k-1}.0", "roi_heads.box_head.{k-1}.1", "box.conv{k}"),
    ("roi_heads.box_head.fc{k+5}", "", "box.fc{k}"),
    ("roi_heads.box_head.5", "", "box.fc1"),  # v2, behind four convolutions and a Flatten
    ("roi_heads.box_predictor.cls_score", "", "box.class_logits"),
    ("roi_heads.box_predictor.bbox_pred", "", "box.deltas"),
    ("roi_heads.mask_head.{k-1}.0", "roi_heads.mask_head.{k-1}.1", "mask.conv{k}"),
    ("roi_heads.mask_predictor.conv5_mask", "", "mask.deconv"),
    ("roi_heads.mask_predictor.mask_fcn_logits", "", "mask.logits"),
    # before torchvision 0.12
    ("backbone.fpn.inner_blocks.{s-2}", "", "fpn.lateral{s}"),
    ("backbone.fpn.layer_blocks.{s-2}", "", "fpn.output{s}"),
    ("rpn.head.conv", "", "rpn.conv1"),
    ("roi_heads.mask_head.mask_fcn{k}", "", "mask.conv{k}"),
)  # fmt: skip
STD = (58.395, 57.12, 57.375)
ARGUMENTS = {  # of torchvision's functions, and our names of them
    "min_size": "min_size",
    "max_size": "max_size",
    "rpn_pre_nms_top_n_test": "pre_nms",
    "rpn_post_nms_top_n_test": "proposals",
    "rpn_nms_thresh": "rpn_nms",
    "box_score_thresh": "score",
    "box_nms_thresh": "nms",
    "box_detections_per_img": "max_detections",
}
ARCHITECTURE = ("depth", "width", "groups", "fpn_channels", "fpn_norm", "rpn_convs", "rpn_channels", "box_pool",
                "box_convs", "box_conv_norm", "box_fcs", "box_features", "mask_size", "mask_convs", "mask_channels",
                "mask_norm")  # fmt: skip
SECOND: dict[str, Any] = {
    "fpn_norm": True,
    "rpn_convs": 2,
    "box_convs": 4,
    "box_conv_norm": True,
    "box_fcs": 1,
    "mask_norm": True,
}


def is_torchvision(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these arrays have torchvision's names."""
    return "backbone.body.conv1.weight" in arrays and "roi_heads.box_predictor.cls_score.weight" in arrays


def read(arrays: Mapping[str, Tensor], **options: Any) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of a torchvision checkpoint.

    options : fields of `Config` and `Dialect`, and ``norm_epsilon``: torchvision's frozen batch norm has epsilon
              0 in its published model and in all that were trained from it, but 1e-5 in a model that was trained
              with an ImageNet backbone alone; the file does not tell which, 0 is taken. Where a file counts
              batches (``num_batches_tracked``), its norm is not frozen and has 1e-5.

    Raises as `state_dict.read`.
    """
    frozen = not any(name.endswith("num_batches_tracked") for name in arrays)
    epsilon = 0.0 if frozen else 1e-5
    conventions = Conventions(
        TABLE, r".*\.num_batches_tracked", background_first=True, ratio_major=True, std=STD, epsilon=epsilon
    )
    return state_dict.read(arrays, conventions, {"dialect": TORCHVISION}, options)


def write(config: Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for torchvision: today's names, norms that are not frozen and have epsilon 1e-5.

    It fits ``maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=...)``, whose norms are such; where
    ``config.mean`` is another than torchvision's, with ``image_mean=``, a 255th of it. Raises WeightsError for a
    network that torchvision cannot build.
    """
    if config.depth >= 50 and config.stride_in_1x1:
        raise WeightsError(
            "stride_in_1x1: torchvision's ResNets have the stride in the 3x3, this network in the first 1x1, so its "
            "weights would compute something else there; save as .safetensors, or for detectron2 or mmdet"
        )
    arrays = state_dict.write(
        config, state, Conventions(TABLE, "", background_first=True, ratio_major=True, std=STD)
    )
    for k in range(
        config.box_fcs if config.box_convs else 0
    ):  # a Flatten behind the convolutions, ReLUs between
        for end in ("weight", "bias"):
            name = f"roi_heads.box_head.{config.box_convs + 1 + 2 * k}.{end}"
            arrays[name] = arrays.pop(f"roi_heads.box_head.fc{k + 6}.{end}")
    for name in [name for name in arrays if name.endswith("running_var")]:
        arrays[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return arrays


def told(config: Config) -> str:
    """For people: the call with which torchvision builds what a file of `write` fits, and finds what this finds."""
    usual = Config(names=("",), dialect=TORCHVISION)
    second = dataclasses.replace(usual, **SECOND)
    own = [name for name in ARCHITECTURE if getattr(config, name) != getattr(usual, name)]
    if not own:
        call = "maskrcnn_resnet50_fpn(weights=None, weights_backbone=None"
    elif all(getattr(config, name) == getattr(second, name) for name in ARCHITECTURE):
        call = "maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None"
    elif own == ["depth"]:
        call = f'MaskRCNN(resnet_fpn_backbone(backbone_name="resnet{config.depth}", weights=None)'
    else:
        return f"torchvision has no function that builds it: {', '.join(own)} differ from those of its own models"
    given = {name: getattr(config, field) for name, field in ARGUMENTS.items()
             if getattr(config, field) != getattr(usual, field)}  # fmt: skip
    if config.mean != usual.mean:
        given["image_mean"] = [round(value / 255, 5) for value in config.mean]
    words = "".join(f", {name}={value}" for name, value in given.items())
    if config.anchor_sizes != usual.anchor_sizes or config.anchor_ratios != usual.anchor_ratios:
        words += (
            f", rpn_anchor_generator=AnchorGenerator({config.anchor_sizes}, ({config.anchor_ratios},) * 5)"
        )
    return f"torchvision computes it by {call}, num_classes={config.num_classes + 1}{words})"
