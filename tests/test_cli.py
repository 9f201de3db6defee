"""The command line: what it prints, what it writes, how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import maskrcnn.weights
from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.errors import WeightsError
from test_jobs import OneBox, photos

SMALL = Config(names=("nut", "bolt"), depth=18, width=8, fpn_channels=16, rpn_channels=16, box_features=32,
               mask_channels=16, mask_convs=1, min_size=64, max_size=96)  # fmt: skip


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, dict[str, object]]]:
    """Calls of `load`, answered with a model that finds one box."""
    calls: list[tuple[object, dict[str, object]]] = []

    def load(weights: object = None, **options: object) -> OneBox:
        calls.append((weights, options))
        return OneBox()

    monkeypatch.setattr(maskrcnn.weights, "load", load)
    return calls


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_command_that_chooses_the_engine_says_so(tmp_path: Path) -> None:
    done = run("export", tmp_path / "a.onnx", "--set", "engine=bfloat16")
    assert done.exit_code == 1
    assert "got engine, which this command chooses itself" in plain(done.stderr)


def test_help_and_version_do_not_import_torch() -> None:
    code = "import sys; import maskrcnn.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_loading_is_imported_without_a_compiler() -> None:
    code = "import sys; import maskrcnn; maskrcnn.load; sys.exit('numba' in sys.modules or not 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prediction_imports_neither_pytorchs_compiler_nor_what_downloads() -> None:
    """Each is a good part of the time that `maskrcnn predict` takes to start."""
    code = (
        "import sys, numpy, maskrcnn; maskrcnn.load(min_size=64).predict(numpy.zeros((48, 64, 3), numpy.uint8)); "
        "sys.exit(any(name in sys.modules for name in ('torch._dynamo', 'requests', 'h5py', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    assert "predict" in run("--help").output and run("--help").exit_code == 0
    assert run("--version").output.startswith("maskrcnn")
    for command in ("predict", "models", "convert", "explain"):
        assert run(command, "-h").exit_code == 0


def test_predict_says_what_it_did_and_where(tmp_path: Path, loaded: list) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.png")
    done = run("predict", folder, "--out", tmp_path / "o", "--save", "overlay, json,yolo", "--batch-size", 2)
    assert done.exit_code == 0, done.output
    assert "2 pictures, 2 instances" in plain(done.stdout) and str(tmp_path / "o") in plain(done.stdout)
    assert (tmp_path / "o/1.txt").exists()


def test_options_reach_the_model(tmp_path: Path, loaded: list) -> None:
    photos(tmp_path, "a.png")
    done = run("predict", tmp_path / "a.png", "-w", "x.h5", "--score", 0.7, "--nms", 0.3, "--max-size", 512,
               "--set", "names=nut,bolt", "--set", "mean=[1,2,3]", "--set", "resize=pad64",
               "--set", "anchor_ratios=0.5,1", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert loaded == [
        ("x.h5", {"device": "cpu", "config": None, "score": 0.7, "nms": 0.3, "max_size": 512,
                  "resize": "pad64", "names": ["nut", "bolt"], "mean": [1, 2, 3], "anchor_ratios": [0.5, 1]})
    ]  # fmt: skip


def test_one_class_name_is_one_class(tmp_path: Path, loaded: list) -> None:
    photos(tmp_path, "a.png")
    run("predict", tmp_path / "a.png", "--set", "names=nut")
    assert loaded[0][1]["names"] == ["nut"]


def test_a_broken_picture_gives_exit_code_3_and_its_name(tmp_path: Path, loaded: list) -> None:
    folder = photos(tmp_path / "in", "1.png")
    (folder / "2.png").write_bytes(b"")
    done = run("predict", folder, "--out", tmp_path / "o")
    assert done.exit_code == 3
    assert "2.png: want a picture, got 0 bytes" in plain(done.stderr)
    assert "1 without a result" in plain(done.stdout)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "cat"], "want some of nut, bolt, got cat"),
        (["--save", "png"], "save: want some of"),
        (["--set", "names"], "want NAME=VALUE"),
        (["--device", "warp9"], "device: want cpu or one that this machine has, got warp9"),
        (["--resume", "--save", "overlay"], "resume: want json"),
    ],
)
def test_errors_are_one_line_without_traceback(
    tmp_path: Path, loaded: list, options: list[str], said: str
) -> None:
    photos(tmp_path, "a.png")
    done = run("predict", tmp_path / "a.png", *options)
    assert done.exit_code == 1
    assert (
        said in plain(done.stderr) and "Traceback" not in done.output and plain(done.stderr).count("\n") == 1
    )


def test_names_in_errors_are_not_taken_for_markup(tmp_path: Path, loaded: list) -> None:
    photos(tmp_path, "a.png")
    assert "[red]" in plain(run("predict", tmp_path / "a.png", "--classes", "[red]").stderr)


def test_debug_shows_where_an_error_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise WeightsError("no such weights")

    monkeypatch.setattr(maskrcnn.weights, "load", load)
    assert isinstance(run("predict", "a.png", "--debug").exception, WeightsError)
    assert "error: no such weights" in plain(run("predict", "a.png").stderr)


def test_wrong_usage_is_exit_code_2() -> None:
    assert run("predict").exit_code == 2
    assert run("predict", "a.png", "--batch-size", 0).exit_code == 2
    assert run("segment").exit_code == 2


def test_classes_by_name_or_number(tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[object] = []
    real = OneBox.predict_images

    def spy(self: OneBox, images: object, **options: object) -> object:
        got.append(options["classes"])
        return real(self, images)  # type: ignore[arg-type]

    monkeypatch.setattr(OneBox, "predict_images", spy)
    photos(tmp_path, "a.png")
    assert run("predict", tmp_path / "a.png", "--classes", "bolt, 0").exit_code == 0
    assert got == [["bolt", 0]]


def test_models_lists_accuracy_licence_and_size() -> None:
    done = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    line = next(line for line in plain(done.stdout).splitlines() if line.startswith("matterport-coco "))
    assert line.split()[1:6] == ["80", "34.7", "29.6", "258", "MB"] and "MIT" in line


def save_small(path: Path) -> Path:
    from maskrcnn.model import MaskRCNN

    torch.manual_seed(0)
    return maskrcnn.weights.save(MaskRCNN(SMALL), path)


def test_convert_names_the_formats_that_weights_can_have(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    given = "convert", tmp_path / "a.safetensors", tmp_path / "a.h5"
    assert "--to: want one of safetensors" in run(*given, "--to", "matterport").stderr
    assert "want a name that ends in .safetensors" in run(*given).stderr


def test_convert_stores_settings_and_halves_the_file(tmp_path: Path) -> None:
    save_small(tmp_path / "a.safetensors")
    done = run(
        "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--half", "--set", "score=0.25"
    )
    assert done.exit_code == 0, done.output
    assert maskrcnn.weights.load(tmp_path / "b.safetensors").config.score == 0.25
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "b.onnx").exit_code == 1


def test_the_real_network_from_end_to_end(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.jpg")
    weights = save_small(tmp_path / "a.safetensors")
    done = run("predict", folder, "-w", weights, "--out", tmp_path / "o", "--score", 0, "--max-detections", 3)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "o/results.json").read_text())
    assert len(results["images"]) == 2 and len(results["annotations"]) <= 6


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test suite in the background ignores it
sys.path.insert(0, sys.argv[1])
import maskrcnn.cli, maskrcnn.weights
from test_jobs import OneBox
class Slow(OneBox):
    def predict_images(self, images, **options):
        time.sleep(0.2)
        return super().predict_images(images)
maskrcnn.weights.load = lambda *a, **k: Slow()
sys.argv = ["maskrcnn", *sys.argv[2:]]
maskrcnn.cli.main()
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_valid_results_and_exit_code_130(tmp_path: Path, sign: signal.Signals) -> None:
    folder, out = photos(tmp_path / "in", *(f"{i}.png" for i in range(100))), tmp_path / "o"
    command = [
        sys.executable,
        "-c",
        SLOW,
        str(Path(__file__).parent),
        "predict",
        str(folder),
        "--out",
        str(out),
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"})
    deadline = time.monotonic() + 60
    while not (out / "0_overlay.jpg").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(sign)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130 and b"Traceback" not in said and b"interrupted" in said
    assert 1 <= len(json.loads((out / "results.json").read_text())["images"]) < 100


def test_explain_writes_one_page_beside_the_picture(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    weights = save_small(tmp_path / "w.safetensors")
    done = run("explain", tmp_path / "a.png", "-w", weights)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a_explained.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert run("explain", tmp_path / "missing.png", "-w", weights).exit_code == 1
