"""A convolution whose gradient comes from few of its cells, as in the region proposal network.

Its losses see some hundred sampled anchors of tens of thousands of cells. Where a cell's gradient is zero it adds
nothing to any other, so that the backward pass needs the cells that have one, and the patches under them, only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Convolve = Callable[[Tensor, Tensor, Tensor], Tensor]
FEW = 0.1  # share of the cells up to which patches cost less than the whole map


def conv_of_few(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "o c k k"], bias: Float[Tensor, "o"],
    convolve: Convolve | None = None,
) -> Float[Tensor, "b o h w"]:  # fmt: skip
    """``F.conv2d`` with stride 1 and padding k // 2, k odd; its values and, summed in another order, its gradients.

    convolve : computes the values from these three, in place of ``F.conv2d``
    Has no second derivative.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return _ConvOfFew.apply(x, weight, bias, convolve)


class _ConvOfFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, convolve: Convolve | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        if convolve is not None:
            return convolve(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        side = weight.shape[2]
        rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])  # a view of channels-last maps
        cell = torch.nonzero((rows != 0).any(dim=1)).squeeze(1)
        if len(cell) > FEW * len(rows):
            whole = torch.ops.aten.convolution_backward(
                grad, x, weight, [weight.shape[0]], [1, 1], [side // 2] * 2, [1, 1], False, [0, 0], 1,
                list(ctx.needs_input_grad[:3]),
            )  # fmt: skip
            return (*whole, None)
        rows = rows[cell]
        pixel, inside = _patches(cell, side, x.shape)
        of_x = of_weight = None
        kernel = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        if ctx.needs_input_grad[1]:
            table = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
            patches = (table[pixel] * inside[:, :, None]).flatten(1)
            of_weight = (rows.T @ patches).reshape(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            spread = (rows @ kernel).reshape(len(cell), side**2, x.shape[1]) * inside[:, :, None]
            of_x = x.new_zeros(x.shape[0], *x.shape[2:], x.shape[1])
            of_x.view(-1, x.shape[1]).index_add_(0, pixel.flatten(), spread.flatten(0, 1))
            of_x = of_x.permute(0, 3, 1, 2)
        return of_x, of_weight, rows.sum(dim=0), None


def _patches(cell: Tensor, side: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Rows (n, side²) of the (b * h * w, c) table under each cell, and which of them lie on the map."""
    h, w = shape[2:]
    step = torch.arange(side, device=cell.device) - side // 2
    y, x = (cell // w % h)[:, None] + step, (cell % w)[:, None] + step
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]
    pixel = ((cell // (h * w))[:, None, None] * h + y.clamp(0, h - 1)[:, :, None]) * w
    return (pixel + x.clamp(0, w - 1)[:, None, :]).flatten(1), inside.flatten(1)
