"""From a picture as it is stored to the channels and the value range of a model."""

from __future__ import annotations

import numpy as np

from ..errors import ImageError
from ..records import Image


def to_channels(image: Image, channels: int) -> np.ndarray:
    """(h, w, channels) uint8 or float32, ready to be resized and normalised.

    For a 3-channel model: grey is repeated to R = G = B; uint8 stays; uint16 is divided by 257; float must be
    0..1 and is multiplied by 255. For a model of any other channel count the values go in as they are (uint16
    as float32), since only its training data knows what they mean.

    Raises ImageError when the picture has neither the model's channels nor, for RGB, one; and for a float
    picture outside 0..1.
    """
    pixels, have = image.pixels, image.pixels.shape[2]
    where = str(image.source) if image.source is not None else "picture"
    if have != channels and not (channels == 3 and have == 1):
        raise ImageError(
            f"{where}: want {channels} channels for this model, got {have}; {_advice(have, channels)}"
        )
    if channels != 3:
        return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32, copy=False)
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.float32) / np.float32(257)
    elif pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            raise ImageError(
                f"{where}: want a float picture in 0..1, got {low:.6g}..{high:.6g}; "
                "divide by its full range, or convert to uint8 if it is 0..255"
            )
        pixels = pixels.astype(np.float32) * np.float32(255)
    return np.repeat(pixels, 3, axis=2) if have == 1 else pixels


def _advice(have: int, want: int) -> str:
    if want == 3 and have == 4:
        return "keep the colours with array[..., :3], or load a model that was trained on 4 channels"
    if want == 4 and have == 3:
        return "if the fourth is the file's alpha, read it with keep_alpha=True and pass the Image"
    if want == 3:
        return "choose three as R, G, B with array[..., [r, g, b]] (arrays are HWC, tensors CHW)"
    return f"give it the {want} bands that it was trained on, in their order"
