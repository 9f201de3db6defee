"""Other runtimes and this machine: export, bench."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..config import PRESETS
from ..errors import ConfigError, MissingExtraError
from .common import (
    SOME_FAILED,
    ConfigFile,
    Debug,
    Device,
    Setting,
    Split,
    Weights,
    app,
    console,
    load_model,
    split_words,
    stderr,
)

if TYPE_CHECKING:
    from ..model import MaskRCNN
    from ..records import Image

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"  # of the source folder
CALIBRATION = 300  # more pictures do not move the ranges of activations any more

Data = Annotated[Path | None, typer.Option(help="Annotated pictures, to measure AP on as well.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many pictures of --data, the first.")]


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="onnx (.onnx), openvino (.xml and .bin) or torch-export (.pt2). Default: by OUT's ending.",
        ),
    ] = None,
    weights: Weights = None,
    config: ConfigFile = None,
    setting: Setting = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures, a folder or a glob to compare with PyTorch on. Default: examples/photos."
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers in convolutions and dense layers; openvino only.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(help="A folder or glob of pictures like yours, which --int8 measures ranges on."),
    ] = None,
    data: Data = None,
    split: Split = None,
    limit: Limit = None,
    debug: Debug = False,
) -> None:
    """Write a model as one file that runs without this package: from pixels to boxes, scores and RoI masks.

    Afterwards the file and PyTorch predict the same pictures, and the exit code is 3 where they differ by more \
    than 0.1 px, 0.001 in a score or 0.02 in a mask. With --int8 the differences are only told; with --data the AP too.
    """
    from .. import engines
    from ..inputs import expand, read

    by_ending = {form.ending: name for name, form in engines.FORMATS.items()}
    kind = to or by_ending.get(out.suffix, "onnx")
    if int8 and (kind != "openvino" or calibrate is None):
        raise ConfigError(
            f"--int8: want --to openvino and pictures with --calibrate, got {kind}, {calibrate}"
        )
    model = load_model(weights, config, setting, "cpu", engine="torch")
    start = time.monotonic()
    with stderr.status(f"writing {escape(str(out))}"):
        if int8:
            engines.export_int8(model, out, _calibration(calibrate))
        else:
            engines.export(model, out, kind)
    size = sum(file.stat().st_size for file in (out, out.with_suffix(".bin")) if file.exists())
    seconds = time.monotonic() - start
    console.print(f"wrote {escape(str(out))}, {size / 1e6:.0f} MB, in {seconds:.0f} s", soft_wrap=True)

    exported = engines.open_file(out, engines.FORMATS[kind])
    sources = images or ([str(PHOTOS)] if PHOTOS.is_dir() else [])
    if data is not None:
        for name, either in (("PyTorch", model), (out.name, exported)):
            console.print(f"{escape(name)}: {_ap(either, data, split, limit)}", soft_wrap=True)
    if not sources:
        stderr.print("[yellow]not compared with PyTorch: name pictures with --images[/]")
    elif not _compare(model, exported, [read(one) for one in expand(sources)]) and not int8:
        stderr.print("[red]the file does not find what PyTorch finds[/]")
        raise typer.Exit(SOME_FAILED)


def _calibration(source: str | None) -> list[Image]:
    from ..inputs import expand, read

    return [read(one) for one in itertools.islice(expand(source), CALIBRATION)]


def _compare(model: MaskRCNN, other: MaskRCNN, pictures: Sequence[Image]) -> bool:
    """Predict pictures with both, print the differences, and say whether they are small."""
    from ..engines.parity import compare

    pairs = [(model.predict_images([one])[0], other.predict_images([one])[0]) for one in pictures]
    parity = compare(pairs, model.config.score)
    console.print(f"{len(pictures)} pictures, {parity.text()}", soft_wrap=True)
    return parity.holds


def _ap(model: MaskRCNN, data: Path, split: str | None, limit: int | None) -> str:
    """Box and mask AP on annotated pictures, as text."""
    from .. import evaluate
    from ..data import open_dataset

    dataset = open_dataset(data, split or (None if data.suffix == ".json" else "val"))
    done = evaluate.evaluate(model, dataset, score=model.config.score, limit=limit)
    masks = "" if done.mask is None else f", mask AP {done.mask.ap:.1%}"
    return f"box AP {done.box.ap:.1%}{masks}"


@app.command()
def bench(
    weights: Weights = None,
    config: ConfigFile = None,
    setting: Setting = None,
    image: Annotated[
        str | None,
        typer.Option(help="The picture to time. Default: one of examples/photos.", show_default=False),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help="Which of auto, torch, bfloat16, float16, onnxruntime, openvino; commas between. "
            "Default: those installed, on a GPU those in 16 bits too."
        ),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Pictures like yours: also time OpenVINO in int8, calibrated on them.")
    ] = None,
    data: Data = None,
    split: Split = None,
    limit: Limit = None,
    runs: Annotated[int, typer.Option(min=1, help="Passes, of which the median counts.")] = 5,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Time a model on this machine: each stage, each engine, and presets that trade accuracy for time.

    ONNX Runtime and OpenVINO first write the graph, a minute each, and keep it.
    """
    import torch

    from .. import bench as timing
    from ..inputs import read
    from ..model.image import padded_size

    model = load_model(weights, config, setting, device)
    if image is None and not PHOTOS.is_dir():
        raise ConfigError("--image: want a picture to time, got none")
    picture = read(image or PHOTOS / "coffee.jpg")
    (h, w), (rows, columns) = picture.size, padded_size(picture.size, model.config)
    console.print(
        f"{escape(str(model.source))}: a picture of {h}x{w}, {rows}x{columns} in the network, "
        f"{len(model.predict_images([picture])[0])} instances; PyTorch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, medians of {runs}",
        soft_wrap=True,
    )
    stages = timing.time_stages(model, picture, runs)
    whole = sum(stages.values())
    rows_ = [(name, f"{seconds * 1e3:.1f}", f"{seconds / whole:.0%}") for name, seconds in stages.items()]
    _print_table(("stage", "ms", "share"), [*rows_, ("together", f"{whole * 1e3:.1f}", "")])

    models = _engines(engines, calibrate, weights, config, setting, str(model.device))
    for preset in PRESETS:
        models[f"preset {preset}"] = load_model(weights, config, setting, device, preset=preset)
    with stderr.status("timing"):
        seconds_of = timing.time_models(models, picture, runs)
    slowest = seconds_of.get("torch", max(seconds_of.values()))
    accuracy = {} if data is None else {name: _ap(one, data, split, limit) for name, one in models.items()}
    console.print()
    _print_table(
        ("predict with", "ms", "of torch's", *(("accuracy",) if accuracy else ())),
        [
            (
                name,
                f"{seconds * 1e3:.0f}",
                f"{seconds / slowest:.2f}",
                *((accuracy[name],) if accuracy else ()),
            )
            for name, seconds in seconds_of.items()
        ],
    )


def _engines(
    names: str | None, calibrate: str | None, weights: str | None, config: Path | None, setting: list[str] | None,
    device: str,
) -> dict[str, MaskRCNN]:  # fmt: skip
    """The model by each engine asked for, or by each that is installed."""
    from ..engines import ENGINES, FORMATS, PRECISIONS, export_int8, open_file

    usual = [name for name in ENGINES if device != "cpu" or name not in PRECISIONS]
    wanted = usual if names is None else split_words(names)
    models = {}
    for name in wanted:
        try:
            with stderr.status(f"making {escape(name)} ready"):
                models[name] = load_model(weights, config, setting, device, engine=name)
        except MissingExtraError as error:
            if names is not None:
                raise
            stderr.print(f"[yellow]left out: {escape(str(error))}[/]", soft_wrap=True)
    if calibrate is not None:
        with stderr.status("making openvino int8 ready"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.xml"
            export_int8(load_model(weights, config, setting, "cpu"), path, _calibration(calibrate))
            models["openvino int8"] = open_file(path, FORMATS["openvino"])
    return models


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Column, Table

    table = Table(
        Column(head[0]), *(Column(name, justify="right") for name in head[1:]), box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
