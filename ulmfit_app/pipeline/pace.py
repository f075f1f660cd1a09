"""How fast a run really goes, and so how long it still takes."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from ulmfit_app.errors import DataError
from ulmfit_app.pipeline import forecast
from ulmfit_app.pipeline.budget import FEWEST_SECONDS, FIXED_SECONDS
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.tracking import TITLES
from ulmfit_app.run_folder import HISTORY, MARK, ORDER, read_mark

WINDOW = 300  # seconds of training, the last ones, that the pace is taken from
ENOUGH = 20  # seconds of training that say something of the pace
MOVED, LEAST_MOVED = 0.2, 60  # of the time left, and seconds, by which the end is said anew
BETWEEN = 120  # seconds, at least, from one saying to the next
ENDING = FIXED_SECONDS / 2  # seconds for figures and files; the rest was for the start

log = logging.getLogger(__name__)


class Pace:
    """A `Watch` of a run that says when it is to end, where that has moved.

    Its estimate is that of the start, times what training has really taken of late: another
    process may have come, or one may have gone.

    Args:
        run: what is to be carried out.
        clock: gives seconds.

    Attributes:
        rates: as they were measured, at the start or later.
    """

    def __init__(self, run: RunFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self._before, self._began = _seconds_before(run), clock()
        self.time_anew()

    def time_anew(self) -> None:
        """Measure the machine, and forget what was measured before."""
        self.rates = forecast.measure(self.run)
        self._measured = self.clock()
        self._steps: list[tuple[float, float]] = []  # seconds, and how many were estimated
        self.plan_anew()

    def plan_anew(self) -> None:
        """Take what the run is to do as its record says it now."""
        self.stages = self.estimate()
        self._at: tuple[str, float] = "", 0.0  # the stage under way, its estimated seconds done
        self._told = self._said_at = self.clock()
        self._end = self._told + self.left()

    def estimate(self) -> dict[str, list[float]]:
        """Seconds that each stage was estimated to take, of trainings by epoch."""
        by_kind, record = forecast.estimate_seconds(self.run, self.rates), self.run.record
        stages = {name: by_kind[name] for name in ("tokens", "report")}
        for each in record.directions:
            for stage, title in TITLES.items():
                of_all = by_kind[title.lower()]
                stages[each.named(stage)] = [part / len(record.directions) for part in of_all]
        return stages

    @property
    def factor(self) -> float:
        """How many times as long as estimated the last minutes of training have taken."""
        seconds, estimated = self._latest()
        return seconds / estimated if seconds >= ENOUGH and estimated else 1.0

    def _latest(self) -> tuple[float, float]:
        seconds = estimated = 0.0
        for step in reversed(self._steps):
            seconds, estimated = seconds + step[0], estimated + step[1]
            if seconds >= WINDOW:
                break
        return seconds, estimated

    @property
    def is_stale(self) -> bool:
        """Whether nothing says how fast the machine is now."""
        return self._latest()[0] < ENOUGH and self.clock() - self._measured > WINDOW

    def used(self) -> float:
        """Seconds that were spent on the run so far, its interruptions left out."""
        return self._before + self.clock() - self._began

    def left(self) -> float:
        """Seconds that the run still takes."""
        left = ENDING + sum(map(self.left_of, ORDER))
        minutes = self.run.record.requested["minutes"]
        if minutes is None or self._at[0] not in ("", "lm"):
            return left
        # The classifier is still to be fitted to what is left then.
        least = left - self.left_of("classifier") + FEWEST_SECONDS
        return min(left, max(minutes * 60 - self.used(), least))

    def left_of(self, kind: str) -> float:
        """Seconds that the stages of a kind still take."""
        names = [name for name in self.stages if name.removesuffix("-backward") == kind]
        todo = sum(sum(self.stages[name]) for name in names if not self.run.is_finished(name))
        at, done = self._at
        is_under_way = at in names and not self.run.is_finished(at)
        return self.factor * (todo - done if is_under_way else todo)

    def __call__(self, title: str, history: list[dict[str, Any]], share: float = 0.0) -> None:
        """As `Watch` has it."""
        title, comma, direction = title.partition(", ")
        kind = next(stage for stage, of_kind in TITLES.items() if of_kind == title)
        name = f"{kind}-{direction}" if comma else kind
        epochs, n, now = self.stages[name], len(history), self.clock()
        done = sum(epochs[:n]) + share * sum(epochs[n : n + 1])
        if name == self._at[0] and done > self._at[1]:
            self._steps.append((now - self._told, done - self._at[1]))
        self._at, self._told = (name, done), now
        self._tell(now)

    def _tell(self, now: float) -> None:
        left = self.left()
        moved = abs(now + left - self._end)
        least = max(MOVED * (self._end - now), LEAST_MOVED)
        if moved < least or now - self._said_at < BETWEEN:
            return
        self._end, self._said_at = now + left, now
        how = f"Training takes {self.factor:.1f} times as long as was estimated: about "
        log.info("%s%s.", how if round(self.factor, 1) != 1 else "About ", say_left(left))


def say_left(seconds: float) -> str:
    """How long that is, and when it will be over by the clock of this place."""
    end = datetime.now() + timedelta(seconds=seconds)
    day = "" if end.date() == datetime.now().date() else f" on {end:%d %B}"
    minutes = max(round(seconds / 60), 1)
    return f"{minutes:,} minute{'s' * (minutes > 1)} left, until {end:%H:%M}{day}"


def _seconds_before(run: RunFiles) -> float:
    """Seconds that planning took, and what lies in the run's folder."""
    seconds = run.record.planning_seconds
    for name in run.record.keys:
        folder = run.work / name
        # A training's mark has its last sitting alone.
        trained = 0.0
        if (folder / HISTORY).is_file():
            with suppress(DataError):  # of a stage that is to be made again
                trained = float(read_history(folder)["seconds"].sum())
        seconds += max(read_mark(folder / MARK).get("seconds", 0.0), trained)
    return seconds
