"""An object is drawn, moved by each transform, and looked for: the mask covers its pixels, the box is the mask's."""

import numpy as np
import pytest
import torch

from maskrcnn.data.augment import Recipe, augment, copy_paste, plan
from maskrcnn.data.colour import adjust, blur, noise
from maskrcnn.data.geometry import (
    flip_horizontal,
    flip_vertical,
    move_pixels,
    move_target,
    quarter_turns,
    rotate_and_shear,
    scale,
    shift,
)  # fmt: skip
from maskrcnn.errors import ConfigError, ShapeError
from maskrcnn.records import Target

OBJECT, GROUND = 200, 20


def scene(h: int = 60, w: int = 90, channels: int = 3, dtype: type = np.uint8) -> tuple[np.ndarray, Target]:
    """A bright L on dark ground, wide enough to survive shrinking, and a dark object that only the masks know."""
    l_shape = np.zeros((h, w), bool)
    l_shape[12:48, 20:36] = l_shape[34:48, 20:70] = True
    corner = np.zeros((h, w), bool)
    corner[:10, w - 14 :] = True  # touches two borders
    pixels = np.where(l_shape | corner, OBJECT, GROUND).astype(dtype)
    pixels = np.repeat(pixels[..., None], channels, axis=2)
    masks = torch.from_numpy(np.stack((l_shape, corner)))
    boxes = torch.tensor([[20.0, 12, 70, 48], [w - 14, 0, w, 10]])
    return pixels, Target(boxes, torch.tensor([3, 1]), masks, torch.tensor([[0.0, 50, 10, 60]]))


def follows(pixels: np.ndarray, target: Target) -> None:
    """Pixels are bright exactly under the masks, but for a rim of two pixels; boxes are those of the masks."""
    bright = pixels[..., 0].astype(float) > (OBJECT + GROUND) / 2
    masks = target.masks.numpy()
    assert masks.shape[1:] == bright.shape
    wrong = masks.any(0) != bright
    assert not (
        wrong[1:-1, 1:-1] & wrong[:-2, 1:-1] & wrong[2:, 1:-1] & wrong[1:-1, :-2] & wrong[1:-1, 2:]
    ).any()
    assert wrong.mean() < 0.02
    for mask, (x1, y1, x2, y2) in zip(masks, target.boxes.int().tolist(), strict=True):
        assert mask[y1:y2, x1:x2].sum() == mask.sum()
        assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()


