"""Weights go back to the formats they came from, and come out as they went in."""

import dataclasses

import h5py
import pytest
import torch

from maskrcnn import weights
from maskrcnn.config import DETECTRON2, MATTERPORT, MMDETECTION, TORCHVISION, Config
from maskrcnn.errors import ConfigError, WeightsError
from maskrcnn.model import MaskRCNN
from maskrcnn.weights import detectron2, native, torchvision

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
    model = network(**fields, dialect=DIALECTS[to])
    ours = native.save(model, tmp_path / "ours.safetensors")
    weights.convert(ours, tmp_path / "theirs.pth", to=to)
    names = {"names": ["nut", "bolt", "pin"]} if to == "torchvision" else {}  # the others' files have them
    config, state = weights.read(tmp_path / "theirs.pth", **names)
    assert config == model.config
    for name, value in model.state_dict().items():
        if name == "backbone.stem.weight":  # which the deviation of the input goes out of and into
            assert torch.allclose(state[name], value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(state[name], value), name
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
def test_settings_go_along_where_a_file_has_room_for_them(tmp_path, to):
    """Such as those of a network that torchvision trained: stride in the 3x3, pooling without the half pixel."""
    fields = {"min_size": 320, "max_size": 480, "score": 0.25, "nms": 0.4, "max_detections": 7, "proposals": 77,
              "pre_nms": 99, "rpn_nms": 0.6, "mean": (110.0, 120.0, 130.0),
              "anchor_sizes": ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
              "anchor_ratios": (0.25, 1.0, 4.0)}  # fmt: skip
    dialect = dataclasses.replace(DIALECTS[to], roi_op="align_legacy", sampling_ratio=3)
    for stride in (False, True):
        model = network(**fields, stride_in_1x1=stride, dialect=dialect)
        native.save(model, tmp_path / "a.safetensors")
        weights.convert(tmp_path / "a.safetensors", tmp_path / "a.pth", to=to)
        config, state = weights.read(tmp_path / "a.pth")
        assert config == model.config
        assert torch.equal(state["backbone.stem.weight"], model.state_dict()["backbone.stem.weight"]) == (
            to == "detectron2" or stride
        )


def test_settings_of_another_making_are_named(tmp_path):
    for wrong in (1, {"settings": {}, "thing_classes": []}, {"settings": None}):
        torch.save(
            {**detectron2.write(network().config, network().state_dict()), "maskrcnn": wrong},
            tmp_path / "a.pth",
        )
        with pytest.raises(WeightsError, match="maskrcnn: want the settings"):
            weights.load(tmp_path / "a.pth")


def test_the_other_framework_is_told_what_its_own_defaults_are_not(tmp_path):
    """Defaults as in torchvision 0.29 models/detection/{mask_rcnn,faster_rcnn}.py; detectron2 config/defaults.py and
    configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml."""
    usual = Config(names=("nut",) * 80)
    assert torchvision.told(usual) == (
        "torchvision computes it by maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)"
    )
    assert "maskrcnn_resnet50_fpn_v2(" in torchvision.told(dataclasses.replace(usual, **LARGE_JITTER))
    deep = torchvision.told(dataclasses.replace(usual, depth=101, score=0.5, mean=(127.5, 127.5, 127.5)))
    assert 'backbone_name="resnet101"' in deep
    assert deep.endswith("num_classes=81, box_score_thresh=0.5, image_mean=[0.5, 0.5, 0.5])")
    assert "width, " in torchvision.told(network().config)
    assert detectron2.told(dataclasses.replace(usual, stride_in_1x1=True, dialect=DETECTRON2)) == (
        "Detectron2 computes it by mask_rcnn_R_50_FPN_3x.yaml"
    )
    other = detectron2.told(dataclasses.replace(usual, names=("nut", "bolt"), score=0.5, dialect=DETECTRON2))
    assert other.split(" with ")[1] == (
        'MODEL.RESNETS.STRIDE_IN_1X1 "False" MODEL.ROI_HEADS.SCORE_THRESH_TEST "0.5" MODEL.ROI_HEADS.NUM_CLASSES "2"'
    )


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


def test_a_matterport_file_has_every_layer_and_array_in_keras_order(tmp_path):
    """Keras finds groups by name, and the arrays of one by their place: it put deltas where objectness belongs."""
    model = network(box_fc_norm=True, mask_norm=True, stride_in_1x1=True, dialect=MATTERPORT)
    native.save(model, tmp_path / "a.safetensors")
    weights.convert(tmp_path / "a.safetensors", tmp_path / "a.h5", to="h5")
    with h5py.File(tmp_path / "a.h5") as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        arrays = {name: [key.decode() for key in file[name].attrs["weight_names"]] for name in names}
    assert len(names) == 236 and names[:3] == ["input_image", "zero_padding2d_1", "conv1"]
    inside = ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
    assert arrays["rpn_model"] == [f"{layer}/{kind}:0" for layer in inside for kind in ("kernel", "bias")]
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    assert arrays["bn_conv1"] == [f"bn_conv1/{kind}:0" for kind in norm]


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


NETWORKS = {
    "torchvision": {"dialect": TORCHVISION},
    "torchvision, ResNet-18": {"depth": 18, "dialect": TORCHVISION},
    "torchvision, ResNet-34": {"depth": 34, "dialect": TORCHVISION},
    "torchvision, second version": {**LARGE_JITTER, "dialect": TORCHVISION},
    "torchvision, two sizes a level": {"anchor_sizes": tuple((s, 2 * s) for s in (8, 16, 32, 64, 128)),
                                       "dialect": TORCHVISION},
    "detectron2": {"stride_in_1x1": True, "dialect": DETECTRON2},
    "detectron2, ResNeXt": {"groups": 4, "group_width": 4, "dialect": DETECTRON2},
    "detectron2, large jitter": {**LARGE_JITTER, "stride_in_1x1": True, "dialect": DETECTRON2},
    "detectron2, one box for all classes": {"class_agnostic_boxes": True, "class_agnostic_masks": True,
                                            "stride_in_1x1": True, "dialect": DETECTRON2},
    "mmdet": {"dialect": MMDETECTION},
    "mmdet, caffe": {"stride_in_1x1": True, "dialect": MMDETECTION},
    "mmdet, other units": {"box_std": (0.05, 0.05, 0.1, 0.1), "dialect": MMDETECTION},
    "matterport": {"box_fc_norm": True, "mask_norm": True, "rpn_std": (0.1, 0.1, 0.2, 0.2), "stride_in_1x1": True,
                   "dialect": MATTERPORT},
}  # fmt: skip
CANNOT = {  # what the target's own code cannot build
    "torchvision": {"detectron2", "detectron2, large jitter", "mmdet, caffe", "matterport",
                    "detectron2, one box for all classes"},
    "h5": {"torchvision", "torchvision, ResNet-18", "torchvision, ResNet-34", "torchvision, second version",
           "torchvision, two sizes a level", "detectron2, ResNeXt", "detectron2, large jitter", "mmdet",
           "mmdet, other units", "detectron2, one box for all classes"},
}  # fmt: skip


def outputs(model):
    """What each part of a network makes of the same inputs, deltas in units of 1."""
    torch.manual_seed(0)
    pixels, rois, cells = torch.rand(1, 3, 64, 64), torch.rand(5, 16, 7, 7), torch.rand(5, 16, 14, 14)
    labels = torch.tensor([0, 1, 2, 1, 0])
    with torch.inference_mode():
        pyramid = model.fpn(list(model.backbone(pixels)))
        hidden = model.rpn._hidden(torch.rand(1, 16, 8, 8))
        box = model.box(rois)
        deltas = model.rpn.deltas(hidden).unflatten(1, (-1, 4))
        return [
            *pyramid, model.rpn.objectness(hidden).sigmoid(),
            deltas * torch.tensor(model.config.rpn_std)[:, None, None],
            box.class_logits.softmax(1), box.deltas * torch.tensor(model.config.box_std),
            model.mask(cells, labels).sigmoid(),
        ]  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def origin(request, tmp_path_factory):
    """A network's name, our file of it, what it computes, and the same after it went through its source's own file."""
    model, folder = network(**NETWORKS[request.param]), tmp_path_factory.mktemp("origin")
    path = native.save(model, folder / "ours.safetensors")
    source = request.param.split(",")[0].replace("matterport", "h5")
    theirs = weights.convert(path, folder / f"theirs{ENDINGS.get(source, '.pth')}", to=source)
    options = {"names": ["nut", "bolt", "pin"], "anchor_sizes": model.config.anchor_sizes,
               "same_stem_pool": model.config.dialect.same_stem_pool}  # fmt: skip
    return request.param, path, options, outputs(model), outputs(weights.load(theirs, **options))


ENDINGS = {"h5": ".h5", "safetensors": ".safetensors"}


def far(a, b):
    """The largest difference of two lists of outputs, as a share of their largest value."""
    return max(((x - y).abs().max() / max(x.abs().max(), 1.0)).item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("to", ["safetensors", "torchvision", "detectron2", "mmdet", "h5"])
def test_every_format_goes_to_every_other_or_says_why_not(tmp_path, origin, to):
    """The rule of the stem's pooling, which is no weight, is given; all else is in the file."""
    name, path, options, ours, theirs = origin
    assert far(ours, theirs) < 1e-5
    target = tmp_path / f"target{ENDINGS.get(to, '.pth')}"
    if name in CANNOT.get(to, ()):
        with pytest.raises(
            WeightsError, match=r"stride_in_1x1|class_agnostic|depth|groups|rpn_convs|box_convs"
        ):
            weights.convert(path, target, to=to)
        return
    assert far(ours, outputs(weights.load(weights.convert(path, target, to=to), **options))) < 1e-5


@pytest.mark.parametrize("to", ["safetensors", "torchvision", "detectron2", "mmdet", "h5"])
def test_keywords_are_the_same_for_every_format(tmp_path, to):
    given = {"min_size": 256, "max_size": 512, "score": 0.3, "nms": 0.4, "max_detections": 9, "proposals": 90,
             "rpn_nms": 0.6, "pre_nms": 300, "mean": (1.0, 2.0, 3.0), "names": ("x", "y", "z")}  # fmt: skip
    path = native.save(network(stride_in_1x1=to != "torchvision"), tmp_path / "ours.safetensors")
    if to != "safetensors":
        path = weights.convert(path, tmp_path / f"theirs{'.h5' if to == 'h5' else '.pth'}", to=to)
    config = weights.load(path, **given, paste="aligned", roi_op="pool").config
    assert {name: getattr(config, name) for name in given} == given
    assert (config.dialect.paste, config.dialect.roi_op) == ("aligned", "pool")
    for wrong in ({"names": ["x"]}, {"depth": 18}, {"mask_norm": None}, {"shade": 1}, {"min_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            weights.load(path, **wrong)
