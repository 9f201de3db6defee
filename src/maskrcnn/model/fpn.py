"""The feature pyramid: from C2..C5 to P2..P6, all of one width. (Lin et al. 2017, figure 3.)"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .layers import Conv

LEVELS = (2, 3, 4, 5)


class FPN(nn.Module):
    """1x1 laterals, added from the top down; a 3x3 convolution on each sum; P6 is every other pixel of P5."""

    def __init__(self, config: Config, backbone_channels: Sequence[int]) -> None:
        super().__init__()
        for level, c_in in zip(LEVELS, backbone_channels, strict=True):
            self.add_module(f"lateral{level}", Conv(c_in, config.fpn_channels, 1, norm=config.fpn_norm))
            self.add_module(
                f"output{level}", Conv(config.fpn_channels, config.fpn_channels, 3, norm=config.fpn_norm)
            )

    def forward(self, backbone: list[Tensor]) -> tuple[Tensor, ...]:
        """C2..C5 to P2..P6. Takes the maps out of the list: the memory of each is free once it is merged."""
        outputs: list[Tensor] = []
        top: Tensor | None = None
        for level in reversed(LEVELS):
            top = self.get_submodule(f"lateral{level}")(backbone.pop(), plus=top)
            outputs.insert(0, self.get_submodule(f"output{level}")(top))
        return (*outputs, F.max_pool2d(outputs[-1], 1, stride=2))
