"""Pictures cut into tiles: an object is one object, wherever the seams run."""

import builtins
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from pycocotools import mask as coco_mask
from rasterio.transform import Affine
from typer.testing import CliRunner

import maskrcnn
import maskrcnn.jobs.run
import maskrcnn.weights
from maskrcnn.cli import app
from maskrcnn.config import Config
from maskrcnn.errors import ConfigError, ImageError, MissingExtraError, ShapeError
from maskrcnn.inputs import open_large, read
from maskrcnn.jobs import predict_files
from maskrcnn.model import MaskRCNN
from maskrcnn.ops import runs as ops
from maskrcnn.output import encode_crop, encode_runs, to_geojson
from maskrcnn.records import Image, Result
from maskrcnn.tiles import grid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # ours on writing
RED, BLUE = (200, 0, 0), (0, 0, 200)


class Exact:
    """Finds every connected red or blue thing, to the pixel."""

    names = ("red", "blue")
    config = Config(names=names)
    source = "exact"
    untrained = ()
    predict = MaskRCNN.predict
    _predict_many = MaskRCNN._predict_many
    _keep_alpha = False

    def predict_images(self, images: Sequence[Image], **_: Any) -> list[Result]:
        return [self.find(image) for image in images]

    def find(self, image: Image) -> Result:
        boxes, labels, runs = [], [], []
        for label, channel in enumerate((0, 2)):
            if image.pixels[..., channel].any():
                count, numbers = cv2.connectedComponents((image.pixels[..., channel] > 0).astype(np.uint8))
                for i in range(1, count):
                    mask = ops.from_crop(numbers == i, (0, 0))
                    boxes.append(ops.bounds(mask))
                    labels.append(label)
                    runs.append(mask)
        n = len(boxes)
        return Result(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64),
            torch.linspace(0.9, 0.8, n), torch.zeros(n, 0, 0), self.names, image.size,
            image.source or image, runs=tuple(runs),
        )  # fmt: skip


def tiled(pixels: np.ndarray, tile: int = 64, overlap: float = 0.25) -> Result:
    return Exact().predict(pixels, tile=tile, overlap=overlap)  # type: ignore[arg-type]


def masks(result: Result) -> set[tuple[int, bytes]]:
    return {
        (label, m.numpy().tobytes()) for label, m in zip(result.labels.tolist(), result.masks, strict=True)
    }


def scene(*shapes: tuple[str, Any, Any, Any], size: tuple[int, int] = (200, 240)) -> np.ndarray:
    """Discs (x, y), radius and bars (x1, y1), (x2, y2)."""
    pixels = np.zeros((*size, 3), np.uint8)
    for kind, at, extent, colour in shapes:
        if kind == "disc":
            cv2.circle(pixels, at, extent, colour, -1)
        else:
            cv2.rectangle(pixels, at, (extent[0] - 1, extent[1] - 1), colour, -1)
    return pixels


# the grid


def test_tiles_cover_the_picture_with_at_least_the_overlap() -> None:
    """2500 in tiles of 1000 that share 200: (2500 - 1000) / 800 makes 3 tiles, 750 apart."""
    assert grid((2500, 900), 1000, 0.2) == [(0, y, 900, y + 1000) for y in (0, 750, 1500)]
    assert grid((10, 10), 1000, 0.2) == [(0, 0, 10, 10)]
    assert grid((1000, 1001), 1000, 0.0) == [(0, 0, 1000, 1000), (1, 0, 1001, 1000)]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.2), (64, -0.1), (64, 1.0)])
def test_a_grid_that_cannot_be_is_refused(tile: int, overlap: float) -> None:
    with pytest.raises(ConfigError, match="want"):
        tiled(scene(), tile, overlap)


# runs


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0)
    return noise.random((23, 31)) < 0.6, noise.random((23, 31)) < 0.4


