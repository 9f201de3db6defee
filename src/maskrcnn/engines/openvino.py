"""The exported graph as OpenVINO's .xml and .bin, and OpenVINO to run it. It comes by way of ONNX."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..errors import MissingExtraError, WeightsError
from ..model import MaskRCNN
from .export import INPUT, OUTPUTS
from .onnx import METADATA, save_onnx
from .runner import Run


def save_openvino(model: MaskRCNN, path: Path) -> None:
    """Write ``path`` (.xml) and its .bin, float32.

    Raises MissingExtraError without openvino, onnx and onnxscript; ConfigError as `trace_program`.
    """
    write(convert(model), path)


def convert(model: MaskRCNN) -> Any:
    """The network as an openvino.Model."""
    import_openvino()  # before a minute of export
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(model, path)
        return convert_onnx(path)


def convert_onnx(path: Path) -> Any:
    """An openvino.Model of a file that `save_onnx` wrote."""
    import onnx

    network = import_openvino().convert_model(path)
    _keep_order_of_ties(network)
    stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    network.set_rt_info(stored[METADATA], METADATA)
    return network


def write(network: Any, path: Path) -> None:
    """Write an openvino.Model as it is: weights are not rounded to float16."""
    import_openvino().save_model(network, path, compress_to_fp16=False)


def open_openvino(path: Path) -> tuple[Run, Config]:
    """OpenVINO on a file of ours, with PyTorch's number of threads, and the configuration inside.

    Raises MissingExtraError without openvino; WeightsError for a file that is damaged or another's.
    """
    openvino = import_openvino()
    try:
        network = openvino.Core().read_model(path)
        if not network.has_rt_info(METADATA):
            raise WeightsError(f"{path}: want an OpenVINO file that maskrcnn exported, got another's")
        config = Config.from_dict(json.loads(network.get_rt_info(METADATA).astype(str)))
        return compile_network(network), config
    except RuntimeError as error:
        said = str(error).splitlines()[0][:200]
        raise WeightsError(
            f"{path}: OpenVINO cannot read it ({said}); is its .bin beside it? Else export it again"
        ) from error


def compile_network(network: Any) -> Run:
    """An openvino.Model, ready to run in full float32 where it is not quantised."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = import_openvino().compile_model(network, "CPU", settings)

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled({INPUT: images})
        return [found[name] for name in OUTPUTS]

    return run


def import_openvino() -> Any:
    """The package, or a MissingExtraError."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("OpenVINO: want openvino; pip install 'maskrcnn[openvino]'") from error
    return openvino


def _keep_order_of_ties(network: Any) -> None:
    """ONNX's TopK takes the lower index first of equal values; OpenVINO's does so if asked, which its reader is not."""
    from openvino import opset11

    for node in network.get_ordered_ops():
        if node.get_type_name() != "TopK":
            continue
        kept = node.get_attributes()
        stable = opset11.topk(
            node.input_value(0), node.input_value(1), kept["axis"], kept["mode"], kept["sort"],
            kept["index_element_type"], stable=True,
        )  # fmt: skip
        for old, new in zip(node.outputs(), stable.outputs(), strict=True):
            old.replace(new)
