"""The command line. Exit codes: 0 all done, 1 an error, 2 wrong usage, 3 some pictures failed, 130 Ctrl-C.

PyTorch is imported inside the commands, so that ``--help`` answers at once.
"""

import gc
import signal

from . import predict, weights, learn, serve, deploy  # isort: skip (each adds its commands, in the order of --help)
from .common import app

__all__ = ["app", "deploy", "learn", "main", "predict", "serve", "weights"]


def main() -> None:
    """The console entry point."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a stopped container also completes results.json
    gc.set_threshold(50_000)  # importing PyTorch makes a million objects, none of them garbage
    try:
        app()
    finally:
        gc.freeze()  # or Python looks at all of them once more before it ends, for half a second
