"""Weights and data sets as files: models, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import ConfigError
from ..words import many
from .common import (
    ConfigFile,
    Debug,
    Setting,
    Split,
    app,
    console,
    read_settings,
    stderr,
)

WEIGHTS_TO = ("safetensors", "torchvision", "detectron2", "mmdet", "h5")


@app.command()
def models(debug: Debug = False) -> None:
    """The weights that have a name: classes, accuracy, size, licence, and whether they are here."""
    from rich.table import Column, Table

    from ..weights import DEFAULT, MODELS, home

    name = Column("name", no_wrap=True)  # it is there to be copied
    table = Table(name, "classes", "box AP", "mask AP", "size", "licence", "here", box=None, pad_edge=False)
    for model in MODELS.values():
        size = model.path.stat().st_size if model.present else model.size
        table.add_row(
            f"[bold]{model.name}[/]" + (" (default)" if model.name == DEFAULT else ""),
            "-" if model.backbone else str(len(model.names)) if model.classes or model.present else "?",
            f"{model.box_ap:.1f}" if model.box_ap is not None else "-",
            f"{model.mask_ap:.1f}" if model.mask_ap is not None else "-",
            f"{size / 1e6:.0f} MB" if size is not None else f"~{model.about} MB" if model.about else "-",
            escape(model.licence),
            "yes" if model.present else "no",
        )
    console.print(table)
    console.print()
    for model in MODELS.values():
        console.print(f"[bold]{model.name}[/]: {escape(model.note or model.source)}", soft_wrap=True)
    console.print(f"Downloads go to {escape(str(home()))} (MASKRCNN_HOME).", soft_wrap=True)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A weight file, a name, or a data set.", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write, or a new folder.", show_default=False)
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Weights: safetensors (ours, the default), torchvision, detectron2, mmdet (all .pth) or h5. "
            "Data sets: coco, via, labelme, yolo, voc or masks.",
            show_default=False,
        ),
    ] = None,
    split: Split = None,
    config: ConfigFile = None,
    setting: Setting = None,
    half: Annotated[
        bool, typer.Option("--half", help="Weights: store float16, half the size and slightly rounded.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Turn weights of another framework into one file of ours or back, or a data set into another format.

    A folder, a .json, .yaml or .xml is a data set: pictures are copied, and the format of IN is recognised.
    """
    path = Path(source)
    if path.is_dir() or path.suffix.lower() in (".json", ".yaml", ".yml", ".xml"):
        _convert_data(path, target, to, split)
        return
    to = to or "safetensors"
    if to not in WEIGHTS_TO:
        raise ConfigError(
            f"--to: want one of {', '.join(WEIGHTS_TO)}, got {to}; {source} is no folder and no .json, .yaml or .xml, "
            "as data sets are"
        )
    ending = f".{to}" if to in ("safetensors", "h5") else ".pth"
    if target.suffix != ending:
        raise ConfigError(
            f"OUT: want a name that ends in {ending} for {to}, got {target}; --to names another format"
        )
    from ..weights import convert as convert_weights

    written = convert_weights(
        source,
        target,
        to=to,  # type: ignore[arg-type]
        dtype="float16" if half else "float32",
        config=config,
        tell=lambda words: console.print(escape(words), soft_wrap=True),
        **read_settings(setting),
    )
    console.print(f"wrote {escape(str(written))}, {written.stat().st_size / 1e6:.0f} MB", soft_wrap=True)


def _convert_data(source: Path, target: Path, form: str | None, split: str | None) -> None:
    from ..data import FORMATS, open_dataset, write_dataset

    if form is None:
        raise ConfigError(
            f"--to: want the format to write, one of {', '.join(FORMATS)}; {source} is a data set"
        )
    dataset = open_dataset(source, split)
    for lost in write_dataset(dataset, target, form):
        stderr.print(f"[yellow]{escape(str(lost))}[/]", soft_wrap=True)
    console.print(f"wrote {many(len(dataset), 'picture')} as {form} to {escape(str(target))}", soft_wrap=True)
