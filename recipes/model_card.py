"""From a trained checkpoint to the file that ships, and the numbers of its model card.

python recipes/model_card.py runs/default/best.safetensors data/everyday_val.json --train data/everyday_train.json \
    --ship src/maskrcnn/weights/shipped/everyday.safetensors --card docs/model_card.md --out evaluation

Stores the weights as one float16 file, loads that file as a user does, and measures it, so that the card says
what people get. In the card, all between the two marks is written anew; a card that is not there is begun. What may
not be published stays in --out: the pictures of the ten best and the ten worst images, each beside its truth, and the
whole report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

import maskrcnn
from maskrcnn.cli.progress import progress
from maskrcnn.data import Dataset, open_dataset
from maskrcnn.data.sheet import draw_annotations
from maskrcnn.evaluate import Evaluation, evaluate, lines, write_report
from maskrcnn.evaluate.confusion import ImageScore
from maskrcnn.evaluate.metrics import Measure
from maskrcnn.files import write_bytes, write_text
from maskrcnn.output import draw

BEGIN, END = "<!-- numbers: written by recipes/model_card.py -->", "<!-- end of numbers -->"
LARGEST = 60e6  # bytes that may ship
COMMON = 20  # validation objects from which on a class counts for the mean of common classes
# Least score of what is found, unless the user names another. Photos at large want more than the score of the best F1
# on pictures that label some classes only, where no object of the others counts as false.
KEPT = 0.5
SIZES: tuple[Measure, ...] = ("ap_small", "ap_medium", "ap_large")
SHOWN, SIDE = 10, 360  # pictures of a sheet, and pixels of their long side


def ship(weights: Path, target: Path) -> maskrcnn.MaskRCNN:
    """Store as float16, and load the file that was stored."""
    maskrcnn.save(maskrcnn.load(weights, score=KEPT), target, dtype="float16")
    size = target.stat().st_size
    if size > LARGEST:
        target.unlink()
        sys.exit(
            f"{target}: want at most {LARGEST / 1e6:.0f} MB, got {size / 1e6:.1f} MB; train a smaller network"
        )
    return maskrcnn.load(target)


def numbers(done: Evaluation, learnt: np.ndarray, model: maskrcnn.MaskRCNN, file: Path) -> str:
    """The measured part of a card, as Markdown. ``learnt`` is how many training objects each class has."""
    mask, box = done.best, done.box
    common = int((mask.truths[0] >= COMMON).sum())
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    size = file.stat().st_size / 1e6
    objects = mask.truths[0]
    heading = "| | AP | AP50 | AP75 | small | medium | large | AP50, common classes |"
    rows = [
        f"| {kind} | {_row(m.ap, m.ap50, m.ap75, *map(m.mean, SIZES), m.mean('ap50', COMMON))} |"
        for kind, m in (("masks", mask), ("boxes", box))
    ]
    what = (
        f"ResNet-{model.config.depth}-FPN, {len(model.names)} classes; {weights:.1f} million weights, {size:.1f} MB as "
        f"float16. Measured on {len(done.images)} validation pictures with {objects.sum():,} objects, with the file "
        "that ships."
    )
    advice = (
        f"Common are the {common} classes with at least {COMMON} validation objects. Detections are kept from a score "
        f"of {KEPT} on, unless another is given; F1 over all objects is greatest from {done.threshold:.2f} on, "
        f"{mask.curves.best[-1]:.2f}."
    )
    rare = f"Classes with fewer than {COMMON} validation objects: their AP is mostly chance"
    parts = [
        what,
        "\n".join([heading, "|" + " --- |" * 8, *rows]),
        advice,
        _classes(done, learnt, objects >= COMMON),
        f"<details><summary>{rare}</summary>",
        _classes(done, learnt, objects < COMMON),
        "</details>",
        f"Best of the validation pictures at that score: {_listed(best(done))}.",
        f"Worst: {_listed(done.worst(SHOWN))}.",
    ]
    return "\n\n".join(parts)


def best(done: Evaluation) -> list[ImageScore]:
    """The images with the highest F1, those with most objects first."""
    return sorted(done.images, key=lambda one: (-one.f1, -one.hits))[:SHOWN]


def sheet(
    path: Path, rows: list[ImageScore], dataset: Dataset, model: maskrcnn.MaskRCNN, score: float
) -> None:
    """A picture of images in two columns, each with its truth on the left and what is found on the right."""
    cells = []
    for one in rows:
        sample = dataset[one.index]
        truth = draw_annotations(sample, dataset.names, SIDE)
        found = draw(model.predict(sample.read(), score=score), color_by="class")
        found = cv2.resize(found, truth.shape[1::-1], interpolation=cv2.INTER_AREA)
        cell = np.full((SIDE, 2 * SIDE + 16, 3), 255, np.uint8)
        cell[: truth.shape[0], : truth.shape[1]] = truth
        cell[: found.shape[0], SIDE : SIDE + found.shape[1]] = found
        cells.append(cell)
    if cells:
        cells += [np.full_like(cells[0], 255)] * (len(cells) % 2)
        whole = np.vstack([np.hstack(cells[i : i + 2]) for i in range(0, len(cells), 2)])
        write_bytes(path, cv2.imencode(".jpg", whole[..., ::-1])[1].tobytes())


def insert(card: Path, text: str) -> None:
    """Put the text between the marks of a card."""
    old = card.read_text("utf-8") if card.exists() else f"# Model card\n\n{BEGIN}\n{END}\n"
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        sys.exit(f"{card}: want one line {BEGIN!r} and one {END!r}, around what is written here; put them in")
    head, _, rest = old.partition(BEGIN)
    write_text(card, f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


def _classes(done: Evaluation, learnt: np.ndarray, chosen: np.ndarray) -> str:
    mask, threshold = done.best, done.best.curves.threshold
    columns = [mask.of_classes("ap"), mask.of_classes("ap50"), done.box.of_classes("ap50")]
    heading = "| class | training objects | validation objects | mask AP | mask AP50 | box AP50 | score of best F1 |"
    rows = [
        f"| {done.names[i]} | {learnt[i]} | {mask.truths[0, i]} | {_row(*(c[i] for c in columns))} | "
        f"{_number(threshold[i], 2)} |"
        for i in np.argsort(-mask.truths[0], kind="stable") if chosen[i]
    ]  # fmt: skip
    return "\n".join([heading, "|" + " --- |" * 7, *rows])


def _row(*shares: float) -> str:
    return " | ".join(_number(100 * share, 1) for share in shares)


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _listed(images: list[ImageScore]) -> str:
    return ", ".join(f"{one.name} (F1 {one.f1:.2f})" for one in images) or "none"


def count(dataset: Dataset, names: tuple[str, ...]) -> np.ndarray:
    """Objects of each class, crowds left out."""
    labels = [one.label for i in range(len(dataset)) for one in dataset[i].instances if not one.crowd]
    found = np.bincount(labels, minlength=len(dataset.names))
    return np.array([found[dataset.names.index(name)] if name in dataset.names else 0 for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("val", type=Path, help="what to measure on")
    parser.add_argument("--train", type=Path, required=True, help="what was trained on, to count its objects")
    parser.add_argument("--ship", type=Path, required=True, help="the float16 file to write")
    parser.add_argument("--card", type=Path, required=True, help="the Markdown file whose numbers to write")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder of pictures and report")
    parser.add_argument("--limit", type=int, help="only so many pictures, to try it")
    options = parser.parse_args()
    model = ship(options.weights, options.ship)
    dataset = open_dataset(options.val)
    with progress() as show:
        done = evaluate(model, dataset, limit=options.limit, progress=show)
    print(*lines(done), sep="\n")
    insert(options.card, numbers(done, count(open_dataset(options.train), done.names), model, options.ship))
    for name, rows in (("best", best(done)), ("worst", done.worst(SHOWN))):
        sheet(options.out / f"{name}.jpg", rows, dataset, model, done.counted)
    print(
        f"wrote {options.ship}, {options.card}, {write_report(done, dataset, options.out)} and pictures beside it"
    )


if __name__ == "__main__":
    main()
