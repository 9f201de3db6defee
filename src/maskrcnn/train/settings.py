"""Every setting of a training run, as one frozen value; the run folder keeps it as JSON."""

from __future__ import annotations

import dataclasses
import json
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.augment import Recipe
from ..errors import ConfigError
from ..files import write_text
from ..model.targets import PAPER, Sampling


@dataclass(frozen=True)
class Training:
    """How a network is trained. The defaults fine-tune a trained network on a small data set.

    Length
        epochs         : times that the data set is gone through; with ``balance``, that many pictures
    Step
        batch          : pictures that one process sees at a time
        accumulate     : batches whose gradients are averaged into one step
        optimizer      : ``sgd`` with momentum 0.9, or ``adamw``; norms and biases are not decayed
        lr             : the highest learning rate, for ``batch`` x ``accumulate`` x processes pictures
        warmup         : steps over which the rate rises to ``lr``, a tenth of all at most
        schedule       : ``cosine`` down to ``lr`` x ``final``, or ``multistep``: a tenth from each of the
                         ``milestones`` on, shares of the whole length
        clip           : largest norm of the gradient; None for no limit
        ema            : decay of the average over steps that is validated and kept; None for none
        precision      : of Lightning Fabric: ``32-true``, ``bf16-mixed``, ``16-mixed``
        compile        : run backbone and pyramid through torch.compile; minutes at the start, for each size of
                         picture, so give ``augment`` a ``size``
        gradient_checkpointing : the backbone keeps the inputs of its blocks only, and computes the rest again in
                         the backward pass: less memory, more time, the same gradients. Not with ``compile``
    Network
        layers         : what learns: ``heads``, ``3+``, ``4+``, ``5+`` (from that stage of the backbone on),
                         ``all``, or a regular expression searched in parameter names
        norm           : ``frozen`` keeps statistics, scale and shift; ``adapt`` normalises by each batch
        norm_momentum  : share of a batch in the running statistics
        sampling       : anchors and proposals that the losses see
        absent         : names of classes too rare to be in pictures that do not label them: those teach that they
                         are not there. Without, nothing speaks against finding them everywhere
    Pictures
        augment        : what happens to each picture, see `maskrcnn.data.Recipe`. With a ``size`` in it (sides that
                         are multiples of 32), pictures go in as they are then; without, they are resized as
                         for prediction, and those of different shape go in batches apart
        balance        : classes rarer than this share of the pictures are shown more often (repeat factor
                         sampling, LVIS, section 4); 0 shows every picture once
        workers        : processes that prepare pictures; 0 does it in between
        seed           : decides order, augmentation and samples
    Validation
        validate_every : epochs between validations
        patience       : validations without a better mask AP after which training stops; None never does
        keep_every     : steps between checkpoints
    """

    epochs: float = 12.0

    batch: int = 2
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.005
    weight_decay: float = 1e-4
    warmup: int = 100
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: tuple[float, ...] = (0.67, 0.92)
    final: float = 0.0
    clip: float | None = 5.0
    ema: float | None = None
    precision: str = "32-true"
    compile: bool = False
    gradient_checkpointing: bool = False

    layers: str = "all"
    norm: Literal["frozen", "adapt"] = "frozen"
    norm_momentum: float = 0.1
    sampling: Sampling = PAPER
    absent: tuple[str, ...] = ()

    augment: Recipe = field(default_factory=Recipe)
    balance: float = 0.0
    workers: int = 2
    seed: int = 0

    validate_every: float = 1.0
    patience: int | None = None
    keep_every: int = 200

    def __post_init__(self) -> None:
        wanted = {
            "epochs": (self.epochs > 0, "a positive number"),
            "batch": (self.batch >= 1, "at least 1"),
            "accumulate": (self.accumulate >= 1, "at least 1"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            "lr": (self.lr > 0, "a positive number"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "schedule": (self.schedule in ("cosine", "multistep"), "cosine or multistep"),
            "milestones": (list(self.milestones) == sorted(self.milestones), "shares 0..1, ascending"),
            "clip": (self.clip is None or self.clip > 0, "a positive number or None"),
            "ema": (self.ema is None or 0 < self.ema < 1, "a number between 0 and 1, or None"),
            "compile": (
                not (self.compile and self.gradient_checkpointing),
                "not both it and gradient_checkpointing",
            ),
            "norm": (self.norm in ("frozen", "adapt"), "frozen or adapt"),
            "augment.size": (
                not any(side % 32 for side in self.augment.size or ()),
                "multiples of 32, or None",
            ),
            "balance": (0 <= self.balance <= 1, "0..1"),
            "workers": (self.workers >= 0, "0 or more"),
            "seed": (self.seed >= 0, "0 or more"),
            "validate_every": (self.validate_every > 0, "a positive number"),
            "keep_every": (self.keep_every >= 1, "at least 1"),
        }
        for name, (good, want) in wanted.items():
            if not good:
                got = operator.attrgetter(name)(self)
                raise ConfigError(f"{name}: want {want}, got {got!r}")

    def with_options(self, **options: Any) -> Training:
        """Replace settings by name; ``augment`` and ``sampling`` take a dict of some of their own, and a name such as
        ``augment.rotate`` is one of these.

        Raises ConfigError for a name that there is not, listing those there are.
        """
        nested: dict[str, Any] = {}
        for name, value in options.items():
            outer, dot, inner = name.partition(".")
            nested[outer] = {**nested.get(outer, {}), inner: value} if dot else value
        return _replace(self, nested)

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears complete or not at all."""
        write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path, **options: Any) -> Training:
        """Read what `save` wrote, or a recipe that names some settings and leaves the rest at the defaults.

        Raises ConfigError for a file that is not JSON or names settings that there are not.
        """
        try:
            stored = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: want a JSON file of training settings: {error}") from None
        return Training().with_options(**stored.get("training", stored)).with_options(**options)


def _replace(value: Any, options: dict[str, Any]) -> Any:
    """``dataclasses.replace`` that goes into nested dataclasses, and makes tuples of the lists of JSON."""
    known = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    changed = {}
    for name, new in options.items():
        if dataclasses.is_dataclass(known[name]) and isinstance(new, dict):
            changed[name] = _replace(known[name], new)
        else:
            changed[name] = _tuples(new)
    return dataclasses.replace(value, **changed)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
