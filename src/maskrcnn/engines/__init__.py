"""What computes a network: PyTorch as it is, kernels made for the machine at hand, or another runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..config import Config
from ..errors import ConfigError
from ..files import replacing_files
from ..model import MaskRCNN
from ..records import Image
from . import fast, half, int8, openvino
from .export import open_program, save_program
from .half import PRECISIONS
from .onnx import open_onnx, save_onnx
from .openvino import open_openvino, save_openvino
from .runner import Run, Runner

ENGINES = ("auto", "torch", *PRECISIONS, "onnxruntime", "openvino")
GRAPH_VERSION = 2  # of what export writes; another one makes the files in the cache anew


@dataclass(frozen=True)
class Format:
    """A form in which a network runs alone: the ending of its file, how one is written, and how one is run."""

    ending: str
    save: Callable[[MaskRCNN, Path], None]
    open: Callable[[Path], tuple[Run, Config]]


FORMATS = {
    "onnx": Format(".onnx", save_onnx, open_onnx),
    "openvino": Format(".xml", save_openvino, open_openvino),
    "torch-export": Format(".pt2", save_program, open_program),
}
_RUNTIMES = {"onnxruntime": FORMATS["onnx"], "openvino": FORMATS["openvino"]}


def export(model: MaskRCNN, path: Path, to: str) -> None:
    """Write a model's network, weights and settings in one of `FORMATS`; the file appears whole or not at all.

    What the file takes and gives is said at `export.Standalone`. Raises ConfigError for a model with ``untrained``
    classes.
    """
    model.check_trained()
    if to not in FORMATS or path.suffix != FORMATS[to].ending:
        known = ", ".join(f"{form.ending} for {name}" for name, form in FORMATS.items())
        raise ConfigError(f"export: want a name that ends in {known}, got {path} for {to}")
    with replacing_files(path) as part:
        FORMATS[to].save(model, part)


def attach(model: MaskRCNN, engine: str = "auto") -> MaskRCNN:
    """The same model, computed by another engine; its modules, weights and state dict stay what they are.

    engine : auto         compiled float32 kernels on the CPU wherever no gradients are wanted, else PyTorch
             torch        PyTorch's own operators throughout, the reference
             bfloat16, float16
                          layers rounded to 16 bits, for GPUs; boxes and scores stay float32
             onnxruntime  ONNX Runtime on the CPU (``maskrcnn[onnx]``)
             openvino     OpenVINO on the CPU (``maskrcnn[openvino]``)

    The latter two compute ``predict`` alone, with weights and settings as they are now: the first time they write
    the graph into the folder of the downloaded weights, which takes a minute.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine: want one of {', '.join(ENGINES)}, got {engine!r}")
    model.engine = None
    fast.detach(model)
    if engine == "auto":
        fast.attach(model)
    elif engine in PRECISIONS:
        half.attach(model, engine)
    elif engine in _RUNTIMES:
        form = _RUNTIMES[engine]
        path = _cached(model, form.ending)
        if not path.exists():
            with replacing_files(path) as part:
                form.save(model, part)
        model.engine = Runner(*form.open(path))
    return model


def export_int8(model: MaskRCNN, path: Path, pictures: Sequence[Image]) -> None:
    """As `export` to openvino, in 8-bit integers calibrated on these pictures, see `int8.quantise`."""
    model.check_trained()
    if path.suffix != ".xml":
        raise ConfigError(f"export: want a name that ends in .xml for openvino, got {path}")
    with replacing_files(path) as part:
        openvino.write(int8.quantise(openvino.convert(model), pictures, model.config), part)


def exported_kind(path: Path) -> Literal["onnxruntime", "openvino"] | None:
    """The runtime of an exported file, from its first bytes; None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(256)
    if head.lstrip().startswith(b"<?xml") and b"<net" in head:
        return "openvino"
    return (
        "onnxruntime" if head[:1] == b"\x08" and b"pytorch" in head else None
    )  # an ONNX file says its producer


def open_exported(path: Path, engine: str = "auto", **options: object) -> MaskRCNN:
    """A model that predicts from an exported .onnx or .xml; it has no weights to train, trace or save.

    options : score, max_detections and names in place of those it was exported with, see `Runner`
    """
    kind = exported_kind(path)
    if kind is None or engine not in ("auto", kind):
        raise ConfigError(f"engine: want auto or {kind} for {path}, got {engine!r}")
    return open_file(path, _RUNTIMES[kind], **options)


def open_file(path: Path, form: Format, **options: object) -> MaskRCNN:
    """As `open_exported`, for a file of this form."""
    runner = Runner(*form.open(path))
    with torch.device("meta"):
        model = MaskRCNN(runner.config.with_options(**options), source=str(path))
    model.engine = runner
    return model


def _cached(model: MaskRCNN, ending: str) -> Path:
    """Where the graph of these weights and settings is kept."""
    from ..weights.home import home

    digest = hashlib.sha256(json.dumps([GRAPH_VERSION, torch.__version__, model.config.to_dict()]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return home() / "engines" / f"{digest.hexdigest()[:32]}{ending}"
