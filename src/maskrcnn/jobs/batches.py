"""Pictures through the network, several at a time; one that fails costs no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..errors import ImageError, MaskRCNNError
from ..records import Image, Result

if TYPE_CHECKING:
    from ..model import MaskRCNN

K = TypeVar("K")  # whatever tells one picture from another


def batched(
    pictures: Iterable[tuple[K, Image | ImageError]], size: int
) -> Iterator[list[tuple[K, Image | ImageError]]]:
    """``size`` readable pictures a time, with those between them that are not."""
    batch: list[tuple[K, Image | ImageError]] = []
    readable = 0
    for job, image in pictures:
        batch.append((job, image))
        readable += isinstance(image, Image)
        if readable == size or readable == 0:
            yield batch
            batch, readable = [], 0
    if batch:
        yield batch


def predict_batch(
    model: MaskRCNN, batch: list[tuple[K, Image | ImageError]], options: dict[str, Any]
) -> Iterator[tuple[K, Result | ImageError]]:
    """Results in the order of the batch. One picture that does not fit the model must not cost the others."""
    images = [image for _, image in batch if isinstance(image, Image)]
    try:
        results = iter(model.predict_images(images, **options) if images else ())
    except ImageError as error:
        if len(images) > 1:
            for one in batch:
                yield from predict_batch(model, [one], options)
            return
        for job, image in batch:
            yield job, error if isinstance(image, Image) else image
        return
    except torch.OutOfMemoryError as error:
        raise MaskRCNNError(
            f"{len(images)} picture(s) want more memory than the device has ({str(error).splitlines()[0]}); "
            "lower --batch-size or --max-size, or use --device cpu"
        ) from error
    for job, image in batch:
        yield job, next(results) if isinstance(image, Image) else image
