"""Videos in and out: every frame at its time, the sound with it, and the same number for the same object."""

import json
import re
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import maskrcnn
import maskrcnn.weights
from films import RATE, SIZE, Bright, film, packets, played, square
from maskrcnn.cli import app
from maskrcnn.errors import ConfigError, ImageError
from maskrcnn.inputs import Video, is_video, open_video
from maskrcnn.inputs.ahead import ahead
from maskrcnn.jobs import Step
from maskrcnn.records import Image, Result
from maskrcnn.track import Tracking, Tracks, assign, follow
from maskrcnn.videos import _stem, predict_video_file

MOVING = [square(2 + i, 10) for i in range(30)]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left(pixels: np.ndarray) -> int:
    """The first column of the square."""
    return int(np.flatnonzero(pixels.max(axis=(0, 2)) > 120)[0])


# reading


@pytest.mark.parametrize(
    ("source", "video"),
    [
        ("clip.MP4", True), (Path("a/b.mkv"), True), ("rtsp://user:secret@host/live", True), (0, True), ("0", True),
        ("http://host/a.mp4?x=1", True), ("http://host/a.jpg", False), ("a.gif", False), (b"\0", False),
        (True, False), (np.zeros((4, 4, 3)), False), ("folder", False),
    ],
)  # fmt: skip
def test_what_is_a_video(source: object, video: bool) -> None:
    assert is_video(source) is video


def test_frames_have_their_numbers_and_times(tmp_path: Path) -> None:
    video = open_video(film(tmp_path / "a.mp4", MOVING))
    assert (video.size, video.rate, video.total, video.live) == (SIZE, RATE, 30, False)
    frames = list(video.frames)
    assert [f.index for f in frames] == list(range(30))
    assert [round(f.time, 3) for f in frames] == [i / 10 for i in range(30)]
    assert [left(f.image.pixels) for f in frames] == [2 + i for i in range(30)]


def test_a_part_keeps_the_numbers_of_the_whole(tmp_path: Path) -> None:
    """30 frames at 10 a second: from 1.05 s on, the next is number 11; key frames lie at 0 and 12, 24."""
    path = film(tmp_path / "a.mp4", MOVING, change=lambda s: setattr(s.codec_context, "gop_size", 12))
    video = open_video(path, start=1.05, end=2.6, stride=4)
    frames = list(video.frames)
    assert [f.index for f in frames] == [11, 15, 19, 23]
    assert [left(f.image.pixels) for f in frames] == [13, 17, 21, 25]
    assert video.total == 4


def test_times_that_vary_are_respected(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.53, 2.0]
    path = film(tmp_path / "a.mkv", MOVING[:5], times=times)
    assert [round(f.time, 3) for f in open_video(path).frames] == times
    report = predict_video_file(Bright(), path, tmp_path)  # type: ignore[arg-type]
    assert [round(t, 3) for t, _ in played(report.files[0])] == times


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((0, -1, 1, 0), (-1, 0)), ((-1, 0, 0, -1), (-1, -1))],
)
def test_a_video_taken_sideways_stands_upright(tmp_path: Path, matrix: tuple, corner: tuple) -> None:
    """QuickTime: x' = a x + c y, y' = b x + d y, y down. (0, 1, -1, 0) takes right to down: a quarter clockwise."""
    path = film(tmp_path / "a.mp4", [square(0, 0)] * 3)
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4 + 40  # version 0: the matrix lies 40 bytes into the box's content
    assert data[header : header + 36] == bytes.fromhex(
        "000100000000000000000000 000000000001000000000000 000000000000000040000000"
    )
    for at, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[header + at : header + at + 4] = (value * 0x10000).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    video = open_video(path)
    pixels = next(iter(video.frames)).image.pixels
    assert video.size == pixels.shape[:2] == (SIZE if matrix[0] else SIZE[::-1])
    assert pixels[corner].min() > 200
    assert (pixels[..., 0] > 120).sum() == 12 * 12
    written = predict_video_file(Bright(), path, tmp_path).files[0]  # type: ignore[arg-type]
    assert played(written)[0][1].shape[:2] == video.size


