"""The CPU's kernels give the reference's numbers, notice changed weights, and stay out of everything else's way."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maskrcnn
from maskrcnn import engines
from maskrcnn.engines import fast, half, winograd
from maskrcnn.errors import ConfigError
from maskrcnn.legacy import graph
from maskrcnn.model.image import to_batch
from maskrcnn.model.layers import Conv, Linear
from maskrcnn.records import Image, Result
from test_model import network, picture

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def agree(ours: Result, wanted: Result) -> bool:
    """The bounds that the documentation promises."""
    return (
        torch.equal(ours.labels, wanted.labels)
        and torch.allclose(ours.boxes, wanted.boxes, rtol=0, atol=0.1)
        and torch.allclose(ours.scores, wanted.scores, rtol=0, atol=1e-3)
        and torch.allclose(ours.roi_masks, wanted.roi_masks, rtol=0, atol=1e-3)
    )


def randomise(layer: nn.Module) -> None:
    """Every parameter and statistic away from its first value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else torch.randn_like(tensor) / 30)


def both(layer: Conv | Linear, x: Tensor, plus: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output of the layer with a kernel and without."""
    layer.kernel = None
    extra = () if plus is None else (plus,)
    with torch.inference_mode():
        wanted = layer(x, *extra)
        layer.kernel = fast.Kernel()
        ours = layer.kernel(layer, x, *[p.clone() for p in extra])
    assert ours is not None, "the kernel did not compute"
    return ours, wanted


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 18},
        {"depth": 50, "groups": 4, "group_width": 8},
        {"fpn_norm": True, "mask_norm": True, "box_convs": 1, "box_conv_norm": True, "box_fc_norm": True},
        {"rpn_stride": 2},
    ],
)
def test_the_kernels_find_what_the_reference_finds(options: dict[str, object]) -> None:
    model = network(**options)
    images = [
        Image(picture(60, 90)),
        Image(picture(90, 60, seed=2)),
    ]  # no decision hangs on the last digits here
    wanted = model.predict_images(images)
    engines.attach(model)
    for _ in range(2):
        assert all(agree(a, b) for a, b in zip(model.predict_images(images), wanted, strict=True))


def test_training_and_loading_make_the_kernels_anew() -> None:
    layer = Conv(8, 8, 3, norm=True, relu=True)
    x = torch.randn(1, 8, 6, 6)
    randomise(layer)
    both(layer, x)
    assert layer.kernel is not None
    for change in ("step", "fused step", "data", "load_state_dict", "assign", "statistics", "to"):
        if "step" in change:
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused="fused" in change)
            layer(x).square().sum().backward()
            with torch.no_grad():
                layer(x)  # has seen the weights again when the step comes
            optimizer.step()
        elif change == "data":
            layer.weight.data.mul_(1.5)
        elif change == "load_state_dict":
            layer.load_state_dict({k: v * 2 for k, v in layer.state_dict().items()})
        elif change == "assign":
            layer.load_state_dict({k: v * 2 for k, v in layer.state_dict().items()}, assign=True)
        elif change == "statistics":
            assert layer.norm is not None
            layer.norm.running_mean.add_(1.0)
        else:
            layer.double().float()
            layer.weight.data = layer.weight.data * 2
        with torch.inference_mode():
            ours = layer(x)
            kernel, layer.kernel = layer.kernel, None
            wanted = layer(x)
            layer.kernel = kernel
        assert torch.allclose(ours, wanted, atol=1e-4 * float(wanted.max())), change


def test_gradients_flow_with_the_kernels_attached() -> None:
    model = engines.attach(network())
    model.predict_images([Image(picture(60, 90))])
    pyramid = model.fpn(list(model.backbone(torch.randn(1, 3, 64, 96))))
    pyramid[0].sum().backward()
    assert model.backbone.stem.weight.grad.abs().max() > 0


@pytest.mark.parametrize("strip", [1 << 22, 1 << 12])
@pytest.mark.parametrize("size", [(37, 29), (5, 3), (1, 1)])
@pytest.mark.parametrize("norm", [False, True])
def test_winograds_gradients_are_those_of_pytorch(
    norm: bool, size: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "STRIP", strip)
    layer = Conv(32, 64, 3, norm=norm, relu=True)
    randomise(layer)
    compare_gradients(layer, torch.randn(2, 32, *size))


def test_gradients_of_dense_layers_are_those_of_pytorch() -> None:
    layer = Linear(7 * 7 * 8, 24, relu=True)
    randomise(layer)
    compare_gradients(layer, torch.randn(5, 8, 7, 7).contiguous(memory_format=torch.channels_last))


def compare_gradients(layer: Conv | Linear, x: Tensor) -> None:
    def passed(kernel: fast.Kernel | None) -> list[Tensor]:
        layer.kernel = kernel
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(leaf)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        return [y.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())]  # type: ignore[list-item, union-attr]

    seen: list[bool] = []

    class Watched(fast.Kernel):
        def product(self, *args: Any) -> Tensor | None:
            found = super().product(*args)
            seen.append(found is not None)
            return found

    for ours, wanted in zip(passed(Watched()), passed(None), strict=True):
        assert torch.allclose(ours, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert seen == [True]


def test_what_is_frozen_has_its_kernel_in_training_too() -> None:
    layer, x = Conv(32, 64, 3, norm=True, relu=True), torch.randn(1, 32, 6, 6)
    randomise(layer)
    wanted = layer(x).detach()
    kernel = layer.kernel = fast.Kernel()
    assert kernel(layer, x) is None
    layer.requires_grad_(False)
    frozen = kernel(layer, x)
    assert frozen is not None
    assert torch.allclose(frozen, wanted, rtol=0, atol=1e-5 * float(wanted.max()))
    assert kernel(layer, x.requires_grad_()) is None


def test_copies_and_pickles_of_a_used_model_predict_the_same() -> None:
    model = engines.attach(network())
    image = Image(picture(60, 90))
    wanted = model.predict_images([image])[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert agree(other.predict_images([image])[0], wanted)
    assert model.state_dict().keys() == network().state_dict().keys()


def test_the_reference_engine_takes_the_kernels_away() -> None:
    model = engines.attach(engines.attach(network()), "torch")
    assert all(m.kernel is None for m in model.modules() if isinstance(m, (Conv, Linear)))


@pytest.mark.parametrize(
    ("engine", "dtype", "within"), [("float16", torch.float16, 0.1), ("bfloat16", torch.bfloat16, 1.0)]
)
def test_layers_in_16_bits_find_the_same_and_heads_give_float32(
    engine: str, dtype: torch.dtype, within: float
) -> None:
    photo = Path(__file__).parent.parent / "examples" / "photos" / "grace_hopper.jpg"
    model = maskrcnn.load(engine="torch")
    wanted = model.predict(photo)
    engines.attach(model, engine)
    found, trace = model.predict(photo), model.trace(photo)
    assert found.labels.tolist() == wanted.labels.tolist() and len(found) > 0
    assert 0 < (found.boxes - wanted.boxes).abs().max() < within
    assert (found.scores - wanted.scores).abs().max() < 0.02 * within
    assert {level.dtype for level in (*trace.backbone, *trace.pyramid, trace.roi_features)} == {dtype}
    heads = trace.anchor_scores.objectness, trace.anchor_scores.deltas, *vars(trace.box_scores).values()
    assert {head.dtype for head in (*heads, trace.mask_logits)} == {torch.float32}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert model.backbone(torch.zeros(1, 3, 64, 64))[0].dtype == torch.float32  # where gradients are wanted


def test_layers_in_16_bits_notice_other_weights_and_survive_copies() -> None:
    layer, x = Conv(8, 8, 3, norm=True, relu=True), torch.randn(1, 8, 6, 6)
    randomise(layer)
    with torch.no_grad():
        plain = layer(x)
        layer.kernel = half.Kernel(torch.bfloat16)
        assert torch.allclose(layer(x).float(), plain, rtol=0.02, atol=0.02 * float(plain.max()))
        layer.weight.mul_(2.0)
        layer.norm.running_mean.mul_(2.0)  # type: ignore[union-attr]
        assert not torch.allclose(layer(x).float(), plain, rtol=0.1)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"auto, torch.*'warp'"):
        engines.attach(network(), "warp")


def test_load_attaches_the_kernels_unless_told_otherwise(tmp_path) -> None:
    file = maskrcnn.save(network(), tmp_path / "small.safetensors")
    assert maskrcnn.load(file).backbone.stem.kernel is not None
    assert maskrcnn.load(file, engine="torch").backbone.stem.kernel is None


def test_trace_keeps_what_it_saw() -> None:
    """Kernels compute in each other's memory; nothing that a trace holds may change afterwards."""
    model = network()
    wanted = model.trace(picture(60, 90))
    trace = engines.attach(model).trace(picture(60, 90))
    for name in ("backbone", "pyramid"):
        for ours, reference in zip(getattr(trace, name), getattr(wanted, name), strict=True):
            assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max())), name


