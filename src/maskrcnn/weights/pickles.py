"""Checkpoints that are pickles, read without running anything in them.

A pickle is a program that may call any function of any module. This reader knows the few calls that arrays and
plain containers are made of, and carries them out itself, on its own objects: nothing that a file names is ever
imported or called. Objects of a training framework's own, such as mmengine's log buffers, become empty stand-ins.
Whatever else a file asks for, it is refused by that name.

Read are torch.save's zip archives, the format it had before 1.6, and plain pickles as detectron2 publishes them.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import WeightsError
from .unpickler import Array, Budget, Refused, Unpickler, short

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


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
        budget = Budget(left)

        def stored(info: zipfile.ZipInfo) -> bytes:
            """An entry, as long as all that were read are no longer than the file: entries may lie on each other."""
            nonlocal left
            if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb would
                raise Refused(
                    f"want entries as torch.save stores them, uncompressed; {short(info.filename)} is compressed"
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

        return Unpickler(io.BytesIO(stored(entries[pickles[0]])), budget, storage).load()


def _read_stream(file: BinaryIO, size: int) -> Any:
    """A plain pickle, or the five pickles and the arrays that torch.save wrote before 1.6."""
    budget = Budget(size)
    first = Unpickler(file, budget).load()
    if first != LEGACY_MAGIC:
        return first
    Unpickler(file, budget).load()  # version of the format
    system = Unpickler(file, budget).load()
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise Refused(f"want arrays in {sys.byteorder}-endian order, as this machine has, got the other")
    storages: dict[str, Tensor] = {}

    left = size

    def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            if numel < 0 or left < 0:
                raise ValueError(f"storage {short(key)} is larger than the file")
            storages[key] = torch.empty(numel, dtype=dtype)
        return storages[key]

    found = Unpickler(file, budget, storage).load()
    for key in Unpickler(file, budget).load():
        if not isinstance(key, str):
            raise ValueError("a storage whose name is no text")
        target = storages[key]
        if int.from_bytes(file.read(8), "little") != len(target):
            raise ValueError(f"storage {key} has not the size that was announced")
        view = target.view(torch.uint8).numpy()
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise EOFError(f"storage {key} ends early")
    return found


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
    if isinstance(value, Array):
        return None if value.values is None else torch.from_numpy(value.values)
    return value if isinstance(value, (Tensor, str, bytes, int, float, bool)) else None