def test_runs_are_the_mask(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    ra, rb = (ops.from_crop(m, (5, 7)) for m in pair)
    crop, (y, x) = ops.to_crop(ra)
    assert np.array_equal(
        np.pad(crop, ((y - 5, 0), (x - 7, 0))), a[: y - 5 + crop.shape[0], : x - 7 + crop.shape[1]]
    )
    assert ops.area(ra) == a.sum() and ops.common(ra, rb) == (a & b).sum()
    assert np.array_equal(ops.union([ra, rb]), ops.from_crop(a | b, (5, 7)))
    window = np.zeros_like(a)
    window[4:11, 6:20] = True
    assert np.array_equal(ops.clip(ra, (13, 9, 27, 16)), ops.from_crop(a & window, (5, 7)))
    assert encode_runs(ra, (40, 50)) == encode_crop(a, (5, 7), (40, 50))


def test_runs_that_go_on_in_the_next_column() -> None:
    """Column 0 from row 2 to its end, all of column 1, the first row of column 2: 2 off, 2 + 4 + 1 on, 7 off."""
    mask = np.zeros((4, 4), bool)
    mask[2:, 0] = mask[:, 1] = mask[0, 2] = True
    assert ops.lengths(ops.from_crop(mask, (0, 0)), (4, 4)).tolist() == [2, 7, 7]
    assert np.array_equal(coco_mask.decode(encode_runs(ops.from_crop(mask, (0, 0)), (4, 4))), mask)


def test_no_runs() -> None:
    none = ops.from_crop(np.zeros((3, 3), bool), (1, 1))
    assert ops.area(none) == 0 and ops.to_crop(none)[0].shape == (0, 0)
    assert ops.lengths(none, (3, 3)).tolist() == [9] and len(ops.union([])) == 0


def test_more_pixels_than_coco_can_count_are_refused() -> None:
    with pytest.raises(ShapeError, match="2\\^32"):
        encode_runs(ops.NONE, (2**16, 2**16))


# putting together


def test_every_object_is_one_and_exact_wherever_the_seams_run() -> None:
    noise = np.random.default_rng(1)
    for _ in range(5):
        shapes = [
            ("disc", (int(x), int(y)), int(r), (RED, BLUE)[i % 2])
            for i, (x, y, r) in enumerate(noise.integers((0, 0, 3), (240, 200, 22), (14, 3)))
        ]
        pixels = scene(*shapes)
        pixels[..., 2][pixels[..., 0] > 0] = 0
        assert masks(tiled(pixels)) == masks(Exact().find(Image(pixels)))


def test_objects_larger_than_a_tile_go_through_many() -> None:
    bar = scene(
        ("bar", (10, 20), (230, 60), RED), ("bar", (100, 20), (140, 190), RED), ("disc", (40, 120), 30, BLUE)
    )
    whole = tiled(bar)
    assert masks(whole) == masks(Exact().find(Image(bar))) and len(whole) == 2
    everything = np.full((200, 240, 3), (200, 0, 0), np.uint8)
    assert tiled(everything).boxes.tolist() == [[0, 0, 240, 200]]


def test_the_arms_of_a_u_are_one_object() -> None:
    """In the upper tiles the arms are two."""
    pixels = scene(
        ("bar", (20, 10), (32, 120), RED),
        ("bar", (44, 10), (56, 120), RED),
        ("bar", (20, 100), (56, 120), RED),
    )
    assert masks(tiled(pixels)) == masks(Exact().find(Image(pixels)))


def test_neighbours_that_cross_the_same_seam_stay_two() -> None:
    pixels = scene(
        ("bar", (20, 10), (120, 20), RED),
        ("bar", (20, 22), (120, 32), RED),
        ("bar", (20, 32), (120, 44), BLUE),
    )
    assert len(tiled(pixels)) == 3 and masks(tiled(pixels)) == masks(Exact().find(Image(pixels)))


def test_scores_are_those_of_the_best_part_best_first() -> None:
    result = tiled(scene(("bar", (10, 20), (230, 60), RED), ("disc", (30, 120), 10, BLUE)))
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert result.scores[0] == pytest.approx(0.9)


def test_nothing_gives_nothing() -> None:
    result = tiled(np.zeros((200, 240, 3), np.uint8))
    assert len(result) == 0 and result.masks.shape == (0, 200, 240) and result.rle() == []
    assert result[[]].boxes.shape == (0, 4)


def test_a_merged_result_is_a_result_like_any_other(tmp_path: Path) -> None:
    pixels = scene(("bar", (10, 20), (230, 60), RED), ("disc", (60, 150), 25, BLUE))
    result = tiled(pixels)[[1, 0]][1:]
    assert result.class_names == ("red",) and result.polygons()[0][0].shape == (4, 2)
    assert np.array_equal(coco_mask.decode(result.rle()[0]).astype(bool), result.masks[0].numpy())
    assert result.to_coco()[0]["bbox"] == [10, 20, 220, 40]
    for name in ("a.png", "a.json", "a.csv", "a.geojson", "a.txt"):
        assert result.save(tmp_path / name).stat().st_size > 0


def test_the_network_sees_discs_across_seams_once() -> None:
    yy, xx = np.mgrid[:544, :544]
    pixels = np.full((544, 544, 3), (70, 90, 80), np.uint8)
    centres = [(100, 100), (272, 110), (430, 272), (272, 272), (90, 400), (440, 450)]
    for i, (x, y) in enumerate(centres):
        pixels[(xx - x) ** 2 + (yy - y) ** 2 < 36**2] = [(220, 120, 60), (90, 160, 230), (200, 200, 90)][
            i % 3
        ]
    result = maskrcnn.load("shapes").predict(pixels, tile=320, overlap=0.3, classes=["disc"])
    assert len(result) == len(centres)
    for x, y in centres:
        true = torch.from_numpy((xx - x) ** 2 + (yy - y) ** 2 < 36**2)
        assert max(float((m & true).sum() / (m | true).sum()) for m in result.masks) > 0.9


# reading


def tiff(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    h, w, c = pixels.shape
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16} | profile
    colormap = layout.pop("colormap", None)
    with rasterio.open(
        path, "w", driver="GTiff", height=h, width=w, count=c, dtype=pixels.dtype, **layout
    ) as file:
        file.write(np.moveaxis(pixels, 2, 0))
        if colormap:
            file.write_colormap(1, colormap)
    return path


NOISE = np.random.default_rng(2).integers(0, 256, (50, 70, 4)).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "profile"),
    [
        (NOISE[..., :3], {"photometric": "RGB", "compress": "deflate"}),
        (NOISE[..., :3], {"photometric": "RGB", "compress": "lzw", "tiled": False, "bigtiff": "yes"}),
        (NOISE[..., :3], {"photometric": "RGB", "interleave": "band"}),
        (NOISE, {"photometric": "RGB", "alpha": "yes"}),
        (NOISE[..., :1], {}),
        (NOISE[..., :1] % 3, {"photometric": "palette", "colormap": {0: (1, 2, 3), 1: (90, 0, 9), 2: (7, 7, 255)}}),
        (NOISE.astype(np.uint16) * 200, {"photometric": "RGB"}),
        (NOISE[..., :1].astype(np.float32) / 255, {}),
        (np.dstack((NOISE, NOISE))[..., :6], {}),
    ],
)  # fmt: skip
def test_windows_are_what_the_whole_is(tmp_path: Path, pixels: np.ndarray, profile: dict) -> None:
    path = tiff(tmp_path / "a.tif", pixels, **profile)
    whole = read(path).pixels
    with open_large(path, max_pixels=10) as picture:
        assert picture.size == (50, 70) and picture.image == path
        window = picture.window((10, 20, 64, 49))
        assert window is not None and window.dtype == whole.dtype
        assert np.array_equal(window, whole[20:49, 10:64])
        assert picture.small((25, 35)).shape == (25, 35, whole.shape[2])


