"""R50-FPN from a tensor on a device to RoI masks: milliseconds of one 800x1333 image, images a second in batches.

    python benchmarks/device.py --device cuda [--batch 8] [--runs 20] [--size 800 1333]

The weights are random and the score threshold is zero, so that 100 detections an image go through the mask head. Goals
on one H100, of the best precision: 10 ms, 150 images/s.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from turns import arguments

from maskrcnn import Config, Image
from maskrcnn.engines import attach
from maskrcnn.model import MaskRCNN
from maskrcnn.model.image import to_batch


def scaled(model: MaskRCNN) -> MaskRCNN:
    """Residual branches whose sum stays in range, and class scores that differ."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("conv3.norm.weight", "shortcut.norm.weight")):
                value.fill_(0.5)
            elif name == "box.class_logits.weight":
                value.mul_(300)
    return model


@torch.inference_mode()
def seconds(model: MaskRCNN, size: tuple[int, int], count: int, runs: int) -> list[float]:
    """Of each pass of ``count`` images, after two that are not counted."""
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    batch = to_batch([Image(photo)] * count, model.config).to(model.device)

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    took = []
    for _ in range(runs + 2):
        start = now()
        detections, _ = model(batch)
        took.append(now() - start)
    assert len(detections.boxes) == count * model.config.max_detections
    return took[2:]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333))
    given = parser.parse_args()
    torch.manual_seed(0)
    names = [str(i) for i in range(80)]
    config = Config(names=names, depth=50).with_options(dialect="torchvision", score=0.0)
    model = scaled(MaskRCNN(config)).to(given.device)
    print(
        f"PyTorch {torch.__version__}, {given.device}, {given.size[0]}x{given.size[1]}, 100 detections an image"
    )
    for engine in ("auto", "bfloat16", "float16"):
        attach(model, engine)
        one, many = (
            statistics.median(seconds(model, tuple(given.size), count, given.runs))
            for count in (1, given.batch)
        )
        print(
            f"{engine:8}: {one * 1e3:.1f} ms for one, {given.batch / many:.1f} images/s in batches of {given.batch}"
        )


if __name__ == "__main__":
    main()
