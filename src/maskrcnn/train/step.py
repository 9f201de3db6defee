"""One step of training: losses, gradients, update, or none where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..model import MaskRCNN
from ..model.targets import Sampling
from .feed import Batch
from .settings import Training


@dataclass(frozen=True)
class Outcome:
    """What a step came to: its losses (means over batches and processes), the norm of its gradient, and whether
    all of it was finite on every process; if not, nothing was changed."""

    losses: dict[str, float]
    norm: float
    finite: bool


class Losses(nn.Module):
    """`MaskRCNN.losses` as a forward pass, which is what gradients of several processes are joined after."""

    def __init__(self, model: MaskRCNN, sampling: Sampling, config: Config, fabric: Any) -> None:
        super().__init__()
        self.model, self.sampling, self.config, self.fabric = model, sampling, config, fabric

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of a batch; ``generator`` chooses the anchors and proposals that they are taken of."""
        return self.model.losses(
            batch.images, batch.targets, generator, self.sampling, self.config, self._mean_over_processes
        )

    def _mean_over_processes(self, counts: Tensor) -> Tensor:
        return self.fabric.all_reduce(counts, reduce_op="mean")


def take_step(
    fabric: Any, module: nn.Module, optimizer: Any, batches: Sequence[Batch], seed: tuple[int, ...],
    settings: Training,
) -> Outcome:  # fmt: skip
    """Learn from some batches, all of which count the same."""
    generator = _seeded(seed)
    parts: list[dict[str, Tensor]] = []
    finite = True
    for i, batch in enumerate(batches):
        with fabric.no_backward_sync(module, enabled=i < len(batches) - 1):
            losses = module(batch, generator)
            parts.append({name: loss.detach() for name, loss in losses.items()})
            total = torch.stack(list(losses.values())).sum()
            finite = _everywhere(fabric, total.isfinite())
            if not finite:
                break
            fabric.backward(total / len(batches))
    norm = torch.tensor(math.nan)
    if finite:
        most = settings.clip or math.inf
        norm = fabric.clip_gradients(module, optimizer, max_norm=most, error_if_nonfinite=False)
        # Scaled gradients (16-mixed) overflow now and then: the loss scaler skips that step and scales less.
        # On a CPU, Fabric takes bfloat16 in its place and scales nothing.
        scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        finite = scaled or _everywhere(fabric, norm.isfinite())
        if finite:
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    names = list(parts[0])
    means = torch.stack([torch.stack([part[name] for name in names]) for part in parts]).mean(dim=0)
    means = fabric.all_reduce(means, reduce_op="mean")
    return Outcome(dict(zip(names, means.tolist(), strict=True)), float(norm), finite)


def _seeded(seed: tuple[int, ...]) -> torch.Generator:
    """All chance of a step: its samples by the generator; dropout, in a backbone of others, by torch's own."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    torch.manual_seed(state)
    return torch.Generator().manual_seed(state)


def _everywhere(fabric: Any, finite: Tensor) -> bool:
    """Whether it holds on every process: all of them step, or none."""
    return bool(fabric.all_reduce(finite.float(), reduce_op="mean") == 1)
