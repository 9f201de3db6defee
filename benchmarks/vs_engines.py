"""Mask R-CNN R50-FPN on the CPU: ours, and torchvision's through ONNX Runtime and OpenVINO; same weights and photo.

    python benchmarks/vs_engines.py --prepare FOLDER --peer path/to/environment/with/torchvision/and/onnx/bin/python
    python benchmarks/vs_engines.py FOLDER

The first writes weights and graphs, which takes minutes; the second times, each side in a process of its own, taking
turns image by image, in another order each round, since some leave the caches and cores busier than others. Sides are

    auto, torch              this package's own engines, to RoI masks
    auto-pasted              the same, and boolean masks of the whole photo
    onnxruntime, openvino    this package's exports
    tv-onnxruntime           torchvision's export, with its masks pasted
    tv-openvino              the same without pasting, which OpenVINO cannot convert

Before anything counts, boxes, classes and scores of all sides are compared with those of ``torch``.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import PHOTO, Worker, arguments
from vs_torchvision import SHAPE, peer_model

COUNTS = (10, 100)
SIDES = ("torch", "auto", "auto-pasted", "onnxruntime", "openvino", "tv-onnxruntime", "tv-openvino")
Predict = Callable[[], dict[str, np.ndarray]]


def export_peer(folder: Path, count: int) -> None:
    """Runs where torchvision is: its graph with and without pasted masks."""
    import torchvision

    model = peer_model(folder, count)
    example = torch.from_numpy(np.load(folder / "photo.npy")).permute(2, 0, 1).float() / 255
    names = {"input_names": ["images"], "output_names": ["boxes", "labels", "scores", "masks"]}
    for name in ("tv", "tv_small"):
        if name == "tv_small":  # RoI masks as they are
            torchvision.models.detection.transform.paste_masks_in_image = lambda masks, boxes, shape: masks
        path = str(folder / f"{name}_{count}.onnx")
        torch.onnx.export(model, ([example],), path, opset_version=17, dynamo=False, **names)


def prepare(folder: Path, python: str) -> None:
    """Photo, weights, and all graphs."""
    import openvino
    import PIL.Image

    from maskrcnn import engines
    from maskrcnn.engines.openvino import convert_onnx, write

    folder.mkdir(parents=True, exist_ok=True)
    photo = PIL.Image.open(PHOTO).convert("RGB").resize(SHAPE[::-1])
    np.save(folder / "photo.npy", np.asarray(photo))
    for count in COUNTS:
        subprocess.run([python, __file__, str(folder), "--export-peer", str(count)], check=True)
        engines.export(_ours(folder, count, "torch"), folder / f"ours_{count}.onnx", "onnx")
        write(convert_onnx(folder / f"ours_{count}.onnx"), folder / f"ours_{count}.xml")
        network = openvino.convert_model(folder / f"tv_small_{count}.onnx")
        openvino.save_model(network, folder / f"tv_small_{count}.xml", compress_to_fp16=False)


def _ours(folder: Path, count: int, engine: str) -> Any:
    import maskrcnn

    # Frozen batch norm as the peer builds it here, without published weights, has epsilon 1e-5.
    return maskrcnn.load(
        folder / "weights.pth", score=0.0, max_detections=count, norm_epsilon=1e-5, engine=engine
    )


def offer(side: str, folder: Path, count: int) -> Predict:
    """What one side times: a photo in memory to boxes, labels, scores and its masks."""
    pixels = np.load(folder / "photo.npy")
    if side.startswith("tv-"):
        run = _onnxruntime(folder / f"tv_{count}.onnx") if side == "tv-onnxruntime" else None
        run = run or _openvino(folder / f"tv_small_{count}.xml")
        return lambda: run(
            np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        )

    import maskrcnn
    from maskrcnn import Image

    engine, pasted, _ = side.partition("-pasted")
    model = _ours(folder, count, engine) if engine in ("auto", "torch") else None
    if model is None:
        model = maskrcnn.load(folder / f"ours_{count}{'.onnx' if side == 'onnxruntime' else '.xml'}")

    def predict() -> dict[str, np.ndarray]:
        found = model.predict_images([Image(pixels)])[0]
        if pasted:
            _ = found.masks
        return {
            "boxes": found.boxes.numpy(),
            "labels": found.labels.numpy() + 1,
            "scores": found.scores.numpy(),
        }

    return predict


def _onnxruntime(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # not a line for every mask
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda image: dict(
        zip(("boxes", "labels", "scores", "masks"), session.run(None, {name: image}), strict=True)
    )


def _openvino(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    network = openvino.compile_model(path, "CPU", settings)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        found = network([image])
        return {name: np.array(found[i]) for i, name in enumerate(("boxes", "labels", "scores", "masks"))}

    return run


def serve(side: str, folder: Path, count: int) -> None:
    """Answer requests from standard input, one at a time, until it closes."""
    predict = offer(side, folder, count)
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        found = predict()
        seconds = time.perf_counter() - start
        np.savez(folder / f"{side}.npz", **{name: found[name] for name in ("boxes", "labels", "scores")})
        print(json.dumps(seconds), flush=True)


def agreement(side: str, folder: Path) -> str:
    """How far a side's detections are from those of ``torch``."""
    theirs, ours = (dict(np.load(folder / f"{name}.npz")) for name in (side, "torch"))
    matched, boxes, scores = 0, 0.0, 0.0
    for box, label, score in zip(ours["boxes"], ours["labels"], ours["scores"], strict=True):
        same = np.nonzero(theirs["labels"] == label)[0]
        if len(same) == 0:
            continue
        distance = np.abs(theirs["boxes"][same] - box).max(axis=1)
        if distance.min() < 0.1:
            matched += 1
            boxes = max(boxes, float(distance.min()))
            scores = max(scores, abs(float(theirs["scores"][same[distance.argmin()]] - score)))
    return f"{matched} of {len(ours['boxes'])} agree, boxes to {boxes:.4f} px, scores to {scores:.1e}"


