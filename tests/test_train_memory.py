"""Gradient checkpointing, and scaled gradients that overflow."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor

from maskrcnn.errors import ConfigError
from maskrcnn.model import MaskRCNN
from maskrcnn.train import Training, train
from maskrcnn.train.feed import Batch
from maskrcnn.train.optimize import choose_layers, optimizer
from maskrcnn.train.step import Losses, take_step
from training_script import TINY, drawn, tiny


def learnt(model: MaskRCNN, recompute: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients and running statistics after one pass, and the bytes that were kept for the backward pass."""
    choose_layers(model, Training(norm="adapt"))
    model.train()
    model.backbone.recompute = recompute
    data, kept = drawn(2), {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = model.losses(
            [data[i].read() for i in range(2)],
            [data[i].target() for i in range(2)],
            torch.Generator().manual_seed(0),
        )
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return gradients | dict(model.named_buffers()), sum(kept.values())


def test_gradient_checkpointing_gives_the_same_gradients_and_statistics_from_less_memory() -> None:
    (plain, much), (again, little) = learnt(tiny(), False), learnt(tiny(), True)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not plain["backbone.s2.0.conv1.norm.running_mean"].equal(torch.zeros(8))
    assert little < 0.7 * much


def test_the_model_that_a_checkpointed_run_gives_back_is_a_plain_one(tmp_path: Path) -> None:
    model = train(tiny(), drawn(2), out=tmp_path / "run", epochs=1, workers=0, device="cpu",
                  gradient_checkpointing=True)  # fmt: skip
    assert not model.backbone.recompute


def test_backbones_of_others_and_compilation_do_not_go_with_gradient_checkpointing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        Training(compile=True, gradient_checkpointing=True)
    inner = tiny().backbone

    class Other(torch.nn.Module):
        channels = inner.channels

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return inner(x)

    with pytest.raises(ConfigError, match="got Other"):
        train(
            MaskRCNN(TINY, Other()), drawn(1), out=tmp_path / "run", device="cpu", gradient_checkpointing=True
        )


def test_a_scaled_step_that_overflows_changes_nothing_and_the_next_scale_is_half() -> None:
    settings = Training(precision="16-mixed", norm="frozen", clip=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=10**6)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    model = tiny()
    choose_layers(model, settings)
    module, steps = fabric.setup(Losses(model, settings.sampling, TINY, fabric), optimizer(model, settings))
    data = drawn(2)
    batch = Batch([data[i].read() for i in range(2)], [data[i].target() for i in range(2)], ["a", "b"])
    before = {name: p.clone() for name, p in model.named_parameters()}

    outcome = take_step(fabric, module, steps, [batch], (0, 0, 0), settings)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    assert scaler.get_scale() == 2.0**99

    scaler.update(256.0)
    outcome = take_step(fabric, module, steps, [batch], (0, 0, 0), settings)
    assert outcome.finite and scaler.get_scale() == 256.0
    apart = torch.cat([(p - before[name]).flatten() for name, p in model.named_parameters()])
    # Gradients are unscaled before they are clipped: a step is no longer than rate times norm.
    assert 0 < float(apart.detach().norm()) <= 1.01 * settings.lr


def test_without_a_scaler_a_gradient_that_is_not_finite_is_never_stepped() -> None:
    """On a CPU, Fabric takes bfloat16 for 16-mixed, and scales nothing."""
    settings = Training(precision="16-mixed")
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    # oneDNN reads beyond the gradient of a 1x1 convolution of stride 2 and eight channels, in bfloat16.
    model = MaskRCNN(replace(TINY, width=16))
    choose_layers(model, settings)
    module, steps = fabric.setup(Losses(model, settings.sampling, TINY, fabric), optimizer(model, settings))
    model.box.class_logits.weight.register_hook(lambda gradient: gradient * torch.inf)
    data = drawn(1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    outcome = take_step(
        fabric, module, steps, [Batch([data[0].read()], [data[0].target()], ["a"])], (0, 0, 0), settings
    )
    assert not outcome.finite
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
