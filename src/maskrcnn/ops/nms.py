"""Greedy non-maximum suppression, exact, that stops when enough boxes are kept.

Overlaps are float32, the threshold is not rounded. A compiled loop on the CPU, blocks of IoU tests on a GPU; both
give the same list. What is not of torch is an operator, so that torch.export keeps it as a node.
"""

from __future__ import annotations

from typing import Any

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
    images: Int[Tensor, "n"] | None = None,
    shift_up_to: int = 0,
) -> Int[Tensor, "k"]:
    """Keep boxes, best first, that overlap no better kept one of their group by more than ``threshold``.

    boxes  : xyxy in any unit; a box without area overlaps nothing
    groups : class or level of each box: boxes of different groups never suppress each other
    limit  : stop when so many of an image are kept over all groups; exact, since later ones are worse
    images : which image each box belongs to, 0 and up; None for one image
    shift_up_to : where an image has no more boxes than this, its groups are told apart as in `apart`
    Returns: indices of the kept boxes, image by image and by falling score; of equal scores the lower index first
    """
    # An operator of PyTorch's for graphs alone: its first call imports the compiler, for a second.
    suppress = torch.ops.maskrcnn.nms if torch.compiler.is_compiling() else _nms
    most = -1 if limit is None else limit
    return suppress(boxes.detach(), scores.detach(), images, groups, threshold, most, shift_up_to)


def apart(boxes: Float[Tensor, "n 4"], groups: Int[Tensor, "n"]) -> Float[Tensor, "n 4"]:
    """Boxes shifted by number of group times largest coordinate + 1, so that groups don't overlap.

    In float32 this rounds the coordinates, those of group 80 in a large picture to 1/128 pixel, so that overlaps
    near the threshold come out differently than without. Source: torchvision ops/boxes.py, batched_nms; mmcv
    """
    return boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]


def top_k(scores: Float[Tensor, "*b n"], k: int) -> Int[Tensor, "*b m"]:
    """Indices of the min(k, n) best scores (of each row, if there are several), best first; of equal ones the lower."""
    choose = torch.ops.maskrcnn.top_k if torch.compiler.is_compiling() else _top_k
    if scores.ndim == 1:
        return choose(scores.detach()[None], k)[0]
    return choose(scores.detach(), k)


def _top_k(scores: Tensor, k: int) -> Tensor:
    return torch.stack([_top_row(row, k) for row in scores])


_top_k_operator = torch.library.custom_op("maskrcnn::top_k", _top_k, mutates_args=())


@_top_k_operator.register_fake
def _(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty((scores.shape[0], torch.sym_min(k, scores.shape[1])), dtype=torch.int64)


def _top_row(scores: Tensor, k: int) -> Tensor:
    # A GPU sorts all sooner than the host hears of ties.
    if k >= scores.shape[0] or scores.device.type != "cpu":
        return torch.sort(scores, descending=True, stable=True).indices[:k]
    worst = torch.topk(scores, k).values[-1]
    # Ascending, and few: topk alone leaves ties in any order.
    index = torch.nonzero(scores >= worst).squeeze(1)
    return index[torch.sort(scores[index], descending=True, stable=True).indices[:k]]


def _nms(
    boxes: Tensor,
    scores: Tensor,
    images: Tensor | None,
    groups: Tensor | None,
    threshold: float,
    limit: int,
    shift_up_to: int,
) -> Tensor:
    """`nms`; ``limit`` < 0 for all."""
    order = torch.sort(scores, descending=True, stable=True).indices
    one = torch.zeros_like(order)
    if images is not None:
        order = order[torch.sort(images[order], stable=True).indices]
    kept = _nms_sorted(
        boxes.index_select(0, order).float().contiguous(),  # an index in brackets wakes all threads
        one if images is None else images[order],
        one if groups is None else groups[order].long(),
        threshold,
        limit,
        0 if groups is None else shift_up_to,
    )
    return order[kept]


_nms_operator = torch.library.custom_op("maskrcnn::nms", _nms, mutates_args=())


@_nms_operator.register_fake
def _(boxes: Tensor, scores: Tensor, *settings: Any) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size(max=2**31)  # products of it stay within int64
    return scores.new_empty(kept, dtype=torch.int64)


def _nms_sorted(
    boxes: Tensor, images: Tensor, groups: Tensor, threshold: float, limit: int, shift_up_to: int
) -> Tensor:
    """Positions kept of boxes (n, 4) that are already sorted, by image and then by score; ``limit`` < 0 for all."""
    from .loops import greedy

    limit = boxes.shape[0] if limit < 0 else limit
    if not shift_up_to and boxes.device.type == "cpu":
        return torch.from_numpy(greedy(boxes.numpy(), images.numpy(), groups.numpy(), threshold, limit))
    kept, start = [torch.zeros_like(images[:0])], 0
    for n in torch.unique_consecutive(images, return_counts=True)[1].tolist():
        rows = slice(start, start + n)
        mine, kinds = boxes[rows], groups[rows]
        if n <= shift_up_to:
            mine, kinds = apart(mine, kinds), torch.zeros_like(kinds)
        if boxes.device.type == "cpu":
            found = torch.from_numpy(
                greedy(mine.numpy(), images[rows].numpy(), kinds.numpy(), threshold, limit)
            )
        else:
            found = _blockwise(mine, kinds, threshold, limit)
        kept.append(start + found)
        start += n
    return torch.cat(kept)


def _blockwise(
    boxes: Tensor, groups: Tensor, threshold: float, limit: int, block: int = 8192, strip: int = 1024, rounds: int = 8
) -> Tensor:  # fmt: skip
    """The same list, a block of candidates at a time: tested against all kept ones, then among themselves.

    The host waits for the device a few times a block, of which one image rarely has a second.
    """

    def clash(rows: Tensor, columns: Tensor) -> Tensor:
        """(n, m) whether boxes of one group overlap, computed in strips, whose overlaps take 16 bytes a pair."""
        return torch.cat([
            (iou(boxes[some], boxes[columns]).double() > threshold) & (groups[some][:, None] == groups[columns])
            for some in rows.split(strip)
        ])  # fmt: skip

    kept = torch.empty(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, boxes.shape[0], block):
        index = torch.arange(start, min(start + block, boxes.shape[0]), device=boxes.device)
        if start:
            index = index[~clash(index, kept).any(1)]
        better = clash(index, index).tril(-1)
        alive = before = torch.ones(len(index), dtype=torch.bool, device=boxes.device)
        # a box dies when a living better one overlaps it; settles in as many rounds as chains are long
        while True:
            for _ in range(rounds):
                before, alive = alive, ~(better & alive).any(1)
            if torch.equal(before, alive):
                break
        kept = torch.cat([kept, index[alive]])
        if len(kept) >= limit:
            break
    return kept[:limit]
