"""Another class list for a trained network: what agrees by name stays, what is new starts anew."""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor

from ..model import MaskRCNN


def with_names(model: MaskRCNN, names: tuple[str, ...]) -> MaskRCNN:
    """The network for another class list.

    Rows of the heads go by class name, upper and lower case alike; a class that the network does not know
    starts from random rows and is listed in the new model's ``untrained`` until training clears it. The model
    itself comes back if it has this list. Class-agnostic heads are kept as they are.
    """
    if names == model.names:
        return model
    old = {name.casefold(): i for i, name in enumerate(model.names)}
    source = [old.get(name.casefold()) for name in names]
    config = dataclasses.replace(model.config, names=tuple(names))
    remapped = MaskRCNN(config, copy.deepcopy(model.backbone), model.source).to(model.device)
    state = remapped.state_dict()
    by_class = _by_class(model)
    for name, value in model.state_dict().items():
        layer = name.rpartition(".")[0]
        state[name] = _rows(value, state[name], source, *by_class[layer]) if layer in by_class else value
    remapped.load_state_dict(state)
    remapped.untrained = tuple(name for name, i in zip(names, source, strict=True) if i is None)
    return remapped


def origins(model: MaskRCNN, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """For people: each class of a new list, and where its rows of the heads would come from."""
    old = {name.casefold(): name for name in model.names}

    def origin(name: str) -> str:
        before = old.get(name.casefold())
        return "random" if before is None else "kept" if before == name else f"kept from {before}"

    return [(name, origin(name)) for name in names]


def _by_class(model: MaskRCNN) -> dict[str, tuple[int, bool]]:
    """Layers with rows for each class: how many, and whether a row for background follows."""
    layers = {"box.class_logits": (1, True)}
    if not model.config.class_agnostic_boxes:
        layers["box.deltas"] = 4, False
    if not model.config.class_agnostic_masks:
        layers["mask.logits"] = 1, False
    return layers


def _rows(old: Tensor, new: Tensor, source: list[int | None], rows: int, background: bool) -> Tensor:
    new = new.clone()
    for i, j in enumerate(source):
        if j is not None:
            new[i * rows : (i + 1) * rows] = old[j * rows : (j + 1) * rows]
    if background:
        new[-1] = old[-1]
    return new
