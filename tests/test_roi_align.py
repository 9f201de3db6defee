import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import DATA
from maskrcnn.config import Config
from maskrcnn.model.pooling import pool_rois
from maskrcnn.ops import roi_kernel, team
from maskrcnn.ops.roi_align import align_weights, crop_and_resize, roi_align, roi_pool


@pytest.fixture(scope="module")
def recorded() -> "np.lib.npyio.NpzFile":
    """40 RoIs on two maps, among them whole, empty, outside, flipped and sub-pixel ones."""
    return np.load(DATA / "torchvision" / "ops.npz")


def inputs(recorded: "np.lib.npyio.NpzFile") -> tuple[Tensor, Tensor, Tensor]:
    rois = torch.from_numpy(recorded["roi_rois"])
    return torch.from_numpy(recorded["roi_input"]), rois[:, 1:], rois[:, 0].long()


@pytest.mark.parametrize(("aligned", "samples"), [(0, 2), (0, 0), (1, 2), (1, 0), (1, 1)])
def test_roi_align_equals_torchvision(recorded: "np.lib.npyio.NpzFile", aligned: int, samples: int) -> None:
    pooled = roi_align(*inputs(recorded), 7, 0.25, samples, bool(aligned))
    assert np.abs(pooled.numpy() - recorded[f"roi_align_a{aligned}_s{samples}_7x7"]).max() < 1e-6


@pytest.mark.parametrize(("aligned", "samples"), [(0, 2), (1, 0)])
def test_gradients_to_the_features_equal_torchvisions(
    recorded: "np.lib.npyio.NpzFile", aligned: int, samples: int
) -> None:
    features, boxes, index = inputs(recorded)
    features.requires_grad_()
    pooled = roi_align(features, boxes, index, 7, 0.25, samples, bool(aligned))
    (pooled * torch.linspace(-1, 1, pooled.numel()).reshape(pooled.shape)).sum().backward()
    wanted = recorded[f"roi_align_grad_a{aligned}_s{samples}"]
    assert features.grad is not None
    assert np.abs(features.grad.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_roi_pool_equals_torchvision(recorded: "np.lib.npyio.NpzFile") -> None:
    pooled = roi_pool(*inputs(recorded), 7, 0.25)
    assert np.array_equal(pooled.numpy(), recorded["roi_pool_7x7"])


@pytest.mark.parametrize("size", [1, 7, 14])
def test_crop_and_resize_equals_tensorflow(size: int) -> None:
    ops = np.load(DATA / "matterport" / "ops.npz")
    image = torch.from_numpy(ops["car_image"]).permute(0, 3, 1, 2)
    boxes = torch.from_numpy(ops["car_boxes"])[:, [1, 0, 3, 2]]
    pooled = crop_and_resize(image, boxes, torch.from_numpy(ops["car_index"]).long(), size)
    assert np.abs(pooled.permute(0, 2, 3, 1).numpy() - ops[f"car_out_{size}"]).max() < 1e-6


def ramp() -> Tensor:
    """A map whose value at each pixel is its x."""
    return torch.arange(16.0).expand(1, 1, 16, 16)


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_roi_align_on_a_ramp_returns_bin_centres(samples: int) -> None:
    pooled = roi_align(ramp(), torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([0]), 4, 1.0, samples)
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([4.5, 6.5, 8.5, 10.5]))


def test_roi_pool_on_a_ramp_returns_bin_ends() -> None:
    pooled = roi_pool(ramp(), torch.tensor([[4.0, 4, 11, 11]]), torch.tensor([0]), 4, 1.0)
    assert pooled[0, 0, 0].tolist() == [5, 7, 9, 11]


def test_crop_and_resize_runs_from_corner_to_corner_and_is_zero_beyond() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.2, 1.0]])
    pooled = crop_and_resize(ramp(), boxes, torch.tensor([0, 0]), 4)
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([0.0, 5, 10, 15]))
    assert torch.allclose(pooled[1, 0, 0], torch.tensor([0.0, 6, 12, 0]))


def test_gradients_reach_the_boxes() -> None:
    boxes = torch.tensor([[4.0, 4, 12, 12]], requires_grad=True)
    roi_align(ramp(), boxes, torch.tensor([0]), 4, 1.0, 2).mean().backward()
    # The mean over the bins is the centre, (x1 + x2) / 2 - 0.5.
    assert boxes.grad is not None
    assert torch.allclose(boxes.grad, torch.tensor([[0.5, 0.0, 0.5, 0.0]]))


POOLERS = {
    "align": lambda f, b, i: roi_align(f, b, i, 7, 0.25, 2),
    "adaptive": lambda f, b, i: roi_align(f, b, i, 7, 0.25, 0),
    "pool": lambda f, b, i: roi_pool(f, b, i, 7, 0.25),
    "crop": lambda f, b, i: crop_and_resize(f, b / 64, i, 7),
}


