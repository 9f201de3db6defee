"""An iterator that works ahead of its reader, in a thread, by a bounded number of items."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, TypeVar

Item = TypeVar("Item")
_LOOK = 0.1  # seconds between looks at whether the reader has gone


def ahead(items: Iterable[Item], depth: int, latest: bool = False) -> Iterator[Item]:
    """The same items, of which up to ``depth`` are made while the reader works on the ones before.

    latest : where the reader is too slow, the oldest waiting item is dropped rather than the maker held up

    What the maker raises is raised after the items before it. Closing the iterator ends the thread.
    """
    waiting: Queue[Any] = Queue(depth)
    gone, end = threading.Event(), object()

    def put(item: Any, drop: bool) -> None:
        while not gone.is_set():
            try:
                waiting.put(item, timeout=0 if drop else _LOOK)
                return
            except Full:
                if drop:
                    with suppress(Empty):  # the reader may just have taken it
                        waiting.get_nowait()

    def fill() -> None:
        source = iter(items)
        try:
            while not gone.is_set():
                item = next(source, end)
                put((item, None), latest and item is not end)
                if item is end:
                    break
        except BaseException as error:  # belongs to the reader, whatever it is
            put((end, error), False)
        finally:
            if hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=fill, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        gone.set()
        thread.join()
