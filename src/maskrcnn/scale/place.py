"""Files and folders by path or URI, on this machine or wherever pyarrow reaches (s3, gs, abfs, hdfs, file)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.fs

from ..errors import ConfigError
from ..files import replacing


@dataclass(frozen=True)
class Place:
    """A file or folder. ``path`` is what its file system calls it; ``uri`` what people do.

    Credentials are found where the file system's own tools look for them (environment, profile, machine role).
    """

    system: pyarrow.fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, text: str | os.PathLike[str]) -> Place:
        """The place that a path or URI names; nothing need be there. Raises ConfigError for unknown URIs."""
        text = os.fspath(text)
        if not is_uri(text):
            path = str(Path(text).expanduser().absolute())
            return cls(_local(), path, path)
        scheme, _, rest = text.partition("://")
        host, _, path = rest.partition("/")
        system, base = _system(scheme, host)
        return cls(system, f"{base.rstrip('/')}/{path}".rstrip("/") or "/", text.rstrip("/"))

    def __truediv__(self, name: str) -> Place:
        return Place(self.system, f"{self.path}/{name}", f"{self.uri}/{name}")

    @property
    def parent(self) -> Place:
        """The folder it lies in."""
        return Place(self.system, self.path.rpartition("/")[0], self.uri.rpartition("/")[0])

    @property
    def local(self) -> Path | None:
        """The path, where it is on this machine's file system."""
        return Path(self.path) if isinstance(self.system, pyarrow.fs.LocalFileSystem) else None

    def kind(self) -> pyarrow.fs.FileType:
        """File, Directory or NotFound."""
        return self.system.get_file_info(self.path).type

    def files(self, recursive: bool = False) -> list[Place]:
        """The files of a folder without hidden ones, by name; none where there is no such folder."""
        selector = pyarrow.fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        names = [
            info.path.removeprefix(self.path).lstrip("/")
            for info in self.system.get_file_info(selector)
            if info.type == pyarrow.fs.FileType.File
        ]
        return [self / name for name in sorted(names) if not any(p.startswith(".") for p in name.split("/"))]

    def read(self) -> bytes:
        """All bytes of a file. Raises OSError."""
        with self.system.open_input_stream(self.path) as file:
            return file.read()

    def write(self, content: bytes) -> None:
        """The whole file or nothing: object stores show a file when it is whole, local ones get a new name."""
        with self.writing() as path:
            path.write_bytes(content)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A local path to write to, which becomes this file in the end, if nothing failed."""
        if self.local:
            with replacing(self.local) as part:
                yield part
            return
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "whole"
            yield part
            with part.open("rb") as source, self.system.open_output_stream(self.path) as target:
                shutil.copyfileobj(source, target, 2**20)

    def delete(self) -> None:
        """Remove a file, if it is there."""
        if self.kind() != pyarrow.fs.FileType.NotFound:
            self.system.delete_file(self.path)


def is_uri(text: str | os.PathLike[str]) -> bool:
    """Whether this names a place by scheme."""
    return isinstance(text, str) and "://" in text


def _local() -> pyarrow.fs.FileSystem:
    return pyarrow.fs.LocalFileSystem()


@lru_cache(maxsize=64)  # a bucket's region is looked up over the network
def _system(scheme: str, host: str) -> tuple[pyarrow.fs.FileSystem, str]:
    try:
        return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{host}/")
    except (ValueError, OSError, NotImplementedError) as error:
        raise ConfigError(
            f"{scheme}://{host}: want a file system that pyarrow knows (s3, gs, abfs, hdfs, file), got '{error}'"
        ) from error
