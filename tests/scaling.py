"""A Ray cluster on this machine, and a server on it."""

import os
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
import ray.serve._private.api
import ray.serve._private.client

from maskrcnn.scale import Workers
from maskrcnn.scale.cluster import LOCAL
from maskrcnn.serve import Settings
from maskrcnn.serve.on_ray import run_on_ray
from serving import PATIENCE, Running, until


@contextmanager
def small_cluster() -> Iterator[str]:
    """Two cores; yields the address. Workers find the modules of these tests, and may be slow to come."""
    path = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    slow = dict.fromkeys(
        ("RAY_worker_register_timeout_seconds", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"), "600"
    )
    ours = LOCAL | slow | {"PYTHONPATH": path}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        started = patiently(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
        yield started.address_info["gcs_address"]
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def patiently(*arguments: Any, **options: Any) -> Any:
    """`ray.init`, which gives up after half a minute, up to five times."""
    for left in reversed(range(5)):
        try:
            return ray.init(*arguments, **options)
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


@contextmanager
def serving_on_ray(model: Any, **settings: Any) -> Iterator[Running]:
    """As `serving.serving`, on the cluster that is there."""
    for module in (ray.serve._private.api, ray.serve._private.client):
        module.HTTP_PROXY_TIMEOUT = PATIENCE  # which Ray has no option for
    stop, told = threading.Event(), queue.SimpleQueue[str]()
    options = {"port": 0, "settings": Settings(**settings), "tell": told.put, "stop": stop}
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_on_ray, model, workers=Workers(1), **options)
        try:
            until(lambda: ended.done() or not told.empty())
            url = told.get() if not ended.done() else str(ended.result())
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield Running(client, int(url.rstrip("/").rpartition(":")[2]), stop.set)
        finally:
            stop.set()
            ended.result(PATIENCE)
