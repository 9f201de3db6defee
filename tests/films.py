"""Videos made for a test, and a model that finds bright things in them."""

import contextlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from maskrcnn.config import Config
from maskrcnn.model import MaskRCNN
from maskrcnn.records import Image, Result

SIZE = (48, 64)
RATE = 10
SAMPLES = 8000


class Bright:
    """Finds each connected bright thing; its score is its brightness."""

    names = ("thing",)
    config = Config(names=names)
    source = "bright"
    engine = None
    device = torch.device("cpu")
    predict_video = MaskRCNN.predict_video
    _predict_frames = MaskRCNN._predict_frames

    def predict_images(self, images: Sequence[Image], **_: Any) -> list[Result]:
        return [self.find(image) for image in images]

    def find(self, image: Image) -> Result:
        grey = image.pixels.max(axis=2)
        count, numbers, stats, _ = cv2.connectedComponentsWithStats((grey > 90).astype(np.uint8))
        boxes = [[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:].tolist()]
        scores = [float(np.median(grey[numbers == i])) / 255 for i in range(1, count)]
        order = np.argsort(scores)[::-1].copy()
        return Result(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
            torch.zeros(count - 1, dtype=torch.int64), torch.tensor(scores, dtype=torch.float32)[order],
            torch.ones(count - 1, 28, 28), self.names, image.size, image,
        )  # fmt: skip


def square(x: float, y: float, side: int = 12, value: int = 230, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey square on black."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[max(round(y), 0) : max(round(y) + side, 0), max(round(x), 0) : max(round(x) + side, 0)] = value
    return pixels


def film(
    path: Path, pictures: Sequence[np.ndarray], *, codec: str = "libx264", times: Sequence[float] | None = None,
    sound: str | None = None, change: Callable[[Any], None] = lambda stream: None,
) -> Path:  # fmt: skip
    """Write a video at 10 frames a second, or at these times (s), with a tone if ``sound`` names its codec."""
    with contextlib.closing(av.open(str(path), "w")) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx264":
            stream.codec_context.options = {"crf": "10", "preset": "ultrafast"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        change(stream)
        tone = file.add_stream(sound, rate=SAMPLES) if sound else None
        for i, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.time_base = stream.codec_context.time_base
                frame.pts = round(times[i] / frame.time_base)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if tone is not None:
            wave = np.sin(np.arange(len(pictures) * SAMPLES // RATE) * 0.3).astype(np.float32)
            kind = tone.codec_context.format.name if tone.codec_context.format else "fltp"
            wave = wave if kind.startswith("flt") else (wave * 2**14).astype(np.int16)
            for start in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(
                    wave[None, start : start + 1024], format=kind, layout="mono"
                )
                part.sample_rate, part.pts = SAMPLES, start
                file.mux(tone.encode(part))
            file.mux(tone.encode())
    return path


def played(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times and RGB pictures of a video."""
    with av.open(str(path)) as file:
        return [(float(f.time), f.to_ndarray(format="rgb24")) for f in file.decode(file.streams.video[0])]


def packets(path: Path) -> list[tuple[float, bytes]]:
    """Times and bytes of its sound."""
    with av.open(str(path)) as file:
        found = [p for p in file.demux(file.streams.audio[0]) if p.pts is not None]
        return [(float(p.pts * p.time_base), bytes(p)) for p in found]
