"""MMDetection's files, by a tiny twin: its names and layout, its metadata, and what its source says of its boxes."""

import math

import pytest
import torch

import maskrcnn
from maskrcnn.config import MMDETECTION, Config
from maskrcnn.errors import WeightsError
from maskrcnn.model import MaskRCNN
from maskrcnn.model.image import resized_size
from maskrcnn.model.pooling import roi_levels
from maskrcnn.weights import mmdet, tables

# name in mmdet 2 and 3 (configs/_base_/models/mask_rcnn_r50_fpn.py): ours
PAIRS = {
    "backbone.conv1.weight": "backbone.stem.weight",
    "backbone.bn1.running_var": "backbone.stem.norm.running_var",
    "backbone.layer1.0.conv1.weight": "backbone.s2.0.conv1.weight",
    "backbone.layer3.5.bn2.bias": "backbone.s4.5.conv2.norm.bias",
    "backbone.layer4.0.downsample.0.weight": "backbone.s5.0.shortcut.weight",
    "backbone.layer4.0.downsample.1.running_mean": "backbone.s5.0.shortcut.norm.running_mean",
    "neck.lateral_convs.0.conv.bias": "fpn.lateral2.bias",
    "neck.fpn_convs.3.conv.weight": "fpn.output5.weight",
    "rpn_head.rpn_conv.weight": "rpn.conv1.weight",
    "rpn_head.rpn_cls.bias": "rpn.objectness.bias",
    "rpn_head.rpn_reg.weight": "rpn.deltas.weight",
    "roi_head.bbox_head.shared_fcs.1.weight": "box.fc2.weight",
    "roi_head.bbox_head.fc_cls.weight": "box.class_logits.weight",
    "roi_head.bbox_head.fc_reg.bias": "box.deltas.bias",
    "roi_head.mask_head.convs.3.conv.weight": "mask.conv4.weight",
    "roi_head.mask_head.upsample.weight": "mask.deconv.weight",
    "roi_head.mask_head.conv_logits.bias": "mask.logits.bias",
}
CAFFE = """
model = dict(backbone=dict(type='ResNet', depth=50, norm_eval=True, style='caffe'))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
"""
X101 = """
model = dict(
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395], bgr_to_rgb=False, pad_mask=True, pad_size_divisor=32),
    backbone=dict(type='ResNeXt', depth=101, groups=32, base_width=8, style='pytorch'))
"""


@pytest.fixture(scope="module")
def arrays():
    """A narrow network's arrays by the names of MMDetection."""
    torch.manual_seed(3)
    twin = MaskRCNN(Config(names=("a", "b", "c"), width=8, fpn_channels=16, rpn_channels=16, box_features=32,
                           mask_channels=16))  # fmt: skip
    state = {tables.spell(name, mmdet.TABLE): value for name, value in twin.state_dict().items()}
    for name in [n for n in state if n.endswith("running_var")]:
        state[name] = torch.rand_like(state[name]) + 0.5
        state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(10)
    return state


def load(tmp_path, content, **options):
    torch.save(content, tmp_path / "x.pth")
    return maskrcnn.load(tmp_path / "x.pth", **options)


def test_names_are_those_of_mmdetection(arrays):
    assert PAIRS.keys() <= arrays.keys()
    named, _, surplus = tables.rename(arrays, mmdet.TABLE, mmdet.KNOWN)
    assert not surplus
    for theirs, ours in PAIRS.items():
        assert named[ours] is arrays[theirs]


def test_a_file_of_version_2_in_pytorch_style(tmp_path, arrays):
    model = load(tmp_path, {"meta": {"CLASSES": ("nut", "bolt", "pin"), "epoch": 12}, "state_dict": arrays})
    config = model.config
    assert (config.names, config.stride_in_1x1) == (("nut", "bolt", "pin"), False)
    assert config.mean == (123.675, 116.28, 103.53)
    assert config.dialect == MMDETECTION
    state = model.state_dict()
    for theirs, ours in PAIRS.items():
        if ours != "backbone.stem.weight":
            assert torch.equal(state[ours], arrays[theirs])
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    assert torch.allclose(state["backbone.stem.weight"] * std, arrays["backbone.conv1.weight"], rtol=1e-6)


