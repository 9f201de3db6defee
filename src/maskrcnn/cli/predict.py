"""Pictures in, results out: predict, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .cluster import Address, WorkerCpus, WorkerGpus, Workers, fleet_of
from .common import (
    SOME_FAILED,
    ConfigFile,
    Debug,
    Device,
    Setting,
    Weights,
    app,
    console,
    load_model,
    split_words,
)
from .progress import progress

if TYPE_CHECKING:
    from ..jobs import Report


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
        str | None,
        typer.Option(
            "--out", "-o", help="Folder of the results. Default: beside a single picture, otherwise ./out."
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            help="Which of overlay, json, masks, cutouts, labelme, yolo, csv, geojson; commas between. "
            "Default: overlay,json; with --ray: parquet,json, and no others."
        ),
    ] = None,
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
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Spread the pictures over the workers of a Ray cluster; SOURCE may also be a COCO json or "
            "parquet, and a URI such as s3://. Needs maskrcnn\\[scale].",
        ),
    ] = False,
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1,
    worker_gpus: WorkerGpus = None,
    shard: Annotated[
        int | None, typer.Option(min=1, help="With --ray: pictures in a part, at most 1000 by default.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="With --ray: the column of a parquet table that has the pictures.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Find the instances in pictures; write overlays, results.json (COCO) and more.

    A picture that cannot be read is reported and left out, and the exit code is 3. \
    Transparent parts are seen as white. 16-bit and float (0 to 1) pictures are scaled to 8 bits for RGB \
    models; for models of other channel counts they go in as they are.
    """
    from ..inputs import MAX_PIXELS
    from ..jobs import predict_files

    given = {
        "score": score,
        "nms": nms,
        "max_detections": max_detections,
        "min_size": min_size,
        "max_size": max_size,
    }
    fleet = fleet_of(ray, device, address, workers, worker_cpus, worker_gpus)
    given = {k: v for k, v in given.items() if v is not None}
    model = load_model(weights, config, setting, "cpu" if ray else device, **given)
    wanted = None if classes is None else [_class(part, model.names) for part in split_words(classes)]
    options: dict[str, Any] = {
        "save": split_words(save or ("parquet,json" if ray else "overlay,json")), "batch_size": batch_size,
        "classes": wanted, "resume": resume, "recursive": recursive, "max_pixels": max_pixels or MAX_PIXELS,
    }  # fmt: skip
    what = source[0] if len(source) == 1 else source
    with progress() as show:
        if fleet:
            from ..scale import predict_fleet

            report = predict_fleet(
                model, what, out, workers=fleet, shard=shard, column=column, progress=show, **options
            )
        else:
            report = predict_files(model, what, out, color_by=color_by, progress=show, **options)  # type: ignore[arg-type]
    _tell(report)
    if report.failed:
        raise typer.Exit(SOME_FAILED)


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
    from ..explain import write_page

    model = load_model(weights, config, setting, device)
    name = Path(image.rstrip("/").rsplit("/", 1)[-1] if "://" in image else image)
    page = out or name.with_name(f"{name.stem}_explained.html")
    write_page(model, image, page, instance=instance)
    console.print(f"wrote {escape(str(page))}", soft_wrap=True)


def _class(text: str, names: tuple[str, ...]) -> str | int:
    return int(text) if text.isdecimal() and text not in names else text


def _tell(report: Report) -> None:
    """What was done, and where it is."""
    pictures = f"{report.done} picture{'s' * (report.done != 1)}"
    found = f"{report.instances} instance{'s' * (report.instances != 1)}"
    earlier = f", {report.skipped} done before" if report.skipped else ""
    beside = report.json is not None and Path(report.json).name != "results.json"
    where = escape(str(report.json if beside else report.out))
    console.print(f"{pictures}, {found} in {report.seconds:.1f} s{earlier}; see {where}", soft_wrap=True)
    if report.failed:
        names = "\n".join(f"  {escape(name)}" for name, _ in report.failed)
        console.print(f"[red]{len(report.failed)} without a result:[/]\n{names}", soft_wrap=True)
