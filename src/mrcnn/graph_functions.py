"""What built Keras's graph: losses and box arithmetic work on torch tensors, the rest names its replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from maskrcnn.errors import MaskRCNNError
from maskrcnn.legacy import images, losses
from maskrcnn.ops.boxes import clip, decode, iou, swap_xy

smooth_l1_loss = losses.smooth_l1
rpn_class_loss_graph = losses.rpn_class_loss
mrcnn_bbox_loss_graph = losses.mrcnn_bbox_loss
log2_graph = torch.log2


def mrcnn_class_loss_graph(
    target_class_ids: Tensor, pred_class_logits: Tensor, active_class_ids: Tensor
) -> Tensor:
    """Mean cross entropy of the RoIs; the classes of the first image count for the batch, as they did here.

    `MaskRCNN.train` takes each image's own.
    """
    active = active_class_ids[:1].expand_as(active_class_ids)
    return losses.mrcnn_class_loss(target_class_ids, pred_class_logits, active)


def rpn_bbox_loss_graph(config: Any, target_bbox: Tensor, rpn_match: Tensor, rpn_bbox: Tensor) -> Tensor:
    """Mean smooth-L1 of the deltas of the positive anchors."""
    return losses.rpn_bbox_loss(target_bbox, rpn_match, rpn_bbox)


def mrcnn_mask_loss_graph(target_masks: Tensor, target_class_ids: Tensor, pred_masks: Tensor) -> Tensor:
    """Mean binary cross entropy of the positive RoIs: (b, r, h, w), (b, r), (b, r, h, w, classes)."""
    image, roi = torch.nonzero(target_class_ids > 0, as_tuple=True)
    chosen = pred_masks[image, roi, :, :, target_class_ids[image, roi].long()]
    return losses.mrcnn_mask_loss(target_masks[image, roi], chosen)


def apply_box_deltas_graph(boxes: Tensor, deltas: Tensor) -> Tensor:
    """(n, 4) y1, x1, y2, x2 moved and stretched by dy, dx, dlogh, dlogw."""
    return swap_xy(decode(swap_xy(deltas), swap_xy(boxes), (1.0, 1.0, 1.0, 1.0)))


def clip_boxes_graph(boxes: Tensor, window: Tensor) -> Tensor:
    """(n, 4) boxes moved into the window (4,)."""
    return clip(boxes, window)


def overlaps_graph(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(n1, n2) IoU."""
    return iou(boxes1, boxes2)


def norm_boxes_graph(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., 4) pixels as 0..1 of (h, w)."""
    h, w = float(shape[0]), float(shape[1])
    return (boxes - boxes.new_tensor([0, 0, 1, 1])) / boxes.new_tensor([h - 1, w - 1, h - 1, w - 1])


def denorm_boxes_graph(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(..., 4) 0..1 of (h, w) as int32 pixels."""
    h, w = float(shape[0]), float(shape[1])
    pixels = boxes * boxes.new_tensor([h - 1, w - 1, h - 1, w - 1]) + boxes.new_tensor([0, 0, 1, 1])
    return pixels.round().int()


def trim_zeros_graph(boxes: Tensor, name: str = "trim_zeros") -> tuple[Tensor, Tensor]:
    """The rows that are not zero, and (n,) bool, which those are."""
    real = boxes.abs().sum(1) > 0
    return boxes[real], real


def batch_pack_graph(x: Tensor, counts: Sequence[int], num_rows: int) -> Tensor:
    """The first ``counts[i]`` rows of each ``x[i]``, one after the other."""
    return torch.cat([x[i, : int(counts[i])] for i in range(num_rows)])


def parse_image_meta_graph(meta: Tensor) -> dict[str, Tensor]:
    """The parts of (b, 12 + classes) by name."""
    return {name: meta[:, columns] for name, (columns, _) in images.META.items()}


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
