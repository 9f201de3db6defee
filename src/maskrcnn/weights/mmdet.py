"""MMDetection's checkpoints as ours: Mask R-CNN with ResNet or ResNeXt and FPN, of MMDetection 2.x and 3.x.

The arrays have the same names in both. Class names and the text of the configuration lie beside them, in ``meta``
or ``message_hub``; the published files have them, files stripped by a script may not.
Source: mmdet 3.3.0, configs/_base_/models/mask-rcnn_r50_fpn.py, models/{backbones,necks,dense_heads,roi_heads}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import MMDETECTION, Config, Dialect
from ..errors import ConfigError, WeightsError
from . import mmdet_config, state_dict
from .state_dict import Conventions

TABLE = (
    ("backbone.conv1", "backbone.bn1", "backbone.stem"),
    ("backbone.layer{s-1}.{i}.conv{k}", "backbone.layer{s-1}.{i}.bn{k}", "backbone.s{s}.{i}.conv{k}"),
    ("backbone.layer{s-1}.{i}.downsample.0", "backbone.layer{s-1}.{i}.downsample.1", "backbone.s{s}.{i}.shortcut"),
    ("neck.lateral_convs.{s-2}.conv", "neck.lateral_convs.{s-2}.bn", "fpn.lateral{s}"),
    ("neck.fpn_convs.{s-2}.conv", "neck.fpn_convs.{s-2}.bn", "fpn.output{s}"),
    ("rpn_head.rpn_conv", "", "rpn.conv1"),
    ("rpn_head.rpn_conv.{k-1}.conv", "", "rpn.conv{k}"),
    ("rpn_head.rpn_cls", "", "rpn.objectness"),
    ("rpn_head.rpn_reg", "", "rpn.deltas"),
    ("roi_head.bbox_head.shared_convs.{k-1}.conv", "roi_head.bbox_head.shared_convs.{k-1}.bn", "box.conv{k}"),
    ("roi_head.bbox_head.shared_fcs.{k-1}", "", "box.fc{k}"),
    ("roi_head.bbox_head.fc_cls", "", "box.class_logits"),
    ("roi_head.bbox_head.fc_reg", "", "box.deltas"),
    ("roi_head.mask_head.convs.{k-1}.conv", "roi_head.mask_head.convs.{k-1}.bn", "mask.conv{k}"),
    ("roi_head.mask_head.upsample", "", "mask.deconv"),
    ("roi_head.mask_head.conv_logits", "", "mask.logits"),
)  # fmt: skip
KNOWN = r".*\.num_batches_tracked|data_preprocessor\..*|ema_.*"
# Input of the two styles: ``pytorch`` is torchvision's ImageNet weights, ``caffe`` Detectron2's.
PYTORCH = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "order": "RGB"}
STRIDES = (4, 8, 16, 32, 64)
CAFFE = {"mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0), "order": "BGR"}

OTHERS = (
    (".conv2_offset.", "deformable convolutions"),
    (".conv2.conv_offset.", "deformable convolutions"),
    ("roi_head.bbox_head.0.", "a cascade of box heads"),
    ("roi_head.mask_iou_head.", "Mask Scoring R-CNN"),
    ("roi_head.point_head.", "PointRend"),
    ("roi_head.mask_head.0.", "a cascade of mask heads"),
    ("backbone.stages.", "a Swin or ConvNeXt backbone"),
    ("backbone.s1.", "a RegNet backbone"),
    (".context_block", "GCNet"),
)


def is_mmdet(arrays: Mapping[str, Tensor]) -> bool:
    """Whether these arrays have MMDetection's names, of any version."""
    return "rpn_head.rpn_cls.weight" in arrays


def read(arrays: Mapping[str, Tensor], content: Any, **options: Any) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, our names) of an MMDetection checkpoint.

    content : the whole file, whose metadata has class names and the configuration
    options : fields of `Config` and `Dialect`; and, where the metadata is gone, ``style``, ``"pytorch"`` (taken
              if nothing is said) or ``"caffe"``

    Raises WeightsError for files of MMDetection 1.x and for other networks; else as `state_dict.read`.
    """
    if not any(name.startswith("roi_head.") for name in arrays):
        heads = sorted({name.split(".")[0] for name in arrays})
        first = "bbox_head.fc_cls.weight" in arrays or "bbox_head.0.fc_cls.weight" in arrays
        what = "MMDetection 1.x, whose boxes have inclusive ends; convert it with MMDetection 2's "
        what += "tools/model_converters/upgrade_model_version.py, then train or check it there"
        raise WeightsError(
            f"want a Mask R-CNN of MMDetection 2 or 3, got {what if first else 'parts ' + ', '.join(heads)}"
        )
    other = [word for part, word in OTHERS if any(part in name for name in arrays)]
    if other or not any(name.startswith("roi_head.mask_head.") for name in arrays):
        raise WeightsError(
            f"want a Mask R-CNN on ResNet with FPN, got {', '.join(other) or 'a detector without a mask head'}; "
            "this is not built here"
        )
    names, text = _metadata(content)
    style = options.pop("style", None) or mmdet_config.style(text) or "pytorch"
    if style not in ("pytorch", "caffe"):
        raise ConfigError(f"style: want 'pytorch' or 'caffe', got {style!r}")
    order, mean, std = _normalisation(text, style)
    fields: dict[str, Any] = {
        "dialect": MMDETECTION,
        "stride_in_1x1": style == "caffe",
        "mean": mean[::-1] if order == "BGR" else mean,
    }
    said = mmdet_config.settings(text)
    spoken = {f.name for f in dataclasses.fields(Dialect)}
    fields["dialect"] = dataclasses.replace(MMDETECTION, **{k: v for k, v in said.items() if k in spoken})
    fields |= {k: v for k, v in said.items() if k not in spoken}
    if names:
        fields["names"] = names
    conventions = Conventions(TABLE, KNOWN, bgr=order == "BGR", ratio_major=True, std=std)
    return state_dict.read(arrays, conventions, fields, options)


def write(config: Config, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint for MMDetection 2 and 3, class names and normalisation in its metadata."""
    usual = CAFFE if config.stride_in_1x1 else PYTORCH
    bgr, std = usual["order"] == "BGR", usual["std"]
    table = TABLE if config.rpn_convs == 1 else tuple(row for row in TABLE if row[0] != "rpn_head.rpn_conv")
    arrays = state_dict.write(config, state, Conventions(table, "", bgr=bgr, ratio_major=True, std=std))  # type: ignore[arg-type]
    meta = {"CLASSES": config.names, "dataset_meta": {"classes": config.names}, "config": settings(config)}
    return {"meta": meta, "state_dict": arrays}


