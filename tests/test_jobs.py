"""Many files into a folder: everything that can be done is done, and nothing is lost."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools.coco import COCO

import maskrcnn
from maskrcnn.config import Config
from maskrcnn.errors import ConfigError, ImageError, MaskRCNNError
from maskrcnn.inputs import read, to_channels
from maskrcnn.jobs import Step, lanes, predict_files, side_by_side
from maskrcnn.jobs.behind import done_in_order
from maskrcnn.records import Image, Result

EXAMPLES = Path(__file__).parent.parent / "examples"


class OneBox:
    """Finds one instance, the left upper 4 x 4 pixels, in every picture that has three channels."""

    names = ("nut", "bolt")
    config = Config(names=names)
    source = "weights.h5"
    engine: Any = None
    device = torch.device("meta")  # batches; on a CPU pictures go side by side

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict_images(
        self,
        images: Sequence[Image],
        *,
        score: float | None = None,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
    ) -> list[Result]:
        self.batches.append(len(images))
        for image in images:
            to_channels(image, 3)
        return [
            Result(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([1]), torch.tensor([0.9]),
                   torch.ones(1, 28, 28), self.names, image.size, image)
            for image in images
        ]  # fmt: skip


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (12, 8), (90, 120, 150)).save(folder / name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def coco(path: Path) -> COCO:
    """Loaded as pycocotools does, every mask decoded."""
    loaded = COCO(str(path))
    for annotation in loaded.anns.values():
        assert loaded.annToMask(annotation).sum() == annotation["area"] == 16
    return loaded


def names(path: Path) -> list[str]:
    return [image["file_name"] for image in json.loads(path.read_text())["images"]]


def test_one_file_has_its_results_beside_it(tmp_path: Path) -> None:
    photos(tmp_path, "street.jpg")
    report = predict_files(OneBox(), tmp_path / "street.jpg")
    assert files(tmp_path) == ["street.jpg", "street_overlay.jpg", "street_results.json"]
    assert (report.done, report.instances, report.failed) == (1, 1, ())
    assert report.json == tmp_path / "street_results.json"
    assert len(coco(report.json).anns) == 1


def test_one_file_into_a_folder(tmp_path: Path) -> None:
    photos(tmp_path, "street.jpg")
    predict_files(OneBox(), tmp_path / "street.jpg", tmp_path / "o", save=["json", "yolo", "labelme", "csv"])
    assert files(tmp_path / "o") == ["results.json", "run.json", "street.csv", "street.json", "street.txt"]


def test_annotations_beside_a_picture_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "street.jpg")
    (tmp_path / "street.json").write_text("drawn by hand")
    monkeypatch.chdir(tmp_path)
    predict_files(OneBox(), "street.jpg", save=["labelme"])
    assert (tmp_path / "street.json").read_text() == "drawn by hand"
    assert files(tmp_path / "out") == ["run.json", "street.json"]


def test_a_folder_with_broken_pictures(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.png", "10.png")
    (folder / "3.png").write_bytes(b"")
    (folder / "4.jpg").write_text("not a picture")
    steps: list[Step] = []
    report = predict_files(OneBox(), folder, tmp_path / "o", progress=steps.append)
    assert [name for name, _ in report.failed] == ["3.png", "4.jpg"]
    assert "0 bytes" in report.failed[0][1]
    assert names(tmp_path / "o/results.json") == ["1.png", "2.png", "10.png"]
    assert [(s.name, s.done, s.total, s.error is None) for s in steps] == [
        ("1.png", 1, 5, True), ("2.png", 2, 5, True), ("3.png", 3, 5, False), ("4.jpg", 4, 5, False),
        ("10.png", 5, 5, True),
    ]  # fmt: skip
    assert len(coco(tmp_path / "o/results.json").imgs) == 3


def test_the_same_stem_in_folders_and_endings_does_not_collide(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "a/x.png", "b/x.png", "b/x.jpg", "B2/X.png")
    predict_files(OneBox(), folder, tmp_path / "o", recursive=True)
    assert files(tmp_path / "o") == [
        "B2/X_overlay.jpg", "a/x_overlay.jpg", "b/x.png_overlay.jpg", "b/x_overlay.jpg",
        "results.json", "run.json",
    ]  # fmt: skip
    predict_files(OneBox(), [folder / "a", f"{folder}/b/*.png"], tmp_path / "p")
    assert files(tmp_path / "p") == ["a/x_overlay.jpg", "b/x_overlay.jpg", "results.json", "run.json"]


def test_a_picture_called_results_keeps_results_json_whole(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "results.png")
    predict_files(OneBox(), folder, tmp_path / "o", save=["json", "labelme"])
    assert files(tmp_path / "o") == ["results.json", "results.png.json", "run.json"]
    assert names(tmp_path / "o/results.json") == ["results.png"]


def test_sources_are_not_overwritten_and_results_are_not_taken_for_sources(tmp_path: Path) -> None:
    photos(tmp_path, "a.jpg", "a_overlay.jpg")
    before = (tmp_path / "a_overlay.jpg").read_bytes()
    predict_files(OneBox(), [tmp_path / "a.jpg", tmp_path / "a_overlay.jpg"], tmp_path)
    assert (tmp_path / "a_overlay.jpg").read_bytes() == before
    assert (tmp_path / "a.jpg_overlay.jpg").exists()
    with pytest.raises(ConfigError, match="folder other than"):
        predict_files(OneBox(), tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="folder other than"):
        predict_files(OneBox(), f"{tmp_path}/*.jpg", tmp_path)
    folder = photos(tmp_path / "in", "b.png")
    for _ in range(2):
        report = predict_files(OneBox(), f"{folder}/**/*.*", folder / "out")
        assert names(report.json) == ["b.png"]


def test_a_picture_named_twice_is_done_once(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "a.png", "b.png")
    report = predict_files(OneBox(), [folder, folder / "a.png"], tmp_path / "o")
    assert report.done == 2


def test_iterators_and_arrays_are_numbered(tmp_path: Path) -> None:
    arrays = (np.full((8, 12, 3), i, np.uint8) for i in range(3))
    report = predict_files(OneBox(), arrays, tmp_path / "o")
    assert names(report.json) == ["000001", "000002", "000003"]
    assert "000002_overlay.jpg" in files(tmp_path / "o")
    assert predict_files(OneBox(), np.zeros((2, 8, 12, 3), np.uint8), tmp_path / "p").done == 2


def test_batches_are_full_and_one_misfit_does_not_cost_the_others(tmp_path: Path) -> None:
    model = OneBox()
    pictures: list[np.ndarray] = [np.zeros((8, 12, 3), np.uint8)] * 5
    assert predict_files(model, pictures, tmp_path / "o", batch_size=2).done == 5
    assert model.batches == [2, 2, 1]
    pictures[1] = np.zeros((8, 12, 7), np.uint8)
    report = predict_files(OneBox(), pictures, tmp_path / "p", batch_size=3)
    assert names(report.json) == ["000001", "000003", "000004", "000005"]
    assert report.failed[0][0] == "000002" and "got 7" in report.failed[0][1]


def test_nothing_found_is_a_result(tmp_path: Path) -> None:
    class Nothing(OneBox):
        def predict_images(self, images: Sequence[Image], **options: object) -> list[Result]:
            return [result[:0] for result in super().predict_images(images)]

    report = predict_files(Nothing(), photos(tmp_path / "in", "a.png"), tmp_path / "o")
    assert (report.done, report.instances) == (1, 0)
    assert COCO(str(report.json)).anns == {}


def test_resume_does_the_rest_and_tries_failures_again(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.png", "3.png")
    (folder / "2.png").write_bytes(b"")
    predict_files(OneBox(), folder, tmp_path / "o")
    photos(folder, "2.png", "4.png")
    model = OneBox()
    report = predict_files(model, folder, tmp_path / "o", resume=True)
    assert (report.done, report.skipped, sum(model.batches)) == (2, 2, 2)
    assert sorted(names(report.json)) == ["1.png", "2.png", "3.png", "4.png"]
    loaded = coco(report.json)
    assert len(loaded.imgs) == len(loaded.anns) == 4


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png")
    predict_files(OneBox(), folder, tmp_path / "o")
    before = (tmp_path / "o/results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"other values for score"):
        predict_files(OneBox(), folder, tmp_path / "o", resume=True, score=0.5)
    assert (tmp_path / "o/results.json").read_bytes() == before


def test_wrong_settings_leave_an_earlier_run_alone(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png")
    predict_files(OneBox(), folder, tmp_path / "o")
    before = (tmp_path / "o/results.json").read_bytes()
    wrong = [{"classes": ["nutt"]}, {"classes": [2]}, {"save": ["png"]}, {"save": []}, {"score": 7.0},
             {"batch_size": 0}, {"color_by": "mood"}, {"save": ["overlay"], "resume": True}]  # fmt: skip
    for options in wrong:
        with pytest.raises(ConfigError):
            predict_files(OneBox(), folder, tmp_path / "o", **options)
    with pytest.raises(ImageError, match="no pictures"):
        predict_files(OneBox(), f"{folder}/*.tif", tmp_path / "o")
    with pytest.raises(ImageError, match="nothing of that name"):
        predict_files(OneBox(), folder / "typo.jpg", tmp_path / "o")
    assert (tmp_path / "o/results.json").read_bytes() == before


def test_an_interrupted_run_leaves_a_valid_results_json(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.png", "3.png")

    def stop(step: Step) -> None:
        if step.done == 2:
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        predict_files(OneBox(), folder, tmp_path / "o", progress=stop)
    assert len(coco(tmp_path / "o/results.json").imgs) == 2
    assert threading.active_count() == threads
    assert predict_files(OneBox(), folder, tmp_path / "o", resume=True).skipped == 2


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_jobs import OneBox
from maskrcnn.jobs import predict_files
def stop(step):
    if step.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
predict_files(OneBox(), sys.argv[2], sys.argv[3], progress=stop)
"""


