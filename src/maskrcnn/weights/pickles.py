"""Checkpoints that are pickles, read without running anything in them.

A pickle is a program that may call any function of any module. This reader knows the few calls that arrays and
plain containers are made of, and carries them out itself, on its own objects: nothing that a file names is ever
imported or called. Objects of a training framework's own, such as mmengine's log buffers, become empty stand-ins.
Whatever else a file asks for, it is refused by that name.

Read are torch.save's zip archives, the format it had before 1.6, and plain pickles as detectron2 publishes them.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError

# Of dicts; entries of others are left out. Nested tuples take for ever to hash, and no array has such a name.
PLAIN_KEYS = (str, int, float, bytes, type(None))
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
# Objects beside the weights that training scripts store; they become stand-ins without any content.
REPEATED = 1 << 20  # numbers that a tensor with strides of 0 may have, whatever its storage has
METADATA = ("mmengine.", "mmcv.", "mmdet.", "argparse.Namespace", "torch.device", "torch.Size")


class Refused(WeightsError):
    """A pickle asks for something that no array is made of."""


def read(path: Path) -> Any:
    """The content of a pickle: dicts, lists (also for tuples), numbers, strings, and tensors for all arrays.

    Raises WeightsError for a damaged file, and for one that asks for anything but arrays and plain containers.
    """
    try:
        if zipfile.is_zipfile(path):
            found = _read_zip(path)
        else:
            with path.open("rb") as file:
                found = _read_stream(file, path.stat().st_size)
        return _plain(found, {})
    except Refused as error:
        raise WeightsError(f"{path}: {error}") from None
    # A damaged pickle fails in as many ways as Python has exceptions.
    except Exception as error:
        raise WeightsError(
            f"{path}: the pickle is truncated or damaged ({type(error).__name__}: {error}); fetch it again"
        ) from None


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins like this may be a pickle, of any protocol."""
    return (head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05") or head[:3] in (b"(dp", b"}q\x00")


# --- the files ---


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"want a zip archive of torch.save, with one data.pkl, got {len(pickles)}")
        folder = pickles[0][: -len("data.pkl")]
        left = path.stat().st_size

        def stored(info: zipfile.ZipInfo) -> bytes:
            """An entry, as long as all that were read are no longer than the file: entries may lie on each other."""
            nonlocal left
            if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb would
                raise Refused(
                    f"want entries as torch.save stores them, uncompressed; {_name(info.filename)} is compressed"
                )
            left -= info.file_size
            if left < 0:
                raise Refused("the entries of the archive claim more bytes than it has")
            return archive.read(info)

        order = entries.get(f"{folder}byteorder")
        if order is not None and stored(order) != sys.byteorder.encode():
            raise Refused(f"want arrays in {sys.byteorder}-endian order, as this machine has, got the other")
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
            if key not in storages:
                data = stored(entries[f"{folder}data/{key}"])
                storages[key] = (
                    torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
                )
            if storages[key].dtype != dtype or len(storages[key]) < numel:
                raise ValueError(f"storage {key} has not the size or the type that was announced")
            return storages[key]

        return _Reader(io.BytesIO(stored(entries[pickles[0]])), storage).load()


