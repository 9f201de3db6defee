"""Frames a second of `maskrcnn predict clip.mp4 --track`, against the same frames predicted as pictures.

    python benchmarks/video.py [--weights NAME] [--frames 60] [--size 480 640] [--rounds 3]

The film is examples/coins.png, moved about. All sides run in turns, and the ratios of the medians count:

video    : decoding, network, tracking, drawing, an H.264 file and JSON lines
pictures : `predict_files` of the decoded frames, batch sizes 1 and 4 (the better counts): network, drawing, a JPEG
           file each and results.json
network  : `predict_images` of the decoded frames, one at a time, and nothing else

Beside each the CPU time of a frame, all threads together.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from turns import arguments

import maskrcnn
from maskrcnn.inputs import open_video, read
from maskrcnn.jobs import predict_files
from maskrcnn.videos import predict_video_file

COINS = Path(__file__).parent.parent / "examples" / "coins.png"


def film(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Write a film that moves over the enlarged photo."""
    h, w = size
    photo = cv2.resize(read(COINS).pixels, (w * 5 // 4, h * 5 // 4))
    photo = np.repeat(photo.reshape(*photo.shape[:2], -1)[..., :1], 3, axis=2)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
        for i in range(frames):
            y, x = int(h / 8 * (1 + np.sin(i / 9))), int(w / 8 * (1 + np.cos(i / 9)))
            view = np.ascontiguousarray(photo[y : y + h, x : x + w])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        file.mux(stream.encode())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model = maskrcnn.load(given.weights, device=given.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        film(path, given.frames, tuple(given.size))
        images = [frame.image for frame in open_video(path).frames]
        model.predict_images(images[:2])
        predict_video_file(model, path, end=0.1)  # compiles what is compiled at first use
        sides: dict[str, Callable[[], object]] = {
            "network": lambda: [model.predict_images([image]) for image in images],
            "pictures, batch size 1": lambda: predict_files(model, images, f"{folder}/out"),
            "pictures, batch size 4": lambda: predict_files(model, images, f"{folder}/out", batch_size=4),
            "video": lambda: predict_video_file(model, path, track=True),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, run in sides.items():
                start = time.perf_counter(), time.process_time()
                run()
                seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    rates = {
        name: len(images) / statistics.median(wall for wall, _ in took) for name, took in seconds.items()
    }
    for name, took in seconds.items():
        work = statistics.median(cpu for _, cpu in took) / len(images) * 1000
        print(f"{name:22}: {rates[name]:.2f} frames/s, CPU {work:.0f} ms a frame")
    pictures = max(rate for name, rate in rates.items() if name.startswith("pictures"))
    print(
        f"video / pictures {rates['video'] / pictures:.2f}, video / network {rates['video'] / rates['network']:.2f}"
    )


if __name__ == "__main__":
    main()
