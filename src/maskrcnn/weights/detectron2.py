"""Detectron2's checkpoints as ours: ``.pkl`` of its model zoo and ``.pth`` of its training; FPN models with masks.

Source: detectron2 0.6, modeling/backbone/{resnet,fpn}.py, modeling/roi_heads, config/defaults.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import DETECTRON2, Config
from ..errors import WeightsError
from . import state_dict
from .state_dict import Conventions

TABLE = (
    ("backbone.bottom_up.stem.conv1", "backbone.bottom_up.stem.conv1.norm", "backbone.stem"),
    ("backbone.bottom_up.res{s}.{i}.conv{k}", "backbone.bottom_up.res{s}.{i}.conv{k}.norm",
     "backbone.s{s}.{i}.conv{k}"),
    ("backbone.bottom_up.res{s}.{i}.shortcut", "backbone.bottom_up.res{s}.{i}.shortcut.norm",
     "backbone.s{s}.{i}.shortcut"),
    ("backbone.fpn_lateral{s}", "backbone.fpn_lateral{s}.norm", "fpn.lateral{s}"),
    ("backbone.fpn_output{s}", "backbone.fpn_output{s}.norm", "fpn.output{s}"),
    ("proposal_generator.rpn_head.conv", "", "rpn.conv1"),
    ("proposal_generator.rpn_head.conv.conv{k-1}", "", "rpn.conv{k}"),
    ("proposal_generator.rpn_head.objectness_logits", "", "rpn.objectness"),
    ("proposal_generator.rpn_head.anchor_deltas", "", "rpn.deltas"),
    ("roi_heads.box_head.conv{k}", "roi_heads.box_head.conv{k}.norm", "box.conv{k}"),
    ("roi_heads.box_head.fc{k}", "", "box.fc{k}"),
    ("roi_heads.box_predictor.cls_score", "", "box.class_logits"),
    ("roi_heads.box_predictor.bbox_pred", "", "box.deltas"),
    ("roi_heads.mask_head.mask_fcn{k}", "roi_heads.mask_head.mask_fcn{k}.norm", "mask.conv{k}"),
    ("roi_heads.mask_head.deconv", "", "mask.deconv"),
    ("roi_heads.mask_head.predictor", "", "mask.logits"),
)  # fmt: skip
# Buffers that older files have. Mean and deviation are read where they are.
KNOWN = (
    r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
    r"|.*\.num_batches_tracked|ema_state.*"
)
MEAN_BGR = (103.53, 116.28, 123.675)
X101_STD_BGR = (57.375, 57.12, 58.395)
POOLERS = {"align": "ROIAlignV2", "align_legacy": "ROIAlign", "pool": "ROIPool"}
# Settings that arrays do not show, and our names of them: read from files that `write` made.
SPOKEN = {
    "MODEL.RESNETS.STRIDE_IN_1X1": "stride_in_1x1",
    "MODEL.ANCHOR_GENERATOR.SIZES": "anchor_sizes",
    "INPUT.MIN_SIZE_TEST": "min_size",
    "INPUT.MAX_SIZE_TEST": "max_size",
    "MODEL.RPN.NMS_THRESH": "rpn_nms",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "pre_nms",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "proposals",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms",
    "TEST.DETECTIONS_PER_IMAGE": "max_detections",
}

# What makes a model one that is not read here: part of a name, and the word for it.
OTHERS = (
    ("roi_heads.res5.", "a C4 model: its heads run the ResNet's last stage on one feature map, without FPN"),
    ("backbone.res5.", "a DC5 model: one dilated feature map, without FPN"),
    (".conv2_offset.", "deformable convolutions"),
    ("roi_heads.box_predictor.0.", "a cascade of box heads"),
    ("roi_heads.keypoint_head.", "a keypoint head"),
    ("roi_heads.mask_head.point_head.", "PointRend's mask head"),
    ("backbone.bottom_up.s1.", "a RegNet backbone"),
    ("backbone.net.", "a ViT backbone"),
    ("sem_seg_head.", "a head for semantic or panoptic segmentation"),
)


def is_detectron2(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these arrays have Detectron2's names."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in arrays) or any(
        name.startswith(("backbone.bottom_up.", "roi_heads.res5.")) for name in arrays
    )


def read(arrays: Mapping[str, Tensor], content: Any, **options: Any) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of a Detectron2 checkpoint.

    content : the whole file, of which those that `write` made have settings and class names

    The zoo's habits are taken: input in BGR; ResNets with stride in the first 1x1 and no standard deviation,
    ResNeXts with stride in the 3x3 and one. A model that was trained otherwise (from torchvision's ImageNet
    weights, say) needs options:

    stride_in_1x1 : as any field of `Config`; ``anchor_offset=0.5`` for ANCHOR_GENERATOR.OFFSET 0.5
    input_order   : ``"RGB"`` where it was trained with INPUT.FORMAT RGB
    input_std     : MODEL.PIXEL_STD, in that order
    mean          : as any field of `Config`, in red, green, blue

    Raises WeightsError that names what is missing for models without FPN or masks; else as `state_dict.read`.
    """
    other = [word for part, word in OTHERS if any(part in f"{name}" for name in arrays)]
    if other:
        raise WeightsError(
            f"want a Mask R-CNN on ResNet with FPN, got {', '.join(other)}; this is not built here. "
            "The same zoo has the plain FPN model, such as mask_rcnn_R_50_FPN_3x"
        )
    if not any(name.startswith("roi_heads.mask_head.") for name in arrays):
        raise WeightsError(
            "want a Mask R-CNN, got a detector without a mask head, such as Faster R-CNN or RetinaNet"
        )
    grouped = any(
        name.endswith("res2.0.conv2.weight") and value.ndim == 4 and value.shape[0] != value.shape[1]
        for name, value in arrays.items()
    )
    bgr = options.get("input_order", "BGR") != "RGB"
    std = _buffer(arrays, "pixel_std") or _usual_std(grouped)
    mean = _buffer(arrays, "pixel_mean") or (MEAN_BGR if bgr else MEAN_BGR[::-1])
    conventions = Conventions(TABLE, KNOWN, bgr=bgr, std=std)
    fields = {"dialect": DETECTRON2, "stride_in_1x1": not grouped, "mean": mean[::-1] if bgr else mean}
    return state_dict.read(arrays, conventions, fields | _told(content), options)


