"""The server: serve."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import MissingExtraError
from .cluster import Address, WorkerCpus, WorkerGpus, Workers, fleet_of
from .common import (
    ConfigFile,
    Debug,
    Device,
    Setting,
    Weights,
    app,
    console,
    load_model,
    stderr,
)


@app.command()
def serve(
    weights: Weights = None,
    config: ConfigFile = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for every network this machine is in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="MASKRCNN_TOKEN", help="Callers must send it: 'Authorization: Bearer TOKEN'."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that go through the network together.")
    ] = 4,
    window: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a picture waits for others on their way.")
    ] = 5.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; the next one is told to come back.")
    ] = 64,
    max_mb: Annotated[float, typer.Option(help="Refuse pictures of more MiB.")] = 32.0,
    max_pixels: Annotated[int, typer.Option(help="Refuse pictures of more pixels.")] = 50_000_000,
    timeout: Annotated[float, typer.Option(help="Seconds to the answer of a request.")] = 120.0,
    setting: Setting = None,
    device: Device = "auto",
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="As many replicas on a Ray cluster as the load asks for, at most --workers. Needs "
            "maskrcnn\\[serve,scale].",
        ),
    ] = False,
    address: Address = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1,
    worker_gpus: WorkerGpus = None,
    debug: Debug = False,
) -> None:
    """Serve the model: a page for people at /, an API for programs at /v1. Needs maskrcnn\\[serve]."""
    # Threads of a pass wait for each other awake, but for a moment only: others want their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from ..serve import Settings, run
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"serve: want {error.name}, not installed; pip install 'maskrcnn[serve]'"
        ) from error
    limits = Settings(
        token=token, max_bytes=int(max_mb * 2**20), max_pixels=max_pixels, queue=queue, batch_size=batch_size,
        window=window / 1000, answer_seconds=timeout,
    )  # fmt: skip
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        stderr.print("[yellow]open to everyone who reaches this address; --token asks for one[/]")
    fleet = fleet_of(ray, device, address, workers, worker_cpus, worker_gpus)
    # in a thread that ends, and its OpenMP team with it: with more threads than cores in teams, none waits awake
    with ThreadPoolExecutor(1) as pool:
        model = pool.submit(load_model, weights, config, setting, "cpu" if ray else device).result()

    def tell(url: str) -> None:
        name = escape(Path(str(model.source)).name)
        console.print(f"serving {name} at {url} (Ctrl-C stops)", soft_wrap=True)

    if fleet:
        from ..serve.on_ray import run_on_ray

        run_on_ray(model, workers=fleet, host=host, port=port, settings=limits, tell=tell)
    else:
        run(model, host=host, port=port, settings=limits, tell=tell)
