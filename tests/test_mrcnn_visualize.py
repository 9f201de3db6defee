"""`mrcnn.visualize` under a headless backend: what is on the axes, what is returned, and no warning."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from mrcnn import model as modellib
from mrcnn import parallel_model, visualize
from test_mrcnn_model import Narrow

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGE = np.full((40, 60, 3), 100, np.uint8)
BOXES = np.array([[5, 10, 25, 30], [20, 40, 40, 60]], np.int32)
MASKS = np.zeros((40, 60, 2), bool)
MASKS[5:25, 10:30, 0] = MASKS[20:40, 40:60, 1] = True
IDS, NAMES, SCORES = np.array([1, 2], np.int32), ["BG", "cat", "dog"], np.array([0.9, 0.25], np.float32)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    pyplot.close("all")


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def shown(figure, axes: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[axes].images[0].get_array())


def test_instances_have_boxes_outlines_masks_and_captions() -> None:
    figure = visualize.display_instances(
        IMAGE, BOXES, MASKS, IDS, NAMES, SCORES, title="pets", colors=[(1, 0, 0), (0, 0, 1)]
    )
    ax = figure.axes[0]
    assert ax.get_title() == "pets"
    assert texts(figure) == ["cat 0.900", "dog 0.250"]
    rectangles = [p for p in ax.patches if type(p).__name__ == "Rectangle"]
    assert [(r.get_x(), r.get_y(), r.get_width(), r.get_height()) for r in rectangles] == [
        (10, 5, 20, 20), (40, 20, 20, 20)
    ]  # fmt: skip
    outline = next(p for p in ax.patches if type(p).__name__ == "Polygon").get_xy()
    assert outline.min(0).tolist() == [9.5, 4.5]  # edges of pixels, whose centres are whole numbers
    assert outline.max(0).tolist() == [29.5, 24.5]
    assert shown(figure)[6, 11].tolist() == [177, 50, 50]  # half of 100, half of pure red
    assert shown(figure)[0, 0].tolist() == [100, 100, 100]
    assert (IMAGE == 100).all()


def test_instances_on_given_axes_without_boxes_and_masks() -> None:
    _, ax = pyplot.subplots()
    figure = visualize.display_instances(
        IMAGE, BOXES, MASKS, IDS, NAMES, ax=ax, show_mask=False, show_bbox=False, captions=["a", "b"]
    )
    assert figure is ax.figure
    assert texts(figure) == ["a", "b"]
    assert (shown(figure) == 100).all()


def test_a_notebook_does_not_show_a_picture_again_as_the_result_of_its_cell(monkeypatch) -> None:
    hook, displayed = SimpleNamespace(is_active=True), []
    shell = SimpleNamespace(execution_count=1, displayhook=hook)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=displayed.append))
    result, earlier, asked = (visualize.plot_precision_recall(0.5, [1, 0], [0, 1]) for _ in range(3))
    result._ipython_display_()
    assert displayed == []
    shell.execution_count = 2  # a later cell names the figure
    earlier._ipython_display_()
    hook.is_active, shell.execution_count = False, 1  # display(figure), or plt.show(), in the same cell
    asked._ipython_display_()
    assert displayed == [earlier, asked]


def test_a_script_may_leave_many_figures_open() -> None:
    for _ in range(21):  # matplotlib warns of more than 20
        figure = visualize.plot_precision_recall(0.5, [1, 0], [0, 1])
    assert pyplot.gcf() is figure


def test_no_instance_is_said(capsys) -> None:
    visualize.display_instances(IMAGE, np.zeros((0, 4), int), np.zeros((40, 60, 0)), np.zeros(0, int), NAMES)
    assert "*** No instances to display ***" in capsys.readouterr().out


def test_differences_show_score_and_overlap() -> None:
    figure = visualize.display_differences(
        IMAGE, BOXES[:1], IDS[:1], MASKS[..., :1], BOXES, IDS, SCORES, MASKS, NAMES
    )
    assert texts(figure) == ["", "0.90 / 1.00", "0.25 / 0.00"]
    assert "GT=green, pred=red" in figure.axes[0].get_title()
    nothing = np.zeros((0, 4), int), np.zeros(0, int), np.zeros((40, 60, 0), bool)
    figure = visualize.display_differences(IMAGE, *nothing, BOXES, IDS, SCORES, MASKS, NAMES)
    assert texts(figure) == ["0.90 / 0.00", "0.25 / 0.00"]


def test_rois(capsys) -> None:
    masks = np.ones((2, 28, 28), np.float32)
    figure = visualize.draw_rois(IMAGE, BOXES, BOXES + 1, masks, np.array([1, 0]), NAMES)
    assert figure.axes[0].get_title() == "2 ROIs"
    assert texts(figure) == ["cat"]
    assert "Positive Ratio: 0.50" in capsys.readouterr().out
    assert (
        "1 random ROIs out of 2"
        in visualize.draw_rois(IMAGE, BOXES, BOXES, masks, np.array([1, 1]), NAMES, limit=1)
        .axes[0]
        .get_title()
    )


def test_boxes_and_refined_boxes() -> None:
    figure = visualize.draw_boxes(
        IMAGE, BOXES, BOXES + 2, MASKS, captions=["a", "b"], visibilities=[0, 2], title="t"
    )
    assert shown(figure)[6, 11].tolist() == [114, 114, 114]  # half of 100, half of matplotlib's grey, 128
    rectangles = [p for p in figure.axes[0].patches if type(p).__name__ == "Rectangle"]
    assert len(rectangles) == 3  # the grey one is not refined
    assert texts(figure) == ["a", "b"]
    assert visualize.draw_boxes(IMAGE, refined_boxes=BOXES.astype(float)).axes[0].patches
    with pytest.raises(ValueError, match="neither"):
        visualize.draw_boxes(IMAGE)


def test_a_box_is_drawn_into_the_array() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    drawn = visualize.draw_box(image, BOXES[0] // 2, (1, 2, 3))
    assert drawn is image
    assert image[2, 5].tolist() == [1, 2, 3]
    assert image[8, 10].tolist() == [0, 0, 0]


def test_top_masks() -> None:
    figure = visualize.display_top_masks(IMAGE, MASKS, np.array([2, 2]), NAMES, limit=2)
    assert [ax.get_title() for ax in figure.axes] == ["H x W=40x60", "dog", "-"]
    assert set(np.unique(shown(figure, 1))) == {0, 1, 2}


def test_images_in_rows() -> None:
    figure = visualize.display_images([IMAGE, IMAGE[..., 0]], titles=["a", "b"], cols=2, cmap="gray")
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    visualize.display_images([IMAGE], cols=40)


def test_curves_and_grids() -> None:
    figure = visualize.plot_precision_recall(0.5, [1, 0.5, 0], [0, 0.5, 1])
    assert figure.axes[0].get_title() == "Precision-Recall Curve. AP@50 = 0.500"
    figure = visualize.plot_overlaps(IDS, np.array([1, 1]), SCORES, np.array([[0.8, 0], [0, 0.7]]), NAMES)
    assert texts(figure) == ["0.800\nmatch", "0.000\n", "0.000\n", "0.700\nwrong"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["cat (0.90)", "cat (0.25)"]
    nothing = visualize.plot_overlaps(IDS, np.array([], int), np.array([]), np.zeros((0, 2)), NAMES)
    assert texts(nothing) == []


def test_tables(capsys) -> None:
    assert visualize.display_table([["a", 1]]) == "<table><tr><td>a</td><td>1</td></tr></table>"
    html = visualize.display_weight_stats(modellib.MaskRCNN("inference", Narrow(), "logs"))
    assert "<td>rpn_conv_shared/kernel:0</td><td>(3, 3, 8, 512)</td>" in html
    assert "bn_conv1/gamma:0<span style='color:red'>*** dead?</span>" in html
    assert "<td>conv1/bias:0</td>" in html  # of a convolution a constant bias is nothing to see
    assert "mrcnn_mask_deconv/bias:0<span" in html
    printed = capsys.readouterr().out
    assert "bn_conv1/gamma:0*** dead?" in printed


def test_colours_are_as_many_as_asked() -> None:
    assert visualize.random_colors(0) == []
    red, cyan = sorted(visualize.random_colors(2), reverse=True)
    assert np.allclose([red, cyan], [(1, 0, 0), (0, 1, 1)])


def test_matplotlib_is_imported_only_to_draw() -> None:
    program = "import sys, maskrcnn, mrcnn.model, mrcnn.visualize; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_parallel_model_forwards() -> None:
    inner = SimpleNamespace(layers=[1], outputs=(2,), summary=lambda: None)
    with pytest.warns(UserWarning, match="one device"):
        parallel = parallel_model.ParallelModel(inner, 2)
    assert parallel.layers == [1]
    assert parallel.make_parallel() == [2]
    parallel.summary()
