"""What there is to do, as rows of parquet tables, cut into shards that never change.

A folder, a list of files or a COCO json is first written down as such a table; a table of paths or of encoded
pictures is taken as it is. So the list fits no single memory, and a run that goes on cuts it as the first did.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from ..data.coco import is_coco
from ..data.files import PictureFinder
from ..errors import ConfigError, DataError, ImageError
from ..inputs import Source
from ..inputs.decode import is_url
from ..inputs.sources import SUFFIXES, natural
from ..jobs import find_jobs
from .place import Place, is_uri

_LIST = pa.schema([("image_id", pa.int64()), ("file_name", pa.string()), ("path", pa.string())])
_GROUPS = 1000  # row groups a file: its footer names each
_READ = 64  # rows of encoded pictures in memory at a time


@dataclass(frozen=True)
class Row:
    """One line of the list: where the picture is and what it is called in the results."""

    image_id: int
    name: str
    path: str


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what.

    picture  : paths, URIs or http(s) addresses; or encoded pictures, binary or a struct with ``bytes``
    name     : what a picture is called; None: by its path, or by its number where there is none
    image_id : integers; None: numbers from 1
    """

    picture: str
    name: str | None
    image_id: str | None


@dataclass(frozen=True)
class Shard:
    """``count`` rows from row ``start`` of one row group; ``first`` is the number of its first row, from 1."""

    index: int
    table: str
    group: int
    start: int
    count: int
    first: int

    @property
    def part(self) -> str:
        """The name of its results."""
        return f"part-{self.index:07d}.parquet"


@dataclass(frozen=True)
class Remote:
    """A picture's file behind a URI, fetched when it is read."""

    place: Place

    @property
    def name(self) -> str:
        """For messages."""
        return self.place.uri

    def read(self) -> bytes:
        """The bytes. Raises ImageError."""
        try:
            return self.place.read()
        except OSError as error:
            raise ImageError(
                f"{self.name}: want a picture, got '{error}'; check address and rights"
            ) from error


def tables_of(source: Any, out: Place, recursive: bool = False) -> list[Place]:
    """The parquet files that the source names: one, or those of a folder; none where it names pictures.

    A folder that has pictures is one of pictures. What lies in ``out`` does not count.
    """
    if not isinstance(source, (str, os.PathLike)) or is_url(os.fspath(source)):
        return []
    place = Place.of(source)
    kind = place.kind()
    if kind == pyarrow.fs.FileType.File:
        return [place] if place.path.endswith(".parquet") else []
    if kind != pyarrow.fs.FileType.Directory:
        return []
    files = [one for one in place.files(recursive) if not one.path.startswith(f"{out.path}/")]
    if any(Path(one.path).suffix.lower() in SUFFIXES for one in files):
        return []
    return [one for one in files if one.path.endswith(".parquet")]


def list_pictures(source: Any, out: Path, recursive: bool) -> list[Row]:
    """The pictures of a COCO json, a folder behind a URI, or whatever `jobs.find_jobs` knows, named as it does.

    Raises ImageError where there are none, DataError for a json that is not COCO.
    """
    if isinstance(source, (str, os.PathLike)):
        if os.fspath(source).endswith(".json"):
            return _from_coco(Place.of(source))
        if is_uri(source) and not is_url(str(source)):
            place = Place.of(source)
            if place.local is None:
                return _from_folder(place, recursive)
            source = place.local
    rows = []
    for number, job in enumerate(find_jobs(source, out, recursive)[0], start=1):
        if not isinstance(job.source, (str, os.PathLike)):
            raise ConfigError(f"source: want files, which workers can open, got {type(job.source).__name__}")
        path = str(job.source)
        rows.append(Row(number, job.name, path if is_url(path) else str(Path(path).expanduser().absolute())))
    return rows


def _from_folder(place: Place, recursive: bool) -> list[Row]:
    kind = place.kind()
    found = [place] if kind == pyarrow.fs.FileType.File else place.files(recursive)
    found = [one for one in found if Path(one.path).suffix.lower() in SUFFIXES]
    if not found:
        raise ImageError(
            f"{place.uri}: want a picture or a folder with pictures, got none; check the address"
        )
    base = place.parent if kind == pyarrow.fs.FileType.File else place
    found.sort(key=lambda one: natural(Path(one.path)))
    return [
        Row(i, one.path.removeprefix(base.path).lstrip("/"), one.uri) for i, one in enumerate(found, start=1)
    ]


