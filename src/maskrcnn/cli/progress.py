"""How far many pictures or frames are: a bar, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from .common import stderr

if TYPE_CHECKING:
    from ..jobs import Step

_PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal


@contextmanager
def progress(unit: str = "images") -> Iterator[Callable[[Step], None]]:
    """A bar with images or frames a second and time to go; without a terminal a line now and then."""
    if not stderr.is_terminal:
        yield _plain_progress(unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=None, rate="")
        rate = _Rate(unit)

        def show(step: Step) -> None:
            if step.error:
                stderr.print(f"[red]{escape(step.error)}[/]", soft_wrap=True)
            bar.update(
                task, total=step.total, completed=step.done, rate=rate(step), description=escape(step.name)
            )

        yield show


class _Rate:
    """Units a second since the first, which paid for the warm-up."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.first: tuple[int, float] | None = None

    def __call__(self, step: Step) -> str:
        now = time.monotonic()
        if self.first is None:
            self.first = step.done, now
        done, start = self.first
        return f"{(step.done - done) / (now - start):.2f} {self.unit}/s" if step.done > done else ""


def _plain_progress(unit: str) -> Callable[[Step], None]:
    rate, last = _Rate(unit), time.monotonic()

    def show(step: Step) -> None:
        nonlocal last
        speed = rate(step)
        if step.error:
            stderr.print(f"failed: {escape(step.error)}", soft_wrap=True)
        if time.monotonic() - last >= _PLAIN_EVERY:
            last = time.monotonic()
            of = f"/{step.total}" if step.total is not None else ""
            stderr.print(f"{step.done}{of} {speed} {escape(step.name)}", soft_wrap=True)

    return show
