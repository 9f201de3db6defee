"""Weights from a file or by name; what a file is, it says itself."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Config
from ..errors import ConfigError, WeightsError
from ..model import MaskRCNN, load_arrays
from . import hdf5, matterport, native
from .catalog import DEFAULT, MODELS, NamedWeights
from .content import READABLE, recognise
from .download import home
from .matterport_config import read_settings, refine
from .native import save

__all__ = ["DEFAULT", "MODELS", "NamedWeights", "convert", "home", "load", "read", "save"]


def load(
    weights: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    config: Any = None,
    **options: Any,
) -> MaskRCNN:
    """A model in eval mode, from a file or by name.

    weights : a path, whose format its content tells; a name that `MODELS` lists, fetched at its first use;
              None for the model that ships with the package
    config  : what a Matterport .h5 does not hold: a Matterport ``Config`` (class or instance), a dict of its
              attributes, or the path of a .json or .py with one, which is parsed and not run; or our `Config`
    options : fields of `Config` or `Dialect` in place of what the file says: ``score=0.5, names=["nut"]``

    Raises WeightsError for files that cannot be read or do not fit, ConfigError for settings that the arrays
    contradict, DownloadError for names that cannot be fetched.
    """
    settings, state = read(weights, config=config, **options)
    return load_arrays(settings, state, DEFAULT if weights is None else weights).to(device)


def read(
    weights: str | Path | None = None, *, config: Any = None, **options: Any
) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, CPU) of what `load` would load."""
    path = _find(weights)
    if isinstance(config, Config):
        options = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)} | options
        config = None
    if recognise(path) == "safetensors":
        if config is not None:
            raise ConfigError(f"config: {path} holds its own; give single options instead, such as score=0.5")
        stored, state = native.read(path)
        return refine(stored, options), state
    names = hdf5.names(path)  # first, since a file of something else may be larger than memory
    if not matterport.is_matterport(names):
        raise WeightsError(f"{path}: no Mask R-CNN: {matterport.describe(names)}; read are {READABLE}")
    settings = None if config is None else read_settings(config)
    try:
        return matterport.read(hdf5.read(path), settings, **options)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    config: Any = None,
    **options: Any,
) -> Path:
    """Any weights that `load` reads to our .safetensors, with the settings given here stored inside."""
    return save(load(source, config=config, **options), target, dtype=dtype)


def _find(weights: str | Path | None) -> Path:
    name = DEFAULT if weights is None else str(weights)
    if name in MODELS:
        return MODELS[name].fetch()
    path = Path(name).expanduser()
    if not path.exists():
        close = difflib.get_close_matches(name, MODELS, 1)
        raise WeightsError(
            f"{name}: neither a file nor a name"
            + (f"; did you mean {close[0]}?" if close else f"; the names are {', '.join(MODELS)}")
        )
    return path
