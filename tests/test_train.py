"""The run as a whole: killed, resumed, in two processes, on inputs that break it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import maskrcnn
from maskrcnn.errors import ConfigError
from maskrcnn.model import MaskRCNN
from maskrcnn.model.resnet import ResNet
from maskrcnn.train import Report, Training
from training_script import TINY, drawn, tiny, trained

HERE = Path(__file__).parent
FAST = {"batch": 4, "workers": 0, "device": "cpu", "warmup": 1}


def script(*args: object, processes: int = 1) -> int:
    """Exit code of the training script in processes of its own."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = os.environ | {
        "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *start, str(HERE / "training_script.py"), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=300).returncode


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the script in its own process has it: sums in another order differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(tmp_path: Path, one_thread: None) -> None:
    trained(tmp_path / "whole", 2, 3, -1)  # 12 steps
    assert script(tmp_path / "killed", 2, 3, 8) == -9  # its last checkpoint is of step 6
    assert [p.name for p in (tmp_path / "killed/checkpoints").iterdir()] == ["00000006"]
    trained(tmp_path / "killed", 2, 3, -1, resume=True)
    for name in ("weights.safetensors", "average.safetensors"):
        whole, killed = (
            load_file(tmp_path / run / "checkpoints/00000012" / name) for run in ("whole", "killed")
        )
        assert all(whole[key].equal(killed[key]) for key in whole)
    rows = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("whole", "killed")]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [
        row.rsplit(",", 1)[0] for row in rows[1]
    ]  # but for time


ORPHANS = """
import multiprocessing, os, signal
import cv2, numpy, time
from maskrcnn.train import Training
from maskrcnn.train.feed import feed, order
from training_script import TINY, drawn

cv2.setNumThreads(2)
cv2.warpAffine(numpy.zeros((3000, 3000, 3), numpy.uint8), numpy.eye(2, 3) * 1.1, (3000, 3000))
time.sleep(1)  # until its threads have nothing to do and wait: a fork then inherits what they wait on
settings = Training(batch=2, workers=2)
data = drawn(8, (640, 640))  # batches that are larger than a pipe
batches = feed(data, order(data, TINY, settings), 3, settings, 0, 1, range(1000))
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="looks for processes in /proc, which only Linux has"
)
def test_the_loaders_processes_begin_beside_opencvs_threads_and_end_with_the_one_that_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}"}
    # Their output goes to a file: a pipe would be held open by those that stay.
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run([sys.executable, "-c", ORPHANS], env=environment, stdout=said, timeout=300)
        said.seek(0)
        workers = [Path("/proc") / pid for pid in said.read().split()]
    assert len(workers) == 2
    for _ in range(150):  # by naps, not by the clock: a machine that stands still takes no time from them
        if not any(_runs(worker) for worker in workers):
            return
        time.sleep(0.1)
    pytest.fail("they are still there after 15 seconds")


UNTAKEN = """
import multiprocessing, os, time
from multiprocessing import reduction
from maskrcnn.train import Training
from maskrcnn.train import feed
from training_script import TINY, drawn

send, prepare = reduction.send_handle, feed._Prepared.__getitem__

def slow():  # a tensor is sent when nobody waits for it any more, and before the worker ends
    reduction.send_handle = lambda *given: (time.sleep(0.5), send(*given))
    feed._Prepared.__getitem__ = lambda *given: (time.sleep(1.5), prepare(*given))[1]

def stop(connection):
    raise KeyboardInterrupt

multiprocessing.set_start_method("fork")
os.register_at_fork(after_in_child=slow)
reduction.recv_handle = stop
settings = Training(batch=2, workers=1)
data = drawn(4)
try:
    next(feed.feed(data, feed.order(data, TINY, settings), 3, settings, 0, 1, range(9)))
except KeyboardInterrupt:
    print("stopped")
"""


ENDED = """
import multiprocessing, os, signal
from maskrcnn.train import Training, feed
from training_script import TINY, drawn

