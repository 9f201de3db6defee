"""`mrcnn.model.MaskRCNN` on recorded inputs: what scripts call, print and get back."""

import gc
import json
import re
import sys
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import maskrcnn
from conftest import DATA
from matterport_file import arrays, write
from mrcnn import model as modellib
from mrcnn.config import Config

CASES = ["small_square", "small_square_portrait", "small_batch2", "small_no_detections", "none_192x256"]


class Narrow(Config):
    """As few channels as there can be, for tests that only need a network."""

    NAME = "Narrow"
    BACKBONE = "resnet50"
    NUM_CLASSES = 4
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
    IMAGES_PER_GPU = 2
    TOP_DOWN_PYRAMID_SIZE = 8
    FPN_CLASSIF_FC_LAYERS_SIZE = 10
    POST_NMS_ROIS_TRAINING = POST_NMS_ROIS_INFERENCE = 20
    TRAIN_ROIS_PER_IMAGE = 6
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    STEPS_PER_EPOCH = VALIDATION_STEPS = 1


def recording(case: str):
    return np.load(DATA / "matterport" / f"{case}.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    sys.path.insert(0, str(DATA / "matterport"))
    from make_weights import build

    path = tmp_path_factory.mktemp("weights") / "r50.h5"
    build("resnet50", 4).write(path)
    return path


def model_of(case: str, weights: Path) -> modellib.MaskRCNN:
    settings = json.loads(str(recording(case)["config_json"]))
    config = type("Recorded", (Config,), {"NAME": "recorded", **settings})()
    model = modellib.MaskRCNN(mode="inference", model_dir="logs", config=config)
    model.load_weights(str(weights), by_name=True)
    return model


def masks_of(recorded, i: int) -> np.ndarray:
    shape = recorded[f"result_{i}_masks_shape"]
    return np.unpackbits(recorded[f"result_{i}_masks_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


# --- detection ---


@pytest.mark.parametrize("case", CASES)
def test_detect_gives_the_recorded_instances(weights: Path, case: str) -> None:
    """Matched as sets: the same classes, boxes to a pixel, scores to 1e-3, as far as rounding allows."""
    recorded = recording(case)
    model = model_of(case, weights)
    images = [recorded[f"image_{i}"] for i in range(len(recorded["image_metas"]))]
    for i, result in enumerate(model.detect(images)):
        assert {k: v.dtype for k, v in result.items() if k != "masks"} == {
            "rois": np.int32, "class_ids": np.int32, "scores": np.float32
        }  # fmt: skip
        h, w = images[i].shape[:2]
        assert result["masks"].shape == (h, w, len(result["rois"]))
        rois, ids, scores = (recorded[f"result_{i}_{k}"] for k in ("rois", "class_ids", "scores"))
        assert abs(len(result["rois"]) - len(rois)) <= 1
        wanted_masks, free, others = masks_of(recorded, i), list(range(len(result["rois"]))), 0
        for box, label, score, mask in zip(
            rois.reshape(-1, 4), ids, scores, wanted_masks.transpose(2, 0, 1), strict=True
        ):
            near = [
                j for j in free
                if result["class_ids"][j] == label and np.abs(result["rois"][j] - box).max() <= 1
                and abs(result["scores"][j] - score) < 1e-3
            ]  # fmt: skip
            if not near:
                others += score - model.config.DETECTION_MIN_CONFIDENCE >= 1e-3
                continue
            best = max(near, key=lambda j: (result["masks"][..., j] == mask).sum())
            free.remove(best)
            if (result["rois"][best] == box).all() and mask.sum() >= 100:
                found = result["masks"][..., best]
                assert (found & mask).sum() / (found | mask).sum() > 0.99
        assert others <= len(rois) / 50  # the reference's own rounding moves one in a hundred


def test_without_detections_arrays_are_empty(weights: Path) -> None:
    (result,) = model_of("small_no_detections", weights).detect([recording("small_no_detections")["image_0"]])
    assert result["rois"].shape == (0, 4)
    assert result["masks"].shape == (128, 128, 0)
    assert result["class_ids"].shape == result["scores"].shape == (0,)


def test_molded_inputs_are_the_recorded_ones(weights: Path) -> None:
    recorded = recording("small_batch2")
    model = model_of("small_batch2", weights)
    molded, metas, windows = model.mold_inputs([recorded["image_0"], recorded["image_1"]])
    assert np.abs(molded - recorded["molded_images"]).max() < 1e-4
    assert np.array_equal(metas, recorded["image_metas"])
    assert np.array_equal(windows, recorded["windows"])
    anchors = model.get_anchors(molded[0].shape)
    assert np.array_equal(anchors[:: int(recorded["anchor_step"])], recorded["anchors"])
    assert np.array_equal(model.anchors[:: int(recorded["anchor_step"])], recorded["anchors_pixels"])


@pytest.mark.parametrize("case", CASES)
def test_unmolding_recorded_outputs_is_equal(weights: Path, case: str) -> None:
    recorded = recording(case)
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    for i, meta in enumerate(modellib.parse_image_meta(recorded["image_metas"])["image_shape"]):
        rows = recorded["detections"][i]
        masks = np.zeros((*recorded["detection_masks"][i].shape, 4), np.float32)
        places = np.arange(len(rows))
        masks[places, :, :, rows[:, 4].astype(int)] = recorded["detection_masks"][i]
        boxes, ids, scores, full = model.unmold_detections(
            rows, masks, recorded[f"image_{i}"].shape, meta, recorded["windows"][i]
        )
        assert np.array_equal(boxes, recorded[f"result_{i}_rois"].reshape(-1, 4))
        assert np.array_equal(ids, recorded[f"result_{i}_class_ids"])
        assert np.array_equal(scores, recorded[f"result_{i}_scores"])
        assert np.array_equal(full.astype(bool), masks_of(recorded, i))


def test_verbose_prints_the_inputs(weights: Path, capsys) -> None:
    recorded = recording("small_square")
    model_of("small_square", weights).detect([recorded["image_0"]], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Processing 1 images"
    wanted = (
        ("image", "(128, 128, 3)", "uint8"), ("molded_images", "(1, 128, 128, 3)", "float64"),
        ("image_metas", "(1, 16)", "int64"), ("anchors", "(1, 4092, 4)", "float32"),
    )  # fmt: skip
    for line, (name, shape, dtype) in zip(lines[1:], wanted, strict=True):
        begin = f"{name:25}shape: {shape:20}  "
        assert line.startswith(begin)
        assert re.fullmatch(rf"min: +-?[\d.]+  max: +-?[\d.]+  {dtype}", line[len(begin) :])


def test_any_number_of_images_of_any_size() -> None:
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((50, 60), (64, 64), (30, 90))]
    with pytest.warns(UserWarning, match="random"):
        results = model.detect(images)
    assert [r["masks"].shape[:2] for r in results] == [(50, 60), (64, 64), (30, 90)]


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 4)])
def test_grey_and_alpha_are_refused_with_what_to_do(shape) -> None:
    with pytest.raises(maskrcnn.errors.ImageError, match="RGBA"):
        modellib.MaskRCNN("inference", Narrow(), "logs").detect([np.zeros(shape, np.uint8)])


