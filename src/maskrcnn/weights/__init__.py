"""Weights from a file or by name; what a file is, it says itself."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Config
from ..engines import attach, exported_kind, open_exported
from ..errors import ConfigError, WeightsError
from ..model import MaskRCNN, load_arrays
from . import (
    backbone,
    benchmark,
    detectron,
    detectron2,
    hdf5,
    matterport,
    matterport_write,
    mmdet,
    native,
    pickles,
    state_dict,
    torchvision,
)
from .catalog import DEFAULT, MODELS, NamedWeights
from .content import READABLE, recognise
from .home import home
from .matterport_config import read_settings, refine
from .native import save

__all__ = ["DEFAULT", "MODELS", "NamedWeights", "convert", "home", "is_backbone", "load", "read", "save"]


def load(
    weights: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    engine: str = "auto",
    preset: str | None = None,
    config: Any = None,
    **options: Any,
) -> MaskRCNN:
    """A model in eval mode, from a file or by name.

    weights : a path, whose format its content tells; a name that `MODELS` lists, fetched at its first use;
              None or "default" for the model that ships with the package. A file of `maskrcnn export`
              predicts, and no more
    engine  : what computes it, see `engines.attach`: "torch" is the plain reference
    preset  : lean, small or tiny: less accurate and faster, see `Config.with_preset`
    config  : what a Matterport .h5 does not hold: a Matterport ``Config`` (class or instance), a dict of its
              attributes, or the path of a .json or .py with one, which is parsed and not run; or our `Config`
    options : fields of `Config` or `Dialect` in place of what the file says: ``score=0.5, names=["nut"]``;
              ``scoring="coco"`` for all classes at 0.05, NMS 0.5, float boxes and aligned masks on old weights;
              ``dialect="torchvision"`` or another of `config.DIALECTS` for all that a framework does its own way;
              and what pickles do not hold: ``input_order``, ``input_std``, ``norm_epsilon``, see `state_dict.read`,
              and ``style``, see `mmdet.read`

    A file with a classifier's backbone alone, such as torchvision's ``resnet50-0676ba61.pth``, wants ``names`` and
    gives a network to train: what is behind the backbone is random, and it refuses to predict.

    Raises WeightsError for files that cannot be read or do not fit, ConfigError for settings that the arrays
    contradict, DownloadError for names that cannot be fetched.
    """
    path = _find(weights)
    if exported_kind(path) is not None:
        if config is not None or preset is not None:
            raise ConfigError(
                f"config, preset: {path} holds its settings; give single options instead, such as score=0.5"
            )
        return open_exported(path, engine, **options)
    model = _open(weights, config, options)
    if not isinstance(model, MaskRCNN):
        settings, state = model
        settings = settings if preset is None else settings.with_preset(preset)
        model = load_arrays(settings, state, _named(weights))
    elif preset is not None:
        raise ConfigError(f"preset: {path} is a backbone alone, which cannot predict; train it first")
    return attach(model.to(device), engine)


def read(
    weights: str | Path | None = None, *, config: Any = None, **options: Any
) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32, CPU) of what `load` would load.

    Raises WeightsError for a backbone alone, too.
    """
    found = _open(weights, config, options)
    if isinstance(found, MaskRCNN):
        raise WeightsError(f"{weights}: a backbone alone, want a whole Mask R-CNN; train it first")
    return found


def is_backbone(weights: str | Path) -> bool:
    """Whether a file or name holds the backbone of a classifier alone, to train from."""
    path = _find(weights)
    kind = recognise(path)
    if kind == "hdf5":
        return backbone.find_keras(path) is not None
    if kind == "safetensors":
        return False
    content = pickles.read(path)
    return backbone.find(state_dict.find_state(content), content) is not None