multiprocessing.set_start_method("fork")
feed.GRACE = 0.1
settings, data = Training(batch=2, workers=1), drawn(4)
batches = feed.feed(data, feed.order(data, TINY, settings), 3, settings, 0, 1, range(9))
next(batches)
(worker,) = multiprocessing.active_children()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's raises an error
worker.terminate()
worker.join(60)
print(worker.exitcode, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows starts no process as a copy of another")
@pytest.mark.parametrize(("script", "said"), [(UNTAKEN, "stopped\n"), (ENDED, "1\n")])
def test_a_loaders_process_ends_in_silence_when_its_run_stops_or_it_is_told_to(
    script: str, said: str
) -> None:
    """A run that takes no more of its tensors; a system that ends what a run has left behind."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def _runs(process: Path) -> bool:
    """Whether it is there and no zombie, which waits for someone to note its end."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_processes_learn_what_one_learns_with_the_double_batch(tmp_path: Path) -> None:
    trained(tmp_path / "one", 4, 1, 0)  # a step of 4 pictures
    assert script(tmp_path / "two", 2, 1, 0, processes=2) == 0
    one, two = (load_file(tmp_path / run / "best.safetensors") for run in ("one", "two"))
    start = tiny().state_dict()
    moved = torch.cat([(one[key] - start[key]).flatten() for key in one])
    apart = torch.cat([(one[key] - two[key]).flatten() for key in one])
    assert apart.norm() < 1e-4 * moved.norm()


def test_training_learns_and_leaves_its_model_alone(tmp_path: Path) -> None:
    model, before = tiny(), tiny().state_dict()
    reports: list[Report] = []
    best = maskrcnn.train(
        model, drawn(8), val=drawn(4), out=tmp_path, epochs=6, lr=3e-3, optimizer="adamw", norm="adapt",
        validate_every=3, tell=reports.append, **FAST,
    )  # fmt: skip
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    totals = [sum(r.losses.values()) for r in reports]
    assert len(totals) == 12 and np.mean(totals[-4:]) < 0.7 * np.mean(totals[:2])
    assert [r.step for r in reports if r.scores] == [6, 12]
    assert {"mask_ap", "box_ap", "val_loss"} <= reports[-1].scores.keys()
    stored = maskrcnn.load(tmp_path / "best.safetensors").state_dict()
    assert all(value.equal(stored[key]) for key, value in best.state_dict().items())
    for name in (
        "log.csv",
        "validation.csv",
        "results.png",
        "batch.jpg",
        "previews/step000012.jpg",
        "training.json",
    ):
        assert (tmp_path / name).stat().st_size > 0


class Faulty(ResNet):
    """Gives no numbers the second time."""

    calls = 0

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        return tuple(level * (torch.nan if self.calls == 2 else 1) for level in super().forward(pixels))


def test_a_step_that_is_not_finite_is_left_out_and_its_pictures_are_kept(tmp_path: Path) -> None:
    reports: list[Report] = []
    maskrcnn.train(
        MaskRCNN(TINY, Faulty(TINY)), drawn(8), out=tmp_path, epochs=1.5, tell=reports.append, **FAST
    )  # fmt: skip
    assert [r.skipped is not None for r in reports] == [False, True, False]
    kept = reports[1].skipped
    assert kept is not None and (kept / "batch0.jpg").exists()
    images = json.loads((kept / "inputs.json").read_text())["images"]
    assert len(images) == 4 and np.load(kept / images[0]["arrays"])["pixels"].shape == (64, 64, 3)
    weights = load_file(tmp_path / "best.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_training_stops_where_nothing_gets_better(tmp_path: Path) -> None:
    reports: list[Report] = []
    maskrcnn.train(
        tiny(), drawn(4), val=drawn(2), out=tmp_path, epochs=9, lr=1e-9, patience=2, tell=reports.append, **FAST
    )  # fmt: skip
    assert [r.step for r in reports] == [1, 2, 3]  # the first is the best so far, then two are no better


def test_a_folder_that_holds_a_run_is_not_overwritten_and_only_runs_are_resumed(tmp_path: Path) -> None:
    Training().save(tmp_path / "training.json")
    with pytest.raises(ConfigError, match="holds a run already"):
        maskrcnn.train(tiny(), drawn(2), out=tmp_path)
    with pytest.raises(ConfigError, match="want the folder of a run"):
        maskrcnn.train(tiny(), drawn(2), out=tmp_path / "none", resume=True)
    with pytest.raises(ConfigError, match="unknown setting epoch; there are"):
        maskrcnn.train(tiny(), drawn(2), out=tmp_path / "new", epoch=3)
