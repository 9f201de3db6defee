"""Weight files as users have them: whole, cut off, of another kind, or not weights at all."""

import io
import pickle
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import matterport_file
from maskrcnn import weights
from maskrcnn.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def arrays():
    return matterport_file.arrays()


@pytest.fixture(scope="module")
def legacy(tmp_path_factory, arrays):
    return matterport_file.write(tmp_path_factory.mktemp("weights") / "nuts.h5", arrays)


def test_a_legacy_file_loads_whatever_its_name(legacy, tmp_path):
    model = weights.load(shutil.copy(legacy, tmp_path / "nuts.bin"), score=0.5, names=["nut", "bolt", "pin"])
    assert not model.training
    assert (model.config.depth, model.config.score, model.names) == (50, 0.5, ("nut", "bolt", "pin"))
    assert "3 classes" in repr(model)


def test_the_shipped_model_goes_by_default_too():
    assert weights.load("default").source == weights.load().source == weights.DEFAULT


def test_a_file_of_model_save_loads(arrays, tmp_path):
    path = matterport_file.write(tmp_path / "saved.h5", arrays, prefix="model_weights")
    with h5py.File(path, "a") as file:
        file["optimizer_weights/SGD/iterations:0"] = 7
        file["optimizer_weights/SGD/momentum:0"] = np.zeros(3)
    assert weights.load(path).config.num_classes == 3


def test_half_precision_arrays_and_a_user_block_are_read(arrays, tmp_path):
    path = tmp_path / "block.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            file[name] = value.astype(np.float16)
    assert weights.load(path).rpn.objectness.weight.dtype == torch.float32


def test_saved_weights_come_back_exactly_with_their_settings(legacy, tmp_path):
    model = weights.load(legacy, min_size=64, max_size=128, names=["ä", "b", "c"])
    again = weights.load(weights.save(model, tmp_path / "new" / "ours.weights"))
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["ours.weights"]


def test_half_storage_rounds_kernels_and_keeps_the_rest(legacy, tmp_path):
    model = weights.load(legacy)
    full = weights.save(model, tmp_path / "full")
    half = weights.save(model, tmp_path / "half", dtype="float16")
    assert half.stat().st_size < 0.65 * full.stat().st_size
    state = weights.load(half).state_dict()
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.ndim > 1 else value
        assert torch.equal(state[name], expected), name
    with torch.no_grad():
        model.box.fc1.weight[0, 0] = 1e5
    with pytest.raises(WeightsError, match=r"box\.fc1\.weight.*65504"):
        weights.save(model, tmp_path / "half", dtype="float16")
    assert weights.load(half).config == model.config  # the older file is still whole


def test_convert_stores_the_overrides(legacy, tmp_path):
    path = weights.convert(legacy, tmp_path / "nuts.safetensors", config={"IMAGE_MAX_DIM": 512}, score=0.25)
    config, _ = weights.read(path)
    assert (config.max_size, config.score) == (512, 0.25)
    assert weights.read(path, config=config, nms=0.4)[0].nms == 0.4
    with pytest.raises(ConfigError, match="options"):
        weights.load(path, config={"IMAGE_MAX_DIM": 512})


@pytest.mark.parametrize("size", [2_359_296, 4096, 300])
def test_a_real_file_cut_off_says_both_sizes(tmp_path, size):
    # The superblock of mask_rcnn_coco.h5: version 0, addresses of 8 bytes, end of file 257,557,808.
    start = bytes.fromhex(
        "894844460d0a1a0a00000000000808000400100000000000" + "00" * 8 + "ff" * 8 + "30055a0f00000000"
    )
    path = tmp_path / "mask_rcnn_coco.h5"
    path.write_bytes(start.ljust(size, b"\0"))
    with pytest.raises(WeightsError, match=f"truncated: want 257,557,808 bytes.* got {size:,}"):
        weights.load(path)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_legacy_file_of_any_superblock_says_that_it_is_cut_off(arrays, tmp_path, version):
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w", libver=version) as file:
        for name, value in arrays.items():
            file[name] = value
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(WeightsError, match=f"truncated: want {whole:,} bytes.* got {whole // 2:,}"):
        weights.load(path)


