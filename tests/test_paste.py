"""The three paste rules and the resize, against recorded runs of the frameworks they come from.

data/paste.npz holds: unmold_* and resize*, skresize* of Matterport's mrcnn.utils (scikit-image 0.26.0, scipy
1.17.1); aligned_* of detectron2's paste_masks_in_image (0.6, torch 2.15.0); torchvision_* of torchvision's
(0.29.2, torch 2.15.0).
Boolean arrays are packed with numpy.packbits.
"""

import mmap
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.ops.paste import paste_crop, paste_soft, paste_whole
from maskrcnn.ops.resize import skimage_resize

SIZE = (60, 84)  # of the images that detectron2 and torchvision pasted into
RULES = ("aligned", "torchvision", "skimage")


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "data" / "paste.npz") as arrays:
        return dict(arrays)


def embed(pasted, size):
    crop, (y, x) = pasted
    whole = np.zeros(size, crop.dtype)
    whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return whole


def box(*xyxy):
    return np.array(xyxy, np.float32)


def test_skimage_rule_equals_matterport_in_every_pixel(recorded):
    masks = np.unpackbits(recorded["unmold_out"], count=96 * 120 * 12).reshape(96, 120, 12).astype(bool)
    for i, (y1, x1, y2, x2) in enumerate(recorded["unmold_boxes"]):
        ours = embed(
            paste_crop(recorded["unmold_masks_in"][i], box(x1, y1, x2, y2), (96, 120), "skimage"), (96, 120)
        )
        assert np.array_equal(ours, masks[..., i]), f"mask {i}"


def test_aligned_rule_equals_detectron2_to_float32_rounding(recorded):
    masks = np.unpackbits(recorded["aligned_out"], count=26 * 60 * 84).reshape(26, *SIZE).astype(bool)
    for i, (mask, xyxy) in enumerate(zip(recorded["aligned_masks"], recorded["aligned_boxes"], strict=True)):
        assert (embed(paste_crop(mask, xyxy, SIZE, "aligned"), SIZE) != masks[i]).sum() <= 2, f"mask {i}"


def test_torchvision_rule_equals_torchvision(recorded):
    rows = zip(
        recorded["torchvision_masks"],
        recorded["torchvision_boxes"],
        recorded["torchvision_soft"],
        strict=True,
    )
    for i, (mask, xyxy, soft) in enumerate(rows):
        np.testing.assert_allclose(embed(paste_soft(mask, xyxy, SIZE, "torchvision"), SIZE), soft, atol=1e-5)
        hard = embed(paste_crop(mask, xyxy, SIZE, "torchvision"), SIZE)
        assert np.array_equal(hard, soft >= 0.5), f"mask {i}"


def test_resize_equals_scikit_image_to_the_last_bit(recorded):
    for i in range(3):
        wanted = recorded[f"skresize{i}_out"]
        ours = skimage_resize(recorded[f"skresize{i}_in"], wanted.shape)
        assert np.array_equal(ours.astype(wanted.dtype), wanted), f"skresize{i}"


@pytest.mark.parametrize(("case", "size"), [(0, (84, 128)), (1, (128, 66)), (9, (64, 80))])
def test_resized_pixels_cut_to_uint8_are_matterports(recorded, case, size):
    wanted = recorded[f"resize{case}_out"]  # case 9 was cropped afterwards
    ours = skimage_resize(recorded[f"resize{case}_in"], size).astype(np.uint8)
    assert np.array_equal(ours[:, : wanted.shape[1]], wanted)


def test_resize_to_the_same_size_changes_nothing():
    image = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    assert np.array_equal(skimage_resize(image, (2, 5)), image)


@pytest.mark.parametrize("rule", RULES)
def test_a_full_mask_fills_its_box(rule):
    crop, corner = paste_crop(np.ones((28, 28), np.float32), box(10, 20, 40, 60), (100, 100), rule)
    whole = np.zeros((100, 100), bool)
    whole[20:60, 10:40] = True
    if rule == "torchvision":
        # x: 8.93..41.07 is cut to 8..41, 34 pixels for 30 cells, of which 1..29 are set: 9.13..40.87.
        # y: 18.57..61.43 is cut to 18..61, 44 pixels: 19.47..60.53. Pixel centres within are set, but not the
        # corners, where the shares of the outermost row and column multiply: 0.52 * 0.82.
        whole[19:61, 9:41] = True
        whole[[19, 19, 60, 60], [9, 40, 9, 40]] = False
    assert np.array_equal(embed((crop, corner), (100, 100)), whole)


@pytest.mark.parametrize("rule", ["aligned", "skimage"])
def test_half_a_mask_is_half_the_box(rule):
    mask = np.zeros((28, 28), np.float32)
    mask[:, :14] = 1.0
    crop, corner = paste_crop(mask, box(0, 0, 56, 28), (30, 60), rule)
    assert corner == (0, 0)
    assert crop[:, :28].all()
    assert not crop[:, 28:].any()


