"""A classifier's backbone as the start of a network: every naming, its input conventions folded in."""

import re

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import maskrcnn
from maskrcnn import weights
from maskrcnn.config import Config
from maskrcnn.engines import export
from maskrcnn.errors import ConfigError, WeightsError
from maskrcnn.model.resnet import ResNet

PIXELS = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def resnet(**fields):
    """A narrow backbone with random numbers everywhere."""
    torch.manual_seed(8)
    net = ResNet(Config(names=("a",), width=8, **fields))
    for name, value in net.state_dict().items():
        value.copy_(torch.rand_like(value) + 0.5 if "norm" in name else torch.randn_like(value) * 0.2)
    return net.eval()


def torchvision_name(name):
    layer, _, parameter = name.rpartition(".")
    norm, layer = layer.endswith(".norm"), layer.removesuffix(".norm")
    if layer == "stem":
        return f"{'bn1' if norm else 'conv1'}.{parameter}"
    stage, block, conv = layer.split(".")
    own = f"downsample.{int(norm)}" if conv == "shortcut" else f"{'bn' if norm else 'conv'}{conv[4:]}"
    return f"layer{int(stage[1:]) - 1}.{block}.{own}.{parameter}"


def start(path, **options):
    return maskrcnn.load(path, names=["nut", "bolt"], **options)


def features(model, pixels=PIXELS):
    mean = torch.tensor(model.config.mean)[:, None, None]
    with torch.inference_mode():
        return model.backbone(pixels - mean)


def same(ours, wanted):
    """To rounding, of the largest value of each map."""
    return all((a - b).abs().max() < 1e-5 * b.abs().max() for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize(
    "fields",
    [{"depth": 18}, {"depth": 34}, {}, {"depth": 101}, {"groups": 4, "group_width": 4}],
    ids=["18", "34", "50", "101", "resnext"],
)
def test_torchvisions_resnets_see_what_they_saw(tmp_path, fields):
    net = resnet(**fields)
    state = {torchvision_name(name): value for name, value in net.state_dict().items()}
    state |= {
        "fc.weight": torch.zeros(10, 2),
        "fc.bias": torch.zeros(10),
        "bn1.num_batches_tracked": torch.tensor(1),
    }
    torch.save(state, tmp_path / "resnet.pth")
    model = start(tmp_path / "resnet.pth")
    assert (model.config.depth, model.config.stride_in_1x1) == (fields.get("depth", 50), False)
    with torch.inference_mode():
        wanted = net((PIXELS - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None])
    assert same(features(model), wanted)


def test_mmdetections_caffe_style_has_the_same_names(tmp_path):
    net = resnet(stride_in_1x1=True)
    state = {torchvision_name(name): value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet50_msra.pth")
    model = start(tmp_path / "resnet50_msra.pth", style="caffe")
    assert model.config.stride_in_1x1
    with torch.inference_mode():
        wanted = net(PIXELS.flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None])
    assert same(features(model), wanted)


@pytest.mark.parametrize("affine", [False, True])
def test_detectron2s_msra_file_is_in_blue_green_red(tmp_path, affine):
    net = resnet(stride_in_1x1=True)
    if affine:  # made from Caffe2's file: scales and shifts alone
        for name, value in net.state_dict().items():
            if name.endswith("running_mean"):
                value.zero_()
            elif name.endswith("running_var"):
                value.fill_(1 - 1e-5)
    state = {}
    for name, value in net.state_dict().items():
        if not (affine and name.endswith(("running_mean", "running_var"))):
            stage = re.sub(r"^s(\d)", r"res\1", name)
            state[stage.replace("stem.", "stem.conv1.") if name.startswith("stem") else stage] = value
    state |= {"stem.fc.weight": torch.zeros(3, 3)}
    torch.save({"model": state, "__author__": "MSRA", "matching_heuristics": True}, tmp_path / "R-50.pkl")
    model = start(tmp_path / "R-50.pkl")
    with torch.inference_mode():
        wanted = net(PIXELS.flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None])
    assert same(features(model), wanted)
    torch.save({"model": state, "__author__": "torchvision"}, tmp_path / "r50.pkl")
    assert start(tmp_path / "r50.pkl").config.stride_in_1x1 is False


def test_detectrons_blobs_are_scales_and_shifts(tmp_path):
    net = resnet(stride_in_1x1=True)
    blobs = {}
    for name, value in net.state_dict().items():
        layer, _, parameter = name.rpartition(".")
        if parameter.startswith("running"):
            value.fill_(0.0 if parameter == "running_mean" else 1 - 1e-5)
            continue
        norm, layer = layer.endswith(".norm"), layer.removesuffix(".norm")
        end = {"weight": "s" if norm else "w", "bias": "b"}[parameter]
        if layer == "stem":
            blobs[f"res_conv1_bn_{end}" if norm else "conv1_w"] = value
            continue
        stage, block, conv = layer.split(".")
        branch = "1" if conv == "shortcut" else f"2{'abc'[int(conv[4:]) - 1]}"
        blobs[f"res{stage[1:]}_{block}_branch{branch}{'_bn' if norm else ''}_{end}"] = value
    blobs |= {"conv1_b": torch.zeros(8), "fc1000_w": torch.zeros(2, 2), "fc1000_b": torch.zeros(2)}
    torch.save({"blobs": blobs}, tmp_path / "R-50.pkl")
    with torch.inference_mode():
        wanted = net(PIXELS.flip(1) - torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None])
    assert same(features(start(tmp_path / "R-50.pkl")), wanted)


