"""One source, whatever it is, becomes an `Image`. No setting of Pillow, OpenCV or NumPy is changed."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeGuard

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from ..errors import ImageError, MaskRCNNError
from ..records import Image
from . import tiff

Source = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | Tensor | bytes | IO[bytes] | Image

MAX_PIXELS = 250_000_000  # 750 MB as RGB; a file of a few kB can claim far more
MAX_DOWNLOAD = 512 * 2**20
_CONNECT, _READ, _DEADLINE = 10.0, 30.0, 300.0  # seconds

# Not all of Pillow's: some hand the file to other programs, some claim what they cannot read.
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
_KINDS = "want a path, URL, PIL image, (h, w, c) array, (c, h, w) tensor, bytes, open file or Image"


class _Wish(NamedTuple):
    """The keywords of `read`."""

    keep_alpha: bool
    upright: bool
    max_pixels: int


def read(
    source: Source | Any, *, keep_alpha: bool = False, upright: bool = True, max_pixels: int = MAX_PIXELS
) -> Image:
    """Read one picture. Values stay as they are stored; `to_channels` brings them to the model's range.

    source     : path or http(s) URL; PIL image; NumPy array (h, w) or (h, w, c); torch tensor (h, w) or
                 (c, h, w); the bytes of a file, or a file opened for reading them; an `Image` (returned as it
                 is). Files: JPEG, PNG, TIFF, WebP, BMP, GIF, AVIF, JPEG 2000, PNM (the first frame), 16-bit
                 and float ones too, TIFF of any number of bands (may need ``maskrcnn[tiff]``), .npy.
    keep_alpha : leave an alpha channel as the last channel, for models that were trained with it. Otherwise
                 transparency declared by the file is laid over white, as a viewer shows it, so that opaque
                 pixels stay what they are. The fourth channel of an array is never taken for alpha.
    upright    : turn the picture as its EXIF orientation says; otherwise pixels stay as the file has them.
    max_pixels : refuse files of more pixels than this before they are decoded.

    Returns pixels (h, w, c), c = 1 for grey, RGB for c = 3:
    uint8 for files of 8 bits and less (palettes looked up, CMYK and YCbCr converted, 1-bit as 0 and 255);
    uint16 for 16 bits; float32 for float and for integers that fit neither. bool arrays become 0 and 255;
    other integer arrays become uint8 when they hold 1 to 4 channels of 0..255.

    Raises ImageError for what is missing, damaged, not a picture, empty, not finite or too large;
    MissingExtraError for a TIFF that needs tifffile.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, PIL.Image.Image):
        where, path = "PIL image", None
    elif isinstance(source, np.ndarray):
        return Image(_check(_hwc(source, "array", "HWC"), "array"))
    elif isinstance(source, Tensor):
        return Image(_check(_from_tensor(source), "tensor"))
    elif isinstance(source, str) and is_url(source):
        where, path = source, None
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        where = str(path)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        where, path = "bytes", None
    elif hasattr(source, "read"):
        where, path = str(getattr(source, "name", "file")), None
    else:
        raise ImageError(f"{_KINDS}, got {type(source).__name__}")
    try:
        return Image(
            _check(_pixels(source, where, path, _Wish(keep_alpha, upright, max_pixels)), where), path
        )
    except MaskRCNNError:
        raise
    except Exception as error:  # decoders raise nearly every type on damaged data
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(
            f"{where}: want a whole picture, got one that cannot be decoded ({said}); "
            "the file is damaged or cut short: fetch or export it again"
        ) from error


def is_url(source: str) -> bool:
    """Whether this text is an http(s) address rather than a path."""
    return source.lower().startswith(("http://", "https://"))


def is_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this names a file, a folder or a pattern."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and not is_url(source))


