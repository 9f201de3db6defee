"""The mask head: a small fully convolutional network on each detection. (Mask R-CNN, figure 4, right.)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .layers import Conv, draw


class Double(nn.ConvTranspose2d):
    """The deconvolution, in the precision of its input."""

    bias: nn.Parameter

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(n, c, h, w) to (n, c_out, 2 h, 2 w)."""
        return F.conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride)


class MaskHead(nn.Module):
    """3x3 convolutions, a deconvolution that doubles the side, and one mask a class.

    ``part`` is how many RoIs go through the last two layers together, None for all.
    """

    part: int | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.convs = tuple(f"conv{i + 1}" for i in range(config.mask_convs))
        c_in = config.fpn_channels
        for name in self.convs:
            self.add_module(name, Conv(c_in, config.mask_channels, 3, norm=config.mask_norm, relu=True))
            c_in = config.mask_channels
        self.deconv = Double(c_in, config.mask_channels, 2, 2)
        self.logits = Conv(config.mask_channels, 1 if config.class_agnostic_masks else config.num_classes, 1)
        draw(self.deconv.weight)
        nn.init.zeros_(self.deconv.bias)
        draw(self.logits.weight, 0.001)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """RoI features (n, c, 14, 14) to the float32 mask logits (n, 28, 28) of each RoI's own class.

        The other classes' masks are not computed: classes do not compete (Mask R-CNN, section 3).
        """
        x = features
        for name in self.convs:
            x = self.get_submodule(name)(x)
        if self.part is None or torch.compiler.is_compiling():  # whose count of RoIs stays open
            return self._own(x, labels)
        parts = zip(x.split(self.part), labels.split(self.part), strict=True)
        return torch.cat([self._own(some, theirs) for some, theirs in parts])

    def _own(self, x: Tensor, labels: Tensor) -> Tensor:
        x = F.relu(self.deconv(x), inplace=True)
        row = torch.zeros_like(labels) if self.logits.out_channels == 1 else labels
        weight, bias = self.logits.weight.flatten(1)[row].to(x.dtype), self.logits.bias[row].to(x.dtype)  # type: ignore[index]
        logits = torch.baddbmm(bias[:, None, None], weight[:, None], x.flatten(2))
        return logits.reshape(x.shape[0], x.shape[2], x.shape[3]).float()
