"""Matterport's training step against recorded ones (tests/data/matterport/README.md, section 4)."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import DATA
from maskrcnn.engines import fast
from maskrcnn.errors import ConfigError
from maskrcnn.legacy import losses as L
from maskrcnn.legacy.targets import DetectionTargets, detection_targets
from maskrcnn.legacy.training import Inputs
from mrcnn import model as modellib
from mrcnn import utils
from mrcnn.config import Config

OPS = np.load(DATA / "matterport" / "ops.npz")


def config_of(recorded, **changes) -> Config:
    settings = json.loads(str(recorded["config_json"]))
    return type("Recorded", (Config,), {"NAME": "recorded", **settings, **changes})()


def gt_masks(recorded, i: int) -> np.ndarray:
    shape = recorded[f"gt_masks_shape_{i}"]
    return np.unpackbits(recorded[f"gt_masks_{i}"])[: np.prod(shape)].reshape(shape).astype(bool)


class Drawn(utils.Dataset):
    """The recorded images, as a script's data set."""

    def __init__(self, recorded) -> None:
        super().__init__()
        self.recorded = recorded
        for i in (1, 2, 3):
            self.add_class("shapes", i, f"shape{i}")
        for i in range(2):
            self.add_image("shapes", i, None)
        self.prepare()

    def load_image(self, image_id):
        return self.recorded[f"image_{image_id}"]

    def load_mask(self, image_id):
        return gt_masks(self.recorded, image_id), self.recorded[f"gt_class_ids_{image_id}"]


@pytest.fixture(scope="module", params=["train_given_rois", "train_minimask"])
def recorded(request):
    return np.load(DATA / "matterport" / f"{request.param}.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    sys.path.insert(0, str(DATA / "matterport"))
    from make_weights import build

    path = tmp_path_factory.mktemp("weights") / "r50.h5"
    build("resnet50", 4).write(path)
    return path


@pytest.fixture(scope="module")
def trainer(recorded, weights, tmp_path_factory):
    model = modellib.MaskRCNN("training", config_of(recorded), str(tmp_path_factory.mktemp("logs")))
    model.load_weights(str(weights), by_name=True)
    model.set_trainable(".*", verbose=0)
    return model.trainer(0.001, 0.9)


def test_rpn_targets(recorded) -> None:
    config = config_of(recorded)
    shapes = modellib.compute_backbone_shapes(config, config.IMAGE_SHAPE)
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, 1
    )
    everything = config_of(recorded, RPN_TRAIN_ANCHORS_PER_IMAGE=10000)
    for i in range(2):
        truth = recorded[f"gt_class_ids_{i}"], recorded[f"gt_boxes_{i}"]
        match, deltas = modellib.build_rpn_targets((128, 128, 3), anchors, *truth, everything)
        wanted = recorded[f"rpn_bbox_all_{i}"]
        assert match.dtype == np.int32
        assert np.array_equal(match, recorded[f"rpn_match_all_{i}"])
        assert np.allclose(deltas[: len(wanted)], wanted, rtol=0, atol=1e-12)
        assert not deltas[len(wanted) :].any()
        np.random.seed(100 + i)  # noqa: NPY002
        match, deltas = modellib.build_rpn_targets((128, 128, 3), anchors, *truth, config)
        assert np.array_equal(match, recorded["input_rpn_match"][i, :, 0])
        assert np.allclose(deltas, recorded["input_rpn_bbox"][i], rtol=0, atol=1e-12)


def test_ground_truth_of_an_image(recorded) -> None:
    dataset, config = Drawn(recorded), config_of(recorded)
    shape = recorded["input_gt_masks_shape"]
    minis = np.unpackbits(recorded["input_gt_masks_packed"])[: np.prod(shape)].reshape(shape)
    for i in range(2):
        image, meta, ids, boxes, masks = modellib.load_image_gt(dataset, config, i, use_mini_mask=True)
        assert np.array_equal(image, recorded[f"image_{i}"])
        assert np.array_equal(meta, recorded["image_metas"][i])
        assert np.array_equal(ids, recorded[f"gt_class_ids_{i}"])
        assert np.array_equal(boxes, recorded[f"gt_boxes_{i}"])
        assert np.array_equal(masks, minis[i, :, :, : len(ids)])
        assert masks.dtype == bool


