"""Work in other threads, while its reader goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def behind(items: Iterator[T], work: Callable[[T], None], depth: int = 4) -> Generator[T]:
    """Do work on each item in a thread, in order, while the next ones are made; each comes out when its work is done.

    At most ``depth`` wait. When ``items`` fails, or on Ctrl-C, what came before is done first.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        for item, _ in done_in_order(items, work, pool, depth):
            yield item


def done_in_order(
    items: Iterator[T], work: Callable[[T], R], pool: Executor, depth: int
) -> Generator[tuple[T, R]]:
    """Each item and what work made of it in the pool, in the items' order; ``depth`` and failures as in `behind`.

    Closes the items at its own end.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    failure: BaseException | None = None
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except BaseException as error:
                failure = error
                break
            waiting.append((item, pool.submit(work, item)))
            while len(waiting) > depth or (waiting and waiting[0][1].done()):
                item, future = waiting.popleft()
                yield item, future.result()
        for item, future in waiting:
            yield item, future.result()
        if failure is not None:
            raise failure
    finally:
        if isinstance(items, Generator):
            items.close()
