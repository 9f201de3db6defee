"""Arrays as pictures inside the page: data URIs, heat maps, feature maps."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..output import as_rgb
from .study import Study

SHADES = 64  # few enough for small files, many enough for smooth maps
# Dark violet to pale yellow, and blue over white to brown; both read without colour vision too.
_WARM = [
    (13, 12, 34), (64, 18, 100), (128, 37, 115), (196, 60, 92), (240, 112, 60), (253, 184, 76),
    (252, 250, 190),
]  # fmt: skip
_SIGNED = [
    (24, 78, 140), (92, 154, 201), (190, 214, 232), (246, 246, 244), (247, 201, 165), (222, 128, 78),
    (158, 54, 22),
]  # fmt: skip


def shrink_to(pixels: np.ndarray, longest: int) -> np.ndarray:
    """The same picture with no side above ``longest``, averaged; never enlarged."""
    factor = longest / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    h, w = (max(round(side * factor), 1) for side in pixels.shape[:2])
    return cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA)


def photo_uri(rgb: np.ndarray, longest: int) -> str:
    """(h, w, 3) uint8 as a WebP data URI."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(shrink_to(rgb, longest)).save(buffer, "WEBP", quality=80, method=4)
    return _uri(buffer, "webp")


def heat_uri(values: np.ndarray, low: float, high: float, *, signed: bool = False) -> str:
    """(h, w) as a PNG of one pixel a value; ``low`` is the first colour, ``high`` the last."""
    span = max(high - low, 1e-12)
    shade = np.rint(((values - low) / span).clip(0, 1) * (SHADES - 1)).astype(np.uint8)
    picture = PIL.Image.fromarray(shade)
    picture.putpalette(_ramp(_SIGNED if signed else _WARM).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return _uri(buffer, "png")


def ramp_css(*, signed: bool = False) -> str:
    """The colours of `heat_uri` as a CSS gradient."""
    stops = ",".join(f"rgb{c}" for c in (_SIGNED if signed else _WARM))
    return f"linear-gradient(90deg,{stops})"


def soft_uri(values: np.ndarray) -> str:
    """(h, w) probabilities as a translucent WebP to lay over the photo."""
    shade = np.rint(values.clip(0, 1) * (SHADES - 1)).astype(np.uint8)
    rgb = _ramp(_WARM)[shade]
    alpha = np.rint(values.clip(0, 1) ** 0.7 * 205).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.dstack([rgb, alpha])).save(buffer, "WEBP", quality=80, method=4)
    return _uri(buffer, "webp")


def network_input(study: Study) -> np.ndarray:
    """(h, w, 3) uint8: what the network was given, with the mean added back to look at."""
    mean = np.asarray(study.config.mean, np.float32)
    pixels = study.trace.batch.pixels[0].permute(1, 2, 0).cpu().numpy() + mean
    if study.config.channels == 3:
        return np.rint(pixels.clip(0, 255)).astype(np.uint8)
    return as_rgb(pixels)


def principal(features: Tensor) -> np.ndarray:
    """(c, h, w) to (h, w): the direction in which the cells differ most, by power iteration.

    The sign is such that large values go with strong activations.
    """
    flat = features.float().flatten(1).cpu()
    centred = flat - flat.mean(1, keepdim=True)
    direction = centred.pow(2).mean(1)
    for _ in range(30):
        direction = centred @ (centred.T @ direction)
        direction = direction / direction.norm().clamp(min=1e-12)
    map_ = direction @ centred
    if (map_ * flat.abs().mean(0)).sum() < 0:
        map_ = -map_
    return map_.reshape(features.shape[1:]).numpy()


def lively_channels(features: Tensor, count: int) -> list[int]:
    """The channels (c, h, w) that vary most over the picture."""
    spread = features.float().flatten(1).std(1, unbiased=False)
    return torch.topk(spread, min(count, len(spread))).indices.tolist()


def limits(values: np.ndarray) -> tuple[float, float]:
    """The range to colour: all but the outermost percent."""
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high)


def _ramp(stops: list[tuple[int, int, int]]) -> np.ndarray:
    at = np.linspace(0, len(stops) - 1, SHADES)
    columns = [np.interp(at, range(len(stops)), [s[i] for s in stops]) for i in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def _uri(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
