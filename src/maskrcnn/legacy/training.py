"""Matterport's training step: its samples, its losses, its optimiser, on its own arrays.

The arrays of the .h5 are what is trained; each step turns them into our state dict, through which the gradients
flow back. So convolution biases in front of a norm, both rows of the objectness and the order of the anchors move
as they do there, and what is saved is what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..engines.fast import attach_gradients
from ..model import MaskRCNN
from ..model.layers import BatchNorm
from ..model.pooling import pool_rois
from ..model.rpn import choose, suppress
from ..records import AnchorScores, ImageBatch
from ..weights.keras import from_torch, to_torch
from ..weights.matterport import KERAS_EPSILON, OUR_EPSILON, Row, to_state
from . import losses as L
from . import stages
from .targets import DetectionTargets, detection_targets

LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
KERAS_MOMENTUM = 0.01  # share of each batch in the moving statistics


@dataclass(frozen=True)
class Lesson:
    """The settings of a training step. ``box_std`` is dy, dx, dlogh, dlogw; ``rois`` samples an image."""

    proposals: int
    rois: int
    positive: float
    box_std: tuple[float, ...]
    mini_masks: bool
    weights: Mapping[str, float]
    adapt_norms: bool
    decay: float
    clip: float


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch of the data generator as tensors.

    images (b, h, w, c) molded · active (b, classes) · match (b, n, 1) · deltas (b, m, 4)
    · class_ids (b, g) · boxes (b, g, 4) pixels · masks (b, mh, mw, g) · rois (b, r, 4) pixels, or None
    """

    images: Tensor
    active: Tensor
    match: Tensor
    deltas: Tensor
    class_ids: Tensor
    boxes: Tensor
    masks: Tensor
    rois: Tensor | None = None

    def to(self, device: torch.device) -> Inputs:
        """The same batch on a device."""
        moved: dict[str, Any] = {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name).to(device)
            for f in fields(self)
        }
        return Inputs(**moved)

    @staticmethod
    def of(arrays: Sequence[Any]) -> Inputs:
        """From the arrays that the generator yields."""
        images, metas, match, deltas, class_ids, boxes, masks, *rois = (np.asarray(a) for a in arrays)
        return Inputs(
            torch.from_numpy(images.astype(np.float32, copy=False)),
            torch.from_numpy(metas[:, 12:]).long(), torch.from_numpy(match),
            torch.from_numpy(deltas.astype(np.float32)), torch.from_numpy(class_ids),
            torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(masks),
            torch.from_numpy(rois[0].astype(np.float32)) if rois else None,
        )  # fmt: skip


class TrainingPass(nn.Module):
    """From a batch to the five losses, by the names that Matterport logs."""

    def __init__(self, config: Config, order: Sequence[int], lesson: Lesson) -> None:
        super().__init__()
        with torch.device("meta"):  # the weights come with each call
            self.network = MaskRCNN(config.with_options(proposals=lesson.proposals))
        attach_gradients(self.network)
        self.order, self.lesson = order, lesson
        self.train()
        for module in self.network.modules():
            if isinstance(module, BatchNorm):
                module.adapt, module.momentum = lesson.adapt_norms, KERAS_MOMENTUM

    def forward(self, inputs: Inputs, targets: Sequence[DetectionTargets] | None = None) -> dict[str, Tensor]:
        """``targets`` in place of random samples: one for each image."""
        network, config = self.network, self.network.config
        count, height, width = inputs.images.shape[:3]
        size, window = (height, width), inputs.images.new_tensor([[0, 0, width, height]])
        batch = ImageBatch(inputs.images.permute(0, 3, 1, 2), window.expand(count, 4), (size,) * count)
        pyramid = network.fpn(list(network.backbone(batch.pixels)))
        scores = network.rpn(pyramid, batch, config)
        if targets is None:
            targets = self._targets(inputs, scores, batch)

        boxes = stages.pixels(torch.cat([t.rois for t in targets]).detach(), size)
        image_index = torch.arange(count, device=boxes.device).repeat_interleave(len(targets[0].rois))
        pooled = pool_rois(pyramid, boxes, image_index, size, config.box_pool, config)
        box = network.box(pooled.values).map(pooled.restore)
        class_ids = torch.stack([t.class_ids for t in targets])
        positive = torch.nonzero(class_ids.flatten() > 0).squeeze(1)
        labels = class_ids.flatten()[positive] - 1
        pooled = pool_rois(
            pyramid, boxes[positive], image_index[positive], size, config.mask_size // 2, config
        )
        masks = pooled.restore(network.mask(pooled.values, pooled.arrange(labels))).sigmoid()

        deltas = boxes.new_zeros(*class_ids.shape, 4)
        deltas[class_ids > 0] = torch.cat([t.deltas for t in targets])
        values = (
            L.rpn_class_loss(inputs.match, stages.rpn_class_logits(scores, self.order)),
            L.rpn_bbox_loss(inputs.deltas, inputs.match, stages.rpn_bbox(scores, self.order)),
            L.mrcnn_class_loss(class_ids, stages.class_logits(box, count), inputs.active),
            L.mrcnn_bbox_loss(deltas, class_ids, stages.class_deltas(box, count)),
            L.mrcnn_mask_loss(torch.cat([t.masks for t in targets]), masks),
        )
        return {
            name: value * self.lesson.weights.get(name, 1.0)
            for name, value in zip(LOSSES, values, strict=True)
        }

    def _targets(self, inputs: Inputs, scores: AnchorScores, batch: ImageBatch) -> list[DetectionTargets]:
        """Random samples. The deltas wanted of the heads depend on the proposals, and so have a gradient to them:

        Matterport lets it flow into the region proposal network, which other packages do not.
        """
        config, lesson, size = self.network.config, self.lesson, batch.size
        if inputs.rois is None:
            proposals = suppress(choose(scores, batch, config), scores, batch, config).boxes
            rois = stages.normalised(proposals, size).unflatten(0, (len(batch), -1))
        else:
            rois = _to_unit(inputs.rois, size)
        truth = _to_unit(inputs.boxes, size)
        truth[(inputs.boxes == 0).all(2)] = 0  # padding stays zero
        return [
            detection_targets(
                rois[i],
                inputs.class_ids[i],
                truth[i],
                inputs.masks[i],
                count=lesson.rois,
                positive=lesson.positive,
                std=lesson.box_std,
                mask_side=config.mask_size,
                mini_masks=lesson.mini_masks,
            )
            for i in range(len(batch))
        ]


