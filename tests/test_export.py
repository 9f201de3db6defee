"""An exported file finds what PyTorch finds, for any size and any number of images, without this package.

The whole network is exported once, by the command line in a process of its own: shapes in signatures are enforced
here, and those of an exported graph are symbols.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn import MaskRCNN
from maskrcnn.config import MATTERPORT, MMDETECTION, NATIVE, TORCHVISION, Dialect
from maskrcnn.engines.export import OUTPUTS, trace_program
from maskrcnn.engines.parity import compare
from maskrcnn.engines.pixels import network_input
from maskrcnn.engines.runner import Runner
from maskrcnn.errors import ConfigError, WeightsError
from maskrcnn.model.image import resized_size, to_batch
from maskrcnn.ops.nms import nms, top_k
from maskrcnn.ops.roi_align import crop_and_resize, roi_align
from maskrcnn.records import Image, Result
from test_model import SMALL, network

onnxruntime = pytest.importorskip("onnxruntime", reason="maskrcnn[onnx]")
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def calm(**changes: Any) -> MaskRCNN:
    """Small and random, with scores that are not all 0 or 1: then rounding moves nothing by much."""
    model = network(min_size=128, max_size=256, score=0.05, min_scale=0.0, **changes)
    with torch.no_grad():
        for head in (
            model.rpn.objectness,
            model.rpn.deltas,
            model.box.class_logits,
            model.box.deltas,
            model.mask.logits,
        ):
            head.weight.mul_(0.02)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of model.safetensors and model.onnx, written by the command line."""
    folder = tmp_path_factory.mktemp("exported")
    export(calm(), folder)
    return folder


