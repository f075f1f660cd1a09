"""How a Learner is run here: phases, precision, progress, checkpoints, resume, seeds.

A run that was killed and goes on ends, on a CPU, with the same weights, to the bit, as one that
was not: a checkpoint holds the model, the optimizer, the schedule's position, the random state,
what the model carries from batch to batch, and how far the epoch had come; the order of the texts
depends on seed and epoch alone. fastai's `SaveModelCallback` resumes at epochs only, rewrites
earlier files, and after a NaN reloads whatever file has the name of the best. On CUDA the same
numbers go on, but sums there, an embedding's gradient for one, have no fixed order: their last
digits differ.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientClip
from fastai.learner import Learner

from data_scripts.files import progress
from ulmfit_app.config import Precision, Schedule
from ulmfit_app.errors import Diverged
from ulmfit_app.files import write_table
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.training.checkpoints import Checkpoints, Position
from ulmfit_app.training.contrastive import LearnFromPairs
from ulmfit_app.training.precision import MixedPrecision
from ulmfit_app.training.recipes import SCHEDULES, Phase, discriminative_rates, phases_of_pairs
from ulmfit_app.training.watching import Watch, watch_nothing

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 60.0
STEPS_BETWEEN_LOOKS = 50  # at the loss of a GPU, which has to be waited for


@dataclass(frozen=True)
class TrainingSettings:
    """How a training is carried out, whatever it trains.

    Args:
        title: of it, for people.
        key: a hash of everything its result depends on; a checkpoint of another one is not used.
        schedule: of phases that name none.
        weight_decay: decoupled.
        grad_clip: largest norm of the gradient; None: not clipped.
        patience: epochs without a better one before a phase ends; None: never early.
        select_by: the metric of which the epoch that is kept has the most, or valid_loss, of which
            it has the least.
        section: whose settings these are, for advice: lm or classifier.
    """

    title: str
    key: str
    schedule: Schedule
    weight_decay: float
    grad_clip: float | None = None
    patience: int | None = None
    select_by: str = "valid_loss"
    section: str = "lm"


def seed_everything(seed: int) -> None:
    """Make initial weights and dropout repeat themselves, on one kind of device.

    The order of texts has a generator of its own. On a CPU the weights that are learned are then
    the same too, with the same number of threads; on CUDA they are up to the order of sums.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def prepare(learn: Learner, precision: Precision) -> Learner:
    """Set the Learner's precision, and silence fastai's tables and bars, which fill log files."""
    learn.logger = lambda *_: None
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    precision = resolve_precision(precision)
    return learn if precision == "fp32" else learn.add_cb(MixedPrecision(precision))


def train(
    learn: Learner,
    phases: Sequence[Phase],
    folder: Path,
    settings: TrainingSettings,
    watch: Watch = watch_nothing,
) -> pd.DataFrame:
    """Carry out phases, going on from `folder`'s checkpoint where one of the same key is there.

    Args:
        learn: ends with the weights of the best epoch. Its splitter gives the layer groups.
        phases: in order; none: the history says how the model does as it is.
        folder: of the checkpoints and of history.csv.
        settings: how.
        watch: is told of each epoch.

    Returns:
        The history, one row per epoch: phase, epoch, train_loss, valid_loss (nats), the metrics,
        seconds.

    Raises:
        Diverged: the loss is not finite.
    """
    if phases:
        history = _carry_out(learn, _Training(phases, folder, settings, watch))
    else:
        history = _validate_only(learn)
    write_table(folder / "history.csv", history)
    return history


def is_better(row: dict, best: dict | None, select_by: str) -> bool:
    """Whether an epoch beats the best so far: by a metric where that selects, then by loss."""
    if best is None:
        return True
    if select_by != "valid_loss" and row[select_by] != best[select_by]:
        return row[select_by] > best[select_by]
    return row["valid_loss"] < best["valid_loss"]


