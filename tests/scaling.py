"""A Ray cluster on loopback, and a model that notes what it was given."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import maskrcnn
from maskrcnn.records import Image, Result


class Noted:
    """The shipped model, slowed down; leaves a file PICTURE.PID.TIME for each picture that it begins."""

    def __init__(self, notes: Path, seconds: float = 0.0) -> None:
        self.model = maskrcnn.load()
        self.names, self.config, self.source = self.model.names, self.model.config, self.model.source
        self.notes, self.seconds = notes, seconds

    def to(self, device: str) -> "Noted":
        return self

    def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
        for image in images:
            name = image.source.stem if image.source else "bytes"
            (self.notes / f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return self.model.predict_images(images, **options)


@contextmanager
def small_cluster() -> Iterator[str]:
    """Two cores; yields the address. Workers find the modules of these tests."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        started = ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False,
            logging_level="ERROR", _node_ip_address="127.0.0.1",
        )  # fmt: skip
        yield started.address_info["gcs_address"]
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
