"""Which format a file or folder is in, seen from its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from .coco import is_coco, read_coco
from .cvat import open_xml, read_cvat
from .dataset import Samples
from .files import pick_split, read_json, split_of
from .labelme import is_labelme, read_labelme
from .masks import id_mask_folders, mask_folders, read_id_masks, read_masks
from .via import is_via, read_via
from .via3 import as_via2, is_via3
from .voc import is_voc, read_voc
from .yolo import folders_without_yaml, is_yolo, read_yolo

KNOWN = (
    "COCO json, VIA json, LabelMe json, CVAT xml, YOLO segmentation (data.yaml), PASCAL VOC (SegmentationObject and "
    "SegmentationClass), a folder of pictures beside one of instance PNGs, or folders with images and masks inside"
)


def recognise(path: Path, split: str | None) -> Samples:
    """Read a data set of any known format, see `open_dataset`."""
    if not path.exists():
        raise DataError(f"{path}: want an annotation file or a folder, there is none")
    found = _file(path, split) if path.is_file() else _folder(path, split)
    if found is None:
        raise DataError(f"{path}: want {KNOWN}; got none of them")
    return found


def _file(path: Path, split: str | None) -> Samples | None:
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path, split)
    if split is not None and split_of(path.stem) != split_of(split):
        raise DataError(
            f"{path}: want a folder to choose split {split!r} from, got one file; name the other file"
        )
    if path.suffix.lower() == ".xml":
        root = open_xml(path)
        return None if root is None else read_cvat(path, root)
    return _json(path, _read(path))


def _read(path: Path) -> Any:
    """The content of a json file; a project of VIA 3 as one of VIA 2."""
    content = read_json(path)
    return as_via2(content) if is_via3(content) else content


def _json(path: Path, content: Any, others: tuple[Any, ...] = ()) -> Samples | None:
    if is_coco(content):
        return read_coco(path, content)
    if is_labelme(content):
        return read_labelme([path], path.parent)
    if is_via(content):
        return read_via(path, content, others)
    return None


def _folder(folder: Path, split: str | None) -> Samples | None:
    """What lies in this folder, else in the one of its subfolders that is named after the split."""
    found = _here(folder, split)
    if found is not None:
        return found
    if (folder / "annotations").is_dir():
        found = _jsons(sorted((folder / "annotations").glob("*.json")), folder, split)
        if found is not None:
            return found
    splits = [d for d in sorted(folder.iterdir()) if d.is_dir() and (split_of(d.name) or d.name == split)]
    if splits:
        chosen = pick_split(splits, split, folder)
        jsons = sorted(chosen.glob("*.json"))
        others = [file for d in splits if d != chosen for file in sorted(d.glob("*.json"))]
        return _jsons(jsons, chosen, None, others) if jsons else _here(chosen, None)
    below = [d for d in sorted(folder.iterdir()) if d.is_dir()]
    return _folder(below[0], split) if len(below) == 1 else None  # an archive often has one folder around all


def _here(folder: Path, split: str | None) -> Samples | None:
    for file in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))):
        if is_yolo(file):
            return read_yolo(file, split)
    if is_voc(folder):
        return read_voc(folder, split)
    for file in sorted(folder.glob("*.xml")):
        if (root := open_xml(file)) is not None:
            _no_splits(folder, split)
            return read_cvat(file, root)
    found = _jsons(sorted(folder.glob("*.json")), folder, split)
    if found is not None:
        return found
    if (said := folders_without_yaml(folder)) is not None:
        return read_yolo(folder / "data.yaml", split, said)
    pair = None
    if next(mask_folders(folder), None) is None:
        pair = id_mask_folders(folder)
        if pair is None:
            return None
    _no_splits(folder, split)
    return read_masks(folder) if pair is None else read_id_masks(*pair)


def _no_splits(folder: Path, split: str | None) -> None:
    if split is not None:
        raise DataError(
            f"{folder}: want folders named after their splits, such as {split}, got one data set in all"
        )


def _jsons(
    files: list[Path], folder: Path, split: str | None, others: list[Path] | None = None
) -> Samples | None:
    """One of several splits, or the many files of LabelMe; ``others`` are those of the data set's other splits."""
    for file in sorted(files, key=lambda f: f.stat().st_size):
        content = _read(file)
        if is_labelme(content):  # one file a picture; a list of settings may lie between them
            _no_splits(folder, split)
            theirs = [f for f in files if is_labelme(_read(f))]
            return read_labelme(theirs, folder, [f for f in others or () if is_labelme(_read(f))])
        if is_coco(content) or is_via(content):
            break
    else:
        return None
    named = [f for f in files if split_of(f.stem)]
    if named and others is None:
        # COCO keeps captions and keypoints of the same pictures beside the instances
        wanted = [f for f in named if "instances" in f.name.lower()] or named
        file = pick_split(wanted, split, folder)
        others = [f for f in wanted if f != file]
    else:
        file = pick_split([f for f in files if is_coco(c := _read(f)) or is_via(c)], split, folder)
    content = _read(file)
    return _json(
        file, content, tuple(c for c in map(_read, others or ()) if is_via(c)) if is_via(content) else ()
    )
