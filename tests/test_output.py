"""Files and pictures of results. Expected numbers come from hand-made masks: full, half, or a few pixels."""

import csv
import io
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn import output
from maskrcnn.errors import ConfigError, ImageError, MissingExtraError
from maskrcnn.output import CocoWriter, as_rgb, crop_polygons, draw, encode_crop, save, write
from maskrcnn.output.labels import Label, _place
from maskrcnn.output.palette import colour, text_colour
from maskrcnn.output.shapes import crop_rings, join_parts
from maskrcnn.records import Image, Result

NAMES = ("cat", "traffic light")
SIZE = (40, 60)


def make(boxes, labels, roi_masks=None, size=SIZE, image=None, names=NAMES):
    n = len(boxes)
    masks = torch.ones(n, 28, 28) if roi_masks is None else torch.as_tensor(roi_masks)
    return Result(
        torch.tensor(boxes, dtype=torch.float32).reshape(n, 4), torch.tensor(labels, dtype=torch.int64),
        torch.linspace(0.9, 0.6, n), masks, names, size, image,
    )  # fmt: skip


@pytest.fixture
def two():
    """A full box of 20 x 10 pixels and one over the right border, of which 10 x 20 pixels remain."""
    return make([[10, 5, 30, 15], [50, 10, 70, 30]], [1, 0], image=Image(np.full((*SIZE, 3), 100, np.uint8)))


@pytest.fixture
def none():
    return make([], [], roi_masks=torch.zeros(0, 28, 28), image=Image(np.zeros((*SIZE, 3), np.uint8)))


def test_run_lengths_equal_pycocotools_on_the_whole_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        h, w = rng.integers(1, 9, 2).tolist()
        y1, y2 = sorted(rng.integers(0, h + 1, 2).tolist())
        x1, x2 = sorted(rng.integers(0, w + 1, 2).tolist())
        crop = rng.random((y2 - y1, x2 - x1)) < rng.choice([0.0, 0.5, 0.9, 1.1])
        whole = np.zeros((h, w), np.uint8, order="F")
        whole[y1:y2, x1:x2] = crop
        wanted = coco_mask.encode(whole)
        assert encode_crop(crop, (y1, x1), (h, w)) == {"size": [h, w], "counts": wanted["counts"].decode()}


def test_one_pixel_has_an_outline_of_area_one():
    (outline,) = crop_polygons(np.ones((1, 1), bool), (10, 20))
    assert sorted(outline.tolist()) == [[20, 10], [20, 11], [21, 10], [21, 11]]


def test_outlines_of_a_rectangle_are_its_corners_at_any_tolerance():
    for tolerance in (0.0, 0.5):
        (outline,) = crop_polygons(np.ones((4, 7), bool), (0, 0), tolerance)
        assert sorted(outline.tolist()) == [[0, 0], [0, 4], [7, 0], [7, 4]]


def test_parts_are_separate_and_the_largest_comes_first():
    crop = np.zeros((5, 9), bool)
    crop[0, 0] = crop[2:5, 4:9] = True
    areas = [cv2.contourArea(p) for p in crop_polygons(crop, (3, 3))]
    assert areas == [15, 1]


def test_polygons_fill_holes_and_rings_keep_them():
    crop = np.ones((6, 6), bool)
    crop[2:4, 2:4] = False
    assert [cv2.contourArea(p) for p in crop_polygons(crop, (0, 0))] == [36]
    ((outer, (hole,)),) = crop_rings(crop, (0, 0))
    # the hole of 4 pixels has its four corners cut, each a triangle with sides of half a pixel
    assert cv2.contourArea(outer) - cv2.contourArea(hole) == 36 - (4 - 4 * 0.125)


def test_no_mask_pixel_no_polygon():
    assert crop_polygons(np.zeros((3, 3), bool), (0, 0)) == []
    assert crop_polygons(np.zeros((0, 3), bool), (0, 0)) == []


def test_joined_parts_enclose_the_sum_of_their_areas():
    square = np.array([[0, 0], [0, 2], [2, 2], [2, 0]], np.float32)
    ring = join_parts([square, square + 5, square[:3] * 2 + 20])
    assert cv2.contourArea(ring) == 4 + 4 + 8


