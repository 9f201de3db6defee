"""What is wrong with a data set: every kind of fault is put in by hand and has to be found, with its place."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.data import Instance, Sample, Samples, doctor, join, open_dataset, relabel, repair, write_report
from maskrcnn.data.anchor_fit import best_iou
from maskrcnn.errors import DataError
from maskrcnn.records import Image

SQUARE = [2.0, 3, 6, 3, 6, 8, 2, 8]


def coco(folder: Path, rows: list[dict[str, Any]], images: int = 1) -> Path:
    """Pictures 0.png, ... of 20 x 10 pixels in classes nut and bolt; ``rows`` are of the first."""
    for i in range(images):
        PIL.Image.new("RGB", (20, 10), (10 * i, 20, 30)).save(folder / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 20} for i in range(images)],
        "categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}],
        "annotations": [{"id": i, "image_id": 0, "category_id": 1, **row} for i, row in enumerate(rows)],
    }
    file = folder / "notes.json"
    file.write_text(json.dumps(content))
    return file


FAULTS = [
    ("degenerate box", "drops", "bbox", {"bbox": [5, 5, 0, 3], "segmentation": [SQUARE]}),
    ("degenerate box", "drops", "bbox", {"bbox": [5, 5, 3, -2], "segmentation": [SQUARE]}),
    ("degenerate box", "drops", "bbox", {"bbox": [5, 5, 0.4, 2], "segmentation": [SQUARE]}),
    ("degenerate box", "drops", "bbox", {"bbox": [5, float("nan"), 1, 2], "segmentation": [SQUARE]}),
    ("box outside image", "drops", "bbox", {"bbox": [25, 5, 3, 3], "segmentation": [SQUARE]}),
    ("box leaves image", "clips", "bbox", {"bbox": [15, 5, 9, 3]}),
    ("short polygon", "drops", "segmentation", {"bbox": [2, 3, 4, 5], "segmentation": [[2, 3, 6, 8]]}),
    ("empty mask", "drops", "segmentation", {"bbox": [2, 3, 4, 5], "segmentation": [[2, 3, 6, 3, 4, 3]]}),
    ("empty mask", "drops", "segmentation",
     {"bbox": [2, 3, 4, 5], "segmentation": {"size": [10, 20], "counts": [200]}}),
    ("wrong mask size", "stops", "segmentation",
     {"bbox": [2, 3, 4, 5], "segmentation": {"size": [20, 10], "counts": [5, 195]}}),
    ("wrong mask size", "stops", "segmentation",
     {"bbox": [2, 3, 4, 5], "segmentation": {"size": [10, 20], "counts": [5, 196]}}),
    ("mask outside image", "drops", "segmentation",
     {"bbox": [2, 3, 4, 5], "segmentation": [[30, 3, 36, 3, 36, 8]]}),
    ("box is not the mask's", "none", "bbox", {"bbox": [2, 3, 15, 7], "segmentation": [SQUARE]}),
    ("unknown category", "stops", "category_id", {"bbox": [2, 3, 4, 5], "category_id": 3}),
]  # fmt: skip


@pytest.mark.parametrize("kind, cure, key, row", FAULTS)
def test_faults_of_annotations(tmp_path: Path, kind: str, cure: str, key: str, row: dict[str, Any]) -> None:
    good = {"bbox": [2, 3, 4, 5], "segmentation": [SQUARE], "category_id": 2}
    data, report = repair(open_dataset(coco(tmp_path, [good, row])))
    found = [f for f in report.findings if f.kind != "class without instances"]
    assert [(f.kind, f.cure, f.key) for f in found] == [(kind, cure, key)]
    assert "annotations id 1" in found[0].record and found[0].file == tmp_path / "notes.json"
    assert len(data[0].instances) == (1 if cure in ("drops", "stops") else 2)
    if cure == "clips":
        assert data[0].instances[1].box == (15, 5, 20, 8)
    data[0].target()  # what is left can be learnt from
    if cure == "stops":
        with pytest.raises(DataError, match=kind):
            report.raise_if_stopped()
    else:
        report.raise_if_stopped()


def test_of_several_polygons_the_broken_one_goes(tmp_path: Path) -> None:
    row = {"bbox": [2, 3, 4, 5], "segmentation": [SQUARE, [1, 1, 2, 2]]}
    data, report = repair(open_dataset(coco(tmp_path, [row])))
    assert [f.kind for f in report.findings] == ["short polygon", "class without instances"]
    assert [len(ring) for ring in data[0].instances[0].mask] == [4]


def test_duplicates_empty_images_and_unused_classes(tmp_path: Path) -> None:
    row = {"bbox": [2, 3, 4, 5], "segmentation": [SQUARE]}
    file = coco(tmp_path, [row, row, {**row, "category_id": 2}], images=3)
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes())
    report = doctor(open_dataset(file))
    found = {f.kind: f for f in report.findings}
    assert (
        found["duplicate instance"].cure == "drops"
        and "annotations id 1" in found["duplicate instance"].record
    )
    assert found["duplicate image"].file == tmp_path / "2.png" and "1.png" in found["duplicate image"].detail
    assert sum(f.kind == "empty image" for f in report.findings) == report.empty == 2
    assert report.instances == (1, 1) and report.images == (1, 1)
    unused = relabel(open_dataset(file), ("nut", "bolt", "gear"))
    assert {f.kind for f in doctor(unused).findings} >= {"class without instances"}


def test_missing_broken_and_wrong_pictures(tmp_path: Path) -> None:
    file = coco(tmp_path, [], images=4)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:45])
    PIL.Image.new("RGB", (10, 20)).save(tmp_path / "2.png")
    report = doctor(open_dataset(file))
    found = {f.kind: (f.file.name if f.file else "", f.cure) for f in report.findings}
    assert found["missing image"] == ("0.png", "drops") and found["broken image"] == ("1.png", "drops")
    assert found["wrong image size"] == ("2.png", "stops")
    assert len(report.dataset) == 2
    for i in (2, 3):
        (tmp_path / f"{i}.png").unlink()
    _, nothing = repair(open_dataset(file))
    assert [f.kind for f in nothing.stops] == ["no pictures"]


def test_two_images_of_one_id_stop(tmp_path: Path) -> None:
    file = coco(tmp_path, [], images=2)
    file.write_text(file.read_text().replace('{"id": 1, "file_name"', '{"id": 0, "file_name"'))
    _, report = repair(open_dataset(file))
    assert [f.record for f in report.stops if f.kind == "duplicate id"] == ["image 0"]


def test_mean_and_deviation_by_hand() -> None:
    def sample(i: int, value: Any, dtype: type) -> Sample:
        pixels = np.zeros((2, 2, 1), dtype)
        pixels[0] = value
        return Sample(i, Image(pixels), (2, 2), ())

    ranges = [(200, np.uint8), (200 * 257, np.uint16), (200 / 255, np.float32)]
    report = doctor(Samples(("a",), tuple(sample(i, *one) for i, one in enumerate(ranges))))
    assert report.mean == pytest.approx((100,)) and report.std == pytest.approx((100,))
    rgb = Sample(9, Image(np.full((2, 2, 4), 7, np.uint8)), (2, 2), ())
    assert doctor(Samples(("a",), (sample(0, *ranges[0]), rgb))).mean is None


def test_anchors_against_objects_by_hand() -> None:
    # 10 x 10 against 20 x 20: 100 / 400. 20 x 80 (h/w 4) against s = 40, r = 2: 56.6 x 28.3, so 56.6 * 20 / 2068
    iou = best_iou(np.array([[10.0, 10], [80, 20]]), np.array([20.0, 40]), np.array([1.0, 2.0]))
    assert iou == pytest.approx([0.25, 56.5685 * 20 / (1600 + 1600 - 56.5685 * 20)], rel=1e-4)


def test_anchors_are_compared_after_the_resize_and_others_suggested() -> None:
    boxes = [(float(x), 0.0, float(x + 8), 8.0) for x in range(0, 80, 10)]
    ones = tuple(Instance(0, b, [np.array([[b[0], 0], [b[2], 0], [b[2], 8], [b[0], 8]])]) for b in boxes)
    data = Samples(("a",), (Sample(1, Image(np.zeros((100, 100, 3), np.uint8)), (100, 100), ones),))
    small = doctor(data, Config(names=("a",), min_size=100, max_size=100)).anchors
    assert small.sides.tolist() == [[8, 8]] * 8
    assert (
        small.poor == 1 and small.suggested is not None and 8 in small.suggested and small.poor_suggested == 0
    )
    large = doctor(data, Config(names=("a",), min_size=400, max_size=400)).anchors
    assert large.sides.tolist() == [[32, 32]] * 8 and large.poor == 0 and large.suggested is None


def test_clean_data_is_left_alone(tmp_path: Path) -> None:
    rows = [{"bbox": [2, 3, 4, 5], "segmentation": [SQUARE], "category_id": c} for c in (1, 2)]
    data, report = repair(open_dataset(coco(tmp_path, rows)))
    assert report.findings == () and [one.box for one in data[0].instances] == [(2, 3, 6, 8)] * 2
    assert "nothing is wrong" in report.text()


# Label sets


def test_relabel_and_join_mark_what_a_data_set_does_not_label() -> None:
    square = [np.array(SQUARE).reshape(4, 2)]
    picture = Image(np.zeros((10, 20, 3), np.uint8))
    nuts = Samples(("nut",), (Sample(1, picture, (10, 20), (Instance(0, (2, 3, 6, 8), square),), classes=1),))
    bolts = Samples(
        ("bolt", "nut"), (Sample(1, picture, (10, 20), (Instance(0, (2, 3, 6, 8), square),), classes=2),)
    )
    both = join([nuts, bolts])
    assert both.names == ("nut", "bolt") and [s.image_id for s in both.samples] == ["0/1", "1/1"]
    assert [s.instances[0].label for s in both.samples] == [0, 1]
    assert [s.labelled for s in both.samples] == [{0}, None]
    labelled = both[0].target().labelled
    assert labelled is not None and labelled.tolist() == [True, False]
    only = relabel(replace(bolts, samples=(replace(bolts[0], labelled=frozenset({0})),)), ("gear", "nut"))
    assert only[0].instances == () and only[0].labelled == frozenset()


# The command line and the page


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", done.output)


def test_doctor_prints_and_writes_one_page(tmp_path: Path) -> None:
    good = {"bbox": [2, 3, 4, 5], "segmentation": [SQUARE]}
    file = coco(tmp_path, [good, {"bbox": [15, 5, 9, 3], "category_id": 2}, {**good, "iscrowd": 1}])
    code, said = run(
        "doctor", file, "--out", tmp_path / "page.html", "--set", "min_size=64", "--set", "max_size=64"
    )
    assert code == 0, said
    assert "1 image, 2 instances of 2 classes (coco), 1 crowd" in said
    assert "box leaves image: 1 (training clips these to the image)" in said
    html = (tmp_path / "page.html").read_text()
    assert "box leaves image" in html and html.count("data:image/webp") == 1
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)  # needs no other file


def test_doctor_ends_with_1_where_training_would_stop(tmp_path: Path) -> None:
    code, said = run(
        "doctor", coco(tmp_path, [{"bbox": [0, 0, 5, 5], "category_id": 7}]), "-o", tmp_path / "p.html"
    )
    assert code == 1 and "unknown category: 1 (stops training)" in said
    assert "Training would stop" in (tmp_path / "p.html").read_text()


def test_page_of_an_empty_data_set(tmp_path: Path) -> None:
    write_report(doctor(Samples(("<b>",), ())), tmp_path / "p.html")
    assert "&lt;b&gt;" in (tmp_path / "p.html").read_text()


def test_convert_takes_data_sets(tmp_path: Path) -> None:
    file = coco(tmp_path, [{"bbox": [2, 3, 4, 5], "segmentation": [SQUARE]}])
    code, said = run("convert", file, tmp_path / "out", "--to", "via")
    assert code == 0 and "wrote 1 picture as via" in said
    assert open_dataset(tmp_path / "out")[0].instances[0].box == (2, 3, 6, 8)
    code, said = run("convert", file, tmp_path / "out2")
    assert code == 1 and "--to" in said
