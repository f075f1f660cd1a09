"""A search for settings: trials that Optuna draws, each an ordinary run.

Optuna's own loop is not used: it knows one process, and nothing of one that was killed. Here a
command asks for a trial, has it carried out in another process, and tells the journal what became
of it. A trial that a killed command left is carried on under its number, by the next command that
looks; several commands at once share the trials of one journal.

Nothing here reads the test split.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_scripts.files import progress, replacing
from ulmfit_app.config import Settings
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.experiments.search_journal import (
    AT_RANDOM,
    MADE_WITH,
    RESULT,
    STUDY,
    FileLock,
    contains,
    draw,
    is_drawn_at_random,
    make_pruner,
    make_sampler,
    next_point,
    open_storage,
    require_optuna,
    require_same,
)
from ulmfit_app.experiments.search_plan import How, made_with, name_of_trial, runs_of, values_of
from ulmfit_app.experiments.search_trial import LOCKS, Job, carry_out_trial
from ulmfit_app.experiments.spaces import Space, settings_of
from ulmfit_app.jobs import result_of
from ulmfit_app.pipeline.run import Run
from ulmfit_app.run_folder import working_in
from ulmfit_app.training.checkpoints import finish
from ulmfit_app.training.recipes import count_epochs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 5.0  # at trials of other commands


@dataclass(frozen=True)
class Asked:
    """A trial that this command carries out.

    Attributes:
        number: of the trial.
        settings: what it runs with; None where its values contradict each other, as `result` says.
        result: where it is known already.
    """

    number: int
    settings: Settings | None
    result: dict[str, Any] | None = None


class Owned:
    """What this process carries out, and other commands leave alone; it ends with the process.

    Args:
        folder: of the locks, which others see.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, ExitStack] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._locks

    def take(self, name: str) -> bool:
        """Make it ours; False: another process has it."""
        stack = ExitStack()
        try:
            stack.enter_context(working_in(self.folder / name))
        except RunFolderError:
            return False
        self._locks[name] = stack
        return True

    def let_go(self, *names: str) -> None:
        """Leave some to others; where none is named, all."""
        for name in names or [*self._locks]:
            self._locks.pop(name).close()