def test_coco_results_of_a_full_box(two):
    first, second = output.to_coco(two, image_id=7)
    assert first["image_id"] == 7
    assert first["category_id"] == 2  # "traffic light" is the second name
    assert first["bbox"] == [10, 5, 20, 10]
    assert coco_mask.area(first["segmentation"]) == 200
    assert coco_mask.area(second["segmentation"]) == 200
    assert first["score"] == pytest.approx(0.9)


def test_pycocotools_loads_the_results_of_a_run(two, none, tmp_path, capsys):
    path = tmp_path / "out" / "results.json"
    with CocoWriter(path, NAMES) as writer:
        for name, result in (("a.jpg", two), ("b.jpg", none), ("c/a.jpg", two)):
            writer.add(result, name)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    coco = COCO(str(path))
    assert [i["file_name"] for i in coco.loadImgs([1, 2, 3])] == ["a.jpg", "b.jpg", "c/a.jpg"]
    assert [c["name"] for c in coco.loadCats([1, 2])] == list(NAMES)
    assert [coco.annToMask(a).sum() for a in coco.imgToAnns[3]] == [200, 200]
    assert [a["id"] for a in coco.imgToAnns[3]] == [3, 4]
    loaded = coco.loadRes(coco.dataset["annotations"])
    assert len(loaded.anns) == 4
    assert coco.loadRes(output.to_coco(two, image_id=3)).annToMask(loaded.anns[1]).shape == SIZE


def test_a_run_without_images_is_a_valid_file(tmp_path, capsys):
    CocoWriter(tmp_path / "results.json", NAMES).close()
    assert COCO(str(tmp_path / "results.json")).imgs == {}


def test_a_killed_run_goes_on_where_it_stopped(two, tmp_path):
    path = tmp_path / "results.json"
    killed = CocoWriter(path, NAMES)
    killed.add(two, "a.jpg")
    killed._file.write(b'{"image": {"id": 2, "file_na')  # half a line, as a kill leaves it
    killed._file.close()
    with CocoWriter(path, NAMES, resume=True) as writer:
        assert writer.done == {"a.jpg"}
        writer.add(two, "b.jpg")
    written = json.loads(path.read_text())
    assert [i["file_name"] for i in written["images"]] == ["a.jpg", "b.jpg"]
    assert [(a["id"], a["image_id"]) for a in written["annotations"]] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_finished_run_can_be_added_to(two, tmp_path):
    path = tmp_path / "results.json"
    for name in ("a.jpg", "b.jpg"):
        with CocoWriter(path, NAMES, resume=True) as writer:
            writer.add(two, name)
    assert len(json.loads(path.read_text())["annotations"]) == 4
    with CocoWriter(path, NAMES) as writer:  # without resume it begins anew
        writer.add(two, "c.jpg")
    assert len(json.loads(path.read_text())["annotations"]) == 2


def test_resuming_with_other_classes_or_the_same_image_is_refused(two, tmp_path):
    with CocoWriter(tmp_path / "results.json", NAMES) as writer:
        writer.add(two, "a.jpg")
        with pytest.raises(ConfigError, match="again"):
            writer.add(two, "a.jpg")
    with pytest.raises(ConfigError, match="classes"):
        CocoWriter(tmp_path / "results.json", ("dog",), resume=True)