class _Training:
    """One training through all of its phases, and what is known of it so far."""

    def __init__(
        self, phases: Sequence[Phase], folder: Path, settings: TrainingSettings, watch: Watch
    ) -> None:
        self.phases, self.settings, self.watch = phases, settings, watch
        self.checkpoints = Checkpoints(folder, settings.key)
        self.position, self.history, self.saved = Position(), [], time.monotonic()
        self.checkpoints.go_back_to_steady(phases)
        self.resumed = self.checkpoints.facts()
        if self.resumed is not None:
            self.position = Position(**self.resumed["position"])
            self.history = self.resumed["history"]

    @property
    def phase(self) -> Phase:
        return self.phases[self.position.phase]

    def best(self) -> dict | None:
        best = None
        for row in filter(self.is_judged, self.history):
            best = row if is_better(row, best, self.settings.select_by) else best
        return best

    def is_judged(self, row: dict) -> bool:
        """Whether an epoch may be kept: pairs train no head, whose accuracy says nothing then."""
        return row["phase"] not in phases_of_pairs(self.phases)

    def out_of_patience(self) -> bool:
        """Whether the last epochs of this phase, as many as patience allows, were no better."""
        if self.settings.patience is None:
            return False
        best = self.best()
        since = self.history[self.history.index(best) + 1 :] if best else []
        in_phase = [row for row in since if row["phase"] == self.phase.name]
        return len(in_phase) >= self.settings.patience

    def goes_on_from(self, index: int) -> bool:
        """Whether a phase trains the groups of the one before, with its optimizer's state."""
        return index > 0 and _same_groups(self.phases[index - 1], self.phases[index])


def _same_groups(phase: Phase, other: Phase) -> bool:
    return (phase.freeze_to, phase.freeze_from) == (other.freeze_to, other.freeze_from)


