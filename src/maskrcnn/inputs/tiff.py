"""TIFF that Pillow would refuse, cut to 8 bits or rob of a band: 16-bit and float colour, many bands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO

import cv2
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import ImageError, MissingExtraError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RGB = 2  # PhotometricInterpretation
_COLOURS = (_RGB, 3, 5, 6, 8)  # and palette, CMYK, YCbCr, Lab


@dataclass(frozen=True)
class Layout:
    """What the first directory of a TIFF file says of its samples."""

    size: tuple[int, int]
    bits: tuple[int, ...]
    sample_format: int  # 1 unsigned, 2 signed, 3 float
    photometric: int
    planar: bool
    alpha: bool
    orientation: int
    stack: bool  # bands may be spread over several directories

    @property
    def pillow(self) -> bool:
        """Whether Pillow gives every sample in full depth."""
        n, eight = len(self.bits), max(self.bits) <= 8
        if n == 1:
            return not self.stack
        if n == 2:
            return eight and self.alpha
        return (
            eight
            and self.photometric in _COLOURS
            and (n == 3 or (n == 4 and (self.alpha or self.photometric == 5)))
        )

    @property
    def opencv(self) -> bool:
        """Whether OpenCV does; it needs no further package and reads every compression."""
        deep = set(self.bits) in ({16}, {32}) and self.sample_format == (1 if self.bits[0] == 16 else 3)
        return deep and len(self.bits) in (3, 4) and self.photometric == _RGB and not self.planar


def layout(file: IO[bytes]) -> Layout:
    """Read the first directory."""
    head = file.read(8)
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)
    tags = ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)
    samples = int(tags.get(277, 1))
    if (
        samples > 0xFFFF
    ):  # the tag is a SHORT; a file that claims more would cost memory before a pixel is read
        raise ImageError(f"TIFF: want at most 65,535 samples a pixel, got {samples:,}; the file is damaged")
    bits = tuple(tags.get(258, (1,)))
    said = str(tags.get(270, ""))
    return Layout(
        size=(int(tags.get(257, 0)), int(tags.get(256, 0))),
        bits=bits if len(bits) == samples else bits[:1] * samples,
        sample_format=int(tags.get(339, (1,))[0]),
        photometric=int(tags.get(262, 0)),
        planar=tags.get(284, 1) == 2,
        alpha=any(extra in (1, 2) for extra in tags.get(338, ())),
        orientation=int(tags.get(274, 1)),
        stack=bool(tags.next) and bool(re.match(r'\{"shape"|ImageJ=', said) or "<OME" in said),
    )


def read(file: IO[bytes], found: Layout, where: str) -> np.ndarray:
    """(h, w, c) in the depth of the file, bands in its order."""
    if found.opencv:
        pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim != 3 or pixels.shape[2] != len(found.bits):
            raise ValueError("OpenCV cannot decode it")
        return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError(
            f"{where}: a TIFF of {len(found.bits)} band(s), {found.bits[0]} bits, needs tifffile; "
            "pip install 'maskrcnn[tiff]'"
        ) from error
    with tifffile.TiffFile(file) as opened:
        series = opened.series[0]
        return _bands_last(series.asarray(), series.axes, where)


def _bands_last(array: np.ndarray, axes: str, where: str) -> np.ndarray:
    """Bands are axis S (samples) or C; of time, depth or pages the first is taken."""
    for axis in [a for a in axes if a in "TZPI"]:
        array, axes = array.take(0, axes.index(axis)), axes.replace(axis, "")
    if len(axes) == 3 and axes.startswith("Q"):  # written from a bare array: the short axis is the bands
        axes = "CYX" if array.shape[0] <= array.shape[2] else "YXC"
    if set(axes) - set("SCYX") or len(axes) > 3:
        raise ImageError(
            f"{where}: want one picture with bands, got axes {axes} {array.shape}; save it as one page"
        )
    if len(axes) == 2:
        return array[:, :, None]
    return np.moveaxis(array, 0, 2) if axes[0] in "SC" else array
