"""Notebook 11, rare classes and several labels: tables of what is right, and what it costs; checks
of its exercises."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.course.rare_trials import Answers
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.metrics import (
    accuracy_interval,
    expected_calibration_error,
    macro_f1,
)
from ulmfit_app.evaluation.multilabel import score_sets
from ulmfit_app.evaluation.several_seeds import recalls
from ulmfit_app.evaluation.tables import spell_set
from ulmfit_app.evaluation.thresholds import choose_thresholds

RARE = 1  # the rare class's place among the labels, neg and pos


# ---------------------------------------------------------------------------- one label a text
def tabulate_answers(
    ways: Mapping[str, np.ndarray], truth: np.ndarray, labels: Sequence[str]
) -> pd.DataFrame:
    """What several ways get right on the same texts.

    Args:
        ways: name -> class indices that are answered, [n].
        truth: class indices [n].
        labels: their names.

    Returns:
        One row per way: accuracy with low and high (95 %), balanced accuracy, macro F1, the recall
        of each label, and the share of the texts that get the last one; from 0 to 1.
    """
    rows = []
    for name, predicted in ways.items():
        n_right = int((predicted == truth).sum())
        low, high = accuracy_interval(n_right, len(truth))
        of_labels = recalls(truth, predicted[:, None], len(labels))[0]
        row = {"way": name, "accuracy": n_right / len(truth), "low": low, "high": high}
        row |= {"balanced accuracy": of_labels.mean(), "macro F1": macro_f1(predicted, truth)}
        row |= {f"recall of {label}": of_labels[i] for i, label in enumerate(labels)}
        rows.append(row | {f"answers {labels[-1]}": (predicted == len(labels) - 1).mean()})
    return pd.DataFrame(rows).set_index("way")


def tabulate_calibration(ways: Mapping[str, Answers]) -> pd.DataFrame:
    """How probable the rare class is held, and how often it comes.

    Args:
        ways: name -> what its classifier made of the texts.

    Returns:
        Rows before and after the temperature of each way: way, temperature, mean probability of
        the rare class on test, its share of the texts, expected calibration error; from 0 to 1
        but for the temperature.
    """
    rows = []
    for name, found in ways.items():
        temperature = found.decide().temperature
        for t, probabilities in ((1.0, found.test), (temperature, found.calibrated)):
            row = {
                "way": name,
                "temperature": t,
                "mean probability": probabilities[:, RARE].mean(),
                "share": (found.test_truth == RARE).mean(),
                "calibration error": expected_calibration_error(probabilities, found.test_truth),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def trace_thresholds(found: Answers) -> pd.DataFrame:
    """Macro F1 by the probability from which on the rare class is answered.

    Returns:
        Columns validation and test, from 0 to 1; the index is the threshold.
    """
    decision, thresholds = found.decide(), np.round(np.arange(0.02, 0.96, 0.02), 2)
    parts = {
        "validation": (decision.calibrate(found.valid), found.valid_truth),
        "test": (decision.calibrate(found.test), found.test_truth),
    }
    lines = {
        name: [macro_f1((p[:, RARE] >= t).astype(int), truth) for t in thresholds]
        for name, (p, truth) in parts.items()
    }
    return pd.DataFrame(lines, index=pd.Index(thresholds, name="threshold"))


def tabulate_gains(ways: Mapping[str, Answers]) -> pd.DataFrame:
    """What thresholds gain on the texts that chose them, and on others.

    Returns:
        Rows for each way: at one half, at the best threshold on validation, and at the one that a
        run takes; columns threshold of the rare class, and macro F1 on validation and on test,
        from 0 to 1.
    """
    rows = []
    for name, found in ways.items():
        plain = found.decide()
        best = choose_thresholds(plain.calibrate(found.valid), found.valid_truth)
        decisions = {
            "one half": replace(plain, thresholds=(0.5, 0.5)),
            "best on validation": replace(plain, thresholds=tuple(best)),
            "a run's": found.decide(has_thresholds=True),
        }
        for at, decision in decisions.items():
            row = {"way": name, "at": at, "threshold": decision.thresholds[RARE]}
            for part, p, truth in (
                ("validation", found.valid, found.valid_truth),
                ("test", found.test, found.test_truth),
            ):
                row[part] = macro_f1(decision.answer(decision.calibrate(p)), truth)
            rows.append(row)
    return pd.DataFrame(rows).set_index(["way", "at"])


def tabulate_costs(
    decisions: Mapping[str, Decision], found: Answers, costs: Sequence[Sequence[float]]
) -> pd.DataFrame:
    """What the answers of several decisions cost on test.

    Args:
        decisions: name -> how probabilities become answers.
        found: of one classifier.
        costs: [n_labels][n_labels], rows: what is true, columns: what is answered.

    Returns:
        One row per decision: how often the rare class is missed and given in vain, and the cost
        per text.
    """
    rows = []
    for name, decision in decisions.items():
        answers, truth = decision.answer(found.calibrated), found.test_truth
        row = {
            "decision": name,
            "missed": int(((truth == RARE) & (answers != RARE)).sum()),
            "in vain": int(((truth != RARE) & (answers == RARE)).sum()),
            "cost per text": float(np.array(costs)[truth, answers].mean()),
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("decision")


# -------------------------------------------------------------------------- several labels a text
def show_sets(found: Answers, texts: Sequence[str], n: int) -> pd.DataFrame:
    """The first texts of test: their labels, and the probability of each label with their sum."""
    probabilities = found.calibrated[:n]
    table = pd.DataFrame(probabilities, columns=found.labels).round(2)
    names = np.array(found.labels, object)
    cells = [spell_set(names[has > 0]) for has in found.test_truth[:n]]
    table = table.assign(sum=probabilities.sum(axis=1).round(2))
    return pd.DataFrame({"text": list(texts)[:n], "labels": cells}).join(table)


def tabulate_sets(
    ways: Mapping[str, np.ndarray], truth: np.ndarray, labels: Sequence[str]
) -> pd.DataFrame:
    """How right several ways are where a text may have several labels.

    Args:
        ways: name -> which labels each text is given, bool [n, n_labels].
        truth: [n, n_labels].
        labels: their names.

    Returns:
        One row per way: micro F1, macro F1, subset accuracy, Hamming loss, and the F1 of each
        label; from 0 to 1.
    """
    rows = []
    for name, given in ways.items():
        scores = score_sets(given.astype(float), truth, list(labels), given)
        row = {
            "way": name,
            "micro F1": scores["micro_f1"],
            "macro F1": scores["macro_f1"],
            "subset accuracy": scores["subset_accuracy"],
            "Hamming loss": scores["hamming_loss"],
        }
        rows.append(row | {label: one["f1"] for label, one in scores["per_label"].items()})
    return pd.DataFrame(rows).set_index("way")


def tabulate_thresholds(found: Answers) -> pd.DataFrame:
    """Each label's own threshold, as a run takes it, and what it gains.

    Returns:
        One row per label: share (of the texts of test that have it), threshold, and on test its F1
        at one half and at its own threshold; from 0 to 1.
    """
    plain, own = found.decide(), found.decide(has_thresholds=True)
    table = {"share": found.test_truth.mean(axis=0), "threshold": own.thresholds}
    for decision, at in ((plain, "F1 at one half"), (own, "F1 at its own")):
        given = decision.answer(decision.calibrate(found.test)).astype(float)
        hits = 2 * (given * found.test_truth).sum(axis=0)
        table[at] = hits / np.maximum((given + found.test_truth).sum(axis=0), 1)
    return pd.DataFrame(table, index=pd.Index(found.labels, name="label"))


# --------------------------------------------------------------------------------- the exercises
def check_macro_f1(answer: float | EllipsisType, matrix: np.ndarray) -> Verdict:
    """Exercise 1: macro F1 by a confusion matrix, to a thousandth. matrix: rows are the truth."""
    if verdict := check_number(answer):
        return verdict
    matrix = np.asarray(matrix)
    hits, said, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    each = 2 * hits / (said + true)
    right = each.mean()

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-3 <= abs(answer - right))

    return judge(
        {
            "F1 is a share, between 0 and 1.": not 0 <= answer <= 1,
            "that is the accuracy, in which common labels count more.": is_instead(
                hits.sum() / matrix.sum()
            ),
            "that is the balanced accuracy, the mean of the recalls. F1 has the precision, too.": (
                is_instead((hits / true).mean())
            ),
            "that is the F1 of one label. The mean of both is asked for.": any(
                map(is_instead, each)
            ),
            "that is the mean weighted by the texts of each label; here each label counts the "
            "same.": is_instead(np.average(each, weights=true)),
            f"{answer:.4g} is not the mean of the labels' F1, each 2 * right / (given + true).": (
                abs(answer - right) >= 1e-3
            ),
        },
        f"{right:.3f}, the mean of {' and '.join(f'{one:.3f}' for one in each)}.",
    )


def check_threshold(answer: float | EllipsisType, missed: float, in_vain: float) -> Verdict:
    """Exercise 2: from which probability on a label is worth its risk, to a thousandth.

    Args:
        answer: the probability.
        missed: cost of missing the label.
        in_vain: cost of giving it in vain.
    """
    if verdict := check_number(answer):
        return verdict
    right = in_vain / (missed + in_vain)

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-3 <= abs(answer - right))

    return judge(
        {
            "a probability lies between 0 and 1.": not 0 <= answer <= 1,
            "that is the other way round: the dearer a miss, the lower the threshold.": is_instead(
                missed / (missed + in_vain)
            ),
            "that is the ratio of the costs. Set p * missed = (1 - p) * in_vain, and solve for "
            "p.": is_instead(in_vain / missed),
            "that is where both labels are equally likely, which is right for equal costs.": (
                is_instead(0.5)
            ),
            f"at {answer:.4g} giving the label and not giving it do not cost the same.": (
                abs(answer - right) >= 1e-3
            ),
        },
        f"{right:.3f}: there, {right:.3f} * {missed:g} = {1 - right:.3f} * {in_vain:g}.",
    )


def check_subset_accuracy(
    answer: float | EllipsisType, given: np.ndarray, truth: np.ndarray
) -> Verdict:
    """Exercise 3: the share of texts with exactly their labels, to a thousandth.

    Args:
        answer: the share.
        given, truth: which labels a text is given, and has, [n, n_labels].
    """
    if verdict := check_answered(answer) or check_number(answer):
        return verdict
    same = np.asarray(given).astype(bool) == np.asarray(truth).astype(bool)
    right = same.all(axis=1).mean()

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-3 <= abs(answer - right))

    return judge(
        {
            "a share lies between 0 and 1. `mean` counts the True and divides.": (
                not 0 <= answer <= 1
            ),
            "that is the share of right answers to text and label, 1 minus the Hamming loss. All "
            "labels of a text have to be right at once: `all(axis=1)`.": is_instead(same.mean()),
            "that is the Hamming loss, the share of wrong answers to text and label.": is_instead(
                1 - same.mean()
            ),
            "that counts texts with at least one right answer. `all`, not `any`.": is_instead(
                same.any(axis=1).mean()
            ),
            f"{answer:.4g} is not the share of texts whose labels are all right.": (
                abs(answer - right) >= 1e-3
            ),
        },
        f"{right:.1%} of the texts, where {same.mean():.1%} of the answers are right.",
    )