def test_masks_are_an_instance_map_and_one_picture_each(two, tmp_path):
    overlapping = make([[0, 0, 10, 10], [5, 0, 15, 10]], [0, 1])
    paths = write(overlapping, tmp_path, "sub/frame.001", ["masks"])
    assert [p.name for p in paths] == ["instances.png", "000_cat.png", "001_traffic_light.png"]
    assert paths[0].parent == tmp_path / "sub" / "frame.001_masks"
    numbers = cv2.imread(str(paths[0]), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16
    assert [(numbers == i).sum() for i in (1, 2)] == [100, 50]  # the better score is on top
    second = cv2.imread(str(paths[2]), cv2.IMREAD_UNCHANGED)
    assert second.shape == SIZE
    assert (second == 255).sum() == 100


def test_cutouts_are_transparent_around_the_mask(tmp_path):
    half = torch.zeros(1, 28, 28)
    half[:, :, :14] = 1.0
    picture = Image(np.full((*SIZE, 3), (10, 20, 30), np.uint8))
    (path,) = write(make([[0, 0, 20, 10]], [0], half, image=picture), tmp_path, "x", ["cutouts"])
    rgba = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    assert rgba.shape == (10, 20, 4)
    assert (rgba[:, :10] == (10, 20, 30, 255)).all()
    assert (rgba[:, 10:] == 0).all()


def test_labelme_points_at_the_picture_and_has_pixel_outlines(two, tmp_path):
    source = tmp_path / "photos" / "a.jpg"
    source.parent.mkdir()
    cv2.imwrite(str(source), np.zeros((*SIZE, 3), np.uint8))
    result = make([[10, 5, 30, 15]], [1], image=source)
    (path,) = write(result, tmp_path / "out", "a", ["labelme"])
    labelme = json.loads(path.read_text())
    assert labelme["imagePath"] == "../photos/a.jpg"
    assert (labelme["imageHeight"], labelme["imageWidth"]) == SIZE
    (shape,) = labelme["shapes"]
    assert shape["label"] == "traffic light"
    assert sorted(shape["points"]) == [[10, 5], [10, 15], [30, 5], [30, 15]]


def test_yolo_lines_are_shares_of_the_picture(two, none):
    first, second = output.to_yolo(two).splitlines()
    label, *shares = first.split()
    points = np.array(shares, float).reshape(-1, 2) * SIZE[::-1]
    assert label == "1"
    np.testing.assert_allclose(sorted(points.tolist()), [[10, 5], [10, 15], [30, 5], [30, 15]], atol=1e-4)
    assert second.startswith("0 ")
    assert max(float(v) for v in second.split()[1:]) == 1.0  # up to the border, not beyond
    assert output.to_yolo(none) == ""


def test_geojson_rings_are_closed(two, none):
    features = output.to_geojson(two)["features"]
    ring = features[0]["geometry"]["coordinates"][0]
    assert features[0]["geometry"]["type"] == "Polygon"
    assert ring[0] == ring[-1]
    assert len(ring) == 5
    assert features[0]["properties"]["area"] == 200
    assert output.to_geojson(none) == {"type": "FeatureCollection", "features": []}


def test_an_instance_without_mask_pixels_is_valid_in_every_form(tmp_path, capsys):
    empty = make([[5, 5, 9, 9]], [0], torch.zeros(1, 28, 28), image=Image(np.zeros((*SIZE, 3), np.uint8)))
    assert coco_mask.area(empty.rle()[0]) == 0
    assert output.to_geojson(empty)["features"][0]["geometry"] is None
    assert output.to_yolo(empty) == ""
    assert output.to_csv(empty).splitlines()[1].endswith("0,,")
    json.dumps(output.to_geojson(empty), allow_nan=False)
    write(empty, tmp_path, "x", output.KINDS)


def test_table_rows_have_area_and_centroid_of_the_mask(two, none):
    row = next(csv.DictReader(io.StringIO(output.to_csv(two))))
    assert row["name"] == "traffic light"
    assert [float(row[k]) for k in ("x1", "y1", "x2", "y2", "area")] == [10, 5, 30, 15, 200]
    assert [float(row[k]) for k in ("centroid_x", "centroid_y")] == [20, 10]
    frame = two.to_dataframe()
    assert frame["area"].tolist() == [200, 200]
    assert list(none.to_dataframe().columns) == list(frame.columns)


def test_without_pandas_the_error_names_the_extra(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"maskrcnn\[tables\]"):
        two.to_dataframe()


@pytest.mark.parametrize(
    "ending", [".png", ".jpg", ".webp", ".tif", ".bmp", ".json", ".csv", ".geojson", ".txt"]
)
def test_the_ending_chooses_the_form(two, none, ending, tmp_path):
    for i, result in enumerate((two, none)):
        path = save(result, tmp_path / f"{i}{ending.upper()}")
        assert path.exists()
    if ending in output.files.PICTURES:
        assert cv2.imread(str(tmp_path / f"0{ending.upper()}")).shape == (*SIZE, 3)
    assert len(list(tmp_path.iterdir())) == 2  # nothing temporary stays


def test_unknown_endings_kinds_and_options_are_refused(two, tmp_path):
    with pytest.raises(ConfigError, match=r"\.parquet"):
        save(two, tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="no options"):
        save(two, tmp_path / "x.json", alpha=0.3)
    with pytest.raises(ConfigError, match="tracks"):
        write(two, tmp_path, "x", ["csv", "tracks"])
    with pytest.raises(ConfigError, match="alpha"):
        draw(two, alpha=2)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(two, tmp_path, monkeypatch):
    path = save(two, tmp_path / "x.csv")
    before = path.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(two[:1], path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_mask_is_blended_inside_and_nothing_else_is_touched(two):
    drawn = draw(two, alpha=0.5, boxes=False, labels=False, contours=False)
    inside = np.zeros(SIZE, bool)
    inside[5:15, 10:30] = True
    np.testing.assert_allclose(drawn[6, 12], (100 + np.array(colour(0))) / 2, atol=0.5)
    inside[10:30, 50:60] = True
    assert (drawn[~inside] == 100).all()
    assert (two.pixels == 100).all()  # the picture itself stays


def test_color_by_class_gives_one_colour_to_a_class():
    result = make([[0, 0, 10, 10], [20, 0, 30, 10]], [1, 1], image=Image(np.zeros((*SIZE, 3), np.uint8)))
    by_class = draw(result, color_by="class", boxes=False, labels=False, contours=False)
    by_instance = draw(result, boxes=False, labels=False, contours=False)
    assert (by_class[5, 5] == by_class[5, 25]).all()
    assert (by_instance[5, 5] != by_instance[5, 25]).any()


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (3, 900), (900, 3), (300, 400)])
def test_pictures_of_any_shape_can_be_drawn_on(size):
    h, w = size
    boxes = [[0, 0, w, h], [-5, -5, w / 2, h / 2], [w - 1, h - 1, w + 9, h + 9], [w / 2, h / 2, w / 2, h / 2]]
    result = make(boxes, [0, 1, 0, 1], size=size, image=Image(np.zeros((h, w, 3), np.uint8)))
    assert draw(result).shape == (h, w, 3)


