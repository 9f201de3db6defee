"""The networks that ship with the package do on photographs what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.records import Result

EXAMPLES = Path(__file__).parents[1] / "examples"

# Read off the photo by eye: (x, y) of the middle of each coin, row by row.
COINS = [
    (45, 55), (100, 56), (156, 51), (215, 50), (276, 52), (334, 43),
    (46, 124), (103, 126), (153, 127), (205, 124), (270, 119), (338, 125),
    (43, 197), (101, 196), (154, 198), (211, 193), (273, 194), (346, 187),
    (46, 261), (113, 266), (172, 263), (240, 262), (301, 262), (357, 268),
]  # fmt: skip


@pytest.fixture(scope="module")
def coins() -> Result:
    return maskrcnn.load("shapes").predict(EXAMPLES / "coins.png")


def test_the_middle_of_nearly_every_coin_lies_in_a_disc(coins: Result) -> None:
    discs = coins.masks[coins.labels == coins.names.index("disc")]
    assert sum(bool(discs[:, y, x].any()) for x, y in COINS) >= 23


def test_nearly_nothing_but_coins_is_found(coins: Result) -> None:
    masks = coins.masks
    alone = sum(sum(bool(mask[y, x]) for x, y in COINS) == 1 for mask in masks)
    assert len(coins) <= 26 and alone >= len(coins) - 1


def test_the_person_of_a_portrait_is_found() -> None:
    """Face and chest are in the mask, the sky beside them isn't."""
    result = maskrcnn.load().predict(EXAMPLES / "photos" / "grace_hopper.jpg")
    assert result.names[result.labels[0]] == "person" and result.scores[0] > 0.8
    mask = result.masks[0]
    assert mask[250, 260] and mask[450, 260] and not mask[100, 450]


def test_the_shipped_files_are_small() -> None:
    sizes = {name: maskrcnn.weights.MODELS[name].path.stat().st_size for name in ("everyday", "shapes")}
    assert sizes["shapes"] < 10_500_000 and sizes["everyday"] < 60_000_000
