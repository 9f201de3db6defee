"""Pure functions from values to HTML and SVG. Text is escaped here; arguments named ``body`` are markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from .pictures import heat_uri, ramp_css

View = tuple[float, float, float, float]  # x, y, width, height
LEVELS = ("P2", "P3", "P4", "P5", "P6")


_DOCUMENT = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body<script>
$script</script>
</body>
</html>
""")


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page in the look of all of them, which needs nothing else. All is HTML already, the title too."""
    look = files(__package__).joinpath("page.css").read_text("utf-8")
    return _DOCUMENT.substitute(title=title, body=body, style=look + style, script=script)


def number(value: float, digits: int = 1) -> str:
    """A number without trailing zeros, and without a minus before zero."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text.replace("-", "−")


def section(anchor: str, title: str, lead: str, paper: str, body: str) -> str:
    """One step of the page. ``lead`` is markup: its author escapes what is not his."""
    return (
        f'<section id="{anchor}"><h2>{escape(title)}</h2><p class="lead">{lead}</p>'
        f'<p class="paper">{escape(paper)}</p>{body}</section>'
    )


def figure(body: str, caption: str, kind: str = "") -> str:
    """``caption`` is markup."""
    return f'<figure class="{kind}">{body}<figcaption>{caption}</figcaption></figure>'


def row(*figures: str, kind: str = "") -> str:
    """Figures side by side; ``kind`` is their class in the style sheet."""
    return f'<div class="row {kind}">{"".join(figures)}</div>'


def svg(view: View, body: str, label: str, kind: str = "", **data: str) -> str:
    """A drawing in the coordinates of ``view``; ``label`` is what a screen reader says."""
    box = " ".join(number(v, 2).replace("−", "-") for v in view)
    extra = "".join(f' data-{k}="{escape(v)}"' for k, v in data.items())
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}" class="{kind}"{extra}'
        f' style="aspect-ratio:{view[2]:.4f}/{view[3]:.4f}">{body}</svg>'
    )


def symbol(name: str, view: View, uri: str) -> str:
    """A picture that drawings of the page use by name, so that it is embedded once."""
    return f'<symbol id="{name}" overflow="visible">{image(view, uri)}</symbol>'


def use(name: str, dim: View | None = None) -> str:
    """The picture of that name, darkened over ``dim`` so that lines on it stand out."""
    veil = "" if dim is None else f'<rect class="veil" {_sides(dim)}/>'
    return f'<use href="#{name}"/>{veil}'


def image(view: View, uri: str, kind: str = "") -> str:
    """A picture stretched over ``view``, for inside a drawing."""
    return f'<image {_sides(view)} preserveAspectRatio="none" class="{kind}" href="{uri}"/>'


def rect(box: Sequence[float], kind: str, title: str = "") -> str:
    """An xyxy box; the title shows while the pointer rests on it."""
    x1, y1, x2, y2 = box
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect {_sides((x1, y1, x2 - x1, y2 - y1))} class="{kind}">{inner}</rect>'


def lines(segments: Iterable[tuple[float, float, float, float]], kind: str) -> str:
    """Many straight lines as one path."""
    path = "".join(f"M{_c(a)} {_c(b)}L{_c(c)} {_c(d)}" for a, b, c, d in segments)
    return f'<path class="{kind}" d="{path}"/>'


def dots(points: np.ndarray, radius: float, kind: str) -> str:
    """A circle around each of ``points`` (n, 2), xy; they and the radius are in the drawing's coordinates."""
    return "".join(f'<circle cx="{_c(x)}" cy="{_c(y)}" r="{radius:.3g}" class="{kind}"/>' for x, y in points)


def heat(
    values: np.ndarray, low: float, high: float, label: str, *, signed: bool = False, read: bool = True
) -> str:
    """A heat map of large cells, which says the value under the pointer, and its scale below."""
    h, w = values.shape
    data = " ".join(f"{v:.3g}" for v in values.ravel()) if read else ""
    touch = f' data-w="{w}" data-h="{h}" data-v="{data}" tabindex="0"' if read else ""
    return (
        f'<div class="heat"{touch}><img src="{heat_uri(values, low, high, signed=signed)}"'
        f' alt="{escape(label)}"'
        f' width="{w}" height="{h}"></div>{scale_bar(low, high, signed=signed, read=read)}'
    )


def scale_bar(low: float, high: float, *, signed: bool = False, read: bool = False) -> str:
    """The colours from ``low`` to ``high``; with ``read`` the value under the pointer stands beside them."""
    output = '<output aria-live="polite"></output>' if read else ""
    return (
        f'<div class="scale"><span>{low:.3g}</span><i style="background:{ramp_css(signed=signed)}"></i>'
        f"<span>{high:.3g}</span>{output}</div>"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, attributes: Sequence[str] = ()
) -> str:
    """Cells are markup; ``attributes`` go to the rows."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = []
    for i, cells in enumerate(rows):
        extra = f" {attributes[i]}" if attributes else ""
        body.append(f"<tr{extra}>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def bars(rows: Iterable[tuple[str, float, str, str]]) -> str:
    """Horizontal bars: name, length 0..1, what is said beside it, class of the bar."""
    cells = "".join(
        f'<li class="{kind}"><span>{escape(name)}</span><b style="--v:{min(max(share, 0), 1):.4f}"></b>'
        f"<em>{escape(said)}</em></li>"
        for name, share, said, kind in rows
    )
    return f'<ul class="bars">{cells}</ul>'


def level_buttons() -> str:
    """Switches that hide the boxes of a level in the drawing before them."""
    buttons = "".join(
        f'<button type="button" class="key k{i}" data-hide="l{i}" aria-pressed="true">{name}</button>'
        for i, name in enumerate(LEVELS)
    )
    return f'<div class="keys" role="group" aria-label="Levels shown">{buttons}</div>'


def slider(count: int, start: int, label: str) -> str:
    """How many of a drawing's boxes are shown, best first."""
    return (
        f'<label class="slider"><span>{escape(label)}</span><input type="range" min="1" max="{max(count, 1)}"'
        f' value="{min(start, max(count, 1))}" data-best><output>{min(start, count)}</output></label>'
    )


def outline(rings: Iterable[np.ndarray]) -> str:
    """Path data of closed rings (k, 2)."""
    return "".join("M" + "L".join(f"{_c(x)} {_c(y)}" for x, y in ring) + "Z" for ring in rings)


def _sides(view: View) -> str:
    x, y, w, h = view
    return f'x="{_c(x)}" y="{_c(y)}" width="{_c(max(w, 0))}" height="{_c(max(h, 0))}"'


def _c(value: float) -> str:
    """A coordinate: three decimals, because a map's cells are few units wide."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
