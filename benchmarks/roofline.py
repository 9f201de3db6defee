"""A network's time against that of its direct convolutions at the best rate that oneDNN reaches here, on the CPU.

    python benchmarks/roofline.py                                   # R50-FPN, 91 classes, 800x1067, 10 detections
    python benchmarks/roofline.py --weights mask_rcnn_coco.h5       # any weights, at their own size

Work is two operations for each multiplication of a direct convolution or dense layer, counted layer by layer. The rate
is that of a 3x3 convolution of 256 to 256 channels on 256x256 pixels, channels last. They take turns. A share above
100 % is more than direct convolutions can reach.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import PHOTO, arguments

SHAPE, COUNT = (480, 640), 10


def count_work(model: nn.Module, predict: Any) -> float:
    """Operations of all layers of one pass of the reference engine."""
    work = 0.0

    def note(layer: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal work
        weight = layer.weight
        if isinstance(layer, nn.ConvTranspose2d):
            work += 2 * out.numel() * weight.shape[0]  # stride 2 and 2x2: each output has one input pixel
        else:
            work += 2 * out.numel() * weight[0].numel()

    kinds = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
    hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, kinds)]
    predict()
    for hook in hooks:
        hook.remove()
    # The mask head computes one row of its last layer for each RoI, and not as a layer.
    return work


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def network(weights: str | None) -> Any:
    """That of these weights, or a ResNet-50 of random ones; either finds ``COUNT`` objects."""
    import maskrcnn

    limits = {"score": 0.0, "max_detections": COUNT}
    if weights:
        return maskrcnn.load(weights, **limits)
    torch.manual_seed(0)
    model = maskrcnn.MaskRCNN(maskrcnn.Config(names=tuple(f"class {i}" for i in range(90)), **limits))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("conv3.norm.weight"):
                weight.fill_(0.2)  # calm residual branches: batch norm has seen no data
    return model


def take_turns(predict: Callable[[], Any], runs: int) -> list[tuple[float, float]]:
    """Of each round: operations a second of a convolution, and seconds of ``predict``."""
    x = torch.randn(1, 256, 256, 256).contiguous(memory_format=torch.channels_last)
    w = (torch.randn(256, 256, 3, 3) / 48).contiguous(memory_format=torch.channels_last)
    layer = 2 * 256**4 * 9
    rows = []
    with torch.inference_mode():
        F.conv2d(x, w, padding=1)
        for _ in range(runs):
            rates = [layer / timed(lambda: F.conv2d(x, w, padding=1)) for _ in range(2)]
            rows.append((max(rates), timed(predict)))
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    import PIL.Image

    import maskrcnn
    from maskrcnn.engines import attach
    from maskrcnn.model.image import padded_size

    model = network(options.weights)
    photo = maskrcnn.Image(np.asarray(PIL.Image.open(PHOTO).convert("RGB").resize(SHAPE[::-1])))

    def predict() -> Any:
        return model.predict_images([photo])[0]

    attach(model, "torch")
    work = count_work(model, predict)
    attach(model, "auto")
    found = len(predict())
    rows = take_turns(predict, options.runs)
    rate = max(r[0] for r in rows)
    mine = statistics.median(r[1] for r in rows)
    print(f"{model.extra_repr()}: {padded_size(SHAPE, model.config)} in the network, {found} detections")
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    print(
        f"{work / 1e9:.0f} GF; direct convolution {rate / 1e9:.0f} GF/s at best: {work / rate * 1e3:.0f} ms"
    )
    print(f"predict {mine * 1e3:.0f} ms: {work / rate / mine:.0%} of the direct roofline")


if __name__ == "__main__":
    main()