def test_a_killed_run_is_taken_up_even_with_half_a_line(tmp_path: Path) -> None:
    folder, out = photos(tmp_path / "in", "1.png", "2.png", "3.png"), tmp_path / "o"
    here = str(Path(__file__).parent)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, here, str(folder), str(out)], timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL and not (out / "results.json").exists()
    with (out / "results.json.partial").open("ab") as journal:
        journal.write(b'{"image": {"id": 3, "file_na')
    report = predict_files(OneBox(), folder, out, resume=True)
    assert (report.skipped, report.done) == (2, 1)
    assert len(coco(out / "results.json").imgs) == 3
    assert "results.json.partial" not in files(out)


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png")
    (tmp_path / "o").write_text("a file")
    with pytest.raises(MaskRCNNError, match=r"want to write results.*--resume"):
        predict_files(OneBox(), folder, tmp_path / "o")


def test_a_full_disk_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import maskrcnn.jobs.run

    written: list[Path] = []

    def full(path: Path, pixels: np.ndarray) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(maskrcnn.jobs.run, "write_picture", full)
    with pytest.raises(MaskRCNNError, match=r"o: want to write results.*No space left"):
        predict_files(OneBox(), photos(tmp_path / "in", "1.png", "2.png"), tmp_path / "o")
    assert names(tmp_path / "o/results.json") == ["1.png"]


