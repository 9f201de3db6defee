"""Steps 6 and 7 of the page, and its top: class, refined box, mask, result."""

from __future__ import annotations

from html import escape

import numpy as np
import torch

from ..ops.boxes import iou
from ..ops.paste import paste_soft
from ..output import colour
from ..output.shapes import crop_rings
from .markup import bars, figure, heat, image, number, outline, rect, row, section, svg, table, use
from .pictures import shrink_to, soft_uri
from .sampling import level_of
from .study import Followed, Study, detection_rows, rivals

TOP, ROWS, NAMED = 5, 12, 20  # classes in the chart, rows before the table folds, instances with a label
DRAWN = 60  # suppressed rivals that are drawn


def step_class(study: Study, followed: Followed) -> str:
    """Step 6 as markup: scores, deltas and suppressed rivals of the one that is followed."""
    lead = (
        "From the pooled region the box head predicts a probability for every class and for"
        " <em>background</em>, and for"
        " each class four numbers that move and stretch the box. Then, class by class, the best box silences"
        " its rivals."
    )
    body = row(_scores(study, followed), _deltas(study, followed), kind="pair")
    others = _rivals(study, followed)
    body += row(_refined(study, followed), others, kind="pair" if others else "single")
    paper = "Fast R-CNN §2; Faster R-CNN, equation 2; Mask R-CNN §3.1, “Inference”"
    return section("box", "6. Class and box", lead, paper, body)


def _scores(study: Study, followed: Followed) -> str:
    probability = study.trace.box_scores.class_logits[followed.roi].float().softmax(0).cpu()
    best = torch.topk(probability[:-1], min(TOP, study.config.num_classes)).indices.tolist()
    rows = [
        (
            study.config.names[i],
            float(probability[i]),
            f"{probability[i]:.3f}",
            "own" if i == followed.label else "",
        )
        for i in best
    ]
    rows.append(("background", float(probability[-1]), f"{probability[-1]:.3f}", "ground"))
    name, limit = escape(study.config.names[followed.label]), number(study.config.score, 2)
    if followed.instance is None:
        said = f"The best class is <b>{name}</b> with {followed.score:.3f}"
        said += (
            f": not enough, instances need {limit}."
            if probability[-1] < 0.5
            else ": the region is background."
        )
    else:
        said = f"<b>{name}</b> has {followed.score:.3f}, enough for the threshold of {limit}."
    return figure(bars(rows), said, "plain")


def _deltas(study: Study, followed: Followed) -> str:
    std = study.config.box_std
    scaled = [d * s for d, s in zip(followed.deltas.tolist(), std, strict=True)]
    x1, y1, x2, y2 = study.to_photo(followed.proposal[None])[0].tolist()
    meaning = [
        f"{'right' if scaled[0] >= 0 else 'left'} by {number(abs(scaled[0]) * (x2 - x1))} px",
        f"{'down' if scaled[1] >= 0 else 'up'} by {number(abs(scaled[1]) * (y2 - y1))} px",
        f"width × {float(np.exp(scaled[2])):.3f}", f"height × {float(np.exp(scaled[3])):.3f}",
    ]  # fmt: skip
    deltas = table(
        ("delta", "predicted", "× unit", "moves the box"),
        [
            (n, number(raw, 3), number(s, 3), m)
            for n, raw, s, m in zip(
                ("dx", "dy", "dlog w", "dlog h"), followed.deltas.tolist(), scaled, meaning, strict=True
            )
        ],
        "Deltas of its class",
    )
    unit = ", ".join(number(s, 3) for s in std)
    caption = (
        f"dx and dy are shares of the proposal’s width and height; the units are {unit}. Pixels of the photo."
    )
    return figure(deltas, caption, "plain")


