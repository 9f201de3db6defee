"""The threads and registers that compiled kernels run on.

Kernels take the threads of PyTorch's own operators. A second pool of threads would compete with these, which spin for
a while after each operator.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np
import torch


def lanes() -> int:
    """float32 numbers in one register."""
    return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


@functools.cache
def team() -> Callable[..., None] | None:
    """Run a C function on all threads; None where PyTorch's are not OpenMP's, as on Windows and macOS."""
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


def run(address: int, *numbers: int) -> None:
    """Call a kernel on all threads, with the same job: two counters, then these numbers."""
    parallel = team()
    assert parallel is not None
    job = np.array([0, 0, *numbers], np.int64)
    parallel(address, job.ctypes.data, torch.get_num_threads(), 0)
