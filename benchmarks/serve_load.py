"""Load on `maskrcnn serve` over loopback, against what batch prediction reaches on the same machine.

    python benchmarks/serve_load.py [throughput | latency | broken] ... [--count 60] [--rounds 3] [--requests 1000]

The server is a process of its own with the shipped model; the pictures are the photos in examples/, sent as they are.

throughput : images/s of `predict_files` with batch sizes 1 and 4 (the better counts), and of 1, 4 and 16 clients that
             each keep a connection and send a picture when the last is answered, in turns; medians of the rounds.
             Also the CPU time of server and clients for each picture, all threads together. Goal: 0.9
latency    : requests at half of the best throughput, evenly spaced, and at random times (Poisson) for comparison;
             the answer's time over that of the same picture alone in this process, file to JSON; 95th percentile.
             Goal: 2, evenly spaced
broken     : a thousand requests, every tenth broken; statuses and resident memory. Goal: no 5xx, memory that stays
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import PIL.Image

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "photos").glob("*.[jp][pn]g"))
SEED = 0


class Server:
    """The process and its address."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.pid = process.pid
        self.address = urlsplit(url).netloc

    def ask(self, data: bytes, kind: str = "image/jpeg") -> int:
        """Send one picture over a new connection; the status, once the whole answer is here."""
        with self.line() as line:
            return line(data, kind)

    @contextmanager
    def line(self) -> Iterator[Callable[..., int]]:
        """A connection that stays: `ask` as often as wanted."""
        line = http.client.HTTPConnection(self.address, timeout=120)

        def ask(data: bytes, kind: str = "image/jpeg") -> int:
            line.request("POST", "/v1/predict", data, {"Content-Type": kind})
            reply = line.getresponse()
            reply.read()
            return reply.status

        try:
            yield ask
        finally:
            line.close()

    def cpu(self) -> float:
        """Seconds that its threads have worked so far."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def pass_seconds(self) -> float:
        """Mean time of the network for one batch, as /metrics tells it."""
        line = http.client.HTTPConnection(self.address, timeout=10)
        line.request("GET", "/metrics")
        told = dict(
            row.rsplit(" ", 1) for row in line.getresponse().read().decode().splitlines() if row[0] != "#"
        )
        return float(told["maskrcnn_pass_seconds_sum"]) / float(told["maskrcnn_pass_seconds_count"])

    def memory(self) -> float:
        """Resident size in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def serving() -> Iterator[Server]:
    """`maskrcnn serve` on a free port of loopback, warm."""
    command = [sys.executable, "-m", "maskrcnn", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        words = process.stdout.readline().split()
        server = Server(process, next(word for word in words if word.startswith("http://")))
        while True:
            line = http.client.HTTPConnection(server.address, timeout=10)
            line.request("GET", "/readyz")
            if line.getresponse().status == 200:
                break
            time.sleep(0.1)
        for path in PHOTOS * 2:
            server.ask(path.read_bytes())
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


BATCH = """
import sys, time, tempfile
from pathlib import Path
import maskrcnn
from maskrcnn.jobs import predict_files
model = maskrcnn.load()
photos = sys.argv[2:]
with tempfile.TemporaryDirectory() as folder:
    predict_files(model, photos[:8], folder + "/warm", save=["json"], batch_size=int(sys.argv[1]))
    start = time.perf_counter(), time.process_time()
    predict_files(model, photos, folder + "/out", save=["json"], batch_size=int(sys.argv[1]))
    print(len(photos) / (time.perf_counter() - start[0]), (time.process_time() - start[1]) / len(photos))
"""


def batch_rate(size: int, count: int) -> tuple[float, float]:
    """Images/s of `predict_files` with results.json, in a process of its own, and CPU seconds of a picture."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for i, path in zip(range(count), itertools.cycle(PHOTOS)):
            names.append(f"{folder}/{i}{path.suffix}")
            Path(names[-1]).write_bytes(path.read_bytes())
        done = subprocess.run(
            [sys.executable, "-c", BATCH, str(size), *names], stdout=subprocess.PIPE, check=True
        )
    rate, work = map(float, done.stdout.split())
    return rate, work


def client_rate(server: Server, clients: int, count: int) -> float:
    """Images/s of so many clients, each with one request at a time."""
    pictures = [path.read_bytes() for path in PHOTOS]
    left = iter(range(count))  # taken from by one thread at a time

    def client(_: int) -> list[int]:
        with server.line() as ask:
            return [ask(pictures[i % len(pictures)]) for i in left]

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        statuses = [status for some in pool.map(client, range(clients)) for status in some]
        seconds = time.perf_counter() - start
    assert len(statuses) == count and set(statuses) == {200}, Counter(statuses)
    return count / seconds


def throughput(given: argparse.Namespace) -> None:
    """Rates of batches and clients."""
    batch: dict[int, list[float]] = {1: [], 4: []}
    served: dict[int, list[float]] = {1: [], 4: [], 16: []}
    batch_work = dict.fromkeys(batch, 0.0)
    work = dict.fromkeys(served, (0.0, 0.0))
    with serving() as running:
        for _ in range(given.rounds):
            for size, rates in batch.items():
                rate, batch_work[size] = batch_rate(size, given.count)
                rates.append(rate)
            for clients, rates in served.items():
                before = running.cpu(), time.process_time()
                rates.append(client_rate(running, clients, given.count))
                after = running.cpu(), time.process_time()
                work[clients] = after[0] - before[0], after[1] - before[1]
        for size, rates in batch.items():
            print(
                f"predict_files: {statistics.median(rates):.2f} images/s, batch size {size}; "
                f"CPU {batch_work[size] * 1000:.0f} ms a picture (last round)"
            )
        best = [max(of_round) for of_round in zip(*batch.values(), strict=True)]
        for clients, rates in served.items():
            share = statistics.median(a / b for a, b in zip(rates, best, strict=True))
            ours, theirs = (seconds / given.count * 1000 for seconds in work[clients])
            print(
                f"{clients:2} clients: {statistics.median(rates):.2f} images/s, {share:.2f} of batch prediction; "
                f"CPU {ours:.0f} ms a picture in the server, {theirs:.1f} ms here (last round)"
            )
        print(f"the network's part of it, mean of all passes: {running.pass_seconds() * 1000:.0f} ms a pass")


def alone() -> list[float]:
    """Median seconds of each photo in this process, file to JSON."""
    import maskrcnn
    from maskrcnn.serve.replies import to_json

    model = maskrcnn.load()
    times: dict[Path, list[float]] = {path: [] for path in PHOTOS}
    for path in PHOTOS * 8:
        start = time.perf_counter()
        json.dumps(to_json(model.predict(path.read_bytes()), "model"))
        times[path].append(time.perf_counter() - start)
    return [statistics.median(times[path]) for path in PHOTOS]


def latencies(server: Server, gaps: Iterable[float], count: int) -> list[tuple[int, float]]:
    """Photo and seconds of each answer when a request is sent after each gap, answered or not."""
    found: list[tuple[int, float]] = []

    def ask(photo: int, data: bytes) -> None:
        start = time.perf_counter()
        assert server.ask(data) == 200
        found.append((photo, time.perf_counter() - start))

    threads = []
    due = time.perf_counter()
    for i, gap in zip(range(count), gaps, strict=False):
        photo = i % len(PHOTOS)
        data = PHOTOS[photo].read_bytes()
        time.sleep(max(due - time.perf_counter(), 0))
        threads.append(threading.Thread(target=ask, args=(photo, data)))
        threads[-1].start()
        due += gap
    for thread in threads:
        thread.join()
    return found


def latency(given: argparse.Namespace) -> None:
    """Answer times at half load."""
    one = alone()
    with serving() as running:
        full = max(client_rate(running, clients, given.count) for clients in (1, 4))
        gap = 2 / full
        rng = random.Random(SEED)
        ms = ", ".join(f"{seconds * 1000:.0f}" for seconds in one)
        print(f"photos alone in process: {ms} ms; the server at full load: {full:.2f} images/s")
        for name, gaps in (
            ("evenly spaced", itertools.repeat(gap)),
            ("at random", (rng.expovariate(1 / gap) for _ in itertools.count())),
        ):
            times = sorted(seconds / one[photo] for photo, seconds in latencies(running, gaps, given.count))
            p95 = times[int(0.95 * len(times))]
            print(
                f"half load, {name}: median {statistics.median(times):.2f}, p95 {p95:.2f} times the photo alone"
            )


def broken(given: argparse.Namespace) -> None:
    """Requests of four clients, every tenth broken in one of several ways."""
    with PIL.Image.open(PHOTOS[0]) as opened:
        opened.thumbnail((160, 160))
        file = io.BytesIO()
        opened.save(file, "JPEG")
    good = file.getvalue()
    bad = [good[: len(good) // 2], b"", b"\0" * 5000, b"GIF89a" + b"\xff" * 99, b"[" * 5000]
    with serving() as running:
        memory: dict[int, float] = {}

        def ask(i: int) -> int:
            if i % 100 == 0:
                memory[i] = running.memory()
            if i % 10:
                return running.ask(good)
            return running.ask(bad[i // 10 % len(bad)], "application/json" if i % 50 == 40 else "image/jpeg")

        with ThreadPoolExecutor(4) as pool:
            statuses = Counter(pool.map(ask, range(given.requests)))
        memory[given.requests] = running.memory()
    print("statuses: " + ", ".join(f"{status} x {n}" for status, n in sorted(statuses.items())))
    print("resident MB after 0, 100, ... requests: " + " ".join(f"{memory[i]:.0f}" for i in sorted(memory)))


PARTS = {"throughput": throughput, "latency": latency, "broken": broken}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--count", type=int, default=60, help="pictures of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    parser.add_argument("--requests", type=int, default=1000, help="of broken")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        PARTS[part](given)
