"""Pictures side by side on a CPU: each on its share of the threads, rather than all threads on one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

from .behind import done_in_order

if TYPE_CHECKING:
    from ..model import MaskRCNN

T = TypeVar("T")
R = TypeVar("R")


class Lanes(ThreadPoolExecutor):
    """``count`` threads, each with a share of PyTorch's.

    Until `shutdown`, threads that begin later (who read, draw and write) compute alone: what they divided among
    threads would wait for cores that the lanes hold.
    """

    def __init__(self, count: int) -> None:
        self.count, self._total = count, torch.get_num_threads()
        share, begun = self._total // count, threading.Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # which a thread's first call sets to the process's number
            torch.set_num_threads(share)  # of this thread
            begun.wait()

        super().__init__(count, "lane", begin)
        for _ in range(count):
            self.submit(int)
        begun.wait()
        last = threading.Thread(target=torch.set_num_threads, args=(1,))  # which PyTorch gives later threads
        last.start()
        last.join()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any pool; the thread that calls, and later ones, have all threads again."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        torch.set_num_threads(self._total)


def lanes(model: MaskRCNN, most: int) -> Lanes | None:
    """At most so many threads that share PyTorch's between them; None where a model wants its pictures in one batch.

    The threads of one pass wait for each other some hundred times, and many of its steps have work for one only.
    Passes beside each other wait for nothing, take no more memory than a batch, and give the same results.
    """
    count = min(most, torch.get_num_threads())
    if count < 2 or model.engine is not None or model.device.type != "cpu":
        return None
    return Lanes(count)


def side_by_side(items: Iterator[T], work: Callable[[T], R], pool: Lanes) -> Iterator[R]:
    """What work makes of each item, in the items' order; ends the pool. Its reader computes alone meanwhile."""
    with pool:
        torch.set_num_threads(1)
        for _, done in done_in_order(items, work, pool, pool.count):
            yield done
