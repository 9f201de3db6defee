"""Every setting of a model, as one frozen value. Change one with ``dataclasses.replace``.

`Config` holds what the arrays of a checkpoint decide (depth, widths, classes) and the numbers a user
turns (sizes, thresholds). `Dialect` holds how the framework that trained the checkpoint behaves, where
neither the arrays nor a number can say it. A stage reads the fields; no code asks where a file came from.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import ConfigError

Std4 = tuple[float, float, float, float]
RoIOp = Literal["align", "align_legacy", "crop_and_resize", "pool"]


@dataclass(frozen=True)
class Dialect:
    """The behaviour of one framework, stage by stage. The defaults are this package's own.

    Image
        resize        : ``short_side`` brings the short side to ``min_size`` unless the long one would exceed
                        ``max_size``; ``square``, ``pad64`` and ``none`` are Matterport's modes.
        size_rounding : how a scaled side becomes an integer; ``short_first`` rounds the short one, and cuts the
                        long one that fits it.
        resampler     : ``pil`` bilinear with antialiasing, ``opencv`` and ``torch`` bilinear without,
                        ``opencv_float`` so without rounding to uint8, ``skimage`` bilinear with zeros outside,
                        cut to uint8.
        centre_padding, black_padding : content in the middle; padding is black before the mean is taken off
                        (so -mean for the network) rather than 0 after it.
        pad_multiple  : padded sides are multiples of this.
        pad_to_batch  : images of a batch are padded to the largest one, whatever that does to the smaller, rather
                        than sharing a batch only with images of their own padded size.
    Backbone
        same_stem_pool : max pooling pads as TensorFlow's SAME (right and bottom first).
    Boxes
        inclusive_ends : sides are measured as x2 - x1 - 1, because boxes were normalised by size - 1.
        last_pixel_in  : the ends that count for pooling, clipping and the way back to the original pixels are the
                         last pixels inside, x2 - 1 and y2 - 1; sides are x2 - x1 all the same.
        delta_clamp    : cap on dlogw and dlogh; None for no cap.
        anchor_rounding, grid_strides : anchors are rounded; strides are padded size // grid size.
        anchor_offset  : of the first anchor's centre from the corner of the input, in strides.
        coarse_anchors : the sides are whole on an anchor as small as the stride, which is enlarged to its size.
    Suppression
        shift_up_to      : up to so many boxes, boxes of different levels or classes are kept apart by shifting them
                           in float32, which rounds their coordinates; beyond, and with 0, by comparing numbers.
        shift_from_one   : so shifted, the first class is number 1.
        rounded_overlap  : the overlap is compared with its limit in float32, else with the limit as it is.
        rank_probability : proposals are ranked by probability, of which confident ones are equal in float32, rather
                           than by logit.
    Proposals
        per_level        : top-k and NMS for each pyramid level, else over all together.
        pad_proposals    : fill up with zero boxes to the full count; they are real input to the heads.
        clip_to_padding  : clip proposals to the padded image rather than to its content.
        min_proposal     : smallest side kept, strictly greater (None keeps all).
    RoIs
        roi_op, sampling_ratio : the pooling operation and its samples per bin side (0 adapts to the box).
        level_rule       : position of the epsilon in floor(4 + log2(side / 224)), and whether it is large (1e-6
                           rather than 1e-8), MMDetection's floor(log2(side / 56 + 1e-6)) with 0 for P2, or
                           Matterport's rounding.
        inferred_scales  : the scale of a level is the power of two next to its rows / rows of the unpadded image,
                           which is not the stride when much padding is added to few rows; levels shift along.
    Detections
        min_detection    : smallest side kept, strictly greater, before NMS (None keeps all).
        best_class_only  : a RoI can only become its best class; else each class above the score.
        score_inclusive  : a score equal to the threshold passes.
        integer_boxes    : boxes in original pixels are rounded half to even, and drop out without area.
        paste            : how a RoI mask becomes pixels, see `maskrcnn.ops.paste`.
    """

    resize: Literal["short_side", "square", "pad64", "none"] = "short_side"
    size_rounding: Literal["half_up", "half_even", "floor", "short_first"] = "half_up"
    resampler: Literal["pil", "opencv", "opencv_float", "torch", "skimage"] = "pil"
    centre_padding: bool = False
    black_padding: bool = False
    pad_multiple: int = 32
    pad_to_batch: bool = False

    same_stem_pool: bool = False

    inclusive_ends: bool = False
    last_pixel_in: bool = False
    delta_clamp: float | None = 4.135166556742356  # log(1000 / 16)
    anchor_rounding: bool = False
    grid_strides: bool = False
    anchor_offset: float = 0.0
    coarse_anchors: bool = False

    shift_up_to: int = 0
    shift_from_one: bool = False
    rounded_overlap: bool = False
    rank_probability: bool = False

    per_level: bool = True
    pad_proposals: bool = False
    clip_to_padding: bool = False
    min_proposal: float | None = 0.0

    roi_op: RoIOp = "align"
    sampling_ratio: int = 2
    level_rule: Literal["floor_eps_inside", "floor_eps_large", "floor_eps_outside", "floor_56", "round"] = (
        "floor_eps_inside"
    )
    inferred_scales: bool = False

    min_detection: float | None = None
    best_class_only: bool = False
    score_inclusive: bool = False
    integer_boxes: bool = False
    paste: Literal["aligned", "torchvision", "last_pixel", "skimage"] = "aligned"


NATIVE = Dialect()

MATTERPORT = Dialect(
    resize="square",
    size_rounding="half_even",
    resampler="skimage",
    centre_padding=True,
    black_padding=True,
    pad_multiple=64,
    same_stem_pool=True,
    inclusive_ends=True,
    delta_clamp=None,
    rounded_overlap=True,
    per_level=False,
    pad_proposals=True,
    clip_to_padding=True,
    min_proposal=None,
    roi_op="crop_and_resize",
    sampling_ratio=1,
    level_rule="round",
    best_class_only=True,
    score_inclusive=True,
    integer_boxes=True,
    paste="skimage",
)

# torchvision keeps sides of at least 1e-3 and 1e-2 px; ours are strict, so these are the float32 just below.
TORCHVISION = Dialect(
    size_rounding="floor",
    resampler="torch",
    pad_to_batch=True,
    anchor_rounding=True,
    grid_strides=True,
    shift_up_to=1000,
    shift_from_one=True,
    rank_probability=True,
    min_proposal=0.0009999999310821295,
    roi_op="align_legacy",
    sampling_ratio=2,
    level_rule="floor_eps_outside",
    inferred_scales=True,
    min_detection=0.009999998845160007,
    paste="torchvision",
)

DETECTRON2 = Dialect(pad_to_batch=True, shift_up_to=1000, sampling_ratio=0)

# mmcv's batched_nms shifts below 10,000 boxes, and its nms takes the limit as a float.
MMDETECTION = Dialect(
    resampler="opencv",
    pad_to_batch=True,
    shift_up_to=9999,
    rounded_overlap=True,
    rank_probability=True,
    sampling_ratio=0,
    level_rule="floor_56",
)

MASKRCNN_BENCHMARK = Dialect(
    size_rounding="short_first",
    pad_to_batch=True,
    last_pixel_in=True,
    anchor_offset=0.5,
    coarse_anchors=True,
    rank_probability=True,
    min_proposal=None,
    roi_op="align_legacy",
    sampling_ratio=2,
    level_rule="floor_eps_large",
    paste="last_pixel",
)

DETECTRON = replace(MASKRCNN_BENCHMARK, size_rounding="half_even", resampler="opencv_float")

DIALECTS = {
    "native": NATIVE,
    "matterport": MATTERPORT,
    "torchvision": TORCHVISION,
    "detectron2": DETECTRON2,
    "mmdetection": MMDETECTION,
    "maskrcnn_benchmark": MASKRCNN_BENCHMARK,
    "detectron": DETECTRON,
}


@dataclass(frozen=True)
class Config:
    """One Mask R-CNN: architecture, input, thresholds, dialect.

    ``names`` lists the classes without background; its length is the number of classes. Sizes are pixels,
    thresholds 0..1, anchor ratios h/w ascending, ``mean`` one value a channel in the 0..255 range of the
    input (RGB). Standard deviations of the input are folded into the first convolution. ``rpn_std`` and
    ``box_std`` are the units of the predicted deltas dx, dy, dlogw, dlogh: a raw output times its std.
    """

    names: tuple[str, ...]

    # backbone: ResNet 18, 34 (basic blocks) or 50, 101, 152 (bottlenecks)
    depth: int = 50
    width: int = 64
    groups: int = 1  # of the 3x3 convolutions: ResNeXt
    group_width: int | None = None  # channels of each group in the first stage; None for width // groups
    channels: int = 3
    stride_in_1x1: bool = False
    # feature pyramid
    fpn_channels: int = 256
    fpn_norm: bool = False
    # region proposal network
    rpn_convs: int = 1
    rpn_channels: int = 256
    rpn_stride: int = 1
    rpn_std: Std4 = (1.0, 1.0, 1.0, 1.0)
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    # box head
    box_pool: int = 7
    box_convs: int = 0
    box_conv_norm: bool = False
    box_fcs: int = 2
    box_fc_norm: bool = False
    box_features: int = 1024
    box_std: Std4 = (0.1, 0.1, 0.2, 0.2)
    class_agnostic_boxes: bool = False
    # mask head: RoIs are pooled to half of mask_size, one deconvolution doubles them
    mask_size: int = 28
    mask_convs: int = 4
    mask_channels: int = 256
    mask_norm: bool = False
    class_agnostic_masks: bool = False

    # input
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    min_size: int = 800
    max_size: int = 1333
    min_scale: float = 0.0

    # selection
    rpn_nms: float = 0.7
    pre_nms: int = 1000
    proposals: int = 1000
    score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100

    dialect: Dialect = NATIVE

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        wanted = {
            "depth": (self.depth in (18, 34, 50, 101, 152), "18, 34, 50, 101 or 152"),
            "names": (len(self.names) > 0, "at least one class name, background not among them"),
            "mean": (len(self.mean) == self.channels, f"one value for each of {self.channels} channels"),
            "anchor_sizes": (len(self.anchor_sizes) == 5, "five groups, for P2 to P6"),
            "anchor_ratios": (
                list(self.anchor_ratios) == sorted(self.anchor_ratios) and min(self.anchor_ratios) > 0,
                "positive h/w ratios in ascending order",
            ),
            "mask_size": (
                self.mask_size >= 2 and self.mask_size % 2 == 0,
                "an even number, such as 28, 56 or 112",
            ),
            "score": (0 <= self.score <= 1, "0..1"),
            "nms": (0 <= self.nms <= 1, "0..1"),
            "rpn_nms": (0 <= self.rpn_nms <= 1, "0..1"),
            "min_size": (
                0 < self.min_size <= self.max_size,
                f"positive and at most max_size, {self.max_size}",
            ),
            "max_detections": (self.max_detections > 0, "a positive number"),
            "proposals": (self.proposals > 0, "a positive number"),
        }
        for field, (good, want) in wanted.items():
            if not good:
                raise ConfigError(f"{field}: want {want}, got {getattr(self, field)!r}")

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.names)

    @property
    def width_per_group(self) -> int:
        """Channels of each group in the first stage."""
        return self.group_width or self.width // self.groups

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one position of one level."""
        return len(self.anchor_sizes[0]) * len(self.anchor_ratios)

    def overlap(self, limit: float) -> float:
        """A limit of overlap as the dialect compares with it."""
        return struct.unpack("f", struct.pack("f", limit))[0] if self.dialect.rounded_overlap else limit

    def with_options(self, **options: Any) -> Config:
        """Replace fields of this configuration or of its dialect, by name; ``dialect`` may be a name of `DIALECTS`.

        Raises ConfigError for a name that neither has, listing those there are.
        """
        own = {f.name for f in dataclasses.fields(Config)}
        spoken = {f.name for f in dataclasses.fields(Dialect)}
        unknown = sorted(options.keys() - own - spoken)
        if unknown:
            known = ", ".join(sorted(own | spoken))
            raise ConfigError(f"unknown option {', '.join(unknown)}; there are: {known}")
        base = options.get("dialect", self.dialect)
        if isinstance(base, str):
            if base not in DIALECTS:
                raise ConfigError(f"dialect: want one of {', '.join(DIALECTS)}, got {base!r}")
            base = DIALECTS[base]
        dialect = dataclasses.replace(base, **{k: v for k, v in options.items() if k in spoken})
        fields = {k: v for k, v in options.items() if k in own}
        return dataclasses.replace(self, **{**fields, "dialect": dialect})

    def with_preset(self, name: str) -> Config:
        """Trade accuracy for time: one of `PRESETS` applied to these settings.

        Raises ConfigError for an unknown name.
        """
        if name not in PRESETS:
            raise ConfigError(f"preset: want one of {', '.join(PRESETS)}, got {name!r}")
        size, proposals = PRESETS[name]
        multiple = self.dialect.pad_multiple
        short = max(round(self.min_size * size), 1)
        long = (
            max(round(self.max_size * size / multiple) * multiple, multiple, short)
            if size < 1
            else self.max_size
        )
        return dataclasses.replace(
            self, min_size=short, max_size=long, proposals=min(self.proposals, proposals)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`.

        Raises ConfigError for unknown or missing fields.
        """
        values = dict(values)
        dialect = values.pop("dialect", {})
        if "names" not in values:
            raise ConfigError("names: want the class names, got none")
        base = Config(
            names=values["names"], channels=values.get("channels", 3), mean=values.get("mean", Config.mean)
        )
        return base.with_options(**values, **dialect)


# The sides of the network input, times this, and at most so many proposals. `maskrcnn bench` measures them.
PRESETS: dict[str, tuple[float, int]] = {"lean": (1.0, 300), "small": (0.75, 300), "tiny": (0.5, 100)}


def _tuples(value: Any) -> Any:
    """Lists and arrays become the tuples that a frozen value needs."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