def _pixels(source: Any, where: str, path: Path | None, wish: _Wish) -> np.ndarray:
    if isinstance(source, PIL.Image.Image):
        return _from_pil(source, wish)
    if path is not None:
        try:
            file = path.open("rb")
        except OSError as error:
            hint = "" if path.is_absolute() else f"; relative paths start at {Path.cwd()}"
            raise ImageError(
                f"{where}: want a picture, got '{error.strerror}'; check the path{hint}"
            ) from error
        with file:
            return _decode(file, where, wish)
    if isinstance(source, str):
        data = _download(source)
    else:
        data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    if not isinstance(data, bytes):
        raise ImageError(f"{where}: want bytes, got {type(data).__name__}; open the file with mode 'rb'")
    return _decode(io.BytesIO(data), where, wish)


def _download(url: str) -> bytes:
    import requests  # only URLs need it, and it takes a tenth of a second

    start, data = time.monotonic(), bytearray()
    try:
        with requests.get(url, stream=True, timeout=(_CONNECT, _READ)) as reply:
            if reply.status_code != 200:
                raise ImageError(
                    f"{url}: want a picture, got HTTP status {reply.status_code}; check the address"
                )
            for piece in reply.iter_content(2**16):
                data += piece
                if len(data) > MAX_DOWNLOAD:
                    raise ImageError(
                        f"{url}: want at most {MAX_DOWNLOAD // 2**20} MiB, got more; "
                        "download it and pass the path"
                    )
                if time.monotonic() - start > _DEADLINE:
                    raise ImageError(
                        f"{url}: want it within {_DEADLINE:.0f} s, got {len(data)} bytes; try again"
                    )
    except requests.RequestException as error:
        raise ImageError(f"{url}: cannot be fetched ({error}); check the address and the network") from error
    return bytes(data)


def _decode(file: IO[bytes], where: str, wish: _Wish) -> np.ndarray:
    """The pixels of an open, seekable file; its first bytes say what it is, not its name."""
    head = file.read(32)
    file.seek(0)
    if not head:
        raise ImageError(f"{where}: want a picture, got 0 bytes; fetch or export it again")
    if head.startswith(b"\x93NUMPY"):
        return _from_npy(file, where, wish.max_pixels)
    if head[:4] in tiff.MAGIC:
        layout = tiff.layout(file)
        file.seek(0)
        if not layout.pillow:
            _limit(layout.size, where, wish.max_pixels)
            pixels = tiff.read(file, layout, where)
            if layout.alpha and not wish.keep_alpha and pixels.shape[2] in (2, 4):
                pixels = _over_white(pixels)
            return _upright(_integers(pixels), layout.orientation if wish.upright else 1)
    image = _open_pil(file, head, where)
    _limit((image.height, image.width), where, wish.max_pixels)
    deep_png = head.startswith(b"\x89PNG") and len(head) > 25 and head[24] == 16
    if not deep_png:
        return _from_pil(image, wish)
    image.load()  # fails where it is cut short: OpenCV returns half a picture without a word
    orientation = image.getexif().get(0x0112, 1) if wish.upright else 1
    file.seek(0)
    return _upright(_from_opencv(file.read(), wish.keep_alpha), orientation)


def _limit(size: tuple[int, int], where: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{where}: want at most {max_pixels:,} pixels, got {size[1]} x {size[0]} = "
            f"{size[0] * size[1]:,}; if you trust it, raise max_pixels (--max-pixels on the command line)"
        )


def _open_pil(file: IO[bytes], head: bytes, where: str) -> PIL.Image.Image:
    """PIL.Image.open without its pixel limit, a global that warns through another; ours is `_limit`."""
    PIL.Image.init()
    for name in _FORMATS:
        factory, accept = PIL.Image.OPEN.get(name, (None, None))
        if factory and accept and accept(head[:16]) is True:
            return factory(file, "")
    raise ImageError(
        f"{where}: want a picture (JPEG, PNG, TIFF, WebP, BMP, GIF), got something else "
        f"that begins with {head[:8]!r}; convert it to one of these, or leave it out"
    )


