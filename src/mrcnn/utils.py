"""Boxes, masks, images, metrics and `Dataset`, under the names that scripts import."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.errors import MissingExtraError
from maskrcnn.evaluate.matterport import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_overlaps_masks,
    compute_recall,
)
from maskrcnn.inputs import read
from maskrcnn.legacy import images as _images
from maskrcnn.legacy.boxes import (
    apply_box_deltas,
    box_refinement,
    compute_iou,
    compute_overlaps,
    denorm_boxes,
    extract_bboxes,
    generate_anchors,
    generate_pyramid_anchors,
    non_max_suppression,
    norm_boxes,
    trim_zeros,
)
from maskrcnn.legacy.functions import box_refinement as box_refinement_graph
from maskrcnn.legacy.images import expand_mask, minimize_mask, resize_image, resize_mask, unmold_mask
from maskrcnn.weights.catalog import MODELS
from maskrcnn.weights.download import fetch

__all__ = [
    "COCO_MODEL_URL", "Dataset", "apply_box_deltas", "batch_slice", "box_refinement", "box_refinement_graph",
    "compute_ap", "compute_ap_range", "compute_iou", "compute_matches", "compute_overlaps",
    "compute_overlaps_masks", "compute_recall", "denorm_boxes", "download_trained_weights", "expand_mask",
    "extract_bboxes", "generate_anchors", "generate_pyramid_anchors", "minimize_mask", "mold_mask",
    "non_max_suppression", "norm_boxes", "resize", "resize_image", "resize_mask", "trim_zeros", "unmold_mask",
]  # fmt: skip

COCO_MODEL_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"


def mold_mask(mask: np.ndarray, config: Any) -> None:
    """Does nothing, as it always did."""


def batch_slice(
    inputs: Any, graph_fn: Callable[..., Any], batch_size: int, names: Sequence[str] | None = None
) -> Any:
    """Call ``graph_fn`` with row i of every input, for each i, and stack what it returns.

    inputs : tensors or arrays, or a list of them; the result is one of its kind, or a list of as many as
             ``graph_fn`` returns. ``names`` named the nodes of a graph that no longer exists.
    """
    inputs = inputs if isinstance(inputs, list) else [inputs]
    rows = [graph_fn(*(x[i] for x in inputs)) for i in range(batch_size)]
    columns = list(zip(*(row if isinstance(row, (tuple, list)) else (row,) for row in rows), strict=True))
    stacked = [
        torch.stack(column) if isinstance(column[0], torch.Tensor) else np.stack(column) for column in columns
    ]
    return stacked if len(stacked) > 1 else stacked[0]


def download_trained_weights(coco_model_path: str, verbose: int = 1) -> None:
    """Fetch the COCO weights to this path, unless they are there; resumed and checked. Raises DownloadError."""
    if verbose > 0:
        print("Downloading pretrained model to " + str(coco_model_path) + " ...")
    published = {weights.url: weights.size for weights in MODELS.values()}
    size = published.get(COCO_MODEL_URL)  # unknown where a script has put another address there
    fetch(COCO_MODEL_URL, Path(coco_model_path), size=size, progress=verbose > 0)
    if verbose > 0:
        print("... done downloading pretrained model!")


def resize(
    image: np.ndarray, output_shape: Sequence[int], order: int = 1, mode: str = "constant", cval: float = 0,
    clip: bool = True, preserve_range: bool = False, anti_aliasing: bool = False,
    anti_aliasing_sigma: float | None = None,
) -> np.ndarray:  # fmt: skip
    """scikit-image's resize. With these defaults nothing else is needed; other arguments need scikit-image.

    A bool image becomes 0.0 and 1.0, where scikit-image itself refuses it.
    """
    if (order, mode, cval, clip, anti_aliasing) == (1, "constant", 0, True, False):
        return _images.resize(image, output_shape, preserve_range)
    try:
        from skimage.transform import resize as general
    except ImportError:
        raise MissingExtraError(
            "resize: only order=1, mode='constant', cval=0, clip=True without anti_aliasing is built in; "
            "for other arguments: pip install scikit-image"
        ) from None
    return general(
        image, output_shape, order=order, mode=mode, cval=cval, clip=clip, preserve_range=preserve_range,
        anti_aliasing=anti_aliasing, anti_aliasing_sigma=anti_aliasing_sigma,
    )  # fmt: skip


class Dataset:
    """A list of images with classes; derive from it, and override `load_mask` and `image_reference`.

    Call `add_class` and `add_image` in a method of your own, then `prepare`.
    """

    def __init__(self, class_map: Any = None) -> None:
        self._image_ids: Any = []
        self.image_info: list[dict[str, Any]] = []
        self.class_info: list[dict[str, Any]] = [{"source": "", "id": 0, "name": "BG"}]  # background is first
        self.source_class_ids: dict[str, list[int]] = {}

    def add_class(self, source: str, class_id: int, class_name: str) -> None:
        """Add a class of a source, unless it is there."""
        if "." in source:
            raise ValueError(f"source: want a name without a dot, got {source!r}")
        if not any(info["source"] == source and info["id"] == class_id for info in self.class_info):
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source: str, image_id: Any, path: str | None, **kwargs: Any) -> None:
        """Add an image; further arguments are kept in its `image_info`."""
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def image_reference(self, image_id: int) -> str:
        """Where an image came from, for people to read; override it."""
        return ""

    def prepare(self, class_map: Any = None) -> None:
        """Number classes and images; call it when all are added."""
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)
        self.class_from_source_map = {
            f"{info['source']}.{info['id']}": i for i, info in enumerate(self.class_info)
        }
        self.image_from_source_map = {
            f"{info['source']}.{info['id']}": i for i, info in enumerate(self.image_info)
        }
        self.sources = list({info["source"] for info in self.class_info})
        self.source_class_ids = {
            source: [i for i, info in enumerate(self.class_info) if i == 0 or info["source"] == source]
            for source in self.sources
        }

    def map_source_class_id(self, source_class_id: str) -> int:
        """Our class id of one such as ``coco.12``."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id: int, source: str) -> Any:
        """The id that a source gives to one of our classes."""
        info = self.class_info[class_id]
        assert info["source"] == source, f"class {class_id} is of source {info['source']!r}, not {source!r}"
        return info["id"]

    @property
    def image_ids(self) -> Any:
        """Indices of the images."""
        return self._image_ids

    def source_image_link(self, image_id: int) -> str | None:
        """The path of an image."""
        return self.image_info[image_id]["path"]

    def load_image(self, image_id: int) -> np.ndarray:
        """(h, w, 3) pixels as the file has them, whose EXIF orientation masks do not follow; grey is repeated,
        alpha is dropped."""
        pixels = read(self.image_info[image_id]["path"], keep_alpha=True, upright=False).pixels
        return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks (h, w, n) bool and class ids (n,) int32; override it: this one has none."""
        logging.warning("You are using the default load_mask(), maybe you need to define your own one.")
        return np.empty([0, 0, 0]), np.empty([0], np.int32)
