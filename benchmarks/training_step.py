"""A training step of Mask R-CNN R50-FPN against torchvision's, on the CPU: forward, backward, update.

    python benchmarks/training_step.py --peer path/to/environment/with/torchvision/bin/python

Two images of 512x512 with ten instances each, 91 classes, float32, SGD with momentum; stem and first stage frozen, and
batch norm, as torchvision fine-tunes; 2000 proposals, 256 anchors and 512 RoIs an image on both sides. The same random
weights on both sides, and losses that are compared before anything is timed: not those of boxes, whose shapes differ
(smooth L1 there, L1 here). Each side does what its own training does: torchvision's references/detection, and
`maskrcnn.train`. Processes of their own take turns; the median of the pairs' ratios counts. Then the loader: images a
second that one worker prepares, with large scale jitter, colour and copy-paste, beside those that a step takes.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from turns import PHOTO, arguments, sides, told

SIDE, IMAGES, INSTANCES = 512, 2, 10
Step = Callable[[], dict[str, float]]


def annotated() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (b, h, w, 3) uint8, boxes (b, n, 4), labels (b, n) from 0, masks (b, n, h, w): a photo and ellipses."""
    rng = np.random.default_rng(5)
    photo = PIL.Image.open(PHOTO).convert("RGB").resize((SIDE, SIDE))
    pixels = np.stack([np.asarray(photo), np.asarray(photo)[:, ::-1]])
    half = np.exp(rng.uniform(np.log(10), np.log(150), (IMAGES, INSTANCES, 2)))
    centre = rng.uniform(half, SIDE - half)
    boxes = np.concatenate([centre - half, centre + half], axis=2)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    ratio = (np.stack([x, y]) - centre[..., None, None]) / half[..., None, None]
    return pixels, boxes.astype(np.float32), rng.integers(0, 90, (IMAGES, INSTANCES)), (ratio**2).sum(2) <= 1


def peer(folder: Path) -> tuple[str, Step]:
    """Torchvision's model and step; stores its weights."""
    import torchvision

    torch.manual_seed(7)
    detection = torchvision.models.detection
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=3
    )
    model = detection.MaskRCNN(backbone, 91, min_size=SIDE, max_size=SIDE)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("bn3.weight", "downsample.1.weight")):
                value.fill_(0.5)  # keeps the sum of sixteen residual branches in range
    torch.save(model.state_dict(), folder / "weights.pth")
    pixels, *rest = annotated()
    images = list(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255)
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.from_numpy(i) + 1, "masks": torch.from_numpy(m).byte()}
        for b, i, m in zip(*rest, strict=True)
    ]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> dict[str, float]:
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        renamed = {"loss_classifier": "class", "loss_objectness": "objectness", "loss_mask": "mask"}
        return {renamed[name]: float(value.detach()) for name, value in losses.items() if name in renamed}

    return f"torchvision {torchvision.__version__}", step


def ours(folder: Path) -> tuple[str, Step]:
    """The peer's weights, and the step of `maskrcnn.train`."""
    import maskrcnn
    from maskrcnn.train.feed import Batch
    from maskrcnn.train.loop import _fabric
    from maskrcnn.train.optimize import choose_layers, optimizer
    from maskrcnn.train.settings import Training
    from maskrcnn.train.step import Losses, take_step

    # Frozen batch norm as the peer builds it here, without published weights, has epsilon 1e-5.
    model = maskrcnn.load(folder / "weights.pth", pre_nms=2000, proposals=2000, min_size=SIDE, max_size=SIDE,
                          norm_epsilon=1e-5)  # fmt: skip
    settings = Training(layers="3+", lr=1e-4, clip=None)
    choose_layers(model, settings)
    fabric = _fabric(settings, "cpu")
    losses = Losses(model, settings.sampling, model.config, fabric)
    module, sgd = fabric.setup(losses, optimizer(model, settings))
    model.train()
    pixels, *rest = annotated()
    images = [maskrcnn.Image(np.ascontiguousarray(one)) for one in pixels]
    targets = [maskrcnn.Target(*map(torch.from_numpy, one)) for one in zip(*rest, strict=True)]
    batch, number = Batch(images, targets, ["left", "right"]), iter(range(10**9))

    def step() -> dict[str, float]:
        found = take_step(fabric, module, sgd, [batch], (0, next(number)), settings).losses
        return {name: found[name] for name in ("class", "objectness", "mask")}

    return f"maskrcnn {maskrcnn.__version__}", step


