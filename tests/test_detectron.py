"""Detectron's blobs and maskrcnn-benchmark's checkpoints: names by hand, boxes by arithmetic from their sources.

Neither runs with today's Python, so there is no recorded run of them. Both count the last pixel in: a box from 3 to 9
has seven pixels, which is our 3 to 10.
"""

import pickle

import numpy as np
import pytest
import torch

import maskrcnn
from maskrcnn.config import DETECTRON, DETECTRON2, MASKRCNN_BENCHMARK, Config
from maskrcnn.errors import WeightsError
from maskrcnn.model import MaskRCNN
from maskrcnn.model.image import resized_size
from maskrcnn.model.pooling import pool_rois, roi_levels
from maskrcnn.model.restore import restore_boxes
from maskrcnn.model.rpn import level_anchors
from maskrcnn.ops.boxes import clip
from maskrcnn.ops.paste import paste_crop

NARROW = {"width": 8, "fpn_channels": 16, "rpn_channels": 16, "box_features": 32, "mask_channels": 16}
# Blobs of e2e_mask_rcnn_R-50-FPN_1x, as detectron2's checkpoint/c2_model_loading.py knows them: ours.
BLOBS = {
    "conv1_w": "backbone.stem.weight",
    "res_conv1_bn_s": "backbone.stem.norm.weight",
    "res2_0_branch1_w": "backbone.s2.0.shortcut.weight",
    "res2_0_branch1_bn_b": "backbone.s2.0.shortcut.norm.bias",
    "res4_5_branch2b_w": "backbone.s4.5.conv2.weight",
    "res5_2_branch2c_bn_s": "backbone.s5.2.conv3.norm.weight",
    "fpn_inner_res5_2_sum_w": "fpn.lateral5.weight",
    "fpn_inner_res4_5_sum_lateral_b": "fpn.lateral4.bias",
    "fpn_inner_res2_2_sum_lateral_w": "fpn.lateral2.weight",
    "fpn_res3_3_sum_w": "fpn.output3.weight",
    "conv_rpn_fpn2_w": "rpn.conv1.weight",
    "rpn_cls_logits_fpn2_b": "rpn.objectness.bias",
    "rpn_bbox_pred_fpn2_w": "rpn.deltas.weight",
    "fc6_w": "box.fc1.weight",
    "fc7_b": "box.fc2.bias",
    "_[mask]_fcn1_w": "mask.conv1.weight",
    "_[mask]_fcn4_b": "mask.conv4.bias",
    "conv5_mask_w": "mask.deconv.weight",
}
BENCHMARK = {
    "backbone.body.stem.conv1.weight": "backbone.stem.weight",
    "backbone.body.stem.bn1.running_var": "backbone.stem.norm.running_var",
    "backbone.body.layer1.0.downsample.0.weight": "backbone.s2.0.shortcut.weight",
    "backbone.body.layer4.2.bn3.bias": "backbone.s5.2.conv3.norm.bias",
    "backbone.fpn.fpn_inner1.bias": "fpn.lateral2.bias",
    "backbone.fpn.fpn_layer4.weight": "fpn.output5.weight",
    "rpn.head.conv.weight": "rpn.conv1.weight",
    "rpn.head.bbox_pred.bias": "rpn.deltas.bias",
    "roi_heads.box.feature_extractor.fc6.weight": "box.fc1.weight",
    "roi_heads.mask.feature_extractor.mask_fcn4.weight": "mask.conv4.weight",
    "roi_heads.mask.predictor.conv5_mask.bias": "mask.deconv.bias",
}
LAST = {3: 3, 4: 5, 5: 2, 2: 2}  # blocks of a ResNet-50's stages, counted from 0
PLAIN = Config(names=("a",), mean=(0.0, 0, 0))


@pytest.fixture(scope="module")
def twin():
    """A narrow network with random numbers everywhere; Detectron's norms are a scale and a shift."""
    torch.manual_seed(4)
    model = MaskRCNN(Config(names=("nut", "bolt"), stride_in_1x1=True, **NARROW))
    for name, value in model.state_dict().items():
        value.copy_(torch.rand_like(value) + 0.5 if "norm" in name else torch.randn_like(value) * 0.1)
    return model


