"""`ParallelModel`, accepted and forwarded: one process here uses one device."""

from __future__ import annotations

import warnings
from typing import Any


class ParallelModel:
    """Forwards everything to the model that it is given; ``GPU_COUNT`` only multiplies the batch size.

    keras_model : the model to forward to, also known as ``inner_model``
    gpu_count   : how many GPUs were wanted
    """

    def __init__(self, keras_model: Any, gpu_count: int) -> None:
        if gpu_count > 1:
            warnings.warn(
                f"gpu_count={gpu_count}: mrcnn runs on one device; to train on several, use maskrcnn's own training",
                stacklevel=2,
            )
        self.inner_model = keras_model
        self.gpu_count = gpu_count

    def __getattr__(self, name: str) -> Any:
        if name == "inner_model":  # not set yet, as while unpickling
            raise AttributeError(name)
        return getattr(self.inner_model, name)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Print the model."""
        self.inner_model.summary(*args, **kwargs)

    def make_parallel(self) -> list[Any]:
        """The outputs of the model as they are."""
        return list(self.inner_model.outputs)
