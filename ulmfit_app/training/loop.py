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
from pathlib import Path

import pandas as pd
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.callback.schedule import ParamScheduler
from fastai.learner import Learner
from fastcore.basics import noop

from data_scripts.files import progress
from ulmfit_app.config import Precision
from ulmfit_app.errors import Diverged, UserError
from ulmfit_app.files import write_table
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.run_folder import HISTORY
from ulmfit_app.training import processes, symptoms
from ulmfit_app.training.contrastive import LearnFromPairs
from ulmfit_app.training.data_parallel import shared
from ulmfit_app.training.gradients import GradientNorms
from ulmfit_app.training.ongoing import Training, TrainingSettings, is_better
from ulmfit_app.training.precision import MixedPrecision
from ulmfit_app.training.recipes import SCHEDULES, Phase, discriminative_rates
from ulmfit_app.training.watching import Watch, watch_nothing

log = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 60.0
STEPS_BETWEEN_LOOKS = 50  # at the loss of a GPU, which has to be waited for


def seed_everything(seed: int) -> None:
    """Make initial weights and dropout repeat themselves, on one kind of device.

    The order of texts has a generator of its own. On a CPU the weights that are learned are then
    the same too, with the same number of threads; on CUDA they are up to the order of sums.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def prepare(learn: Learner, precision: Precision) -> Learner:
    """Set the Learner's precision, and silence fastai's tables and bars, which fill log files."""
    learn.logger = noop
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
        watch: is told of each epoch, and of how far it is.

    Returns:
        The history, one row per epoch: phase, epoch, train_loss, valid_loss (nats), the metrics,
        grad_norm (mean over the steps, before clipping), seconds, and where there is something to
        warn of, warnings.

    Raises:
        Diverged: the loss is not finite.
    """
    if phases:
        job = Training(phases, folder, settings, watch)
        with shared(learn, phases, folder, settings):
            history = _carry_out(learn, job)
    else:
        history = _validate_only(learn)
    _write_history(folder, history)
    return history


def _write_history(folder: Path, history: pd.DataFrame) -> None:
    if processes.rank() == 0:
        write_table(folder / HISTORY, history)


class _Progress(Callback):
    """Goes on from a checkpoint, writes checkpoints and history, shows progress, stops on NaN."""

    order = 65  # behind everything that sets up an epoch, the scheduler included

    def __init__(self, job: Training, gradients: GradientNorms) -> None:
        self.job, self.gradients = job, gradients

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
        self.gradients.go_on(job.position)
        epoch = f"epoch {self.epoch + 1} of {job.phase.epochs}"
        label = f"{job.settings.title}, {job.phase.name}, {epoch}"
        label = None if processes.rank() else label
        self.bar = progress(total=len(self.dls.train), description=label, unit=" batches")
        self.bar.update(job.position.batch)

    def after_backward(self) -> None:
        # From the first one that is not finite on, that one.
        self.latest = torch.where(self.latest.isfinite(), self.learn.loss.detach(), self.latest)
        if self.job.position.start_loss is None:
            self.job.position.start_loss = float(self.latest)
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
        if position.batch % STEPS_BETWEEN_LOOKS == 0:
            self._look_for_symptoms()
        if self._is_time_to_save():
            self._look_at_losses()
            self._save()
            share = position.batch / len(self.dls.train)
            self.job.watch(self.job.settings.title, self.job.history, share)

    def after_train(self) -> None:
        self.bar.close()
        self._look_for_symptoms()

    def _look_for_symptoms(self) -> None:
        self._look_at_losses()
        job, position = self.job, self.job.position
        means = position.mean_loss, position.mean_norm
        job.warn(symptoms.in_epoch(position.start_loss, *means, job.settings.rate_setting))

    def _look_at_losses(self) -> None:
        self._require_finite_loss()
        self.job.position.loss_sum = float(self.loss_sum)
        self.gradients.tell(self.job.position)

    def after_epoch(self) -> None:
        job, position = self.job, self.job.position
        if self.epoch < position.epoch:
            return
        names, values = self.recorder.metric_names[2:-1], self.recorder.values[-1][1:]
        metrics = {name: float(value) for name, value in zip(names, values, strict=True)}
        row = {
            "phase": job.phase.name,
            "epoch": self.epoch + 1,
            "train_loss": position.mean_loss,
            **metrics,
            "grad_norm": position.mean_norm,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        if job.is_judged(row) and is_better(row, job.best(), job.settings.select_by):
            job.checkpoints.keep_best(self.learn)
        job.end_epoch(row)
        _write_history(job.folder, job.table())
        # Few labels make epochs of seconds, and a large model's file takes as long.
        is_last = position.epoch == job.phase.epochs
        if self._is_time_to_save() or is_last:
            self._save()
        names = ["train_loss", "valid_loss", *list(metrics)[1:]]
        shown = ", ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in names)
        where = f"{job.settings.title}, {row['phase']}, epoch {row['epoch']}"
        log.info("%s: %s (%.0f s)", where, shown, row["seconds"])
        job.watch(job.settings.title, job.history, 0.0)

    def _is_time_to_save(self) -> bool:
        return processes.agree(time.monotonic() - self.job.saved > SECONDS_BETWEEN_CHECKPOINTS)

    def _save(self) -> None:
        position = self.job.position
        position.seconds = time.monotonic() - self.began if position.batch else 0.0
        self.job.checkpoints.save(self.learn, position, self.job.history)
        self.job.saved = time.monotonic()


def _carry_out(learn: Learner, job: Training) -> pd.DataFrame:
    phases, settings = job.phases, job.settings
    if job.resumed is not None:
        job.checkpoints.load_model(learn)
        if job.best() and not job.checkpoints.best.is_file():
            job.checkpoints.keep_best(learn)
        done = len(job.history)
        log.info("%s: going on from the checkpoint; %d epochs are done.", settings.title, done)
    job.watch(settings.title, job.history, job.position.batch / max(len(learn.dls.train), 1))
    learn.create_opt()
    first = job.position.phase
    for index in range(first, len(phases)):
        if index > first:
            job.enter_phase(index)
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
    return job.table()


def _spelled(metric: str) -> str:
    """A metric's name in a history as a sentence has it."""
    return metric.replace("_", " ").replace("f1", "F1")


def _fit(learn: Learner, phase: Phase, job: Training) -> None:
    """One phase by fastai's fit, its rates by fastai's scheduler."""
    settings = job.settings
    peaks = discriminative_rates(phase.lr, len(learn.opt.param_lists), phase.decay)
    rate_at, momentum_at = SCHEDULES[phase.schedule or settings.schedule]
    schedules = ParamScheduler(
        {"lr": lambda pct: [rate_at(pct, peak) for peak in peaks], "mom": momentum_at}
    )
    gradients = GradientNorms(settings.grad_clip)
    pairs = [LearnFromPairs()] if phase.objective == "pairs" else []
    callbacks = [schedules, gradients, *pairs, _Progress(job, gradients)]
    if phase.freeze_to == 0:  # as the finder tried it
        job.warn(symptoms.of_rate(phase.lr, settings.suggested_rate, settings.rate_setting))
    try:
        learn.fit(phase.epochs, wd=settings.weight_decay, cbs=callbacks)
    except UserError as error:
        # fastai puts the names of a callback and an event before what it said.
        error.args = (str(error).rpartition(":\n\t")[2],)
        raise


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
