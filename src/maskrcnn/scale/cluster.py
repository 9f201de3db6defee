"""The connection to Ray, and what a worker gets of it."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from ..errors import ConfigError

# Of a Ray that is started here: nothing is sent anywhere, and workers keep the priority of who starts them. At Ray's
# own (niceness 15) they would get a thirtieth of a core that anything else wants. Ray Serve's proxy has a minute to
# come up, as long as its caller waits, rather than 5 s, after which it would be killed and begun again.
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


@dataclass(frozen=True)
class Workers:
    """How many processes hold a model, and what each may use.

    count   : workers; None: as many as the cluster has room for
    cpus    : cores of each, which is also the number of threads of its network
    gpus    : of each, also a fraction; None: 1 where the cluster has any, else 0
    address : of a running cluster, as `ray.init` takes it; None: the environment's RAY_ADDRESS, else processes on this
              machine for as long as the run takes

    Raises ConfigError for values that cannot work.
    """

    count: int | None = None
    cpus: float = 1
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"workers: want {name} of at least {least}, got {value}")
        if not self.cpus > 0:
            raise ConfigError(f"workers: want cpus of more than 0, got {self.cpus}")


@dataclass(frozen=True)
class Share:
    """What each of ``count`` workers gets."""

    count: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        """Ray shows a worker its own GPUs only."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """Of the network, on the CPU."""
        return max(int(self.cpus), 1)


@contextmanager
def cluster(workers: Workers) -> Iterator[Share]:
    """Join or start Ray, and leave it as it was found. Raises ConfigError if it cannot be reached or is too small."""
    joined = not ray.is_initialized()
    if joined:
        _join(workers)
    try:
        yield _share(workers, ray.cluster_resources())
    finally:
        if joined:
            ray.shutdown()


def _join(workers: Workers) -> None:
    address, local = workers.address, dict[str, Any]()
    if not workers.address and not os.environ.get("RAY_ADDRESS"):
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
        # Ray's ports are open to the network, and whoever reaches them can run code: a token keeps others out.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        address = "local"  # for None, Ray joins whatever runs on this machine
        needed = 1 if workers.count is None else workers.count * workers.cpus
        local = {"num_cpus": max(os.cpu_count() or 1, int(-(-needed // 1))), "include_dashboard": False,
                 "object_store_memory": 2**29}  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # of a start that takes too long, Ray's is just that
        cure = (
            "Ray's log in /tmp/ray may say why"
            if local
            else "start one with 'ray start --head', set RAY_AUTH_MODE=token for one that asks for a token, or leave "
            "--address out"
        )
        raise ConfigError(
            f"--address {address or os.environ['RAY_ADDRESS']}: want a Ray cluster that answers, got "
            f"'{str(error).splitlines()[0]}'; {cure}"
        ) from error
    if threading.current_thread() is threading.main_thread():  # Ray's own handler aborts the process
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def _share(workers: Workers, has: dict[str, float]) -> Share:
    gpus = workers.gpus if workers.gpus is not None else min(has.get("GPU", 0), 1)
    room = has.get("CPU", 0) // workers.cpus
    if gpus:
        room = min(room, has.get("GPU", 0) // gpus)
    count = workers.count or int(room)
    if count < 1 or room < 1:
        raise ConfigError(
            f"workers: want room for one of {workers.cpus:g} CPUs and {gpus:g} GPUs, got a cluster of "
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        )
    return Share(count, workers.cpus, gpus)
