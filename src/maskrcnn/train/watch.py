"""The progress of a run in a terminal: a bar, and a line for each validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .loop import Report

PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal


@contextmanager
def watch(console: Console) -> Iterator[Callable[[Report], None]]:
    """What to call after each step; shows loss, time and scores."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = 0.0

        def tell(report: Report) -> None:
            nonlocal last
            said = f"loss {sum(report.losses.values()):.3f}, {report.seconds:.2f} s a step"
            bar.update(task, total=report.steps, completed=report.step, description=said)
            if report.skipped is not None:
                console.print(f"[red]step {report.step} was not finite and left out; see {report.skipped}[/]")
            if report.scores:
                scores = "  ".join(f"{name} {value:.4f}" for name, value in report.scores.items())
                console.print(f"step {report.step}: {scores}", soft_wrap=True)
            elif not console.is_terminal and time.monotonic() - last >= PLAIN_EVERY:
                last = time.monotonic()
                console.print(f"step {report.step} of {report.steps}: {said}", soft_wrap=True)

        yield tell
