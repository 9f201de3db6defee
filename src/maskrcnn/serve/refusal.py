"""A request that is turned down: what the caller is told, in words and as a status."""

from __future__ import annotations


class Refusal(Exception):
    """Answered as ``{"error": {"status": ..., "message": ...}}``.

    message : what was wanted, what came, what to do; never a path or a traceback of the server
    headers : sent along, such as Retry-After
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
