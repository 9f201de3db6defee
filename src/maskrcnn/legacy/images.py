"""Images and masks on Matterport's way into its network and out of it; arrays are (h, w, c) and (h, w, n)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError
from ..ops.resize import skimage_resize
from .boxes import denorm_boxes, norm_boxes

Window = tuple[int, int, int, int]
Padding = list[tuple[int, int]]


def resize(image: np.ndarray, output_shape: Sequence[int], preserve_range: bool = False) -> np.ndarray:
    """Bilinear, zeros outside, no antialiasing, kept in the image's range: scikit-image's, bit for bit.

    Returns float32 for float32 and float64 for all else; integers come out in 0..1 (-1..1 if signed) unless
    ``preserve_range``.
    """
    if tuple(output_shape[2:]) not in ((), tuple(image.shape[2:])):
        raise ShapeError(
            f"output_shape: want (h, w) or the image's own channels, got {tuple(output_shape)} for {image.shape}"
        )
    source = image
    if image.dtype.kind == "b":
        source = image.astype(np.float64)
    elif image.dtype.kind in "ui" and not preserve_range:
        limits = np.iinfo(image.dtype)
        signed = image.dtype.kind == "i"
        source = (2.0 * image + 1) / (float(limits.max) - limits.min) if signed else image / float(limits.max)
    if source.size == 0:
        raise ShapeError(f"image: want at least one pixel, got {image.shape}")
    resized = skimage_resize(source, (int(output_shape[0]), int(output_shape[1])))
    return resized.astype(np.float32) if image.dtype == np.float32 else resized


def resize_image(
    image: np.ndarray, min_dim: int | None = None, max_dim: int | None = None,
    min_scale: float | None = None, mode: str = "square",
) -> tuple[np.ndarray, Window, float, Padding, tuple[int, int, int, int] | None]:  # fmt: skip
    """Enlarge, pad or crop an image to a size that the network takes.

    mode : ``none``; ``square``, padded to max_dim; ``pad64``, to multiples of 64; ``crop``, a random part of
           min_dim x min_dim, drawn from Python's `random`

    Returns the image in its own dtype (values are cut, not rounded), the window y1, x1, y2, x2 of the content,
    the scale, the padding of each axis and the crop y, x, h, w or None.
    """
    h, w = image.shape[:2]
    padding: Padding = [(0, 0), (0, 0), (0, 0)]
    if mode == "none":
        return image, (0, 0, h, w), 1, padding, None
    scale = _scale(h, w, min_dim, max_dim, min_scale, mode)
    resized = image
    if scale != 1:
        resized = resize(image, (round(h * scale), round(w * scale)), preserve_range=True)
        h, w = resized.shape[:2]
    if mode == "crop":
        side = _whole(min_dim, mode, 1)
        y, x = random.randint(0, h - side), random.randint(0, w - side)
        part = resized[y : y + side, x : x + side]
        return part.astype(image.dtype), (0, 0, side, side), scale, padding, (y, x, side, side)
    if mode == "square":
        if max_dim is None:
            raise ConfigError("max_dim: want the side of the square, got None")
        rows, columns = max_dim - h, max_dim - w
    elif mode == "pad64":
        _whole(min_dim, mode, 64)
        rows, columns = -h % 64, -w % 64
    else:
        raise ConfigError(f"mode: want square, pad64, crop or none, got {mode!r}")
    top, left = rows // 2, columns // 2
    padding = [(top, rows - top), (left, columns - left), (0, 0)]
    padded = np.pad(resized, padding[: image.ndim])
    return padded.astype(image.dtype), (top, left, top + h, left + w), scale, padding, None


def _scale(
    h: int, w: int, min_dim: int | None, max_dim: int | None, min_scale: float | None, mode: str
) -> float:
    scale = max(1, min_dim / min(h, w)) if min_dim else 1
    if min_scale and scale < min_scale:
        scale = min_scale
    if max_dim and mode == "square" and round(max(h, w) * scale) > max_dim:
        scale = max_dim / max(h, w)
    return scale


def _whole(min_dim: int | None, mode: str, step: int) -> int:
    if not min_dim or min_dim % step:
        raise ConfigError(f"min_dim: want a positive multiple of {step} in mode {mode}, got {min_dim}")
    return min_dim


def resize_mask(
    mask: np.ndarray, scale: float, padding: Padding, crop: Sequence[int] | None = None
) -> np.ndarray:
    """Masks (h, w, n) resized, padded and cropped as `resize_image` did with their image; nearest pixel.

    Source: scipy.ndimage.zoom with order 0, whose first and last samples are the corner pixels. Where rounding
    puts the last sample beyond the last pixel, scipy gives 0, and so does this.
    """
    (rows, inside_y), (columns, inside_x) = (_nearest(n, round(n * scale)) for n in mask.shape[:2])
    mask = mask[rows][:, columns] * (inside_y[:, None, None] & inside_x[:, None])
    if crop is not None:
        y, x, h, w = crop
        return mask[y : y + h, x : x + w]
    return np.pad(mask, padding)


def _nearest(length: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    at = np.arange(out) * ((length - 1) / (out - 1) if out > 1 else 1.0)
    return np.floor(at + 0.5).astype(np.int64).clip(max=length - 1), at <= length - 1


def minimize_mask(bbox: np.ndarray, mask: np.ndarray, mini_shape: Sequence[int]) -> np.ndarray:
    """(*mini_shape, n) bool: the part of each mask inside its box, resized. Raises ShapeError for empty boxes."""
    mini = np.zeros((*tuple(mini_shape), mask.shape[-1]), bool)
    for i in range(mask.shape[-1]):
        y1, x1, y2, x2 = bbox[i][:4]
        part = mask[y1:y2, x1:x2, i].astype(bool)
        if part.size == 0:
            raise ShapeError(f"bbox: want boxes with an area, got {bbox[i].tolist()} in row {i}")
        mini[..., i] = np.around(resize(part, mini_shape)).astype(bool)
    return mini


def expand_mask(bbox: np.ndarray, mini_mask: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """(h, w, n) bool: small masks back in their boxes; the inverse of `minimize_mask` but for rounding."""
    mask = np.zeros((*tuple(image_shape[:2]), mini_mask.shape[-1]), bool)
    for i in range(mask.shape[-1]):
        y1, x1, y2, x2 = bbox[i][:4]
        mask[y1:y2, x1:x2, i] = np.around(resize(mini_mask[..., i], (y2 - y1, x2 - x1))).astype(bool)
    return mask


def unmold_mask(mask: np.ndarray, bbox: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """(h, w) bool: one mask of probabilities in its integer box, at least 0.5."""
    y1, x1, y2, x2 = bbox[:4]
    full = np.zeros(tuple(image_shape[:2]), bool)
    full[y1:y2, x1:x2] = resize(mask, (y2 - y1, x2 - x1)) >= 0.5
    return full


def mold_image(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Pixels minus the mean; float64 where the mean is."""
    return images.astype(np.float32) - mean


