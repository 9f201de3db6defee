"""Every record that crosses files. Frozen: a stage returns a new record, complete at birth.

Frame, unless a field says otherwise: boxes are xyxy float32 pixels of the padded network input, x2 and y2
exclusive. Records of a batch are flat: row i belongs to image ``image_index[i]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import ShapeError
from .ops.paste import paste_crop, paste_whole
from .ops.runs import to_crop

if TYPE_CHECKING:
    import pandas

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Image:
    """One decoded picture.

    pixels : (h, w, c) uint8, uint16 or float32 array, RGB for c = 3, upright (EXIF applied)
    source : the file it came from, or None for pixels that were handed in
    """

    pixels: np.ndarray
    source: Path | None = None

    @property
    def size(self) -> Size:
        """(h, w) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    index : its number in the video, from 0; frames that are lost or left out are counted
    time  : seconds since the video's first frame
    """

    image: Image
    index: int
    time: float


@dataclass(frozen=True, eq=False)
class Target:
    """The instances annotated in one image, as training wants them; n = 0 where it has none.

    boxes  : (n, 4) float32 xyxy, pixels of the original image
    labels : (n,) int64, index into the model's ``names``
    masks  : (n, h, w) bool, of the original image's size
    crowds : (c, 4) float32 xyxy, regions of many objects that are not told apart: neither object nor background
    labelled : (classes,) bool, the classes annotated in this image; others may be visible without a box.
             None: all classes

    Raises ShapeError for arrays that do not belong together, and for boxes without area.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    crowds: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    labelled: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        wanted = {
            "boxes": (tuple(self.boxes.shape) == (n, 4), torch.float32, f"({n}, 4)"),
            "labels": (self.labels.ndim == 1, torch.int64, "(n,)"),
            "masks": (self.masks.ndim == 3 and len(self.masks) == n, torch.bool, f"({n}, h, w)"),
            "crowds": (self.crowds.ndim == 2 and self.crowds.shape[1] == 4, torch.float32, "(c, 4)"),
        }
        if self.labelled is not None:
            wanted["labelled"] = (self.labelled.ndim == 1, torch.bool, "(classes,)")
        for name, (fits, dtype, shape) in wanted.items():
            got: Tensor = getattr(self, name)
            if not fits or got.dtype != dtype:
                raise ShapeError(f"{name}: want {shape} {dtype}, got {tuple(got.shape)} {got.dtype}")
        solid = (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1) & self.boxes.isfinite().all(dim=1)
        if not solid.all():
            row = int(torch.nonzero(~solid)[0])
            raise ShapeError(
                f"boxes: want x2 > x1 and y2 > y1 (xyxy pixels, x2 and y2 exclusive), got "
                f"{self.boxes[row].tolist()} in row {row}; leave such instances out, or turn xywh into xyxy"
            )


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images resized, normalised and padded to one size: what the backbone sees.

    pixels  : (b, c, h, w) float32
    windows : (b, 4) float32 xyxy, where each image's content lies in the padded frame
    sizes   : original (h, w) of each image
    """

    pixels: Tensor
    windows: Tensor
    sizes: tuple[Size, ...]

    @property
    def size(self) -> Size:
        """Padded (h, w)."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def to(self, device: torch.device) -> ImageBatch:
        """The same batch with its tensors on a device."""
        return ImageBatch(self.pixels.to(device), self.windows.to(device), self.sizes)


@dataclass(frozen=True, eq=False)
class AnchorScores:
    """What the region proposal network says of every anchor; levels one after the other.

    anchors    : (n, 4) xyxy
    objectness : (b, n) logits
    deltas     : (b, n, 4) raw dx, dy, dlogw, dlogh
    level_sizes: number of anchors of each level, P2 to P6
    """

    anchors: Tensor
    objectness: Tensor
    deltas: Tensor
    level_sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Candidate boxes of a batch, best first within each image.

    boxes (n, 4) · scores (n,) objectness 0..1 · image_index (n,) int64, ascending
    """

    boxes: Tensor
    scores: Tensor
    image_index: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes before NMS of the region proposal network: its top-k, decoded and clipped.

    boxes (n, 4) · scores (n,) 0..1 · image_index (n,) · anchor_index (n,) into AnchorScores.anchors
    · level (n,) 0 for P2
    """

    boxes: Tensor
    scores: Tensor
    image_index: Tensor
    anchor_index: Tensor
    level: Tensor


@dataclass(frozen=True, eq=False)
class BoxScores:
    """What the box head says of every proposal.

    class_logits : (n, classes + 1), background last
    deltas       : (n, classes, 4) raw; (n, 1, 4) when class-agnostic
    """

    class_logits: Tensor
    deltas: Tensor

    def map(self, rows: Callable[[Tensor], Tensor]) -> BoxScores:
        """The same function of both fields."""
        return BoxScores(rows(self.class_logits), rows(self.deltas))