def write(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint for Detectron2, with the mean and deviation of the input as older files have them.

    Detectron2 reads ``model``. Under ``maskrcnn`` lie class names and `settings`, which `read` takes.
    """
    std = _usual_std(config.groups > 1)
    table = TABLE if config.rpn_convs == 1 else tuple(row for row in TABLE if row[2] != "rpn.conv1")
    arrays = state_dict.write(config, state, Conventions(table, "", bgr=True, std=std))
    for name, values in (("pixel_mean", config.mean[::-1]), ("pixel_std", std)):
        arrays[name] = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
    told = {"settings": settings(config), "thing_classes": config.names}
    return {"model": arrays, "maskrcnn": told}


def settings(config: Config) -> dict[str, Any]:
    """What Detectron2 must be told to build what `write` writes, by the keys of its configuration."""
    pooler = POOLERS.get(config.dialect.roi_op, "ROIAlignV2")
    found = {key: getattr(config, name) for key, name in SPOKEN.items()} | {
        "MODEL.PIXEL_MEAN": config.mean[::-1],
        "MODEL.PIXEL_STD": _usual_std(config.groups > 1),
        "MODEL.RESNETS.DEPTH": config.depth,
        "MODEL.RESNETS.NUM_GROUPS": config.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": config.width_per_group,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": config.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": config.width * (1 if config.depth < 50 else 4),
        "MODEL.FPN.OUT_CHANNELS": config.fpn_channels,
        "MODEL.FPN.NORM": "BN" if config.fpn_norm else "",
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": (config.anchor_ratios,),
        "MODEL.ANCHOR_GENERATOR.OFFSET": config.dialect.anchor_offset,
        "MODEL.RPN.CONV_DIMS": (config.rpn_channels,) * config.rpn_convs,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.num_classes,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": config.class_agnostic_boxes,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": config.box_convs,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": config.fpn_channels,
        "MODEL.ROI_BOX_HEAD.NUM_FC": config.box_fcs,
        "MODEL.ROI_BOX_HEAD.FC_DIM": config.box_features,
        "MODEL.ROI_BOX_HEAD.NORM": "BN" if config.box_conv_norm else "",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": config.class_agnostic_masks,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": config.mask_convs,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": config.mask_channels,
        "MODEL.ROI_MASK_HEAD.NORM": "BN" if config.mask_norm else "",
    }
    for head, side in (("BOX", config.box_pool), ("MASK", config.mask_size // 2)):
        found[f"MODEL.ROI_{head}_HEAD.POOLER_RESOLUTION"] = side
        found[f"MODEL.ROI_{head}_HEAD.POOLER_TYPE"] = pooler
        found[f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO"] = config.dialect.sampling_ratio
    return found


def told(config: Config) -> str:
    """For people: the settings with which Detectron2 computes a file of `write`, as its ``--opts`` take them."""
    usual = settings(Config(names=("",) * 80, stride_in_1x1=True, dialect=DETECTRON2))
    other = {key: value for key, value in settings(config).items() if value != usual[key]}
    words = " ".join(f'{key} "{value}"' for key, value in other.items())
    return f"Detectron2 computes it by mask_rcnn_R_50_FPN_3x.yaml{' with ' if words else ''}{words}"


def _told(content: Any) -> dict[str, Any]:
    """Fields of our `Config` from what `write` stored beside the arrays."""
    if not isinstance(content, Mapping) or "maskrcnn" not in content:
        return {}
    try:
        said = content["maskrcnn"]["settings"]
        rules = {"anchor_offset": said["MODEL.ANCHOR_GENERATOR.OFFSET"],
                 "sampling_ratio": said["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"],
                 "roi_op": {v: k for k, v in POOLERS.items()}[said["MODEL.ROI_BOX_HEAD.POOLER_TYPE"]]}  # fmt: skip
        return {name: said[key] for key, name in SPOKEN.items()} | {
            "anchor_ratios": said["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"][0],
            "names": content["maskrcnn"]["thing_classes"],
            "dialect": dataclasses.replace(DETECTRON2, **rules),
        }
    except (KeyError, TypeError, IndexError):
        raise WeightsError("maskrcnn: want the settings that 'maskrcnn convert' writes, got others") from None


def _usual_std(grouped: bool) -> tuple[float, ...]:
    """Deviation of the input, blue first: the zoo's ResNeXts have one, its ResNets none."""
    return X101_STD_BGR if grouped else (1.0, 1.0, 1.0)


def _buffer(arrays: Mapping[str, Tensor], name: str) -> tuple[float, ...] | None:
    """Mean or deviation, if the file has it, rounded to the digits that they are written with."""
    return tuple(round(v, 4) for v in arrays[name].flatten().tolist()) if name in arrays else None
