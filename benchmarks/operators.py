"""RoIAlign, NMS and mask paste against torchvision's and detectron2's, on the CPU: same inputs, outputs compared.

    python benchmarks/operators.py --peer path/to/environment/with/torchvision/bin/python

RoIAlign pools boxes of all sizes from P2..P5 of an 800x1088 image, forward, and forward and backward; NMS takes 4700
boxes of which it is to keep the best 1000; paste makes 100 dense boolean masks. torchvision runs in a process of its
own. detectron2's paste is written out here, as it is pure PyTorch: detectron2/layers/mask_ops.py, on the CPU one mask
at a time by grid_sample within its box. Sides take turns; the median of the pairs' ratios counts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from turns import arguments, sides, told
from vs_torchvision import pyramid

SHAPES = {"7x7": (7, 1000), "14x14": (14, 100)}  # of RoIAlign: side and boxes
KEPT, OVERLAP = 1000, 0.7
Offer = Callable[[], tuple[float, list[Tensor]]]  # seconds and what came out


def clusters() -> tuple[Tensor, Tensor]:
    """4700 boxes around 200 places, and their scores."""
    generator = torch.Generator().manual_seed(1)
    centre = (torch.rand(200, 2, generator=generator) * 1000)[
        torch.randint(200, (4700,), generator=generator)
    ]
    side = torch.exp(torch.rand(4700, 2, generator=generator) + 3.5)
    centre = centre + torch.randn(4700, 2, generator=generator) * 15
    return torch.cat([centre - side / 2, centre + side / 2], dim=1), torch.rand(4700, generator=generator)


def pooling(
    pool: Callable[[list[Tensor], Tensor, int], Tensor], layout: torch.memory_format
) -> dict[str, Offer]:
    """The four rows of RoIAlign by one side's function."""
    maps, boxes = pyramid(layout)
    leaves = [m.clone().requires_grad_() for m in maps]

    def forward(side: int, n: int) -> tuple[float, list[Tensor]]:
        with torch.inference_mode():
            start = time.perf_counter()
            out = pool(maps, boxes[:n], side)
            return time.perf_counter() - start, [out]

    def both(side: int, n: int) -> tuple[float, list[Tensor]]:
        start = time.perf_counter()
        out = pool(leaves, boxes[:n], side)
        grads = torch.autograd.grad(out, leaves, torch.ones_like(out))
        return time.perf_counter() - start, list(grads)

    rows = {
        f"RoIAlign {n} x {name}": (lambda s=side, n=n: forward(s, n)) for name, (side, n) in SHAPES.items()
    }
    return rows | {
        f"{row}, forward and backward": (lambda s=side, n=n: both(s, n))
        for row, (side, n) in zip(list(rows), SHAPES.values(), strict=True)
    }


def peer() -> dict[str, Offer]:
    """What torchvision offers."""
    import torchvision

    def pool(maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        find = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2)
        return find({str(i): m for i, m in enumerate(maps)}, [boxes], [(800, 1088)])

    boxes, scores = clusters()

    def nms() -> tuple[float, list[Tensor]]:
        start = time.perf_counter()
        kept = torchvision.ops.nms(boxes, scores, OVERLAP)[:KEPT]
        return time.perf_counter() - start, [kept]

    return pooling(pool, torch.contiguous_format) | {"NMS 4700 to 1000": nms}


def ours() -> dict[str, Offer]:
    """The same from this package; pooled features lie in the order of their levels, as in the network."""
    from maskrcnn.config import Config
    from maskrcnn.model.pooling import pool_rois
    from maskrcnn.ops.nms import nms as suppress

    config = Config(names=("thing",)).with_options(sampling_ratio=2, roi_op="align_legacy")

    def pool(maps: list[Tensor], boxes: Tensor, side: int) -> Tensor:
        index = torch.zeros(len(boxes), dtype=torch.int64)
        return pool_rois(maps, boxes, index, (800, 1088), side, config).values

    boxes, scores = clusters()

    def nms() -> tuple[float, list[Tensor]]:
        start = time.perf_counter()
        kept = suppress(boxes, scores, OVERLAP, limit=KEPT)
        return time.perf_counter() - start, [kept]

    return pooling(pool, torch.channels_last) | {"NMS 4700 to 1000": nms}


