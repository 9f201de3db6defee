"""Many workers: every picture once, with the results of one process, whoever is killed on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from pycocotools.coco import COCO
from typer.testing import CliRunner

from maskrcnn.cli import app as cli
from maskrcnn.errors import ConfigError, DataError, ImageError
from maskrcnn.jobs import Step, find_jobs, predict_files
from maskrcnn.scale import predict_fleet
from maskrcnn.scale.cluster import Share, Workers, cluster
from maskrcnn.scale.fleet import Tries, Worker
from maskrcnn.scale.parts import tally, write_results_json
from maskrcnn.scale.pictures import (
    Columns,
    Row,
    Shard,
    columns_of,
    cut,
    list_pictures,
    pictures_of,
    tables_of,
    write_list,
)
from maskrcnn.scale.place import Place
from maskrcnn.scale.work import Task, do_shard
from noted import Noted, die
from serving import until
from test_jobs import OneBox, photos

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small pictures in folders, one of them broken."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "b").mkdir()
    with PIL.Image.open(EXAMPLES / "coins.png") as opened:
        for i in range(9):
            opened.crop((10 * i, 5 * i, 10 * i + 200, 5 * i + 150)).save(folder / f"b/{i}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts by name, read as people do; each name once. A killed worker may leave a hidden file."""
    found = pq.read_table(out / "results").to_pylist()
    assert len({row["file_name"] for row in found}) == len({row["image_id"] for row in found}) == len(found)
    return {row["file_name"]: row for row in found}


