"""YOLO segmentation: data.yaml, folders ``images`` and ``labels``, one text file for each picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import write_text
from ..inputs.sources import SUFFIXES
from .dataset import Dataset, Instance, Sample, Samples
from .files import class_list, export_pictures, picture_size, split_of
from .findings import Finding
from .outlines import one_ring, outline_box, rectangle

_LINE = re.compile(r"""^(\s*)(-\s+)?(?:("[^"]*"|'[^']*'|[^:#\s'"][^:]*?)\s*:(?:\s+|$))?(.*)$""")


def read_yolo(yaml: Path, split: str | None, said: dict[str, Any] | None = None) -> Samples:
    """The data set that a data.yaml describes, or ``said`` in place of its content.

    A line ``class x y x y ...`` is a polygon in shares of the picture's sides, ``class cx cy w h`` a box that
    becomes a rectangle. A picture without a label file has no instances.
    """
    said = parse_yaml(yaml.read_text("utf-8")) if said is None else said
    listed = said.get("names")
    if not isinstance(listed, (list, dict)):
        raise DataError(f"{yaml}: want names, a list or numbered, got {listed!r}")
    numbered = dict(enumerate(listed)) if isinstance(listed, list) else {int(k): v for k, v in listed.items()}
    numbers = sorted(numbered)
    findings: list[Finding] = []
    if numbers != list(range(len(numbers))):
        detail = f"class numbers {numbers[0]}..{numbers[-1]} have gaps; they are numbered by place"
        findings.append(Finding("class gaps", detail, yaml, key="names"))
    label_of = {number: i for i, number in enumerate(numbers)}
    samples = []
    for file in _pictures(yaml, said, split):
        size = picture_size(file) or (0, 0)
        labels = _label_file(file)
        instances: list[Instance] = []
        for number, line in enumerate(
            labels.read_text("utf-8").splitlines() if labels.exists() else (), start=1
        ):
            if line.strip():
                found = _instance(line, size, label_of, labels, f"line {number}")
                (findings if isinstance(found, Finding) else instances).append(found)  # type: ignore[arg-type]
        samples.append(Sample(file.name, file, size, tuple(instances), classes=len(numbers), source=labels))
    names = tuple(str(numbered[number]) for number in numbers)
    return Samples(names, tuple(samples), "yolo", yaml, tuple(findings))


def write_yolo(dataset: Dataset, folder: Path) -> None:
    """data.yaml, images/train and labels/train. Masks become one polygon each, see `one_ring`."""
    for sample, file in export_pictures(dataset, folder / "images" / "train"):
        lines = []
        for one in sample.instances:
            ring = one_ring(one.mask, sample.size)
            if ring is not None:
                shares = ring / np.array(sample.size[::-1])
                lines.append(f"{one.label} " + " ".join(f"{v:.12g}" for v in shares.ravel()) + "\n")
        write_text(folder / "labels" / "train" / f"{file.stem}.txt", "".join(lines))
    names = "".join(
        f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(dataset.names)
    )
    write_text(folder / "data.yaml", f"train: images/train\nval: images/train\nnames:\n{names}")


def folders_without_yaml(folder: Path) -> dict[str, Any] | None:
    """What a data.yaml would say of folders ``images`` and ``labels``, with class names in a ``classes.txt``; None
    where there are no such folders. Raises DataError without class names."""
    pictures, labels = folder / "images", folder / "labels"
    if not pictures.is_dir() or not labels.is_dir() or next(labels.rglob("*.txt"), None) is None:
        return None
    names = class_list(folder, ())
    if not names:
        raise DataError(
            f"{folder}: want the names of the classes that {labels.name} numbers, got no data.yaml and no classes.txt; "
            "write a classes.txt, one name a line"
        )
    splits = {split_of(d.name): d for d in pictures.iterdir() if d.is_dir() and split_of(d.name)}
    return {"names": list(names), **{name: f"images/{d.name}" for name, d in splits.items() if name}} | (
        {} if splits else {"train": "images"}
    )


def is_yolo(file: Path) -> bool:
    """Whether this yaml describes a data set: it has names and a train or val folder."""
    try:
        said = parse_yaml(file.read_text("utf-8"))
    except (DataError, UnicodeDecodeError):
        return False
    return "names" in said and ("train" in said or "val" in said)


def parse_yaml(text: str) -> dict[str, Any]:
    """The part of YAML that data.yaml files are written in; nothing in it can be executed.

    Top-level ``key: value``; a value is a scalar, ``[a, b]``, ``{0: a}`` on one or several lines, or an indented
    block of ``- item`` or ``key: value`` lines. Deeper blocks are skipped. Raises DataError for other text.
    """
    found: dict[str, Any] = {}
    key, inner = "", 0
    lines = iter(text.splitlines())
    for line in lines:
        line = _uncomment(line)
        if not line.strip() or line.strip() == "---":
            continue
        indent, dash, name, value = _parts(line)
        while value[:1] in "[{" and value.strip() and not value.rstrip().endswith(("]", "}")):
            value += " " + _uncomment(next(lines, "]")).strip()
        if not indent and not dash:
            if name is None:
                raise DataError(f"data.yaml: want 'key: value', got {line!r}")
            key, inner = name, 0
            found[key] = _scalar(value)
        elif (key and found.get(key) in (None, "")) or inner == indent + bool(dash):
            inner = indent + bool(dash)
            if dash:
                found[key] = [*(found[key] or []), _scalar(value if name is None else line.split("-", 1)[1])]
            elif name is not None:
                found[key] = {**(found[key] or {}), name: _scalar(value)}
    return found


def _parts(line: str) -> tuple[int, str | None, str | None, str]:
    match = _LINE.match(line)
    assert match is not None  # every part of the pattern is optional
    space, dash, name, value = match.groups()
    return len(space), dash, None if name is None else str(_scalar(name)), value.strip()


def _uncomment(line: str) -> str:
    """Without a comment: a # at the start or after a space, outside quotes."""
    return re.sub(
        r"""^((?:"[^"]*"|'[^']*'|[^'"#]|(?<=\S)#|(?<=\w)')*?)(?:(?:^|(?<=\s))#.*)?$""", r"\1", line
    ).rstrip()


