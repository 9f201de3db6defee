"""The files of the page, read once: no path of a request reaches the file system."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from .headers import FRAME_POLICY

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "jpg": "image/jpeg"}
_ADDRESSES = {"page.html": "/", "frame.html": "/explained"}


def add_page(app: FastAPI) -> None:
    """The page at ``/``, its style, scripts and photo beside it, and the empty frame for explanations."""
    for file in (files(__package__) / "page").iterdir():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            headers = {"Cache-Control": "no-cache"}
            if file.name == "frame.html":
                headers["Content-Security-Policy"] = FRAME_POLICY
            _add(app, _ADDRESSES.get(file.name, f"/{file.name}"), file.read_bytes(), kind, headers)


def _add(app: FastAPI, path: str, content: bytes, kind: str, headers: dict[str, str]) -> None:
    async def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers=headers)

    app.add_route(path, send, methods=["GET"], include_in_schema=False)
