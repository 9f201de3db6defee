"""The way in: resize, take off the mean, pad. What each framework does differently is named in `Dialect`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from ..config import Config
from ..errors import ConfigError, ImageError
from ..inputs import to_channels
from ..ops.resize import skimage_resize
from ..records import Image, ImageBatch, Size

ROUNDING: dict[str, Callable[[float], int]] = {
    "half_up": lambda x: math.floor(x + 0.5),
    "half_even": round,
    "floor": math.floor,
    "short_first": round,  # where no short side is asked for
}


def batches(images: Sequence[Image], config: Config) -> Iterator[tuple[list[int], ImageBatch]]:
    """Group images by padded size: positions of a group, and its batch.

    Padding an image further than it would be alone changes its numbers near the border, so images of different
    padded size do not share a batch: a batch gives what its images give one by one. Where the dialect pads to the
    batch, all share one, as they do in the framework it is named for.
    """
    if config.dialect.pad_to_batch:
        if images:
            yield list(range(len(images))), to_batch(images, config)
        return
    groups: dict[Size, list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(padded_size(image.size, config), []).append(i)
    for group in groups.values():
        yield group, to_batch([images[i] for i in group], config)


def to_batch(images: Sequence[Image], config: Config) -> ImageBatch:
    """Resize, normalise and pad images to the largest padded size among them.

    Raises ImageError for an image that does not have the channels the model wants.
    """
    height, width = (max(sides) for sides in zip(*(padded_size(i.size, config) for i in images), strict=True))
    dialect = config.dialect
    channels = config.channels
    mean = np.tile(np.asarray(config.mean, np.float32), width)  # of a whole row, or NumPy goes pixel by pixel
    rows = np.empty((len(images), height, width * channels), np.float32)
    rows[:] = -mean if dialect.black_padding else 0.0
    windows = np.empty((len(images), 4), np.float32)
    for i, image in enumerate(images):
        h, w = resized_size(image.size, config)
        y, x = ((height - h) // 2, (width - w) // 2) if dialect.centre_padding else (0, 0)
        resized = _resample(to_channels(image, channels), (h, w), dialect.resampler).reshape(h, -1)
        window = rows[i, y : y + h, x * channels : (x + w) * channels]
        np.subtract(resized, mean[: w * channels], out=window, casting="same_kind")
        windows[i] = x, y, x + w, y + h
    # The network runs in channels-last memory, which is how the pixels lie already.
    return ImageBatch(
        torch.from_numpy(rows).unflatten(2, (width, channels)).permute(0, 3, 1, 2),
        torch.from_numpy(windows),
        tuple(image.size for image in images),
    )


def resized_size(size: Size, config: Config) -> Size:
    """(h, w) of an image's content in the network input."""
    if config.dialect.size_rounding == "short_first" and config.dialect.resize == "short_side":
        return _short_first(size, config)
    scale = _scale(size, config)
    rounding = ROUNDING[config.dialect.size_rounding]
    return max(rounding(size[0] * scale), 1), max(rounding(size[1] * scale), 1)


def _short_first(size: Size, config: Config) -> Size:
    """Source: maskrcnn-benchmark data/transforms/transforms.py, Resize.get_size."""
    short, long = min(size), max(size)
    new = config.min_size
    if long / short * new > config.max_size:
        new = max(round(config.max_size * short / long), 1)
    other = int(new * long / short)
    return (new, other) if size[0] <= size[1] else (other, new)


def padded_size(size: Size, config: Config) -> Size:
    """(h, w) of the network input for an image of this size.

    Raises ImageError in mode ``none`` for sides that the network cannot halve often enough.
    """
    dialect, multiple = config.dialect, config.dialect.pad_multiple
    if dialect.resize == "square":
        if config.max_size % multiple:
            raise ConfigError(
                f"max_size: want a multiple of {multiple} for square input, got {config.max_size}"
            )
        return config.max_size, config.max_size
    h, w = resized_size(size, config)
    padded = (-(-h // multiple) * multiple, -(-w // multiple) * multiple)
    if dialect.resize == "none" and padded != (h, w):
        raise ImageError(
            f"want sides that are multiples of {multiple}, because resizing is off, got {h}x{w}; "
            "crop or pad the image, or choose another resize mode"
        )
    return padded


def _scale(size: Size, config: Config) -> float:
    mode, short, long = config.dialect.resize, min(size), max(size)
    if mode == "none":
        return 1.0
    if mode == "short_side":
        return min(config.min_size / short, config.max_size / long)
    # Matterport only ever enlarges, unless the square would overflow (utils.py, resize_image).
    scale = max(1.0, config.min_size / short, config.min_scale)
    if mode == "square" and round(long * scale) > config.max_size:
        scale = config.max_size / long
    return scale


def _resample(pixels: np.ndarray, size: Size, resampler: str) -> np.ndarray:
    """(h, w, c) uint8 or float32 to (*size, c), same dtype or float."""
    if pixels.shape[:2] == size:
        return pixels
    h, w = size
    if resampler == "skimage":
        resized = skimage_resize(pixels, size)
        return resized.astype(pixels.dtype)  # cuts, as Matterport's resize_image does
    if resampler == "opencv_float":
        pixels = pixels.astype(np.float32)
    if resampler.startswith("opencv"):
        return cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR).reshape(h, w, -1)
    if resampler == "torch":
        chw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        return F.interpolate(chw, size=size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(PIL.Image.fromarray(pixels).resize((w, h), PIL.Image.Resampling.BILINEAR))
    planes = [
        np.asarray(PIL.Image.fromarray(p.astype(np.float32)).resize((w, h), PIL.Image.Resampling.BILINEAR))
        for p in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, axis=2)
