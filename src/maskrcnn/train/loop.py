"""The run: steps, checkpoints and validations, from the first step or from where it was."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data import Dataset, open_dataset, repair
from ..errors import ConfigError, DataError, MissingExtraError
from ..evaluate import evaluate
from ..model import MaskRCNN, load_arrays
from ..model.layers import BatchNorm
from ..model.resnet import ResNet
from ..weights import native
from . import checkpoint, report
from .checkpoint import Progress
from .feed import feed, order
from .heads import with_names
from .optimize import Average, choose_layers, optimizer, rate
from .settings import Training
from .step import Losses, take_step
from .together import together, with_absent

Source = str | Path | Dataset | Sequence[str | Path | Dataset]

PREVIEWS = 8  # pictures of the validation set that are drawn at each validation
LOSS_PICTURES = 100  # of which the validation loss is taken: it needs no more to show a trend
COMMON = 20  # objects from which on a class counts for the AP of common classes


@dataclass(frozen=True)
class Report:
    """What a run tells while it goes on: after each step ``losses``, after a validation ``scores`` too.

    seconds : of this step, waiting for pictures included
    skipped : where the inputs of a step that was not finite were kept
    """

    step: int
    steps: int
    losses: dict[str, float]
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    skipped: Path | None = None


def train(
    model: MaskRCNN | None,
    data: Source,
    *,
    out: str | Path = "runs/train",
    val: Source | None = None,
    resume: bool = False,
    settings: Training | None = None,
    device: str = "auto",
    tell: Callable[[Report], None] = lambda report: None,
    **options: Any,
) -> MaskRCNN:
    """Train a model on annotated pictures; the best one comes back, and is ``out``/best.safetensors.

    model    : where to start from; for another class list its heads are rearranged, see `with_names`. The
               model that is handed in is not changed. None: that of the run that goes on
    data     : an annotation file, a folder, or a `Dataset`; or a list of these, each with classes of its own
    val      : the same to validate on; None takes the split ``val`` of ``data`` where it has one
    resume   : go on with the run in ``out``, at its last checkpoint and with its settings
    settings : a `Training`; ``options`` are its fields by name, in place of what it says
    device   : ``auto``, ``cpu``, ``cuda``; started with torchrun, each process takes its own
    tell     : called after each step

    Raises ConfigError for settings or data that cannot work, MissingExtraError without ``maskrcnn[train]``.
    """
    run = Path(out)
    settings = _settings(run, resume, settings, options)
    training, validation = _datasets(data, val)
    fabric = _fabric(settings, device)
    if model is None:
        model = load_arrays(*native.read(checkpoint.latest(run) / "weights.safetensors"), run)
    model = with_names(model, tuple(training.names))
    if validation is not None and tuple(validation.names) != tuple(training.names):
        raise ConfigError(
            f"val: want the classes of the training data, {training.names}, got {validation.names}"
        )
    return _Run(fabric, model, training, validation, settings, run, resume, tell).go()


class _Run:
    """The state of a run, and what happens at each step."""

    def __init__(
        self, fabric: Any, model: MaskRCNN, data: Dataset, validation: Dataset | None, settings: Training,
        run: Path, resume: bool, tell: Callable[[Report], None],
    ) -> None:  # fmt: skip
        self.fabric, self.validation, self.settings = fabric, validation, settings
        self.data = with_absent(data, settings.absent)
        self.run, self.tell = run, tell
        self.model = _copy(model)
        self.model.untrained = ()
        choose_layers(self.model, settings)
        config = model.config if settings.augment.size is None else _as_they_come(model)
        self.order = order(data, model.config, settings, fabric.world_size)
        self.steps = max(round(settings.epochs * self.order.batches), 1)
        self.every = max(round(settings.validate_every * self.order.batches), 1)
        losses = Losses(self.model, settings.sampling, config, fabric)
        self.module, self.optimizer = fabric.setup(losses, optimizer(self.model, settings))
        if settings.gradient_checkpointing:
            _checkpointed(self.model.backbone)
        if settings.compile:
            self.model.backbone.compile()
            self.model.fpn.compile()
        self.average = Average(self.model, settings.ema) if settings.ema is not None else None
        self.progress = Progress()
        if resume:
            scaler = fabric.strategy.precision.load_state_dict
            self.progress = checkpoint.restore(
                run, self.model, self.average, self.optimizer.optimizer, scaler
            )
        if fabric.is_global_zero:
            run.mkdir(parents=True, exist_ok=True)
            settings.save(run / "training.json")
            self.log = report.Log(run / "log.csv", self.progress.step)
            self.scores = report.Log(run / "validation.csv", self.progress.step)
            self.classes = report.Log(run / "classes.csv", self.progress.step)

    def go(self) -> MaskRCNN:
        """All steps that are left; the best model."""
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        start, settings = self.progress.step, self.settings
        if start == 0:
            self._keep()
        self.model.train()
        begun = time.monotonic()
        channels, left = self.model.config.channels, range(start, self.steps)
        for batches in feed(self.data, self.order, channels, settings, rank, processes, left):
            step = self.progress.step
            for group in self.optimizer.param_groups:
                group["lr"] = rate(step, self.steps, settings)
            if step == 0 and self.fabric.is_global_zero:
                report.show_batch(self.run / "batch.jpg", batches[0], self.model.names)
            seed = settings.seed, step, rank
            outcome = take_step(self.fabric, self.module, self.optimizer, batches, seed, settings)
            skipped = None
            if not outcome.finite:
                skipped = self.run / "not_finite" / f"step{step:06d}_process{rank}"
                report.dump(skipped, batches, outcome.losses, self.model.names)
            elif self.average is not None:
                self.average.update(self.model, step)
            self.progress = replace(self.progress, step=step + 1)
            self._after(outcome.losses, outcome.norm, time.monotonic() - begun, skipped)
            begun = time.monotonic()
            if settings.patience is not None and self.progress.since >= settings.patience:
                break
        return self._finish()

    def _after(self, losses: dict[str, float], norm: float, seconds: float, skipped: Path | None) -> None:
        """Log, validate and keep after a step."""
        step, scores = self.progress.step, {}
        done = step == self.steps
        if step % self.every == 0 or done:
            scores = self._validate()
        if self.fabric.is_global_zero:
            row = {
                **losses,
                "total": sum(losses.values()),
                "norm": norm,
                "lr": self.optimizer.param_groups[0]["lr"],
            }
            self.log.add(step, row | {"seconds": seconds})
            if scores or step == 1:
                report.plot(self.run, self.log, self.scores)
            if scores or step % self.settings.keep_every == 0 or done:
                self._keep()
            self.tell(Report(step, self.steps, losses, seconds, scores, skipped))
        self.fabric.barrier()

    def _keep(self) -> None:
        if self.fabric.is_global_zero:
            scaler = self.fabric.strategy.precision.state_dict()
            checkpoint.write(
                self.run, self.progress, self.model, self.average, self.optimizer.optimizer, scaler
            )

    def _validate(self) -> dict[str, float]:
        """Scores of the validation pictures; the best model is kept. Without such pictures, the latest is."""
        model = self.average.model if self.average is not None else self.model
        progress = self.progress
        scores: dict[str, float] = {}
        if self.fabric.is_global_zero:
            model.eval()
            if self.validation is not None:
                scores, of_classes = _scores(model, self.validation, self.settings)
                self.scores.add(progress.step, scores)
                self.classes.add(progress.step, of_classes)
                _preview(self.run / "previews" / f"step{progress.step:06d}.jpg", model, self.validation)
            ap = scores.get("mask_ap")
            if ap is None or progress.best is None or ap > progress.best:
                progress = replace(progress, best=ap, since=0)
                native.save(model, self.run / "best.safetensors")
            else:
                progress = replace(progress, since=progress.since + 1)
            native.save(model, self.run / "last.safetensors")
            self.model.train()
        self.progress = self.fabric.broadcast(progress)
        return scores

    def _finish(self) -> MaskRCNN:
        self.fabric.barrier()
        best = _copy(self.model)
        best.load_state_dict(native.read(self.run / "best.safetensors")[1])
        best.source = str(self.run / "best.safetensors")
        return best.requires_grad_(True).eval()


def _checkpointed(backbone: torch.nn.Module) -> None:
    if not isinstance(backbone, ResNet):
        raise ConfigError(
            f"gradient_checkpointing: want the ResNet of this package, got {type(backbone).__name__}; "
            "a backbone of your own has to compute again by itself"
        )
    backbone.recompute = True


def _copy(model: MaskRCNN) -> MaskRCNN:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.adapt = False
        elif isinstance(module, ResNet):
            module.recompute = False
    return model


def _settings(run: Path, resume: bool, settings: Training | None, options: dict[str, Any]) -> Training:
    """What was asked for. A run that goes on keeps its settings, but for ``options``."""
    stored = run / "training.json"
    if resume:
        if not stored.is_file():
            raise ConfigError(f"resume: want the folder of a run, with a training.json, got {run}")
        return Training.load(stored, **options)
    if stored.exists():
        raise ConfigError(f"out: {run} holds a run already; resume it, or name another folder")
    return (settings or Training()).with_options(**options)


def _datasets(data: Source, val: Source | None) -> tuple[Dataset, Dataset | None]:
    """Data to learn from, repaired where that is safe, and data to validate on as they are."""
    learnt = open_all(data)
    validated = [] if val is None else [open_all(val)]
    if val is None:
        for folder in (one for one in _several(data) if isinstance(one, str | Path) and Path(one).is_dir()):
            try:
                validated.append(open_dataset(folder, "val"))
            except DataError as error:
                warnings.warn(f"training without validation on {folder}: {error}", stacklevel=4)
    repaired, findings = repair(learnt)
    findings.raise_if_stopped()
    return repaired, together(validated) if validated else None


def open_all(data: Source) -> Dataset:
    """One data set of one or several, see `together`."""
    return together([open_dataset(one) if isinstance(one, str | Path) else one for one in _several(data)])


def _several(data: Source) -> Sequence[str | Path | Dataset]:
    return data if isinstance(data, list | tuple) else [data]  # type: ignore[list-item]


def _fabric(settings: Training, device: str) -> Any:
    try:
        import matplotlib  # noqa: F401  # for the curves: now, not after the first step
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingExtraError(
            f"training wants {error.name}, which is not installed: pip install 'maskrcnn[train]'"
        ) from None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    nodes = int(os.environ.get("WORLD_SIZE", str(local))) // local
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    devices: int | list[int] = [int(number)] if number else local
    strategy = "ddp" if local * nodes > 1 else "auto"
    fabric = Fabric(
        accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy, precision=settings.precision  # type: ignore[arg-type]
    )  # fmt: skip
    fabric.launch()
    return fabric


def _as_they_come(model: MaskRCNN) -> Config:
    """The configuration for pictures that are cut to the size that the network sees."""
    return model.config.with_options(resize="none", pad_multiple=32)


@torch.no_grad()
def _scores(model: MaskRCNN, data: Dataset, settings: Training) -> tuple[dict[str, float], dict[str, float]]:
    """AP of boxes and masks, 0..1, with the sum of the losses; and mask AP50 of each common class by its name."""
    judged = evaluate(model, data)
    totals = []
    for i in range(min(len(data), LOSS_PICTURES)):
        sample = data[i]
        losses = model.losses(
            [sample.read()], [sample.target()], torch.Generator().manual_seed(i), settings.sampling
        )
        totals.append(float(torch.stack(list(losses.values())).sum()))
    mask = judged.best
    scores = {
        "mask_ap": mask.ap, "mask_ap50": mask.ap50, "box_ap": judged.box.ap, "box_ap50": judged.box.ap50,
        "mask_ap50_common": mask.mean("ap50", COMMON), "val_loss": sum(totals) / len(totals),
    }  # fmt: skip
    ap50 = zip(mask.names, mask.of_classes("ap50"), mask.truths[0], strict=True)
    return scores, {name: float(ap) for name, ap, truths in ap50 if truths >= COMMON}


def _preview(path: Path, model: MaskRCNN, data: Dataset) -> None:
    """What the network finds in the first pictures that are validated on, evenly spread."""
    places = [i * len(data) // PREVIEWS for i in range(min(PREVIEWS, len(data)))]
    report.show_results(path, [model.predict(data[i].read(), score=0.3) for i in places])
