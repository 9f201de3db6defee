"""Changes of a picture's values; annotations stay. Pictures of any channel count, dtype and range kept."""

from __future__ import annotations

import cv2
import numpy as np

# RGB to luma and two chroma axes (YIQ): turning the chroma plane turns the hue. Source: FCC NTSC, 1953.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def adjust(
    pixels: np.ndarray,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> np.ndarray:
    """Change the colours of (h, w, c) pixels.

    brightness : factor of all values
    contrast   : factor of the distance from the picture's mean
    saturation : factor of the distance from grey, 0 is grey; for 3 channels only, as is hue
    hue        : turn in degrees
    """
    gain = brightness * contrast
    average = mean(pixels)
    if pixels.shape[2] != 3:
        return _as(
            pixels * np.float32(gain) + np.float32(brightness * (1 - contrast) * average.mean()), pixels
        )
    a = np.deg2rad(hue)
    turn = np.array([[1, 0, 0], [0, saturation * np.cos(a), -saturation * np.sin(a)],
                     [0, saturation * np.sin(a), saturation * np.cos(a)]])  # fmt: skip
    mix = np.linalg.inv(_YIQ) @ turn @ _YIQ
    offset = np.full(3, brightness * (1 - contrast) * (mix @ average).mean())
    return _as(cv2.transform(pixels, np.column_stack((gain * mix, offset))), pixels)


def mean(pixels: np.ndarray) -> np.ndarray:
    """(c,) float64 means of the channels of (h, w, c) pixels."""
    # NumPy takes twenty times as long over an axis of a few channels, and OpenCV takes four at most.
    parts = [np.ascontiguousarray(pixels[..., c : c + 4]) for c in range(0, pixels.shape[2], 4)]
    return np.concatenate([cv2.mean(part)[: part.shape[2]] for part in parts])


def noise(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise; ``deviation`` as a share of the full range."""
    grain = rng.standard_normal(pixels.shape, np.float32) * np.float32(deviation * full_range(pixels))
    return _as(pixels + grain, pixels)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; ``sigma`` in pixels."""
    parts = [
        cv2.GaussianBlur(np.ascontiguousarray(pixels[..., c : c + 4]), (0, 0), sigma).reshape(
            *pixels.shape[:2], -1
        )
        for c in range(0, pixels.shape[2], 4)
    ]
    return np.concatenate(parts, axis=2)


def full_range(pixels: np.ndarray) -> float:
    """The greatest value: of the dtype for integers; for floats 1 or 255, if all are within, else the picture's own."""
    if np.issubdtype(pixels.dtype, np.integer):
        return float(np.iinfo(pixels.dtype).max)
    top = float(pixels.max()) if pixels.size else 1.0
    return 1.0 if top <= 1 else max(top, 255.0)


def _as(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Back to the dtype and range of the picture that they come from."""
    if values.dtype == like.dtype and np.issubdtype(like.dtype, np.integer):
        return values
    if np.issubdtype(like.dtype, np.integer):
        return np.rint(values.clip(0, full_range(like))).astype(like.dtype)
    low = min(0.0, float(like.min())) if like.size else 0.0
    return values.clip(low, full_range(like)).astype(like.dtype)