def test_detection_is_computed_by_the_kernels_of_this_machine() -> None:
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    with pytest.warns(UserWarning, match="random weights"):
        model.detect([np.zeros((64, 64, 3), np.uint8)])
    layer = model.keras_model.network.rpn.conv1
    assert layer.kernel._made is not None
    model.keras_model.set_weights([np.zeros_like(w) for w in model.keras_model.get_weights()])
    assert not model.keras_model.network.rpn.conv1.weight.any()


def test_a_model_that_nobody_holds_is_freed_at_once() -> None:
    gc.disable()  # notebooks build one model after the other, of half a gigabyte each
    try:
        model = modellib.MaskRCNN("inference", Narrow(), "logs")
        with pytest.warns(UserWarning, match="random weights"):
            model.detect([np.zeros((64, 64, 3), np.uint8)])
        kept = weakref.ref(model.keras_model), weakref.ref(model.keras_model.network)
        del model
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_molded_detection_is_in_pixels_of_the_molded_image(weights: Path) -> None:
    recorded = recording("small_square_portrait")
    model = model_of("small_square_portrait", weights)
    molded, metas, windows = model.mold_inputs([recorded["image_0"]])
    (result,) = model.detect_molded(molded, metas)
    (plain,) = model.detect([recorded["image_0"]])
    y1, x1, _, _ = windows[0]
    assert result["masks"].shape[:2] == (128, 128)
    assert np.abs(result["rois"] - (plain["rois"] * 1.28 + np.array([y1, x1, y1, x1]))).max() <= 2


