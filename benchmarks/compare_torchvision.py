"""One picture and one torchvision checkpoint through torchvision and through maskrcnn: each stage, side by side.

    python benchmarks/compare_torchvision.py model.pth street.jpg --peer path/to/environment/with/torchvision/bin/python
    python benchmarks/compare_torchvision.py model.pth street.jpg --peer ... --set min_size=600 --set score=0.3

torchvision runs in a process of its own, under the interpreter that --peer names. Its model is built from the
arrays of the checkpoint: depth, classes, first or second version, frozen norms or not. Printed are the largest
difference of each stage, and how many proposals and detections have a partner on the other side, which is the nearest
box (of the same class). The exit code is 1 where a detection of torchvision above --score-floor has no partner within
0.1 pixels, or a mask of 100 pixels and more has an IoU below 0.99. The picture has torchvision's result on the left.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import arguments

# our name of a setting: the argument of torchvision's MaskRCNN
SETTINGS = {
    "min_size": "min_size",
    "max_size": "max_size",
    "score": "box_score_thresh",
    "nms": "box_nms_thresh",
    "max_detections": "box_detections_per_img",
    "rpn_nms": "rpn_nms_thresh",
    "pre_nms": "rpn_pre_nms_top_n_test",
    "proposals": "rpn_post_nms_top_n_test",
}
BLOCKS = {
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 3): "resnet34",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
NEAR = 0.1  # pixels


# --- torchvision: runs under an interpreter that has it ---


def build(state: dict[str, torch.Tensor], settings: dict[str, Any]) -> torch.nn.Module:
    """The model that these arrays belong to, with them."""
    from torchvision.models import detection
    from torchvision.models.detection import backbone_utils, faster_rcnn, mask_rcnn, rpn
    from torchvision.ops import misc

    blocks = tuple(
        len({k.split(".")[3] for k in state if k.startswith(f"backbone.body.layer{s}.")}) for s in range(1, 5)
    )
    basic = "backbone.body.layer1.0.conv3.weight" not in state
    name = "resnet50" if blocks == (3, 4, 6, 3) and not basic else BLOCKS[blocks]
    counts = any(k.endswith("num_batches_tracked") for k in state)
    norm = torch.nn.BatchNorm2d if counts else misc.FrozenBatchNorm2d
    backbone = backbone_utils.resnet_fpn_backbone(
        backbone_name=name,
        weights=None,
        norm_layer=norm,
        **({"trainable_layers": 5}),
    )
    classes = len(state["roi_heads.box_predictor.cls_score.bias"])
    parts: dict[str, Any] = {"num_classes": classes}
    if "roi_heads.box_head.5.weight" in state:
        backbone = backbone_utils._resnet_fpn_extractor(
            getattr(__import__("torchvision").models, name)(weights=None), 5, norm_layer=torch.nn.BatchNorm2d
        )
        generator = faster_rcnn._default_anchorgen()
        parts["rpn_anchor_generator"] = generator
        parts["rpn_head"] = rpn.RPNHead(
            backbone.out_channels, generator.num_anchors_per_location()[0], conv_depth=2
        )
        norms = {"norm_layer": torch.nn.BatchNorm2d}
        parts["box_head"] = faster_rcnn.FastRCNNConvFCHead(
            (backbone.out_channels, 7, 7), [256, 256, 256, 256], [1024], **norms
        )
        parts["mask_head"] = mask_rcnn.MaskRCNNHeads(backbone.out_channels, [256, 256, 256, 256], 1, **norms)
    given = {SETTINGS[k]: v for k, v in settings.items() if k in SETTINGS}
    model = detection.MaskRCNN(backbone, **parts, **given).eval()
    model.load_state_dict(state)
    epsilon = settings.get("norm_epsilon", None if counts else 0.0)
    for module in model.modules():
        if isinstance(module, (misc.FrozenBatchNorm2d, torch.nn.BatchNorm2d)) and epsilon is not None:
            module.eps = epsilon
    return model


def peer(folder: Path) -> None:
    """Run torchvision on what lies in the folder, and leave every stage there."""
    from torchvision.models.detection import roi_heads

    job = json.loads((folder / "job.json").read_text())
    state = torch.load(job["weights"], weights_only=True, map_location="cpu")
    state = next((state[k] for k in ("model", "state_dict", "model_state_dict") if k in state), state)
    state = OrderedDict((k.removeprefix("module."), v.float() if v.is_floating_point() else v)
                        for k, v in state.items())  # fmt: skip
    model = build(state, job["settings"])
    image = torch.from_numpy(np.load(folder / "image.npy")).permute(2, 0, 1).float() / 255
    found: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, names: Any) -> None:
        module.register_forward_hook(lambda _, __, out: found.update(names(out)))

    keep(model.transform, lambda out: {"input": out[0].tensors})
    keep(model.backbone.body, lambda out: {f"C{i + 2}": v for i, v in enumerate(out.values())})
    keep(model.backbone, lambda out: {f"P{i + 2}": v for i, v in enumerate(out.values())})
    keep(model.rpn.anchor_generator, lambda out: {"anchors": out[0]})
    keep(
        model.rpn.head,
        lambda out: {
            "rpn_logits": torch.cat([v[0].permute(1, 2, 0).flatten() for v in out[0]]),
            "rpn_deltas": torch.cat([v[0].permute(1, 2, 0).reshape(-1, 4) for v in out[1]]),
        },
    )
    keep(model.rpn, lambda out: {"proposals": out[0][0]})
    keep(model.roi_heads.box_predictor, lambda out: {"class_logits": out[0], "box_deltas": out[1]})
    inference = roi_heads.maskrcnn_inference

    def masks(logits: torch.Tensor, labels: list[torch.Tensor]) -> list[torch.Tensor]:
        probability = inference(logits, labels)
        found["roi_masks"] = probability[0][:, 0]
        return probability

    roi_heads.maskrcnn_inference = masks
    with torch.inference_mode():
        result = model([image])[0]
    found |= {k: result[k] for k in ("boxes", "labels", "scores")}
    found["masks"] = result["masks"][:, 0] >= 0.5
    np.savez(folder / "theirs.npz", **{k: v.numpy() for k, v in found.items()})
    print(f"torchvision {__import__('torchvision').__version__} on torch {torch.__version__}")


# --- ours ---


def difference(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """One line; of tensors whose shapes differ, the shapes."""
    if ours.shape != theirs.shape:
        print(f"{name:14} shapes differ: ours {tuple(ours.shape)}, torchvision {tuple(theirs.shape)}")
    else:
        worst = (ours - theirs).abs().max().item() if ours.numel() else 0.0
        print(
            f"{name:14} largest difference {worst:.1e}, values to {theirs.abs().max():.3g}, {tuple(theirs.shape)}"
        )


def partners(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of their boxes the nearest of ours, and how far its farthest corner is, in pixels."""
    distance = torch.cdist(theirs, ours, p=float("inf"))
    return distance.argmin(1), distance.amin(1)


