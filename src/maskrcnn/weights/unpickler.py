"""Reads one pickle for its arrays: each thing that it may ask for, and what is done instead.

What a file can make this reader do is bounded by the size of the file: keys are of types that hash at once,
numbers are those of 64 bits, and what is built is paid for from a `Budget`.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError

STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
# Objects beside the weights that training scripts store; they become stand-ins without any content.
METADATA = (
    "mmengine.", "mmcv.", "mmdet.", "addict.", "yacs.", "omegaconf.", "easydict.", "lightning", "pytorch_lightning.",
    "argparse.Namespace", "collections.Counter", "collections.deque", "datetime.", "pathlib.", "typing.",
    "torch.device", "torch.Size", "torch.torch_version.",
)  # fmt: skip


class Refused(WeightsError):
    """A pickle asks for something that no array is made of."""


class Budget:
    """Bytes that may be built from a file of this size: some bytes name the same content again and again."""

    def __init__(self, size: int) -> None:
        self._left = 8 * size + (1 << 24)

    def spend(self, count: int) -> None:
        """Raises Refused where nothing is left."""
        self._left -= count
        if self._left < 0:
            raise Refused("the pickle repeats its bytes, more often than arrays do")


class _Call:
    """A function of ours under the name that the file knows."""

    __slots__ = ("_budget", "_function")

    def __init__(self, function: Callable[..., Any], budget: Budget) -> None:
        self._function, self._budget = function, budget

    def __call__(self, *args: Any) -> Any:
        return self._function(self._budget, *args)


class _Storage:
    """The name of a type of torch storage."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _DType:
    """A numpy dtype on its way: its letters, then its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, _: Budget, code: Any, *__: Any) -> None:
        if not isinstance(code, str):
            raise Refused(f"want arrays of numbers, got the numpy dtype {short(code)}")
        self.code, self.order = code[:8], "="

    def take(self, _: Budget, state: tuple[Any, ...]) -> None:
        if not isinstance(state[1], str) or state[1] not in "<>|=":
            raise Refused(f"want arrays of numbers, got the byte order {short(state[1])}")
        self.order = state[1]

    def get(self) -> np.dtype[Any]:
        if self.code[:1] not in "fiub" or not self.code[1:].isdigit():
            raise Refused(f"want arrays of numbers, got the numpy dtype {self.code!r}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class Array:
    """A numpy array on its way: nothing, then everything."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def take(self, budget: Budget, state: tuple[Any, ...]) -> None:
        """Become what pickle's ``state`` says. Raises Refused for all but numbers."""
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            raise Refused("want arrays of numbers, got a numpy array of objects")
        values = np.frombuffer(_bytes(budget, data), dtype.get()).reshape(
            shape, order="F" if fortran else "C"
        )
        self.values = values.astype(values.dtype.newbyteorder("="))


def _bytes(budget: Budget, data: Any, encoding: str = "latin1") -> bytes:
    """Bytes that Python 2 wrote as a string, or Python 3 as text for protocols before 3."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"want bytes written as latin1 text, got the encoding {short(encoding)}")
    if not isinstance(data, (str, bytes, bytearray)):  # bytes(10**12) would be so many zeros
        raise Refused(f"want bytes, got {short(data)}")
    budget.spend(len(data))
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _frombuffer(budget: Budget, data: Any, dtype: _DType, shape: Any, order: str) -> Array:
    """A numpy array as protocol 5 has it: in one call."""
    array = Array()
    array.take(budget, (1, shape, dtype, order == "F", data))
    return array


def _scalar(budget: Budget, dtype: _DType, data: Any) -> Any:
    return np.frombuffer(_bytes(budget, data), dtype.get(), count=1)[0].item()


def _tensor(budget: Budget, storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; torch checks that it lies inside, given a sane offset."""
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in (offset, *size, *stride)):
        raise ValueError("a tensor has an offset, size or stride that is negative or no number")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if all(size) and last > len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    budget.spend(math.prod(size) * storage.itemsize)
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _attribute(_: Budget, owner: Any, *__: Any) -> Any:
    """A method of a stand-in, such as mmengine's log buffers refer to; of nothing else."""
    if owner is not _StandIn:
        raise Refused(f"refused: the pickle asks for builtins.getattr, of {short(owner)}")
    return _StandIn


def _list(budget: Budget, items: Any = ()) -> list[Any]:
    """A set is a list here too, since its members may be nothing to hash."""
    if not isinstance(items, (list, tuple)):
        raise Refused(f"want a plain container of a list, got {short(items)}")
    budget.spend(8 * len(items))
    return list(items)


def _dict(budget: Budget, items: Any = ()) -> dict[Any, Any]:
    """A dict of those pairs that have plain keys."""
    return {pair[0]: pair[1] for pair in _list(budget, items) if _is_plain(pair[0])}


