"""The journal of a search: which trials there are, in a file that several processes write to.

It is Optuna's: JournalStorage with a file. Optuna's own locks are files that a killed process
leaves behind, for half a minute; here they are the system's, which end with the process. A line
that a process was killed in the middle of is cut off, which Optuna would refuse to read past.
"""

import os
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.experiments.spaces import Choices, Range, Space
from ulmfit_app.settings_json import flatten

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SamplerName = Literal["tpe", "gp", "random", "grid"]
PrunerName = Literal["median", "hyperband", "none"]
JOURNAL, STUDY = "journal.log", "search"
MADE_WITH = "made_with"  # attribute of the study
RESULT, AT_RANDOM = "result", "at_random"  # of a trial
STARTUP = 10  # trials that tpe and gp draw at random; Optuna's default


def require_optuna() -> ModuleType:
    """Optuna, which says what is wrong and nothing else.

    Raises:
        SettingError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise SettingError(
            "A search needs Optuna, which is not installed: pip install 'ulmfit-app[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class FileLock:
    """A lock that one process has at a time, and that ends with it; others wait.

    Where the system knows no such lock (Windows), nothing is kept away.

    Args:
        path: of the lock; an empty file that stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait until the lock is ours."""
        if fcntl is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class _JournalLock(FileLock):
    """The lock of a journal, which is whole whenever somebody has it."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"))
        self.journal = journal

    def acquire(self) -> bool:
        super().acquire()
        cut_torn_line(self.journal)
        return True


def cut_torn_line(path: Path) -> None:
    """Cut off what stands behind a file's last line feed. path: of a file, which may be missing.

    To be called while nobody writes.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def open_storage(folder: Path) -> "JournalStorage":
    """The journal in a search's folder; it is made where it is missing.

    Raises:
        RunFolderError: it is damaged.
        SettingError: Optuna is not installed.
    """
    optuna = require_optuna()
    path = folder / JOURNAL
    lock = _JournalLock(path) if fcntl else optuna.storages.journal.JournalFileOpenLock(str(path))
    with FileLock(path.with_name(f"{JOURNAL}.lock")):
        cut_torn_line(path)
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
        return optuna.storages.JournalStorage(backend)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} is damaged ({type(error).__name__}: {error}). Put it back as it was, or "
            "search in another folder: --out FOLDER"
        ) from None


def open_study(
    folder: Path,
    sampler: str = "random",
    pruner: str = "none",
    most_epochs: int = 1,
    seed: int = 0,
) -> tuple["Study", "JournalStorage"]:
    """The study of a search that has begun, and its storage.

    Args:
        folder: of the search.
        sampler: its name.
        pruner: its name.
        most_epochs: of a trial.
        seed: of the sampler, for one trial: one of the same seed would draw the same again.
    """
    optuna, storage = require_optuna(), open_storage(folder)
    how = make_sampler(sampler, seed), make_pruner(pruner, most_epochs)
    return optuna.load_study(
        study_name=STUDY, storage=storage, sampler=how[0], pruner=how[1]
    ), storage  # fmt: skip


def make_sampler(name: str, seed: int) -> "BaseSampler":
    """The sampler of a name: tpe, gp, random; of a grid, whose points are given, random."""
    samplers = require_optuna().samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part of Optuna is experimental
        if name == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        if name == "gp":
            return samplers.GPSampler(
                seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False
            )
        return samplers.RandomSampler(seed=seed)


def is_drawn_at_random(sampler: str, trials: list["FrozenTrial"]) -> bool:
    """Whether a sampler draws the next trial at random, as tpe and gp do at first."""
    if sampler in ("random", "grid"):
        return sampler == "random"
    known = ("COMPLETE", "PRUNED") if sampler == "tpe" else ("COMPLETE",)
    return sum(each.state.name in known for each in trials) < STARTUP


def make_pruner(name: str, most_epochs: int) -> "BasePruner":
    """The pruner of a name: median, hyperband or none. most_epochs: of a trial."""
    pruners = require_optuna().pruners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "median":
            return pruners.MedianPruner(n_startup_trials=5)
        if name == "hyperband":
            return pruners.HyperbandPruner(max_resource=max(most_epochs, 1), reduction_factor=3)
        return pruners.NopPruner()


def draw(trial: "Trial", space: Space) -> dict[str, Any]:
    """A trial's values in a space; those that it has already stay."""
    for name, values in space.drawn.items():
        if isinstance(values, Choices):
            trial.suggest_categorical(name, values.values)
        elif isinstance(values.low, int):
            how = {"log": values.log, "step": int(values.step or 1)}
            trial.suggest_int(name, values.low, values.high, **how)
        else:
            how = {"log": values.log, "step": values.step}
            trial.suggest_float(name, values.low, values.high, **how)
    return trial.params


def contains(space: Space, point: Mapping[str, Any]) -> bool:
    """Whether a point lies in a space."""
    return all(
        name in point and point[name] in (values if isinstance(values, Range) else values.values)
        for name, values in space.drawn.items()
    )


def next_point(space: Space, trials: list["FrozenTrial"], seed: int) -> dict[str, Any] | None:
    """The first point of a grid, in an order of a seed, that no trial has; None: there is none."""
    points = space.points()
    random.Random(seed).shuffle(points)
    taken = [each.system_attrs.get("fixed_params", each.params) for each in trials]
    return next((point for point in points if point not in taken), None)


def require_same(made_with: dict[str, Any], known: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with the search of other data, settings or another space.

    Args:
        made_with: of the command, as JSON reads it back.
        known: of the journal.
        folder: of the search.

    Raises:
        RunFolderError: naming what differs.
    """
    ours, theirs = flatten(made_with), flatten(known)
    different = [
        f"{name} ({theirs.get(name, 'nothing')} there, {ours.get(name, 'nothing')} here)"
        for name in {**theirs, **ours}
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        shown = ", ".join(different[:5]) + (" and others" if len(different) > 5 else "")
        raise RunFolderError(
            f"{folder / JOURNAL} is of a search with other data or settings: {shown}. Nothing was "
            "changed. Give the command that began it, or search in another folder: --out FOLDER"
        )
