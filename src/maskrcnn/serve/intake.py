"""One picture out of a request, whatever its shape: a form, the bare bytes, or JSON with base64.

Everything is bounded: bytes, time, parts of a form. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ..errors import MaskRCNNError
from ..inputs import read, tiff
from ..records import Image
from .refusal import Refusal
from .settings import Settings

_ROOM = 64 * 1024  # for the fields around a picture
_PATIENCE = 8  # times the limit that is read and thrown away, so that the caller can read our answer
_HELD = 8  # whole uploads that all requests together may hold in memory

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "JPEG 2000", "PNM")
_WANTED = "want a picture as multipart/form-data (part 'file'), as raw bytes (image/...), or as JSON"


@dataclass(frozen=True)
class Upload:
    """A picture as it came.

    data   : the bytes of the file
    name   : its last part only, or None
    fields : the other parts of the form, or keys of the JSON
    """

    data: bytes
    name: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class Intake:
    """Reads requests, and counts what they hold in memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = 0

    async def body(self, request: Request) -> bytes:
        """The whole body. Raises Refusal for one that is too large, too slow, or too much beside the others.

        The caller must give ``len(body)`` back with `release`.
        """
        base64 = _kind(request) == "application/json"
        limit = self.settings.max_bytes * (4 if base64 else 3) // 3 + _ROOM
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > _PATIENCE * limit:
            raise self._too_large(declared)
        data, total = bytearray(), 0
        stream = request.stream()
        deadline = time.monotonic() + self.settings.upload_seconds
        try:
            while True:
                piece = await asyncio.wait_for(anext(stream, None), deadline - time.monotonic())
                if piece is None:
                    break
                total += len(piece)
                if total > _PATIENCE * limit:
                    break
                if total <= limit:
                    data += piece
                    self.held += len(piece)
                    if self.held > _HELD * self.settings.max_bytes:
                        raise Refusal(
                            429, "the server holds as many uploads as it can; try again", {"Retry-After": "2"}
                        )
            if total > limit:
                raise self._too_large(f"{total:,} or more" if total > _PATIENCE * limit else f"{total:,}")
        except asyncio.TimeoutError:
            self.release(len(data))
            raise Refusal(
                408,
                f"want the whole request within {self.settings.upload_seconds:g} s, got {total:,} bytes; "
                "send a smaller picture",
            ) from None
        except BaseException:
            self.release(len(data))
            raise
        return bytes(data)

    def release(self, count: int) -> None:
        """Give the bytes of a body back."""
        self.held -= count

    async def upload(self, request: Request, body: bytes) -> Upload:
        """The picture in a body. Raises Refusal."""
        kind = _kind(request)
        if not body:
            raise Refusal(400, f"{_WANTED} with base64; got an empty request")
        if kind == "application/json":
            return self._within(_from_json(body))
        if kind == "multipart/form-data":
            return self._within(await _from_form(request, body))
        if kind == "application/octet-stream" or kind.startswith("image/"):
            return self._within(Upload(body))
        raise Refusal(415, f"Content-Type: {_WANTED} with base64; got {kind[:60] or 'none'}")

    def _within(self, upload: Upload) -> Upload:
        if len(upload.data) > self.settings.max_bytes:
            raise self._too_large(f"{len(upload.data):,}")
        return upload

    def _too_large(self, got: str) -> Refusal:
        limit = self.settings.max_bytes
        return Refusal(413, f"want at most {limit:,} bytes ({limit / 2**20:g} MiB), got {got[:30]}")


def decode(upload: Upload, settings: Settings, keep_alpha: bool) -> Image:
    """The pixels. Raises Refusal for what cannot be read; blocks, so not for the event loop."""
    name = upload.name or "picture"
    if upload.data.startswith(b"\x93NUMPY"):
        raise Refusal(
            415, f"{name}: want {', '.join(FORMATS)}, got a NumPy array; send a TIFF for many bands"
        )
    try:
        if upload.data[:4] in tiff.MAGIC:
            _check_tiff(upload.data, name, settings)
        return read(upload.data, keep_alpha=keep_alpha, max_pixels=settings.max_pixels)
    except MaskRCNNError as error:
        said = str(error).removeprefix("bytes: ")
        raise Refusal(422, f"{name}: {said}") from None


def _check_tiff(data: bytes, name: str, settings: Settings) -> None:
    """A TIFF can claim thousands of bands and pages, which the limit of pixels does not see."""
    try:
        found = tiff.layout(io.BytesIO(data))
    except MaskRCNNError:
        raise
    except Exception:  # read() will say what is wrong with it
        return
    samples = found.size[0] * found.size[1] * len(found.bits)
    if found.stack and not found.opencv:
        raise Refusal(422, f"{name}: want one picture, got a TIFF with several; save the one as a file")
    if samples > 4 * settings.max_pixels:
        most = 4 * settings.max_pixels
        raise Refusal(422, f"{name}: want at most {most:,} values (pixels times bands), got {samples:,}")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _from_json(body: bytes) -> Upload:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, 'want JSON such as {"image": "<base64>"}, got something else') from None
    if not isinstance(values, dict) or not isinstance(values.get("image"), str):
        raise Refusal(422, 'image: want {"image": "<base64 of the file>"}, got JSON without such a text')
    text, name = values.pop("image"), values.pop("name", None)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "image: want standard base64 without line breaks, got other characters") from None
    if not data:
        raise Refusal(422, "image: want the base64 of a picture, got 0 bytes")
    return Upload(data, clean_name(name) if isinstance(name, str) else None, values)


async def _from_form(request: Request, body: bytes) -> Upload:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=16, max_part_size=_ROOM)
    parser.spool_max_size = len(body) + 1  # stays in memory
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"want a whole multipart/form-data with one file, got: {error.message}") from None
    except (KeyError, ValueError, AssertionError):
        raise Refusal(400, "want a whole multipart/form-data with one file, got a broken one") from None
    files = [(key, part) for key, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise Refusal(
            422, "file: want a part 'file' with the picture, got none; with curl: -F file=@photo.jpg"
        )
    part = files[0][1]
    texts = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
    fields: dict[str, Any] = {
        key: [v for k, v in texts if k == key] if key == "classes" else text for key, text in texts
    }
    data = await part.read()
    await form.close()
    if not data:
        raise Refusal(422, "file: want a picture, got 0 bytes")
    return Upload(data, clean_name(part.filename or ""), fields)


def clean_name(text: str) -> str | None:
    """The last part of a caller's file name, printable and short; only ever shown, never opened."""
    last = PurePosixPath(PureWindowsPath(text).name).name
    return "".join(c for c in last if c.isprintable())[:120] or None
