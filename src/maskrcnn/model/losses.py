"""The five losses, normalised as Detectron2 does. Pure functions. (Mask R-CNN, section 3.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sampled:
    """Predictions for the sampled anchors and proposals of a batch, each beside what it should have been.

    objectness (k,) logits · is_object (k,) bool · anchor_deltas, anchor_wanted (p, 4) of the positive anchors
    · class_logits (r, classes + 1) · labels (r,) int64, background last · competing (r, classes + 1) bool, the
    classes that each is compared with · box_deltas, box_wanted (q, 4) and mask_logits, mask_wanted (q, m, m) of
    the positive proposals, for their true class
    """

    objectness: Tensor
    is_object: Tensor
    anchor_deltas: Tensor
    anchor_wanted: Tensor
    class_logits: Tensor
    labels: Tensor
    competing: Tensor
    box_deltas: Tensor
    box_wanted: Tensor
    mask_logits: Tensor
    mask_wanted: Tensor

    @staticmethod
    def join(parts: Sequence[Sampled]) -> Sampled:
        """The samples of several batches as one."""
        names = [f.name for f in dataclasses.fields(Sampled)]
        return Sampled(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def total_losses(
    sampled: Sampled, anchors: int, average: Callable[[Tensor], Tensor] = lambda counts: counts
) -> dict[str, Tensor]:
    """The five losses by name, each a scalar; their plain sum is what training minimises.

    anchors: how many anchors could have been sampled, images times anchors an image; the losses of the region
    proposal network are sums over that many, though some images yield fewer
    average: the mean over processes of the counts (3,) of anchors, proposals and mask pixels that the losses
    are divided by: the mean of all processes' gradients is then that of one process with all their images
    """
    counts = torch.tensor([anchors, len(sampled.labels), sampled.mask_wanted.numel()], dtype=torch.float32)
    counts = counts.clamp(min=1).to(sampled.labels.device)
    of_anchors, of_rois, of_pixels = counts / average(counts)
    return {
        "objectness": objectness_loss(sampled.objectness, sampled.is_object, anchors) * of_anchors,
        "anchor_box": delta_loss(sampled.anchor_deltas, sampled.anchor_wanted, anchors) * of_anchors,
        "class": class_loss(sampled.class_logits, sampled.labels, sampled.competing) * of_rois,
        "box": delta_loss(sampled.box_deltas, sampled.box_wanted, len(sampled.labels)) * of_rois,
        "mask": mask_loss(sampled.mask_logits, sampled.mask_wanted) * of_pixels,
    }


def objectness_loss(
    logits: Float[Tensor, "k"], is_object: Bool[Tensor, "k"], count: int
) -> Float[Tensor, ""]:
    """Binary cross entropy, summed and divided by ``count``."""
    return F.binary_cross_entropy_with_logits(logits, is_object.to(logits.dtype), reduction="sum") / max(
        count, 1
    )


def delta_loss(
    deltas: Float[Tensor, "p 4"], wanted: Float[Tensor, "p 4"], count: int, beta: float = 0.0
) -> Float[Tensor, ""]:
    """Absolute differences, rounded to a parabola below ``beta``, summed and divided by ``count``.

    ``count`` is the number of all samples, background included: then each positive weighs the same in images
    of few and of many instances. Source: Fast R-CNN, eq. 3 (beta 1); Detectron2 uses 0, torchvision 1/9.
    """
    return F.smooth_l1_loss(deltas, wanted, reduction="sum", beta=beta) / max(count, 1)


def class_loss(
    logits: Float[Tensor, "r c"], labels: Int[Tensor, "r"], competing: Bool[Tensor, "r c"] | None = None
) -> Float[Tensor, ""]:
    """Mean cross entropy among the classes that compete for each row, None for all; background is the last."""
    if competing is not None:
        logits = logits.masked_fill(~competing, -torch.inf)
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def mask_loss(logits: Float[Tensor, "q m m"], wanted: Float[Tensor, "q m m"]) -> Float[Tensor, ""]:
    """Mean binary cross entropy of each positive proposal's mask for its true class; 0 if there is none."""
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(wanted.numel(), 1)
