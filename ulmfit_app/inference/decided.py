"""How a classifier comes from probabilities to its answers, in a sentence."""

from collections.abc import Sequence

import numpy as np

from ulmfit_app.evaluation.decisions import Decision

MOST_NAMED = 10  # thresholds


def describe(decision: Decision, labels: Sequence[str]) -> str:
    """Temperatures, and what beyond the likeliest label decides, as half a sentence.

    Args:
        decision: of the classifier.
        labels: its labels, in order.

    >>> describe(Decision(temperatures=(1.234,)), ["neg", "pos"])
    'temperature 1.23'
    >>> describe(Decision(thresholds=(0.3, 0.7)), ["neg", "pos"])
    'temperature 1, answers by thresholds: neg 0.3, pos 0.7'
    >>> describe(Decision(True, (0.9, 1.3)), ["joy", "love"])
    'temperatures 0.9 to 1.3, a text has the labels whose probabilities reach 0.5'
    """
    low, high = min(decision.temperatures), max(decision.temperatures)
    said = f"temperature {low:.3g}" if low == high else f"temperatures {low:.3g} to {high:.3g}"
    if decision.multilabel:
        limits = decision.limits(len(labels)).tolist()
        each = _named(labels, limits) if len(set(limits)) > 1 else f"{limits[0]:.3g}"
        of = "the thresholds that the costs give: " if decision.costs else ""
        return f"{said}, a text has the labels whose probabilities reach {of}{each}"
    if decision.by_group is not None:
        named, column = labels[decision.by_group.label], decision.by_group.column
        return f"{said}, answers {named} by a threshold of each group, where {column} is known"
    if decision.costs:
        return f"{said}, answers what costs least in expectation"
    if decision.thresholds:
        return f"{said}, answers by thresholds: {_named(labels, decision.thresholds)}"
    return said


def decided_by(decision: Decision) -> str:
    """What beyond the likeliest label decides: costs, thresholds, or "" where nothing does.

    Several labels a text always have thresholds: of these, whether costs made them.
    """
    if decision.costs:
        return "costs"
    return "thresholds" if decision.thresholds and not decision.multilabel else ""


def _named(labels: Sequence[str], thresholds: Sequence[float]) -> str:
    each = [f"{label} {value:.3g}" for label, value in zip(labels, thresholds, strict=True)]
    more = f" and {len(each) - MOST_NAMED:,} more" if len(each) > MOST_NAMED else ""
    return ", ".join(each[:MOST_NAMED]) + more


def choose(decision: Decision, probabilities: np.ndarray) -> list[list[int]]:
    """The labels of each text, by their numbers: one, or of several those that it is given,
    likeliest first.

    Args:
        decision: of the classifier.
        probabilities: calibrated, [n_texts, n_labels].

    >>> choose(Decision(True), np.array([[0.6, 0.9], [0.2, 0.1]]))
    [[1, 0], []]
    """
    answers = decision.answer(probabilities)
    if not decision.multilabel:
        return [[int(answer)] for answer in answers]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    pairs = zip(order, answers, strict=True)
    return [[int(i) for i in ranked if has[i]] for ranked, has in pairs]
