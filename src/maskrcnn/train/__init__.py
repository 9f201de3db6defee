"""Training: `train`, its settings, and the table of what a change of classes keeps."""

from __future__ import annotations

import sys
import types
from typing import Any

from .heads import origins, with_names
from .loop import Report, train
from .settings import Training

__all__ = ["Report", "Training", "origins", "train", "with_names"]


class _Callable(types.ModuleType):
    """``maskrcnn.train`` is this package and the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return train(*args, **options)


sys.modules[__name__].__class__ = _Callable
