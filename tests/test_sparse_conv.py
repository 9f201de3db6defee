"""The convolution that takes its gradient from few cells."""

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops.sparse_conv import conv_of_few


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_gradients_are_those_of_the_plain_convolution(share: float, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(2, 6, 9, 11).contiguous(memory_format=layout).requires_grad_()
    weight, bias = draw(5, 6, 3, 3).requires_grad_(), draw(5).requires_grad_()
    seen = torch.rand(2, 1, 9, 11, generator=generator) < share
    seen[..., 0, 0] = seen[..., -1, -1] = share > 0  # corners, whose patches leave the map
    grad = draw(2, 5, 9, 11) * seen
    plain = F.conv2d(x, weight, bias, padding=1)
    few = conv_of_few(x, weight, bias)
    assert few.equal(plain)
    wanted = torch.autograd.grad(plain, (x, weight, bias), grad)
    for got, want in zip(torch.autograd.grad(few, (x, weight, bias), grad), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-12)


def test_under_autocast_it_computes_in_the_lower_precision() -> None:
    x, weight, bias = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 1, 1, requires_grad=True), torch.zeros(1)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_of_few(x, weight, bias)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and weight.grad is not None
    assert weight.grad.dtype == torch.float32 and weight.grad.flatten().tolist() == [9.0, 9.0]
