"""Back to the original pixels: undo padding and resizing, and pack what belongs to each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import Config
from ..ops.boxes import clip, frame, shrink
from ..records import Detections, Image, ImageBatch, Result


def restore(
    detections: Detections, masks: Tensor, batch: ImageBatch, images: Sequence[Image], config: Config
) -> list[Result]:
    """Results of a batch, in the order of its images.

    masks: (n, m, m) probabilities of each detection
    """
    detections_image = detections.image_index.cpu()
    boxes, labels, scores = detections.boxes.cpu(), detections.labels.cpu(), detections.scores.cpu()
    masks = masks.cpu().float()
    results = []
    for i, image in enumerate(images):
        mine = torch.nonzero(detections_image == i).squeeze(1)
        restored = restore_boxes(boxes[mine], batch.windows[i].cpu(), batch.sizes[i], config)
        solid = ((restored[:, 2:] - restored[:, :2]) > 0).all(dim=1)
        mine = mine[solid]
        results.append(
            Result(
                restored[solid],
                labels[mine],
                scores[mine],
                masks[mine],
                config.names,
                batch.sizes[i],
                image if image.source is None else image.source,
                config.dialect.paste,
            )
        )
    return results


def restore_boxes(boxes: Tensor, window: Tensor, size: tuple[int, int], config: Config) -> Tensor:
    """Boxes (n, 4) of the padded frame in pixels of the original image of this (h, w).

    window: (4,) xyxy where the content lies in the padded frame
    """
    end = float(config.dialect.inclusive_ends)
    window = shrink(window, end).double()
    extent = frame(size, window)[2:] - end
    scale = (extent / (window[2:] - window[:2])).repeat(2)
    if config.dialect.integer_boxes:
        return shrink((shrink(boxes, end).double() - window[:2].repeat(2)) * scale, -end).round().float()
    # A product in float32, as torchvision and Detectron2 have it: what is cut to pixels next turns on the last bit.
    last = max(end, float(config.dialect.last_pixel_in))
    restored = shrink((shrink(boxes, last) - window[:2].repeat(2).float()) * scale.float(), -last)
    return clip(restored, frame(size, restored))
