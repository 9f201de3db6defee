"""The routes. Order of a request: token, body, place in the queue, decoding, network, answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import MaskRCNNError
from ..model import MaskRCNN
from . import openapi
from .engine import Engine
from .headers import FRAME_POLICY, Guard
from .intake import FORMATS, Intake, Upload, decode
from .metrics import Metrics
from .options import Options, explain_invalid, limits, merge
from .refusal import Refusal
from .replies import css, reply
from .settings import Settings
from .static import add_page

log = logging.getLogger("maskrcnn.serve")
T = TypeVar("T")


def create_app(model: MaskRCNN, settings: Settings | None = None, *, warm: bool = False) -> FastAPI:
    """An ASGI application that serves one model: `/`, `/v1/predict`, `/v1/explain`, `/v1/models`, `/healthz`,
    `/readyz`, `/metrics`, `/openapi.json`.

    It owns a thread for the model, from the start of its lifespan to the end, which waits for what is under way.

    warm : the lifespan begins only when the model is ready, for callers who send no request before; it fails
           with the model's first pass
    """
    settings = settings or Settings()
    desk = Desk(model, settings, warm)
    app = FastAPI(
        title="maskrcnn", version=version("maskrcnn"), description=openapi.ABOUT, lifespan=desk.lifespan,
        docs_url=None, redoc_url=None,  # they load scripts from elsewhere
    )  # fmt: skip
    app.add_middleware(Guard, metrics=desk.metrics, routes=app.routes)
    _answer_errors(app)
    add_page(app)
    allowed = [Depends(desk.check_token)]

    @app.post("/v1/predict", dependencies=allowed, openapi_extra=openapi.PICTURE, responses=openapi.PREDICTED,
              summary="Find the instances in a picture")  # fmt: skip
    async def predict(request: Request, query: Annotated[Options, Query()]) -> Response:
        return await desk.serve(request, lambda upload: desk.predict(upload, query))

    @app.post("/v1/explain", dependencies=allowed, openapi_extra=openapi.PICTURE,
              responses=openapi.EXPLAINED, summary="Show what each stage of the network did")  # fmt: skip
    async def explain(request: Request) -> Response:
        return await desk.serve(request, desk.explain)

    @app.get("/v1/models", dependencies=allowed, summary="The model, its classes, and the limits")
    async def models() -> dict[str, Any]:
        return desk.models()

    @app.get("/metrics", dependencies=allowed, summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/healthz", summary="The process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="The model answers: 200, else 503")
    async def readyz() -> Response:
        ready = desk.engine.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    return app


class Desk:
    """What the routes share: the engine, the queue's count, and the threads that decode and encode."""

    def __init__(self, model: MaskRCNN, settings: Settings, warm: bool) -> None:
        self.model = model
        self.warm = warm
        self.settings = settings
        self.in_flight = 0
        self.metrics = Metrics()
        self.engine = Engine(model, settings.batch_size, settings.window, self.metrics)
        self.metrics.ready.set_function(lambda: float(self.engine.ready))
        self.metrics.in_flight.set_function(lambda: self.in_flight)
        self.intake = Intake(settings)
        self.threads = ThreadPoolExecutor(2, "pictures")
        # Decoded pictures are large: one batch in the network, and one made ready or answered meanwhile.
        self.decoded = asyncio.Semaphore(2 * settings.batch_size)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Starts the model's thread, and ends it after what it has been given."""
        self.engine.start()
        if self.warm and not await asyncio.to_thread(self.engine.wait_ready):
            raise RuntimeError("the first pass of the model failed")
        yield
        await asyncio.to_thread(self.engine.stop)
        self.threads.shutdown()

    @property
    def name(self) -> str:
        """The model's name; of a file only the last part."""
        return Path(str(self.model.source)).name

    async def check_token(self, request: Request) -> None:
        """401 without the right bearer token, in time that does not depend on where they differ."""
        if self.settings.token is None:
            return
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(sent.strip().encode(), self.settings.token.encode())
        if kind.lower() != "bearer" or not right:
            raise Refusal(
                401, "want the header 'Authorization: Bearer <token>'", {"WWW-Authenticate": "Bearer"}
            )

    def models(self) -> dict[str, Any]:
        """What is served, and what may be sent."""
        config, settings = self.model.config, self.settings
        model = {
            "name": self.name,
            "classes": list(config.names),
            "colors": [css(i) for i in range(config.num_classes)],
            "architecture": f"Mask R-CNN, ResNet-{config.depth}-FPN",
            "score": config.score,
            "max_detections": config.max_detections,
        }
        allowed = {"bytes": settings.max_bytes, "pixels": settings.max_pixels, "formats": list(FORMATS)}
        return {"models": [model], "limits": allowed}

    async def serve(self, request: Request, work: Callable[[Upload], Awaitable[Response]]) -> Response:
        """Read the picture, and answer unless the queue is full, the time is up or the caller has gone."""
        body = await self.intake.body(request)
        try:
            upload = await self.intake.upload(request, body)
            self._admit()
            self.in_flight += 1
            try:
                return await self._while_connected(request, work(upload))
            finally:
                self.in_flight -= 1
        finally:
            self.intake.release(len(body))

    async def predict(self, upload: Upload, query: Options) -> Response:
        """The answer of /v1/predict."""
        options = merge(query, upload.fields)
        wanted = limits(options, self.model.names)
        async with self.decoded:
            with self.engine.expected():
                image = await self._in_thread(decode, upload, self.settings, self.model.config.channels == 4)
                found = self.engine.predict(image, wanted)
            result = await asyncio.wrap_future(found)
            body, kind = await self._in_thread(reply, result, options, self.name, upload.name)
        return Response(body, media_type=kind)

    async def explain(self, upload: Upload) -> Response:
        """The answer of /v1/explain."""
        if upload.fields:
            raise Refusal(422, f"explain: want the picture alone, got {len(upload.fields)} more field(s)")
        async with self.decoded:
            image = await self._in_thread(decode, upload, self.settings, self.model.config.channels == 4)
            html = await asyncio.wrap_future(self.engine.explain(image, upload.name or "your picture"))
        return HTMLResponse(
            html.encode("utf-8", "replace"), headers={"Content-Security-Policy": FRAME_POLICY}
        )

    def _admit(self) -> None:
        if not self.engine.ready:
            raise Refusal(503, "the model is not ready, or the server stops; try again", {"Retry-After": "2"})
        if self.in_flight >= self.settings.queue:
            wait = min(max(math.ceil(self.in_flight * self.metrics.per_picture), 1), 60)
            raise Refusal(
                429,
                f"{self.in_flight} requests wait already; try again in {wait} s",
                {"Retry-After": str(wait)},
            )

    async def _while_connected(self, request: Request, work: Awaitable[Response]) -> Response:
        answer = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                {answer, gone}, timeout=self.settings.answer_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if answer.done():
                return answer.result()
            if gone.done():
                raise ClientDisconnect
            raise Refusal(
                503, f"no answer within {self.settings.answer_seconds:g} s, the server is busy; try again later",
                {"Retry-After": "10"},
            )  # fmt: skip
        finally:
            answer.cancel()
            gone.cancel()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)


async def _disconnected(request: Request) -> None:
    """Returns when the caller has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_errors(app: FastAPI) -> None:
    """Every error in one form, without a word about this machine."""

    def said(status: int, message: str, headers: Any = None) -> Response:
        return JSONResponse({"error": {"status": status, "message": message}}, status, headers)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return said(error.status, error.message, error.headers)

    @app.exception_handler(MaskRCNNError)
    async def unfit(request: Request, error: MaskRCNNError) -> Response:
        return said(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return said(422, explain_invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        return said(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; the metrics count it

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return said(500, "something went wrong here; the server's log says what")
