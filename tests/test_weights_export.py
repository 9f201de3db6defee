"""Weights go back to the formats they came from, and come out as they went in."""

import pytest
import torch

from maskrcnn import weights
from maskrcnn.config import DETECTRON2, MATTERPORT, MMDETECTION, TORCHVISION, Config
from maskrcnn.errors import ConfigError, WeightsError
from maskrcnn.model import MaskRCNN
from maskrcnn.weights import native

NARROW = {"width": 8, "fpn_channels": 16, "rpn_channels": 16, "box_features": 32, "mask_channels": 16}
DIALECTS = {"torchvision": TORCHVISION, "detectron2": DETECTRON2, "mmdet": MMDETECTION}
LARGE_JITTER = {
    "fpn_norm": True, "rpn_convs": 2, "box_convs": 4, "box_fcs": 1, "box_conv_norm": True, "mask_norm": True
}  # fmt: skip
RESNEXT = {"depth": 101, "groups": 4, "group_width": 4}


def network(**fields):
    """A narrow network with random numbers everywhere."""
    torch.manual_seed(5)
    model = MaskRCNN(Config(names=("nut", "bolt", "pin"), **{**NARROW, **fields}))
    for name, value in model.state_dict().items():
        value.copy_(
            torch.rand_like(value) + 0.5 if name.endswith("running_var") else torch.randn_like(value) * 0.1
        )
    return model


@pytest.mark.parametrize("to", DIALECTS)
@pytest.mark.parametrize("fields", [{}, LARGE_JITTER, RESNEXT], ids=["plain", "large jitter", "resnext"])
def test_there_and_back(tmp_path, to, fields):
    stride = to == "detectron2" and "groups" not in fields
    model = network(**fields, stride_in_1x1=stride, dialect=DIALECTS[to])
    ours = native.save(model, tmp_path / "ours.safetensors")
    weights.convert(ours, tmp_path / "theirs.pth", to=to)
    config, state = weights.read(tmp_path / "theirs.pth", names=["nut", "bolt", "pin"])
    assert config == model.config
    for name, value in model.state_dict().items():
        if name == "backbone.stem.weight":  # which the deviation of the input goes out of and into
            assert torch.allclose(state[name], value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(state[name], value), name
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_mmdetection_keeps_the_names(tmp_path):
    model = network(stride_in_1x1=True, dialect=MMDETECTION)
    native.save(model, tmp_path / "a.safetensors")
    weights.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to="mmdet")
    config, state = weights.read(tmp_path / "a.pth")
    assert config == model.config
    assert torch.equal(state["backbone.stem.weight"], model.state_dict()["backbone.stem.weight"])


def test_what_the_other_has_no_place_for_is_folded(tmp_path):
    """Matterport's dense layers have a norm, and its proposals' deltas a unit of their own."""
    model = network(
        box_fc_norm=True, mask_norm=True, rpn_std=(0.1, 0.1, 0.2, 0.2), stride_in_1x1=True, dialect=MATTERPORT
    )
    native.save(model, tmp_path / "a.safetensors")
    weights.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to="detectron2")
    again = weights.load(tmp_path / "a.pth")
    assert not again.config.box_fc_norm
    features = torch.rand(5, 16, 7, 7)
    with torch.inference_mode():
        before, after = model.box(features), again.box(features)
    assert torch.allclose(before.class_logits, after.class_logits, atol=1e-5)
    assert torch.allclose(before.deltas, after.deltas, atol=1e-5)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(3)
    assert torch.allclose(again.rpn.deltas.bias, model.rpn.deltas.bias * std)


def test_matterport_and_back(tmp_path):
    model = network(
        box_fc_norm=True, mask_norm=True, rpn_std=(0.1, 0.1, 0.2, 0.2), stride_in_1x1=True, dialect=MATTERPORT
    )
    native.save(model, tmp_path / "a.safetensors")
    weights.convert(tmp_path / "a.safetensors", tmp_path / "a.h5", to="h5")
    config, state = weights.read(tmp_path / "a.h5", names=["nut", "bolt", "pin"])
    assert (config.box_fc_norm, config.mask_norm, config.rpn_std) == (True, True, (0.1, 0.1, 0.2, 0.2))
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):  # which Keras's epsilon goes out of and into
            assert torch.allclose(state[name], value, rtol=2e-7, atol=0), name
        else:
            assert torch.equal(state[name], value), name


def test_networks_without_matterports_norms_get_some_that_do_nothing(tmp_path):
    model = network(stride_in_1x1=True, dialect=DETECTRON2)
    native.save(model, tmp_path / "a.safetensors")
    weights.convert(tmp_path / "a.safetensors", tmp_path / "a.h5", to="h5")
    again = weights.load(tmp_path / "a.h5")
    features, labels = torch.rand(5, 16, 7, 7), torch.tensor([0, 1, 2, 1, 0])
    with torch.inference_mode():
        assert torch.allclose(model.box(features).deltas, again.box(features).deltas, atol=1e-5)
        wanted = model.box(features).class_logits.softmax(1)
        assert torch.allclose(wanted, again.box(features).class_logits.softmax(1), atol=1e-6)
        features = torch.rand(5, 16, 14, 14)
        assert torch.allclose(model.mask(features, labels), again.mask(features, labels), atol=1e-5)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(3)
    assert torch.allclose(again.rpn.deltas.bias * std, model.rpn.deltas.bias)
    native.save(network(dialect=DETECTRON2), tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="stride_in_1x1"):
        weights.convert(tmp_path / "b.safetensors", tmp_path / "b.h5", to="h5")


def test_what_cannot_be_written_says_so(tmp_path):
    native.save(network(rpn_convs=2, box_convs=0), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="want safetensors"):
        weights.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to="keras")
    with pytest.raises(ConfigError, match="float32"):
        weights.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to="mmdet", dtype="float16")
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.convert(tmp_path / "a.safetensors", tmp_path / "a.safetensors" / "b.pth", to="mmdet")
