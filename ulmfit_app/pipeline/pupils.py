"""Runs that learn from a run on its own texts: what pruning leaves of it, and self-training."""

import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ulmfit_app.config import (
    AugmentationSettings,
    DistillationSettings,
    Settings,
    UpdateSettings,
)
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.inference.predictor import read_validation
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.prune import smaller
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.teachers import learns_unlabelled
from ulmfit_app.run_folder import TEACHER

log = logging.getLogger(__name__)

CONFIDENCE = 0.9  # of the texts that a round of self-training learns


def _pupil_of(run: Run, teacher: Path, **how: float) -> Settings:
    """Settings of a run on a run's texts, from its language model, that learns from a teacher."""
    lm = replace(run.record.settings.lm, pretrained=str(run.folder.absolute()), epochs=0)
    distillation = DistillationSettings((str(teacher.absolute()),), **how)
    # A teacher answers texts as they are, and those without a label too.
    augment = AugmentationSettings()
    learned = run.record.settings.classifier
    if learned.balance != "none":
        said = "The balance %s of %s is in its answers: it is not used again."
        log.info(said, learned.balance, run.folder)
        # Which epoch is kept stays what it was, although "auto" would now say accuracy.
        by = "macro-f1" if learned.select_by == "auto" else learned.select_by
        learned = replace(learned, balance="none", select_by=by)
    # Of an updated run, too, it begins with the language model as it is now.
    settings = replace(run.record.settings, lm=lm, classifier=learned, update=UpdateSettings())
    return replace(settings, distillation=distillation, augment=augment)


def _open_finished(folder: Path) -> Run:
    """A run with a finished classifier. Raises RunFolderError where there is none."""
    run = Run.open(folder)
    for each in run.record.directions:
        if not run.is_finished(each.named("classifier")):
            raise RunFolderError(
                f"The run in {folder} has no finished classifier to learn from. To make it, "
                f"{run.again()}"
            )
    return run


# ------------------------------------------------------------------------------------------ pruned
def prune_run(folder: Path, out: Path, share: float) -> Run:
    """A run that begins with another run's classifier without a share of its units, and learns for
    an epoch from what the whole one answers.

    Args:
        folder: of the run, whose classifier is finished.
        out: the new run's folder.
        share: of its units, as `prune_classifier` has it.

    Returns:
        The new run, ready to be carried out.

    Raises:
        RunFolderError: there is no such run.
        SettingError, BundleError: as `prune_classifier` does.
    """
    run = _open_finished(folder)
    for classifier in run.classifiers():
        smaller(load_bundle(classifier, "classifier").shape, share)
    settings = _pupil_of(run, folder, pruned=share)
    how = replace(settings.classifier, plan="full", epochs=1)
    return begin(out, replace(settings, classifier=how), like=run)


# ----------------------------------------------------------------------------------- self-training
@dataclass(frozen=True)
class Round:
    """A run of self-training, and how it does on the validation split.

    Args:
        run: its folder.
        right: which validation texts it labels rightly, [n].
        p_value: McNemar's, against the best run before it; None of the first one.
    """

    run: Path
    right: np.ndarray
    p_value: float | None = None

    def describe(self) -> str:
        """Its accuracy on validation, with the interval."""
        n_right, n = int(self.right.sum()), len(self.right)
        low, high = accuracy_interval(n_right, n)
        return f"{n_right / n:.1%} ({low:.1%} to {high:.1%}) on n = {n:,} validation texts"


def self_train(folder: Path, out: Path, rounds: int) -> Iterator[Round]:
    """Train a run again and again, each time on what the last one says of the unlabelled texts
    that it is surest of (Yarowsky 1995; Xie et al. 2020, "Self-training with Noisy Student").

    Each round starts from the run's language model, and labelled texts keep their labels. It ends,
    and says so, where a round is worse on the validation split than the best one before it, and
    where no unlabelled text is sure enough. The test split is left alone.

    Args:
        folder: of the run, whose classifier is finished.
        out: gets a run folder for each round.
        rounds: at most.

    Yields:
        The run itself, and then each round that was carried out.

    Raises:
        RunFolderError: there is no such run.
        SettingError: it has no unlabelled texts, or the rounds are none.
    """
    if rounds < 1:
        raise SettingError(f"--rounds must be 1 or more, not {rounds}.")
    run = _open_finished(folder)
    if not (run.rows["split"] == "unlabelled").any():
        raise SettingError(
            f"The run in {folder} has no unlabelled texts, and self-training learns from those. "
            "Add rows whose split is unlabelled, and run: "
            f"python -m ulmfit_app.run {shlex.quote(run.record.settings.data.source)}"
        )
    best = Round(folder, _right(run))
    yield best
    teacher = folder
    for number in range(1, rounds + 1):
        how = {"temperature": 1.0, "hard_weight": 1.0, "confidence": CONFIDENCE}
        pupil = begin(out / f"round-{number}", _pupil_of(run, teacher, **how), like=run)
        pupil.carry_out(TEACHER)
        if not learns_unlabelled(pupil):
            said = "Self-training ends: %s is sure of no unlabelled text, that is, to %.0f %%."
            log.info(said, teacher, 100 * CONFIDENCE)
            return
        pupil.carry_out("classifier")
        right = _right(pupil)
        found = Round(pupil.folder, right, paired_comparison(best.right, right)["p_value"])
        yield found
        if right.sum() < best.right.sum():
            log.info("Self-training ends: %s is worse than %s.", found.run, best.run)
            return
        # Of two that are as good, the one of fewer rounds is kept.
        best = found if right.sum() > best.right.sum() else best
        teacher = pupil.folder


def _right(run: Run) -> np.ndarray:
    """Which validation texts a run labels rightly, [n]."""
    known = read_validation(run.classifiers(), run.record.counts["valid"])
    if known is None:
        raise RunFolderError(
            f"{run.folder} has lost a validation.csv. Have it written again: "
            f"python -m ulmfit_app report {shlex.quote(str(run.folder))}"
        )
    probabilities, truth = known
    return probabilities.argmax(axis=1) == truth
