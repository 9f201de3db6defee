"""What the network should have said: anchors and proposals, matched with the annotated instances and sampled.

(Faster R-CNN, section 3.1; Fast R-CNN, section 2.3; Mask R-CNN, section 3.) Pure functions; boxes are xyxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..config import Config
from ..errors import ConfigError, ShapeError
from ..ops.boxes import area, encode, intersection, iou, shrink
from ..ops.roi_align import align_weights
from ..records import Image, ImageBatch, Proposals, Target

BELOW, BETWEEN = -1, -2
INSIDE = 0.5  # a box lies inside a region when this share of its area does


@dataclass(frozen=True)
class Sampling:
    """How many anchors and proposals of each image the losses see, and which count as positive.

    The defaults are the paper's. ``*_positive`` is the largest share of positives; an anchor is positive from
    an IoU of ``rpn_high`` and negative below ``rpn_low``, a proposal is one or the other at ``roi_iou``.

    Where images do not label every class (`Target.labelled`):
    rpn_complete : from this share of labelled classes on, whatever has no box is background to the region
                   proposal network; below it only what lies inside known objects, see `doubtful`
    exclusive    : an instance of one class is none of the others, also of those that its image does not label.
                   True where the label sets do not overlap in meaning, as ``car`` and ``vehicle`` would; off, two
                   classes that no image labels together never learn to tell their objects apart
    """

    anchors: int = 256
    rpn_positive: float = 0.5
    rpn_high: float = 0.7
    rpn_low: float = 0.3
    rois: int = 512
    roi_positive: float = 0.25
    roi_iou: float = 0.5
    rpn_complete: float = 1.0
    exclusive: bool = False


PAPER = Sampling()


@dataclass(frozen=True, eq=False)
class AnchorSamples:
    """Sampled anchors of a batch, k in all, p of them positive.

    image_index (k,) · anchor_index (k,) into AnchorScores.anchors · is_object (k,) bool
    · wanted (p, 4) deltas of the positive ones, in their order
    """

    image_index: Tensor
    anchor_index: Tensor
    is_object: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False)
class RoISamples:
    """Sampled proposals of a batch, r in all, q of them positive.

    boxes (r, 4) · labels (r,) int64, background last · image_index (r,)
    · competing (r, classes + 1) bool, the classes that the cross entropy of each compares
    · wanted (q, 4) deltas and masks (q, m, m) 0 or 1 of the positive ones, in their order
    """

    boxes: Tensor
    labels: Tensor
    image_index: Tensor
    competing: Tensor
    wanted: Tensor
    masks: Tensor


def check_targets(images: Sequence[Image], targets: Sequence[Target], num_classes: int) -> None:
    """Raise ShapeError or ConfigError unless each target fits its image and the model."""
    if len(images) != len(targets) or not images:
        raise ShapeError(
            f"targets: want one for each of at least one image, got {len(targets)} for {len(images)}"
        )
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        if tuple(target.masks.shape[1:]) != image.size:
            raise ShapeError(f"masks of image {i}: want {image.size}, got {tuple(target.masks.shape[1:])}")
        if len(target.labels) and not 0 <= int(target.labels.min()) <= int(target.labels.max()) < num_classes:
            raise ConfigError(
                f"labels of image {i}: want 0..{num_classes - 1}, background not among them, "
                f"got {sorted(set(target.labels.tolist()))}"
            )
        if target.labelled is not None and len(target.labelled) != num_classes:
            raise ShapeError(
                f"labelled of image {i}: want ({num_classes},), got {tuple(target.labelled.shape)}"
            )


def sample_anchors(
    anchors: Float[Tensor, "n 4"],
    truths: Sequence[Tensor],
    config: Config,
    sampling: Sampling,
    generator: torch.Generator | None,
    crowds: Sequence[Tensor] | None = None,
    complete: Sequence[bool] | None = None,
) -> AnchorSamples:
    """Anchors of each image that the losses see.

    truths   : the boxes (g, 4) of each image in the padded frame
    crowds   : its crowd regions (c, 4) there; None for none
    complete : whether what has no box is background, see `is_complete`; None where it is in every image
    """
    end, parts = float(config.dialect.inclusive_ends), []
    for i, truth in enumerate(truths):
        matched = match(truth, anchors, sampling.rpn_low, sampling.rpn_high, low_quality=True)
        regions = truth[:0] if crowds is None else crowds[i]
        unsure = doubtful(anchors, truth, regions, complete is None or complete[i])
        matched = torch.where(unsure & (matched == BELOW), BETWEEN, matched)
        positive, negative = sample(matched, sampling.anchors, sampling.rpn_positive, generator)
        index = torch.cat([positive, negative])
        wanted = encode(shrink(truth[matched[positive]], end), shrink(anchors[positive], end), config.rpn_std)
        parts.append((torch.full_like(index, i), index, matched[index] >= 0, wanted))
    return AnchorSamples(*(torch.cat(column) for column in zip(*parts, strict=True)))


def sample_rois(
    proposals: Proposals,
    truths: Sequence[Tensor],
    targets: Sequence[Target],
    batch: ImageBatch,
    config: Config,
    sampling: Sampling,
    generator: torch.Generator | None,
) -> RoISamples:
    """Proposals of each image that the heads learn from, and what they should say; ``truths`` as above."""
    end, parts = float(config.dialect.inclusive_ends), []
    for i, (truth, target) in enumerate(zip(truths, targets, strict=True)):
        boxes = with_truth(proposals.boxes[proposals.image_index == i], truth)
        matched = match(truth, boxes, sampling.roi_iou, sampling.roi_iou)
        crowds = to_padded(target.crowds.to(boxes.device), batch.windows[i], batch.sizes[i])
        matched = torch.where((matched == BELOW) & doubtful(boxes, truth, crowds, True), BETWEEN, matched)
        positive, negative = sample(matched, sampling.rois, sampling.roi_positive, generator)
        index, instance = torch.cat([positive, negative]), matched[positive]
        labels = torch.full_like(index, config.num_classes)
        labels[: len(positive)] = target.labels.to(labels.device)[instance]
        wanted = encode(shrink(truth[instance], end), shrink(boxes[positive], end), config.box_std)
        masks = mask_targets(
            target.masks.to(boxes.device), boxes[positive], instance, batch.windows[i], config.mask_size
        )
        competing = compete(labels, target.labelled, config.num_classes, sampling.exclusive)
        parts.append((boxes[index], labels, torch.full_like(index, i), competing, wanted, masks))
    return RoISamples(*(torch.cat(column) for column in zip(*parts, strict=True)))


def is_complete(target: Target, share: float) -> bool:
    """Whether an image labels at least this share of the classes."""
    return target.labelled is None or float(target.labelled.float().mean()) >= share


def doubtful(
    boxes: Float[Tensor, "n 4"], truth: Float[Tensor, "g 4"], crowds: Float[Tensor, "c 4"], complete: bool
) -> Bool[Tensor, "n"]:
    """Boxes that may hold an object though none is annotated there: background must not be learnt from them.

    That is so inside crowd regions, and, in an image that does not label every class (not ``complete``),
    everywhere but inside an annotated box: what fills half of a box and more there is a part of the known
    object, which no proposal should be. The region proposal network has one logit for all classes, so that it
    cannot leave out the classes that are not labelled; it has to leave out the places where they may be.
    """
    inside_crowd = covered(boxes, crowds) >= INSIDE
    return inside_crowd if complete else inside_crowd | (covered(boxes, truth) < INSIDE)


def covered(boxes: Float[Tensor, "n 4"], regions: Float[Tensor, "g 4"]) -> Float[Tensor, "n"]:
    """The largest share of each box's area that lies in one region; 0 where there is none."""
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    return (intersection(regions, boxes) / area(boxes).clamp(min=1e-6)).amax(dim=0)


