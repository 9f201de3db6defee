"""Matterport's numbers, from recorded runs of its TensorFlow code with deterministic random weights.

Stage by stage from the recorded input of each stage, where lists are equal; then from pixels to masks, where
rounding grows on its way through 50 layers of random weights and results are matched as sets. The recordings and
make_weights.py are described in tests/data/matterport/README.md.
"""

import functools
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

import maskrcnn
from conftest import DATA
from maskrcnn.model.box_head import detect
from maskrcnn.model.image import to_batch
from maskrcnn.model.pooling import pool_rois
from maskrcnn.model.restore import restore
from maskrcnn.ops.nms import nms, top_k
from maskrcnn.ops.resize import skimage_resize
from maskrcnn.records import BoxScores, Detections, Image, ImageBatch, Proposals, Trace

CASES = ["small_square", "small_square_portrait", "small_batch2", "small_no_detections", "none_192x256"]
XY = [1, 0, 3, 2]  # yxyx to xyxy, and dy dx dh dw to dx dy dw dh
Recording = "np.lib.npyio.NpzFile"


@functools.cache
def recording(case: str) -> Recording:
    return np.load(DATA / "matterport" / f"{case}.npz")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ResNet-50 file with 4 classes that the recordings were made with."""
    sys.path.insert(0, str(DATA / "matterport"))
    from make_weights import build

    path = tmp_path_factory.mktemp("weights") / "r50.h5"
    build("resnet50", 4).write(path)
    return path


@functools.cache
def _trace(weights: Path, case: str) -> tuple[maskrcnn.MaskRCNN, ImageBatch, dict]:
    recorded = recording(case)
    model = maskrcnn.load(weights, config=json.loads(str(recorded["config_json"])))
    batch = to_batch(images(recorded), model.config)
    stages: dict = {}
    with torch.inference_mode():
        stages["end"] = model(batch, keep=stages.update)
    return model, batch, stages


def images(recorded: Recording) -> list[Image]:
    return [Image(recorded[f"image_{i}"]) for i in range(len(recorded["image_metas"]))]


def pixels(normalised: np.ndarray, batch: ImageBatch) -> Tensor:
    """Normalised yxyx (n, 4) to our frame: pixels of the padded image, ends exclusive."""
    height, width = batch.size
    scale = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.from_numpy(normalised)[:, XY] * scale + torch.tensor([0.0, 0, 1, 1])


def normalised(boxes: Tensor, batch: ImageBatch) -> np.ndarray:
    height, width = batch.size
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    return (boxes[:, XY].numpy() - np.array([0, 0, 1, 1])) / scale


def recorded_masks(recorded: Recording, i: int) -> np.ndarray:
    shape = recorded[f"result_{i}_masks_shape"]
    bits = np.unpackbits(recorded[f"result_{i}_masks_packed"])[: np.prod(shape)]
    return bits.reshape(shape).astype(bool).transpose(2, 0, 1)


@pytest.mark.parametrize("case", CASES)
def test_network_input(weights: Path, case: str) -> None:
    _, batch, _ = _trace(weights, case)
    recorded = recording(case)
    assert batch.windows[:, XY].int().tolist() == recorded["windows"].tolist()
    if "molded_images" in recorded:
        assert np.abs(batch.pixels.permute(0, 2, 3, 1).numpy() - recorded["molded_images"]).max() < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_feature_maps(weights: Path, case: str) -> None:
    """The noise floor is 9e-4 at C5 and 5e-4 at P2 to P6."""
    _, _, stages = _trace(weights, case)
    recorded = recording(case)
    tolerance = dict(zip(("C2", "C3", "C4", "C5"), (3e-5, 2e-4, 1e-3, 4e-3), strict=True))
    maps = [*enumerate(stages["backbone"], 2), *enumerate(stages["pyramid"], 2)]
    for i, (level, features) in enumerate(maps):
        name = f"{'C' if i < 4 else 'P'}{level}"
        wanted = recorded[name]
        step = max(1, features.shape[2] // 16)
        ours = features if wanted.shape[3] == features.shape[1] else features[:, ::8, ::step, ::step]
        assert np.abs(ours.permute(0, 2, 3, 1).numpy() - wanted).max() < tolerance.get(name, 2e-3), name


@pytest.mark.parametrize("case", CASES)
def test_anchors_and_their_scores(weights: Path, case: str) -> None:
    _, _, stages = _trace(weights, case)
    recorded, scores = recording(case), stages["anchor_scores"]
    step = int(recorded["anchor_step"])
    place = (
        np.arange(len(scores.anchors)).reshape(-1, 3)[:, ::-1].reshape(-1)[::step]
    )  # ratios w/h descending
    assert len(scores.anchors) == recorded["anchors_count"]
    assert np.abs(scores.anchors[place][:, XY].numpy() - recorded["anchors_pixels"]).max() < 1e-4
    assert np.abs(scores.objectness[:, place].sigmoid().numpy() - recorded["rpn_class"][..., 1]).max() < 3e-4
    assert np.abs(scores.deltas[:, place][:, :, XY].numpy() - recorded["rpn_bbox"]).max() < 1e-3


@pytest.mark.parametrize("case", CASES)
def test_proposals_from_recorded_candidates_are_equal(case: str) -> None:
    recorded = recording(case)
    for i in range(len(recorded["image_metas"])):
        boxes = torch.from_numpy(recorded["pre_nms_boxes"][i])
        kept = nms(boxes[:, XY], torch.from_numpy(recorded["pre_nms_scores"][i]), 0.7, limit=1000)
        wanted = recorded["rpn_rois"][i]
        assert np.array_equal(boxes[kept].numpy(), wanted[: len(kept)])
        assert not wanted[len(kept) :].any()


@pytest.mark.parametrize("case", CASES)
def test_detections_from_recorded_proposals(weights: Path, case: str) -> None:
    """From the recorded class and deltas of each RoI to the recorded detections."""
    model, batch, _ = _trace(weights, case)
    recorded = recording(case)
    for i in range(len(recorded["image_metas"])):
        single = ImageBatch(batch.pixels[i : i + 1], batch.windows[i : i + 1], batch.sizes[i : i + 1])
        label, score = (torch.from_numpy(recorded[k][i]) for k in ("roi_class_id", "roi_score"))
        n, classes = len(label), model.config.num_classes
        # Logits whose softmax has the recorded maximum at the recorded class.
        rest = ((1 - score.double()) / classes).log()
        logits = rest[:, None].repeat(1, classes + 1)
        logits[torch.arange(n), (label.long() - 1) % (classes + 1)] = score.double().log()
        deltas = torch.from_numpy(recorded["roi_bbox_delta"][i])[:, None, XY].repeat(1, classes, 1)
        proposals = Proposals(
            pixels(recorded["rpn_rois"][i], batch), score, torch.zeros(n, dtype=torch.int64)
        )
        found = detect(BoxScores(logits.float(), deltas), proposals, single, model.config)
        wanted = recorded["detections"][i]
        wanted = wanted[wanted[:, 4] > 0]
        assert (found.labels + 1).tolist() == wanted[:, 4].astype(int).tolist()
        assert np.abs(normalised(found.boxes, batch) - wanted[:, :4]).max(initial=0) < 1e-5
        assert np.abs(found.scores.numpy() - wanted[:, 5]).max(initial=0) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_results_from_recorded_detections_are_equal(weights: Path, case: str) -> None:
    model, batch, _ = _trace(weights, case)
    recorded = recording(case)
    rows = recorded["detections"]
    index, place = np.nonzero(rows[..., 4] > 0)
    chosen = rows[index, place]
    image_index = torch.from_numpy(index)
    detections = Detections(
        pixels(chosen[:, :4], batch),
        torch.from_numpy(chosen[:, 4]).long() - 1,
        torch.from_numpy(chosen[:, 5]),
        image_index,
        image_index,
    )
    masks = torch.from_numpy(recorded["detection_masks"][index, place])
    for i, result in enumerate(restore(detections, masks, batch, images(recorded), model.config)):
        assert np.array_equal(result.boxes[:, XY].numpy(), recorded[f"result_{i}_rois"].reshape(-1, 4))
        assert np.array_equal(result.labels.numpy() + 1, recorded[f"result_{i}_class_ids"])
        assert np.array_equal(result.masks.numpy(), recorded_masks(recorded, i).reshape(-1, *result.size))


@pytest.mark.parametrize("case", CASES)
def test_from_pixels_to_masks(weights: Path, case: str) -> None:
    """Matched as sets: the same classes, boxes to a pixel, scores to 1e-3.

    A detection within 1e-3 of the score threshold may come or go; the portrait has one at 0.70004.
    """
    model, _, _ = _trace(weights, case)
    recorded = recording(case)
    for i, result in enumerate(model.predict_images(images(recorded))):
        boxes, labels, scores = (recorded[f"result_{i}_{k}"] for k in ("rois", "class_ids", "scores"))
        free, overlaps = list(range(len(result))), []
        masks, wanted_masks = result.masks.numpy(), recorded_masks(recorded, i)
        for box, label, score, wanted in zip(boxes.reshape(-1, 4), labels, scores, wanted_masks, strict=True):
            near = [
                j
                for j in free
                if result.labels[j] + 1 == label
                and np.abs(result.boxes[j, XY].numpy() - box).max() <= 1
                and abs(result.scores[j].item() - score) < 1e-3
            ]
            if not near and abs(score - model.config.score) < 1e-3:
                continue
            assert near, (box, label, score)
            best = max(near, key=lambda j: (masks[j] & wanted).sum() - (masks[j] ^ wanted).sum())
            free.remove(best)
            if (result.boxes[best, XY].numpy() == box).all() and wanted.sum() >= 100:
                overlaps.append((masks[best] & wanted).sum() / (masks[best] | wanted).sum())
        assert all(abs(result.scores[j].item() - model.config.score) < 1e-3 for j in free)
        assert min(overlaps, default=1) > 0.99


@pytest.mark.parametrize("size", [7])
def test_roi_features_of_the_pyramid(weights: Path, size: int) -> None:
    """PyramidROIAlign on recorded maps: the level rule and crop_and_resize together."""
    ops = recording("ops")
    model, _, _ = _trace(weights, "small_square")
    pyramid = [torch.from_numpy(ops[f"pra_P{i}"]).permute(0, 3, 1, 2) for i in range(2, 6)]
    batch = ImageBatch(torch.empty(1, 3, 256, 256), torch.empty(1, 4), ((256, 256),))
    boxes = pixels(ops["pra_boxes"].reshape(-1, 4), batch)
    index = torch.zeros(len(boxes), dtype=torch.int64)
    pooled = pool_rois(pyramid, boxes, index, (256, 256), size, model.config)
    ours = pooled.restore(pooled.values).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - ops["pra_out"][0]).max() < 1e-5


def test_the_detection_layer_in_all_recorded_settings(weights: Path) -> None:
    ops = recording("ops")
    model, _, _ = _trace(weights, "small_square")
    count = sum(name.startswith("refine") and name.endswith("_config") for name in ops)
    assert count > 1
    for i in range(count):
        settings = json.loads(str(ops[f"refine{i}_config"]))
        config = model.config.with_options(
            names=("a", "b", "c", "d"),
            score=settings.get("DETECTION_MIN_CONFIDENCE", 0.7),
            nms=settings.get("DETECTION_NMS_THRESHOLD", 0.3),
            max_detections=settings.get("DETECTION_MAX_INSTANCES", 100),
        )
        batch = ImageBatch(torch.empty(1, 3, 1024, 1024), torch.empty(1, 4), ((1024, 1024),))
        batch = ImageBatch(batch.pixels, pixels(ops["refine_window"][None], batch), batch.sizes)
        probability = torch.from_numpy(ops["refine_probs"])
        deltas = torch.from_numpy(ops["refine_deltas"])[:, 1:, XY]
        n = len(deltas)
        proposals = Proposals(
            pixels(ops["refine_rois"], batch), torch.ones(n), torch.zeros(n, dtype=torch.int64)
        )
        logits = probability.roll(-1, dims=1).clamp(min=1e-30).log()
        found = detect(BoxScores(logits, deltas), proposals, batch, config)
        wanted = ops[f"refine{i}_out"]
        wanted = wanted[wanted[:, 4] > 0]
        assert (found.labels + 1).tolist() == wanted[:, 4].astype(int).tolist()
        assert np.abs(normalised(found.boxes, batch) - wanted[:, :4]).max(initial=0) < 1e-5


def test_resizing_cuts_to_the_same_levels() -> None:
    utils = recording("utils")
    for i in range(8):
        args = json.loads(str(utils[f"resize{i}_args"]))
        y1, x1, y2, x2 = utils[f"resize{i}_window"]
        if args["mode"] == "none":
            continue
        ours = skimage_resize(utils[f"resize{i}_in"], (y2 - y1, x2 - x1)).astype(np.uint8)
        wanted = utils[f"resize{i}_out"][y1:y2, x1:x2]
        assert np.abs(ours.astype(int) - wanted.astype(int)).max() <= 1, i
        assert (ours != wanted).mean() < 0.001, i


def test_top_candidates_are_equal() -> None:
    recorded = recording("small_square")
    scores = torch.from_numpy(recorded["rpn_class"][0, :, 1])
    assert np.array_equal(top_k(scores, 6000).numpy(), recorded["pre_nms_index"][0])


def test_tracing_keeps_every_stage(weights: Path) -> None:
    model, _, _ = _trace(weights, "small_square")
    trace = model.trace(images(recording("small_square"))[0])
    assert isinstance(trace, Trace)
    assert trace.roi_features.shape == (1000, 256, 7, 7)
    assert trace.mask_features.shape == (len(trace.detections), 256, 14, 14)
    assert trace.mask_logits.shape == (len(trace.detections), 28, 28)
    assert len(trace.results[0]) == 100


def test_rows_of_the_file_are_all_used(weights: Path) -> None:
    with h5py.File(weights, "a") as file:
        file["conv1/conv1/kernel:0"][0, 0, 0, 0] += 0  # the file is whole and writable
        file.create_dataset("surplus/surplus/kernel:0", data=np.zeros(3, np.float32))
    try:
        with pytest.raises(maskrcnn.errors.WeightsError, match="surplus"):
            maskrcnn.load(weights)
    finally:
        with h5py.File(weights, "a") as file:
            del file["surplus"]
