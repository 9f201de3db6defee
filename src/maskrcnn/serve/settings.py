"""What the server allows, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Limits and batching.

    token          : callers of /v1 and /metrics must send it as ``Authorization: Bearer``; None for no check
    max_bytes      : of one picture, as it is sent
    max_pixels     : of one picture, checked before it is decoded
    queue          : requests that may wait or be worked on; the next one gets 429
    batch_size     : pictures that go through the network together, on a CPU side by side
    window         : seconds that a picture waits for others that are being decoded
    upload_seconds : for a request to arrive whole
    answer_seconds : from there to the answer
    drain_seconds  : for the requests that are under way when the server is told to stop

    Raises ConfigError for values that cannot work.
    """

    token: str | None = None
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    queue: int = 64
    batch_size: int = 4
    window: float = 0.005
    upload_seconds: float = 30.0
    answer_seconds: float = 120.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "queue", "batch_size", "upload_seconds", "answer_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: want more than 0, got {getattr(self, name)}")
        for name in ("window", "drain_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: want at least 0, got {getattr(self, name)}")
        if self.token is not None and (not self.token.isascii() or not self.token.strip()):
            raise ConfigError("token: want printable ASCII, got something else")
