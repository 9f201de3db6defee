"""Memory for large feature maps, and for weights that stay.

Weights made between two layers of a pass must not lie among the feature maps of that pass: the holes between them would
never be given back, several hundred MB.

The C library hands memory above 32 MB back to the system when it is freed, so the next map of that size costs a
page fault for every 4 kB: 14,000 of them, 15 to 20 ms, for P2 of one 800x1067 image. numpy asks for pages of 2 MB.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
import torch
from torch import Tensor

LARGE = 32 << 20  # bytes


def maps(n: int, channels: int, h: int, w: int, *, zero: bool = False) -> Tensor:
    """(n, channels, h, w) float32, channels last, of any values or of zeros."""
    shape = (n, h, w, channels)
    memory = np.zeros(shape, np.float32) if zero else np.empty(shape, np.float32)
    return torch.from_numpy(memory).permute(0, 3, 1, 2)


def lasting(*shape: int) -> Tensor:
    """float32 zeros in pages of their own."""
    return torch.frombuffer(mmap.mmap(-1, max(4 * math.prod(shape), 1)), dtype=torch.float32).reshape(shape)
