"""Frames a second: the network alone on decoded frames, and the whole of `maskrcnn predict clip.mp4 --track`.

    python benchmarks/video.py [--weights NAME] [--frames 60] [--size 480 640] [--rounds 3]

The film is the coins of examples/photos, moved about. Both sides run in turns; the ratio of the medians counts.
"""

import statistics
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
from turns import arguments

import maskrcnn
from maskrcnn.inputs import open_video, read
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
        alone, whole = [], []
        for _ in range(given.rounds):
            start = time.perf_counter()
            for image in images:
                model.predict_images([image])
            alone.append(len(images) / (time.perf_counter() - start))
            report = predict_video_file(model, path, track=True)
            whole.append(report.frames / report.seconds)
    a, b = statistics.median(alone), statistics.median(whole)
    print(f"network alone {a:.2f} frames/s, video {b:.2f} frames/s, ratio {b / a:.2f}; "
          f"{report.instances / report.frames:.0f} instances a frame")  # fmt: skip


if __name__ == "__main__":
    main()
