"""The train command: from random weights, resumed, and onto another class list."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import maskrcnn
from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.data import open_dataset, write_dataset
from maskrcnn.model.resnet import ResNet
from maskrcnn.train.checkpoint import latest
from test_weights_backbone import torchvision_name
from training_script import TINY, drawn, tiny

FAST = ("--set", "workers=0", "--batch", "2", "--device", "cpu")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def on_disk(folder: Path, names: tuple[str, ...] = TINY.names) -> Path:
    """Four drawn pictures as COCO json."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    samples = []
    for sample in drawn(4).samples:
        file = pictures / f"{sample.image_id}.png"
        cv2.imwrite(str(file), sample.read().pixels)
        samples.append(replace(sample, image=file))
    write_dataset(replace(drawn(4), samples=tuple(samples), names=names), folder / "data", "coco")
    assert len(open_dataset(folder / "data")) == 4
    return folder / "data"


def test_random_weights_are_trained_as_a_recipe_says_and_the_run_goes_on(tmp_path: Path) -> None:
    data, out = on_disk(tmp_path), tmp_path / "run"
    recipe = tmp_path / "recipe.json"
    model = {
        name: getattr(TINY, name) for name in ("depth", "width", "fpn_channels", "box_features", "min_size")
    }
    recipe.write_text(
        json.dumps({"model": {**model, "max_size": 96}, "training": {"lr": 0.001, "epochs": 5}})
    )
    start = ("train", data, "--val", data)
    done = run(*start, "--weights", "none", "--recipe", recipe, "--out", out, "--epochs", 1, *FAST)
    assert done.exit_code == 0, done.output
    assert maskrcnn.load(out / "best.safetensors").names == TINY.names
    settings = json.loads((out / "training.json").read_text())
    assert (settings["lr"], settings["epochs"], settings["batch"]) == (0.001, 1, 2)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["00000002"]

    refused = run(*start, "--weights", "none", "--recipe", recipe, "--out", out, *FAST)
    assert refused.exit_code == 1 and "holds a run already" in " ".join(refused.output.split())

    done = run(*start, "--resume", out, "--epochs", 2)
    assert done.exit_code == 0, done.output
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["00000004"]
    assert len((out / "validation.csv").read_text().splitlines()) == 3


