"""Evaluation: pycocotools' numbers on the same files, and AP worked out by hand.

data/matterport/utils.npz holds Matterport's own results for its functions.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

import maskrcnn.weights
from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.data import Instance, Sample, Samples, open_dataset
from maskrcnn.errors import MaskRCNNError
from maskrcnn.evaluate import Evaluation, evaluate, evaluate_results, matterport, write_report
from maskrcnn.evaluate.charts import path
from maskrcnn.evaluate.confusion import confusion
from maskrcnn.evaluate.matching import found_of, truth_of
from maskrcnn.model import MaskRCNN
from maskrcnn.records import Image, Result

SIZE = (100, 200)
RECORDED = Path(__file__).parent / "data/matterport/utils.npz"


def rectangle(x: float, y: float, w: float, h: float) -> list[np.ndarray]:
    return [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float64)]


def thing(label: int, x: float, y: float, w: float, h: float, crowd: bool = False) -> Instance:
    return Instance(label, (x, y, x + w, y + h), rectangle(x, y, w, h), crowd)


def picture(size: tuple[int, int] = SIZE) -> Image:
    return Image(np.full((*size, 3), 90, np.uint8))


def sample(i: int, *things: Instance, labelled: set[int] | None = None) -> Sample:
    return Sample(i, picture(), SIZE, things, None if labelled is None else frozenset(labelled), 2)


def data(*samples: Sample) -> Samples:
    return Samples(("cat", "dog"), samples)


def row(image: int, label: int, score: float, x: float, y: float, w: float, h: float) -> dict[str, Any]:
    rle = coco_mask.merge(coco_mask.frPyObjects([rectangle(x, y, w, h)[0].reshape(-1).tolist()], *SIZE))
    return {"image_id": image, "category_id": label + 1, "score": score, "bbox": [x, y, w, h],
            "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()}}  # fmt: skip


def both(evaluation: Evaluation, name: str) -> tuple[float, float]:
    assert evaluation.mask is not None
    return evaluation.box.summary()[name], evaluation.mask.summary()[name]


# COCO's numbers


def ellipse(size: tuple[int, int], cx: float, cy: float, rx: float, ry: float) -> dict[str, Any]:
    y, x = np.mgrid[: size[0], : size[1]]
    inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    rle = coco_mask.encode(np.asfortranarray(inside, np.uint8))
    return {"size": list(size), "counts": rle["counts"].decode()}


def random_coco(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ellipses of all sizes with crowds, and moved copies of them as detections with many equal scores."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": f"c{i}"} for i in (3, 7, 8, 20)],
    }
    rows = []
    for image in rng.permutation(np.arange(5, 35)).tolist():
        h, w = (int(v) for v in rng.integers(60, 300, 2))
        truth["images"].append({"id": image, "width": w, "height": h, "file_name": f"{image}.png"})
        for _ in range(rng.integers(0, 7)):
            cx, cy, rx, ry = (
                rng.uniform(0, w),
                rng.uniform(0, h),
                rng.uniform(3, w / 2),
                rng.uniform(3, h / 2),
            )
            mask, category = ellipse((h, w), cx, cy, rx, ry), int(rng.choice([3, 7, 8]))
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category, "segmentation": mask,
                "bbox": coco_mask.toBbox(mask).tolist(), "area": float(coco_mask.area(mask)) * rng.uniform(0.9, 1.1),
                "iscrowd": int(rng.random() < 0.15),
            })  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                copy = ellipse(
                    (h, w),
                    cx + rng.normal(0, rx / 5),
                    cy + rng.normal(0, ry / 5),
                    rx,
                    ry * rng.uniform(0.8, 1.2),
                )
                rows.append({
                    "image_id": image, "score": round(float(rng.random()), 1), "segmentation": copy,
                    "category_id": category if rng.random() < 0.8 else int(rng.choice([3, 7, 8, 20])),
                    "bbox": coco_mask.toBbox(copy).tolist(),
                })  # fmt: skip
    return truth, rows


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("keys", [("bbox", "segmentation"), ("segmentation",)])
def test_numbers_equal_those_of_pycocotools(tmp_path: Path, seed: int, keys: tuple[str, ...]) -> None:
    truth, rows = random_coco(seed)
    rows = [{k: v for k, v in r.items() if k in (*keys, "image_id", "category_id", "score")} for r in rows]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    ours = evaluate_results(tmp_path / "results.json", open_dataset(tmp_path / "truth.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(str(tmp_path / "truth.json"))
        found = annotated.loadRes(str(tmp_path / "results.json"))
        for kind, metrics in (("bbox", ours.box), ("segm", ours.mask)):
            theirs = COCOeval(annotated, found, kind)
            theirs.evaluate()
            theirs.accumulate()
            theirs.summarize()
            assert metrics is not None
            assert np.allclose(list(metrics.summary().values()), theirs.stats, atol=1e-9)
            precision = theirs.eval["precision"][..., 0, 2]
            assert np.allclose(np.nan_to_num(metrics.precision, nan=-1), precision, atol=1e-9)
            average = np.where(
                theirs.eval["precision"][..., 2] > -1, theirs.eval["precision"][..., 2], np.nan
            )
            assert np.allclose(metrics.average, average.mean(1).transpose(2, 0, 1), atol=1e-9, equal_nan=True)
            recall = theirs.eval["recall"][..., 2].transpose(2, 0, 1)
            assert np.allclose(np.nan_to_num(metrics.recall, nan=-1), recall, atol=1e-9)


def test_truth_as_detections_scores_one() -> None:
    dataset = data(
        sample(1, thing(0, 10, 10, 50, 40), thing(1, 100, 20, 60, 60)), sample(2, thing(0, 0, 0, 200, 100))
    )
    rows = [row(1, 0, 1.0, 10, 10, 50, 40), row(1, 1, 1.0, 100, 20, 60, 60), row(2, 0, 1.0, 0, 0, 200, 100)]
    done = evaluate_results(rows, dataset)
    for name in ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar_100"):
        assert both(done, name) == pytest.approx((1.0, 1.0)), name
    assert np.isnan(both(done, "ap_small")).all()
    assert done.threshold == 0.5 and done.best.curves.best.tolist() == [1, 1, 1]
    assert done.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert done.worst() == []


def test_a_box_shifted_by_a_fifth_is_right_at_four_of_ten_ious() -> None:
    # 80 of 100 columns overlap: IoU 80 / 120 = 0.667, so 0.5, 0.55, 0.6 and 0.65 are passed
    done = evaluate_results([row(1, 0, 0.9, 30, 10, 100, 50)], data(sample(1, thing(0, 10, 10, 100, 50))))
    assert both(done, "ap") == pytest.approx((0.4, 0.4))
    assert both(done, "ap50") == pytest.approx((1, 1)) and both(done, "ap75") == (0, 0)
    assert both(done, "ar_100") == pytest.approx((0.4, 0.4))


def test_a_false_detection_between_two_hits() -> None:
    dataset = data(sample(1, thing(0, 0, 0, 50, 50), thing(0, 100, 0, 50, 50)))
    done = evaluate_results(
        [row(1, 0, 0.9, 0, 0, 50, 50), row(1, 0, 0.8, 50, 50, 50, 50), row(1, 0, 0.7, 100, 0, 50, 50)],
        dataset,
    )
    # recall 0 ... 0.5 with precision 1 (51 of 101 points), the rest with 2 / 3
    assert both(done, "ap50") == pytest.approx(((51 + 50 * 2 / 3) / 101,) * 2)
    curves = done.best.curves
    assert curves.best[0] == pytest.approx(0.8) and curves.threshold[0] == pytest.approx(
        0.35
    )  # F1 = 4 / 5, all kept
    assert curves.precision[0, [0, 75, 85, 95]] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert curves.recall[0, [0, 75, 85, 95]] == pytest.approx([1, 0.5, 0.5, 0])
    assert curves.f1[-1, 85] == pytest.approx(2 / 3)


def test_only_labelled_classes_are_evaluated_in_a_partially_labelled_image() -> None:
    dataset = data(
        sample(1, thing(0, 0, 0, 50, 50), labelled={0}),  # a dog may be there, unlabelled
        sample(2, thing(1, 0, 0, 50, 50), labelled={0, 1}),
    )
    rows = [row(1, 0, 0.9, 0, 0, 50, 50), row(1, 1, 0.95, 100, 0, 50, 50), row(2, 1, 0.9, 0, 0, 50, 50)]
    done = evaluate_results(rows, dataset)
    assert both(done, "ap") == pytest.approx((1, 1)) and done.partial == 1
    assert len(done.results()) == 2 and done.confusion.sum() == 2
    everywhere = Samples(dataset.names, tuple(replace(s, labelled=None) for s in dataset.samples))
    # without it the better-scored dog of image 1 is false: precision 1 / 2 at every recall of class dog
    assert both(evaluate_results(rows, everywhere), "ap") == pytest.approx((0.75, 0.75))


def test_crowds_are_neither_missed_nor_is_what_falls_on_them_false() -> None:
    dataset = data(sample(1, thing(0, 0, 0, 50, 50), thing(0, 100, 0, 100, 100, crowd=True)))
    rows = [row(1, 0, 0.5, 0, 0, 50, 50), row(1, 0, 0.9, 110, 10, 20, 20), row(1, 0, 0.8, 150, 10, 20, 20)]
    done = evaluate_results(rows, dataset)
    assert both(done, "ap") == pytest.approx((1, 1)) and done.box.truths[0].tolist() == [1, 0]
    assert done.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]] and done.worst() == []


def test_without_detections_everything_is_missed_and_without_objects_there_is_no_number() -> None:
    done = evaluate_results([], data(sample(1, thing(1, 0, 0, 50, 50)), sample(2)))
    assert both(done, "ap") == (0, 0) and np.isnan(done.threshold)
    assert done.counted == 0.5 and done.confusion[1, 2] == 1 and [one.index for one in done.worst()] == [0]
    empty = evaluate_results([row(1, 0, 0.5, 0, 0, 9, 9)], data(sample(1)))
    assert np.isnan(both(empty, "ap")).all() and empty.to_dict()["box"]["ap"] is None
    assert empty.confusion[2, 0] == 1 and np.isnan(empty.threshold)
    json.loads(empty.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_classes_with_few_objects_can_stay_out_of_the_mean() -> None:
    dataset = data(sample(1, thing(0, 0, 0, 50, 50), thing(0, 100, 0, 50, 50), thing(1, 50, 50, 20, 20)))
    done = evaluate_results([row(1, 0, 0.9, 0, 0, 50, 50), row(1, 0, 0.8, 100, 0, 50, 50)], dataset)
    assert done.box.mean("ap50") == pytest.approx(0.5) and done.box.mean("ap50", at_least=2) == pytest.approx(
        1
    )
    assert np.isnan(done.box.mean("ap50", at_least=3))


def test_boxes_alone_have_no_mask_numbers() -> None:
    rows = [{k: v for k, v in row(1, 0, 0.9, 0, 0, 50, 50).items() if k != "segmentation"}]
    done = evaluate_results(rows, data(sample(1, thing(0, 0, 0, 50, 50)), sample(2)))
    assert (
        done.mask is None and done.box.ap == pytest.approx(1) and done.results()[0]["bbox"] == [0, 0, 50, 50]
    )


def test_confusion_pairs_right_classes_first() -> None:
    image = sample(1, thing(0, 0, 0, 100, 50), thing(1, 0, 50, 100, 50))
    rows = [
        row(1, 1, 0.9, 0, 0, 100, 50), row(1, 0, 0.8, 0, 0, 90, 50),  # both on the cat: the cat gets it
        row(1, 0, 0.7, 0, 50, 100, 50), row(1, 1, 0.1, 0, 50, 100, 50),  # below the score: the dog is a cat
    ]  # fmt: skip
    table = confusion(found_of(rows, {1: 0, 2: 1}, image), truth_of(image), 0.5, 2)
    assert table.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]


# Files and models


def test_a_results_file_with_names_goes_by_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", SIZE[::-1]).save(tmp_path / name)
    samples = [
        Sample(i, tmp_path / n, SIZE, (thing(1, 0, 0, 50, 50),)) for i, n in ((40, "a.png"), (41, "b.png"))
    ]
    content = {
        "images": [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}],
        "annotations": [row(1, 0, 0.9, 0, 0, 50, 50), row(1, 1, 0.95, 0, 0, 50, 50)],
    }
    (tmp_path / "results.json").write_text(json.dumps(content))
    done = evaluate_results(tmp_path / "results.json", data(*samples))
    assert done.left_out == ("cow",) and done.unknown == ("cat",)
    assert done.box.truths[0].tolist() == [0, 2] and both(done, "ar_100") == (0.5, 0.5)
    assert [r["image_id"] for r in done.results()] == [41]


@pytest.mark.parametrize(("change", "said"), [
    ({"image_id": 9}, "image ids"), ({"category_id": 9}, "category ids"), ({"score": None}, "want score"),
])  # fmt: skip
def test_results_that_do_not_belong_are_refused(change: dict[str, Any], said: str) -> None:
    wrong = {k: v for k, v in (row(1, 0, 0.9, 0, 0, 9, 9) | change).items() if v is not None}
    with pytest.raises(MaskRCNNError, match=said):
        evaluate_results([wrong], data(sample(1)))


class Finder(MaskRCNN):
    """A model that finds what it is told to: (label, score, xyxy box) in every image."""

    def __init__(self, names: tuple[str, ...], *finds: tuple[int, float, tuple[float, ...]]) -> None:
        super().__init__(Config(names=names, depth=18, width=8, fpn_channels=8, rpn_channels=8, box_features=8,
                                mask_channels=8, mask_convs=1), source="finder")  # fmt: skip
        self.finds, self.asked = finds, []  # type: ignore[var-annotated]

    def predict_images(self, images: Any, **options: Any) -> list[Result]:
        assert not self.training
        self.asked.append((len(images), options))
        finds = [
            f for f in self.finds if options["classes"] is None or self.names[f[0]] in options["classes"]
        ]
        boxes = torch.tensor([f[2] for f in finds], dtype=torch.float32).reshape(-1, 4)
        return [
            Result(boxes, torch.tensor([f[0] for f in finds], dtype=torch.int64),
                   torch.tensor([f[1] for f in finds]), torch.ones(len(boxes), 28, 28), self.names, one.size, one)
            for one in images
        ]  # fmt: skip


def test_classes_are_matched_by_name() -> None:
    model = Finder(("cow", "dog"), (0, 0.9, (0, 0, 50, 50)), (1, 0.8, (100, 0, 150, 50)))
    dataset = data(sample(1, thing(0, 0, 0, 50, 50), thing(1, 100, 0, 50, 50)))
    done = evaluate(model, dataset)
    assert done.unknown == ("cat",) and done.left_out == ("cow",)
    assert done.box.of_classes("ap50").tolist() == pytest.approx([0, 1])
    assert model.asked[0][1] == {"score": 0.05, "max_detections": 100, "classes": ["dog"]}
    with pytest.raises(MaskRCNNError, match="class name"):
        evaluate(Finder(("cow",)), dataset)


def test_images_stream_in_batches_and_the_limit_holds() -> None:
    model, seen = Finder(("cat", "dog"), (0, 0.9, (0, 0, 50, 50))), []
    dataset = data(*(sample(i, thing(0, 0, 0, 50, 50)) for i in range(5)))
    done = evaluate(
        model, dataset, batch_size=2, limit=3, score=0.2, progress=lambda step: seen.append(step.done)
    )
    assert [n for n, _ in model.asked] == [2, 1] and model.asked[0][1]["score"] == 0.2
    assert seen == [1, 2, 3] and len(done.images) == 3 and both(done, "ap") == pytest.approx((1, 1))
    assert done.speed is not None and done.speed > 0
    with pytest.raises(MaskRCNNError, match="at least one image"):
        evaluate(model, data())


def test_a_model_in_training_is_one_again_afterwards() -> None:
    model = Finder(("cat",), (0, 0.9, (0, 0, 50, 50))).train()
    model.backbone.eval()  # frozen
    evaluate(model, data(sample(1, thing(0, 0, 0, 50, 50))))
    assert model.training and model.fpn.training and not model.backbone.training


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(MaskRCNNError, match="annotated size"):
        evaluate(Finder(("cat",)), data(replace(sample(1), image=picture((50, 50)))))


def test_report_json_and_results_are_written(tmp_path: Path) -> None:
    model = Finder(("cat", "dog"), (0, 0.9, (0, 0, 50, 50)), (1, 0.8, (100, 0, 150, 50)))
    dataset = data(
        sample(1, thing(0, 0, 0, 50, 50), thing(0, 150, 50, 40, 40), thing(0, 60, 0, 9, 9, crowd=True)),
        sample(2),
    )
    done = evaluate(model, dataset)
    text = write_report(done, dataset, tmp_path / "out").read_text("utf-8")
    assert "<svg" in text and "cat" in text and "$" not in text.replace("${", "")
    assert "<script src" not in text and "http" not in text.replace("http://www.w3.org", "")
    numbers = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert numbers["mask"]["ap50"] == both(done, "ap50")[1] and numbers["worst"][0]["false"] == [
        "cat"
    ]  # of image 2; dogs are below the score
    again = evaluate_results(tmp_path / "out/results.json", dataset)
    assert again.box.summary() == pytest.approx(done.box.summary(), nan_ok=True)


def test_a_report_of_results_does_without_the_pictures(tmp_path: Path) -> None:
    lost = Samples(("cat", "dog"), (replace(sample(1, thing(0, 0, 0, 9, 9)), image=tmp_path / "lost.png"),))
    text = write_report(evaluate_results([row(1, 0, 0.9, 50, 50, 9, 9)], lost), lost, tmp_path).read_text(
        "utf-8"
    )
    assert "lost.png" in text and "1 missed" not in text


def test_a_chart_leaves_a_gap_where_there_is_no_number() -> None:
    assert path(np.array([0.0, 1.0, np.nan, 0.5]), 0, 0, 30, 10) == "M0.0 10.0L10.0 0.0M30.0 5.0"


def test_command_prints_the_numbers_and_writes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, rows = random_coco(3)
    for one in truth["images"]:
        PIL.Image.new("RGB", (one["width"], one["height"])).save(tmp_path / one["file_name"])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    model = Finder(("c3", "c7"), (0, 0.9, (0, 0, 50, 50)))
    monkeypatch.setattr(maskrcnn.weights, "load", lambda *_, **__: model)
    arguments = ["evaluate", str(tmp_path / "truth.json"), "--out", str(tmp_path / "o"), "--limit", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "masks" in done.output and "unknown to the model" in done.output and "c8, c20" in done.output
    assert (tmp_path / "o/report.html").exists() and sum(n for n, _ in model.asked) == 3
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert CliRunner().invoke(app, [*arguments[:4], "--results", str(tmp_path / "rows.json")]).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--results", str(tmp_path / "rows.json")]).exit_code == 1


# Matterport's definitions


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED) as arrays:
        return {
            name: arrays[name]
            for name in arrays.files
            if name.startswith(("ap", "mask_o", "unmold_o", "bbox_m"))
        }


@pytest.mark.parametrize("case", ["ap0", "ap1", "ap2"])
def test_matterport_average_precision(recorded: dict[str, np.ndarray], case: str) -> None:
    names = (
        "gt_boxes",
        "gt_class_ids",
        "gt_masks",
        "pred_boxes",
        "pred_class_ids",
        "pred_scores",
        "pred_masks",
    )
    arguments = [recorded[f"{case}_{name}"] for name in names]
    for iou in ("0.3", "0.5", "0.75"):
        want = {name: recorded[f"{case}_{iou}_{name}"] for name in (
            "map", "precisions", "recalls", "overlaps", "gt_match", "pred_match", "recall", "recall_ids",
        )}  # fmt: skip
        ap, precisions, recalls, overlaps = matterport.compute_ap(*arguments, iou_threshold=float(iou))
        assert ap == pytest.approx(float(want["map"]), abs=1e-12)
        for got, name in ((precisions, "precisions"), (recalls, "recalls"), (overlaps, "overlaps")):
            assert np.array_equal(got, want[name]), name
        gt_match, pred_match, _ = matterport.compute_matches(*arguments, iou_threshold=float(iou))
        assert np.array_equal(gt_match, want["gt_match"]) and np.array_equal(pred_match, want["pred_match"])
        recall, ids = matterport.compute_recall(
            recorded[f"{case}_pred_boxes"], recorded[f"{case}_gt_boxes"], float(iou)
        )
        assert recall == want["recall"] and np.array_equal(ids, want["recall_ids"])
    assert matterport.compute_ap_range(*arguments, verbose=0) == pytest.approx(
        float(recorded[f"{case}_ap_range"]), abs=1e-9
    )


def test_matterport_mask_overlaps(recorded: dict[str, np.ndarray]) -> None:
    got = matterport.compute_overlaps_masks(recorded["unmold_out"], recorded["bbox_masks"][..., :-1])
    assert np.array_equal(got, recorded["mask_overlaps_out"])
    assert matterport.compute_overlaps_masks(np.zeros((4, 4, 0)), np.zeros((4, 4, 2))).shape == (0, 2)


def test_matterport_padding_rows_do_not_count() -> None:
    boxes, masks = np.array([[0, 0, 4, 4], [0, 0, 0, 0]]), np.ones((4, 4, 2), bool)
    ids, scores = np.array([1, 0]), np.array([0.9, 0.0])
    ap, precisions, _, overlaps = matterport.compute_ap(boxes, ids, masks, boxes, ids, scores, masks)
    assert ap == 1 and precisions.tolist() == [1, 1, 0] and overlaps.shape == (1, 1)
