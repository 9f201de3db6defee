"""A network's time against that of its direct convolutions at the best rate that oneDNN reaches here, on the CPU.

    python benchmarks/roofline.py                                   # R50-FPN, 91 classes, 800x1067, 10 detections
    python benchmarks/roofline.py --weights mask_rcnn_coco.h5       # any weights, at their own size
    python benchmarks/roofline.py --weights mask_rcnn_coco.h5 --keras path/to/environment/with/tensorflow/bin/python

Work is two operations for each multiplication of a direct convolution or dense layer, counted layer by layer. The rate
is that of a 3x3 convolution of 256 to 256 channels on 256x256 pixels, channels last. They take turns. A share above
100 % is more than direct convolutions can reach.

--keras: of a Matterport network, also the time that TensorFlow takes for its convolutions alone (ResNet, FPN and region
proposal network, in one graph of random weights, without norms): the reference takes longer than that.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import PHOTO, Worker, arguments

SHAPE, COUNT = (480, 640), 10


def convolutions(blocks: dict[str, int], side: int) -> None:
    """Runs where TensorFlow is: a pass of ResNet, FPN and Matterport's region proposal network for each line."""
    import tensorflow as tf

    rng = np.random.default_rng(0)

    def weight(size: int, c_in: int, c_out: int) -> Any:
        return tf.constant(
            rng.normal(0, (2 / (size * size * c_in)) ** 0.5, (size, size, c_in, c_out)), tf.float32
        )

    def conv(size: int, c_in: int, c_out: int, stride: int = 1) -> Any:
        w = weight(size, c_in, c_out)
        return lambda x: tf.nn.conv2d(x, w, stride, "SAME")

    stem, stages, c_in = conv(7, 3, 64, 2), [], 64
    for stage, count in enumerate(blocks.values()):
        mid = 64 * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            parts = conv(1, c_in, mid, stride), conv(3, mid, mid), conv(1, mid, 4 * mid)
            stages.append((stage, parts, None if i else conv(1, c_in, 4 * mid, stride)))
            c_in = 4 * mid
    laterals = [conv(1, 256 * 2**i, 256) for i in range(4)]
    outputs = [conv(3, 256, 256) for _ in range(4)]
    shared, scores, deltas = conv(3, 256, 512), conv(1, 512, 6), conv(1, 512, 12)

    @tf.function
    def network(x: Any) -> Any:
        x = tf.nn.max_pool2d(tf.nn.relu(stem(x)), 3, 2, "SAME")
        levels: dict[int, Any] = {}
        for stage, (first, middle, last), shortcut in stages:
            y = last(tf.nn.relu(middle(tf.nn.relu(first(x)))))
            x = levels[stage] = tf.nn.relu(0.1 * y + (x if shortcut is None else shortcut(x)))
        top, pyramid = None, []
        for i in (3, 2, 1, 0):
            here = laterals[i](levels[i])
            top = here if top is None else here + tf.repeat(tf.repeat(top, 2, 1), 2, 2)
            pyramid.append(outputs[i](top))
        pyramid.append(pyramid[0][:, ::2, ::2])
        hidden = [tf.nn.relu(shared(p)) for p in pyramid]
        return [(scores(h), deltas(h)) for h in hidden]

    image = tf.constant(rng.normal(0, 50, (1, side, side, 3)), tf.float32)
    network(image)
    print(json.dumps(f"TensorFlow {tf.__version__}"), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        network(image)[-1][0].numpy()
        print(json.dumps(time.perf_counter() - start), flush=True)


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


def take_turns(
    predict: Callable[[], Any], peer: Worker | None, runs: int
) -> list[tuple[float, float, float]]:
    """Of each round: operations a second of a convolution, seconds of ``predict``, and seconds of the peer's."""
    x = torch.randn(1, 256, 256, 256).contiguous(memory_format=torch.channels_last)
    w = (torch.randn(256, 256, 3, 3) / 48).contiguous(memory_format=torch.channels_last)
    layer = 2 * 256**4 * 9
    rows = []
    with torch.inference_mode():
        F.conv2d(x, w, padding=1)
        for _ in range(runs):
            rates = [layer / timed(lambda: F.conv2d(x, w, padding=1)) for _ in range(2)]
            rows.append((max(rates), timed(predict), float("nan") if peer is None else peer.ask()))
    return rows


def main() -> None:
    parser = arguments(__doc__, "--serve")
    parser.add_argument("--weights")
    parser.add_argument("--keras", help="interpreter of an environment with TensorFlow")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if options.serve:
        given = json.loads(options.serve)
        convolutions(given["blocks"], given["side"])
        return
    import PIL.Image

    import maskrcnn
    from maskrcnn.engines import attach
    from maskrcnn.model.image import padded_size
    from maskrcnn.model.resnet import BLOCKS

    model = network(options.weights)
    photo = maskrcnn.Image(np.asarray(PIL.Image.open(PHOTO).convert("RGB").resize(SHAPE[::-1])))

    def predict() -> Any:
        return model.predict_images([photo])[0]

    attach(model, "torch")
    work = count_work(model, predict)
    attach(model, "auto")
    found = len(predict())
    peer = None
    if options.keras:
        given = {
            "blocks": dict(enumerate(BLOCKS[model.config.depth])),
            "side": padded_size(SHAPE, model.config)[0],
        }
        peer = Worker([options.keras, __file__, "--serve", json.dumps(given)])
    rows = take_turns(predict, peer, options.runs)
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
    if peer is not None:
        theirs, ratio = statistics.median(r[2] for r in rows), statistics.median(r[1] / r[2] for r in rows)
        print(
            f"{peer.hello}, convolutions alone: {theirs * 1e3:.0f} ms; ours, everything / these: {ratio:.2f}"
        )
        peer.close()


if __name__ == "__main__":
    main()
