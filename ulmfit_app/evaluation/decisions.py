"""From a classifier's probabilities to its answers: calibrated, at thresholds or by costs.

`probabilities` are [n, n_labels]. Of one label a text, a row sums to 1, and `truth` is [n], the
index of each text's label; of several labels, each is a probability of its own, and `truth` is
[n, n_labels], 1 where a text has the label and 0 where not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ulmfit_app.evaluation.calibration import fit_temperature, tempered
from ulmfit_app.evaluation.group_thresholds import FEWEST, ByGroup, fit_equal_recall
from ulmfit_app.evaluation.thresholds import (
    MIDDLE,
    choose_label_thresholds,
    choose_thresholds,
    soften,
)


@dataclass(frozen=True)
class Decision:
    """How a classifier's outputs become probabilities, and these become answers.

    Attributes:
        multilabel: whether a text may have several labels, or none.
        temperatures: that logits are divided by: one, or one for each of several labels.
        thresholds: one for each label. Of several labels, a text has those whose probabilities
            reach theirs. Of one, the answer is the label whose probability is the largest
            multiple of its threshold: they sum to 1, and of two labels each is then what its
            probability has to reach. None: MIDDLE, or the most probable label.
        costs: of one label a text: [n_labels][n_labels], what the answer of a column costs where
            the label of the row is true. Of several, one pair for each label: what it costs where
            it is missed, and where it is given in vain. None: all mistakes cost the same.
        by_group: of one label a text: a label's thresholds by group; None: one rule for all.
    """

    multilabel: bool = False
    temperatures: tuple[float, ...] = (1.0,)
    thresholds: tuple[float, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()
    by_group: ByGroup | None = None

    @property
    def temperature(self) -> float:
        """That of one label a text, whose labels have one together."""
        (temperature,) = self.temperatures
        return temperature

    def check(self, n_labels: int) -> None:
        """Refuse numbers that are no decision.

        Raises:
            ValueError: they do not fit so many labels, or each other, or are none that can be.
        """
        if len(self.temperatures) not in ({1, n_labels} if self.multilabel else {1}):
            raise ValueError(f"{len(self.temperatures)} temperatures for {n_labels} labels")
        if not all(0 < one < math.inf for one in self.temperatures):
            raise ValueError(f"temperature {self.temperatures}")
        if self.thresholds and len(self.thresholds) != n_labels:
            raise ValueError(f"{len(self.thresholds)} thresholds for {n_labels} labels")
        if not all(0 < one <= 1 for one in self.thresholds):
            raise ValueError(f"thresholds {self.thresholds}")
        width = 2 if self.multilabel else n_labels
        if self.costs and (len(self.costs) != n_labels or {*map(len, self.costs)} != {width}):
            raise ValueError(f"costs {self.costs} for {n_labels} labels")
        if not all(0 <= cost < math.inf for row in self.costs for cost in row):
            raise ValueError(f"costs {self.costs}")
        if self.by_group is not None:
            if self.multilabel:
                raise ValueError("thresholds by group of several labels a text")
            self.by_group.check(n_labels)

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities at these temperatures, [n, n_labels], from those at temperature 1."""
        if not self.multilabel:
            return tempered(probabilities, self.temperatures[0])
        found = probabilities.astype(float)
        temperatures = np.broadcast_to(self.temperatures, found.shape[1])
        for label, temperature in enumerate(temperatures):
            if temperature != 1:
                found[:, label] = tempered(_as_two(found[:, label]), temperature)[:, 1]
        return found

    def answer(self, probabilities: np.ndarray, groups: Sequence[str] | None = None) -> np.ndarray:
        """Answers to calibrated probabilities.

        Args:
            probabilities: [n, n_labels].
            groups: of the texts, in the column of `by_group`, [n]; None: not known.

        Returns:
            The index of a label, int [n]; of several labels, whether a text has each, bool
            [n, n_labels].

        >>> Decision(thresholds=(0.2, 0.8)).answer(np.array([[0.3, 0.7], [0.1, 0.9]])).tolist()
        [0, 1]
        >>> Decision(costs=((0, 9), (1, 0))).answer(np.array([[0.2, 0.8]])).tolist()
        [0]
        """
        if self.by_group is not None and groups is not None:
            return self.by_group.answer(probabilities, self.answer(probabilities), groups)
        if self.multilabel:
            limits = self.limits(probabilities.shape[1])
            return probabilities >= limits
        if self.costs:
            # The lowest expected cost (Elkan 2001, "The Foundations of Cost-Sensitive Learning",
            # section 1).
            return (probabilities @ np.array(self.costs)).argmin(axis=1)
        if self.thresholds:
            return (probabilities / np.array(self.thresholds)).argmax(axis=1)
        return probabilities.argmax(axis=1)

    def limits(self, n_labels: int) -> np.ndarray:
        """What the probability of each of several labels has to reach, [n_labels]."""
        if self.costs:
            missed, in_vain = np.array(self.costs, float).T
            return in_vain / (missed + in_vain)
        return np.array(self.thresholds) if self.thresholds else np.full(n_labels, MIDDLE)


def _as_two(probabilities: np.ndarray) -> np.ndarray:
    """The probabilities of a label, [n], beside those of not having it, [n, 2]."""
    return np.stack([1 - probabilities, probabilities], axis=1)


