"""From a RoI mask to pixels, inside its box only.

Each of the rules says which two rows and columns of the RoI mask an image row and column lies between,
and with which weights; one kernel does the rest. A tap that falls outside the RoI mask weighs nothing, which
is the same as zeros around it. The arithmetic is float64, in the order of scipy.ndimage.zoom.

aligned     detectron2: box as it is, sampled at pixel centres, zeros outside.
torchvision the mask padded by 1, the box stretched to match and cut to integers, x2 and y2 inclusive.
last_pixel  so, for boxes whose x2 - 1 and y2 - 1 are these inclusive ends: Detectron and maskrcnn-benchmark.
skimage     Matterport: integer box, skimage.transform.resize with zeros outside, kept in the mask's range.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Literal, get_args

import numpy as np
import torch

Rule = Literal["aligned", "torchvision", "last_pixel", "skimage"]
Corner = tuple[int, int]
HUGE_PAGE = 2**21
RULES: tuple[Rule, ...] = get_args(Rule)


def paste_crop(
    roi_mask: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: Rule = "aligned"
) -> tuple[np.ndarray, Corner]:
    """Where the pasted mask is at least 0.5.

    roi_mask : (m, m) float32 probabilities
    box      : (4,) xyxy, pixels of the image; `skimage` rounds it half to even
    size     : (h, w) of the image
    rule     : see the head of this file

    Returns the (bh, bw) bool array that covers the box as far as it lies in the image, and the (y, x) of its
    first pixel. Without common pixels the array is empty. Equals Matterport's masks in every pixel, and those
    of detectron2 up to values within float32 rounding of 0.5.
    """
    from . import paste_loops

    crop, y, x = paste_loops.hard(roi_mask, box, *size, RULES.index(rule))
    return crop, (y, x)


def paste_whole(
    roi_masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], rule: Rule = "aligned"
) -> np.ndarray:
    """As `paste_crop`, n masks (n, m, m) of boxes (n, 4), as (n, h, w) bool, on PyTorch's threads."""
    from . import paste_loops, team

    out = _zeros((len(boxes), *size))
    if team.team() is None:
        for each, mask, box in zip(out, roi_masks, boxes, strict=True):
            paste_loops.into(each, mask, box, RULES.index(rule))
        return out
    masks, boxes = (np.ascontiguousarray(given, np.float32) for given in (roi_masks, boxes))
    team.run(
        paste_loops.whole().address, masks.ctypes.data, boxes.ctypes.data, out.ctypes.data, len(boxes),
        masks.shape[1], *size, RULES.index(rule), torch.get_num_threads(),
    )  # fmt: skip
    return out


def _zeros(shape: tuple[int, int, int]) -> np.ndarray:
    """False in memory that the system clears page by page when it is written to: only the boxes cost bandwidth.

    NumPy asks for pages of 2 MB. Where several masks share one, most of it would be cleared for nothing.
    """
    count, area = math.prod(shape), shape[1] * shape[2]
    if not count or area >= HUGE_PAGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, np.bool_)
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # of a system that has no pages of 2 MB
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.bool_).reshape(shape)


def paste_soft(
    roi_mask: np.ndarray, box: np.ndarray, size: tuple[int, int], rule: Rule = "aligned"
) -> tuple[np.ndarray, Corner]:
    """As `paste_crop`, with the probabilities themselves: (bh, bw) float32 and the (y, x) corner.

    Only inside the box: detectron2 lets `aligned` masks fade out half a mask cell further.
    """
    from . import paste_loops

    crop, y, x = paste_loops.soft(roi_mask, box, *size, RULES.index(rule))
    return crop, (y, x)
