"""The exported graph in 8-bit integers, by NNCF, calibrated on the user's pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import Config
from ..errors import ConfigError, MissingExtraError
from ..records import Image
from .export import INPUT
from .runner import network_pixels


def quantise(network: Any, pictures: Sequence[Image], config: Config) -> Any:
    """An openvino.Model of ours whose convolutions and dense layers compute in int8; the rest stays float32.

    pictures : what the ranges of the activations are measured on; a hundred or more like those to come

    Raises MissingExtraError without nncf, ConfigError without pictures.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("int8: want nncf; pip install 'maskrcnn[int8]'") from error
    if not pictures:
        raise ConfigError("calibrate: want at least one picture, better a hundred, got none")

    def feed(picture: Image) -> dict[str, np.ndarray]:
        return {INPUT: network_pixels([picture], config)}

    logging.getLogger("nncf").setLevel(logging.WARNING)  # else a line for every operation left alone
    return nncf.quantize(
        network,
        nncf.Dataset(pictures, feed),
        subset_size=len(pictures),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_left_alone(network), validate=False),
    )


def _left_alone(network: Any) -> list[str]:
    """Every operation but layers with weights: resizing, boxes and choosing need their digits."""
    return [node.get_friendly_name() for node in network.get_ordered_ops() if not _is_layer(node)]


def _is_layer(node: Any) -> bool:
    kind = node.get_type_name()
    if kind in ("Convolution", "GroupConvolution", "ConvolutionBackpropData"):
        return True
    return kind == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant"
