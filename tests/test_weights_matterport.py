"""Matterport's arrays: what each becomes, and what is said when they do not fit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import matterport_file
from maskrcnn.config import MATTERPORT
from maskrcnn.errors import ConfigError, WeightsError
from maskrcnn.weights.matterport import read


@pytest.fixture
def arrays():
    return matterport_file.arrays()


def kernel(arrays, layer, parameter="kernel"):
    return next(value for path, value in arrays.items() if path.endswith(f"{layer}/{parameter}:0"))


def test_the_architecture_comes_from_the_arrays():
    made = matterport_file.arrays(
        classes=3, blocks=(3, 4, 23, 3), channels=4, width=2, fpn=6, rpn=5, fc=9, pool=5, mask=7
    )
    config, _ = read(made, mean=(1, 2, 3, 4))
    assert (config.depth, config.width, config.channels, config.fpn_channels) == (101, 2, 4, 6)
    assert (config.rpn_channels, config.box_features, config.box_pool) == (5, 9, 5)
    assert (config.mask_channels, config.mask_convs, config.names) == (7, 4, ("class_1", "class_2"))


def test_what_the_file_does_not_hold_has_the_defaults_of_matterport(arrays):
    config, _ = read(arrays)
    assert (config.min_size, config.max_size, config.mean) == (800, 1024, (123.7, 116.8, 103.9))
    assert (config.pre_nms, config.proposals, config.rpn_nms) == (6000, 1000, 0.7)
    assert (config.score, config.nms, config.max_detections) == (0.7, 0.3, 100)
    assert config.rpn_std == config.box_std == (0.1, 0.1, 0.2, 0.2)
    assert config.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert (config.anchor_ratios, config.rpn_stride) == ((0.5, 1, 2), 1)
    assert config.stride_in_1x1
    assert config.dialect == MATTERPORT


def test_eighty_classes_are_those_of_coco():
    config, _ = read(matterport_file.arrays(classes=81))
    assert (len(config.names), config.names[0], config.names[79]) == (80, "person", "toothbrush")


def test_a_convolution_with_bias_and_keras_norm_gives_the_same_numbers(arrays):
    _, state = read(arrays)
    x = torch.randn(1, 3, 16, 16)
    bias = torch.from_numpy(kernel(arrays, "conv1", "bias"))
    convolved = (
        F.conv2d(x, torch.from_numpy(kernel(arrays, "conv1")).permute(3, 2, 0, 1)) + bias[:, None, None]
    )
    gamma, beta, mean, variance = (
        torch.from_numpy(kernel(arrays, "bn_conv1", name))[:, None, None]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    keras = gamma * (convolved - mean) / (variance + 1e-3).sqrt() + beta
    name = "backbone.stem"
    ours = F.batch_norm(
        F.conv2d(x, state[f"{name}.weight"]),
        state[f"{name}.norm.running_mean"],
        state[f"{name}.norm.running_var"],
        state[f"{name}.norm.weight"],
        state[f"{name}.norm.bias"],
        eps=1e-5,
    )
    torch.testing.assert_close(ours, keras, rtol=1e-5, atol=1e-4)


def test_a_missing_bias_before_a_norm_is_zero():
    _, without = read(matterport_file.arrays(bias=False))
    made = matterport_file.arrays(bias=False)
    _, zeros = read({**made, "conv1/conv1/bias:0": np.zeros(4, np.float32)})
    assert torch.equal(
        without["backbone.stem.norm.running_mean"], torch.from_numpy(kernel(made, "bn_conv1", "moving_mean"))
    )
    assert all(torch.equal(without[name], zeros[name]) for name in zeros)


def test_two_way_objectness_becomes_one_logit_and_wide_anchors_come_first(arrays):
    # Matterport's third ratio, w/h 2, is our first, h/w 0.5.
    bias = np.array([1, 11, 2, 22, 3, 33], np.float32)  # background, foreground of w/h 0.5, 1, 2
    arrays["rpn_model/rpn_class_raw/bias:0"] = bias
    _, state = read(arrays)
    assert state["rpn.objectness.bias"].tolist() == [30, 20, 10]
    raw = kernel(arrays, "rpn_class_raw")[0, 0]
    np.testing.assert_array_equal(state["rpn.objectness.weight"][0, :, 0, 0], raw[:, 5] - raw[:, 4])


def test_deltas_of_anchors_become_x_first(arrays):
    arrays["rpn_model/rpn_bbox_pred/bias:0"] = np.arange(12, dtype=np.float32)  # dy dx dh dw of three ratios
    _, state = read(arrays)
    assert state["rpn.deltas.bias"].tolist() == [9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2]


def test_anchors_follow_the_order_of_the_configured_ratios():
    made = matterport_file.arrays(anchors=2)
    made["rpn_model/rpn_class_raw/bias:0"] = np.array([0, 1, 0, 2], np.float32)
    config, state = read(made, {"RPN_ANCHOR_RATIOS": [4, 0.5]})  # w/h, so h/w 0.25 and 2: already ascending
    assert config.anchor_ratios == (0.25, 2)
    assert state["rpn.objectness.bias"].tolist() == [1, 2]
    config, state = read(made, {"RPN_ANCHOR_RATIOS": [0.5, 4]})
    assert state["rpn.objectness.bias"].tolist() == [2, 1]
    config, state = read(made, anchor_ratios=(0.25, 2))  # in the file's default order: tall ones first
    assert state["rpn.objectness.bias"].tolist() == [2, 1]


def test_several_sizes_a_level_change_from_ratio_first_to_size_first():
    made = matterport_file.arrays(anchors=4)
    made["rpn_model/rpn_class_raw/bias:0"] = np.array([0, 1, 0, 2, 0, 3, 0, 4], np.float32)
    settings = {"RPN_ANCHOR_RATIOS": [2, 1], "RPN_ANCHOR_SCALES": [(s, 2 * s) for s in (8, 16, 32, 64, 128)]}
    config, state = read(made, settings)
    # In the file: ratio 2 small, ratio 2 large, ratio 1 small, ratio 1 large.
    assert (config.anchor_sizes[0], config.anchor_ratios) == ((8, 16), (0.5, 1))
    assert state["rpn.objectness.bias"].tolist() == [1, 3, 2, 4]


def test_the_background_row_moves_to_the_end_or_goes():
    made = matterport_file.arrays(classes=3)
    made["mrcnn_class_logits/mrcnn_class_logits/bias:0"] = np.array([0, 1, 2], np.float32)
    made["mrcnn_bbox_fc/mrcnn_bbox_fc/bias:0"] = np.arange(12, dtype=np.float32)
    made["mrcnn_mask/mrcnn_mask/bias:0"] = np.array([0, 1, 2], np.float32)
    _, state = read(made)
    assert state["box.class_logits.bias"].tolist() == [1, 2, 0]
    assert state["box.deltas.bias"].tolist() == [5, 4, 7, 6, 9, 8, 11, 10]
    assert state["mask.logits.bias"].tolist() == [1, 2]


def test_the_first_dense_layer_takes_channels_before_rows_and_columns(arrays):
    _, state = read(arrays)
    raw = kernel(arrays, "mrcnn_class_conv1")  # (7, 7, 8, 10)
    assert state["box.fc1.weight"][3, 5 * 49 + 2 * 7 + 6] == raw[2, 6, 5, 3]


def test_the_deconvolution_keeps_in_before_out(arrays):
    _, state = read(arrays)
    raw = kernel(arrays, "mrcnn_mask_deconv")  # (2, 2, out, in)
    assert state["mask.deconv.weight"][5, 3, 0, 1] == raw[0, 1, 3, 5]


@pytest.mark.parametrize(
    "rename",
    [
        lambda p: f"model_weights/{p}",
        lambda p: "/".join(part + "_1" for part in p.split("/")[:-1]) + "/" + p.split("/")[-1],
        lambda p: p.replace(":0", ""),
        lambda p: f"mask_rcnn/{p}" if p.startswith("res") else p,
        lambda p: p.replace("kernel:0", "kernel_2:0"),
    ],
)
def test_names_that_other_versions_wrote_are_the_same_arrays(arrays, rename):
    _, state = read(arrays)
    others = {rename(path): value for path, value in arrays.items()}
    others["optimizer_weights/training/SGD/conv1/kernel/momentum:0"] = np.zeros(1)
    others["anchors/anchors/Variable:0"] = np.zeros((1, 9, 4))
    _, renamed = read(others)
    assert state.keys() == renamed.keys()
    assert all(torch.equal(state[name], renamed[name]) for name in state)


def test_every_array_that_is_missing_or_left_over_is_named(arrays):
    del arrays["fpn_p3/fpn_p3/kernel:0"], arrays["mrcnn_mask_bn2/mrcnn_mask_bn2/gamma:0"]
    arrays["extra/extra/kernel:0"] = np.zeros((2, 3))
    with pytest.raises(WeightsError) as error:
        read(arrays)
    for part in ("fpn_p3/kernel", "mrcnn_mask_bn2/gamma", "extra/extra/kernel:0 (2, 3)"):
        assert part in str(error.value)


def test_the_same_parameter_twice_is_refused(arrays):
    arrays["conv1_1/conv1_1/kernel:0"] = arrays["conv1/conv1/kernel:0"]
    with pytest.raises(WeightsError, match="two"):
        read(arrays)


def test_wrong_shapes_and_nan_are_refused(arrays):
    arrays["fpn_p3/fpn_p3/kernel:0"] = np.zeros((3, 3, 8, 9), np.float32)
    arrays["fpn_p2/fpn_p2/bias:0"][0] = np.nan
    with pytest.raises(WeightsError) as error:
        read(arrays)
    assert "want (3, 3, 8, 8), got (3, 3, 8, 9)" in str(error.value)
    assert "fpn_p2/fpn_p2/bias:0: want finite" in str(error.value)


def test_a_background_alone_is_no_model():
    with pytest.raises(WeightsError, match="NUM_CLASSES"):
        read(matterport_file.arrays(classes=1))


def test_settings_that_the_arrays_contradict_are_refused(arrays):
    for settings in ({"NUM_CLASSES": 81}, {"BACKBONE": "resnet101"}, {"POOL_SIZE": 14}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            read(arrays, settings)
    with pytest.raises(ConfigError, match="depth"):
        read(arrays, depth=101)
    with pytest.raises(ConfigError, match="names"):
        read(arrays, names=["BG", "a", "b", "c"])
    with pytest.raises(ConfigError, match="anchor"):
        read(matterport_file.arrays(anchors=6))
    with pytest.raises(ConfigError, match="mean"):
        read(matterport_file.arrays(channels=4))
