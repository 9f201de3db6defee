"""What a script of Matterport's waits for: ``detect`` on one picture, and a step of ``train`` as train_shapes takes it.

    python benchmarks/matterport_script.py [--peer PYTHON]

Weights are random and the least confidence is 0, so that there are 100 masks to make. ``--peer``, the interpreter of an
environment with TensorFlow, times the layers alone of that package (`keras_layers.py`) in turns with our ``detect``.
``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`` shows a CPU without AVX-512.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from turns import Worker, arguments

import mrcnn.model as modellib
from mrcnn import utils
from mrcnn.config import Config

TIMES = 5


class Coco(Config):
    """demo.ipynb: ResNet-101, 81 classes, 1024 x 1024."""

    NAME = "coco"
    NUM_CLASSES = 81
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0


class Shapes(Config):
    """train_shapes.ipynb: ResNet-101, 4 classes, 8 pictures of 128 x 128 a step."""

    NAME = "shapes"
    IMAGES_PER_GPU = 8
    NUM_CLASSES = 4
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    TRAIN_ROIS_PER_IMAGE = 32
    STEPS_PER_EPOCH = TIMES
    VALIDATION_STEPS = 1


class Squares(utils.Dataset):
    """Two squares in each picture."""

    def load_image(self, image_id: int) -> np.ndarray:
        return np.random.default_rng(image_id).integers(0, 255, (128, 128, 3), dtype=np.uint8)

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        masks = np.zeros((128, 128, 2), bool)
        masks[10:50, 10:50, 0] = masks[60:110, 40:90, 1] = True
        return masks, np.array([1, 2], np.int32)


class Watch:
    """A callback that notes how long each step takes, the data of the next one included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.seconds.append(time.perf_counter())


def detection(peer: str | None) -> None:
    """Print the median of `detect`, and of its ratio to the peer's layers."""
    model = modellib.MaskRCNN("inference", Coco(), "logs")
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    found = model.detect([image])[0]
    worker = Worker([peer, str(Path(__file__).with_name("keras_layers.py"))]) if peer else None
    seconds, layers = [], []
    for _ in range(TIMES):
        begun = time.perf_counter()
        model.detect([image])
        seconds.append(time.perf_counter() - begun)
        if worker:
            layers.append(worker.ask()["seconds"])
    print(f"detect, {len(found['rois'])} instances: {statistics.median(seconds):.2f} s")
    if worker:
        worker.close()
        ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds, layers, strict=True))
        print(
            f"{worker.hello['version']}, layers alone: {statistics.median(layers):.2f} s; ours / theirs {ratio:.2f}"
        )


def training() -> None:
    """Print the median of a step."""
    data = Squares()
    for i in range(3):
        data.add_class("shapes", i + 1, str(i))
    for i in range(8):
        data.add_image("shapes", i, None)
    data.prepare()
    with tempfile.TemporaryDirectory() as logs:
        for layers in ("heads", "all"):
            watch = Watch()
            learner = modellib.MaskRCNN("training", Shapes(), logs)
            with contextlib.redirect_stdout(io.StringIO()):
                learner.train(data, data, 0.001, 1, layers, custom_callbacks=[watch])
            print(f"step, {layers}: {statistics.median(np.diff(watch.seconds)):.2f} s")


def main() -> None:
    """Print all medians."""
    parser = arguments(__doc__)
    parser.add_argument("--peer", help="interpreter of an environment with TensorFlow")
    parser.add_argument("--detect", action="store_true", help="leave training out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    detection(options.peer)
    if not options.detect:
        training()


if __name__ == "__main__":
    main()
