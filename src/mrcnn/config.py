"""Settings as class attributes: derive a class from `Config` and change what differs."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

# Names of earlier releases, misspellings among them, and what has taken their place.
REPLACED = {
    "IMAGE_PADDING": "IMAGE_RESIZE_MODE = 'square' (padded) or 'none'",
    "VALIDATION_STPES": "VALIDATION_STEPS",
    "BACKBONE_SHAPES": "mrcnn.model.compute_backbone_shapes(config, image_shape)",
    "USE_STAGE5": "nothing: stage 5 is always there",
}


class Config:
    """Base class with Matterport's defaults; `maskrcnn.load(path, config=YourConfig)` reads it too.

    Warns of attributes that Matterport renamed, and of names close to one of these: likely a misspelling.
    """

    NAME: str | None = None  # names the folder of logs

    # what runs, and for how long
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 50

    # the network
    BACKBONE: Any = "resnet101"
    COMPUTE_BACKBONE_SHAPE: Callable[..., np.ndarray] | None = None
    BACKBONE_STRIDES = [4, 8, 16, 32, 64]  # noqa: RUF012
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    TOP_DOWN_PYRAMID_SIZE = 256
    NUM_CLASSES = 1  # background included

    # region proposals
    RPN_ANCHOR_SCALES: Any = (32, 64, 128, 256, 512)
    RPN_ANCHOR_RATIOS = [0.5, 1, 2]  # noqa: RUF012  # width / height
    RPN_ANCHOR_STRIDE = 1
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 6000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000

    # images and masks
    USE_MINI_MASK = True
    MINI_MASK_SHAPE: Any = (56, 56)
    IMAGE_RESIZE_MODE = "square"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024
    IMAGE_MIN_SCALE: float = 0
    IMAGE_CHANNEL_COUNT = 3
    MEAN_PIXEL: Any = np.array([123.7, 116.8, 103.9])

    # heads
    TRAIN_ROIS_PER_IMAGE = 200
    ROI_POSITIVE_RATIO = 0.33
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14
    MASK_SHAPE = [28, 28]  # noqa: RUF012
    MAX_GT_INSTANCES = 100
    RPN_BBOX_STD_DEV: Any = np.array([0.1, 0.1, 0.2, 0.2])
    BBOX_STD_DEV: Any = np.array([0.1, 0.1, 0.2, 0.2])

    # detections
    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE: float = 0.7
    DETECTION_NMS_THRESHOLD = 0.3

    # training
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.0001
    LOSS_WEIGHTS = {  # noqa: RUF012
        "rpn_class_loss": 1.0,
        "rpn_bbox_loss": 1.0,
        "mrcnn_class_loss": 1.0,
        "mrcnn_bbox_loss": 1.0,
        "mrcnn_mask_loss": 1.0,
    }
    USE_RPN_ROIS = True
    TRAIN_BN: bool | None = False
    GRADIENT_CLIP_NORM = 5.0

    def __init__(self) -> None:
        """Set what follows from the other attributes."""
        self.BATCH_SIZE = self.IMAGES_PER_GPU * self.GPU_COUNT
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        self.IMAGE_SHAPE = np.array([side, side, self.IMAGE_CHANNEL_COUNT])
        self.IMAGE_META_SIZE = 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES
        _warn_of_names(self)

    def display(self) -> None:
        """Print every attribute with its value."""
        print("\nConfigurations:")
        for name in dir(self):
            if not name.startswith("__") and not callable(getattr(self, name)):
                print(f"{name:30} {getattr(self, name)}")
        print("\n")


def _warn_of_names(config: Config) -> None:
    known = {name for name in dir(Config) if name.isupper()} | {
        "BATCH_SIZE",
        "IMAGE_SHAPE",
        "IMAGE_META_SIZE",
    }
    for name in dir(config):
        if name in REPLACED:
            warnings.warn(f"{name} has no effect; use {REPLACED[name]}", stacklevel=3)
        elif name.isupper() and name not in known:
            close = difflib.get_close_matches(name, known, 1, cutoff=0.85)
            if close:
                warnings.warn(f"{name} has no effect; did you mean {close[0]}?", stacklevel=3)
