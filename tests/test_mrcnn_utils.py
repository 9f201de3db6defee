"""`mrcnn.utils` against what the reference gave for the same arguments (tests/data/matterport/README.md, 5)."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from conftest import DATA
from mrcnn import utils

RECORDED = np.load(DATA / "matterport" / "utils.npz")
MEAN = np.array([123.7, 116.8, 103.9])


def equal(ours: object, name: str) -> bool:
    ours, wanted = np.asarray(ours), RECORDED[name]
    return ours.dtype == wanted.dtype and np.array_equal(ours, wanted)


@pytest.mark.parametrize("i", range(3))
def test_anchors(i: int) -> None:
    args = json.loads(str(RECORDED[f"anchors{i}_args"]))
    shape = args.pop("image_shape")
    anchors = utils.generate_pyramid_anchors(**args)
    assert equal(anchors, f"anchors{i}_out")
    assert equal(utils.norm_boxes(anchors, shape), f"anchors{i}_norm")


def test_overlaps() -> None:
    one, two = RECORDED["overlaps_boxes1"], RECORDED["overlaps_boxes2"]
    assert equal(utils.compute_overlaps(one, two), "overlaps_out")
    ints = RECORDED["overlaps_int_boxes1"], RECORDED["overlaps_int_boxes2"]
    assert equal(utils.compute_overlaps(*ints), "overlaps_int_out")
    areas = (one[:, 2] - one[:, 0]) * (one[:, 3] - one[:, 1])
    area = (two[0, 2] - two[0, 0]) * (two[0, 3] - two[0, 1])
    assert equal(utils.compute_iou(two[0], one, area, areas), "iou_out")


def test_box_arithmetic() -> None:
    boxes, truth = RECORDED["refine_boxes"], RECORDED["refine_gt"]
    assert equal(utils.box_refinement(boxes, truth), "refine_out")
    graph = utils.box_refinement_graph(torch.from_numpy(boxes), torch.from_numpy(truth)).numpy()
    assert np.abs(graph - RECORDED["refine_out"]).max() < 1e-5
    assert equal(utils.apply_box_deltas(boxes, RECORDED["apply_deltas"]), "apply_out")
    assert equal(utils.norm_boxes(boxes, (203, 311)), "norm_out")
    assert equal(utils.denorm_boxes(RECORDED["denorm_in"], (203, 311)), "denorm_out")
    assert equal(utils.trim_zeros(RECORDED["trim_in"]), "trim_out")


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.5, 0.7])
def test_suppression(threshold: float) -> None:
    kept = utils.non_max_suppression(RECORDED["nms_boxes"], RECORDED["nms_scores"], threshold)
    assert equal(kept, f"nms_keep_{threshold}")


@pytest.mark.parametrize("i", range(10))
def test_resizing_an_image_and_its_masks(i: int) -> None:
    args = json.loads(str(RECORDED[f"resize{i}_args"]))
    random.seed(args.pop("random_seed"))
    image, window, scale, padding, crop = utils.resize_image(RECORDED[f"resize{i}_in"], **args)
    assert equal(image, f"resize{i}_out")
    assert list(window) == RECORDED[f"resize{i}_window"].tolist()
    assert scale == RECORDED[f"resize{i}_scale"]
    assert np.array_equal(padding, RECORDED[f"resize{i}_padding"])
    assert list(crop or ()) == RECORDED[f"resize{i}_crop"].tolist()
    assert equal(
        utils.resize_mask(RECORDED[f"resize{i}_mask_in"], scale, padding, crop), f"resize{i}_mask_out"
    )


def test_masks_small_and_back() -> None:
    masks = RECORDED["bbox_masks"]
    boxes = utils.extract_bboxes(masks)
    assert equal(boxes, "bbox_out")
    solid, masks = boxes[:3], masks[..., :3]
    assert equal(utils.minimize_mask(solid, masks, (28, 28)), "mini_masks")
    assert equal(utils.minimize_mask(solid, masks, (56, 40)), "mini_masks_56x40")
    assert equal(utils.expand_mask(solid, RECORDED["mini_masks"], masks.shape), "expanded_masks")
    with pytest.raises(Exception, match="area"):
        utils.minimize_mask(boxes, RECORDED["bbox_masks"], (28, 28))


def test_masks_out_of_the_network() -> None:
    pairs = zip(RECORDED["unmold_masks_in"], RECORDED["unmold_boxes"], strict=True)
    masks = [utils.unmold_mask(mask, box, RECORDED["unmold_image_shape"]) for mask, box in pairs]
    assert equal(np.stack(masks, axis=-1), "unmold_out")
    overlaps = utils.compute_overlaps_masks(np.stack(masks, axis=-1), RECORDED["bbox_masks"][..., :-1])
    assert np.allclose(overlaps, RECORDED["mask_overlaps_out"], atol=1e-7)


@pytest.mark.parametrize("i", range(3))
def test_resize(i: int) -> None:
    wanted = RECORDED[f"skresize{i}_out"]
    assert equal(utils.resize(RECORDED[f"skresize{i}_in"], wanted.shape), f"skresize{i}_out")


def test_resize_takes_bool_and_scales_integers() -> None:
    assert utils.resize(np.ones((2, 2), bool), (1, 1)) == 1.0
    assert utils.resize(np.full((2, 2), 51, np.uint8), (1, 1)) == 0.2
    assert utils.resize(np.full((2, 2), 51, np.uint8), (1, 1), preserve_range=True) == 51


@pytest.mark.parametrize("t", [0, 1, 2])
@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_average_precision(t: int, iou: float) -> None:
    kinds = (
        "gt_boxes",
        "gt_class_ids",
        "gt_masks",
        "pred_boxes",
        "pred_class_ids",
        "pred_scores",
        "pred_masks",
    )
    args = [RECORDED[f"ap{t}_{kind}"] for kind in kinds]
    ap, precisions, recalls, overlaps = utils.compute_ap(*args, iou_threshold=iou)
    key = f"ap{t}_{iou}_"
    assert ap == pytest.approx(float(RECORDED[key + "map"]), abs=1e-7)
    assert np.allclose(precisions, RECORDED[key + "precisions"])
    assert np.allclose(recalls, RECORDED[key + "recalls"])
    assert np.allclose(overlaps, RECORDED[key + "overlaps"], atol=1e-6)
    found, matched, _ = utils.compute_matches(*args, iou_threshold=iou)
    assert equal(found, key + "gt_match")
    assert equal(matched, key + "pred_match")
    recall, ids = utils.compute_recall(args[3], args[0], iou)
    assert recall == RECORDED[key + "recall"]
    assert ids.tolist() == RECORDED[key + "recall_ids"].tolist()


def test_average_precision_over_a_range_is_printed(capsys: pytest.CaptureFixture) -> None:
    kinds = (
        "gt_boxes",
        "gt_class_ids",
        "gt_masks",
        "pred_boxes",
        "pred_class_ids",
        "pred_scores",
        "pred_masks",
    )
    ap = utils.compute_ap_range(*(RECORDED[f"ap0_{kind}"] for kind in kinds))
    assert ap == pytest.approx(float(RECORDED["ap0_ap_range"]), abs=1e-7)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("AP @0.50:\t ")
    assert lines[-1].startswith("AP @0.50-0.95:\t ")


def test_batch_slice_stacks_what_the_function_returns() -> None:
    total, double = utils.batch_slice([np.ones((2, 3)), np.ones((2, 3))], lambda a, b: (a + b, 2 * a), 2)
    assert total.shape == (2, 3)
    assert (total == double).all()
    assert torch.equal(utils.batch_slice(torch.eye(3), lambda row: row * 2, 3), torch.eye(3) * 2)


class Pets(utils.Dataset):
    def image_reference(self, image_id: int) -> str:
        return str(self.image_info[image_id]["keeper"])


def test_a_dataset_numbers_classes_and_images(tmp_path) -> None:
    pets = Pets()
    pets.add_class("farm", 7, "cow, milk")
    pets.add_class("farm", 7, "cow again")
    pets.add_class("zoo", 7, "lion")
    grey, alpha = tmp_path / "grey.png", tmp_path / "alpha.png"
    PILImage.new("L", (5, 4), 9).save(grey)
    PILImage.new("RGBA", (5, 4), (1, 2, 3, 0)).save(alpha)
    pets.add_image("farm", "a", str(grey), keeper="Ada")
    pets.add_image("zoo", "b", str(alpha), keeper="Bo")
    pets.prepare()
    assert pets.class_names == ["BG", "cow", "lion"]
    assert pets.num_classes == 3
    assert pets.image_ids.tolist() == [0, 1]
    assert pets.map_source_class_id("zoo.7") == 2
    assert pets.get_source_class_id(1, "farm") == 7
    assert pets.source_class_ids == {"": [0], "farm": [0, 1], "zoo": [0, 2]}
    assert pets.image_from_source_map == {"farm.a": 0, "zoo.b": 1}
    assert pets.image_reference(1) == "Bo"
    assert pets.source_image_link(0) == str(grey)
    assert np.array_equal(pets.load_image(0), np.full((4, 5, 3), 9))
    assert pets.load_image(1)[0, 0].tolist() == [1, 2, 3]
    exif = PILImage.Exif()
    exif[0x0112] = 6  # lies on its side
    PILImage.new("RGB", (5, 4)).save(grey, exif=exif)
    assert pets.load_image(0).shape == (4, 5, 3)  # as its masks lie
    masks, ids = pets.load_mask(0)
    assert masks.size == 0
    assert ids.dtype == np.int32
