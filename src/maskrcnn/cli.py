"""The command line. Exit codes: 0 all done, 1 an error, 2 wrong usage, 3 some pictures failed, 130 Ctrl-C.

PyTorch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from .config import Config
from .errors import ConfigError, MaskRCNNError

if TYPE_CHECKING:
    from .jobs import Report, Step
    from .model import MaskRCNN

SOME_FAILED, INTERRUPTED = 3, 130
_PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal

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


def main() -> None:
    """The console entry point."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a stopped container also completes results.json
    app()


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
        help="A weight file, or a name from [bold]maskrcnn models[/]; default: the shipped model.",
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
        help="Any setting of the model: [bold]names=nut,bolt[/], [bold]resize=pad64[/], ...; repeatable.",
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


@app.command()
def predict(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Pictures, folders, globs ('photos/**/*.jpg') or URLs.",
            show_default=False,
        ),
    ],
    weights: Weights = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder of the results. Default: beside a single picture, otherwise ./out."
        ),
    ] = None,
    save: Annotated[
        str,
        typer.Option(
            help="Which of overlay, json, masks, cutouts, labelme, yolo, csv, geojson; commas between."
        ),
    ] = "overlay,json",
    score: Annotated[float | None, typer.Option(help="Least score of a detection, 0 to 1.")] = None,
    nms: Annotated[
        float | None,
        typer.Option(help="Overlap (IoU) above which the weaker of two detections goes, 0 to 1."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Only these classes: names or numbers from 0, commas between.")
    ] = None,
    max_detections: Annotated[int | None, typer.Option(help="At most this many instances a picture.")] = None,
    min_size: Annotated[int | None, typer.Option(help="Resize the short side to this many pixels...")] = None,
    max_size: Annotated[int | None, typer.Option(help="... unless the long side would exceed this.")] = None,
    setting: Setting = None,
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that go through the network together.")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what an earlier run into --out has done, and do the rest.")
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also look into subfolders.")] = False,
    color_by: Annotated[str, typer.Option(help="One colour for each instance or each class.")] = "instance",
    max_pixels: Annotated[
        int | None, typer.Option(help="Refuse pictures of more pixels (default 250 million).")
    ] = None,
    debug: Debug = False,
) -> None:
    """Find the instances in pictures; write overlays, results.json (COCO) and more.

    A picture that cannot be read is reported and left out, and the exit code is 3. \
    Transparent parts are seen as white. 16-bit and float (0 to 1) pictures are scaled to 8 bits for RGB \
    models; for models of other channel counts they go in as they are.
    """
    from .inputs import MAX_PIXELS
    from .jobs import predict_files

    given = {
        "score": score,
        "nms": nms,
        "max_detections": max_detections,
        "min_size": min_size,
        "max_size": max_size,
    }
    model = _load(weights, config, setting, device, **{k: v for k, v in given.items() if v is not None})
    wanted = None if classes is None else [_class(part, model.names) for part in _split(classes)]
    with _progress() as show:
        report = predict_files(
            model, source[0] if len(source) == 1 else source, out,
            save=_split(save), batch_size=batch_size, classes=wanted, resume=resume, recursive=recursive,
            color_by=color_by, max_pixels=max_pixels or MAX_PIXELS, progress=show,  # type: ignore[arg-type]
        )  # fmt: skip
    _tell(report)
    if report.failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def models(debug: Debug = False) -> None:
    """The weights that have a name: classes, accuracy, size, licence, and whether they are here."""
    from rich.table import Column, Table

    from .weights import DEFAULT, MODELS, home

    name = Column("name", no_wrap=True)  # it is there to be copied
    table = Table(name, "classes", "box AP", "mask AP", "size", "licence", "here", box=None, pad_edge=False)
    for model in MODELS.values():
        size = model.path.stat().st_size if model.present else model.size
        table.add_row(
            f"[bold]{model.name}[/]" + (" (default)" if model.name == DEFAULT else ""),
            str(len(model.names)) if model.classes or model.present else "?",
            f"{model.box_ap:.1f}" if model.box_ap is not None else "-",
            f"{model.mask_ap:.1f}" if model.mask_ap is not None else "-",
            f"{size / 1e6:.0f} MB" if size is not None else "-",
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

    A folder, a .json or a .yaml is a data set: pictures are copied, and the format of IN is recognised.
    """
    path, weights_to = Path(source), ("safetensors", "torchvision", "detectron2", "mmdet", "h5")
    is_data = path.is_dir() or path.suffix.lower() in (".json", ".yaml", ".yml")
    if is_data or (to is not None and to not in weights_to):
        _convert_data(path, target, to, split)
        return
    to = to or "safetensors"
    ending = f".{to}" if to in ("safetensors", "h5") else ".pth"
    if target.suffix != ending:
        raise ConfigError(f"OUT: want a name that ends in {ending} for {to}, got {target}")
    from .weights import convert as convert_weights

    written = convert_weights(
        source,
        target,
        to=to,  # type: ignore[arg-type]
        dtype="float16" if half else "float32",
        config=config,
        **_settings(setting),
    )
    console.print(f"wrote {escape(str(written))}, {written.stat().st_size / 1e6:.0f} MB", soft_wrap=True)


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

    Anchors and sizes are those of --weights, else the defaults, with --set on top. \
    The exit code is 1 where training would stop.
    """
    from .data import doctor as examine
    from .data import open_dataset, write_report

    dataset = open_dataset(data, split)
    if weights is not None:
        settings = _load(weights, config, setting, "cpu").config
    else:
        settings = Config(names=dataset.names or ("object",)).with_options(**_settings(setting))
    with stderr.status(f"looking at {len(dataset)} pictures"):
        report = examine(dataset, settings)
        page = write_report(report, out or Path(f"{data.resolve().stem}_doctor.html"))
    console.print(escape(report.text()), soft_wrap=True)
    console.print(f"\nwrote {escape(str(page))}", soft_wrap=True)
    if report.stops:
        raise typer.Exit(1)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(help="One picture.", show_default=False)],
    weights: Weights = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write. Default: NAME_explained.html beside it."),
    ] = None,
    instance: Annotated[
        int | None,
        typer.Option(min=0, help="The instance to follow, 0 for the best-scored; default: a telling one."),
    ] = None,
    setting: Setting = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Show in pictures what each stage of the network saw and did: one HTML page that needs nothing else."""
    from .explain import write_page

    model = _load(weights, config, setting, device)
    name = Path(image.rstrip("/").rsplit("/", 1)[-1] if "://" in image else image)
    page = out or name.with_name(f"{name.stem}_explained.html")
    write_page(model, image, page, instance=instance)
    console.print(f"wrote {escape(str(page))}", soft_wrap=True)


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
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other training setting; repeatable."),
    ] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Train on annotated pictures; a killed run goes on with --resume.

    The folder gets best.safetensors and last.safetensors, log.csv, validation.csv, results.png and pictures.

    Several processes: torchrun --nproc-per-node 2 -m maskrcnn train DATA.
    """
    from .train import Training, train
    from .train.start import start_model
    from .train.watch import watch

    options = {"epochs": epochs, "batch": batch, "lr": lr, "layers": layers}
    options = {k: v for k, v in options.items() if v is not None} | _settings(setting)
    settings = Training() if recipe is None else Training.load(recipe)
    run = resume or out
    model = (
        None if resume else start_model(weights, data, recipe, settings.with_options(**options).seed, console)
    )
    with watch(stderr) as tell:
        train(model, data, out=run, val=val, resume=resume is not None, settings=settings, device=device,
              tell=tell, **options)  # fmt: skip
    console.print(f"the best weights are {escape(str(run / 'best.safetensors'))}", soft_wrap=True)


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
    setting: Setting = None,
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that go through the network together.")
    ] = 1,
    debug: Debug = False,
) -> None:
    """Measure a model on annotated pictures: COCO AP of boxes and masks, curves, the worst pictures."""
    from . import evaluate as measure
    from .data import open_dataset

    if results is not None and limit is not None:
        raise ConfigError(
            "--limit: want a model to run on fewer pictures, got --results; leave one of them out"
        )
    dataset = open_dataset(data, split or (None if data.suffix == ".json" else "val"))
    if results is not None:
        done = measure.evaluate_results(results, dataset, max_detections=max_detections)
    else:
        model = _load(weights, config, setting, device)
        with _progress() as show:
            done = measure.evaluate(
                model, dataset, score=score, batch_size=batch_size, max_detections=max_detections,
                limit=limit, progress=show,
            )  # fmt: skip
    report = measure.write_report(done, dataset, out)
    for line in measure.lines(done):
        console.print(escape(line), soft_wrap=True)
    console.print(f"see {escape(str(report))}", soft_wrap=True)


