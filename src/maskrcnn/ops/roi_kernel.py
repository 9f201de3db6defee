"""The sums of `roi_align`, compiled: all boxes of all levels at once, every box's taps merged, sums kept in registers.

Pixels are read where they lie: a bin whose samples share pixels reads each of them once, and no list of all the pixels
of all bins is ever made, as ``embedding_bag`` needs it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from . import memory, team
from .compiling import kernel
from .vectors import F32, I64, INT, Code, address, draw


class Sum(torch.autograd.Function):
    """(n, c, size, size) weighted sums of the pixels of each box's level; gradients reach the maps.

    index, weight : (n, 2, size, taps) int64 and float32, of x and of y: pixels along that axis for each bin, and how
                    much of each; the weights of both axes are multiplied
    level, image  : (n,) of each box
    maps          : (b, c, h, w) float32 of the CPU, see `fits`
    """

    @staticmethod
    def forward(
        ctx: Any, index: Tensor, weight: Tensor, level: Tensor, image: Tensor, *maps: Tensor
    ) -> Tensor:
        ctx.save_for_backward(index, weight, level, image)
        ctx.shapes = [m.shape for m in maps]
        out = memory.maps(len(index), maps[0].shape[1], index.shape[2], index.shape[2])
        # Rows of one pixel's channels; the list keeps copies of maps in another order alive.
        rows = [m.permute(0, 2, 3, 1).contiguous() for m in maps]
        _run(False, rows, index, weight, level, image, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, weight, level, image = ctx.saved_tensors
        grads = [memory.maps(*shape, zero=True) for shape in ctx.shapes]
        rows = [g.permute(0, 2, 3, 1) for g in grads]
        _run(True, rows, index, weight, level, image, grad.contiguous(memory_format=torch.channels_last))
        return None, None, None, None, *grads


def fits(maps: Sequence[Tensor], boxes: Tensor) -> bool:
    """Whether the kernel can run here, on these maps: float32 on the CPU, channels that fill its registers."""
    return (
        team.team() is not None
        and not boxes.requires_grad
        and not torch.compiler.is_compiling()
        and all(
            type(m) is Tensor
            and m.device.type == "cpu"
            and m.dtype == torch.float32
            and m.shape[1] % team.lanes() == 0
            for m in maps
        )
    )


def _run(
    back: bool,
    rows: Sequence[Tensor],
    index: Tensor,
    weight: Tensor,
    level: Tensor,
    image: Tensor,
    bins: Tensor,
) -> None:
    if not len(index):
        return
    n, _, size, taps = index.shape
    channels = rows[0].shape[3]
    table = np.array([[r.data_ptr(), r.shape[1], r.shape[2]] for r in rows], np.int64)
    index, weight, level, image = (a.contiguous() for a in (index, weight, level.long(), image.long()))
    registers = channels // team.lanes()
    block = -(-registers // torch.get_num_threads())
    team.run(
        _compile(team.lanes(), back).address, table.ctypes.data, len(rows), level.data_ptr(), image.data_ptr(),
        index.data_ptr(), weight.data_ptr(), bins.data_ptr(), n, size, taps, registers, block,
        -(-registers // block) if back else n,
    )  # fmt: skip


@intrinsic(prefer_literal=True)
def _weigh(typing, lanes, registers, back, places, shares, count, bin_, first):  # type: ignore[no-untyped-def]
    """Some registers of a bin = the sum of pixels times their shares; back, to the pixels the bin times their shares.

    places, shares: addresses of ``count`` addresses of pixels, and of their float32 shares
    first         : where in a pixel and in the bin, in bytes
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, _, _, places, shares, count, bin_, first = args
        width, height = lanes.literal_value, registers.literal_value
        code, step = Code(builder, width), ir.Constant(I64, 4 * width)
        before, head, loop, after = (
            builder.block, *(builder.append_basic_block(name) for name in ("head", "loop", "after"))
        )  # fmt: skip
        bin_ = builder.add(bin_, first)
        given = [code.load(bin_, step, r).value for r in range(height)] if back.literal_value else []
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(I64)
        k.add_incoming(ir.Constant(I64, 0), before)
        sums = [] if given else [builder.phi(code.vector) for _ in range(height)]
        builder.cbranch(builder.icmp_signed("<", k, count), loop, after)
        builder.position_at_end(loop)
        pixel = builder.load(code.at(builder.add(places, builder.mul(k, ir.Constant(I64, 8))), step, 0, I64))
        pixel = builder.add(pixel, first)
        share = builder.load(code.at(builder.add(shares, builder.mul(k, ir.Constant(I64, 4))), step, 0, F32))
        share = code.broadcast(share)
        read = [code.load(pixel, step, r).value for r in range(height)]
        if given:
            for r in range(height):
                code.store(code.fma(given[r], share, read[r]), pixel, step, r)
        for old, value in zip(sums, read, strict=False):
            old.add_incoming(ir.Constant(code.vector, [0.0] * width), before)
            old.add_incoming(code.fma(value, share, old), loop)
        k.add_incoming(builder.add(k, ir.Constant(I64, 1)), loop)
        builder.branch(head)
        builder.position_at_end(after)
        for r, value in enumerate(sums):
            code.store(value, bin_, step, r)
        return context.get_dummy_value()

    return types.void(lanes, registers, back, INT, INT, INT, INT, INT), generate


