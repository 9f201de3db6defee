"""Frames a second of `maskrcnn predict clip.mp4 --track`, against the same frames predicted as pictures.

    python benchmarks/video.py [--weights NAME] [--frames 60] [--size 480 640] [--rounds 7] [--batch-size 1]

The film is examples/coins.png, moved about. All sides run in turns, in another order each round, and the median of
the rounds' ratios counts:

video    : decoding, network, tracking, drawing, an H.264 file and JSON lines
pictures : `predict_files` of the decoded frames: network, drawing, a JPEG file each and results.json
network  : `predict_images` of the decoded frames, one at a time, and nothing else

Beside each the CPU time of a frame, all threads together.
"""

import random
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model = maskrcnn.load(given.weights, device=given.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        film(path, given.frames, tuple(given.size))
        images = [frame.image for frame in open_video(path).frames]
        model.predict_images(images[:2])
        predict_video_file(model, path, end=0.1)  # compiles what is compiled at first use
        size = given.batch_size
        sides: dict[str, Callable[[], object]] = {
            "network": lambda: [model.predict_images([image]) for image in images],
            "pictures": lambda: predict_files(model, images, f"{folder}/out", batch_size=size),
            "video": lambda: predict_video_file(model, path, track=True, batch_size=size),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, run in random.sample(sorted(sides.items()), len(sides)):
                start = time.perf_counter(), time.process_time()
                run()
                seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    for name, took in seconds.items():
        wall, cpu = (statistics.median(times) / len(images) for times in zip(*took, strict=True))
        print(f"{name:8}: {1 / wall:.2f} frames/s, CPU {cpu * 1000:.0f} ms a frame")
    for other in ("pictures", "network"):
        ratios = sorted(b / a for (a, _), (b, _) in zip(seconds["video"], seconds[other], strict=True))
        print(
            f"video / {other} {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)"
        )


if __name__ == "__main__":
    main()
