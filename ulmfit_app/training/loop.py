"""How a Learner is run here: phases, precision, progress, checkpoints, resume, seeds.

A run that was killed and goes on ends with the same weights, to the bit, as one that was not: a checkpoint holds the model,
the optimizer, the schedule's position, the random state, the hidden state, and how far the epoch had come; the order of the
texts depends on seed and epoch alone.
"""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientClip
from fastai.learner import Learner

from data_scripts.files import progress, replacing
from ulmfit_app.errors import Diverged
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.training.checkpoints import _Checkpoints, _Position
from ulmfit_app.training.precision import MixedPrecision
from ulmfit_app.training.recipes import SCHEDULES, Phase, discriminative_rates

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def seed_everything(seed: int) -> None:
    """Make what follows repeat itself: initial weights and dropout (the order of texts has its own generator)."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def prepare(learn: Learner, precision: str) -> Learner:
    """Set the Learner's precision, and silence fastai's own tables and bars, which fill log files."""
    learn.logger = lambda *_: None
    if hasattr(learn, "progress"):
        learn.remove_cb(learn.progress)
    precision = resolve_precision(precision)
    return learn if precision == "fp32" else learn.add_cb(MixedPrecision(precision))


def is_better(row: dict, best: dict | None) -> bool:
    """Whether an epoch's validation beats the best so far: by accuracy where it has one to select by, then by loss."""
    if best is None:
        return True
    if row["selects_by"] == "accuracy" and row["accuracy"] != best["accuracy"]:
        return row["accuracy"] > best["accuracy"]
    return row["valid_loss"] < best["valid_loss"]


class _Run(Callback):
    """Goes on from a checkpoint, writes checkpoints and history, shows progress, stops on NaN."""

    order = 65  # behind everything that sets up an epoch, the scheduler included

    def __init__(self, job: "_Training") -> None:
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
        self.saved = time.monotonic()

    def before_train(self) -> None:
        job = self.job
        if job.resumed is not None:
            job.checkpoints.load_optimizer(self.learn, job.resumed)
            self.learn.pct_train = job.position.pct_train
            job.resumed = None
        phase = job.phases[job.position.phase]
        total = len(self.dls.train)
        label = f"{job.title}, {phase.name}, epoch {self.epoch + 1} of {phase.epochs}"
        self.bar = progress(total=total, description=label, unit=" batches")
        self.bar.update(job.position.batch)

    def after_loss(self) -> None:
        loss = float(self.learn.loss.detach())
        if self.training and not math.isfinite(loss):
            raise Diverged(
                f"The training loss became {loss} in epoch {self.epoch + 1} of the phase "
                f"{self.job.phases[self.job.position.phase].name!r} of the {self.job.title}. "
                f"Nothing was saved from it. Lower the rates or clip the gradient: --{self.job.section}.grad-clip 0.25"
            )

    def after_batch(self) -> None:
        if not self.training:
            return
        position = self.job.position
        position.batch += 1
        position.loss_sum += float(self.learn.loss.detach())
        # TrainEvalCallback has moved it on already: it comes first in every event.
        position.pct_train = self.learn.pct_train
        self.bar.update()
        if time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    def after_train(self) -> None:
        self.bar.close()

    def after_epoch(self) -> None:
        job, position = self.job, self.job.position
        if self.epoch < position.epoch:
            return
        values = dict(
            zip(self.recorder.metric_names[2:-1], self.recorder.values[-1][1:], strict=True)
        )
        row = {
            "phase": job.phases[position.phase].name,
            "epoch": self.epoch + 1,
            "train_loss": position.loss_sum / max(position.batch, 1),
            **{name: float(value) for name, value in values.items()},
            "seconds": round(time.monotonic() - self.began, 1),
            "selects_by": job.selects_by,
        }
        if is_better(row, job.best()):
            job.checkpoints.save_best(self.learn)
        job.history.append(row)
        position.epoch, position.batch, position.loss_sum = self.epoch + 1, 0, 0.0
        self._save()
        shown = [
            f"{name.replace('_', ' ')} {row[name]:.4g}"
            for name in ("train_loss", "valid_loss", *list(values)[1:])
        ]
        log.info(
            "%s, %s, epoch %d: %s (%.0f s)",
            job.title,
            row["phase"],
            row["epoch"],
            ", ".join(shown),
            row["seconds"],
        )

    def _save(self) -> None:
        self.job.position.seconds = (
            time.monotonic() - self.began if self.job.position.batch else 0.0
        )
        self.job.checkpoints.save(self.learn, self.job.position, self.job.history)
        self.saved = time.monotonic()