def _from_coco(place: Place) -> list[Row]:
    """The images of an annotation file, with their ids."""
    try:
        content = json.loads(place.read())
    except (OSError, ValueError) as error:
        raise DataError(f"{place.uri}: want a COCO json, got '{error}'") from error
    if not is_coco(content) or not content["images"]:
        raise DataError(f"{place.uri}: want a COCO json with images, got another")
    images = content["images"]
    wrong = [row for row in images if not isinstance(row.get("id"), int) or "file_name" not in row]
    if wrong or len({row["id"] for row in images}) < len(images):
        raise DataError(
            f"{place.uri}: want id (an integer, each once) and file_name of every image, got others"
        )
    if place.local is None:
        return [Row(row["id"], row["file_name"], (place.parent / row["file_name"]).uri) for row in images]
    finder = PictureFinder(place.local.parent, place.local.stem.removeprefix("instances_"))
    return [Row(row["id"], row["file_name"], str(finder(row["file_name"]))) for row in images]


def write_list(rows: Sequence[Row], folder: Place, shard: int) -> list[Place]:
    """The list as tables whose row groups are shards."""
    places = []
    for k, start in enumerate(range(0, len(rows), shard * _GROUPS)):
        several = rows[start : start + shard * _GROUPS]
        columns = zip(*((row.image_id, row.name, row.path) for row in several), strict=True)
        table = pa.Table.from_arrays(
            [pa.array(c, t) for c, t in zip(columns, _LIST.types, strict=True)], schema=_LIST
        )
        places.append(folder / f"{k:05d}.parquet")
        with places[-1].writing() as path:
            pq.write_table(table, path, row_group_size=shard, compression="zstd")
    return places


def count_rows(tables: Iterable[Place]) -> int:
    """Rows of all tables, from their footers."""
    return sum(pq.read_metadata(one.path, filesystem=one.system).num_rows for one in tables)


def cut(tables: Iterable[Place], size: int) -> list[Shard]:
    """Row groups, those of more than ``size`` rows in even pieces; small ones stay as they are."""
    shards: list[Shard] = []
    first = 1
    for table in tables:
        footer = pq.read_metadata(table.path, filesystem=table.system)
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            pieces = -(-rows // size)
            edges = [rows * i // pieces for i in range(pieces + 1)] if rows else [0]
            for start, stop in pairwise(edges):
                shards.append(Shard(len(shards), table.uri, group, start, stop - start, first + start))
            first += rows
    return shards


def columns_of(table: Place, picture: str | None = None) -> Columns:
    """The columns of a table, by name and type. ``picture`` names the one of the pictures.

    Raises DataError where there is none.
    """
    schema = pq.read_schema(table.path, filesystem=table.system)
    wanted = [picture] if picture else ["bytes", "image", "path", "uri", "url", "file_name"]
    found = [name for name in wanted if name in schema.names and _holds_pictures(schema.field(name).type)]
    if not found:
        raise DataError(
            f"{table.uri}: want a column {' or '.join(wanted)} of paths or encoded pictures, "
            f"got {', '.join(f'{f.name} ({f.type})' for f in schema)}; --column names another"
        )
    names = [n for n in ("file_name", "name") if n in schema.names and _is_text(schema.field(n).type)]
    ids = "image_id" in schema.names and pa.types.is_integer(schema.field("image_id").type)
    return Columns(found[0], names[0] if names else None, "image_id" if ids else None)


def pictures_of(shard: Shard, columns: Columns) -> Iterator[tuple[Row, Source]]:
    """The pictures of one shard, read a few rows at a time. ``Row.path`` is empty for encoded pictures."""
    table = Place.of(shard.table)
    wanted = [c for c in (columns.picture, columns.name, columns.image_id) if c]
    at = 0
    with pq.ParquetFile(table.path, filesystem=table.system) as file:
        for batch in file.iter_batches(_READ, row_groups=[shard.group], columns=list(dict.fromkeys(wanted))):
            inside = range(max(shard.start - at, 0), min(shard.start + shard.count - at, len(batch)))
            for i in inside:
                values = {name: batch.column(name)[i].as_py() for name in batch.schema.names}
                yield _picture(values, columns, shard.first + at + i - shard.start, table)
            at += len(batch)
            if at >= shard.start + shard.count:
                return


def _picture(values: dict[str, Any], columns: Columns, number: int, table: Place) -> tuple[Row, Source]:
    value = values[columns.picture]
    given = values[columns.name] if columns.name else None
    if isinstance(value, dict):  # as Hugging Face stores images
        given, value = given or value.get("path"), value.get("bytes")
    path = value if isinstance(value, str) else ""
    image_id = values[columns.image_id] if columns.image_id else None
    row = Row(number if image_id is None else image_id, given or path or f"{number:06d}", path)
    if not path:
        return row, value or b""
    if is_url(path):
        return row, path
    place = Place.of(path) if is_uri(path) or Path(path).is_absolute() else table.parent / path
    return row, place.local or Remote(place)  # type: ignore[return-value]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _holds_pictures(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    nested = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return binary or nested or _is_text(kind)