def test_a_file_of_version_3_in_caffe_style(tmp_path, arrays):
    meta = {"dataset_meta": {"classes": ("nut", "bolt", "pin"), "palette": None}, "cfg": CAFFE}
    model = load(tmp_path, {"meta": meta, "state_dict": arrays, "message_hub": {}, "optimizer": {}})
    assert model.names == ("nut", "bolt", "pin")
    assert model.config.stride_in_1x1
    assert model.config.mean == (123.675, 116.28, 103.53)
    assert torch.equal(model.backbone.stem.weight, arrays["backbone.conv1.weight"].flip(1))


def test_normalisation_is_read_from_the_text_of_the_configuration(tmp_path, arrays):
    model = load(tmp_path, {"meta": {"config": X101}, "state_dict": arrays})
    assert not model.config.stride_in_1x1
    std = torch.tensor([57.375, 57.12, 58.395])[:, None, None]
    wanted = (arrays["backbone.conv1.weight"] / std).flip(1)
    assert torch.allclose(model.backbone.stem.weight, wanted, rtol=1e-6)
    assert model.names == ("class_1", "class_2", "class_3")


def test_style_is_an_option_where_the_metadata_is_gone(tmp_path, arrays):
    model = load(tmp_path, {"state_dict": arrays}, style="caffe", names=["a", "b", "c"], score=0.3)
    assert (model.config.stride_in_1x1, model.config.score) == (True, 0.3)


