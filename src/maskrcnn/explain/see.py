"""Steps 1 and 2 of the page: the input and the feature maps."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..words import many
from .markup import figure, number, rect, row, section, svg, use
from .pictures import heat_uri, limits, lively_channels, principal, shrink_to
from .study import Study

MAP_SIDE, CHANNEL_SIDE = 192, 80  # pixels embedded of a feature map and of one of its channels
RESIZES = {
    "short_side": "the short side comes to {min_size}, unless the long one would exceed {max_size}",
    "square": "it fits into a square of {max_size}",
    "pad64": "the short side comes to at least {min_size}; both sides are filled up to multiples of 64",
    "none": "it keeps its size",
}


def step_input(study: Study) -> str:
    """Step 1 as markup: the photo, and what the network gets of it."""
    config, (h, w) = study.config, study.padded
    photo_h, photo_w = study.image.size
    x1, y1, x2, y2 = study.window
    rule = RESIZES[config.dialect.resize].format(min_size=config.min_size, max_size=config.max_size)
    mean = ", ".join(number(m, 2) for m in config.mean)
    shade = "black" if config.dialect.black_padding else "the mean colour, which the network sees as 0"
    lead = (
        f"The photo is scaled by <b>{number(study.scale[0], 3)}</b> ({rule}), its mean is taken off, and it"
        f" is padded"
        f" to sides that can be halved again and again."
    )
    channels = study.image.pixels.shape[2]
    note = "" if channels in (1, 3) else f" Of its {channels} channels the picture shows {_shown(channels)}."
    left = figure(
        svg((0, 0, photo_w, photo_h), use("photo"), "The photo as it came"),
        f"The photo: {photo_w} × {photo_h} pixels, {many(channels, 'channel')}.{note}",
    )
    padding = "no padding was needed" if (x1, y1, x2, y2) == (0, 0, w, h) else f"outside is padding, {shade}"
    right = figure(
        svg(
            (0, 0, w, h),
            use("frame") + rect((x1, y1, x2, y2), "window"),
            "The input of the network, content marked",
        ),
        f"The input: {w} × {h}. The dashed window, ({number(x1)}, {number(y1)}) to ({number(x2)},"
        f" {number(y2)}), holds"
        f" {number(x2 - x1)} × {number(y2 - y1)} pixels of content; {padding}. Mean taken off: {mean}.",
    )
    return section(
        "input",
        "1. The input",
        lead,
        "Mask R-CNN §3.1; Feature Pyramid Networks §5",
        row(left, right, kind="pair"),
    )


def step_features(study: Study) -> str:
    """Step 2 as markup: the maps of the backbone and of the pyramid."""
    down = [_map(study, f, f"C{i + 2}") for i, f in enumerate(study.trace.backbone)]
    up = [_map(study, f, f"P{i + 2}") for i, f in enumerate(study.trace.pyramid)]
    lead = (
        "A ResNet turns the picture into ever coarser maps C2 to C5 that know more and more of <em>what</em>"
        " is there"
        " and less of <em>where</em>. The pyramid adds the coarse knowledge back to the fine maps: P2 to P6"
        " have both."
    )
    how = (
        "Large: the direction in which the cells of a map differ most (its first principal component), dark"
        " to bright."
        " Small: the four channels that vary most. Each square is one cell, as large as its stride says."
    )
    body = (
        f"<h3>Backbone, bottom up</h3>{row(*down, kind='maps')}<h3>Pyramid, top"
        f" down</h3>{row(*up, kind='maps five')}"
        f'<p class="note">{how}</p>'
    )
    paper = (
        "Deep Residual Learning, table 1; Feature Pyramid Networks, figure 3; Mask R-CNN §3, “Architecture”"
    )
    return section("features", "2. Feature maps", lead, paper, body)


def _map(study: Study, features: Tensor, name: str) -> str:
    one = features[0]
    c, h, w = one.shape
    stride = round(study.padded[0] / h)
    content = _content(study, one)
    small = "".join(
        f'<img src="{_picture(content[i].float().cpu().numpy(), CHANNEL_SIDE)}" alt="Channel {i} of {name}"'
        f' title="channel {i}" width="{content.shape[2]}" height="{content.shape[1]}">'
        for i in lively_channels(content, 4)
    )
    main = (
        f'<img class="map" src="{_picture(principal(content), MAP_SIDE)}" alt="{name} as a heat map"'
        f' width="{content.shape[2]}" height="{content.shape[1]}">'
    )
    return figure(
        f'{main}<div class="channels">{small}</div>',
        f"<b>{name}</b> {w} × {h} × {c}<br>stride {stride}",
        "map",
    )


def _content(study: Study, features: Tensor) -> Tensor:
    """The part (c, h, w) of a map that lies over the picture, so that padding does not set the colours."""
    _, h, w = features.shape
    x1, y1, x2, y2 = study.window
    across, down = w / study.padded[1], h / study.padded[0]
    left, top = int(x1 * across), int(y1 * down)
    return features[:, top : max(round(y2 * down), top + 1), left : max(round(x2 * across), left + 1)]


def _picture(values: np.ndarray, side: int) -> str:
    small = shrink_to(np.ascontiguousarray(values, dtype=np.float32), side)
    return heat_uri(small, *limits(small))


def _shown(channels: int) -> str:
    return "the first three as red, green, blue" if channels > 3 else "the first"
