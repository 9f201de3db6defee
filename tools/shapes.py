"""Generated pictures of discs, rectangles, triangles, rings and stars, with masks: the lessons of `shapes`.

No photograph goes in. What makes photographs hard is drawn instead: uneven light, shadows, relief, texture,
clutter that is no instance, perspective, overlap, blur, noise and JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from maskrcnn.records import Size, Target

NAMES = ("disc", "rectangle", "triangle", "ring", "star")
DISC, RING = 0, 3
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A kind of picture: how many instances, how large (as a share of the short side), of which classes."""

    count: tuple[int, int]
    side: tuple[float, float]
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    rows: bool = False  # in rows, nearly touching, seen from above
    relief: float = 0.35  # how likely an instance is embossed
    grey: float = 0.3


SCENES = (
    (0.36, Scene((1, 9), (0.12, 0.60))),
    (0.12, Scene((8, 26), (0.06, 0.20))),
    (0.14, Scene((1, 3), (0.40, 1.05))),
    (0.06, Scene((3, 25), (0.06, 0.35), classes=(DISC,), relief=0.7)),
    (0.27, Scene((9, 30), (0.11, 0.22), classes=(DISC,), rows=True, relief=0.95, grey=0.8)),
    (0.05, Scene((0, 0), (0.1, 0.2))),
)


def picture(rng: Rng, size: Size) -> tuple[np.ndarray, Target]:
    """One picture (h, w, 3) uint8 of this size, and its instances, each at least a third visible."""
    scene = SCENES[rng.choice(len(SCENES), p=[p for p, _ in SCENES])][1]
    canvas = background(rng, size, plain=scene.rows and rng.random() < 0.85)
    side = min(size)
    scale = rng.uniform(*scene.side) if scene.rows else 0.0
    places = _rows(rng, size, scale * side) if scene.rows else None
    palette = _colour(rng) if scene.rows or rng.random() < 0.2 else None
    masks: list[np.ndarray] = []
    labels: list[int] = []
    for i in range(rng.integers(scene.count[0], scene.count[1] + 1) if places is None else len(places)):
        label = int(rng.choice(scene.classes))
        if places is None:
            length = np.exp(rng.uniform(*np.log(scene.side))) * side
            centre = rng.uniform(0, 1, 2) * (size[1], size[0])
        else:
            length, centre = scale * side * rng.uniform(0.62, 1.0), places[i]
        polygons = outline(rng, label, centre, max(length, 12.0) / 2, upright=scene.rows)
        alpha = cover(polygons, size)
        mask = alpha > 0.5
        full = sum(cv2.contourArea(p.astype(np.float32)) * s for p, s in zip(polygons, (1, -1), strict=False))
        if mask.sum() < max(0.45 * full, 40) or _hides(mask, masks, 0.06 if scene.rows else 0.5):
            continue
        near = _around(mask, int(0.2 * length) + 3)  # nothing changes farther away
        canvas[near] = paint(rng, canvas[near], alpha[near], length, rng.random() < scene.relief, palette)
        for other in masks:
            other &= ~mask
        masks.append(mask)
        labels.append(label)
    return photograph(rng, canvas, scene.grey), to_target(masks, labels, size)