def serve(side: str, folder: Path) -> None:
    """A step for each line of standard input, until it closes."""
    version, step = {"ours": ours, "peer": peer}[side](folder)
    print(json.dumps({"ready": version, "torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        losses = step()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak, "losses": losses}), flush=True)


def check(mine: dict[str, float], theirs: dict[str, float]) -> None:
    """End the program where losses of the same weights differ by more than their random samples explain."""
    for name, loss in mine.items():
        if abs(loss / theirs[name] - 1) > 0.15:
            sys.exit(f"loss {name}: ours {loss:.4f}, torchvision {theirs[name]:.4f}")
    print("losses of the first step, ours and torchvision's: ", end="")
    print(", ".join(f"{name} {loss:.3f} {theirs[name]:.3f}" for name, loss in mine.items()))


def loader(runs: int) -> float:
    """Images a second that one process prepares."""
    from maskrcnn.config import Config
    from maskrcnn.data import Instance, Sample, Samples
    from maskrcnn.data.augment import Recipe
    from maskrcnn.train.feed import feed, order
    from maskrcnn.train.settings import Training

    pixels, boxes, labels, _ = annotated()
    samples = []
    with tempfile.TemporaryDirectory() as name:
        for i in range(IMAGES):
            path = Path(name) / f"{i}.jpg"
            PIL.Image.fromarray(pixels[i]).save(path, quality=90)
            outlines = [_outline(box) for box in boxes[i]]
            instances = tuple(
                Instance(int(label), tuple(box.tolist()), [ring])
                for label, box, ring in zip(labels[i], boxes[i], outlines, strict=True)
            )
            samples.append(Sample(i, path, (SIDE, SIDE), instances, classes=90))
        data = Samples(tuple(str(i) for i in range(90)), tuple(samples))
        recipe = Recipe(size=(SIDE, SIDE), scale=(0.1, 2.0), brightness=0.3, contrast=0.3, saturation=0.4, hue=10,
                        copy_paste=0.5)  # fmt: skip
        settings = Training(augment=recipe, batch=IMAGES, workers=0)
        batches = feed(
            data, order(data, Config(names=data.names), settings), 3, settings, 0, 1, range(runs * 10 + 1)
        )
        next(batches)
        start = time.perf_counter()
        count = sum(len(batch.images) for several in batches for batch in several)
        return count / (time.perf_counter() - start)


def _outline(box: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return (box[:2] + box[2:]) / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * (box[2:] - box[:2]) / 2


def main() -> None:
    parser = arguments(__doc__, "--serve", "--folder")
    parser.add_argument("--peer", required=True, help="interpreter of an environment with torchvision")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, Path(options.folder))
        return
    with tempfile.TemporaryDirectory() as name:
        mine, theirs = sides(options.peer, __file__, "--folder", name)
        for hello in (mine.hello, theirs.hello):
            print(f"{hello['ready']} on torch {hello['torch']}")
        print(f"{torch.get_num_threads()} threads, {IMAGES} images of {SIDE}x{SIDE}")
        check(mine.ask()["losses"], theirs.ask()["losses"])
        pairs = [(mine.ask(), theirs.ask()) for _ in range(options.runs)]
        mine.close()
        theirs.close()
    seconds = [(a["seconds"], b["seconds"]) for a, b in pairs]
    print(f"step: {told(seconds, 'torchvision')}")
    print(f"peak RSS: ours {pairs[-1][0]['peak_mb']:.0f} MB, torchvision {pairs[-1][1]['peak_mb']:.0f} MB")
    rate = IMAGES / statistics.median(ours for ours, _ in seconds)
    print(
        f"loader, one process: {loader(options.runs):.0f} images/s; a step of ours takes {rate:.1f} images/s"
    )


if __name__ == "__main__":
    main()
