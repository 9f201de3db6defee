"""Train the demonstration network `shapes` from random weights on generated pictures, for minutes on a CPU.

    python tools/train_shapes.py --minutes 30 --out runs/shapes

Started again with the same --out, it goes on where it was stopped.

The file that ships came from 30 minutes and 2321 batches of four pictures on two busy cores, in five sittings; the
first 200 batches were computed in float32, and the mix of scenes was changed once on the way. A run from scratch
gives a network of that kind, not the same one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask
import shapes
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.progress import track
from torch import nn

from maskrcnn.config import Config
from maskrcnn.model import MaskRCNN
from maskrcnn.model.layers import BatchNorm
from maskrcnn.model.targets import Sampling
from maskrcnn.records import Image, Size, Target
from maskrcnn.weights import load, save

CONFIG = Config(
    names=shapes.NAMES,
    depth=18,
    width=32,
    fpn_channels=96,
    fpn_norm=True,
    rpn_channels=96,
    anchor_sizes=((16,), (32,), (64,), (128,), (256,)),
    box_features=256,
    mask_convs=3,
    mask_channels=96,
    mask_norm=True,
    min_size=320,
    max_size=448,
    pre_nms=300,
    proposals=200,
    score=0.7,  # chosen by eye on the example photos
    nms=0.4,
)
SIZES = (
    (256, 320),
    (320, 256),
    (288, 288),
    (224, 320),
    (320, 384),
)  # trained on; multiples of 32, so not padded
SAMPLING = Sampling(anchors=128, rois=64)
BATCH = 4
RATE = 1.2e-3


class Pictures(torch.utils.data.Dataset[list[tuple[np.ndarray, Target]]]):
    """Batch i is the same every time: what is drawn hangs on the seed and on i alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, i: int) -> list[tuple[np.ndarray, Target]]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, i))
        size: Size = SIZES[rng.integers(len(SIZES))]
        return [shapes.picture(rng, size) for _ in range(BATCH)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    model = train(args.minutes, args.out, args.seed)
    path = save(model, args.out / "shapes.safetensors", dtype="float16")
    print(f"{path}, mask AP on 100 held-out pictures: {evaluate(load(path), 100, seed=10_000)}")


def train(minutes: float, out: Path, seed: int) -> MaskRCNN:
    """The trained model; losses go to out/log.jsonl, a checkpoint each minute to out/checkpoint.pt."""
    # Pictures are drawn at the size the network sees: nothing is resized here.
    model = MaskRCNN(dataclasses.replace(CONFIG, min_size=min(map(min, SIZES)), max_size=max(map(max, SIZES)),
                                         dialect=dataclasses.replace(CONFIG.dialect, resize="none")),
                     source="training")  # fmt: skip
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.adapt, module.momentum = True, 0.03
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    step, spent = 0, 0.0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]

    generator = torch.Generator().manual_seed(seed + step)
    model.train()
    begun, last_saved = time.monotonic() - spent, spent
    with (out / "log.jsonl").open("a") as log:
        for batch in _batches(seed, step):
            spent = time.monotonic() - begun
            if spent > minutes * 60:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * _schedule(spent / (minutes * 60), step)
            images = [Image(pixels) for pixels, _ in batch]
            with torch.autocast(
                "cpu", torch.bfloat16
            ):  # a quarter less time where the processor has bfloat16
                losses = model.losses(images, [target for _, target in batch], generator, SAMPLING)
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            values = {name: round(float(loss.detach()), 4) for name, loss in losses.items()}
            log.write(json.dumps({"step": step, "spent": round(spent, 1), **values}) + "\n")
            log.flush()
            if spent - last_saved > 60:
                last_saved = spent
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": step, "spent": spent}, checkpoint.with_suffix(".part"))
                checkpoint.with_suffix(".part").replace(checkpoint)
    model.config = CONFIG
    return model.eval()


def evaluate(model: MaskRCNN, count: int, seed: int) -> dict[str, float]:
    """COCO mask AP on pictures that training has not seen, of detections that score 0.05 and more."""
    rng, size = np.random.default_rng(seed), (320, 416)
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i in track(range(count), description="evaluate"):
        pixels, target = shapes.picture(rng, size)
        for label, mask in zip(target.labels.tolist(), target.masks.numpy(), strict=True):
            rle = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": label, "iscrowd": 0}
            area, box = int(mask.sum()), pycocotools.mask.toBbox(rle).tolist()
            annotations.append(row | {"segmentation": rle, "area": area, "bbox": box})
        result = model.predict_images([Image(pixels)], score=0.05)[0]
        for label, score, rle in zip(
            result.labels.tolist(), result.scores.tolist(), result.rle(), strict=True
        ):
            found.append({"image_id": i, "category_id": label, "score": score, "segmentation": rle})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": size[0], "width": size[1]} for i in range(count)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(shapes.NAMES)],
        "annotations": annotations,
    }
    truth.createIndex()
    judged = COCOeval(truth, truth.loadRes(found), "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    return dict(zip(("AP", "AP50", "AP75"), judged.stats.round(3).tolist(), strict=False))


def _batches(seed: int, start: int) -> Iterator[list[tuple[np.ndarray, Target]]]:
    order = range(start, 10_000_000)
    yield from track(
        torch.utils.data.DataLoader(
            Pictures(seed), batch_size=None, sampler=order, num_workers=1, prefetch_factor=4, collate_fn=list
        ),
        description="train",
        total=len(order),
    )


def _schedule(part: float, step: int) -> float:
    """Share of the full learning rate: up over 100 steps, then down a cosine over the time given."""
    return min((step + 1) / 100, 1.0) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


if __name__ == "__main__":
    main()
