"""The report on a data set as one HTML page."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from ..errors import MaskRCNNError
from ..explain.markup import bars, document, figure, lines, row, svg, table
from ..explain.pictures import photo_uri
from .anchor_fit import BAD
from .doctor import Report, anchor_line, describe
from .sheet import choose, draw_annotations

SHOWN, THUMB = 36, 360  # pictures of the contact sheet, and pixels of their long side
_ROWS, _CLASSES = 100, 40


def page(report: Report) -> str:
    """The HTML of a report; pictures are embedded."""
    room, where = files(__package__), report.dataset.path
    name = escape(where.name if where is not None else "data set")
    body = Template(room.joinpath("doctor.html").read_text("utf-8")).substitute(
        name=name,
        summary=escape(report.text().split("\n", 1)[0]),
        verdict=_verdict(report),
        findings=_findings(report),
        classes=_classes(report),
        sizes=_sizes(report),
        pictures=_pictures(report),
        sheet=_sheet(report),
    )
    return document(f"Data set {name}", body, room.joinpath("doctor.css").read_text("utf-8"))


def _verdict(report: Report) -> str:
    stops = len(report.stops)
    if stops:
        return (
            f"<b>Training would stop:</b> {stops} finding{'s' * (stops > 1)} cannot be repaired without you."
        )
    repaired = sum(f.cure in ("drops", "clips") for f in report.findings)
    if repaired:
        return f"<b>Training can start.</b> It leaves out or clips {repaired} record{'s' * (repaired > 1)}, see below."
    return "<b>Training can start.</b> Nothing needs repair."


def _findings(report: Report) -> str:
    parts = []
    for kind, cure, found in report.kinds():
        cells = [
            [escape(str(f.file.name if f.file else "")), escape(f.record), escape(f.key), escape(f.detail)]
            for f in found[:_ROWS]
        ]
        more = f", the first {_ROWS}" if len(found) > _ROWS else ""
        body = table(("file", "record", "key", "what"), cells, f"{kind}{more}")
        said = f'<span class="cure {cure}">{describe(cure)}</span>'
        head = f"<summary><b>{escape(kind)}</b>: {len(found):,} {said}</summary>"
        parts.append(f"<details{' open' * (cure == 'stops')}>{head}{body}</details>")
    return "".join(parts) or "<p>Nothing is wrong.</p>"


def _classes(report: Report) -> str:
    order = sorted(range(len(report.instances)), key=lambda i: -report.instances[i])
    top = max(max(report.instances, default=0), 1)
    rows = [
        (
            report.dataset.names[i],
            report.instances[i] / top,
            f"{report.instances[i]:,} in {report.images[i]:,}",
            "own",
        )
        for i in order
    ]
    more = bars(rows[_CLASSES:])
    rest = (
        f"<details><summary>{len(rows) - _CLASSES} more</summary>{more}</details>"
        if len(rows) > _CLASSES
        else ""
    )
    return bars(rows[:_CLASSES]) + rest


def _sizes(report: Report) -> str:
    fit = report.anchors
    if not len(fit.sides):
        return "<p>There are no objects.</p>"
    side = np.sqrt(fit.sides.prod(1))
    drawn = _histogram(side, fit.sizes, "Objects by size, with the sizes of the anchors")
    how = "Square root of the box's area, in pixels of the network input; lines are the anchor sizes."
    shares = _shares(fit.best_iou)
    what = f"IoU of each object with its best anchor. Below {BAD:g} (left), proposals are hard to learn."
    return (
        row(figure(drawn, how), figure(shares, what), kind="pair")
        + f'<p class="result">{escape(anchor_line(fit))}</p>'
    )


def _histogram(values: np.ndarray, marks: tuple[float, ...], label: str) -> str:
    """Bars over a logarithmic axis from 2 to 2048."""
    low, high, steps = 1.0, 11.0, 40
    counts, _ = np.histogram(np.log2(np.maximum(values, 2)).clip(low, high - 1e-9), steps, (low, high))
    w, h = 400.0, 170.0

    def at(v: float) -> float:
        return (float(np.log2(v)) - low) / (high - low) * w

    return _bars(counts, w, h, label, [(at(v), f"{v:g}", "") for v in (4, 16, 64, 256, 1024)],
                 [at(v) for v in marks])  # fmt: skip


def _shares(best: np.ndarray) -> str:
    counts, _ = np.histogram(best, 40, (0, 1))
    ticks = [(v * 400, f"{v:g}", "") for v in (0, 0.25, 0.5, 0.75, 1)]
    return _bars(counts, 400.0, 170.0, "Objects by IoU with their best anchor", ticks, [BAD * 400])


def _bars(
    counts: np.ndarray,
    w: float,
    h: float,
    label: str,
    ticks: list[tuple[float, str, str]],
    marks: list[float],
) -> str:
    step, top = w / len(counts), max(int(counts.max()), 1)
    body = "".join(
        f'<rect class="bar" x="{i * step + 0.5:.2f}" y="{h - n / top * h:.2f}" width="{step - 1:.2f}" '
        f'height="{n / top * h:.2f}"><title>{n:,} objects</title></rect>'
        for i, n in enumerate(counts.tolist())
    )
    body += lines([(x, 0, x, h) for x in marks], "mark") + lines([(0, h, w, h)], "axis")
    anchor = {0.0: "start", w: "end"}
    body += "".join(
        f'<text x="{x:.1f}" y="{h + 15:.0f}" text-anchor="{anchor.get(x, "middle")}">{text}</text>'
        for x, text, _ in ticks
    )
    return svg((-6, -6, w + 12, h + 28), body, label, "chart")


def _pictures(report: Report) -> str:
    sizes, times = np.unique(report.image_sizes, axis=0, return_counts=True)
    if not len(sizes):
        return "<p>There are no pictures.</p>"
    top = float(sizes.max())
    radius = 2 + 8 * np.sqrt(times / times.max())
    body = lines([(0, 300, 300, 300), (0, 0, 0, 300), (0, 300, 300, 0)], "axis")
    body += "".join(
        f'<circle class="dot" cx="{w / top * 300:.1f}" cy="{300 - h / top * 300:.1f}" r="{r:.1f}">'
        f"<title>{w} x {h}: {n:,}</title></circle>"
        for (h, w), n, r in zip(sizes.tolist(), times.tolist(), radius.tolist(), strict=True)
    )
    body += (
        f'<text x="300" y="316" text-anchor="end">{top:g} wide</text><text x="6" y="8">{top:g} high</text>'
    )
    drawn = figure(svg((-14, -14, 328, 336), body, "Pictures by width and height", "chart"),
                   f"{len(sizes):,} different sizes; the diagonal is square.")  # fmt: skip
    if report.mean is None or report.std is None:
        said = "<p>The pictures differ in their channels, so there is no common mean.</p>"
    else:
        cells = [
            [str(i), f"{m:.2f}", f"{s:.2f}"]
            for i, (m, s) in enumerate(zip(report.mean, report.std, strict=True))
        ]
        said = table(("channel", "mean", "deviation"), cells, "Pixels, 0 to 255: the mean to configure")
    return row(drawn, f"<div>{said}</div>", kind="pair")


def _sheet(report: Report) -> str:
    cells = []
    for i in choose(report.dataset, SHOWN):
        sample = report.dataset[i]
        try:
            drawn = draw_annotations(sample, report.dataset.names, THUMB)
        except MaskRCNNError as error:
            cells.append(figure(f"<p>{escape(str(error))}</p>", escape(sample.name)))
            continue
        n = len(sample.instances)
        said = f"<b>{escape(sample.name)}</b> {n} instance{'s' * (n != 1)}"
        cells.append(
            figure(f'<img loading="lazy" alt="{escape(sample.name)}" src="{photo_uri(drawn, THUMB)}">', said)
        )
    return f'<div class="sheet">{"".join(cells)}</div>'