# --- inside ---


def test_the_graph_gives_the_recorded_stages(weights: Path) -> None:
    recorded = recording("small_square")
    model = model_of("small_square", weights)
    layer, root = model.keras_model.get_layer, model.keras_model.get_layer("ROI").output
    found = model.run_graph([recorded["image_0"]], [
        *((name, layer(name).output) for name in (
            "input_image", "res2c_out", "res5c_out", "fpn_p2", "fpn_p6", "rpn_class", "rpn_bbox", "ROI",
            "roi_align_classifier", "mrcnn_class", "mrcnn_bbox", "mrcnn_detection", "roi_align_mask", "mrcnn_mask",
        )),
        ("before", model.ancestor(root, "ROI/pre_nms_anchors:0")),
        ("refined", model.ancestor(root, "ROI/refined_anchors:0")),
        ("clipped", model.ancestor(root, "ROI/refined_anchors_clipped:0")),
        ("kept", model.ancestor(root, "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0")),
    ])  # fmt: skip
    step = int(recorded["anchor_step"])
    assert np.abs(found["input_image"] - recorded["molded_images"]).max() < 1e-4
    assert np.abs(found["res2c_out"][:, ::2, ::2, ::8] - recorded["C2"]).max() < 1e-4
    assert np.abs(found["res5c_out"][..., ::8] - recorded["C5"]).max() < 4e-3
    assert np.abs(found["fpn_p2"] - recorded["P2"]).max() < 2e-3
    assert np.abs(found["rpn_class"][:, ::step] - recorded["rpn_class"]).max() < 3e-4
    assert np.abs(found["rpn_bbox"][:, ::step] - recorded["rpn_bbox"]).max() < 1e-3
    same = np.abs(found["ROI"] - recorded["rpn_rois"]).max(2) < 1e-3
    assert same.mean() > 0.9
    classes = recorded["mrcnn_class"]
    every = found["ROI"].shape[1] // classes.shape[1]
    alike = same[:, ::every][:, : classes.shape[1]]
    for name in ("mrcnn_class", "mrcnn_bbox"):  # but for RoIs at the border of two levels
        close = np.abs(found[name][:, ::every] - recorded[name])[alike] < 5e-3
        assert close.all(axis=tuple(range(1, close.ndim))).mean() > 0.995
    assert found["mrcnn_detection"].shape == (1, 100, 6)
    assert found["roi_align_classifier"].shape == (1, 1000, 7, 7, 256)
    assert found["roi_align_mask"].shape == (1, 100, 14, 14, 256)
    assert found["mrcnn_mask"].shape == (1, 100, 28, 28, 4)
    rows = [
        k
        for k in range(2)
        if np.abs(found["mrcnn_detection"][0, k] - recorded["detections"][0, k]).max() < 1e-3
    ]
    assert rows
    for k in rows:
        assert np.abs(found["mrcnn_mask"][0, k] - recorded["mrcnn_mask_head"][0, k]).max() < 2e-2
    assert np.abs(np.clip(found["refined"], 0, 1) - found["clipped"]).max() < 1e-5
    assert found["before"].shape == found["clipped"].shape == (1, 4092, 4)
    assert np.abs(found["clipped"][0, found["kept"]] - found["ROI"][0, : len(found["kept"])]).max() < 1e-6


