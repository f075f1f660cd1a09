"""How good the answers are for each group of the tested texts, and which groups differ.

A group is the texts that have the same value in a column, such as whom they are from or about.
`truth`, `predicted` and `probabilities` are as in metrics, or, of several labels, in multilabel.
The names of the measures are fairlearn's (Weerts et al. 2023, JMLR 24).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.calibration import calibration_error_by_chance
from ulmfit_app.evaluation.group_words import FEWEST, describe_groups, numbers_of
from ulmfit_app.evaluation.independent import adjust_holm, same_shares, shares_interval
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import (
    RESAMPLES,
    Z_95,
    accuracy_interval,
    bin_outcomes,
    calibration_error,
)

MAX_GROUPS = 100  # that are told one by one; the smallest of more are the last together
MAX_LABELS = 8  # that are asked about, each in every group


@dataclass(frozen=True)
class _Answers:
    """What is asked of texts, label by label, whether they have one label or several.

    Attributes:
        has, given: whether each text has a label, and is given it, bool [n, n_labels].
        right: whether its answer is right, of several labels exactly its own, bool [n].
        confidence, came: a probability, and whether it came true, [n, 1]; of several labels those
            of each label, [n, n_labels].
        labels: their names.
        recalled: indices of labels whose recall is asked about.
        selected: likewise how often they are given; of two labels a text has one of, one says
            both.
    """

    has: np.ndarray
    given: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    came: np.ndarray
    labels: list[str]
    recalled: list[int]
    selected: list[int]


def compare_groups(
    values: pd.Series,
    truth: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    labels: list[str],
    rare_by: np.ndarray | None = None,
    thresholds: dict[str, float] | None = None,
) -> dict:
    """Each group's numbers, how they differ from those of all other texts, and the largest gaps.

    A number is judged where the group and the others have FEWEST texts for it. All p-values of the
    column are adjusted together (Holm 1979).

    Args:
        values: of the column, strings, [n]; "" is a group too.
        truth, predicted: [n] class indices; of several labels [n, n_labels].
        probabilities: [n, n_labels].
        labels: their names.
        rare_by: as truth, of other texts: of two labels, the share given the one that is rarer
            there is asked about; None: in truth.
        thresholds: group -> the threshold that its answers were given by.

    Returns:
        column; fewest; n_questions; labels (those asked about) and selected (of whose selection
        rate); said (what was found, sentences); groups, the largest first: group, n, judged,
        accuracy, recall and selection_rate {label: number}, confidence_less_accuracy,
        expected_calibration_error (of the most probable label; of several labels, of all labels
        together) with _by_chance, and perhaps threshold; gaps, and where some groups are too
        small gaps_of_judged, as `_gaps` has them. A number is {n, value, ci95, difference,
        difference_ci95, p_value, p_adjusted}: the last four against all other texts, None where
        nothing can be said. The accuracy of several labels is subset accuracy.
    """
    answers = _answers_of(truth, predicted, probabilities, labels, rare_by)
    of, names, n_merged = _groups_of(values)
    n_texts = np.bincount(of, minlength=len(names))
    judged = (n_texts >= FEWEST) & (len(values) - n_texts >= FEWEST)
    judged[len(names) - bool(n_merged) :] = False  # no group, but many small ones together
    sizes = zip(names, n_texts.tolist(), judged.tolist(), strict=True)
    groups = [{"group": name, "n": n, "judged": can} for name, n, can in sizes]
    _write_numbers(groups, answers, of, judged)
    n_questions = _adjust(groups)
    for index, group in enumerate(groups):
        group |= _calibration(answers, of == index)
        if thresholds and group["group"] in thresholds:
            group["threshold"] = thresholds[group["group"]]
    found = {
        "column": str(values.name),
        "fewest": FEWEST,
        "n_questions": n_questions,
        "labels": [labels[i] for i in answers.recalled],
        "selected": [labels[i] for i in answers.selected],
        "groups": groups,
        "gaps": _gaps(answers, of, names, np.ones(len(names), bool)),
    }
    if 2 <= judged.sum() < len(names):
        found["gaps_of_judged"] = _gaps(answers, of, names, judged)
    return found | {"said": describe_groups(found, len(labels), n_merged)}


def _answers_of(
    truth: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    labels: list[str],
    rare_by: np.ndarray | None,
) -> _Answers:
    several, each = truth.ndim == 2, np.arange(len(labels))
    has = truth > 0 if several else truth[:, None] == each
    given = predicted > 0 if several else predicted[:, None] == each
    commonest = np.argsort(-has.sum(axis=0), kind="stable")[:MAX_LABELS]
    asked = sorted(commonest.tolist())
    selected = asked
    if not several and len(labels) == 2:
        counted = truth if rare_by is None else rare_by
        selected = [int(np.bincount(counted, minlength=2).argmin())]
    if several:
        confidence, came = probabilities, has
    else:
        confidence = probabilities.max(axis=1, keepdims=True)
        came = (probabilities.argmax(axis=1) == truth)[:, None]
    right = (has == given).all(axis=1)
    return _Answers(has, given, right, confidence, came, labels, asked, selected)


def _groups_of(values: pd.Series) -> tuple[np.ndarray, list[str], int]:
    """The index of each text's group, the groups' names, and how many values share the last."""
    cells = values.fillna("").astype(str).str.strip()
    counts = cells.value_counts().rename_axis("value").reset_index()
    names = counts.sort_values(["count", "value"], ascending=[False, True])["value"].tolist()
    of = pd.Index(names).get_indexer(cells)
    shown = [name or Message("(none)") for name in names]
    if len(names) <= MAX_GROUPS:
        return of, shown, 0
    last = MAX_GROUPS - 1
    n_merged = len(names) - last
    others = Message("{n:,} others", n=n_merged)
    return np.minimum(of, last), [*shown[:last], others], n_merged


def _shares(answers: _Answers) -> Iterator[tuple[str, int | None, np.ndarray, np.ndarray]]:
    """Each share that is asked about: kind, label, which texts count and among which, bool [n]."""
    everywhere = np.ones(len(answers.right), bool)
    yield "accuracy", None, answers.right, everywhere
    for label in answers.recalled:
        has = answers.has[:, label]
        yield "recall", label, answers.given[:, label] & has, has
    for label in answers.selected:
        yield "selection_rate", label, answers.given[:, label], everywhere


def _write_numbers(
    groups: list[dict], answers: _Answers, of: np.ndarray, judged: np.ndarray
) -> None:
    """Write each share that is asked about into the groups."""
    for group in groups:
        group |= {"accuracy": {}, "recall": {}, "selection_rate": {}}
    for kind, label, hits, among in _shares(answers):
        numbers = _numbers(hits, among, of, judged)
        for group, number in zip(groups, numbers, strict=True):
            if label is None:
                group[kind] = number
            else:
                group[kind][answers.labels[label]] = number


def _counts(
    hits: np.ndarray, among: np.ndarray, of: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many texts count in each group, and among how many."""
    return tuple(np.bincount(of[mask], minlength=n_groups) for mask in (hits & among, among))


