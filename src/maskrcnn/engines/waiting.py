"""Say what a first call waits for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting(what: str, patience: float = 1.0) -> Iterator[None]:
    """One line on stderr if the work inside takes longer than ``patience`` seconds."""
    timer = threading.Timer(patience, lambda: print(f"maskrcnn: {what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
