"""Shapes written in signatures are enforced here, and only here."""

from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """One Ray cluster for all tests that want one: a start takes seconds, on a busy machine a minute."""
    from scaling import small_cluster

    with small_cluster() as address:
        yield address
