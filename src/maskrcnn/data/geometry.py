"""Moving a picture and its annotations together. Every move is one matrix, so that pixels are sampled once.

A matrix (2, 3) takes x, y of the picture to x, y of the result, in pixels, (0, 0) the corner of the first one.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ..records import Size, Target

SHRUNK = 0.75  # below this scale pixels are averaged first, since bilinear sampling would skip some


def identity() -> np.ndarray:
    """The move, (2, 3) from xy to xy pixels, that leaves all where it is."""
    return np.array([[1.0, 0, 0], [0, 1.0, 0]])


def then(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The move that does ``first``, then ``second``."""
    return (_square(second) @ _square(first))[:2]


def flip_horizontal(size: Size) -> np.ndarray:
    """Left becomes right."""
    return np.array([[-1.0, 0, size[1]], [0, 1.0, 0]])


def flip_vertical(size: Size) -> np.ndarray:
    """Top becomes bottom."""
    return np.array([[1.0, 0, 0], [0, -1.0, size[0]]])


def quarter_turns(size: Size, turns: int) -> tuple[np.ndarray, Size]:
    """``turns`` times a quarter turn counter-clockwise, as `numpy.rot90`; and the new (h, w)."""
    move = identity()
    for _ in range(turns % 4):
        move = then(move, np.array([[0, 1.0, 0], [-1.0, 0, size[1]]]))
        size = size[1], size[0]
    return move, size


def rotate_and_shear(size: Size, degrees: float, shear: float = 0.0) -> np.ndarray:
    """Turn clockwise on the screen about the centre, and shear x by ``shear`` pixels for each pixel of y."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ [[1, shear], [0, 1]]
    centre = np.array([size[1], size[0]]) / 2
    return np.column_stack((turn, centre - turn @ centre))


def scale(factor_x: float, factor_y: float) -> np.ndarray:
    """Stretch from the corner."""
    return np.array([[factor_x, 0.0, 0], [0, factor_y, 0]])


def shift(x: float, y: float) -> np.ndarray:
    """Move right and down."""
    return np.array([[1.0, 0, x], [0, 1.0, y]])


def move_pixels(pixels: np.ndarray, move: np.ndarray, size: Size, fill: np.ndarray) -> np.ndarray:
    """The picture (h, w, c) after a move, on a canvas of ``size``; dtype kept.

    fill : (c,) value of the canvas where the picture does not reach
    """
    move, factors = _split(move, pixels.shape[:2])
    parts = []
    for first in range(0, pixels.shape[2], 4):  # OpenCV fills the canvas of at most four channels
        part = np.ascontiguousarray(pixels[..., first : first + 4])
        if factors is not None:
            part = cv2.resize(part, factors[::-1], interpolation=cv2.INTER_AREA)
        border = fill[first : first + 4].tolist()
        part = cv2.warpAffine(part, _centres(move), size[::-1], flags=cv2.INTER_LINEAR, borderValue=border)
        parts.append(part.reshape(*size, -1))
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def move_target(target: Target, move: np.ndarray, size: Size, min_visible: float, min_area: float) -> Target:
    """The annotations after a move, on a canvas of ``size``; boxes are those of the moved masks.

    An instance of which less than ``min_visible`` of its area, or fewer than ``min_area`` pixels, is left on the
    canvas is no longer one; the box of what is left joins the crowds, since it is not background either.
    """
    area = abs(float(np.linalg.det(move[:, :2])))
    dense = np.zeros((len(target.labels), *size), bool)  # zeroed lazily: only the boxes cost memory bandwidth
    before = target.masks.numpy()
    whole = np.zeros(len(dense))
    for i, box in enumerate(target.boxes.numpy()):
        crop, corner = _around(before[i], box)
        whole[i] = crop.sum() * area
        _move_mask(crop, corner, move, dense[i])
    crowds = [_move_box(box, move, size) for box in target.crowds.numpy()]
    return rebuild(
        target, dense, whole, np.array([c for c in crowds if c is not None]), min_visible, min_area
    )


def rebuild(
    target: Target,
    masks: np.ndarray,
    whole: np.ndarray,
    crowds: np.ndarray,
    min_visible: float,
    min_area: float,
) -> Target:
    """A target of masks that have changed: their boxes, and leftovers as crowds.

    masks : (n, h, w) bool, for the labels of ``target``
    whole : (n,) area of each mask before something was taken from it
    """
    boxes = mask_boxes(masks)
    left = np.array([
        masks[i, int(y1) : int(y2), int(x1) : int(x2)].sum() for i, (x1, y1, x2, y2) in enumerate(boxes)
    ])  # fmt: skip
    good = (left >= max(min_area, 1)) & (left >= min_visible * whole) if len(left) else np.zeros(0, bool)
    scraps = boxes[(left > 0) & ~good] if len(left) else boxes
    return Target(
        torch.from_numpy(boxes[good]),
        target.labels[torch.from_numpy(good)],
        torch.from_numpy(masks if good.all() else masks[good]),
        torch.from_numpy(np.concatenate((crowds.reshape(-1, 4), scraps)).astype(np.float32)),
        target.labelled,
    )


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(n, 4) float32 xyxy of (n, h, w) bool masks, ends exclusive; zeros where one is empty."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _around(mask: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a mask that its box and four pixels around it hold, all of it if more is set; and its (y, x)."""
    h, w = mask.shape
    x1, y1 = np.maximum(np.floor(box[:2]).astype(int) - 4, 0).tolist()
    x2, y2 = np.minimum(np.ceil(box[2:]).astype(int) + 4, (w, h)).tolist()
    crop = mask[y1:y2, x1:x2]
    return (crop, (y1, x1)) if np.count_nonzero(crop) == np.count_nonzero(mask) else (mask, (0, 0))


