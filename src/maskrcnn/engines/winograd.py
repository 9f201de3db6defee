"""Winograd's F(4x4, 3x3): a stride-1 3x3 convolution in a quarter of the multiplications.

The output is cut into tiles of 4x4 pixels. The 6x6 input pixels under a tile become 36 numbers a channel, each of
these is an entry of one of 36 small matrix products, and 36 sums become the tile's 16 outputs. One kernel does all
three steps for a few tiles at a time, so that what lies between them stays in a core's cache, and its matrix
product keeps the sums in registers of the width that the CPU has. Error: about 2e-6 of the map's largest value.

Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4.1.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .memory import lasting, maps
from .waiting import waiting

TILE, SPAN, POINTS = 4, 6, 36  # outputs and inputs along a tile's side, products
NEAR, FAR = 3 / 4, 3 / 2  # the polynomials' points are 0, these with both signs, and infinity; see `spread`
_NEAR2, _FAR2, _BOTH = NEAR**2, FAR**2, NEAR**2 * FAR**2
WEIGHTS = (
    (1 / _BOTH, 0, 0),
    *((c, c * point, c * point**2)
      for pair, c in ((NEAR, 1 / (2 * _NEAR2 * (_NEAR2 - _FAR2))), (FAR, 1 / (2 * _FAR2 * (_FAR2 - _NEAR2))))
      for point in (pair, -pair)),
    (0, 0, 1),
)  # fmt: skip


def spread(a: Sequence[Any]) -> tuple[Any, ...]:
    """Six inputs along a line to six products' left sides (B transposed, in the paper).

    With 0.75 and 1.5 for the paper's 1 and 2 the largest error is a fifth, the mean one a half; all factors are
    exact in float32.
    """
    even, odd = a[4] - a[2] * _FAR2, (a[3] - a[1] * _FAR2) * NEAR
    step, slope = a[4] - a[2] * _NEAR2, (a[3] - a[1] * _NEAR2) * FAR
    first, last = (a[i] * _BOTH - a[i + 2] * (_NEAR2 + _FAR2) + a[i + 4] for i in (0, 1))
    return first, even + odd, even - odd, step + slope, step - slope, last


def gather(a: Sequence[Any]) -> tuple[Any, ...]:
    """Six sums along a line to four outputs (A transposed)."""
    s, d, p, q = a[1] + a[2], a[1] - a[2], a[3] + a[4], a[3] - a[4]
    return (
        a[0] + s + p, d * NEAR + q * FAR, s * _NEAR2 + p * _FAR2, d * NEAR**3 + q * FAR**3 + a[5]
    )  # fmt: skip


class Winograd:
    """One layer's weights (c_out, c_in, 3, 3), transformed, and its bias. Channels are such that they `fit`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        c_out, c_in = weight.shape[:2]
        g = torch.tensor(WEIGHTS, dtype=torch.float64)
        width = 2 * kernel().lanes
        # Panels of as many outputs as one product computes at once, so that they are read in order.
        self.weight = lasting(POINTS, c_out // width, c_in, width)
        for panel, some in enumerate(weight.split(width)):
            points = torch.einsum("ai,ocij,bj->abco", g, some.double(), g)
            self.weight[:, panel] = points.reshape(POINTS, c_in, width)
        self.bias = torch.zeros(c_out) if bias is None else bias.detach().clone()
        self.c_in, self.c_out = c_in, c_out

    def __call__(self, x: Tensor, relu: bool) -> Tensor:
        """(n, c_in, h, w) float32 to (n, c_out, h, w), channels last."""
        n, _, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        out = maps(n, self.c_out, h, w)
        run, threads = kernel(), torch.get_num_threads()
        tiles = n * -(-h // TILE) * -(-w // TILE)
        block = run.rows * (2 if tiles >= 32 * run.rows * threads else 1)
        scratch = torch.empty(threads, POINTS * block * (self.c_in + self.c_out))
        edge = torch.zeros(2, max(self.c_in, self.c_out))  # read for pixels outside, written for those beyond
        job = np.array(
            [0, 0, x.data_ptr(), out.data_ptr(), self.weight.data_ptr(), self.bias.data_ptr(), scratch.data_ptr(),
             edge.data_ptr(), n, h, w, self.c_in, self.c_out, block, relu], np.int64,
        )  # fmt: skip
        run.team(run.address, job.ctypes.data, threads, 0)
        return out


def fit(c_in: int, c_out: int) -> bool:
    """Whether this machine has what the kernel needs, and the channels fill its registers."""
    width = 2 * lanes()
    return _team() is not None and c_in % lanes() == 0 and c_out % width == 0


def lanes() -> int:
    """float32 numbers in one register."""
    return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


@functools.cache
def _team() -> Callable[..., None] | None:
    """Run a function on the threads that PyTorch's own operators run on; None where they are not OpenMP's.

    A second pool of threads would compete with these, which spin for a while after each operator.
    """
    try:
        team = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # Windows and macOS
        return None
    team.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    team.restype = None
    return team


class _Compiled:
    """The kernel for one width of registers."""

    def __init__(self, width: int) -> None:
        from .winograd_kernel import compile_kernel

        self.lanes, self.rows = width, 12 if width == 16 else 6
        with waiting("the kernels for this CPU are compiled, once"):
            self._function = compile_kernel(self.lanes, self.rows)
        self.address = self._function.address
        team = _team()
        assert team is not None
        self.team = team


@functools.cache
def _compiled(width: int) -> _Compiled:
    return _Compiled(width)


def kernel() -> _Compiled:
    """Compiled at the first call in an environment, read from numba's cache later."""
    return _compiled(lanes())
