"""What learns and how fast: layers, norms, optimizer, schedule, average."""

from __future__ import annotations

import copy
import math
import re

import torch
from torch import nn

from ..errors import ConfigError
from ..model import MaskRCNN
from ..model.layers import BatchNorm
from .settings import Training

STAGES = {"heads": 6, "5+": 5, "4+": 4, "3+": 3, "all": 0}


def choose_layers(model: MaskRCNN, settings: Training) -> list[str]:
    """Switch gradients on for ``settings.layers`` and off for the rest; the names of what learns.

    Frozen norms do not learn scale and shift either. Raises ConfigError where nothing is left to learn.
    """
    norms = {name for name, module in model.named_modules() if isinstance(module, BatchNorm)}
    chosen = []
    for name, parameter in model.named_parameters():
        frozen = settings.norm == "frozen" and name.rpartition(".")[0] in norms
        parameter.requires_grad = _learns(name, settings.layers) and not frozen
        if parameter.requires_grad:
            chosen.append(name)
    if not chosen:
        raise ConfigError(
            f"layers: want {', '.join(STAGES)} or a regular expression that is found in parameter names such as "
            f"{next(iter(model.state_dict()))}, got {settings.layers!r}"
        )
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            module.adapt = settings.norm == "adapt" and _learns(f"{name}.weight", settings.layers)
            module.momentum = settings.norm_momentum
    return chosen


def _learns(name: str, layers: str) -> bool:
    if layers not in STAGES:
        return re.search(layers, name) is not None
    stage = re.match(r"backbone\.(stem|s(\d))", name)
    if stage is None:
        return not name.startswith("backbone.") or layers == "all"
    return int(stage[2] or 1) >= STAGES[layers]


def optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """SGD or AdamW over what learns; only kernels are decayed, not norms and biases."""
    # One pass over the weights; but a fused optimizer undoes a loss scale itself, after gradients were clipped.
    fused = settings.precision != "16-mixed"
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, fused=fused)


def rate(step: int, steps: int, settings: Training) -> float:
    """The learning rate of a step, counted from 0, of so many."""
    warm = min((step + 1) / max(min(settings.warmup, steps // 10), 1), 1.0)
    done = step / max(steps, 1)
    if settings.schedule == "cosine":
        share = settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    else:
        share = 0.1 ** sum(done >= milestone for milestone in settings.milestones)
    return settings.lr * warm * share


class Average:
    """The exponential average of a model's weights and running statistics. Younger than its memory, it is the
    plain average of what it saw."""

    def __init__(self, model: MaskRCNN, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: MaskRCNN, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