def to_target(masks: list[np.ndarray], labels: list[int], size: Size) -> Target:
    """Masks (h, w) with the boxes that enclose them."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for i, mask in enumerate(masks):
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        boxes[i] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    stack = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return Target(torch.from_numpy(boxes), torch.tensor(labels, dtype=torch.int64), torch.from_numpy(stack))


def outline(
    rng: Rng, label: int, centre: np.ndarray, radius: float, *, upright: bool = False
) -> list[np.ndarray]:
    """Outline (k, 2) in pixels, and the hole's if there is one; turned, tilted, in slight perspective."""
    name = NAMES[label]
    hole: np.ndarray | None = None
    if name in ("disc", "ring"):
        shape = _circle()
        if name == "ring":
            hole = shape * rng.uniform(0.45, 0.82)
    elif name == "rectangle":
        ratio = np.exp(rng.uniform(np.log(0.35), 0.0))
        shape = np.array([[-1, -ratio], [1, -ratio], [1, ratio], [-1, ratio]])
    elif name == "triangle":
        angles = np.array([0.0, 2.1, 4.2]) + rng.uniform(-0.35, 0.35, 3)
        shape = np.stack([np.cos(angles), np.sin(angles)], 1)
    else:
        points = int(rng.integers(5, 8))
        angles = np.arange(2 * points) * np.pi / points
        radii = np.where(np.arange(2 * points) % 2, rng.uniform(0.38, 0.58), 1.0)
        shape = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    tilt = rng.uniform(0.93, 1.0) if upright else rng.choice([1.0, rng.uniform(0.45, 1.0)])
    bend = rng.uniform(-0.02, 0.02, 2) if upright else rng.uniform(-0.15, 0.15, 2)
    first, second = _turn(rng.uniform(0, 2 * np.pi)), _turn(rng.uniform(-0.6, 0.6))
    wobble = rng.normal(0, 0.008 if upright else 0.004, (6, 2))

    def place(points: np.ndarray) -> np.ndarray:
        points = points @ first.T
        points = points / (1 + points @ bend)[:, None] * (1.0, tilt) @ second.T
        angle = np.arctan2(points[:, 1], points[:, 0])
        waves = sum(a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(wobble, 2))
        return points * (1 + waves)[:, None] * radius + centre

    return [place(shape)] if hole is None else [place(shape), place(hole)]


def cover(polygons: list[np.ndarray], size: Size) -> np.ndarray:
    """How much of each pixel lies inside, (h, w) float32 0..1: even-odd over the polygons."""
    alpha = np.zeros(size, np.uint8)
    points = [np.round((p - 0.5) * 16).astype(np.int32) for p in polygons]
    cv2.fillPoly(alpha, points, 255, cv2.LINE_AA, 4)
    return alpha.astype(np.float32) / 255


def background(rng: Rng, size: Size, *, plain: bool = False) -> np.ndarray:
    """(h, w, 3) float32 0..255: a gradient, texture, stripes, and clutter that is no instance."""
    low, high = _colour(rng), _colour(rng)
    if plain:
        low = np.full(3, rng.uniform(15, 150)) + rng.normal(0, 5, 3)
        high = low * rng.uniform(0.5, 1.4)
    blend = _noise(rng, size, rng.choice([2, 3, 5, 9]))[..., None]
    canvas = low + (high - low) * blend * (1.0 if plain else rng.uniform(0.1, 1.0))
    for cells in (16, 48, 140):
        canvas = canvas + (_noise(rng, size, cells)[..., None] - 0.5) * rng.choice(
            [0, rng.uniform(5, 25 if plain else 60)]
        )
    canvas = canvas.astype(np.float32)
    if not plain:
        if rng.random() < 0.25:
            canvas = canvas + _stripes(rng, size)[..., None]
        for _ in range(int(rng.choice([0, 3, 12]))):
            clutter(rng, canvas)
    return canvas


