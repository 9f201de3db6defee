"""Scripts and notebooks in the manner of Matterport's, from their imports to their last picture."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.model import log
from mrcnn.visualize import display_images
from test_download import CONTENT, server  # noqa: F401  # a fixture
from test_mrcnn_model import Narrow
from test_mrcnn_shapes import Squares


@pytest.fixture(autouse=True)
def quiet():
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*random weights")
        yield pyplot
    pyplot.close("all")


def test_looking_at_data_and_what_training_draws_from_it(capsys) -> None:
    config, dataset = Narrow(), Squares(4)
    image = dataset.load_image(1)
    mask, class_ids = dataset.load_mask(1)
    visualize.display_top_masks(image, mask, class_ids, dataset.class_names)
    image, _, scale, padding, _ = utils.resize_image(
        image, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM, mode=config.IMAGE_RESIZE_MODE
    )
    boxes = utils.extract_bboxes(utils.resize_mask(mask, scale, padding))
    assert boxes.shape == (len(class_ids), 4)
    image, _, class_ids, boxes, mask = modellib.load_image_gt(dataset, config, 1, use_mini_mask=True)
    mask = utils.expand_mask(boxes, mask, image.shape)
    visualize.display_instances(image, boxes, mask, class_ids, dataset.class_names)

    shapes = modellib.compute_backbone_shapes(config, config.IMAGE_SHAPE)
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )  # fmt: skip
    np.random.seed(0)  # noqa: NPY002  # which RoIs are drawn
    feed = modellib.data_generator(
        dataset, config, shuffle=True, random_rois=200, batch_size=4, detection_targets=True
    )
    [images, metas, match, deltas, *_, rois], [ids, roi_deltas, roi_masks] = next(feed)
    assert metas.shape == (4, config.IMAGE_META_SIZE)
    assert modellib.parse_image_meta(metas)["image_id"][0] in dataset.image_ids
    chosen = np.where(match[0] == 1)[0]
    refined = utils.apply_box_deltas(anchors[chosen], deltas[0, : len(chosen)] * config.RPN_BBOX_STD_DEV)
    image = modellib.unmold_image(images[0], config)
    visualize.draw_boxes(image, boxes=anchors[chosen], refined_boxes=refined)
    # A positive anchor, moved by its deltas, is the box of an instance.
    truth = modellib.load_image_gt(dataset, config, int(metas[0, 0]))[3]
    assert utils.compute_overlaps(refined, truth).max(1).min() > 0.999

    ids, every = ids[:, :, 0], np.arange(rois.shape[1])
    moved = utils.apply_box_deltas(
        rois[0].astype(np.float32), roi_deltas[0, every, ids[0]] * config.BBOX_STD_DEV
    )
    assert utils.compute_overlaps(moved[ids[0] > 0], truth).max(1).min() > 0.99
    masks = roi_masks[0, every, :, :, ids[0]]
    visualize.draw_rois(image, rois[0], moved, masks, ids[0], dataset.class_names)
    display_images(
        [visualize.draw_box(image.copy(), rois[0, 0], [255, 0, 0]), masks[0] * 255], ["RoI", "mask"]
    )
    assert "Positive Ratio: " in capsys.readouterr().out


def test_looking_into_a_model(capsys) -> None:
    class InferenceConfig(Narrow):
        DETECTION_MIN_CONFIDENCE = 0
        DETECTION_MAX_INSTANCES = 8

    config, dataset = InferenceConfig(), Squares(2)
    model = modellib.MaskRCNN(mode="inference", model_dir="logs", config=config)
    image, _, class_ids, boxes, mask = modellib.load_image_gt(dataset, config, 1, use_mini_mask=False)
    r = model.detect([image], verbose=1)[0]
    truth, found = (boxes, class_ids, mask), (r["rois"], r["class_ids"], r["scores"], r["masks"])
    log("gt_mask", mask)
    AP, precisions, recalls, overlaps = utils.compute_ap(*truth, *found)
    visualize.plot_precision_recall(AP, precisions, recalls)
    visualize.plot_overlaps(class_ids, r["class_ids"], r["scores"], overlaps, dataset.class_names)
    visualize.display_differences(image, *truth, *found, dataset.class_names)
    match, _ = modellib.build_rpn_targets(image.shape, model.anchors, class_ids, boxes, model.config)
    assert len(match) == len(model.anchors)

    pillar = model.keras_model.get_layer("ROI").output
    names = ("ROI/rpn_non_max_suppression:0", "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0")
    node = next(node for node in (model.ancestor(pillar, name) for name in names) if node is not None)
    rpn = model.run_graph([image], [
        ("rpn_class", model.keras_model.get_layer("rpn_class").output),
        ("clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
        ("kept", node),
        ("proposals", pillar),
    ])  # fmt: skip
    order = np.argsort(rpn["rpn_class"][:, :, 1].flatten())[::-1]
    visualize.draw_boxes(image, boxes=model.anchors[order[:9]])
    clipped = utils.denorm_boxes(rpn["clipped"][0], image.shape[:2])
    visualize.draw_boxes(image, refined_boxes=clipped[rpn["kept"][:9]])

    heads = model.run_graph([image], [
        (name, model.keras_model.get_layer(name).output)
        for name in ("mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "mrcnn_detection")
    ])  # fmt: skip
    best = heads["mrcnn_class"][0].argmax(1)
    deltas = heads["mrcnn_bbox"][0, np.arange(len(best)), best]
    h, w = config.IMAGE_SHAPE[:2]
    proposals = np.around(rpn["proposals"][0] * np.array([h, w, h, w])).astype(np.int32)
    refined = utils.apply_box_deltas(proposals, deltas * config.BBOX_STD_DEV).astype(np.int32)
    visualize.draw_boxes(
        image, boxes=proposals[:9], refined_boxes=refined[:9], visibilities=np.where(best > 0, 2, 1)[:9],
        captions=[dataset.class_names[c] for c in best[:9]], title="RoIs",
    )  # fmt: skip
    ids = heads["mrcnn_detection"][0, :, 4].astype(np.int32)
    at = utils.denorm_boxes(heads["mrcnn_detection"][0, :, :4], image.shape[:2])
    for i in np.flatnonzero(ids)[:2]:
        assert utils.unmold_mask(heads["mrcnn_mask"][0, i, :, :, ids[i]], at[i], image.shape).shape == (h, w)
    visualize.display_weight_stats(model)
    plain = [layer for layer in model.get_trainable_layers() if layer.__class__.__name__ == "Conv2D"]
    assert plain[0].name == "conv1"
    assert plain[0].weights[0].name == "conv1/kernel:0"
    assert "Processing 1 images" in capsys.readouterr().out


def test_weights_are_downloaded_from_where_the_script_says(tmp_path: Path, monkeypatch, request) -> None:
    state = request.getfixturevalue("server")
    monkeypatch.setattr(utils, "COCO_MODEL_URL", state.url)
    utils.download_trained_weights(str(tmp_path / "mask_rcnn_coco.h5"), verbose=0)
    assert (tmp_path / "mask_rcnn_coco.h5").read_bytes() == CONTENT