MOVES = {
    "flip horizontal": (lambda s: (flip_horizontal(s), s)),
    "flip vertical": (lambda s: (flip_vertical(s), s)),
    "quarter turn": (lambda s: quarter_turns(s, 1)),
    "half turn": (lambda s: quarter_turns(s, 2)),
    "rotate": (lambda s: (rotate_and_shear(s, 25), s)),
    "shear": (lambda s: (rotate_and_shear(s, 0, 0.3), s)),
    "enlarge": (lambda s: (scale(2.5, 2.5), (150, 225))),
    "shrink": (lambda s: (scale(0.3, 0.4), (18, 36))),
    "crop": (lambda s: (shift(-25, -20), (30, 60))),
    "pad": (lambda s: (shift(8, 5), (80, 120))),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_masks_and_boxes_follow_the_object(name: str, channels: int) -> None:
    pixels, target = scene(channels=channels)
    move, size = MOVES[name](pixels.shape[:2])
    moved = move_pixels(pixels, move, size, np.full(channels, GROUND))
    assert moved.shape == (*size, channels) and moved.dtype == np.uint8
    follows(moved, move_target(target, move, size, 0, 1))


def test_flips_and_quarter_turns_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    masks = torch.from_numpy(pixels[None, ..., 0] > 100)
    target = Target(torch.tensor([[0.0, 0, 9, 6]]), torch.tensor([0]), masks)
    for (move, size), wanted in (
        ((flip_horizontal((6, 9)), (6, 9)), pixels[:, ::-1]),
        ((flip_vertical((6, 9)), (6, 9)), pixels[::-1]),
        (quarter_turns((6, 9), 1), np.rot90(pixels)),
        (quarter_turns((6, 9), 3), np.rot90(pixels, 3)),
    ):
        np.testing.assert_array_equal(move_pixels(pixels, move, size, np.zeros(3)), wanted)
        moved = move_target(target, move, size, 0, 1)
        np.testing.assert_array_equal(moved.masks[0].numpy(), wanted[..., 0] > 100)


def test_crowds_move_too_and_leftovers_join_them() -> None:
    _, target = scene()
    flipped = move_target(target, flip_horizontal((60, 90)), (60, 90), 0.1, 1)
    assert flipped.crowds.tolist() == [[80, 50, 90, 60]]
    # of the corner object, 14 x 10, one column stays: 1/14 of it; the crowd leaves the canvas on the left
    cut = move_target(target, shift(-77 + 64, 0), (60, 64), 0.1, 1)
    assert cut.labels.tolist() == [3] and cut.crowds.tolist() == [[63, 0, 64, 10]]
    assert move_target(target, shift(500, 0), (60, 90), 0.1, 1).masks.shape == (0, 60, 90)


def test_enlarging_doubles_areas_and_boxes() -> None:
    _, target = scene()
    big = move_target(target, scale(2, 2), (120, 180), 0, 1)
    assert big.boxes.tolist() == (target.boxes * 2).tolist()
    assert big.masks.sum((1, 2)).tolist() == (target.masks.sum((1, 2)) * 4).tolist()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(flip=1),
        Recipe(size=(64, 64), scale=(0.4, 2.0), fill=(GROUND,) * 3),
        Recipe(crop=(0.7, 1.0), scale=(0.8, 1.25)),
        Recipe(flip_vertical=0.5, quarter_turns=1, rotate=30, shear=0.1, fill=(GROUND,) * 3),
        Recipe(brightness=0.2, contrast=0.2, saturation=0.5, hue=20, noise=0.02, blur=1.0),
    ],
)
def test_recipes_keep_object_and_mask_together(recipe: Recipe) -> None:
    for seed in range(8):
        pixels, target = augment(*scene(), recipe, np.random.default_rng(seed))
        assert recipe.size is None or pixels.shape[:2] == recipe.size
        if len(target.labels) == 2:  # else a cut-off object is still to be seen
            follows(pixels, target)


def test_same_seed_same_result_and_inputs_stay() -> None:
    pixels, target = scene()
    recipe = Recipe(size=(50, 50), scale=(0.1, 2.0), rotate=10, noise=0.1, hue=30, copy_paste=1)
    runs = [
        augment(pixels, target, recipe, np.random.default_rng(7), lambda: scene(40, 90)) for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1].boxes, runs[1][1].boxes)
    np.testing.assert_array_equal(pixels, scene()[0])


def test_large_scale_jitter_covers_its_range_inside_the_canvas() -> None:
    recipe = Recipe(flip=0, size=(100, 200), scale=(0.1, 2.0))
    rng = np.random.default_rng(0)
    moves = [plan((50, 50), recipe, rng) for _ in range(300)]
    factors = np.array([move[0, 0] / 2 for move, _ in moves])  # 50 x 50 fits 100 x 200 twice
    assert {size for _, size in moves} == {(100, 200)}
    assert factors.min() < 0.12 and factors.max() > 1.8 and factors.min() > 0.09 and factors.max() < 2.01
    for move, _ in moves:  # content lies inside the canvas, or covers it
        x1, y1, x2, y2 = move[0, 2], move[1, 2], move[0, 2] + 50 * move[0, 0], move[1, 2] + 50 * move[1, 1]
        assert (x1 >= 0 and x2 <= 200) or (x1 <= 0 and x2 >= 200)
        assert (y1 >= 0 and y2 <= 100) or (y1 <= 0 and y2 >= 100)


# Copy and paste