def _numbers(
    hits: np.ndarray, among: np.ndarray, of: np.ndarray, judged: np.ndarray
) -> list[dict]:
    """A share in each group, and against all other texts. judged: which groups are, [n_groups]."""
    counts, sizes = _counts(hits, among, of, len(judged))
    numbers = []
    for count, n, can in zip(counts.tolist(), sizes.tolist(), judged, strict=True):
        other, other_n = int(counts.sum()) - count, int(sizes.sum()) - n
        number = dict.fromkeys(("value", "ci95", "difference", "difference_ci95"))
        if n:
            number |= {"value": count / n, "ci95": list(accuracy_interval(count, n))}
        if n and other_n:
            interval = shares_interval(count, n, other, other_n)
            number |= {"difference": count / n - other / other_n, "difference_ci95": [*interval]}
        p_value = None
        if can and min(n, other_n) >= FEWEST:
            table = np.array([[count, n - count], [other, other_n - other]])
            p_value = same_shares(table)
        numbers.append({"n": n, **number, "p_value": p_value, "p_adjusted": None})
    return numbers


def _adjust(groups: list[dict]) -> int:
    """Write Holm's p-values into the numbers; how many questions they are of."""
    # Of two groups each is all the others of the other: one question.
    asked = groups[:1] if len(groups) == 2 else groups
    numbers = [number for group in asked for _, _, number in numbers_of(group)]
    numbers = [number for number in numbers if number["p_value"] is not None]
    adjusted = adjust_holm([number["p_value"] for number in numbers])
    for number, p_value in zip(numbers, adjusted, strict=True):
        number["p_adjusted"] = p_value
    if len(groups) == 2:
        pairs = zip(*map(numbers_of, groups), strict=True)
        for (_, _, number), (_, _, mirrored) in pairs:
            mirrored["p_adjusted"] = number["p_adjusted"]
    return len(numbers)


