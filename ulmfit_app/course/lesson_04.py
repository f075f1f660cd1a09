"""Notebook 04, recipes: plans tried out on one language model, and the checks of its exercises."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, judged, unanswered
from ulmfit_app.evaluation.figures import Figure
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.study_figures import plan_figure
from ulmfit_app.pipeline.run import Run
from ulmfit_app.training.recipes import (
    PLANS,
    Plan,
    discriminative_rates,
    epochs_of,
    rates_over,
    slanted_triangular,
)

GROUPS = 5  # of a classifier with three layers of LSTM: the embeddings, the layers, the head


def draw(plan: Plan) -> Figure:
    """Who learns when, and at what rate, by one cycle a phase."""
    rates = np.array(rates_over(plan, GROUPS, "one-cycle"))
    return plan_figure(
        rates, {phase.name: phase.epochs for phase in plan.phases}, f"The plan {plan.name!r}"
    )


class Bench:
    """A language model that is fine-tuned once, on whose encoder classifiers are trained by one plan or another."""

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        self._run = Run(Path(self._folder.name) / "run", settings)
        self._run.carry_out("lm")

    def train(self, plan: Plan) -> pd.DataFrame:
        """Train a classifier; its history, a row an epoch: phase, epoch, train_loss, valid_loss (nats), accuracy, seconds.

        Raises Diverged when the loss is not finite.
        """
        with TemporaryDirectory(dir=self._folder.name) as folder:
            self._run.classify(replace(self._run.directions[0], plan=plan), Path(folder))
            return pd.read_csv(Path(folder) / "history.csv")

    def compare(self, *plans: Plan) -> pd.DataFrame:
        """Train a classifier by each plan; how each does on the validation split after its last epoch.

        Columns plan, epochs, train_loss, valid_loss, accuracy, and low and high, its 95 % interval.
        """
        n = int((self._run.selection.split == "valid").sum())
        rows = []
        for plan in plans:
            last = self.train(plan).iloc[-1]
            low, high = accuracy_interval(round(last["accuracy"] * n), n)
            losses = last[["train_loss", "valid_loss"]].to_dict()
            rows.append(
                {
                    "plan": plan.name,
                    "epochs": epochs_of(plan),
                    **losses,
                    "accuracy": last["accuracy"],
                }
            )
            rows[-1] |= {"low": low, "high": high}
        return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_position(answer: float | EllipsisType, peak: float, rate: float) -> Verdict:
    """Exercise 1: at which share of the training the slanted triangular rate has fallen to `rate`."""
    if verdict := unanswered(answer):
        return verdict
    there, later = (slanted_triangular(place, peak) for place in (answer, answer + 0.01))
    return judged(
        {
            "expected a share of the training, between 0 and 1.": not 0 <= answer <= 1,
            f"at {answer:.1%} the rate is on its way up, at {there:.2g}. Asked is the way down.": later
            > there,
            f"at {answer:.1%} the rate is {there:.3g}, {'more' if there > rate else 'less'} than {rate:g}. "
            "On the way down it is a line from the peak to 1/32 of it.": abs(there - rate)
            > peak / 100,
        },
        f"at {answer:.1%} of the training the rate is {there:.2g}.",
    )


def check_decay(answer: float | EllipsisType, top: float, lowest: float) -> Verdict:
    """Exercise 2: by which factor the rates of GROUPS groups fall from one to the next, between two given ones."""
    if verdict := unanswered(answer):
        return verdict
    found = discriminative_rates(top, GROUPS, answer)[0]
    one_more = discriminative_rates(top, GROUPS + 1, answer)[0]
    return judged(
        {
            f"the lowest rate comes out at {found:.3g}, above the highest: a factor below 1 turns the rates upside down.": (
                found > top
            ),
            f"with this factor it takes {GROUPS + 1} groups to come down to {lowest:g}. "
            f"Between {GROUPS} groups there are {GROUPS - 1} steps.": bool(
                np.isclose(one_more, lowest, rtol=0.02)
            ),
            f"the lowest rate comes out at {found:.3g} instead of {lowest:g}.": not np.isclose(
                found, lowest, rtol=0.02
            ),
        },
        f"the rates are {', '.join(f'{rate:.2g}' for rate in discriminative_rates(top, GROUPS, answer))}.",
    )


def check_plan(answer: Plan | EllipsisType, name: str) -> Verdict:
    """Exercise 3: a plan written out that does the same as PLANS[name]."""
    if verdict := unanswered(answer):
        return verdict
    if not isinstance(answer, Plan):
        return Verdict(
            False, "expected a Plan, such as Plan('mine', (Phase(…), Phase(…)), drop_mult=0.5)."
        )
    wanted = PLANS[name]
    if epochs_of(answer) != epochs_of(wanted):
        return Verdict(
            False,
            f"your plan has {epochs_of(answer)} epochs in all, the one asked for {epochs_of(wanted)}.",
        )
    yours, ours = (
        np.array(rates_over(plan, GROUPS, "constant", points=1)) for plan in (answer, wanted)
    )
    for epoch, (here, there) in enumerate(zip(yours.T, ours.T, strict=True), start=1):
        if not np.array_equal(here > 0, there > 0):
            counts = f"{np.count_nonzero(here)} groups learn, and {np.count_nonzero(there)} should"
            return Verdict(False, f"in epoch {epoch} {counts}, counted from the head down.")
        if not np.allclose(here, there, rtol=0.01):
            group = int(np.argmax(~np.isclose(here, there, rtol=0.01)))
            return Verdict(False, f"in epoch {epoch} group {group + 1} of {GROUPS} learns at {here[group]:.2g}, not at "
                                  f"{there[group]:.2g}.")  # fmt: skip
    return Verdict(
        True, f"epoch by epoch the same groups learn at the same rates as by the paper's {name!r}."
    )
