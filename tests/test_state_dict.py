"""What the readers of PyTorch checkpoints share: unwrapping, the table of names, batch norm's epsilon."""

import pytest
import torch

from maskrcnn.errors import WeightsError
from maskrcnn.weights import detectron2, torchvision
from maskrcnn.weights.names import COCO, COCO_IDS, default_names
from maskrcnn.weights.state_dict import find_state, fold_epsilon, spell


@pytest.mark.parametrize("variance", [1e-12, 1e-8, 1e-5, 1.5e-5, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_a_folded_epsilon_scales_as_before(variance, epsilon):
    """weight / sqrt(variance + epsilon), with 1e-5 in place of epsilon after it."""
    given = torch.tensor([variance])
    ours, weight = fold_epsilon(given, torch.tensor([0.7]), epsilon)
    wanted = 0.7 / (given.double() + epsilon).sqrt()
    assert (weight.double() / (ours.double() + 1e-5).sqrt() / wanted - 1).abs() < 3e-7
    assert (ours > 0).all()


def test_weights_of_norms_with_ordinary_variances_keep_their_value():
    _, weight = fold_epsilon(torch.tensor([0.5]), torch.tensor([0.7]), 0.0)
    assert weight.item() == pytest.approx(0.7, rel=1e-7)


def test_a_variance_of_zero_without_epsilon_is_an_error():
    with pytest.raises(WeightsError, match="want positive running variances, got 0"):
        fold_epsilon(torch.tensor([1.0, 0.0]), torch.ones(2), 0.0)


def test_wrappers_and_prefixes_of_training_scripts_come_off():
    arrays = {"a.weight": torch.ones(1), "b.weight": torch.ones(2)}
    for content in (
        arrays,
        {"model": arrays, "epoch": 3},
        {"state_dict": {f"module.{k}": v for k, v in arrays.items()}},
        {"model_state_dict": {f"model.module.{k}": v for k, v in arrays.items()}, "loss": torch.ones(1)},
        {"model": {"state_dict": arrays}},
    ):
        assert find_state(content) == arrays
    assert find_state([1, 2]) == find_state({"model": 3}) == find_state({}) == {}


@pytest.mark.parametrize(
    ("table", "ours", "theirs"),
    [
        (torchvision.TABLE, "backbone.s3.1.conv2.norm.bias", "backbone.body.layer2.1.bn2.bias"),
        (torchvision.TABLE, "fpn.output5.weight", "backbone.fpn.layer_blocks.3.0.weight"),
        (torchvision.TABLE, "mask.conv4.bias", "roi_heads.mask_head.3.0.bias"),
        (torchvision.TABLE, "box.fc2.bias", "roi_heads.box_head.fc7.bias"),
        (detectron2.TABLE, "backbone.s4.0.shortcut.norm.bias", "backbone.bottom_up.res4.0.shortcut.norm.bias"),
        (detectron2.TABLE, "rpn.conv1.weight", "proposal_generator.rpn_head.conv.weight"),
        (detectron2.TABLE, "mask.conv1.norm.weight", "roi_heads.mask_head.mask_fcn1.norm.weight"),
    ],
)  # fmt: skip
def test_names_are_spelt_as_the_other_framework_does(table, ours, theirs):
    assert spell(ours, table) == theirs


def test_files_without_names_get_those_of_coco_where_the_count_fits():
    assert default_names(80) is COCO
    assert default_names(90) is COCO_IDS
    assert default_names(2) == ("class_1", "class_2")
    assert [name for name in COCO_IDS if name != "N/A"] == list(COCO)