def test_a_batch_of_the_generator(recorded) -> None:
    config = config_of(recorded)
    inputs, outputs = next(modellib.data_generator(Drawn(recorded), config, shuffle=False, batch_size=2))
    images, metas, match, deltas, ids, boxes, masks = inputs
    assert outputs == []
    assert np.array_equal(metas, recorded["image_metas"])
    assert match.shape == recorded["input_rpn_match"].shape
    assert match.dtype == np.int32
    assert deltas.shape == recorded["input_rpn_bbox"].shape
    assert np.array_equal(ids[:, :8], recorded["input_gt_class_ids"])
    assert np.array_equal(boxes[:, :8], recorded["input_gt_boxes"])
    assert masks.shape == (2, 56, 56, 100)
    assert (images.shape, images.dtype) == ((2, 128, 128, 3), np.float32)
    assert np.allclose(images[0], recorded["image_0"] - config.MEAN_PIXEL, atol=1e-4)


def test_given_rois_give_the_recorded_set_of_targets(recorded) -> None:
    if "input_rois" not in recorded:
        return
    config = config_of(recorded)
    shape = recorded["input_gt_masks_shape"]
    minis = np.unpackbits(recorded["input_gt_masks_packed"])[: np.prod(shape)].reshape(shape).astype(bool)
    for i in range(2):
        boxes = utils.norm_boxes(recorded["input_gt_boxes"][i], (128, 128))
        boxes[recorded["input_gt_class_ids"][i] == 0] = 0
        rois = utils.norm_boxes(recorded["input_rois"][i], (128, 128))
        found = detection_targets(
            *(torch.from_numpy(x) for x in (rois, recorded["input_gt_class_ids"][i], boxes, minis[i])),
            count=config.TRAIN_ROIS_PER_IMAGE, positive=config.ROI_POSITIVE_RATIO, std=config.BBOX_STD_DEV,
            mask_side=28, mini_masks=True,
        )  # fmt: skip
        positive = int((recorded["target_class_ids"][i] > 0).sum())
        assert len(found.deltas) == positive
        wanted_rois = recorded["target_rois"][i]
        for row in range(len(wanted_rois)):
            same = np.flatnonzero(np.abs(found.rois.numpy() - wanted_rois[row]).max(1) < 1e-6)
            assert len(same), row
            assert recorded["target_class_ids"][i, row] in found.class_ids[same]
            if row < positive:
                at = next(j for j in same if j < positive)
                assert np.allclose(found.deltas[at], recorded["target_bbox"][i, row], atol=1e-4)
                assert np.array_equal(found.masks[at], recorded["target_mask"][i, row])