@dataclass
class Search:
    """A search in its folder, as one command carries it on.

    Attributes:
        folder: of the journal and the trials.
        settings: the command's, which trial 0 runs with.
        preset: the name of the preset that they were derived from.
        space: that the others are drawn from.
        first: the planned run of trial 0.
        how: it goes on.
    """

    folder: Path
    settings: Settings
    preset: str
    space: Space
    first: Run
    how: How
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Open the journal, or begin it.

        Raises:
            RunFolderError: it is of another search.
        """
        optuna = require_optuna()
        self.owned = Owned(self.folder / "owners")
        self._asking = FileLock(self.folder / LOCKS / "asking")
        with self._asking:
            self.storage = open_storage(self.folder)
            how = {"study_name": STUDY, "storage": self.storage}
            if not self.storage.get_all_studies():
                optuna.create_study(**how, direction="minimize")
            self.study = optuna.load_study(**how)
            self.study.pruner = make_pruner(self.how.pruner, self.most_epochs)
            own = made_with(self.settings, self.space)
            known = self.study.user_attrs.get(MADE_WITH)
            if known is None:
                self.study.set_user_attr(MADE_WITH, own)
                with replacing(self.folder / "space.toml") as draft:
                    draft.write_text(self.space.to_toml(), encoding="utf-8")
            else:
                require_same(own, known, self.folder)

    @property
    def most_epochs(self) -> int:
        """The most epochs that a trial may have."""
        drawn = self.space.drawn.get("classifier.epochs")
        epochs = [*(drawn.values or ())] if drawn else [self.space.fixed.get("classifier.epochs")]
        own = count_epochs(self.first.record.directions[0].plan)
        return max([own, *(each for each in epochs if each is not None)])

    def trials(self) -> list["FrozenTrial"]:
        """All trials there are."""
        return self.study.get_trials(deepcopy=False)

    # ---- asking
    def ask(self) -> Asked | None:
        """A trial to carry out: one that a killed command left, or a new one.

        Returns:
            None: there are enough, or none fits into the time.
        """
        with self._asking:
            trials = self.trials()
            for trial in trials:
                if trial.state.name == "RUNNING" and self._take_over(trial):
                    return self._settle(trial.number)
            waiting = next((each for each in trials if each.state.name == "WAITING"), None)
            if waiting is None and (
                len(trials) >= self.how.trials or not fits(self.how, trials, self._began)
            ):
                return None
            number = len(trials) if waiting is None else waiting.number
            if waiting is None:
                point = self._given_point(number, trials)
                if point is not None:
                    self.study.enqueue_trial(point)
                elif number and self.how.sampler == "grid":
                    return None
            self._seed(number)
            trial = self.study.ask()
            self.owned.take(name_of_trial(trial.number))
            is_random = bool(number) and is_drawn_at_random(self.how.sampler, trials)
            trial.set_user_attr(AT_RANDOM, is_random)
            return self._settle(trial.number)

    def _given_point(self, number: int, trials: list["FrozenTrial"]) -> dict[str, Any] | None:
        """The values that a trial is to have, where they are not drawn."""
        if number == 0:
            own = values_of(self.first, self.settings, self.space)
            return own if contains(self.space, own) else None
        if self.how.sampler == "grid":
            return next_point(self.space, trials, self.settings.seed)
        return None

    def _seed(self, number: int) -> None:
        # A sampler of the search's seed would draw the first trials again in the next command.
        seed = (10_007 * self.settings.seed + number) % 2**32
        self.study.sampler = make_sampler(self.how.sampler, seed)

    def _settle(self, number: int) -> Asked:
        """A trial of ours with all of its values, also where a kill left it with some."""
        optuna, frozen = require_optuna(), self.trials()[number]
        if RESULT in frozen.user_attrs:
            return Asked(number, None, frozen.user_attrs[RESULT])
        if number == 0 and "fixed_params" not in frozen.system_attrs:
            return Asked(0, self.settings)
        self._seed(number)
        values = draw(optuna.trial.Trial(self.study, frozen._trial_id), self.space)
        if number == 0:
            return Asked(0, self.settings)
        try:
            return Asked(number, settings_of({**self.space.fixed, **values}, self.settings))
        except SettingError as error:
            return Asked(number, None, {"state": "infeasible", "reason": str(error), "seconds": 0})

    def _take_over(self, trial: "FrozenTrial") -> bool:
        """Own a running trial that nobody carries out."""
        name = name_of_trial(trial.number)
        if name in self.owned or not self.owned.take(name):
            return False
        runs = runs_of(self.folder / "trials", name, self.settings)
        still = self.storage.get_trial(trial._trial_id).state.name == "RUNNING"
        if still and all(_is_free(folder) for folder, _ in runs):
            log.info("Trial %d was left in the middle: it goes on.", trial.number)
            return True
        self.owned.let_go(name)
        return False

    # ---- telling
    def tell(self, asked: Asked, result: Mapping[str, Any]) -> None:
        """Write down what became of a trial."""
        states = require_optuna().trial.TrialState
        trial = self.trials()[asked.number]
        self.storage.set_trial_user_attr(trial._trial_id, RESULT, dict(result))
        if result["state"] == "complete" and set(trial.params) >= set(self.space.drawn):
            self.study.tell(asked.number, result["error"])
        else:
            # Where rates let a training diverge, samplers learn of it; of what was never trained,
            # or lies outside of the space, there is nothing to learn.
            is_bad = result["state"] in ("pruned", "diverged")
            self.study.tell(asked.number, state=states.PRUNED if is_bad else states.FAIL)
        if asked.settings is not None and result["state"] == "pruned":
            name = name_of_trial(asked.number)
            for folder, _ in runs_of(self.folder / "trials", name, asked.settings):
                finish(folder / "classifier")
        self.owned.let_go(name_of_trial(asked.number))
        log.info("%s", _describe(asked.number, result))


def carry_out(search: Search, executor: Executor) -> None:
    """Carry out trials until there are enough, or the time is over; wait for those of others.

    Args:
        search: whose trials.
        executor: runs each in a process of its own.
    """
    jobs: dict[Future, Asked] = {}
    bar = progress(total=search.how.trials, description="Trials", unit=" trials")
    try:
        while True:
            while len(jobs) < search.how.at_once and (asked := search.ask()) is not None:
                if asked.result is not None:
                    search.tell(asked, asked.result)
                else:
                    jobs[executor.submit(carry_out_trial, _job(search, asked))] = asked
            if not jobs and not any(each.state.name == "RUNNING" for each in search.trials()):
                return
            wait(jobs, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            if not jobs:  # the last ones are another command's
                time.sleep(SECONDS_BETWEEN_LOOKS)
            for job in [job for job in jobs if job.done()]:
                asked = jobs.pop(job)
                search.tell(asked, _result_of(job, asked.number))
            bar.update(sum(each.state.is_finished() for each in search.trials()) - bar.n)
    finally:
        bar.close()
        search.owned.let_go()


def _job(search: Search, asked: Asked) -> Job:
    """What the process of a trial is told."""
    folder, how = search.folder.absolute(), search.how
    runs = runs_of(folder / "trials", name_of_trial(asked.number), asked.settings)
    # What everything is compared with is not cut off.
    is_pruned = asked.number > 0 and how.pruner != "none"
    pruner = (how.pruner, search.most_epochs) if is_pruned else None
    return Job(folder, asked.number, runs, search.preset, pruner)


def _result_of(job: Future, number: int) -> dict[str, Any]:
    """What became of a trial's process; one that was killed, as for its memory, is no reason to
    end the search."""
    if not job.cancelled() and isinstance(job.exception(), BrokenProcessPool):
        reason = "its process was ended from outside, as the system does when memory runs out"
        return {"state": "killed", "reason": reason, "seconds": 0.0}
    return result_of(job, f"trial {number}")


def fits(how: How, trials: list["FrozenTrial"], began: float) -> bool:
    """Whether one more trial would end in time, by the mean of those that were trained to the end.

    Args:
        how: the time and how many there are at once.
        trials: so far, of all commands.
        began: when this command began, on the monotonic clock.
    """
    results = [each.user_attrs[RESULT] for each in trials if RESULT in each.user_attrs]
    seconds = [result["seconds"] for result in results if result["state"] == "complete"]
    if how.minutes is None or not seconds:
        return True
    mean = sum(seconds) / len(seconds)
    running = sum(each.state.name == "RUNNING" for each in trials)
    spent = sum(result["seconds"] for result in results) + running * mean
    return max(spent / how.at_once, time.monotonic() - began) + mean <= 60 * how.minutes


def _is_free(folder: Path) -> bool:
    """Whether no process works in a folder."""
    try:
        with working_in(folder):
            return True
    except RunFolderError:
        return False


def _describe(number: int, result: Mapping[str, Any]) -> str:
    """What became of a trial, in a line."""
    name = "Trial 0, the settings of the command" if number == 0 else f"Trial {number}"
    if result["state"] == "complete":
        what = f"error {100 * result['error']:.2f} %, validation loss {result['valid_loss']:.4f}"
    else:
        what = f"{result['state']}: {result.get('reason', '')}"
    return f"{name}: {what} ({result['seconds']:.0f} s)"