def test_a_camera_that_fails_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield np.zeros((8, 12, 3), np.uint8)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged") as error:
        predict_files(OneBox(), camera(), tmp_path / "o")
    assert not isinstance(error.value, MaskRCNNError)
    assert names(tmp_path / "o/results.json") == ["000001"]


def test_links_keep_their_own_names(tmp_path: Path) -> None:
    photos(tmp_path / "store", "f00.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cat.png").symlink_to(tmp_path / "store/f00.png")
    assert names(predict_files(OneBox(), tmp_path / "in", tmp_path / "o").json) == ["cat.png"]


def test_overlays_of_an_earlier_run_are_no_photos(tmp_path: Path) -> None:
    """A single photo's overlay lies beside it; a photo of somebody else that is only called so is a photo."""
    folder = photos(tmp_path / "in", "a.jpg", "b_overlay.jpg")
    predict_files(OneBox(), folder / "a.jpg")
    assert "a_overlay.jpg" in files(folder)
    assert PIL.Image.open(folder / "a_overlay.jpg").size == (12, 8)
    for source in (folder, str(folder / "*.jpg")):
        model = OneBox()
        assert predict_files(model, source, tmp_path / "out").done == 2
    assert predict_files(OneBox(), folder / "a_overlay.jpg", tmp_path / "out").done == 1


