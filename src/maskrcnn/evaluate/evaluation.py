"""Measure a model, or a results file, on annotated pictures."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, Sample
from ..errors import ConfigError, DataError, ImageError
from ..inputs import read_ahead
from ..jobs import Step
from ..model import MaskRCNN
from ..output import to_coco
from ..records import Image
from .confusion import ImageScore, confusion, image_score, worst_first
from .matching import Found, found_of, match, truth_of
from .metrics import Metrics, accumulate, plain

SCORE = 0.05
MAX_DETECTIONS = 100
_COUNTED = 0.5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    names     : the data set's classes
    box, mask : COCO's numbers; mask is None for results that are boxes only
    threshold : the score with the greatest F1 over all objects, by masks where there are any; keep from it on.
                nan where no detection is right
    counted   : the score from which ``confusion`` and ``images`` count: the threshold, or 0.5
    confusion : (k + 1, k + 1) at that score, rows the truth, columns the detection, last for neither
    images    : how each image went at that score
    partial   : images in which only some classes are labelled; only these were evaluated there
    unknown   : classes that the model does not know: all their objects count as missed
    left_out  : classes that the data set does not have: their detections were left out
    speed     : images a second through the network, the first batch not counted; None for a results file
    source    : what was evaluated
    found     : the detections that were measured, image by image
    """

    names: tuple[str, ...]
    box: Metrics
    mask: Metrics | None
    threshold: float
    counted: float
    confusion: np.ndarray = field(repr=False)
    images: tuple[ImageScore, ...] = field(repr=False)
    partial: int
    unknown: tuple[str, ...]
    left_out: tuple[str, ...]
    speed: float | None
    source: str
    category_ids: tuple[int, ...] = field(repr=False)
    found: tuple[Found, ...] = field(repr=False)

    @property
    def best(self) -> Metrics:
        """Masks where there are any, else boxes."""
        return self.mask or self.box

    def results(self) -> list[dict[str, Any]]:
        """COCO results: exactly the detections that were measured, with the ids of the annotation file."""
        return [
            {
                "image_id": image.image_id, "category_id": self.category_ids[found.labels[i]],
                "bbox": found.boxes[i].tolist(), "score": float(found.scores[i]),
                **({} if found.masks is None else {"segmentation": _text(found.masks[i])}),
            }
            for image, found in zip(self.images, self.found, strict=True)
            for i in range(len(found.labels))
        ]  # fmt: skip

    def worst(self, count: int = 10) -> list[ImageScore]:
        """The images with the lowest F1 at the score ``counted``; none without an error."""
        return worst_first(self.images)[:count]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        table = [
            [self._class(i), self._class(j), int(self.confusion[i, j])]
            for i, j in zip(*np.nonzero(self.confusion), strict=True)
        ]
        return {
            "source": self.source, "images": len(self.images), "partially_labelled": self.partial,
            "classes_unknown_to_model": list(self.unknown), "classes_left_out": list(self.left_out),
            "images_per_second": self.speed, "threshold": plain(self.threshold), "box": self.box.to_dict(),
            "mask": None if self.mask is None else self.mask.to_dict(),
            "confusion": {"iou": 0.5, "columns": ["truth", "detection", "count"], "rows": table},
            "worst": [
                {"image_id": one.image_id, "name": one.name, "f1": one.f1, "hits": one.hits,
                 "missed": [self.names[i] for _, i in one.missed], "false": [self.names[i] for _, i in one.false]}
                for one in self.worst()
            ],
        }  # fmt: skip

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def _class(self, i: int) -> str | None:
        return self.names[i] if i < len(self.names) else None


