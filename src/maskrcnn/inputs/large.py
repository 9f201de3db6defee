"""Pictures of any size, read window by window, and where on earth they lie. (rasterio)"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import ImageError, MissingExtraError
from ..records import Size
from . import tiff
from .decode import MAX_PIXELS, _check, _integers, _over_white, is_path, read

Window = tuple[int, int, int, int]  # x1, y1, x2, y2
_CACHE = 64 * 2**20  # bytes of decoded blocks that GDAL may keep
_GEO_KEYS = 34735


@dataclass(frozen=True, eq=False)
class Large:
    """A picture whose windows can be read, from one thread at a time.

    small  : gives the whole picture at a smaller (h, w), averaged
    window : gives (h, w, c) pixels as `maskrcnn.inputs.read` does; None where the file says that there is nothing
    image  : the picture or its file, as a `Result` keeps it
    """

    size: Size
    image: Any
    window: Callable[[Window], np.ndarray | None]
    small: Callable[[Size], np.ndarray]


@dataclass(frozen=True)
class Georeference:
    """Where a picture lies: its coordinate system's name, and x = a column + b row + c, y = d column + e row + f."""

    crs: str
    transform: tuple[float, float, float, float, float, float]


@contextmanager
def open_large(source: Any, *, keep_alpha: bool = False, max_pixels: int = MAX_PIXELS) -> Iterator[Large]:
    """Open a picture to read its windows.

    A TIFF file (BigTIFF, cloud optimised, ...) of common layout is never read whole, if rasterio is there. Anything
    else is, and must not have more than ``max_pixels``. Windows of files are what `read` gives of the whole.
    Raises ImageError as `read`, and MissingExtraError for a larger TIFF without rasterio.
    """
    layout = _layout(source)
    if layout is not None and _in_windows(layout):
        try:
            import rasterio
        except ImportError as error:
            if layout.size[0] * layout.size[1] > max_pixels:
                raise MissingExtraError(
                    f"{source}: a picture of {layout.size[1]} x {layout.size[0]} needs rasterio to be read in "
                    "windows; pip install 'maskrcnn[geo]'"
                ) from error
        else:
            path = Path(source).expanduser()
            with rasterio.Env(GDAL_CACHEMAX=_CACHE), _opened(rasterio, path) as file:
                reader = _Windows(file, str(source), keep_alpha)
                yield Large((file.height, file.width), path, reader.window, reader.small)
            return
    image = read(source, keep_alpha=keep_alpha, max_pixels=max_pixels)
    pixels = image.pixels
    yield Large(
        image.size, image.source or image, lambda at: pixels[at[1] : at[3], at[0] : at[2]],
        lambda size: cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, -1),
    )  # fmt: skip


def georeference(path: Path) -> Georeference | None:
    """Where the picture in a file lies, None for one that does not say (only GeoTIFF does).

    Raises MissingExtraError for a file that says it without rasterio to understand it.
    """
    if not _has_geo_keys(path):
        return None
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: a georeferenced picture needs rasterio; pip install 'maskrcnn[geo]'"
        ) from error
    with _opened(rasterio, path) as file:
        if file.crs is None:
            return None
        authority = file.crs.to_authority()
        if authority == ("EPSG", "4326"):
            name = "urn:ogc:def:crs:OGC:1.3:CRS84"  # longitude first, as the coordinates are
        else:
            name = "urn:ogc:def:crs:{}::{}".format(*authority) if authority else file.crs.to_wkt()
        return Georeference(name, tuple(file.transform)[:6])


def _opened(rasterio: Any, path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # most pictures have no place on earth, and need none
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise ImageError(f"{path}: want a whole TIFF, got '{error}'; export it again") from error


def _layout(source: Any) -> tiff.Layout | None:
    """Of a TIFF file; None for anything else."""
    if not is_path(source):
        return None
    try:
        with Path(source).expanduser().open("rb") as file:
            if file.read(4) not in tiff.MAGIC:
                return None
            file.seek(0)
            return tiff.layout(file)
    except ImageError:
        raise
    except Exception:  # `read` says what is wrong with it
        return None


def _in_windows(layout: tiff.Layout) -> bool:
    """Whether GDAL gives the samples that `read` gives: bytes, shorts and floats, upright, not CMYK or white-is-0."""
    sample = set(layout.bits)
    return (
        sample in ({8}, {16}, {32})
        and layout.photometric in (1, 2, 3, 6)
        and layout.orientation == 1
        and not layout.stack
    )


class _Windows:
    """The pixels of an opened file."""

    def __init__(self, file: Any, where: str, keep_alpha: bool) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        self.file, self.where = file, where
        alpha = file.colorinterp[-1] == ColorInterp.alpha and file.count in (2, 4)
        self.over_white = alpha and not keep_alpha
        self.palette = None
        if file.colorinterp[0] == ColorInterp.palette:
            self.palette = np.zeros((256, 3), np.uint8)
            for i, colour in file.colormap(1).items():
                self.palette[i] = colour[:3]
        self.holes = not alpha and any(MaskFlags.nodata in flags for flags in file.mask_flag_enums)

    def window(self, at: Window) -> np.ndarray | None:
        """(h, w, c); None where there is no data."""
        area = ((at[1], at[3]), (at[0], at[2]))
        if self.holes and not self._read("dataset_mask", at, window=area).any():
            return None
        return self._pixels(self._read("read", at, window=area))

    def small(self, size: Size) -> np.ndarray:
        """The whole, at a smaller (h, w). A palette's numbers have no mean."""
        from rasterio.enums import Resampling

        how = Resampling.average if self.palette is None else Resampling.nearest
        whole = (0, 0, self.file.width, self.file.height)
        return self._pixels(self._read("read", whole, out_shape=(self.file.count, *size), resampling=how))

    def _read(self, what: str, at: Window, **options: Any) -> np.ndarray:
        try:
            return getattr(self.file, what)(**options)
        except Exception as error:  # damaged blocks raise several types
            raise ImageError(
                f"{self.where}: want whole pixels in {at}, got '{error}'; export it again"
            ) from error

    def _pixels(self, bands: np.ndarray) -> np.ndarray:
        if self.palette is not None:
            return self.palette[bands[0]]
        pixels = np.ascontiguousarray(np.moveaxis(bands, 0, 2))
        if pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
            pixels = pixels.astype(np.float32)  # all windows alike, whatever values each has
        pixels = _check(_integers(pixels), self.where)
        return _over_white(pixels) if self.over_white else pixels


def _has_geo_keys(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head[:4] not in tiff.MAGIC:
                return False
            head += file.read(8) if 43 in head[2:4] else b""
            tags = ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            return _GEO_KEYS in tags
    except Exception:  # a file that has gone or changed since has no place
        return False
