"""Pictures in, results out: predict, explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import ConfigError, ImageError
from ..words import many
from .cluster import Address, Column, Ray, Shard, WorkerCpus, WorkerGpus, Workers, fleet_of
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
    stderr,
)
from .options import (
    BatchSize,
    Classes,
    ColorBy,
    End,
    MaxDetections,
    MaxPixels,
    MaxSize,
    MinSize,
    Nms,
    Out,
    Overlap,
    Recursive,
    Resume,
    Save,
    Score,
    Sources,
    Start,
    Stride,
    Tile,
    Track,
)
from .progress import progress

if TYPE_CHECKING:
    from .. import scale
    from ..jobs import Report
    from ..model import MaskRCNN
    from ..videos import VideoReport


@app.command()
def predict(
    source: Sources,
    weights: Weights = None,
    config: ConfigFile = None,
    out: Out = None,
    save: Save = None,
    score: Score = None,
    nms: Nms = None,
    classes: Classes = None,
    max_detections: MaxDetections = None,
    min_size: MinSize = None,
    max_size: MaxSize = None,
    setting: Setting = None,
    device: Device = "auto",
    batch_size: BatchSize = 1,
    resume: Resume = False,
    recursive: Recursive = False,
    color_by: ColorBy = "instance",
    max_pixels: MaxPixels = None,
    tile: Tile = None,
    overlap: Overlap = None,
    track: Track = False,
    stride: Stride = None,
    start: Start = None,
    end: End = None,
    ray: Ray = False,
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1,
    worker_gpus: WorkerGpus = None,
    shard: Shard = None,
    column: Column = None,
    debug: Debug = False,
) -> None:
    """Find the instances in pictures or videos; write overlays, results.json (COCO) and more.

    A picture that cannot be read is reported and left out, and the exit code is 3. \
    Transparent parts are seen as white. 16-bit and float (0 to 1) pictures are scaled to 8 bits for RGB \
    models; for models of other channel counts they go in as they are.
    """
    video = {"track": track or None, "stride": stride, "start": _seconds(start), "end": _seconds(end)}
    picture = {"resume": resume or None, "recursive": recursive or None, "max_pixels": max_pixels,
               "tile": tile, "overlap": overlap}  # fmt: skip
    videos = _all_videos(source, _given(**video), _given(**picture))
    fleet = fleet_of(ray, device, address, workers, worker_cpus, worker_gpus)
    if fleet and (videos or tile or overlap):
        what = "videos" if videos else "--tile or --overlap"
        raise ConfigError(f"--ray: want whole pictures, got {what}; predict those without it")
    model = load_model(
        weights, config, setting, "cpu" if ray else device,
        **_given(score=score, nms=nms, max_detections=max_detections, min_size=min_size, max_size=max_size),
    )  # fmt: skip
    wanted = None if classes is None else [_class(part, model.names) for part in split_words(classes)]
    files = split_words(save or ("parquet,json" if ray else "overlay,json"))
    common: dict[str, Any] = {"save": files, "batch_size": batch_size, "classes": wanted}
    if videos:
        _predict_videos(model, source, out, color_by=color_by, **common, **_given(**video))
    elif fleet:
        _predict_pictures(
            model, source, out, fleet, shard=shard, column=column, **common, **_given(**picture)
        )
    else:
        _predict_pictures(model, source, out, color_by=color_by, **common, **_given(**picture))


def _predict_pictures(
    model: MaskRCNN, sources: list[str], out: str | None, fleet: scale.Workers | None = None, **options: Any
) -> None:
    source = sources[0] if len(sources) == 1 else sources
    with progress() as show:
        if fleet:
            from ..scale import predict_fleet

            report = predict_fleet(model, source, out, workers=fleet, progress=show, **options)
        else:
            from ..jobs import predict_files

            report = predict_files(model, source, out, progress=show, **options)
    _tell(report)
    if report.failed:
        raise typer.Exit(SOME_FAILED)


def _predict_videos(model: MaskRCNN, sources: list[str], out: str | None, **options: Any) -> None:
    """One after the other; a broken one does not cost the others."""
    from ..videos import predict_video_file

    failed = False
    for source in sources:
        try:
            with progress("frames") as show:
                report = predict_video_file(model, source, out, progress=show, **options)
        except ImageError as error:
            if len(sources) == 1:
                raise
            stderr.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
            failed = True
            continue
        _tell_of_video(report)
        failed |= report.error is not None
    if failed:
        raise typer.Exit(SOME_FAILED)


def _all_videos(sources: list[str], video: dict[str, Any], picture: dict[str, Any]) -> bool:
    """Whether the sources are videos. Raises ConfigError for a mixture, and for options of the other kind."""
    from ..inputs import is_video

    kinds = {is_video(source) for source in sources}
    if len(kinds) > 1:
        raise ConfigError("source: want pictures or videos, got both; run the command once for each")
    videos = kinds.pop()
    wrong = picture if videos else video
    if wrong:
        there = "videos" if videos else "pictures"
        names = ", ".join("--" + name.replace("_", "-") for name in wrong)
        hint = "; go on from where it ended with --start, into another folder" if "resume" in wrong else ""
        raise ConfigError(f"{names}: want {'pictures' if videos else 'videos'}, got {there}{hint}")
    return videos


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _seconds(text: str | None) -> float | None:
    """Seconds of ``90``, ``1:30`` or ``0:01:30``."""
    if text is None:
        return None
    try:
        return sum(float(part) * 60**i for i, part in enumerate(reversed(text.split(":"))))
    except ValueError:
        raise ConfigError(f"--start, --end: want seconds or h:mm:ss, got {text!r}") from None


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
    pictures = many(report.done, "picture")
    found = many(report.instances, "instance")
    earlier = f", {report.skipped} done before" if report.skipped else ""
    beside = report.json is not None and Path(report.json).name != "results.json"
    where = escape(str(report.json if beside else report.out))
    console.print(f"{pictures}, {found} in {report.seconds:.1f} s{earlier}; see {where}", soft_wrap=True)
    if report.failed:
        names = "\n".join(f"  {escape(name)}" for name, _ in report.failed)
        console.print(f"[red]{len(report.failed)} without a result:[/]\n{names}", soft_wrap=True)


def _tell_of_video(report: VideoReport) -> None:
    frames = many(report.frames, "frame")
    found = many(report.instances, "instance")
    lost = f", {report.lost} lost" if report.lost else ""
    where = escape(" and ".join(map(str, report.files)))
    speed = report.frames / report.seconds
    console.print(
        f"{frames}, {found} in {report.seconds:.1f} s ({speed:.1f} frames/s){lost}; see {where}",
        soft_wrap=True,
    )
    if report.error:
        console.print(f"[red]it ended early:[/] {escape(report.error)}", soft_wrap=True)
