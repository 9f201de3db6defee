"""From a `Dataset` to the batches that training takes."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from maskrcnn.errors import ConfigError, MissingExtraError
from maskrcnn.legacy import images, targets

from . import utils
from .images import compute_backbone_shapes

# Augmenters of imgaug that move pixels, and so apply to masks as well.
MASK_AUGMENTERS = ("Sequential", "SomeOf", "OneOf", "Sometimes", "Fliplr", "Flipud", "CropAndPad", "Affine",
                   "PiecewiseAffine")  # fmt: skip
ERRORS = 5  # images that may fail before the generator gives up


def load_image_gt(
    dataset: Any, config: Any, image_id: int, augment: bool = False, augmentation: Any = None,
    use_mini_mask: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """An image with its instances, resized.

    Returns image (h, w, c), its meta, class ids (n,), boxes (n, 4) and masks (h, w, n), or of MINI_MASK_SHAPE.
    Instances without a pixel are left out.
    """
    image = dataset.load_image(image_id)
    mask, class_ids = dataset.load_mask(image_id)
    original_shape = image.shape
    image, window, scale, padding, crop = utils.resize_image(
        image, min_dim=config.IMAGE_MIN_DIM, min_scale=config.IMAGE_MIN_SCALE, max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
    )  # fmt: skip
    mask = utils.resize_mask(np.asarray(mask), scale, padding, crop)
    if augment:
        logging.warning("'augment' is deprecated. Use 'augmentation' instead.")
        if random.randint(0, 1):
            image, mask = np.fliplr(image), np.fliplr(mask)
    if augmentation:
        image, mask = _augmented(image, mask, augmentation)
    seen = mask.any(axis=(0, 1))
    mask, class_ids = mask[:, :, seen], np.asarray(class_ids)[seen]
    boxes = utils.extract_bboxes(mask)
    active = np.zeros(dataset.num_classes, np.int32)
    active[dataset.source_class_ids[dataset.image_info[image_id]["source"]]] = 1
    if use_mini_mask:
        mask = utils.minimize_mask(boxes, mask, config.MINI_MASK_SHAPE)
    meta = images.compose_image_meta(image_id, original_shape, image.shape, window, scale, active)
    return image, meta, class_ids, boxes, mask


def _augmented(image: np.ndarray, mask: np.ndarray, augmentation: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same drawn augmentation of both; of the mask only what moves pixels."""
    try:
        import imgaug
    except ImportError:
        raise MissingExtraError(
            "augmentation: imgaug's augmenters need imgaug, which is not installed; without it, augment in your "
            "Dataset's load_image and load_mask, or train with maskrcnn's own augmentations"
        ) from None
    fixed = augmentation.to_deterministic()
    hooks = imgaug.HooksImages(
        activator=lambda images, augmenter, parents, default: type(augmenter).__name__ in MASK_AUGMENTERS
    )
    changed = fixed.augment_image(image)
    moved = fixed.augment_image(mask.astype(np.uint8), hooks=hooks)
    if changed.shape != image.shape or moved.shape != mask.shape:
        raise ConfigError(
            f"augmentation: want one that keeps the size, got {changed.shape} from {image.shape}"
        )
    return changed, moved.astype(bool)