@pytest.mark.parametrize(("attach", "within"), [(fast.detach, 0.01), (fast.attach_gradients, 0.03)])
def test_losses_and_gradients(recorded, trainer, monkeypatch, attach, within) -> None:
    """The five losses, and the norm of every gradient, of the network on the recorded samples.

    Norms agree to 1 %: the weights are random, and rounding decides which units of 50 layers are on; with kernels,
    which round differently, to 3 %.
    """
    attach(trainer.training.network)
    trainer.optimizer.zero_grad()
    shape = recorded["input_gt_masks_shape"]
    minis = np.unpackbits(recorded["input_gt_masks_packed"])[: np.prod(shape)].reshape(shape).astype(bool)
    inputs = Inputs.of([
        np.stack([recorded[f"image_{i}"] for i in range(2)]) - np.array([123.7, 116.8, 103.9]),
        recorded["image_metas"], recorded["input_rpn_match"], recorded["input_rpn_bbox"],
        recorded["input_gt_class_ids"], recorded["input_gt_boxes"], minis,
        *([recorded["input_rois"]] if "input_rois" in recorded else []),
    ])  # fmt: skip
    sample = trainer.training._targets

    def recorded_samples(*args):
        """The reference drew other background. Of the positives, whose set is the same, deltas with gradients."""
        targets = []
        for i, own in enumerate(sample(*args)):
            rois = torch.from_numpy(recorded["target_rois"][i])
            ids = torch.from_numpy(recorded["target_class_ids"][i]).long()
            assert len(own.deltas) == (ids > 0).sum()
            distance = (rois[ids > 0][:, None] - own.rois[None, : len(own.deltas)]).abs().amax(2)
            nearest = distance.argmin(1) if len(own.deltas) else ids[:0]
            assert (distance[torch.arange(len(nearest)), nearest] < 1e-4).all()
            deltas = own.deltas[nearest]
            wanted = torch.from_numpy(recorded["target_bbox"][i])[ids > 0]
            assert torch.allclose(deltas.detach(), wanted, rtol=0, atol=2e-3)
            masks = torch.from_numpy(recorded["target_mask"][i]).float()[ids > 0]
            targets.append(DetectionTargets(rois, ids, deltas, masks))
        return targets

    monkeypatch.setattr(trainer.training, "_targets", recorded_samples)
    losses = trainer.losses(inputs)
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(recorded[name]), rel=1e-4), name
    torch.stack(list(losses.values())).sum().backward()
    for name, norm in zip(recorded["grad_names"], recorded["grad_norms"], strict=True):
        key = "/".join(str(name).split(":")[0].split("/")[-2:])
        assert float(trainer.parameters[key].grad.norm()) == pytest.approx(norm, rel=within, abs=1e-3), name


def test_losses_of_recorded_outputs(recorded) -> None:
    """From recorded outputs and targets, to 1e-5."""

    def tensors(*names):
        return (torch.from_numpy(recorded[name]) for name in names)

    ids, masks = recorded["target_class_ids"], recorded["mrcnn_mask"]
    image, roi = np.nonzero(ids > 0)
    chosen = torch.from_numpy(masks[image, roi][np.arange(len(roi)), :, :, ids[image, roi]])
    active = torch.from_numpy(recorded["image_metas"][:, 12:]).long()
    ours = {
        "rpn_class_loss": L.rpn_class_loss(*tensors("input_rpn_match", "rpn_class_logits")),
        "rpn_bbox_loss": L.rpn_bbox_loss(*tensors("input_rpn_bbox", "input_rpn_match", "rpn_bbox")),
        "mrcnn_class_loss": L.mrcnn_class_loss(*tensors("target_class_ids", "mrcnn_class_logits"), active),
        "mrcnn_bbox_loss": L.mrcnn_bbox_loss(*tensors("target_bbox", "target_class_ids", "mrcnn_bbox")),
        "mrcnn_mask_loss": L.mrcnn_mask_loss(torch.from_numpy(recorded["target_mask"][image, roi]), chosen),
    }
    for name, value in ours.items():
        assert float(value) == pytest.approx(float(recorded[name]), abs=1e-5), name


def test_random_rois_have_an_area_and_lie_in_the_image() -> None:
    boxes = np.array([[10, 20, 50, 60], [0, 0, 5, 5]], np.int32)
    rois = modellib.generate_random_rois((100, 80, 3), 50, np.array([1, 2]), boxes)
    assert (rois.shape, rois.dtype) == ((50, 4), np.int32)
    assert (rois[:, 2:] > rois[:, :2]).all()
    assert (rois >= 0).all()
    assert (rois[:, 2] <= 100).all()
    assert (rois[:, 3] <= 80).all()


