"""What a run is about to do, and what to do where its memory ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.findings import Finding
from ..errors import ConfigError
from ..model import MaskRCNN
from ..words import many
from .settings import Training


@dataclass(frozen=True)
class Plan:
    """A run before its next step.

    model, device    : what learns, and where
    weights, learning: its numbers, and how many of them learn
    pictures, objects, classes : what it learns from
    repaired         : what was left out of these or clipped, and how often
    validated        : pictures to validate on
    unvalidated      : what is not validated on, and why
    start, steps     : steps done before and in all
    epoch, every     : steps of an epoch, and between validations
    processes        : that share each step
    """

    model: str
    device: str
    weights: int
    learning: int
    pictures: int
    objects: int
    classes: int
    repaired: dict[str, int]
    validated: int
    unvalidated: tuple[str, ...]
    start: int
    steps: int
    epoch: int
    every: int
    processes: int
    settings: Training
    run: Path

    def lines(self) -> list[str]:
        """In words, for a terminal."""
        chosen = self.settings
        share = "all learn" if self.learning == self.weights else f"{self.learning / 1e6:.1f} million learn"
        size = chosen.batch * chosen.accumulate * self.processes
        went = f", {self.start:,} done before" if self.start else ""
        norms = "frozen" if chosen.norm == "frozen" else "adapting"
        said = [self.model]
        said.append(
            f"{self.weights / 1e6:.1f} million weights, {share} (layers {chosen.layers}, norms {norms}) on "
            f"{self.device}, {chosen.precision}"
        )
        said.append(
            f"{many(self.pictures, 'picture')} with {many(self.objects, 'object')} of "
            f"{many(self.classes, 'class', 'es')}; {many(self.steps, 'step')} of {many(size, 'picture')}{went}; "
            f"an epoch has {self.epoch:,}"
        )
        if self.repaired:
            counts = ", ".join(f"{kind} {count:,}" for kind, count in self.repaired.items())
            said.append(f"left out or clipped: {counts} ('maskrcnn doctor' names each)")
        said += [f"not validated on: {reason}" for reason in self.unvalidated]
        if self.validated:
            said.append(f"validation on {many(self.validated, 'picture')} every {many(self.every, 'step')}")
        else:
            said.append("no validation: the last weights count as the best")
        return [*said, f"everything goes to {self.run}; look at {self.run / 'batch.jpg'} first"]


def repairs(findings: Sequence[Finding]) -> dict[str, int]:
    """How often each kind of finding was repaired, the most frequent first."""
    return dict(Counter(one.kind for one in findings if one.cure in ("clips", "drops")).most_common())


def counted(model: MaskRCNN) -> tuple[int, int]:
    """Numbers of a model, and how many of them learn."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def out_of_memory(error: Exception, settings: Training, device: str) -> ConfigError | None:
    """What to do where memory did not suffice; None for an error of another kind."""
    said = str(error)
    sides = "max_size=640" if settings.augment.size is None else "augment.size=[256,256]"
    advice = ["--gradient-checkpointing", "--set precision=bf16-mixed", f"smaller pictures (--set {sides})"]
    if settings.batch > 1:
        less = settings.batch // 2
        advice.insert(0, f"--batch {less} --set accumulate={settings.accumulate * 2}")
    place = device
    if "DataLoader worker" in said and any(sign in said for sign in ("Killed", "Bus error", "shared memory")):
        place, advice = "this machine", ["--set workers=0"]  # a worker that the system ended
    elif not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in said:
        return None
    return ConfigError(
        f"memory: want a step of {settings.batch} pictures to fit into that of {place}, got "
        f"{said.splitlines()[0] if said else type(error).__name__}; try {', or '.join(advice)}"
    )
