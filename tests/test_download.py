"""Downloads from a server on this machine that behaves as badly as real ones."""

import hashlib
import multiprocessing
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest

from maskrcnn.errors import DownloadError
from maskrcnn.weights.download import fetch
from maskrcnn.weights.home import home

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
CUT = 18 << 14  # bytes, 294,912: a whole number of blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves ``content``; the first answers are cut after ``cuts`` bytes each; ``ranges`` are optional."""
    state = SimpleNamespace(
        content=CONTENT, cuts=[], ranges=True, tag='"one"', status=200, failures=0, length=True, asked=[]
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            state.asked.append(self.headers.get("Range"))
            if state.failures:
                state.failures -= 1
                return self.send_error(503)
            if state.status != 200:
                return self.send_error(state.status)
            start, wanted = 0, self.headers.get("Range")
            if wanted and state.ranges and self.headers.get("If-Range") == state.tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(state.content):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}"
                )
            else:
                self.send_response(200)
            if state.tag:
                self.send_header("ETag", state.tag)
            if state.length:
                self.send_header("Content-Length", str(len(state.content) - start))
            self.send_header("Connection", "close")
            self.end_headers()
            body = state.content[start:]
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)
            self.close_connection = True

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}/weights.h5"
    yield state
    http.shutdown()
    http.server_close()


def get(server, path, **options):
    return fetch(server.url, path, progress=False, pause=0.01, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.h5"


def left(path):
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


def test_a_file_is_fetched_once(server, path):
    for _ in range(2):
        assert get(server, path, size=len(CONTENT), sha256=DIGEST).read_bytes() == CONTENT
    assert server.asked == [None]
    assert left(path) == ["weights.h5"]


def test_a_cut_connection_goes_on_where_it_stopped(server, path):
    server.cuts = [CUT, CUT // 2]
    assert get(server, path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={CUT}-", f"bytes={CUT + CUT // 2}-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, path):
    server.cuts = [CUT, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="cut at byte 294,912"):
        get(server, path)
    assert not path.exists()
    assert get(server, path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={CUT}-"


def test_a_server_without_ranges_begins_again(server, path):
    server.cuts, server.ranges = [CUT], False
    assert get(server, path, sha256=DIGEST).read_bytes() == CONTENT


def test_a_server_without_tags_or_dates_begins_again(server, path):
    server.cuts, server.tag = [CUT], None
    assert get(server, path, sha256=DIGEST).read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_file_that_changed_in_between_begins_again(server, path):
    server.cuts = [CUT, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        get(server, path)
    server.content, server.tag = CONTENT[::-1], '"two"'
    assert get(server, path).read_bytes() == CONTENT[::-1]


def test_a_complete_part_is_taken_as_it_is(server, path):
    server.cuts = [CUT, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        get(server, path)
    path.with_name("weights.h5.part").write_bytes(CONTENT)
    assert get(server, path, size=len(CONTENT), sha256=DIGEST).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, path):
    server.failures = 3
    assert get(server, path).read_bytes() == CONTENT
    assert len(server.asked) == 4


def test_a_connection_that_ends_early_without_a_length_is_caught_by_the_size(server, path):
    server.length, server.cuts = False, [CUT]
    with pytest.raises(DownloadError, match="want 1,024,000 bytes, got 294,912"):
        get(server, path, size=len(CONTENT))
    assert "weights.h5" not in left(path)


def test_a_file_of_another_size_is_refused_before_it_is_fetched(server, path):
    with pytest.raises(DownloadError, match="want 99 bytes, the server offers 1,024,000"):
        get(server, path, size=99)
    assert "weights.h5" not in left(path)


def test_a_wrong_hash_is_refused_and_not_kept(server, path):
    with pytest.raises(DownloadError, match=f"want SHA-256 {'0' * 64}, got {DIGEST}"):
        get(server, path, sha256="0" * 64)
    assert not {"weights.h5", "weights.h5.part"} & set(left(path))


def test_an_unknown_hash_is_that_of_the_first_download_from_then_on(server, path):
    get(server, path)
    assert path.with_name("weights.h5.sha256").read_text().split() == [DIGEST, "weights.h5"]
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"as at the first download.*remove the file"):
        get(server, path)
    path.unlink()
    server.content = CONTENT + b"more"
    with pytest.raises(DownloadError, match="as at the first download"):
        get(server, path)


def test_a_file_that_was_put_there_is_checked_and_left(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:100])
    with pytest.raises(DownloadError, match="want 1,024,000 bytes, got 100; remove"):
        get(server, path, size=len(CONTENT))
    assert path.exists()
    path.write_bytes(CONTENT)
    assert get(server, path, size=len(CONTENT)) == path
    assert server.asked == []


def test_a_missing_file_is_not_asked_for_again(server, path):
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        get(server, path)
    assert len(server.asked) == 1


def test_offline_says_what_to_fetch_and_where_to_put_it(path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/weights.h5"
    with pytest.raises(DownloadError) as error:
        fetch(url, path, progress=False, pause=0.001)
    assert url in str(error.value)
    assert f"put it at {path}" in str(error.value)


def test_a_folder_that_cannot_be_written_says_what_to_set(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="MASKRCNN_HOME"):
        get(server, tmp_path / "file" / "weights.h5")


def _fetch(url, path):
    fetch(url, path, progress=False, pause=0.01)


def test_two_processes_fetch_it_once(server, path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch, args=(server.url, path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]


def test_home_is_the_folder_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("MASKRCNN_HOME")
    assert "maskrcnn" in str(home())


def test_the_first_digits_of_a_hash_are_enough(server, tmp_path):
    path = tmp_path / "whole"
    assert fetch(server.url, path, sha256=DIGEST[:8], progress=False).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(server.url, tmp_path / "other", sha256="00000000", progress=False)
