"""Step 5 of the page: one region, its level, RoIPool's rounding beside RoIAlign's sampling points."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ..ops.boxes import shrink
from .markup import View, dots, figure, heat, image, lines, number, rect, row, section, svg, use
from .pictures import heat_uri, limits
from .sampling import Level, Reading, align_rounded, level_of, readings
from .study import Followed, Study

PAPER = "Mask R-CNN §3, “RoIAlign”, figure 3, table 2c; Fast R-CNN §2.1; Feature Pyramid Networks, eq. 1"


def step_pooling(study: Study, followed: Followed) -> str:
    """Step 5 as markup: where RoIPool and RoIAlign read one proposal, and how far they differ."""
    level = level_of(followed.proposal, study.padded, study.config, study.scales)
    shown = readings(study, followed, level.k)
    pool, align = shown[0], shown[-1]
    channel = int(align.output.float().flatten(1).std(1, unbiased=False).argmax())
    view = _view(study, followed, shown, level.k)
    lead = (
        "The heads want the same 7 × 7 cells from every proposal, whatever its size. RoIPool <em>rounds</em>"
        " the region"
        " and its bins to whole cells of the map; RoIAlign rounds nothing and reads the map <em>between</em>"
        " cells,"
        " at regularly placed points."
    ).replace("7 × 7", f"{study.config.box_pool} × {study.config.box_pool}")
    body = (
        _which_level(study, followed, level)
        + row(
            *(_grid(study, followed, r, level.k, channel, view) for r in shown),
            kind="pair" if len(shown) < 3 else "three",
        )
        + f'<p class="result">{_loss(study, followed, pool, align, level.k)}</p>'
        + _outputs(shown, channel)
    )
    return section("roialign", "5. RoIAlign", lead, PAPER, body)


def rounding(study: Study, followed: Followed, pool: Reading, k: int) -> tuple[float, float, float, float]:
    """How far rounding moves left, top, right and bottom, in pixels of the photo; right and down positive."""
    stride = study.stride(k)
    exact = [v / stride for v in followed.proposal.tolist()]
    moved = [
        (r - e) * stride / study.scale[i % 2] for i, (r, e) in enumerate(zip(pool.box, exact, strict=True))
    ]
    return moved[0], moved[1], moved[2], moved[3]


def _which_level(study: Study, followed: Followed, level: Level) -> str:
    end = 1.0 if study.config.dialect.level_rule == "round" else 0.0
    w, h = (shrink(followed.proposal, end)[2:] - followed.proposal[:2]).tolist()
    left, right, done = ("round(", ")", "rounded") if end else ("⌊", "⌋", "rounded down")
    free = (
        (round(level.value) if end else math.floor(level.value + 1e-6)) if math.isfinite(level.value) else 2
    )
    finer = free + level.shift
    cut = f" + {level.shift} = {finer}" if level.shift else ""
    cut += "" if finer == level.k else f", kept within 2 to 5: <b>{level.k}</b>"
    note = (
        " The picture is so flat that padding nearly doubles its height; the model’s framework, which measures the"
        " maps against the picture without padding, takes each for one of half its stride."
        if level.shift
        else ""
    )
    value = number(level.value, 2) if math.isfinite(level.value) else "−∞"
    return (
        f"<p>The proposal measures {number(w)} × {number(h)} pixels of the input, "
        f'so it is read from <b class="k{level.k - 2}">P{level.k}</b> (stride {number(study.stride(level.k))}):</p>'
        f'<p class="formula">k = {left}4 + log<sub>2</sub>(√(w·h) / 224){right}'
        f" = {left}4 + log<sub>2</sub>({number(level.side)} / 224){right} = {left}{value}{right} ="
        f" {free}{cut}</p>"
        f'<p class="note">224 is the side of ImageNet’s training pictures; the value is {done}.{note}</p>'
    )


def _grid(study: Study, followed: Followed, reading: Reading, k: int, channel: int, view: View) -> str:
    """The region over the cells of one channel, or over the input, with what the operation reads."""
    features, stride = study.trace.pyramid[k - 2], study.stride(k)
    x, y, w, h = (int(v) for v in view)
    cells = features[0, channel, y : y + h, x : x + w].float().cpu().numpy()
    exact = [v / stride for v in followed.proposal.tolist()]
    unit = max(w, h)
    body = (
        f'<g class="photo" transform="scale({1 / stride:.6g})">{use("frame")}</g>'
        + image(view, heat_uri(cells, *limits(cells)), "cells")
        + (_lattice(view) if unit <= 64 else "")
        + _bins(reading)
        + rect(exact, "exact", "the proposal, exactly")
        + dots(reading.points, unit / 210, "point")
    )
    what = (
        "Solid: the exact proposal. Dashed: what is read, in whole cells; each bin gives the <b>maximum</b>"
        " of its cells."
        if not len(reading.points)
        else f"Solid: the exact proposal. Dots: the {len(reading.points)} points, each interpolated from the"
        f" four cells around it; {_per_bin(reading, study.config.box_pool)}."
    )
    own = " This is what the model used." if reading.own else ""
    buttons = (
        '<div class="keys" role="group" aria-label="Shown behind the grid">'
        '<button type="button" data-layer="map" aria-pressed="true">feature map</button>'
        '<button type="button" data-layer="photo" aria-pressed="false">input picture</button></div>'
    )
    return figure(
        svg(view, body, f"{reading.name}: what it reads of P{k}", "grid", layer="map") + buttons,
        f"<b>{reading.name}</b> on P{k}, channel {channel}. {what}{own}",
    )


def _per_bin(reading: Reading, size: int) -> str:
    count = len(reading.points) // size**2
    return (
        "one a bin, from corner to corner, so the outer bins reach beyond it"
        if count == 1
        else f"the {count} of a bin are averaged"
    )


def _view(study: Study, followed: Followed, shown: list[Reading], k: int) -> View:
    """Whole cells of the map that hold all that is read, with a margin of a tenth."""
    features, exact = study.trace.pyramid[k - 2], [v / study.stride(k) for v in followed.proposal.tolist()]
    low = [min(exact[i], *(r.box[i] for r in shown)) for i in (0, 1)]
    high = [max(exact[i], *(r.box[i] for r in shown)) for i in (2, 3)]
    margin = 1 + 0.1 * max(high[0] - low[0], high[1] - low[1])
    x1, y1 = (max(math.floor(v - margin), 0) for v in low)
    x2 = min(math.ceil(high[0] + margin), features.shape[3])
    y2 = min(math.ceil(high[1] + margin), features.shape[2])
    return x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)


def _lattice(view: View) -> str:
    x, y, w, h = view
    down = [(i, y, i, y + h) for i in np.arange(x, x + w + 1)]
    across = [(x, i, x + w, i) for i in np.arange(y, y + h + 1)]
    return lines(down + across, "lattice")


def _bins(reading: Reading) -> str:
    if not len(reading.points):  # whole cells; neighbouring bins may share a row
        boxes = [(x[0], y[0], x[1], y[1]) for y in reading.bins_y for x in reading.bins_x]
        inner = "".join(rect(b, "bin", f"bin of {b[2] - b[0]:.0f} × {b[3] - b[1]:.0f} cells") for b in boxes)
        return inner + rect(reading.box, "rounded", "the region, rounded to whole cells")
    x1, y1, x2, y2 = reading.box
    down = [(x, y1, x, y2) for x in [b[0] for b in reading.bins_x] + [x2]]
    across = [(x1, y, x2, y) for y in [b[0] for b in reading.bins_y] + [y2]]
    return lines(down + across, "bins")


def _loss(study: Study, followed: Followed, pool: Reading, align: Reading, k: int) -> str:
    left, top, right, bottom = rounding(study, followed, pool, k)
    width = (followed.proposal[2] - followed.proposal[0]).item() / study.scale[0]
    height = (followed.proposal[3] - followed.proposal[1]).item() / study.scale[1]
    most = max(abs(left) / width, abs(right) / width, abs(top) / height, abs(bottom) / height)
    alone = relative(align_rounded(study, pool, k), align.output)
    return (
        f"Here rounding moves the left edge by <b>{number(left)}</b>, the top by <b>{number(top)}</b>, the"
        f" right by"
        f" <b>{number(right)}</b> and the bottom by <b>{number(bottom)} pixels of the photo</b> (right and"
        f" down are"
        f" positive), up to {100 * most:.0f} % of the region’s own {number(width, 0)} × {number(height, 0)}"
        f" pixels;"
        f" one cell of P{k} spans {number(study.stride(k) / study.scale[0])} of them. RoIAlign moves nothing: run over"
        f" the rounded"
        f" box instead, its own output changes by {100 * alone:.0f} %. A class may survive that; a mask,"
        f" which wants the exact pixels, suffers."
    )


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b, relative to that of b."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))


def _outputs(shown: list[Reading], channel: int) -> str:
    """The pooled cells of one channel, one scale for all, and how far RoIPool's are from RoIAlign's."""
    values = [r.output[channel].float().cpu().numpy() for r in shown]
    low, high = float(min(v.min() for v in values)), float(max(v.max() for v in values))
    figures = [
        figure(
            heat(v, low, high, f"Output of {r.name}, channel {channel}"),
            f"<b>{r.name}</b>, output in channel {channel}{', as the model had it' if r.own else ''}",
        )
        for r, v in zip(shown, values, strict=True)
    ]
    difference = values[0] - values[-1]
    most = float(np.abs(difference).max())
    whole = relative(shown[0].output, shown[-1].output)
    figures.append(
        figure(
            heat(difference, -most, most, "RoIPool minus RoIAlign", signed=True),
            f"<b>RoIPool − RoIAlign.</b> Over all {shown[0].output.shape[0]} channels the two differ by"
            f" {100 * whole:.0f} %: by rounding, and because one takes maxima and the other averages.",
        )
    )
    return f"<h3>What the box head gets</h3>{row(*figures, kind='maps outputs')}"
