"""numba's decorators as they are used here: machine code is kept between processes wherever it can be."""

from __future__ import annotations

import sys
from typing import Any

from numba import cfunc, njit, types
from numba.core.event import Listener, register

COUNTER = types.CPointer(types.int64)


def _can_be_kept() -> bool:
    """Whether numba may write to $NUMBA_CACHE_DIR, beside a module or to the user's cache; where not, it raises."""
    try:
        njit(cache=True)(_can_be_kept)
    except RuntimeError:
        return False
    return True


KEPT = _can_be_kept()
loop = njit(cache=KEPT, nogil=True)  # a function that releases the GIL
kernel = cfunc(types.void(COUNTER), cache=KEPT, error_model="numpy")  # a C function for `team.run`


class _Announcement(Listener):
    """One line on stderr when numba begins to compile a part of ours; none where it reads what was kept."""

    def __init__(self) -> None:
        self.parts = {
            "maskrcnn.engines.winograd_kernel": "convolution",
            "maskrcnn.ops.loops": "suppression of boxes",
            "maskrcnn.ops.roi_kernel": "RoIAlign",
            "maskrcnn.ops.paste_loops": "masks",
            "maskrcnn.evaluate.matching": "evaluation",
        }

    def on_start(self, event: Any) -> None:
        if part := self.parts.pop(event.data["module"], None):
            often = "once" if KEPT else "at every start: want a folder to keep it in, set NUMBA_CACHE_DIR"
            print(f"maskrcnn: compiling {part} for this CPU, {often} ...", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


register("numba:run_pass", _Announcement())
