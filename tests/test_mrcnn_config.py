"""`mrcnn.config.Config`: defaults, what follows from them, and how it is shown."""

import numpy as np
import pytest

import maskrcnn
from matterport_file import arrays, write
from mrcnn.config import Config


class Balloons(Config):
    NAME = "Balloon"
    IMAGES_PER_GPU = 3
    GPU_COUNT = 2
    NUM_CLASSES = 4
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 256
    DETECTION_MIN_CONFIDENCE = 0.9
    CLASS_NAMES = ("BG", "red", "green", "blue")


def test_computed_attributes() -> None:
    config = Balloons()
    assert config.BATCH_SIZE == 6
    assert config.IMAGE_SHAPE.tolist() == [256, 256, 3]
    assert config.IMAGE_META_SIZE == 16
    Balloons.IMAGE_RESIZE_MODE = "crop"
    try:
        assert Balloons().IMAGE_SHAPE.tolist() == [128, 128, 3]
    finally:
        del Balloons.IMAGE_RESIZE_MODE


def test_display_is_laid_out_as_before(capsys: pytest.CaptureFixture) -> None:
    Config().display()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["", "Configurations:", "BACKBONE                       resnet101"]
    assert "BBOX_STD_DEV                   [0.1 0.1 0.2 0.2]" in lines
    assert "IMAGE_SHAPE                    [1024 1024    3]" in lines
    assert lines[-2:] == ["", ""]
    assert len(lines) == 2 + 48 + 2  # 45 attributes of the class and 3 that are computed


def test_names_of_old_releases_warn_with_what_replaces_them() -> None:
    with pytest.warns(UserWarning, match="IMAGE_RESIZE_MODE"):
        type("Old", (Config,), {"IMAGE_PADDING": True})()
    with pytest.warns(UserWarning, match="mean DETECTION_MIN_CONFIDENCE"):
        type("Typo", (Config,), {"DETECTION_MIN_CONFIDENSE": 0.5})()


def test_own_attributes_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    type("Own", (Config,), {"VIDEO_FOLDER": "x"})()
    assert not recwarn.list


@pytest.mark.parametrize("config", [Balloons, Balloons()])
def test_load_takes_such_a_config(tmp_path, config) -> None:
    settings = {"IMAGE_CHANNEL_COUNT": 3, "TOP_DOWN_PYRAMID_SIZE": 8, "FPN_CLASSIF_FC_LAYERS_SIZE": 10,
                "BACKBONE": "resnet50", "IMAGE_RESIZE_MODE": "square"}  # fmt: skip
    narrow = type("Narrow", (Balloons,), settings)
    model = maskrcnn.load(
        write(tmp_path / "m.h5", arrays()), config=narrow if isinstance(config, type) else narrow()
    )
    assert model.names == ("red", "green", "blue")
    assert model.config.score == 0.9
    assert model.config.max_size == 256
    assert np.allclose(model.config.mean, [123.7, 116.8, 103.9])