def clutter(rng: Rng, canvas: np.ndarray) -> None:
    """Draw something that is none of the classes: a line, a curve, letters, a blob, a crescent. In place."""
    h, w = canvas.shape[:2]
    colour = tuple(float(c) for c in _colour(rng))
    at = (int(rng.integers(w)), int(rng.integers(h)))
    kind = rng.integers(5)
    thick = int(rng.integers(1, 7))
    if kind == 0:
        cv2.line(canvas, at, (int(rng.integers(w)), int(rng.integers(h))), colour, thick, cv2.LINE_AA)
    elif kind == 1:
        axes = tuple(int(a) for a in rng.integers(8, w // 2, 2))
        start = float(rng.uniform(0, 360))
        cv2.ellipse(canvas, at, axes, start, 0, float(rng.uniform(30, 170)), colour, thick, cv2.LINE_AA)
    elif kind == 2:
        text = "".join(rng.choice(list("ABEFGHKMNRSTWXYZ247"), int(rng.integers(1, 6))))
        ink = np.zeros((h, w), np.uint8)
        cv2.putText(
            ink, text, at, int(rng.integers(0, 5)), float(rng.uniform(0.4, 3)), 255, thick, cv2.LINE_AA
        )
        canvas[ink > 127] = colour
    else:
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = sum(rng.uniform(-0.25, 0.25) * np.cos(k * angle + rng.uniform(0, 6)) for k in (1, 2, 3, 4, 5))
        radius = rng.uniform(8, w / 4) * (1 + waves)
        if np.ptp(waves) < 0.5:
            radius = radius * (1 + 0.5 * np.sign(np.cos(2 * angle)) * np.abs(np.cos(2 * angle)) ** 0.5)
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] + at
        cv2.fillPoly(canvas, [points.astype(np.int32)], colour, cv2.LINE_AA)


def paint(
    rng: Rng, canvas: np.ndarray, alpha: np.ndarray, length: float, embossed: bool, palette: np.ndarray | None
) -> np.ndarray:
    """The canvas with one instance on it: its shadow, its surface, its rim."""
    size = alpha.shape
    light = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:
        shift = np.array([[1, 0, np.cos(light)], [0, 1, np.sin(light)]])
        shift[:, 2] *= -rng.uniform(0.02, 0.12) * length
        shadow = cv2.warpAffine(alpha, shift, size[::-1])
        shadow = cv2.GaussianBlur(shadow, (0, 0), max(length * rng.uniform(0.01, 0.08), 0.6))
        canvas = canvas * (1 - rng.uniform(0.2, 0.75) * shadow[..., None])
    under = canvas[alpha > 0.5].mean(axis=0)
    colour = _colour(rng) if palette is None else palette * rng.uniform(0.75, 1.25) + rng.normal(0, 8, 3)
    for _ in range(9):  # an instance that nobody could see teaches nothing
        if np.abs(colour - under).max() > 22:
            break
        colour = _colour(rng) if palette is None else np.clip(colour + rng.uniform(-40, 60), 0, 255)
    surface = np.broadcast_to(colour, (*size, 3)).astype(np.float32)
    gradient = _ramp(size, light, length)
    surface = (
        surface
        + (
            gradient * rng.uniform(0, 22)
            + (_noise(rng, size, max(min(size) // 2, 2)) - 0.5) * rng.uniform(0, 40)
        )[..., None]
    )
    if rng.random() < 0.25:
        surface = surface + _stripes(rng, size)[..., None] * 0.8
    if rng.random() < 0.5 or embossed:
        height = cv2.GaussianBlur(alpha, (0, 0), max(length * rng.uniform(0.01, 0.06), 0.7))
        surface = surface + _emboss(height, light, rng.uniform(20, 160))[..., None]
    if embossed:
        height = relief(rng, alpha, length)
        surface = surface + _emboss(height, light, rng.uniform(40, 170))[..., None]
        surface = surface + height[..., None] * rng.uniform(-25, 25)
    if rng.random() < 0.2:
        rim = alpha - cv2.erode(
            alpha, np.ones((3, 3)), iterations=max(int(length * rng.uniform(0.02, 0.08)), 1)
        )
        surface = surface * (1 - rim[..., None]) + _colour(rng).astype(np.float32) * rim[..., None]
    cover_ = alpha[..., None]
    return (canvas * (1 - cover_) + surface * cover_).astype(np.float32)


def relief(rng: Rng, alpha: np.ndarray, length: float) -> np.ndarray:
    """A height field 0..1 as on a coin: blobs, strokes, letters round the middle, a raised circle; (h, w)."""
    ys, xs = np.nonzero(alpha > 0.5)
    centre, radius = np.array([xs.mean(), ys.mean()]), length / 2
    height = np.zeros(alpha.shape, np.float32)
    for _ in range(int(rng.integers(1, 7))):
        at = centre + rng.normal(0, 0.28, 2) * radius
        axes = rng.uniform(0.08, 0.5, 2) * radius
        box = (
            (float(at[0]), float(at[1])),
            (float(axes[0]) * 2, float(axes[1]) * 2),
            float(rng.uniform(0, 180)),
        )
        cv2.ellipse(height, box, float(rng.uniform(0.3, 1)), -1 if rng.random() < 0.7 else 1, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 6))):
        ends = (centre + rng.normal(0, 0.4, (2, 2)) * radius).astype(int)
        cv2.line(
            height, ends[0].tolist(), ends[1].tolist(), float(rng.uniform(0.3, 1)), max(int(radius / 14), 1)
        )
    if rng.random() < 0.6:  # an inscription
        for angle in np.arange(0, 2 * np.pi * rng.uniform(0.3, 1), 0.35) + rng.uniform(0, 6):
            at = centre + 0.76 * radius * np.array([np.cos(angle), np.sin(angle)])
            cv2.circle(height, at.astype(int).tolist(), max(int(radius * 0.07), 1), 1.0, -1)
    if rng.random() < 0.4:
        cv2.circle(
            height, centre.astype(int).tolist(), int(radius * rng.uniform(0.82, 0.93)), 1.0, 1, cv2.LINE_AA
        )
    return cv2.GaussianBlur(height, (0, 0), max(length * rng.uniform(0.008, 0.03), 0.5))


def photograph(rng: Rng, canvas: np.ndarray, grey: float) -> np.ndarray:
    """What light, lens, sensor and file do to a scene: (h, w, 3) uint8."""
    size = canvas.shape[:2]
    if rng.random() < 0.6:
        light = _ramp(size, rng.uniform(0, 2 * np.pi), max(size)) * rng.uniform(0, 0.6)
        canvas = canvas * np.exp(light + (_noise(rng, size, 3) - 0.5) * rng.uniform(0, 0.9))[..., None]
    if rng.random() < 0.3:  # haze that lifts one side, as of a lamp beside the scene
        canvas = canvas + (_ramp(size, rng.uniform(0, 2 * np.pi), max(size)) + 1)[..., None] * rng.uniform(
            5, 45
        )
    if rng.random() < grey:
        canvas = np.repeat(canvas @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=2)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.6))
    canvas = 255 * (np.clip(canvas, 0, 255) / 255) ** np.exp(rng.normal(0, 0.25))
    canvas = (canvas - 128) * rng.uniform(0.6, 1.15) + 128 + rng.normal(0, 15)
    channels = 1 if rng.random() < 0.5 else 3
    canvas = canvas + rng.normal(0, rng.uniform(0, 10), (*size, channels))
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(pixels)


