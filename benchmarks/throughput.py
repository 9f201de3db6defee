"""A folder of photos through `maskrcnn predict`: its time beside the network's alone, and whether memory stays flat.

    python benchmarks/throughput.py --count 200
    python benchmarks/throughput.py --count 2000 --set min_size=64 max_size=96

Decoding, network and encoding (overlay and JSON) are first timed alone, one after the other, on a sample of the photos.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
from turns import arguments

import maskrcnn
from maskrcnn.inputs import read
from maskrcnn.jobs import Step, predict_files
from maskrcnn.output import draw, write_picture

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
SAMPLE = 20


def resident() -> float:
    """Resident size of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def make_photos(folder: Path, count: int) -> None:
    """Photos of 640x480 and 480x640, no two alike."""
    for i, name in enumerate(("chelsea.jpg", "coffee.jpg")):
        photo = PIL.Image.open(PHOTOS / name).convert("RGB").resize(((640, 480), (480, 640))[i])
        pixels = np.asarray(photo)
        for j in range(i, min(count, 40), 2):
            PIL.Image.fromarray(np.roll(pixels, 7 * j, axis=1)).save(folder / f"{j:05d}.jpg", quality=90)
    for j in range(40, count):
        shutil.copy(folder / f"{j % 40:05d}.jpg", folder / f"{j:05d}.jpg")


def alone(model: maskrcnn.MaskRCNN, folder: Path) -> dict[str, float]:
    """Seconds a photo of each part, without the others."""
    files = sorted(folder.iterdir())[:SAMPLE]
    model.predict_images([read(files[0])])  # the first call compiles
    start = time.perf_counter()
    images = [read(file) for file in files]
    decoded = time.perf_counter()
    results = [model.predict_images([image])[0] for image in images]
    predicted = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        for i, result in enumerate(results):
            write_picture(Path(out) / f"{i}.jpg", draw(result))
            result.to_coco()
    done = time.perf_counter()
    seconds = {"decode": decoded - start, "network": predicted - decoded, "encode": done - predicted}
    return {name: value / len(files) for name, value in seconds.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=NUMBER")
    options = parser.parse_args()
    settings = {name: int(value) for name, value in (text.split("=") for text in options.set)}
    model = maskrcnn.load(**settings)
    with tempfile.TemporaryDirectory() as name:
        photos, out = Path(name) / "photos", Path(name) / "out"
        photos.mkdir()
        make_photos(photos, options.count)
        parts = alone(model, photos)
        for part, seconds in parts.items():
            print(f"{part:8} alone: {seconds * 1e3:6.1f} ms a photo")
        memory: list[float] = []

        def note(step: Step) -> None:
            if step.done % max(options.count // 8, 1) == 0:
                memory.append(resident())

        report = predict_files(model, photos, out, progress=note)
        each = report.seconds / options.count
        print(f"together      : {each * 1e3:6.1f} ms a photo, {1 / each:.1f} photos a second")
        alone_ms, all_ms = parts["network"] * 1e3, sum(parts.values()) * 1e3
        print(
            f"that is {each * 1e3 / alone_ms:.2f} of the network alone, {each * 1e3 / all_ms:.2f} of all three"
        )
        print("resident MB   :", " ".join(f"{mb:.0f}" for mb in memory))


if __name__ == "__main__":
    main()
