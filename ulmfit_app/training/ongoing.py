"""A training under way: how it is carried out, and how far it has come."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ulmfit_app.config import Schedule
from ulmfit_app.training import symptoms
from ulmfit_app.training.checkpoints import Checkpoints, Position
from ulmfit_app.training.recipes import Phase, phases_of_pairs
from ulmfit_app.training.watching import Watch

log = logging.getLogger(__name__)


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
        rate_setting: that holds the rates, or multiplies them, likewise.
        suggested_rate: by a learning-rate finder that was asked; None: it was not.
    """

    title: str
    key: str
    schedule: Schedule
    weight_decay: float
    grad_clip: float | None = None
    patience: int | None = None
    select_by: str = "valid_loss"
    section: str = "lm"
    rate_setting: str = "lm.lr"
    suggested_rate: float | None = None


def is_better(row: dict, best: dict | None, select_by: str) -> bool:
    """Whether an epoch beats the best so far: by a metric where that selects, then by loss."""
    if best is None:
        return True
    if select_by != "valid_loss" and row[select_by] != best[select_by]:
        return row[select_by] > best[select_by]
    return row["valid_loss"] < best["valid_loss"]


class Training:
    """One training through all of its phases, and what is known of it so far."""

    def __init__(
        self, phases: Sequence[Phase], folder: Path, settings: TrainingSettings, watch: Watch
    ) -> None:
        self.phases, self.settings, self.watch = phases, settings, watch
        self.checkpoints, self.folder = Checkpoints(folder, settings.key), folder
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

    def warn(self, found: dict[str, str]) -> None:
        """Say what was not said before in this training. found: name -> sentence."""
        said = {*symptoms.names_in(self.history), *self.position.warnings}
        for name, sentence in found.items():
            if name not in said:
                log.warning("Warning: %s, %s: %s", self.settings.title, self.phase.name, sentence)
                self.position.warnings.append(name)

    def goes_on_from(self, index: int) -> bool:
        """Whether a phase trains the groups of the one before, with its optimizer's state."""
        if index == 0:
            return False
        before, phase = self.phases[index - 1], self.phases[index]
        return (phase.freeze_to, phase.freeze_from) == (before.freeze_to, before.freeze_from)

    def enter_phase(self, index: int) -> None:
        """Begin a phase; losses of another objective are not compared with those so far."""
        same = self.phases[index].objective == self.phase.objective
        start = self.position.start_loss if same else None
        self.position = Position(phase=index, start_loss=start)

    def end_epoch(self, row: dict) -> None:
        """Add an epoch to the history, with what there was to warn of."""
        if self.is_judged(row):
            judged = [*filter(self.is_judged, self.history), row]
            self.warn(symptoms.after_epoch(judged, self.settings.rate_setting))
        if self.position.warnings:
            row[symptoms.WARNINGS] = symptoms.JOINT.join(self.position.warnings)
        self.history.append(row)
        self.position.end_epoch()

    def table(self) -> pd.DataFrame:
        """The history, one row per epoch."""
        return pd.DataFrame(self.history).fillna({symptoms.WARNINGS: ""})