def _read_stream(file: BinaryIO, size: int) -> Any:
    """A plain pickle, or the five pickles and the arrays that torch.save wrote before 1.6."""
    first = _Reader(file).load()
    if first != LEGACY_MAGIC:
        return first
    _Reader(file).load()  # version of the format
    system = _Reader(file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise Refused(f"want arrays in {sys.byteorder}-endian order, as this machine has, got the other")
    storages: dict[str, Tensor] = {}

    left = size

    def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            if numel < 0 or left < 0:
                raise ValueError(f"storage {_name(key)} is larger than the file")
            storages[key] = torch.empty(numel, dtype=dtype)
        return storages[key]

    found = _Reader(file, storage).load()
    for key in _Reader(file).load():
        target = storages[key]
        if int.from_bytes(file.read(8), "little") != len(target):
            raise ValueError(f"storage {key} has not the size that was announced")
        view = target.view(torch.uint8).numpy()
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise EOFError(f"storage {key} ends early")
    return found


# --- what a pickle may ask for ---


class _Call:
    """A function of ours under the name that the file knows."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Storage:
    """The name of a type of torch storage."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _DType:
    """A numpy dtype on its way: its letters, then its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str):
            raise Refused(f"want arrays of numbers, got the numpy dtype {_name(code)}")
        self.code, self.order = code[:8], "="

    def take(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state[1], str) or state[1] not in "<>|=":
            raise Refused(f"want arrays of numbers, got the byte order {_name(state[1])}")
        self.order = state[1]

    def get(self) -> np.dtype[Any]:
        if self.code[:1] not in "fiub" or not self.code[1:].isdigit():
            raise Refused(f"want arrays of numbers, got the numpy dtype {self.code!r}")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """A numpy array on its way: nothing, then everything."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def take(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            raise Refused("want arrays of numbers, got a numpy array of objects")
        values = np.frombuffer(_bytes(data), dtype.get()).reshape(shape, order="F" if fortran else "C")
        self.values = values.astype(values.dtype.newbyteorder("="))


def _bytes(data: Any, encoding: str = "latin1") -> bytes:
    """Bytes that Python 2 wrote as a string, or Python 3 as text for protocols before 3."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"want bytes written as latin1 text, got the encoding {_name(encoding)}")
    if not isinstance(data, (str, bytes, bytearray)):  # bytes(10**12) would be so many zeros
        raise Refused(f"want bytes, got {_name(data)}")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _frombuffer(data: Any, dtype: _DType, shape: Any, order: str) -> _Array:
    """A numpy array as protocol 5 has it: in one call."""
    array = _Array()
    array.take((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: _DType, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.get(), count=1)[0].item()


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; torch checks that it lies inside, given a sane offset."""
    if min((offset, *size, *stride), default=0) < 0:
        raise ValueError("a tensor has a negative offset, size or stride")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if all(size) and last > len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    if math.prod(size) > max(len(storage), REPEATED):
        raise ValueError("a tensor repeats the numbers of its storage, more often than arrays do")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _attribute(owner: Any, name: Any, *_: Any) -> Any:
    """A method of a stand-in, such as mmengine's log buffers refer to; of nothing else."""
    if not (isinstance(owner, type) and issubclass(owner, _StandIn)):
        raise Refused(f"refused: the pickle asks for builtins.getattr, of {_name(owner)}")
    return _stand_in()


def _dict(items: Any = ()) -> dict[Any, Any]:
    """A dict of those pairs that have plain keys."""
    return {pair[0]: pair[1] for pair in items if isinstance(pair[0], PLAIN_KEYS)}


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "numpy.dtype": _DType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "_codecs.encode": _bytes,
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    "builtins.bytearray": _bytes,
    "builtins.getattr": _attribute,
    "collections.defaultdict": lambda *_: {},
    "builtins.bytes": lambda: b"",  # how protocols before 3 write no bytes
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
class _Reader(pickle._Unpickler):
    stack: list[Any]

    def __init__(
        self, file: BinaryIO, storage: Callable[[torch.dtype, str, int], Tensor] | None = None
    ) -> None:
        super().__init__(_Bounded(file), encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name`` here. Nothing is imported."""
        asked = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if asked in _CALLS:
            return _Call(_CALLS[asked])
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Storage(STORAGES[name])
        if asked in _NAMES:
            return asked
        if asked.startswith(METADATA):
            return _stand_in()
        hint = ""
        if module.split(".")[0] not in ("os", "posix", "nt", "subprocess", "sys", "builtins", "__builtin__"):
            hint = "; if it is a whole saved model, save its state_dict() instead"
        raise Refused(
            f"refused: the pickle asks for {module}.{name}, want nothing but arrays and plain containers{hint}"
        )

    def load_build(self) -> None:
        """Hand an object its state; only arrays and their types have one here, that of others is dropped."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], (_Array, _DType)):
            self.stack[-1].take(state)

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
            if isinstance(key, PLAIN_KEYS):
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
    }

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a torch pickle refers to."""
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise Refused(f"refused: the pickle refers to {_name(pid)} outside of it")
        _, kind, key, _, numel, *view = pid
        if not isinstance(kind, _Storage) or not isinstance(numel, int) or any(v is not None for v in view):
            raise Refused(f"refused: want a storage of numbers, got {_name(kind)}")
        return self._storage(kind.dtype, str(key), numel)


def _name(value: Any) -> str:
    """A short word for something in a file; never its whole text, which may be without end."""
    value = value[0] if isinstance(value, tuple) and value else value
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class _StandIn:
    """Takes everything and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    extend = add = append


def _stand_in() -> type[_StandIn]:
    """A class of its own for each, so that nothing is shared between files."""
    return type("StandIn", (_StandIn,), {})


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Dicts, lists and tuples as they are, arrays as tensors; what is neither becomes None.

    done: what each container became, by its identity: one that is met a million times is walked through once
    """
    if isinstance(value, (dict, list, tuple)):
        if id(value) not in done:
            if isinstance(value, dict):
                done[id(value)] = {k: _plain(v, done) for k, v in value.items() if isinstance(k, (str, int))}
            else:
                done[id(value)] = [_plain(v, done) for v in value]
        return done[id(value)]
    if isinstance(value, _Array):
        return None if value.values is None else torch.from_numpy(value.values)
    return value if isinstance(value, (Tensor, str, bytes, int, float, bool)) else None