def instances(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The annotations of a results.json by file name, without the numbers that count them."""
    content = json.loads(path.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for one in content["annotations"]:
        found[names[one["image_id"]]].append({k: v for k, v in one.items() if k not in ("id", "image_id")})
    return found


def task(out: Path, columns: Columns, **options: Any) -> Task:
    return Task(str(out / "results"), columns, options, 2, 10**6)


def listed(folder: Path, out: Path, size: int) -> tuple[list[Shard], Columns]:
    tables = write_list(list_pictures(folder, out, True), Place.of(out) / "pictures", size)
    return cut(tables, size), columns_of(tables[0])


# With Ray


def test_a_killed_worker_loses_nothing_and_adds_nothing(
    cluster_address: str, album: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    model = Noted(notes, die)
    steps: list[Step] = []
    out = tmp_path / "out"
    report = predict_fleet(
        model, album, out, workers=Workers(2), shard=2, recursive=True, score=0.5, progress=steps.append
    )  # type: ignore[arg-type]
    begun = [note.name.split(".")[0] for note in notes.iterdir()]
    assert len(begun) > len(set(begun)) == 9  # the kill cost work, which was done again

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have: the order of float sums depends on it
    alone = predict_files(model.model, album, tmp_path / "alone", save=["json"], recursive=True, score=0.5)
    torch.set_num_threads(threads)
    assert instances(out / "results.json") == instances(tmp_path / "alone" / "results.json")
    assert (report.done, report.instances) == (alone.done, alone.instances) and report.instances > 50
    assert [name for name, _ in report.failed] == ["broken.png"] == [name for name, _ in alone.failed]
    assert report.failed[0][1] == rows(out)["broken.png"]["error"] == alone.failed[0][1]
    assert len(rows(out)) == 10 and len(list((out / "results").glob("part-*"))) == 5
    assert (steps[-1].done, steps[-1].total) == (10, 10)
    assert len(COCO(str(out / "results.json")).imgs) == 9


def test_a_killed_driver_is_taken_up_where_it_was(cluster_address: str, album: Path, tmp_path: Path) -> None:
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from noted import Noted, wait_for_ever; from maskrcnn.scale import predict_fleet, Workers\n"
        "notes, album, out, address = sys.argv[1:]\n"
        "model = Noted(Path(notes), wait_for_ever)\n"
        "predict_fleet(model, album, out, workers=Workers(1, address=address), recursive=True)\n"
    )
    path = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(notes), str(album), str(out), cluster_address],
        env=os.environ | {"PYTHONPATH": path},
    )
    until(lambda: list((out / "results").glob("part-*")) or driver.poll() is not None)
    driver.kill()
    driver.wait()
    had = len(rows(out))
    assert 0 < had < 10 and not (out / "results.json").exists()

    go_on = [
        "predict",
        str(album),
        "-w",
        "shapes",
        "--ray",
        "--workers",
        "1",
        "-r",
        "--resume",
        "-o",
        str(out),
    ]
    done = CliRunner().invoke(cli, go_on)
    assert done.exit_code == 3 and "broken.png" in done.output, done.output
    assert len(rows(out)) == 10 and len(instances(out / "results.json")) == 9
    again = {note.name.split(".")[0] for note in notes.iterdir()}
    assert int(done.output.partition(" pictures")[0].split()[-1]) <= 10 - had and len(again) < 9
    other = CliRunner().invoke(cli, [*go_on, "--score", "0.9"])
    assert other.exit_code == 1 and "other values for score" in other.output.replace("\n", " ")


@pytest.mark.usefixtures("two_threads")  # of this process, which a worker takes for its own
def test_a_shard_that_kills_every_worker_is_given_up(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", lambda model: model)
    shards, columns = listed(album, tmp_path, 6)
    tries = Tries()
    worker = Worker([OneTo()], task(tmp_path, columns), Share(1, 1, 0), tries.begin)
    row = vars(shards[0])
    for _ in range(4):
        tries.begin(shards[0].part)
    assert worker(row)["pictures"] == 6
    given_up = worker(row)
    assert given_up["pictures"] == 0 and "dead worker 5 times" in given_up["failed"]


class OneTo(OneBox):
    def to(self, device: str) -> "OneTo":
        return self


# Without


def test_shards_are_row_groups_cut_evenly(tmp_path: Path) -> None:
    table = pa.table({"path": [f"{i}.png" for i in range(25)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    pq.write_table(table.slice(0, 3), tmp_path / "b.parquet")
    (tmp_path / "_note.txt").write_text("")
    tables = tables_of(tmp_path, Place.of(tmp_path / "out"))
    found = [(s.group, s.start, s.count, s.first) for s in cut(tables, 4)]
    assert found == [(0, 0, 3, 1), (0, 3, 3, 4), (0, 6, 4, 7), (1, 0, 3, 11), (1, 3, 3, 14), (1, 6, 4, 17),
                     (2, 0, 2, 21), (2, 2, 3, 23), (0, 0, 3, 26)]  # fmt: skip
    columns = columns_of(tables[0])
    names = [row.name for shard in cut(tables, 4) for row, _ in pictures_of(shard, columns)]
    assert names == [f"{i}.png" for i in range(25)] + ["0.png", "1.png", "2.png"]
    numbers = [row.image_id for shard in cut(tables, 4) for row, _ in pictures_of(shard, columns)]
    assert numbers == list(range(1, 29))


def test_an_empty_table_has_no_shards(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert cut(tables_of(tmp_path / "a.parquet", Place.of(tmp_path / "out")), 4) == []


def test_a_folder_of_pictures_stays_one_when_results_lie_in_it(tmp_path: Path) -> None:
    photos(tmp_path, "a.png")
    (tmp_path / "deep").mkdir()
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "a.parquet")
    out = Place.of(tmp_path / "deep" / "out")
    assert tables_of(tmp_path, out) == []
    (tmp_path / "a.png").unlink()
    write_list([Row(1, "a.png", "a.png")], out / "pictures", 10)
    (tmp_path / "deep" / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert [one.path.rpartition("/")[2] for one in tables_of(tmp_path, out)] == ["a.parquet"]
    assert [one.path.rpartition("/")[2] for one in tables_of(tmp_path, out, True)] == [
        "a.parquet",
        "b.parquet",
    ]


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"bytes": data, "path": None}])
def test_encoded_pictures_come_from_the_table(tmp_path: Path, wrap: Any) -> None:
    photos(tmp_path / "in", "1.png")
    good = (tmp_path / "in" / "1.png").read_bytes()
    pq.write_table(pa.table({"image": [wrap(good), None, wrap(b"no")]}), tmp_path / "t.parquet")
    tables = tables_of(tmp_path / "t.parquet", Place.of(tmp_path / "out"))
    (shard,) = cut(tables, 100)
    done = do_shard(OneBox(), task(tmp_path, columns_of(tables[0])), shard)  # type: ignore[arg-type]
    assert (done.pictures, done.instances, [name for name, _ in done.failed]) == (1, 1, ["000002", "000003"])
    found = rows(tmp_path)
    assert found["000001"]["instances"] == [
        {"label": 1, "name": "bolt", "score": pytest.approx(0.9), "box": [0, 0, 4, 4], "area": 16,
         "counts": found["000001"]["instances"][0]["counts"]}
    ]  # fmt: skip
    assert (found["000001"]["height"], found["000001"]["width"], found["000002"]["height"]) == (8, 12, None)
    assert tally(Place.of(tmp_path / "results" / done.part)) == (3, 2)


def test_a_shard_done_again_keeps_what_is_done_and_tries_what_failed(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "1.png", "2.png", "3.png")
    (folder / "2.png").write_bytes(b"")
    (shard,), columns = listed(folder, tmp_path, 10)
    model = OneBox()
    assert do_shard(model, task(tmp_path, columns), shard).failed[0][0] == "2.png"  # type: ignore[arg-type]
    shutil.copy(folder / "1.png", folder / "2.png")
    model.batches.clear()
    done = do_shard(model, task(tmp_path, columns), shard)  # type: ignore[arg-type]
    assert model.batches == [1] and (done.pictures, done.failed) == (1, ())
    assert list(rows(tmp_path)) == ["1.png", "2.png", "3.png"]
    part = tmp_path / "results" / done.part
    before = part.stat().st_mtime_ns
    assert do_shard(model, task(tmp_path, columns), shard).pictures == 0  # type: ignore[arg-type]
    assert part.stat().st_mtime_ns == before


def test_pictures_have_the_names_that_one_process_gives_them(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", "10.png", "2.png", "a/x.png", ".hidden.png", "b/x.jpg")
    want = [job.name for job in find_jobs(folder, tmp_path / "out", True)[0]]
    assert [row.name for row in list_pictures(folder, tmp_path / "out", True)] == want
    assert [row.name for row in list_pictures(folder.as_uri(), tmp_path / "out", True)] == want
    assert [row.name for row in list_pictures(str(folder / "a"), tmp_path / "out", False)] == ["x.png"]


def test_a_folder_behind_another_file_system_is_listed_the_same(tmp_path: Path) -> None:
    from maskrcnn.scale.pictures import Remote, _from_folder

    folder = photos(
        tmp_path / "in", "10.png", "2.png", "a/x.png", ".hidden.png", ".git/x.png", "notes.txt.png"
    )
    (folder / "notes.txt").write_text("")
    system = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    place = Place(system, "in", "far://in")
    assert place.local is None
    found = _from_folder(place, True)
    assert [(row.name, row.path) for row in found] == [
        (name, f"far://in/{name}") for name in ("2.png", "10.png", "a/x.png", "notes.txt.png")
    ]
    assert [row.name for row in _from_folder(place / "2.png", False)] == ["2.png"]
    assert Remote(place / "2.png").read() == (folder / "2.png").read_bytes()
    with pytest.raises(ImageError, match=r"far://in/3\.png: want a picture"):
        Remote(place / "3.png").read()
    with pytest.raises(ImageError, match="want a picture or a folder"):
        _from_folder(place / "nowhere", True)
    (place / "new" / "a.txt").write(b"whole") if system.create_dir("in/new") is None else None
    assert (folder / "new" / "a.txt").read_bytes() == b"whole"


def test_the_ids_of_a_coco_json_stay(tmp_path: Path) -> None:
    photos(tmp_path / "images", "a.png", "b.png")
    images = [{"id": 40, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}]
    file = tmp_path / "instances_val.json"
    file.write_text(json.dumps({"images": images, "categories": [], "annotations": []}))
    found = list_pictures(file, tmp_path / "out", False)
    assert [(row.image_id, row.name, Path(row.path)) for row in found] == [
        (40, "a.png", tmp_path / "images" / "a.png"), (7, "b.png", tmp_path / "images" / "b.png")
    ]  # fmt: skip
    tables = write_list(found, Place.of(tmp_path) / "pictures", 10)
    (shard,) = cut(tables, 10)
    do_shard(OneBox(), task(tmp_path, columns_of(tables[0])), shard)  # type: ignore[arg-type]
    write_results_json(Place.of(tmp_path / "r.json"), (Place.of(tmp_path) / "results").files(), OneBox.names)
    assert [image["id"] for image in json.loads((tmp_path / "r.json").read_text())["images"]] == [40, 7]
    for wrong in ("{}", "[", json.dumps({"images": [images[0]] * 2, "categories": []})):
        file.write_text(wrong)
        with pytest.raises(DataError, match="want"):
            list_pictures(file, tmp_path / "out", False)


def test_what_cannot_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"path": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"got path \(int64\); --column"):
        columns_of(Place.of(tmp_path / "t.parquet"))
    with pytest.raises(ConfigError, match="nowhere://x"):
        Place.of("nowhere://x/y")
    for wrong in ({"count": 0}, {"cpus": 0}, {"gpus": -1}):
        with pytest.raises(ConfigError, match="want"):
            Workers(**wrong)
    with pytest.raises(ConfigError, match="want some of parquet, json"):
        predict_fleet(OneBox(), tmp_path, save=["overlay"])  # type: ignore[arg-type]
    alone = CliRunner().invoke(cli, ["predict", "a.png", "--workers", "2"])
    assert alone.exit_code == 1 and "--ray" in alone.output
    monkeypatch.setitem(sys.modules, "maskrcnn.scale", None)
    missing = CliRunner().invoke(cli, ["predict", "a.png", "--ray"])
    assert missing.exit_code == 1 and "maskrcnn[scale]" in missing.output.replace("\n", "")


def test_a_cluster_of_our_own_wants_a_token_and_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def init(address: str, **options: Any) -> None:
        if address == "far:1":
            raise ConnectionError("nobody there")
        asked.append(options | {"address": address, "token": os.environ["RAY_AUTH_TOKEN"]})
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    for name in ("is_initialized", "shutdown"):
        monkeypatch.setattr(ray, name, lambda: None)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    before = signal.getsignal(signal.SIGTERM)
    try:
        with cluster(Workers(cpus=3)) as share:
            assert share == Share(2, 3, 1) and share.device == "cuda"
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(asked[0]["token"]) == 64 and asked[0]["address"] == "local"
    with (
        pytest.raises(ConfigError, match=r"far:1: .* got 'nobody there'; .*RAY_AUTH_MODE"),
        cluster(Workers(address="far:1")),
    ):
        pass
    with cluster(Workers(cpus=0.5, gpus=0)) as share:
        assert share == Share(16, 0.5, 0) and share.threads == 1
    with pytest.raises(ConfigError, match="want room for one of 9 CPUs"), cluster(Workers(cpus=9)):
        pass
