"""What a data set is, what is wrong with it, and whether the anchors fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import Config
from ..errors import DataError
from ..words import many
from .anchor_fit import AnchorFit, fit_anchors
from .check import Picture, check
from .dataset import Dataset, Samples
from .findings import Cure, Finding

_WORDS: dict[Cure, str] = {
    "stops": "stops training", "drops": "training leaves these out", "clips": "training clips these to the image",
    "none": "worth knowing",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Report:
    """A data set after the repairs that training makes.

    dataset        : what training will see
    findings       : what is wrong, in the order of the files
    instances, images : number for each class: objects, and images with at least one
    crowds, empty  : crowd regions; images without an instance
    image_sizes    : (n, 2) h, w of each image
    anchors        : objects against the anchors of a configuration
    mean, std      : of the pixels for each channel, 0..255: the ``mean`` to configure. None where the pictures
                     were not decoded, or their channel counts differ
    """

    dataset: Samples = field(repr=False)
    findings: tuple[Finding, ...]
    instances: tuple[int, ...]
    images: tuple[int, ...]
    crowds: int
    empty: int
    image_sizes: np.ndarray
    anchors: AnchorFit
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def stops(self) -> tuple[Finding, ...]:
        """The findings that training does not go on with."""
        return tuple(f for f in self.findings if f.cure == "stops")

    def kinds(self) -> list[tuple[str, Cure, list[Finding]]]:
        """The findings by kind, the gravest first."""
        groups: dict[tuple[str, Cure], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.kind, finding.cure), []).append(finding)
        grave = list(_WORDS)
        rows = [(kind, cure, found) for (kind, cure), found in groups.items()]
        return sorted(rows, key=lambda row: (grave.index(row[1]), -len(row[2])))

    def raise_if_stopped(self) -> None:
        """Raise DataError, with the first findings, if training cannot go on with this data set."""
        if self.stops:
            rows = "\n".join(f"  {f.kind}: {f}" for f in self.stops[:5])
            more = f"\n  and {len(self.stops) - 5} more" if len(self.stops) > 5 else ""
            where = self.dataset.path or "data set"
            raise DataError(f"{where}: want annotations without contradictions, got {len(self.stops)} that cannot be "
                            f"repaired; correct them ('maskrcnn doctor' shows all):\n{rows}{more}")  # fmt: skip

    def text(self, most: int = 3) -> str:
        """The report in plain words; of each kind of finding the first ``most``."""
        names, sizes = self.dataset.names, self.image_sizes
        of = f" ({self.dataset.format})" if self.dataset.format else ""
        partial = sum(s.labelled is not None and len(s.labelled) < len(names) for s in self.dataset.samples)
        lines = [
            f"{many(len(sizes), 'image')}, {many(sum(self.instances), 'instance')} of "
            f"{many(len(names), 'class', 'es')}{of}"
            + (f", {many(self.crowds, 'crowd')}" if self.crowds else "")
            + (f", {many(self.empty, 'image')} without instances" if self.empty else "")
            + (f", {many(partial, 'image')} labelled in some classes only" if partial else "")
        ]
        if len(sizes):
            (h1, w1), (h, w), (h2, w2) = sizes.min(0), np.median(sizes, axis=0).astype(int), sizes.max(0)
            lines.append(f"pictures: {w1} to {w2} wide (median {w}), {h1} to {h2} high (median {h})")
        if self.mean is not None and self.std is not None:
            lines.append(f"mean to configure: [{_numbers(self.mean)}]   deviation: [{_numbers(self.std)}]")
        lines += ["", "class", *class_lines(self), ""]
        lines += [anchor_line(self.anchors), ""]
        for kind, cure, found in self.kinds():
            lines.append(f"{kind}: {len(found)} ({_WORDS[cure]})")
            lines += [f"  {finding}" for finding in found[:most]]
            lines += [f"  and {len(found) - most} more"] if len(found) > most else []
        return "\n".join(lines if self.findings else [*lines, "nothing is wrong"])


def doctor(dataset: Dataset, config: Config | None = None) -> Report:
    """Look at everything in a data set; every picture is decoded.

    config : the model it is to be trained with, for its resize rule and anchors; None is `Config`'s defaults
    """
    return _report(*check(dataset, decode=True), config)


def repair(dataset: Dataset, config: Config | None = None) -> tuple[Samples, Report]:
    """The data set with what is safe to repair repaired, and what was found; pictures are not decoded.

    Boxes are clipped to the image; what cannot be learnt from is dropped: instances without area, outside the image
    or twice there, and images without a readable file. ``Report.raise_if_stopped`` refuses the rest.
    """
    report = _report(*check(dataset, decode=False), config)
    return report.dataset, report


def class_lines(report: Report, most: int = 30) -> list[str]:
    """Class counts as a table of text, most frequent first."""
    order = sorted(range(len(report.instances)), key=lambda i: -report.instances[i])
    width = max([len(report.dataset.names[i]) for i in order[:most]], default=0)
    top = max(max(report.instances, default=0), 1)
    rows = [
        f"  {report.dataset.names[i]:{width}} {report.instances[i]:7d} in {many(report.images[i], 'image')} "
        + "▇" * round(24 * report.instances[i] / top)
        for i in order[:most]
    ]  # fmt: skip
    rest = order[most:]
    return rows + (
        [f"  and {len(rest)} more, {sum(report.instances[i] for i in rest)} instances"] if rest else []
    )


def anchor_line(fit: AnchorFit) -> str:
    """What the anchors mean for this data set, in a sentence."""
    if not len(fit.sides):
        return "anchors: no objects to compare with"
    said = f"anchors {_numbers(fit.sizes, 0)}: {fit.poor:.1%} of the objects have no anchor of IoU 0.5"
    if fit.suggested is None or fit.poor_suggested is None:
        return said
    groups = ",".join(f"[{s:g}]" for s in fit.suggested)
    return f"{said}; {_numbers(fit.suggested, 0)} would leave {fit.poor_suggested:.1%} (--set anchor_sizes=[{groups}])"


def _report(
    dataset: Samples, findings: tuple[Finding, ...], pictures: list[Picture], config: Config | None
) -> Report:
    config = config or Config(names=dataset.names or ("object",))
    single = [[one for one in s.instances if not one.crowd] for s in dataset.samples]
    objects = Counter(one.label for ones in single for one in ones)
    images = Counter(label for ones in single for label in {one.label for one in ones})
    boxes = [np.array([one.box for one in ones], np.float64).reshape(-1, 4) for ones in single]
    sizes = [s.size for s in dataset.samples]
    mean, std = _moments(pictures)
    classes = range(len(dataset.names))
    return Report(
        dataset, findings, tuple(objects[i] for i in classes), tuple(images[i] for i in classes),
        sum(one.crowd for s in dataset.samples for one in s.instances), sum(not s.instances for s in dataset.samples),
        np.array(sizes, int).reshape(-1, 2), fit_anchors(boxes, sizes, config), mean, std,
    )  # fmt: skip


def _moments(pictures: list[Picture]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation of all pixels, each picture counting the same; grey pictures among RGB count as RGB."""
    means = [p.mean for p in pictures if p.mean is not None]
    squares = [p.square for p in pictures if p.square is not None]
    channels = {len(m) for m in means}
    if not means or (len(channels) > 1 and channels != {1, 3}):
        return None, None
    wide = max(channels)
    mean = np.mean([np.broadcast_to(m, wide) for m in means], axis=0)
    square = np.mean([np.broadcast_to(s, wide) for s in squares], axis=0)
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def describe(cure: Cure) -> str:
    """What training does about a finding."""
    return _WORDS[cure]


def _numbers(values: tuple[float, ...], digits: int = 1) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def write_report(report: Report, path: str | Path) -> Path:
    """The report as one HTML page that needs nothing else, with drawn annotations and histograms."""
    from ..files import write_text
    from .doctor_page import page  # drawing is not wanted by training

    return write_text(Path(path), page(report))
