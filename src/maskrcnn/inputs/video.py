"""Frames of a video file, a stream or a camera, decoded while the network works on the ones before."""

from __future__ import annotations

import os
import sys
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from ..errors import ConfigError, ImageError, MissingExtraError
from ..records import Frame, Image, Size
from .ahead import ahead
from .decode import is_url

SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv",
     ".3gp", ".ogv", ".mxf", ".m3u8")
)  # fmt: skip
STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp")
AHEAD = 4  # frames
_TIMEOUT = 10.0  # seconds without data from a stream
_TRIES = 50  # unreadable packets one after the other


@dataclass(frozen=True, eq=False)
class Video:
    """An opened video, whose ``frames`` can be had once.

    name      : file name, address without its password, or camera number
    size      : upright (h, w)
    rate      : frames a second; the mean where they vary
    time_base : the unit of its time stamps in seconds
    total     : about how many frames will come, None where nobody knows
    live      : a camera or stream that does not wait: frames that come too fast are dropped
    begin, stop : the wanted part, in seconds since the first frame; None for its end
    zero      : time stamp of the first frame, in seconds
    colours   : primaries and transfer, as FFmpeg numbers them
    aspect    : width / height of a pixel
    origin    : where to open it a second time, for its sound; None for what cannot be
    """

    name: str
    size: Size
    rate: Fraction
    time_base: Fraction
    total: int | None
    live: bool
    begin: float
    stop: float | None
    zero: float
    colours: tuple[int, int]
    aspect: Fraction
    origin: str | None
    frames: Iterator[Frame]

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return None if self.origin is None or "://" in self.origin else Path(self.origin)


def is_video(source: Any) -> bool:
    """Whether this is a video: a file or address with such an ending, a stream's address, a camera's number."""
    if isinstance(source, int) and not isinstance(source, bool):
        return True
    if not isinstance(source, (str, os.PathLike)):
        return False
    text = os.fspath(source)
    if text.isdecimal():
        return not Path(text).exists()
    if urlsplit(text).scheme.lower() in STREAMS:
        return True
    return Path(urlsplit(text).path if is_url(text) else text).suffix.lower() in SUFFIXES


