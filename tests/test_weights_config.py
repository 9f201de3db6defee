"""A Matterport Config as a class, a dict, a .json or a .py that nobody runs."""

import json

import numpy as np
import pytest

import matterport_file
from maskrcnn.errors import ConfigError
from maskrcnn.weights.matterport import read
from maskrcnn.weights.matterport_config import read_settings


class Config:
    NAME = None
    NUM_CLASSES = 1
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)


class NutConfig(Config):
    NUM_CLASSES = 1 + 3
    IMAGE_RESIZE_MODE = "pad64"
    IMAGE_MIN_DIM = 256
    MEAN_PIXEL = np.array([10.0, 20.0, 30.0])
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_BBOX_STD_DEV = np.array([0.1, 0.2, 0.3, 0.4])
    DETECTION_MIN_CONFIDENCE = 0
    MASK_SHAPE = (56, 56)
    MASK_POOL_SIZE = 28
    CLASS_NAMES = ("BG", "nut", "bolt", "pin")


@pytest.mark.parametrize("source", [NutConfig, NutConfig()])
def test_attributes_of_a_class_become_ours(source):
    config, _ = read(matterport_file.arrays(), read_settings(source))
    assert (config.dialect.resize, config.min_size, config.max_size) == ("pad64", 256, 1024)
    assert (config.mean, config.anchor_sizes[0]) == ((10, 20, 30), (8,))
    assert config.rpn_std == (0.2, 0.1, 0.4, 0.3)  # theirs is dy dx dh dw
    assert (config.score, config.mask_size, config.names) == (0, 56, ("nut", "bolt", "pin"))


def test_our_options_win():
    config, _ = read(matterport_file.arrays(), read_settings(NutConfig), score=0.9, resize="square")
    assert (config.score, config.dialect.resize, config.min_size) == (0.9, "square", 256)


def test_a_base_class_does_not_know_its_number_of_classes():
    config, _ = read(matterport_file.arrays(), read_settings(Config))
    assert config.num_classes == 3


def test_square_with_the_smaller_limit_above_the_larger_obeys_the_larger():
    config, _ = read(matterport_file.arrays(), {"IMAGE_MAX_DIM": 512})
    assert (config.min_size, config.max_size) == (512, 512)


def test_a_mode_for_training_is_refused_unless_replaced():
    with pytest.raises(ConfigError, match="crop"):
        read(matterport_file.arrays(), {"IMAGE_RESIZE_MODE": "crop"})
    config, _ = read(matterport_file.arrays(), {"IMAGE_RESIZE_MODE": "crop"}, resize="none")
    assert config.dialect.resize == "none"


def test_a_dict_and_a_json_hold_attributes(tmp_path):
    values = {"IMAGE_MAX_DIM": 512, "STEPS_PER_EPOCH": 100}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    assert read_settings(values) == read_settings(path) == {"IMAGE_MAX_DIM": 512}
    with pytest.raises(ConfigError, match="IMAGE_MAXDIM"):
        read_settings({"IMAGE_MAXDIM": 512})


SCRIPT = '''
import os, numpy as np
from mrcnn.config import Config
raise SystemExit("this is never run")
SIDE = 256
class NutConfig(Config):
    """Nuts and bolts."""
    NAME = "nut"
    IMAGES_PER_GPU = int(os.environ["GPUS"])
    NUM_CLASSES = 1 + 2
    IMAGE_MIN_DIM = SIDE * 2
    IMAGE_MAX_DIM: int = IMAGE_MIN_DIM
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22]) * 2
    STEPS_PER_EPOCH = (657 - len(os.listdir("."))) // IMAGES_PER_GPU
    def __init__(self):
        self.DETECTION_MAX_INSTANCES = self.NUM_CLASSES * 100
        super().__init__()
if __name__ == "__main__":
    class InferenceConfig(NutConfig):
        IMAGE_RESIZE_MODE = "pad64"
        RPN_NMS_THRESHOLD = -0.2 + 1.1
    config = InferenceConfig()
'''


def test_a_script_is_read_without_running_it(tmp_path):
    path = tmp_path / "nut.py"
    path.write_text(SCRIPT)
    got = read_settings(path)
    assert got.pop("MEAN_PIXEL").tolist() == [87.06, 79.12, 96.44]
    assert got.pop("RPN_NMS_THRESHOLD") == pytest.approx(0.9)
    assert got == {
        "NUM_CLASSES": 3,
        "IMAGE_MIN_DIM": 512,
        "IMAGE_MAX_DIM": 512,
        "RPN_ANCHOR_SCALES": [8, 16, 32, 64, 128],
        "DETECTION_MAX_INSTANCES": 300,
        "IMAGE_RESIZE_MODE": "pad64",
    }
    assert "IMAGE_RESIZE_MODE" not in read_settings(f"{path}:NutConfig")


def test_a_script_with_two_configs_wants_a_name(tmp_path):
    path = tmp_path / "two.py"
    path.write_text("class A(Config):\n NUM_CLASSES = 2\nclass B(Config):\n NUM_CLASSES = 3\n")
    with pytest.raises(ConfigError, match=r"A, B; name one, such as .*two\.py:A"):
        read_settings(path)
    assert read_settings(f"{path}:B") == {"NUM_CLASSES": 3}


@pytest.mark.parametrize(
    "line", ["NUM_CLASSES = 1 + count()", "NUM_CLASSES = 9 ** 9 ** 9", "if x:\n  NUM_CLASSES = 3"]
)
def test_a_value_that_takes_running_the_script_is_an_error_with_its_line(tmp_path, line):
    path = tmp_path / "computed.py"
    path.write_text(f"class A(Config):\n IMAGE_MIN_DIM = 512\n {line}\n")
    with pytest.raises(ConfigError, match=r"NUM_CLASSES in .*, line [34]"):
        read_settings(path)


@pytest.mark.parametrize("text", ["x = (", "x = 1", "class A: pass"])
def test_a_script_without_a_config_is_an_error(tmp_path, text):
    path = tmp_path / "other.py"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_settings(path)