def test_autocast_and_other_types_are_left_to_the_layer() -> None:
    layer = Conv(8, 8, 3)
    kernel = fast.Kernel()
    with torch.no_grad():
        assert kernel(layer, torch.randn(1, 8, 6, 6, dtype=torch.float64)) is None
        with torch.autocast("cpu"):
            assert kernel(layer, torch.randn(1, 8, 6, 6)) is None
    assert kernel(layer, torch.randn(1, 8, 6, 6)) is None


def test_a_lateral_output_of_matterports_graph_is_the_convolution_alone() -> None:
    """Here a lateral layer adds the coarser map too; in Keras that is a layer of its own."""
    model = engines.attach(network(depth=50))
    batch = to_batch([Image(picture(64, 64))], model.config)
    with torch.no_grad():
        c4 = model.backbone(batch.pixels)[2]
        lateral = model.fpn.lateral4
        wanted = F.conv2d(c4, lateral.weight, lateral.bias).permute(0, 2, 3, 1).numpy()
    rows = graph.Background(torch.zeros(1024, 4), torch.zeros(4), torch.zeros(256), torch.zeros(()))
    (ours,) = graph.run(model, batch, range(3), rows, ["fpn_c4p4"])
    assert np.allclose(ours, wanted, atol=1e-4 * np.abs(wanted).max())
