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

from ..files import replacing, write_bytes, write_text
from ..model.targets import mask_targets
from ..output import draw
from ..records import Image, Result, Target
from .feed import Batch

TILE = 320  # pixels of the long side of a picture in a grid


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
    """Curves of losses, rate and AP as results.png."""
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
            axis.plot(*log.column(name), label=name, marker="." if log is validations else None)
        axis.legend()
        axis.grid(alpha=0.3)
        axis.set_xlabel("step")
    with replacing(run / "results.png") as part:
        figure.savefig(part, format="png", dpi=90)
    pyplot.close(figure)


def show_batch(path: Path, batch: Batch, names: tuple[str, ...]) -> None:
    """A grid of a batch's pictures with what is annotated in them."""
    pairs = zip(batch.images, batch.targets, strict=True)
    _grid(path, [draw(_annotated(image, target, names)) for image, target in pairs])


def show_results(path: Path, results: Sequence[Result]) -> None:
    """A grid of pictures with what the network finds."""
    _grid(path, [draw(result) for result in results])


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


def _annotated(image: Image, target: Target, names: tuple[str, ...]) -> Result:
    h, w = image.size
    n = len(target.labels)
    masks = mask_targets(target.masks, target.boxes, torch.arange(n), torch.tensor([0.0, 0.0, w, h]), 56)
    shown = np.clip(image.pixels, 0, 255).astype(np.uint8)
    return Result(target.boxes, target.labels, torch.ones(n), masks, names, image.size, Image(shown))


def _grid(path: Path, pictures: Sequence[np.ndarray]) -> None:
    columns = min(len(pictures), 4)
    sheet = np.full((-(-len(pictures) // columns) * TILE, columns * TILE, 3), 40, np.uint8)
    for i, picture in enumerate(pictures):
        scale = TILE / max(picture.shape[:2])
        size = (max(int(picture.shape[1] * scale), 1), max(int(picture.shape[0] * scale), 1))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        y, x = i // columns * TILE, i % columns * TILE
        sheet[y : y + size[1], x : x + size[0]] = small
    write_bytes(path, cv2.imencode(".jpg", sheet[..., ::-1])[1].tobytes())
