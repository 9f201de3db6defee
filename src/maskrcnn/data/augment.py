"""Augmentation: a picture and its annotations, changed together by chance. Chance is an explicit generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ConfigError, ShapeError
from ..records import Size, Target
from . import geometry as geo
from .colour import adjust, blur, mean, noise

Range = tuple[float, float]
Pair = tuple[np.ndarray, Target]


@dataclass(frozen=True)
class Recipe:
    """What may happen to a training picture. The defaults only flip it.

    flip, flip_vertical, quarter_turns : probabilities
    rotate     : up to so many degrees either way
    shear      : up to so many pixels of x for each pixel of y, either way
    crop       : sides of a window cut out at a random place, as shares of the picture's; (1, 1) is all of it
    size       : (h, w) of every result; None leaves sizes as they come
    scale      : factor of both sides, drawn evenly on a log scale. With ``size`` it is relative to the picture
                 fitted into it; what is larger is cropped and what is smaller is padded, at a random place.
                 Large-scale jitter is (0.1, 2.0) (Ghiasi et al. 2021)
    brightness, contrast, saturation : factors from 1 - value to 1 + value
    hue        : up to so many degrees either way
    grey       : probability of no colour at all
    noise      : deviation up to this share of the full range
    blur       : sigma up to so many pixels
    copy_paste : probability that instances of another sample are pasted on (Ghiasi et al. 2021)
    paste_share : probability of each of its instances
    min_visible, min_area : an instance of which less is left, as a share of its area or in pixels, joins the crowds
    fill       : value of the canvas for each channel; None is the picture's mean
    """

    flip: float = 0.5
    flip_vertical: float = 0.0
    quarter_turns: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    crop: Range = (1.0, 1.0)
    size: Size | None = None
    scale: Range = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    copy_paste: float = 0.0
    paste_share: float = 0.5
    min_visible: float = 0.1
    min_area: float = 4.0
    fill: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        chances = ("flip", "flip_vertical", "quarter_turns", "grey", "copy_paste", "paste_share", "min_visible",
                   "brightness", "contrast", "saturation")  # fmt: skip
        wanted = {name: (0 <= getattr(self, name) <= 1, "0..1") for name in chances}
        wanted["crop"] = (0 < self.crop[0] <= self.crop[1] <= 1, "two shares, 0 < low <= high <= 1")
        wanted["scale"] = (0 < self.scale[0] <= self.scale[1], "two factors, 0 < low <= high")
        wanted["size"] = (self.size is None or min(self.size) > 0, "(h, w) in pixels, or None")
        for name, (good, want) in wanted.items():
            if not good:
                raise ConfigError(f"{name}: want {want}, got {getattr(self, name)!r}")


def augment(
    pixels: np.ndarray,
    target: Target,
    recipe: Recipe,
    rng: np.random.Generator,
    other: Callable[[], Pair] | None = None,
) -> Pair:
    """One random variant of a picture and its annotations.

    pixels : (h, w, c) uint8, uint16 or float32, any number of channels; where grey and RGB pictures are mixed, brought
             to those of the model first (`maskrcnn.inputs.to_channels`)
    target : its annotations; masks of the same (h, w)
    other  : gives a second sample, for copy-paste; called only where it is to happen

    Returns new pixels of the same dtype, and a Target whose boxes are those of its masks.
    Raises ShapeError where masks and picture differ in size, or the two samples in channels.
    """
    _check(pixels, target)
    moved, annotated = _move(pixels, target, recipe, rng)
    if other is not None and rng.random() < recipe.copy_paste:
        theirs, their_target = other()
        _check(theirs, their_target)
        same_canvas = dataclasses.replace(recipe, size=moved.shape[:2])
        moved, annotated = copy_paste(
            moved, annotated, *_move(theirs, their_target, same_canvas, rng), recipe, rng
        )
    return _recolour(moved, recipe, rng), annotated


def plan(size: Size, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, Size]:
    """A random move for a picture of ``size``, see `geometry`, and the (h, w) of its result."""
    move = geo.identity()
    if rng.random() < recipe.flip:
        move = geo.then(move, geo.flip_horizontal(size))
    if rng.random() < recipe.flip_vertical:
        move = geo.then(move, geo.flip_vertical(size))
    if rng.random() < recipe.quarter_turns:
        turn, size = geo.quarter_turns(size, int(rng.integers(1, 4)))
        move = geo.then(move, turn)
    if recipe.rotate or recipe.shear:
        degrees, shear = rng.uniform(-1, 1, 2) * (recipe.rotate, recipe.shear)
        move = geo.then(move, geo.rotate_and_shear(size, degrees, shear))
    window = tuple(
        max(round(side * share), 1) for side, share in zip(size, rng.uniform(*recipe.crop, 2), strict=True)
    )
    y, x = (float(rng.integers(0, side - part + 1)) for side, part in zip(size, window, strict=True))
    move = geo.then(move, geo.shift(-x, -y))
    low, high = np.log(recipe.scale)
    factor = float(np.exp(rng.uniform(low, high)))
    canvas = recipe.size
    if canvas is not None:
        factor *= min(canvas[0] / window[0], canvas[1] / window[1])
    h, w = (max(round(side * factor), 1) for side in window)
    move = geo.then(move, geo.scale(w / window[1], h / window[0]))
    if canvas is None:
        return move, (h, w)
    y, x = (round(rng.uniform(min(room, 0), max(room, 0))) for room in (canvas[0] - h, canvas[1] - w))
    return geo.then(move, geo.shift(x, y)), canvas


def copy_paste(
    pixels: np.ndarray, target: Target, theirs: np.ndarray, their_target: Target, recipe: Recipe,
    rng: np.random.Generator,
) -> Pair:  # fmt: skip
    """Paste random instances of a second picture of the same size onto the first.

    Masks that they cover lose those pixels; what is then too small, by the recipe, joins the crowds. Only classes that
    are labelled in the first picture are pasted: there an object of another class counts neither way.
    """
    if pixels.shape != theirs.shape or pixels.dtype != theirs.dtype:
        raise ShapeError(f"copy-paste: want pictures of one shape and dtype, got {pixels.shape} {pixels.dtype} and "
                         f"{theirs.shape} {theirs.dtype}")  # fmt: skip
    chosen = torch.from_numpy(rng.random(len(their_target.labels)) < recipe.paste_share)
    if target.labelled is not None:
        chosen &= target.labelled[their_target.labels]
    if not chosen.any():
        return pixels, target
    pasted = their_target.masks[chosen]
    cover = np.logical_or.reduce(pasted.numpy(), axis=0)
    masks = target.masks.numpy()
    left, crowds = masks & ~cover, target.crowds.numpy()
    kept = geo.rebuild(target, left, masks.sum((1, 2)), crowds, recipe.min_visible, recipe.min_area)
    both = Target(
        torch.cat((kept.boxes, their_target.boxes[chosen])),
        torch.cat((kept.labels, their_target.labels[chosen])),
        torch.cat((kept.masks, pasted)),
        kept.crowds,
        target.labelled,
    )
    return np.where(cover[..., None], theirs, pixels), both


def _move(pixels: np.ndarray, target: Target, recipe: Recipe, rng: np.random.Generator) -> Pair:
    size: Size = pixels.shape[:2]
    move, canvas = plan(size, recipe, rng)
    fill = mean(pixels) if recipe.fill is None else np.array(recipe.fill)
    if len(fill) != pixels.shape[2]:
        raise ShapeError(f"fill: want {pixels.shape[2]} values, one for each channel, got {len(fill)}")
    moved = geo.move_pixels(pixels, move, canvas, fill)
    return moved, geo.move_target(target, move, canvas, recipe.min_visible, recipe.min_area)


def _recolour(pixels: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * (
        recipe.brightness, recipe.contrast, recipe.saturation
    )  # fmt: skip
    hue = rng.uniform(-1, 1) * recipe.hue
    if rng.random() < recipe.grey:
        saturation = 0.0
    if (brightness, contrast, saturation, hue) != (1, 1, 1, 0):
        pixels = adjust(pixels, brightness, contrast, saturation, hue)
    if recipe.blur:
        sigma = rng.uniform(0, recipe.blur)
        pixels = blur(pixels, sigma) if sigma > 0.1 else pixels
    return noise(pixels, rng.uniform(0, recipe.noise), rng) if recipe.noise else pixels


def _check(pixels: np.ndarray, target: Target) -> None:
    if pixels.ndim != 3 or tuple(target.masks.shape[1:]) != pixels.shape[:2]:
        raise ShapeError(
            f"want pixels (h, w, c) and masks (n, h, w) of one size, got {pixels.shape} and {tuple(target.masks.shape)}"
        )
