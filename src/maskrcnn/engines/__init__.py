"""What computes a network: PyTorch as it is, or kernels made for the machine at hand."""

from __future__ import annotations

from ..errors import ConfigError
from ..model import MaskRCNN
from . import fast

ENGINES = ("auto", "torch")


def attach(model: MaskRCNN, engine: str = "auto") -> MaskRCNN:
    """The same model, computed by another engine; its modules, weights and state dict stay what they are.

    engine : auto   compiled float32 kernels on the CPU wherever no gradients are wanted, else PyTorch
             torch  PyTorch's own operators throughout, the reference
    """
    if engine == "auto":
        fast.attach(model)
    elif engine == "torch":
        fast.detach(model)
    else:
        raise ConfigError(f"engine: want one of {', '.join(ENGINES)}, got {engine!r}")
    return model
