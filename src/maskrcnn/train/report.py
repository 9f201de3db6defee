"""What a run tells: tables, curves, and pictures of what it sees and what it finds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..data import Sample
from ..data.sheet import draw_annotations
from ..files import replacing, write_bytes, write_text
from ..model.targets import mask_targets
from ..output import colour, draw
from ..output.labels import Label, draw_labels
from ..records import Image, Result, Target
from .feed import Batch

TILE = 360  # pixels of the long side of a picture in a grid
SMOOTH = 50  # parts of a curve of losses over which means are taken


class Log:
    """Rows of numbers by step in a CSV file, and in TensorBoard where that is installed.

    Rows of later steps than ``step``, which a killed run may have left, are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if row["step"] and int(row["step"]) <= step]
            self._write_all()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(path.parent / "tensorboard" / path.stem), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in values.items()}
        new = not self.rows or self.rows[0].keys() != row.keys()
        self.rows.append(row)
        if new:
            self._write_all()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, list(row)).writerow(row)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column, where it has any."""
        rows = [row for row in self.rows if row.get(name)]
        return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]

    def _write_all(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def plot(run: Path, steps: Log, validations: Log) -> None:
    """Curves of losses, rate and AP as results.png; losses pale, and their mean over a fiftieth of the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = ["objectness", "anchor_box", "class", "box", "mask", "total"]
    panels = [[(steps, name)] for name in losses]
    panels[-1].append((validations, "val_loss"))
    panels += [
        [(steps, "lr")],
        [(validations, "mask_ap"), (validations, "mask_ap50"), (validations, "box_ap")],
    ]
    figure, axes = pyplot.subplots(2, 4, figsize=(16, 7), constrained_layout=True)
    for axis, curves in zip(axes.flat, panels, strict=True):
        for log, name in curves:
            at, values = log.column(name)
            pale = name in losses and len(values) >= 2 * SMOOTH
            lines = axis.plot(
                at, values, label=name, marker="." if log is validations else None, alpha=0.3 if pale else 1
            )
            if pale:
                axis.plot(*_smooth(at, values), color=lines[0].get_color())
        axis.legend()
        axis.grid(alpha=0.3)
        axis.set_xlabel("step")
    with replacing(run / "results.png") as part:
        figure.savefig(part, format="png", dpi=90)
    pyplot.close(figure)


def _smooth(steps: list[int], values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means over as many values as the curve has fiftieths, at the middle of their steps."""
    window = max(len(values) // SMOOTH, 2)
    kernel = np.full(window, 1 / window)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def show_batch(path: Path, batch: Batch, names: tuple[str, ...]) -> None:
    """A grid of a batch's pictures with what is annotated in them."""
    pairs = zip(batch.images, batch.targets, strict=True)
    _grid(path, [_annotated(image, target, names) for image, target in pairs])


def show_results(path: Path, samples: Sequence[Sample], results: Sequence[Result]) -> None:
    """A grid of pictures as they are annotated, each with what the network finds to its right."""
    tiles = []
    for sample, result in zip(samples, results, strict=True):
        tiles += [draw_annotations(sample, result.names, TILE), draw(result, color_by="class")]
    _grid(path, tiles)


def dump(folder: Path, batches: Sequence[Batch], losses: Mapping[str, float], names: tuple[str, ...]) -> None:
    """Keep what went into a step that failed: the pictures as they were, drawn, and their annotations."""
    described: list[Any] = []
    for i, batch in enumerate(batches):
        show_batch(folder / f"batch{i}.jpg", batch, names)
        for j, (name, image, target) in enumerate(zip(batch.names, batch.images, batch.targets, strict=True)):
            file = f"batch{i}_{j}.npz"
            with replacing(folder / file) as part, part.open("wb") as stream:
                np.savez_compressed(
                    stream, pixels=image.pixels, boxes=target.boxes.numpy(), labels=target.labels.numpy(),
                    masks=np.packbits(target.masks.numpy()), masks_shape=np.array(target.masks.shape),
                )  # fmt: skip
            described.append({"image": name, "arrays": file, "boxes": target.boxes.tolist()})
    write_text(folder / "inputs.json", json.dumps({"losses": dict(losses), "images": described}, indent=1))


def _annotated(image: Image, target: Target, names: tuple[str, ...]) -> np.ndarray:
    """A picture as the network gets it, (h, w, 3) uint8, with masks, boxes and class names."""
    h, w = image.size
    n = len(target.labels)
    masks = mask_targets(target.masks, target.boxes, torch.arange(n), torch.tensor([0.0, 0.0, w, h]), 56)
    shown = Image(np.clip(image.pixels, 0, 255).astype(np.uint8))
    result = Result(target.boxes, target.labels, torch.ones(n), masks, names, image.size, shown)
    painted = draw(result, color_by="class", labels=False)
    rows = zip(target.labels.tolist(), target.boxes.tolist(), strict=True)
    tags = [Label(names[label], names[label], tuple(box), colour(label)) for label, box in rows]
    draw_labels(painted, tags, max(11, round((h * w) ** 0.5 / 32)), None)
    return painted


def _grid(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """Pictures in rows of four, each row as high as its highest."""
    rows = []
    for start in range(0, len(pictures), 4):
        row = np.full((TILE, min(len(pictures), 4) * TILE, 3), 40, np.uint8)
        highest = 0
        for i, picture in enumerate(pictures[start : start + 4]):
            scale = TILE / max(picture.shape[:2])
            w, h = (max(int(side * scale), 1) for side in picture.shape[1::-1])
            row[:h, i * TILE : i * TILE + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
            highest = max(highest, h)
        rows.append(row[:highest])
    write_bytes(path, cv2.imencode(".jpg", np.vstack(rows)[..., ::-1])[1].tobytes())