def test_detection_targets_of_a_roi_that_is_the_object() -> None:
    config = SimpleNamespace(
        TRAIN_ROIS_PER_IMAGE=4, ROI_POSITIVE_RATIO=0.5, NUM_CLASSES=3, BBOX_STD_DEV=np.full(4, 0.1),
        MASK_SHAPE=[4, 4], USE_MINI_MASK=False, IMAGE_SHAPE=(32, 32, 3),
    )  # fmt: skip
    mask = np.zeros((32, 32, 1), bool)
    mask[4:12, 4:12] = True
    box = np.array([[4, 4, 12, 12]], np.int32)
    rois = np.array([[4, 4, 12, 12], [20, 20, 30, 30], [0, 20, 9, 31]], np.int32)
    kept, ids, deltas, masks = modellib.build_detection_targets(
        rois, np.array([2], np.int32), box, mask, config
    )
    assert kept[0].tolist() == [4, 4, 12, 12]
    assert ids.tolist() == [2, 0, 0, 0]
    assert not deltas.any()
    assert (masks[0, ..., 2] == 1).all()
    assert masks.sum() == 16


def test_the_five_losses_as_functions_of_the_graph() -> None:
    """`ops.npz`: values of the reference's own functions, the mask loss with its clipped probabilities."""
    recorded = {name: torch.from_numpy(OPS[name]) for name in OPS if name.startswith("loss_")}
    match, ids, target = (recorded[f"loss_{n}"] for n in ("rpn_match", "target_class_ids", "target_bbox"))
    logits, deltas = recorded["loss_rpn_logits"], recorded["loss_rpn_bbox"]
    wanted, pred = recorded["loss_rpn_target_bbox"], recorded["loss_pred_bbox"]
    masks, mask_pred = recorded["loss_target_mask"], recorded["loss_pred_mask"]
    nothing, active = torch.zeros_like(match), recorded["loss_active"]
    values = {
        "rpn_class": modellib.rpn_class_loss_graph(match, logits),
        "rpn_class_none": modellib.rpn_class_loss_graph(nothing, logits),
        "rpn_bbox_out": modellib.rpn_bbox_loss_graph(None, wanted, match, deltas),
        "rpn_bbox_none": modellib.rpn_bbox_loss_graph(None, wanted, nothing, deltas),
        "class": modellib.mrcnn_class_loss_graph(ids, recorded["loss_class_logits"], active),
        "bbox": modellib.mrcnn_bbox_loss_graph(target, ids, pred),
        "bbox_none": modellib.mrcnn_bbox_loss_graph(target, torch.zeros_like(ids), pred),
        "mask": modellib.mrcnn_mask_loss_graph(masks, ids, mask_pred),
        "mask_none": modellib.mrcnn_mask_loss_graph(masks, torch.zeros_like(ids), mask_pred),
    }
    for name, value in values.items():
        assert float(value) == pytest.approx(float(OPS[f"loss_{name}"]), abs=1e-5), name


def test_a_crowd_keeps_anchors_from_being_negative() -> None:
    config = SimpleNamespace(RPN_TRAIN_ANCHORS_PER_IMAGE=10, RPN_BBOX_STD_DEV=np.full(4, 0.5))
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60], [80, 80, 90, 90]], float)
    boxes = np.array([[0, 0, 10, 10], [55, 55, 95, 58]], np.int32)
    match, deltas = modellib.build_rpn_targets((100, 100, 3), anchors, np.array([1, -1]), boxes, config)
    assert match.tolist() == [1, 1, 0, -1]  # IoU 1 and 10/12; touches the crowd; far from all
    assert deltas[0].tolist() == [0, 0, 0, 0]
    # The second anchor is centred at x = 6 and 12 wide: the object is 1 / 12 to the left, and narrower.
    assert np.allclose(deltas[1], [0, -1 / 12 / 0.5, 0, np.log(10 / 12) / 0.5])
    assert not deltas[2:].any()


def test_more_instances_than_fit_are_sampled() -> None:
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    config = type("One", (Narrow,), {"MAX_GT_INSTANCES": 1})()
    inputs, _ = next(modellib.data_generator(Squares(2), config, shuffle=False, batch_size=2))
    assert inputs[4].shape == (2, 1)
    assert (inputs[4] > 0).all()
    assert inputs[6].shape == (2, 56, 56, 1)


