"""The process: a socket, uvicorn, and an end that waits for what is under way."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from ..errors import ConfigError
from ..model import MaskRCNN
from .app import create_app
from .settings import Settings


def run(
    model: MaskRCNN,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    tell: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests that are under way.

    port : 0 takes a free one
    tell : called with the address once it is open
    Raises ConfigError for an address that cannot be had. To be called from the main thread.
    """
    settings = settings or Settings()
    app = create_app(model, settings)
    listener = listen(host, port)
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="on", access_log=False, server_header=False, log_level="warning",
        timeout_keep_alive=5, timeout_graceful_shutdown=max(round(settings.drain_seconds), 1),
    )  # fmt: skip
    with listener:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listener.getsockname()[1]}/")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn passes the signal on when it has drained
            return


def listen(host: str, port: int) -> socket.socket:
    """The open port. Raises ConfigError for an address that cannot be had.

    Its connections send at once: asyncio sees to that only for sockets that name their protocol, which `accept` does
    not, and a body that waits for the receipt of its header comes 40 ms late.
    """
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: want a free address of this machine, got '{error.strerror or error}'; "
            "choose another port"
        ) from error