@pytest.mark.parametrize("name", POOLERS)
def test_no_boxes_give_no_features(recorded: "np.lib.npyio.NpzFile", name: str) -> None:
    features = inputs(recorded)[0].requires_grad_()
    pooled = POOLERS[name](features, torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    assert pooled.shape == (0, 5, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None


@pytest.mark.parametrize("name", POOLERS)
def test_exports_with_any_number_of_boxes(recorded: "np.lib.npyio.NpzFile", name: str) -> None:
    class Pool(torch.nn.Module):
        def forward(self, features: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
            return POOLERS[name](features, boxes, index)

    features, boxes, index = inputs(recorded)
    boxes, index = boxes[20:], index[20:]
    n = torch.export.Dim("n", min=2, max=4096)
    program = torch.export.export(
        Pool(), (features, boxes, index), dynamic_shapes=({}, {0: n}, {0: n}), strict=False
    )
    assert torch.allclose(
        program.module()(features, boxes[:5], index[:5]), Pool()(features, boxes[:5], index[:5]), atol=1e-5
    )


def test_weights_along_each_axis_give_adaptive_roi_align() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(1, 1, 20, 30, generator=generator)
    boxes = torch.tensor([[2.3, 1.7, 25.1, 18.9], [-3.0, -2.0, 4.0, 33.0], [28.5, 3, 36, 3.5], [5, 5, 5, 9]])
    rows, columns = align_weights(boxes, (20, 30), 7)
    wanted = roi_align(plane, boxes, torch.zeros(4).long(), 7, 1.0, 0)[:, 0]
    assert torch.allclose(rows @ plane[0, 0] @ columns.transpose(1, 2), wanted, atol=1e-6)


def test_pooled_features_are_those_of_the_boxes_in_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    pyramid = [torch.rand(1, 256, side, side, generator=generator) for side in (32, 16, 8, 4)]
    sides = torch.linspace(4, 128, 700)
    boxes = torch.stack([torch.zeros(700), torch.zeros(700), sides, sides], dim=1)
    index = torch.zeros(700, dtype=torch.int64)
    config = Config(names=("thing",))
    with torch.inference_mode():
        whole = pool_rois(pyramid, boxes, index, (128, 128), 7, config)
        parts = [
            pool_rois(pyramid, b, i, (128, 128), 7, config)
            for b, i in zip(boxes.split(100), index.split(100), strict=True)
        ]
        assert torch.equal(whole.restore(whole.values), torch.cat([p.restore(p.values) for p in parts]))


def strange_boxes(generator: torch.Generator) -> Tensor:
    """Of all sizes, some outside, flipped, empty and larger than the 256x256 image."""
    corners = torch.rand(60, 4, generator=generator) * 300 - 20
    corners[:40, 2:] = corners[:40, :2] + torch.exp(torch.rand(40, 1, generator=generator) * 6)
    corners[58], corners[59] = torch.tensor([8.0, 8, 8, 8]), torch.tensor([-300.0, -200, 900, 700])
    return corners


RULES = {
    "fixed": {"roi_op": "align_legacy", "sampling_ratio": 2},
    "adaptive": {"roi_op": "align", "sampling_ratio": 0},
    "crop": {"roi_op": "crop_and_resize"},
}


@pytest.mark.skipif(team.team() is None, reason="this PyTorch does not run on OpenMP's threads")
@pytest.mark.parametrize("channels", [16, 80, 256])
@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_sums_as_the_levels_do_one_by_one(
    rule: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features and their gradients; two images; 80 channels are one register more than whole groups of them."""
    generator = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(2, channels, s, s, generator=generator).requires_grad_() for s in (64, 32, 16, 8)]
    boxes, index = strange_boxes(generator), torch.arange(60) % 2
    config = Config(names=("thing",)).with_options(**RULES[rule])
    by = torch.randn(60, channels, 7, 7, generator=generator)

    def pooled() -> tuple[Tensor, ...]:
        found = pool_rois(pyramid, boxes, index, (256, 256), 7, config)
        values = found.restore(found.values)
        return values, *torch.autograd.grad(values, pyramid, by)

    assert roi_kernel.fits(pyramid, boxes)
    compiled = pooled()
    monkeypatch.setattr(roi_kernel, "fits", lambda maps, boxes: False)
    for ours, wanted in zip(compiled, pooled(), strict=True):
        assert (ours - wanted).abs().max() < 2e-6 * wanted.abs().max()


@pytest.mark.skipif(team.team() is None, reason="this PyTorch does not run on OpenMP's threads")
def test_the_kernel_takes_no_boxes_and_boxes_that_are_not_numbers() -> None:
    pyramid = [torch.rand(1, 32, s, s) for s in (16, 8, 4, 2)]
    config = Config(names=("thing",))
    boxes = torch.tensor([[torch.nan] * 4, [0.0, 0, 9, 9]])
    values = pool_rois(pyramid, boxes, torch.zeros(2).long(), (64, 64), 7, config).values
    assert values[0].isnan().all()
    assert values[1].isfinite().all()
    assert pool_rois(pyramid, boxes[:0], torch.zeros(0).long(), (64, 64), 7, config).values.shape == (
        0,
        32,
        7,
        7,
    )
