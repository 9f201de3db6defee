"""The progress of a run in a terminal: what it will do, a bar, and a line for each validation."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .plan import Plan

if TYPE_CHECKING:
    from ..jobs import Step
    from .loop import Report

PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal


class Watch:
    """Shows a run while it goes on, on standard error; ``quiet`` shows nothing."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
                   TextColumn("left"))  # fmt: skip
        hidden = quiet or not self.console.is_terminal
        self.bar = Progress(*columns, console=self.console, disable=hidden)
        self.task = self.bar.add_task("the first step takes longest", total=None)
        self.last = 0.0

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin(self, plan: Plan) -> None:
        """Say what will happen, and begin to count."""
        for line in plan.lines():
            self.console.print(escape(line), soft_wrap=True)
        self.bar.reset(self.task, total=plan.steps, completed=plan.start)
        self.bar.start()

    def step(self, report: Report) -> None:
        """Show a step."""
        memory = f", {report.memory / 1e9:.1f} GB" if report.memory else ""
        said = f"loss {sum(report.losses.values()):.3f}, {report.seconds:.2f} s a step{memory},"
        self.bar.update(self.task, completed=report.step, description=said)
        for trouble in report.troubles:
            self.console.print(f"[red]{escape(trouble)}[/]", soft_wrap=True)
        if report.scores:
            # Without a common class there is no mean of such.
            known = {name: value for name, value in report.scores.items() if not math.isnan(value)}
            scores = "  ".join(f"{name} {value:.4f}" for name, value in known.items())
            self.console.print(f"step {report.step}: {scores}", soft_wrap=True)
        elif not self.console.is_terminal and time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            self.console.print(f"step {report.step} of {report.steps}: {said.rstrip(',')}", soft_wrap=True)

    def stopped(self, run: Path, kept: int) -> None:
        """Say how to go on with a run that was stopped, whose last checkpoint is of step ``kept``."""
        self.bar.stop()
        self.console.print(f"stopped; --resume {escape(str(run))} goes on after step {kept}", soft_wrap=True)

    def validating(self, step: Step) -> None:
        """Show how far a validation is."""
        self.bar.update(self.task, description=f"validating picture {step.done} of {step.total},")