def evaluate(
    model: MaskRCNN,
    dataset: Dataset,
    *,
    score: float | None = None,
    batch_size: int = 1,
    max_detections: int = MAX_DETECTIONS,
    limit: int | None = None,
    progress: Callable[[Step], None] = lambda step: None,
) -> Evaluation:
    """COCO AP and AR of a model on a data set, for boxes and masks.

    score          : detections below it are not counted; default 0.05, or the model's own where that is less
    max_detections : most detections of an image, and of a class in an image; COCO's is 100
    limit          : only so many images, the first
    progress       : called after each image

    A model in training is one again afterwards. Classes are matched by name, see `Evaluation`. In an image
    where only some classes are labelled only those are evaluated. Raises ConfigError where no class name
    agrees, or there is no image, ImageError for a picture that cannot be read or is not of the annotated size.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    ids = _category_ids(dataset)
    shared = [name for name in model.names if name in dataset.names]
    if not shared:
        raise ConfigError(
            f"evaluate: want at least one class name of the data set, {_listed(dataset.names)}; got a model of "
            f"{_listed(model.names)}; give the model's names with names=..."
        )
    floor = min(SCORE, model.config.score) if score is None else score
    timer = _Timer()
    passes = _predictions(
        model, dataset, count, batch_size, timer, score=floor, max_detections=max_detections,
        classes=None if len(shared) == len(model.names) else shared,
    )  # fmt: skip
    number = {i: ids[dataset.names.index(n)] for i, n in enumerate(model.names, start=1) if n in shared}
    label_of = {category: label for label, category in enumerate(ids)}

    def detected() -> Iterator[tuple[Sample, list[dict[str, Any]]]]:
        for done, (sample, rows) in enumerate(passes, start=1):
            progress(Step(sample.name, len(rows), None, done, count))
            yield sample, [{**row, "category_id": number[row["category_id"]]} for row in rows]

    training = [module for module in model.modules() if module.training]
    model.eval()  # else batch normalisation would learn from these images
    try:
        return _measure(detected(), dataset, model.names, label_of, ids, max_detections, model.source, timer)
    finally:
        for module in training:
            module.training = True


def evaluate_results(
    results: str | Path | Sequence[dict[str, Any]], dataset: Dataset, *, max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """COCO AP and AR of detections that are there already; see `evaluate`.

    results : a COCO results file, or its rows: image_id, category_id, score, bbox (xywh) or segmentation or
              both. A file with ``images`` and ``categories``, as `maskrcnn predict` writes, goes by file and
              class names; a bare list by the ids of the annotation file (1..k where that has none)

    Images without rows count as without detections. Raises DataError for rows of an image or category that
    is not there, and for rows without what is measured.
    """
    source = str(results) if isinstance(results, (str, Path)) else "results"
    content = json.loads(Path(results).read_bytes()) if isinstance(results, (str, Path)) else list(results)
    ids = _category_ids(dataset)
    samples = [dataset[i] for i in range(len(dataset))]
    if isinstance(content, dict):
        named = {row["id"]: row["name"] for row in content["categories"]}
        label_of = {i: dataset.names.index(name) for i, name in named.items() if name in dataset.names}
        image_of = {row["id"]: _image_named(row["file_name"], samples) for row in content["images"]}
        content = [{**row, "image_id": image_of[row["image_id"]]} for row in content["annotations"]]
        names = tuple(named.values())
    else:
        label_of, names = {category: label for label, category in enumerate(ids)}, dataset.names
    rows: dict[Any, list[dict[str, Any]]] = {sample.image_id: [] for sample in samples}
    for row in content:
        if row["image_id"] not in rows:
            raise DataError(
                f"{source}: want image ids of the data set, got {row['image_id']!r}; another split?"
            )
        if row["category_id"] not in label_of and names is dataset.names:
            raise DataError(
                f"{source}: want category ids of the data set, {_listed(ids)}; got {row['category_id']}"
            )
        if "score" not in row or not ("bbox" in row or "segmentation" in row):
            raise DataError(f"{source}: want score, and bbox or segmentation, in each row; got {sorted(row)}")
        rows[row["image_id"]].append(row)
    pairs = ((sample, rows[sample.image_id]) for sample in samples)
    return _measure(pairs, dataset, names, label_of, ids, max_detections, source, None)


def _measure(
    detected: Iterable[tuple[Sample, list[dict[str, Any]]]], dataset: Dataset, known: Sequence[str],
    label_of: dict[int, int], ids: tuple[int, ...], max_detections: int, source: str, timer: _Timer | None,
) -> Evaluation:  # fmt: skip
    samples, founds, truths, boxes, masks = [], [], [], [], []
    for sample, rows in detected:
        found, truth = found_of(rows, label_of, sample, max_detections), truth_of(sample)
        boxes.append(match(found, truth, masks=False))
        if found.masks is not None:
            masks.append(match(found, truth, masks=True))
        partial = sample.labelled is not None and len(sample.labelled) < len(dataset.names)
        samples.append((sample.image_id, sample.name, partial))
        founds.append(found)
        truths.append(truth)
    if not samples:
        raise ConfigError("evaluate: want at least one image, got none; another split?")
    order = sorted(range(len(samples)), key=lambda i: samples[i][0])
    box = accumulate([boxes[i] for i in order], dataset.names, max_detections)
    masked = len(masks) == len(boxes)
    mask = accumulate([masks[i] for i in order], dataset.names, max_detections) if masked else None
    threshold = float((mask or box).curves.threshold[-1])
    at = threshold if np.isfinite(threshold) else _COUNTED
    scores = [
        image_score(i, *samples[i][:2], matches, truth, at)
        for i, (matches, truth) in enumerate(zip(masks if masked else boxes, truths, strict=True))
    ]
    table = sum(confusion(f, t, at, len(dataset.names)) for f, t in zip(founds, truths, strict=True))
    return Evaluation(
        dataset.names, box, mask, threshold, at, np.asarray(table), tuple(scores), sum(s[2] for s in samples),
        tuple(n for n in dataset.names if n not in known), tuple(n for n in known if n not in dataset.names),
        timer.speed if timer else None, source, ids, tuple(founds),
    )  # fmt: skip


class _Timer:
    """Images a second after the first batch, which pays for the warm-up; of that alone if there is no other."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []

    @property
    def speed(self) -> float:
        counted = self.batches[1:] or self.batches
        return sum(n for n, _ in counted) / max(sum(seconds for _, seconds in counted), 1e-9)


