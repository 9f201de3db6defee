"""Images that do not label every class, and crowds: nothing is punished that may be right."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskrcnn.errors import ShapeError
from maskrcnn.model.losses import class_loss
from maskrcnn.model.targets import (
    Sampling,
    compete,
    covered,
    doubtful,
    is_complete,
    sample_anchors,
)
from maskrcnn.records import Image, Target
from training_script import TINY, tiny


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def target(labelled: torch.Tensor | None, crowds: torch.Tensor | None = None) -> Target:
    masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    crowds = boxes() if crowds is None else crowds
    return Target(boxes((8, 8, 40, 40)), torch.tensor([1]), masks, crowds, labelled)


def image() -> Image:
    return Image(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8))


def losses(given: Target, sampling: Sampling) -> dict[str, float]:
    found = tiny().losses([image()], [given], torch.Generator().manual_seed(0), sampling)
    return {name: loss.item() for name, loss in found.items()}


def test_covered_is_the_largest_share_of_a_box_in_one_region() -> None:
    given = boxes((0, 0, 10, 10), (0, 0, 4, 4), (50, 50, 60, 60))
    regions = boxes((0, 0, 10, 4), (6, 0, 20, 20))  # 40 and 40 of 100 pixels; 16 of 16 and 0; none
    assert covered(given, regions).tolist() == pytest.approx([0.4, 1.0, 0.0])
    assert covered(given, boxes()).tolist() == [0, 0, 0]
    assert covered(boxes(), regions).tolist() == []


def test_background_is_certain_outside_crowds_and_where_not_all_is_labelled_only_inside_known_objects() -> (
    None
):
    given = boxes((0, 0, 10, 10), (30, 30, 40, 40), (60, 60, 70, 70))
    truth, crowd = boxes((0, 0, 10, 20)), boxes((35, 30, 80, 35), (35, 30, 45, 45))
    assert doubtful(given, truth, crowd, True).tolist() == [False, True, False]  # half of the second is crowd
    assert doubtful(given, truth, crowd, False).tolist() == [False, True, True]
    assert doubtful(given, boxes(), boxes(), False).tolist() == [True, True, True]


def test_anchors_where_an_unlabelled_object_may_be_are_not_negative() -> None:
    anchors = boxes((0, 0, 20, 20), (0, 0, 20, 5), (40, 40, 60, 60), (100, 100, 110, 110))
    truth, crowd = boxes((0, 0, 20, 20)), boxes((90, 90, 120, 120))
    every = Sampling(anchors=8)
    for complete, wanted in ((True, [0, 1, 2]), (False, [0, 1])):  # the second is a part of the object
        found = sample_anchors(anchors, [truth], TINY, every, None, [crowd], [complete])
        assert sorted(found.anchor_index.tolist()) == wanted
        assert found.anchor_index[found.is_object].tolist() == [0]


def test_an_image_is_complete_from_a_share_of_labelled_classes_on() -> None:
    assert is_complete(target(None), 1.0) and is_complete(target(flags(1, 1)), 1.0)
    assert not is_complete(target(flags(0, 1)), 0.6) and is_complete(target(flags(0, 1)), 0.5)


def test_background_leaves_out_unlabelled_classes_and_instances_do_unless_classes_are_exclusive() -> None:
    labels = torch.tensor([0, 3, 2])  # class 0, background, and class 2, which this image does not label
    assert compete(labels, flags(1, 1, 0), 3, exclusive=False).int().tolist() == [
        [1, 1, 0, 1],
        [1, 1, 0, 1],
        [1, 1, 1, 1],
    ]
    assert compete(labels, flags(1, 1, 0), 3, exclusive=True).int().tolist() == [
        [1, 1, 1, 1],
        [1, 1, 0, 1],
        [1, 1, 1, 1],
    ]
    assert compete(labels, None, 3, exclusive=False).all()


def test_an_unlabelled_class_gets_no_gradient_and_does_not_count() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0, 0.0]], requires_grad=True)
    loss = class_loss(logits, torch.tensor([3]), flags(1, 1, 0, 1)[None])
    assert loss.item() == pytest.approx(math.log(3))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, -2 / 3])
    assert class_loss(logits, torch.tensor([3]), flags(0, 0, 0, 1)[None]).item() == 0


def test_labelling_every_class_gives_exactly_what_no_flags_give() -> None:
    sampling = Sampling(anchors=64, rois=32)
    assert losses(target(flags(1, 1)), sampling) == losses(target(None), sampling)


def test_an_image_that_labels_nothing_says_nothing_but_of_its_boxes() -> None:
    nothing = Target(boxes(), torch.zeros(0).long(), torch.zeros(0, 64, 80).bool(), boxes(), flags(0, 0))
    assert all(value == 0 for value in losses(nothing, Sampling(anchors=64, rois=32)).values())


def test_what_lies_in_a_crowd_is_not_background() -> None:
    everywhere = boxes((0, 0, 80, 64))
    alone = replace(target(None, everywhere), boxes=boxes(), labels=torch.zeros(0).long(),
                    masks=torch.zeros(0, 64, 80).bool())  # fmt: skip
    found = losses(alone, Sampling(anchors=64, rois=32))
    assert found["class"] == found["box"] == found["mask"] == 0


def test_flags_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"labelled of image 0: want \(2,\), got \(3,\)"):
        losses(target(flags(1, 1, 0)), Sampling())
