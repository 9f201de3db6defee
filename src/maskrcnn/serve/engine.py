"""The thread that divides what waits among passes of the model."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MaskRCNNError
from ..explain.page import page
from ..explain.study import study
from ..jobs import lanes
from ..model import MaskRCNN
from ..records import Image, Result
from .metrics import Metrics
from .options import Limits

log = logging.getLogger("maskrcnn.serve")


@dataclass(eq=False)
class _Job:
    """``limits`` None asks for the page that explains the picture."""

    image: Image
    limits: Limits | None
    name: str = ""
    future: Future[Any] = field(default_factory=Future)


class Engine:
    """Takes pictures from any thread; answers with futures.

    A batch is what waits when the network is free, at most ``batch_size``; up to ``window`` seconds are given to
    pictures that are `expected`, and none where none is, since a lone caller would only wait. Only pictures with
    equal limits share a pass, so each result is that of `MaskRCNN.predict` alone. One picture that fails does not
    fail the others. On a CPU a lone picture has all threads; where several are there they go side by side, at most
    ``batch_size``, each in a pass of its own, and one that comes meanwhile joins them, see `maskrcnn.jobs.lanes`.
    """

    def __init__(self, model: MaskRCNN, batch_size: int, window: float, metrics: Metrics) -> None:
        self.model = model
        self.batch_size = batch_size
        self.window = window
        self.metrics = metrics
        self.ready = False
        self._tried = threading.Event()
        self._expected = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begin; ``ready`` turns true after one pass, which compiles what is compiled at first use."""
        self._thread.start()

    def wait_ready(self) -> bool:
        """Wait for the first pass; whether it worked. Blocks, so not for the event loop."""
        self._tried.wait()
        return self.ready

    def stop(self) -> None:
        """Finish what waits, then end."""
        self.ready = False
        self._jobs.put(None)
        self._thread.join()

    @contextmanager
    def expected(self) -> Iterator[None]:
        """A picture is being decoded, and will be handed over inside the block. To be used from one thread."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    def predict(self, image: Image, limits: Limits) -> Future[Result]:
        """The result of one picture. The future raises ImageError or ConfigError where it does not fit."""
        return self._put(_Job(image, limits))

    def explain(self, image: Image, name: str) -> Future[str]:
        """The HTML of `maskrcnn.explain` for one picture; ``name`` is what the page calls it."""
        return self._put(_Job(image, None, name))

    def _put(self, job: _Job) -> Future[Any]:
        self._jobs.put(job)
        return job.future

    def _run(self) -> None:
        try:
            blank = np.zeros((64, 64, self.model.config.channels), np.uint8)
            self.model.predict_images([Image(blank)])
        except Exception:
            log.exception("the first pass failed; this server does not call itself ready")
        else:
            self.ready = True
        pool = lanes(self.model, self.batch_size)
        self._tried.set()
        running: list[Future[None]] = []
        while (first := self._jobs.get()) is not None:
            running = [one for one in running if not one.done()]
            batch = [first] if running else [first, *self._company()]
            if pool is None or len(batch) + len(running) == 1:
                self._work(batch)
            else:
                running += [pool.submit(self._work, [job], pool.count) for job in batch]
        if pool is not None:
            pool.shutdown()

    def _work(self, batch: list[_Job], beside: int = 1) -> None:
        for limits in dict.fromkeys(job.limits for job in batch):
            group = [job for job in batch if job.limits == limits]
            group = [job for job in group if job.future.set_running_or_notify_cancel()]
            if limits is None:
                for job in group:
                    self._page(job)
            elif group:
                self._pass(group, limits, beside)

    def _company(self) -> list[_Job]:
        """What else waits, or is expected and comes within the window."""
        found: list[_Job] = []
        deadline = time.monotonic() + self.window
        while len(found) < self.batch_size - 1:
            try:
                patience = deadline - time.monotonic() if self._expected else 0
                job = self._jobs.get(timeout=max(patience, 0))
            except queue.Empty:
                break
            if job is None:  # the end, after this batch
                self._jobs.put(None)
                break
            found.append(job)
        return found

    def _pass(self, group: list[_Job], limits: Limits, beside: int) -> None:
        """One of so many ``beside`` each other."""
        start = time.perf_counter()
        try:
            results = self.model.predict_images([job.image for job in group], **dataclasses.asdict(limits))
        except Exception as error:
            if len(group) == 1:
                _fail(group[0], error)
                return
            for job in group:
                self._pass([job], limits, beside)
            return
        self.metrics.batch(len(group), time.perf_counter() - start, sum(map(len, results)), beside)
        for job, result in zip(group, results, strict=True):
            job.future.set_result(result)

    def _page(self, job: _Job) -> None:
        try:
            seen = study(self.model, job.image, None)
            # named only now: a Result with a path reads its picture from there
            named = dataclasses.replace(seen, image=Image(job.image.pixels, Path(job.name)))
            job.future.set_result(page(named))
        except Exception as error:
            _fail(job, error)


def _fail(job: _Job, error: Exception) -> None:
    """Errors of ours are the caller's to read; others go to the log."""
    if not isinstance(error, MaskRCNNError):
        log.error("a picture failed", exc_info=error)
    job.future.set_exception(error)
