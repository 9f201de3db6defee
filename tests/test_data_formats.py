"""Every format is read from what its files hold; masks are counted by hand."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from maskrcnn.data import Dataset, Instance, Sample, Samples, open_dataset, write_dataset
from maskrcnn.errors import DataError
from maskrcnn.records import Image


def picture(path: Path, w: int = 20, h: int = 10) -> Path:
    """A grey ramp: its pixels differ from each other, unlike those of a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.arange(w * h).reshape(h, w).astype(np.uint8)).convert("RGB").save(path)
    return path


def png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)
    return path


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def block(y1: int, x1: int, y2: int, x2: int, h: int = 10, w: int = 20) -> np.ndarray:
    mask = np.zeros((h, w), bool)
    mask[y1:y2, x1:x2] = True
    return mask


SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8]]  # x 2..6, y 3..8


def coco(annotations: list[dict[str, Any]], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 10, "width": 20, **image}],
        "categories": [{"id": 9, "name": "bolt"}, {"id": 4, "name": "nut"}],
        "annotations": [{"id": i, "image_id": 7, **row} for i, row in enumerate(annotations)],
    }


# COCO


def test_coco_polygons_run_lengths_crowds_and_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    plain = {"size": [10, 20], "counts": [3, 2, 195]}  # column 0, rows 3 and 4
    compressed = {"size": [10, 20], "counts": "32S6"}  # 195 is 6 * 32 + 3: chr(48 + 32 + 3), chr(48 + 6)
    rows = [
        {"category_id": 9, "bbox": [2, 3, 4, 5], "segmentation": [[v for point in SQUARE for v in point]]},
        {"category_id": 4, "bbox": [0, 3, 1, 2], "segmentation": plain},
        {"category_id": 4, "bbox": [0, 3, 1, 2], "segmentation": compressed, "iscrowd": 1},
        {"category_id": 4, "bbox": [10, 0, 3, 2]},
    ]
    data = open_dataset(dump(tmp_path / "x.json", coco(rows, annotated_category_ids=[4])))
    assert data.names == ("nut", "bolt") and len(data) == 1
    sample = data[0]
    assert sample.image == tmp_path / "images/a.png" and sample.read().size == (10, 20)
    assert sample.labelled == {0}
    assert [one.label for one in sample.instances] == [1, 0, 0, 0]
    wanted = [block(3, 2, 8, 6), block(3, 0, 5, 1), block(3, 0, 5, 1), block(0, 10, 2, 13)]
    for one, mask in zip(sample.instances, wanted, strict=True):
        np.testing.assert_array_equal(one.dense((10, 20)), mask)
    target = sample.target()
    assert target.boxes.tolist() == [[2, 3, 6, 8], [0, 3, 1, 5], [10, 0, 13, 2]]
    assert target.crowds.tolist() == [[0, 3, 1, 5]] and target.labels.tolist() == [1, 0, 0]
    assert target.labelled is not None and target.labelled.tolist() == [True, False]


def test_coco_splits_by_file_name_and_skips_captions(tmp_path: Path) -> None:
    picture(tmp_path / "train2017/a.png")
    notes = tmp_path / "annotations"
    dump(notes / "instances_train2017.json", coco([]))
    dump(notes / "instances_val2017.json", coco([{"category_id": 4, "bbox": [0, 0, 2, 2]}]))
    dump(notes / "captions_train2017.json", {"images": [], "annotations": [{"caption": "a nut"}]})
    train, val = open_dataset(tmp_path), open_dataset(tmp_path, "val")
    assert train[0].image == tmp_path / "train2017/a.png"
    assert [len(d[0].instances) for d in (train, val)] == [0, 1]
    with pytest.raises(DataError, match="instances_train2017"):
        open_dataset(tmp_path, "test")


def test_coco_pictures_lie_above_the_json(tmp_path: Path) -> None:
    picture(tmp_path / "set/images/a.png")
    file = dump(tmp_path / "set/instances_train.json", coco([], file_name="set/images/a.png"))
    assert open_dataset(file)[0].read().size == (10, 20)


def test_coco_rows_without_their_keys(tmp_path: Path) -> None:
    content = coco([])
    del content["images"][0]["file_name"]
    with pytest.raises(DataError, match=r"want id and file_name in every row of images.*row 0"):
        open_dataset(dump(tmp_path / "x.json", content))


