"""Notebook 04, recipes: plans tried on one language model; checks of its exercises."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.evaluation.figures import Figure
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.study_figures import plan_figure
from ulmfit_app.models.pretrained import Start
from ulmfit_app.pipeline.run import begin
from ulmfit_app.pipeline.stages import load_start, train_classifier
from ulmfit_app.training.recipes import (
    PLANS as MAKERS,
)
from ulmfit_app.training.recipes import (
    Plan,
    count_epochs,
    discriminative_rates,
    rates_over,
    slanted_triangular,
)

GROUPS = 5  # of a classifier with three layers of LSTM: the embeddings, the layers, the head
PLANS = {name: make(GROUPS) for name, make in MAKERS.items()}


def draw_plan(plan: Plan) -> Figure:
    """Which group learns when, and at what rate, with one cycle per phase."""
    rates = np.array(rates_over(plan, GROUPS, "one-cycle"))
    return plan_figure(
        rates, {phase.name: phase.epochs for phase in plan.phases}, f"The plan {plan.name!r}"
    )


class PlanTrials:
    """Classifiers that are trained by one plan or another on the encoder of one language model.

    The language model is fine-tuned once.

    Args:
        settings: the texts, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        self._run = begin(Path(self._folder.name) / "run", settings)
        self._run.carry_out("lm")

    def train(self, plan: Plan) -> pd.DataFrame:
        """Train a classifier.

        Args:
            plan: who learns when, and at what rate.

        Returns:
            Its history, one row per epoch: phase, epoch, train_loss and valid_loss (nats),
            accuracy, seconds.

        Raises:
            Diverged: the loss is not finite.
        """
        with TemporaryDirectory(dir=self._folder.name) as folder:
            return self._classify(plan, Path(folder))

    def compare(self, *plans: Plan) -> pd.DataFrame:
        """Train a classifier by each plan, and score it on validation after its last epoch.

        Args:
            *plans: the plans.

        Returns:
            One row per plan: plan, epochs, train_loss, valid_loss, accuracy, and low and high, its
            95 % interval.
        """
        n = int((self._read_rows()["split"] == "valid").sum())
        rows = []
        for plan in plans:
            last = self.train(plan).iloc[-1]
            low, high = accuracy_interval(round(last["accuracy"] * n), n)
            losses = last[["train_loss", "valid_loss"]].to_dict()
            accuracy = {"accuracy": last["accuracy"], "low": low, "high": high}
            rows.append({"plan": plan.name, "epochs": count_epochs(plan)} | losses | accuracy)
        return pd.DataFrame(rows)

    # What the course knows about the inside of a run that trains a classifier is here alone.
    def _classify(self, plan: Plan, folder: Path) -> pd.DataFrame:
        (forward,) = self._run.record.directions
        return train_classifier(self._run, forward, plan, folder)

    def _read_corpus(self) -> Corpus:
        return self._run.corpus

    def _find_start(self) -> Start:
        return load_start(self._run.record.directions[0])

    def _find_stage(self, name: str) -> Path:
        """The folder of a finished stage: "tokens" or "lm"."""
        return self._run.place(name)

    def _read_rows(self) -> pd.DataFrame:
        """The texts of the store: row (of the corpus), split and label of each."""
        return self._run.rows


# --------------------------------------------------------------------------------- the exercises
def check_position(answer: float | EllipsisType, peak: float, rate: float) -> Verdict:
    """Exercise 1: the share of the training at which the rate has fallen to `rate` again."""
    if verdict := check_number(answer):
        return verdict
    there, later = (slanted_triangular(place, peak) for place in (answer, answer + 0.01))
    compared = "more" if there > rate else "less"
    return judge(
        {
            "expected a share of the training, between 0 and 1.": not 0 <= answer <= 1,
            f"at {answer:.1%} the rate is still on its way up, at {there:.2g}. The question is "
            "about the way down.": later > there,
            f"at {answer:.1%} the rate is {there:.3g}, {compared} than {rate:g}. On the way down "
            "it is a line from the peak to 1/32 of it.": abs(there - rate) > peak / 100,
        },
        f"at {answer:.1%} of the training the rate is {there:.2g}.",
    )


def check_decay(answer: float | EllipsisType, top: float, lowest: float) -> Verdict:
    """Exercise 2: the factor between the rates of neighbouring groups, given the two ends."""
    if verdict := check_number(answer):
        return verdict
    if not 1e-6 < answer < 1e6:
        return Verdict(False, "expected a factor above 0, such as 2.6.")
    rates = discriminative_rates(top, GROUPS, answer)
    found = rates[0]
    one_more = discriminative_rates(top, GROUPS + 1, answer)[0]
    return judge(
        {
            f"the lowest rate comes out at {found:.3g}, above the highest: a factor below 1 turns "
            "the rates upside down.": found > top,
            f"with this factor it takes {GROUPS + 1} groups to come down to {lowest:g}. Between "
            f"{GROUPS} groups there are {GROUPS - 1} steps.": bool(
                np.isclose(one_more, lowest, rtol=0.02)
            ),
            f"the lowest rate comes out at {found:.3g} instead of {lowest:g}.": not np.isclose(
                found, lowest, rtol=0.02
            ),
        },
        f"the rates are {', '.join(f'{rate:.2g}' for rate in rates)}.",
    )


def check_plan(answer: Plan | EllipsisType, name: str) -> Verdict:
    """Exercise 3: a plan, written out, that does the same as PLANS[name]."""
    if verdict := check_answered(answer):
        return verdict
    if not isinstance(answer, Plan):
        return Verdict(
            False, "expected a Plan, such as Plan('mine', (Phase(…), Phase(…)), drop_mult=0.5)."
        )
    wanted = PLANS[name]
    yours, ours = (count_epochs(plan) for plan in (answer, wanted))
    if yours != ours:
        return Verdict(False, f"your plan has {yours} epochs in all, but it should have {ours}.")
    yours, ours = (
        np.array(rates_over(plan, GROUPS, "constant", points=1)) for plan in (answer, wanted)
    )
    for epoch, (here, there) in enumerate(zip(yours.T, ours.T, strict=True), start=1):
        if not np.array_equal(here > 0, there > 0):
            counts = f"{np.count_nonzero(here)} groups learn, and {np.count_nonzero(there)} should"
            return Verdict(False, f"in epoch {epoch} {counts}, counted from the head down.")
        if not np.allclose(here, there, rtol=0.01):
            group = int(np.argmax(~np.isclose(here, there, rtol=0.01)))
            rates = f"learns at {here[group]:.2g}, not at {there[group]:.2g}"
            return Verdict(False, f"in epoch {epoch} group {group + 1} of {GROUPS} {rates}.")
    return Verdict(
        True,
        f"in every epoch the same groups learn at the same rates as in the paper's plan {name!r}.",
    )
