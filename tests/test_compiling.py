"""Where compiled code is kept, and what is said when it is made."""

import os
import subprocess
import sys
from pathlib import Path

SUPPRESS = """
import torch
from maskrcnn.ops.nms import nms
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
print(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist())
"""


def suppress(**settings: str) -> tuple[str, str]:
    command, env = [sys.executable, "-c", SUPPRESS], os.environ | settings
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_code_is_compiled_once_and_says_so(tmp_path: Path) -> None:
    said = "maskrcnn: compiling suppression of boxes for this CPU, once ...\n"
    assert suppress(NUMBA_CACHE_DIR=str(tmp_path)) == ("[0, 2]\n", said)
    assert suppress(NUMBA_CACHE_DIR=str(tmp_path)) == ("[0, 2]\n", "")


def test_without_a_folder_to_keep_it_in_it_is_compiled_at_every_start() -> None:
    nowhere = {"NUMBA_CACHE_DIR": "/proc/nowhere", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    for _ in range(2):
        out, said = suppress(**nowhere)
        assert (
            out == "[0, 2]\n" and "at every start: want a folder to keep it in, set NUMBA_CACHE_DIR" in said
        )