@dataclass(frozen=True, eq=False)
class Detections:
    """Final boxes of a batch in the padded frame, best first within each image.

    boxes (n, 4) · labels (n,) int64 · scores (n,) 0..1 · image_index (n,) · roi_index (n,) into Proposals
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    image_index: Tensor
    roi_index: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, eq=False)
class Trace:
    """Every intermediate of one pass, in the order of the stages."""

    batch: ImageBatch
    backbone: tuple[Tensor, ...]  # C2..C5
    pyramid: tuple[Tensor, ...]  # P2..P6
    anchor_scores: AnchorScores
    candidates: Candidates
    proposals: Proposals
    roi_features: Tensor  # (n, c, 7, 7) for the proposals
    box_scores: BoxScores
    detections: Detections
    mask_features: Tensor  # (m, c, 14, 14) for the detections
    mask_logits: Tensor  # (m, 28, 28) of each detection's own class
    results: tuple[Result, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """The instances of one image, best first, on the CPU. Indexing gives a Result of fewer instances.

    boxes     : (n, 4) float32 xyxy, pixels of the original image
    labels    : (n,) int64, index into ``names``
    scores    : (n,) float32, 0..1, descending
    roi_masks : (n, m, m) float32 probabilities inside each box; dense masks, RLE and polygons are decoded
                from them when asked for, one instance at a time, inside the box
    names     : the class names of the model, background not among them
    size      : (h, w) of the original image
    image     : the picture itself, for drawing; its pixels are read again from the file where it came from one
    paste     : how a RoI mask becomes pixels, see `maskrcnn.ops.paste`
    runs      : masks that are decoded already, where tiles were put together (`maskrcnn.ops.runs`); ``roi_masks`` is
                (n, 0, 0) then
    ids       : (n,) int64, from 1: the same object has the same number in all frames of a video that is tracked
    frame, time : which frame of a video this is, from 0, and its seconds since the first
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    roi_masks: Tensor
    names: tuple[str, ...]
    size: Size
    image: Image | Path | None = field(default=None, repr=False)
    paste: Literal["aligned", "torchvision", "last_pixel", "skimage"] = "aligned"
    runs: tuple[np.ndarray, ...] | None = field(default=None, repr=False)
    ids: Tensor | None = None
    frame: int | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        n = self.boxes.shape[0]
        wanted = {"boxes": (n, 4), "labels": (n,), "scores": (n,)}
        if self.ids is not None:
            wanted["ids"] = (n,)
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ShapeError(f"{name}: want {shape}, got {tuple(getattr(self, name).shape)}")
        if self.runs is not None and len(self.runs) != n:
            raise ShapeError(f"runs: want {n} arrays, got {len(self.runs)}")
        if self.roi_masks.ndim != 3 or self.roi_masks.shape[0] != n:
            raise ShapeError(f"roi_masks: want ({n}, m, m), got {tuple(self.roi_masks.shape)}")

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, keep: int | slice | Sequence[int] | np.ndarray | Tensor) -> Result:
        index = torch.arange(len(self))[_index(keep)].reshape(-1)
        return replace(
            self, boxes=self.boxes[index], labels=self.labels[index], scores=self.scores[index],
            roi_masks=self.roi_masks[index], ids=None if self.ids is None else self.ids[index],
            runs=None if self.runs is None else tuple(self.runs[i] for i in index.tolist()),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Result]:
        return (self[i] for i in range(len(self)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class name of each instance."""
        return tuple(self.names[i] for i in self.labels.tolist())

    @property
    def pixels(self) -> np.ndarray | None:
        """(h, w, c) of the picture, read again from its file where it came from one; None if there is none."""
        from .inputs import read

        return read(self.image).pixels if self.image is not None else None

    def crop(self, i: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Instance i as a bool array inside its box, clipped to the image, and that array's (y, x) corner."""
        if self.runs is not None:
            return to_crop(self.runs[i])
        return paste_crop(self.roi_masks[i].numpy(), self.boxes[i].numpy(), self.size, self.paste)

    @property
    def masks(self) -> Tensor:
        """(n, h, w) bool, decoded anew at each access: n times the area of the image in bytes."""
        if self.runs is None:
            return torch.from_numpy(
                paste_whole(self.roi_masks.numpy(), self.boxes.numpy(), self.size, self.paste)
            )
        dense = np.zeros((len(self), *self.size), bool)
        for i in range(len(self)):
            crop, (y, x) = self.crop(i)
            dense[i, y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return torch.from_numpy(dense)

    def rle(self) -> list[dict[str, Any]]:
        """COCO run lengths of each instance, as pycocotools reads them: ``{"size": [h, w], "counts": str}``."""
        from .output import encode_crop, encode_runs

        if self.runs is not None:
            return [encode_runs(runs, self.size) for runs in self.runs]
        return [encode_crop(*self.crop(i), self.size) for i in range(len(self))]

    def polygons(self) -> list[list[np.ndarray]]:
        """Outlines of each instance: a list of (k, 2) float32 x, y arrays, one for each connected part."""
        from .output import crop_polygons

        return [crop_polygons(*self.crop(i)) for i in range(len(self))]

    def draw(self, **options: Any) -> np.ndarray:
        """The picture with its instances drawn on it, (h, w, 3) uint8; options as `maskrcnn.draw`."""
        from .output import draw

        return draw(self, **options)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write to ``path``; its ending chooses the form, see `maskrcnn.output.save`."""
        from .output import save

        return save(self, path, **options)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: one dict with image_id, category_id, bbox (xywh), score and segmentation (RLE) each."""
        from .output import to_coco

        return to_coco(self, image_id)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row an instance: name, score, box, area and centroid of the mask. Needs ``maskrcnn[tables]``."""
        from .output import to_dataframe

        return to_dataframe(self)


def _index(keep: Any) -> Any:
    """An index that a torch.arange takes: ints, slices, lists, bool and int arrays."""
    if isinstance(keep, (np.ndarray, list, tuple)):
        return torch.as_tensor(np.asarray(keep, dtype=np.int64 if len(keep) == 0 else None))
    return keep
