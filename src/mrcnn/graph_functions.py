"""What built Keras's graph: losses and box arithmetic work on torch tensors, the rest names its replacement."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from maskrcnn.errors import MaskRCNNError
from maskrcnn.legacy import functions, losses

smooth_l1_loss = losses.smooth_l1
rpn_class_loss_graph = losses.rpn_class_loss
mrcnn_class_loss_graph = functions.class_loss_of_first
mrcnn_bbox_loss_graph = losses.mrcnn_bbox_loss
mrcnn_mask_loss_graph = functions.mask_loss
apply_box_deltas_graph = functions.apply_box_deltas
clip_boxes_graph = functions.clip_boxes
overlaps_graph = functions.overlaps
norm_boxes_graph = functions.norm_boxes
denorm_boxes_graph = functions.denorm_boxes
batch_pack_graph = functions.pack
parse_image_meta_graph = functions.parse_image_meta
log2_graph = torch.log2


def rpn_bbox_loss_graph(config: Any, target_bbox: Tensor, rpn_match: Tensor, rpn_bbox: Tensor) -> Tensor:
    """Mean smooth-L1 of the deltas of the positive anchors."""
    return losses.rpn_bbox_loss(target_bbox, rpn_match, rpn_bbox)


def trim_zeros_graph(boxes: Tensor, name: str = "trim_zeros") -> tuple[Tensor, Tensor]:
    """The rows that are not zero, and (n,) bool, which those are."""
    return functions.trim_zeros(boxes)


# --- what only Keras could build ---

GONE = {
    "BatchNorm": "maskrcnn.model.layers.BatchNorm",
    "identity_block": "maskrcnn.model.resnet.Bottleneck",
    "conv_block": "maskrcnn.model.resnet.Bottleneck",
    "resnet_graph": "maskrcnn.model.resnet.ResNet",
    "ProposalLayer": "maskrcnn.model.rpn.choose and suppress",
    "PyramidROIAlign": "maskrcnn.model.pooling.pool_rois",
    "detection_targets_graph": "maskrcnn.legacy.targets.detection_targets",
    "DetectionTargetLayer": "maskrcnn.legacy.targets.detection_targets",
    "refine_detections_graph": "maskrcnn.model.box_head.detect",
    "DetectionLayer": "maskrcnn.model.box_head.detect",
    "rpn_graph": "maskrcnn.model.rpn.RPN",
    "build_rpn_model": "maskrcnn.model.rpn.RPN",
    "fpn_classifier_graph": "maskrcnn.model.box_head.BoxHead",
    "build_fpn_mask_graph": "maskrcnn.model.mask_head.MaskHead",
}


class NeedsKerasError(MaskRCNNError, NotImplementedError):
    """This part of the old package was a piece of a Keras graph."""


class _Gone:
    """Raises when it is called or derived from, and says what took its place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NeedsKerasError(
            f"mrcnn.model.{self.name} built a Keras graph; its place is taken by {GONE[self.name]}"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        self()


BatchNorm, identity_block, conv_block, resnet_graph, ProposalLayer, PyramidROIAlign = map(
    _Gone, list(GONE)[:6]
)
detection_targets_graph, DetectionTargetLayer, refine_detections_graph = map(_Gone, list(GONE)[6:9])
DetectionLayer, rpn_graph, build_rpn_model, fpn_classifier_graph = map(_Gone, list(GONE)[9:13])
build_fpn_mask_graph = _Gone("build_fpn_mask_graph")

__all__ = [
    "BatchNorm", "DetectionLayer", "DetectionTargetLayer", "ProposalLayer", "PyramidROIAlign",
    "apply_box_deltas_graph", "batch_pack_graph", "build_fpn_mask_graph", "build_rpn_model", "clip_boxes_graph",
    "conv_block", "denorm_boxes_graph", "detection_targets_graph", "fpn_classifier_graph", "identity_block",
    "log2_graph", "mrcnn_bbox_loss_graph", "mrcnn_class_loss_graph", "mrcnn_mask_loss_graph", "norm_boxes_graph",
    "overlaps_graph", "parse_image_meta_graph", "refine_detections_graph", "resnet_graph", "rpn_bbox_loss_graph",
    "rpn_class_loss_graph", "rpn_graph", "smooth_l1_loss", "trim_zeros_graph",
]  # fmt: skip
