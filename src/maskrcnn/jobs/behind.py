"""Work behind the network, in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def behind(items: Iterator[T], work: Callable[[T], None], depth: int = 4) -> Iterator[T]:
    """Do work on each item in a thread, in order, while the next ones are made; each comes out when its work is done.

    At most ``depth`` wait. When ``items`` fails, or on Ctrl-C, what came before is done first.
    """
    waiting: deque[tuple[T, Future[None]]] = deque()
    failure: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
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
                future.result()
                yield item
        for item, future in waiting:
            future.result()
            yield item
    if failure is not None:
        raise failure
