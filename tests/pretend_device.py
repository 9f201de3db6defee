"""A GPU's rules without a GPU: tensors of the device "pretend" compute here, but with each other alone.

What a GPU would refuse is refused: an operator on tensors of two devices, and NumPy's view of one elsewhere. What would
make the host wait for it is counted in `waits`. Everything that the CPU has kernels of its own for goes the way that
it goes on a GPU, and the numbers are real.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend:0")
waits: Counter[str] = Counter()

# Operators whose output has a size that is known there alone.
_SIZES = ("nonzero", "unique", "masked_select", "repeat_interleave", "bincount")
_COPIES = ("to", "_to_copy", "copy_")
_VALUES = ("_local_scalar_dense", "equal", "is_nonzero")


class Far(Tensor):
    """A tensor of the device; ``near`` holds its numbers."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        return torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=DEVICE,
        )  # fmt: skip

    def __init__(self, near: Tensor) -> None:
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        waits["tolist"] += 1
        return self.near.tolist()

    def data_ptr(self) -> int:
        return self.near.data_ptr()


class Pretending(TorchDispatchMode):
    """Inside, the device is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    given = tree_flatten((args, kwargs))[0]
    tensors = [x for x in given if isinstance(x, Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    lent = name.startswith("index") and far and args[0] is far[0]  # indices of the CPU's are taken
    if far and name not in _COPIES and not lent and any(x.ndim for x in tensors if not isinstance(x, Far)):
        raise RuntimeError(f"{func}: tensors of two devices")
    to = next((x for x in given if isinstance(x, torch.device)), None)
    is_far = bool(far) if to is None else to.type == DEVICE.type
    _count(name, args, far, len(far) < len(tensors) or not is_far)
    near = tree_map(_near, (args, kwargs))
    out = func(*near[0], **near[1])
    # what came may go out
    came = {id(n): x for n, x in zip(near[0], args, strict=True) if isinstance(x, Far)}

    def wrapped(x: Any) -> Any:
        if not (is_far and isinstance(x, Tensor)):
            return x
        return came[id(x)] if id(x) in came else Far(x)

    return tree_map(wrapped, out)


def _near(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == DEVICE.type:
        return torch.device("cpu")
    return x.near if isinstance(x, Far) else x


def _count(name: str, args: Sequence[Any], far: list[Far], leaves: bool) -> None:
    """Note what the host would wait for."""
    if not far:
        return
    if name.startswith(_SIZES) or name in _VALUES or (name in _COPIES and leaves):
        waits[name] += 1
    elif name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1]):
        waits["index by truth"] += 1


# What PyTorch calls below the level at which Python sees it, where it makes tensors of numbers.


@torch.library.impl("aten::empty.memory_format", "privateuseone")
def _(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Far(torch.empty(size, dtype=dtype))


@torch.library.impl("aten::empty_strided", "privateuseone")
def _(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Far(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl("aten::_copy_from", "privateuseone")
def _(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    waits["copy"] += not isinstance(target, Far)
    _near(target).copy_(_near(source))
    return target
