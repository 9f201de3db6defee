"""The exported graph as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import MissingExtraError
from ..model import MaskRCNN
from .export import INPUT, OUTPUTS, trace_program

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
    program = torch.onnx.export(
        trace_program(model), input_names=[INPUT], output_names=list(OUTPUTS), opset_version=OPSET,
        custom_translation_table=TRANSLATIONS, verbose=False, external_data=False,
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(model.config.to_dict())
    program.save(path, external_data=False)
