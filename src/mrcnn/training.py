"""Epochs: steps, validation, checkpoints and callbacks, in the order of Keras."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskrcnn.legacy.training import Inputs, Trainer

from .callbacks import Callbacks, EventLog

if TYPE_CHECKING:
    from .model import MaskRCNN

Arrays = list[np.ndarray]
Feed = Iterator[tuple[Arrays, Arrays]]


def fit(
    model: MaskRCNN, trainer: Trainer, feed: Feed, check: Feed, epochs: int, callbacks: Sequence[Any]
) -> None:
    """Run the epochs from ``model.epoch`` to ``epochs``; each writes a checkpoint."""
    config, keras_model = model.config, model.keras_model
    keras_model.begin(trainer.optimizer)
    tell = Callbacks([keras_model.history, EventLog(model.log_dir), *callbacks])
    tell("set_params", {"epochs": epochs, "steps": config.STEPS_PER_EPOCH, "verbose": 1})
    tell("set_model", keras_model)
    tell("on_train_begin", {})
    for epoch in range(model.epoch, epochs):
        print(f"Epoch {epoch + 1}/{epochs}")
        tell("on_epoch_begin", epoch, {})
        begun = time.monotonic()
        logs = _mean(_steps(trainer, feed, config.STEPS_PER_EPOCH, tell, begun))
        logs |= {f"val_{k}": v for k, v in _mean(_checks(trainer, check, config.VALIDATION_STEPS)).items()}
        trainer.keep()
        keras_model.changed()
        _show(config.STEPS_PER_EPOCH, config.STEPS_PER_EPOCH, begun, logs, "\n")
        keras_model.save_weights(model.checkpoint_path.format(epoch=epoch + 1))
        tell("on_epoch_end", epoch, logs)
        if keras_model.stop_training:
            break
    tell("on_train_end", {})


def _ahead(feed: Feed, count: int) -> Iterator[Arrays]:
    """Inputs of ``count`` batches; the next one is prepared in a thread while one is worked on.

    No more than ``count`` are drawn, and in their order, so that a seed gives the same batches.
    """
    with ThreadPoolExecutor(1, "feed") as pool:
        coming = pool.submit(next, feed)
        for left in range(count - 1, -1, -1):
            inputs, _ = coming.result()
            if left:
                coming = pool.submit(next, feed)
            yield inputs


def _steps(
    trainer: Trainer, feed: Feed, count: int, tell: Callbacks, begun: float
) -> Iterator[dict[str, float]]:
    for step, inputs in enumerate(_ahead(feed, count)):
        tell("on_batch_begin", step, {"batch": step, "size": len(inputs[0])})
        losses = trainer.step(Inputs.of(inputs))
        if not np.isfinite(losses["loss"]):
            ids = inputs[1][:, 0].astype(int).tolist()
            warnings.warn(f"the loss of images {ids} is not finite; the step is left out", stacklevel=2)
            continue
        _show(step + 1, count, begun, losses, "\r")
        tell("on_batch_end", step, {"batch": step, "size": len(inputs[0]), **losses})
        yield losses


def _checks(trainer: Trainer, check: Feed, count: int) -> Iterator[dict[str, float]]:
    for inputs in _ahead(check, count):
        with torch.no_grad():
            losses = trainer.losses(Inputs.of(inputs))
        values = {name: float(value) for name, value in losses.items()}
        yield {"loss": sum(values.values()), **values}


def _mean(steps: Iterator[dict[str, float]]) -> dict[str, float]:
    rows = list(steps)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def _show(step: int, steps: int, begun: float, logs: dict[str, float], end: str) -> None:
    """One line as Keras's; where nobody watches, only the last one of an epoch."""
    if end == "\r" and not sys.stdout.isatty():
        return
    losses = " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())
    print(f"{step}/{steps} - {time.monotonic() - begun:.0f}s - {losses}", end=end, flush=True)
