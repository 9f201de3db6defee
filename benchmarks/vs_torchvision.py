"""Mask R-CNN R50-FPN against torchvision's, on the CPU: same weights, same photo, same detections, in one run.

    python benchmarks/vs_torchvision.py --peer path/to/environment/with/torchvision/bin/python

Both sides run in processes of their own, take turns image by image, and are compared pair by pair: absolute times
on a shared machine mean little, the median ratio does. The weights are random, scaled so that activations stay
finite; the score threshold is zero, so that exactly 10 or 100 detections go through the mask head. Before
anything is timed, boxes, classes, scores and masks of both sides are compared.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import PHOTO, Worker, arguments, sides, told

SHAPE = (480, 640)


# --- the peer: runs under an interpreter that has torchvision ---


def peer_model(folder: Path, count: int) -> torch.nn.Module:
    """Build torchvision's model, and store its weights."""
    import torchvision

    torch.manual_seed(7)
    detection = torchvision.models.detection
    # As maskrcnn_resnet50_fpn with its published weights: frozen batch norm, which its builder makes only for those.
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    model = detection.MaskRCNN(backbone, 91, box_score_thresh=0.0, box_detections_per_img=count).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("bn3.weight", "downsample.1.weight")):
                value.fill_(0.5)  # keeps the sum of sixteen residual branches in range
            elif name.endswith("cls_score.weight"):
                value.mul_(300)  # spreads the scores, so that their order is the same on both sides
            elif name.endswith(("cls_logits.weight", "mask_fcn_logits.weight")):
                value.mul_(30)
    torch.save(model.state_dict(), folder / "weights.pth")
    return model


def peer(folder: Path, count: int) -> dict[str, Callable[[], Any]]:
    """Offer what is timed."""
    import torchvision

    model = peer_model(folder, count)
    image = torch.from_numpy(np.load(folder / "photo.npy")).permute(2, 0, 1).float() / 255

    def predict() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = model([image])[0]
        masks = (found["masks"][:, 0] >= 0.5).numpy()
        return {**{k: found[k].numpy() for k in ("boxes", "labels", "scores")}, "masks": masks}

    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)

    def roi_align() -> np.ndarray:
        maps, boxes = pyramid(torch.contiguous_format)
        names = {str(i): m for i, m in enumerate(maps)}
        with torch.inference_mode():
            return timed(lambda: pool(names, [boxes], [(800, 1088)])).numpy()

    return {
        "predict": predict,
        "roi_align": roi_align,
        "version": lambda: f"torchvision {torchvision.__version__}",
    }


# --- ours ---


def ours(folder: Path, count: int) -> dict[str, Callable[[], Any]]:
    """Load the peer's weights as any torchvision checkpoint is loaded."""
    import maskrcnn
    from maskrcnn import Image, __version__
    from maskrcnn.model.pooling import pool_rois

    # Frozen batch norm as the peer builds it here, without published weights, has epsilon 1e-5.
    model = maskrcnn.load(folder / "weights.pth", score=0.0, max_detections=count, norm_epsilon=1e-5)
    config = model.config
    photo = Image(np.load(folder / "photo.npy"))

    def predict() -> dict[str, np.ndarray]:
        found = model.predict_images([photo])[0]
        return {
            "boxes": found.boxes.numpy(),
            "labels": found.labels.numpy() + 1,
            "scores": found.scores.numpy(),
            "masks": found.masks.numpy(),
        }

    def roi_align() -> np.ndarray:
        maps, boxes = pyramid(torch.channels_last)
        index = torch.zeros(len(boxes), dtype=torch.int64)

        with torch.inference_mode():
            # As in the network: the head runs in the order of the levels, so nothing is moved back.
            pooled = timed(lambda: pool_rois(maps, boxes, index, (800, 1088), 7, config))
            return pooled.restore(pooled.values).numpy()

    return {"predict": predict, "roi_align": roi_align, "version": lambda: f"maskrcnn {__version__}"}


# --- both ---