def export(model: MaskRCNN, folder: Path) -> None:
    """To model.onnx, in a process of its own, which compares what both find."""
    maskrcnn.save(model, folder / "model.safetensors")
    command = [
        sys.executable,
        "-m",
        "maskrcnn",
        "export",
        folder / "model.onnx",
        "-w",
        folder / "model.safetensors",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 without a partner" in done.stdout


def photos(size: tuple[int, int], count: int) -> np.ndarray:
    """(count, h, w, 3), real pictures cut to one size."""
    whole = maskrcnn.inputs.read(PHOTOS / "chelsea.jpg").pixels
    return np.stack([whole[40 * i : 40 * i + size[0], : size[1]] for i in range(count)])


@pytest.mark.parametrize(
    ("size", "count"), [((100, 150), 1), ((220, 90), 3), ((128, 128), 2), ((33, 400), 1)]
)
def test_a_runtime_alone_finds_the_same(exported: Path, size: tuple[int, int], count: int) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    images = photos(size, count)
    found = dict(
        zip(OUTPUTS, map(torch.from_numpy, session.run(list(OUTPUTS), {"images": images})), strict=True)
    )
    assert found["image_index"].tolist() == sorted(found["image_index"].tolist())
    model = calm()
    pairs = []
    for i, image in enumerate(images):
        rows = [found[name][found["image_index"] == i] for name in OUTPUTS[:4]]
        pairs.append((model.predict_images([Image(image)])[0], Result(*rows, model.names, size)))
    parity = compare(pairs, SMALL.score)
    assert parity.detections > 0
    assert parity.holds, parity.text()


def test_a_network_of_matterports_exports(tmp_path: Path) -> None:
    export(calm(dialect=MATTERPORT), tmp_path)
    assert len(maskrcnn.load(tmp_path / "model.onnx").predict(photos((100, 150), 1)[0]))


def test_load_predicts_from_the_file(exported: Path) -> None:
    model, ours = maskrcnn.load(exported / "model.onnx"), calm()
    images = [photos((100, 150), 1)[0], photos((90, 60), 1)[0], np.zeros((70, 70, 1), np.uint8)]
    results = list(model.predict(images))
    assert [r.size for r in results] == [(100, 150), (90, 60), (70, 70)]
    parity = compare(zip(list(ours.predict(images)), results, strict=True), 0.05)
    assert parity.holds, parity.text()
    best = model.predict(images[0], classes=["bar"], max_detections=2)
    assert set(best.class_names) <= {"bar"} and len(best) <= 2


def test_what_is_fixed_in_the_file_is_refused(exported: Path) -> None:
    image = photos((100, 150), 1)[0]
    with pytest.raises(ConfigError, match=r"score of at least 0\.05"):
        maskrcnn.load(exported / "model.onnx").predict(image, score=0.01)
    with pytest.raises(ConfigError, match="nms: fixed"):
        maskrcnn.load(exported / "model.onnx", nms=0.3).predict(image)
    with pytest.raises(ConfigError, match="number of names"):
        maskrcnn.load(exported / "model.onnx", names=["nut"]).predict(image)
    with pytest.raises(ConfigError, match="load the weights that it was made from"):
        maskrcnn.load(exported / "model.onnx").trace(image)
    with pytest.raises(ConfigError, match="want auto or onnxruntime"):
        maskrcnn.load(exported / "model.onnx", engine="openvino")


def test_a_damaged_file_is_named(exported: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((exported / "model.onnx").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="export it again"):
        maskrcnn.load(broken)


def test_openvino_finds_the_same(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="maskrcnn[openvino]")
    from maskrcnn.engines.openvino import convert_onnx, write

    write(convert_onnx(exported / "model.onnx"), tmp_path / "model.xml")
    model, ours = maskrcnn.load(tmp_path / "model.xml"), calm()
    images = [*photos((100, 150), 2), photos((33, 400), 1)[0]]
    parity = compare(
        zip(list(ours.predict(images, batch_size=2)), list(model.predict(images, batch_size=2)), strict=True),
        0.05,
    )
    assert parity.detections > 0
    assert parity.holds, parity.text()
    (tmp_path / "model.bin").unlink()
    with pytest.raises(WeightsError, match=r"\.bin"):
        maskrcnn.load(tmp_path / "model.xml")


def test_int8_keeps_what_is_found_and_says_how_far_it_is_off(exported: Path) -> None:
    pytest.importorskip("nncf", reason="maskrcnn[int8]")
    from maskrcnn.engines.int8 import quantise
    from maskrcnn.engines.openvino import compile_network, convert_onnx

    ours = calm()
    pictures = [Image(one) for one in photos((100, 150), 3)]
    network = quantise(convert_onnx(exported / "model.onnx"), pictures, ours.config)
    layers = [node for node in network.get_ops() if node.get_type_name() == "Convolution"]
    assert len(layers) > 20
    for node in layers:
        inputs, scaled = (node.input_value(i).get_node() for i in range(2))
        weights = scaled.input_value(0).get_node().input_value(0)
        assert inputs.get_type_name() == "FakeQuantize"
        assert weights.get_element_type().get_type_name() == "i8"
    run = Runner(compile_network(network), ours.config)
    parity = compare(
        [(ours.predict_images([one])[0], run([one], ours.config, None)[0]) for one in pictures], least=1.0
    )
    assert parity.detections > 0
    assert 0 < parity.scores < 0.2  # of probabilities: not the same numbers, and not others altogether


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_documented_examples_run(exported: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.chdir(exported)
    shutil.copy(PHOTOS / "coffee.jpg", "street.jpg")
    shutil.copy("model.onnx", "coco.onnx")
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="maskrcnn[openvino]")
        from maskrcnn.engines.openvino import convert_onnx, write

        write(convert_onnx(exported / "model.onnx"), exported / "coco.xml")
    page = (PHOTOS.parents[1] / "docs" / "export.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"import {runtime}" in c]
    exec(compile(code, "export.md", "exec"), {})


class Operators(nn.Module):
    """Each operator that a runtime has to be told of."""

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, images: Tensor, features: Tensor
    ) -> tuple[Tensor, ...]:
        return (
            nms(boxes, scores, 0.5),
            nms(boxes, scores, 0.5, groups, 4, images),
            # 20 are few, 40 are not; so far away little is left of a box
            nms(boxes.clamp(min=0) * 1.37, scores, 0.1, groups * 1_000_000, 60, images, 30),
            top_k(scores.reshape(2, -1), 7),
            roi_align(features, boxes, images, 3, 0.25, 2, True),
            roi_align(features, boxes, images, 3, 0.25, 0, True),
            roi_align(features, boxes, images, 3, 0.25, 2, False),
            crop_and_resize(features, boxes / 64, images, 3),
        )


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of `Operators`."""
    from maskrcnn.engines.onnx import METADATA
    from maskrcnn.engines.onnx_operators import TRANSLATIONS

    program = torch.export.export(Operators(), crowded(), strict=False)
    graph = torch.onnx.export(program, opset_version=18, custom_translation_table=TRANSLATIONS, verbose=False)
    assert graph is not None
    graph.model.metadata_props[METADATA] = "{}"
    path = tmp_path_factory.mktemp("operators") / "operators.onnx"
    graph.save(path)
    return path


def crowded() -> tuple[Tensor, ...]:
    """Ties, boxes without area, beyond the border and on it; images of which one keeps nothing."""
    generator = torch.Generator().manual_seed(0)
    corner, side = (torch.randint(-8, 56, (60, 2), generator=generator) for _ in range(2))
    boxes = torch.cat([corner, corner + side.clamp(min=0)], dim=1).float()
    boxes[0] = torch.tensor([0.0, 0, 64, 64])
    scores = torch.randint(-4, 5, (60,), generator=generator) / 8
    groups, images = torch.arange(60) % 3, (torch.arange(60) // 20).clamp(max=1) * 2
    return boxes, scores, groups, images, torch.randn(3, 5, 16, 16, generator=generator)


def test_operators_are_those_of_onnx(operators: Path) -> None:
    session = onnxruntime.InferenceSession(operators)
    names = [entry.name for entry in session.get_inputs()]
    arrays = [tensor.numpy() for tensor in crowded()]
    outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    for ours, theirs in zip(Operators()(*crowded()), outputs, strict=True):
        assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-5)


def test_openvino_chooses_the_same_boxes(operators: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="maskrcnn[openvino]")
    from maskrcnn.engines.openvino import convert_onnx

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(convert_onnx(operators), "CPU", exact)
    found = network([tensor.numpy() for tensor in crowded()])
    for i, ours in enumerate(Operators()(*crowded())[:4]):  # those before pooling
        assert ours.tolist() == found[i].tolist()


def test_no_runtime_sorts_all_candidates(exported: Path) -> None:
    """OpenVINO sorts stably in quadratic time; and what suppression leaves out needs no order."""
    import onnx

    graph = onnx.load(exported / "model.onnx").graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    limited = [
        node for node in graph.node
        if node.op_type == "TopK" and maker[node.input[1]].op_type == "Min"
        and any(name in constants or maker[name].op_type == "Constant" for name in maker[node.input[1]].input)
    ]  # fmt: skip
    assert len(limited) == 7  # the best of five levels, of the proposals and of the detections
    # Pooling puts its rows back in the order of proposals, and of detections.
    assert sum(node.op_type == "TopK" for node in graph.node) == 7 + 2

    pytest.importorskip("openvino", reason="maskrcnn[openvino]")
    from maskrcnn.engines.openvino import convert_onnx

    network = convert_onnx(exported / "model.onnx")
    sorts = [node for node in network.get_ops() if node.get_type_name() == "TopK"]
    assert sorts and not any(node.get_attributes()["stable"] for node in sorts)


def test_more_than_openvino_can_order_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="maskrcnn[openvino]")
    from maskrcnn.engines import export

    with pytest.raises(ConfigError, match="at most 46340 for OpenVINO, got 50000"):
        export(network(pre_nms=50_000), tmp_path / "model.xml", "openvino")


@pytest.mark.parametrize("distinct", [1, 3, 10**9])
@pytest.mark.parametrize(("count", "k"), [(0, 0), (1, 1), (9, 2), (7000, 7000), (9000, 900)])
def test_openvino_takes_the_lower_index_of_equal_scores(count: int, k: int, distinct: int) -> None:
    openvino = pytest.importorskip("openvino", reason="maskrcnn[openvino]")
    from openvino import opset11

    from maskrcnn.engines.openvino import keep_order_of_ties

    scores = opset11.parameter([-1, -1], np.float32)
    limit = opset11.parameter([], np.int64)
    best = opset11.topk(scores, limit, 1, "max", "value", "i64")
    network = openvino.Model(best.outputs(), [scores, limit])
    keep_order_of_ties(network)
    rows = np.random.default_rng(0).integers(-distinct // 2, distinct, (2, count)).astype(np.float32)
    values, indices = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        [rows, np.array(k)]
    ).values()
    wanted = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    assert np.array_equal(indices, wanted)
    assert np.array_equal(values, np.take_along_axis(rows, wanted, axis=1))


@pytest.mark.parametrize("size", [(303, 384), (640, 480), (50, 700), (1, 1)])
@pytest.mark.parametrize(
    "dialect",
    [NATIVE, MATTERPORT, Dialect(**{**vars(MATTERPORT), "resize": "pad64"}), TORCHVISION, MMDETECTION],
    ids=["pil", "skimage square", "skimage pad64", "torch", "opencv"],
)
def test_pixels_go_in_as_through_the_image_libraries(dialect: Dialect, size: tuple[int, int]) -> None:
    config = SMALL.with_options(dialect=dialect, min_size=256, max_size=320)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = to_batch([Image(image)], config)
    got = network_input(torch.from_numpy(image)[None], config)
    assert torch.equal(got.windows, wanted.windows)
    off = (got.pixels - wanted.pixels).abs()
    assert off.max() <= 1.001  # one level, where a sum lies between two
    assert (off > 0.01).float().mean() < (0.2 if dialect.resampler == "opencv" else 0.05)


def test_sides_are_rounded_as_in_python() -> None:
    from maskrcnn.engines.pixels import resized_sides

    for dialect in (NATIVE, MATTERPORT, TORCHVISION):
        config = SMALL.with_options(dialect=dialect, min_size=800, max_size=1344)
        for size in [
            (480, 640),
            (799, 801),
            (37, 1999),
            (613, 613),
            (1001, 333),
            *((n, 2 * n - 7) for n in range(9, 900, 31)),
        ]:
            sides = resized_sides(torch.tensor(size, dtype=torch.float64), config)
            assert tuple(sides.long().tolist()) == resized_size(size, config), (size, dialect)


def test_pooling_that_no_runtime_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="roi_op"):
        trace_program(network(roi_op="pool"))


def test_a_file_is_named_after_its_format(tmp_path: Path) -> None:
    from maskrcnn.engines import export

    with pytest.raises(ConfigError, match=r"\.xml for openvino"):
        export(network(), tmp_path / "model.onnx", "openvino")


def test_parity_counts_what_has_no_partner() -> None:
    def result(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Result:
        return Result(
            torch.tensor(boxes),
            torch.tensor(labels),
            torch.tensor(scores),
            torch.zeros(len(labels), 2, 2),
            ("a", "b"),
            (99, 99),
        )

    ours = result([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], [0, 1, 0], [0.9, 0.8, 0.3001])
    theirs = result([[20.0, 20, 30, 30.05], [0, 0, 10, 10]], [1, 1], [0.801, 0.7])
    parity = compare([(ours, theirs)], least=0.3)
    assert (parity.detections, parity.unmatched) == (3, 2)  # the third lies at the threshold
    assert parity.boxes == pytest.approx(0.05, abs=1e-5)
    assert parity.scores == pytest.approx(0.001, abs=1e-6)
    assert not parity.holds


def test_a_runner_is_not_copied_with_its_model() -> None:
    import copy

    model = network()
    model.engine = Runner(lambda images: [], model.config)
    assert copy.deepcopy(model).engine is None
