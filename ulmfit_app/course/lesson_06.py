"""Notebook 06, can we trust it: a classifier's scores, and what its promises are worth; checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner, Metric

from ulmfit_app.course import Verdict, check_number, compare_intervals, judge, lesson_05
from ulmfit_app.course.promises import Outcome, find_lowest
from ulmfit_app.evaluation.calibration import (
    answered,
    calibration_error_by_chance,
    fit_temperature,
    risk_coverage,
    tempered,
    threshold_for,
)
from ulmfit_app.evaluation.metrics import (
    accuracy_interval,
    calibration_bins,
    calibration_scores,
    expected_calibration_error,
)
from ulmfit_app.evaluation.slices import slices
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.inference.explanation import Method, explain
from ulmfit_app.inference.predictor import Predictor


# --------------------------------------------------------------------------- what is questioned
@dataclass(frozen=True)
class ScoredSplit:
    """What a classifier predicts for n labelled texts.

    Attributes:
        texts: [n].
        truth: the index of each one's label, int [n].
        labels: their names.
        probabilities: at temperature 1, float64 [n, n_labels].
    """

    texts: pd.Series
    truth: np.ndarray
    labels: list[str]
    probabilities: np.ndarray

    def tabulate(self, probabilities: np.ndarray | None = None) -> pd.DataFrame:
        """The predictions as a table.

        Args:
            probabilities: others in place of the split's own, [n, n_labels].

        Returns:
            One row per text: text, label, predicted, confidence, and `p_<label>` for each label.
        """
        found = self.probabilities if probabilities is None else probabilities
        table = prediction_table(self.texts, found, self.labels)
        table.insert(1, "label", [self.labels[i] for i in self.truth])
        return table


class _CalibrationError(Metric):
    """The expected calibration error on the validation texts, after each epoch."""

    name = "calibration_error"

    def reset(self) -> None:
        self._probabilities, self._truth = [], []

    def accumulate(self, learn: Learner) -> None:
        self._probabilities.append(learn.pred.detach().double().softmax(1).cpu())
        self._truth.append(learn.y.cpu())

    @property
    def value(self) -> float:
        return expected_calibration_error(
            torch.cat(self._probabilities).numpy(), torch.cat(self._truth).numpy()
        )


class CalibrationLab(lesson_05.ClassifierLab):
    """The lab of notebook 05, which watches the calibration error on validation instead."""

    def score_split(self, classifier: lesson_05.TrainedClassifier, split: str) -> ScoredSplit:
        """What a classifier predicts for the texts of a split."""
        texts, truth = self.find_part(split)
        (probabilities,) = Predictor(classifier.folder).each(self.store, texts).values()
        shown = self.corpus.table["text"][self.rows["row"][texts]].reset_index(drop=True)
        return ScoredSplit(shown, truth, self.corpus.labels, probabilities)

    def _watch(self) -> Metric:
        return _CalibrationError()


# -------------------------------------------------------------------- what an explanation is worth
def delete_words(
    predictor: Predictor, texts: Sequence[str], n_words: int, seed: int = 0
) -> pd.DataFrame:
    """How far the probability of the predicted label falls when words are deleted from each text.

    Deleted are the words that speak most for the label, by either method, and random ones.

    Args:
        predictor: the classifier, in fp32.
        texts: the texts.
        n_words: words to delete from each.
        seed: of the random words.

    Returns:
        One row per way to choose the words: deleted, n, mean fall (of the probability), other
        labels (how many texts then get another one).

    Raises:
        SettingError: as in `explain`.
    """
    generator = np.random.default_rng(seed)
    before = predictor.probabilities(predictor.store(texts))
    label, each = before.argmax(axis=1), np.arange(len(texts))
    methods: dict[str, Method | None] = {
        "named by occlusion": "occlusion",
        "named by gradient": "gradient",
        "random": None,
    }
    rows = []
    for name, method in methods.items():
        shorter = []
        for text in texts:
            words = explain(predictor, text, method or "gradient").words
            order = (
                generator.permutation(len(words))
                if method is None
                else np.argsort(-words["score"], kind="stable")
            )
            shorter.append(_cut_out(text, words.iloc[order[:n_words]]))
        after = predictor.probabilities(predictor.store(shorter))
        fall = before[each, label] - after[each, label]
        other = int((after.argmax(axis=1) != label).sum())
        rows.append(
            {"deleted": name, "n": len(texts), "mean fall": fall.mean(), "other labels": other}
        )
    return pd.DataFrame(rows)


def _cut_out(text: str, words: pd.DataFrame) -> str:
    for word in words.sort_values("start", ascending=False).itertuples():
        text = text[: word.start] + text[word.stop :]
    return text


# --------------------------------------------------------------------- tables for the notebook
def tabulate_accuracies(of: ScoredSplit, sizes: Sequence[int]) -> pd.DataFrame:
    """The accuracy on the first texts, one row per size: n, accuracy, low, high (95 %)."""
    right, rows = of.probabilities.argmax(axis=1) == of.truth, []
    for size in sizes:
        n = min(size, len(right))
        low, high = accuracy_interval(int(right[:n].sum()), n)
        rows.append({"n": n, "accuracy": right[:n].mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def compare_accuracies(of: dict[str, ScoredSplit]) -> str:
    """Whether the accuracies of classifiers can be told apart by their intervals.

    Args:
        of: name -> what the classifier predicts.

    Returns:
        A sentence per pair.
    """
    rows = [
        tabulate_accuracies(one, [len(one.truth)]).assign(what=name) for name, one in of.items()
    ]
    return compare_intervals(pd.concat(rows))


def tabulate_recalls(scores: dict) -> pd.DataFrame:
    """The recall of each label: what, recall, low, high (95 %); scores as metrics.score's."""
    rows = [
        (f"recall of {label}", one["recall"], *one["recall_ci95"])
        for label, one in scores["per_class"].items()
    ]
    return pd.DataFrame(rows, columns=["what", "recall", "low", "high"])


