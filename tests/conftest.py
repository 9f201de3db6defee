"""Shapes written in signatures are enforced here, and only here."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# paste and resize hold compiled loops, which the hook cannot wrap.
SHAPED = (
    "maskrcnn.ops.boxes",
    "maskrcnn.ops.anchors",
    "maskrcnn.ops.roi_align",
    "maskrcnn.model.targets",
    "maskrcnn.model.losses",
)
pytest.register_assert_rewrite("parity_tests", "recorded")
install_import_hook(SHAPED, "beartype.beartype")

DATA = Path(__file__).parent / "data"
