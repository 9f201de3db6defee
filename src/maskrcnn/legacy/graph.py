"""Intermediates of one pass under the names of Matterport's graph, in its layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..model import MaskRCNN
from ..ops.boxes import decode, shrink
from ..ops.nms import nms
from ..records import ImageBatch
from . import stages


@dataclass(frozen=True, eq=False)
class Background:
    """The rows of Matterport's last layers for background, which our heads do not have.

    deltas (features, 4), delta_bias (4,) dy, dx, dlogh, dlogw · mask (channels,), mask_bias ()
    """

    deltas: Tensor
    delta_bias: Tensor
    mask: Tensor
    mask_bias: Tensor

    @staticmethod
    def of(arrays: Mapping[str, Tensor], device: torch.device) -> Background:
        """From the arrays of a file by ``layer/parameter``."""
        return Background(
            arrays["mrcnn_bbox_fc/kernel"][:, :4].to(device), arrays["mrcnn_bbox_fc/bias"][:4].to(device),
            arrays["mrcnn_mask/kernel"][0, 0, :, 0].to(device), arrays["mrcnn_mask/bias"][0].to(device),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass. ``kept`` are its stages by their name in `Trace`, ``tapped`` the outputs of modules by path."""

    network: MaskRCNN
    batch: ImageBatch
    order: Sequence[int]
    background: Background
    kept: dict[str, Any]
    tapped: dict[str, Tensor]

    def boxes(self, boxes: Tensor) -> Tensor:
        """(b, n, 4) normalised, of boxes (b * n, 4)."""
        return stages.normalised(boxes, self.batch.size).unflatten(0, (len(self.batch), -1))

    @property
    def detections(self) -> tuple[Tensor, Tensor]:
        """(b, max_detections, 6) y1, x1, y2, x2, class id, score, then zeros; and (n,) the row of each in its image."""
        return stages.detections(
            self.kept["detections"], len(self.batch), self.batch.size, self.network.config.max_detections
        )

    def candidates(self, refined: bool) -> Tensor:
        """Anchors of the best scores, as they are or refined, not clipped."""
        chosen, scores = self.kept["candidates"], self.kept["anchor_scores"]
        boxes = shrink(scores.anchors[chosen.anchor_index], 1.0)
        if refined:
            raw = scores.deltas[chosen.image_index, chosen.anchor_index]
            boxes = decode(raw, boxes, self.network.config.rpn_std)
        return self.boxes(shrink(boxes, -1.0))

    def kept_after_nms(self) -> Tensor:
        """Rows of the first image's candidates that suppression keeps."""
        chosen, scores, config = self.kept["candidates"], self.kept["anchor_scores"], self.network.config
        mine = chosen.image_index == 0
        logits = scores.objectness[0, chosen.anchor_index[mine]]
        return nms(
            shrink(chosen.boxes[mine], 1.0), logits, config.overlap(config.rpn_nms), None, config.proposals
        )

    def pooled(self, name: str) -> Tensor:
        """(n, size, size, c) RoI features in the order of their boxes."""
        features = self.kept[name]
        return features.restore(features.values).permute(0, 2, 3, 1)

    def per_detection(self, rows: Tensor) -> Tensor:
        """(b, max_detections, ...), of rows (n, ...); zeros behind the last detection."""
        padded = rows.new_zeros(len(self.batch), self.network.config.max_detections, *rows.shape[1:])
        padded[self.kept["detections"].image_index, self.detections[1]] = rows
        return padded

    def deltas(self) -> Tensor:
        """(b, r, classes, 4) dy, dx, dlogh, dlogw of every class."""
        deltas = stages.class_deltas(self.kept["box_scores"], len(self.batch))
        hidden = self.kept["roi_features"].restore(self.tapped["box.fc2"])
        of_none = F.linear(hidden, self.background.deltas.T, self.background.delta_bias)
        return torch.cat([of_none.reshape(deltas[:, :, :1].shape), deltas[:, :, 1:]], dim=2)

    def masks(self) -> Tensor:
        """(b, max_detections, m, m, classes) probabilities of every class."""
        hidden = F.relu(self.tapped["mask.deconv"])
        of_none = torch.einsum("nchw,c->nhw", hidden, self.background.mask) + self.background.mask_bias
        logits = torch.cat([of_none[:, None], self.network.mask.logits(hidden)], dim=1)
        of_class = self.kept["mask_features"].restore(logits.sigmoid()).permute(0, 2, 3, 1)
        return self.per_detection(of_class)

    def level(self, path: str) -> Tensor:
        """(b, h, w, c) output of the layer at ``path`` in the network."""
        return self.tapped[path].permute(0, 2, 3, 1)


