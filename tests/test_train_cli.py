"""The train command: from random weights, resumed, and onto another class list."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from typer.testing import CliRunner, Result

import maskrcnn
from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.data import open_dataset, write_dataset
from maskrcnn.model.resnet import ResNet
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


def test_fine_tuning_says_which_classes_are_kept(tmp_path: Path) -> None:
    maskrcnn.save(tiny(), tmp_path / "tiny.safetensors")
    data = on_disk(tmp_path, ("new", "Box"))
    with pytest.warns(UserWarning, match="training without validation"):
        done = run("train", data, "--weights", tmp_path / "tiny.safetensors", "--layers", "heads", "--epochs", 1,
                   "--set", "rpn_nms=0.6", "--out", tmp_path / "run", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "random" in done.output and "kept from box" in done.output
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
