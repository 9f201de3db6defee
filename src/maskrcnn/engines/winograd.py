"""Winograd's F(4x4, 3x3): a stride-1 3x3 convolution in a quarter of the multiplications.

The output is cut into tiles of 4x4 pixels. The 6x6 input pixels under a tile become 36 numbers a channel, each of
these is an entry of one of 36 small matrix products, and 36 sums become the tile's 16 outputs. One kernel does all
three steps for a few tiles at a time, so that what lies between them stays in a core's cache, and its matrix
product keeps the sums in registers of the width that the CPU has. Error: about 2e-6 of the map's largest value.

Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4.1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops.memory import lasting, maps
from ..ops.team import lanes, run, team

TILE, SPAN, POINTS, TAPS = 4, 6, 36, 9  # outputs and inputs along a tile's side, products, weights
TOGETHER = 1 << 16  # pairs of input and output whose weights are transformed together, to 9 MB
KEPT = 1 << 14  # pairs whose transformed weights, 2.4 MB, are kept by layers that also see large maps
SPARE = 48  # numbers between two points' weights: at distances of some power of 2 all would share one set of the cache
FEW = 40  # tiles, of which computing takes no more than three times as long as transforming the weights
NEAR, FAR = 3 / 4, 3 / 2  # the polynomials' points are 0, these with both signs, and infinity; see `spread`
_NEAR2, _FAR2, _BOTH = NEAR**2, FAR**2, NEAR**2 * FAR**2


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


def lift(a: Sequence[Any]) -> tuple[Any, ...]:
    """Three weights along a line to six products' right sides (G, in the paper)."""
    lifted = [a[0] * (1 / _BOTH)]
    for near, far in ((_NEAR2, _FAR2), (_FAR2, _NEAR2)):
        share = 1 / (2 * near * (near - far))
        even, odd = (a[0] + a[2] * near) * share, a[1] * (share * near**0.5)
        lifted += [even + odd, even - odd]
    return (*lifted, a[2])


class Winograd:
    """One layer's weights (c_out, c_in, 3, 3), a factor for each output, and its bias; channels `fit`.

    The transformed weights are four times the weights, 220 MB for a ResNet-50: they are made at each call, for as
    many outputs at a time as stay in the cache. Those of layers that see small maps are kept, if there are many only
    until a larger one comes.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        self.c_out, self.c_in = weight.shape[:2]
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.scale, self.bias = (
            torch.full((self.c_out,), default) if given is None else given.detach().clone()
            for given, default in ((scale, 1.0), (bias, 0.0))
        )
        self.kept: Tensor | None = None

    def __call__(self, x: Tensor, relu: bool) -> Tensor:
        """(n, c_in, h, w) float32 to (n, c_out, h, w), channels last."""
        n, _, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        out = maps(n, self.c_out, h, w)
        run, threads = kernel(), torch.get_num_threads()
        tiles = n * -(-h // TILE) * -(-w // TILE)
        scratch = torch.empty(threads, POINTS * run.rows * (self.c_in + self.c_out))
        edge = torch.zeros(2, max(self.c_in, self.c_out))  # read for pixels outside, written for those beyond
        for first, some, weight in self._lifted(tiles):
            parts = shares(-(-tiles // run.rows), some // (2 * run.lanes), threads)
            run.convolve(
                x.data_ptr(), out.data_ptr() + 4 * first, weight.data_ptr(), self.bias.data_ptr() + 4 * first,
                scratch.data_ptr(), edge.data_ptr(), n, h, w, self.c_in, self.c_out, some, parts, relu,
            )  # fmt: skip
        return out

    def _lifted(self, tiles: int) -> Iterator[tuple[int, int, Tensor]]:
        """First output, number of outputs, and their transformed weights."""
        if tiles < FEW:
            kept = self.kept  # which another thread may take away
            if kept is None:
                kept = self._lift(0, self.c_out, lasting(POINTS * (self.c_in * self.c_out + SPARE)))
                self.kept = kept
            yield 0, self.c_out, kept
            return
        if self.c_in * self.c_out > KEPT:
            self.kept = None
        width, rooms = 2 * kernel().lanes, kernel().rooms
        some = TOGETHER // self.c_in // width * width
        try:
            room = rooms.pop()
        except IndexError:  # of an empty list, or one that another thread has just emptied
            room = maps(1, 1, POINTS, TOGETHER + SPARE)
        for first in range(0, self.c_out, some):
            count = min(some, self.c_out - first)
            yield first, count, self._lift(first, count, room)
        rooms.append(room)

    def _lift(self, first: int, count: int, room: Tensor) -> Tensor:
        """Panels of as many outputs as one product computes at once, so that they are read in order."""
        weight, scale, run = self.weight[first:], self.scale[first:], kernel()
        scratch = torch.empty(torch.get_num_threads(), TAPS * run.lanes**2)
        run.lift(weight.data_ptr(), scale.data_ptr(), room.data_ptr(), scratch.data_ptr(), self.c_in, count)
        return room


def shares(blocks: int, panels: int, threads: int) -> int:
    """In how many parts the outputs of each block of tiles are best computed: several, where blocks are few.

    Every part spreads the inputs anew, which takes as long as one panel's product.
    """

    def rounds(parts: int) -> float:
        return -(-blocks * parts // threads) * (panels / parts + 1)

    return min(range(1, min(panels, threads) + 1), key=rounds)


def fit(c_in: int, c_out: int) -> bool:
    """Whether this machine has what the kernel needs, and the channels fill its registers."""
    width = 2 * lanes()
    return team() is not None and c_in % lanes() == 0 and c_out % width == 0 and c_in * width <= TOGETHER


class _Compiled:
    """The kernels for one width of registers."""

    def __init__(self, width: int) -> None:
        from .winograd_kernel import compile_convolve, compile_lift

        self.lanes, self.rows = width, 12 if width == 16 else 6
        self._functions = compile_lift(self.lanes), compile_convolve(self.lanes, self.rows)
        # for transformed weights, one for each thread that has called at the same time
        self.rooms: list[Tensor] = []
        self.lift, self.convolve = (partial(run, function.address) for function in self._functions)


@functools.cache
def _compiled(width: int) -> _Compiled:
    return _Compiled(width)


def kernel() -> _Compiled:
    """Compiled at the first call in an environment, read from numba's cache later."""
    return _compiled(lanes())