def fit_temperatures(
    probabilities: np.ndarray, truth: np.ndarray
) -> tuple[list[float], list[str]]:
    """A temperature for each of several labels, as `fit_temperature` finds that of one.

    Args:
        probabilities: at temperature 1, [n, n_labels].
        truth: [n, n_labels].

    Returns:
        Temperatures; and for each label "", or why its temperature stayed 1.
    """
    pairs = [
        fit_temperature(_as_two(column.astype(float)), has.astype(int))
        for column, has in zip(probabilities.T, truth.T, strict=True)
    ]
    return [temperature for temperature, _ in pairs], [reason for _, reason in pairs]


def fit_decision(
    probabilities: np.ndarray,
    truth: np.ndarray,
    has_thresholds: bool,
    costs: Sequence[Sequence[float]] = (),
) -> tuple[Decision, list[str]]:
    """Fit temperatures, and choose thresholds, on a validation part.

    Args:
        probabilities: at temperature 1, [n, n_labels].
        truth: as above, of one label a text or of several.
        has_thresholds: whether thresholds are chosen, for the best F1.
        costs: as `Decision` has them.

    Returns:
        The decision, and for each temperature "", or why it stayed 1.
    """
    costs = tuple(map(tuple, costs))
    if truth.ndim == 1:
        temperature, reason = fit_temperature(probabilities, truth)
        decision, reasons = Decision(False, (temperature,), (), costs), [reason]
    else:
        temperatures, reasons = fit_temperatures(probabilities, truth)
        decision = Decision(True, tuple(temperatures), (), costs)
    if has_thresholds:
        calibrated = decision.calibrate(probabilities)
        shares = soften(truth, calibrated)
        if truth.ndim == 1:
            thresholds = choose_thresholds(calibrated, shares)
        else:
            thresholds, _ = choose_label_thresholds(calibrated, shares)
        decision = replace(decision, thresholds=tuple(thresholds))
    return decision, reasons


def equalise_recall(
    decision: Decision,
    probabilities: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    column: str,
    label: int,
) -> Decision:
    """The decision with thresholds by group, for the same recall of a label in all groups.

    Args:
        decision: without them.
        probabilities: of the validation part, at temperature 1, [n, n_labels].
        truth: [n] class indices.
        groups, column, label: as `fit_equal_recall` has them.
    """
    calibrated = decision.calibrate(probabilities)
    plain = decision.answer(calibrated)
    by_group = fit_equal_recall(calibrated, truth, plain, groups, column, label)
    return replace(decision, by_group=by_group)


def describe_decision(
    decision: Decision, reasons: Sequence[str], labels: Sequence[str], probabilities: np.ndarray
) -> list[str]:
    """What was decided on a validation part, in sentences.

    Args:
        decision, reasons: what `fit_decision` returns.
        labels: their names.
        probabilities: of the validation part, at temperature 1, [n, n_labels].
    """
    n, several = len(probabilities), decision.multilabel
    if not several:
        reason = reasons[0] and f"not fitted on the validation texts: {reasons[0]}"
        how = reason or f"fitted on {n:,} validation texts"
        lines = [f"temperature {decision.temperature:.3g}, {how}."]
    else:
        low, high = min(decision.temperatures), max(decision.temperatures)
        n_fitted = sum(not reason for reason in reasons)
        others = "" if n_fitted == len(labels) else "; the others stay at 1"
        lines = [
            f"temperatures {low:.3g} to {high:.3g}, fitted on {n:,} validation texts for "
            f"{n_fitted:,} of {len(labels):,} labels{others}."
            if n_fitted
            else f"no temperature was fitted on the {n:,} validation texts: all {len(labels):,} "
            "stay 1."
        ]
    if decision.costs:
        lines.append("it answers what costs least in expectation, by the table of costs.")
    elif decision.thresholds:
        each = [f"{label} {t:.2g}" for label, t in zip(labels, decision.thresholds, strict=True)]
        more = f" and {len(each) - 10:,} more" if len(each) > 10 else ""
        lines.append(
            f"thresholds of the best F1 on the validation texts: {', '.join(each[:10])}{more}."
        )
    if decision.by_group is not None:
        each = [f"{group} {t:.2g}" for group, t in decision.by_group.thresholds]
        more = f" and {len(each) - 10:,} more" if len(each) > 10 else ""
        of = f"{labels[decision.by_group.label]} by {decision.by_group.column}"
        lines.append(
            f"thresholds of {of}, for the same recall: {', '.join(each[:10])}{more}. Who a text "
            "is from or about now decides its answer."
            if each
            else f"no threshold of {of}: no group has {FEWEST} validation texts of the label."
        )
    answers = decision.answer(decision.calibrate(probabilities))
    given = answers.any(axis=0) if several else np.isin(np.arange(len(labels)), answers)
    silent = [label for label, once in zip(labels, given, strict=True) if not once]
    if silent and (several or decision.thresholds or decision.costs):
        more = f" and {len(silent) - 10:,} more" if len(silent) > 10 else ""
        lines.append(
            f"no validation text is given {len(silent):,} of {len(labels):,} labels: "
            f"{', '.join(silent[:10])}{more}."
        )
    return lines