def _refined(study: Study, followed: Followed) -> str:
    before, after = (study.to_photo(b[None])[0] for b in (followed.proposal, followed.box))
    drawing = svg(
        zoom_view(study, followed),
        use("zoom") + rect(before.tolist(), "before", "proposal") + rect(after.tolist(), "after", "refined"),
        "The proposal and the refined box",
    )
    moved = ", ".join(
        f"{number(a)} → {number(b)}" for a, b in zip(before.tolist(), after.tolist(), strict=True)
    )
    caption = f"Dashed: the proposal. Solid: refined. x1, y1, x2, y2 in pixels of the photo: {moved}."
    return figure(drawing, caption)


def _rivals(study: Study, followed: Followed) -> str:
    if followed.instance is None:
        return ""
    boxes, scores = rivals(study, followed)
    name = escape(study.config.names[followed.label])
    if not len(boxes):
        return f'<p class="result">No other box for <b>{name}</b> overlapped it enough to be suppressed.</p>'
    several = "s" * (len(boxes) > 1)
    span = f"{float(scores.min()):.3f} to {float(scores.max()):.3f}" if several else f"{float(scores[0]):.3f}"
    drawn = "".join(
        rect(b, "box lost", f"suppressed, {s:.3f}")
        for b, s in zip(study.to_photo(boxes[:DRAWN]).tolist(), scores[:DRAWN].tolist(), strict=True)
    )
    drawn += rect(study.to_photo(followed.box[None])[0].tolist(), "after", "kept")
    few = f" ({DRAWN} drawn)" if len(boxes) > DRAWN else ""
    return figure(
        svg(
            zoom_view(study, followed),
            use("zoom", zoom_view(study, followed)) + drawn,
            "The suppressed rivals",
        ),
        f"<b>{len(boxes)}</b> other refined box{'es' * bool(several)} for {name}, score{several} {span},"
        f" overlapped it by"
        f" more than {number(study.config.nms, 2)}: suppressed{few}.",
    )


def step_mask(study: Study, followed: Followed) -> str:
    """Step 7 as markup: the mask of the one that is followed, small and pasted into the photo."""
    m = followed.mask.shape[0]
    name = escape(study.config.names[followed.label])
    lead = (
        f"The mask head, a small convolutional network, draws {m} × {m} probabilities inside the box, one"
        f" mask a class;"
        " only that of the chosen class is taken, so classes do not compete. Stretched to the box and cut at"
        " 0.5, it is"
        " the mask of the instance."
    )
    figures = [
        figure(
            heat(followed.mask, 0.0, 1.0, f"Mask probabilities, {m} by {m}"),
            f"{m} × {m} probabilities for <b>{name}</b>. Point at a cell to read it.",
        ),
        figure(_pasted(study, followed), "Stretched to the box over the photo; the line is where it is 0.5."),
    ]
    if followed.instance is None:
        lead += " The region was not detected, so this is the mask it would have had."
    return section(
        "mask",
        "7. Mask",
        lead,
        "Mask R-CNN §3, “Mask Representation”, §3.1, figure 4",
        row(*figures, kind="pair"),
    )


def _pasted(study: Study, followed: Followed) -> str:
    if followed.instance is None:
        box = study.to_photo(followed.box[None])[0].float().numpy()
    else:
        box = study.result.boxes[followed.instance].numpy()
    rule = study.config.dialect.paste
    soft, (y, x) = paste_soft(followed.mask, box, study.image.size, rule)
    body = use("zoom")
    if soft.size:
        view = (float(x), float(y), float(soft.shape[1]), float(soft.shape[0]))
        rings = _rings(study, soft >= 0.5, (y, x))
        body += image(view, soft_uri(shrink_to(soft, 300))) + f'<path class="edge" d="{rings}"/>'
    return svg(zoom_view(study, followed), body + rect(box.tolist(), "after"), "The mask over the photo")