def test_coco_contradictions_are_findings(tmp_path: Path) -> None:
    content = coco(
        [{"category_id": 5, "bbox": [0, 0, 1, 1]}, {"category_id": 4, "bbox": [0, 0, 1, 1], "image_id": 8}]
    )
    content["categories"] *= 2
    found = {f.kind: f for f in open_dataset(dump(tmp_path / "x.json", content)).findings}  # type: ignore[attr-defined]
    assert (
        found["unknown category"].cure == "stops" and found["unknown category"].record == "annotations id 0"
    )
    assert found["annotation without image"].cure == "drops"
    assert found["duplicate id"].record == "categories id 4" and found["duplicate id"].cure == "stops"
    assert found["class gaps"].cure == "none"


# VIA

SHAPES: list[tuple[dict[str, Any], Any]] = [
    ({"name": "polygon", "all_points_x": [2, 6, 6, 2], "all_points_y": [3, 3, 8, 8]}, block(3, 2, 8, 6)),
    ({"name": "polyline", "all_points_x": [2, 6, 6, 2], "all_points_y": [3, 3, 8, 8]}, block(3, 2, 8, 6)),
    ({"name": "rect", "x": 2, "y": 3, "width": 4, "height": 5}, block(3, 2, 8, 6)),
    ({"name": "point", "cx": 19, "cy": 0}, block(0, 19, 1, 20)),
    ({"name": "circle", "cx": 10, "cy": 5, "r": 4}, np.pi * 16),
    ({"name": "ellipse", "cx": 10, "cy": 5, "rx": 8, "ry": 3}, np.pi * 24),
    ({"name": "ellipse", "cx": 10, "cy": 5, "rx": 3, "ry": 8, "theta": np.pi / 2}, np.pi * 24),
]


def via(regions: Any, name: str = "a.png") -> dict[str, Any]:
    return {f"{name}1": {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}}


@pytest.mark.parametrize("version", ["1", "2", "project"])
def test_via_reads_all_shapes(tmp_path: Path, version: str) -> None:
    picture(tmp_path / "a.png")
    regions = [{"shape_attributes": s, "region_attributes": {"kind": "nut", "id": ""}} for s, _ in SHAPES]
    listed = via(dict(enumerate(regions)) if version == "1" else regions)
    content = (
        {"_via_settings": {}, "_via_img_metadata": listed, "_via_attributes": {}}
        if version == "project"
        else listed
    )
    data = open_dataset(dump(tmp_path / "notes.json", content))
    assert data.names == ("nut",)
    for one, (_, wanted) in zip(data[0].instances, SHAPES, strict=True):
        mask = one.dense((10, 20))
        if isinstance(wanted, float):
            assert abs(mask.sum() - wanted) < 4, wanted  # a rim of half pixels
            assert abs((one.box[0] + one.box[2]) / 2 - 10) < 1e-9
        else:
            np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    "attributes, names",
    [
        ([{}, {}], ("object",)),
        ([{"name": "b"}, {"name": "a"}], ("a", "b")),
        ([{"note": "x", "class": "a"}, {"note": "y", "class": "b"}], ("a", "b")),
        ([{"colour": "a", "note": ""}, {"colour": "b", "note": "dirty"}], ("a", "b")),
        ([{"type": {"a": True}}, {"type": {"a": False, "b": True}}], ("a", "b")),
    ],
)
def test_via_finds_the_class(
    tmp_path: Path, attributes: list[dict[str, Any]], names: tuple[str, ...]
) -> None:
    regions = [{"shape_attributes": SHAPES[2][0], "region_attributes": a} for a in attributes]
    assert open_dataset(dump(tmp_path / "x.json", via(regions))).names == names


def test_via_region_without_class_stops(tmp_path: Path) -> None:
    regions = [
        {"shape_attributes": SHAPES[2][0], "region_attributes": a} for a in ({"class": "a"}, {"class": ""})
    ]
    data = open_dataset(dump(tmp_path / "x.json", via(regions)))
    (finding,) = data.findings  # type: ignore[attr-defined]
    assert (finding.kind, finding.cure, finding.record) == ("no class", "stops", "a.png1 regions 1")
    assert len(data[0].instances) == 1


