"""Greedy non-maximum suppression, exact, that stops when enough boxes are kept.

Overlaps are float32, the threshold is not rounded. A compiled loop on the CPU, blocks of IoU tests on a GPU; both
give the same list. Registered as one operator, so that torch.export keeps it as a node.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .boxes import iou


def nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, "n"],
    threshold: float,
    groups: Int[Tensor, "n"] | None = None,
    limit: int | None = None,
    shift_up_to: int = 0,
) -> Int[Tensor, "k"]:
    """Keep boxes, best first, that overlap no better kept one of their group by more than ``threshold``.

    boxes  : xyxy in any unit; a box without area overlaps nothing
    groups : class, level or image of each box: boxes of different groups never suppress each other
    limit  : stop when so many are kept over all groups; exact, since later ones are worse
    shift_up_to : where there are no more boxes than this, groups are told apart as in `apart`
    Returns: indices of the kept boxes by falling score; of equal scores the lower index comes first
    """
    order = torch.sort(scores.detach(), descending=True, stable=True).indices
    sorted_groups = torch.zeros_like(order) if groups is None else groups[order].long()
    kept = torch.ops.maskrcnn.nms_sorted(
        boxes.detach()[order].float().contiguous(), sorted_groups, threshold, -1 if limit is None else limit,
        0 if groups is None else shift_up_to,
    )  # fmt: skip
    return order[kept]


def apart(boxes: Float[Tensor, "n 4"], groups: Int[Tensor, "n"]) -> Float[Tensor, "n 4"]:
    """Boxes shifted by number of group times largest coordinate + 1, so that groups don't overlap.

    In float32 this rounds the coordinates, those of group 80 in a large picture to 1/128 pixel, so that overlaps
    near the threshold come out differently than without. Source: torchvision ops/boxes.py, batched_nms; mmcv
    """
    return boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]


def top_k(scores: Float[Tensor, "n"], k: int) -> Int[Tensor, "m"]:
    """Indices of the min(k, n) best scores by falling score; of equal scores the lower index comes first."""
    if k >= scores.shape[0]:
        return torch.sort(scores, descending=True, stable=True).indices
    worst = torch.topk(scores, k).values[-1]
    index = torch.nonzero(scores >= worst).squeeze(
        1
    )  # ascending, and few: topk alone leaves ties in any order
    return index[torch.sort(scores[index], descending=True, stable=True).indices[:k]]


@torch.library.custom_op("maskrcnn::nms_sorted", mutates_args=())
def _nms_sorted(boxes: Tensor, groups: Tensor, threshold: float, limit: int, shift_up_to: int = 0) -> Tensor:
    """Positions kept of boxes (n, 4) that are already sorted by score; ``limit`` < 0 for all."""
    if 0 < boxes.shape[0] <= shift_up_to:
        boxes, groups = apart(boxes, groups), torch.zeros_like(groups)
    limit = boxes.shape[0] if limit < 0 else min(limit, boxes.shape[0])
    if boxes.device.type == "cpu":
        kept = _greedy(boxes.numpy(), groups.numpy(), threshold, limit)
        return torch.from_numpy(kept)
    return _blockwise(boxes, groups, threshold, limit)


@_nms_sorted.register_fake
def _(boxes: Tensor, groups: Tensor, threshold: float, limit: int, shift_up_to: int = 0) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return groups.new_empty(kept)


@numba.njit(cache=True, nogil=True)
def _greedy(boxes: np.ndarray, groups: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    kept = np.empty(limit, np.int64)
    areas = np.empty(limit, np.float32)
    count = 0
    for i in range(boxes.shape[0]):
        if count == limit:
            break
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        size = (x2 - x1) * (y2 - y1)
        alive = True
        for k in range(count):
            j = kept[k]
            if groups[j] != groups[i]:
                continue
            w = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
            h = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            if w <= 0 or h <= 0:
                continue
            both = w * h
            if both / (size + areas[k] - both) > threshold:
                alive = False
                break
        if alive:
            kept[count] = i
            areas[count] = size
            count += 1
    return kept[:count]


def _blockwise(boxes: Tensor, groups: Tensor, threshold: float, limit: int, block: int = 1024) -> Tensor:
    """The same list, a block of candidates at a time: tested against all kept ones, then among themselves."""
    kept = torch.empty(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, boxes.shape[0], block):
        index = torch.arange(start, min(start + block, boxes.shape[0]), device=boxes.device)
        same = groups[index][:, None] == groups[kept]
        index = index[~((iou(boxes[index], boxes[kept]).double() > threshold) & same).any(1)]
        clash = (iou(boxes[index], boxes[index]).double() > threshold) & (
            groups[index][:, None] == groups[index]
        )
        better = clash.tril(-1)
        alive = torch.ones(len(index), dtype=torch.bool, device=boxes.device)
        while (
            True
        ):  # a box dies when a living better one overlaps it; settles in as many rounds as chains are long
            new = ~(better & alive).any(1)
            if torch.equal(new, alive):
                break
            alive = new
        kept = torch.cat([kept, index[alive]])
        if len(kept) >= limit:
            break
    return kept[:limit]
