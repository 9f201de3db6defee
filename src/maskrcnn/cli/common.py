"""What all commands share: the application, its errors, options and the way to a model."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from ..errors import ConfigError, MaskRCNNError

if TYPE_CHECKING:
    from ..model import MaskRCNN

SOME_FAILED, INTERRUPTED = 3, 130  # exit codes

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


class _Commands(TyperGroup):
    """Our errors as one red line, Ctrl-C as exit code 130; a traceback with --debug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MaskRCNNError as error:
            if ctx.meta.get("maskrcnn.debug"):
                raise
            stderr.print(f"[bold red]error:[/] [red]{escape(str(error))}[/]", soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            stderr.print("[yellow]interrupted[/]")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mask R-CNN: find the objects in pictures, with the weights you already have.",
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 3 some pictures could not be read, 130 interrupted.",
)


def _note_debug(ctx: typer.Context, value: bool) -> bool:
    ctx.meta["maskrcnn.debug"] = value
    return value


def _show_version(value: bool) -> None:
    if value:
        try:
            console.print(f"maskrcnn {importlib.metadata.version('maskrcnn')}")
        except importlib.metadata.PackageNotFoundError:
            console.print("maskrcnn, run from its source folder")
        raise typer.Exit()


Debug = Annotated[
    bool, typer.Option("--debug", callback=_note_debug, is_eager=True, help="Show where an error came from.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help="A weight file, or a name from [bold]maskrcnn models[/]; 'default' is the shipped model.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="What a Matterport .h5 does not hold: a .py with its Config class, or a .json."
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the model, its engine or preset: [bold]names=nut,bolt[/], [bold]resize=pad64[/], "
        "[bold]engine=bfloat16[/], ...; repeatable.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="train, val, ...: which part of the data set. Default: train, if there are several."),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")]


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def load_model(
    weights: str | None, config: Path | None, setting: list[str] | None, device: str, **options: Any
) -> MaskRCNN:
    """The model that the options of a command name, on its device."""
    import torch

    from ..weights import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)  # before a minute of loading
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"device: want cpu or one that this machine has, got {device} ({said})") from error
    settings = read_settings(setting)
    if own := ", ".join(settings.keys() & options.keys()):
        raise ConfigError(f"--set: want other settings, got {own}, which this command chooses itself")
    return load(weights, device=device, config=config, **settings, **options)


def read_settings(setting: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` texts as options; a value is JSON, or words with commas between."""
    options: dict[str, Any] = {}
    for text in setting or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set: want NAME=VALUE, got {text!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            several = "," in value or name == "names"
            options[name] = [_word(part) for part in split_words(value)] if several else value
    return options


def _word(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def split_words(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