def test_a_broken_frame_is_left_out_and_counted(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", MOVING[:8], codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [m.start() for m in re.finditer(b"\xff\xd8\xff", data)]
    assert len(starts) == 8
    data[starts[3] : starts[4] - 8] = bytes(starts[4] - 8 - starts[3])
    path.write_bytes(data)
    report = predict_video_file(Bright(), path)  # type: ignore[arg-type]
    records = lines(tmp_path / "a_results.jsonl")
    assert [r["frame"] for r in records] == [0, 1, 2, 4, 5, 6, 7]
    assert (report.frames, report.lost, report.error) == (7, 1, None)


def test_a_file_cut_short_gives_what_it_has(tmp_path: Path) -> None:
    path = film(tmp_path / "a.ts", MOVING)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert 5 < predict_video_file(Bright(), path).frames < 30  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.mp4", None, "check the path"),
        ("text.mp4", b"not a video", "want a video"),
        ("empty.mkv", b"", "want"),
    ],
)
def test_what_is_no_video_is_said(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=said):
        open_video(tmp_path / name)


def test_a_part_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", MOVING)
    for part in ({"stride": 0}, {"start": -1}, {"start": 2, "end": 2}, {"start": 3.5}):
        with pytest.raises(ConfigError, match="want"):
            open_video(path, **part)


def test_a_camera_is_read_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def __init__(self, number: int) -> None:
            assert number == 1
            self.left, self.released = 6, False
            cameras.append(self)

        def read(self) -> tuple[bool, np.ndarray | None]:
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # OpenCV's order: blue

        def get(self, _: int) -> float:
            return 15.0

        def release(self) -> None:
            self.released = True

    cameras: list[Camera] = []
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    video = open_video("1")
    frames = list(video.frames)
    assert (video.size, video.rate, video.live) == ((4, 6), 15, True)
    assert frames[-1].index == 5 and frames[0].image.pixels[0, 0].tolist() == [0, 0, 255]
    assert cameras[0].released
    with pytest.raises(ImageError, match="camera 1"):
        cameras[0].left = 0
        monkeypatch.setattr(Camera, "read", lambda self: (False, None))
        open_video(1)


# working ahead


def counting(made: list[int], end: int = 100) -> Iterator[int]:
    for i in range(end):
        made.append(i)
        yield i


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []
    items = ahead(counting(made), 3)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) == 1 + 3 + 1  # taken, waiting, and one that waits for room
    assert list(islice(items, 5)) == [1, 2, 3, 4, 5]
    items.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "ahead"]


def test_the_latest_is_kept_where_the_reader_is_slow() -> None:
    made: list[int] = []
    items = ahead(counting(made), 3, latest=True)
    seen = [next(items)]
    while len(made) < 100:
        time.sleep(0.01)
    time.sleep(0.1)
    seen += items
    assert len(seen) <= 4 and seen[-3:] == [97, 98, 99]


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ImageError("gone")

    items = ahead(broken(), 3)
    assert next(items) == 1
    with pytest.raises(ImageError, match="gone"):
        next(items)


# following


