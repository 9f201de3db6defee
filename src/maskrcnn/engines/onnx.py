"""The exported graph as an ONNX file, and ONNX Runtime to run it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..config import Config
from ..errors import MissingExtraError, WeightsError
from ..model import MaskRCNN
from .export import INPUT, OUTPUTS, trace_program
from .runner import Run

OPSET = 18
METADATA = "maskrcnn"  # the configuration as JSON, among the file's metadata


def save_onnx(model: MaskRCNN, path: Path) -> None:
    """Write one .onnx file with the weights inside.

    Raises MissingExtraError without onnx and onnxscript; ConfigError as `trace_program`.
    """
    try:
        from .onnx_operators import TRANSLATIONS
    except ImportError as error:
        raise MissingExtraError("ONNX: want onnx and onnxscript; pip install 'maskrcnn[onnx]'") from error
    with _quiet():
        program = torch.onnx.export(
            trace_program(model), input_names=[INPUT], output_names=list(OUTPUTS), opset_version=OPSET,
            custom_translation_table=TRANSLATIONS, verbose=False, external_data=False,
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(model.config.to_dict())
    program.save(path, external_data=False)


def open_onnx(path: Path) -> tuple[Run, Config]:
    """ONNX Runtime on a file of ours, with PyTorch's number of threads, and the configuration inside.

    Raises MissingExtraError without onnxruntime; WeightsError for a file that is damaged or another's.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("engine: want onnxruntime; pip install 'maskrcnn[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # several processes share the cores
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types, which it does not document
        said = str(error).splitlines()[0][:200]
        raise WeightsError(f"{path}: ONNX Runtime cannot read it ({said}); export it again") from error
    stored = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if stored is None:
        raise WeightsError(f"{path}: want an ONNX file that maskrcnn exported, got another's")

    def run(images: np.ndarray) -> list[np.ndarray]:
        return session.run(list(OUTPUTS), {INPUT: images})

    return run, Config.from_dict(json.loads(stored))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.onnx's warnings: that torchvision is not there, and of PyTorch's own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