# side by side


def later() -> int:
    """The threads that a thread which begins now computes with."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(torch.get_num_threads).result()


def test_lanes_share_the_threads_and_others_compute_alone_meanwhile(two_threads: None) -> None:
    model = OneBox()
    model.device = torch.device("cpu")
    pool = lanes(model, 4)
    assert pool is not None
    with pool:
        both = threading.Barrier(2)
        shares = [pool.submit(lambda: (both.wait(60), torch.get_num_threads())) for _ in range(2)]
        assert [share.result()[1] for share in shares] == [1, 1]
        assert (torch.get_num_threads(), later()) == (2, 1)
    assert (torch.get_num_threads(), later()) == (2, 2)

    pool = lanes(model, 4)
    assert pool is not None
    assert [torch.get_num_threads() for _ in side_by_side(iter(range(3)), lambda n: n, pool)] == [1, 1, 1]
    assert (torch.get_num_threads(), later()) == (2, 2)


def test_a_run_that_breaks_off_gives_the_threads_back(two_threads: None, tmp_path: Path) -> None:
    model = OneBox()
    model.device = torch.device("cpu")

    def stop(step: Step) -> None:
        raise RuntimeError("enough")

    folder = photos(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    with pytest.raises(RuntimeError, match="enough") as held:  # and with it all that its frames refer to
        predict_files(model, folder, tmp_path / "out", progress=stop)
    assert (torch.get_num_threads(), later()) == (2, 2), held


def test_what_works_better_in_batches_gets_no_lanes(two_threads: None) -> None:
    on_cpu = OneBox()
    on_cpu.device = torch.device("cpu")
    assert lanes(on_cpu, 1) is None
    assert lanes(OneBox(), 4) is None  # another device
    on_cpu.engine = lambda *_: []
    assert lanes(on_cpu, 4) is None  # another runtime, with threads of its own


def test_results_side_by_side_are_the_same_in_every_bit(two_threads: None) -> None:
    model = maskrcnn.load("shapes")
    images = [read(path) for path in (EXAMPLES / "coins.png", *sorted((EXAMPLES / "photos").glob("*.jpg")))]
    wanted = [model.predict_images([image])[0] for image in images]
    pool = lanes(model, 2)
    assert pool is not None
    with pool:
        found = done_in_order(iter(images), lambda image: model.predict_images([image])[0], pool, 2)
        for (image, result), want in zip(found, wanted, strict=True):
            assert result.size == image.size and len(result) == len(want)
            for name in ("boxes", "labels", "scores", "roi_masks"):
                assert torch.equal(getattr(result, name), getattr(want, name))
    assert sum(map(len, wanted)) > 20


def test_many_pictures_go_side_by_side_and_few_have_all_threads(two_threads: None, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    class Meeting(OneBox):
        device = torch.device("cpu")

        def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
            if many:
                both.wait(600)  # for one that is here at the same time
            threads.add(torch.get_num_threads())
            return super().predict_images(images, **options)

    for many in (True, False):
        model, threads = Meeting(), set[int]()
        names = [f"{i}.png" for i in range(4 if many else 3)]
        folder = photos(tmp_path / str(many), *names)
        report = predict_files(model, folder, tmp_path / f"out{many}", save=["json"])  # type: ignore[arg-type]
        assert report.done == len(names) and threads == {1 if many else 2}
        found = coco(tmp_path / f"out{many}" / "results.json")
        assert [found.imgs[i]["file_name"] for i in sorted(found.imgs)] == names
