"""Colours that the eye tells apart, always the same ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RGB = tuple[int, int, int]

# OKLCH to linear sRGB. Source: B. Ottosson, "A perceptual color space for image processing", 2020.
_LAB_TO_LMS = np.array([
    [1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480],
])  # fmt: skip
_LMS_TO_RGB = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip
_GOLDEN_ANGLE = 137.50776  # degrees: each new hue falls into the widest gap that the ones before left
_LIGHTNESS = (0.72, 0.84, 0.62)


@lru_cache(maxsize=4096)
def colour(i: int) -> RGB:
    """Colour number ``i`` (0, 1, ...) as sRGB 0..255: bright, saturated, hues a golden angle apart."""
    lightness = _LIGHTNESS[i % len(_LIGHTNESS)]
    hue = np.deg2rad((25 + _GOLDEN_ANGLE * i) % 360)
    for chroma in np.arange(0.24, 0.0, -0.01):  # as much as sRGB can show
        rgb = _oklch(lightness, chroma, hue)
        if rgb.min() >= 0 and rgb.max() <= 1:
            break
    red, green, blue = np.rint(_gamma(rgb) * 255).astype(int).tolist()
    return red, green, blue


def _oklch(lightness: float, chroma: float, hue: float) -> np.ndarray:
    lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    return _LMS_TO_RGB @ (_LAB_TO_LMS @ lab) ** 3


def _gamma(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055)


def text_colour(background: RGB) -> RGB:
    """Black or white, whichever has the greater contrast (WCAG 2 relative luminance)."""
    channels = np.array(background) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)
