import math

import numpy as np
import pytest
import torch

from conftest import DATA
from maskrcnn.ops import boxes as B
from maskrcnn.ops.anchors import cell_anchors, grid_anchors

UNIT = (1.0, 1.0, 1.0, 1.0)
EMPTY = torch.empty(0, 4)


def test_iou_of_a_half_overlap_is_one_third() -> None:
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]])
    assert torch.allclose(B.iou(a, b), torch.tensor([[1 / 3, 0.0, 0.0]]))


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert B.iou(point, point).item() == 0
    assert B.iou(EMPTY, point).shape == (0, 1)


def test_decode_moves_by_sides_and_stretches_by_exponents() -> None:
    anchor = torch.tensor([[0.0, 0, 10, 20]])
    moved = B.decode(torch.tensor([[0.1, -0.5, math.log(2), 0.0]]), anchor, UNIT)
    assert torch.allclose(moved, torch.tensor([[-4.0, -10, 16, 10]]), atol=1e-5)


def test_decode_caps_the_stretch_only_when_told() -> None:
    anchor, wild = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 9, 9]])
    capped = B.decode(wild, anchor, UNIT, math.log(1000 / 16))
    assert torch.allclose(capped[0, 2:] - capped[0, :2], torch.full((2,), 62.5))
    assert B.decode(wild, anchor, UNIT)[0, 2] > 4000


def test_encode_is_the_inverse_of_decode() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 6]])
    boxes = torch.tensor([[1.0, 2, 30, 31], [4, 5, 10, 7]])
    std = (0.1, 0.1, 0.2, 0.2)
    assert torch.allclose(B.decode(B.encode(boxes, anchors, std), anchors, std), boxes, atol=1e-5)


def test_clip_takes_one_window_or_one_for_each_box() -> None:
    boxes = torch.tensor([[-5.0, 2, 50, 60], [1, 1, 2, 2]])
    assert B.clip(boxes, torch.tensor([0.0, 0, 20, 30])).tolist() == [[0, 2, 20, 30], [1, 1, 2, 2]]
    windows = torch.tensor([[0.0, 0, 20, 30], [2, 2, 3, 3]])
    assert B.clip(boxes, windows).tolist() == [[0, 2, 20, 30], [2, 2, 2, 2]]
    assert B.clip(EMPTY, torch.tensor([0.0, 0, 20, 30])).shape == (0, 4)


def test_box_arithmetic_equals_matterports() -> None:
    """Matterport writes yxyx and dy, dx, dlogh, dlogw; decoding runs on normalised boxes."""
    ops = np.load(DATA / "matterport" / "ops.npz")
    boxes, deltas = (torch.from_numpy(ops[k])[:, [1, 0, 3, 2]] for k in ("nms_boxes", "deltas"))
    decoded = B.decode(deltas, boxes, UNIT)
    assert np.abs(decoded[:, [1, 0, 3, 2]].numpy() - ops["apply_out"]).max() < 1e-5
    assert np.abs(B.iou(boxes[50:80], boxes[100:120]).numpy() - ops["overlaps_out"]).max() < 1e-6
    encoded = B.encode(boxes[100:130], boxes[50:80], UNIT)[:, [1, 0, 3, 2]].numpy()
    ours, theirs = encoded[np.isfinite(encoded)], ops["refine_out"][np.isfinite(encoded)]
    assert len(ours) > 50 and np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_cell_anchors_have_the_area_of_their_size(framework: str) -> None:
    cells = cell_anchors([32], [0.5, 1.0, 2.0], rounding=framework == "torchvision")
    sides = cells[:, 2:] - cells[:, :2]
    assert torch.allclose(sides.prod(1), torch.tensor([1024.0]), rtol=0.04)
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]), rtol=0.05)
    assert (framework == "torchvision") == bool((cells == cells.round()).all())


def test_grid_anchors_run_along_rows_then_cells() -> None:
    anchors = grid_anchors(torch.tensor([[-1.0, -1, 1, 1], [-2, -2, 2, 2]]), (2, 3), (10.0, 20.0))
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [-1, -1, 1, 1]
    assert anchors[3].tolist() == [18, -2, 22, 2]
    assert anchors[6].tolist() == [-1, 9, 1, 11]
