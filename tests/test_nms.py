import numpy as np
import pytest
import torch

from conftest import DATA
from maskrcnn.config import Config
from maskrcnn.ops.nms import _blockwise, nms, top_k

THRESHOLDS = ["0.3", "0.5", "0.7"]


def recorded(framework: str) -> tuple[torch.Tensor, torch.Tensor, "np.lib.npyio.NpzFile"]:
    """200 or 240 boxes with ties, duplicates, boxes without area and overlaps exactly at a threshold."""
    ops = np.load(DATA / framework / "ops.npz")
    return torch.from_numpy(ops["nms_boxes"]), torch.from_numpy(ops["nms_scores"]), ops


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("framework", ["matterport", "torchvision"])
def test_nms_keeps_the_reference_list(framework: str, threshold: str) -> None:
    boxes, scores, ops = recorded(framework)
    assert nms(boxes, scores, float(threshold)).tolist() == ops[f"nms_keep_{threshold}"].tolist()


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("block", [7, 1024])
def test_the_gpu_path_gives_the_same_list(threshold: str, block: int) -> None:
    boxes, scores, ops = recorded("torchvision")
    order = torch.sort(scores, descending=True, stable=True).indices
    kept = _blockwise(boxes[order], torch.zeros_like(order), float(threshold), len(boxes), block)
    assert order[kept].tolist() == ops[f"nms_keep_{threshold}"].tolist()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_groups_do_not_suppress_each_other(threshold: str) -> None:
    boxes, scores, ops = recorded("torchvision")
    kept = nms(boxes, scores, float(threshold), torch.from_numpy(ops["nms_classes"]))
    assert sorted(kept.tolist()) == sorted(ops[f"batched_nms_vanilla_keep_{threshold}"].tolist())


def test_stopping_early_keeps_the_head_of_the_list() -> None:
    boxes, scores, ops = recorded("matterport")
    assert nms(boxes, scores, 0.3, limit=20).tolist() == ops["nms_keep_0.3_max20"].tolist()
    order = torch.sort(scores, descending=True, stable=True).indices
    early = order[_blockwise(boxes[order], torch.zeros_like(order), 0.3, 20, 16)]
    assert early.tolist() == ops["nms_keep_0.3_max20"].tolist()


def test_an_overlap_equal_to_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_of_equal_scores_the_lower_index_wins() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 12]])
    assert nms(boxes, torch.tensor([0.5, 0.5, 0.5]), 0.5).tolist() == [0]
    assert top_k(torch.tensor([1.0, 3, 3, 2, 3]), 2).tolist() == [1, 2]
    assert top_k(torch.tensor([1.0, 3, 3, 2, 3]), 9).tolist() == [1, 2, 4, 3, 0]


def test_top_k_equals_tensorflows() -> None:
    ops = np.load(DATA / "matterport" / "ops.npz")
    assert top_k(torch.from_numpy(ops["nms_scores"]), 60).tolist() == ops["topk_indices"].tolist()


def test_nothing_in_nothing_out() -> None:
    assert nms(torch.empty(0, 4), torch.empty(0), 0.5).shape == (0,)
    assert top_k(torch.empty(0), 5).shape == (0,)


def test_exports_as_one_node() -> None:
    class Keep(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return boxes[nms(boxes, scores, 0.5)]

    boxes, scores, _ = recorded("torchvision")
    n = torch.export.Dim("n", min=2, max=4096)
    program = torch.export.export(Keep(), (boxes, scores), dynamic_shapes=({0: n}, {0: n}))
    assert torch.equal(program.module()(boxes[:100], scores[:100]), Keep()(boxes[:100], scores[:100]))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_shifted_boxes_give_the_list_of_torchvision(threshold: str) -> None:
    boxes, scores, ops = recorded("torchvision")
    groups = torch.from_numpy(ops["nms_classes"])
    kept = nms(boxes, scores, float(threshold), groups, shift_up_to=1000)
    assert kept.tolist() == ops[f"batched_nms_trick_keep_{threshold}"].tolist()


def test_a_shift_rounds_coordinates() -> None:
    """IoU 0.5 and a millionth; shifted by 90 * 1001, where float32 has steps of 1/128, the boxes end at 1 and 2."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1.00001, 1], [999, 999, 1000, 1000]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([90, 90, 0])
    assert nms(boxes, scores, 0.5, groups).tolist() == [0, 2]
    assert nms(boxes, scores, 0.5, groups, shift_up_to=3).tolist() == [0, 1, 2]
    assert nms(boxes, scores, 0.5, groups, shift_up_to=2).tolist() == [0, 2]


@pytest.mark.parametrize("block", [None, 2])
def test_the_limit_is_not_rounded_to_float32(block: int | None) -> None:
    """3 / 10 is 0.30000001 in float32: above 0.3, not above 0.3 in float32."""
    boxes, scores = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]]), torch.tensor([0.9, 0.8])
    assert (boxes[1, 2] / boxes[0, 2]).item() > 0.3
    for limit, kept in ((0.3, [0]), (float(np.float32(0.3)), [0, 1])):
        if block is None:
            assert nms(boxes, scores, limit).tolist() == kept
        else:
            assert _blockwise(boxes, torch.zeros(2, dtype=torch.int64), limit, 2, block).tolist() == kept
    plain = Config(names=("a",))
    assert plain.overlap(0.3) == 0.3
    assert plain.with_options(dialect="matterport").overlap(0.3) == float(np.float32(0.3))
