"""Mask R-CNN: the rooms of this folder, one after the other. (He et al. 2017, figure 1.)"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError, ImageError, WeightsError
from ..inputs import Source, Video, expand, is_many, is_video, open_large, open_video, read, read_ahead
from ..records import Detections, Frame, Image, ImageBatch, Result, Target, Trace
from ..tiles import predict_tiles
from ..track import Tracking, followed
from ..words import many
from .box_head import BoxHead, detect
from .fpn import FPN
from .image import batches, to_batch
from .losses import Sampled, total_losses
from .mask_head import MaskHead
from .pooling import pool_rois, pooled_scales
from .resnet import ResNet
from .restore import restore
from .rpn import RPN, choose, suppress
from .targets import PAPER, Sampling, check_targets, is_complete, sample_anchors, sample_rois, to_padded


class Engine(Protocol):
    """What may predict in a model's place; see `maskrcnn.engines`."""

    def __call__(self, images: Sequence[Image], config: Config, wanted: Tensor | None) -> list[Result]:
        """Results of decoded images; ``config`` and ``wanted`` as in `MaskRCNN.forward`."""


class MaskRCNN(nn.Module):
    """The whole network.

    ``backbone`` may be any module that turns (b, c, h, w) into C2..C5 at strides 4 to 32 and says in
    ``channels`` how wide these are. ``source`` says where the weights came from, for people to read.
    """

    engine: Engine | None = None

    def __init__(
        self, config: Config, backbone: nn.Module | None = None, source: str = "random weights"
    ) -> None:
        super().__init__()
        self.config = config
        self.source = source
        self.untrained: tuple[str, ...] = ()  # classes whose heads are still random: prediction is refused
        self.backbone = ResNet(config) if backbone is None else backbone
        self.fpn = FPN(config, self.backbone.channels)  # type: ignore[arg-type]
        self.rpn = RPN(config)
        self.box = BoxHead(config)
        self.mask = MaskHead(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, background not among them."""
        return self.config.names

    def check_trained(self) -> None:
        """Raises ConfigError for a model with ``untrained`` classes, which may neither predict nor be written."""
        if self.untrained:
            raise ConfigError(
                f"want a trained network, got random weights for the classes {', '.join(self.untrained)}; train it, "
                "or set model.untrained = () to go on all the same"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.rpn.objectness.weight.device

    def extra_repr(self) -> str:
        """Depth, classes, channels and source, as `print` shows them."""
        c = self.config
        sizes = f"{many(c.num_classes, 'class', 'es')}, {many(c.channels, 'channel')}"
        return f"ResNet-{c.depth}-FPN, {sizes}, from {self.source}"

    def forward(
        self,
        batch: ImageBatch,
        config: Config | None = None,
        wanted: Tensor | None = None,
        keep: Callable[..., None] = lambda **stage: None,
    ) -> tuple[Detections, Tensor]:
        """Detections of a batch in the padded frame, and their mask probabilities (n, 28, 28).

        config : thresholds and limits for this pass, in place of the model's own
        wanted : (classes,) bool, which classes may be detected; None for all
        keep   : called with each intermediate, under its name in `Trace`
        """
        config = config or self.config
        if self.device.type == "meta":
            raise ConfigError(
                f"want weights, got the exported graph of {self.source}, which predicts and no more; "
                "load the weights that it was made from"
            )
        backbone = list(self.backbone(batch.pixels))
        keep(backbone=tuple(backbone))
        pyramid = self.fpn(backbone)
        keep(pyramid=pyramid)

        anchor_scores = self.rpn(pyramid, batch, config)
        candidates = choose(anchor_scores, batch, config)
        proposals = suppress(candidates, anchor_scores, batch, config)
        keep(anchor_scores=anchor_scores, candidates=candidates, proposals=proposals)

        scales = pooled_scales(pyramid, batch, config)
        rois = pool_rois(
            pyramid, proposals.boxes, proposals.image_index, batch.size, config.box_pool, config, scales
        )
        box_scores = self.box(rois.values).map(rois.restore)
        keep(roi_features=rois, box_scores=box_scores)
        del rois

        detections = detect(box_scores, proposals, batch, config, wanted)
        rois = pool_rois(
            pyramid,
            detections.boxes,
            detections.image_index,
            batch.size,
            config.mask_size // 2,
            config,
            scales,
        )
        mask_logits = rois.restore(self.mask(rois.values, rois.arrange(detections.labels)))
        keep(detections=detections, mask_features=rois, mask_logits=mask_logits)
        return detections, mask_logits.sigmoid()

    def losses(
        self,
        images: Sequence[Image],
        targets: Sequence[Target],
        generator: torch.Generator | None = None,
        sampling: Sampling = PAPER,
        config: Config | None = None,
        average: Callable[[Tensor], Tensor] = lambda counts: counts,
    ) -> dict[str, Tensor]:
        """The five losses of annotated images by name, scalars with gradients; their sum is to be minimised.

        targets   : one for each image, in pixels of that image
        generator : of the CPU; draws the samples of anchors and proposals
        config    : in place of the model's own, for images that come resized
        average   : the mean over all processes of the counts that losses are divided by, so that the mean of
                    the gradients is that of one process with all images
        Images are grouped as in `predict_images`, so no image's features depend on the others' sizes. Raises
        ShapeError where a target does not fit its image, ConfigError for labels that the model does not have.
        """
        config = config or self.config
        check_targets(images, targets, config.num_classes)
        parts = [
            self._sampled(batch.to(self.device), [targets[i] for i in group], generator, sampling, config)
            for group, batch in batches(images, config)
        ]
        return total_losses(Sampled.join(parts), len(images) * sampling.anchors, average)

    def _sampled(
        self,
        batch: ImageBatch,
        targets: Sequence[Target],
        generator: torch.Generator | None,
        sampling: Sampling,
        config: Config,
    ) -> Sampled:
        pyramid = self.fpn(list(self.backbone(batch.pixels)))
        scores = self.rpn(pyramid, batch, config)
        truths, crowds = (
            [
                to_padded(boxes.to(self.device), window, size)
                for boxes, window, size in zip(several, batch.windows, batch.sizes, strict=True)
            ]
            for several in ([t.boxes for t in targets], [t.crowds for t in targets])
        )
        complete = [is_complete(t, sampling.rpn_complete) for t in targets]
        anchors = sample_anchors(scores.anchors, truths, config, sampling, generator, crowds, complete)
        with torch.no_grad():  # proposals are where to look, not something to learn through
            proposals = suppress(choose(scores, batch, config), scores, batch, config)
        rois = sample_rois(proposals, truths, targets, batch, config, sampling, generator)

        scales = pooled_scales(pyramid, batch, config)
        pooled = pool_rois(pyramid, rois.boxes, rois.image_index, batch.size, config.box_pool, config, scales)
        box = self.box(pooled.values).map(pooled.restore)
        positive = torch.nonzero(rois.labels < config.num_classes).squeeze(1)
        labels, images = rois.labels[positive], rois.image_index[positive]
        deltas = box.deltas[positive, torch.zeros_like(labels) if config.class_agnostic_boxes else labels]
        side = config.mask_size // 2
        pooled = pool_rois(pyramid, rois.boxes[positive], images, batch.size, side, config, scales)
        masks = pooled.restore(self.mask(pooled.values, pooled.arrange(labels)))
        at = anchors.image_index, anchors.anchor_index
        return Sampled(
            scores.objectness[at], anchors.is_object, scores.deltas[at][anchors.is_object], anchors.wanted,
            box.class_logits, rois.labels, rois.competing, deltas, rois.wanted, masks, rois.masks,
        )  # fmt: skip

    @torch.inference_mode()
    def predict_images(
        self,
        images: Sequence[Image],
        *,
        score: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
    ) -> list[Result]:
        """Results of decoded images, in their order; the same as one by one, unless the dialect pads to the batch.

        score, max_detections: in place of the model's own; classes: names or indices to keep.
        Raises ImageError for an image that does not fit the model, ConfigError for an unknown class, and for a
        model with ``untrained`` classes.
        """
        self.check_trained()
        options = {"score": score, "max_detections": max_detections}
        config = self.config.with_options(**{k: v for k, v in options.items() if v is not None})
        wanted = None if classes is None else self._wanted(classes)
        if self.engine is not None:
            return self.engine(images, config, wanted)
        results: list[Result | None] = [None] * len(images)
        for group, batch in batches(images, config):
            detections, masks = self(batch.to(self.device), config, wanted)
            members = [images[i] for i in group]
            for i, result in zip(group, restore(detections, masks, batch, members, config), strict=True):
                results[i] = result
        return [r for r in results if r is not None]

    def predict(
        self,
        source: Any,
        *,
        score: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
        tile: int | None = None,
        overlap: float = 0.2,
        on_error: Callable[[Any, ImageError], None] | None = None,
    ) -> Any:
        """Find the instances in one image, or in each of many.

        source     : a path, URL, PIL image, HWC array, CHW tensor or bytes gives a `Result`; a list, folder,
                     glob or iterator gives an iterator of them, which reads ahead while the network works;
                     so does a video, a stream or a camera's number, see `predict_video`
        score      : least score, 0..1, in place of the model's own
        classes    : names or indices of the classes to look for
        batch_size : images, or tiles of one, that go through the network together
        tile       : cut each image into squares of this many pixels, predict these, and put the instances
                     together; for large images, which are read in windows where the file allows it.
                     ``max_detections`` is a tile's
        overlap    : share of a tile's side, 0..0.9, that neighbours have in common
        on_error   : called with the source and the error of one of many that cannot be read, which is then
                     left out; without it a warning says so. A single image raises its ImageError
        """
        options = {"score": score, "classes": classes, "max_detections": max_detections}
        if tile is not None:

            def tiled(one: Source) -> Result:
                with open_large(one, keep_alpha=self._keep_alpha) as picture:
                    finder = partial(self.predict_images, **options)  # type: ignore[arg-type]
                    return predict_tiles(finder, picture, self.names, tile, overlap, batch_size)

            return _each(expand(source), tiled, on_error) if is_many(source) else tiled(source)
        if is_video(source):
            return self.predict_video(source, batch_size=batch_size, **options)  # type: ignore[arg-type]
        if is_many(source):
            return self._predict_many(source, batch_size, on_error, options)
        return self.predict_images([read(source, keep_alpha=self._keep_alpha)], **options)[0]  # type: ignore[arg-type]

    def predict_video(
        self,
        source: str | os.PathLike[str] | int | Video,
        *,
        track: bool | Tracking = False,
        stride: int = 1,
        start: float = 0.0,
        end: float | None = None,
        score: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
    ) -> Iterator[Result]:
        """Find the instances in each frame of a video file, of a stream (rtsp, http, ...) or of camera 0, 1, ...

        track      : give the same object the same number in all frames, in ``ids``; how, if it is a `Tracking`
        stride     : take every so manyth frame
        start, end : take a part, in seconds since the first frame
        score, classes, max_detections, batch_size : as `predict`

        Yields a `Result` a frame, with ``frame`` and ``time``, and the picture in ``image``; memory stays constant
        if results are dropped. A live source that is too fast loses frames. Needs ``maskrcnn[video]``.
        Raises ImageError for what is not a video, now, and where one breaks off, after the frames before.
        """
        video = source
        if not isinstance(video, Video):
            video = open_video(video, stride=stride, start=start, end=end)
        options = {"score": score, "classes": classes, "max_detections": max_detections}
        return followed(self._predict_frames(video.frames, batch_size, options), track)

    def _predict_frames(self, frames: Iterator[Frame], batch_size: int, options: Any) -> Iterator[Result]:
        with closing(frames):  # type: ignore[type-var]
            while batch := list(islice(frames, batch_size)):
                results = self.predict_images([frame.image for frame in batch], **options)
                for frame, result in zip(batch, results, strict=True):
                    yield replace(result, frame=frame.index, time=frame.time)

    def _predict_many(
        self, source: Any, batch_size: int, on_error: Callable[[Any, ImageError], None] | None, options: Any
    ) -> Iterator[Result]:
        waiting: list[Image] = []
        for item, image in read_ahead(expand(source), keep_alpha=self._keep_alpha):
            if isinstance(image, ImageError):
                _leave_out(item, image, on_error)
                continue
            waiting.append(image)
            if len(waiting) == batch_size:
                yield from self.predict_images(waiting, **options)
                waiting = []
        if waiting:
            yield from self.predict_images(waiting, **options)

    @torch.inference_mode()
    def trace(self, source: Any, **options: Any) -> Trace:
        """One image's way through the network, every intermediate kept.

        options: fields of `Config` or `Dialect` for this pass only, such as ``score`` or ``roi_op``
        """
        config = self.config.with_options(**options)
        image = read(source, keep_alpha=self._keep_alpha)
        batch = to_batch([image], config).to(self.device)
        stages: dict[str, Any] = {}
        detections, masks = self(batch, config, keep=stages.update)
        for name in ("roi_features", "mask_features"):
            stages[name] = stages[name].restore(stages[name].values)
        results = restore(detections, masks, batch, [image], config)
        return Trace(batch=batch, results=tuple(results), **stages)

    @property
    def _keep_alpha(self) -> bool:
        """A model of four channels was trained on the fourth; for all others alpha is transparency."""
        return self.config.channels == 4

    def _wanted(self, classes: Sequence[str | int]) -> Tensor:
        wanted = torch.zeros(len(self.names), dtype=torch.bool)
        for item in classes:
            if isinstance(item, str) and item in self.names:
                wanted[self.names.index(item)] = True
            elif isinstance(item, int) and 0 <= item < len(self.names):
                wanted[item] = True
            else:
                raise ConfigError(
                    f"classes: want names or indices among {', '.join(self.names)}, got {item!r}"
                )
        return wanted


def _each(
    sources: Iterator[Source],
    find: Callable[[Source], Result],
    on_error: Callable[[Any, ImageError], None] | None,
) -> Iterator[Result]:
    for source in sources:
        try:
            result = find(source)
        except ImageError as error:
            _leave_out(source, error, on_error)
            continue
        yield result


def _leave_out(source: Any, error: ImageError, on_error: Callable[[Any, ImageError], None] | None) -> None:
    if on_error is None:
        warnings.warn(f"left out: {error}", stacklevel=3)
    else:
        on_error(source, error)


def load_arrays(config: Config, arrays: dict[str, Tensor], source: str | Path) -> MaskRCNN:
    """A model with these weights; every array is used, and none is missing.

    Raises WeightsError that lists what is left over on either side.
    """
    with torch.device("meta"):
        model = MaskRCNN(config, source=str(source))
    state = model.state_dict()
    missing = [f"missing {k} {tuple(v.shape)}" for k, v in state.items() if k not in arrays]
    extra = [f"left over {k} {tuple(v.shape)}" for k, v in arrays.items() if k not in state]
    wrong = [
        f"{k}: want {tuple(state[k].shape)}, got {tuple(v.shape)}"
        for k, v in arrays.items()
        if k in state and v.shape != state[k].shape
    ]
    if missing or extra or wrong:
        raise WeightsError(
            f"{source}: the arrays do not fit the network: " + "; ".join(missing + extra + wrong)
        )
    model.load_state_dict(arrays, assign=True)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