def serve(side: str, folder: Path) -> None:
    """Answer the names of rows from standard input, one at a time, until it closes."""
    offers = {"ours": ours, "peer": peer}[side]()
    print(json.dumps({"rows": list(offers), "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds, out = offers[line.strip()]()
        if not (folder / "timing").exists():
            # Forward, sides keep RoIs in orders of their own: their sorted sums are compared.
            out = [
                o.flatten(1).double().sum(1).sort().values if o.ndim == 4 and o.shape[2] < 16 else o
                for o in out
            ]
            np.savez(folder / f"{side}.npz", *(o.numpy() for o in out))
        print(json.dumps(seconds), flush=True)


def detectron2_paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """detectron2's paste_masks_in_image on the CPU, threshold 0.5."""
    h, w = size
    out = torch.zeros(len(masks), h, w, dtype=torch.bool)
    for i in range(len(masks)):
        x0, y0 = torch.clamp(boxes[i, :2].floor() - 1, min=0).to(torch.int32).tolist()
        x1 = int(torch.clamp(boxes[i, 2].ceil() + 1, max=w))
        y1 = int(torch.clamp(boxes[i, 3].ceil() + 1, max=h))
        y = (torch.arange(y0, y1) + 0.5 - boxes[i, 1]) / (boxes[i, 3] - boxes[i, 1]) * 2 - 1
        x = (torch.arange(x0, x1) + 0.5 - boxes[i, 0]) / (boxes[i, 2] - boxes[i, 0]) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)[None]
        out[i, y0:y1, x0:x1] = F.grid_sample(masks[i][None, None], grid, align_corners=False)[0, 0] >= 0.5
    return out


def compare_paste(size: tuple[int, int], runs: int) -> None:
    """Smooth blobs in boxes of all sizes, the same share of either picture."""
    from maskrcnn import Result

    generator = torch.Generator().manual_seed(4)
    h, w = size
    coarse = torch.rand(100, 1, 4, 4, generator=generator)
    masks = F.interpolate(coarse, (28, 28), mode="bicubic").clamp(0, 1)[:, 0]
    side = torch.exp(torch.rand(100, 2, generator=generator) * 3 - 3.7) * torch.tensor([w, h])
    corner = torch.rand(100, 2, generator=generator) * (torch.tensor([w, h]) - side)
    boxes = torch.cat([corner, corner + side], dim=1)
    result = Result(boxes, torch.zeros(100).long(), torch.ones(100), masks, ("thing",), size)
    pairs = []
    worst = 0
    for i in range(runs + 1):
        start = time.perf_counter()
        mine = result.masks
        middle = time.perf_counter()
        theirs = detectron2_paste(masks, boxes, size)
        pairs.append((middle - start, time.perf_counter() - middle))
        if i == 0:
            worst = max(int((a != b).sum()) for a, b in zip(mine, theirs, strict=True))
        del mine, theirs
    said = told(pairs[1:], "detectron2", 1)
    print(f"paste 100 masks, {h}x{w}: {said}; {worst} pixels of a mask differ at most", flush=True)


def main() -> None:
    parser = arguments(__doc__, "--serve", "--folder")
    parser.add_argument("--peer", required=True, help="interpreter of an environment with torchvision")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--rows", default="", help="only rows whose names contain this")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, Path(options.folder))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mine, theirs = sides(options.peer, __file__, "--folder", name)
        print(
            f"torch {mine.hello['torch']}, torchvision's {theirs.hello['torch']}, {torch.get_num_threads()} threads"
        )
        for row in mine.hello["rows"]:
            if options.rows not in row:
                continue
            (folder / "timing").unlink(missing_ok=True)
            mine.ask(row), theirs.ask(row)
            a, b = (dict(np.load(folder / f"{side}.npz")) for side in ("ours", "peer"))
            worst = max(float(np.abs(a[k] - b[k]).max() / max(np.abs(b[k]).max(), 1)) for k in b)
            if worst > 2e-5:
                sys.exit(f"{row}: results differ by {worst}")
            (folder / "timing").touch()
            pairs = [(mine.ask(row), theirs.ask(row)) for _ in range(options.runs)]
            print(f"{row}: {told(pairs, 'torchvision', 1)}; largest difference {worst:.0e}", flush=True)
        mine.close()
        theirs.close()
    for size in ((1024, 1024), (3000, 4000)):
        if options.rows in "paste":
            compare_paste(size, options.runs)


if __name__ == "__main__":
    main()
