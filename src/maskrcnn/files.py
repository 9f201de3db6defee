"""Files that are whole or not there, with the permissions that any new file has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes that name in the end, if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_files(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside; in the end all files there move to beside ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for written in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.with_name(written.name))  # the one that is asked for comes last


def write_bytes(path: Path, content: bytes) -> Path:
    """Write the whole file or nothing."""
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write the whole file or nothing, UTF-8 with plain line ends."""
    return write_bytes(path, content.encode("utf-8"))