def _calibration(answers: _Answers, members: np.ndarray) -> dict:
    """How far a group's confidence and accuracy lie apart."""
    confidence, came = answers.confidence[members].astype(float), answers.came[members]
    surplus = float(confidence.mean() - came.mean())
    if confidence.shape[1] == 1:
        low, high = accuracy_interval(int(came.sum()), len(came))
        interval = [float(confidence.mean()) - high, float(confidence.mean()) - low]
    else:
        # The labels of a text are no independent ones: its mean counts once.
        each = (confidence - came).mean(axis=1)
        half = Z_95 * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else None
        interval = None if half is None else [float(surplus - half), float(surplus + half)]
    bins = bin_outcomes(confidence.ravel(), came.ravel())
    return {
        "confidence_less_accuracy": {"value": surplus, "ci95": interval},
        "expected_calibration_error": calibration_error(bins),
        "expected_calibration_error_by_chance": calibration_error_by_chance(
            confidence.reshape(-1, 1)
        ),
    }


# ------------------------------------------------------------------------------------------- gaps
def _gaps(answers: _Answers, of: np.ndarray, names: list[str], members: np.ndarray) -> list[dict]:
    """The largest differences between two groups, those of `members`, bool [n_groups], alone.

    Returns:
        One {measure, label, difference, by_chance, lowest, highest, rate} each:
        accuracy_difference, and for the labels asked about demographic_parity_difference (of
        selection rates) and equalized_odds_difference (the larger one of recall and of the false
        positive rate, which rate says). lowest and highest are the groups. 95 of 100 times that
        texts are dealt to groups of these sizes by chance, the difference is at most by_chance.
        Groups without a text that a rate is of are left out; fairlearn counts them as 0. None
        where fewer than two groups are left.
    """
    inside = members[of]

    def gap(measure: str, label: int | None, **rates: tuple[np.ndarray, np.ndarray]) -> dict:
        found = {"measure": measure, "label": None if label is None else answers.labels[label]}
        return found | _gap(
            {name: _counts(*rate, of, len(names)) for name, rate in rates.items()}, names
        )

    gaps = [gap("accuracy_difference", None, accuracy=(answers.right, inside))]
    for label in answers.selected:
        rate = answers.given[:, label], inside
        gaps.append(gap("demographic_parity_difference", label, selection_rate=rate))
    # Of two labels, the recall of one is what the false positive rate of the other lacks of 1.
    for label in answers.recalled if len(answers.selected) > 1 else answers.selected:
        has, given = answers.has[:, label], answers.given[:, label]
        rates = {"recall": (given, has & inside), "false_positive_rate": (given, ~has & inside)}
        gaps.append(gap("equalized_odds_difference", label, **rates))
    return gaps


def _gap(rates: dict[str, tuple[np.ndarray, np.ndarray]], names: list[str]) -> dict:
    """The largest difference of any of the rates, each (counts, sizes), [n_groups] both."""
    generator = np.random.default_rng(0)
    largest, drawn = None, np.zeros(RESAMPLES)
    for name, (counts, sizes) in rates.items():
        there = np.flatnonzero(sizes)
        if len(there) < 2:
            continue
        shares = counts[there] / sizes[there]
        found = {
            "difference": float(np.ptp(shares)),
            "lowest": names[there[shares.argmin()]],
            "highest": names[there[shares.argmax()]],
            "rate": name,
        }
        if largest is None or found["difference"] > largest["difference"]:
            largest = found
        dealt = generator.multivariate_hypergeometric(
            sizes[there], int(counts.sum()), size=RESAMPLES, method="marginals"
        )
        drawn = np.maximum(drawn, np.ptp(dealt / sizes[there], axis=1))
    if largest is None:
        return dict.fromkeys(("difference", "lowest", "highest", "rate", "by_chance"))
    return largest | {"by_chance": float(np.quantile(drawn, 0.95))}
