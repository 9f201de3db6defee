"""What decides a run's results, and where they go; one process and many agree on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MaskRCNNError
from ..output import KINDS

if TYPE_CHECKING:
    from ..model import MaskRCNN

SAVE = ("json", *KINDS)
DEFAULT_OUT = "out"


def result_settings(
    model: MaskRCNN,
    save: Sequence[str],
    score: float | None,
    classes: Sequence[str | int] | None,
    max_detections: int | None,
    color_by: str = "instance",
    forms: Sequence[str] = SAVE,
) -> dict[str, Any]:
    """What decides the results, checked before an earlier run's files are touched. ``save``: some of ``forms``."""
    given = {"score": score, "max_detections": max_detections}
    config = model.config.with_options(**{k: v for k, v in given.items() if v is not None})
    unknown = [kind for kind in save if kind not in forms]
    if unknown or not save:
        raise ConfigError(f"save: want some of {', '.join(forms)}, got {', '.join(unknown) or 'none'}")
    if color_by not in ("instance", "class"):
        raise ConfigError(f"color_by: want instance or class, got {color_by!r}")
    wrong = [c for c in classes or () if c not in model.names and c not in range(len(model.names))]
    if wrong:
        raise ConfigError(f"classes: want some of {', '.join(model.names)}, got {', '.join(map(str, wrong))}")
    values = config.to_dict() | {
        "weights": Path(str(model.source)).name,
        "classes": None if classes is None else list(classes),
        "save": sorted(save),
    }
    return json.loads(json.dumps(values))


def agree(before: bytes | None, settings: dict[str, Any], where: Path | str) -> None:
    """Raises ConfigError unless ``before``, the run.json of the run to be resumed in ``where``, has these settings."""
    if before is None:
        return
    try:
        earlier = json.loads(before)
    except ValueError:
        earlier = {}
    differ = [k for k in settings if earlier.get(k) != settings[k]]
    if differ:
        raise ConfigError(
            f"resume: want the settings of the earlier run in {where}, got other values for "
            f"{', '.join(differ)} (see run.json); use the same, another folder, or no resume"
        )


@contextmanager
def writing(folder: Path | str) -> Iterator[None]:
    """A full disk or a missing permission in words."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MaskRCNNError):
            raise
        raise MaskRCNNError(
            f"{folder}: want to write results, got '{error.strerror or error}'; make room "
            "or choose another folder (--out), then go on with --resume"
        ) from error
