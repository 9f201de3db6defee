"""The run: steps, checkpoints and validations, from the first step or from where it was."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data import Dataset, repair
from ..errors import ConfigError, MissingExtraError
from ..evaluate import evaluate
from ..jobs import Step
from ..model import MaskRCNN, load_arrays
from ..model.layers import BatchNorm
from ..model.resnet import ResNet
from ..weights import native
from . import checkpoint, report
from .checkpoint import Progress
from .feed import feed, order
from .heads import with_names
from .optimize import Average, choose_layers, optimizer, rate
from .plan import Plan, counted, out_of_memory, repairs
from .settings import Training
from .sources import Source, open_all, validate_on
from .step import Losses, take_step
from .together import with_absent
from .watch import Watch

PREVIEWS = 8  # pictures of the validation set that are drawn at each validation
LOSS_PICTURES = 100  # of which the validation loss is taken: it needs no more to show a trend
COMMON = 20  # objects from which on a class counts for the AP of common classes


@dataclass(frozen=True)
class Report:
    """What a run tells while it goes on: after each step ``losses``, after a validation ``scores`` too.

    seconds  : of this step, waiting for pictures included
    memory   : most bytes so far, on the GPU or of this process on a CPU; 0 where the system does not say
    skipped  : where the inputs of a step that was not finite were kept
    troubles : what went wrong and was got over
    """

    step: int
    steps: int
    losses: dict[str, float]
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    skipped: Path | None = None
    memory: int = 0
    troubles: tuple[str, ...] = ()


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
    quiet: bool = False,
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
    quiet    : show no progress on standard error

    Raises ConfigError for settings or data that cannot work, and where memory does not suffice;
    MissingExtraError without ``maskrcnn[train]``.
    """
    run = Path(out)
    settings = _settings(run, resume, settings, options)
    training, findings = repair(open_all(data))
    findings.raise_if_stopped()
    validation, unvalidated = validate_on(data, val, training.names)
    fabric = _fabric(settings, device)
    if model is None:
        model = load_arrays(*native.read(checkpoint.latest(run) / "weights.safetensors"), run)
    model = with_names(model, tuple(training.names))
    with Watch(quiet or not fabric.is_global_zero) as watch:
        whole = _Run(fabric, model, training, validation, settings, run, resume, tell, watch)
        watch.begin(whole.plan(repairs(findings.findings), unvalidated))
        try:
            return whole.go()
        except KeyboardInterrupt:
            watch.stopped(run, int(checkpoint.latest(run).name))
            raise
        except (RuntimeError, MemoryError) as error:
            explained = out_of_memory(error, settings, str(fabric.device))
            if explained is None:
                raise
            raise explained from error


class _Run:
    """The state of a run, and what happens at each step."""

    def __init__(
        self, fabric: Any, model: MaskRCNN, data: Dataset, validation: Dataset | None, settings: Training,
        run: Path, resume: bool, tell: Callable[[Report], None], watch: Watch,
    ) -> None:  # fmt: skip
        self.fabric, self.validation, self.settings = fabric, validation, settings
        self.data = with_absent(data, settings.absent)
        self.run, self.tell, self.watch = run, tell, watch
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

    def plan(self, repaired: dict[str, int], unvalidated: tuple[str, ...]) -> Plan:
        """What will be done."""
        data, model = self.data, self.model
        objects = sum(not one.crowd for i in range(len(data)) for one in data[i].instances)
        weights, learning = counted(model)
        return Plan(
            model.extra_repr(), str(self.fabric.device), weights, learning, len(data), objects, len(data.names),
            repaired, 0 if self.validation is None else len(self.validation), unvalidated, self.progress.step,
            self.steps, self.order.batches, self.every, self.fabric.world_size, self.settings, self.run,
        )  # fmt: skip

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
            troubles = [trouble for batch in batches for trouble in batch.troubles]
            skipped = None
            if not outcome.finite:
                skipped = self.run / "not_finite" / f"step{step:06d}_process{rank}"
                report.dump(skipped, batches, outcome.losses, self.model.names)
                troubles.append(f"step {step + 1} was not finite and is left out; see {skipped}")
            elif self.average is not None:
                self.average.update(self.model, step)
            self.progress = replace(self.progress, step=step + 1)
            done = Report(step + 1, self.steps, outcome.losses, time.monotonic() - begun, skipped=skipped,
                          memory=_memory(self.fabric.device), troubles=tuple(troubles))  # fmt: skip
            self._after(done, outcome.norm)
            begun = time.monotonic()
            if settings.patience is not None and self.progress.since >= settings.patience:
                break
        return self._finish()

    def _after(self, done: Report, norm: float) -> None:
        """Log, validate and keep after a step."""
        step, losses, scores = done.step, done.losses, {}
        last = step == self.steps
        if step % self.every == 0 or last:
            scores = self._validate()
        if self.fabric.is_global_zero:
            row = {
                **losses,
                "total": sum(losses.values()),
                "norm": norm,
                "lr": self.optimizer.param_groups[0]["lr"],
            }
            self.log.add(step, row | {"seconds": done.seconds})
            if scores or step == 1:
                report.plot(self.run, self.log, self.scores)
            if scores or step % self.settings.keep_every == 0 or last:
                self._keep()
            done = replace(done, scores=scores)
            self.watch.step(done)
            self.tell(done)
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
                scores, of_classes = _scores(model, self.validation, self.settings, self.watch.validating)
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


def _memory(device: torch.device) -> int:
    """Most bytes that were taken so far: on a GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _as_they_come(model: MaskRCNN) -> Config:
    """The configuration for pictures that are cut to the size that the network sees."""
    return model.config.with_options(resize="none", pad_multiple=32)


@torch.no_grad()
def _scores(
    model: MaskRCNN, data: Dataset, settings: Training, progress: Callable[[Step], None]
) -> tuple[dict[str, float], dict[str, float]]:
    """AP of boxes and masks, 0..1, with the sum of the losses; and mask AP50 of each common class by its name."""
    judged = evaluate(model, data, progress=progress)
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
    """What the network finds in some pictures that are validated on, evenly spread, beside what is there."""
    samples = [data[i * len(data) // PREVIEWS] for i in range(min(PREVIEWS, len(data)))]
    report.show_results(path, samples, [model.predict(sample.read(), score=0.3) for sample in samples])
