"""A trained network as one file that runs alone: from pixels to boxes, labels, scores and RoI masks.

The graph is torch.export's of the same modules that predict and train; `onnx.py` and `openvino.py` write it in
their formats.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..config import Config
from ..errors import ConfigError
from ..model import MaskRCNN
from ..model.layers import Conv, Linear, folded
from ..model.restore import restore_boxes
from .pixels import network_input
from .runner import Run

INPUT = "images"
OUTPUTS = ("boxes", "labels", "scores", "masks", "image_index")
SETTINGS = "maskrcnn.json"  # the configuration inside a .pt2
EXAMPLE = (2, 240, 320)  # images, rows, columns: none of them is kept


class Standalone(nn.Module):
    """Pictures to instances in pixels of these pictures, without a record or a picture library between.

    images : (b, h, w, c) uint8, RGB; float32 in the units of the training data unless c = 3

    Returns boxes (n, 4) float32 xyxy, labels (n,) int64, scores (n,) float32, RoI masks (n, 28, 28) float32
    probabilities and the index (n,) int64 of the image that each belongs to: ascending, and best first in each.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.network = _folded(model)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        config = self.network.config
        batch = network_input(images, config)
        found, masks = self.network(batch)
        boxes = restore_boxes(found.boxes, batch.windows[0], batch.sizes[0], config)
        solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
        rows = boxes, found.labels, found.scores, masks, found.image_index
        return tuple(row[solid] for row in rows)


def trace_program(model: MaskRCNN) -> ExportedProgram:
    """The graph of `Standalone`, for any number of images of any one size.

    Raises ConfigError for pooling that no other runtime has.
    """
    config = model.config
    if config.dialect.roi_op == "pool":
        raise ConfigError("roi_op: want align, align_legacy or crop_and_resize for export, got pool")
    dtype = torch.uint8 if config.channels == 3 else torch.float32
    example = torch.zeros(*EXAMPLE, config.channels, dtype=dtype)
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(Standalone(model), (example,), strict=False, dynamic_shapes=(sizes,))


def save_program(model: MaskRCNN, path: Path) -> None:
    """torch.export's own file (.pt2). It holds operators of this package: import `maskrcnn.ops` to run it."""
    settings = {SETTINGS: json.dumps(model.config.to_dict())}
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "No complete tensor found"
        )  # of the constants, which are on the CPU
        torch.export.save(trace_program(model), path, extra_files=settings)


def open_program(path: Path) -> tuple[Run, Config]:
    """PyTorch on a file of `save_program`, and the configuration inside."""
    extra = {SETTINGS: ""}
    program = torch.export.load(path, extra_files=extra).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [rows.numpy() for rows in program(torch.from_numpy(images))]

    return run, Config.from_dict(json.loads(extra[SETTINGS]))


def _folded(model: MaskRCNN) -> MaskRCNN:
    """A copy on the CPU whose batch norms are part of the weights."""
    model = copy.deepcopy(model).cpu().eval()
    for layer in model.modules():
        if isinstance(layer, (Conv, Linear)):
            weight, bias = folded(layer)
            layer.weight = nn.Parameter(weight.detach().contiguous())
            layer.bias = None if bias is None else nn.Parameter(bias.detach())
            layer.norm = layer.kernel = None
    return model.requires_grad_(False)
