"""Fetch a file once: resumed where it was cut, checked before it gets its name."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import requests
from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..errors import DownloadError

ATTEMPTS = 5  # in a row without a single byte
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes
BLOCK = 1 << 14  # bytes; what a cut connection loses is less than this


class _Again(Exception):
    """A try failed in a way that another one may not."""


def fetch(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
    pause: float = 1.0,
) -> Path:
    """The file at ``path``, fetched from ``url`` where it isn't there yet.

    size, sha256 : what the file has to be; the hash may be given by its first digits. Without ``sha256``, that of
                   the first download is kept beside the file, as ``<name>.sha256``, and holds from then on.
    pause        : seconds before the second try, doubled before each further one

    A download that was cut goes on where it stopped, now or in a later call. Of two processes, one waits.
    Raises DownloadError where the file cannot be fetched or is not the one that was promised.
    """
    if path.exists():
        _check(path, path, url, size, sha256)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if not path.exists():
                part = path.with_name(path.name + ".part")
                _download(url, part, path, size, progress, pause)
                _check(part, path, url, size, sha256)
                part.replace(path)
                path.with_name(path.name + ".part.json").unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(
            f"{path}: cannot be written: {error}; set MASKRCNN_HOME to a folder that can"
        ) from None
    return path


def _check(file: Path, path: Path, url: str, size: int | None, sha256: str | None) -> None:
    """Compare size and hash. A wrong download is removed; a file that was there is left to its owner."""
    record = path.with_name(path.name + ".sha256")
    recorded = record.read_text().split()[0] if sha256 is None and record.exists() else None
    wanted = sha256 or recorded
    have = file.stat().st_size
    wrong = f"want {size:,} bytes, got {have:,}" if size is not None and have != size else ""
    if not wrong:
        got = _hash(file)
        if wanted is not None and not got.startswith(wanted):
            wrong = f"want SHA-256 {wanted}{', as at the first download' if recorded else ''}, got {got}"
    if wrong and file == path:
        raise DownloadError(f"{path}: {wrong}; remove the file to fetch it again from {url}")
    if wrong:
        file.unlink()
        raise DownloadError(f"{url}: {wrong}; it is not the file that was promised, and was not kept")
    if file != path and wanted is None:
        record.write_text(f"{got}  {path.name}\n")


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, part: Path, path: Path, size: int | None, progress: bool, pause: float) -> None:
    """Fill ``part``, in as many tries as it takes while each brings something."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(path.name, total=size)
        failures = 0
        while True:
            before = _length(part)
            try:
                return _try(url, part, size, bar, task)
            except _Again as error:
                failures = failures + 1 if _length(part) <= before else 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"cannot fetch {url}: {error}. "
                        f"Without a connection, fetch that file elsewhere and put it at {path}"
                    ) from None
            time.sleep(pause * 2 ** (failures - 1))


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _try(url: str, part: Path, size: int | None, bar: Progress, task: object) -> None:
    """One request: from where ``part`` ends if the server still has the same file, else from the start."""
    note = part.with_name(part.name + ".json")
    validator: str | None = json.loads(note.read_text()).get(url) if note.exists() else None
    have = _length(part) if validator else 0
    headers = {"Accept-Encoding": "identity"}  # lengths of what is stored, not of what is sent
    if validator and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing behind the end: a complete file, or another one
                if have == size:
                    return
                part.unlink()
                raise _Again("the server has a shorter file than before")
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise _Again(f"the server answers {answer.status_code} {answer.reason}")
            if answer.status_code not in (200, 206):
                raise DownloadError(
                    f"cannot fetch {url}: the server answers {answer.status_code} {answer.reason}"
                )
            have = _resumed_at(answer, have)
            total = (
                int(answer.headers["Content-Length"]) + have if "Content-Length" in answer.headers else None
            )
            if size is not None and total is not None and total != size:
                raise DownloadError(
                    f"{url}: want {size:,} bytes, the server offers {total:,}: not the file promised"
                )
            tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
            strong = tag if tag and not tag.startswith("W/") else date
            note.write_text(json.dumps({url: strong} if strong else {}))
            bar.update(task, total=total or size, completed=have)  # type: ignore[arg-type]
            with part.open("ab" if have else "wb") as file:
                for block in answer.iter_content(BLOCK):
                    file.write(block)
                    bar.advance(task, len(block))  # type: ignore[arg-type]
    except requests.exceptions.ChunkedEncodingError:  # what requests says when a body ends early
        raise _Again(f"the connection was cut at byte {_length(part):,}") from None
    except requests.RequestException as error:
        raise _Again(_reason(error)) from None
    if total is not None and _length(part) < total:
        raise _Again(f"the connection was cut at byte {_length(part):,}")


def _resumed_at(answer: requests.Response, have: int) -> int:
    """Where the answer's bytes begin; a server without ranges, or with another file by now, begins at 0."""
    if answer.status_code == 200:
        return 0
    given = answer.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {have}-"):
        raise DownloadError(f"{answer.url}: asked for bytes from {have}, the server answers with {given!r}")
    return have


def _reason(error: Exception) -> str:
    """The innermost cause, as requests wraps it several times."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error) or type(error).__name__
