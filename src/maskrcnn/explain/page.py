"""The page as a whole: one file that needs nothing else."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..files import write_bytes
from ..inputs import read
from ..model import MaskRCNN
from ..output import as_rgb
from ..words import many
from .decide import instance_table, result_picture, step_class, step_mask, zoom_view
from .markup import document, figure, number, symbol
from .pictures import network_input, photo_uri
from .pool import step_pooling
from .propose import step_anchors, step_proposals
from .sampling import level_of
from .see import step_features, step_input
from .study import Study, real_proposals, study

PHOTO_SIDE, FRAME_SIDE, ZOOM_SIDE = 1280, 1024, 720  # pixels embedded of each picture


def write_page(model: MaskRCNN, image: Any, path: str | Path, *, instance: int | None = None) -> Path:
    """Explain one image in one HTML file, from the model's own trace of it.

    image    : anything `maskrcnn.inputs.read` takes
    path     : where to write; the file appears whole or not at all
    instance : row of the result to follow through the heads; None for the best of a good size. Without
               detections the page says so and follows the best proposal.

    Raises ImageError for an image that cannot be read or does not fit the model, ConfigError for an
    ``instance`` that is not there.
    """
    # a file name may hold bytes that are no text
    return write_bytes(Path(path), page(study(model, read(image), instance)).encode("utf-8", "replace"))


def page(seen: Study) -> str:
    """The HTML of a study."""
    name = seen.image.source.name if seen.image.source is not None else "an array"
    followed = seen.followed
    steps = [step_input(seen), step_features(seen), step_anchors(seen), step_proposals(seen)]
    if followed is None:
        steps.append('<p class="result">There is not one proposal, so the heads had nothing to look at.</p>')
    else:
        steps += [step_pooling(seen, followed), step_class(seen, followed), step_mask(seen, followed)]
    room, result = files(__package__), result_picture(seen)
    body = Template(room.joinpath("page.html").read_text("utf-8")).substitute(
        name=escape(name),
        pictures=_pictures(seen),
        summary=_summary(seen),
        result=figure(
            result,
            "The result. Point at a row of the table to find its instance."
            if len(seen.result)
            else "The photo.",
            "hero",
        ),
        table=instance_table(seen),
        way=_way(seen),
        steps="".join(steps),
        end=figure(result, f"The result again: {_summary(seen)}", "hero"),
        source=escape(Path(seen.source).name if Path(seen.source).exists() else seen.source),
    )
    script = room.joinpath("page.js").read_text("utf-8")
    return document(f"How Mask R-CNN sees {escape(name)}", body, script=script)


def _pictures(seen: Study) -> str:
    """The pictures that several drawings share."""
    (h, w), (frame_h, frame_w) = seen.image.size, seen.padded
    photo = as_rgb(seen.image.pixels)
    symbols = symbol("photo", (0, 0, w, h), photo_uri(photo, PHOTO_SIDE))
    symbols += symbol("frame", (0, 0, frame_w, frame_h), photo_uri(network_input(seen), FRAME_SIDE))
    if seen.followed is not None:
        view = zoom_view(seen, seen.followed)
        x, y, zoom_w, zoom_h = (int(v) for v in view)
        symbols += symbol("zoom", view, photo_uri(photo[y : y + zoom_h, x : x + zoom_w], ZOOM_SIDE))
    return symbols


def _summary(seen: Study) -> str:
    count = len(seen.result)
    if count:
        classes = sorted(set(seen.result.class_names), key=seen.result.class_names.index)
        found = f"<b>{count}</b> instance{'s' * (count > 1)}: {escape(', '.join(classes[:8]))}"
        return found + ("…" if len(classes) > 8 else "") + "."
    said = f"<b>No instances</b> with a score of at least {number(seen.config.score, 2)}."
    if seen.followed is None:
        return said
    best = escape(seen.config.names[seen.followed.label])
    followed = f"The page follows the best proposal instead: {best}, {seen.followed.score:.3f}."
    return f"{said} {followed}"


def _way(seen: Study) -> str:
    """The seven steps as links, each with its numbers."""
    config, trace = seen.config, seen.trace
    h, w = seen.padded
    steps = [
        ("input", "Input", f"{w} × {h} × {config.channels}"),
        ("features", "Feature maps", f"ResNet-{config.depth}, {len(trace.pyramid)} levels"),
        ("anchors", "Anchors", f"{trace.anchor_scores.anchors.shape[0]:,}"),
        ("proposals", "Proposals", f"{len(trace.candidates.scores):,} → {real_proposals(trace, config):,}"),
    ]
    if seen.followed is not None:
        level, size, m = (
            level_of(seen.followed.proposal, seen.padded, config, seen.scales).k,
            config.box_pool,
            config.mask_size,
        )
        steps += [
            ("roialign", "RoIAlign", f"P{level} → {size} × {size}"),
            ("box", "Class and box", many(config.num_classes, "class", "es")),
            ("mask", "Mask", f"{m} × {m}"),
        ]
    return "".join(
        f'<li><a href="#{a}"><b>{escape(t)}</b><span>{escape(n)}</span></a></li>' for a, t, n in steps
    )