def result_picture(study: Study) -> str:
    """The photo with outlines, names and boxes of all instances."""
    h, w = study.image.size
    letters, parts, names, taken = min(max(h, w) / 42, w / 18), [], [], [torch.zeros(4)]
    for i in reversed(range(len(study.result))):  # the best on top
        r, g, b = colour(i)
        said = f"{study.result.class_names[i]} {study.result.scores[i]:.2f}"
        parts.append(
            f'<g data-instance="{i}" style="--c:rgb({r},{g},{b})"><title>{escape(said)}</title>'
            f'<path class="instance" d="{_rings(study, *study.result.crop(i))}"/>'
            f"{rect(study.result.boxes[i].tolist(), 'frame')}</g>"
        )
    for i in range(min(len(study.result), NAMED)):
        said = f"{study.result.class_names[i]} {study.result.scores[i]:.2f}"
        x, y, _, _ = study.result.boxes[i].tolist()
        length = 0.66 * letters * len(said)
        x, y = max(min(x + letters * 0.2, w - length), 0), max(y - letters * 0.3, letters)
        place = torch.tensor([x, y - letters, x + length, y])
        if float(iou(place[None], torch.stack(taken)).max()) > 0:  # unreadable; the table has it
            continue
        taken.append(place)
        names.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{letters:.1f}">{escape(said)}</text>')
    return svg(
        (0, 0, w, h),
        use("photo") + "".join(parts + names),
        f"The photo with {len(study.result)} instances",
        "final",
    )


def instance_table(study: Study) -> str:
    """All instances; the rows after the first dozen are folded away."""
    result = study.result
    if not len(result):
        return ""
    head = ("", "class", "score", "box x1, y1, x2, y2", "mask", "read from")
    index = detection_rows(study.trace, study.config)
    boxes = study.trace.proposals.boxes[study.trace.detections.roi_index[index]].cpu()
    rows, attributes = [], []
    for i in range(len(result)):
        mine = study.followed is not None and study.followed.instance == i
        swatch = f'<i class="swatch" style="background:rgb{colour(i)}"></i>{i}'
        level = level_of(boxes[i], study.padded, study.config, study.scales).k
        rows.append((
            swatch, escape(result.class_names[i]) + (" <b>followed below</b>" if mine else ""),
            f"{result.scores[i]:.3f}", ", ".join(f"{v:.0f}" for v in result.boxes[i].tolist()),
            f"{int(result.crop(i)[0].sum()):,} px", f"P{level}",
        ))  # fmt: skip
        attributes.append(f'data-instance="{i}"' + (' class="mine"' if mine else ""))
    shown = table(head, rows[:ROWS], f"Instances, best first ({len(rows)})", attributes[:ROWS])
    if len(rows) <= ROWS:
        return shown
    rest = table(head, rows[ROWS:], "The others", attributes[ROWS:])
    return f"{shown}<details><summary>{len(rows) - ROWS} more</summary>{rest}</details>"


def zoom_view(study: Study, followed: Followed) -> tuple[float, float, float, float]:
    """The part of the photo around the region, with a margin of a quarter: x, y, width, height."""
    h, w = study.image.size
    boxes = study.to_photo(torch.stack([followed.proposal, followed.box]))
    low, high = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    margin = 0.25 * float((high - low).max()) + 4
    x1, y1 = (max(v - margin, 0) for v in low.tolist())
    x2, y2 = min(float(high[0]) + margin, w), min(float(high[1]) + margin, h)
    x1, y1 = np.floor(min(x1, w - 1)), np.floor(min(y1, h - 1))
    return float(x1), float(y1), float(max(np.ceil(x2) - x1, 1)), float(max(np.ceil(y2) - y1, 1))


def _rings(study: Study, crop: np.ndarray, corner: tuple[int, int]) -> str:
    """Path data of a mask, holes included, as fine as the page can show."""
    tolerance = max(study.image.size) / 2400
    return "".join(outline([outer, *holes]) for outer, holes in crop_rings(crop, corner, tolerance))