def test_labels_stay_in_the_picture_and_off_each_other():
    placed = np.array([[0.0, 0.0, 50.0, 10.0]])
    for box in ((0.0, 0.0, 20.0, 20.0), (90.0, 95.0, 100.0, 100.0), (40.0, 2.0, 60.0, 60.0)):
        x1, y1, x2, y2 = _place(box, (40, 10), (100, 100), placed, np.empty((0, 4)))
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 100
        assert x1 >= 50 or y1 >= 10
    assert _place((0.0, 0.0, 5.0, 5.0), (200, 10), (100, 100), placed, np.empty((0, 4))) is None
    assert Label("a", "a 0.50", (0.0, 0.0, 1.0, 1.0), (0, 0, 0)).short == "a"


def test_a_result_without_picture_says_what_to_do():
    with pytest.raises(ImageError, match="replace"):
        draw(make([[0, 0, 5, 5]], [0]))


def test_every_kind_of_picture_is_shown_in_its_range():
    ramp = np.array([[0, 1000, 4000]], np.uint16)
    assert as_rgb(ramp)[0, :, 0].tolist() == [0, 64, 255]
    assert as_rgb(np.array([[0, 0.2, 1]], np.float32)[..., None])[0, :, 2].tolist() == [0, 51, 255]
    assert as_rgb(np.array([[0.0, 51.0, 255.0]], np.float32))[0, :, 1].tolist() == [0, 51, 255]
    assert as_rgb(np.array([[-1.0, 0.0, np.nan, 1.0]], np.float32))[0, :, 0].tolist() == [0, 128, 0, 255]
    assert as_rgb(np.full((2, 2), 7, np.uint16)).max() == 0
    seven = np.arange(28, dtype=np.uint8).reshape(2, 2, 7)
    assert np.array_equal(as_rgb(seven), seven[..., :3])


def test_the_first_twenty_colours_are_far_apart():
    """CIE76 difference in Lab; 2.3 is just noticeable."""
    rgb = np.array([[colour(i) for i in range(20)]], np.float32) / 255
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(20)
    assert distance.min() > 15
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((0, 0, 128)) == (255, 255, 255)