class _Training:
    """One training through all of its phases, and what is known of it so far."""

    def __init__(
        self,
        learn: Learner,
        phases: Sequence[Phase],
        folder: Path,
        key: str,
        title: str,
        section: str,
    ) -> None:
        self.phases, self.title, self.section = phases, title, section
        self.selects_by = "accuracy" if section == "classifier" else "valid_loss"
        self.checkpoints = _Checkpoints(folder, key)
        self.position, self.history, self.patience = _Position(), [], None
        self.checkpoints.go_back_to_steady(phases)
        self.resumed = self.checkpoints.facts()
        if self.resumed is not None:
            self.position, self.history = (
                _Position(**self.resumed["position"]),
                self.resumed["history"],
            )

    def best(self) -> dict | None:
        best = None
        for row in self.history:
            best = row if is_better(row, best) else best
        return best

    def out_of_patience(self) -> bool:
        """Whether the last epochs of this phase, as many as patience allows, brought nothing better."""
        if self.patience is None:
            return False
        best, this_phase = self.best(), self.phases[self.position.phase].name
        since = self.history[self.history.index(best) + 1 :] if best else []
        return len([row for row in since if row["phase"] == this_phase]) >= self.patience


def _learns_as(phase: Phase, other: Phase) -> bool:
    return (phase.freeze_to, phase.freeze_from) == (other.freeze_to, other.freeze_from)


def _freeze(learn: Learner, phase: Phase) -> None:
    learn.freeze_to(phase.freeze_to)
    if phase.freeze_from is not None:
        for group in learn.opt.param_lists[phase.freeze_from :]:
            for parameter in group:
                parameter.requires_grad_(False)


def _untrained(learn: Learner, folder: Path) -> pd.DataFrame:
    """The history of no training at all: how the model does on the validation part as it is."""
    loss, *values = learn.validate()
    names = [metric.name for metric in learn.metrics]
    row = {
        "phase": "not trained",
        "epoch": 0,
        "train_loss": math.nan,
        "valid_loss": loss,
        **dict(zip(names, values, strict=True)),
        "seconds": 0,
    }
    history = pd.DataFrame([row])
    with replacing(folder / "history.csv") as draft:
        history.to_csv(draft, index=False)
    return history


def train(
    learn: Learner,
    phases: Sequence[Phase],
    folder: Path,
    key: str,
    *,
    section: str,
    schedule: str,
    weight_decay: float,
    grad_clip: float | None,
    patience: int | None = None,
) -> pd.DataFrame:
    """Carry out phases, going on from `folder`'s checkpoint where one of the same key is there; the history.

    key: a hash of everything the result depends on. section: "lm" or "classifier", whose settings these are; the classifier
    keeps the epoch of the best validation accuracy, the language model that of the lowest validation loss.
    The learner ends with the weights of the best epoch. `folder/history.csv` has a row an epoch; without phases, the one row
    says how the model does as it is.
    Raises Diverged when the loss is not finite.
    """
    if not phases:
        return _untrained(learn, folder)
    title = {"lm": "Language model", "classifier": "Classifier"}[section]
    if learn.dls.train.store.direction == "backward":
        title += ", backward"
    training = _Training(learn, phases, folder, key, title, section)
    training.patience = patience
    if training.resumed is not None:
        training.checkpoints.load_model(learn)
        if training.history and not training.checkpoints.best.is_file():
            training.checkpoints.save_best(learn)
        log.info(
            "%s: going on from the checkpoint; %d epochs are done.", title, len(training.history)
        )
    learn.create_opt()
    clipping = [GradientClip(grad_clip)] if grad_clip else []
    first = training.position.phase
    for index in range(first, len(phases)):
        phase = phases[index]
        goes_on = index > 0 and _learns_as(phases[index - 1], phase)
        if index > first:
            training.position = _Position(phase=index)
        if index == first or not goes_on:
            _freeze(learn, phase)
        peaks = discriminative_rates(phase.lr, len(learn.opt.param_lists), phase.decay)
        rate_at, momentum_at = SCHEDULES[phase.schedule or schedule]
        schedules = ParamScheduler(
            {
                "lr": lambda pct, at=rate_at, peaks=peaks: [at(pct, peak) for peak in peaks],
                "mom": momentum_at,
            }
        )
        if training.position.epoch < phase.epochs:
            learn.fit(phase.epochs, wd=weight_decay, cbs=[schedules, *clipping, _Run(training)])
        if phase.schedule == "constant":
            training.checkpoints.keep_steady()
        next_goes_on = index + 1 < len(phases) and _learns_as(phase, phases[index + 1])
        if not next_goes_on:
            # Another set of groups starts with a new optimizer: nothing of the checkpoint matters then but the weights.
            training.resumed = None
    training.checkpoints.load_best(learn)
    best = training.best()
    history = pd.DataFrame(training.history).drop(columns="selects_by")
    log.info("%s: the epoch kept is %d of the phase %r.", title, best["epoch"], best["phase"])
    with replacing(folder / "history.csv") as draft:
        history.to_csv(draft, index=False)
    return history
