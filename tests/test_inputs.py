"""Reading pictures: what is stored is what comes out, and what cannot be read says why."""

import http.server
import io
import itertools
import os
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from maskrcnn.errors import ImageError, MissingExtraError
from maskrcnn.inputs import expand, is_many, read, read_ahead, to_channels
from maskrcnn.records import Image

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)  # 4 rows of 6
DEEP = RGB.astype(np.uint16) * 257 + 1


def save(path: Path, mode: str, pixels: np.ndarray | None = None, **options: object) -> Path:
    image = PIL.Image.fromarray(RGB if pixels is None else pixels)
    (image if image.mode == mode else image.convert(mode)).save(path, **options)
    return path


def equal(image: Image, pixels: np.ndarray) -> None:
    assert image.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(image.pixels, pixels)


# Every way to hand a picture in


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", "RGB")
    with path.open("rb") as file:
        equal(read(file), RGB)
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    for source in (
        path,
        str(path),
        path.read_bytes(),
        PIL.Image.open(path),
        RGB,
        chw,
        bytearray(path.read_bytes()),
    ):
        equal(read(source), RGB)
    assert read(path).source == path and read(RGB).source is None
    image = read(path)
    assert read(image) is image


def test_grey_arrays_and_tensors_get_one_channel() -> None:
    equal(read(RGB[:, :, 0]), RGB[:, :, :1])
    equal(read(torch.from_numpy(RGB[:, :, 0])), RGB[:, :, :1])


def test_mirrored_arrays_become_contiguous_for_torch() -> None:
    assert read(RGB[:, ::-1]).pixels.flags.c_contiguous
    torch.from_numpy(read(RGB[:, :, ::-1]).pixels)


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "bmp", "gif", "ppm"])
def test_lossless_formats_keep_every_value(tmp_path: Path, ending: str) -> None:
    pixels = np.repeat(RGB[:, :, :1], 3, 2) if ending == "gif" else RGB
    options = {"lossless": True} if ending == "webp" else {}
    equal(read(save(tmp_path / f"a.{ending}", "RGB", pixels, **options)), pixels)


def test_jpeg_of_one_colour_keeps_it(tmp_path: Path) -> None:
    grey = np.full((16, 16, 3), 128, np.uint8)
    equal(read(save(tmp_path / "a.jpg", "RGB", grey)), grey)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", "RGB")
    equal(read(path.rename(tmp_path / "a.jpg")), RGB)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [PIL.Image.new("L", (5, 4), v) for v in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path / "a.gif").pixels.max() == 10


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_puts_the_first_pixel_where_the_camera_saw_it(
    tmp_path: Path, orientation: int
) -> None:
    # EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored array belong in the upright picture
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for pixels in (np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint16)):
        pixels[0, 0] = 255
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{pixels.dtype}.png"
        if pixels.dtype == np.uint8:
            PIL.Image.fromarray(pixels).save(path, exif=exif)
        else:
            path.write_bytes(with_exif(cv2.imencode(".png", pixels)[1].tobytes(), exif))
        got = read(path).pixels
        assert got.shape == ((6, 4, 3) if orientation >= 5 else (4, 6, 3))
        assert got[corner[orientation]].min() == 255 and got.sum() == 3 * 255


def with_exif(png: bytes, exif: PIL.Image.Exif) -> bytes:
    """Put an eXIf chunk behind the header (8 bytes of signature, 25 of IHDR)."""
    import struct
    import zlib

    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    return png[:33] + chunk + png[33:]


# Channels and depth of files


def test_grey_one_bit_and_grey_alpha_have_one_channel(tmp_path: Path) -> None:
    grey = RGB[:, :, 0]
    equal(read(save(tmp_path / "l.png", "L", grey)), grey[:, :, None])
    two = np.where(grey > 30, 255, 0).astype(np.uint8)
    equal(read(save(tmp_path / "1.png", "1", two)), two[:, :, None])
    la = np.stack([np.full((4, 6), 100, np.uint8), np.full((4, 6), 255, np.uint8)], 2)
    la[0, 0, 1] = 0
    got = read(save(tmp_path / "la.png", "LA", la)).pixels
    assert got.shape == (4, 6, 1) and got[0, 0, 0] == 255 and got[1, 1, 0] == 100
    equal(read(tmp_path / "la.png", keep_alpha=True), la)


def test_transparency_shows_white_and_opaque_pixels_stay(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((4, 6), 255, np.uint8)])
    equal(read(save(tmp_path / "opaque.png", "RGBA", rgba)), RGB)
    rgba[0, 0] = 10, 20, 30, 0
    rgba[0, 1] = 0, 0, 0, 51  # a fifth of black over white: 255 * 0.8 = 204
    path = save(tmp_path / "a.png", "RGBA", rgba)
    got = read(path).pixels
    assert got[0, 0].tolist() == [255] * 3 and got[0, 1].tolist() == [204] * 3
    np.testing.assert_array_equal(got[1:], RGB[1:])
    equal(read(path, keep_alpha=True), rgba)


