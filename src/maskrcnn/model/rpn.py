"""The region proposal network: from the pyramid to candidate boxes. (Ren et al. 2015, section 3.)"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..ops.anchors import cell_anchors, coarse_cells, grid_anchors
from ..ops.boxes import clip, decode, frame, shrink
from ..ops.nms import nms, top_k
from ..ops.sparse_conv import conv_of_few
from ..records import AnchorScores, Candidates, ImageBatch, Proposals, Size
from .layers import Conv, draw


class RPN(nn.Module):
    """One small head, shared by all levels: objectness and box deltas for each anchor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.convs = tuple(f"conv{i + 1}" for i in range(config.rpn_convs))
        c_in = config.fpn_channels
        for i, name in enumerate(self.convs):
            stride = config.rpn_stride if i == 0 else 1
            self.add_module(name, Conv(c_in, config.rpn_channels, 3, stride, relu=True, same=stride > 1))
            c_in = config.rpn_channels
        self.objectness = Conv(c_in, config.anchors_per_cell, 1)
        self.deltas = Conv(c_in, config.anchors_per_cell * 4, 1)
        draw(self.objectness.weight, 0.01)
        draw(self.deltas.weight, 0.01)

    def forward(self, pyramid: Sequence[Tensor], batch: ImageBatch, config: Config) -> AnchorScores:
        """Score every anchor of P2..P6; in float32, whatever the layers compute in."""
        objectness, deltas, grids = [], [], []
        for features in pyramid:
            hidden = self._hidden(features)
            logits = self.objectness(hidden)
            objectness.append(logits.permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            grids.append((logits.shape[2], logits.shape[3]))
        return AnchorScores(
            pyramid_anchors(tuple(grids), batch.size, config, pyramid[0].device),
            torch.cat(objectness, dim=1).float(),
            torch.cat(deltas, dim=1).float(),
            tuple(o.shape[1] for o in objectness),
        )

    def _hidden(self, x: Tensor) -> Tensor:
        for name in self.convs:
            conv = self.get_submodule(name)
            if torch.is_grad_enabled() and isinstance(conv, Conv) and conv.stride == (1, 1):
                assert conv.bias is not None
                x = F.relu(conv_of_few(x, conv.weight, conv.bias, conv.product), inplace=True)
            else:
                x = conv(x)
        return x


def pyramid_anchors(grids: tuple[Size, ...], padded: Size, config: Config, device: torch.device) -> Tensor:
    """`level_anchors` of all levels (n, 4), P2 first. Not to be changed: later calls give the same tensor.

    grids : (h, w) positions of each level; padded: (h, w) of the network input
    """
    make = _anchors.__wrapped__ if torch.compiler.is_compiling() else _anchors  # whose sizes may stay open
    return make(grids, padded, config, device)


@functools.lru_cache(maxsize=4)  # 4 MB each at 800x1067
def _anchors(grids: tuple[Size, ...], padded: Size, config: Config, device: torch.device) -> Tensor:
    return torch.cat([level_anchors(i, grid, padded, config) for i, grid in enumerate(grids)]).to(device)


def level_anchors(level: int, grid: Sequence[int], padded: tuple[int, int], config: Config) -> Tensor:
    """Anchors (n, 4) of one level, 0 for P2, in the order of the head's outputs."""
    dialect, sizes, ratios = config.dialect, config.anchor_sizes[level], config.anchor_ratios
    step = 4 * 2**level * config.rpn_stride
    cells = (
        coarse_cells(sizes, ratios, float(step))
        if dialect.coarse_anchors
        else cell_anchors(sizes, ratios, dialect.anchor_rounding)
    )
    stride = (padded[0] // grid[0], padded[1] // grid[1]) if dialect.grid_strides else (step, step)
    return grid_anchors(cells + dialect.anchor_offset * step, (grid[0], grid[1]), stride)


def choose(scores: AnchorScores, batch: ImageBatch, config: Config) -> Candidates:
    """The best anchors of each image (of each of its levels, if so the dialect), decoded and clipped."""
    dialect, end = config.dialect, float(config.dialect.inclusive_ends)
    start, chosen = 0, []
    for count in scores.level_sizes if dialect.per_level else (sum(scores.level_sizes),):
        chosen.append(start + top_k(scores.objectness[:, start : start + count], config.pre_nms))
        start += count
    best = torch.cat(chosen, dim=1)
    image = torch.arange(best.shape[0], device=best.device)[:, None].expand_as(best).flatten()
    index = best.flatten()
    boxes = decode(
        scores.deltas[image, index], shrink(scores.anchors[index], end), config.rpn_std, dialect.delta_clamp
    )
    windows = _clip_windows(batch, dialect.clip_to_padding)
    boxes = shrink(clip(boxes, shrink(windows, end)[image], float(dialect.last_pixel_in)), -end)
    sound = boxes.isfinite().all(dim=1)  # without a clamp, untrained weights stretch boxes beyond float32
    if dialect.min_proposal is not None:
        sound &= ((boxes[:, 2:] - boxes[:, :2]) > dialect.min_proposal).all(dim=1)
    left = torch.nonzero(sound).squeeze(1)  # once: the host waits for a GPU to count
    boxes, image, index = boxes[left], image[left], index[left]
    levels, end = torch.zeros_like(index), 0
    for count in scores.level_sizes[:-1]:
        end += count
        levels += index >= end
    return Candidates(boxes, scores.objectness[image, index].sigmoid(), image, index, levels)


def suppress(candidates: Candidates, scores: AnchorScores, batch: ImageBatch, config: Config) -> Proposals:
    """Non-maximum suppression, level by level or over all, and the best ``config.proposals`` of each image."""
    dialect, end = config.dialect, float(config.dialect.inclusive_ends)
    logits = scores.objectness[candidates.image_index, candidates.anchor_index]
    kept = nms(
        shrink(candidates.boxes, end),
        candidates.scores if dialect.rank_probability else logits,
        config.overlap(config.rpn_nms),
        candidates.level if dialect.per_level else None,
        config.proposals,
        candidates.image_index,
        dialect.shift_up_to,
    )
    boxes, probability, image = candidates.boxes[kept], candidates.scores[kept], candidates.image_index[kept]
    if not dialect.pad_proposals:
        return Proposals(boxes, probability, image)
    images = torch.arange(batch.pixels.shape[0], device=image.device)
    counts = (image[:, None] == images).sum(dim=0)
    before = (images * config.proposals - counts.cumsum(0) + counts)[image]  # zero boxes of earlier images
    place = torch.arange(image.shape[0], device=image.device) + before
    full = images.shape[0] * config.proposals
    zeros = shrink(boxes.new_zeros(full, 4), -end)
    return Proposals(
        zeros.index_copy(0, place, boxes),
        probability.new_zeros(full).index_copy(0, place, probability),
        images[:, None].expand(-1, config.proposals).flatten(),
    )


def _clip_windows(batch: ImageBatch, padding_too: bool) -> Tensor:
    """(b, 4) where the proposals of each image may lie."""
    return frame(batch.size, batch.windows).expand_as(batch.windows) if padding_too else batch.windows
