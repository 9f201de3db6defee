"""Matterport's five losses, on tensors in its layout: each a mean over what contributes, 0 where nothing does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Keras clips probabilities there before it takes their logarithm.
EPSILON = 1e-7


def smooth_l1(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Elementwise; quadratic below 1."""
    return F.smooth_l1_loss(y_pred, y_true.to(y_pred.dtype), reduction="none", beta=1.0)


def rpn_class_loss(rpn_match: Tensor, rpn_class_logits: Tensor) -> Tensor:
    """Mean cross entropy of the anchors that count.

    rpn_match : (b, n, 1), 1 object, -1 background, 0 does not count; logits: (b, n, 2), background first
    """
    match = rpn_match.squeeze(-1)
    chosen = match != 0
    return _mean(
        F.cross_entropy(rpn_class_logits[chosen], (match[chosen] == 1).long(), reduction="none"),
        rpn_class_logits,
    )


def rpn_bbox_loss(target_bbox: Tensor, rpn_match: Tensor, rpn_bbox: Tensor) -> Tensor:
    """Mean over the deltas of the positive anchors.

    target_bbox : (b, m, 4), for the positive anchors of each image in their order, then zeros
    """
    positive = rpn_match.squeeze(-1) == 1
    targets = [rows[:count] for rows, count in zip(target_bbox, positive.sum(1).tolist(), strict=True)]
    return _mean(smooth_l1(torch.cat(targets), rpn_bbox[positive]), rpn_bbox)


def mrcnn_class_loss(target_class_ids: Tensor, pred_class_logits: Tensor, active_class_ids: Tensor) -> Tensor:
    """Mean cross entropy of the RoIs whose predicted class is one of their image's data set.

    target_class_ids : (b, r), 0 for background and for padding, which counts as such
    active_class_ids : (b, classes). Matterport takes those of the first image for the whole batch.
    """
    losses = F.cross_entropy(
        pred_class_logits.flatten(0, 1), target_class_ids.flatten().long(), reduction="none"
    )
    active = active_class_ids.gather(1, pred_class_logits.detach().argmax(2)).flatten().to(losses.dtype)
    return (losses * active).sum() / active.sum().clamp(min=1)


def mrcnn_bbox_loss(target_bbox: Tensor, target_class_ids: Tensor, pred_bbox: Tensor) -> Tensor:
    """Mean over the deltas of the positive RoIs, each for its true class: (b, r, 4), (b, r), (b, r, classes, 4)."""
    image, roi = torch.nonzero(target_class_ids > 0, as_tuple=True)
    chosen = pred_bbox[image, roi, target_class_ids[image, roi].long()]
    return _mean(smooth_l1(target_bbox[image, roi], chosen), pred_bbox)


def mrcnn_mask_loss(target_masks: Tensor, pred_masks: Tensor) -> Tensor:
    """Mean binary cross entropy of the positive RoIs, each for its true class.

    target_masks, pred_masks : (p, h, w), 0 or 1, and probabilities
    """
    p = pred_masks.clamp(EPSILON, 1 - EPSILON)
    t = target_masks.to(p.dtype)
    return _mean(-(t * (p + EPSILON).log() + (1 - t) * (1 - p + EPSILON).log()), pred_masks)


def _mean(losses: Tensor, source: Tensor) -> Tensor:
    """0 with a gradient of 0 where nothing contributes."""
    return losses.mean() if losses.numel() else source.sum() * 0.0
