"""Where downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pooch


def home() -> Path:
    """The folder of downloads: ``MASKRCNN_HOME``, or the platform's cache folder for this package."""
    given = os.environ.get("MASKRCNN_HOME")
    return Path(given).expanduser() if given else Path(pooch.os_cache("maskrcnn"))
