"""Small pure functions from numbers to SVG charts. Axes run from 0 to 1; colours are the page's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_LEFT, _TOP, _WIDTH, _HEIGHT = 40.0, 10.0, 388.0, 240.0
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, eq=False)
class Line:
    """A curve over 0, 0.01, ... 1; nan leaves a gap. ``kind`` is its CSS class: c0 to c5, dashed."""

    name: str
    values: np.ndarray
    kind: str


def chart(lines: Sequence[Line], x: str, y: str, label: str, mark: tuple[float, str] | None = None) -> str:
    """Curves with axes, a legend, and what they are worth under the pointer; ``mark`` is an upright line."""
    grid = "".join(_tick(value) for value in _TICKS)
    stroke = ""
    if mark is not None:
        at, said = mark
        anchor = "end" if at > 0.6 else "start"
        px, aside = _x(at), -6 if at > 0.6 else 6
        stroke = (
            f'<path class="mark" d="M{px:.1f} {_TOP}V{_TOP + _HEIGHT}"/>'
            f'<text class="said" x="{px + aside:.1f}" y="{_TOP + 14}" text-anchor="{anchor}">{escape(said)}</text>'
        )
    curves = "".join(f'<path class="curve {line.kind}" d="{path(line.values)}"/>' for line in lines)
    names = (
        f'<text x="{_LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 36}" text-anchor="middle">{escape(x)}</text>'
    )
    data = ";".join(" ".join("" if np.isnan(v) else f"{v:.2f}" for v in line.values) for line in lines)
    keys = "".join(
        f'<li class="{line.kind}"><i></i>{escape(line.name)} <output></output></li>' for line in lines
    )
    return (
        f'<div class="chart" data-v="{data}"><ul class="legend"><li>{escape(x)} <output></output></li>{keys}</ul>'
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 12:g} {_TOP + _HEIGHT + 42:g}" role="img" aria-label="{escape(label)}"'
        f' data-left="{_LEFT:g}" data-width="{_WIDTH:g}"><title>{escape(y)} over {escape(x)}</title>'
        f'{grid}{names}{stroke}{curves}<path class="hand" d=""/></svg></div>'
    )


def path(
    values: np.ndarray, left: float = _LEFT, top: float = _TOP, width: float = _WIDTH, height: float = _HEIGHT
) -> str:
    """Path data of values 0..1 at equal steps; nan interrupts it."""
    steps = np.linspace(left, left + width, len(values))
    parts, pen = [], "M"
    for px, value in zip(steps, values, strict=True):
        if np.isnan(value):
            pen = "M"
            continue
        parts.append(f"{pen}{px:.1f} {top + height * (1 - value):.1f}")
        pen = "L"
    return "".join(parts)


def spark(values: np.ndarray, label: str) -> str:
    """A curve as large as a word."""
    line = path(values[::4], 1, 1, 88, 24)
    area = f'<path class="area" d="{line}L89 25L1 25Z"/>' if line and not np.isnan(values).any() else ""
    return (
        f'<svg class="spark" viewBox="0 0 90 26" role="img" aria-label="{escape(label)}">{area}'
        f'<path class="curve c0" d="{line}"/></svg>'
    )


def meter(value: float) -> str:
    """A share as a number above a bar; a dash for nan."""
    if np.isnan(value):
        return "–"
    return f'<span class="meter" style="--v:{value:.3f}">{100 * value:.1f}</span>'


def matrix(table: np.ndarray, names: Sequence[str]) -> str:
    """Counts as a table whose cells are shaded by their share of the row; the last name is for neither."""
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    head = "".join(f'<th scope="col"><span>{escape(n)}</span></th>' for n in (*names, "missed"))
    rows = []
    for i, name in enumerate((*names, "no object")):
        cells = "".join(
            f'<td class="{"right" if i == j else "wrong"}" style="--v:{share[i, j]:.2f}">{table[i, j] or ""}</td>'
            for j in range(len(table))
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="confusion"><caption>Rows: what it is. Columns: what it was taken for.'
        f"</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tick(value: float) -> str:
    px, py = _x(value), _TOP + _HEIGHT * (1 - value)
    text = f"{value:g}"
    return (
        f'<path class="grid" d="M{_LEFT} {py:.1f}h{_WIDTH}M{px:.1f} {_TOP}v{_HEIGHT}"/>'
        f'<text x="{_LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{text}</text>'
        f'<text x="{px:.1f}" y="{_TOP + _HEIGHT + 17}" text-anchor="middle">{text}</text>'
    )


def _x(value: float) -> float:
    return _LEFT + _WIDTH * value
