"""`MaskRCNN` and the functions around it, under the names that scripts import."""

from __future__ import annotations

import datetime
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.errors import ConfigError, ImageError
from maskrcnn.legacy import images as _images
from maskrcnn.legacy.graph import served
from maskrcnn.legacy.training import Lesson, Trainer, TrainingPass
from maskrcnn.model.restore import restore
from maskrcnn.records import Image, ImageBatch
from maskrcnn.weights import MODELS

from . import runs, training, utils
from .generator import (
    build_detection_targets,
    build_rpn_targets,
    data_generator,
    generate_random_rois,
    load_image_gt,
)
from .graph_functions import (
    BatchNorm,
    DetectionLayer,
    DetectionTargetLayer,
    ProposalLayer,
    PyramidROIAlign,
    apply_box_deltas_graph,
    batch_pack_graph,
    build_fpn_mask_graph,
    build_rpn_model,
    clip_boxes_graph,
    conv_block,
    denorm_boxes_graph,
    detection_targets_graph,
    fpn_classifier_graph,
    identity_block,
    log2_graph,
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    norm_boxes_graph,
    overlaps_graph,
    parse_image_meta_graph,
    refine_detections_graph,
    resnet_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    rpn_graph,
    smooth_l1_loss,
    trim_zeros_graph,
)
from .images import (
    as_dict,
    compose_image_meta,
    compute_backbone_shapes,
    mold,
    mold_image,
    of_one_shape,
    parse_image_meta,
    to_batch,
    unmold_image,
)
from .keras_model import KerasModel, Layer, Symbol

__all__ = [
    "BatchNorm", "DetectionLayer", "DetectionTargetLayer", "MaskRCNN", "ProposalLayer", "PyramidROIAlign",
    "apply_box_deltas_graph", "batch_pack_graph", "build_detection_targets", "build_fpn_mask_graph",
    "build_rpn_model", "build_rpn_targets", "clip_boxes_graph", "compose_image_meta",
    "compute_backbone_shapes", "conv_block", "data_generator", "denorm_boxes_graph",
    "detection_targets_graph", "fpn_classifier_graph", "generate_random_rois", "identity_block",
    "load_image_gt", "log", "log2_graph", "mold_image", "mrcnn_bbox_loss_graph", "mrcnn_class_loss_graph",
    "mrcnn_mask_loss_graph", "norm_boxes_graph", "overlaps_graph", "parse_image_meta",
    "parse_image_meta_graph", "refine_detections_graph", "resnet_graph", "rpn_bbox_loss_graph",
    "rpn_class_loss_graph", "rpn_graph", "smooth_l1_loss", "trim_zeros_graph", "unmold_image",
]  # fmt: skip

HEADS = r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"
LAYERS = {
    "heads": HEADS,
    "3+": rf"(res3.*)|(bn3.*)|(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|{HEADS}",
    "4+": rf"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|{HEADS}",
    "5+": rf"(res5.*)|(bn5.*)|{HEADS}",
    "all": ".*",
}


def log(text: str, array: np.ndarray | None = None) -> None:
    """Print a text, with an array's shape, range and dtype behind it."""
    if array is not None:
        low, high = (f"{x:10.5f}" for x in (array.min(), array.max())) if array.size else (" " * 10,) * 2
        text = f"{text:25}shape: {array.shape!s:20}  min: {low}  max: {high}  {array.dtype}"
    print(text)