@numba.njit(error_model="numpy")
def _merge(index, weight, extent, step, places, shares):  # type: ignore[no-untyped-def]
    """The distinct pixels among taps, as offsets, with the sums of their weights; returns how many.

    An index beyond the axis is that of a box that is not a number, whose weight is none either.
    """
    count = 0
    for k in range(len(index)):
        if weight[k] != 0:
            place = min(max(index[k], 0), extent - 1) * step
            j = count - 1
            while j >= 0 and places[j] != place:
                j -= 1
            if j < 0:
                j = count
                places[j], shares[j] = place, 0.0
                count += 1
            shares[j] += weight[k]
    return count


@functools.cache
def _compile(lanes: int, back: bool) -> Any:
    """A C function that every thread of a team calls with the same job, see `_run`.

    The threads draw tasks from the job's first counter: forward these are boxes, back, since boxes share pixels, blocks
    of channels. numba's cache tells kernels apart by the numbers that it finds in the closure.
    """
    wide = 4 * lanes  # bytes of a register

    @kernel
    def made(pointer):  # type: ignore[no-untyped-def]
        job = numba.carray(pointer, 15)
        bins, n, size, taps = job[8], job[9], job[10], job[11]
        registers, block, tasks = job[12], job[13], job[14]
        table = numba.carray(address(job[2]), (job[3], 3), dtype=np.int64)  # type: ignore[call-arg]
        level = numba.carray(address(job[4]), n, dtype=np.int64)
        image = numba.carray(address(job[5]), n, dtype=np.int64)
        index = numba.carray(address(job[6]), (n, 2, size, taps), dtype=np.int64)
        weight = numba.carray(address(job[7]), (n, 2, size, taps), dtype=np.float32)
        xs, share_x = np.empty((size, taps), np.int64), np.empty((size, taps), np.float32)
        ys, share_y = np.empty(taps, np.int64), np.empty(taps, np.float32)
        counts = np.empty(size, np.int64)
        most = size * taps * taps
        places, shares = np.empty(most, np.int64), np.empty(most, np.float32)
        starts = np.empty(size + 1, np.int64)
        place, share = places.ctypes.data, shares.ctypes.data  # the loop names both: else numba freed them
        pixel = registers * wide
        while True:
            task = draw(pointer)
            if task >= tasks:
                break
            first, last = (task * block, min((task + 1) * block, registers)) if back else (0, registers)
            for roi in range(0 if back else task, n if back else task + 1):
                base, h, w = table[level[roi]]
                base += image[roi] * h * w * pixel
                for j in range(size):
                    counts[j] = _merge(index[roi, 0, j], weight[roi, 0, j], w, pixel, xs[j], share_x[j])
                for i in range(size):
                    rows = _merge(index[roi, 1, i], weight[roi, 1, i], h, w * pixel, ys, share_y)
                    count = 0
                    for j in range(size):
                        starts[j] = count
                        for a in range(rows):
                            for b in range(counts[j]):
                                places[count] = base + ys[a] + xs[j, b]
                                shares[count] = share_y[a] * share_x[j, b]
                                count += 1
                    starts[size] = count
                    for j in range(size):
                        bin_, r = bins + ((roi * size + i) * size + j) * pixel, first
                        p, q, some = place + 8 * starts[j], share + 4 * starts[j], starts[j + 1] - starts[j]
                        while r < last:
                            if lanes == 16 and r + 16 <= last:
                                _weigh(lanes, 16, back, p, q, some, bin_, r * wide)
                                r += 16
                            elif r + 8 <= last:
                                _weigh(lanes, 8, back, p, q, some, bin_, r * wide)
                                r += 8
                            elif r + 4 <= last:
                                _weigh(lanes, 4, back, p, q, some, bin_, r * wide)
                                r += 4
                            else:
                                _weigh(lanes, 1, back, p, q, some, bin_, r * wide)
                                r += 1

    return made
