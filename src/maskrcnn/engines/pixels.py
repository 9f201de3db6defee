"""The way in and the way out as tensor operations, so that a graph can hold them: `model.image` for runtimes.

Every resampler is two matrix products, one for each axis, whose matrices also place the content in the padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import Config, Dialect
from ..ops.boxes import frame
from ..records import ImageBatch


def network_input(images: Tensor, config: Config) -> ImageBatch:
    """What `model.image.to_batch` makes of images of one size.

    images : (b, h, w, c) uint8, or float32 in the units the model was trained on; RGB for c = 3

    uint8 values differ from those of `to_batch` by one level where a float32 sum lies at the rim of two levels.
    """
    dialect, (b, h, w) = config.dialect, images.shape[:3]
    one = torch.ones((), dtype=torch.float64)
    size = frame((h, w), one)[2:].flip(0)
    resized = resized_sides(size, config)
    if dialect.resize == "square":
        height = width = config.max_size
    else:
        blocks = torch.ceil(resized / dialect.pad_multiple).long()
        height, width = (_length(n, 1 << 10) * dialect.pad_multiple for n in blocks)
    padded = frame((height, width), one)[2:].flip(0)
    corner = torch.floor((padded - resized) / 2) if dialect.centre_padding else torch.zeros_like(size)

    (rows, row_inside), (columns, column_inside) = (
        _axis(length, side, resized[i], corner[i], dialect)
        for i, (length, side) in enumerate(((h, height), (w, width)))
    )
    planes = images.permute(0, 3, 1, 2)
    whole = images.dtype == torch.uint8
    x = planes.float() @ columns.T
    if whole and dialect.resampler == "pil":  # which rounds after each pass
        x = torch.floor(x + 0.5)
    x = rows @ x
    if dialect.resampler == "skimage":
        low, high = (f(planes.float(), dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        x = torch.minimum(torch.maximum(x, low), high)
        x = torch.floor(x + 1e-3) if whole else x  # cuts; a float32 sum may lie just below a whole number
    elif whole and dialect.resampler != "torch":
        x = torch.floor(x + 0.5)
    inside = row_inside[:, None] & column_inside
    outside = -1.0 if dialect.black_padding else 0.0
    mean = x.new_tensor(config.mean)[:, None, None]
    x = torch.where(inside, x - mean, outside * mean)
    windows = torch.cat([corner.flip(0), (corner + resized).flip(0)]).float()
    return ImageBatch(x, windows[None].expand(b, 4), ((h, w),))


def resized_sides(size: Tensor, config: Config) -> Tensor:
    """(h, w) float64 of the content in the network input, as `model.image.resized_size`."""
    sides = size * _scale(size, config)
    rounding = config.dialect.size_rounding
    if rounding == "half_even":
        return sides.round().clamp(min=1)
    return torch.floor(sides + 0.5 if rounding == "half_up" else sides).clamp(min=1)


def _scale(size: Tensor, config: Config) -> Tensor:
    mode, short, long = config.dialect.resize, torch.minimum(*size), torch.maximum(*size)
    one = torch.ones_like(short)
    to_short, to_long = one * config.min_size / short, one * config.max_size / long
    if mode == "none":
        return one
    if mode == "short_side":
        return torch.minimum(to_short, to_long)
    scale = to_short.clamp(min=max(1.0, config.min_scale))
    if mode == "square":
        scale = torch.where((long * scale).round() > config.max_size, to_long, scale)
    return scale


def _length(value: Tensor, limit: int) -> int:
    """A tensor's value as the length of an axis."""
    length = value.item()
    torch._check(length >= 1)
    torch._check(length <= limit)
    return length  # type: ignore[return-value]


def _axis(
    length: int, padded: int, resized: Tensor, corner: Tensor, dialect: Dialect
) -> tuple[Tensor, Tensor]:
    """(padded, length) weights with which an axis of an image goes into the network input, and where it lies there.

    Every rule weighs a pixel by its distance from the sampled point, in a triangle: ``pil`` widens it when it
    shrinks the image, ``skimage`` has zeros beyond the border, the others repeat the border.
    """
    place = torch.arange(padded) - corner.float()
    ratio = torch.ones(()) * length / resized.float()
    at = (place + 0.5) * ratio - 0.5
    width = ratio.clamp(min=1.0) if dialect.resampler == "pil" else torch.ones_like(ratio)
    if dialect.resampler in ("torch", "opencv"):
        at = at.clamp(min=0).minimum(torch.ones(()) * (length - 1))
    weights = (1 - (torch.arange(length) - at[:, None]).abs() / width).clamp(min=0)
    if dialect.resampler == "pil":
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return weights, (place >= 0) & (place < resized)