def unmold_image(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """uint8 pixels of molded ones."""
    return (images + mean).astype(np.uint8)


def compose_image_meta(
    image_id: int, original_image_shape: Sequence[int], image_shape: Sequence[int],
    window: Sequence[int], scale: float, active_class_ids: Sequence[int] | np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(12 + classes,) float64: id, shape before, shape after, window, scale, 1 for each class of its data set."""
    return np.array([image_id, *original_image_shape, *image_shape, *window, scale, *active_class_ids])


META: dict[str, tuple[Any, Any]] = {
    "image_id": (0, np.int32), "original_image_shape": (slice(1, 4), np.int32),
    "image_shape": (slice(4, 7), np.int32), "window": (slice(7, 11), np.int32),
    "scale": (11, np.float32), "active_class_ids": (slice(12, None), np.int32),
}  # fmt: skip


def parse_image_meta(meta: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of (b, 12 + classes) by name."""
    return {name: meta[:, columns].astype(dtype) for name, (columns, dtype) in META.items()}


def unmold_detections(
    detections: np.ndarray, mrcnn_mask: np.ndarray, original_image_shape: Sequence[int],
    image_shape: Sequence[int], window: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The network's outputs for one image, in pixels of the original.

    detections : (n, 6) y1, x1, y2, x2 normalised, class id, score; ends at the first class id 0
    mrcnn_mask : (n, m, m, classes) probabilities
    window     : y1, x1, y2, x2, where the content lies in the network input of ``image_shape``

    Returns boxes (k, 4) int32, class ids (k,) int32, scores (k,) float32 and masks (h, w, k) bool; boxes that
    have no area are left out.
    """
    empty = np.flatnonzero(detections[:, 4] == 0)
    rows = detections[: empty[0] if len(empty) else None]
    class_ids = rows[:, 4].astype(np.int32)
    inner = norm_boxes(np.asarray(window), image_shape)
    shift, scale = np.tile(inner[:2], 2), np.tile(inner[2:] - inner[:2], 2)
    boxes = denorm_boxes((rows[:, :4] - shift) / scale, original_image_shape)
    solid = np.flatnonzero((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0)
    masks = [unmold_mask(mrcnn_mask[i, :, :, class_ids[i]], boxes[i], original_image_shape) for i in solid]
    full = np.stack(masks, axis=-1) if masks else np.empty((*tuple(original_image_shape[:2]), 0))
    return boxes[solid], class_ids[solid], rows[solid, 5], full