def keras_file(path, net, old, biases):
    """An .h5 of Keras's applications: Keras 1 and 2 with letters, later ones with numbers."""
    keys = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    with h5py.File(path, "w") as file:
        for name, value in net.state_dict().items():
            layer, _, parameter = name.rpartition(".")
            norm, layer = layer.endswith(".norm"), layer.removesuffix(".norm")
            if layer == "stem":
                theirs = ("bn_conv1" if norm else "conv1") if old else f"conv1_{'bn' if norm else 'conv'}"
            else:
                stage, block, conv = layer.split(".")
                letter = chr(97 + int(block))
                branch = "1" if conv == "shortcut" else f"2{'abc'[int(conv[4:]) - 1]}"
                number = "0" if conv == "shortcut" else conv[4:]
                theirs = (
                    f"{'bn' if norm else 'res'}{stage[1:]}{letter}_branch{branch}" if old
                    else f"conv{stage[1:]}_block{int(block) + 1}_{number}_{'bn' if norm else 'conv'}"
                )  # fmt: skip
            value = value if norm else value.permute(2, 3, 1, 0)
            file[f"{theirs}/{theirs}/{keys[parameter] if norm else 'kernel'}:0"] = value.numpy()
            if not norm:
                file[f"{theirs}/{theirs}/bias:0"] = biases[layer].numpy()


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("depth", [50, 101])
def test_kerass_notop_files_have_biases_and_an_epsilon_of_their_own(tmp_path, old, depth):
    net = resnet(stride_in_1x1=True, depth=depth)
    layers = {name.rpartition(".")[0]: len(v) for name, v in net.state_dict().items() if ".norm." not in name}
    biases = {layer: torch.randn(n) * 0.1 for layer, n in layers.items()}
    keras_file(tmp_path / "notop.h5", net, old, biases)
    model = start(tmp_path / "notop.h5")
    # The reference: the same network, its norms with Keras's epsilon, and the biases where they act.
    epsilon = 1e-3 if old else 1.001e-5
    pixels = PIXELS.flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    stem, norm = net.stem, net.stem.norm
    with torch.inference_mode():
        x = F.conv2d(pixels, stem.weight, biases["stem"], 2, 3)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=epsilon)
        ours = F.conv2d(
            PIXELS - torch.tensor(model.config.mean)[:, None, None], model.backbone.stem.weight, None, 2, 3
        )
        own = model.backbone.stem.norm
        ours = F.batch_norm(ours, own.running_mean, own.running_var, own.weight, own.bias, eps=1e-5)
    assert torch.allclose(ours, x, rtol=1e-4, atol=1e-3)
    last, theirs = model.backbone.s5[2].conv3, net.s5[2].conv3
    assert torch.equal(last.weight, theirs.weight)
    assert torch.allclose(last.norm.running_mean, theirs.norm.running_mean - biases["s5.2.conv3"], atol=1e-6)
    assert torch.allclose(last.norm.running_var, theirs.norm.running_var + epsilon - 1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone") / "resnet18.pth"
    torch.save({torchvision_name(n): v for n, v in resnet(depth=18).state_dict().items()}, path)
    return path


def test_a_backbone_wants_names_and_refuses_to_predict(file):
    assert weights.is_backbone(file)
    with pytest.raises(ConfigError, match=r"names: .*backbone of a torchvision ResNet alone.*give names="):
        maskrcnn.load(file)
    model = start(file, min_size=64, max_size=96)
    assert model.untrained == ("nut", "bolt")
    assert "torchvision backbone" in repr(model) and "the rest random" in repr(model)
    with pytest.raises(ConfigError, match="random weights for the classes nut, bolt"):
        model.predict(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(
        ConfigError, match="random weights for the classes nut, bolt"
    ):  # a file would not say it
        weights.save(model, file.with_suffix(".safetensors"))
    with pytest.raises(ConfigError, match="random weights for the classes nut, bolt"):
        export(model, file.with_suffix(".onnx"), "onnx")
    for act in (weights.read, lambda path: weights.convert(path, path.with_suffix(".safetensors"))):
        with pytest.raises((ConfigError, WeightsError), match="backbone"):
            act(file)


def test_arrays_that_do_not_fit_are_listed(file, tmp_path):
    state = torch.load(file, weights_only=True)
    del state["layer2.0.bn1.weight"]
    state["layer9.weight"] = torch.zeros(2)
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as error:
        start(tmp_path / "x.pth")
    for line in (
        "missing: s3.0.conv1.norm.weight",
        "surplus: layer9.weight",
        "layer1.0.conv1.weight: want finite",
    ):
        assert line in str(error.value)


def test_other_channels_want_their_means(tmp_path):
    state = {torchvision_name(n): v for n, v in resnet(depth=18).state_dict().items()}
    state["conv1.weight"] = torch.rand(8, 4, 7, 7)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="mean"):
        start(tmp_path / "x.pth")
    model = start(tmp_path / "x.pth", mean=(0, 0, 0, 0), input_std=(1, 1, 1, 2))
    assert torch.equal(model.backbone.stem.weight[:, 3] * 2, state["conv1.weight"][:, 3])