def compare(trace: Any, theirs: dict[str, torch.Tensor], std: torch.Tensor) -> None:
    """Print the stages up to the box head."""
    difference("input", trace.batch.pixels / std[:, None, None], theirs["input"])
    for name, maps in (("C", trace.backbone), ("P", trace.pyramid)):
        for level, features in enumerate(maps, 2):
            difference(f"{name}{level}", features, theirs[f"{name}{level}"])
    scores = trace.anchor_scores
    difference("anchors", scores.anchors, theirs["anchors"])
    difference("rpn logits", scores.objectness[0], theirs["rpn_logits"])
    difference("rpn deltas", scores.deltas[0], theirs["rpn_deltas"])
    ours, wanted = trace.proposals.boxes, theirs["proposals"]
    match, distance = partners(ours, wanted)
    print(f"{'proposals':14} ours {len(ours)}, torchvision {len(wanted)}, of which {(distance < 0.01).sum()} within "
          f"0.01 px of one of ours and {(distance < NEAR).sum()} within {NEAR}")  # fmt: skip
    close = distance < 0.01
    difference(
        "class logits", trace.box_scores.class_logits.roll(1, 1)[match[close]], theirs["class_logits"][close]
    )
    deltas = theirs["box_deltas"][close].unflatten(1, (-1, 4))[:, 1:]
    difference("box deltas", trace.box_scores.deltas[match[close]], deltas)


