"""Who is told of each epoch and step: a history, TensorBoard's log, and the callbacks of scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class History:
    """The means of every epoch by name, as Keras's ``model.history.history`` has them."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Keep the means of an epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class EventLog:
    """Writes the means of each epoch to TensorBoard's event file in ``log_dir``, where tensorboard is installed."""

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self.writer: Any = None

    def on_train_begin(self, logs: Mapping[str, float]) -> None:
        """Open the file."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(self.log_dir)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Write the means of an epoch."""
        if self.writer is not None:
            for name, value in logs.items():
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def on_train_end(self, logs: Mapping[str, float]) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()


class Callbacks:
    """Calls the methods that each callback has, by Keras's names. A batch's go by either of their two names."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self.callbacks = callbacks

    def __call__(self, event: str, *args: Any) -> None:
        """Tell all of an event, such as on_epoch_end(epoch, logs)."""
        for callback in self.callbacks:
            # Keras 3's own class forwards the one name to the other.
            newer = event.replace("on_batch", "on_train_batch")
            method = getattr(callback, newer, None) or getattr(callback, event, None)
            if method is not None:
                method(*args)
