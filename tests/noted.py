"""A model that notes what it was given, in a file of its own: workers import it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import maskrcnn
from maskrcnn.records import Image, Result


class Noted:
    """The shipped model, slowed down; leaves a file PICTURE.PID.TIME for each picture that it begins."""

    def __init__(self, notes: Path, seconds: float = 0.0) -> None:
        self.model = maskrcnn.load()
        self.names, self.config, self.source = self.model.names, self.model.config, self.model.source
        self.notes, self.seconds = notes, seconds

    def to(self, device: str) -> "Noted":
        return self

    def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
        for image in images:
            name = image.source.stem if image.source else "bytes"
            (self.notes / f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return self.model.predict_images(images, **options)