def background_first(name, value):
    """Rows as both have them: background, which our boxes and masks lack, in front."""
    if name.startswith("box.class_logits"):
        return value.roll(1, 0)
    rows = {"box.deltas": 4, "mask.logits": 1}.get(name.rpartition(".")[0], 0)
    return torch.cat([torch.full((rows, *value.shape[1:]), 9.0), value]) if rows else value


def blob(name):
    """Caffe2's name for one of ours, written down again without the table that is tested."""
    layer, _, parameter = name.rpartition(".")
    norm = layer.endswith(".norm")
    layer, end = layer.removesuffix(".norm"), {"weight": "s" if norm else "w", "bias": "b"}[parameter]
    part = layer.split(".")
    if layer == "backbone.stem":
        return f"res_conv1_bn_{end}" if norm else "conv1_w"
    if part[0] == "backbone":
        branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}[part[3]]
        return f"res{part[1][1:]}_{part[2]}_branch{branch}{'_bn' if norm else ''}_{end}"
    if part[0] == "fpn":
        level = int(part[1][-1])
        inner = ("inner_", "_lateral" if level < 5 else "") if part[1].startswith("lateral") else ("", "")
        return f"fpn_{inner[0]}res{level}_{LAST[level]}_sum{inner[1]}_{end}"
    if part[0] == "mask" and part[1].startswith("conv"):
        return f"_[mask]_fcn{part[1][4:]}_{end}"
    names = {
        "rpn.conv1": "conv_rpn_fpn2", "rpn.objectness": "rpn_cls_logits_fpn2", "rpn.deltas": "rpn_bbox_pred_fpn2",
        "box.fc1": "fc6", "box.fc2": "fc7", "box.class_logits": "cls_score", "box.deltas": "bbox_pred",
        "mask.deconv": "conv5_mask", "mask.logits": "mask_fcn_logits",
    }  # fmt: skip
    return f"{names[layer]}_{end}"


@pytest.fixture(scope="module")
def blobs(twin):
    arrays = {
        blob(name): background_first(name, value).numpy()
        for name, value in twin.state_dict().items()
        if not name.endswith(("running_mean", "running_var"))
    }
    arrays["conv1_w"] = np.ascontiguousarray(arrays["conv1_w"][:, ::-1])
    return arrays


def write(tmp_path, content):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_blobs_are_read_by_their_names(tmp_path, twin, blobs):
    assert BLOBS.keys() <= blobs.keys()
    more = {"conv1_w_momentum": np.zeros(3, np.float32), "lr": np.zeros(1, np.float32),
            "fc1000_w": np.zeros((2, 2), np.float32), "conv1_b": np.zeros(8, np.float32)}  # fmt: skip
    model = maskrcnn.load(write(tmp_path, {"blobs": {**blobs, **more}, "cfg": "MODEL:\n  TYPE: x\n"}))
    assert model.config.dialect == DETECTRON
    assert (model.config.stride_in_1x1, model.config.mean) == (True, (122.7717, 115.9465, 102.9801))
    for name, value in twin.state_dict().items():
        if "norm" not in name:
            assert torch.equal(model.state_dict()[name], value), name
    for ours in BLOBS.values():
        assert ours in model.state_dict()
    scale, shift = model.backbone.stem.norm.scale_and_shift()
    assert torch.allclose(scale, torch.from_numpy(blobs["res_conv1_bn_s"]), rtol=1e-6)
    assert torch.equal(shift, torch.from_numpy(blobs["res_conv1_bn_b"]))


def test_the_configuration_beside_the_blobs_says_where_the_stride_is(tmp_path, blobs):
    path = write(tmp_path, {"blobs": blobs, "cfg": "RESNETS:\n  STRIDE_1X1: false\n"})
    assert not maskrcnn.load(path).config.stride_in_1x1


def test_detectron2s_rules_may_be_had_instead(tmp_path, blobs):
    model = maskrcnn.load(write(tmp_path, {"blobs": blobs}), dialect="detectron2", score=0.5)
    assert (model.config.dialect, model.config.score) == (DETECTRON2, 0.5)
    with pytest.raises(maskrcnn.errors.ConfigError, match="dialect: want one of native"):
        maskrcnn.load(write(tmp_path, {"blobs": blobs}), dialect="caffe")