class _Progress(Callback):
    """Goes on from a checkpoint, writes checkpoints and history, shows progress, stops on NaN."""

    order = 65  # behind everything that sets up an epoch, the scheduler included

    def __init__(self, job: _Training) -> None:
        self.job = job

    def before_epoch(self) -> None:
        job = self.job
        if self.epoch < job.position.epoch:
            raise CancelEpochException
        if job.out_of_patience():
            raise CancelFitException
        batches = self.dls.train
        batches.epoch = job.position.phase * 1000 + self.epoch
        batches.start = job.position.batch
        self.began = time.monotonic() - job.position.seconds

    def before_train(self) -> None:
        job = self.job
        if job.resumed is not None:
            job.checkpoints.load_optimizer(self.learn, job.resumed)
            self.learn.pct_train = job.position.pct_train
            job.resumed = None
        # In fp64, as a float is: going on from the sum in a checkpoint gives the same one.
        self.loss_sum = torch.tensor(
            job.position.loss_sum, dtype=torch.float64, device=self.dls.device
        )
        self.latest = torch.zeros((), device=self.dls.device)
        epoch = f"epoch {self.epoch + 1} of {job.phase.epochs}"
        label = f"{job.settings.title}, {job.phase.name}, {epoch}"
        self.bar = progress(total=len(self.dls.train), description=label, unit=" batches")
        self.bar.update(job.position.batch)

    def after_loss(self) -> None:
        if not self.training:
            return
        # From the first one that is not finite on, that one.
        self.latest = torch.where(self.latest.isfinite(), self.learn.loss.detach(), self.latest)
        steps = self.job.position.batch + 1
        if self.dls.device.type == "cpu" or steps % STEPS_BETWEEN_LOOKS == 0:
            self._require_finite_loss()

    def _require_finite_loss(self) -> None:
        """To be called before anything is saved; waits for the device."""
        loss = float(self.latest)
        if not math.isfinite(loss):
            raise Diverged(
                f"The training loss became {loss} in epoch {self.epoch + 1} of the phase "
                f"{self.job.phase.name!r} of the {self.job.settings.title}. Nothing was saved "
                "from it. Lower the rates or clip the gradient: "
                f"--{self.job.settings.section}.grad-clip 0.25"
            )

    def after_batch(self) -> None:
        if not self.training:
            return
        position = self.job.position
        position.batch += 1
        self.loss_sum += self.learn.loss.detach()
        # TrainEvalCallback has moved it on already: it comes first in every event.
        position.pct_train = self.learn.pct_train
        self.bar.update()
        if time.monotonic() - self.job.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._look_at_losses()
            self._save()

    def after_train(self) -> None:
        self.bar.close()
        self._look_at_losses()

    def _look_at_losses(self) -> None:
        self._require_finite_loss()
        self.job.position.loss_sum = float(self.loss_sum)

    def after_epoch(self) -> None:
        job, position = self.job, self.job.position
        if self.epoch < position.epoch:
            return
        names, values = self.recorder.metric_names[2:-1], self.recorder.values[-1][1:]
        metrics = {name: float(value) for name, value in zip(names, values, strict=True)}
        row = {
            "phase": job.phase.name,
            "epoch": self.epoch + 1,
            "train_loss": position.loss_sum / max(position.batch, 1),
            **metrics,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        if job.is_judged(row) and is_better(row, job.best(), job.settings.select_by):
            job.checkpoints.keep_best(self.learn)
        job.history.append(row)
        position.epoch, position.batch, position.loss_sum = self.epoch + 1, 0, 0.0
        # Few labels make epochs of seconds, and a large model's file takes as long.
        is_last = position.epoch == job.phase.epochs
        if is_last or time.monotonic() - job.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()
        names = ["train_loss", "valid_loss", *list(metrics)[1:]]
        shown = ", ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in names)
        where = f"{job.settings.title}, {row['phase']}, epoch {row['epoch']}"
        log.info("%s: %s (%.0f s)", where, shown, row["seconds"])
        job.watch(job.settings.title, job.history)

    def _save(self) -> None:
        position = self.job.position
        position.seconds = time.monotonic() - self.began if position.batch else 0.0
        self.job.checkpoints.save(self.learn, position, self.job.history)
        self.job.saved = time.monotonic()


def _carry_out(learn: Learner, job: _Training) -> pd.DataFrame:
    phases, settings = job.phases, job.settings
    if job.resumed is not None:
        job.checkpoints.load_model(learn)
        if job.best() and not job.checkpoints.best.is_file():
            job.checkpoints.keep_best(learn)
        done = len(job.history)
        log.info("%s: going on from the checkpoint; %d epochs are done.", settings.title, done)
    job.watch(settings.title, job.history)
    learn.create_opt()
    first = job.position.phase
    for index in range(first, len(phases)):
        if index > first:
            job.position = Position(phase=index)
        if index == first or not job.goes_on_from(index):
            _freeze(learn, phases[index])
        if job.position.epoch < phases[index].epochs:
            _fit(learn, phases[index], job)
        if phases[index].schedule == "constant":
            job.checkpoints.keep_steady()
        if index + 1 < len(phases) and not job.goes_on_from(index + 1):
            # Another set of groups starts with a new optimizer: nothing of the checkpoint matters
            # then but the weights, and where the random numbers had come to.
            if job.resumed is not None:
                job.checkpoints.load_random_state()
            job.resumed = None
    job.checkpoints.load_best(learn)
    best = job.best()
    by = settings.select_by
    why = "" if by in ("accuracy", "valid_loss") else f", of the best {_spelled(by)}"
    kept = best["epoch"], best["phase"]
    log.info("%s: the epoch kept is %d of the phase %r%s.", settings.title, *kept, why)
    return pd.DataFrame(job.history)


def _spelled(metric: str) -> str:
    """A metric's name in a history as a sentence has it."""
    return metric.replace("_", " ").replace("f1", "F1")


def _fit(learn: Learner, phase: Phase, job: _Training) -> None:
    """One phase by fastai's fit, its rates by fastai's scheduler."""
    settings = job.settings
    peaks = discriminative_rates(phase.lr, len(learn.opt.param_lists), phase.decay)
    rate_at, momentum_at = SCHEDULES[phase.schedule or settings.schedule]
    schedules = ParamScheduler(
        {"lr": lambda pct: [rate_at(pct, peak) for peak in peaks], "mom": momentum_at}
    )
    clipping = [GradientClip(settings.grad_clip)] if settings.grad_clip else []
    pairs = [LearnFromPairs()] if phase.objective == "pairs" else []
    callbacks = [schedules, *clipping, *pairs, _Progress(job)]
    learn.fit(phase.epochs, wd=settings.weight_decay, cbs=callbacks)


def _freeze(learn: Learner, phase: Phase) -> None:
    learn.freeze_to(phase.freeze_to)
    if phase.freeze_from is not None:
        for group in learn.opt.param_lists[phase.freeze_from :]:
            for parameter in group:
                parameter.requires_grad_(False)


def _validate_only(learn: Learner) -> pd.DataFrame:
    """The history of no training at all: how the model does on the validation part as it is."""
    loss, *values = learn.validate()
    names = [metric.name for metric in learn.metrics]
    metrics = dict(zip(names, values, strict=True))
    row = {"phase": "not trained", "epoch": 0, "train_loss": math.nan, "valid_loss": loss}
    return pd.DataFrame([{**row, **metrics, "seconds": 0}])
