"""Images/s of `maskrcnn predict --ray` with 1 and 2 workers on this machine, beside those of one process.

    python benchmarks/fleet.py

The shipped model, the photos in examples/ over and over, each worker with one thread. Workers take seconds to start,
which long runs do not notice: the rate counts from the first part that is done to the last, beside the whole time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

import maskrcnn
from maskrcnn.jobs import Step, predict_files
from maskrcnn.scale import Workers, predict_fleet

PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "photos").glob("*.[jp][pn]g"))


def rate(steps: list[tuple[float, int]]) -> float:
    """Pictures a second from the first step to the last."""
    (start, first), (end, last) = steps[0], steps[-1]
    return (last - first) / (end - start)


def main(count: int) -> None:
    """One process with one thread and with two, then fleets."""
    model = maskrcnn.load()
    steps: list[tuple[float, int]] = []

    def note(step: Step) -> None:
        steps.append((time.perf_counter(), step.done))

    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album"
        album.mkdir()
        for i in range(count):
            shutil.copy(PHOTOS[i % len(PHOTOS)], album / f"{i:05d}{PHOTOS[i % len(PHOTOS)].suffix}")
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model.predict(PHOTOS[0])
            steps.clear()
            report = predict_files(
                model, album, Path(folder) / f"alone{threads}", save=["json"], progress=note
            )
            print(
                f"one process, {threads} thread(s): {rate(steps):.2f} images/s, {report.seconds:.0f} s in all"
            )
        for workers in (1, 2):
            steps.clear()
            out = Path(folder) / f"fleet{workers}"
            report = predict_fleet(model, album, out, workers=Workers(workers), shard=4, progress=note)
            assert report.done == count
            print(f"{workers} worker(s): {rate(steps):.2f} images/s, {report.seconds:.0f} s in all")
        size = sum(part.stat().st_size for part in (out / "results").iterdir())
        print(
            f"parquet: {size / count:.0f} bytes a picture, {report.instances / count:.1f} instances a picture"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