def compare_calibration(test: ScoredSplit, temperature: float) -> pd.DataFrame:
    """Scores before (temperature 1) and after a temperature.

    Args:
        test: the split to score.
        temperature: divides the logits.

    Returns:
        Rows accuracy, log loss (nats), Brier score, calibration error and what chance gives of
        that; columns before and after.
    """
    named = {
        "accuracy": "accuracy",
        "log_loss": "log loss",
        "brier_score": "Brier score",
        "expected_calibration_error": "calibration error",
        "by_chance": "by chance alone, at most",
    }
    columns = {}
    for name, probabilities in {
        "before": test.probabilities,
        "after": tempered(test.probabilities, temperature),
    }.items():
        accuracy = (probabilities.argmax(axis=1) == test.truth).mean()
        scores = {"accuracy": accuracy} | calibration_scores(probabilities, test.truth)
        scores["by_chance"] = calibration_error_by_chance(probabilities)
        columns[name] = scores
    return pd.DataFrame(columns).loc[list(named)].rename(index=named)


def judge_confidence(of: ScoredSplit, probabilities: np.ndarray | None = None) -> str:
    """Whether a classifier is more or less confident than it is right, in a sentence.

    Args:
        of: the texts.
        probabilities: others in place of the split's own, [n, n_labels].

    Returns:
        The mean confidence beside the accuracy, the calibration error beside what chance gives of
        it, and what follows.
    """
    found = of.probabilities if probabilities is None else probabilities
    confidence, accuracy = found.max(axis=1).mean(), (found.argmax(axis=1) == of.truth).mean()
    error = expected_calibration_error(found, of.truth)
    chance = calibration_error_by_chance(found)
    verdict = "no more than chance can make"
    if error > chance:
        side = "over" if confidence > accuracy else "under"
        verdict = f"more than chance makes, and on the whole it is {side}confident"
    return (
        f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%}\n"
        f"calibration error {error:.1%}, by chance up to {chance:.1%}: {verdict}"
    )


def compare_ends(parts: pd.DataFrame) -> str:
    """Whether the accuracies of the first and the last part can be told apart, kind by kind.

    Args:
        parts: as `tabulate_parts` gives them.

    Returns:
        A line per kind of part.
    """
    lines = []
    for by, of in parts.groupby("by", sort=False):
        names = by + " " + of["part"]
        lines.append(compare_intervals(of.assign(what=names).iloc[[0, -1]]))
    return "\n".join(lines)


def choose_thresholds(valid: Outcome, test: Outcome, errors: Sequence[float]) -> list[dict]:
    """Thresholds on the confidence, chosen on validation and tried on test.

    Args:
        valid: the texts that choose.
        test: the texts to try on.
        errors: the shares of wrong answers that are wanted at most.

    Returns:
        One entry per error that can be promised, as figures.risk_coverage_figure takes them.
    """
    curve = risk_coverage(*valid)
    found = [{"wanted_error": error, "threshold": threshold_for(error, curve)} for error in errors]
    return [
        one | {"test": answered(*test, one["threshold"])}
        for one in found
        if one["threshold"] is not None
    ]


