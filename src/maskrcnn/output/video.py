"""A video written frame by frame, with the sound of the one it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from ..inputs import Video
from ..records import Result

_ENCODERS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "mpeg4": {"qmin": "2", "qmax": "5"},
}
_KEY_EVERY = 2  # seconds: the most that a kill costs
_BT709 = 1
_IN_MP4 = {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"}  # that players know there


def frame_record(result: Result) -> dict[str, Any]:
    """One frame as a line of JSON: frame, time (s) and its instances, the best first.

    An instance has name, label, score, box (xyxy pixels), mask (COCO run lengths) and, if it is tracked, its id.
    """
    rows = []
    for i, (name, rle) in enumerate(zip(result.class_names, result.rle(), strict=True)):
        row: dict[str, Any] = {} if result.ids is None else {"id": int(result.ids[i])}
        row |= {
            "name": name, "label": int(result.labels[i]), "score": round(float(result.scores[i]), 6),
            "box": [round(v, 3) for v in result.boxes[i].tolist()], "mask": rle,
        }  # fmt: skip
        rows.append(row)
    return {"frame": result.frame, "time": result.time, "instances": rows}


class VideoWriter:
    """Writes frames at their own times. Sound is copied from the source as it is, if there is any.

    The frames go into ``STEM.part.mp4``, which plays up to its last seconds even if the process is killed. Leaving
    the ``with`` block, also by an error or Ctrl-C, turns it into ``path``: STEM.mp4, or STEM.mkv where MP4 has no
    place for the sound. Raises ImageError if the file cannot be written.
    """

    def __init__(self, folder: Path, stem: str, source: Video) -> None:
        self.source = source
        self._sound = _Sound(source)
        ending = ".mp4" if self._sound.kinds <= _IN_MP4 else ".mkv"
        self.path, self.part = folder / f"{stem}{ending}", folder / f"{stem}.part{ending}"
        self._file, self._stream = _output(self.part, source)
        self._sound.into(self._file)
        self._last, self._gap = -1, 0  # of time stamps

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, pixels: np.ndarray, time: float) -> None:
        """One frame: (h, w, 3) uint8 RGB of the source's size; ``time`` in seconds, as the source counts them."""
        import av

        odd = [(0, side % 2) for side in pixels.shape[:2]]
        if any(more for _, more in odd):
            pixels = np.pad(pixels, (*odd, (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        height, width = (side + side % 2 for side in self.source.size)  # a stream may change its own
        frame = frame.reformat(width, height, format="yuv420p", dst_colorspace=_BT709)
        frame.colorspace, frame.time_base = _BT709, self.source.time_base
        stamp = max(round((time - self.source.begin) / self.source.time_base), self._last + 1)
        self._gap = stamp - self._last if self._last >= 0 else round(1 / self.source.rate / frame.time_base)
        frame.pts = self._last = stamp
        self._write(self._stream.encode(frame), time)

    def close(self) -> None:
        """Complete the file and give it its name; without a frame there is none."""
        if self._file is None:
            return
        try:
            if self._last >= 0:
                end = self.source.begin + float((self._last + self._gap) * self.source.time_base)
                self._write(
                    self._stream.encode(), end if self.source.stop is None else min(end, self.source.stop)
                )
        finally:
            self._sound.close()
            self._file.close()
            self._file = None
        if self._last >= 0:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)

    def _write(self, packets: list[Any], time: float) -> None:
        """Packets of pictures, and the sound that belongs before ``time``."""
        for packet in (*self._sound.until(time), *packets):
            self._file.mux(packet)


def _output(path: Path, source: Video) -> tuple[Any, Any]:
    """A new file and its picture track."""
    import av

    codec = next((name for name in _ENCODERS if name in av.codecs_available), None)
    if codec is None:
        raise ImageError(f"{path}: want an encoder ({', '.join(_ENCODERS)}), PyAV has none; reinstall it")
    # fragments survive a kill; closing makes one plain file of them; a late moov knows where each track begins
    options = {"movflags": "+hybrid_fragmented+delay_moov"} if path.suffix == ".mp4" else {}
    file = av.open(str(path), "w", options=options | {"flush_packets": "1"})
    stream: Any = file.add_stream(codec, rate=source.rate, options=_ENCODERS[codec])
    context: Any = stream.codec_context
    context.height, context.width = (side + side % 2 for side in source.size)
    context.pix_fmt, context.time_base, context.max_b_frames = "yuv420p", source.time_base, 0
    context.gop_size = max(round(_KEY_EVERY * source.rate), 1)
    context.sample_aspect_ratio = source.aspect
    context.colorspace, (context.color_primaries, context.color_trc) = _BT709, source.colours
    return file, stream


def _input(place: str | None) -> Any:
    import av

    return None if place is None else av.open(place)


class _Sound:
    """The audio packets of a source between the start and the end that are wanted, on the clock of the new file."""

    def __init__(self, source: Video) -> None:
        self.begin, self.zero = source.begin, source.zero
        self._file = _input(source.origin)
        self._tracks = [] if self._file is None else list(self._file.streams.audio)
        self.kinds = {track.codec_context.codec.canonical_name for track in self._tracks}
        if self._tracks and self.begin:
            self._file.seek(round((self.begin + self.zero) * 1_000_000))
        self._packets = self._file.demux(self._tracks) if self._tracks else iter(())
        self._next = self._read()

    def into(self, file: Any) -> None:
        """Make room for the tracks in the file to be written."""
        from av.bitstream import BitStreamFilterContext

        self._places = {track.index: file.add_stream_from_template(track) for track in self._tracks}
        # AAC from broadcast streams has a header in each packet, where files have one for all
        self._filters = {
            track.index: BitStreamFilterContext("aac_adtstoasc", track)
            for track in self._tracks
            if track.codec_context.codec.canonical_name == "aac" and not track.codec_context.extradata
        }

    def until(self, time: float) -> Iterator[Any]:
        """The packets not yet given that begin before ``time``, in seconds since the first frame."""
        while self._next is not None and self._time(self._next) < time:
            packet, self._next = self._next, self._read()
            if self._time(packet) >= self.begin or not self.begin:
                offset = round((self.begin + self.zero) / packet.time_base)
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                track = packet.stream.index
                for fit in self._filters[track].filter(packet) if track in self._filters else (packet,):
                    fit.stream = self._places[track]
                    yield fit

    def close(self) -> None:
        """Let the source go."""
        if self._file is not None:
            self._file.close()

    def _read(self) -> Any:
        """The next packet; None where the sound ends or breaks off."""
        import av

        try:
            for packet in self._packets:
                if packet.pts is not None and packet.dts is not None:
                    return packet
        except av.error.FFmpegError:  # the pictures go on without it
            pass
        return None

    def _time(self, packet: Any) -> float:
        return float(packet.pts * packet.time_base) - self.zero
