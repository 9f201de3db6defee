"""What compiled kernels are made of: numba's functions, whose inner loops are written in LLVM's vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiling import COUNTER

INT = types.int64
I64, F32, F64 = ir.IntType(64), ir.FloatType(), ir.DoubleType()


class Vector:
    """A register of float32 numbers, in code under construction."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, factor: float) -> Vector:
        constant = ir.Constant(self.value.type, [float(factor)] * self.value.type.count)
        return Vector(self.builder, self.builder.fmul(self.value, constant, flags=("contract",)))


class Code:
    """What the vector code here is made of; addresses and steps are in bytes."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder, self.vector, self.double = (
            builder, ir.VectorType(F32, lanes), ir.VectorType(F64, lanes)
        )  # fmt: skip

    def at(self, address: Any, step: Any, times: int, kind: Any) -> Any:
        """Pointer to ``address + step * times``."""
        place = self.builder.add(address, self.builder.mul(step, ir.Constant(I64, times)))
        return self.builder.inttoptr(place, kind.as_pointer())

    def load(self, address: Any, step: Any, times: int) -> Vector:
        return Vector(self.builder, self.builder.load(self.at(address, step, times, self.vector), align=4))

    def store(self, vector: Any, address: Any, step: Any, times: int) -> None:
        self.builder.store(vector, self.at(address, step, times, self.vector), align=4)

    def listed(self, table: Any, i: int, offset: Any) -> Any:
        """The i-th address of a table, plus an offset."""
        entry = self.builder.load(self.builder.gep(table, [ir.Constant(I64, i)]))
        return self.builder.add(entry, offset)

    def broadcast(self, number: Any) -> Any:
        """A register full of one number."""
        empty = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.vector.count), [0] * self.vector.count)
        return self.builder.shuffle_vector(first, empty, zeros)

    def transposed(self, rows: list[Any]) -> list[Any]:
        """As many registers as each has numbers: the first numbers of all, the second ones, and so on."""
        count = half = len(rows)
        while half := half // 2:
            rows = [self._half(rows[i & ~half], rows[i | half], half, bool(i & half)) for i in range(count)]
        return rows

    def _half(self, upper: Any, lower: Any, size: int, second: bool) -> Any:
        """Blocks of ``size`` numbers in turns from two registers, the first or the second one of each pair."""
        count = self.vector.count
        picks = [(i & ~size) + size * second + (count if i & size else 0) for i in range(count)]
        return self.builder.shuffle_vector(
            upper, lower, ir.Constant(ir.VectorType(ir.IntType(32), count), picks)
        )

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once."""
        name = f"llvm.fma.v{self.vector.count}f32"
        function = self.builder.module.globals.get(name) or ir.Function(
            self.builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )
        return self.builder.call(function, [a, b, c])


@intrinsic
def draw(typing, counter):  # type: ignore[no-untyped-def]
    """The counter's value, which no other thread gets."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", args[0], ir.Constant(I64, 1), "monotonic")

    return INT(COUNTER), generate


@intrinsic
def shifted(typing, pointer, count):  # type: ignore[no-untyped-def]
    """A pointer ``count`` entries further."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.gep(args[0], [args[1]])

    return COUNTER(COUNTER, INT), generate


@intrinsic
def numbers_at(typing, address):  # type: ignore[no-untyped-def]
    """To the int64 numbers at an address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], I64.as_pointer())

    return COUNTER(INT), generate


@intrinsic
def address(typing, number):  # type: ignore[no-untyped-def]
    """A pointer to whatever lies there."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(INT), generate
