"""Winograd's transforms on paper, and the compiled kernel against PyTorch's convolution in float64."""

import ctypes.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskrcnn.engines import winograd

pytestmark = pytest.mark.skipif(
    not winograd.fit(32, 32), reason="this PyTorch does not run on OpenMP's threads"
)

CHECKED = ctypes.util.find_library("c_malloc_debug")  # of glibc; a corrupted block ends the process
WIDTHS = [8, 16] if torch.backends.cpu.get_cpu_capability() == "AVX512" else [8]


def test_one_line_of_four_outputs_is_a_correlation() -> None:
    """Six products in place of twelve; exact in whole numbers of sixths and twenty-fourths."""
    line, taps = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0]), np.array([2.0, 7.0, 1.0])
    products = np.array(winograd.spread(line)) * np.array(winograd.lift(taps))
    assert np.allclose(winograd.gather(products), [17.0, 31.0, 20.0, 46.0], atol=1e-12)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("n", "c_in", "c_out", "h", "w"),
    [(1, 32, 32, 1, 1), (1, 64, 32, 4, 4), (2, 32, 64, 5, 7), (7, 64, 64, 14, 14), (1, 32, 96, 33, 50)],
)
def test_the_kernel_convolves(
    width: int, n: int, c_in: int, c_out: int, h: int, w: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "lanes", lambda: width)
    torch.manual_seed(0)
    x = torch.randn(n, c_in, h, w).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(c_out, c_in, 3, 3), torch.randn(c_out)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    layer = winograd.Winograd(weight, None, bias)
    for relu in (False, True):
        ours = layer(x, relu)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert (ours - (wanted.relu() if relu else wanted)).abs().max() < 5e-5 * wanted.abs().max()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_share_the_outputs_of_few_tiles(
    width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block of tiles, and outputs that these numbers of threads do not divide."""
    monkeypatch.setattr(winograd, "lanes", lambda: width)
    torch.manual_seed(0)
    x, weight = torch.randn(1, 32, 9, 6), torch.randn(160, 32, 3, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = winograd.Winograd(weight, None, None)(x, False)
    finally:
        torch.set_num_threads(before)
    wanted = F.conv2d(x.double(), weight.double(), padding=1)
    assert (ours - wanted).abs().max() < 5e-5 * wanted.abs().max()


def test_outputs_are_shared_where_threads_would_have_nothing_to_do() -> None:
    assert winograd.shares(1, 16, 2) == 2
    assert winograd.shares(3, 8, 2) == 2  # three of six halves each, rather than two wholes and one
    assert winograd.shares(12, 4, 2) == winograd.shares(6, 4, 2) == 1
    assert winograd.shares(1, 2, 64) == 2
    assert winograd.shares(0, 4, 2) == winograd.shares(3, 8, 1) == 1


def test_memory_in_the_other_order_and_no_images() -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 32, 3, 3)
    layer = winograd.Winograd(weight, None, None)
    x = torch.randn(1, 32, 6, 6)
    assert torch.allclose(layer(x, False), F.conv2d(x, weight, padding=1), atol=1e-3)
    assert layer(x[:0], False).shape == (0, 32, 6, 6)


def test_what_is_not_a_number_stays_so() -> None:
    layer = winograd.Winograd(torch.ones(32, 32, 3, 3), None, None)
    assert layer(torch.full((1, 32, 4, 4), torch.nan), True).isnan().all()


def test_threads_follow_pytorch() -> None:
    torch.manual_seed(0)
    layer = winograd.Winograd(torch.randn(32, 32, 3, 3), None, None)
    x = torch.randn(3, 32, 20, 20)
    wanted, threads = layer(x, False), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(layer(x, False), wanted)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(CHECKED is None, reason="there is no C library that checks its blocks")
def test_passes_beside_each_other_leave_the_memory_of_others_alone() -> None:
    code = """
import threading, torch
from maskrcnn.engines.winograd import Winograd

layers = [Winograd(torch.zeros(c, c, 3, 3), None, None) for c in (64, 128)]

def work():
    torch.set_num_threads(1)
    for _ in range(100):
        for layer in layers:
            layer(torch.zeros(1, layer.c_in, 28, 28), False)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    env = os.environ | {"LD_PRELOAD": str(CHECKED), "MALLOC_CHECK_": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_kernel_is_compiled_once_and_then_read_from_the_cache() -> None:
    winograd.kernel()
    again = winograd._Compiled(winograd.lanes())  # as another process would
    assert [function.cache_hits for function in again._functions] == [1, 1]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("most", [0, 96 * 32])
def test_weights_come_out_the_same_in_parts_and_whole(
    width: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small maps have all transformed weights kept, large ones make them for some outputs at a time."""
    monkeypatch.setattr(winograd, "lanes", lambda: width)
    monkeypatch.setattr(winograd, "TOGETHER", 32 * 64)
    monkeypatch.setattr(winograd.kernel(), "rooms", [])  # other tests need larger ones
    torch.manual_seed(0)
    weight, scale = torch.randn(96, 32, 3, 3), torch.rand(96) + 0.5
    layer = winograd.Winograd(weight, scale, None)
    monkeypatch.setattr(winograd, "KEPT", most)
    for side, kept in ((winograd.TILE * 7, False), (8, True), (winograd.TILE * 7, most > 0)):
        x = torch.randn(1, 32, side, side).contiguous(memory_format=torch.channels_last)
        wanted = F.conv2d(x.double(), weight.double() * scale[:, None, None, None], padding=1)
        assert (layer(x, False) - wanted).abs().max() < 5e-5 * wanted.abs().max()
        assert (layer.kept is not None) == kept
