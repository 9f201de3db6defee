"""Tables of names: a row for each kind of layer, with letters for its numbers, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# layer, the batch norm behind it, our name. {s} is a stage or level, {i} a block, {k} a layer of a head; {s-1} is
# written one less than in our name. Of several rows with one name of ours, later ones are older spellings.
Table = tuple[tuple[str, str, str], ...]


_LETTER = re.compile(r"\\\{(\w)(?:\\?([+-])(\d))?\\\}")


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_LETTER.sub(lambda m: rf"(?P<{m[1]}>\d+)", re.escape(template)))


def _numbers(template: str, match: re.Match[str], sign: int) -> dict[str, int]:
    """The letters of a template in a name that matches it; ``sign`` 1 for our numbers from theirs."""
    return {
        m[1]: int(match[m[1]]) - sign * int(f"{m[2] or '+'}{m[3] or 0}")
        for m in _LETTER.finditer(re.escape(template))
    }


def _fill(template: str, numbers: Mapping[str, int]) -> str:
    return re.sub(
        r"\{(\w)([+-]\d)?\}", lambda m: str(numbers[m[1]] + int(m[2] or 0)), template
    )  # fmt: skip


def rename(
    arrays: Mapping[str, Tensor], table: Table, known: str
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Arrays by our name; the file's name of each; the file's names that nobody knows, or that come twice.

    known : pattern of names that are left out
    """
    rows = [
        (_pattern(layer), layer, f"{native}{norm}")
        for conv, bn, native in table
        for layer, norm in ((conv, ""), (bn, ".norm"))
        if layer
    ]
    dropped = re.compile(known)
    named: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    surplus = []
    for name, value in arrays.items():
        if dropped.fullmatch(name):
            continue
        layer, _, parameter = name.rpartition(".")
        row = next(((m, t, native) for p, t, native in rows if (m := p.fullmatch(layer))), None)
        ours = "" if row is None else f"{_fill(row[2], _numbers(row[1], row[0], 1))}.{parameter}"
        if row is None or ours in named:
            surplus.append(name)
        else:
            named[ours], theirs[ours] = value, name
    return named, theirs, surplus


def spell(native: str, table: Table) -> str:
    """The file's name for one of ours."""
    layer, _, parameter = native.rpartition(".")
    bare = layer.removesuffix(".norm")
    for conv, norm, ours in table:
        match = _pattern(ours).fullmatch(bare)
        template = norm if bare != layer else conv
        if match and template:
            return f"{_fill(template, {k: int(v) for k, v in match.groupdict().items()})}.{parameter}"
    return native
