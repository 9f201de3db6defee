"""The options of commands that run on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from .. import scale

Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Spread the pictures over the workers of a Ray cluster; SOURCE may also be a COCO json or "
        "parquet, and a URI such as s3://. Needs maskrcnn\\[scale].",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="With --ray: a running cluster, 'auto' for this machine's. Default: RAY_ADDRESS, else local processes."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --ray: processes with a model. Default: all there is room for."),
]
WorkerCpus = Annotated[float, typer.Option(help="With --ray: cores, and threads, of each worker.")]
WorkerGpus = Annotated[
    float | None,
    typer.Option(help="With --ray: GPUs of each worker, 0.5 for two on one. Default: 1 if there are any."),
]
Shard = Annotated[
    int | None, typer.Option(min=1, help="With --ray: pictures in a part, at most 1000 by default.")
]
Column = Annotated[
    str | None, typer.Option(help="With --ray: the column of a parquet table that has the pictures.")
]


def fleet_of(
    ray: bool, device: str, address: str | None, count: int | None, cpus: float, gpus: float | None
) -> scale.Workers | None:
    """What the options ask for; None without --ray. Raises ConfigError, and MissingExtraError without Ray."""
    if not ray:
        if address or count or gpus is not None or cpus != 1:
            raise ConfigError(
                "--address, --workers, --worker-cpus, --worker-gpus: want --ray with them, got none"
            )
        return None
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: want auto, cpu or cuda with --ray, which chooses the GPU; got {device}")
    try:
        from ..scale import Workers
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--ray: want {error.name}, not installed; pip install 'maskrcnn[scale]'"
        ) from error
    if device != "auto":
        gpus = 0 if device == "cpu" else gpus or 1
    return Workers(count, cpus, gpus, address)