def test_what_does_not_exist_names_what_does() -> None:
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    assert model.ancestor(None, "ROI/unheard_of:0") is None
    with pytest.raises(maskrcnn.errors.ConfigError, match="mrcnn_detection"):
        model.run_graph(
            [np.zeros((64, 64, 3), np.uint8)], [("x", model.keras_model.get_layer("bn_conv1").output)]
        )
    with pytest.raises(NotImplementedError, match=r"maskrcnn\.model\.resnet"):
        modellib.resnet_graph(None, "resnet50")
    with pytest.raises(NotImplementedError, match="maskrcnn"):
        type("Mine", modellib.ProposalLayer.__mro_entries__(()), {})
    with pytest.raises(AttributeError, match="Keras"):
        model.keras_model.fit_generator  # noqa: B018


def test_a_node_may_come_back_from_tensorflow() -> None:
    """tf.identity of a str gives a tensor of its bytes."""
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    node = model.keras_model.get_layer("input_image").output
    assert isinstance(node, str)
    tensor = SimpleNamespace(numpy=lambda: node.encode())
    image = np.zeros((64, 64, 3), np.uint8)
    assert model.run_graph([image], [("input", tensor)])["input"].shape == (1, 64, 64, 3)
    with pytest.raises(maskrcnn.errors.ConfigError, match="got None"):
        model.run_graph([image], [("gone", model.ancestor(node, "conv1/BiasAdd:0"))])


def test_weights_set_by_hand_are_those_that_run() -> None:
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    before = model.keras_model.network.fpn.output2.bias.detach().clone()
    layer = model.keras_model.get_layer("fpn_p2")
    layer.set_weights([layer.get_weights()[0], np.full(8, 3.0)])
    assert (before == 0).all()
    assert (model.keras_model.network.fpn.output2.bias == 3).all()
    model.keras_model.set_weights([0 * w for w in model.keras_model.get_weights()])
    assert (model.keras_model.network.fpn.output2.bias == 0).all()


def test_layers_and_their_weights(capsys) -> None:
    model = modellib.MaskRCNN("training", Narrow(), "logs")
    layers = model.get_trainable_layers()
    conv = model.keras_model.get_layer("mrcnn_mask_conv1")
    assert type(conv).__name__ == "TimeDistributed"
    assert type(model.find_trainable_layer(conv)).__name__ == "Conv2D"
    assert [w.name for w in conv.weights] == ["mrcnn_mask_conv1/kernel:0", "mrcnn_mask_conv1/bias:0"]
    assert conv.get_weights()[0].shape == (3, 3, 8, 256)
    assert sum(w.size for layer in layers for w in layer.get_weights()) == model.keras_model.count_params()
    conv.set_weights([np.ones((3, 3, 8, 256)), np.full(256, 2)])
    assert (model.keras_model.get_layer("mrcnn_mask_conv1").get_weights()[1] == 2).all()
    model.keras_model.summary()
    assert "mrcnn_mask_conv1 (TimeDistributed)" in capsys.readouterr().out


# --- files ---


def test_a_saved_file_is_what_was_loaded(weights: Path, tmp_path: Path) -> None:
    model = model_of("small_square", weights)
    model.keras_model.save_weights(tmp_path / "again.h5")
    with h5py.File(weights) as old, h5py.File(tmp_path / "again.h5") as new:
        for name in (name for name in old if len(old[name])):
            names = [w.decode() for w in old[name].attrs["weight_names"]]
            assert [w.decode() for w in new[name].attrs["weight_names"]] == names
            for path in names:
                assert np.array_equal(old[name][path][()], new[name][path][()]), path
                assert new[name][path].dtype == np.float32
        for name in ("backend", "keras_version"):  # Keras 2 decodes them, so they have to be bytes
            assert new.attrs[name].decode() == old.attrs[name]
        weighted = [n.decode() for n in new.attrs["layer_names"] if len(new[n])]
        assert sorted(weighted) == sorted(n for n in old if len(old[n]))
    assert maskrcnn.load(tmp_path / "again.h5").config.num_classes == 3