def compete(
    labels: Int[Tensor, "r"], labelled: Bool[Tensor, "c"] | None, num_classes: int, exclusive: bool
) -> Bool[Tensor, "r k"]:
    """The classes among which each sampled proposal has to choose its own, (r, classes + 1), background last.

    labels   : what each is, background = num_classes
    labelled : classes annotated in the image; None for all
    Background that may be an object of a class that is not labelled says nothing about that class: its logit
    stays out of the softmax. With ``exclusive``, instances do: see `Sampling`.
    """
    competing = torch.ones(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
    if labelled is not None:
        rows = labels == num_classes if exclusive else torch.ones_like(labels, dtype=torch.bool)
        competing[rows, :-1] = labelled.to(labels.device)
        competing[torch.arange(len(labels), device=labels.device), labels] = True
    return competing


def match(
    truth: Float[Tensor, "g 4"],
    boxes: Float[Tensor, "n 4"],
    low: float,
    high: float,
    *,
    low_quality: bool = False,
) -> Int[Tensor, "n"]:
    """Index of the ground truth that each box stands for; -1 where IoU < low, -2 where low <= IoU < high.

    low_quality: the boxes that overlap a ground truth most, ties included, also stand for the one that they
    overlap most themselves. A ground truth that overlaps no box asks for none: torchvision and Detectron2 let
    it make every box positive, because all tie at 0.
    """
    if len(truth) == 0:
        return torch.full((len(boxes),), BELOW, device=boxes.device)
    overlap = iou(truth, boxes)
    best, index = overlap.max(dim=0)
    matched = torch.where(best >= high, index, torch.where(best >= low, BETWEEN, BELOW))
    if low_quality and len(boxes):
        most = overlap.amax(dim=1, keepdim=True)
        rescued = ((overlap == most) & (most > 0)).any(dim=0)
        matched = torch.where(rescued, index, matched)
    return matched


def sample(
    matched: Int[Tensor, "n"], count: int, positive: float, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "p"], Int[Tensor, "q"]]:
    """Random positions of matched boxes and of background (-1), at most ``count`` together.

    positive  : the largest share of matched ones; background takes what is left
    generator : of the CPU, whatever the device of ``matched``, so that a seed means the same everywhere
    """
    positives, negatives = torch.nonzero(matched >= 0).squeeze(1), torch.nonzero(matched == BELOW).squeeze(1)
    few = _some(positives, int(count * positive), generator)
    return few, _some(negatives, count - len(few), generator)


