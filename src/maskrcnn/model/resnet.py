"""The backbone: ResNet, from pixels to C2..C5 at strides 4, 8, 16, 32. (He et al. 2016, table 1.)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import Config
from .layers import BatchNorm, Conv, pad_same

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet 18 and 34)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, mid: int, stride: int, config: Config) -> None:
        super().__init__()
        self.conv1 = Conv(c_in, width, 3, stride, norm=True, relu=True)
        self.conv2 = Conv(width, width, 3, norm=True, relu=True)
        self.shortcut = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(b, width * expansion, h / stride, w / stride), of x (b, c_in, h, w)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x), plus=shortcut)


class Bottleneck(nn.Module):
    """1x1 down to ``mid``, 3x3, 1x1 up to four times the width, beside a shortcut (ResNet 50 and deeper).

    In groups, the 3x3 is that of ResNeXt (Xie et al. 2017). ``stride_in_1x1`` puts the stride into the first 1x1
    (MSRA's and Matterport's weights), else into the 3x3.
    """

    expansion = 4

    def __init__(self, c_in: int, width: int, mid: int, stride: int, config: Config) -> None:
        super().__init__()
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = Conv(c_in, mid, 1, first, norm=True, relu=True)
        self.conv2 = Conv(mid, mid, 3, second, groups=config.groups, norm=True, relu=True)
        self.conv3 = Conv(mid, width * 4, 1, norm=True, relu=True)
        self.shortcut = _shortcut(c_in, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(b, width * expansion, h / stride, w / stride), of x (b, c_in, h, w)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3(self.conv2(self.conv1(x)), plus=shortcut)


class ResNet(nn.Module):
    """Stem and four stages. ``channels`` are those of C2..C5; any module that has them can take its place.

    recompute : keep only the inputs of each block for the backward pass, and compute the rest again there: the
                same gradients in less memory and more time (gradient checkpointing, Chen et al. 2016)
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        block = Basic if config.depth < 50 else Bottleneck
        self.same_stem_pool = config.dialect.same_stem_pool
        self.recompute = False
        self.stem = Conv(config.channels, config.width, 7, 2, norm=True, relu=True)
        c_in = config.width
        group_width = config.width_per_group
        for stage, count in enumerate(BLOCKS[config.depth]):
            width, mid = config.width * 2**stage, config.groups * group_width * 2**stage
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(c_in, width, mid, stride, config))
                c_in = width * block.expansion
            self.add_module(f"s{stage + 2}", nn.Sequential(*blocks))
        self.channels = tuple(config.width * 2**stage * block.expansion for stage in range(4))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(b, c, h, w) normalised pixels to C2..C5."""
        x = self.stem(pixels)
        x = F.max_pool2d(pad_same(x, 3, 2), 3, 2) if self.same_stem_pool else F.max_pool2d(x, 3, 2, padding=1)
        levels = []
        for name in ("s2", "s3", "s4", "s5"):
            for block in self.get_submodule(name).children():
                x = _again(block, x) if self.recompute and torch.is_grad_enabled() else block(x)
            levels.append(x)
        return tuple(levels)


def _again(block: nn.Module, x: Tensor) -> Tensor:
    def contexts() -> tuple[nullcontext[None], Any]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics take in each batch once, not again when its block is computed again."""
    momenta = {norm: norm.momentum for norm in block.modules() if isinstance(norm, BatchNorm)}
    try:
        for norm in momenta:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def _shortcut(c_in: int, c_out: int, stride: int) -> Conv | None:
    """A projection where the shape changes (He et al. 2016, option B); None is the identity."""
    return Conv(c_in, c_out, 1, stride, norm=True) if stride > 1 or c_in != c_out else None
