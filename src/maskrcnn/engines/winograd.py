"""Winograd's F(4x4, 3x3): a stride-1 3x3 convolution in a quarter of the multiplications.

The output is cut into tiles of 4x4 pixels. The 6x6 input pixels under a tile become 36 numbers a channel, each of
these is an entry of one of 36 small matrix products, and 36 sums become the tile's 16 outputs. One kernel does all
three steps for a few tiles at a time, so that what lies between them stays in a core's cache, and its matrix
product keeps the sums in registers of the width that the CPU has. Error: about 2e-6 of the map's largest value.

Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4.1.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.memory import lasting, maps
from ..ops.team import lanes, run, team

TILE, SPAN, POINTS, TAPS = 4, 6, 36, 9  # outputs and inputs along a tile's side, products, weights
TOGETHER = 1 << 16  # pairs of input and output whose weights are transformed together, to 9 MB
KEPT = 1 << 14  # pairs whose transformed weights, 2.4 MB, are kept by layers that also see large maps
SPARE = 48  # numbers between two points' weights: at distances of some power of 2 all would share one set of the cache
FEW = 40  # tiles, of which computing takes no more than three times as long as transforming the weights
STRIP = 1 << 22  # bytes of an input whose share in the weights' gradient is computed at once
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
    many outputs at a time as stay in the cache. Those of layers that see small maps are kept (``keep``), if there are
    many only until a larger one comes.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None, keep: bool = True) -> None:
        self.keep = keep
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
        tiles = _tiles(x)
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
        if self.keep and tiles < FEW:
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


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d`` with padding 1 of (n, c_in, h, w) float32, with gradients; channels `fit`."""
    return _Convolution.apply(x, weight, bias)


class _Convolution(torch.autograd.Function):
    """The gradient of the input is such a convolution too; that of the weights is left to oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = Winograd(weight, None, bias, keep=False)(x, relu=False)
        # no view, which could not be changed in place, as by a ReLU
        return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            if fit(*weight.shape[:2]) and _tiles(grad) >= FEW:
                of_x = convolve(grad, weight.flip(2, 3).transpose(0, 1), None)
            else:
                of_x = _backward(grad, x, (1, 1), weight)[0]
        if ctx.needs_input_grad[1]:
            parts = (_backward(*strip, weight, of_weight=True)[1] for strip in _strips(grad, x))
            of_weight = functools.reduce(Tensor.add_, parts)
        return of_x, of_weight, grad.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] else None


def _tiles(x: Tensor) -> int:
    """Tiles of all maps."""
    return x.shape[0] * -(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)


def _backward(
    grad: Tensor, x: Tensor, sides: tuple[int, int], weight: Tensor, of_weight: bool = False
) -> tuple[Tensor, ...]:
    """oneDNN's gradient of the input, or of the weights, of maps padded by ``sides`` rows and columns."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], list(sides), [1, 1], False, [0, 0], 1, [not of_weight, of_weight, False]
    )  # fmt: skip


def _strips(grad: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor, tuple[int, int]]]:
    """Parts whose gradients of the weights add up to the whole, and the padding of each: some rows of large maps.

    Each has the input's rows above and below. oneDNN takes long for maps that are larger than the caches.
    """
    row = x.shape[1] * x.shape[3] * x.element_size()
    rows = max(STRIP // row, 1)
    if x.shape[2] < 2 * rows:
        yield grad, x, (1, 1)
        return
    for i, first in itertools.product(range(len(x)), range(0, x.shape[2], rows)):
        end = min(first + rows, x.shape[2])
        part = x[i : i + 1, :, max(first - 1, 0) : end + 1]
        above, below = int(first == 0), int(end == x.shape[2])
        part = F.pad(part, (0, 0, above, below)) if above or below else part  # which copies
        yield grad[i : i + 1, :, first:end], part, (0, 1)


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
