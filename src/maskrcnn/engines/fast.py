"""The CPU's kernels for the layers of a network: the same modules, their weights folded and laid out once.

Each layer is given a `Kernel`, which computes it wherever no gradients are wanted and the input is float32 on
the CPU; everywhere else the layer computes itself, for gradients with the same kernels' products. A kernel
makes its copy of the weights at first use and notes which values they were made from, so that after training,
``load_state_dict`` or a move it makes them anew. Copies and pickles of a model take the kernels along without these
weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..model import MaskRCNN
from ..model.layers import Conv, Linear, folded
from ..ops import memory
from . import winograd
from .layer_kernel import Compute, LayerKernel, give

PART = 8  # masks whose features stay in the cache between two layers; 80 MB of 100 masks do not


def attach(model: MaskRCNN) -> None:
    """Give every layer its kernel, where PyTorch was built with oneDNN; elsewhere the layers compute themselves."""
    from ..ops import loops, paste_loops, roi_kernel  # noqa: F401  with numba; not as a part of the first picture

    if torch.backends.mkldnn.is_available():
        give(model, Kernel)
        model.mask.part = PART


def attach_gradients(model: MaskRCNN) -> None:
    """As `attach`, for weights that come anew with each call, of which nothing can be kept: gradients alone."""
    if torch.backends.mkldnn.is_available():
        give(model, GradientKernel)


def detach(model: MaskRCNN) -> None:
    """Take the kernels away."""
    give(model, None)
    model.mask.part = None


class Kernel(LayerKernel):
    """float32 on the CPU, with the threads and registers that it has."""

    def applies(self, layer: Conv | Linear, x: Tensor) -> bool:
        """Elsewhere, in other precisions, in graphs and under autocast PyTorch computes the layer."""
        return (
            type(x) is Tensor  # not one of torch.export's
            and x.device.type == "cpu"
            and x.dtype == torch.float32 == layer.weight.dtype
            and not torch.is_autocast_enabled("cpu")
            and bool(torch.backends.mkldnn.enabled)
            and (layer.norm is None or layer.norm.frozen)
            and x.numel() > 0
        )

    def make(self, layer: Conv | Linear, x: Tensor) -> Compute:
        """Winograd's kernel or oneDNN's."""
        if isinstance(layer, Linear):
            return _linear(layer, x)
        return _winograd(layer) if _plain(layer) else _conv(layer, x)

    def product(self, layer: Conv | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """By Winograd's kernel or oneDNN's matrix product, forward and back."""
        if torch.compiler.is_compiling() or not self.applies(layer, x):
            return None
        if isinstance(layer, Linear):
            return _Product.apply(x, weight, bias)
        return winograd.convolve(x, weight, bias) if _plain(layer) else None


class GradientKernel(Kernel):
    """Computes where gradients are wanted only."""

    def __call__(self, layer: Conv | Linear, x: Tensor, plus: Tensor | None = None) -> None:
        """Leaves the layer to itself, which asks for the `product`."""


def _plain(layer: Conv) -> bool:
    """Whether it is a convolution for Winograd's kernel."""
    plain = layer.kernel_size == (3, 3) and layer.stride == layer.padding == (1, 1) and layer.groups == 1
    return plain and winograd.fit(layer.in_channels, layer.out_channels)


def _winograd(layer: Conv) -> Compute:
    """Faster than a direct convolution for all shapes tried, from 64 to 512 channels and 14 to 272 pixels."""
    scale, shift = (None, layer.bias) if layer.norm is None else layer.norm.scale_and_shift()
    convolve, relu = winograd.Winograd(layer.weight, scale, shift), layer.relu

    def compute(x: Tensor, plus: Tensor | None) -> Tensor:
        y = convolve(x, relu and plus is None)
        if plus is not None:
            y = y.add_(_enlarged(plus, y.shape))
            y = y.relu_() if relu else y
        return y

    return compute


def _conv(layer: Conv, x: Tensor) -> Compute:
    """oneDNN's convolution, with bias, addition and ReLU done while the output is in the cache."""
    weight, bias = folded(layer)
    pad, stride = [int(p) for p in layer.padding], list(layer.stride)
    ones, groups = [1, 1], layer.groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight.contiguous(), pad, stride, ones, groups, list(x.shape)
    )
    common = (packed, bias, pad, stride, ones, groups)
    relu = "relu" if layer.relu else None
    size, channels = (
        layer.kernel_size,
        layer.out_channels,
    )  # not the layer: it could not be freed without the collector

    def compute(x: Tensor, plus: Tensor | None) -> Tensor:
        sides = ((x.shape[i + 2] + 2 * pad[i] - size[i]) // stride[i] + 1 for i in range(2))
        shape = torch.Size((x.shape[0], channels, *sides))
        if plus is not None:
            plus = _enlarged(plus, shape)
        elif shape.numel() * 4 > memory.LARGE:
            plus = memory.maps(*shape, zero=True)  # the only way to say where the output goes
        else:
            return torch.ops.mkldnn._convolution_pointwise(x, *common, relu or "none", [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(plus, x, *common, "add", None, relu, [], "")

    return compute


def _enlarged(plus: Tensor, shape: torch.Size) -> Tensor:
    """Each pixel repeated, where ``plus`` is coarser than the output."""
    if plus.shape == shape:
        return plus
    out = memory.maps(*shape)
    return torch.ops.aten.upsample_nearest2d.out(plus, list(shape[2:]), out=out)


def _linear(layer: Linear, x: Tensor) -> Compute:
    """oneDNN's matrix product, which uses wider registers than the library behind F.linear does on AMD."""
    weight, bias = folded(layer)
    relu = "relu" if layer.relu else "none"
    if x.ndim == 4:  # the columns in the order in which the features lie
        weight = weight.reshape(-1, *x.shape[1:]).permute(0, 2, 3, 1).flatten(1)
    weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), x.shape[0])

    def compute(x: Tensor, plus: Tensor | None) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
        return _multiply(rows, weight, bias, relu)

    return compute


class _Product(torch.autograd.Function):
    """``F.linear`` of (n, c_in), see `_linear`; its gradients are such products too, of transposed views."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            _multiply(grad, weight.t()) if wanted[0] else None,
            _multiply(grad.t(), x.t()) if wanted[1] else None,
            grad.sum(dim=0) if wanted[2] else None,
        )


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, end: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, end, [], "")
