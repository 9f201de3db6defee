"""From a data set to an endless row of batches. Every batch hangs on the seed and its number alone, so that a
run goes on anywhere without a state of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..config import Config
from ..data import Dataset
from ..data.augment import augment
from ..errors import ConfigError
from ..inputs import to_channels
from ..model.image import padded_size
from ..records import Image, Target
from .settings import Training


class Batch:
    """Pictures that go through a step together. No dataclass: those are taken apart on the way to a device."""

    def __init__(self, images: list[Image], targets: list[Target], names: list[str]) -> None:
        self.images, self.targets, self.names = images, targets, names


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


class _Prepared(torch.utils.data.Dataset[list[Batch]]):
    """Batch number to batch, in a worker: read, decode and augment."""

    def __init__(
        self, dataset: Dataset, order: Order, channels: int, settings: Training, rank: int, processes: int
    ) -> None:
        self.dataset, self.order, self.channels, self.settings = dataset, order, channels, settings
        self.rank, self.processes = rank, processes

    def __getitem__(self, number: int) -> list[Batch]:
        cv2.setNumThreads(1)
        mine = self.order[number][self.rank :: self.processes]
        size = self.settings.batch
        return [self._batch(mine[i : i + size]) for i in range(0, len(mine), size)]

    def _batch(self, draws: Sequence[Draw]) -> Batch:
        prepared = [self._one(draw) for draw in draws]
        images, targets = zip(*prepared, strict=True)
        return Batch(list(images), list(targets), [self.dataset[draw.index].name for draw in draws])

    def _one(self, draw: Draw) -> tuple[Image, Target]:
        rng = np.random.default_rng(draw.seed)
        pixels, target = augment(
            *self._read(draw.index), self.settings.augment, rng,
            other=lambda: self._read(int(rng.choice(len(self.dataset), p=self.order.share))),
        )  # fmt: skip
        return Image(pixels), target

    def _read(self, index: int) -> tuple[np.ndarray, Target]:
        sample = self.dataset[index]
        return to_channels(sample.read(), self.channels), sample.target()


def feed(
    dataset: Dataset, order: Order, channels: int, settings: Training, rank: int, processes: int, steps: range
) -> Iterator[list[Batch]]:
    """The batches of this process for each of ``steps``, ``accumulate`` for each; ``channels`` are the model's."""
    loader = torch.utils.data.DataLoader(
        _Prepared(dataset, order, channels, settings, rank, processes),
        batch_size=None,
        sampler=steps,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        collate_fn=_as_it_is,
    )
    yield from loader


def _as_it_is(batches: list[Batch]) -> list[Batch]:
    return batches