def test_windows_of_jpeg_differ_by_its_rounding_only(tmp_path: Path) -> None:
    """Decoders differ in how they enlarge colours."""
    ramp = np.stack(np.meshgrid(np.arange(70) * 3, np.arange(50) * 4), axis=2)[..., [0, 1, 0]].astype(
        np.uint8
    )
    path = tiff(tmp_path / "a.tif", ramp, photometric="YCBCR", compress="jpeg", interleave="pixel")
    with open_large(path, max_pixels=10) as picture:
        window = picture.window((10, 20, 64, 49))
    assert window is not None and np.abs(window.astype(int) - read(path).pixels[20:49, 10:64]).max() <= 8


def test_what_has_no_windows_is_read_whole_within_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), NOISE[..., :3])
    with open_large(path) as picture:
        assert np.array_equal(picture.window((3, 4, 9, 9)), read(path).pixels[4:9, 3:9])
    with pytest.raises(ImageError, match="at most 10 pixels"), open_large(path, max_pixels=10):
        pass


def test_parts_without_data_are_not_looked_at(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 40:] = 9
    with open_large(tiff(tmp_path / "a.tif", pixels, photometric="RGB", nodata=0)) as picture:
        assert picture.window((0, 0, 32, 32)) is None and picture.window((32, 0, 64, 32)) is not None


