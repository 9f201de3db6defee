"""Predict a video into files: decoding, the network and encoding at the same time, one frame after the other."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import urlsplit

from .errors import ConfigError, ImageError
from .inputs import Video, open_video
from .jobs import DEFAULT_OUT, Step, behind, lanes, side_by_side, writing
from .output import VideoWriter, draw, frame_record
from .records import Frame, Result
from .track import Tracking, followed

if TYPE_CHECKING:
    from .model import MaskRCNN

SAVE = ("overlay", "json")


@dataclass(frozen=True)
class VideoReport:
    """What a run did.

    files  : the video and the JSON lines, as far as they were asked for
    frames : frames written
    lost   : frames between these that could not be decoded, or came too fast from a live source
    error  : why the video ended before its time, if it did
    """

    files: tuple[Path, ...]
    frames: int
    instances: int
    lost: int
    seconds: float
    error: str | None


def predict_video_file(
    model: MaskRCNN,
    source: str | os.PathLike[str] | int,
    out: str | Path | None = None,
    *,
    save: Sequence[str] = SAVE,
    track: bool | Tracking = False,
    stride: int = 1,
    start: float = 0.0,
    end: float | None = None,
    batch_size: int = 1,
    score: float | None = None,
    classes: Sequence[str | int] | None = None,
    max_detections: int | None = None,
    color_by: Literal["instance", "class"] = "instance",
    progress: Callable[[Step], None] = lambda step: None,
) -> VideoReport:
    """Predict a video, a stream or a camera; write STEM_overlay.mp4 and STEM_results.jsonl as it goes on.

    out  : folder of the results. Without it they go beside a file, and into ``out`` for anything else
    save : ``overlay`` the video with its instances drawn and its sound; ``json`` a line of JSON a frame, see
           `maskrcnn.output.frame_record`
    track, stride, start, end, batch_size, score, classes, max_detections : as `MaskRCNN.predict_video`; on a CPU
           two frames at least go through the network side by side
    color_by : ``instance`` or ``class``
    progress : called after every frame

    Memory does not grow with the length. What breaks off, by Ctrl-C too, leaves whole files of what was done.
    Raises ConfigError for settings that cannot work, ImageError for what is not a video, MaskRCNNError if results
    cannot be written.
    """
    began = time.monotonic()
    unknown = [kind for kind in save if kind not in SAVE]
    if unknown or not save:
        raise ConfigError(f"save: want {' or '.join(SAVE)} for a video, got {', '.join(unknown) or 'none'}")
    if batch_size < 1:
        raise ConfigError(f"batch_size: want at least 1, got {batch_size}")
    video = open_video(source, stride=stride, start=start, end=end)
    folder = Path(out or (DEFAULT_OUT if video.path is None else video.path.parent)).expanduser()
    stem = _stem(video)
    options = {"score": score, "classes": classes, "max_detections": max_detections}
    count = _Count(video, stride)
    with writing(folder), ExitStack() as files:
        folder.mkdir(parents=True, exist_ok=True)
        film = (
            files.enter_context(VideoWriter(folder, f"{stem}_overlay", video)) if "overlay" in save else None
        )
        lines = files.enter_context(_lines(folder / f"{stem}_results.jsonl")) if "json" in save else None

        def put(result: Result) -> None:
            assert result.time is not None
            if film is not None:
                film.add(draw(result, color_by=color_by), result.time)
            if lines is not None:
                lines.write(json.dumps(frame_record(result), separators=(",", ":")) + "\n")

        results = _predicted(model, video, track, batch_size, options)
        try:
            with closing(behind(results, put)) as done:
                for result in done:
                    progress(count(result))
        except ImageError as broken:
            count.error = str(broken)
    written = (*((film.path,) if film else ()), *((Path(lines.name),) if lines else ()))
    return VideoReport(
        written, count.frames, count.instances, count.lost, time.monotonic() - began, count.error
    )


def _predicted(
    model: MaskRCNN, video: Video, track: bool | Tracking, batch_size: int, options: dict[str, Any]
) -> Iterator[Result]:
    """The results of `MaskRCNN.predict_video`, frames side by side where the model allows it."""
    pool = lanes(model, max(batch_size, 2))
    if pool is None:
        return model.predict_video(video, track=track, batch_size=batch_size, **options)

    def predict(frame: Frame) -> Result:
        (result,) = model.predict_images([frame.image], **options)
        return replace(result, frame=frame.index, time=frame.time)

    def results() -> Iterator[Result]:
        with closing(video.frames):  # type: ignore[type-var]
            yield from side_by_side(video.frames, predict, pool)

    return followed(results(), track)


def _stem(video: Video) -> str:
    """Such as clip, live (of rtsp://host/live) or camera_0."""
    if video.path is not None:
        return video.path.stem
    address = urlsplit(video.name)
    return re.sub(r"[^\w-]+", "_", Path(address.path).stem or address.hostname or "video")


class _Count:
    """What has been done so far."""

    def __init__(self, video: Video, stride: int) -> None:
        self.video, self.stride = video, stride
        self.frames = self.instances = self.lost = 0
        self.error: str | None = None
        self._before: int | None = None

    def __call__(self, result: Result) -> Step:
        assert result.frame is not None
        if self._before is not None:
            self.lost += (result.frame - self._before) // self.stride - 1
        self._before = result.frame
        self.frames += 1
        self.instances += len(result)
        return Step(self.video.name, len(result), None, self.frames, self.video.total)


def _lines(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", buffering=1)  # line by line, for those who read along