def test_palette_is_looked_up_and_its_transparent_entry_is_white(tmp_path: Path) -> None:
    image = PIL.Image.new("P", (3, 2), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "p.png", transparency=0)
    got = read(tmp_path / "p.png").pixels
    assert got[0, 0].tolist() == [255, 255, 255] and got[1, 2].tolist() == [200, 100, 50]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(
        tmp_path / "a.tif"
    )  # no cyan, full magenta and yellow
    assert read(tmp_path / "a.tif").pixels[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_stay_sixteen(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "c.png"), DEEP[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "g.png"), DEEP[:, :, 0])
    tifffile.imwrite(tmp_path / "c.tif", DEEP, photometric="rgb")
    tifffile.imwrite(tmp_path / "be.tif", DEEP, byteorder=">")
    tifffile.imwrite(tmp_path / "big.tif", DEEP, bigtiff=True)
    tifffile.imwrite(tmp_path / "g.tif", DEEP[:, :, 0])
    for name in ("c.png", "c.tif", "be.tif", "big.tif"):
        equal(read(tmp_path / name), DEEP)
    for name in ("g.png", "g.tif"):
        equal(read(tmp_path / name), DEEP[:, :, :1])


def test_sixteen_bit_alpha_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([DEEP, np.full((4, 6), 65535, np.uint16)])
    rgba[0, 0, 3] = 0
    cv2.imwrite(str(tmp_path / "a.png"), rgba[:, :, [2, 1, 0, 3]])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        got = read(tmp_path / name).pixels
        assert got.dtype == np.uint16 and got[0, 0].tolist() == [65535] * 3
        np.testing.assert_array_equal(got[1:], DEEP[1:])
        equal(read(tmp_path / name, keep_alpha=True), rgba)


def test_float_tiff_keeps_its_values(tmp_path: Path) -> None:
    values = RGB.astype(np.float32) / 100
    tifffile.imwrite(tmp_path / "c.tif", values, photometric="rgb")
    tifffile.imwrite(tmp_path / "g.tif", values[:, :, 0])
    equal(read(tmp_path / "c.tif"), values)
    equal(read(tmp_path / "g.tif"), values[:, :, :1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [2, 4, 5, 12])
def test_bands_of_a_tiff_survive_in_every_layout(tmp_path: Path, dtype: type, bands: int) -> None:
    cube = np.arange(20 * 30 * bands).reshape(20, 30, bands).astype(dtype)
    tifffile.imwrite(tmp_path / "contig.tif", cube, photometric="minisblack", planarconfig="contig")
    planes = np.ascontiguousarray(cube.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "planar.tif", planes, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(tmp_path / "pages.tif", planes, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", planes, imagej=True, metadata={"axes": "CYX"})
    for name in ("contig", "planar", "pages", "imagej"):
        equal(read(tmp_path / f"{name}.tif"), cube)


def test_a_near_infrared_band_is_not_taken_for_alpha(tmp_path: Path) -> None:
    cube = np.dstack([RGB, np.full((4, 6), 7, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", cube, photometric="rgb", extrasamples=["unspecified"])
    equal(read(tmp_path / "a.tif"), cube)


def test_first_page_of_a_time_series(tmp_path: Path) -> None:
    series = np.stack([np.full((8, 9), v, np.uint8) for v in (1, 2, 3)])
    tifffile.imwrite(tmp_path / "t.tif", series, imagej=True, metadata={"axes": "TYX"})
    equal(read(tmp_path / "t.tif"), np.full((8, 9, 1), 1, np.uint8))


def test_npy_of_any_channels(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).normal(size=(4, 6, 7))
    np.save(tmp_path / "a.npy", cube)
    equal(read(tmp_path / "a.npy"), cube.astype(np.float32))


def test_npy_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a\.npy"):
        read(tmp_path / "a.npy")


def test_tiff_of_many_bands_without_tifffile_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30, 5), np.uint8), planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"maskrcnn\[tiff\]"):
        read(tmp_path / "a.tif")


# Arrays


def test_array_types() -> None:
    equal(read(np.array([[True, False]])), np.array([[[255], [0]]], np.uint8))
    equal(read(RGB.astype(np.int64)), RGB)
    equal(read(RGB.astype(np.float64) / 255), (RGB / 255).astype(np.float32))
    equal(read(torch.zeros(3, 5, 5, dtype=torch.bfloat16)), np.zeros((5, 5, 3), np.float32))
    equal(read(DEEP.astype(">u2")), DEEP)
    equal(read(np.full((5, 6, 7), -3, np.int16)), np.full((5, 6, 7), -3, np.float32))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(480, 640, 3), "want CHW, got (480, 640, 3); use tensor.permute(2, 0, 1)"),
        (np.zeros((3, 480, 640)), "want HWC, got (3, 480, 640); use array.transpose(1, 2, 0)"),
        (np.zeros((5, 480, 640)), "want HWC, got (5, 480, 640)"),
        (np.zeros((2, 4, 6, 3)), "want one picture"),
        (np.zeros(7), "want one picture"),
        (np.zeros((0, 6, 3)), "at least 1 x 1"),
        (np.full((4, 6, 3), np.nan), "72 NaN or infinite"),
        (np.zeros((4, 6), complex), "complex128"),
        (np.array([["a"]]), "want uint8"),
        (7, "got int"),
        (None, "got NoneType"),
        (io.StringIO("text"), "mode 'rb'"),
    ],
)
def test_arrays_that_are_no_picture_say_what_to_do(source: object, said: str) -> None:
    with pytest.raises(ImageError) as error:
        read(source)
    assert said in str(error.value)


