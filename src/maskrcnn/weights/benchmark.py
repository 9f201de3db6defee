"""maskrcnn-benchmark's ``.pth`` as ours: Mask R-CNN with ResNet or ResNeXt and FPN.

Source: maskrcnn-benchmark modeling/{backbone,rpn,roi_heads,poolers}, config/defaults.py.
Its frozen norms have no epsilon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import MASKRCNN_BENCHMARK, Config
from ..errors import WeightsError
from . import state_dict
from .detectron import MEAN_BGR
from .state_dict import Conventions

TABLE = (
    ("backbone.body.stem.conv1", "backbone.body.stem.bn1", "backbone.stem"),
    ("backbone.body.layer{s-1}.{i}.conv{k}", "backbone.body.layer{s-1}.{i}.bn{k}", "backbone.s{s}.{i}.conv{k}"),
    ("backbone.body.layer{s-1}.{i}.downsample.0", "backbone.body.layer{s-1}.{i}.downsample.1",
     "backbone.s{s}.{i}.shortcut"),
    ("backbone.fpn.fpn_inner{s-1}", "", "fpn.lateral{s}"),
    ("backbone.fpn.fpn_layer{s-1}", "", "fpn.output{s}"),
    ("rpn.head.conv", "", "rpn.conv1"),
    ("rpn.head.cls_logits", "", "rpn.objectness"),
    ("rpn.head.bbox_pred", "", "rpn.deltas"),
    ("roi_heads.box.feature_extractor.fc{k+5}", "", "box.fc{k}"),
    ("roi_heads.box.predictor.cls_score", "", "box.class_logits"),
    ("roi_heads.box.predictor.bbox_pred", "", "box.deltas"),
    ("roi_heads.mask.feature_extractor.mask_fcn{k}", "", "mask.conv{k}"),
    ("roi_heads.mask.predictor.conv5_mask", "", "mask.deconv"),
    ("roi_heads.mask.predictor.mask_fcn_logits", "", "mask.logits"),
)  # fmt: skip
KNOWN = r"rpn\.anchor_generator\.cell_anchors\.\d+|.*\.num_batches_tracked"


def is_benchmark(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these arrays have maskrcnn-benchmark's names."""
    return "backbone.body.stem.conv1.weight" in arrays


def read(arrays: Mapping[str, Tensor], **options: Any) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of a maskrcnn-benchmark checkpoint.

    options : as in `detectron2.read`. ResNets are taken to have the stride in the first 1x1, ResNeXts in the 3x3

    Raises WeightsError that names what is missing for models without FPN or masks; else as `state_dict.read`.
    """
    other = []
    if "backbone.body.stem.bn1.running_var" not in arrays:
        other.append("group normalisation")
    if not any(name.startswith("backbone.fpn.") for name in arrays):
        other.append("a C4 model: its heads run the ResNet's last stage on one feature map, without FPN")
    if not any(name.startswith("roi_heads.mask.") for name in arrays):
        other.append("a detector without a mask head")
    if any(name.startswith("roi_heads.keypoint.") for name in arrays):
        other.append("a keypoint head")
    if other:
        raise WeightsError(
            f"want a Mask R-CNN on ResNet with FPN, got {', '.join(other)}; this is not built here"
        )
    middle = arrays.get("backbone.body.layer1.0.conv2.weight")
    grouped = middle is not None and middle.ndim == 4 and middle.shape[0] != middle.shape[1]
    conventions = Conventions(TABLE, KNOWN, background_first=True, bgr=True, ratio_major=True, epsilon=0.0)
    fields = {"dialect": MASKRCNN_BENCHMARK, "stride_in_1x1": not grouped, "mean": MEAN_BGR[::-1]}
    return state_dict.read(arrays, conventions, fields, options)
