"""Arrays out of an HDF5 file, or a clear word about what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import WeightsError
from .content import superblock

if TYPE_CHECKING:
    import h5py

# Where each version of the superblock keeps the address of the file's end, in bytes from its beginning.
MOST_PER_BYTE = 20
END_OF_FILE = {0: 40, 1: 44, 2: 28, 3: 28}


def names(path: Path) -> list[str]:
    """The path, inside the file, of every array of numbers; optimizer state is left out. Raises as `read`."""
    return list(_visit(path, lambda array: None))


def read(path: Path) -> dict[str, np.ndarray]:
    """Every array of numbers in the file by its path in it; optimizer state is left unread.

    Raises WeightsError for a truncated or damaged file.
    """
    return _visit(path, lambda array: array[()])


def _visit(path: Path, take: Callable[[h5py.Dataset], Any]) -> dict[str, Any]:
    import h5py  # here, as most files are of other formats

    _check_length(path)
    found: dict[str, Any] = {}
    # Compressed arrays are larger than the file, but not without bound: one that was never written takes no byte.
    claimed, limit = 0, MOST_PER_BYTE * path.stat().st_size + (64 << 20)

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer_weights"):  # noqa: SIM102
            if item.ndim and item.dtype.kind in "fiu":
                nonlocal claimed
                claimed += item.nbytes
                if claimed > limit:
                    raise ValueError(f"its arrays claim {claimed:,} bytes and more")
                found[name] = take(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (
        Exception
    ) as error:  # h5py raises OSError, KeyError, RuntimeError and others, by the byte that is wrong
        raise WeightsError(f"{path}: the HDF5 file is damaged ({error}); fetch it again") from None
    return found


def _check_length(path: Path) -> None:
    start, size = superblock(path) or 0, path.stat().st_size
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(56)
    where = END_OF_FILE.get(head[8]) if len(head) > 8 else None
    # The addresses of Keras's files have eight bytes; any other width is left to h5py.
    if where is None or head[13 if head[8] < 2 else 9] != 8 or len(head) < where + 8:
        return
    end = int.from_bytes(head[where : where + 8], "little")
    base = int.from_bytes(head[(where - 16) if head[8] < 2 else 12 :][:8], "little")
    wanted = end if base else end + start
    if wanted > size:
        raise WeightsError(
            f"{path}: truncated: want {wanted:,} bytes, as the file itself says, got {size:,}; fetch it again"
        )
