"""Anchors: the reference boxes of the region proposal network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int]


def cell_anchors(
    sizes: Sequence[int | float], ratios: Sequence[int | float], rounding: bool = False
) -> Float[Tensor, "a 4"]:
    """Anchors around the origin, xyxy pixels: for each size, each ratio h/w.

    An anchor of size s and ratio r has sides s / sqrt(r) by s * sqrt(r). ``rounding`` rounds the corners half
    to even, as torchvision does.
    """
    s, r = torch.meshgrid(
        torch.tensor(sizes, dtype=torch.float64), torch.tensor(ratios, dtype=torch.float64), indexing="ij"
    )
    half = torch.stack([s / r.sqrt(), s * r.sqrt()], dim=-1).reshape(-1, 2) / 2
    cells = torch.cat([-half, half], dim=1)
    return (cells.round() if rounding else cells).float()


def coarse_cells(
    sizes: Sequence[int | float], ratios: Sequence[int | float], stride: float
) -> Float[Tensor, "a 4"]:
    """As `cell_anchors`, but sides are whole (half to even) on an anchor of the stride's size, which is enlarged.

    Source: Detectron modeling/generate_anchors.py: at stride 8, ratio 0.5 is 11 by 6, times size / 8
    """
    r = torch.tensor(ratios, dtype=torch.float64)
    w = (stride**2 / r).sqrt().round()
    h = (w * r).round()
    half = torch.tensor(sizes, dtype=torch.float64)[:, None, None] / stride * torch.stack([w, h], dim=-1) / 2
    return torch.cat([-half, half], dim=-1).reshape(-1, 4).float()


def grid_anchors(
    cells: Float[Tensor, "a 4"], grid: Size, stride: tuple[float | int, float | int]
) -> Float[Tensor, "n 4"]:
    """The cell's anchors at every position of a feature map.

    grid   : (h, w) positions; stride: (y, x) pixels between them, the first at 0
    Returns: (h * w * a, 4) xyxy pixels; row by row, at each position in the order of ``cells``
    """
    y = torch.arange(grid[0], device=cells.device, dtype=cells.dtype) * stride[0]
    x = torch.arange(grid[1], device=cells.device, dtype=cells.dtype) * stride[1]
    shift = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flip(-1)  # (h, w, 2) as x, y
    return (shift.repeat(1, 1, 2)[:, :, None] + cells).reshape(-1, 4)