def _open(
    weights: str | Path | None, config: Any, options: dict[str, Any]
) -> tuple[Config, dict[str, Tensor]] | MaskRCNN:
    """What is in the file; of a backbone alone, the network that begins with it."""
    path, options = _find(weights), dict(options)
    if (scoring := options.pop("scoring", None)) is not None:
        options = _scoring(scoring) | options
    if isinstance(config, Config):
        options = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)} | options
        config = None
    kind = recognise(path)
    if kind != "hdf5" and config is not None:
        own = "holds its own" if kind == "safetensors" else "is no file of Matterport"
        raise ConfigError(
            f"config: {path} {own}; give single options instead, such as score=0.5, or our Config"
        )
    if kind == "pickle":
        return _from_pickle(path, options)
    if kind == "safetensors":
        stored, state = native.read(path)
        return refine(stored, options), state
    names = hdf5.names(path)  # first, since a file of something else may be larger than memory
    settings = None if config is None else read_settings(config)
    try:
        if keras := backbone.find_keras(path):
            return backbone.start(keras, str(path), options)
        if not matterport.is_matterport(names):
            raise WeightsError(f"no Mask R-CNN: {matterport.describe(names)}; read are {READABLE}")
        return matterport.read(hdf5.read(path), settings, **options)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _from_pickle(path: Path, options: dict[str, Any]) -> tuple[Config, dict[str, Tensor]] | MaskRCNN:
    content = pickles.read(path)
    arrays = state_dict.find_state(content)
    try:
        if torchvision.is_torchvision(arrays):
            return torchvision.read(arrays, **options)
        if detectron2.is_detectron2(arrays):
            return detectron2.read(arrays, content, **options)
        if mmdet.is_mmdet(arrays):
            return mmdet.read(arrays, content, **options)
        if benchmark.is_benchmark(arrays):
            return benchmark.read(arrays, **options)
        if detectron.is_detectron(arrays) and detectron.is_whole(arrays):
            text = content.get("cfg", "") if isinstance(content, dict) else ""
            return detectron.read(arrays, text if isinstance(text, str) else "", **options)
        if found := backbone.find(arrays, content, options.get("style")):
            given = {k: v for k, v in options.items() if k != "style"}
            return backbone.start(found, str(path), given)
        raise WeightsError(f"no Mask R-CNN that is known here{_instead(arrays)}; read are {READABLE}")
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _instead(arrays: dict[str, Tensor]) -> str:
    """What a pickle of something else is, for an error message."""
    return f": arrays such as {', '.join(list(arrays)[:3])}" if arrays else ": it has no arrays"


def _scoring(name: str) -> dict[str, Any]:
    """Options that choose and draw detections as COCO's results are made today, whatever the weights."""
    if name != "coco":
        raise ConfigError(f"scoring: want 'coco', or None for that of the weights, got {name!r}")
    return {"best_class_only": False, "score_inclusive": False, "score": 0.05, "nms": 0.5, "max_detections": 100,
            "integer_boxes": False, "paste": "aligned"}  # fmt: skip


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Literal["safetensors", "torchvision", "detectron2", "mmdet", "h5"] = "safetensors",
    dtype: Literal["float32", "float16"] = "float32",
    config: Any = None,
    tell: Callable[[str], None] = lambda words: None,
    **options: Any,
) -> Path:
    """Any weights that `load` reads to our .safetensors, with the settings given here stored inside; or back.

    to   : whose file to write. The others' hold arrays in float32. What its network has no layer for raises
           WeightsError.
    tell : called with what the other framework must be told to compute the same, since it takes no settings from a file
    """
    if to == "safetensors":
        return save(load(source, config=config, **options), target, dtype=dtype)
    kinds: dict[str, Any] = {"torchvision": torchvision, "detectron2": detectron2, "mmdet": mmdet}
    if to not in (*kinds, "h5") or dtype != "float32":
        raise ConfigError(
            f"to: want safetensors, or one of {', '.join(kinds)}, h5 in float32, got {to!r} in {dtype}"
        )
    model = read(source, config=config, **options)
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if to == "h5":
                matterport_write.write(*model, part)
            else:
                torch.save(kinds[to].write(*model), part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        raise WeightsError(f"{path}: cannot be written: {error}") from None
    if to in kinds:
        tell(kinds[to].told(model[0]))
    return path


def _named(weights: str | Path | None) -> str | Path:
    """The shipped model goes by ``default`` too."""
    return DEFAULT if weights is None or weights == "default" else weights


def _find(weights: str | Path | None) -> Path:
    name = str(_named(weights))
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