# What cannot be read


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_every_cut_of_every_format_is_an_image_error_that_names_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for ending in ("jpg", "png", "tif", "webp", "bmp", "gif"):
        save(tmp_path / f"a.{ending}", "RGB", noise)
    cv2.imwrite(str(tmp_path / "deep.png"), noise.astype(np.uint16) * 257)
    tifffile.imwrite(tmp_path / "deep.tif", noise.astype(np.uint16))
    tifffile.imwrite(tmp_path / "bands.tif", np.dstack([noise, noise]), planarconfig="contig")
    np.save(tmp_path / "a.npy", noise)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for length in (0, 1, 7, 9, 30, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10):
            path.write_bytes(whole[:length])
            with pytest.raises(ImageError, match=path.name):
                read(path)


def test_files_that_are_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(ImageError, match=r"a\.jpg: want a picture \(JPEG.*convert"):
        read(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="No such file"):
        read(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="directory"):
        read(tmp_path)
    with pytest.raises(ImageError, match="0 bytes"):
        read(b"")


def test_a_bomb_is_refused_before_it_is_decoded_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.new("1", (20_000, 15_000)).save(tmp_path / "a.png")  # 300 million pixels in 37 kB
    with pytest.raises(ImageError, match=r"20000 x 15000 = 300,000,000; if you trust it, raise max_pixels"):
        read(tmp_path / "a.png")
    with pytest.raises(ImageError, match="at most 20 pixels"):
        read(save(tmp_path / "b.png", "RGB"), max_pixels=20)
    assert read(tmp_path / "b.png", max_pixels=24).size == (4, 6)
    np.save(tmp_path / "a.npy", RGB)
    with pytest.raises(ImageError, match="at most 20 pixels"):
        read(tmp_path / "a.npy", max_pixels=20)
    assert before == PIL.Image.MAX_IMAGE_PIXELS


# URLs


