"""The whole process of `maskrcnn predict one.jpg` with the shipped model, and how long its imports take.

    python benchmarks/start.py

The first start in an environment compiles kernels and is not counted. Each figure is a process of its own, from its
start to its end; the parts are what a process prints that does the same step by step.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns import PHOTO, arguments

# As after an ordinary installation: with the modules compiled.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
PARTS = """
import time
start = time.perf_counter()
def tell(what):
    global start
    print(what, time.perf_counter() - start)
    start = time.perf_counter()
import torch; tell("import torch")
import maskrcnn; maskrcnn.load; tell("import maskrcnn, beside torch")
model = maskrcnn.load(); tell("load")
result = model.predict("photo.jpg"); tell("predict")
result.save("overlay.jpg"); tell("overlay")
"""


def seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    commands = {
        "predict one.jpg": ["-m", "maskrcnn", "predict", "photo.jpg"],
        "import maskrcnn": ["-c", "import maskrcnn; maskrcnn.load"],
        "import torch": ["-c", "import torch"],
        "--help": ["-m", "maskrcnn", "--help"],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(PHOTO, folder / "photo.jpg")
        seconds(commands["predict one.jpg"], folder)
        for what, command in commands.items():
            times = sorted(seconds(command, folder) for _ in range(runs))
            print(f"{what:32} {statistics.median(times):6.2f} s ({times[0]:.2f} to {times[-1]:.2f})")
        parts: dict[str, list[float]] = {}
        for _ in range(runs):
            done = subprocess.run(
                [sys.executable, "-c", PARTS],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                env=ENVIRONMENT,
            )
            for line in done.stdout.splitlines():
                what, _, number = line.rpartition(" ")
                parts.setdefault(what, []).append(float(number))
        for what, times in parts.items():
            print(f"    {what:28} {statistics.median(times):6.2f} s")


if __name__ == "__main__":
    main()
