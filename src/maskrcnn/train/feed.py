"""From a data set to an endless row of batches. Every batch hangs on the seed and its number alone, so that a
run goes on anywhere without a state of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import cv2
import numpy as np
import torch

from ..config import Config
from ..data import Dataset
from ..data.augment import augment
from ..errors import ConfigError, ImageError, MaskRCNNError
from ..inputs import to_channels
from ..model.image import padded_size
from ..records import Image, Target
from .settings import Training

TRIES = 3  # pictures that are drawn in place of one that cannot be read, before training ends
STOPS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0  # seconds that a worker goes on after SIGTERM


class Batch:
    """Pictures that go through a step together, and what was wrong with those that should have been there.

    No dataclass: those are taken apart on the way to a device.
    """

    def __init__(
        self, images: list[Image], targets: list[Target], names: list[str], troubles: Sequence[str] = ()
    ) -> None:
        self.images, self.targets, self.names, self.troubles = images, targets, names, troubles


@dataclass(frozen=True)
class Draw:
    """One picture of a batch: its place in the data set, and the seed of what happens to it."""

    index: int
    seed: tuple[int, ...]


class Order:
    """Which pictures make up each batch.

    repeats   : how often each picture is shown in an epoch, on average
    groups    : pictures of different groups do not share a batch
    batch     : pictures of a batch of all processes together
    """

    def __init__(self, repeats: np.ndarray, groups: np.ndarray, batch: int, seed: int) -> None:
        self.repeats, self.groups, self.batch, self.seed = repeats, groups, batch, seed
        self.share = repeats / repeats.sum()  # of each picture in all that are shown
        self.batches = max(int(repeats.sum() + 1e-6) // batch, 1)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, number: int) -> list[Draw]:
        """Batch ``number``, counted through all epochs."""
        epoch, place = divmod(number, self.batches)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(epoch)
        row = self._epoch[1][place]
        return [Draw(int(index), (self.seed, number, slot)) for slot, index in enumerate(row)]

    def _shuffled(self, epoch: int) -> np.ndarray:
        """(batches, batch) places in the data set."""
        rng = np.random.default_rng((self.seed, epoch))
        # One random offset for all keeps the sum: a picture of 1.5 is shown once or twice.
        ends = np.floor(np.cumsum(self.repeats) + rng.random() + 1e-6).astype(np.int64)
        shown = np.repeat(np.arange(len(self.repeats)), np.diff(ends, prepend=0))
        rng.shuffle(shown)
        wanted = self.batches * self.batch
        shown = np.resize(shown, max(wanted, len(shown)))
        # Sorted by group and cut: at most one batch for each border between groups is mixed.
        shown = shown[:wanted][np.argsort(self.groups[shown[:wanted]], kind="stable")]
        rows = shown.reshape(self.batches, self.batch)
        return rows[rng.permutation(self.batches)]


def order(dataset: Dataset, config: Config, settings: Training, processes: int = 1) -> Order:
    """The order of training: rare classes more often, and wide and tall pictures apart.

    Raises ConfigError for a data set without pictures.
    """
    if not len(dataset):
        raise ConfigError("want a data set with at least one picture, got none")
    shapes = np.zeros(len(dataset), np.int64)
    if settings.augment.size is None:
        sizes = [padded_size(dataset[i].size, config) for i in range(len(dataset))]
        shapes = np.unique(np.array(sizes), axis=0, return_inverse=True)[1].reshape(-1)
    repeats = repeat_factors(dataset, settings.balance)
    return Order(repeats, shapes, settings.batch * settings.accumulate * processes, settings.seed)


def repeat_factors(dataset: Dataset, threshold: float) -> np.ndarray:
    """How often to show each picture: that of its rarest class, sqrt(threshold / share of pictures with it).

    Source: LVIS (Gupta et al. 2019), section 4
    """
    classes = [{one.label for one in dataset[i].instances if not one.crowd} for i in range(len(dataset))]
    share = np.zeros(len(dataset.names))
    for present in classes:
        share[list(present)] += 1 / len(classes)
    factor = np.sqrt(np.maximum(threshold / np.maximum(share, 1e-9), 1.0))
    return np.array([max((float(factor[c]) for c in present), default=1.0) for present in classes])


class _Prepared(torch.utils.data.Dataset["list[Batch] | MaskRCNNError"]):
    """Batch number to batch, in a worker: read, decode and augment.

    Our errors are handed over rather than raised: torch would hide their words behind a traceback.
    """

    def __init__(
        self, dataset: Dataset, order: Order, channels: int, settings: Training, rank: int, processes: int
    ) -> None:
        self.dataset, self.order, self.channels, self.settings = dataset, order, channels, settings
        self.rank, self.processes = rank, processes

    def __getitem__(self, number: int) -> list[Batch] | MaskRCNNError:
        mine = self.order[number][self.rank :: self.processes]
        size = self.settings.batch
        try:
            return [self._batch(mine[i : i + size]) for i in range(0, len(mine), size)]
        except MaskRCNNError as error:
            return error

    def _batch(self, draws: Sequence[Draw]) -> Batch:
        troubles: list[str] = []
        images, targets, names = zip(*(self._one(draw, troubles) for draw in draws), strict=True)
        return Batch(list(images), list(targets), list(names), troubles)

    def _one(self, draw: Draw, troubles: list[str]) -> tuple[Image, Target, str]:
        """Augmented pixels, target and name; another picture's where this one cannot be read."""
        rng = np.random.default_rng(draw.seed)
        index = draw.index
        for left in reversed(range(TRIES + 1)):
            try:
                pixels, target = augment(
                    *self._read(index), self.settings.augment, rng,
                    other=lambda: self._read(self._another(rng)),
                )  # fmt: skip
            except ImageError as error:
                if not left:
                    raise
                troubles.append(f"{error}; another picture takes its place")
                index = self._another(rng)
            else:
                break
        return Image(pixels), target, self.dataset[index].name

    def _another(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self.dataset), p=self.order.share))

    def _read(self, index: int) -> tuple[np.ndarray, Target]:
        sample = self.dataset[index]
        return to_channels(sample.read(), self.channels), sample.target()


