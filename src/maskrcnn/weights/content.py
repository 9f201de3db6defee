"""What a file is, from its bytes; its name is never asked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from ..errors import WeightsError
from .pickles import is_pickle

READABLE = (
    "the formats of Matterport, torchvision, detectron2, Detectron, maskrcnn-benchmark, MMDetection "
    "and maskrcnn itself"
)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def recognise(path: Path) -> Literal["hdf5", "pickle", "safetensors"]:
    """The kind of weight file at ``path``.

    Raises WeightsError, saying what it is instead, for everything that is not read.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise WeightsError(f"{path}: want a weight file, got a folder; read are {READABLE}")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    if size == 0:
        raise WeightsError(f"{path}: the file is empty; fetch it again")
    if is_hdf5(path):
        return "hdf5"
    if 2 <= int.from_bytes(head[:8], "little") < 100_000_000 and head[8:9] == b"{":
        return "safetensors"
    if is_pickle(head) or _is_torch_zip(path):
        return "pickle"
    raise WeightsError(f"{path}: {_other(path, head)}; read are {READABLE}")


def is_hdf5(path: Path) -> bool:
    """Whether an HDF5 superblock is there: at 0, or behind a user block of 512, 1024, ... bytes."""
    return superblock(path) is not None


def superblock(path: Path) -> int | None:
    """Where the HDF5 superblock begins, in bytes; None if there is none."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            if file.read(8) == HDF5_SIGNATURE:
                return offset
            offset = max(512, 2 * offset)
    return None


def _is_torch_zip(path: Path) -> bool:
    """Whether torch.save wrote this, since 1.6."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _other(path: Path, head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights: a download page or an error message was saved; fetch the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights; run 'git lfs pull' where it comes from"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "model.weights.h5" in names:
            return "a Keras 3 archive, which numbers arrays rather than naming their layers"
        return "a zip archive; unpack it"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive, such as a PyTorch pickle, cut off; a truncated download"
    if head[257:262] == b"ustar":
        return (
            "a tar archive; unpack it, or, if PyTorch before 0.1.10 wrote it, load it there and save it again"
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed file (gzip, bzip2, xz or zstd); unpack it"
    if not any(head):
        return "only zeros; a download that never began"
    return f"not a weight file that is known here, it begins with {head[:8]!r}"
