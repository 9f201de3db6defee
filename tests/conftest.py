"""Shapes written in signatures are enforced here, and only here."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
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


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch has two threads, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """One Ray cluster for all tests that want one: a start takes seconds, on a busy machine a minute."""
    from scaling import small_cluster

    with small_cluster() as address:
        yield address
