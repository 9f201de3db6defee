"""Which detection finds which object: COCO's greedy matching, one image at a time.

Boxes here are x, y, width, height in pixels, as in COCO's files, so that no number is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..data import Instance, Sample
from ..ops.compiling import loop
from ..records import Size

IOUS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_LOW, _HIGH = np.array(list(AREAS.values())).T

RLE = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotated objects of one image.

    labels (n,) int64 · boxes (n, 4) float64 xywh · masks n run lengths · areas (n,) as annotated, else the
    mask's pixels · crowd (n,) bool
    """

    labels: np.ndarray
    boxes: np.ndarray
    masks: tuple[RLE, ...] = field(repr=False)
    areas: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """The detections of one image, best first; labels are the data set's.

    labels (n,) int64 · scores (n,) · boxes (n, 4) float64 xywh · masks n run lengths, None where the results
    are boxes only · areas (n,) of the boxes, of the masks where the results are masks only
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: tuple[RLE, ...] | None = field(repr=False)
    areas: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Found:
        rows = np.arange(len(self.labels))[keep]
        masks = None if self.masks is None else tuple(self.masks[i] for i in rows)
        return Found(self.labels[rows], self.scores[rows], self.boxes[rows], masks, self.areas[rows])


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the d detections and g objects of one image, for each area range and IoU.

    labels, scores, rank : (d,); rank counts within the class, 0 for the best
    hit, ignored         : (areas, ious, d) bool; an ignored detection counts neither way
    partner              : (d,) the object that each has at IoU 0.5, all areas; -1 for none
    truth_labels         : (g,)
    truth_ignored        : (areas, g) bool: crowds, and objects out of the area range
    """

    labels: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    partner: np.ndarray
    truth_labels: np.ndarray
    truth_ignored: np.ndarray


def truth_of(sample: Sample) -> Truth:
    """The annotations of an image; of classes that are not labelled in it there are none."""
    kept = [one for one in sample.instances if sample.labelled is None or one.label in sample.labelled]
    masks = tuple(run_lengths(one, sample.size) for one in kept)
    areas = [
        float(coco_mask.area(m)) if one.area is None else one.area for one, m in zip(kept, masks, strict=True)
    ]
    boxes = np.array([one.box for one in kept], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return Truth(
        np.array([one.label for one in kept], np.int64), boxes, masks,
        np.array(areas, np.float64), np.array([one.crowd for one in kept], bool),
    )  # fmt: skip


def run_lengths(instance: Instance, size: Size) -> RLE:
    """The mask as COCO's compressed run lengths, rasterised as pycocotools does."""
    mask = instance.mask
    if isinstance(mask, dict):
        return coco_mask.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask
    rings = [ring.astype(np.float64).reshape(-1).tolist() for ring in mask if len(ring) > 2]
    if not rings:
        return coco_mask.encode(np.zeros(size, np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(rings, *size))


def found_of(
    rows: Sequence[dict[str, Any]], label_of: dict[int, int], sample: Sample, max_detections: int = 100
) -> Found:
    """Rows of a COCO results file that belong to one image, the best of each class.

    label_of : category id to the data set's label; other categories are left out, and so are classes that
               are not labelled in the image: there nobody can say whether they are right
    """
    rows = [
        row for row in rows
        if (label := label_of.get(row["category_id"])) is not None
        and (sample.labelled is None or label in sample.labelled)
    ]  # fmt: skip
    rows = sorted(rows, key=lambda row: -row["score"])  # stable, so ties keep the order of the file
    masked = all("segmentation" in row for row in rows)
    masks = tuple(_compressed(row["segmentation"], sample.size) for row in rows) if masked else None
    if masks is not None and any("bbox" not in row for row in rows):
        boxes, areas = coco_mask.toBbox(list(masks)), coco_mask.area(list(masks))
    else:
        boxes = np.array([row["bbox"] for row in rows], np.float64)
        areas = boxes.reshape(-1, 4)[:, 2:].prod(1)
    found = Found(
        np.array([label_of[row["category_id"]] for row in rows], np.int64),
        np.array([row["score"] for row in rows], np.float64),
        np.asarray(boxes, np.float64).reshape(-1, 4), masks, np.asarray(areas, np.float64),
    )  # fmt: skip
    return found[_ranks(found.labels) < max_detections]


def overlaps(found: Found, truth: Truth, masks: bool) -> np.ndarray:
    """(d, g) IoU of every detection with every object; with a crowd, the share of the detection inside it."""
    if not len(found.labels) or not len(truth.labels):
        return np.zeros((len(found.labels), len(truth.labels)))
    crowd = truth.crowd.astype(np.uint8).tolist()
    if masks:
        return coco_mask.iou(list(found.masks or ()), list(truth.masks), crowd)
    return coco_mask.iou(found.boxes, truth.boxes, crowd)


def match(found: Found, truth: Truth, *, masks: bool) -> Matches:
    """COCO's matching of one image, by masks or by boxes.

    The best-scored detection chooses first: the object of its class that it overlaps most, by at least the
    IoU, and that is not taken. Only if there is none may it fall on an ignored object, which ignores the
    detection too; crowds take any number. Detections that match nothing are ignored where their own area is
    out of the range. Source: pycocotools 2.0, COCOeval.evaluateImg.
    """
    truth_ignored = truth.crowd | (truth.areas < _LOW[:, None]) | (truth.areas > _HIGH[:, None])
    partner = _assign(overlaps(found, truth, masks), found.labels, truth.labels, truth.crowd, truth_ignored,
                      np.minimum(IOUS, 1 - 1e-10))  # fmt: skip
    hit = partner >= 0
    beyond = (found.areas < _LOW[:, None]) | (found.areas > _HIGH[:, None])
    ignored = ~hit & beyond[:, None]
    for area, row in enumerate(truth_ignored):
        ignored[area] |= hit[area] & np.append(row, False)[partner[area]]
    return Matches(found.labels, found.scores, _ranks(found.labels), hit, ignored, partner[0, 0],
                   truth.labels, truth_ignored)  # fmt: skip


def _ranks(labels: np.ndarray) -> np.ndarray:
    """How many detections of the same class come before each."""
    seen: dict[int, int] = {}
    ranks = np.zeros(len(labels), np.int64)
    for i, label in enumerate(labels.tolist()):
        ranks[i] = seen.get(label, 0)
        seen[label] = ranks[i] + 1
    return ranks


def _compressed(mask: Any, size: Size) -> RLE:
    if isinstance(mask, dict) and not isinstance(mask["counts"], list):
        return mask
    rle = coco_mask.frPyObjects(mask, *size)
    return coco_mask.merge(rle) if isinstance(rle, list) else rle


@loop
def _assign(ious, labels, truth_labels, crowd, ignored, thresholds):  # type: ignore[no-untyped-def]
    """(areas, ious, d): the object that each detection gets, -1 for none."""
    areas, objects = ignored.shape
    partner = np.full((areas, len(thresholds), len(labels)), -1)
    for a in range(areas):
        order = np.argsort(ignored[a], kind="mergesort")
        for t in range(len(thresholds)):
            taken = np.zeros(objects, np.bool_)
            for d in range(len(labels)):
                best, least = -1, thresholds[t]
                for g in order:
                    if truth_labels[g] != labels[d] or (taken[g] and not crowd[g]):
                        continue
                    if best >= 0 and not ignored[a, best] and ignored[a, g]:
                        break
                    if ious[d, g] >= least:
                        best, least = g, ious[d, g]
                if best >= 0:
                    taken[best] = True
                    partner[a, t, d] = best
    return partner
