"""The resize of scikit-image, as Matterport's models were trained with."""

from __future__ import annotations

import numpy as np


def skimage_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize with zeros outside, kept within the image's own range, bit for bit as scikit-image.

    image : (h, w) or (h, w, c), any real dtype
    size  : wanted (h, w)

    Returns (h, w) or (h, w, c) float64, not rounded, in the image's own unit. For float32 input scikit-image
    gives this rounded to float32.
    Source: skimage.transform.resize(order=1, mode="constant", cval=0, clip=True, preserve_range=True,
    anti_aliasing=False), which is scipy.ndimage.zoom with mode="grid-constant" and grid_mode=True.
    """
    from . import loops

    layers = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
    out = np.empty((*size, layers.shape[2]))
    rows = loops.zoom_taps(layers.shape[0], size[0], 0, size[0])
    columns = loops.zoom_taps(layers.shape[1], size[1], 0, size[1])
    low, high = float(layers.min()), float(layers.max())
    loops.zoom(layers, *rows, *columns, low, high, out)  # type: ignore[call-arg]
    return out if image.ndim == 3 else out[..., 0]
