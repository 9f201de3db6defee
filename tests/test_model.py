"""The network's shapes, options and promises, on small random networks."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import ConfigError, ImageError
from maskrcnn.records import Image, Result

SMALL = Config(
    names=("disc", "bar", "ring"),
    depth=18,
    width=8,
    fpn_channels=16,
    rpn_channels=16,
    box_features=32,
    mask_channels=16,
    anchor_sizes=((16,), (32,), (64,), (128,), (256,)),
    min_size=64,
    max_size=128,
    score=0.0,
    max_detections=7,
)


def network(**options: object) -> MaskRCNN:
    """Random weights, spread so that scores and boxes differ."""
    torch.manual_seed(0)
    model = MaskRCNN(SMALL.with_options(**options))
    for name, value in model.named_parameters():
        if ".conv3.norm.weight" in name or ".conv2.norm.weight" in name:
            nn.init.constant_(value, 0.2)  # calm residual branches: batch norm has seen no data
    for head in (model.rpn.objectness, model.box.class_logits, model.mask.logits):
        nn.init.normal_(head.weight, std=0.05)
    return model


def picture(h: int, w: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, channels), dtype=np.uint8)


def same(a: Result, b: Result) -> bool:
    return (
        torch.equal(a.labels, b.labels)
        and torch.allclose(a.boxes, b.boxes, atol=1e-3)
        and torch.allclose(a.scores, b.scores, atol=1e-5)
        and torch.allclose(a.roi_masks, b.roi_masks, atol=1e-3)
    )


VARIANTS = {
    "basic blocks": {"depth": 34},
    "bottlenecks": {"depth": 50},
    "stride in the 1x1": {"depth": 50, "stride_in_1x1": True},
    "two RPN convolutions": {"rpn_convs": 2, "rpn_channels": 24},
    "strided RPN": {"rpn_stride": 2},
    "4conv1fc": {"box_convs": 4, "box_fcs": 1, "box_conv_norm": True, "fpn_norm": True, "mask_norm": True},
    "normalised fc": {"box_fc_norm": True},
    "56x56 masks": {"mask_size": 56},
    "112x112 masks": {"mask_size": 112},
    "class-agnostic": {"class_agnostic_boxes": True, "class_agnostic_masks": True},
    "three sizes a level": {"anchor_sizes": tuple((s, s * 1.26, s * 1.59) for s in (16, 32, 64, 128, 256))},
    "RoIPool": {"roi_op": "pool"},
    "legacy RoIAlign": {"roi_op": "align_legacy"},
    "adaptive RoIAlign": {"sampling_ratio": 0},
    "crop_and_resize": {"roi_op": "crop_and_resize", "inclusive_ends": True, "level_rule": "round"},
    "one NMS for all levels": {"per_level": False, "pad_proposals": True},
    "best class only": {"best_class_only": True, "score_inclusive": True},
    "square input": {"resize": "square", "max_size": 128, "centre_padding": True, "resampler": "skimage"},
    "torchvision's resampling": {"resampler": "torch", "size_rounding": "floor", "grid_strides": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_finds_instances(name: str) -> None:
    model = network(**VARIANTS[name])
    result = model.predict(picture(60, 90))
    side = model.config.mask_size
    assert 0 < len(result) <= 7
    assert result.roi_masks.shape == (len(result), side, side)
    assert result.size == (60, 90)
    assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()
    assert (result.boxes >= 0).all() and (result.boxes <= torch.tensor([90.0, 60, 90, 60])).all()
    assert (result.scores.diff() <= 0).all()
    assert result.masks.shape == (len(result), 60, 90)


def test_batches_of_different_sizes_equal_one_by_one() -> None:
    model = network()
    pictures = [
        picture(*size, seed=i) for i, size in enumerate([(60, 90), (90, 60), (64, 64), (60, 90), (40, 200)])
    ]
    together = list(model.predict(pictures, batch_size=5))
    assert len(together) == 5
    assert all(same(model.predict(p), r) for p, r in zip(pictures, together, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (700, 700)])
def test_extreme_sizes_go_through(size: tuple[int, int]) -> None:
    assert network().predict(picture(*size)).size == size


def test_five_channels() -> None:
    model = network(channels=5, mean=(0.0,) * 5)
    assert model.predict(picture(60, 90, 5)).size == (60, 90)
    with pytest.raises(ImageError, match="5"):
        model.predict(picture(60, 90, 3))


def test_any_backbone_with_four_levels_will_do() -> None:
    class Plain(nn.Module):
        channels = (4, 6, 8, 10)

        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(
                nn.Conv2d(a, b, 3, stride, 1)
                for a, b, stride in ((3, 4, 4), (4, 6, 2), (6, 8, 2), (8, 10, 2))
            )

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            levels = []
            for stage in self.stages:
                x = stage(x)
                levels.append(x)
            return tuple(levels)

    assert len(MaskRCNN(SMALL, backbone=Plain()).predict(picture(64, 64))) > 0


def test_train_mode_does_not_change_what_predict_returns() -> None:
    model = network()
    expected = model.predict(picture(60, 90))
    model.train()
    assert same(model.predict(picture(60, 90)), expected)


@pytest.mark.parametrize("head", ["rpn", "box"])
def test_boxes_stretched_beyond_float32_are_left_out(head: str) -> None:
    """Nothing is clamped here, and exp(1e4) has no float32: such boxes must not reach the pooling."""
    model = network(delta_clamp=None, min_proposal=None, roi_op="crop_and_resize")
    nn.init.constant_(model.get_submodule(head).deltas.bias, 1e4)
    assert len(model.predict(picture(60, 90))) == 0


def test_no_proposals_give_no_detections() -> None:
    assert len(network(min_proposal=1e9).predict(picture(60, 90))) == 0


def test_nothing_above_the_threshold_gives_an_empty_result() -> None:
    result = network().predict(picture(60, 90), score=1.0)
    assert len(result) == 0
    assert result.masks.shape == (0, 60, 90)
    assert result.rle() == [] and result.polygons() == [] and result.to_coco() == []


def test_only_wanted_classes_are_found() -> None:
    model = network()
    for wanted in (["ring"], [2]):
        result = model.predict(picture(60, 90), classes=wanted)
        assert len(result) > 0 and set(result.class_names) == {"ring"}
    with pytest.raises(ConfigError, match="square"):
        model.predict(picture(60, 90), classes=["square"])


def test_max_detections_keeps_the_best() -> None:
    model = network()
    full, short = model.predict(picture(60, 90)), model.predict(picture(60, 90), max_detections=2)
    assert same(full[:2], short)


def test_a_broken_file_among_many_is_left_out_with_a_warning(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    import PIL.Image

    PIL.Image.fromarray(picture(60, 90)).save(good)
    bad.write_bytes(b"not a picture")
    model = network()
    with pytest.warns(UserWarning, match=r"bad\.png"):
        assert len(list(model.predict([good, bad, good]))) == 2
    reported: list[tuple[object, ImageError]] = []
    assert len(list(model.predict([bad, good], on_error=lambda *e: reported.append(e)))) == 1
    assert reported[0][0] == bad
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.predict(bad)


def test_a_result_indexes_like_an_array() -> None:
    result = network().predict(picture(60, 90))
    n = len(result)
    assert len(result[result.scores > result.scores[1]]) == int((result.scores > result.scores[1]).sum())
    assert len(result[0]) == 1 and len(result[-1]) == 1 and len(result[1:3]) == 2
    assert len(result[[0, 2]]) == 2 and len(result[np.zeros(n, bool)]) == 0 and len(result[[]]) == 0
    assert torch.equal(result[-1].boxes[0], result.boxes[-1])
    assert [len(one) for one in result] == [1] * n


def test_unknown_options_are_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"scores.*roi_op.*score"):
        SMALL.with_options(scores=0.5)


def test_config_survives_json() -> None:
    import json

    config = network(roi_op="pool", channels=5, mean=(1.0, 2, 3, 4, 5)).config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_lists_and_arrays_make_the_same_config_as_tuples() -> None:
    lists = Config(
        names=["a", "b"], mean=np.array([1.0, 2.0, 3.0]), anchor_sizes=[[n] for n in (8, 16, 32, 64, 128)]
    )  # type: ignore[arg-type]
    tuples = Config(names=("a", "b"), mean=(1.0, 2.0, 3.0), anchor_sizes=((8,), (16,), (32,), (64,), (128,)))
    assert lists == tuples and hash(lists) == hash(tuples)


def test_images_of_one_batch_have_one_padded_size() -> None:
    from maskrcnn.model.image import batches, padded_size

    images = [Image(picture(60, 90)), Image(picture(90, 60)), Image(picture(61, 90))]
    groups = list(batches(images, SMALL))
    assert [group for group, _ in groups] == [[0, 2], [1]]
    assert all(batch.size == padded_size(images[group[0]].size, SMALL) for group, batch in groups)


# Which rooms a room may import, at the top of its files. Result's methods go the other way, when called.
ROOMS = [
    {"errors", "words"},
    {"ops"},
    {"config", "records", "files"},
    {"inputs", "track"},
    {"tiles"},
    {"model"},
    {"engines"},
    {"weights", "output", "data", "explain", "legacy"},
    {"jobs", "videos"},
    {"evaluate", "train", "scale", "bench"},
    {"serve"},
    {"cli", "__init__", "__main__"},
]


def test_imports_go_one_way() -> None:
    rank = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    source = Path(maskrcnn.__file__).parent
    for file in source.rglob("*.py"):
        parts = file.relative_to(source).with_suffix("").parts
        room = parts[0]
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            inside = (*parts[: len(parts) - node.level], *[p for p in (node.module or "").split(".") if p])
            targets = [inside[0]] if inside else [alias.name for alias in node.names]
            for target in targets:
                if target != room and target in rank:
                    assert rank[target] <= rank[room], f"{file.relative_to(source)} imports {target}"


def test_the_whole_network_exports() -> None:
    """torch.export at one input size: the counts of proposals and detections stay open."""
    from maskrcnn.model.image import to_batch
    from maskrcnn.records import ImageBatch

    class Pass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, pixels: Tensor, windows: Tensor) -> tuple[Tensor, ...]:
            found, masks = self.network(ImageBatch(pixels, windows, ((60, 90),)))
            return found.boxes, found.labels, found.scores, masks

    first, second = (to_batch([Image(picture(60, 90, seed=i))], SMALL) for i in (0, 1))
    program = torch.export.export(Pass(), (first.pixels, first.windows), strict=False).module()
    for batch in (first, second):
        for ours, wanted in zip(
            program(batch.pixels, batch.windows), Pass()(batch.pixels, batch.windows), strict=True
        ):
            assert torch.allclose(ours, wanted, atol=1e-5)
