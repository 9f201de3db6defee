"""Convolution and linear layers that carry their norm and activation, as the checkpoints group them."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5  # of every norm here; a checkpoint's own epsilon is folded into the running variance


class BatchNorm(nn.Module):
    """Batch normalisation over axis 1. Uses its running statistics unless ``adapt`` is set for training."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.adapt = False
        self.momentum = 0.1  # the share of each batch in the running statistics while they adapt

    @property
    def frozen(self) -> bool:
        """Whether this is a fixed scale and shift a channel."""
        return not (self.adapt and self.training)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What frozen normalisation does to a channel: x * scale + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + NORM_EPS)
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape (b, c, ...): normalised by its own statistics, which also go into the running ones."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            training=True, momentum=self.momentum, eps=NORM_EPS,
        )  # fmt: skip


def draw(weight: Tensor, std: float | None = None) -> None:
    """Random numbers to train from: He's for ReLUs (He et al. 2015), or of this standard deviation.

    Not on the meta device, where there are none and PyTorch imports its compiler for them, which takes a second.
    """
    if weight.is_meta:
        return
    if std is None:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(weight, std=std)


class Kernel(Protocol):
    """What may compute a layer in its place; see `maskrcnn.engines.layer_kernel`."""

    def __call__(self, layer: Conv | Linear, x: Tensor, plus: Tensor | None = None) -> Tensor | None:
        """The layer's output, or None where the layer has to compute itself. May overwrite ``plus``."""

    def product(self, layer: Conv | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The layer's product with these weights, with gradients, or None where PyTorch has to compute it."""


class Conv(nn.Conv2d):
    """Convolution, then batch norm, then ReLU, the latter two if asked for. Without bias where a norm follows.

    Pads kernel // 2 on each side; with ``same`` as TensorFlow does, which differs for strides above 1.
    """

    kernel: Kernel | None = None

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1,
        *, groups: int = 1, norm: bool = False, relu: bool = False, same: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            c_in, c_out, kernel, stride, padding=0 if same else kernel // 2, groups=groups, bias=not norm
        )
        draw(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.norm = BatchNorm(c_out) if norm else None
        self.relu = relu
        self.same = same

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """``plus`` is added before the ReLU, enlarged to the nearest pixels if it is coarser.

        Where no gradients are wanted, its memory may become the output's.
        """
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        if self.kernel is not None and (done := self.kernel(self, x, plus)) is not None:
            return done
        weight, bias, norm = _fold(self.weight, self.bias, self.norm)
        return finish(self.product(x, weight, bias), norm, plus, self.relu)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution alone, of these weights."""
        if self.kernel is not None and (done := self.kernel.product(self, x, weight, bias)) is not None:
            return done
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)


class Linear(nn.Linear):
    """Fully connected layer, then batch norm, then ReLU, the latter two if asked for. Features may be maps."""

    kernel: Kernel | None = None

    def __init__(self, c_in: int, c_out: int, *, norm: bool = False, relu: bool = False) -> None:
        super().__init__(c_in, c_out, bias=not norm)
        nn.init.kaiming_uniform_(self.weight, a=1)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.norm = BatchNorm(c_out) if norm else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_out), of x (n, ...) with c_in numbers a row."""
        if self.kernel is not None and (done := self.kernel(self, x)) is not None:
            return done
        weight, bias, norm = _fold(self.weight, self.bias, self.norm)
        return finish(self.product(x.flatten(1), weight, bias), norm, None, self.relu)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The matrix product alone, with these weights."""
        if self.kernel is not None and (done := self.kernel.product(self, x, weight, bias)) is not None:
            return done
        return F.linear(x, weight, bias)


def _fold(
    weight: Tensor, bias: Tensor | None, norm: BatchNorm | None
) -> tuple[Tensor, Tensor | None, BatchNorm | None]:
    """Weights that do a frozen norm's work too: the activations are large, the weights are not."""
    if norm is None or not norm.frozen:
        return weight, bias, norm
    scale, shift = norm.scale_and_shift()
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), shift, None


def folded(layer: Conv | Linear) -> tuple[Tensor, Tensor | None]:
    """Weights and bias that do the work of the layer's frozen norm too."""
    weight, bias, norm = _fold(layer.weight, layer.bias, layer.norm)
    assert norm is None, "a norm that adapts cannot be folded"
    return weight, bias


def finish(x: Tensor, norm: BatchNorm | None, plus: Tensor | None, relu: bool) -> Tensor:
    """What follows a layer's product: the norm, what is to be added, the ReLU."""
    x = x if norm is None else norm(x)
    if plus is not None:
        x = x + (plus if plus.shape == x.shape else F.interpolate(plus, size=x.shape[-2:], mode="nearest"))
    return F.relu(x, inplace=True) if relu else x


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad with zeros as TensorFlow's SAME: what stride and size need, the odd pixel right and bottom."""
    pads = []
    for extent in (x.shape[-1], x.shape[-2]):
        total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