def test_names_stored_as_text_are_read_as_those_stored_as_bytes(tmp_path: Path) -> None:
    """h5py 3 gives text as str, which has no ``decode``."""
    model = modellib.MaskRCNN("inference", Narrow(), "logs")
    path = tmp_path / "text.h5"
    model.keras_model.save_weights(path)
    with h5py.File(path, "r+") as file:
        for holder in (file, *file.values()):
            for key in {"layer_names", "weight_names"} & set(holder.attrs):
                names = [name.decode() for name in holder.attrs[key]]
                holder.attrs.create(key, names, dtype=h5py.string_dtype(), shape=(len(names),))
        assert isinstance(file.attrs["layer_names"][0], str)
    again = modellib.MaskRCNN("inference", Narrow(), "logs")
    again.load_weights(str(path), by_name=True)
    for ours, theirs in zip(model.keras_model.get_weights(), again.keras_model.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def test_layer_names_are_those_of_the_released_file() -> None:
    """The beginning and the end of `layer_names` in mask_rcnn_coco.h5, release 2.0, which has 406."""

    class Coco(Config):
        NAME = "coco"
        NUM_CLASSES = 81

    model = modellib.MaskRCNN("training", Coco(), "logs")
    names = [layer.name for layer in model.keras_model.layers]
    assert len(names) == 406
    assert names[:5] == ["input_image", "zero_padding2d_1", "conv1", "bn_conv1", "activation_1"]
    assert names[-3:] == ["mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"]
    assert names.index("activation_74") < names.index("mrcnn_mask_deconv") < names.index("mrcnn_mask")
    assert model.keras_model.count_params() == 64_158_584


def test_another_number_of_classes_says_what_to_exclude(weights: Path) -> None:
    config = type("Two", (Config,), {"NAME": "two", "BACKBONE": "resnet50", "NUM_CLASSES": 2})()
    model = modellib.MaskRCNN("training", config, "logs")
    before = model.keras_model.get_layer("mrcnn_mask").get_weights()[0]
    with pytest.raises(maskrcnn.errors.WeightsError, match="exclude="):
        model.load_weights(str(weights), by_name=True)
    exclude = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    model.load_weights(str(weights), exclude=exclude)
    assert np.array_equal(model.keras_model.get_layer("mrcnn_mask").get_weights()[0], before)
    with h5py.File(weights) as file:
        assert np.array_equal(
            model.keras_model.get_layer("conv1").get_weights()[0], file["conv1/conv1/kernel:0"]
        )


@pytest.mark.parametrize("keras", [1, 2])
def test_weights_of_imagenet_fill_the_backbone(tmp_path: Path, keras: int) -> None:
    """A file of Keras's ResNet-50: other layers besides, and no FPN and no heads. The one of 2015 is by Keras 1."""
    old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    values = {"fc1000/fc1000/kernel:0": np.zeros((4, 4), np.float32)}
    for path, array in arrays(width=64, fpn=8, bias=True).items():
        layer, _, name = path.removesuffix(":0").split("/")
        if layer.startswith(("conv1", "bn", "res")):
            values[path if keras == 2 else f"{layer}/{layer}_{old.get(name, name)}_1:0"] = array
    path = write(tmp_path / "resnet50_notop.h5", values)
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    model.load_weights(str(path), by_name=True)
    wanted = arrays(width=64, fpn=8, bias=True)
    for layer in ("res4f_branch2b", "bn_conv1"):
        for variable in model.keras_model.get_layer(layer).weights:
            assert np.array_equal(variable.numpy(), wanted[f"{layer}/{variable.name}"])
    with pytest.raises(maskrcnn.errors.WeightsError, match="lacking"):
        model.load_weights(str(path))


def test_imagenet_weights_are_fetched_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path))
    file = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.write_bytes(b"here already")
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    assert model.get_imagenet_weights() == str(file)


