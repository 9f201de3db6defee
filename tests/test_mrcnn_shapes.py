"""A data set of drawn squares, in the manner of scripts; its own test is that it loads."""

import numpy as np

from mrcnn import utils


class Squares(utils.Dataset):
    """Pictures of 64 x 64 with one or two squares, a class for each of three colours."""

    def __init__(self, count: int) -> None:
        super().__init__()
        for i, name in enumerate(("red", "green", "blue"), 1):
            self.add_class("squares", i, name)
        rng = np.random.default_rng(0)
        for i in range(count):
            self.add_image(
                "squares", i, None, squares=rng.integers((4, 4, 8, 0), (30, 30, 28, 3), (1 + i % 2, 4))
            )
        self.prepare()

    def load_image(self, image_id):
        image = np.full((64, 64, 3), 90, np.uint8)
        for y, x, side, colour in self.image_info[image_id]["squares"]:
            image[y : y + side, x : x + side] = np.eye(3, dtype=np.uint8)[colour] * 220
        return image

    def load_mask(self, image_id):
        squares = self.image_info[image_id]["squares"]
        masks = np.zeros((64, 64, len(squares)), bool)
        for i, (y, x, side, _) in enumerate(squares):
            masks[y : y + side, x : x + side, i] = True
        return masks, (squares[:, 3] + 1).astype(np.int32)


def test_squares_have_masks_of_their_image() -> None:
    squares = Squares(2)
    masks, ids = squares.load_mask(1)
    assert masks.shape == (64, 64, 2)
    assert set(ids) <= {1, 2, 3}