def _scalar(text: str) -> Any:
    text = text.strip()
    if text[:1] in "[{" and text:
        inner = text.strip("[]{} ").rstrip(",")
        items = re.findall(r"""(?:"[^"]*"|'[^']*'|[^,'"])+""", inner)
        if text[0] == "[":
            return [_scalar(item) for item in items]
        return {str(_scalar(k)): _scalar(v) for k, _, v in (item.partition(":") for item in items)}
    if text[:1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            return text.strip('"')
    if text[:1] == "'":
        return text[1:-1].replace("''", "'")
    return None if text in ("", "~", "null") else text


def _pictures(yaml: Path, said: dict[str, Any], split: str | None) -> list[Path]:
    wanted = said.get(split or "train") or ([] if split else said.get("val"))
    if not wanted:
        there = ", ".join(k for k in ("train", "val", "test") if said.get(k))
        raise DataError(f"{yaml}: want a split {split or 'train'!r}, there are: {there or 'none'}")
    home = yaml.parent
    bases = [home / str(said.get("path") or ""), home]
    files: list[Path] = []
    for place in wanted if isinstance(wanted, list) else [wanted]:
        # Some exporters write ../train/images where they mean train/images.
        spots = [base / name for base in bases for name in (str(place), re.sub(r"^(\.\./)+", "", str(place)))]
        spot = next((s for s in spots if s.exists()), None)
        if spot is None:
            raise DataError(
                f"{yaml}: want a folder or list of pictures, there is no {place}; correct 'path' or the split"
            )
        if spot.is_file():
            rows = [row.strip() for row in spot.read_text("utf-8").splitlines() if row.strip()]
            files += [
                next((b / row for b in (spot.parent, *bases) if (b / row).exists()), spot.parent / row)
                for row in rows
            ]
        else:
            files += sorted(f for f in spot.rglob("*") if f.suffix.lower() in SUFFIXES)
    return files


def _label_file(picture: Path) -> Path:
    """The last folder called images becomes labels."""
    parts = list(picture.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def _instance(
    line: str, size: tuple[int, int], label_of: dict[int, int], file: Path, record: str
) -> Instance | Finding:
    try:
        number, *values = (float(v) for v in line.split())
    except ValueError:
        return Finding("broken line", f"want numbers, got {line[:60]!r}", file, record, cure="stops")
    if int(number) not in label_of:
        return Finding("unknown category", f"want a class number of data.yaml, got {number:g}",
                       file, record, "class", "stops")  # fmt: skip
    if len(values) % 2 or len(values) < 4:
        return Finding("broken line", f"want a box (4 numbers) or pairs x y, got {len(values)} numbers",
                       file, record, cure="stops")  # fmt: skip
    h, w = size
    # to a millionth of a pixel: edges between pixels must not shift by the error of a share
    points = (np.array(values).reshape(-1, 2) * (w, h)).round(6)
    if len(values) == 4:
        (cx, cy), (bw, bh) = points.tolist()
        points = rectangle(cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
    return Instance(label_of[int(number)], outline_box([points]), [points], key=record)