def _to_unit(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """y1, x1, y2, x2 in pixels, as 0..1."""
    scale = boxes.new_tensor([size[0] - 1, size[1] - 1]).repeat(2)
    return (boxes - boxes.new_tensor([0, 0, 1, 1])) / scale


class Trainer:
    """The arrays in training: steps with gradients on those named.

    On the CPU the arrays themselves move with each step, on another device at `keep`.
    """

    def __init__(
        self, training: TrainingPass, table: Sequence[Row], arrays: Mapping[str, Tensor],
        trainable: Sequence[str], rate: float, momentum: float, device: str | torch.device = "cpu",
    ) -> None:  # fmt: skip
        self.training, self.table, self.arrays = training, table, arrays
        self.device = torch.device(device)
        # In torch's order of axes; on the CPU the arrays' own memory.
        self.leaves = {key: to_torch(array).detach().to(self.device) for key, array in arrays.items()}
        learned = [key for key in trainable if key.split("/")[1] not in ("moving_mean", "moving_variance")]
        self.parameters = {key: self.leaves[key].requires_grad_() for key in learned}
        self.optimizer = torch.optim.SGD(list(self.parameters.values()), lr=rate, momentum=momentum)

    def losses(self, inputs: Inputs, targets: Sequence[DetectionTargets] | None = None) -> dict[str, Tensor]:
        """The five losses of a batch; with norms that adapt, their statistics move."""
        views = {key: from_torch(leaf) for key, leaf in self.leaves.items()}
        state = to_state(self.table, views, self.training.order)
        adapt = self.training.lesson.adapt_norms and torch.is_grad_enabled()
        self.training.train(torch.is_grad_enabled())
        if adapt:
            state = {
                k: v.detach().clone() if k.endswith(("running_mean", "running_var")) else v
                for k, v in state.items()
            }
        named = {f"network.{name}": value for name, value in state.items()}
        losses: dict[str, Tensor] = torch.func.functional_call(
            self.training, named, (inputs.to(self.device), targets)
        )
        if adapt:
            self._keep_statistics(state)
        return losses

    def backward(self, losses: Mapping[str, Tensor]) -> float:
        """Gradients of the sum of the losses and of the weight decay, each array's clipped; returns that sum.

        So TensorFlow's Keras reads ``clipnorm``. Keras 2.0 to 2.3 on their own clipped the norm of all gradients
        together, with which the first epochs teach far less.
        """
        self.optimizer.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        decay, lesson = 0.0, self.training.lesson
        for key, leaf in self.parameters.items():
            if leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)
            if key.split("/")[1] in ("kernel", "bias"):  # each array's decay is divided by its size, as there
                share = lesson.decay / leaf.numel()
                leaf.grad.add_(leaf.detach(), alpha=2 * share)
                decay += share * float(leaf.detach().square().sum())
        if lesson.clip:
            for leaf in self.parameters.values():
                nn.utils.clip_grad_norm_([leaf], lesson.clip)
        return float(total.detach()) + decay

    def step(self, inputs: Inputs) -> dict[str, float]:
        """One step of descent; returns the losses by name, ``loss`` their sum with the decay.

        A batch with a loss that is not finite changes nothing; its values say so.
        """
        losses = self.losses(inputs)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not np.isfinite(list(values.values())).all():
            return {"loss": float("nan"), **values}
        values = {"loss": self.backward(losses), **values}
        self.optimizer.step()
        return values

    def keep(self) -> None:
        """Write what was trained on another device into the arrays."""
        if self.device.type != "cpu":
            with torch.no_grad():
                for key, leaf in self.leaves.items():
                    to_torch(self.arrays[key]).copy_(leaf)

    def _keep_statistics(self, state: Mapping[str, Tensor]) -> None:
        """Moved means and variances back into Matterport's, undoing what `to_state` folds into them."""
        with torch.no_grad():
            for row in (row for row in self.table if row.norm):
                mean, variance = (state[f"{row.native}.norm.running_{kind}"] for kind in ("mean", "var"))
                bias = self.leaves[f"{row.layer}/bias"]
                self.leaves[f"{row.norm}/moving_mean"].copy_(mean + bias)
                kept = (1 - KERAS_MOMENTUM) * (KERAS_EPSILON - OUR_EPSILON)
                self.leaves[f"{row.norm}/moving_variance"].copy_(variance - kept)