def feed(
    dataset: Dataset, order: Order, channels: int, settings: Training, rank: int, processes: int, steps: range
) -> Iterator[list[Batch]]:
    """The batches of this process for each of ``steps``, ``accumulate`` for each; ``channels`` are the model's.

    Raises ImageError where picture after picture cannot be read.
    """
    loader = torch.utils.data.DataLoader(
        _Prepared(dataset, order, channels, settings, rank, processes),
        batch_size=None,
        sampler=steps,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_begin, os.getpid()),
    )
    with _beginning():
        prepared = iter(loader)
    try:
        for batches in prepared:
            if isinstance(batches, MaskRCNNError):
                raise batches
            yield batches
    finally:
        del prepared  # and with it the workers, whatever keeps this frame


@contextmanager
def _beginning() -> Iterator[None]:
    """The state of this process that workers may begin in.

    OpenCV's threads end before: a worker would inherit them dead, and wait for them for ever. Signals wait until a
    worker knows what to do with them.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    if masks:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        cv2.setNumThreads(threads)


def _begin(parent: int, worker: int) -> None:
    """Let a worker take one core, leave it to its parent to answer what is sent to all processes of a run, and end
    when its parent is killed: it would wait for ever to hand over its last batches."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    sys.excepthook = _untaken

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(number: int, frame: object) -> None:
    """End some seconds later, when a parent that was also told to has let go of this worker."""
    timer = threading.Timer(GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _untaken(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Says nothing of tensors that a parent does not take any more; a thread of multiprocessing's hands them over."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, where)


def _as_it_is(batches: list[Batch] | MaskRCNNError) -> list[Batch] | MaskRCNNError:
    return batches