# Behind the commands


def _convert_data(source: Path, target: Path, form: str | None, split: str | None) -> None:
    from .data import FORMATS, open_dataset, write_dataset

    if form is None:
        raise ConfigError(
            f"--to: want the format to write, one of {', '.join(FORMATS)}; {source} is a data set"
        )
    dataset = open_dataset(source, split)
    for lost in write_dataset(dataset, target, form):
        stderr.print(f"[yellow]{escape(str(lost))}[/]", soft_wrap=True)
    pictures = f"{len(dataset)} picture{'s' * (len(dataset) != 1)}"
    console.print(f"wrote {pictures} as {form} to {escape(str(target))}", soft_wrap=True)


def _load(
    weights: str | None, config: Path | None, setting: list[str] | None, device: str, **options: Any
) -> MaskRCNN:
    import torch

    from .weights import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)  # before a minute of loading
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"device: want cpu or one that this machine has, got {device} ({said})") from error
    return load(weights, device=device, config=config, **_settings(setting), **options)


def _settings(setting: list[str] | None) -> dict[str, Any]:
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
            options[name] = [_word(part) for part in _split(value)] if several else value
    return options


def _word(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _class(text: str, names: tuple[str, ...]) -> str | int:
    return int(text) if text.isdecimal() and text not in names else text


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """A bar with pictures a second and time to go; without a terminal a line now and then."""
    if not stderr.is_terminal:
        yield _plain_progress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=None, rate="")
        rate = _Rate()

        def show(step: Step) -> None:
            if step.error:
                stderr.print(f"[red]{escape(step.error)}[/]", soft_wrap=True)
            bar.update(
                task, total=step.total, completed=step.done, rate=rate(step), description=escape(step.name)
            )

        yield show