def to_padded(
    boxes: Float[Tensor, "n 4"], window: Float[Tensor, "4"], size: tuple[int, int]
) -> Float[Tensor, "n 4"]:
    """Boxes in pixels of an image of this (h, w) to the padded frame, where its content fills ``window``."""
    scale, shift = _frame(window, size)
    return boxes * scale + shift


def mask_targets(
    masks: Bool[Tensor, "g h w"],
    boxes: Float[Tensor, "n 4"],
    instance: Int[Tensor, "n"],
    window: Float[Tensor, "4"],
    side: int,
) -> Float[Tensor, "n s s"]:
    """The part of its instance's mask that each box sees, as 0 and 1 at side x side.

    masks    : in pixels of the original image
    boxes    : in the padded frame; ``window`` (4,) says where the image's content lies there
    instance : which mask belongs to each box
    Source   : RoIAlign of the mask, cut at one half, as Detectron2's BitMasks.crop_and_resize; here on the
               original pixels, and only on those under the boxes of the instance
    """
    h, w = masks.shape[1:]
    scale, shift = _frame(window, (h, w))
    boxes = (boxes - shift) / scale
    targets = boxes.new_zeros(len(boxes), side, side)
    for i in instance.unique().tolist():
        mine = torch.nonzero(instance == i).squeeze(1)
        rois = boxes[mine]
        # One pixel more on each side, which the bilinear samples at the rim reach.
        left, top = (rois[:, :2].amin(dim=0).floor() - 1).clamp(min=0).long().tolist()
        right, bottom = (rois[:, 2:].amax(dim=0).ceil() + 1).long().tolist()
        part = masks[i, top : min(bottom, h), left : min(right, w)].to(boxes.dtype)
        if part.numel() == 0:
            continue
        rois = rois - rois.new_tensor([left, top, left, top])
        rows, columns = align_weights(rois, part.shape, side)
        aligned = rows @ part @ columns.transpose(1, 2)
        targets[mine] = (aligned >= 0.5).to(boxes.dtype)
    return targets


def with_truth(proposals: Float[Tensor, "n 4"], truth: Float[Tensor, "g 4"]) -> Float[Tensor, "m 4"]:
    """Proposals that have an area, then the annotated boxes: early on, these are the only hits."""
    return torch.cat([proposals[area(proposals) > 0], truth])


def _some(positions: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    order = torch.randperm(len(positions), generator=generator)[:count]
    return positions[order.to(positions.device)]


def _frame(window: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Scale and shift (4,) from an image of this (h, w) to the padded frame."""
    extent = window.new_tensor([size[1], size[0]])
    return ((window[2:] - window[:2]) / extent).repeat(2), window[:2].repeat(2)
