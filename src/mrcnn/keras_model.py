"""What scripts touch of ``model.keras_model``: its layers, their weights and names, and files of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.config import Config as Settings
from maskrcnn.engines import attach
from maskrcnn.errors import ConfigError
from maskrcnn.legacy import graph
from maskrcnn.model import MaskRCNN as Network
from maskrcnn.model import load_arrays
from maskrcnn.records import ImageBatch
from maskrcnn.weights import keras, matterport
from maskrcnn.weights.matterport_config import read_settings

from .callbacks import History
from .images import to_batch

OUTPUTS = ("mrcnn_detection", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "ROI", "rpn_class", "rpn_bbox")


class Symbol(str):
    """Stands for a tensor of the graph: `MaskRCNN.run_graph` computes it by its name.

    It is a str, so that ``tf.identity`` of TensorFlow 2, which notebooks call, gives a tensor that holds the name.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The node's name, such as ``ROI`` or ``ROI/refined_anchors:0``."""
        return str(self)


@dataclass(frozen=True, eq=False)
class Variable:
    """One array of weights, named as in the file."""

    name: str
    array: torch.Tensor = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array, as Keras has it."""
        return tuple(self.array.shape)

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self.array.detach().cpu().numpy().copy()


class Layer:
    """A layer: ``name``, ``output``, ``weights``, ``trainable``. Its class has the name of Keras's."""

    def __init__(
        self, described: keras.Layer, arrays: dict[str, torch.Tensor], changed: Callable[[], None]
    ) -> None:
        self.name = described.name
        self.output = Symbol(described.name)
        self._changed = changed
        self._own = [Variable(f"{key}:0", arrays[key]) for key in described.keys]
        self.keys = described.keys
        self.trainable = True
        self.layers: list[Layer] = []

    @property
    def weights(self) -> list[Variable]:
        """The arrays, those of inner layers included."""
        return self._own + [w for layer in self.layers for w in layer.weights]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the arrays, in Keras's shapes and order."""
        return [w.numpy() for w in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Values for all arrays; their shapes have to be those there are."""
        for variable, value in zip(self.weights, weights, strict=True):
            if variable.shape != np.shape(value):
                raise ConfigError(f"{variable.name}: want {variable.shape}, got {np.shape(value)}")
            with torch.no_grad():
                variable.array.copy_(torch.as_tensor(np.asarray(value)))
        self._changed()


class TimeDistributed(Layer):
    """Wraps the layer that holds the weights."""

    def __init__(
        self, described: keras.Layer, arrays: dict[str, torch.Tensor], changed: Callable[[], None]
    ) -> None:
        super().__init__(described, arrays, changed)
        self.layer = _kind(described.kind)(described, arrays, changed)


_KINDS: dict[str, type[Layer]] = {}


def _kind(name: str) -> type[Layer]:
    """A class of that name: scripts ask for ``layer.__class__.__name__``."""
    return _KINDS.setdefault(name, type(name, (Layer,), {"__doc__": f"A layer of kind {name}."}))


class Optimizer:
    """What callbacks change while training runs: ``lr``, also known as ``learning_rate``."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._groups = optimizer.param_groups

    @property
    def lr(self) -> float:
        """The learning rate, from the next step on."""
        return self._groups[0]["lr"]

    @lr.setter
    def lr(self, rate: float) -> None:
        self._groups[0]["lr"] = float(rate)

    learning_rate = lr


class KerasModel:
    """The weights as Keras arranged them, and the network that runs on them.

    Raises ConfigError for a config whose network cannot be built.
    """

    name = "mask_rcnn"

    def __init__(self, config: Any, mode: str) -> None:
        if callable(config.BACKBONE):
            raise ConfigError(
                "BACKBONE: want resnet50 or resnet101; a function of Keras cannot be built without it; a module of "
                "torch can be: maskrcnn.MaskRCNN(config, backbone=module)"
            )
        if config.BACKBONE not in ("resnet50", "resnet101"):
            raise ConfigError(f"BACKBONE: want resnet50 or resnet101, got {config.BACKBONE!r}")
        if config.NUM_CLASSES < 2:
            raise ConfigError("NUM_CLASSES: want background and at least one class, 1 + n, got 1")
        depth = int(config.BACKBONE[6:])
        self.table = matterport.rows(depth)
        sizes = matterport.fill_sizes(
            depth, channels=int(config.IMAGE_CHANNEL_COUNT), width=64, fpn=int(config.TOP_DOWN_PYRAMID_SIZE),
            rpn=512, anchors=len(config.RPN_ANCHOR_RATIOS), pool=int(config.POOL_SIZE),
            fc=int(config.FPN_CLASSIF_FC_LAYERS_SIZE), classes=int(config.NUM_CLASSES), mask=256, mask_convs=4,
        )  # fmt: skip
        # The way of resizing does not matter here: images come molded. `crop` is unknown to inference.
        options = {"resize": "square"} if config.IMAGE_RESIZE_MODE == "crop" else {}
        self.settings: Settings
        self.settings, self.order = matterport.configure(sizes, read_settings(config), options)
        self.arrays = keras.initial(self.table, sizes)
        self.described = keras.layers(self.table, sizes, depth)
        self.mode = mode
        # The network, once it is needed. Layers empty it: they know it, not this model, which is thus freed at once.
        self._built: list[Network] = []
        self.layers: list[Layer] = []
        for layer in self.described:
            kind = TimeDistributed if layer.wrapped else _kind(layer.kind)
            made = kind(layer, self.arrays, self._built.clear)
            (self.layers if layer.group == layer.name else self.layers[-1].layers).append(made)
        if mode == "inference":
            detection = keras.Layer("mrcnn_detection", "DetectionLayer", False, "mrcnn_detection", ())
            self.layers.append(_kind(detection.kind)(detection, {}, self._built.clear))
        self.random = {layer.name for layer in self.described if layer.keys}
        self.stop_training = False
        self.history = History()
        self.optimizer: Optimizer | None = None

    # --- layers ---

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that place."""
        if name is None:
            return self.layers[index or 0]
        for layer in self.layers:
            for one in (layer, *layer.layers):
                if one.name == name:
                    return one
        raise ValueError(
            f"No such layer: {name}; the names are those of [layer.name for layer in keras_model.layers]"
        )

    @property
    def outputs(self) -> list[Symbol]:
        """What `predict` returns."""
        return [Symbol(name) for name in OUTPUTS]

    @property
    def trainable_keys(self) -> list[str]:
        """The arrays of the layers that are trainable."""
        return [
            k for layer in self.layers for one in (layer, *layer.layers) if one.trainable for k in one.keys
        ]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays, layer by layer."""
        return [value for layer in self.layers for value in layer.get_weights()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Values for all arrays, in the order of `get_weights`."""
        values = list(weights)
        for layer in self.layers:
            count = len(layer.weights)
            layer.set_weights(values[:count])
            del values[:count]

    def count_params(self) -> int:
        """How many numbers there are in all arrays."""
        return sum(array.numel() for array in self.arrays.values())

    def summary(self, line_length: int = 80, print_fn: Any = print) -> None:
        """Print each layer with its kind and number of parameters."""
        rule = "_" * line_length
        print_fn(rule)
        print_fn(f"{'Layer (type)':{line_length - 14}}Param #")
        print_fn("=" * line_length)
        for layer in self.layers:
            count = sum(w.array.numel() for w in layer.weights)
            print_fn(f"{layer.name + ' (' + type(layer).__name__ + ')':{line_length - 14}}{count:,}")
        print_fn("=" * line_length)
        print_fn(f"Total params: {self.count_params():,}")
        print_fn(rule)

    # --- files ---

    def load_weights(self, filepath: Any, by_name: bool = False, exclude: Collection[str] = ()) -> None:
        """Read an .h5, see `maskrcnn.weights.keras.load_into`."""
        left = keras.load_into(
            self.arrays, self.described, Path(filepath), by_name=by_name, exclude=tuple(exclude)
        )
        self.random &= set(left)
        self.changed()

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """Write an .h5 that Matterport's package reads."""
        path = Path(filepath)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; overwrite=True replaces it")
        keras.write(path, self.described, self.arrays)

    # --- running ---

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Training starts: `history` is empty, `optimizer` this one, and no layer is random any more."""
        self.stop_training = False
        self.history, self.optimizer = History(), Optimizer(optimizer)
        self.random.clear()

    def changed(self) -> None:
        """The arrays have other values: build the network anew when it is next needed."""
        self._built.clear()

    @property
    def device(self) -> str:
        """Where it runs: on the GPU where there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def network(self) -> Network:
        """The network of `maskrcnn` with these weights."""
        if not self._built:
            # A kernel takes no tensors of inference mode, since it could not see them change.
            with torch.inference_mode(False), torch.no_grad():
                state = matterport.to_state(self.table, self.arrays, self.order)
                self._built.append(attach(load_arrays(self.settings, state, "mrcnn").to(self.device)))
        return self._built[0]

    def run(self, batch: ImageBatch, names: Sequence[str]) -> list[np.ndarray]:
        """Outputs of stages by name, see `maskrcnn.legacy.graph`."""
        network = self.network
        background = graph.Background.of(self.arrays, network.device)
        return graph.run(network, batch.to(network.device), self.order, background, names)

    def _make_predict_function(self) -> None:
        """Does nothing: servers call it before they start threads, and any thread may run this network."""

    def predict(self, inputs: Sequence[np.ndarray], verbose: int = 0, **unused: Any) -> list[np.ndarray]:
        """Detections, class probabilities, deltas, masks, proposals, anchor scores and deltas of molded images.

        inputs: molded images, their metas, and anchors, which are not needed
        """
        return self.run(to_batch(inputs[0], inputs[1]), OUTPUTS)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"keras_model.{name} needs Keras, which is not used here. There are: layers, get_layer, summary, "
            "count_params, outputs, predict, get_weights, set_weights, load_weights, save_weights, history, optimizer; "
            "`network` is the torch module"
        )
