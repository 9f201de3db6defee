"""Steps 3 and 4 of the page: anchors, and proposals before and after NMS."""

from __future__ import annotations

import torch
from torch import Tensor

from .markup import (
    LEVELS,
    View,
    bars,
    figure,
    heat,
    level_buttons,
    number,
    rect,
    row,
    section,
    slider,
    svg,
    use,
)  # fmt: skip
from .pictures import shrink_to
from .study import Study, anchor_levels, by_level, real_proposals, silenced

FIRED, DRAWN = 60, 200  # anchors and proposals that are drawn


def step_anchors(study: Study) -> str:
    """Step 3 as markup: anchors of one cell, those that fired, and objectness on each level."""
    config = study.config
    total = study.trace.anchor_scores.anchors.shape[0]
    lead = (
        f"At every cell of every level stand {config.anchors_per_cell} <em>anchors</em>, fixed boxes of"
        f" different shape"
        f" and size: <b>{total:,}</b> in this picture. A small network, the same for all levels, says of"
        f" each how"
        " likely it is to hold an object (objectness)."
    )
    body = (
        row(_one_cell(study), _fired(study), kind="pair")
        + "<h3>Objectness, the best anchor of each cell</h3>"
    )
    body += row(*_objectness(study), kind="maps five")
    return section(
        "anchors",
        "3. Anchors",
        lead,
        "Faster R-CNN §3.1.1; Feature Pyramid Networks §4.1: one size a level",
        body,
    )