def build_rpn_targets(
    image_shape: Sequence[int],
    anchors: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    config: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Match of each anchor (1, -1, 0) and deltas of the positive ones."""
    return targets.build_rpn_targets(
        anchors, gt_class_ids, gt_boxes, config.RPN_TRAIN_ANCHORS_PER_IMAGE, config.RPN_BBOX_STD_DEV
    )


def build_detection_targets(
    rpn_rois: np.ndarray, gt_class_ids: np.ndarray, gt_boxes: np.ndarray, gt_masks: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """RoIs, class ids, deltas and masks that the heads would learn from; for looking at."""
    return targets.build_detection_targets(
        rpn_rois, gt_class_ids, gt_boxes, gt_masks, count=config.TRAIN_ROIS_PER_IMAGE,
        positive=config.ROI_POSITIVE_RATIO, classes=config.NUM_CLASSES, std=config.BBOX_STD_DEV,
        mask_shape=config.MASK_SHAPE, mini_masks=config.USE_MINI_MASK, image_shape=config.IMAGE_SHAPE,
    )  # fmt: skip


def data_generator(
    dataset: Any, config: Any, shuffle: bool = True, augment: bool = False, augmentation: Any = None,
    random_rois: int = 0, batch_size: int = 1, detection_targets: bool = False,
    no_augmentation_sources: Sequence[str] | None = None,
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:  # fmt: skip
    """Batches without end: inputs and outputs.

    inputs  : images (b, h, w, c) molded, metas, rpn_match (b, n, 1), rpn_bbox (b, m, 4), class ids (b, g), boxes
              (b, g, 4), masks (b, mh, mw, g); with ``random_rois`` RoIs too, (b, r, 4) in pixels
    outputs : empty, or with ``detection_targets`` class ids, deltas and masks

    Images without an instance are left out. An image that fails is logged; the sixth raises its error.
    """
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, config.IMAGE_SHAPE), config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE,
    )  # fmt: skip
    if not len(dataset.image_ids):
        raise ConfigError("dataset: want at least one image, got none; call add_image, then prepare()")
    waiting: list[list[np.ndarray]] = []
    errors = empty = 0
    for image_id in _endless(dataset.image_ids, shuffle):
        source = dataset.image_info[image_id]["source"]
        plain = source in (no_augmentation_sources or ())
        try:
            image, meta, class_ids, boxes, masks = load_image_gt(
                dataset, config, image_id, augment=augment, augmentation=None if plain else augmentation,
                use_mini_mask=config.USE_MINI_MASK,
            )  # fmt: skip
            empty = 0 if (class_ids > 0).any() else empty + 1
            if empty:
                if empty > len(dataset.image_ids):
                    raise ConfigError("dataset: want images with instances, got none in any; see load_mask")
                continue
            match, deltas = build_rpn_targets(image.shape, anchors, class_ids, boxes, config)
            rows = [
                images.mold_image(image, config.MEAN_PIXEL).astype(np.float32),
                meta,
                match[:, None],
                deltas,
            ]
            extra: list[np.ndarray] = []
            if random_rois:
                rois = generate_random_rois(image.shape, random_rois, class_ids, boxes)
                extra = [rois]
                if detection_targets:
                    extra += build_detection_targets(rois, class_ids, boxes, masks, config)
            waiting.append([*rows, *_padded(class_ids, boxes, masks, config.MAX_GT_INSTANCES), *extra])
        except (ConfigError, MissingExtraError):
            raise
        except Exception:
            logging.exception("Error processing image %s", dataset.image_info[image_id])
            errors += 1
            if errors > ERRORS:
                raise
            continue
        if len(waiting) == batch_size:
            columns = [np.stack(column) for column in zip(*waiting, strict=True)]
            inputs, outputs = columns[:9], columns[9:]
            if outputs:
                outputs[0] = outputs[0][..., None]
            yield inputs, outputs
            waiting = []


def _endless(image_ids: np.ndarray, shuffle: bool) -> Iterator[int]:
    ids = np.copy(image_ids)
    while True:
        if shuffle:
            np.random.shuffle(ids)  # noqa: NPY002
        yield from ids


def _padded(
    class_ids: np.ndarray, boxes: np.ndarray, masks: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances filled up with zeros to ``most``, or a random choice of so many."""
    if len(boxes) > most:
        keep = np.random.choice(np.arange(len(boxes)), most, replace=False)  # noqa: NPY002
        class_ids, boxes, masks = class_ids[keep], boxes[keep], masks[:, :, keep]
    rows = (0, most - len(boxes))
    return (
        np.pad(class_ids.astype(np.int32), rows),
        np.pad(boxes.astype(np.int32), (rows, (0, 0))),
        np.pad(masks, ((0, 0), (0, 0), rows)),
    )


generate_random_rois = targets.generate_random_rois
