"""A model that notes what it was given, in a file of its own: workers import it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import maskrcnn
from maskrcnn.records import Image, Result


class Noted:
    """The demonstration network; leaves a file PICTURE.PID.TIME for each picture that it begins.

    Whoever begins the fourth, or a later one, first does what ``then`` says.
    """

    def __init__(self, notes: Path, then: Callable[[Path], None]) -> None:
        self.model = maskrcnn.load("shapes")
        self.names, self.config, self.source = self.model.names, self.model.config, self.model.source
        self.notes, self.then = notes, then

    def to(self, device: str) -> "Noted":
        return self

    def predict_images(self, images: Sequence[Image], **options: Any) -> list[Result]:
        for image in images:
            name = image.source.stem if image.source else "bytes"
            (self.notes / f"{name}.{os.getpid()}.{time.monotonic_ns()}").touch()
            if len(list(self.notes.iterdir())) >= 4:
                self.then(self.notes)
        return self.model.predict_images(images, **options)


def die(notes: Path) -> None:
    """By SIGKILL, one process only."""
    try:
        notes.with_name("died").open("x").close()
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(notes: Path) -> None:
    """Until this process is killed."""
    threading.Event().wait()
