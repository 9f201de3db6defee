"""Detectron2's numbers, from recorded runs of Detectron2 0.6 with deterministic random weights.

Stage by stage from the recorded input of each stage, where lists are equal; then from pixels to masks, matched by
class and nearest box.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import maskrcnn
import recorded
from conftest import DATA
from maskrcnn.errors import WeightsError
from maskrcnn.model.image import resized_size
from maskrcnn.weights import pickles
from parity_tests import (  # noqa: F401, these run here with the cases below
    test_anchors_and_their_scores,
    test_detections_from_recorded_scores_are_equal,
    test_feature_maps,
    test_from_pixels_to_masks,
    test_levels_are_equal,
)
from recorded import Recording

FOLDER = DATA / "detectron2"
CASES = {"r50_c3": "c3.pth", "r50_empty": "r50.pkl", "x101_small": "x101.pkl", "r50lsj_small": "r50lsj.pkl"}
OPTIONS = {
    "INPUT.MIN_SIZE_TEST": "min_size",
    "INPUT.MAX_SIZE_TEST": "max_size",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score",
}


@functools.cache
def recording(case: str) -> Recording:
    return Recording(np.load(FOLDER / f"{case}.npz"), FOLDER, bgr=True)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as the model zoo and training write them."""
    made, folder = recorded.module(FOLDER / "make_weights.py"), tmp_path_factory.mktemp("detectron2")
    for arch in ("r50", "x101", "r50lsj"):
        made.write(folder / f"{arch}.pkl", made.build(arch))
    made.write(folder / "c3.pth", made.build("r50", 3, 7), "pth")
    made.write(folder / "old.pkl", {**made.old_extras("r50"), **made.build("r50", 3, 7)})
    return {path.name: path for path in folder.iterdir()}


@functools.cache
def _model(path: Path, case: str) -> maskrcnn.MaskRCNN:
    given = json.loads(str(recording(case).arrays["config_json"]))["overrides"]
    settings = dict(zip(given[::2], given[1::2], strict=True))
    return maskrcnn.load(path, **{OPTIONS[k]: v for k, v in settings.items() if k in OPTIONS})


@pytest.fixture(params=CASES)
def case(request, files):
    """A recording, the model it was made with, the network input and every stage of ours."""
    path = files[CASES[request.param]]
    return recording(request.param), _model(path, request.param), *_run(path, request.param)


@functools.cache
def _run(path: Path, name: str):
    return recorded.run(_model(path, name), recording(name))


def test_network_input(case):
    golden, model, batch, _ = case
    std = torch.tensor([57.375, 57.12, 58.395] if model.config.groups == 32 else [1.0, 1, 1])
    assert batch.windows[:, [3, 2]].int().tolist() == golden["image_sizes"].tolist()
    assert recorded.input_difference(golden, batch, std) < 1e-5


def test_proposals_from_recorded_candidates_are_equal(case):
    golden, model, batch, _ = case
    for i, rows in enumerate(recorded.proposed(golden, batch, model.config)):
        assert torch.equal(rows, golden[f"proposal_pre_nms_row_{i}"].long())


def test_results_from_recorded_detections_are_equal(case):
    golden, model, batch, _ = case
    for i, result in enumerate(recorded.restored(golden, batch, model.config)):
        assert torch.equal(result.boxes, golden[f"result_{i}_boxes"])
        assert torch.equal(result.labels, golden.labels(i, "result"))
        assert (result.masks.numpy() != golden.masks(i)).sum() <= 1


def test_a_batch_of_one_padded_size_equals_its_images(files):
    golden = recording("r50_c3")
    model = _model(files["c3.pth"], "r50_c3")
    for i, image in enumerate(golden.images()):
        (result,) = model.predict_images([image])
        assert (result.boxes - golden[f"single_{i}_boxes"]).abs().max() < 0.1
        assert torch.equal(result.labels, golden[f"single_{i}_classes"].long())


def test_sizes_are_rounded_as_detectron2_rounds_them():
    sizes = np.load(FOLDER / "sizes.npz")
    config = maskrcnn.Config(names=("a",), dialect=maskrcnn.config.DETECTRON2)
    for size, wanted in zip(sizes["resize_sizes_in"], sizes["resize_sizes_out"], strict=True):
        assert resized_size(tuple(size.tolist()), config) == tuple(wanted.tolist())
    assert resized_size((900, 1500), config) == (800, 1333)


def test_the_architecture_is_read_from_the_arrays(files):
    r50, x101, lsj = (
        _model(files[CASES[case]], case).config for case in ("r50_empty", "x101_small", "r50lsj_small")
    )
    assert (r50.depth, r50.groups, r50.stride_in_1x1, r50.num_classes) == (50, 1, True, 80)
    assert (x101.depth, x101.groups, x101.group_width, x101.stride_in_1x1) == (101, 32, 8, False)
    assert (lsj.rpn_convs, lsj.box_convs, lsj.box_fcs) == (2, 4, 1)
    assert lsj.fpn_norm and lsj.box_conv_norm and lsj.mask_norm


def test_buffers_of_older_files_change_nothing(files):
    new, old = (maskrcnn.load(files[name]) for name in ("c3.pth", "old.pkl"))
    assert new.config == old.config
    state = old.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in new.state_dict().items())


def test_the_first_convolution_takes_red_green_blue(files):
    arrays = pickles.read(files["c3.pth"])["model"]["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(maskrcnn.load(files["c3.pth"]).backbone.stem.weight, arrays.flip(1))
    rgb = maskrcnn.load(files["c3.pth"], input_order="RGB", input_std=(2.0, 4.0, 8.0))
    assert torch.equal(rgb.backbone.stem.weight * torch.tensor([2.0, 4, 8])[:, None, None], arrays)
    assert rgb.config.mean == maskrcnn.load(files["c3.pth"]).config.mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roi_heads.res5.0.conv1.weight", "C4 model"),
        ("backbone.res5.0.conv1.weight", "DC5 model"),
        ("backbone.bottom_up.res4.0.conv2_offset.weight", "deformable"),
        ("roi_heads.box_predictor.0.cls_score.weight", "cascade"),
        ("roi_heads.box_head.fc1.weight", "without a mask head"),
    ],
)
def test_what_is_not_built_is_named(tmp_path, name, message):
    arrays = {"proposal_generator.rpn_head.conv.weight": torch.zeros(1), name: torch.zeros(1)}
    torch.save({"model": arrays}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        maskrcnn.load(tmp_path / "x.pth")