@pytest.fixture
def server(tmp_path: Path) -> str:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_url(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", "RGB")
    equal(read(f"{server}/a.png"), RGB)
    with pytest.raises(ImageError, match="HTTP status 404"):
        read(f"{server}/b.png")
    monkeypatch.setattr("maskrcnn.inputs.decode.MAX_DOWNLOAD", 20)
    with pytest.raises(ImageError, match="got more"):
        read(f"{server}/a.png")


def test_url_that_nobody_answers() -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        read("http://127.0.0.1:9/a.png")


# To the model


def test_range_of_a_picture_for_an_rgb_model() -> None:
    equal_values = np.testing.assert_array_equal
    equal_values(to_channels(Image(RGB), 3), RGB)
    equal_values(to_channels(Image(RGB.astype(np.uint16) * 257), 3), RGB.astype(np.float32))
    equal_values(to_channels(Image(np.full((2, 2, 3), 0.5, np.float32)), 3), np.float32(127.5))
    grey = to_channels(Image(np.full((2, 2, 1), 65535, np.uint16)), 3)
    assert grey.shape == (2, 2, 3) and grey.dtype == np.float32 and grey.min() == 255


def test_values_for_other_models_go_in_as_they_are() -> None:
    equal_values = np.testing.assert_array_equal
    cube = np.full((2, 2, 5), 3000, np.uint16)
    assert to_channels(Image(cube), 5).dtype == np.float32
    equal_values(to_channels(Image(cube), 5), cube)
    equal_values(to_channels(Image(np.full((2, 2, 1), -9.5, np.float32)), 1), np.float32(-9.5))


@pytest.mark.parametrize(
    ("pixels", "channels", "said"),
    [
        (np.zeros((4, 4, 4), np.uint8), 3, r"want 3 channels.*got 4; keep the colours with array\[..., :3\]"),
        (np.zeros((4, 4, 3), np.uint8), 4, "keep_alpha=True"),
        (np.zeros((4, 4, 7), np.uint8), 3, "want 3 channels.*got 7"),
        (np.zeros((4, 4, 3), np.uint8), 5, "5 bands"),
        (np.full((4, 4, 3), 255, np.float32), 3, r"0\.\.1, got 255\.\.255; divide"),
        (np.full((4, 4, 1), -1, np.float32), 3, r"0\.\.1, got -1\.\.-1"),
    ],
)
def test_pictures_that_do_not_fit_say_what_to_do(pixels: np.ndarray, channels: int, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        to_channels(Image(pixels, Path("x.tif")), channels)


# Many


def test_what_is_many(tmp_path: Path) -> None:
    save(tmp_path / "a[1].png", "RGB")
    one = ["a.jpg", "http://x/a?b=*.jpg", b"", RGB, torch.zeros(3, 4, 4), Image(RGB), io.BytesIO(),
           PIL.Image.new("L", (1, 1)), tmp_path / "a.png", str(tmp_path / "a[1].png")]  # fmt: skip
    many = [[], (), iter([]), (x for x in []), tmp_path, str(tmp_path), "photos/*.jpg", "**/a?.png",
            np.zeros((2, 4, 4, 3)), torch.zeros(2, 3, 4, 4)]  # fmt: skip
    assert not any(is_many(x) for x in one) and all(is_many(x) for x in many)


def test_folder_and_globs_are_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.PNG", "img1.jpg", "sub/img3.png", ".hidden/a.png", ".a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda source, **o: [p.relative_to(tmp_path).as_posix() for p in expand(source, **o)]  # noqa: E731
    assert names(tmp_path) == ["img1.jpg", "img2.PNG", "img10.png"]
    assert names(tmp_path, recursive=True) == ["img1.jpg", "img2.PNG", "img10.png", "sub/img3.png"]
    assert names(f"{tmp_path}/**/*.png") == ["img10.png", "sub/img3.png"]
    assert names(f"{tmp_path}/*") == ["img1.jpg", "img2.PNG", "img10.png"]
    assert names([f"{tmp_path}/sub", tmp_path / "img1.jpg"]) == ["sub/img3.png", "img1.jpg"]


def test_batches_give_their_pictures() -> None:
    assert [read(x).size for x in expand(np.zeros((2, 4, 6, 3), np.uint8))] == [(4, 6)] * 2
    assert [read(x).size for x in expand([torch.zeros(2, 3, 4, 6)])] == [(4, 6)] * 2


def test_no_pictures_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="has no pictures"):
        expand(tmp_path)
    with pytest.raises(ImageError, match="matches no pictures"):
        expand(f"{tmp_path}/*.jpg")


def test_expanding_is_lazy() -> None:
    assert list(itertools.islice(expand(f"{i}.jpg" for i in itertools.count()), 2)) == ["0.jpg", "1.jpg"]


def test_reading_ahead_keeps_order_and_gives_errors_in_their_place(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", "L", np.full((5, 5), i, np.uint8)) for i in range(30)]
    paths[7].write_bytes(b"")
    got = list(read_ahead(paths, workers=3, depth=4))
    assert [source for source, _ in got] == paths
    assert isinstance(got[7][1], ImageError)
    assert [x.pixels[0, 0, 0] for i, (_, x) in enumerate(got) if i != 7] == [i for i in range(30) if i != 7]


def test_reading_ahead_of_an_endless_source_is_bounded_and_stops() -> None:
    taken, threads = [], threading.active_count()

    def camera() -> object:
        for i in itertools.count():
            taken.append(i)
            yield np.full((2, 2), i % 256, np.uint8)

    stream = read_ahead(camera(), depth=4)
    for i in range(10):
        _, image = next(stream)
        assert image.pixels[0, 0, 0] == i and len(taken) <= i + 5
    stream.close()
    assert threading.active_count() == threads


def test_pictures_before_a_failing_iterator_are_not_lost() -> None:
    def broken() -> object:
        yield RGB
        yield RGB
        raise OSError("camera unplugged")

    got = []
    with pytest.raises(OSError, match="unplugged"):
        for source, _ in read_ahead(broken()):
            got.append(source)
    assert len(got) == 2


def test_a_picture_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        return  # root may read everything
    path = save(tmp_path / "a.png", "RGB")
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read(path)