@pytest.mark.parametrize("rule", ["aligned", "skimage"])
def test_a_box_over_the_border_is_the_clipped_whole(rule):
    mask = np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)
    inside, _ = paste_crop(mask, box(10, 10, 70, 50), (100, 100), rule)
    clipped, corner = paste_crop(mask, box(-20, -10, 40, 30), (100, 100), rule)
    assert corner == (0, 0)
    assert np.array_equal(clipped, inside[10:, 20:])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "xyxy", [(200, 200, 240, 230), (-50, -60, -10, -20), (-50, 10, -10, 20), (10, 300, 20, 310)]
)
def test_a_box_outside_the_image_gives_an_empty_crop_inside_it(rule, xyxy):
    crop, (y, x) = paste_crop(np.ones((28, 28), np.float32), box(*xyxy), (100, 80), rule)
    assert crop.size == 0
    assert 0 <= y <= 100
    assert 0 <= x <= 80


@pytest.mark.parametrize("rule", ["aligned", "skimage"])
def test_a_box_without_area_has_no_pixel(rule):
    for xyxy in ((5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 5, 5), (9, 9, 5, 5)):
        assert paste_crop(np.ones((28, 28), np.float32), box(*xyxy), (20, 20), rule)[0].sum() == 0


@pytest.mark.parametrize("rule", ["aligned", "skimage"])
def test_a_box_of_one_pixel_is_that_pixel(rule):
    whole = embed(paste_crop(np.ones((28, 28), np.float32), box(7, 3, 8, 4), (20, 20), rule), (20, 20))
    assert np.argwhere(whole).tolist() == [[3, 7]]


def test_confident_masks_keep_their_edges_under_the_skimage_rule():
    """Zeros around the mask would make the outer pixels 0.45; the clip to the mask's range makes them 0.9."""
    soft, _ = paste_soft(np.full((28, 28), 0.9, np.float32), box(0, 0, 56, 56), (60, 60), "skimage")
    np.testing.assert_array_equal(soft, np.float32(0.9))


def test_only_the_box_is_touched():
    crop, corner = paste_crop(
        np.ones((28, 28), np.float32), box(30_000, 20_000, 30_010, 20_020), (40_000, 40_000)
    )
    assert (crop.shape, corner) == ((20, 10), (20_000, 30_000))


def test_a_mask_of_another_size_is_pasted_alike():
    for m in (14, 56, 112):
        assert paste_crop(np.ones((m, m), np.float32), box(2, 3, 12, 9), (20, 20))[0].all()


@pytest.mark.parametrize("rule", [*RULES, "last_pixel"])
@pytest.mark.parametrize("low", [0.0, 0.45, 0.6])
def test_pixels_of_whole_stretches_are_those_computed_one_by_one(rule, low):
    """Small masks in large boxes, some beyond the border; with ``low``, all of a mask near or above 0.5."""
    rng = np.random.default_rng(3)
    for xyxy in (box(3, 5, 280, 170), box(-40, 20, 90, 260), box(100.4, 90.7, 103.2, 250.1)):
        mask = (low + rng.random((7, 7)) * (1 - low)).astype(np.float32)
        mask[2:4] = 0.5  # a stretch on the threshold itself
        crop, corner = paste_crop(mask, xyxy, (200, 300), rule)
        soft, same = paste_soft(mask, xyxy, (200, 300), rule)
        assert corner == same
        np.testing.assert_array_equal(crop, soft >= 0.5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("threads", [1, 3])
def test_whole_masks_are_the_crops_in_their_places(rule, threads):
    """Seven of them, on threads that share them unevenly; among them one outside and one without area."""
    rng = np.random.default_rng(0)
    masks = rng.random((7, 14, 14), np.float32)
    boxes = np.float32([[3, 4, 40, 50], [-9, -9, 20, 20], [70, 40, 99, 99], [0, 0, 84, 60], [5.5, 6.5, 9.25, 8],
                        [90, 70, 99, 99], [8, 8, 8, 8]])  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = paste_whole(masks, boxes, SIZE, rule)
    finally:
        torch.set_num_threads(before)
    for mask, xyxy, out in zip(masks, boxes, whole, strict=True):
        assert np.array_equal(out, embed(paste_crop(mask, xyxy, SIZE, rule), SIZE))
    assert paste_whole(masks[:0], boxes[:0], SIZE, rule).shape == (0, *SIZE)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is resident")
def test_whole_masks_are_in_memory_only_where_their_boxes_are():
    """A hundred boxes of 40 x 40 in masks of 1 MB each: 40 rows, a quarter of a page each, and no page of 2 MB."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    masks, corners = np.ones((100, 14, 14), np.float32), np.arange(100, dtype=np.float32)[:, None] * 9
    boxes = np.hstack([corners, corners, corners + 40, corners + 40])
    paste_whole(masks[:1], boxes[:1], (1024, 1024))  # compiled
    before = resident()
    whole = paste_whole(masks, boxes, (1024, 1024))
    assert resident() - before < 100 * 12 * mmap.PAGESIZE + 8 * 2**20
    assert (whole.sum((1, 2)) > 1500).all() and not whole[99, :800].any()
