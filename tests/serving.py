"""A server on a free port, in this process; and models that a test can hold back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from maskrcnn.records import Image, Result
from maskrcnn.serve import Settings, create_app
from test_jobs import OneBox

PATIENCE = 600.0  # seconds for what must come to pass, on however busy a machine


class Held(OneBox):
    """Answers while ``gate`` is open; notes what it was asked, and when it began to answer. 3 x 3 pictures break it,
    5 x 5 wait for the file ``go``."""

    source = "/secret/place/weights.h5"

    def __init__(self, go: Path | None = None) -> None:
        super().__init__()
        self.go = go
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0
        self.options: list[dict[str, Any]] = []

    def __reduce__(self) -> Any:
        return type(self), (self.go,)  # a gate stays in its process

    def to(self, device: str) -> "Held":
        return self

    def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
        self.begun += 1
        assert self.gate.wait(PATIENCE)
        self.options.append(options)
        if any(image.size == (3, 3) for image in images):
            raise RuntimeError("/secret/place is broken")
        if any(image.size == (5, 5) for image in images):
            until(lambda: self.go and self.go.exists())
        return super().predict_images(images, **options)


@dataclass(frozen=True)
class Running:
    """``client`` has the server's address."""

    client: httpx.Client
    port: int
    stop: Callable[[], None]


@contextmanager
def serving(model: Any, **settings: Any) -> Iterator[Running]:
    app = create_app(model, Settings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="h11", ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
        if not hasattr(model, "gate") or model.gate.is_set():
            until(lambda: client.get("/readyz").status_code == 200)
        yield Running(client, port, lambda: setattr(server, "should_exit", True))
        if hasattr(model, "gate"):
            model.gate.set()
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def until(true: Any, seconds: float = PATIENCE) -> None:
    """Wait for something that must come to pass."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)