def test_a_damaged_block_is_said(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", NOISE[..., :3], photometric="RGB", compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"a\.tif: want"):
        Exact().predict(path, tile=32)  # type: ignore[arg-type]


def test_a_large_tiff_without_rasterio_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiff(
        tmp_path / "a.tif", NOISE[..., :3], photometric="RGB", crs="EPSG:32633", transform=Affine.scale(2)
    )
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("rasterio"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with open_large(path) as picture:
        assert picture.window((0, 0, 5, 5)) is not None  # small enough to be read whole
    with pytest.raises(MissingExtraError, match=r"maskrcnn\[geo\]"), open_large(path, max_pixels=10):
        pass
    with pytest.raises(MissingExtraError, match=r"maskrcnn\[geo\]"):
        to_geojson(Exact().find(read(path)))


LARGE = """
import resource, sys
from test_tiles import Exact
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = Exact().predict(sys.argv[1], tile=1024)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(result), sorted(result.boxes.int().tolist()), len(result.rle()) == 2, (after - before) // 1024)
"""


def test_a_picture_larger_than_memory_should_hold_takes_little(tmp_path: Path) -> None:
    """20,000 x 20,000 RGB is 1.2 GB; a red bar of 30 x 15,000 runs through 19 rows of tiles."""
    path = tmp_path / "large.tif"
    with rasterio.open(path, "w", driver="GTiff", height=20_000, width=20_000, count=3, dtype="uint8", tiled=True,
                       blockxsize=256, blockysize=256, sparse_ok=True, compress="deflate", bigtiff="yes",
                       photometric="RGB", nodata=0) as file:  # fmt: skip
        file.write(np.full((1, 15_000, 30), 200, np.uint8), [1], window=((1000, 16_000), (9000, 9030)))
        file.write(np.full((1, 50, 50), 200, np.uint8), [3], window=((19_000, 19_050), (300, 350)))
    done = subprocess.run([sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parent, timeout=120)  # fmt: skip
    said = done.stdout.split()
    assert said[0] == "2" and "[[300, 19000, 350, 19050], [9000, 1000, 9030, 16000]] True" in done.stdout
    assert int(said[-1]) < 300


# on earth


def test_geojson_is_in_the_coordinates_of_the_picture(tmp_path: Path) -> None:
    """Pixels of 10 m, the corner at 500000 east, 4000000 north: column 20 is at 500200, row 30 at 3999700."""
    pixels = scene(("bar", (20, 30), (60, 50), RED), size=(100, 100))
    pixels[35:40, 30:40] = 0
    path = tiff(tmp_path / "a.tif", pixels, photometric="RGB", crs="EPSG:32633",
                transform=Affine(10, 0, 500_000, 0, -10, 4_000_000))  # fmt: skip
    found = json.loads(Exact().predict(path, tile=48).save(tmp_path / "a.geojson").read_text())  # type: ignore[arg-type]
    assert found["crs"] == {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (feature,) = found["features"]
    outer, hole = (np.array(ring) for ring in feature["geometry"]["coordinates"])
    assert outer.min(axis=0).tolist() == [500_200, 3_999_500] and outer.max(axis=0).tolist() == [
        500_600,
        3_999_700,
    ]
    assert hole.min(axis=0).tolist() == [500_300, 3_999_600] and hole.max(axis=0).tolist() == [
        500_400,
        3_999_650,
    ]
    assert (
        cv2.contourArea((outer - outer[0]).astype(np.float32), oriented=True) > 0
    )  # against the clock, y up
    assert cv2.contourArea((hole - hole[0]).astype(np.float32), oriented=True) < 0
    assert [feature["properties"][k] for k in ("x1", "y1", "x2", "y2")] == [20, 30, 60, 50]


def test_degrees_are_longitude_first_and_plain_pictures_stay_in_pixels(tmp_path: Path) -> None:
    pixels = scene(("bar", (20, 30), (60, 50), RED), size=(100, 100))
    path = tiff(tmp_path / "a.tif", pixels, photometric="RGB", crs="EPSG:4326",
                transform=Affine(0.5, 0, 10, 0, -0.5, 60))  # fmt: skip
    found = to_geojson(Exact().find(Image(pixels, path)))
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"
    assert [20, 45] in found["features"][0]["geometry"]["coordinates"][0]  # 10 + 20 / 2, 60 - 30 / 2
    plain = to_geojson(Exact().find(Image(pixels, tiff(tmp_path / "b.tif", pixels, photometric="RGB"))))
    assert "crs" not in plain and [20, 30] in plain["features"][0]["geometry"]["coordinates"][0]


# many


def test_folders_are_tiled_one_by_one(tmp_path: Path) -> None:
    tiff(tmp_path / "1.tif", scene(("bar", (10, 20), (230, 60), RED)), photometric="RGB")
    (tmp_path / "2.tif").write_bytes(b"II*\0torn")
    errors: list[Any] = []
    found = list(Exact().predict(tmp_path, tile=64, on_error=lambda *e: errors.append(e)))  # type: ignore[arg-type]
    assert [len(r) for r in found] == [1] and "2.tif" in str(errors[0][1])
    with pytest.warns(UserWarning, match="left out"):
        list(Exact().predict(tmp_path, tile=64))  # type: ignore[arg-type]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskrcnn.weights, "load", lambda *_, **__: Exact())
    monkeypatch.setattr(maskrcnn.jobs.run, "MAX_PIXELS", 20_000)
    monkeypatch.setattr(maskrcnn.jobs.run, "_OVERLAY_SIDE", 120)
    tiff(
        tmp_path / "in.tif",
        scene(("bar", (10, 20), (230, 60), RED), ("disc", (60, 150), 25, BLUE)),
        photometric="RGB",
    )
    arguments = ["predict", str(tmp_path / "in.tif"), "--tile", "64", "--out", str(tmp_path / "o"), "--save",
                 "overlay,json,geojson"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "2 instances" in done.output
    assert read(tmp_path / "o/in_overlay.jpg").size == (100, 120)
    assert len(json.loads((tmp_path / "o/results.json").read_text())["annotations"]) == 2
    done = CliRunner().invoke(app, [*arguments, "--resume", "--overlap", "0.3"])
    assert done.exit_code == 1 and "overlap" in done.output
    assert "0 pictures" in CliRunner().invoke(app, [*arguments, "--resume"]).output
    report = predict_files(Exact(), [tmp_path / "in.tif", tmp_path / "no.tif"], tmp_path / "p", tile=64)  # type: ignore[arg-type]
    assert report.done == 1 and report.failed[0][0].endswith("no.tif")
