"""What a run learns from and what it is judged by: files, folders and data sets, several as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data import Dataset, Samples, open_dataset, relabel, repair
from ..errors import ConfigError, DataError
from .together import together

Source = str | Path | Dataset | Sequence[str | Path | Dataset]


def open_all(data: Source) -> Dataset:
    """One data set of one or several, see `together`."""
    return together([open_dataset(one) if isinstance(one, str | Path) else one for one in _several(data)])


def validate_on(
    data: Source, val: Source | None, names: Sequence[str]
) -> tuple[Dataset | None, tuple[str, ...]]:
    """Pictures to validate on, with the classes of training; and what there is not, in words.

    val : None takes the split ``val`` of each folder in ``data``

    Annotations stay as they are, since that is what evaluation counts; only pictures that cannot be read are left
    out. Raises ConfigError for objects of other classes, DataError for what would stop training too: now rather
    than at the first validation.
    """
    found: list[Dataset] = [] if val is None else [open_all(val)]
    missing: list[str] = []
    for one in _several(data) if val is None else ():
        if isinstance(one, str | Path) and Path(one).is_dir():
            try:
                found.append(open_dataset(one, "val"))
            except DataError as error:
                missing.append(str(error))
    if not found:
        return None, tuple(missing)
    whole = together(found)
    repaired, looked = repair(whole)
    looked.raise_if_stopped()
    readable = {sample.image_id for sample in repaired.samples}
    samples = tuple(sample for sample in (whole[i] for i in range(len(whole))) if sample.image_id in readable)
    if len(samples) < len(whole):
        missing.append(f"{len(whole) - len(samples)} pictures of {len(whole)} cannot be read")
    return _with_classes(Samples(tuple(whole.names), samples), names), tuple(missing)


def _with_classes(data: Samples, names: Sequence[str]) -> Dataset:
    if data.names == tuple(names):
        return data
    used = {data.names[one.label] for sample in data.samples for one in sample.instances}
    strange = sorted(used - set(names))
    if strange:
        raise ConfigError(
            f"val: want objects of the classes that are trained, {_listed(names)}; got {_listed(strange)} too: "
            "correct the names, or annotate such objects in the training data"
        )
    return relabel(data, names)


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _several(data: Source) -> Sequence[str | Path | Dataset]:
    return data if isinstance(data, list | tuple) else [data]  # type: ignore[list-item]
