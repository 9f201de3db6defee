"""The kernel of `winograd`, compiled by numba; its inner loops are written in LLVM's vectors.

numba's own loops over channels do not become vector code here, as LLVM cannot know that 36 arrays read and 36
written do not overlap; and it has no way to say that a matrix product's sums are to stay in registers.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..ops.compiling import COUNTER, kernel
from ..ops.vectors import F32, I64, INT, Code, Vector, draw, numbers_at, shifted
from .winograd import POINTS, SPAN, SPARE, TAPS, TILE, gather, lift, spread


@intrinsic(prefer_literal=True)
def _transpose(typing, lanes, source, step, target):  # type: ignore[no-untyped-def]
    """Registers of inputs, one for each output and ``step`` apart, to registers of outputs, side by side."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, source, step, target = args
        width = lanes.literal_value
        code = Code(builder, width)
        rows = [code.load(source, step, i).value for i in range(width)]
        for i, row in enumerate(code.transposed(rows)):
            code.store(row, target, ir.Constant(I64, 4 * width), i)
        return context.get_dummy_value()

    return types.void(lanes, INT, INT, INT), generate


@intrinsic(prefer_literal=True)
def _lift(typing, lanes, source, source_step, scale, target, step):  # type: ignore[no-untyped-def]
    """Transform nine registers of weights times their outputs' factors; in float64, rounded once."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, source, source_step, scale, target, step = args
        code = Code(builder, lanes.literal_value)
        zero = ir.Constant(I64, 0)

        def wide(vector: Vector) -> Any:
            return builder.fpext(vector.value, code.double)

        factor = wide(code.load(scale, zero, 0))
        taps = [
            Vector(builder, builder.fmul(wide(code.load(source, source_step, i)), factor))
            for i in range(TAPS)
        ]
        columns = [lift(taps[j::3]) for j in range(3)]
        for i in range(SPAN):
            for j, value in enumerate(lift([column[i] for column in columns])):
                code.store(builder.fptrunc(value.value, code.vector), target, step, SPAN * i + j)
        return context.get_dummy_value()

    return types.void(lanes, INT, INT, INT, INT, INT), generate


@intrinsic(prefer_literal=True)
def _spread(typing, lanes, pixels, channel, target, step):  # type: ignore[no-untyped-def]
    """Transform one register of channels of 36 pixels, whose addresses are listed."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, pixels, channel, target, step = args
        code = Code(builder, lanes.literal_value)
        zero = ir.Constant(I64, 0)
        rows = [
            [code.load(code.listed(pixels, SPAN * i + j, channel), zero, 0) for j in range(SPAN)]
            for i in range(SPAN)
        ]
        columns = [spread([row[j] for row in rows]) for j in range(SPAN)]
        for i in range(SPAN):
            for j, value in enumerate(spread([column[i] for column in columns])):
                code.store(value.value, target, step, SPAN * i + j)
        return context.get_dummy_value()

    return types.void(lanes, COUNTER, INT, INT, INT), generate


@intrinsic(prefer_literal=True)
def _gather(typing, lanes, source, step, pixels, channel, bias, low):  # type: ignore[no-untyped-def]
    """Transform one register of channels of 36 sums back, into 16 pixels whose addresses are listed."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, source, step, pixels, channel, bias, low = args
        code = Code(builder, lanes.literal_value)
        zero = ir.Constant(I64, 0)
        columns = [gather([code.load(source, step, SPAN * i + j) for i in range(SPAN)]) for j in range(SPAN)]
        shift = code.load(builder.add(bias, channel), zero, 0)
        least = code.broadcast(low)
        for i in range(TILE):
            for j, value in enumerate(gather([column[i] for column in columns])):
                result = (value + shift).value
                result = builder.select(builder.fcmp_ordered("<", result, least), least, result)  # keeps NaN
                code.store(result, code.listed(pixels, TILE * i + j, channel), zero, 0)
        return context.get_dummy_value()

    return types.void(lanes, INT, INT, COUNTER, INT, INT, types.float32), generate


@intrinsic(prefer_literal=True)
def _product(typing, lanes, rows, a, a_step, b, c, c_step, depth):  # type: ignore[no-untyped-def]
    """c (rows, 2 lanes) = a (rows, depth) @ b (depth, 2 lanes); steps from row to row."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        _, _, a, a_step, b, c, c_step, depth = args
        width, height = lanes.literal_value, rows.literal_value
        code = Code(builder, width)
        four, wide = ir.Constant(I64, 4), ir.Constant(I64, 4 * width)
        before, loop, after = (
            builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
        )  # fmt: skip
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(I64)
        k.add_incoming(ir.Constant(I64, 0), before)
        sums = [[builder.phi(code.vector) for _ in range(2)] for _ in range(height)]
        here = builder.add(b, builder.mul(k, ir.Constant(I64, 8 * width)))
        right = [code.load(here, wide, j).value for j in range(2)]
        along = builder.add(a, builder.mul(k, four))
        added = []
        for i in range(height):
            left = code.broadcast(builder.load(code.at(along, a_step, i, F32), align=4))
            added.append([code.fma(left, right[j], sums[i][j]) for j in range(2)])
        more = builder.add(k, ir.Constant(I64, 1))
        k.add_incoming(more, loop)
        for old, new in zip(chain(*sums), chain(*added), strict=True):
            old.add_incoming(ir.Constant(code.vector, [0.0] * width), before)
            old.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", more, depth), loop, after)
        builder.position_at_end(after)
        for i in range(height):
            for j in range(2):
                row = builder.add(c, builder.mul(wide, ir.Constant(I64, j)))
                code.store(added[i][j], row, c_step, i)
        return context.get_dummy_value()

    return types.void(lanes, rows, INT, INT, INT, INT, INT, INT), generate


