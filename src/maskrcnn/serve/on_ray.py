"""The same application on Ray Serve: as many replicas as the load asks for, on one machine or many."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ray
from fastapi import FastAPI
from ray import serve

from ..errors import MaskRCNNError
from ..model import MaskRCNN
from ..scale.cluster import Workers, cluster
from .app import create_app
from .run import listen
from .settings import Settings

_NAME = "maskrcnn"


def run_on_ray(
    model: MaskRCNN,
    *,
    workers: Workers | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    tell: Callable[[str], None] = lambda url: None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM, Ctrl-C or ``stop``, then finish the requests that are under way.

    workers  : ``count`` is the most replicas there will be, each with a model; one is always there
    settings : limits hold for each replica: its queue, its uploads
    host, port, tell : as `run`; of every machine of the cluster that has a replica

    Raises ConfigError for an address or a cluster that cannot be had, MaskRCNNError if no replica gets ready.
    """
    settings = settings or Settings()
    listener = listen(host, port)  # for an error in our words; Ray's proxy opens it again
    with listener:
        port = listener.getsockname()[1]
    with cluster(workers or Workers()) as share:
        held = ray.put(model.to("cpu"))

        def build() -> FastAPI:
            """Runs in each replica."""
            import torch

            torch.set_num_threads(share.threads)
            return create_app(ray.get(held).to(share.device), settings, warm=True)

        deployment = serve.deployment(
            name=_NAME,
            autoscaling_config={"min_replicas": 1, "max_replicas": share.count,
                                "target_ongoing_requests": 2 * settings.batch_size},
            max_ongoing_requests=settings.queue + settings.batch_size,  # so that the replica itself can say 429
            graceful_shutdown_timeout_s=settings.drain_seconds,
            ray_actor_options={"num_cpus": share.cpus, "num_gpus": share.gpus},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )  # fmt: skip
        try:
            serve.start(
                http_options={"host": host, "port": port, "keep_alive_timeout_s": 5},
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            serve.run(deployment(serve.ingress(build)()).bind(), name=_NAME, route_prefix="/")
            tell(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
            (stop or threading.Event()).wait()
        except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            raise MaskRCNNError(
                f"serve: want a proxy and a replica that get ready, got '{error}'; see Ray's log"
            ) from error
        except KeyboardInterrupt:
            return
        finally:
            serve.delete(_NAME)  # waits for what is under way
            serve.shutdown()