def test_a_missing_and_a_surplus_blob_are_named(tmp_path, blobs):
    fewer = {**blobs, "what_w": np.zeros((2, 3), np.float32)}
    del fewer["fpn_res3_3_sum_b"]
    with pytest.raises(
        WeightsError, match=r"missing: fpn_res3\.bias \(16,\)\n  surplus: what\.weight \(2, 3\)"
    ):
        maskrcnn.load(write(tmp_path, {"blobs": fewer}))


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("fpn_inner", {}, "C4 model"),
        ("mask_fcn_logits", {}, "without a mask head"),
        ("nothing", {"res2_0_branch2a_gn_s": np.zeros(3, np.float32)}, "group normalisation"),
    ],
)
def test_what_is_not_built_is_named(tmp_path, blobs, drop, add, message):
    left = {name: value for name, value in blobs.items() if not name.startswith(drop)}
    with pytest.raises(WeightsError, match=message):
        maskrcnn.load(write(tmp_path, {"blobs": {**left, **add}}))


def benchmark(name):
    """maskrcnn-benchmark's name for one of ours."""
    layer, _, parameter = name.rpartition(".")
    norm, layer = layer.endswith(".norm"), layer.removesuffix(".norm")
    part = layer.split(".")
    if layer == "backbone.stem":
        return f"backbone.body.stem.{'bn1' if norm else 'conv1'}.{parameter}"
    if part[0] == "backbone":
        own = (
            f"downsample.{int(norm)}" if part[3] == "shortcut" else f"{'bn' if norm else 'conv'}{part[3][4:]}"
        )
        return f"backbone.body.layer{int(part[1][1:]) - 1}.{part[2]}.{own}.{parameter}"
    if part[0] == "fpn":
        kind = "fpn_inner" if part[1].startswith("lateral") else "fpn_layer"
        return f"backbone.fpn.{kind}{int(part[1][-1]) - 1}.{parameter}"
    names = {
        "rpn.conv1": "rpn.head.conv", "rpn.objectness": "rpn.head.cls_logits", "rpn.deltas": "rpn.head.bbox_pred",
        "box.fc1": "roi_heads.box.feature_extractor.fc6", "box.fc2": "roi_heads.box.feature_extractor.fc7",
        "box.class_logits": "roi_heads.box.predictor.cls_score", "box.deltas": "roi_heads.box.predictor.bbox_pred",
        "mask.deconv": "roi_heads.mask.predictor.conv5_mask",
        "mask.logits": "roi_heads.mask.predictor.mask_fcn_logits",
        **{f"mask.conv{k}": f"roi_heads.mask.feature_extractor.mask_fcn{k}" for k in range(1, 5)},
    }  # fmt: skip
    return f"{names[layer]}.{parameter}"


