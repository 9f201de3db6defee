"""Mask R-CNN on PyTorch.

import maskrcnn
model = maskrcnn.load("mask_rcnn_coco.h5")
result = model.predict("street.jpg")
result.save("out.png")
"""

from __future__ import annotations

import gc
import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import errors
from .config import Config, Dialect
from .errors import MaskRCNNError

if TYPE_CHECKING:
    from .model import MaskRCNN
    from .output import draw
    from .records import Image, Result, Target
    from .train import Training, train
    from .weights import convert, load, save

__version__ = version("maskrcnn")
__all__ = [
    "Config", "Dialect", "Image", "MaskRCNN", "MaskRCNNError", "Result", "Target", "Training", "convert", "draw",
    "errors", "load", "save", "train",
]  # fmt: skip

# Imported at first use: these bring torch, which takes seconds that ``maskrcnn --help`` need not take.
_HOMES = {
    "Image": "records", "Result": "records", "Target": "records", "MaskRCNN": "model", "draw": "output",
    "load": "weights", "save": "weights", "convert": "weights",
    "train": "train", "Training": "train",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskrcnn' has no attribute {name!r}")
    # Python would look for garbage several times among the half a million objects that torch makes, for 0.2 s.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    finally:
        if collecting:
            gc.enable()


def __dir__() -> list[str]:
    return __all__
