"""What a run starts from: random weights as a recipe describes them, or trained ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..config import Config
from ..errors import ConfigError
from ..model import MaskRCNN
from ..weights import is_backbone, load
from .heads import origins
from .sources import open_all


def random_model(
    names: tuple[str, ...], recipe: Path | None = None, seed: int = 0, options: dict[str, Any] | None = None
) -> MaskRCNN:
    """A network of random weights for these classes, as the ``model`` of a recipe describes it.

    recipe : a JSON file; ``model`` in it holds fields of `Config`. None: the defaults of `Config`
    options: fields of `Config` or `Dialect` in its place
    Raises ConfigError for a file that cannot be read, or settings that there are not.
    """
    torch.manual_seed(seed)
    config = Config.from_dict({**_model(recipe), "names": names})
    return MaskRCNN(config.with_options(**options or {}))


def _model(recipe: Path | None) -> dict[str, Any]:
    """The ``model`` of a recipe; empty without one."""
    if recipe is None:
        return {}
    try:
        return dict(json.loads(recipe.read_text("utf-8")).get("model", {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{recipe}: want a JSON file with a model and its training: {error}") from None


def start_model(
    weights: str,
    data: Sequence[Path],
    recipe: Path | None,
    seed: int,
    console: Console,
    options: dict[str, Any],
) -> MaskRCNN:
    """The model that ``--weights`` names, and a table of what its heads know of the classes of ``data``.

    recipe : describes the random network of ``none``, and what is behind a backbone that the weights alone are
    options: fields of `Config` or `Dialect` in place of what the weights or the recipe say
    """
    names = tuple(open_all(list(data)).names)
    if weights == "none":
        return random_model(names, recipe, seed, options)
    if weights != "default" and is_backbone(weights):
        torch.manual_seed(seed)
        described = _model(recipe)
        model = load(weights, **{**described, **described.pop("dialect", {}), **options, "names": names})
        console.print(model.extra_repr(), soft_wrap=True)
        return model
    model = load(None if weights == "default" else weights, **options)
    if names != model.names:
        table = Table("heads", "classes", box=None, pad_edge=False)
        for origin, group in groupby(sorted(origins(model, names), key=_origin), _origin):
            table.add_row(origin, ", ".join(escape(name) for name, _ in group))
        console.print(table)
    return model


def _origin(row: tuple[str, str]) -> str:
    return row[1]
