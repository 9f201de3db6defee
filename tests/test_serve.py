"""The server: the same results as the model, and no request that harms it or another."""

import base64
import io
import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import torch
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

import maskrcnn
import maskrcnn.serve
import maskrcnn.weights
from maskrcnn.cli import app as cli
from maskrcnn.errors import ConfigError
from maskrcnn.output import coco_file, draw, to_geojson
from maskrcnn.serve import Settings
from maskrcnn.serve.engine import Engine
from maskrcnn.serve.intake import clean_name, decode
from maskrcnn.serve.metrics import Metrics
from maskrcnn.serve.run import listen
from scaling import serving_on_ray
from serving import PATIENCE, Held, Running, serving, until

COINS = (Path(__file__).parent.parent / "examples" / "coins.png").read_bytes()
PNG = {"Content-Type": "image/png"}


def png(w: int = 12, h: int = 8, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (w, h), (90, 120, 150)).save(file, kind)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that claims side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def tiff_of(samples: int, kind: int = 3) -> bytes:
    """A TIFF that claims 4000 x 4000 pixels of so many 8-bit samples, and has none of them."""
    tags = [(256, 4000), (257, 4000), (258, 8), (262, 2), (273, 8), (277, samples), (279, 1)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, value in tags) + bytes(4)  # fmt: skip


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def running(model: Held) -> Iterator[Running]:
    with serving(model, max_bytes=100_000, max_pixels=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def sturdy() -> Iterator[Running]:
    """One server that takes all the blows."""
    with serving(Held(), max_bytes=100_000, max_pixels=1_000_000) as server:
        yield server


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each picture that has come as far as the queue of the network."""
    seen: list[int] = []
    put = Engine._put
    monkeypatch.setattr(Engine, "_put", lambda engine, job: (put(engine, job), seen.append(1))[0])
    return seen


def test_every_way_in_gives_what_the_model_gives() -> None:
    model = maskrcnn.load("shapes")
    want = model.predict(COINS, score=0.5)
    assert len(want) > 20
    with serving(model) as server:
        post = server.client.post
        replies = [
            post("/v1/predict?score=0.5", files={"file": ("coins.png", COINS)}),
            post("/v1/predict", files={"picture": ("coins.png", COINS)}, data={"score": "0.5"}),
            post("/v1/predict?score=0.5", content=COINS, headers=PNG),
            post("/v1/predict", json={"image": base64.b64encode(COINS).decode(), "score": 0.5}),
        ]
        for reply in replies:
            assert reply.status_code == 200, reply.text
            got = reply.json()
            assert (got["model"], got["height"], got["width"]) == ("shapes", *want.size)
            assert [i["box"] for i in got["instances"]] == want.boxes.tolist()
            assert [i["score"] for i in got["instances"]] == want.scores.tolist()
            assert [i["name"] for i in got["instances"]] == list(want.class_names)
            assert [i["mask"] for i in got["instances"]] == want.rle()

        ask = {"content": COINS, "headers": PNG}
        coco = post("/v1/predict?score=0.5&format=coco", **ask).json()
        assert coco == json.loads(json.dumps(coco_file(want, file_name="")))
        geojson = post("/v1/predict?score=0.5&format=geojson", **ask)
        assert geojson.json() == json.loads(json.dumps(to_geojson(want)))
        assert geojson.headers["Content-Type"] == "application/geo+json"
        overlay = post("/v1/predict?score=0.5&format=overlay", **ask)
        assert overlay.headers["Content-Type"] == "image/png"
        assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(overlay.content))), draw(want))

        outlined = post("/v1/predict?score=0.5&outlines=true", **ask).json()["instances"][0]
        area = sum(shoelace(part[0]) - sum(map(shoelace, part[1:])) for part in outlined["parts"])
        assert abs(area - coco_mask.area(outlined["mask"])) < 0.05 * outlined["area"]

        page = post("/v1/explain", files={"file": ("<b>.png", COINS)})
        assert page.status_code == 200 and "&lt;b&gt;.png" in page.text and "<b>.png" not in page.text
        assert "sandbox" in page.headers["Content-Security-Policy"]


def test_the_client_in_the_documentation_works(tmp_path: Path, running: Running) -> None:
    text = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    client: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], client)
    (tmp_path / "a.png").write_bytes(png())
    url = f"http://127.0.0.1:{running.port}"
    ((name, score, box, mask),) = client["predict"](tmp_path / "a.png", url, score=0.5)
    assert (name, box, mask.shape) == ("bolt", [0, 0, 4, 4], (8, 12)) and score == pytest.approx(0.9)
    with pytest.raises(RuntimeError, match="nut, bolt"):
        client["predict"](tmp_path / "a.png", url, classes="nail")


def shoelace(ring: list[float]) -> float:
    x, y = np.array(ring).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_options_reach_the_model_and_the_body_has_the_last_word(model: Held, running: Running) -> None:
    picture = base64.b64encode(png()).decode()
    none = {"score": None, "classes": None, "max_detections": None}
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"content": png(), "headers": PNG}, none),
        ({"content": png(), "headers": PNG, "params": {"score": 0.25, "classes": "bolt,0", "max_detections": 3}},
         {"score": 0.25, "classes": ("bolt", 0), "max_detections": 3}),
        ({"files": {"file": png()}, "data": {"classes": ["nut", "bolt"]}}, none | {"classes": ("nut", "bolt")}),
        ({"json": {"image": picture, "score": 0.5, "classes": [1]}, "params": {"score": 0.1}},
         none | {"score": 0.5, "classes": (1,)}),
        ({"json": {"image": "data:image/png;base64," + picture, "name": "a.png"}}, none),
    ]  # fmt: skip
    for request, want in asked:
        reply = running.client.post("/v1/predict", **request)
        assert reply.status_code == 200, reply.text
        assert model.options[-1] == want


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("score=2", "score"), ("score=nan", "score"), ("score=x", "score"), ("max_detections=0", "max_detections"),
        ("max_detections=9999999999", "max_detections"), ("classes=nail", "nut, bolt"), ("classes=7", "nut, bolt"),
        ("classes=,", "nut, bolt"), ("format=xml", "format"), ("scor=0.5", "scor"),
    ],
)  # fmt: skip
def test_an_option_without_meaning_is_named(sturdy: Running, query: str, said: str) -> None:
    reply = sturdy.client.post(f"/v1/predict?{query}", content=png(), headers=PNG)
    assert reply.status_code == 422
    assert said in reply.json()["error"]["message"]


HOSTILE: dict[str, tuple[int, dict[str, Any]]] = {
    "nothing": (400, {}),
    "no type": (415, {"content": png()}),
    "wrong type": (415, {"content": png(), "headers": {"Content-Type": "text/html"}}),
    "text": (422, {"content": b"hello", "headers": PNG}),
    "cut short": (422, {"content": COINS[:5000], "headers": PNG}),
    "cut jpeg": (422, {"content": png(90, 90, "JPEG")[:-60], "headers": PNG}),
    "bomb": (422, {"content": bomb(2**31 - 1), "headers": PNG}),
    "bomb within a signed 32 bit area": (422, {"content": bomb(40_000), "headers": PNG}),
    "no pixels": (422, {"content": bomb(0), "headers": PNG}),
    "tiff of many bands": (422, {"content": tiff_of(60_000), "headers": PNG}),
    "tiff of more bands than memory": (422, {"content": tiff_of(4_000_000_000, 4), "headers": PNG}),
    "tiff without pixels": (422, {"content": tiff_of(3), "headers": PNG}),
    "gif head": (422, {"content": b"GIF89a" + b"\xff" * 40, "headers": PNG}),
    "webp head": (422, {"content": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 40, "headers": PNG}),
    "numpy": (415, {"content": b"\x93NUMPY\x01\x00" + b"\xff" * 90, "headers": PNG}),
    "svg": (422, {"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "headers": PNG}),
    "postscript": (422, {"content": b"%!PS-Adobe-3.0 EPSF-3.0\n", "headers": PNG}),
    "json list": (422, {"json": [1]}),
    "json without image": (422, {"json": {"path": "/etc/passwd"}}),
    "json with a path": (422, {"json": {"image": "/etc/passwd"}}),
    "json with a url": (422, {"json": {"image": "http://127.0.0.1/"}}),
    "json with more": (422, {"json": {"image": base64.b64encode(png()).decode(), "out": "/tmp"}}),
    "json bomb": (400, {"content": b"[" * 90_000, "headers": {"Content-Type": "application/json"}}),
    "json not text": (400, {"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}),
    "form without file": (422, {"files": {"a": (None, "b")}}),
    "form without boundary": (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "form of noise": (400, {"content": b"\0" * 99, "headers": {"Content-Type": "multipart/form-data; boundary=a"}}),
    "form cut short": (422, {"content": b'--a\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx',
                             "headers": {"Content-Type": "multipart/form-data; boundary=a"}}),
    "form of two files": (400, {"files": [("file", png()), ("file", png())]}),
    "form of many fields": (400, {"files": [("file", png()), *((f"f{i}", (None, "x")) for i in range(99))]}),
    "empty file": (422, {"files": {"file": b""}}),
    "too large": (413, {"content": bytes(300_000), "headers": PNG}),
    "too large in json": (413, {"json": {"image": "A" * 140_000}}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_request_is_told_what_was_wanted(sturdy: Running, name: str) -> None:
    refused(sturdy, name)


def refused(server: Running, name: str) -> None:
    status, request = HOSTILE[name]
    for path in ("/v1/predict", "/v1/explain"):
        reply = server.client.post(path, **request)
        assert reply.status_code == status, reply.text
        error = reply.json()["error"]
        assert error["status"] == status
        assert "want" in error["message"] or "there are" in error["message"]
        assert not any(told in reply.text for told in ("Traceback", "/secret", ".py", str(Path.cwd())))
    assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_a_picture_that_breaks_the_model_harms_no_other_and_tells_nothing(model: Held) -> None:
    with serving(model, batch_size=4, window=0.2) as server:

        def ask(side: int) -> Any:
            return server.client.post("/v1/predict", content=png(side, side), headers=PNG)

        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(ask, (8, 3, 9, 10)))
        assert [reply.status_code for reply in replies] == [200, 500, 200, 200]
        assert "secret" not in replies[1].text and "Traceback" not in replies[1].text
        assert ask(8).status_code == 200


def test_requests_share_passes_and_get_their_own_answers(model: Held, handed: list[int]) -> None:
    with serving(model, batch_size=4, window=0.0) as server:
        model.gate.clear()
        with ThreadPoolExecutor(13) as pool:
            sizes = [(10 + i, 20 + i) for i in range(13)]
            asked = [
                pool.submit(server.client.post, "/v1/predict", content=png(*size), headers=PNG)
                for size in sizes
            ]
            until(lambda: len(handed) == 8)  # two batches; the others wait to be decoded
            model.batches.clear()
            model.gate.set()
            answers = [future.result().json() for future in asked]
        assert [(a["width"], a["height"]) for a in answers] == sizes
        assert sum(model.batches) == 13 and max(model.batches) == 4


def test_requests_with_other_limits_do_not_share_a_pass(model: Held, handed: list[int]) -> None:
    with serving(model, batch_size=4) as server, ThreadPoolExecutor(5) as pool:

        def ask(score: float) -> Any:
            return server.client.post(f"/v1/predict?score={score}", content=png(), headers=PNG)

        model.gate.clear()
        begun = model.begun
        first = pool.submit(ask, 0.5)
        until(lambda: model.begun > begun)  # it holds the network
        asked = [pool.submit(ask, score) for score in (0.1, 0.9, 0.1, 0.9)]
        until(lambda: len(handed) == 5)
        model.gate.set()
        assert all(future.result().status_code == 200 for future in (first, *asked))
        assert sorted(o["score"] for o in model.options if o) == [0.1, 0.5, 0.9]
        assert model.batches[-2:] == [2, 2]


def test_on_a_cpu_pictures_that_wait_go_side_by_side(
    handed: list[int], monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    class OnCpu(Held):
        device = torch.device("cpu")

        def predict_images(self, images, **options):
            found = super().predict_images(images, **options)
            if images[0].size == (6, 6):
                both.wait(PATIENCE)  # breaks unless another is in the network at the same time
            return found

    model, both = OnCpu(), threading.Barrier(2)
    said: list[int] = []
    monkeypatch.setattr(Metrics, "batch", lambda self, n, seconds, found, beside: said.append(beside))
    with serving(model, batch_size=4) as server, ThreadPoolExecutor(5) as pool:

        def ask(side: int) -> Any:
            return server.client.post("/v1/predict", content=png(side, side), headers=PNG)

        model.gate.clear()
        begun = model.begun
        first = pool.submit(ask, 8)
        until(lambda: model.begun > begun)  # alone, it has the network for itself
        asked = [pool.submit(ask, side) for side in (6, 6, 6, 6)]
        until(lambda: len(handed) == 5)
        assert model.begun == begun + 1
        model.gate.set()
        assert all(future.result().status_code == 200 for future in (first, *asked))
        assert model.batches[-5:] == [1] * 5
        assert said[-5:] == [1, 2, 2, 2, 2]


def test_a_picture_waits_for_those_that_are_being_decoded(
    model: Held, handed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(upload: Any, *rest: Any) -> Any:
        if upload.data == late:
            until(lambda: handed)
        return decode(upload, *rest)

    late = png(9, 9)
    monkeypatch.setattr("maskrcnn.serve.app.decode", slow)
    with serving(model, batch_size=4, window=2 * PATIENCE) as server, ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.client.post, "/v1/predict", content=late, headers=PNG)
        until(lambda: in_flight(server) == 1)
        assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200
        assert other.result().status_code == 200 and model.batches[-1] == 2
        # alone it waits for nobody
        assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_large_pictures_are_decoded_a_few_at_a_time(model: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr("maskrcnn.serve.app.decode", lambda *a: (decoded.append(1), decode(*a))[1])
    with serving(model, batch_size=2) as server, ThreadPoolExecutor(9) as pool:
        model.gate.clear()
        asked = [pool.submit(server.client.post, "/v1/predict", content=png(), headers=PNG) for _ in range(9)]
        until(lambda: in_flight(server) == 9 and len(decoded) >= 4)
        time.sleep(0.2)  # a fifth would come now
        assert len(decoded) == 4  # a batch in the network, and one more
        model.gate.set()
        assert [future.result().status_code for future in asked] == [200] * 9


def test_headers_without_end_are_refused(running: Running) -> None:
    with raw(
        running, "Content-Length: 0\r\n" + "\r\n".join(f"X-{i}: {'a' * 1000}" for i in range(200))
    ) as line:
        assert line.recv(4096).startswith(b"HTTP/1.1 400")
    assert running.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_a_server_can_follow_another_on_its_port_at_once() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        caller = socket.create_connection(("127.0.0.1", port))
        answering, _ = first.accept()
        answering.close()  # ours is the end that has to wait
        caller.close()
    with listen("127.0.0.1", port), pytest.raises(ConfigError, match="want a free address"):
        listen("127.0.0.1", port)


def in_flight(server: Running) -> int:
    text = server.client.get("/metrics").text
    return round(
        float(next(line for line in text.splitlines() if line.startswith("maskrcnn_in_flight")).split()[1])
    )


def test_answers_are_sent_at_once() -> None:
    """A body does not wait until the caller has confirmed its header, which takes 40 ms."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_passes_side_by_side_share_their_time() -> None:
    """Two that take two seconds each, at once, are a picture a second, for Retry-After."""
    metrics = Metrics()
    for _ in range(2):
        metrics.batch(1, 2.0, 3, beside=2)
    assert metrics.per_picture == 1.0
    assert "maskrcnn_pass_seconds_sum 4.0" in metrics.text().decode()


def test_a_full_queue_says_when_to_come_back(model: Held) -> None:
    with serving(model, queue=3) as server:
        model.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            asked = [
                pool.submit(server.client.post, "/v1/predict", content=png(), headers=PNG) for _ in range(3)
            ]
            until(lambda: in_flight(server) == 3)
            full = server.client.post("/v1/predict", content=png(), headers=PNG)
            assert full.status_code == 429 and 1 <= int(full.headers["Retry-After"]) <= 60
            model.gate.set()
            assert [future.result().status_code for future in asked] == [200] * 3
        assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up(model: Held) -> None:
    with serving(model, answer_seconds=0.3) as server:
        model.gate.clear()
        late = server.client.post("/v1/predict", content=png(), headers=PNG)
        assert late.status_code == 503 and "Retry-After" in late.headers
        model.gate.set()
        until(lambda: server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200)


def raw(server: Running, head: str, body: bytes = b"") -> socket.socket:
    line = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    line.sendall(
        f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n{head}\r\n\r\n".encode() + body
    )
    return line


def test_a_slow_upload_hinders_nobody(model: Held) -> None:
    with (
        serving(model, upload_seconds=2 * PATIENCE) as server,
        raw(server, "Content-Length: 90000", b"\x89PNG"),
    ):
        assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_a_slow_upload_ends(model: Held) -> None:
    with serving(model, upload_seconds=0.3) as server, raw(server, "Content-Length: 9", b"\x89PNG") as line:
        assert line.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_length_beyond_all_measure_is_refused_before_the_body(running: Running) -> None:
    with raw(running, "Content-Length: 99999999999999") as line:
        assert line.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_caller_who_hangs_up_is_forgotten(model: Held, running: Running) -> None:
    for _ in range(5):
        raw(running, "Content-Length: 90000", bytes(40_000)).close()
    model.gate.clear()
    first, second = (raw(running, f"Content-Length: {len(png())}", png()) for _ in range(2))
    until(lambda: in_flight(running) == 2)
    first.close()
    second.close()
    until(lambda: in_flight(running) == 0)
    model.gate.set()
    assert running.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200


def test_uploads_together_hold_a_bounded_memory(model: Held) -> None:
    with serving(model, max_bytes=10_000, upload_seconds=PATIENCE) as server:
        lines = [raw(server, "Content-Length: 10000", bytes(9_990)) for _ in range(9)]
        told, _, _ = select.select(lines, [], [], PATIENCE)  # whichever was read last
        assert told[0].recv(4096).startswith(b"HTTP/1.1 429")
        for line in lines:
            line.close()
        until(lambda: server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 200)


def test_a_token_is_asked_for_where_there_is_one(model: Held) -> None:
    with serving(model, token="s3cret") as server:
        for path in ("/v1/models", "/metrics"):
            assert server.client.get(path).status_code == 401
        for sent in ("Bearer wrong", "Bearer", "Basic s3cret", "Bearer s3cret2"):
            reply = server.client.post("/v1/predict", content=png(), headers=PNG | {"Authorization": sent})
            assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
        right = {"Authorization": "Bearer s3cret"}
        assert server.client.post("/v1/predict", content=png(), headers=PNG | right).status_code == 200
        assert server.client.get("/healthz").status_code == server.client.get("/").status_code == 200


def test_ready_only_after_the_first_pass(model: Held) -> None:
    model.gate.clear()
    with serving(model) as server:
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        early = server.client.post("/v1/predict", content=png(), headers=PNG)
        assert early.status_code == 503 and "Retry-After" in early.headers
        model.gate.set()
        until(lambda: server.client.get("/readyz").status_code == 200)


def test_a_model_whose_first_pass_fails_is_never_called_ready() -> None:
    class Broken(Held):
        def predict_images(self, images, **options):
            self.options.append(options)
            raise RuntimeError("no kernel")

    model = Broken()
    model.gate.clear()  # do not wait for readiness
    with serving(model) as server:
        until(lambda: model.options)
        time.sleep(0.2)
        assert server.client.get("/readyz").status_code == 503
        assert server.client.post("/v1/predict", content=png(), headers=PNG).status_code == 503


def test_what_is_told_of_the_server(running: Running) -> None:
    told = running.client.get("/v1/models").json()
    assert told["models"][0]["name"] == "weights.h5" and told["models"][0]["classes"] == ["nut", "bolt"]
    assert told["limits"]["bytes"] == 100_000 and "JPEG" in told["limits"]["formats"]
    paths = running.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/predict", "/v1/explain", "/v1/models", "/healthz", "/readyz", "/metrics"}
    assert {p["name"] for p in paths["/v1/predict"]["post"]["parameters"]} >= {"score", "classes", "format"}
    assert len(paths["/v1/predict"]["post"]["requestBody"]["content"]) == 4
    running.client.post("/v1/predict", content=png(), headers=PNG)
    metrics = running.client.get("/metrics").text
    assert 'maskrcnn_requests_total{path="/v1/predict",status="200"} 1.0' in metrics
    assert "maskrcnn_instances_total 1.0" in metrics and "maskrcnn_ready 1.0" in metrics


def test_no_file_of_the_machine_is_reachable(sturdy: Running) -> None:
    nothing_else_is_reachable(sturdy)


def nothing_else_is_reachable(server: Running) -> None:
    for path in (
        "/page.css/../app.py",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/app.py",
        "//etc/passwd",
        "/docs",
        "/page",
    ):
        reply = server.client.get(path)
        assert reply.status_code == 404 and "secret" not in reply.text
    assert server.client.get("/v1/predict").status_code == 405


def test_the_page_may_load_only_what_the_server_has(sturdy: Running) -> None:
    page = sturdy.client.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "<script>" not in page.text and " style=" not in page.text and "onclick" not in page.text
    for file in ("page.css", "page.js", "stage.js"):
        text = sturdy.client.get(f"/{file}").text
        assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text


def test_a_callers_file_name_is_only_a_name() -> None:
    assert clean_name("../../etc/passwd") == "passwd"
    assert clean_name("C:\\photos\\a\x00\n.png") == "a.png"
    assert clean_name("..") == ".." and clean_name("/") is None and clean_name("") is None
    assert len(clean_name("a" * 999) or "") == 120


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in ({"queue": 0}, {"max_bytes": -1}, {"window": -0.1}, {"token": " "}, {"token": "é"}):
        with pytest.raises(ConfigError, match="want"):
            Settings(**wrong)


def test_the_command_serves_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(maskrcnn.weights, "load", lambda weights, **options: Held())
    monkeypatch.setattr(maskrcnn.serve, "run", lambda model, **options: calls.append(options))
    done = CliRunner().invoke(
        cli, ["serve", "--port", "9", "--max-mb", "2", "--window", "20"], env={"MASKRCNN_TOKEN": "t"}
    )
    assert done.exit_code == 0, done.output
    assert (calls[0]["host"], calls[0]["port"]) == ("127.0.0.1", 9)
    assert calls[0]["settings"] == Settings(token="t", max_bytes=2 * 2**20, window=0.02)
    assert "open to everyone" in CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0"]).output


def test_a_port_that_is_taken_is_named(model: Held) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: want a free address"):
            maskrcnn.serve.run(model, port=port)


def test_sigterm_lets_what_is_under_way_finish(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from serving import Held; from maskrcnn.serve import run, Settings; from maskrcnn import cli\n"
        "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "told = lambda url: print(url, flush=True)\n"
        "run(Held(Path(sys.argv[2])), port=0, settings=Settings(drain_seconds=600), tell=told)\n"
    )
    here, go = str(Path(__file__).parent), tmp_path / "go"
    process = subprocess.Popen([sys.executable, "-c", code, here, go], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            server = Running(client, port, process.terminate)
            until(lambda: client.get("/readyz").status_code == 200)
            finishes_what_is_under_way(server, go)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


def finishes_what_is_under_way(server: Running, go: Path) -> None:
    """Ends the server while it answers a request, which is done when there is a file ``go``."""

    def closed() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code != 200
        except httpx.TransportError:
            return True

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.client.post, "/v1/predict", content=png(5, 5), headers=PNG)
        until(lambda: in_flight(server) == 1)
        server.stop()
        until(closed)
        go.touch()
        assert slow.result().status_code == 200


def test_a_replica_on_ray_answers_the_same(cluster_address: str, tmp_path: Path) -> None:
    limits = {"max_bytes": 100_000, "max_pixels": 1_000_000, "drain_seconds": PATIENCE}
    with serving_on_ray(Held(go := tmp_path / "go"), **limits) as server:
        for name in HOSTILE:
            refused(server, name)
        options = {"score": 0.25, "classes": "bolt", "max_detections": 3, "format": "coco"}
        found = server.client.post("/v1/predict", files={"file": ("a.png", png())}, params=options).json()
        assert found["images"][0]["file_name"] == "a.png" and len(found["annotations"]) == 1
        assert server.client.get("/").headers["Content-Security-Policy"].startswith("default-src 'none'")
        nothing_else_is_reachable(server)
        finishes_what_is_under_way(server, go)