def _predictions(
    model: MaskRCNN, dataset: Dataset, count: int, batch_size: int, timer: _Timer, **options: Any
) -> Iterator[tuple[Sample, list[dict[str, Any]]]]:
    """Each sample with its detections as COCO rows; pictures are read ahead."""
    reading: deque[Sample] = deque()
    waiting: list[tuple[Sample, Image]] = []

    def pictures() -> Iterator[Any]:
        for i in range(count):
            sample = dataset[i]
            reading.append(sample)
            yield sample.image

    for done, (_, image) in enumerate(read_ahead(pictures(), keep_alpha=model.config.channels == 4), start=1):
        sample = reading.popleft()
        if isinstance(image, ImageError):
            raise image
        if image.size != tuple(sample.size):
            raise ImageError(f"{sample.name}: want the annotated size {sample.size} (h, w), got {image.size}")
        waiting.append((sample, image))
        if len(waiting) == batch_size or done == count:
            start = time.perf_counter()
            results = model.predict_images([one for _, one in waiting], **options)
            timer.batches.append((len(waiting), time.perf_counter() - start))
            for (one, _), result in zip(waiting, results, strict=True):
                yield one, to_coco(result)
            waiting = []


def _category_ids(dataset: Dataset) -> tuple[int, ...]:
    """The data set's own, or 1..k."""
    return getattr(dataset, "category_ids", ()) or tuple(range(1, len(dataset.names) + 1))


def _image_named(file_name: str, samples: Sequence[Sample]) -> int | str:
    """The id of the one image whose path ends in this name."""
    parts = Path(file_name).parts
    fits = []
    for sample in samples:
        path = sample.image if isinstance(sample.image, Path) else sample.image.source
        if path is not None and path.parts[-len(parts) :] == parts:
            fits.append(sample.image_id)
    if len(fits) != 1:
        raise DataError(f"results: want one image of the data set named {file_name}, got {len(fits)}")
    return fits[0]


def _listed(values: Sequence[Any], most: int = 8) -> str:
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def _text(rle: dict[str, Any]) -> dict[str, Any]:
    """Run lengths with counts that JSON can hold."""
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