def pyramid(layout: torch.memory_format) -> tuple[list[torch.Tensor], torch.Tensor]:
    """P2..P5 of an 800x1088 image, and 1000 boxes of all sizes."""
    generator = torch.Generator().manual_seed(3)
    maps = [
        torch.randn(1, 256, 800 // s, 1088 // s, generator=generator).contiguous(memory_format=layout)
        for s in (4, 8, 16, 32)
    ]
    side = torch.exp(torch.rand(1000, 2, generator=generator) * 4 + 2.5)
    centre = torch.rand(1000, 2, generator=generator) * torch.tensor([1067.0, 800.0])
    corners = torch.cat([centre - side / 2, centre + side / 2], dim=1)
    limit = torch.tensor([1067.0, 800.0, 1067.0, 800.0])
    return maps, corners.clamp(min=0).minimum(limit)


_seconds = 0.0


def resident() -> float:
    """Resident size of this process now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def timed(work: Callable[[], Any]) -> Any:
    """Run, and remember how long this took in place of the whole request."""
    global _seconds
    start = time.perf_counter()
    result = work()
    _seconds = time.perf_counter() - start
    return result


def serve(side: str, folder: Path, count: int) -> None:
    """Answer requests from standard input, one at a time, until it closes."""
    global _seconds
    offers = {"ours": ours, "peer": peer}[side](folder, count)
    hello = {"ready": offers["version"](), "torch": torch.__version__, "built_mb": resident()}
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        what = line.strip()
        _seconds = 0.0
        start = time.perf_counter()
        value = offers[what]()
        seconds = _seconds or time.perf_counter() - start
        np.savez(folder / f"{side}.npz", **(value if isinstance(value, dict) else {"value": value}))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak}), flush=True)


def check(folder: Path) -> str:
    """Compare what both sides found; ends the program if they differ."""
    mine, theirs = (dict(np.load(folder / f"{side}.npz")) for side in ("ours", "peer"))
    if "value" in mine:
        worst = np.abs(mine["value"] - theirs["value"]).max()
        if worst > 2e-5:
            sys.exit(f"RoIAlign differs by {worst}")
        return f"largest difference {worst:.1e}"
    matched, boxes, scores, pixels = 0, 0.0, 0.0, []
    for i in range(len(theirs["boxes"])):
        same = np.nonzero(mine["labels"] == theirs["labels"][i])[0]
        distance = (
            np.abs(mine["boxes"][same] - theirs["boxes"][i]).max(axis=1) if len(same) else np.array([9.0])
        )
        if distance.min() < 0.1:
            j = same[distance.argmin()]
            matched += 1
            boxes = max(boxes, float(distance.min()))
            scores = max(scores, abs(float(mine["scores"][j] - theirs["scores"][i])))
            pixels.append((mine["masks"][j] != theirs["masks"][i]).mean())
    if matched < 0.97 * len(theirs["boxes"]):
        sys.exit(f"only {matched} of {len(theirs['boxes'])} detections agree")
    return (
        f"{matched} of {len(theirs['boxes'])} detections agree: boxes to {boxes:.4f} px, scores to {scores:.1e}, "
        f"masks but for {max(pixels):.2%} of the pixels"
    )


def compare(what: str, mine: Worker, theirs: Worker, folder: Path, runs: int) -> None:
    """Take turns, after a first round that is checked and not counted, and print medians and the median ratio."""
    peaks = mine.ask(what)["peak_mb"], theirs.ask(what)["peak_mb"]
    agreement = check(folder)
    pairs = [(mine.ask(what)["seconds"], theirs.ask(what)["seconds"]) for _ in range(runs)]
    print(f"{what}: {told(pairs, 'torchvision')}; {agreement}")
    if what == "predict":
        built = mine.hello["built_mb"], theirs.hello["built_mb"]
        print(f"peak RSS after one image: ours {peaks[0]:.0f} MB, torchvision {peaks[1]:.0f} MB; ", end="")
        print(f"over the built model {peaks[0] - built[0]:.0f} and {peaks[1] - built[1]:.0f} MB")


def main() -> None:
    parser = arguments(__doc__, "--serve", "--folder", "--count")
    parser.add_argument("--peer", required=True, help="interpreter of an environment with torchvision")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, Path(options.folder), int(options.count))
        return
    import PIL.Image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = PIL.Image.open(PHOTO).convert("RGB").resize(SHAPE[::-1])
        np.save(folder / "photo.npy", np.asarray(photo))
        for count in (10, 100):
            mine, theirs = sides(options.peer, __file__, "--folder", name, "--count", str(count))
            if count == 10:
                print(f"{mine.hello['ready']} on torch {mine.hello['torch']}", end=" against ")
                print(
                    f"{theirs.hello['ready']} on torch {theirs.hello['torch']}, {torch.get_num_threads()} threads"
                )
            print(f"\n{count} detections, {SHAPE[0]}x{SHAPE[1]} photo, 800x1067 in the network")
            compare("predict", mine, theirs, folder, options.runs)
            if count == 10:
                compare("roi_align", mine, theirs, folder, options.runs)
            mine.close()
            theirs.close()


if __name__ == "__main__":
    main()
