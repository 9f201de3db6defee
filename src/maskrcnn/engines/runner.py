"""A model that another runtime computes: images to results through an exported graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError
from ..inputs import to_channels
from ..records import Image, Result, Size

# Images (b, h, w, c) to boxes, labels, scores, masks and image_index, as `export.Standalone`.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]

LATER = ("score", "max_detections", "names")  # what can still be chosen once a graph is written


class Runner:
    """Predicts in a model's place, see `model.Engine`.

    config : what the graph was exported with. Its score is the least that a call may ask for, and its
             max_detections the most; all classes are detected before some are chosen
    """

    def __init__(self, run: Run, config: Config) -> None:
        self.run = run
        self.config = config

    def __call__(self, images: Sequence[Image], config: Config, wanted: Tensor | None) -> list[Result]:
        self._check(config)
        found: list[Result | None] = [None] * len(images)
        groups: dict[Size, list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.size, []).append(i)
        for size, group in groups.items():
            pixels = network_pixels([images[i] for i in group], config)
            outputs = [torch.from_numpy(np.array(rows)) for rows in self.run(pixels)]
            for place, i in enumerate(group):
                mine = torch.nonzero(outputs[4] == place).squeeze(1)
                boxes, labels, scores, masks = (column[mine] for column in outputs[:4])
                picture = images[i] if images[i].source is None else images[i].source
                result = Result(
                    boxes, labels, scores, masks, config.names, size, picture, config.dialect.paste
                )
                found[i] = _chosen(result, config, wanted)
        return [result for result in found if result is not None]

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model computes itself: a runtime's state cannot be copied."""
        return None

    def _check(self, config: Config) -> None:
        fixed = [
            field.name
            for field in dataclasses.fields(Config)
            if field.name not in LATER and getattr(config, field.name) != getattr(self.config, field.name)
        ]
        if len(config.names) != len(self.config.names):
            fixed.append("the number of names")
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)}: fixed in an exported file; export the weights with the new value"
            )
        if config.score < self.config.score or config.max_detections > self.config.max_detections:
            raise ConfigError(
                f"want a score of at least {self.config.score:g} and at most {self.config.max_detections} detections, "
                f"got {config.score:g} and {config.max_detections}: the file was exported so; export it with others"
            )


def _chosen(result: Result, config: Config, wanted: Tensor | None) -> Result:
    scores = result.scores
    keep = scores >= config.score if config.dialect.score_inclusive else scores > config.score
    if wanted is not None:
        keep &= wanted[result.labels]
    return result[torch.nonzero(keep).squeeze(1)[: config.max_detections]]


def network_pixels(images: Sequence[Image], config: Config) -> np.ndarray:
    """Images of one size as an exported graph takes them, (b, h, w, c): RGB as bytes, all else as float32."""
    pixels = np.stack([to_channels(image, config.channels) for image in images])
    if config.channels == 3:
        return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)
    return pixels.astype(np.float32, copy=False)
