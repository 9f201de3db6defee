"""The parity tests that torchvision and Detectron2 have in common; both modules import them, each with its ``case``.

A case is a recording, the model it was made with, the network input and every stage of ours.
"""

import torch

import recorded

FLOOR = {"C2": 3e-5, "C3": 2e-4, "C4": 2e-3, "C5": 4e-3}  # P2 to P6: 2e-3


def test_feature_maps(case):
    golden, _, _, stages = case
    for name, difference in recorded.map_differences(golden, stages).items():
        assert difference < FLOOR.get(name, 2e-3), name


def test_anchors_and_their_scores(case):
    golden, _, _, stages = case
    anchors, logits, deltas = recorded.anchor_differences(golden, stages["anchor_scores"])
    assert anchors == 0
    assert logits < 1e-3
    assert deltas < 2e-4


def test_levels_are_equal(case):
    """Those of torchvision's strip are one finer, because its 66 rows are padded to 96."""
    golden, model, batch, _ = case
    boxes, final = golden.proposals().boxes, golden.detections().boxes
    assert torch.equal(recorded.levels(golden, boxes, batch, model.config), golden["roi_level"].long())
    assert torch.equal(recorded.levels(golden, final, batch, model.config), golden["det_level"].long())


def test_detections_from_recorded_scores_are_equal(case):
    golden, model, batch, _ = case
    ours, wanted = recorded.detected(golden, batch, model.config), golden.detections()
    assert torch.equal(ours.labels, wanted.labels)
    assert torch.equal(ours.image_index, wanted.image_index)
    assert torch.allclose(ours.boxes, wanted.boxes, rtol=0, atol=2e-4)
    assert torch.allclose(ours.scores.float(), wanted.scores, rtol=0, atol=1e-5)


def test_from_pixels_to_masks(case):
    golden, model, _, _ = case
    for i, result in enumerate(model.predict_images(golden.images())):
        found = recorded.agreement(golden, i, result)
        assert found.got == found.wanted == found.matched
        assert found.scores < 1e-3
        assert found.iou > 0.99