def test_a_data_set_without_instances_says_so_rather_than_search_for_ever() -> None:
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    class Empty(Squares):
        def load_mask(self, image_id):
            return np.zeros((64, 64, 0), bool), np.zeros(0, np.int32)

    with pytest.raises(ConfigError, match="load_mask"):
        next(modellib.data_generator(Empty(3), Narrow()))


def test_an_image_that_fails_is_left_out_and_the_sixth_raises(caplog) -> None:
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    class Broken(Squares):
        def load_image(self, image_id):
            if image_id == 0:
                raise OSError("unreadable")
            return super().load_image(image_id)

    feed = modellib.data_generator(Broken(2), Narrow(), shuffle=False)
    inputs, _ = next(feed)
    assert inputs[1][0, 0] == 1
    assert "Error processing image" in caplog.text
    with pytest.raises(OSError, match="unreadable"):
        for _ in range(9):
            next(feed)


def test_an_augmenter_of_imgaug_moves_image_and_masks_alike(monkeypatch) -> None:
    """A stand-in with imgaug's three calls; only augmenters that move pixels see the masks."""
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    class Fliplr:
        def to_deterministic(self):
            return self

        def augment_image(self, image, hooks=None):
            moved = hooks is None or hooks.activator(image, self, [], True)
            return image[:, ::-1] if moved else image

    class Dark(Fliplr):
        def augment_image(self, image, hooks=None):
            return image if hooks and not hooks.activator(image, self, [], True) else image // 2

    monkeypatch.setitem(sys.modules, "imgaug", SimpleNamespace(HooksImages=SimpleNamespace))
    data, config = Squares(1), Narrow()
    plain = modellib.load_image_gt(data, config, 0)
    flipped = modellib.load_image_gt(data, config, 0, augmentation=Fliplr())
    assert np.array_equal(flipped[0], plain[0][:, ::-1])
    assert np.array_equal(flipped[4], plain[4][:, ::-1])
    dark = modellib.load_image_gt(data, config, 0, augmentation=Dark())
    assert np.array_equal(dark[0], plain[0] // 2)
    assert np.array_equal(dark[4], plain[4])


def test_steps_bring_the_loss_down(tmp_path) -> None:
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    torch.manual_seed(0)
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    feed = modellib.data_generator(Squares(2), model.config, shuffle=False, batch_size=2)
    inputs = Inputs.of(next(feed)[0])
    trainer = model.trainer(0.01, 0.9)
    losses = [trainer.step(inputs)["loss"] for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_gradient_of_each_array_is_clipped(tmp_path) -> None:
    """Larger ones to the norm of the config; what is small beside them stays, and learns as fast as it can."""
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    feed = modellib.data_generator(Squares(2), Narrow(), shuffle=False, batch_size=2)
    inputs = Inputs.of(next(feed)[0])

    def gradients(most: float) -> dict[str, torch.Tensor]:
        config = Narrow()
        config.GRADIENT_CLIP_NORM = most
        torch.manual_seed(0)
        trainer = modellib.MaskRCNN("training", config, str(tmp_path)).trainer(0.01, 0.9)
        trainer.backward(trainer.losses(inputs))
        return {key: leaf.grad for key, leaf in trainer.parameters.items()}

    free = gradients(0)
    limit = float(np.median([grad.norm() for grad in free.values()]))
    for key, grad in gradients(limit).items():
        wanted = free[key] * min(limit / float(free[key].norm() or 1), 1)
        assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-7), key


def test_a_step_whose_loss_is_not_finite_changes_nothing(tmp_path) -> None:
    from test_mrcnn_model import Narrow
    from test_mrcnn_shapes import Squares

    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    feed = modellib.data_generator(Squares(2), model.config, shuffle=False, batch_size=2)
    arrays, _ = next(feed)
    arrays[0][0, 0, 0, 0] = np.nan
    before = {key: array.clone() for key, array in model.keras_model.arrays.items()}
    assert np.isnan(model.trainer(0.01, 0.9).step(Inputs.of(arrays))["loss"])
    assert all(torch.equal(before[key], array) for key, array in model.keras_model.arrays.items())