def test_via_3_reads_all_shapes_and_the_texts_of_options(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    shapes = [
        [7, 1, 1, 5, 1, 5, 5, 1, 5],
        [2, 10, 2, 4, 3],
        [3, 15, 5, 2],
        [4, 5, 5, 3, 2],
        [1, 7.5, 3.5],
        [8, 2, 4, 6, 1, 9, 5, 5, 8],
        [6, 1, 1, 5, 1, 5, 5],
    ]
    project = {
        "project": {"data_format_version": "3.1.1"}, "config": {},
        "attribute": {"7": {"aname": "class", "type": 4, "options": {"0": "nut", "1": "bolt"}},
                      "8": {"aname": "note", "type": 1, "options": {}}},
        "file": {"1": {"fid": 1, "fname": "a.png"}}, "view": {"1": {"fid_list": ["1"]}},
        "metadata": {f"1_{i}": {"vid": "1", "z": [], "xy": xy, "av": {"7": "1"}} for i, xy in enumerate(shapes)}
        | {"1_t": {"vid": "1", "z": [0, 2], "xy": [], "av": {"8": "a segment of time"}}},
    }  # fmt: skip
    data = open_dataset(dump(tmp_path / "project.json", project))
    assert data.names == ("nut", "bolt") and not data.findings
    (sample,) = data
    assert [one.label for one in sample.instances] == [1] * 7
    assert [tuple(round(v, 6) for v in one.box) for one in sample.instances] == [
        (1, 1, 5, 5), (10, 2, 14, 5), (13, 3, 17, 7), (2, 3, 8, 7), (7, 3, 8, 4), (2, 1, 9, 8), (1, 1, 5, 5),
    ]  # fmt: skip
    assert (sample.instances[1].dense((10, 20)) == block(2, 10, 5, 14)).all()


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
 <meta><task><labels><label><name>nut</name></label><label><name>bolt</name></label></labels></task></meta>
 <image id="0" name="a.png" width="20" height="10">
  <polygon label="bolt" points="1.0,1.0;5.0,1.0;5.0,5.0;1.0,5.0"/>
  <box label="nut" xtl="10" ytl="2" xbr="14" ybr="5"/>
  <box label="nut" xtl="10" ytl="3" xbr="16" ybr="5" rotation="90"/>
  <ellipse label="nut" cx="5" cy="5" rx="3" ry="2"/>
  <mask label="nut" left="2" top="3" width="3" height="2" rle="0, 3, 2, 1"/>
  <polygon label="bolt" points="6,6;8,6;8,8;6,8" group_id="4"/>
  <box label="bolt" xtl="12" ytl="6" xbr="15" ybr="9" group_id="4"/>
  <tag label="nut"/>{more}
 </image>
</annotations>"""


def test_cvat_reads_all_shapes(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    file = tmp_path / "annotations.xml"
    file.write_text(CVAT.format(more=""))
    for data in (open_dataset(tmp_path), open_dataset(file)):
        assert data.names == ("nut", "bolt") and data.format == "cvat" and not data.findings
    (sample,) = data
    assert sample.size == (10, 20) and sample.image.exists()
    square, box, turned, round_, mask, group = sample.instances
    assert (square.label, square.box) == (1, (1, 1, 5, 5))
    assert (box.dense(sample.size) == block(2, 10, 5, 14)).all()
    assert turned.box == pytest.approx((12, 1, 14, 7))  # 6 wide and 2 high before, about its centre 13, 4
    assert round_.box == pytest.approx((2, 3, 8, 7))
    expected = block(3, 2, 4, 5)
    expected[4, 4] = True  # rows of 3: three inside, two outside, one inside
    assert (mask.dense(sample.size) == expected).all()
    assert (group.dense(sample.size) == block(6, 6, 8, 8) | block(6, 12, 9, 15)).all() and group.label == 1


def test_cvat_shapes_without_an_inside_and_broken_ones_stop(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    file = tmp_path / "annotations.xml"
    file.write_text(CVAT.format(more='<points label="nut" points="1,1"/><mask label="nut" rle="1"/>'))
    assert [(f.kind, f.cure) for f in open_dataset(file).findings] == [("unknown shape", "stops")] * 2
    file.write_text("<annotations><version>1.1</version><meta/><track/></annotations>")
    with pytest.raises(DataError, match="want an export 'CVAT for images"):
        open_dataset(file)
    file.write_text("<annotations><meta/><image name='a.png'/></annotations>")
    with pytest.raises(DataError, match="want name, height, width in every image"):
        open_dataset(file)
    file.write_text("<annotations>")
    with pytest.raises(DataError, match="want xml"):
        open_dataset(file)


def test_via_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    for split, name in (("train", "b"), ("val", "a")):
        picture(tmp_path / split / "a.png")
        region = {"shape_attributes": SHAPES[2][0], "region_attributes": {"class": name}}
        dump(tmp_path / split / "via_region_data.json", via([region]))
    for split, label in (("train", 1), ("val", 0)):
        data = open_dataset(tmp_path, split)
        assert data.names == ("a", "b") and data[0].instances[0].label == label


# LabelMe


def test_labelme_reads_all_shapes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 40, 30)
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.array([[1, 0], [1, 1]], np.uint8)).save(buffer, "PNG")
    corner = base64.b64encode(buffer.getvalue()).decode()
    shapes = [
        {"label": "nut", "points": SQUARE, "shape_type": "polygon", "group_id": 1},
        {"label": "nut", "points": [[12, 9], [10, 3]], "shape_type": "rectangle", "group_id": 1},
        {"label": "bolt", "points": [[20, 15], [20, 20]], "shape_type": "circle", "group_id": 1},
        {"label": "bolt", "points": [[5, 10], [15, 10]], "shape_type": "linestrip"},
        {"label": "nut", "points": [[4, 6], [5, 7]], "shape_type": "mask", "mask": corner},
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageData": None, "imageHeight": 30, "imageWidth": 40}
    dump(tmp_path / "a.json", content)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nnut\nbolt\n")
    data = open_dataset(tmp_path)
    assert data.names == ("nut", "bolt")
    pair, circle, line, mask = data[0].instances
    size = (30, 40)
    np.testing.assert_array_equal(pair.dense(size), block(3, 2, 8, 6, *size) | block(3, 10, 9, 12, *size))
    assert pair.box == (2, 3, 12, 9) and pair.label == 0
    assert abs(circle.dense(size).sum() - np.pi * 25) < 4 and circle.box == pytest.approx((15, 10, 25, 20))
    np.testing.assert_array_equal(line.dense(size), block(5, 5, 15, 15, *size))
    wanted = block(6, 4, 8, 6, *size)
    wanted[6, 5] = False
    np.testing.assert_array_equal(mask.dense(size), wanted)
    assert mask.box == (4, 6, 6, 8)


def test_labelme_shapes_that_are_not_whole_stop(tmp_path: Path) -> None:
    shapes = [
        {"label": "nut", "points": p, "shape_type": t} for t, p in (("circle", [[1, 1]]), ("cube", SQUARE))
    ]
    file = dump(
        tmp_path / "a.json", {"shapes": shapes, "imagePath": "a.png", "imageHeight": 9, "imageWidth": 9}
    )
    found = open_dataset(file).findings  # type: ignore[attr-defined]
    assert [(f.kind, f.record, f.cure) for f in found] == [
        ("unknown shape", "shapes 0", "stops"), ("unknown shape", "shapes 1", "stops"),
    ]  # fmt: skip


def test_labelme_picture_inside_the_json(tmp_path: Path) -> None:
    data = base64.b64encode(picture(tmp_path / "a.png").read_bytes()).decode()
    (tmp_path / "a.png").unlink()
    dump(tmp_path / "a.json", {"shapes": [], "imagePath": "..\\a.png", "imageData": data})
    assert open_dataset(tmp_path)[0].read().size == (10, 20)


# YOLO


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\ntrain: images/train  # relative\nval: images/val\nnames:\n  0: nut\n  1: 'hex: bolt'\n",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: [nut, 'hex: bolt']\n",
        'train:\n  - images/train\nval: images/val\nnames:\n- nut\n- "hex: bolt"\ndownload: |\n  import os\n',
    ],
)
def test_yolo_polygons_and_boxes(tmp_path: Path, yaml: str) -> None:
    picture(tmp_path / "images/train/a.png")
    picture(tmp_path / "images/train/empty.png", 4, 4)
    picture(tmp_path / "images/val/b.png")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.1 0.3 0.3 0.3 0.3 0.8 0.1 0.8\n0 0.5 0.5 0.1 0.2\n")
    (tmp_path / "data.yaml").write_text(yaml)
    data = open_dataset(tmp_path)
    assert data.names == ("nut", "hex: bolt") and [s.name for s in map(data.__getitem__, range(2))] == [
        "a.png",
        "empty.png",
    ]
    first, second = data[0].instances
    np.testing.assert_array_equal(first.dense((10, 20)), block(3, 2, 8, 6))
    np.testing.assert_array_equal(second.dense((10, 20)), block(4, 9, 6, 11))
    assert (first.label, second.label, data[1].instances) == (1, 0, ())
    assert open_dataset(tmp_path, "val")[0].name == "b.png"


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("images/val", "labels/val")])
def test_yolo_without_a_yaml_takes_its_names_from_classes_txt(
    tmp_path: Path, images: str, labels: str
) -> None:
    picture(tmp_path / images / "a.png")
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / labels / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    with pytest.raises(DataError, match=r"write a classes\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("nut\nbolt\n")
    data = open_dataset(tmp_path, "val" if images.endswith("val") else None)
    assert data.names == ("nut", "bolt") and data.format == "yolo"
    assert [(one.label, one.box) for one in data[0].instances] == [(1, (8, 3, 12, 7))]


def test_yolo_broken_lines_are_findings(tmp_path: Path) -> None:
    picture(tmp_path / "images/train/a.png")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("5 0.1 0.3 0.3 0.3 0.3 0.8\n0 0.5 0.5 0.1\nnut 1 2 3 4\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [nut]\n")
    found = open_dataset(tmp_path).findings  # type: ignore[attr-defined]
    assert [(f.kind, f.record) for f in found] == [
        ("unknown category", "line 1"), ("broken line", "line 2"), ("broken line", "line 3"),
    ]  # fmt: skip


# Index PNGs and mask files


def test_voc_objects_classes_and_void(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.jpg")
    objects, classes = np.zeros((2, 10, 20), np.uint8)
    objects[block(3, 2, 8, 6)], classes[block(3, 2, 8, 6)] = 1, 15
    objects[block(0, 10, 4, 12)], classes[block(0, 10, 4, 12)] = 2, 3
    objects[:, 19] = classes[:, 19] = 255
    for name, ids in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        image = PIL.Image.fromarray(ids)
        image.putpalette(list(range(256)) * 3)
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
    data = open_dataset(tmp_path)
    person, bird = data[0].instances
    assert (data.names[person.label], data.names[bird.label]) == ("person", "bird")
    np.testing.assert_array_equal(person.dense((10, 20)), block(3, 2, 8, 6))
    np.testing.assert_array_equal(bird.dense((10, 20)), block(0, 10, 4, 12))
    with pytest.raises(DataError, match="ImageSets"):
        open_dataset(tmp_path, "val")


def test_numbered_maps_beside_pictures(tmp_path: Path) -> None:
    for folder, ending in (("PNGImages", ""), ("PedMasks", "_mask")):
        for i in (1, 2):
            file = tmp_path / folder / f"Ped0000{i}{ending}.png"
            if ending:
                png(file, (block(3, 2, 8, 6) * 1 + block(0, 10, 4, 12) * 2).astype(np.uint8))
            else:
                picture(file)
    data = open_dataset(tmp_path)
    assert data.names == ("object",) and len(data) == 2
    assert [one.box for one in data[1].instances] == [(2, 3, 6, 8), (10, 0, 12, 4)]


def test_one_mask_file_for_each_instance(tmp_path: Path) -> None:
    picture(tmp_path / "train/f00/images/f00.png")
    png(tmp_path / "train/f00/masks/1.png", block(3, 2, 8, 6).astype(np.uint8) * 255)
    png(tmp_path / "train/f00/masks/2.png", block(3, 2, 8, 7).astype(np.uint8) * 255)  # masks may overlap
    picture(tmp_path / "val/f01/images/f01.png")
    data = open_dataset(tmp_path)
    assert [one.box for one in data[0].instances] == [(2, 3, 6, 8), (2, 3, 7, 8)]
    assert open_dataset(tmp_path, "val")[0].instances == ()


def test_a_split_that_is_not_there_is_no_silent_fallback(tmp_path: Path) -> None:
    picture(tmp_path / "m/f00/images/f00.png")
    dump(tmp_path / "l/a.json", {"shapes": [], "imagePath": "a.png", "imageHeight": 9, "imageWidth": 9})
    dump(tmp_path / "c/instances_train.json", coco([]))
    for path in (tmp_path / "m", tmp_path / "l", tmp_path / "c", tmp_path / "c/instances_train.json"):
        assert len(open_dataset(path)) == 1
        with pytest.raises(DataError, match="val"):
            open_dataset(path, "val")


def test_what_is_not_known_is_an_error_that_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LabelMe"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="there is none"):
        open_dataset(tmp_path / "nothing")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="want json"):
        open_dataset(tmp_path / "x.json")


# Writing


def two_samples(folder: Path) -> Samples:
    """A square, a ring with a hole, two parts in one instance, and an image without anything."""
    hole = block(2, 10, 7, 16) & ~block(4, 12, 5, 14)
    columns = hole.T.reshape(-1).astype(int)
    runs = np.diff(np.flatnonzero(np.diff(columns, prepend=1 - columns[0], append=1 - columns[-1]))).tolist()
    parts = [np.array(SQUARE, float), np.array([[8, 0], [9, 0], [9, 2], [8, 2]], float)]
    ones = (
        Instance(2, (2, 3, 6, 8), [np.array(SQUARE, float)]),
        Instance(0, (10, 2, 16, 7), {"size": [10, 20], "counts": runs}),
        Instance(2, (2, 0, 9, 8), parts),
    )
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20, 3), np.uint8)
    return Samples(("a", "b", "c d"), (
        Sample(5, picture(folder / "in/0p.q.png"), (10, 20), ones, None, 3),
        Sample(6, Image(pixels), (10, 20), (), frozenset({1}), 3),
    ))  # fmt: skip


def same(one: Dataset, other: Dataset) -> None:
    assert one.names == other.names and len(one) == len(other)
    for i in range(len(one)):
        a, b = one[i], other[i]
        np.testing.assert_array_equal(a.read().pixels, b.read().pixels)
        found = sorted((x.label, x.dense(a.size).tobytes()) for x in a.instances)
        assert found == sorted((x.label, x.dense(b.size).tobytes()) for x in b.instances)


@pytest.mark.parametrize("form", ["coco", "via", "labelme", "yolo", "masks"])
def test_what_is_written_is_read_again(tmp_path: Path, form: str) -> None:
    data = two_samples(tmp_path)
    lost = write_dataset(data, tmp_path / "out", form)
    again = open_dataset(tmp_path / "out")
    same(data, again)
    assert [f.kind for f in lost] == ([] if form == "coco" else ["partial labels lost"])
    if form == "coco":
        assert [again[i].image_id for i in range(2)] == [5, 6] and again[1].labelled == {1}
        assert again[0].instances[0].box == (2, 3, 6, 8)


def test_voc_gives_each_pixel_to_the_smaller_instance(tmp_path: Path) -> None:
    write_dataset(two_samples(tmp_path), tmp_path / "out", "voc")
    again = open_dataset(tmp_path / "out")
    assert again.names == ("a", "b", "c d")
    # the square (20 pixels) lies on the same square of the two-part instance (22), of which 2 pixels are left
    assert sorted(int(one.dense((10, 20)).sum()) for one in again[0].instances) == [2, 20, 28]


def test_crowds_are_told_to_be_lost(tmp_path: Path) -> None:
    crowd = Instance(0, (2, 3, 6, 8), [np.array(SQUARE, float)], crowd=True)
    data = Samples(("a",), (Sample(1, picture(tmp_path / "a.png"), (10, 20), (crowd,)),))
    (lost,) = write_dataset(data, tmp_path / "yolo", "yolo")
    assert lost.kind == "crowds left out" and open_dataset(tmp_path / "yolo")[0].instances == ()
    assert write_dataset(data, tmp_path / "coco", "coco") == ()
    assert open_dataset(tmp_path / "coco")[0].instances[0].crowd
    with pytest.raises(DataError, match="empty folder"):
        write_dataset(data, tmp_path / "coco", "coco")
    with pytest.raises(DataError, match="want one of coco"):
        write_dataset(data, tmp_path / "x", "csv")
