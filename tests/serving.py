"""A server on a free port, in this process; and models that a test can hold back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from maskrcnn.records import Image, Result
from maskrcnn.serve import Settings, create_app
from test_jobs import OneBox


class Held(OneBox):
    """Answers while ``gate`` is open; notes what it was asked. 3 x 3 pictures break it, 5 x 5 take a second."""

    source = "/secret/place/weights.h5"

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.options: list[dict[str, Any]] = []

    def __reduce__(self) -> Any:
        return type(self), ()  # a gate stays in its process

    def to(self, device: str) -> "Held":
        return self

    def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
        assert self.gate.wait(30)
        self.options.append(options)
        if any(image.size == (3, 3) for image in images):
            raise RuntimeError("/secret/place is broken")
        time.sleep(any(image.size == (5, 5) for image in images))
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
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        if not hasattr(model, "gate") or model.gate.is_set():
            until(lambda: client.get("/readyz").status_code == 200)
        yield Running(client, port, lambda: setattr(server, "should_exit", True))
        if hasattr(model, "gate"):
            model.gate.set()
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def until(true: Any, seconds: float = 60) -> None:
    """Wait for something that must come to pass."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)
