"""Between pictures as scripts hold them and batches of `maskrcnn`: molding, metas, shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from maskrcnn.errors import ImageError
from maskrcnn.legacy import boxes
from maskrcnn.legacy import images as _images
from maskrcnn.records import ImageBatch, Result

compose_image_meta = _images.compose_image_meta
parse_image_meta = _images.parse_image_meta
Molded = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, meta, window


def compute_backbone_shapes(config: Any, image_shape: Sequence[int]) -> np.ndarray:
    """(5, 2) height and width of each level of the pyramid."""
    if callable(config.BACKBONE):
        return config.COMPUTE_BACKBONE_SHAPE(image_shape)
    return boxes.feature_shapes(config.BACKBONE_STRIDES, image_shape)


def mold_image(images: np.ndarray, config: Any) -> np.ndarray:
    """RGB pixels minus the mean."""
    return _images.mold_image(images, config.MEAN_PIXEL)


def unmold_image(normalized_images: np.ndarray, config: Any) -> np.ndarray:
    """uint8 pixels of molded ones."""
    return _images.unmold_image(normalized_images, config.MEAN_PIXEL)


def mold(image: np.ndarray, config: Any) -> Molded:
    """One image (h, w, c) resized and minus the mean, its meta, and its window. Raises ImageError."""
    channels = config.IMAGE_CHANNEL_COUNT
    if np.ndim(image) != 3 or image.shape[2] != channels:
        raise ImageError(
            f"image: want (h, w, {channels}), got {np.shape(image)}; grey: np.stack([image] * 3, -1); "
            "RGBA: image[..., :3]"
        )
    resized, window, scale, _, _ = _images.resize_image(
        image, min_dim=config.IMAGE_MIN_DIM, min_scale=config.IMAGE_MIN_SCALE, max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
    )  # fmt: skip
    active = np.zeros(config.NUM_CLASSES, np.int32)
    meta = compose_image_meta(0, image.shape, resized.shape, window, scale, active)
    return mold_image(resized, config), meta, np.asarray(window)


def of_one_shape(molded: Sequence[Molded]) -> list[list[Molded]]:
    """Neighbours of one shape together."""
    groups: list[list[Molded]] = []
    for item in molded:
        if groups and groups[-1][0][0].shape == item[0].shape:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def to_batch(molded_images: Any, image_metas: Any) -> ImageBatch:
    """Molded images (b, h, w, c) and their metas as a batch of `maskrcnn`."""
    metas = parse_image_meta(np.asarray(image_metas))
    pixels = torch.from_numpy(np.ascontiguousarray(molded_images, np.float32)).permute(0, 3, 1, 2)
    windows = torch.from_numpy(metas["window"][:, [1, 0, 3, 2]].astype(np.float32))
    sizes = tuple((int(h), int(w)) for h, w, _ in metas["original_image_shape"])
    return ImageBatch(pixels, windows, sizes)


def as_dict(result: Result) -> dict[str, np.ndarray]:
    """A result as `MaskRCNN.detect` gives it."""
    masks = result.masks.numpy().transpose(1, 2, 0)
    return {
        "rois": result.boxes.numpy()[:, [1, 0, 3, 2]].astype(np.int32),
        "class_ids": (result.labels.numpy() + 1).astype(np.int32),
        "scores": result.scores.numpy(),
        "masks": masks if len(result) else np.empty((*result.size, 0)),
    }
