"""One layer's weights in another form, made at first use and again after a change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..model import MaskRCNN
from ..model.layers import Conv, Linear

SEEN = 32  # numbers of each tensor that are looked at before each use
Compute = Callable[[Tensor, Tensor | None], Tensor]  # input, and what is added before the ReLU


def give(model: MaskRCNN, kernel: Callable[[], LayerKernel] | None) -> None:
    """Every layer of the model gets a kernel of its own, or none."""
    for layer in model.modules():
        if isinstance(layer, (Conv, Linear)):
            layer.kernel = None if kernel is None else kernel()


class _Made(NamedTuple):
    """What a kernel was made from, and the kernel."""

    state: tuple[object, ...]
    some: list[np.ndarray]  # views of the weights
    seen: list[bytes]  # what was there
    compute: Compute


class LayerKernel(ABC):
    """Computes a layer in its place, see `model.layers.Kernel`; notes the state of the layer that it was made from.

    PyTorch counts changes of a tensor, but not those by fused optimizers and through ``.data``: hence the look at some
    numbers all over each, on the CPU. Elsewhere that would wait for the device, and a change through ``.data`` between
    two predictions is missed; a pass with gradients, as in training, makes the kernels of what is learnt anew.
    """

    def __init__(self) -> None:
        self._made: _Made | None = None

    @abstractmethod
    def applies(self, layer: Conv | Linear, x: Tensor) -> bool:
        """Whether it can compute this layer for this input."""

    @abstractmethod
    def make(self, layer: Conv | Linear, x: Tensor) -> Compute:
        """What computes it, for inputs like this one, with the weights as they are."""

    def __call__(self, layer: Conv | Linear, x: Tensor, plus: Tensor | None = None) -> Tensor | None:
        """The layer's output, or None where the layer has to compute itself. May overwrite ``plus``."""
        tensors = _tensors(layer)
        learning = torch.is_grad_enabled() and any(
            t.requires_grad for t in (x, *tensors, *(() if plus is None else (plus,)))
        )
        if learning or torch.compiler.is_compiling() or not self.applies(layer, x):
            self._made = None  # a model in training need not hold its weights twice
            return None
        state = (*((t.data_ptr(), t._version) for t in tensors), layer.relu, x.ndim)
        made = self._made
        if made is None or made.state != state or made.seen != _read(made.some):
            self._made = None
            if any(t.is_inference() or not _dense(t) for t in tensors):  # whose changes cannot be known
                return None
            some = [_some(t) for t in tensors if t.device.type == "cpu"]
            made = self._made = _Made(state, some, _read(some), self.make(layer, x))
        return made.compute(x, plus)

    def product(self, layer: Conv | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """With gradients PyTorch computes the layer."""
        return None

    def __getstate__(self) -> dict[str, object]:
        # oneDNN's tensors can neither be copied nor pickled, and are soon made again
        return {**vars(self), "_made": None}


def _tensors(layer: Conv | Linear) -> list[Tensor]:
    modules = (layer,) if layer.norm is None else (layer, layer.norm)
    each = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()))
    return [t for t in each if t is not None]


def _dense(t: Tensor) -> bool:
    return t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))


def _some(t: Tensor) -> np.ndarray:
    """A view of some numbers all over a tensor."""
    count = min(t.numel(), SEEN)
    view: np.ndarray = t.detach().as_strided((count,), (t.numel() // max(count, 1),)).numpy()
    return view


def _read(views: list[np.ndarray]) -> list[bytes]:
    return [view.tobytes() for view in views]
