"""Files that are whole or not there, with the permissions that any new file has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


def write_bytes(path: Path, content: bytes) -> Path:
    """Write the whole file or nothing."""
    with replacing(path) as part:
        part.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write the whole file or nothing, UTF-8 with plain line ends."""
    return write_bytes(path, content.encode("utf-8"))
