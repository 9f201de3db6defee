"""Average precision as Matterport's package defines it: one image at a time, all its classes in one curve.

Arrays are that package's: boxes (n, 4) in pixels as y1, x1, y2, x2 (y2, x2 exclusive), masks (h, w, n), class
ids from 1 where 0 pads. The numbers are not COCO's: see `maskrcnn.evaluate.evaluate` for those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IOUS = np.arange(0.5, 1.0, 0.05)


def compute_overlaps_masks(masks1: np.ndarray, masks2: np.ndarray) -> np.ndarray:
    """(n1, n2) float32 IoU of two sets of masks, (h, w, n1) and (h, w, n2); above 0.5 is inside."""
    if not masks1.shape[-1] or not masks2.shape[-1]:
        return np.zeros((masks1.shape[-1], masks2.shape[-1]))
    flat1, flat2 = ((m > 0.5).reshape(-1, m.shape[-1]).astype(np.float32) for m in (masks1, masks2))
    common = flat1.T @ flat2
    union = flat1.sum(0)[:, None] + flat2.sum(0)[None] - common
    with np.errstate(invalid="ignore"):  # two empty masks: nan, as there
        return common / union


def compute_matches(
    gt_boxes: np.ndarray, gt_class_ids: np.ndarray, gt_masks: np.ndarray,
    pred_boxes: np.ndarray, pred_class_ids: np.ndarray, pred_scores: np.ndarray, pred_masks: np.ndarray,
    iou_threshold: float = 0.5, score_threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Which prediction finds which object.

    A prediction takes the object that it overlaps most and that is not taken; the first one of its class ends
    its search, and so does an IoU below the threshold. Rows of zeros at the end of the boxes are padding.

    Returns gt_match (g,), the prediction of each object or -1, pred_match (p,), the object of each prediction
    or -1, and overlaps (p, g); predictions count in order of falling score.
    """
    gt_count, pred_count = _rows(gt_boxes), _rows(pred_boxes)
    order = np.argsort(pred_scores[:pred_count])[::-1]
    overlaps = compute_overlaps_masks(pred_masks[..., order], gt_masks[..., :gt_count])
    gt_match, pred_match = -np.ones(gt_count), -np.ones(pred_count)
    for i, class_id in enumerate(pred_class_ids[order]):
        nearest = np.argsort(overlaps[i])[::-1]
        for j in nearest[overlaps[i, nearest] >= score_threshold]:
            if gt_match[j] > -1:
                continue
            if overlaps[i, j] < iou_threshold:
                break
            if class_id == gt_class_ids[j]:
                gt_match[j], pred_match[i] = i, j
                break
    return gt_match, pred_match, overlaps


def compute_ap(
    gt_boxes: np.ndarray, gt_class_ids: np.ndarray, gt_masks: np.ndarray,
    pred_boxes: np.ndarray, pred_class_ids: np.ndarray, pred_scores: np.ndarray, pred_masks: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Area below the precision-recall curve of one image.

    Returns the area, precisions and recalls (p + 2,), padded at both ends, and overlaps as `compute_matches`.
    """
    gt_match, pred_match, overlaps = compute_matches(
        gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks, iou_threshold
    )
    hits = np.cumsum(pred_match > -1)
    precisions = np.concatenate([[0], hits / (np.arange(len(pred_match)) + 1), [0]])
    recalls = np.concatenate([[0], hits.astype(np.float32) / len(gt_match), [1]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    steps = np.flatnonzero(recalls[:-1] != recalls[1:]) + 1
    return (
        float(np.sum((recalls[steps] - recalls[steps - 1]) * precisions[steps])),
        precisions,
        recalls,
        overlaps,
    )


def compute_ap_range(
    gt_box: np.ndarray, gt_class_id: np.ndarray, gt_mask: np.ndarray,
    pred_box: np.ndarray, pred_class_id: np.ndarray, pred_score: np.ndarray, pred_mask: np.ndarray,
    iou_thresholds: Sequence[float] | np.ndarray | None = None, verbose: int = 1,
) -> float:  # fmt: skip
    """The mean of `compute_ap` over IoUs, 0.5 to 0.95 by default; ``verbose`` prints each."""
    thresholds = IOUS if iou_thresholds is None else iou_thresholds
    aps = []
    for threshold in thresholds:
        ap = compute_ap(
            gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask, threshold
        )[0]
        if verbose:
            print(f"AP @{threshold:.2f}:\t {ap:.3f}")
        aps.append(ap)
    mean = float(np.mean(aps))
    if verbose:
        print(f"AP @{thresholds[0]:.2f}-{thresholds[-1]:.2f}:\t {mean:.3f}")
    return mean


def compute_recall(pred_boxes: np.ndarray, gt_boxes: np.ndarray, iou: float) -> tuple[float, np.ndarray]:
    """The share of objects that some box overlaps by at least ``iou``, and the rows of the boxes that do.

    Each such box counts the one object that it overlaps most.
    """
    overlaps = _box_overlaps(pred_boxes, gt_boxes)
    good = np.flatnonzero(overlaps.max(1) >= iou)
    return len(set(overlaps.argmax(1)[good].tolist())) / gt_boxes.shape[0], good


def _box_overlaps(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """(n1, n2) IoU of y1, x1, y2, x2 boxes."""
    top = np.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom = np.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    common = np.maximum(bottom - top, 0).prod(2)
    area1, area2 = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes1, boxes2))
    return common / (area1[:, None] + area2[None] - common)


def _rows(boxes: np.ndarray) -> int:
    """How many boxes there are before the first row of zeros at the end."""
    return int(np.any(boxes != 0, axis=1).sum())
