"""A training step against recorded ones of torchvision 0.29.2 and Detectron2 0.6: matches, samples, losses, gradients.

Chance is taken out: our draws are replaced by the recorded ones, which are checked to be among those that we could
have drawn, and the proposals by the recorded ones, so that their order is the same. Losses are computed twice: from
the recorded outputs of the network, to rounding, and through our own network, where rounding grows on its way.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import maskrcnn
import recorded
from conftest import DATA
from maskrcnn.model import losses, mask_rcnn, targets
from maskrcnn.model.losses import Sampled
from maskrcnn.records import ImageBatch, Proposals, Target
from maskrcnn.weights import detectron2, torchvision
from maskrcnn.weights.state_dict import spell
from recorded import Recording

# Smooth L1's beta, the names of the five losses, and of the sampled anchors' count: torchvision divides by those that
# were drawn, Detectron2 by 256 for each image; here both draw 256.
CASES = {
    "torchvision": ("v1_train", torchvision, 1 / 9,
                    ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")),
    "detectron2": ("r50_train", detectron2, 0.0,
                   ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")),
}  # fmt: skip
ANCHORS = 512  # of both images


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The recording, its name, the model that it was made with, and our sampled outputs and targets for it."""
    name, folder = request.param, DATA / request.param
    golden = Recording(
        np.load(folder / f"{CASES[name][0]}.npz"), folder, background_first=name == "torchvision"
    )
    made = recorded.module(folder / "make_weights.py")
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    made.write(path, made.build("v1")) if name == "torchvision" else made.write(
        path, made.build("r50"), "pth"
    )
    sizes = {"min_size": 160, "max_size": 256} if name == "torchvision" else {}
    model = maskrcnn.load(path, **sizes)
    return name, golden, model, _sampled(golden, model)


def _sampled(golden: Recording, model: maskrcnn.MaskRCNN) -> Sampled:
    """Our targets and outputs for the recorded samples; asserts that each draw is one of ours."""
    candidates = [golden[f"rpn_proposals_{i}"] for i in range(2)]
    index = torch.cat([torch.full((len(boxes),), i) for i, boxes in enumerate(candidates)])
    draws = _draws(golden)

    def sample(matched: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        labels, positive, negative = next(draws)
        assert torch.where(matched >= 0, 1, matched + 1).equal(labels)  # ours: -1 below, -2 between
        return positive, negative

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "sample", sample)
        patch.setattr(
            mask_rcnn, "suppress", lambda *_: Proposals(torch.cat(candidates), torch.zeros(len(index)), index)
        )
        return model._sampled(*_inputs(golden, model), None, targets.PAPER, model.config)


