"""One trial of a search: a run, or one for each fold, up to its classifier, in a process of its
own."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_app.config import Settings
from ulmfit_app.errors import Diverged, SettingError
from ulmfit_app.experiments.search_journal import FileLock, open_study
from ulmfit_app.experiments.trials import saying_in
from ulmfit_app.pipeline.adopting import adopt
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.run_folder import RECORD, find_part
from ulmfit_app.training.balance import metric_to_select_by
from ulmfit_app.training.loop import is_better
from ulmfit_app.training.recipes import phases_of_pairs

LOCKS = ".locks"  # in a search's folder: one for each stage that several trials would make


class Pruned(Exception):
    """The training is worse than others were after as many epochs.

    Attributes:
        so_far: what `measure` says of it.
    """

    def __init__(self, so_far: dict[str, float]) -> None:
        super().__init__("worse than others")
        self.so_far = so_far


@dataclass(frozen=True)
class Job:
    """What the process of a trial is told.

    Attributes:
        search: the folder of the search.
        number: of the trial; None: a run beside the search, which nobody prunes.
        runs: folders of its runs, and what each is made with: one, or one for each fold.
        preset: the name of the preset that the settings were derived from.
        pruner: its name, and the most epochs of a trial; None: never pruned.
    """

    search: Path
    number: int | None
    runs: tuple[tuple[Path, Settings], ...]
    preset: str
    pruner: tuple[str, int] | None = None


def carry_out_trial(job: Job) -> dict[str, Any]:
    """Carry out a trial, or go on with it.

    Args:
        job: which one.

    Returns:
        state: complete, pruned, diverged or infeasible; seconds; where it was trained error,
        valid_loss and epochs (means over folds); and the reason, where it was not.
    """
    began = time.monotonic()
    found: list[dict[str, float]] = []
    first, _ = job.runs[0]
    first.mkdir(parents=True, exist_ok=True)
    with saying_in(first / "log.txt"):
        try:
            for i, (folder, settings) in enumerate(job.runs):
                found.append(_train(job, folder, settings, follows=i == 0))
            result: dict[str, Any] = {"state": "complete"}
        except Pruned as pruned:
            reason = f"after {pruned.so_far['epochs']} epochs, by validation loss"
            result = {"state": "pruned", "reason": reason}
            found = [pruned.so_far]
        except Diverged as error:
            # fastai writes where it was before what was said.
            result = {"state": "diverged", "reason": str(error).splitlines()[-1].strip()}
        except SettingError as error:
            result = {"state": "infeasible", "reason": str(error)}
    if found and result["state"] in ("complete", "pruned"):
        result |= {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    return result | {"seconds": round(time.monotonic() - began, 1)}


def _train(job: Job, folder: Path, settings: Settings, follows: bool) -> dict[str, float]:
    others = [each for each in job.search.glob("*/*") if (each / RECORD).is_file()]
    run = begin(folder, settings, preset=job.preset, like=_same_texts(folder, settings, others))
    plan, data = run.record.directions[0].plan, run.record.data
    by = metric_to_select_by(run.record.settings.classifier, data.multilabel)
    if follows and job.number is not None:
        run.watches.append(_Follow(job, plan.phases, by))
    for name, stage in run.stages.items():
        if stage.comes_before("classifier", or_is=True):
            # Whoever comes second waits, and takes what the first one made.
            with FileLock(job.search / LOCKS / stage.key):
                if not adopt(run, name, others):
                    run.carry_out(stage.kind)
    history = read_history(run.place("classifier")).to_dict("records")
    return measure(history, phases_of_pairs(plan.phases), by)


def _same_texts(folder: Path, settings: Settings, others: list[Path]) -> Run | None:
    """A run that has read the same texts, so that each is read and checked once."""
    for other in sorted(others):
        if other != folder and find_part(other, RECORD).is_file():
            run = Run.open(other)
            of = run.record.settings
            if (of.data, of.seed) == (settings.data, settings.seed) and run.has_texts():
                return run
    return None


def measure(history: list[dict[str, Any]], pairs: set[str], by: str) -> dict[str, float]:
    """What a classifier's history says of it: error, valid_loss and epochs.

    Args:
        history: one row per epoch.
        pairs: phases that train no head.
        by: the metric of which the epoch that is kept has the most.

    Returns:
        error (1 - the metric) and valid_loss of the epoch that is kept, and how many epochs there
        are.
    """
    kept = None
    for row in history:
        if row["phase"] not in pairs and is_better(row, kept, by):
            kept = row
    error, loss = (1 - kept[by], kept["valid_loss"]) if kept else (1.0, float("inf"))
    return {"error": error, "valid_loss": loss, "epochs": len(history)}


class _Follow:
    """Tells the journal of a classifier's epochs, and ends what goes worse than others did."""

    def __init__(self, job: Job, phases: Any, by: str) -> None:
        self.job, self.pairs, self.by = job, phases_of_pairs(phases), by
        name, most = job.pruner or ("none", 1)
        self.study, self.storage = open_study(job.search, pruner=name, most_epochs=most)
        self.trial = self.study.trials[job.number]._trial_id

    def __call__(self, title: str, history: list[dict[str, Any]], share: float = 0.0) -> None:
        if share or not title.startswith("Classifier"):
            return
        known = self.storage.get_trial(self.trial).intermediate_values
        for step, row in enumerate(history, start=1):
            if step not in known and row["phase"] not in self.pairs:
                self.storage.set_trial_intermediate_value(self.trial, step, row["valid_loss"])
        trial = self.storage.get_trial(self.trial)
        if self.job.pruner and self.study.pruner.prune(self.study, trial):
            raise Pruned(measure(history, self.pairs, self.by))