def compare(folder: Path, count: int, sides: list[str], runs: int) -> None:
    """Take turns after a first round that is not counted; print medians and median ratios."""
    command = [sys.executable, __file__, str(folder), "--count", str(count), "--serve"]
    workers = {side: Worker([*command, side]) for side in dict.fromkeys(("torch", *sides))}
    for worker in workers.values():
        worker.ask()
    if "torch" not in sides:
        workers.pop("torch").close()
    orders = (random.Random(i).sample(list(workers), len(workers)) for i in range(runs))
    rounds = [{side: workers[side].ask() for side in order} for order in orders]
    print(f"\n{count} detections, {SHAPE[0]}x{SHAPE[1]} photo, 800x1067 in the network, {runs} rounds")
    print(f"{'side':16}{'ms':>7}  auto / side")
    for side in sides:
        # torchvision's graph pastes in ONNX Runtime, and not in OpenVINO.
        mine = "auto-pasted" if side == "tv-onnxruntime" and "auto-pasted" in sides else "auto"
        ratio = statistics.median(r[mine] / r[side] for r in rounds) if mine in sides else float("nan")
        ms = statistics.median(r[side] for r in rounds) * 1e3
        print(f"{side:16}{ms:7.0f}  {ratio:11.2f}  {agreement(side, folder)}")
    for worker in workers.values():
        worker.close()


def main() -> None:
    parser = arguments(__doc__, "--serve", "--count", "--export-peer")
    parser.add_argument("folder", type=Path, help="of weights and graphs")
    parser.add_argument("--prepare", action="store_true", help="write them")
    parser.add_argument("--peer", help="interpreter of an environment with torchvision, onnx and onnxscript")
    parser.add_argument("--sides", default=",".join(SIDES), help="commas between")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if options.export_peer:
        export_peer(options.folder, int(options.export_peer))
    elif options.serve:
        serve(options.serve, options.folder, int(options.count))
    elif options.prepare:
        if not options.peer:
            parser.error("--prepare needs --peer")
        prepare(options.folder, options.peer)
    else:
        for count in options.counts.split(","):
            compare(options.folder, int(count), options.sides.split(","), options.runs)


if __name__ == "__main__":
    main()