def _is_plain(key: Any) -> bool:
    """Whether a key of a dict hashes at once, and unlike others; no array has another name.

    Nested tuples take for ever, and large integers may all have one hash.
    """
    return isinstance(key, (str, float, bytes, type(None))) or (isinstance(key, int) and abs(key) < 1 << 60)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": Array,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda _, data, *__: data,
    "_codecs.encode": _bytes,
    "builtins.set": _list,
    "builtins.frozenset": _list,
    "builtins.bytearray": _bytes,
    "builtins.getattr": _attribute,
    "collections.defaultdict": lambda *_: {},
    "builtins.bytes": lambda _: b"",  # how protocols before 3 write no bytes
}
# Names that are only handed to one of the calls.
_NAMES = (
    "builtins.int",
    "builtins.float",
    "builtins.list",
    "builtins.dict",
    "numpy.ndarray",
    *(f"torch.{t}" for t in ("float32", "float16", "bfloat16", "float64", "int64", "int32")),
)


class _Bounded:
    """A file that is not asked for more bytes than it has left: memory would be set aside for them first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        at = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(at)

    def read(self, count: int = -1) -> bytes:
        """So many bytes, or fewer at the end."""
        left = self._end - self._file.tell()
        if count > left:
            raise EOFError(f"{count:,} bytes are announced, {left:,} are left")
        return self._file.read(count)

    def readline(self) -> bytes:
        """Up to the end of the line."""
        return self._file.readline()


# The reader in Python: the one in C keeps a list as long as the largest memo number in the file, which a
# hundred bytes can make larger than memory.
class Unpickler(pickle._Unpickler):
    """Reads a pickle and runs nothing of what it names."""

    stack: list[Any]

    def __init__(
        self, file: BinaryIO, budget: Budget, storage: Callable[[torch.dtype, str, int], Tensor] | None = None
    ) -> None:
        super().__init__(_Bounded(file), encoding="latin1")
        self._budget = budget
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name`` here. Nothing is imported."""
        asked = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if asked in _CALLS:
            return _Call(_CALLS[asked], self._budget)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Storage(STORAGES[name])
        if asked in _NAMES:
            return asked
        if asked.startswith(METADATA):
            return _StandIn
        hint = ""
        if module.split(".")[0] not in ("os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__"):
            hint = "; if it is a whole saved model, save its state_dict() instead"
        raise Refused(
            f"refused: the pickle asks for {module}.{name}, want nothing but arrays and plain containers{hint}"
        )

    def load_build(self) -> None:
        """Hand an object its state; only arrays and their types have one here, that of others is dropped."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], (Array, _DType)):
            self.stack[-1].take(self._budget, state)

    def load_setitem(self) -> None:
        """One entry of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        """Entries of a dict, since the last mark."""
        self._set(self.pop_mark())  # type: ignore[attr-defined]

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if _is_plain(key):
                target[key] = value

    def load_dict(self) -> None:
        """A dict of what is there since the last mark."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append({})  # type: ignore[attr-defined]
        self._set(items)

    def load_empty_set(self) -> None:
        """A set as a list, since its members may be nothing to hash."""
        self.append([])  # type: ignore[attr-defined]

    def load_additems(self) -> None:
        """Members of a set, since the last mark."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack[-1].extend(items)

    def load_frozenset(self) -> None:
        """A frozen set, as a list too."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append(items)  # type: ignore[attr-defined]

    def load_bytearray8(self) -> None:
        """Bytes, after their number has been seen to be no larger than the file."""
        (count,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(count)))  # type: ignore[attr-defined]

    def load_put(self) -> None:
        """Remember what is on top under a number, of as many digits as the binary forms have."""
        digits = self.readline()[:-1]  # type: ignore[attr-defined]
        if len(digits) > 10:
            raise ValueError(f"a place of the memo with {len(digits)} digits")
        self.memo[int(digits)] = self.stack[-1]  # type: ignore[attr-defined]

    def load_extension(self) -> None:
        """What this process, for purposes of its own, has given a number."""
        raise Refused("refused: the pickle asks for a copyreg extension")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: load_empty_set,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.PUT[0]: load_put,
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), load_extension),
    }

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a torch pickle refers to."""
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise Refused(f"refused: the pickle refers to {short(pid)} outside of it")
        _, kind, key, _, numel, *view = pid
        if not isinstance(kind, _Storage) or any(v is not None for v in view):
            raise Refused(f"refused: want a storage of numbers, got {short(kind)}")
        if not isinstance(key, str) or not isinstance(numel, int):
            raise Refused(
                f"refused: want a storage with a name and a size, got {short(key)} and {short(numel)}"
            )
        return self._storage(kind.dtype, key, numel)


def short(value: Any) -> str:
    """A short word for something in a file; never its whole text, which may be without end."""
    value = value[0] if isinstance(value, tuple) and value else value
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class _StandIn:
    """Takes everything and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    extend = add = append