def test_a_checkpoint_tells_its_run_and_epoch(tmp_path: Path, capsys) -> None:
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    with pytest.raises(FileNotFoundError):
        model.find_last()
    for run, epochs in (("narrow20200102T0304", (1, 2)), ("narrow20210102T0304", (7, 12))):
        (tmp_path / run).mkdir()
        for epoch in epochs:
            model.keras_model.save_weights(tmp_path / run / f"mask_rcnn_narrow_{epoch:04d}.h5")
    last = model.find_last()
    assert last == str(tmp_path / "narrow20210102T0304" / "mask_rcnn_narrow_0012.h5")
    model.load_weights(last, by_name=True)
    assert model.epoch == 12
    assert model.log_dir == str(tmp_path / "narrow20210102T0304")
    assert model.checkpoint_path.endswith("mask_rcnn_narrow_{epoch:04d}.h5")
    assert "Re-starting from epoch 12" in capsys.readouterr().out
    model.load_weights(str(tmp_path / "narrow20200102T0304" / "mask_rcnn_narrow_0001.h5"), by_name=True)
    assert model.epoch == 1


# --- training ---


def test_heads_then_all_writes_files_and_goes_on(tmp_path: Path, capsys) -> None:
    from test_mrcnn_shapes import Squares

    config = Narrow()
    model = modellib.MaskRCNN(mode="training", config=config, model_dir=str(tmp_path))
    data = Squares(3)

    class Watch:
        seen: list = []  # noqa: RUF012

        def on_epoch_end(self, epoch, logs):
            self.seen.append((epoch, set(logs)))

    before = {layer.name: layer.get_weights() for layer in model.get_trainable_layers()}
    model.train(data, data, learning_rate=0.01, epochs=1, layers="heads", custom_callbacks=[Watch()])
    after = {layer.name: layer.get_weights() for layer in model.get_trainable_layers()}
    moved = {
        n for n in after if any(not np.array_equal(a, b) for a, b in zip(before[n], after[n], strict=True))
    }
    assert {"fpn_c5p5", "rpn_model", "mrcnn_class_logits"} <= moved
    assert all(re.fullmatch(modellib.LAYERS["heads"], name) for name in moved)
    model.train(data, data, learning_rate=0.01, epochs=2, layers="all")
    assert not np.array_equal(model.keras_model.get_layer("conv1").get_weights()[0], before["conv1"][0])
    frozen = model.keras_model.get_layer("bn_conv1").get_weights()
    assert (frozen[2] == 0).all()  # TRAIN_BN is False: means stay
    assert (frozen[3] == 1).all()

    (run,) = list(tmp_path.iterdir())
    assert re.fullmatch(r"narrow\d{8}T\d{4}", run.name)
    assert sorted(p.name for p in run.glob("*.h5")) == [f"mask_rcnn_narrow_000{i}.h5" for i in (1, 2)]
    losses = {
        "loss",
        "rpn_class_loss",
        "rpn_bbox_loss",
        "mrcnn_class_loss",
        "mrcnn_bbox_loss",
        "mrcnn_mask_loss",
    }
    assert Watch.seen == [(0, losses | {f"val_{name}" for name in losses})]
    again = modellib.MaskRCNN("inference", config, str(tmp_path))
    again.load_weights(again.find_last(), by_name=True)
    assert again.epoch == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.detect([data.load_image(0)])
    assert maskrcnn.load(again.find_last(), config=config).config.num_classes == 3
    printed = capsys.readouterr().out
    assert "Starting at epoch 0. LR=0.01" in printed
    assert "Selecting layers to train\nfpn_c5p5               (Conv2D)" in printed
    assert "In model:  rpn_model\n    rpn_conv_shared        (Conv2D)" in printed