@pytest.fixture(scope="module")
def checkpoint(twin):
    state = {benchmark(n): background_first(n, v) for n, v in twin.state_dict().items()}
    state["backbone.body.stem.conv1.weight"] = state["backbone.body.stem.conv1.weight"].flip(1)
    state["rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    return {f"module.{name}": value for name, value in state.items()}


def test_maskrcnn_benchmark_is_read_by_its_names(tmp_path, twin, checkpoint):
    assert {f"module.{name}" for name in BENCHMARK} <= checkpoint.keys()
    torch.save({"model": checkpoint, "optimizer": {}, "iteration": 90000}, tmp_path / "x.pth")
    model = maskrcnn.load(tmp_path / "x.pth")
    assert (model.config.dialect, model.config.stride_in_1x1) == (MASKRCNN_BENCHMARK, True)
    for theirs, ours in BENCHMARK.items():
        if "norm" not in ours and ours != "backbone.stem.weight":
            assert torch.equal(model.state_dict()[ours], checkpoint[f"module.{theirs}"])
    assert torch.equal(model.backbone.stem.weight, twin.backbone.stem.weight)
    scale, _ = model.backbone.stem.norm.scale_and_shift()  # without epsilon
    norm = twin.backbone.stem.norm
    assert torch.allclose(scale, norm.weight * norm.running_var.rsqrt(), rtol=1e-6)
    gone = {k: v for k, v in checkpoint.items() if not k.startswith("module.backbone.fpn")}
    torch.save({"model": gone}, tmp_path / "c4.pth")
    with pytest.raises(WeightsError, match="C4 model"):
        maskrcnn.load(tmp_path / "c4.pth")


# --- what both do ---


def test_anchors_are_whole_at_the_size_of_the_stride():
    """Stride 8, ratio 0.5: w = round(sqrt(64 / 0.5)) = 11, h = round(5.5) = 6, times 64 / 8, around 4."""
    config = PLAIN.with_options(dialect="detectron")
    anchors = level_anchors(1, (1, 2), (8, 16), config)
    assert anchors[0].tolist() == [4 - 44, 4 - 24, 4 + 44, 4 + 24]
    assert anchors[1].tolist() == [-28, -28, 36, 36]
    assert anchors[2].tolist() == [4 - 24, 4 - 48, 4 + 24, 4 + 48]  # w = round(sqrt(32)) = 6, h = 12
    assert anchors[3].tolist() == [12 - 44, 4 - 24, 12 + 44, 4 + 24]


def test_a_box_outside_becomes_the_last_pixel():
    """Columns 25 to 29 of a picture of 20 are column 19, which ends at 20."""
    boxes = clip(torch.tensor([[25.0, 2, 30, 5]]), torch.tensor([0.0, 0, 20, 10]), 1.0)
    assert boxes.tolist() == [[19, 2, 20, 5]]


def test_pooling_ends_at_the_last_pixel():
    """Pixels 0 to 8 at a quarter are 0 to 2; one bin's two samples on a ramp average to the middle, 1."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
    pyramid = [ramp] * 4
    config = PLAIN.with_options(dialect="detectron")
    boxes, index = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0])
    assert pool_rois(pyramid, boxes, index, (32, 32), 1, config).values.item() == 1.0
    plain = config.with_options(last_pixel_in=False)
    assert pool_rois(pyramid, boxes, index, (32, 32), 1, plain).values.item() == 1.125


def test_the_way_back_scales_the_last_pixel():
    """Pixels 2 to 10 and 4 to 8, twice as large: 4 to 20 and 8 to 16."""
    config = PLAIN.with_options(dialect="maskrcnn_benchmark")
    boxes = restore_boxes(torch.tensor([[2.0, 4, 11, 9]]), torch.tensor([0.0, 0, 20, 10]), (20, 40), config)
    assert boxes.tolist() == [[4, 8, 21, 17]]


def test_a_mask_is_pasted_as_torchvision_does_with_the_last_pixel():
    mask = np.random.default_rng(0).random((28, 28)).astype(np.float32)
    box = np.array([2.3, 3.1, 19.7, 22.2], np.float32)
    ours, corner = paste_crop(mask, box, (40, 40), "last_pixel")
    theirs, same = paste_crop(mask, box - np.array([0, 0, 1, 1], np.float32), (40, 40), "torchvision")
    assert corner == same
    assert np.array_equal(ours, theirs)


def test_the_level_has_a_large_epsilon():
    """223.9999 / 224 + 1e-6 is above 1, which is P4; with 1e-8 it is below, P3."""
    boxes = torch.tensor([[0.0, 0, 223.9999, 223.9999]])
    assert roi_levels(boxes, (800, 800), PLAIN.with_options(dialect="detectron")).tolist() == [2]
    assert roi_levels(boxes, (800, 800), PLAIN).tolist() == [1]


@pytest.mark.parametrize(
    ("size", "benchmark_size", "detectron_size"),
    [
        ((480, 640), (800, 1066), (800, 1067)),  # 1066.67, cut and rounded
        ((640, 480), (1066, 800), (1067, 800)),
        (
            (900, 1500),
            (800, 1333),
            (800, 1333),
        ),  # round(1333 * 900 / 1500) = 800, int(800 * 1500 / 900) = 1333
        ((100, 1000), (133, 1330), (133, 1333)),  # round(133.3) = 133, int(133 * 10)
    ],
)
def test_sizes(size, benchmark_size, detectron_size):
    assert resized_size(size, PLAIN.with_options(dialect="maskrcnn_benchmark")) == benchmark_size
    assert resized_size(size, PLAIN.with_options(dialect="detectron")) == detectron_size


def test_detectron_resizes_without_rounding_to_whole_levels():
    """cv2's bilinear from two to four columns: a quarter of the way from 10 to 11 is 10.25."""
    from maskrcnn.model.image import to_batch
    from maskrcnn.records import Image

    pixels = np.array([[[10] * 3, [11] * 3]] * 2, np.uint8)
    config = PLAIN.with_options(dialect="detectron", min_size=4, max_size=8)
    assert to_batch([Image(pixels)], config).pixels[0, 0, 0, :4].tolist() == [10, 10.25, 10.75, 11]
