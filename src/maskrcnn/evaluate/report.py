"""The report: one HTML file that needs nothing else, the numbers as json, the detections as results.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from ..data import Dataset
from ..explain.markup import document, figure, number, row, table
from ..files import write_text
from ..words import many
from .charts import Line, chart, matrix, meter, spark
from .evaluation import Evaluation
from .metrics import Measure, Metrics
from .pictures import beside_truth

_ENOUGH = 20  # objects: with fewer the AP of a class is mostly chance
_SHOWN = 24  # classes of the confusion table
_SIZES: dict[Measure, str] = {"ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def write_report(evaluation: Evaluation, dataset: Dataset, folder: str | Path) -> Path:
    """Write report.html, evaluation.json and results.json into a folder; gives the path of the report.

    ``dataset`` is the one that was evaluated: the worst images are read from it again.
    """
    out = Path(folder).expanduser()
    write_text(out / "evaluation.json", evaluation.to_json())
    write_text(out / "results.json", json.dumps(evaluation.results()))
    path = out / "report.html"
    write_text(path, page(evaluation, dataset))
    return path


def lines(evaluation: Evaluation) -> list[str]:
    """The main numbers for a terminal."""
    shown = [("masks", evaluation.mask), ("boxes", evaluation.box)]
    text = [
        f"{name:6} AP {_percent(m.ap)}   AP50 {_percent(m.ap50)}   AP75 {_percent(m.ap75)}   small, medium, large "
        + ", ".join(_percent(m.mean(size)) for size in _SIZES)
        for name, m in shown if m is not None
    ]  # fmt: skip
    text.append(
        f"advised score {_score(evaluation.threshold)}, F1 {_score(evaluation.best.curves.best[-1])} at IoU 0.5"
    )
    if evaluation.partial:
        text.append(
            f"{evaluation.partial} of {len(evaluation.images)} pictures are labelled in some classes only"
        )
    if evaluation.unknown:
        text.append(f"unknown to the model, all missed: {_listed(evaluation.unknown)}")
    if evaluation.left_out:
        text.append(f"not in the data set, left out: {_listed(evaluation.left_out)}")
    return text


def page(evaluation: Evaluation, dataset: Dataset) -> str:
    """The HTML of an evaluation."""
    room, source = files(__package__), escape(Path(evaluation.source).name)
    sections = [
        _section("numbers", "COCO's numbers", _numbers(evaluation)),
        _section("score", "Which score to keep from", _advice(evaluation)),
        _section("precision", "Precision over recall", _precision(evaluation)),
        _section("classes", "Class by class", _classes(evaluation)),
        _section("confusion", "What is taken for what", _confusion(evaluation)),
        _section("worst", "The worst images", _worst(evaluation, dataset)),
    ]
    body = Template(room.joinpath("report.html").read_text("utf-8")).substitute(
        source=source,
        summary=_summary(evaluation), tiles=_tiles(evaluation), notes=_notes(evaluation),
        sections="".join(sections), most=evaluation.box.max_detections,
    )  # fmt: skip
    style, script = (room.joinpath(name).read_text("utf-8") for name in ("report.css", "report.js"))
    return document(f"Evaluation of {source}", body, style, script)


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>'


def _kind(evaluation: Evaluation) -> str:
    return "mask" if evaluation.mask is not None else "box"


def _summary(evaluation: Evaluation) -> str:
    truths = evaluation.box.truths[0]
    return (
        f"{many(len(evaluation.images), 'image')} with {many(int(truths.sum()), 'object')} of "
        f"{many(int(np.count_nonzero(truths)), 'class', 'es')}; "
        f"{many(sum(len(f.labels) for f in evaluation.found), 'detection')}."
    )


def _tiles(evaluation: Evaluation) -> str:
    best, kind = evaluation.best, _kind(evaluation)
    tiles = [(_percent(best.ap), f"{kind} AP"), (_percent(best.ap50), f"{kind} AP50")]
    tiles += [(_percent(evaluation.box.ap), "box AP"), (_percent(evaluation.box.ap50), "box AP50")] * (
        kind == "mask"
    )
    enough = int((best.truths[0] >= _ENOUGH).sum())
    if 0 < enough < np.count_nonzero(best.truths[0]):
        said = f"{kind} AP50 of the {many(enough, 'class', 'es')} with {_ENOUGH} objects or more"
        tiles.append((_percent(best.mean("ap50", _ENOUGH)), said))
    tiles.append((_score(evaluation.threshold), "advised score"))
    if evaluation.speed is not None:
        tiles.append((number(evaluation.speed, 2 if evaluation.speed < 10 else 0), "images a second"))
    return (
        f'<ul class="tiles">{"".join(f"<li><b>{value}</b>{escape(said)}</li>" for value, said in tiles)}</ul>'
    )


def _notes(evaluation: Evaluation) -> str:
    """What a reader must know to read the numbers right."""
    notes = []
    if evaluation.partial:
        count = len(evaluation.images)
        where = (
            "every image" if evaluation.partial == count else f"{evaluation.partial:,} of {count:,} images"
        )
        notes.append(
            f"In {where} only some classes are labelled. Only those are evaluated there: detections of other "
            "classes are not counted, neither right nor wrong."
        )
    if evaluation.unknown:
        notes.append(
            f"The model does not know {escape(_listed(evaluation.unknown))}: all objects of "
            f"{'this class' if len(evaluation.unknown) == 1 else 'these classes'} count as missed."
        )
    if evaluation.left_out:
        notes.append(
            f"The data set does not have {escape(_listed(evaluation.left_out))}: these detections were left out."
        )
    return "".join(f'<p class="result">{note}</p>' for note in notes)


def _numbers(evaluation: Evaluation) -> str:
    columns = [("masks", evaluation.mask), ("boxes", evaluation.box)]
    shown = [(name, metrics) for name, metrics in columns if metrics is not None]
    rows = []
    for key in evaluation.box.summary():
        first, _, rest = key.partition("_")
        said = f"{first.upper()} {rest}" if not rest.isdigit() else f"AR, at most {rest} an image"
        rows.append([said.strip(), *(meter(metrics.summary()[key]) for _, metrics in shown)])
    return table(
        ["", *(name for name, _ in shown)], rows, "In percent; a dash where there is no such object."
    )


def _advice(evaluation: Evaluation) -> str:
    if not np.isfinite(evaluation.threshold):
        return "<p>Not one detection is right at an IoU of 0.5, so there is no score to advise.</p>"
    curves, at = evaluation.best.curves, evaluation.threshold
    hits = sum(one.hits for one in evaluation.images)
    missed, false = (
        sum(len(getattr(one, name)) for one in evaluation.images) for name in ("missed", "false")
    )
    lines = [Line("F1", curves.f1[-1], "c0"), Line("precision", curves.precision[-1], "c1"),
             Line("recall", curves.recall[-1], "c2")]  # fmt: skip
    lead = (
        f'<p class="lead">Keep detections from a score of <b>{_score(at)}</b>: there F1, the balance of precision '
        f"and recall, is greatest over all objects, {_score(curves.best[-1])}. It keeps {hits:,} right and {false:,} "
        f'false detections and misses {missed:,} objects.</p><p class="note">At an IoU of 0.5. Fewer false '
        "detections: go higher; fewer missed objects: go lower. The best score of each class is in the table below.</p>"
    )
    drawing = chart(lines, "score", "share", "F1, precision and recall over the score", (at, _score(at)))
    return lead + row(figure(drawing, "All classes together; every object counts the same."), kind="single")


def _precision(evaluation: Evaluation) -> str:
    figures = []
    for name, metrics in (("Masks", evaluation.mask), ("Boxes", evaluation.box)):
        if metrics is not None:
            mean = _class_mean(metrics)
            lines = [Line("IoU 0.5", mean[0], "c0"), Line("IoU 0.75", mean[5], "c1"),
                     Line("mean of IoU 0.5 to 0.95", mean.mean(0), "c2")]  # fmt: skip
            drawing = chart(lines, "recall", "precision", f"{name}: precision over recall")
            figures.append(figure(drawing, f"<b>{name}</b>, mean over the classes. AP is the area below."))
    return row(*figures, kind="pair")


def _class_mean(metrics: Metrics) -> np.ndarray:
    """(ious, 101) over the classes that have objects."""
    known = metrics.truths[0] > 0
    if not known.any():
        return np.full(metrics.precision.shape[:2], np.nan)
    mean: np.ndarray = metrics.precision[:, :, known].mean(2)
    return mean


def _classes(evaluation: Evaluation) -> str:
    best = evaluation.best
    measures: dict[Measure, str] = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", **_SIZES, "ar": "AR"}
    columns = [best.of_classes(m) for m in measures]
    box = evaluation.box.of_classes("ap")
    rows = []
    for i in np.argsort(-best.truths[0], kind="stable"):
        if best.truths[0, i]:
            name = evaluation.names[i]
            rows.append([
                escape(name), str(best.truths[0, i]), *(meter(c[i]) for c in columns), meter(box[i]),
                _score(best.curves.threshold[i]), _score(best.curves.best[i]),
                spark(best.precision[0, :, i], f"{name}: precision over recall"),
                spark(best.curves.f1[i], f"{name}: F1 over the score"),
            ])  # fmt: skip
    head = ["class", "objects", *measures.values(), "box AP", "best score", "its F1", "PR curve", "F1 curve"]
    lead = (
        f"By {_kind(evaluation)}s, in percent. Below {_ENOUGH} objects a number is mostly chance. The best score is "
        "the one with the greatest F1; the curves are precision over recall and F1 over the score at an IoU of 0.5."
    )
    return f'<p>{lead}</p><div class="tall">{table(head, rows, "Choose a column to sort by it.")}</div>'


def _confusion(evaluation: Evaluation) -> str:
    full, k = evaluation.confusion, len(evaluation.names)
    mixed = full[:k, :k] * ~np.eye(k, dtype=bool)
    order = np.argsort(-mixed, axis=None, kind="stable")[:8]
    pairs = [(int(i) // k, int(i) % k) for i in order if mixed.flat[i]]
    most = "".join(
        f"<li>{escape(evaluation.names[i])} taken for {escape(evaluation.names[j])}: {mixed[i, j]}</li>"
        for i, j in pairs
    )
    involved = full[:k].sum(1) + full[:, :k].sum(0)
    shown = [int(i) for i in np.argsort(-involved, kind="stable")[:_SHOWN] if involved[i]]
    rest = [i for i in range(k) if i not in shown and involved[i]]
    groups = [[i] for i in shown] + ([rest] if rest else []) + [[k]]
    small = np.array([[full[np.ix_(a, b)].sum() for b in groups] for a in groups])
    names = [evaluation.names[i] for i in shown] + [f"{len(rest)} others"] * bool(rest)
    since = f"from a score of {_score(evaluation.counted)} on"
    mixed_others = " Others taken for others include mix-ups among them." if rest else ""
    lead = f"<p>Detections {since}, at an IoU of 0.5, by {_kind(evaluation)}s.{mixed_others}</p>"
    return lead + (f"<p>Most often mixed up:</p><ul>{most}</ul>" if most else "") + matrix(small, names)


def _worst(evaluation: Evaluation, dataset: Dataset) -> str:
    worst = evaluation.worst()
    if not worst:
        return "<p>Not one image has an error.</p>"
    lead = (
        f"<p>The lowest F1 with detections from a score of {_score(evaluation.counted)} on, those with most errors "
        "first. Missed objects and false detections are framed red, what is right green; point at a frame for its "
        "name.</p>"
    )
    return lead + "".join(
        beside_truth(
            dataset[one.index], evaluation.found[one.index], one, evaluation.names, evaluation.counted
        )
        for one in worst
    )


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _score(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