def squares(*boxes: tuple[int, int, int, int], value: int, labels: list[int]) -> tuple[np.ndarray, Target]:
    masks = np.zeros((len(boxes), 20, 30), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    pixels = np.where(masks.any(0), value, 0).astype(np.uint8)[..., None]
    return pixels, Target(torch.tensor(boxes).float(), torch.tensor(labels), torch.from_numpy(masks))


def test_pasted_objects_cover_what_was_there() -> None:
    below, target = squares((0, 0, 10, 10), (20, 0, 30, 20), value=50, labels=[0, 1])
    above, pasted = squares((5, 0, 10, 10), (20, 0, 30, 19), value=90, labels=[2, 2])
    pixels, both = copy_paste(below, target, above, pasted, Recipe(paste_share=1), np.random.default_rng(0))
    # half of the first is left; of the second one row of twenty, which is a leftover
    assert both.boxes.tolist() == [[0, 0, 5, 10], [5, 0, 10, 10], [20, 0, 30, 19]]
    assert both.labels.tolist() == [0, 2, 2] and both.crowds.tolist() == [[20, 19, 30, 20]]
    assert both.masks.sum((1, 2)).tolist() == [50, 50, 190]
    assert (pixels[0, 2, 0], pixels[0, 7, 0], pixels[19, 25, 0]) == (50, 90, 50)
    assert not (both.masks.sum(0) > 1).any()


def test_only_labelled_classes_are_pasted() -> None:
    below, target = squares((0, 0, 10, 10), value=50, labels=[0])
    target = Target(target.boxes, target.labels, target.masks, labelled=torch.tensor([True, False, True]))
    above, pasted = squares((12, 0, 15, 10), (20, 0, 30, 19), value=90, labels=[1, 2])
    _, both = copy_paste(below, target, above, pasted, Recipe(paste_share=1), np.random.default_rng(0))
    assert both.labels.tolist() == [0, 2] and both.labelled is target.labelled


# Colour


def test_colours_by_arithmetic() -> None:
    pixels = np.array([[[100, 50, 0], [200, 150, 100]]], np.uint8)
    assert adjust(pixels, brightness=1.2).tolist() == [[[120, 60, 0], [240, 180, 120]]]
    grey = adjust(pixels, saturation=0)  # 0.299 r + 0.587 g + 0.114 b
    assert grey.tolist() == [[[59, 59, 59], [159, 159, 159]]]
    flat = adjust(np.full((2, 2, 3), 80, np.uint8), contrast=0.3)
    assert (flat == 80).all()
    assert np.abs(adjust(pixels, hue=360).astype(int) - pixels).max() <= 1
    turned = adjust(np.full((1, 1, 3), 128, np.uint8), hue=70)
    assert np.abs(turned.astype(int) - 128).max() <= 1  # grey has no hue


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_colour_changes_keep_dtype_range_and_channels(dtype: type, top: float, channels: int) -> None:
    rng = np.random.default_rng(0)
    pixels = (rng.random((8, 9, channels)) * top).astype(dtype)
    for changed in (adjust(pixels, 1.5, 1.5, 1.5, 40), noise(pixels, 0.2, rng), blur(pixels, 1.5)):
        assert changed.shape == pixels.shape and changed.dtype == dtype
        assert changed.min() >= 0 and changed.max() <= top and (changed != pixels).any()


def test_no_instances_and_one_pixel() -> None:
    empty = Target(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 1, dtype=torch.bool)
    )
    recipe = Recipe(size=(16, 8), scale=(0.1, 2), rotate=10, crop=(0.5, 1), copy_paste=1)
    pixels, target = augment(np.full((1, 1, 3), 9, np.uint8), empty, recipe, np.random.default_rng(0), scene)
    assert pixels.shape == (16, 8, 3) and target.masks.shape[1:] == (16, 8)


def test_wrong_arguments_say_what_is_wanted() -> None:
    pixels, target = scene()
    with pytest.raises(ShapeError, match="one size"):
        augment(pixels[:-1], target, Recipe(), np.random.default_rng(0))
    with pytest.raises(ShapeError, match="fill: want 3"):
        augment(pixels, target, Recipe(fill=(0.0,)), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="scale"):
        Recipe(scale=(2, 1))
    with pytest.raises(ConfigError, match="flip"):
        Recipe(flip=50)
