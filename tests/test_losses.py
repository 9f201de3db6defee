"""Targets and losses: what the recorded references compute, and what arithmetic on paper says.

data/losses.npz holds single operations of detectron2 0.6 and torchvision 0.29.2 with their inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskrcnn.config import Config
from maskrcnn.errors import ConfigError, ShapeError
from maskrcnn.model import MaskRCNN
from maskrcnn.model.losses import class_loss, delta_loss, mask_loss, objectness_loss
from maskrcnn.model.targets import Sampling, mask_targets, match, sample, sample_anchors, to_padded
from maskrcnn.ops.boxes import encode
from maskrcnn.records import Image, Target

UNIT = (1.0, 1.0, 1.0, 1.0)
TINY = Config(
    names=("cat", "dog", "owl"), depth=18, width=8, fpn_channels=8, rpn_channels=8, box_features=16,
    mask_convs=1, mask_channels=8, anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
    min_size=64, max_size=96, pre_nms=50, proposals=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parent / "data/losses.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def target(
    *rows: tuple[float, ...], labels: tuple[int, ...] = (), size: tuple[int, int] = (64, 80)
) -> Target:
    """Rectangles whose masks fill their boxes."""
    masks = torch.zeros(len(rows), *size, dtype=torch.bool)
    for i, (x1, y1, x2, y2) in enumerate(rows):
        masks[i, int(y1) : int(y2), int(x1) : int(x2)] = True
    return Target(boxes(*rows), torch.tensor(labels, dtype=torch.int64), masks)


def losses_of(model: MaskRCNN, *args: Any, **options: Any) -> dict[str, float]:
    return {name: loss.item() for name, loss in model.losses(*args, **options).items()}


def image(height: int = 64, width: int = 80) -> Image:
    return Image(
        np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


# Matching


def test_anchors_match_as_torchvision_and_detectron2(recorded: dict[str, torch.Tensor]) -> None:
    for source in ("torchvision", "detectron2"):
        truth, anchors = recorded[f"{source}_match_gt"][1:], recorded[f"{source}_match_boxes"]
        rpn = match(truth, anchors, 0.3, 0.7, low_quality=True)
        roi = match(truth, anchors, 0.5, 0.5)
        if source == "torchvision":
            assert rpn.equal(recorded["torchvision_match_rpn"])
            assert roi.equal(recorded["torchvision_match_roi"])
            continue
        for ours, stage in ((rpn, "rpn"), (roi, "roi")):
            label, index = (
                recorded[f"detectron2_match_{stage}_label"],
                recorded[f"detectron2_match_{stage}_index"],
            )
            assert torch.where(ours >= 0, 1, torch.where(ours == -1, 0, -1)).equal(label.long())
            assert ours[ours >= 0].equal(index[ours >= 0])


def test_a_ground_truth_that_overlaps_nothing_changes_no_anchor(recorded: dict[str, torch.Tensor]) -> None:
    lonely, anchors = recorded["torchvision_match_gt"], recorded["torchvision_match_boxes"]
    without = match(lonely[1:], anchors, 0.3, 0.7, low_quality=True)
    with_it = match(lonely, anchors, 0.3, 0.7, low_quality=True)
    assert with_it.equal(torch.where(without >= 0, without + 1, without))


def test_the_best_anchor_is_positive_below_the_threshold_with_all_its_ties() -> None:
    truth = boxes((0, 0, 10, 10))
    anchors = boxes((0, 0, 10, 4), (0, 6, 10, 10), (0, 0, 10, 3), (50, 50, 60, 60))  # IoU 0.4, 0.4, 0.3, 0
    assert match(truth, anchors, 0.3, 0.7).tolist() == [-2, -2, -2, -1]
    assert match(truth, anchors, 0.3, 0.7, low_quality=True).tolist() == [0, 0, -2, -1]


def test_matching_nothing_gives_background_or_nothing() -> None:
    assert match(boxes(), boxes((0, 0, 1, 1)), 0.3, 0.7, low_quality=True).tolist() == [-1]
    assert match(boxes((0, 0, 1, 1)), boxes(), 0.3, 0.7, low_quality=True).tolist() == []


def test_a_sample_fills_up_with_background_and_never_exceeds_its_share() -> None:
    matched = torch.tensor([0] * 10 + [-1] * 100 + [-2] * 50)
    few, rest = sample(matched, 16, 0.25)
    assert (len(few), len(rest)) == (4, 12)
    assert (matched[few] == 0).all() and (matched[rest] == -1).all()
    few, rest = sample(matched[8:], 16, 0.5)
    assert (len(few), len(rest)) == (2, 14)
    assert [len(part) for part in sample(matched[:3], 16, 0.25)] == [3, 0]


def test_the_generator_decides_the_sample() -> None:
    matched = torch.full((1000,), -1)
    first, again, other = (sample(matched, 8, 0.5, torch.Generator().manual_seed(s))[1] for s in (1, 1, 2))
    assert first.equal(again) and not first.equal(other)


# Targets


def test_boxes_go_to_where_the_content_lies_in_the_padded_frame() -> None:
    window = torch.tensor([16.0, 8.0, 176.0, 128.0])  # an 80x60 image, doubled, shifted
    assert to_padded(boxes((0, 0, 80, 60), (10, 20, 30, 40)), window, (60, 80)).tolist() == [
        [16, 8, 176, 128],
        [36, 48, 76, 88],
    ]


def test_mask_targets_equal_detectron2s(recorded: dict[str, torch.Tensor]) -> None:
    n, h, w = recorded["detectron2_loss_mask_gt_shape"].tolist()
    bits = np.unpackbits(recorded["detectron2_loss_mask_gt_packed"].numpy(), count=n * h * w)
    masks = torch.from_numpy(bits.reshape(n, h, w).astype(bool))
    rois = recorded["detectron2_loss_mask_boxes"]
    targets = mask_targets(masks, rois, torch.arange(n), torch.tensor([0.0, 0.0, w, h]), 28)
    assert targets.bool().equal(recorded["detectron2_loss_mask_targets_out"])
    again = mask_targets(
        masks[:1].expand(n, -1, -1), rois, torch.zeros(n).long(), torch.tensor([0.0, 0.0, w, h]), 28
    )
    one_by_one = [
        mask_targets(masks[:1], rois[i : i + 1], torch.zeros(1).long(), torch.tensor([0.0, 0.0, w, h]), 28)
        for i in range(n)
    ]
    assert again.equal(torch.cat(one_by_one))


def test_mask_targets_are_cut_from_the_original_pixels() -> None:
    masks = torch.zeros(1, 30, 40, dtype=torch.bool)
    masks[0, :, :20] = True  # the left half of the picture
    window = torch.tensor([10.0, 0.0, 90.0, 60.0])  # doubled, 10 to the right
    rois = boxes((10, 0, 90, 60), (30, 10, 50, 30), (50, 0, 90, 60))
    targets = mask_targets(masks, rois, torch.zeros(3).long(), window, 4)
    assert targets[0].tolist() == [[1, 1, 0, 0]] * 4
    assert targets[1].all() and not targets[2].any()


def test_no_boxes_have_no_mask_targets() -> None:
    shape = mask_targets(torch.zeros(0, 9, 9).bool(), boxes(), torch.zeros(0).long(), torch.ones(4), 28).shape
    assert shape == (0, 28, 28)


def test_anchor_deltas_lead_back_to_the_ground_truth() -> None:
    anchors, truth = boxes((0, 0, 16, 16), (40, 40, 56, 56), (0, 0, 4, 4)), boxes((2, 0, 18, 16))
    samples = sample_anchors(anchors, [truth, boxes()], TINY, Sampling(anchors=3), None)
    assert samples.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.is_object.tolist() == [True, False, False, False, False, False]
    assert samples.wanted.tolist() == [[2 / 16, 0, 0, 0]]


# Losses


def test_losses_equal_detectron2s(recorded: dict[str, torch.Tensor]) -> None:
    r = {
        k.removeprefix("detectron2_loss_"): v for k, v in recorded.items() if k.startswith("detectron2_loss_")
    }
    labels, count = r["rpn_labels"], int(r["rpn_batch_size_per_image"]) * 2
    seen, positive = labels >= 0, labels == 1
    anchors = r["rpn_anchors"].expand(2, -1, -1)[positive]
    assert objectness_loss(r["rpn_logits"][seen], labels[seen] == 1, count) == pytest.approx(
        float(r["rpn_cls_out"]), rel=1e-5
    )
    wanted = encode(r["rpn_gt_boxes"][positive], anchors, UNIT)
    assert delta_loss(r["rpn_deltas"][positive], wanted, count) == pytest.approx(
        float(r["rpn_loc_out"]), rel=1e-5
    )

    classes = r["roi_classes"]
    positive = torch.nonzero(classes < 4).squeeze(1)
    deltas = r["roi_deltas"].reshape(64, 4, 4)[positive, classes[positive]]
    wanted = encode(r["roi_gt_boxes"][positive], r["roi_boxes"][positive], (0.1, 0.1, 0.2, 0.2))
    assert class_loss(r["roi_logits"], classes) == pytest.approx(float(r["roi_cls_out"]), rel=1e-5)
    assert class_loss(r["roi_logits"], torch.full_like(classes, 4)) == pytest.approx(
        float(r["roi_cls_none"]), rel=1e-5
    )
    assert delta_loss(deltas, wanted, 64) == pytest.approx(float(r["roi_box_reg_out"]), rel=1e-5)

    rows = torch.arange(len(r["mask_classes"]))
    logits = r["mask_logits"][rows, r["mask_classes"]]
    assert mask_loss(logits, r["mask_targets_out"].float()) == pytest.approx(float(r["mask_out"]), rel=1e-5)


def test_smooth_losses_equal_torchvisions(recorded: dict[str, torch.Tensor]) -> None:
    r = {
        k.removeprefix("torchvision_loss_"): v
        for k, v in recorded.items()
        if k.startswith("torchvision_loss_")
    }
    positive = r["rpn_pos_mask"]
    seen = positive | r["rpn_neg_mask"]
    count = int(seen.sum())
    assert objectness_loss(r["rpn_logits"][seen], r["rpn_labels"][seen] == 1, count) == pytest.approx(
        float(r["rpn_objectness_out"]), rel=1e-5
    )
    smooth = delta_loss(r["rpn_deltas"][positive], r["rpn_targets"][positive], count, beta=1 / 9)
    assert smooth == pytest.approx(float(r["rpn_box_out"]), rel=1e-5)
    labels = r["roi_labels"]  # there, background is class 0
    rows = torch.nonzero(labels > 0).squeeze(1)
    deltas = r["roi_deltas"].reshape(64, 5, 4)[rows, labels[rows]]
    smooth = delta_loss(deltas, r["roi_targets"][rows], 64, beta=1 / 9)
    assert smooth == pytest.approx(float(r["roi_box_out"]), rel=1e-5)


def test_losses_of_nothing_are_zero() -> None:
    assert objectness_loss(torch.zeros(0), torch.zeros(0).bool(), 0) == 0
    assert delta_loss(torch.zeros(0, 4), torch.zeros(0, 4), 0) == 0
    assert class_loss(torch.zeros(0, 3), torch.zeros(0).long()) == 0
    assert mask_loss(torch.zeros(0, 28, 28), torch.zeros(0, 28, 28)) == 0


# The network


def test_an_undecided_network_loses_log_2_and_log_classes() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(TINY)
    for layer in (model.rpn.objectness, model.box.class_logits, model.mask.logits):
        torch.nn.init.zeros_(layer.weight)
    losses = losses_of(
        model, [image()], [target((8, 8, 40, 40), labels=(1,))], sampling=Sampling(anchors=64, rois=32)
    )
    assert list(losses) == ["objectness", "anchor_box", "class", "box", "mask"]
    assert losses["objectness"] == pytest.approx(math.log(2), rel=1e-5)
    assert losses["class"] == pytest.approx(math.log(4), rel=1e-5)
    assert losses["mask"] == pytest.approx(math.log(2), rel=1e-5)


def test_every_parameter_learns_and_some_images_may_be_empty() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(TINY).train()
    images = [image(), image(40, 96), image(96, 40)]
    targets = [
        target((8, 8, 40, 40), (30, 20, 60, 60), labels=(1, 2)),
        target(size=(40, 96)),
        target(size=(96, 40)),
    ]
    losses = model.losses(images, targets, torch.Generator().manual_seed(0))
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_images_without_instances_teach_only_background() -> None:
    torch.manual_seed(0)
    losses = MaskRCNN(TINY).losses([image()], [target()])
    assert losses["objectness"] > 0 and losses["class"] > 0
    assert losses["anchor_box"] == losses["box"] == losses["mask"] == 0
    torch.stack(list(losses.values())).sum().backward()


def test_images_of_different_size_lose_what_they_lose_alone() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(TINY)
    images, every = (
        [image(), image(64, 96)],
        Sampling(anchors=10**6, rois=10**6, rpn_positive=1.0, roi_positive=1.0),
    )
    targets = [target((8, 8, 40, 40), labels=(1,)), target((50, 4, 90, 60), labels=(0,), size=(64, 96))]
    both = losses_of(model, images, targets, sampling=every)
    alone = [losses_of(model, [i], [t], sampling=every) for i, t in zip(images, targets, strict=True)]
    for name in ("objectness", "anchor_box"):
        assert both[name] == pytest.approx(sum(a[name] for a in alone) / 2, rel=1e-4)


def test_class_agnostic_heads_and_inclusive_ends_have_losses() -> None:
    torch.manual_seed(0)
    config = replace(TINY, class_agnostic_boxes=True, class_agnostic_masks=True)
    config = config.with_options(inclusive_ends=True, pad_proposals=True, per_level=False)
    losses = MaskRCNN(config).losses([image()], [target((8, 8, 40, 40), labels=(2,))])
    assert all(loss.isfinite() for loss in losses.values())


def test_a_few_steps_learn_one_picture() -> None:
    torch.manual_seed(0)
    model = MaskRCNN(TINY).train()
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[8:40, 8:40] = 255
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    totals = []
    for _ in range(25):
        losses = model.losses(
            [Image(pixels)], [target((8, 8, 40, 40), labels=(1,))], sampling=Sampling(64, rois=32)
        )
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.4 * totals[0]


# Mistakes in annotations


@pytest.mark.parametrize("row", [(5.0, 5.0, 5.0, 9.0), (9.0, 1.0, 3.0, 9.0), (0.0, 0.0, float("nan"), 4.0)])
def test_a_box_without_area_is_refused(row: tuple[float, ...]) -> None:
    with pytest.raises(ShapeError, match="in row 1"):
        Target(boxes((0, 0, 2, 2), row), torch.zeros(2).long(), torch.zeros(2, 9, 9).bool())


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"masks: want \(1, h, w\) torch.bool"):
        Target(boxes((0, 0, 2, 2)), torch.zeros(1).long(), torch.zeros(1, 9, 9))
    with pytest.raises(ShapeError, match=r"boxes: want \(2, 4\) torch.float32"):
        Target(boxes((0, 0, 2, 2)), torch.zeros(2).long(), torch.zeros(2, 9, 9).bool())


def test_targets_that_do_not_fit_the_images_or_the_model_are_refused() -> None:
    model = MaskRCNN(TINY)
    with pytest.raises(ShapeError, match=r"masks of image 0: want \(64, 80\)"):
        model.losses([image()], [target((0, 0, 9, 9), labels=(0,), size=(80, 64))])
    with pytest.raises(ConfigError, match=r"labels of image 0: want 0\.\.2"):
        model.losses([image()], [target((0, 0, 9, 9), labels=(3,))])
    with pytest.raises(ShapeError, match="got 0 for 1"):
        model.losses([image()], [])