@numba.njit(error_model="numpy")
def _places(table, base, outside, tile, first, side, size, channels):  # type: ignore[no-untyped-def]
    """Addresses of the side x side pixels from ``first`` on in a tile; ``outside`` for those beyond the map."""
    h, w = size
    across, down = (w + TILE - 1) // TILE, (h + TILE - 1) // TILE
    image, y0, x0 = (
        tile // (across * down),
        tile // across % down * TILE + first,
        tile % across * TILE + first,
    )
    for i in range(side):
        for j in range(side):
            y, x = y0 + i, x0 + j
            inside = y >= 0 and y < h and x >= 0 and x < w
            table[i * side + j] = base + 4 * ((image * h + y) * w + x) * channels if inside else outside


def compile_lift(lanes: int) -> Any:
    """A C function that every thread of a team calls with the same job, see `Winograd._lift`.

    The threads draw panels of ``2 * lanes`` outputs from the job's first counter until there are none left; the second
    gives each thread its own part of the scratch memory, which must not be an array of the kernel's own: numba frees
    these after the last line that names them, whoever still has their address.
    """
    width = 2 * lanes

    @kernel
    def made(pointer):  # type: ignore[no-untyped-def]
        job = numba.carray(pointer, 8)
        weight, scale, out, scratch, c_in, c_out = job[2], job[3], job[4], job[5], job[6], job[7]
        square = scratch + 4 * TAPS * lanes * lanes * draw(shifted(pointer, 1))  # type: ignore[call-arg]
        while True:
            panel = draw(pointer) * width
            if panel >= c_out:
                break
            for half in range(0, width, lanes):
                first = panel + half
                for c in range(0, c_in, lanes):
                    for tap in range(TAPS):
                        _transpose(lanes, weight + 4 * ((first * TAPS + tap) * c_in + c), 4 * TAPS * c_in,
                                   square + 4 * tap * lanes * lanes)  # fmt: skip
                    for k in range(lanes):
                        _lift(lanes, square + 4 * k * lanes, 4 * lanes * lanes, scale + 4 * first,
                              out + 4 * (panel * c_in + (c + k) * width + half),
                              4 * (c_in * c_out + SPARE))  # fmt: skip

    return made


def compile_convolve(lanes: int, rows: int) -> Any:
    """As `compile_lift`, see `Winograd.__call__`.

    The threads draw blocks of ``rows`` tiles, each once for each of the ``parts`` of its outputs; the second counter
    as there.
    numba's cache tells kernels apart by the two numbers that it finds in the closure.
    """
    width = 2 * lanes

    @kernel
    def made(pointer):  # type: ignore[no-untyped-def]
        job = numba.carray(pointer, 16)
        x, out, weight, bias, scratch, zeros = job[2], job[3], job[4], job[5], job[6], job[7]
        n, size, c_in, c_out, some = job[8], (job[9], job[10]), job[11], job[12], job[13]
        parts, low = job[14], np.float32(0) if job[15] else np.float32(-np.inf)
        beyond = zeros + 4 * max(c_in, c_out)
        tiles = n * ((size[0] + TILE - 1) // TILE) * ((size[1] + TILE - 1) // TILE)
        left = scratch + 4 * POINTS * rows * (c_in + c_out) * draw(shifted(pointer, 1))  # type: ignore[call-arg]
        sums = left + 4 * POINTS * rows * c_in
        table_memory = np.empty(POINTS, np.int64)  # which the loop names, see `compile_lift`
        table = numbers_at(table_memory.ctypes.data)
        here = -1  # the block that lies in ``left``
        while True:
            drawn = draw(pointer)
            start, part = drawn // parts * rows, drawn % parts
            if start >= tiles:
                break
            for t in range(rows if start != here else 0):  # the last tile fills what is left of a block
                _places(table_memory, x, zeros, min(start + t, tiles - 1), -1, SPAN, size, c_in)
                for c in range(0, 4 * c_in, 4 * lanes):
                    _spread(lanes, table, c, left + 4 * t * c_in + c, 4 * rows * c_in)
            here = start
            first = some // width * part // parts * width
            last = some // width * (part + 1) // parts * width
            for point in range(POINTS):
                for panel in range(first, last, width):
                    _product(lanes, rows, left + 4 * point * rows * c_in, 4 * c_in,
                             weight + 4 * (point * (some * c_in + SPARE) + panel * c_in),
                             sums + 4 * (point * rows * some + panel), 4 * some, c_in)  # fmt: skip
            for t in range(min(rows, tiles - start)):
                _places(table_memory, out, beyond, start + t, 0, TILE, size, c_out)
                for c in range(4 * first, 4 * last, 4 * lanes):
                    _gather(lanes, sums + 4 * t * some + c, 4 * rows * some, table, c, bias, low)

    return made