def open_video(
    source: str | os.PathLike[str] | int, *, stride: int = 1, start: float = 0.0, end: float | None = None
) -> Video:
    """Open a video file, the address of a stream (rtsp, http, ...) or a camera (its number, from 0).

    stride     : take every so manyth frame, counted from the first taken
    start, end : take frames with start <= time < end, in seconds since the first; None: until it ends

    Frames come upright (rotation applied), with the times of the file, also where these vary. A frame that
    cannot be decoded is left out, and its number with it. Decoding runs at most `AHEAD` frames ahead.
    Raises ImageError for what is not a video, and, from ``frames``, for one that breaks off; MissingExtraError
    without PyAV; ConfigError for a part that cannot be.
    """
    if stride < 1:
        raise ConfigError(f"stride: want at least 1, got {stride}")
    if not (start >= 0 and (end is None or end > start)):
        raise ConfigError(f"start, end: want 0 <= start < end, in seconds, got {start} and {end}")
    text = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
    if text.isdecimal():
        return _open_camera(int(text), stride, start, end)
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"{text}: a video needs PyAV; pip install 'maskrcnn[video]'") from error
    address = urlsplit(text) if "://" in text else None
    live = address is not None and (address.scheme in STREAMS or address.path.endswith(".m3u8"))
    place = text if address else str(Path(text).expanduser())
    name = text if address is None else f"{address.scheme}://{address.hostname or ''}{address.path}"
    options = {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {}  # over UDP pictures tear
    try:
        container = av.open(place, options=options, timeout=_TIMEOUT if address else None)
    except (av.error.FFmpegError, OSError) as error:
        said = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: want a video, got '{said}'; check the path or the address") from error
    if not container.streams.video:
        container.close()
        raise ImageError(f"{name}: want a video, got a file without pictures")
    try:
        return _describe(container, name, stride, start, end, live, None if live else place)
    except BaseException as error:
        container.close()
        if isinstance(error, av.error.FFmpegError):
            raise ImageError(f"{name}: want a video, got '{error.strerror}'; the file is damaged") from error
        raise


def _describe(
    container: Any, name: str, stride: int, start: float, end: float | None,
    live: bool, origin: str | None,
) -> Video:  # fmt: skip
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    base = Fraction(stream.time_base or Fraction(1, 90000))
    zero = (stream.start_time or 0) * base
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    seconds = float(stream.duration * base) if stream.duration else (container.duration or 0) / 1e6
    length = min(seconds, end if end is not None else seconds) - start
    if seconds and length <= 0:
        raise ConfigError(f"start: want less than the {seconds:.2f} s that {name} has, got {start}")
    context = stream.codec_context
    # the first frame says how it is turned, and is wanted anyway
    frames = _decoded(container, stream, name, _Part(stride, start, end, zero, rate, live))
    first = next(frames, None)
    if first is None:
        raise ImageError(f"{name}: want a video, got one without a readable frame in this part")
    turned = first.image.size != (context.height, context.width)
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return Video(
        name=name, size=first.image.size, rate=rate, time_base=base,
        total=max(round(length * float(rate) / stride), 1) if seconds and not live else None,
        live=live, begin=start, stop=end, zero=float(zero),
        colours=(context.color_primaries, context.color_trc),
        aspect=1 / aspect if turned else aspect, origin=origin,
        frames=ahead(_from(first, frames), AHEAD, latest=live),
    )  # fmt: skip


def _from(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


@dataclass(frozen=True)
class _Part:
    """Which frames are wanted; ``zero`` in seconds."""

    stride: int
    start: float
    end: float | None
    zero: Fraction
    rate: Fraction
    live: bool


def _decoded(container: Any, stream: Any, name: str, part: _Part) -> Iterator[Frame]:
    """The wanted frames; closes the container at the end."""
    with container:
        index = -1 if part.live or not part.start else _skip(container, stream, part) - 1
        first = None
        for frame in _frames(container, stream, name):
            seconds = None if frame is None or frame.pts is None else frame.pts * stream.time_base - part.zero
            if seconds is not None and not part.live and seconds < part.start:
                continue  # between the key frame that was sought and the start: counted already
            index += 1
            if frame is None:
                continue
            time = float(index / part.rate if seconds is None else seconds)
            if time < part.start:
                continue
            if part.end is not None and time >= part.end:
                return
            first = index if first is None else first
            if (index - first) % part.stride == 0:
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield Frame(Image(np.ascontiguousarray(pixels)), index, time)


def _frames(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Decoded frames, None for each packet that cannot be. Raises ImageError where the file breaks off."""
    import av

    failures = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            decoded = packet.decode()
        except (av.error.FFmpegError, OSError) as error:
            failures += 1
            gone = isinstance(error, (av.error.ExitError, av.error.TimeoutError, av.error.EOFError))
            if gone or failures == _TRIES:
                raise ImageError(
                    f"{name}: want more frames, got '{error.strerror}'; the file is damaged or the stream has "
                    "gone: the frames before are whole"
                ) from error
            packets = container.demux(stream)  # an error has ended the one before
            yield None
            continue
        failures = 0
        yield from decoded


def _skip(container: Any, stream: Any, part: _Part) -> int:
    """Go to the key frame before the start; the number of frames that lie before the start.

    A seek does not say how many frames it passed, so packets are counted first, without decoding.
    """
    start = round((part.start + float(part.zero)) / stream.time_base)
    before = 0
    for packet in container.demux(stream):
        if packet.dts is None or packet.dts >= start:
            break
        before += (packet.pts if packet.pts is not None else packet.dts) < start
    container.seek(start, stream=stream)
    return before


def _open_camera(number: int, stride: int, start: float, end: float | None) -> Video:
    """A camera of this machine, through OpenCV: PyAV has no way to one that works on every system."""
    camera = cv2.VideoCapture(number)
    good, picture = camera.read()
    if not good:
        camera.release()
        where = f" (/dev/video{number})" if sys.platform == "linux" else ""
        raise ImageError(f"camera {number}{where}: want pictures, got none; is it there, and free?")

    def frames() -> Iterator[Frame]:
        begin, index, good, picture = clock.monotonic(), 0, True, first
        try:
            while good and (end is None or clock.monotonic() - begin < end):
                time = clock.monotonic() - begin
                if time >= start and index % stride == 0:
                    yield Frame(Image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), index, time)
                good, picture = camera.read()
                index += 1
        finally:
            camera.release()

    first = picture
    rate = Fraction(camera.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
    return Video(
        name=f"camera {number}", size=picture.shape[:2], rate=rate, time_base=Fraction(1, 90000), total=None,
        live=True, begin=start, stop=end, zero=0.0, colours=(2, 2), aspect=Fraction(1), origin=None,
        frames=ahead(frames(), AHEAD, latest=True),
    )  # fmt: skip
