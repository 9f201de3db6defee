"""Annotated pictures: doctor, train, evaluate."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..config import Config, Dialect
from ..errors import ConfigError
from .common import (
    ConfigFile,
    Debug,
    Device,
    Setting,
    Split,
    Weights,
    app,
    console,
    load_model,
    read_settings,
    stderr,
)
from .progress import progress


@app.command()
def doctor(
    data: Annotated[
        Path, typer.Argument(help="A data set: a folder, or its annotation file.", show_default=False)
    ],
    weights: Weights = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write. Default: DATA_doctor.html, here.")
    ] = None,
    split: Split = None,
    setting: Setting = None,
    debug: Debug = False,
) -> None:
    """Say what a data set is, what is wrong with it, and whether the anchors fit; one HTML page shows it.

    Anchors and sizes are those of --weights, else of the shipped model, with --set on top. \
    The exit code is 1 where training would stop.
    """
    from ..data import doctor as examine
    from ..data import open_dataset, write_report

    dataset = open_dataset(data, split)
    settings = load_model(weights, config, setting, "cpu").config
    with stderr.status(f"looking at {len(dataset)} pictures"):
        report = examine(dataset, settings)
        page = write_report(report, out or Path(f"{data.resolve().stem}_doctor.html"))
    console.print(escape(report.text()), soft_wrap=True)
    console.print(f"\nwrote {escape(str(page))}", soft_wrap=True)
    if report.stops:
        raise typer.Exit(1)


@app.command()
def train(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Annotation files or folders of data sets; each may have classes of its own.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Where to start: default, none (random), a name or a file.")
    ] = "default",
    recipe: Annotated[
        Path | None,
        typer.Option(help="A JSON file with [bold]training[/] settings, and the [bold]model[/] for none."),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="What to validate on. Default: the split val of DATA, if any.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("runs/train"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, where it was.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Times to go through the data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="What learns: heads, 5+, 4+, 3+, all, or a regular expression.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing", help="Less memory, more time, the same gradients."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of training, or of the network; repeatable.",
        ),
    ] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Train on annotated pictures; a killed run goes on with --resume.

    The folder gets best.safetensors and last.safetensors, log.csv, validation.csv, results.png and pictures.

    Several processes: torchrun --nproc-per-node 2 -m maskrcnn train DATA.
    """
    from ..train import Training, train
    from ..train.start import start_model

    options: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "layers": layers,
               "gradient_checkpointing": gradient_checkpointing}  # fmt: skip
    given = read_settings(setting)
    networks = {field.name for kind in (Config, Dialect) for field in fields(kind)}
    network = {name: given.pop(name) for name in list(given) if name in networks}
    if network and resume:
        raise ConfigError(
            f"--set: a run that goes on keeps its network, got {', '.join(network)}; train into another folder"
        )
    options = {k: v for k, v in options.items() if v is not None} | given
    settings = Training() if recipe is None else Training.load(recipe)
    run = resume or out
    first = os.environ.get("RANK", "0") == "0"  # set by torchrun; one process speaks for all
    said = Console(quiet=not first, highlight=False)
    seed = settings.with_options(**options).seed
    model = None if resume else start_model(weights, data, recipe, seed, said, network)
    train(
        model, data, out=run, val=val, resume=resume is not None, settings=settings, device=device, **options
    )
    said.print(f"the best weights are {escape(str(run / 'best.safetensors'))}", soft_wrap=True)


@app.command()
def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="An annotation file or a folder of any known format.", show_default=False
        ),
    ],
    weights: Weights = None,
    config: ConfigFile = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which part of a folder that holds several; default: val.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of report.html, evaluation.json and results.json.")
    ] = Path("evaluation"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many pictures, the first.")] = None,
    score: Annotated[
        float | None, typer.Option(help="Leave out detections below it; default: 0.05, like COCO.")
    ] = None,
    max_detections: Annotated[
        int,
        typer.Option(min=1, help="At most this many a picture; more than 100 is no longer COCO's number."),
    ] = 100,
    results: Annotated[
        Path | None, typer.Option(help="Measure this COCO results file; no model is run.")
    ] = None,
    repaired: Annotated[
        bool, typer.Option("--repair", help="Repair the annotations first, as training does.")
    ] = False,
    setting: Setting = None,
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that go through the network together.")
    ] = 1,
    debug: Debug = False,
) -> None:
    """Measure a model on annotated pictures: COCO AP of boxes and masks, curves, the worst pictures.

    Annotations count as they are, twice where they are there twice, as in COCO's own evaluation; see --repair.
    """
    from .. import evaluate as measure
    from ..data import open_dataset, repair

    if results is not None and limit is not None:
        raise ConfigError(
            "--limit: want a model to run on fewer pictures, got --results; leave one of them out"
        )
    dataset = open_dataset(data, split or (None if data.suffix == ".json" else "val"))
    if repaired:
        dataset, looked = repair(dataset)
        looked.raise_if_stopped()
        counts = Counter(one.kind for one in looked.findings if one.cure in ("clips", "drops"))
        said = ", ".join(f"{kind}: {count}" for kind, count in counts.items()) or "nothing to repair"
        console.print(f"repaired: {said}" if counts else said)
    if results is not None:
        done = measure.evaluate_results(results, dataset, max_detections=max_detections)
    else:
        model = load_model(weights, config, setting, device)
        with progress() as show:
            done = measure.evaluate(
                model, dataset, score=score, batch_size=batch_size, max_detections=max_detections,
                limit=limit, progress=show,
            )  # fmt: skip
    report = measure.write_report(done, dataset, out)
    for line in measure.lines(done):
        console.print(escape(line), soft_wrap=True)
    console.print(f"see {escape(str(report))}", soft_wrap=True)