SIGNALLED = """
import multiprocessing, os, signal, sys

os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))  # no moment is earlier
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever it was where the tests were started
multiprocessing.set_start_method(sys.argv.pop(1))
from maskrcnn.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Windows has no signals to groups of processes")
@pytest.mark.parametrize(("number", "start"), [(signal.SIGINT, "fork"), (signal.SIGTERM, "spawn")])
def test_a_signal_to_all_processes_of_a_run_stops_it_in_few_words_and_it_goes_on(
    tmp_path: Path, number: signal.Signals, start: str
) -> None:
    """As a terminal and a queue of jobs send it. Processes that are forked get the first as they begin, too."""
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data, out, stderr = on_disk(tmp_path), tmp_path / "run", tmp_path / "stderr"
    log = out / "log.csv"
    options = ["--weights", tmp_path / "tiny.safetensors", "--epochs", 10**6, "--batch", 2, "--device", "cpu",
               "--set", "workers=2", "--set", "keep_every=1", "--out", out]  # fmt: skip
    command = [sys.executable, "-c", SIGNALLED, start, "train", data, *options]
    source = str(Path(__file__).parent.parent / "src")
    with stderr.open("w") as said:
        process = subprocess.Popen(
            [str(part) for part in command], env=os.environ | {"PYTHONPATH": source, "COLUMNS": "200"},
            stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(6000):  # by naps, not by the clock, on a machine that stands still now and then
                if process.poll() is not None or (log.exists() and len(log.read_text().splitlines()) > 3):
                    break
                time.sleep(0.05)
            assert process.poll() is None, stderr.read_text()
            os.killpg(process.pid, number)
            assert process.wait(timeout=300) == 130, stderr.read_text()
        finally:
            process.kill()
    words = stderr.read_text()
    assert "Traceback" not in words, words
    kept = int(latest(out).name)
    assert kept >= 2 and f"--resume {out} goes on after step {kept}\ninterrupted\n" in words
    done = run("train", data, "--resume", out, "--epochs", (kept + 1) / 2, *FAST)  # 2 steps each
    assert done.exit_code == 0 and int(latest(out).name) == kept + 1


def test_fine_tuning_says_which_classes_are_kept(tmp_path: Path) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data = on_disk(tmp_path, ("new", "Box"))
    done = run("train", data, "--weights", tmp_path / "tiny.safetensors", "--layers", "heads", "--epochs", 1,
               "--set", "rpn_nms=0.6", "--out", tmp_path / "run", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "random new" in said and "kept from box Box" in said
    assert ", 2 classes, 3 channels, from " in said
    assert "4 pictures with 4 objects of 2 classes; 2 steps of 2 pictures; an epoch has 2" in said
    assert "million learn (layers heads, norms frozen) on cpu" in said
    assert "no validation: " in said and "step 1 of 2: loss" in said
    trained = maskrcnn.load(tmp_path / "run/best.safetensors")
    assert trained.names == ("new", "Box") and trained.config.rpn_nms == 0.6
    refused = run("train", data, "--resume", tmp_path / "run", "--set", "rpn_nms=0.7")
    assert refused.exit_code == 1 and "keeps its network" in refused.output


def test_a_classifiers_backbone_is_trained_from_and_said_to_be_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ResNet(Config(names=("a",), depth=18, width=8))
    state = {torchvision_name(name): value for name, value in net.state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps(
            {
                "model": {"fpn_channels": 16, "box_features": 32, "min_size": 64, "max_size": 96},
                "training": {},
            }
        )
    )
    data, out = on_disk(tmp_path), tmp_path / "run"
    done = run("train", data, "--val", data, "--weights", tmp_path / "resnet18.pth", "--recipe", recipe,
               "--layers", "heads", "--epochs", 1, "--lr", 0.001, "--out", out, *FAST)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "ResNet-18-FPN" in done.output and "torchvision backbone of" in done.output
    assert "the rest random" in done.output
    model = maskrcnn.load(out / "best.safetensors")
    assert (model.names, model.config.fpn_channels, model.config.min_size) == (TINY.names, 16, 64)
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    assert torch.allclose(model.backbone.stem.weight * std, net.stem.weight, rtol=1e-5)


def test_evaluation_counts_an_object_that_is_annotated_twice_unless_it_is_to_repair_it(
    tmp_path: Path,
) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data = on_disk(tmp_path, TINY.names)
    file = next(data.rglob("*.json"))
    content = json.loads(file.read_text())
    again = {**content["annotations"][0], "id": 999}
    file.write_text(json.dumps({**content, "annotations": [*content["annotations"], again]}))
    objects = {}
    for option in ((), ("--repair",)):
        out = tmp_path / f"evaluation{len(option)}"
        done = run("evaluate", file, "--weights", tmp_path / "tiny.safetensors", "--out", out, *option)
        assert done.exit_code == 0, done.output
        found = json.loads((out / "evaluation.json").read_text())["mask"]["classes"]
        objects[option] = sum(one["objects"] for one in found.values())
    assert objects == {(): 5, ("--repair",): 4}
    assert "duplicate instance: 1" in done.output


def test_a_picture_that_breaks_in_a_worker_is_replaced_and_said_and_too_many_are_an_error(
    tmp_path: Path,
) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data = on_disk(tmp_path)
    first, *others = sorted(data.rglob("*.png"))
    # Its header is whole, which is all that is looked at first; what a file is, its content says, not its name.
    cut = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3)))[1].tobytes()[:-500]
    first.write_bytes(cut)
    start = ("train", data, "--weights", tmp_path / "tiny.safetensors", "--batch", 2, "--device", "cpu",
             "--set", "workers=1", "--epochs", 1)  # fmt: skip
    done = run(*start, "--out", tmp_path / "run")
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and f"{first.name}: " in said and "another picture takes its place" in said
    for other in others:
        other.write_bytes(cut)
    done = run(*start, "--out", tmp_path / "none")
    assert done.exit_code == 1 and "error:" in done.output and "Traceback" not in done.output


def test_a_data_set_without_objects_or_with_strange_classes_to_validate_on_is_refused(tmp_path: Path) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data, other = on_disk(tmp_path / "a"), on_disk(tmp_path / "b", ("box", "drak"))
    start = ("train", data, "--weights", tmp_path / "tiny.safetensors", "--out", tmp_path / "run", *FAST)
    done = run(*start, "--val", other)
    assert done.exit_code == 1 and "classes that are trained, box, dark; got drak too" in done.output
    file = next(other.rglob("*.json"))
    file.write_text(file.read_text().replace('"height": 64', '"height": 65'))
    done = run(*start, "--val", other)  # at once, not at the first validation
    assert done.exit_code == 1 and "wrong image size" in done.output
    file = next(data.rglob("*.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    done = run(*start)
    assert done.exit_code == 1 and "no objects" in done.output and "want objects to learn" in done.output


def test_the_model_card_measures_the_file_that_ships_and_keeps_what_others_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data = on_disk(tmp_path)
    card, shipped = tmp_path / "card.md", tmp_path / "ships.safetensors"
    begin, end = "<!-- numbers: written by recipes/model_card.py -->", "<!-- end of numbers -->"
    card.write_text(f"# Ours\n{begin}\nold\n{end}\nLimits.\n")
    script = Path(__file__).parent.parent / "recipes/model_card.py"
    monkeypatch.setattr(
        "sys.argv",
        [str(script), str(tmp_path / "tiny.safetensors"), str(data), "--train", str(data), "--ship", str(shipped),
         "--card", str(card), "--out", str(tmp_path / "out")],
    )  # fmt: skip
    runpy.run_path(str(script), run_name="__main__")
    text = card.read_text()
    assert text.startswith(f"# Ours\n{begin}\n") and text.endswith(f"{end}\nLimits.\n") and "old" not in text
    assert "| box | 2 | 2 |" in text and "| dark | 2 | 2 |" in text  # training and validation objects
    assert load_file(shipped)["mask.logits.weight"].dtype == torch.float16
    assert maskrcnn.load(shipped).names == TINY.names
    assert (tmp_path / "out/worst.jpg").stat().st_size and (tmp_path / "out/report.html").stat().st_size