def _from_pil(image: PIL.Image.Image, wish: _Wish) -> np.ndarray:
    """(h, w, c) in the depth of the image."""
    image.load()
    if wish.upright:
        image = PIL.ImageOps.exif_transpose(image)
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        pixels = np.array(image)
        pixels = pixels.astype(np.uint16) if mode.startswith("I;16") else pixels
        return _integers(pixels[:, :, None])
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])  # undo the multiplication with alpha
    grey = mode in ("1", "L", "LA", "La")
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        pixels = np.array(image.convert("L" if grey else "RGB"))
        return pixels[:, :, None] if grey else pixels
    pixels = np.array(image.convert("RGBA"))
    if wish.keep_alpha:
        return pixels[:, :, 2:] if grey else pixels
    return _over_white(pixels)[:, :, : 1 if grey else 3]


def _over_white(pixels: np.ndarray) -> np.ndarray:
    """Lay (h, w, c + 1), alpha last and not premultiplied, over white: (h, w, c)."""
    full = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    colour, alpha = pixels[:, :, :-1], pixels[:, :, -1:]
    if (alpha == full).all():
        return np.ascontiguousarray(colour)
    share = alpha.astype(np.float32) / full
    mixed = colour * share + full * (1 - share)
    return mixed.astype(pixels.dtype) if full == 1 else np.rint(mixed).astype(pixels.dtype)


def _from_opencv(data: bytes, keep_alpha: bool) -> np.ndarray:
    """A 16-bit PNG, which Pillow would cut to 8 bits."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    return pixels if keep_alpha else _over_white(pixels)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _from_npy(file: IO[bytes], where: str, max_pixels: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, _ = header(file)
    if len(shape) in (2, 3):
        _limit((int(shape[0]), int(shape[1])), where, max_pixels)
    file.seek(0)
    return _hwc(np.load(file, allow_pickle=False), where, "HWC")


def _from_tensor(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array = tensor.numpy()
    return _hwc(array, "tensor", "CHW")


def _hwc(array: np.ndarray, where: str, order: str) -> np.ndarray:
    """Check that the channels are where they belong, and put them last; no copy unless it needs one."""
    if array.ndim == 2:
        return _integers(np.ascontiguousarray(array)[:, :, None])
    if array.ndim != 3:
        raise ImageError(
            f"{where}: want one picture, (h, w) or ({', '.join(order.lower())}), got {tuple(array.shape)}; "
            "pass a batch as a list or as (n, ...) to predict"
        )
    channels, other = (array.shape[2], array.shape[0]) if order == "HWC" else (array.shape[0], array.shape[2])
    if channels > 32 >= other > 0:
        move = "array.transpose(1, 2, 0)" if order == "HWC" else "tensor.permute(2, 0, 1)"
        raise ImageError(f"{where}: want {order}, got {tuple(array.shape)}; use {move}")
    return _integers(np.ascontiguousarray(array if order == "HWC" else array.transpose(1, 2, 0)))


def _integers(pixels: np.ndarray) -> np.ndarray:
    """uint8, uint16 or float32 of the same values; see `read`."""
    kind = pixels.dtype.kind
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8 or kind == "f":
        return pixels if kind == "u" else pixels.astype(np.float32, copy=False)
    if kind == "u" and pixels.dtype.itemsize == 2:
        return pixels.astype(np.uint16, copy=False)
    if kind not in "iu":
        raise ImageError(f"array: want uint8, uint16, bool or float numbers, got {pixels.dtype}")
    eight_bits = pixels.size > 0 and pixels.shape[2] <= 4 and pixels.min() >= 0 and pixels.max() <= 255
    return pixels.astype(np.uint8 if eight_bits else np.float32)


def _check(pixels: np.ndarray, where: str) -> np.ndarray:
    if 0 in pixels.shape:
        raise ImageError(f"{where}: want at least 1 x 1 pixels, got {tuple(pixels.shape)} (h, w, c)")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int(pixels.size - np.isfinite(pixels).sum())
        raise ImageError(f"{where}: want finite values, got {count} NaN or infinite ones; fill them first")
    return pixels
