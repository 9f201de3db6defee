"""Which format a file or folder is in, seen from its content."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .coco import read_coco
from .dataset import Samples
from .files import pick_split, read_json


def recognise(path: Path, split: str | None) -> Samples:
    """Read a data set of any known format, see `open_dataset`."""
    if not path.exists():
        raise ConfigError(f"{path}: want an annotation file or a folder, there is none")
    files = (
        [path] if path.is_file() else sorted(path.glob("*.json")) or sorted(path.glob("annotations/*.json"))
    )
    found = {}
    for file in files:
        content = read_json(file)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            found[file] = content
    if not found:
        raise ConfigError(f"{path}: no known annotation found")
    file = pick_split(list(found), split if len(found) > 1 else None, path)
    return read_coco(file, found[file])
