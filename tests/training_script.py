"""Trains a tiny network on drawn rectangles, as a process of its own: it may be killed, or be one of two.

python training_script.py OUT BATCH EPOCHS KILL_AT
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from maskrcnn import Config, Image, MaskRCNN
from maskrcnn.data import Instance, Sample, Samples
from maskrcnn.model.layers import BatchNorm
from maskrcnn.model.targets import Sampling
from maskrcnn.train import Report, Training, train

TINY = Config(
    names=("box", "dark"), depth=18, width=8, fpn_channels=8, rpn_channels=8, box_features=16, mask_convs=1,
    mask_channels=8, anchor_sizes=((8,), (16,), (32,), (64,), (128,)), min_size=64, max_size=96, pre_nms=30,
    proposals=10,
)  # fmt: skip


def drawn(count: int, size: tuple[int, int] = (64, 64)) -> Samples:
    """Pictures with one rectangle each, light or dark."""
    rng, samples = np.random.default_rng(0), []
    for i in range(count):
        pixels = rng.integers(100, 140, (*size, 3), dtype=np.uint8)
        y, x = rng.integers(4, 24, 2)
        pixels[y : y + 24, x : x + 32] = 250 * (i % 2)
        box = (float(x), float(y), float(x + 32), float(y + 24))
        outline = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])
        samples.append(Sample(i, Image(pixels), size, (Instance(i % 2, box, [outline]),)))
    return Samples(TINY.names, tuple(samples))


def tiny(seed: int = 0) -> MaskRCNN:
    """Of random weights, with norms that keep the residual sums from growing."""
    torch.manual_seed(seed)
    model = MaskRCNN(TINY)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            torch.nn.init.constant_(module.weight, 0.5)
    return model


def trained(out: Path, batch: int, epochs: float, kill_at: int, resume: bool = False) -> None:
    """Train in this process, which is killed after step ``kill_at``; never with -1. With 0, all that chance or the
    number of processes could change is left out of a step."""
    every = 10**6  # all anchors and proposals, so that no chance is left in what the losses see
    settings = Training(
        epochs=epochs, batch=batch, optimizer="adamw" if kill_at else "sgd", lr=0.002 if kill_at else 0.05,
        warmup=3, ema=0.9 if kill_at else None,
        norm="adapt" if kill_at else "frozen", workers=0, keep_every=3, validate_every=1000,
        sampling=Sampling(64, rois=32) if kill_at else Sampling(every, 1.0, rois=every, roi_positive=1.0),
    )  # fmt: skip

    def tell(report: Report) -> None:
        if report.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    data = drawn(8 if kill_at else 4)
    train(tiny(), data, out=out, resume=resume, settings=settings, device="cpu", tell=tell, quiet=True)


if __name__ == "__main__":
    trained(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