def tabulate_parts(test: ScoredSplit, probabilities: np.ndarray) -> pd.DataFrame:
    """The accuracy by length and by confidence: by, part, n, accuracy, low, high (95 %)."""
    found, _ = slices(test.tabulate(probabilities), probabilities, test.truth)
    rows = [
        (one["by"], part["part"], part["n"], part["accuracy"], *part["accuracy_ci95"])
        for one in found
        for part in one["parts"]
    ]
    return pd.DataFrame(rows, columns=["by", "part", "n", "accuracy", "low", "high"])


# --------------------------------------------------------------------------------- the exercises
def check_error(answer: float | EllipsisType, of: ScoredSplit, n_bins: int) -> Verdict:
    """Exercise 1: the expected calibration error over bins of equal width, by hand."""
    if verdict := check_number(answer):
        return verdict
    right = expected_calibration_error(of.probabilities, of.truth, n_bins)
    bins = calibration_bins(of.probabilities, of.truth, n_bins).query("n > 0")
    distance, n = bins["confidence"] - bins["accuracy"], bins["n"]

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-4 <= abs(answer - right))

    signed, summed = abs((distance * n).sum() / n.sum()), (distance.abs() * n).sum()
    return judge(
        {
            "this is the mean over bins as if all had the same number of texts. Weight each by "
            "its n.": is_instead(distance.abs().mean()),
            "overconfident and underconfident bins cancel each other here. Take each distance "
            "without its sign.": is_instead(signed),
            "this is the largest distance of all bins. The question is about the "
            "mean.": is_instead(distance.abs().max()),
            "this is a sum over texts. Divide by their number.": is_instead(summed),
            f"{answer:.4g} is not the mean of |confidence - accuracy| over bins, weighted by "
            "n.": abs(answer - right) >= 1e-4,
        },
        f"{right:.1%}: on average over {len(of.truth):,} texts, this is the distance between "
        "confidence and accuracy.",
    )


def check_temperature(
    answer: float | EllipsisType, valid: ScoredSplit, test: ScoredSplit
) -> Verdict:
    """Exercise 2: the temperature of a classifier that will be judged on `test`."""
    if verdict := check_number(answer):
        return verdict
    right, of_test = (fit_temperature(one.probabilities, one.truth)[0] for one in (valid, test))

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer / mistake - 1) < 5e-3 <= abs(answer / right - 1))

    return judge(
        {
            "a temperature is above 0.": answer <= 0,
            "this one was fitted on the texts that the classifier will be judged on. Which other "
            "split has labels?": is_instead(of_test),
            "logits would be multiplied by this. They are divided by the temperature.": is_instead(
                1 / right
            ),
            f"{answer:.3g} does not give the lowest log loss on validation.": abs(
                answer / right - 1
            )
            >= 5e-3,
        },
        f"logits divided by {right:.3g} have the lowest log loss on validation, and test was not "
        "looked at.",
    )


def check_threshold(
    answer: float | EllipsisType | None, valid: Outcome, test: Outcome, error: float
) -> Verdict:
    """Exercise 3: the confidence above which to answer, so that at most `error` is wrong.

    The answer may be None: that there is no such confidence.
    """
    if answer is not None and (verdict := check_number(answer)):
        return verdict
    curve, of_test = (risk_coverage(*one) for one in (valid, test))
    right = threshold_for(error, curve)

    def is_instead(mistake: float | None) -> bool:
        return _are_same(answer, mistake) and not _are_same(answer, right)

    said = "that there is none" if answer is None else f"{answer:.4g}"
    if right is None:
        praise = "no confidence can promise it on so few texts, and it is right to say so."
    else:
        of = answered(*test, right)
        praise = (
            f"above {right:.1%}, {of['coverage']:.0%} of the test texts are answered, and "
            f"{of['error'] or 0:.1%} of the answers are wrong."
        )
    return judge(
        {
            "this one was chosen on the texts that it will be judged on.": is_instead(
                threshold_for(error, of_test)
            ),
            "this is the lowest that fits the validation texts, and luck is in it. Count one "
            "wrong answer more than there are, as threshold_for does.": is_instead(
                find_lowest(error, curve)
            ),
            "this is a share of wrong answers, but a confidence is wanted.": is_instead(error),
            f"{said}: not what the rule gives on validation.": not _are_same(answer, right),
        },
        praise,
    )


def _are_same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) < 1e-6