def _one_cell(study: Study) -> str:
    h, w = study.padded
    boxes = by_level(study, study.trace.anchor_scores.anchors.cpu())
    drawn: list[str] = []
    sizes: list[str] = []
    for level, grid in reversed(list(enumerate(boxes))):
        for x1, y1, x2, y2 in grid[grid.shape[0] // 2, grid.shape[1] // 2].tolist():
            drawn.append(
                rect((x1, y1, x2, y2), f"box l{level}", f"{LEVELS[level]}: {x2 - x1:.0f} × {y2 - y1:.0f}")
            )
        size = ", ".join(number(s) for s in study.config.anchor_sizes[level])
        sizes.insert(0, f"{LEVELS[level]} {size} px")
    ratios = ", ".join(number(r, 2) for r in study.config.anchor_ratios)
    view = _around(
        torch.cat([g[g.shape[0] // 2, g.shape[1] // 2] for g in boxes]), (0.0, 0.0, float(w), float(h))
    )
    return figure(
        svg(view, use("frame", (0, 0, w, h)) + "".join(drawn), "Anchors of one cell of each level, to scale")
        + level_buttons(),
        f"The anchors of <b>one</b> cell of each level, to scale: {', '.join(sizes)}, with height : width"
        f" {ratios}.",
    )


def _fired(study: Study) -> str:
    scores = study.trace.anchor_scores
    probability = scores.objectness[0].float().sigmoid().cpu()
    best = torch.topk(scores.objectness[0].float().cpu(), min(FIRED, probability.shape[0])).indices
    boxes = _boxes(scores.anchors.cpu()[best], probability[best], anchor_levels(study)[best], "objectness")
    h, w = study.padded
    counts = torch.bincount(anchor_levels(study)[best], minlength=5).tolist()
    where = ", ".join(f"{name} {n}" for name, n in zip(LEVELS, counts, strict=True) if n)
    return figure(
        svg((0, 0, w, h), use("frame", (0, 0, w, h)) + boxes, "The anchors with the highest objectness")
        + level_buttons(),
        f"The {len(best)} anchors that fired most, objectness {float(probability[best[-1]]):.3f} to"
        f" {float(probability[best[0]]):.3f} ({where}). Rest on a box to read its score.",
    )


def _objectness(study: Study) -> list[str]:
    figures = []
    for level, grid in enumerate(
        by_level(study, study.trace.anchor_scores.objectness[0].float().sigmoid().cpu())
    ):
        best = grid.amax(dim=2).numpy()
        over = int((grid > 0.5).sum())
        picture = heat(shrink_to(best, 160), 0, 1, f"Objectness on {LEVELS[level]}", read=False)
        said = f"{best.shape[1]} × {best.shape[0]} cells<br>max {best.max():.2f}; {over:,} anchors above 0.5"
        figures.append(figure(picture, f'<b class="k{level}">{LEVELS[level]}</b> {said}', "map"))
    return figures


def step_proposals(study: Study) -> str:
    """Step 4 as markup: boxes before and after suppression."""
    config, trace = study.config, study.trace
    before, after = trace.candidates, real_proposals(trace, config)
    count, dropped = len(before.scores), len(before.scores) - after
    each = "of each level" if config.dialect.per_level else "of all levels together"
    lead = (
        f"The {config.pre_nms:,} best anchors {each} are shifted and stretched by the deltas that the"
        f" network predicts."
        f" Most say the same, so non-maximum suppression keeps the best and drops what overlaps it by more"
        f" than"
        f" {number(config.rpn_nms, 2)}: <b>{count:,}</b> boxes became <b>{after:,}</b> proposals,"
        f" <b>{dropped:,}</b> were dropped."
    )
    h, w = study.padded
    levels = _proposal_levels(study)
    kept = trace.proposals.boxes[:after][:DRAWN].cpu()
    order = torch.sort(before.scores.cpu(), descending=True, stable=True).indices[:DRAWN]
    pictures = [
        _best_first(study, before.boxes.cpu()[order], before.scores.cpu()[order], before.level.cpu()[order],
                    f"Before NMS: {count:,} boxes."),
        _best_first(study, kept, trace.proposals.scores[: len(kept)].cpu(), levels[: len(kept)],
                    f"After NMS: {after:,} proposals."),
    ]  # fmt: skip
    filled = len(trace.proposals) - after
    note = ""
    if filled:
        note = f'<p class="note">{filled:,} zero boxes fill the list up to {len(trace.proposals):,}.</p>'
    elif after == config.proposals:
        note = (
            f'<p class="note">NMS stopped at its limit of {after:,}: the worst boxes were not looked at.</p>'
        )
    body = _funnel(study, count, after) + row(*pictures, kind="pair") + note
    body += row(_example(study, (w, h)), _histogram(study, after), kind="pair")
    return section(
        "proposals", "4. Proposals", lead, "Faster R-CNN §3.1, equation 2 (deltas), §3.3 (NMS at 0.7)", body
    )


def _funnel(study: Study, candidates: int, proposals: int) -> str:
    anchors = study.trace.anchor_scores.anchors.shape[0]
    steps = [
        ("anchors", anchors), ("before NMS", candidates), ("after NMS", proposals),
        ("instances", len(study.result)),
    ]  # fmt: skip
    widest = torch.tensor(float(anchors) + 1).log()
    shares = [(n, float(torch.tensor(float(c) + 1).log() / widest), f"{c:,}", "funnel") for n, c in steps]
    return bars(shares) + '<p class="note">Lengths are logarithmic.</p>'


def _best_first(study: Study, boxes: Tensor, scores: Tensor, levels: Tensor, said: str) -> str:
    h, w = study.padded
    start = 40
    drawing = svg(
        (0, 0, w, h), use("frame", (0, 0, w, h)) + _boxes(boxes, scores, levels, "score", start), said, "best"
    )
    span = f"Drawn, best first, up to {len(boxes)}; scores {_range(scores)}." if len(boxes) else ""
    return figure(
        drawing + slider(len(boxes), start, "Best shown") + level_buttons(), f"<b>{said}</b> {span}"
    )


def _example(study: Study, size: tuple[float, float]) -> str:
    """What NMS did around the proposal that the page follows."""
    followed = study.followed
    if followed is None:
        return ""
    level, rows = silenced(study, followed)
    boxes = study.trace.candidates.boxes.cpu()[rows]
    scores = study.trace.candidates.scores.cpu()[rows]
    mine = followed.proposal
    drawn = "".join(
        rect(b, "box lost", f"dropped, score {s:.3f}")
        for b, s in zip(boxes[:60].tolist(), scores[:60].tolist(), strict=True)
    )
    score = float(study.trace.proposals.scores[followed.roi])
    drawn += rect(mine.tolist(), f"box strong l{level}", f"kept, score {score:.3f}")
    view = _around(torch.cat([boxes[:60], mine[None]]), (0.0, 0.0, *size), whole=False)
    where = " of its level" if study.config.dialect.per_level else ""
    few = "" if len(rows) <= 60 else " (60 drawn)"
    return figure(
        svg(view, use("frame", (0, 0, *size)) + drawn, "One proposal and the boxes dropped for its sake"),
        f"One proposal, from an anchor of {LEVELS[level]}, objectness {score:.3f}, and the"
        f" <b>{len(rows)}</b> other"
        f" box{'es' * (len(rows) != 1)}{where} that overlapped it by more than"
        f" {number(study.config.rpn_nms, 2)} and so were"
        f" dropped{few}. The page follows this proposal from here on.",
    )


def _histogram(study: Study, proposals: int) -> str:
    """How many boxes have which score, before and after NMS."""
    before, after = study.trace.candidates.scores.cpu(), study.trace.proposals.scores[:proposals].cpu()
    counts = [torch.histc(s.float(), 20, 0, 1).tolist() for s in (before, after)]
    tallest = max(*counts[0], 1.0)
    drawn = "".join(
        rect(
            (5 * i + 0.4, 60 - 56 * n / tallest, 5 * i + 4.6, 60),
            kind,
            f"{n:.0f} with {i / 20:.2f} to {(i + 1) / 20:.2f}",
        )
        for kind, column in zip(("early", "late"), counts, strict=True)
        for i, n in enumerate(column)
        if n
    )
    return figure(
        svg((0, 0, 100, 60), drawn, "Scores before and after NMS", "chart"),
        "How many boxes (up) have which objectness (0 left, 1 right): pale <b>before</b>, strong"
        " <b>after</b> NMS;"
        f" the highest bar is {tallest:,.0f}.",
    )


def _proposal_levels(study: Study) -> Tensor:
    """Level of the anchor that each proposal comes from: the candidate with the same box."""
    before, after = study.trace.candidates, study.trace.proposals
    level = {tuple(b): lv for b, lv in zip(before.boxes.tolist(), before.level.tolist(), strict=True)}
    return torch.tensor([level.get(tuple(b), 0) for b in after.boxes.tolist()], dtype=torch.long)


def _boxes(boxes: Tensor, scores: Tensor, levels: Tensor, word: str, shown: int | None = None) -> str:
    """Best first; those after ``shown`` are there but hidden."""
    parts = []
    for i, (box, score, level) in enumerate(
        zip(boxes.tolist(), scores.tolist(), levels.tolist(), strict=True)
    ):
        off = " off" if shown is not None and i >= shown else ""
        parts.append(rect(box, f"box l{level}{off}", f"{LEVELS[level]}, {word} {score:.3f}"))
    return "".join(parts)


def _range(scores: Tensor) -> str:
    return f"{float(scores.min()):.3f} to {float(scores.max()):.3f}"


def _around(boxes: Tensor, frame: View, *, whole: bool = True) -> View:
    """A view that holds all boxes with a margin, and the frame too if it is to be ``whole``."""
    low, high = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    margin = 0.02 * max(frame[2], frame[3]) if whole else 0.15 * float((high - low).max()) + 4
    x1, y1 = (low - margin).tolist()
    x2, y2 = (high + margin).tolist()
    if whole:
        x1, y1, x2, y2 = min(x1, 0), min(y1, 0), max(x2, frame[2]), max(y2, frame[3])
    else:
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, frame[2]), min(y2, frame[3])
    return x1, y1, x2 - x1, y2 - y1
