"""An image beside its truth: masks painted in, what is right and what is wrong framed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from ..data import Sample
from ..errors import ImageError
from ..explain.markup import figure, image, number, rect, row, svg
from ..explain.pictures import photo_uri
from ..output import draw
from ..output.labels import Label, draw_labels
from ..records import Image, Result
from .confusion import ImageScore
from .matching import RLE, Found, Truth, truth_of

_SIDE = 112  # cells of a painted mask
_RED = (198, 40, 40)
_LONGEST = 640  # pixels embedded of a picture


def beside_truth(
    sample: Sample, found: Found, score: ImageScore, names: Sequence[str], threshold: float
) -> str:
    """Two figures: the annotations, with the missed ones framed, and what was found, with the false framed.

    Where the picture cannot be read, as may be when only results were measured, the reason is said instead.
    """
    title = f'<h3>{escape(score.name)} · F1 {number(score.f1, 2)}</h3><p class="note">{_sentence(score, names)}</p>'
    try:
        truth, picture = truth_of(sample), sample.read()
    except ImageError as error:
        return title + f'<p class="result">{escape(str(error))}</p>'
    shown = found[np.arange(len(found.labels)) < (found.scores >= threshold).sum()]  # best first: rows stay
    said = [f"{names[label]} {value:.2f}" for label, value in zip(shown.labels, shown.scores, strict=True)]
    left = _figure(picture, truth.labels, truth.boxes, truth.masks, names, [names[i] for i in truth.labels],
                   {i for i, _ in score.missed}, "miss", "Truth", truth)  # fmt: skip
    right = _figure(picture, shown.labels, shown.boxes, shown.masks, names, said,
                    {i for i, _ in score.false}, "false", "Found")  # fmt: skip
    return title + row(left, right, kind="pair")


def as_result(labels: np.ndarray, masks: Sequence[RLE], names: Sequence[str], picture: Image) -> Result:
    """Run lengths as a Result with score 1, to draw; masks without a pixel are left out."""
    kept, boxes, cells = [], [], []
    for i, rle in enumerate(masks):
        x, y, w, h = (int(v) for v in coco_mask.toBbox(rle))
        if w > 0 and h > 0:
            crop = coco_mask.decode(rle)[y : y + h, x : x + w].astype(np.float32)
            cells.append(cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
            boxes.append([x, y, x + w, y + h])
            kept.append(i)
    return Result(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.from_numpy(labels[kept]),
        torch.ones(len(kept)), torch.from_numpy(np.array(cells, np.float32).reshape(-1, _SIDE, _SIDE)),
        tuple(names), picture.size, picture,
    )  # fmt: skip


def _figure(
    picture: Image, labels: np.ndarray, boxes: np.ndarray, masks: Sequence[RLE] | None, names: Sequence[str],
    said: Sequence[str], wrong: set[int], kind: str, title: str, truth: Truth | None = None,
) -> str:  # fmt: skip
    painted = draw(
        as_result(labels, masks or (), names, picture), color_by="class", boxes=False, labels=False
    )
    h, w = picture.size
    frames, tags = "", []
    for i in sorted(range(len(labels)), key=lambda i: i in wrong):
        x, y, width, height = boxes[i].tolist()
        box = x, y, x + width, y + height
        crowd = truth is not None and bool(truth.crowd[i])
        frames += rect(
            box, "crowd" if crowd else kind if i in wrong else "right", said[i] + " (crowd)" * crowd
        )
        if i in wrong:
            tags.append(Label(names[labels[i]], said[i], box, _RED))
    draw_labels(painted, tags, max(11, round((h * w) ** 0.5 / 32)), None)
    view: Any = (0, 0, w, h)
    words = {"miss": "missed", "false": "false"}[kind]
    caption = f"<b>{title}</b>: {len(labels)}, {len(wrong)} {words}."
    return figure(svg(view, image(view, photo_uri(painted, _LONGEST)) + frames, f"{title}: {', '.join(said)}",
                      "case"), caption)  # fmt: skip


def _sentence(score: ImageScore, names: Sequence[str]) -> str:
    missed, false = (_counted([names[i] for _, i in rows]) for rows in (score.missed, score.false))
    return f"{score.hits} right; missed: {escape(missed)}; false: {escape(false)}."


def _counted(words: Sequence[str]) -> str:
    unique = dict.fromkeys(words)
    return ", ".join(f"{w} × {words.count(w)}" if words.count(w) > 1 else w for w in unique) or "none"
