"""Pictures of instances, boxes, metrics and weights with matplotlib, which is imported where it is used.

Every function draws what it always drew, and returns its figure, or its array. Windows open only where matplotlib
has a backend with windows, or a notebook to show them in; there a cell shows each picture once.
"""

from __future__ import annotations

import colorsys
import random
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from maskrcnn.output.shapes import crop_polygons

from . import utils

Color = Any  # what matplotlib takes for one


def _pyplot() -> Any:
    import matplotlib.pyplot as plt

    return plt


def _show(figure: Any) -> Any:
    """Show a figure where something can; a headless backend would only warn."""
    import matplotlib

    if matplotlib.get_backend().lower() not in ("agg", "pdf", "ps", "svg", "cairo", "template"):
        _pyplot().show()
    return _quiet(figure)


def _quiet(value: Any) -> Any:
    """The value, which a notebook that has shown it does not show again as the result of the same cell."""
    shell = _notebook()
    if shell is None:
        return value
    cell, hook = shell.execution_count, shell.displayhook

    def again() -> None:
        # ipykernel's hook, unlike IPython's, does not say that it is active, but then it has a message.
        is_result = hook.is_active or getattr(hook, "msg", None) is not None
        if not (is_result and shell.execution_count == cell):
            from IPython.display import display

            del value._ipython_display_
            display(value)

    value._ipython_display_ = again
    return value


def _notebook() -> Any:
    """The running IPython, or None."""
    ipython = sys.modules.get("IPython")  # a notebook has it imported
    return ipython and ipython.get_ipython()


def _axes(ax: Any, figsize: tuple[float, float]) -> tuple[Any, bool]:
    """The axes given, or those of a new figure, and whether they are new."""
    return (ax, False) if ax is not None else (_figure(figsize).add_subplot(), True)


def _figure(figsize: tuple[float, float] | None = None) -> Any:
    """A new figure, pyplot's current one. Scripts save it and draw the next, so many may be open without a warning."""
    plt = _pyplot()
    with plt.rc_context({"figure.max_open_warning": 0}):
        return plt.figure(figsize=figsize)


def _frame(ax: Any, image: np.ndarray, top: float, left: float, right: float, title: str) -> None:
    """A margin around the image, no ticks, and a title."""
    height, width = image.shape[:2]
    ax.set_ylim(height + top, -top)
    ax.set_xlim(-left, width + right)
    ax.axis("off")
    ax.set_title(title)


def _rectangle(ax: Any, box: Any, color: Color, style: str = "solid", alpha: float | None = None) -> None:
    from matplotlib.patches import Rectangle

    y1, x1, y2, x2 = box
    ax.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, linewidth=2, alpha=alpha, linestyle=style, edgecolor=color,
                  facecolor="none")
    )  # fmt: skip


def _outline(ax: Any, mask: np.ndarray, color: Color) -> None:
    """The outline of a mask (h, w); matplotlib's pixel centres lie at whole numbers."""
    from matplotlib.patches import Polygon

    for points in crop_polygons(np.asarray(mask).astype(bool), (0, 0)):
        ax.add_patch(Polygon(points - 0.5, facecolor="none", edgecolor=color))


def _label(ax: Any, x: float, y: float, text: str, **box: Any) -> None:
    ax.text(x, y, text, size=11, color="w", **(box or {"backgroundcolor": "none"}))


