"""The exported graph as OpenVINO's .xml and .bin, and OpenVINO to run it. It comes by way of ONNX."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..errors import ConfigError, MissingExtraError, WeightsError
from ..model import MaskRCNN
from .export import INPUT, OUTPUTS
from .onnx import METADATA, save_onnx
from .runner import Run

MOST_SORTED = 46_340  # boxes of an image; the largest number whose square fits into int32


def save_openvino(model: MaskRCNN, path: Path) -> None:
    """Write ``path`` (.xml) and its .bin, float32.

    Raises MissingExtraError without openvino, onnx and onnxscript; ConfigError as `trace_program`, and for more
    candidates than `MOST_SORTED`.
    """
    write(convert(model), path)


def convert(model: MaskRCNN) -> Any:
    """The network as an openvino.Model."""
    import_openvino()  # before a minute of export
    config = model.config
    most = max(config.pre_nms, config.proposals, config.max_detections)
    if most > MOST_SORTED:
        raise ConfigError(
            f"pre_nms, proposals, max_detections: want at most {MOST_SORTED} for OpenVINO, got {most}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(model, path)
        return convert_onnx(path)


def convert_onnx(path: Path) -> Any:
    """An openvino.Model of a file that `save_onnx` wrote."""
    import onnx

    network = import_openvino().convert_model(path)
    keep_order_of_ties(network)
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


def keep_order_of_ties(network: Any) -> None:
    """ONNX's TopK takes the lower index first of equal values, OpenVINO's any, or in quadratic time if asked to.

    What it sorts of integers are distinct ones.
    """
    for node in network.get_ordered_ops():
        if node.get_type_name() == "TopK" and node.get_output_element_type(0).is_real():
            for old, new in zip(node.outputs(), _stable_top_k(node), strict=True):
                old.replace(new)


def _stable_top_k(node: Any) -> tuple[Any, Any]:
    """Values and indices of a TopK of the rows of (b, n), best first and of equal ones the lower index first.

    Equal values are told apart by their place in keys below ``MOST_SORTED`` squared, which fit into int32.
    """
    from openvino import opset13 as ops

    assert (node.get_attributes()["axis"], node.get_attributes()["mode"]) == (1, "max")
    values, k, axis = node.input_value(0), node.input_value(1), np.int64(1)

    def number(of: Any) -> Any:
        return ops.convert(of, "i32")

    # Which ones, in the order of their indices: all above the worst, and of those equal to it the first.
    best = ops.topk(values, k, 1, "max", "value", "i32").output(0)
    worst = ops.reduce_min(best, axis, keep_dims=True)
    above, equal = ops.greater(values, worst), ops.equal(values, worst)
    room = ops.subtract(number(k), ops.reduce_sum(number(above), axis, keep_dims=True))
    first = ops.less_equal(ops.cum_sum(number(equal), axis), room)
    chosen = ops.logical_or(above, ops.logical_and(equal, first))
    index = ops.reshape(ops.gather(ops.non_zero(chosen), axis, np.int64(0)), ops.shape_of(best), False)

    # Then in their own order: by the number of larger values that there are, and by place.
    place = ops.topk(ops.gather_elements(values, index, 1), k, 1, "max", "value", "i32").output(1)
    steps = number(ops.not_equal(best, ops.roll(best, np.int64(-1), axis)))
    keys = ops.add(ops.multiply(ops.cum_sum(steps, axis, exclusive=True), number(k)), place)
    order = ops.topk(keys, k, 1, "min", "value", "i32").output(1)
    return best, ops.gather_elements(index, ops.gather_elements(place, order, 1), 1).output(0)
