"""The region proposal network: from the pyramid to candidate boxes. (Ren et al. 2015, section 3.)"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..ops.anchors import cell_anchors, coarse_cells, grid_anchors
from ..ops.boxes import clip, decode, shrink
from ..ops.nms import nms, top_k
from ..ops.sparse_conv import conv_of_few
from ..records import AnchorScores, Candidates, ImageBatch, Proposals
from .layers import Conv


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
        nn.init.normal_(self.objectness.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.01)

    def forward(self, pyramid: Sequence[Tensor], batch: ImageBatch, config: Config) -> AnchorScores:
        """Score every anchor of P2..P6."""
        objectness, deltas, anchors = [], [], []
        for level, features in enumerate(pyramid):
            hidden = self._hidden(features)
            logits = self.objectness(hidden)
            objectness.append(logits.permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(batch), -1, 4))
            anchors.append(level_anchors(level, logits.shape[-2:], batch.size, config).to(features.device))
        return AnchorScores(
            torch.cat(anchors),
            torch.cat(objectness, dim=1),
            torch.cat(deltas, dim=1),
            tuple(len(a) for a in anchors),
        )

    def _hidden(self, x: Tensor) -> Tensor:
        for name in self.convs:
            conv = self.get_submodule(name)
            if torch.is_grad_enabled() and isinstance(conv, Conv) and conv.stride == (1, 1):
                assert conv.bias is not None
                x = F.relu(conv_of_few(x, conv.weight, conv.bias), inplace=True)
            else:
                x = conv(x)
        return x


def level_anchors(level: int, grid: Sequence[int], padded: tuple[int, int], config: Config) -> Tensor:
    """Anchors (n, 4) of one level, 0 for P2, in the order of the head's outputs."""
    dialect, sizes, ratios = config.dialect, config.anchor_sizes[level], config.anchor_ratios
    step = 4.0 * 2**level * config.rpn_stride
    cells = (
        coarse_cells(sizes, ratios, step)
        if dialect.coarse_anchors
        else cell_anchors(sizes, ratios, dialect.anchor_rounding)
    )
    stride = (
        (float(padded[0] // grid[0]), float(padded[1] // grid[1])) if dialect.grid_strides else (step, step)
    )
    return grid_anchors(cells + dialect.anchor_offset * step, (grid[0], grid[1]), stride)


def choose(scores: AnchorScores, batch: ImageBatch, config: Config) -> Candidates:
    """The best anchors of each image (of each of its levels, if so the dialect), decoded and clipped."""
    dialect, end = config.dialect, float(config.dialect.inclusive_ends)
    last = float(dialect.last_pixel_in)
    sections = scores.level_sizes if dialect.per_level else (sum(scores.level_sizes),)
    level_of = torch.repeat_interleave(
        torch.arange(len(scores.level_sizes)), torch.tensor(scores.level_sizes)
    ).to(scores.anchors.device)
    parts = []
    for image in range(len(batch)):
        start, chosen = 0, []
        for count in sections:
            chosen.append(start + top_k(scores.objectness[image, start : start + count], config.pre_nms))
            start += count
        index = torch.cat(chosen)
        boxes = decode(
            scores.deltas[image, index],
            shrink(scores.anchors[index], end),
            config.rpn_std,
            dialect.delta_clamp,
        )
        boxes = clip(boxes, shrink(_clip_window(batch, image, dialect.clip_to_padding), end), last)
        boxes = shrink(boxes, -end)
        sound = boxes.isfinite().all(dim=1)  # without a clamp, untrained weights stretch boxes beyond float32
        if dialect.min_proposal is not None:
            sound &= ((boxes[:, 2:] - boxes[:, :2]) > dialect.min_proposal).all(dim=1)
        boxes, index = boxes[sound], index[sound]
        probability = scores.objectness[image, index].sigmoid()
        parts.append((boxes, probability, torch.full_like(index, image), index, level_of[index]))
    return Candidates(*(torch.cat(column) for column in zip(*parts, strict=True)))


def suppress(candidates: Candidates, scores: AnchorScores, batch: ImageBatch, config: Config) -> Proposals:
    """Non-maximum suppression, level by level or over all, and the best ``config.proposals`` of each image."""
    dialect, end = config.dialect, float(config.dialect.inclusive_ends)
    parts = []
    for image in range(len(batch)):
        mine = torch.nonzero(candidates.image_index == image).squeeze(1)
        logits = scores.objectness[image, candidates.anchor_index[mine]]
        kept = mine[
            nms(
                shrink(candidates.boxes[mine], end),
                candidates.scores[mine] if dialect.rank_probability else logits,
                config.overlap(config.rpn_nms),
                candidates.level[mine] if dialect.per_level else None,
                config.proposals,
                dialect.shift_up_to,
            )
        ]
        boxes, probability = candidates.boxes[kept], candidates.scores[kept]
        if dialect.pad_proposals:
            missing = config.proposals - kept.shape[0]
            boxes = torch.cat([boxes, shrink(boxes.new_zeros(missing, 4), -end)])
            probability = torch.cat([probability, probability.new_zeros(missing)])
        parts.append((boxes, probability, kept.new_full((boxes.shape[0],), image)))
    return Proposals(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _clip_window(batch: ImageBatch, image: int, padding_too: bool) -> Tensor:
    if padding_too:
        height, width = batch.size
        return batch.windows.new_tensor([0.0, 0.0, width, height])
    return batch.windows[image]