def test_a_file_with_a_hole_is_damaged_without_a_traceback_of_hdf5(legacy, tmp_path):
    path = tmp_path / "hole.h5"
    content = bytearray(legacy.read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(path)


def test_a_backbone_alone_is_named_as_such(arrays, tmp_path):
    backbone = {path: value for path, value in arrays.items() if path.startswith(("conv1", "bn", "res"))}
    with pytest.raises(ConfigError, match="holds the backbone of a Keras ResNet alone"):
        weights.load(matterport_file.write(tmp_path / "notop.h5", backbone))


def test_keras_3_and_other_hdf5_are_named_as_such(tmp_path):
    keras = matterport_file.write(tmp_path / "a.weights.h5", {"layers/conv2d/vars/0": np.zeros((1, 2))})
    with pytest.raises(WeightsError, match="Keras 3"):
        weights.load(keras)
    other = matterport_file.write(tmp_path / "b.h5", {"dense/dense/kernel:0": np.zeros((1, 2))})
    with pytest.raises(WeightsError, match="dense/dense/kernel:0"):
        weights.load(other)
    with pytest.raises(WeightsError, match="without any array"):
        weights.load(matterport_file.write(tmp_path / "c.h5", {}))


def torch_pickle():
    content = io.BytesIO()
    torch.save({"model": torch.zeros(2)}, content)
    return content.getvalue()


def archive(name):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(name, b"x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (torch_pickle(), "no Mask R-CNN that is known"),
        (torch_pickle()[:200], "cut off"),
        (pickle.dumps({"model": {}}), "no Mask R-CNN that is known"),
        (archive("model.weights.h5"), "Keras 3 archive"),
        (archive("readme.txt"), "zip archive"),
        (bytes(5000), "only zeros"),
        (b"hello, these are no weights", "not a weight file"),
    ],
)
def test_what_is_not_read_is_told_from_its_content(tmp_path, content, message):
    path = tmp_path / "mask_rcnn.h5"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        weights.load(path)


def test_a_pickle_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError, match="asks for"):
        weights.load(path)
    assert not (tmp_path / "sprung").exists()


def test_safetensors_of_others_and_cut_ones_are_refused(legacy, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="another's"):
        weights.load(path)
    whole = weights.convert(legacy, tmp_path / "ours.safetensors").read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        weights.load(path)


def test_a_name_that_is_neither_file_nor_model_suggests_one(tmp_path):
    with pytest.raises(WeightsError, match="did you mean matterport-coco"):
        weights.load("matterport-cocoo")
    with pytest.raises(WeightsError, match="neither a file nor a name"):
        weights.load(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="folder"):
        weights.load(tmp_path)


def test_the_catalog_says_where_its_files_are(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path))
    coco = weights.MODELS["matterport-coco"]
    assert (coco.path, coco.present) == (tmp_path / "mask_rcnn_coco.h5", False)
    assert (coco.size, len(coco.names), coco.box_ap, coco.mask_ap) == (257_557_808, 80, 34.7, 29.6)
    assert weights.DEFAULT in weights.MODELS


def test_every_published_file_has_a_name_a_licence_and_its_accuracy():
    for model in weights.MODELS.values():
        assert model.licence and model.source
        if model.url is not None:
            assert model.url.startswith("https://")
            if model.backbone:
                assert (model.names, model.box_ap) == ((), None)
                continue
            assert 30 < model.mask_ap < model.box_ap < 50 or model.name == "matterport-coco"
            assert len(model.names) in (80, 90)
    files = [model.path for model in weights.MODELS.values()]
    assert len(files) == len(set(files))
    v2 = weights.MODELS["torchvision-r50-fpn-v2"]
    assert (v2.sha256, v2.size, v2.box_ap, v2.mask_ap) == ("73cbd019", 185_828_065, 47.4, 41.8)
    x101 = weights.MODELS["mmdet-x101-32x4d-fpn-ms-3x"]
    assert "/mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco/mask_rcnn_x101_32x4d_fpn_mst" in x101.url


def test_the_licence_is_shown_before_the_first_download_only(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path))
    monkeypatch.setattr("maskrcnn.weights.download.fetch", lambda url, path, **_: path)
    model = weights.MODELS["detectron2-r50-fpn-3x"]
    model.fetch()
    assert "CC BY-SA 3.0" in capsys.readouterr().err
    model.path.touch()
    model.fetch()
    assert capsys.readouterr().err == ""


def test_old_weights_may_be_scored_as_coco_is_today(legacy):
    config = weights.load(legacy, scoring="coco", score=0.1).config
    dialect = config.dialect
    assert (config.score, config.nms, config.max_detections) == (0.1, 0.5, 100)  # what is given by hand wins
    assert (dialect.best_class_only, dialect.integer_boxes, dialect.paste) == (False, False, "aligned")
    assert dialect.roi_op == "crop_and_resize"  # the network itself is as it was
    with pytest.raises(ConfigError, match="want 'coco'"):
        weights.load(legacy, scoring="pascal")
