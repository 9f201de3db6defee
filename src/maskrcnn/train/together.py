"""Several data sets as one, of which none says anything about the classes that only the others label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..data import Dataset, Sample, Samples
from ..errors import ConfigError


def together(datasets: Sequence[Dataset]) -> Dataset:
    """All samples, with the union of the class names in the order in which they come; one alone stays as it is.

    A class of the same name is the same class. Each sample is labelled in the classes of its own data set, or in
    those that it says itself.
    """
    if len(datasets) == 1:
        return datasets[0]
    names = tuple(dict.fromkeys(name for data in datasets for name in data.names))
    samples: list[Sample] = []
    for number, data in enumerate(datasets):
        place = [names.index(name) for name in data.names]
        for i in range(len(data)):
            sample = data[i]
            known = range(len(place)) if sample.labelled is None else sample.labelled
            instances = tuple(replace(one, label=place[one.label]) for one in sample.instances)
            samples.append(
                replace(sample, image_id=f"{number}:{sample.image_id}", instances=instances,
                        labelled=frozenset(place[k] for k in known), classes=len(names))
            )  # fmt: skip
    return Samples(names, tuple(samples))


def with_absent(dataset: Dataset, absent: Sequence[str]) -> Dataset:
    """The samples as if each were labelled in these classes too: where it has no such instance, there is none.

    Raises ConfigError for a name that is no class.
    """
    unknown = [name for name in absent if name not in dataset.names]
    if unknown:
        raise ConfigError(f"absent: want classes of the data, got {', '.join(unknown)}")
    if not absent:
        return dataset
    more = frozenset(dataset.names.index(name) for name in absent)
    samples = (dataset[i] for i in range(len(dataset)))
    return Samples(
        tuple(dataset.names),
        tuple(s if s.labelled is None else replace(s, labelled=s.labelled | more) for s in samples),
    )
