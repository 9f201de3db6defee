"""The box head: class and refined box of each proposal, then the final detections. (Fast R-CNN, section 2.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import Config
from ..ops.boxes import clip, decode, shrink
from ..ops.nms import nms
from ..records import BoxScores, Detections, ImageBatch, Proposals
from .layers import Conv, Linear, draw


class BoxHead(nn.Module):
    """Convolutions if any, fully connected layers, then class logits and box deltas."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c_in = config.fpn_channels
        self.convs = tuple(f"conv{i + 1}" for i in range(config.box_convs))
        for name in self.convs:
            self.add_module(name, Conv(c_in, config.fpn_channels, 3, norm=config.box_conv_norm, relu=True))
        c_in *= config.box_pool**2
        self.fcs = tuple(f"fc{i + 1}" for i in range(config.box_fcs))
        for name in self.fcs:
            self.add_module(name, Linear(c_in, config.box_features, norm=config.box_fc_norm, relu=True))
            c_in = config.box_features
        self.class_logits = Linear(c_in, config.num_classes + 1)
        self.deltas = Linear(c_in, 4 * (1 if config.class_agnostic_boxes else config.num_classes))
        draw(self.class_logits.weight, 0.01)
        draw(self.deltas.weight, 0.001)

    def forward(self, features: Tensor) -> BoxScores:
        """Score RoI features (n, c, 7, 7); in float32, whatever the layers compute in."""
        x = features
        for name in self.convs:
            x = self.get_submodule(name)(x)
        for name in self.fcs:
            x = self.get_submodule(name)(x)
        deltas = self.deltas(x).reshape(x.shape[0], self.deltas.out_features // 4, 4)
        return BoxScores(self.class_logits(x).float(), deltas.float())


def detect(
    scores: BoxScores, proposals: Proposals, batch: ImageBatch, config: Config, wanted: Tensor | None = None
) -> Detections:
    """Refine, filter by score, suppress class by class, keep the best of each image.

    wanted: (classes,) bool, which classes may be detected; None for all
    """
    end = float(config.dialect.inclusive_ends)
    roi, label, score = _above_threshold(scores, config)
    if wanted is not None:
        allowed = wanted.to(label.device)[label]
        roi, label, score = roi[allowed], label[allowed], score[allowed]
    deltas = scores.deltas[roi, torch.zeros_like(label) if config.class_agnostic_boxes else label]
    boxes = decode(deltas, shrink(proposals.boxes[roi], end), config.box_std, config.dialect.delta_clamp)
    image = proposals.image_index[roi]
    boxes = clip(boxes, shrink(batch.windows, end)[image], float(config.dialect.last_pixel_in))
    sound = boxes.isfinite().all(dim=1)
    if config.dialect.min_detection is not None:
        sound &= ((boxes[:, 2:] - boxes[:, :2]) > config.dialect.min_detection).all(dim=1)
    left = torch.nonzero(sound).squeeze(1)  # once: the host waits for a GPU to count
    boxes, label, score, roi, image = boxes[left], label[left], score[left], roi[left], image[left]
    number = label + int(config.dialect.shift_from_one)
    overlap, shift = config.overlap(config.nms), config.dialect.shift_up_to
    keep = nms(boxes, score, overlap, number, config.max_detections, image, shift)
    return Detections(shrink(boxes[keep], -end), label[keep], score[keep], image[keep], roi[keep])


def _above_threshold(scores: BoxScores, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """RoI, class and probability of each candidate; a RoI gives one candidate or as many as classes pass."""
    probability = scores.class_logits.softmax(dim=1)
    if config.dialect.best_class_only:
        best, label = probability.max(dim=1)
        foreground = label < config.num_classes
        passed = torch.nonzero(foreground & _passes(best, config)).squeeze(1)
        torch._check(
            passed.shape[0] <= 2**31
        )  # in a graph, where sizes otherwise are beyond what ONNX can count
        return passed, label[passed], best[passed]
    probability = probability[:, :-1]
    roi, label = torch.nonzero(_passes(probability, config)).unbind(1)
    return roi, label, probability[roi, label]


def _passes(probability: Tensor, config: Config) -> Tensor:
    return probability >= config.score if config.dialect.score_inclusive else probability > config.score