STAGES: dict[str, Callable[[Pass], Tensor]] = {
    "input_image": lambda p: p.batch.pixels.permute(0, 2, 3, 1),
    "rpn_class_logits": lambda p: stages.rpn_class_logits(p.kept["anchor_scores"], p.order),
    "rpn_class": lambda p: stages.rpn_class_logits(p.kept["anchor_scores"], p.order).softmax(2),
    "rpn_bbox": lambda p: stages.rpn_bbox(p.kept["anchor_scores"], p.order),
    "ROI/pre_nms_anchors": lambda p: p.candidates(refined=False),
    "ROI/refined_anchors": lambda p: p.candidates(refined=True),
    "ROI/refined_anchors_clipped": lambda p: p.boxes(p.kept["candidates"].boxes),
    "ROI/rpn_non_max_suppression": Pass.kept_after_nms,
    "ROI": lambda p: p.boxes(p.kept["proposals"].boxes),
    "roi_align_classifier": lambda p: p.pooled("roi_features").unflatten(0, (len(p.batch), -1)),
    "mrcnn_class_logits": lambda p: stages.class_logits(p.kept["box_scores"], len(p.batch)),
    "mrcnn_class": lambda p: stages.class_logits(p.kept["box_scores"], len(p.batch)).softmax(2),
    "mrcnn_bbox_fc": lambda p: p.deltas().flatten(2),
    "mrcnn_bbox": Pass.deltas,
    "mrcnn_detection": lambda p: p.detections[0],
    "roi_align_mask": lambda p: p.per_detection(p.pooled("mask_features")),
    "mrcnn_mask": Pass.masks,
    "fpn_p6": lambda p: p.kept["pyramid"][4].permute(0, 2, 3, 1),
}


def served(name: str) -> str | None:
    """The stage that a node's name, such as ``ROI/refined_anchors:0``, asks for; None if it is not served."""
    plain = re.sub(r"(_\d+)?(/NonMaxSuppressionV\d)?(:\d+)?$", "", name)
    for candidate in (name, plain):
        if candidate in STAGES or _module(candidate):
            return candidate
    return None


def _module(name: str) -> str | None:
    """The module of ours whose output that layer's is."""
    if block := re.fullmatch(r"res([2-5])([a-w])_out", name):
        return f"backbone.s{block[1]}.{ord(block[2]) - 97}"
    if lateral := re.fullmatch(r"fpn_c([2-5])p\1", name):
        return f"fpn.lateral{lateral[1]}"
    if output := re.fullmatch(r"fpn_p([2-5])", name):
        return f"fpn.output{output[1]}"
    return None


@torch.inference_mode()
def run(
    network: MaskRCNN, batch: ImageBatch, order: Sequence[int], background: Background, names: Sequence[str]
) -> list[np.ndarray]:
    """Arrays of these stages, in their order. Raises ConfigError for a name that is not served, listing those.

    Weights of the convolutions before their norm are folded, so their outputs alone do not exist.
    """
    found = {name: served(name) for name in names}
    unknown = [name for name, stage in found.items() if stage is None]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: not an output that exists here; there are res2a_out .. res5c_out, "
            f"fpn_c2p2 .. fpn_c5p5, fpn_p2 .. fpn_p5, {', '.join(STAGES)}; or see maskrcnn's model.trace(image)"
        )
    paths = {path for stage in found.values() if stage and (path := _module(stage))} | {
        "mask.deconv",
        "box.fc2",
    }
    parts: dict[str, list[Tensor]] = {}  # a layer may be called for some RoIs at a time
    kept: dict[str, Any] = {}

    def tap(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, options: dict[str, Any], output: Tensor) -> None:
            # a copy, since the next layer may compute in the memory of this one's output
            output = output.clone()
            if (above := options.get("plus")) is not None:  # the reference adds in a layer of its own
                output -= F.interpolate(above, size=output.shape[-2:], mode="nearest")
            parts.setdefault(path, []).append(output)

        return hook

    missing = [path for path in paths if path not in dict(network.named_modules())]
    if missing:
        raise ConfigError(f"want layers of this network, it lacks {', '.join(missing)}")
    handles = [
        network.get_submodule(path).register_forward_hook(tap(path), with_kwargs=True) for path in paths
    ]
    try:
        network(batch, keep=kept.update)
    finally:
        for handle in handles:
            handle.remove()
    tapped = {path: torch.cat(values) for path, values in parts.items()}
    one = Pass(network, batch, order, background, kept, tapped)
    outputs = []
    for stage in found.values():
        assert stage is not None
        path = _module(stage)
        value = one.level(path) if path else STAGES[stage](one)
        outputs.append(value.cpu().numpy())
    return outputs