class MaskRCNN:
    """The model, for ``mode`` "training" or "inference". Its weights are random until `load_weights`.

    Raises ConfigError where the config's network cannot be built.
    """

    def __init__(self, mode: str, config: Any, model_dir: Any) -> None:
        assert mode in ("training", "inference"), f"mode: want training or inference, got {mode!r}"
        self.mode = mode
        self.config = config
        self.model_dir = model_dir
        self.set_log_dir()
        self.keras_model = self.build(mode=mode, config=config)
        self._anchors: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

    def build(self, mode: str, config: Any) -> KerasModel:
        """The network of a config, with random weights."""
        if any(side % 64 for side in config.IMAGE_SHAPE[:2]):
            raise ConfigError(
                "IMAGE_MAX_DIM (IMAGE_MIN_DIM in mode crop): Image size must be dividable by 2 at least 6 times, "
                f"such as 256, 320, 384, 448, 512; got {config.IMAGE_SHAPE[:2]}"
            )
        return KerasModel(config, mode)

    # --- files ---

    def find_last(self) -> str:
        """The last checkpoint of the last run in ``model_dir``. Raises FileNotFoundError if there is none."""
        return runs.last(self.model_dir, self.config.NAME.lower())

    def load_weights(
        self, filepath: Any, by_name: bool = False, exclude: Collection[str] | None = None
    ) -> None:
        """Read an .h5 of Matterport's package, or of Keras's ResNet-50.

        by_name : take the layers that the file has; else it must have all
        exclude : names of layers that keep their values; implies ``by_name``

        Continues the run that the file's name tells of. Raises WeightsError where the shapes do not fit.
        """
        self.keras_model.load_weights(filepath, by_name=by_name or bool(exclude), exclude=exclude or ())
        self.set_log_dir(str(filepath))

    def get_imagenet_weights(self) -> str:
        """The path of Keras's ResNet-50 of ImageNet, fetched where it is not there. Raises DownloadError."""
        return str(MODELS["keras-resnet50"].fetch())

    def set_log_dir(self, model_path: str | None = None) -> None:
        """Set ``log_dir``, ``checkpoint_path`` and ``epoch``: those of the run of a checkpoint, or new ones."""
        begun, self.epoch = datetime.datetime.now(), 0
        if model_path and (found := runs.started(model_path)):
            begun, self.epoch = found  # counted from 1 in the name, from 0 here: the next one
            print(f"Re-starting from epoch {self.epoch}")
        name = (self.config.NAME or "").lower()
        self.log_dir = runs.folder(str(self.model_dir), name, begun)
        self.checkpoint_path = os.path.join(self.log_dir, f"mask_rcnn_{name}_{{epoch:04d}}.h5")  # noqa: PTH118

    # --- training ---

    def compile(self, learning_rate: float, momentum: float) -> None:
        """Does nothing: `train` prepares the optimiser."""

    def set_trainable(
        self, layer_regex: str, keras_model: Any = None, indent: int = 0, verbose: int = 1
    ) -> None:
        """Make the layers trainable whose names match, and only these."""
        if verbose > 0 and keras_model is None:
            log("Selecting layers to train")
        for layer in (keras_model or self.keras_model).layers:
            if layer.layers:
                if verbose > 0:
                    print("In model: ", layer.name)
                self.set_trainable(layer_regex, layer, indent + 4, verbose)
                continue
            if not layer.weights:
                continue
            layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
            if layer.trainable and verbose > 0:
                log(f"{' ' * indent}{layer.name:20}   ({type(layer).__name__})")

    def trainer(self, learning_rate: float, momentum: float) -> Trainer:
        """What takes training steps on the layers that are trainable."""
        config, keras_model = self.config, self.keras_model
        lesson = Lesson(
            proposals=config.POST_NMS_ROIS_TRAINING, rois=config.TRAIN_ROIS_PER_IMAGE,
            positive=config.ROI_POSITIVE_RATIO, box_std=tuple(np.ravel(config.BBOX_STD_DEV).tolist()),
            mini_masks=config.USE_MINI_MASK, weights=dict(config.LOSS_WEIGHTS),
            adapt_norms=config.TRAIN_BN is not False, decay=config.WEIGHT_DECAY, clip=config.GRADIENT_CLIP_NORM,
        )  # fmt: skip
        step = TrainingPass(keras_model.settings, keras_model.order, lesson)
        return Trainer(
            step,
            keras_model.table,
            keras_model.arrays,
            keras_model.trainable_keys,
            learning_rate,
            momentum,
            keras_model.device,
        )

    def train(
        self, train_dataset: Any, val_dataset: Any, learning_rate: float, epochs: int, layers: str,
        augmentation: Any = None, custom_callbacks: Sequence[Any] | None = None,
        no_augmentation_sources: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Train until epoch ``epochs``, those of earlier calls and of the loaded checkpoint included.

        layers       : heads, 3+, 4+, 5+, all, or a regular expression of layer names
        augmentation : an augmenter of imgaug, if that is installed

        Each epoch ends with validation and with a checkpoint in ``log_dir``. ``custom_callbacks`` may have any of
        Keras's methods, such as on_epoch_end(epoch, logs).
        """
        assert self.mode == "training", "Create model in training mode."
        regex = LAYERS.get(layers, layers)
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        log(f"\nStarting at epoch {self.epoch}. LR={learning_rate}\n")
        log(f"Checkpoint Path: {self.checkpoint_path}")
        self.set_trainable(regex)
        size = self.config.BATCH_SIZE
        feed = data_generator(
            train_dataset, self.config, shuffle=True, augmentation=augmentation, batch_size=size,
            no_augmentation_sources=no_augmentation_sources,
        )  # fmt: skip
        check = data_generator(val_dataset, self.config, shuffle=True, batch_size=size)
        trainer = self.trainer(learning_rate, self.config.LEARNING_MOMENTUM)
        training.fit(self, trainer, feed, check, epochs, custom_callbacks or ())
        self.epoch = max(self.epoch, epochs)

    # --- detection ---

    def mold_inputs(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (h, w, c) of any size, resized and minus the mean; their metas; and windows (n, 4).

        Raises ImageError where they do not come to one size.
        """
        molded, metas, windows = zip(*(mold(image, self.config) for image in images), strict=True)
        if len({image.shape for image in molded}) > 1:
            raise ImageError(
                "images: want such as come to one size, got "
                f"{sorted({image.shape for image in molded})}; pass them one by one, or use mode square"
            )
        return np.stack(molded), np.stack(metas), np.stack(windows)

    def unmold_detections(
        self, detections: np.ndarray, mrcnn_mask: np.ndarray, original_image_shape: Sequence[int],
        image_shape: Sequence[int], window: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Boxes, class ids, scores and masks in pixels of the original, from the network's outputs."""
        return _images.unmold_detections(detections, mrcnn_mask, original_image_shape, image_shape, window)

    def detect(self, images: Sequence[np.ndarray], verbose: int = 0) -> list[dict[str, np.ndarray]]:
        """Find the instances in each of any number of images (h, w, c).

        Returns a dict for each: rois (n, 4) int32 y1, x1, y2, x2, class_ids (n,) int32, scores (n,) float32,
        masks (h, w, n) bool.
        """
        assert self.mode == "inference", "Create model in inference mode."
        if verbose:
            log(f"Processing {len(images)} images")
            for image in images:
                log("image", image)
        results: list[dict[str, np.ndarray]] = []
        for group in of_one_shape([mold(image, self.config) for image in images]):
            molded, metas, _ = (np.stack(column) for column in zip(*group, strict=True))
            self._log_inputs(molded, metas, verbose)
            results += self._run(to_batch(molded, metas), None)
        return results

    def detect_molded(
        self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """As `detect`, of images that are molded already; boxes and masks are in pixels of these."""
        assert self.mode == "inference", "Create model in inference mode."
        molded = np.stack(list(molded_images))
        if verbose:
            log(f"Processing {len(molded)} images")
            for image in molded:
                log("image", image)
        self._log_inputs(molded, np.asarray(image_metas), verbose)
        return self._run(to_batch(molded, image_metas), molded.shape[1:3])

    def _log_inputs(self, molded: np.ndarray, metas: np.ndarray, verbose: int) -> None:
        anchors = self.get_anchors(molded[0].shape)
        if verbose:
            log("molded_images", molded)
            log("image_metas", metas)
            log("anchors", np.broadcast_to(anchors, (len(molded), *anchors.shape)))

    @torch.inference_mode()
    def _run(self, batch: ImageBatch, molded: tuple[int, ...] | None) -> list[dict[str, np.ndarray]]:
        """Results of a batch; ``molded`` asks for those in pixels of the network input of this (h, w)."""
        if self.keras_model.random:
            names = sorted(self.keras_model.random)
            warnings.warn(
                f"{len(names)} layers have random weights, {', '.join(names[:4])} among them, so what is detected "
                "means nothing; load weights that have them, without exclude",
                stacklevel=3,
            )
        network = self.keras_model.network
        batch = batch.to(network.device)
        detections, masks = network(batch)
        if molded is not None:
            h, w = molded
            windows = batch.windows.new_tensor([0, 0, w, h]).expand(len(batch), 4)
            batch = ImageBatch(batch.pixels, windows, ((h, w),) * len(batch))
        originals = [Image(np.empty((h, w, 0), np.uint8)) for h, w in batch.sizes]
        return [as_dict(result) for result in restore(detections, masks, batch, originals, network.config)]

    # --- looking inside ---

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """(n, 4) float32 anchors, normalised; ``self.anchors`` are the same in pixels."""
        shape = tuple(image_shape[:2])
        if shape not in self._anchors:
            pixels = utils.generate_pyramid_anchors(
                self.config.RPN_ANCHOR_SCALES, self.config.RPN_ANCHOR_RATIOS,
                compute_backbone_shapes(self.config, shape), self.config.BACKBONE_STRIDES,
                self.config.RPN_ANCHOR_STRIDE,
            )  # fmt: skip
            self._anchors[shape] = pixels, utils.norm_boxes(pixels, shape)
        self.anchors, normalised = self._anchors[shape]
        return normalised

    def ancestor(self, tensor: Any, name: str, checked: Any = None) -> Symbol | None:
        """The node of that name for `run_graph`; None where there is no such node."""
        return Symbol(name) if served(name) else None

    def find_trainable_layer(self, layer: Any) -> Any:
        """The layer that holds the weights."""
        return getattr(layer, "layer", layer)

    def get_trainable_layers(self) -> list[Layer]:
        """The layers that have weights."""
        layers = [self.find_trainable_layer(layer) for layer in self.keras_model.layers]
        return [layer for layer in layers if layer.weights]

    def run_graph(
        self, images: Any, outputs: Sequence[tuple[str, Symbol]],
        image_metas: np.ndarray | None = None,
    ) -> OrderedDict[str, np.ndarray]:  # fmt: skip
        """Compute nodes of the graph, such as ``model.keras_model.get_layer("ROI").output``.

        images  : as in `detect`, or molded where ``image_metas`` are given
        outputs : pairs of a key and a node

        Returns arrays by key, and logs each. Raises ConfigError for nodes that do not exist here.
        """
        wanted = OrderedDict(outputs)
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        self.get_anchors(images[0].shape)
        names = [_node_name(key, node) for key, node in wanted.items()]
        asked = [name for name in names if name != "input_image_meta"]
        values = dict(zip(asked, self.keras_model.run(to_batch(images, image_metas), asked), strict=True))
        values["input_image_meta"] = np.asarray(image_metas)
        computed = OrderedDict((key, values[name]) for key, name in zip(wanted, names, strict=True))
        for key, value in computed.items():
            log(key, value)
        return computed


def _node_name(key: str, node: Any) -> str:
    """The name in a `Symbol`, or in the tensor that TensorFlow made of one."""
    if node is None:
        raise ConfigError(f"{key}: want a node of the graph, got None; see MaskRCNN.ancestor")
    return node.numpy().decode() if hasattr(node, "numpy") else str(node)