def _draws(golden: Recording) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For the anchors of each image, then for its proposals: 1, 0 or -1 (neither) for each, and what was drawn."""
    for i in range(2):
        labels = golden[f"rpn_labels_{i}"].long()
        yield labels, golden[f"rpn_pos_index_{i}"], golden[f"rpn_neg_index_{i}"]
    for i in range(2):
        drawn = golden[f"roi_sampled_index_{i}"].long()
        name = f"roi_labels_{i}" if golden.background_first else f"roi_matched_label_{i}"
        labels = golden[name].long().clamp(max=1)
        yield labels, drawn[labels[drawn] == 1], drawn[labels[drawn] == 0]


def _inputs(golden: Recording, model: maskrcnn.MaskRCNN) -> tuple[ImageBatch, list[Target]]:
    """The network's input, which Detectron2's recording took as it comes, and what is annotated."""
    if golden.background_first:
        batch = golden.batch(model.config)
    else:
        pixels = torch.zeros(golden["input_shape"].tolist())
        for i, image in enumerate(golden.images()):
            rgb = (
                torch.from_numpy(image.pixels).permute(2, 0, 1)
                - torch.tensor(model.config.mean)[:, None, None]
            )
            pixels[i, :, : image.size[0], : image.size[1]] = rgb
        sizes = golden["image_sizes"].tolist()
        windows = torch.tensor([[0.0, 0.0, w, h] for h, w in sizes])
        batch = ImageBatch(
            pixels.contiguous(memory_format=torch.channels_last), windows, tuple(map(tuple, sizes))
        )
    assert list(batch.pixels.shape) == golden["input_shape"].tolist()
    annotated = []
    for i in range(2):
        shape = golden[f"gt_masks_shape_{i}"].tolist()
        bits = np.unpackbits(golden.arrays[f"gt_masks_{i}"])[: np.prod(shape)]
        name = f"gt_labels_{i}" if golden.background_first else f"gt_classes_{i}"
        labels = golden[name] - int(golden.background_first)
        masks = torch.from_numpy(bits.reshape(shape).astype(bool))
        annotated.append(Target(golden[f"gt_boxes_{i}"], labels, masks))
    return batch, annotated


def _recorded(name: str, golden: Recording, ours: Sampled) -> Sampled:
    """As ours, but what the network said is what the recorded one said. Rows: positives of each image come first."""
    labels, logits, background = (
        _labels(golden),
        golden.classes(golden["class_logits"]),
        ours.class_logits.shape[1] - 1,
    )
    first = len(_sampled_labels(golden, 0))
    rows = torch.cat([
        part[torch.argsort((labels[part] == background).int(), stable=True)]
        for part in (torch.arange(first), torch.arange(first, len(labels)))
    ])  # fmt: skip
    objectness = [golden[f"rpn_{kind}_logits_{i}"] for i in range(2) for kind in ("pos", "neg")]
    deltas = torch.cat([golden[f"rpn_pos_deltas_{i}"] for i in range(2)])
    assert ours.labels.equal(labels[rows])
    return dataclasses.replace(
        ours, objectness=torch.cat(objectness), anchor_deltas=deltas, class_logits=logits[rows],
        box_deltas=golden["pos_box_deltas"], mask_logits=golden["pos_mask_logits"], mask_wanted=_masks(golden),
    )  # fmt: skip


def _sampled_labels(golden: Recording, i: int) -> Tensor:
    return golden[f"roi_sampled_labels_{i}" if golden.background_first else f"roi_sampled_classes_{i}"]


def _labels(golden: Recording) -> Tensor:
    labels = torch.cat([_sampled_labels(golden, i) for i in range(2)]).long()
    background = golden["class_logits"].shape[1] - 1
    return (labels - 1) % (background + 1) if golden.background_first else labels


def _masks(golden: Recording) -> Tensor:
    if golden.background_first:
        return golden["pos_mask_targets"]  # soft: torchvision does not cut them at one half
    shape = golden["pos_mask_targets_shape"].tolist()
    bits = np.unpackbits(golden.arrays["pos_mask_targets_packed"])[: np.prod(shape)]
    return torch.from_numpy(bits.reshape(shape)).float()


def _losses(name: str, sampled: Sampled) -> dict[str, Tensor]:
    beta, names = CASES[name][2:]
    values = (
        losses.objectness_loss(sampled.objectness, sampled.is_object, ANCHORS),
        losses.delta_loss(sampled.anchor_deltas, sampled.anchor_wanted, ANCHORS, beta),
        losses.class_loss(sampled.class_logits, sampled.labels, sampled.competing),
        losses.delta_loss(sampled.box_deltas, sampled.box_wanted, len(sampled.labels), beta),
        losses.mask_loss(sampled.mask_logits, sampled.mask_wanted),
    )
    return dict(zip(names, values, strict=True))


def test_targets_are_the_recorded_ones(case):
    name, golden, _, ours = case
    anchors = torch.cat([golden[f"rpn_match_targets_{i}"] for i in range(2)])
    order = torch.cat([
        torch.searchsorted(golden[f"rpn_match_index_{i}"], golden[f"rpn_pos_index_{i}"])
        + i * len(golden["rpn_match_index_0"]) for i in range(2)
    ])  # fmt: skip
    assert torch.allclose(ours.anchor_wanted, anchors[order], atol=1e-5)
    if name == "detectron2":
        assert torch.allclose(ours.box_wanted, golden["pos_targets"], atol=1e-4)
        assert ours.mask_wanted.equal(_masks(golden))
    else:
        boxes = torch.cat([golden[f"roi_sampled_targets_{i}"] for i in range(2)])[golden["pos_rows"].long()]
        assert torch.allclose(ours.box_wanted, boxes, atol=1e-4)
        # Theirs come from a mask resized to the nearest pixel and are not cut: ours differ where it is undecided.
        assert (ours.mask_wanted != (_masks(golden) >= 0.5)).float().mean() < 0.05


def test_losses_from_the_recorded_outputs(case):
    name, golden, _, ours = case
    found = _losses(name, _recorded(name, golden, ours))
    for loss, value in found.items():
        assert float(value) == pytest.approx(float(golden[loss]), rel=1e-5), loss
    assert float(sum(found.values())) == pytest.approx(float(golden["total_loss"]), rel=1e-5)


def test_losses_and_gradients_of_the_whole_network(case):
    name, golden, model, ours = case
    if name == "torchvision":
        ours = dataclasses.replace(ours, mask_wanted=_masks(golden))
    found = _losses(name, ours)
    for loss, value in found.items():
        assert float(value.detach()) == pytest.approx(float(golden[loss]), rel=1e-4), loss
    parameters = {k: p for k, p in model.named_parameters() if k.split(".")[-2] != "norm"}
    gradients = torch.autograd.grad(sum(found.values()), list(parameters.values()))
    norms = dict(zip(golden.arrays["grad_names"].tolist(), golden.arrays["grad_norms"], strict=True))
    assert len(norms) == len(parameters)
    for (key, _), gradient in zip(parameters.items(), gradients, strict=True):
        if (
            key == "backbone.stem.weight" and name == "torchvision"
        ):  # its input is divided by these, our weights are
            gradient = gradient / torch.tensor(torchvision.STD)[:, None, None]
        theirs = spell(key, CASES[name][1].TABLE)
        # Norms of small variance magnify rounding until ReLUs switch: the deeper below the heads, the more.
        rounding = 2e-2 if key.startswith("backbone") else 1e-3
        assert float(gradient.double().norm()) == pytest.approx(norms[theirs], rel=rounding), theirs
