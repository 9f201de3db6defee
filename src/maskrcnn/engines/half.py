"""Layers in 16-bit floating point, with their norms folded in float32: for GPUs, whose matrix units want it.

The same modules, weights and state dict stay float32. The first layer rounds the picture, features stay rounded until
the heads give float32 again, and anchors, boxes and scores never leave it.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import MaskRCNN
from ..model.layers import Conv, Linear, finish, folded
from .layer_kernel import Compute, LayerKernel, give

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def attach(model: MaskRCNN, precision: str) -> None:
    """Give every layer a kernel that computes in one of `PRECISIONS` wherever no gradients are wanted."""
    give(model, partial(Kernel, PRECISIONS[precision]))


class Kernel(LayerKernel):
    """On any device."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def applies(self, layer: Conv | Linear, x: Tensor) -> bool:
        """Not where a norm adapts."""
        return layer.norm is None or layer.norm.frozen

    def make(self, layer: Conv | Linear, x: Tensor) -> Compute:
        """PyTorch's convolution or matrix product, of rounded weights."""
        weight, bias = folded(layer)
        weight, bias, relu = weight.to(self.dtype), None if bias is None else bias.to(self.dtype), layer.relu
        if isinstance(layer, Linear):
            return lambda x, plus: finish(
                F.linear(x.to(self.dtype).flatten(1), weight, bias), None, plus, relu
            )
        weight = weight.contiguous(memory_format=torch.channels_last)
        stride, padding, groups = layer.stride, layer.padding, layer.groups

        def compute(x: Tensor, plus: Tensor | None) -> Tensor:
            y = F.conv2d(x.to(self.dtype), weight, bias, stride, padding, groups=groups)
            return finish(y, None, plus, relu)

        return compute