class _Rate:
    """Pictures a second since the first, which paid for the warm-up."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, step: Step) -> str:
        now = time.monotonic()
        if self.first is None:
            self.first = step.done, now
        done, start = self.first
        return f"{(step.done - done) / (now - start):.2f} images/s" if step.done > done else ""


def _plain_progress() -> Callable[[Step], None]:
    rate, last = _Rate(), time.monotonic()

    def show(step: Step) -> None:
        nonlocal last
        speed = rate(step)
        if step.error:
            stderr.print(f"failed: {escape(step.error)}", soft_wrap=True)
        if time.monotonic() - last >= _PLAIN_EVERY:
            last = time.monotonic()
            of = f"/{step.total}" if step.total is not None else ""
            stderr.print(f"{step.done}{of} {speed} {escape(step.name)}", soft_wrap=True)

    return show


def _tell(report: Report) -> None:
    """What was done, and where it is."""
    pictures = f"{report.done} picture{'s' * (report.done != 1)}"
    found = f"{report.instances} instance{'s' * (report.instances != 1)}"
    earlier = f", {report.skipped} done before" if report.skipped else ""
    beside = report.json is not None and report.json.name != "results.json"
    where = escape(str(report.json if beside else report.out))
    console.print(f"{pictures}, {found} in {report.seconds:.1f} s{earlier}; see {where}", soft_wrap=True)
    if report.failed:
        names = "\n".join(f"  {escape(name)}" for name, _ in report.failed)
        console.print(f"[red]{len(report.failed)} without a result:[/]\n{names}", soft_wrap=True)