def _move_mask(crop: np.ndarray, corner: tuple[int, int], move: np.ndarray, out: np.ndarray) -> None:
    """Draw a moved mask into ``out`` (h, w); a pixel is set where at least half of it is covered."""
    y, x = corner
    here = then(shift(x, y), move)
    h, w = crop.shape
    reach = _move_box(np.array([0, 0, w, h], float), here, out.shape)
    if reach is None:
        return
    x1, y1 = np.floor(reach[:2]).astype(int).tolist()
    x2, y2 = np.ceil(reach[2:]).astype(int).tolist()
    solid: np.ndarray = crop.astype(np.uint8) * 255
    move, factors = _split(then(here, shift(-x1, -y1)), (h, w))
    if factors is not None:
        solid = cv2.resize(solid, factors[::-1], interpolation=cv2.INTER_AREA)
    drawn = cv2.warpAffine(solid, _centres(move), (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR)
    out[y1:y2, x1:x2] = drawn >= 128


def _move_box(box: np.ndarray, move: np.ndarray, size: Size) -> np.ndarray | None:
    """The box around a moved box, clipped to the canvas; None where nothing is left."""
    x1, y1, x2, y2 = box.tolist()
    corners = np.array([[x1, x2, x2, x1], [y1, y1, y2, y2], [1, 1, 1, 1]])
    moved = move @ corners
    low = np.maximum(moved.min(1), 0)
    high = np.minimum(moved.max(1), size[::-1])
    return np.concatenate((low, high)) if (high > low).all() else None


def _split(move: np.ndarray, size: Size) -> tuple[np.ndarray, Size | None]:
    """A move that shrinks as averaging to a smaller (h, w) first, and the rest of it."""
    factor_x, factor_y = np.hypot(*move[:, 0]), np.hypot(*move[:, 1])
    if min(factor_x, factor_y) >= SHRUNK:
        return move, None
    h, w = max(round(size[0] * min(factor_y, 1)), 1), max(round(size[1] * min(factor_x, 1)), 1)
    return then(scale(size[1] / w, size[0] / h), move), (h, w)


def _centres(move: np.ndarray) -> np.ndarray:
    """The same move for OpenCV, which puts whole numbers at the centres of pixels."""
    return then(then(shift(0.5, 0.5), move), shift(-0.5, -0.5))


def _square(move: np.ndarray) -> np.ndarray:
    return np.vstack((move, [0, 0, 1]))