def test_norms_adapt_where_asked(tmp_path: Path) -> None:
    from test_mrcnn_shapes import Squares

    config = type("Adapting", (Narrow,), {"TRAIN_BN": None})()
    model = modellib.MaskRCNN("training", config, str(tmp_path))
    model.train(Squares(3), Squares(3), learning_rate=0.0, epochs=1, layers="all")
    _, _, mean, variance = model.keras_model.get_layer("bn_conv1").get_weights()
    assert (mean != 0).any()
    assert np.allclose(variance, 0.99, atol=0.05) or (variance != 1).any()


@pytest.mark.parametrize(
    "settings",
    [
        {"RPN_ANCHOR_STRIDE": 2},
        {"USE_MINI_MASK": False},
        {"IMAGE_CHANNEL_COUNT": 1, "MEAN_PIXEL": np.array([90.0])},
        {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_SCALE": 2.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_change_what_is_fed_train_and_detect(settings, tmp_path: Path) -> None:
    from test_mrcnn_shapes import Squares

    class Channels(Squares):
        def load_image(self, image_id):
            return super().load_image(image_id)[..., : settings.get("IMAGE_CHANNEL_COUNT", 3)]

    config = type("Other", (Narrow,), settings)
    data = Channels(3)
    learner = modellib.MaskRCNN("training", config(), str(tmp_path))
    learner.train(data, data, 0.01, 1, "heads")
    assert np.isfinite(learner.keras_model.history.history["val_loss"]).all()
    if config.IMAGE_RESIZE_MODE == "crop":  # is for training alone, as it was
        config = type("Other", (config,), {"IMAGE_RESIZE_MODE": "pad64"})
    model = modellib.MaskRCNN("inference", config(), str(tmp_path))
    model.load_weights(model.find_last(), by_name=True)
    assert model.detect([data.load_image(0)])[0]["masks"].shape[:2] == (64, 64)


def test_an_augmenter_without_imgaug_says_so(tmp_path: Path) -> None:
    from test_mrcnn_shapes import Squares

    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    with pytest.raises(maskrcnn.errors.MissingExtraError, match="imgaug"):
        model.train(Squares(3), Squares(3), 0.01, 1, "heads", augmentation=object())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"IMAGE_MAX_DIM": 100}, "6 times"),
        ({"NUM_CLASSES": 1}, "NUM_CLASSES"),
        ({"BACKBONE": lambda x: x}, "BACKBONE"),
    ],
)
def test_configs_that_cannot_be_built(changes, match) -> None:
    with pytest.raises(maskrcnn.errors.ConfigError, match=match):
        modellib.MaskRCNN("training", type("Bad", (Narrow,), changes)(), "logs")


def test_meta_is_composed_and_parsed_as_recorded() -> None:
    utils = recording("utils")
    meta = modellib.compose_image_meta(
        17, (480, 640, 3), (1024, 1024, 3), (128, 0, 896, 1024), 1.6, np.array([1, 0, 1, 1])
    )
    assert np.array_equal(meta, utils["meta_out"])
    for name, value in modellib.parse_image_meta(meta[None]).items():
        assert np.array_equal(value, utils[f"meta_parsed_{name}"])
        assert value.dtype == utils[f"meta_parsed_{name}"].dtype
    graph = modellib.parse_image_meta_graph(torch.from_numpy(meta[None]))
    assert graph["window"].tolist() == [[128, 0, 896, 1024]]


def test_molding_and_shapes_are_recorded() -> None:
    utils = recording("utils")
    config = Config()
    assert np.array_equal(modellib.mold_image(utils["mold_in"], config), utils["mold_out"])
    assert np.array_equal(modellib.unmold_image(utils["mold_out"], config), utils["unmold_image"])
    for i in range(3):
        shapes = modellib.compute_backbone_shapes(config, utils[f"backbone_shapes{i}_in"])
        assert np.array_equal(shapes, utils[f"backbone_shapes{i}_out"])