def display_images(
    images: Sequence[np.ndarray], titles: Sequence[str] | None = None, cols: int = 4, cmap: Any = None,
    norm: Any = None, interpolation: str | None = None,
) -> Any:  # fmt: skip
    """Images in rows of ``cols``, each with its title. Returns the figure."""
    titles = titles if titles is not None else [""] * len(images)
    rows = len(images) // cols + 1
    figure = _figure((14, max(14 * rows // cols, 1)))
    for i, (image, title) in enumerate(zip(images, titles, strict=False)):
        ax = figure.add_subplot(rows, cols, i + 1)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
        ax.imshow(np.asarray(image).astype(np.uint8), cmap=cmap, norm=norm, interpolation=interpolation)
    return _show(figure)


def random_colors(N: int, bright: bool = True) -> list[tuple[float, float, float]]:
    """N colours of different hue as r, g, b in 0..1, in random order."""
    colors = [colorsys.hsv_to_rgb(i / N, 1, 1.0 if bright else 0.7) for i in range(N)]
    random.shuffle(colors)
    return colors


def apply_mask(image: np.ndarray, mask: np.ndarray, color: Color, alpha: float = 0.5) -> np.ndarray:
    """Blend a colour (0..1) into the pixels of the mask, in place; returns the image."""
    inside = np.asarray(mask) == 1
    for c in range(3):
        image[:, :, c][inside] = image[:, :, c][inside] * (1 - alpha) + alpha * color[c] * 255
    return image


def display_instances(
    image: np.ndarray, boxes: np.ndarray, masks: np.ndarray, class_ids: np.ndarray,
    class_names: Sequence[str], scores: np.ndarray | None = None, title: str = "",
    figsize: tuple[float, float] = (16, 16), ax: Any = None, show_mask: bool = True, show_bbox: bool = True,
    colors: Sequence[Any] | None = None, captions: Sequence[str] | None = None,
) -> Any:  # fmt: skip
    """An image with the box, mask, outline and name of each instance. Returns the figure.

    boxes (n, 4), masks (h, w, n), class_ids (n,) and scores (n,), as `MaskRCNN.detect` gives them
    """
    count = boxes.shape[0]
    if not count:
        print("\n*** No instances to display *** \n")
    elif not count == masks.shape[-1] == class_ids.shape[0]:
        raise ValueError(
            f"boxes, masks, class_ids: want as many of each, got {count}, {masks.shape[-1]}, {class_ids.shape[0]}"
        )
    ax, new = _axes(ax, figsize)
    colors = colors or random_colors(count)
    _frame(ax, image, 10, 10, 10, title)
    painted = image.astype(np.uint32)
    for i in range(count):
        if not np.any(boxes[i]):
            continue  # its mask was cut off
        y1, x1, _, _ = boxes[i]
        if show_bbox:
            _rectangle(ax, boxes[i], colors[i], "dashed", 0.7)
        score = scores[i] if scores is not None else None
        if captions:
            caption = captions[i]
        else:
            caption = f"{class_names[class_ids[i]]} {score:.3f}" if score else class_names[class_ids[i]]
        _label(ax, x1, y1 + 8, caption)
        if show_mask:
            painted = apply_mask(painted, masks[:, :, i], colors[i])
        _outline(ax, masks[:, :, i], colors[i])
    ax.imshow(painted.astype(np.uint8))
    return _show(ax.figure) if new else _quiet(ax.figure)


def display_differences(
    image: np.ndarray, gt_box: np.ndarray, gt_class_id: np.ndarray, gt_mask: np.ndarray,
    pred_box: np.ndarray, pred_class_id: np.ndarray, pred_score: np.ndarray, pred_mask: np.ndarray,
    class_names: Sequence[str], title: str = "", ax: Any = None, show_mask: bool = True,
    show_box: bool = True, iou_threshold: float = 0.5, score_threshold: float = 0.5,
) -> Any:  # fmt: skip
    """Truth in green and predictions in red, these with score / IoU. Returns the figure."""
    gt_match, pred_match, overlaps = utils.compute_matches(
        gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask,
        iou_threshold=iou_threshold, score_threshold=score_threshold,
    )  # fmt: skip
    colors = [(0, 1, 0, 0.8)] * len(gt_match) + [(1, 0, 0, 1)] * len(pred_match)
    captions = [""] * len(gt_match)
    for i, match in enumerate(pred_match):
        overlap = overlaps[i, int(match)] if match > -1 else overlaps[i].max(initial=0)
        captions.append(f"{pred_score[i]:.2f} / {overlap:.2f}")
    return display_instances(
        image, np.concatenate([gt_box, pred_box]), np.concatenate([gt_mask, pred_mask], axis=-1),
        np.concatenate([gt_class_id, pred_class_id]), class_names,
        np.concatenate([np.zeros(len(gt_match)), pred_score]), ax=ax, show_bbox=show_box, show_mask=show_mask,
        colors=colors, captions=captions,
        title=title or "Ground Truth and Detections\n GT=green, pred=red, captions: score/IoU",
    )  # fmt: skip


def draw_rois(
    image: np.ndarray, rois: np.ndarray, refined_rois: np.ndarray, mask: np.ndarray, class_ids: np.ndarray,
    class_names: Sequence[str], limit: int = 10,
) -> Any:  # fmt: skip
    """At most ``limit`` RoIs: dashed as proposed, grey for background, solid as refined, with their masks.

    mask: (n, m, m) of each RoI. Returns the figure, and prints how many are positive.
    """
    painted = image.copy()
    ids = np.arange(len(rois), dtype=np.int32)
    title = f"{len(ids)} ROIs"
    if len(rois) > limit:
        ids = np.random.choice(ids, limit, replace=False)  # noqa: NPY002
        title = f"Showing {len(ids)} random ROIs out of {len(rois)}"
    ax, _ = _axes(None, (12, 12))
    _frame(ax, image, 20, 50, 20, title)
    for i in ids:
        color = np.random.rand(3)  # noqa: NPY002
        _rectangle(ax, rois[i], color if class_ids[i] else "gray", "dashed")
        if not class_ids[i]:
            continue
        _rectangle(ax, refined_rois[i], color)
        (y1, x1), (ry1, rx1) = rois[i][:2], refined_rois[i][:2]
        ax.plot([x1, rx1], [y1, ry1], color=color)  # from corner to corner
        _label(ax, rx1, ry1 + 8, class_names[class_ids[i]])
        painted = apply_mask(
            painted, utils.unmold_mask(mask[i], rois[i][:4].astype(np.int32), image.shape), color
        )
    ax.imshow(painted)
    positive = int((class_ids > 0).sum())
    print("Positive ROIs: ", positive)
    print("Negative ROIs: ", int((class_ids == 0).sum()))
    print(f"Positive Ratio: {positive / max(len(class_ids), 1):.2f}")
    return _quiet(ax.figure)


def draw_box(image: np.ndarray, box: Sequence[int], color: Sequence[int]) -> np.ndarray:
    """Draw the sides of a box, 3 pixels wide, into the image; returns it. The colour is 0..255."""
    y1, x1, y2, x2 = (int(v) for v in box)
    image[y1 : y1 + 2, x1:x2] = color
    image[y2 : y2 + 2, x1:x2] = color
    image[y1:y2, x1 : x1 + 2] = color
    image[y1:y2, x2 : x2 + 2] = color
    return image


def display_top_masks(
    image: np.ndarray, mask: np.ndarray, class_ids: np.ndarray, class_names: Sequence[str], limit: int = 4
) -> Any:
    """The image, and the masks of the classes that cover most of it. Returns the figure."""
    images, titles = [image], [f"H x W={image.shape[0]}x{image.shape[1]}"]
    areas = {i: int(mask[:, :, class_ids == i].sum()) for i in np.unique(class_ids)}
    top = sorted((i for i in areas if areas[i]), key=lambda i: -areas[i])[:limit]
    for class_id in [*top, *[-1] * (limit - len(top))]:
        own = mask[:, :, class_ids == class_id]
        images.append((own * np.arange(1, own.shape[-1] + 1)).sum(-1))  # a shade for each instance
        titles.append(class_names[class_id] if class_id != -1 else "-")
    return display_images(images, titles=titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP: float, precisions: Sequence[float], recalls: Sequence[float]) -> Any:
    """Precision over recall. Returns the figure."""
    figure = _figure()
    ax = figure.add_subplot()
    ax.set_title(f"Precision-Recall Curve. AP@50 = {AP:.3f}")
    ax.set_ylim(0, 1.1)
    ax.set_xlim(0, 1.1)
    ax.plot(recalls, precisions)
    return _quiet(figure)


def plot_overlaps(
    gt_class_ids: np.ndarray, pred_class_ids: np.ndarray, pred_scores: np.ndarray, overlaps: np.ndarray,
    class_names: Sequence[str], threshold: float = 0.5,
) -> Any:  # fmt: skip
    """A grid of predictions and objects with their IoU, and whether the classes match. Returns the figure."""
    gt_class_ids, pred_class_ids = gt_class_ids[gt_class_ids != 0], pred_class_ids[pred_class_ids != 0]
    figure = _figure((12, 10))
    ax = figure.add_subplot()
    if overlaps.size:
        ax.imshow(overlaps, interpolation="nearest", cmap="Blues")
    names = [f"{class_names[int(i)]} ({pred_scores[k]:.2f})" for k, i in enumerate(pred_class_ids)]
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_xticks(np.arange(len(gt_class_ids)), [class_names[int(i)] for i in gt_class_ids], rotation=90)
    half = overlaps.max(initial=0) / 2
    for (i, j), overlap in np.ndenumerate(overlaps):
        verdict = "match" if gt_class_ids[j] == pred_class_ids[i] else "wrong"
        color = "white" if overlap > half else "black" if overlap > 0 else "grey"
        ax.text(j, i, f"{overlap:.3f}\n{verdict if overlap > threshold else ''}", ha="center", va="center",
                fontsize=9, color=color)  # fmt: skip
    ax.set_xlabel("Ground Truth")
    ax.set_ylabel("Predictions")
    figure.tight_layout()
    return _quiet(figure)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray | None = None, refined_boxes: np.ndarray | None = None,
    masks: np.ndarray | None = None, captions: Sequence[str] | None = None,
    visibilities: Sequence[int] | None = None, title: str = "", ax: Any = None,
) -> Any:  # fmt: skip
    """Boxes, dotted; refined boxes, solid, joined at the corner; masks (h, w, n) and captions. Returns the figure.

    visibilities: 0 grey, 1 dotted, 2 solid, for each box
    """
    given = boxes if boxes is not None else refined_boxes
    if given is None:
        raise ValueError("boxes, refined_boxes: want one of the two, got neither")
    ax, _ = _axes(ax, (12, 12))
    margin = image.shape[0] // 10
    _frame(ax, image, margin, margin, margin, title)
    from matplotlib.colors import to_rgb

    painted = image.astype(np.uint32)
    for i, hue in enumerate(random_colors(len(given))):
        visibility = visibilities[i] if visibilities is not None else 1
        color = "gray" if visibility == 0 else hue
        if boxes is not None:
            if not np.any(boxes[i]):
                continue
            style = "solid" if visibility == 2 else "dotted"
            _rectangle(ax, boxes[i], color, style, 0.5 if visibility == 0 else 1)
        at = None if boxes is None else boxes[i][:2]
        if refined_boxes is not None and visibility > 0:
            refined = refined_boxes[i].astype(np.int32)
            _rectangle(ax, refined, color)
            if at is not None:
                ax.plot([at[1], refined[1]], [at[0], refined[0]], color=color)
            at = refined[:2]
        if captions is not None and at is not None:
            _label(ax, at[1], at[0], captions[i], verticalalignment="top",
                   bbox={"facecolor": color, "alpha": 0.5, "pad": 2, "edgecolor": "none"})  # fmt: skip
        if masks is not None:
            painted = apply_mask(painted, masks[:, :, i], to_rgb(color))
            _outline(ax, masks[:, :, i], color)
    ax.imshow(painted.astype(np.uint8))
    return _quiet(ax.figure)


class Table(str):
    """The HTML of a table, as `display_table` returns it."""

    def _repr_html_(self) -> str:
        return str(self)


def display_table(table: Sequence[Sequence[Any]]) -> Table:
    """Rows of cells as an HTML table, shown where a notebook runs, printed elsewhere; returns the HTML."""
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in table)
    html = Table(f"<table>{rows}</table>")
    if _notebook() is not None:
        from IPython.display import display

        display(html)
    else:
        for row in table:
            print("  ".join(f"{re.sub('<[^>]*>', '', str(cell)):>24}" for cell in row))
    return _quiet(html)


def display_weight_stats(model: Any) -> Table:
    """A table of every array of weights: shape, least, greatest, standard deviation; suspicious ones are marked."""
    table: list[list[str]] = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in model.get_trainable_layers():
        for i, (variable, value) in enumerate(zip(layer.weights, layer.get_weights(), strict=True)):
            alert = ""
            if value.min() == value.max() and not (type(layer).__name__ == "Conv2D" and i == 1):
                alert = "<span style='color:red'>*** dead?</span>"  # what training has not touched
            if np.abs(value).max() > 1000:
                alert += "<span style='color:red'>*** Overflow?</span>"
            table.append([
                f"{variable.name}{alert}", str(value.shape), f"{value.min():+9.4f}", f"{value.max():+10.4f}",
                f"{value.std():+9.4f}",
            ])  # fmt: skip
    return display_table(table)