def _rows(rng: Rng, size: Size, side: float) -> np.ndarray:
    """Centres (n, 2) of a jittered grid with cells of about ``side``, some of them left out."""
    h, w = size
    pitch_x, pitch_y = side * rng.uniform(0.98, 1.5, 2)
    xs, ys = np.arange(pitch_x * 0.6, w, pitch_x), np.arange(pitch_y * 0.6, h, pitch_y)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    grid = grid[rng.random(len(grid)) < rng.choice([1.0, 0.9, 0.5])]
    return (grid + rng.normal(0, 0.06, grid.shape) * side)[:45]


def _hides(mask: np.ndarray, others: list[np.ndarray], share: float) -> bool:
    return any((mask & other).sum() > share * other.sum() for other in others)


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(int(ys[0]) - margin, 0), int(ys[-1]) + 1 + margin),
        slice(max(int(xs[0]) - margin, 0), int(xs[-1]) + 1 + margin),
    )


def _circle() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _colour(rng: Rng) -> np.ndarray:
    """RGB 0..255, of any saturation, greys often."""
    saturation = rng.choice([0.0, rng.random()])
    value = rng.uniform(15, 245)
    return value * (1 - saturation * rng.random(3))


def _noise(rng: Rng, size: Size, cells: int) -> np.ndarray:
    """Smooth noise (h, w) float32 0..1 with this many cells a side."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def _stripes(rng: Rng, size: Size) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    x, y = np.meshgrid(np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32))
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    return (np.sign(wave) if rng.random() < 0.5 else wave) * rng.uniform(5, 40)


def _ramp(size: Size, angle: float, length: float) -> np.ndarray:
    """A plane through the middle of the picture that rises along ``angle``, about -1..1 over ``length``."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    rise = (x - size[1] / 2) * np.cos(angle) + (y - size[0] / 2) * np.sin(angle)
    return np.clip(rise * 2 / length, -1, 1).astype(np.float32)


def _emboss(height: np.ndarray, light: float, strength: float) -> np.ndarray:
    """What light from one side makes of a height field."""
    dx, dy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.25)
    return (dx * np.cos(light) + dy * np.sin(light)) * strength * 2