def things(*rows: tuple[float, float, float], label: int = 0) -> Result:
    """20 x 20 instances at x, y with a score, in a 100 x 200 picture."""
    boxes = torch.tensor([[x, y, x + 20, y + 20] for x, y, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return Result(boxes, torch.full((len(rows),), label), torch.tensor([s for *_, s in rows]),
                  torch.ones(len(rows), 28, 28), ("nut", "bolt"), (100, 200))  # fmt: skip


def numbers(frames: list[Result], rule: Tracking | None = None) -> list[list[int]]:
    tracks, found = Tracks(), []
    for frame in frames:
        tracks, result = follow(tracks, frame, rule or Tracking())
        assert result.ids is not None
        found.append(result.ids.tolist())
    return found


def test_numbers_follow_the_objects_not_their_order() -> None:
    a, b = [(5 + 4 * i, 10, 0.9) for i in range(6)], [(120 - 4 * i, 60, 0.8) for i in range(6)]
    frames = [things(a[i], b[i]) if i % 2 else things(b[i], a[i]) for i in range(6)]
    assert numbers(frames) == [[1, 2] if i % 2 == 0 else [2, 1] for i in range(6)]


def test_two_that_pass_each_other_keep_their_numbers() -> None:
    """At 60 they cover each other half; movement says which is which."""
    frames = [things((10 + 10 * i, 20, 0.9), (110 - 10 * i, 30, 0.9)) for i in range(11)]
    assert numbers(frames) == [[1, 2]] * 11


def test_an_object_unseen_for_some_frames_comes_back_as_itself_where_it_should_be() -> None:
    path = [(5 + 8 * i, 40, 0.9) for i in range(16)]
    frames = [things(path[i]) if i < 4 or i > 8 else things() for i in range(16)]
    assert numbers(frames) == [[1]] * 4 + [[]] * 5 + [[1]] * 7
    assert numbers(frames, Tracking(patience=3))[9:] == [[2]] * 7


def test_a_fast_object_whose_masks_do_not_meet_is_followed() -> None:
    """30 pixels a frame at a width of 20; enlarged by half their width, 40 wide boxes share 10 of 70."""
    frames = [things((30 * i, 10, 0.9)) for i in range(5)]
    assert numbers(frames, Tracking(overlap=0.14)) == [[1]] * 5
    assert numbers(frames, Tracking(overlap=0.15)) == [[i] for i in range(1, 6)]


def test_a_weak_detection_carries_on_but_does_not_start() -> None:
    frames = [things((10, 10, 0.3)), things((10, 10, 0.9)), things((11, 10, 0.2), (90, 50, 0.2))]
    assert numbers(frames) == [[], [1], [1]]


def test_a_change_of_class_is_not_a_change_of_object() -> None:
    assert numbers([things((10, 10, 0.9)), things((11, 10, 0.9), label=1)]) == [[1], [1]]


def test_the_assignment_is_the_best_of_all_not_the_greedy_one() -> None:
    """Greedy takes 0.9 first and is left with nothing; 0.8 + 0.7 is more."""
    assert assign(np.array([[0.9, 0.8], [0.7, 0.0]]), 0.3) == [(0, 1), (1, 0)]
    assert assign(np.array([[0.9, 0.29], [0.1, 0.2]]), 0.3) == [(0, 0)]
    assert assign(np.zeros((0, 3)), 0.3) == []


@pytest.mark.parametrize("wrong", [{"overlap": 0.0}, {"start": 1.5}, {"patience": -1}])
def test_tracking_that_cannot_work_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="want"):
        Tracking(**wrong)


# writing


def test_a_video_and_lines_are_written_with_numbers_and_sound(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", MOVING, sound="aac")
    steps: list[Step] = []
    report = predict_video_file(Bright(), path, track=True, progress=steps.append)  # type: ignore[arg-type]
    assert report.files == (tmp_path / "a_overlay.mp4", tmp_path / "a_results.jsonl")
    assert (report.frames, report.instances, report.lost, report.error) == (30, 30, 0, None)
    assert [s.done for s in steps] == list(range(1, 31)) and steps[-1].total == 30
    records = lines(report.files[1])
    assert [r["time"] for r in records] == pytest.approx([i / 10 for i in range(30)])
    for i, record in enumerate(records):
        (one,) = record["instances"]
        assert one["id"] == 1 and one["name"] == "thing" and one["mask"]["size"] == list(SIZE)
        assert one["box"] == pytest.approx([2 + i, 10, 14 + i, 22], abs=1)
    shown = played(report.files[0])
    assert [round(t, 3) for t, _ in shown] == [i / 10 for i in range(30)]
    assert [b for _, b in packets(report.files[0])] == [b for _, b in packets(path)]
    assert not list(tmp_path.glob("*.part*"))


def test_frames_side_by_side_give_what_frames_in_turn_give(tmp_path: Path, two_threads: None) -> None:
    class InTurn(Bright):
        device = torch.device("meta")

    class Uneven(Bright):
        """Every second frame takes longer than the next."""

        def find(self, image: Image) -> Result:
            names.add(threading.current_thread().name.partition("_")[0])
            time.sleep(0.02 * (left(image.pixels) % 2))
            return super().find(image)

    names: set[str] = set()
    path = film(tmp_path / "a.mp4", MOVING)
    both = [
        predict_video_file(kind(), path, tmp_path / kind.__name__, track=True)  # type: ignore[arg-type]
        for kind in (InTurn, Uneven)
    ]
    assert both[0].frames == both[1].frames == 30 and names == {"lane"}
    assert lines(both[0].files[1]) == lines(both[1].files[1])


def test_a_part_has_its_own_sound(tmp_path: Path) -> None:
    """Sound of 1.0 s to 2.0 s, in packets of 1024 / 8000 s, begins at 0 in the new file."""
    path = film(tmp_path / "a.mp4", MOVING, sound="aac")
    report = predict_video_file(Bright(), path, tmp_path / "o", start=1.0, end=2.0)  # type: ignore[arg-type]
    wanted = [(t - 1.0, b) for t, b in packets(path) if 1.0 <= t < 2.0]
    got = packets(report.files[0])
    assert [b for _, b in got] == [b for _, b in wanted] and len(got) == 8
    assert [t for t, _ in got] == pytest.approx([t for t, _ in wanted], abs=0.002)
    assert [round(t, 3) for t, _ in played(report.files[0])] == [i / 10 for i in range(10)]


def test_sound_that_mp4_does_not_take_goes_into_matroska(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", MOVING[:5], codec="mpeg4", sound="pcm_s16le")
    report = predict_video_file(Bright(), path)  # type: ignore[arg-type]
    assert report.files[0].name == "a_overlay.mkv"
    assert b"".join(b for _, b in packets(report.files[0])) == b"".join(b for _, b in packets(path))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("rtsp://cam.local/live/main.sdp", "main"),
        ("udp://127.0.0.1:5", "127_0_0_1"),
        ("camera 0", "camera_0"),
    ],
)
def test_what_is_no_file_gives_files_a_name(name: str, stem: str) -> None:
    video = Video(
        name,
        SIZE,
        Fraction(10),
        Fraction(1, 10),
        None,
        True,
        0.0,
        None,
        0.0,
        (2, 2),
        Fraction(1),
        None,
        iter(()),
    )
    assert _stem(video) == stem


def test_sound_of_a_broadcast_becomes_sound_of_a_file(tmp_path: Path) -> None:
    """AAC in MPEG-TS repeats its header, 7 bytes, in every packet; MP4 has it once."""
    path = film(tmp_path / "a.ts", MOVING, sound="aac")
    report = predict_video_file(Bright(), path)  # type: ignore[arg-type]
    got, wanted = packets(report.files[0]), packets(path)
    assert report.files[0].name == "a_overlay.mp4" and len(got) == len(wanted) == 25
    assert [b for _, b in got] == [b[7:] for _, b in wanted]


def test_what_is_not_drawn_on_stays_as_it_was(tmp_path: Path) -> None:
    """An odd size, strong colours, high definition's colour matrix: all within what the encoder loses."""

    def tagged(stream: object) -> None:
        stream.codec_context.colorspace = 1  # type: ignore[attr-defined]

    picture = np.zeros((50, 60, 3), np.uint8)
    picture[:, 20:40] = (80, 20, 20)
    picture[:, 40:] = (10, 10, 80)
    path = film(tmp_path / "a.mkv", [picture] * 3, change=tagged)
    (_, before), *_ = played(path)
    report = predict_video_file(Bright(), path)  # type: ignore[arg-type]
    (_, after), *_ = played(report.files[0])
    assert report.instances == 0 and np.abs(before.astype(int) - after).mean() < 2


def test_an_odd_size_is_made_even(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [np.zeros((33, 45, 3), np.uint8)] * 2, codec="ffv1",
                change=lambda s: setattr(s, "pix_fmt", "yuv444p"))  # fmt: skip
    assert played(predict_video_file(Bright(), path).files[0])[0][1].shape == (34, 46, 3)  # type: ignore[arg-type]


def test_ctrl_c_leaves_whole_files(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", MOVING, sound="aac")

    def stop(step: Step) -> None:
        if step.done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video_file(Bright(), path, progress=stop)  # type: ignore[arg-type]
    frames = len(played(tmp_path / "a_overlay.mp4"))
    assert 12 <= frames <= 12 + 5  # what had gone through the network by then
    assert len(lines(tmp_path / "a_results.jsonl")) == frames
    last, _ = packets(tmp_path / "a_overlay.mp4")[-1]
    assert last == pytest.approx(frames / 10, abs=0.13)  # a packet of sound is 0.128 s
    assert not [t for t in threading.enumerate() if t.name == "ahead"]


def test_what_a_killed_run_leaves_can_be_played(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [square(i % 40, 9) for i in range(150)])

    def copy(step: Step) -> None:
        if step.done == 140:
            (tmp_path / "left.mp4").write_bytes((tmp_path / "a_overlay.part.mp4").read_bytes())

    predict_video_file(Bright(), path, progress=copy)  # type: ignore[arg-type]
    assert len(played(tmp_path / "left.mp4")) >= 40


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", MOVING)
    (tmp_path / "file").write_text("")
    with pytest.raises(maskrcnn.MaskRCNNError, match="want to write results"):
        predict_video_file(Bright(), path, tmp_path / "file" / "out")  # type: ignore[arg-type]


# as people use it


def test_python_gives_an_iterator_of_results_with_their_times(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", MOVING)
    results = Bright().predict_video(path, track=True, stride=10, batch_size=2)  # type: ignore[arg-type]
    found = [(r.frame, round(r.time or 0, 3), r.ids.tolist() if r.ids is not None else None) for r in results]
    assert found == [(0, 0.0, [1]), (10, 1.0, [1]), (20, 2.0, [1])]


def test_the_network_follows_moving_shapes(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:192, :256]

    def scene(i: int) -> np.ndarray:
        pixels = np.full((192, 256, 3), (70, 90, 80), np.uint8)
        for x, y, rgb in ((60 + 6 * i, 60, (220, 120, 60)), (200 - 6 * i, 135, (90, 160, 230))):
            pixels[(xx - x) ** 2 + (yy - y) ** 2 < 30**2] = rgb
        return pixels

    model = maskrcnn.load("shapes")
    path = film(tmp_path / "shapes.mp4", [scene(i) for i in range(8)])
    numbers = []
    for i, result in enumerate(model.predict_video(path, track=True, classes=["disc"])):
        upper, lower = result[result.boxes[:, 1] < 60], result[result.boxes[:, 1] > 60]
        assert upper.ids is not None and lower.ids is not None
        assert upper.boxes[0].tolist() == pytest.approx([30 + 6 * i, 30, 90 + 6 * i, 90], abs=6)
        numbers.append((int(upper.ids[0]), int(lower.ids[0])))
    assert len(numbers) == 8 and len(set(numbers)) == 1
    assert next(model.predict(str(path), score=0.5)).frame == 0


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskrcnn.weights, "load", lambda *_, **__: Bright())


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return done.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", done.output)


def test_the_command_line(tmp_path: Path, bright: None) -> None:
    path = film(tmp_path / "a.mp4", MOVING)
    code, said = run(path, "--track", "--start", "0:01", "--end", "2", "--stride", 2, "--out", tmp_path / "o")
    assert code == 0 and "5 frames, 5 instances" in said and "a_overlay.mp4" in said
    assert [r["frame"] for r in lines(tmp_path / "o/a_results.jsonl")] == [10, 12, 14, 16, 18]


def test_one_broken_video_of_several_gives_exit_code_3(tmp_path: Path, bright: None) -> None:
    (tmp_path / "b.mp4").write_bytes(b"torn")
    code, said = run(tmp_path / "b.mp4", film(tmp_path / "a.mp4", MOVING), "--out", tmp_path / "o")
    assert code == 3 and "b.mp4: want a video" in said and "30 frames" in said
    assert run(tmp_path / "b.mp4")[0] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a.mp4", "--resume"], "--resume: want pictures, got videos; go on"),
        (["a.png", "--track", "--stride", "2"], "--track, --stride: want videos, got pictures"),
        (["a.mp4", "a.png"], "got both"),
        (["a.mp4", "--start", "soon"], "want seconds or h:mm:ss"),
        (["a.mp4", "--save", "masks"], "save: want overlay or json for a video"),
    ],
)
def test_options_without_meaning_are_refused(bright: None, options: list[str], said: str) -> None:
    code, output = run(*options)
    assert code == 1 and said in output
