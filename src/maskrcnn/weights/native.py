"""Our own files: safetensors, with the whole configuration in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from ..config import Config
from ..errors import MaskRCNNError, WeightsError
from ..files import write_bytes

if TYPE_CHECKING:
    from ..model import MaskRCNN

FORMAT, VERSION = "maskrcnn", "1"


def save(model: MaskRCNN, path: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> Path:
    """Write weights and configuration of a model; the file appears complete or not at all.

    dtype : ``float16`` halves the file. Kernels and dense layers are rounded to it; biases and batch norms,
            which are few, stay float32. Reading gives float32 either way.

    Raises WeightsError where a weight is too large for float16, ConfigError for a model with ``untrained`` classes.
    """
    model.check_trained()
    if dtype not in ("float32", "float16"):
        raise WeightsError(f"dtype: want float32 or float16, got {dtype!r}")
    path = Path(path)
    tensors = {}
    for name, value in model.state_dict().items():
        stored = value.detach().cpu().float()
        if dtype == "float16" and stored.ndim > 1:
            stored = stored.half()
            if stored.isinf().any():
                raise WeightsError(
                    f"{name}: has values beyond 65504, the largest of float16; save it as float32"
                )
        tensors[name] = stored.contiguous()
    metadata = {"format": FORMAT, "version": VERSION, "config": json.dumps(model.config.to_dict())}
    try:
        # Not save_file: what it writes only the owner can read.
        return write_bytes(path, serialise(tensors, metadata))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def read(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and state dict (float32) of a file of ours.

    Raises WeightsError for a damaged file, or safetensors that others wrote.
    """
    try:
        with safe_open(path, "pt") as file:
            config = _config(path, file.metadata() or {})
            state = {name: file.get_tensor(name).to(torch.float32) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: the file is truncated or damaged ({error}); fetch it again") from None
    return config, state


def read_config(path: Path) -> Config:
    """The configuration alone, without reading the weights."""
    try:
        with safe_open(path, "pt") as file:
            return _config(path, file.metadata() or {})
    except SafetensorError as error:
        raise WeightsError(f"{path}: the file is truncated or damaged ({error}); fetch it again") from None


def _config(path: Path, metadata: dict[str, str]) -> Config:
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: want a .safetensors that maskrcnn wrote, its configuration in the header; got another's"
        )
    if metadata.get("version") != VERSION:
        raise WeightsError(
            f"{path}: want version {VERSION} of the format, got {metadata.get('version')}; update maskrcnn"
        )
    try:
        return Config.from_dict(json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError, MaskRCNNError) as error:
        raise WeightsError(f"{path}: the configuration in the header cannot be read: {error}") from None