def told(config: Config) -> str:
    """For people: with what MMDetection computes a file of `write`."""
    base = "mask-rcnn_r50_fpn_1x_coco.py"
    return f"MMDetection 3 computes it by {base} with this, which the file has as meta['config']:\n{settings(config)}"


def settings(config: Config) -> str:
    """What a configuration of MMDetection 3 says on top of ``mask-rcnn_r50_fpn_1x_coco.py`` to build this network."""
    usual = CAFFE if config.stride_in_1x1 else PYTORCH
    bgr, dialect = usual["order"] == "BGR", config.dialect
    norm = {"norm_cfg": {"type": "BN"}}
    heads: dict[str, dict[str, Any]] = {
        "bbox": {"num_classes": config.num_classes, "reg_class_agnostic": config.class_agnostic_boxes}
        | ({"type": "Shared4Conv1FCBBoxHead", **norm} if config.box_convs else {}),
        "mask": {"num_classes": config.num_classes, "class_agnostic": config.class_agnostic_masks}
        | (norm if config.mask_norm else {}),
    }
    roi_head: dict[str, Any] = {}
    for (name, head), size in zip(heads.items(), (config.box_pool, config.mask_size // 2), strict=True):
        layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": dialect.sampling_ratio,
                 "aligned": dialect.roi_op != "align_legacy"}  # fmt: skip
        roi_head |= {f"{name}_roi_extractor": {"roi_layer": layer}, f"{name}_head": head}
    sizes = [
        [side / stride for side in level] for level, stride in zip(config.anchor_sizes, STRIDES, strict=True)
    ]
    generator = {"ratios": list(config.anchor_ratios), "strides": list(STRIDES)}
    if all(size == sizes[0] for size in sizes):
        generator["scales"] = sizes[0]
    model = {
        "data_preprocessor": {"mean": list(config.mean[:: -1 if bgr else 1]), "std": list(usual["std"]),
                              "bgr_to_rgb": not bgr},
        "backbone": {"depth": config.depth, "style": "caffe" if config.stride_in_1x1 else "pytorch"}
        | ({"type": "ResNeXt", "groups": config.groups, "base_width": config.width_per_group}
           if config.groups > 1 else {}),
        "neck": norm if config.fpn_norm else {},
        "rpn_head": {"anchor_generator": generator, "num_convs": config.rpn_convs},
        "roi_head": roi_head,
        "test_cfg": {
            "rpn": {"nms_pre": config.pre_nms, "max_per_img": config.proposals,
                    "nms": {"type": "nms", "iou_threshold": config.rpn_nms}},
            "rcnn": {"score_thr": config.score, "max_per_img": config.max_detections,
                     "nms": {"type": "nms", "iou_threshold": config.nms}},
        },
    }  # fmt: skip
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (config.max_size, config.min_size), "keep_ratio": True},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]
    return f"model = {model!r}\ntest_pipeline = {pipeline!r}\n"


def _metadata(content: Any) -> tuple[tuple[str, ...], str]:
    """Class names (none if the file has none) and the text of the configuration ("" if there is none)."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    data: Mapping[str, Any] = next(
        (meta[k] for k in ("dataset_meta", "dataset_metainfo") if isinstance(meta.get(k), Mapping)), {}
    )
    names = next((v for v in (meta.get("CLASSES"), data.get("classes"), data.get("CLASSES")) if v), ())
    text = next((meta[k] for k in ("cfg", "config") if isinstance(meta.get(k), str)), "")
    names = (names,) if isinstance(names, str) else names  # one class, whose author forgot the comma
    return tuple(str(name) for name in names), text


def _normalisation(text: str, style: str) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Order of the channels, and their mean and deviation in that order."""
    usual = CAFFE if style == "caffe" else PYTORCH
    said = mmdet_config.normalisation(text)
    order = str(usual["order"]) if "rgb" not in said else "RGB" if said["rgb"] else "BGR"
    return order, said.get("mean", usual["mean"]), said.get("std", usual["std"])