def test_other_networks_and_the_first_version_are_named(tmp_path, arrays):
    first = {name.removeprefix("roi_head."): value for name, value in arrays.items()}
    with pytest.raises(WeightsError, match=r"MMDetection 1\.x"):
        load(tmp_path, {"state_dict": first})
    faster = {name: value for name, value in arrays.items() if "mask_head" not in name}
    with pytest.raises(WeightsError, match="without a mask head"):
        load(tmp_path, {"state_dict": faster})
    deformable = {**arrays, "backbone.layer2.0.conv2.conv_offset.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="deformable"):
        load(tmp_path, {"state_dict": deformable})


def test_the_level_of_a_box_has_mmdetections_epsilon():
    """floor(log2(side / 56 + 1e-6)): 223.99995 / 56 + 1e-6 is above 4, which is P4; Detectron2 says P3."""
    side = 223.99995
    assert side / 56 + 1e-6 > 4 > side / 56
    assert math.log2(side / 224 + 1e-8) < 0
    boxes = torch.tensor(
        [[0.0, 0, side, side], [0, 0, 224, 224], [0, 0, 111, 111], [0, 0, 1000, 1000], [5, 5, 5, 9]]
    )
    base = Config(names=("a",))
    theirs = roi_levels(boxes, (800, 800), base.with_options(level_rule="floor_56"))
    assert theirs.tolist() == [2, 2, 0, 3, 0]
    assert roi_levels(boxes, (800, 800), base).tolist() == [1, 2, 0, 3, 0]


def test_sizes_are_mmdetections():
    """rescale_size: 1333 / 1500 = 0.88867 for 900 x 1500; int(799.8 + 0.5) = 800 and int(1333.0 + 0.5) = 1333."""
    config = Config(names=("a",), dialect=MMDETECTION)
    assert resized_size((900, 1500), config) == (800, 1333)
    assert resized_size((480, 640), config) == (800, 1067)


V2 = """
model = dict(
    type='MaskRCNN',
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    rpn_head=dict(
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0, 1.0, 1.0, 1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
        mask_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=28, sampling_ratio=0)),
        bbox_head=dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1]))),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=300, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0),
        rcnn=dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.4), max_per_img=50, mask_thr_binary=0.5)))
img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg)]),
]
"""
V3 = """
test_pipeline = [dict(type='LoadImageFromFile'), dict(keep_ratio=True, scale=(1000, 600), type='Resize')]
model = dict(test_cfg=dict(rcnn=dict(score_thr=0.2)))
data_preprocessor = dict(mean=[3.0, 2.0, 1.0], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
"""


def test_sizes_thresholds_and_anchors_are_read_from_the_text(tmp_path, arrays):
    config = load(tmp_path, {"meta": {"config": V2}, "state_dict": arrays}).config
    assert (config.min_size, config.max_size) == (600, 1000)
    assert (config.rpn_nms, config.pre_nms, config.proposals) == (0.6, 500, 300)
    assert (config.score, config.nms, config.max_detections) == (0.1, 0.4, 50)
    assert config.anchor_sizes == ((16,), (32,), (64,), (128,), (256,))
    assert config.box_std == (0.05, 0.05, 0.1, 0.1)
    assert (config.dialect.roi_op, config.dialect.sampling_ratio, config.mask_size) == ("align_legacy", 2, 56)
    assert config.mean == (1, 2, 3)
    given = load(
        tmp_path, {"meta": {"config": V2}, "state_dict": arrays}, score=0.7, min_size=800, max_size=1333
    )
    assert (given.config.score, given.config.min_size, given.config.nms) == (0.7, 800, 0.4)


def test_the_text_of_version_3(tmp_path, arrays):
    model = load(tmp_path, {"meta": {"cfg": V3}, "state_dict": arrays})
    assert (model.config.min_size, model.config.max_size, model.config.score) == (600, 1000, 0.2)
    assert model.config.mean == (1, 2, 3)  # blue first in the file
    assert torch.equal(model.backbone.stem.weight, arrays["backbone.conv1.weight"].flip(1))


@pytest.mark.parametrize(
    "text",
    [
        "model = __import__('os').system('touch sprung')",
        "model = dict(test_cfg=dict(rcnn=open('sprung', 'w')))",
        "model = [x for x in (1).__class__.__mro__]",
        "model = " + "(" * 3000 + "1" + ")" * 3000,
        "model = " + "-" * 5000 + "1",
        "model = dict(test_cfg={'rpn': {'nms_pre': 'many'}, 'rcnn': {'score_thr': True}})",
        "a = [1]\n" + "\n".join(f"{chr(97 + i)} = [{chr(97 + i - 1)}] * 2" for i in range(1, 20)),
        "a = []\n" + "a = [dict(type='x', transforms=a), dict(transforms=a)]\n" * 60 + "test_pipeline = a",
        "model = dict(test_cfg=dict(rpn=[]), rpn_head=dict(anchor_generator=dict(ratios=[2.0, 1.0])))",
        "\0",
        "this is no Python",
    ],
    ids=range(11),
)  # fmt: skip
def test_a_text_is_never_run_and_what_is_not_understood_has_the_defaults(tmp_path, monkeypatch, arrays, text):
    monkeypatch.chdir(tmp_path)
    model = load(tmp_path, {"meta": {"config": text}, "state_dict": arrays})
    assert not (tmp_path / "sprung").exists()
    assert (model.config.score, model.config.pre_nms, model.config.mean) == (
        0.05,
        1000,
        (123.675, 116.28, 103.53),
    )


def test_anchors_of_several_sizes_are_listed_ratio_by_ratio(tmp_path, arrays):
    """Ours are listed size by size: 2 sizes of ratio 0.5, of 1 and of 2 become 3 ratios of each size."""
    state = dict(arrays)
    rows = torch.arange(6.0)
    state["rpn_head.rpn_cls.weight"], state["rpn_head.rpn_cls.bias"] = torch.zeros(6, 16, 1, 1), rows
    state["rpn_head.rpn_reg.weight"] = torch.zeros(24, 16, 1, 1)
    state["rpn_head.rpn_reg.bias"] = rows.repeat_interleave(4) * 10 + torch.arange(4.0).repeat(6)
    sizes = tuple((s, 1.5 * s) for s in (32, 64, 128, 256, 512))
    model = load(tmp_path, {"state_dict": state}, anchor_sizes=sizes)
    assert model.rpn.objectness.bias.tolist() == [0, 2, 4, 1, 3, 5]
    assert model.rpn.deltas.bias[:8].tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    back = mmdet.write(model.config, model.state_dict())["state_dict"]
    assert torch.equal(back["rpn_head.rpn_cls.bias"], rows)
    assert torch.equal(back["rpn_head.rpn_reg.bias"], state["rpn_head.rpn_reg.bias"])