def agree(result: Any, theirs: dict[str, torch.Tensor], floor: float) -> bool:
    """Print how the detections compare; whether all above the floor agree."""
    lost, boxes, scores, least, pixels, free = 0, 0.0, 0.0, 1.0, 0, set(range(len(result)))
    masks = result.masks
    for box, label, score, mask in zip(
        theirs["boxes"], theirs["labels"] - 1, theirs["scores"], theirs["masks"], strict=True
    ):
        away = {k: (result.boxes[k] - box).abs().max().item() for k in free if result.labels[k] == label}
        best = min(away, key=lambda k: away[k], default=None)
        if best is None or away[best] > NEAR:
            lost += score > floor
            print(f"  no partner: {result.names[label]} {score:.5f} at {[round(v, 2) for v in box.tolist()]}")
            continue
        free.remove(best)
        boxes, scores = max(boxes, away[best]), max(scores, (result.scores[best] - score).abs().item())
        differing = int((masks[best] != mask).sum())
        pixels += differing
        if mask.sum() >= 100:
            iou = ((masks[best] & mask).sum() / (masks[best] | mask).sum()).item()
            if iou < 0.99:
                print(f"  mask IoU {iou:.4f}: {result.names[label]} {score:.5f} at {box.tolist()}")
            least = min(least, iou)
    print(f"{'detections':14} ours {len(result)}, torchvision {len(theirs['boxes'])}; of partners, boxes differ by "
          f"{boxes:.4f} px, scores by {scores:.1e}, masks in {pixels} pixels, least IoU {least:.4f}")  # fmt: skip
    return not lost and least >= 0.99


def side_by_side(result: Any, theirs: dict[str, torch.Tensor], out: Path) -> None:
    """Both results drawn on the picture, torchvision's on the left."""
    import dataclasses

    import PIL.Image

    import maskrcnn

    left = dataclasses.replace(
        result, boxes=theirs["boxes"], labels=theirs["labels"] - 1, scores=theirs["scores"],
        roi_masks=theirs["roi_masks"],
    )  # fmt: skip
    drawn = [maskrcnn.draw(side) for side in (left, result)]
    PIL.Image.fromarray(
        np.concatenate([drawn[0], np.full_like(drawn[0][:, :8], 255), drawn[1]], axis=1)
    ).save(out)


def main() -> None:
    parser = arguments(__doc__, "--folder")
    parser.add_argument("weights", nargs="?", type=Path)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--peer", help="interpreter of an environment with torchvision")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help=f"for both sides: {', '.join(SETTINGS)}, norm_epsilon")  # fmt: skip
    parser.add_argument("--score-floor", type=float, default=0.0, help="detections below need no partner")
    parser.add_argument("--out", type=Path, default=Path("compare_torchvision.png"))
    options = parser.parse_args()
    if options.folder:
        peer(Path(options.folder))
        return
    if not (options.weights and options.image and options.peer):
        parser.error("a checkpoint, an image and --peer are needed")
    import maskrcnn
    from maskrcnn.inputs import read

    settings = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    if unknown := settings.keys() - SETTINGS.keys() - {"norm_epsilon"}:
        parser.error(f"--set: want {', '.join(SETTINGS)} or norm_epsilon, got {', '.join(unknown)}")
    model = maskrcnn.load(options.weights, **settings)
    image = read(options.image)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "image.npy", image.pixels)
        (folder / "job.json").write_text(
            json.dumps({"weights": str(options.weights.resolve()), "settings": settings})
        )
        subprocess.run([options.peer, __file__, "--folder", name], check=True)
        theirs = {k: torch.from_numpy(v) for k, v in np.load(folder / "theirs.npz").items()}
    print(f"maskrcnn {maskrcnn.__version__} on torch {torch.__version__}; {model.extra_repr()}")
    trace = model.trace(image)
    compare(trace, theirs, torch.tensor([58.395, 57.12, 57.375]))
    good = agree(trace.results[0], theirs, options.score_floor)
    side_by_side(trace.results[0], theirs, options.out)
    print(f"wrote {options.out}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
