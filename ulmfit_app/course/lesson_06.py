"""Notebook 06, can we trust it: what a classifier makes of labelled texts, what its promises are worth; checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner, Metric

from ulmfit_app.course import Verdict, judged, lesson_05, unanswered
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
from ulmfit_app.inference.explanation import Method, explain
from ulmfit_app.inference.predictor import Predictor, prediction_table

N_DRAWS = 200  # of texts to choose a threshold on
Scored = tuple[
    np.ndarray, np.ndarray
]  # probabilities [n, n_labels], and truth [n], the index of each text's label


# ---------------------------------------------------------------------------------------------------- what is to be judged
@dataclass(frozen=True)
class Judged:
    """What a classifier makes of n labelled texts.

    texts: [n]; truth: int [n], the index of each one's label; labels: the names; probabilities: float64 [n, n_labels], at
    temperature 1.
    """

    texts: pd.Series
    truth: np.ndarray
    labels: list[str]
    probabilities: np.ndarray

    def table(self, probabilities: np.ndarray | None = None) -> pd.DataFrame:
        """A row a text: text, label, predicted, confidence, and `p_<label>` each; None: of the probabilities as they are."""
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


class Bench(lesson_05.Bench):
    """The bench of notebook 05, which watches the calibration error on the validation texts instead."""

    def judge(self, classifier: lesson_05.Trained, split: str) -> Judged:
        """What a classifier makes of the texts of a split."""
        texts, truth = self.part(split)
        (probabilities,) = Predictor(classifier.folder).each(self.store, texts).values()
        shown = self.corpus.table["text"][self.rows["row"][texts]].reset_index(drop=True)
        return Judged(shown, truth, self.corpus.labels, probabilities)

    def _watched(self) -> Metric:
        return _CalibrationError()


# --------------------------------------------------------------------------------------------------- what promises are worth
def _lowest(error: float, curve: pd.DataFrame) -> float | None:
    """The lowest confidence from which on no more than a share of `error` of these very answers is wrong."""
    fitting = curve[curve["error"] <= error]
    return None if fitting.empty else float(fitting["threshold"].iloc[-1])


RULES: dict[str, Callable[[float, pd.DataFrame], float | None]] = {
    "the lowest that fits": _lowest,
    "as if one more were wrong": threshold_for,
}


def promises(
    probabilities: np.ndarray,
    truth: np.ndarray,
    error: float,
    n: int,
    rules: Sequence[str] = tuple(RULES),
    seed: int = 0,
) -> pd.DataFrame:
    """What a threshold on the confidence promises on the texts that chose it, and what it keeps on others.

    N_DRAWS times, n of the texts (half of them at most) are drawn, and a threshold is chosen on them by each rule, names of
    RULES, so that a share of `error` of the answers is wrong. Returns a row a rule: promised, the error among the texts that
    chose, where a threshold was found; kept, the error among the others, 0 where none is answered; broken, the share of
    draws in which that is above `error`; answered, the share of the others; none, the share of draws without a threshold.
    """
    n, rows = min(n, len(truth) // 2), []
    for name in rules:
        generator, found = np.random.default_rng(seed), []
        for _ in range(N_DRAWS):
            order = generator.permutation(len(truth))
            chosen, others = order[:n], order[n:]
            threshold = RULES[name](error, risk_coverage(probabilities[chosen], truth[chosen]))
            if threshold is None:
                found.append((np.nan, 0.0, 0.0))
            else:
                promised, kept = (
                    answered(probabilities[part], truth[part], threshold)
                    for part in (chosen, others)
                )
                found.append((promised["error"], kept["error"] or 0.0, kept["coverage"]))
        of = pd.DataFrame(found, columns=["promised", "kept", "answered"])
        means = {
            "promised": of["promised"].mean(),
            "kept": of["kept"].mean(),
            "broken": (of["kept"] > error).mean(),
        }
        rows.append(
            {"rule": name}
            | means
            | {"answered": of["answered"].mean(), "none": of["promised"].isna().mean()}
        )
    return pd.DataFrame(rows)


def deletions(
    predictor: Predictor, texts: Sequence[str], n_words: int, seed: int = 0
) -> pd.DataFrame:
    """How far the probability of the predicted label falls when words are deleted from each text.

    The words: the n_words that speak most for the label, by either method, and as many drawn at random. predictor: in fp32.
    Returns a row a way: deleted, n, mean_fall (of the probability), other_label (how many texts then get another one).
    Raises SettingError as `explain` does.
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
            shorter.append(_without(text, words.iloc[order[:n_words]]))
        after = predictor.probabilities(predictor.store(shorter))
        fall = before[each, label] - after[each, label]
        other = int((after.argmax(axis=1) != label).sum())
        rows.append(
            {"deleted": name, "n": len(texts), "mean_fall": fall.mean(), "other_label": other}
        )
    return pd.DataFrame(rows)


def _without(text: str, words: pd.DataFrame) -> str:
    for word in words.sort_values("start", ascending=False).itertuples():
        text = text[: word.start] + text[word.stop :]
    return text


# -------------------------------------------------------------------------------------------------- tables for the notebook
def accuracies(of: Judged, sizes: Sequence[int]) -> pd.DataFrame:
    """The accuracy on the first texts, as many as each of `sizes` says: n, accuracy, low, high (95 % interval)."""
    right, rows = of.probabilities.argmax(axis=1) == of.truth, []
    for size in sizes:
        n = min(size, len(right))
        low, high = accuracy_interval(int(right[:n].sum()), n)
        rows.append({"n": n, "accuracy": right[:n].mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def calibrated(test: Judged, temperature: float) -> pd.DataFrame:
    """Scores at temperature 1 and at another one, a column each: accuracy, log loss, Brier score, calibration error."""
    columns = {}
    for name, probabilities in {
        "before": test.probabilities,
        "after": tempered(test.probabilities, temperature),
    }.items():
        scores = {
            "accuracy": (probabilities.argmax(axis=1) == test.truth).mean()
        } | calibration_scores(probabilities, test.truth)
        scores["of it by chance, at most"] = calibration_error_by_chance(probabilities)
        columns[name] = scores
    kept = [
        "accuracy",
        "log_loss",
        "brier_score",
        "expected_calibration_error",
        "of it by chance, at most",
    ]
    return pd.DataFrame(columns).loc[kept]


def thresholds(valid: Scored, test: Scored, errors: Sequence[float]) -> list[dict]:
    """The confidences that are chosen on validation, so that at most these shares of the answers are wrong, and what each
    gives on test: as figures.risk_coverage_figure takes them."""
    curve = risk_coverage(*valid)
    found = [{"wanted_error": error, "threshold": threshold_for(error, curve)} for error in errors]
    return [
        one | {"test": answered(*test, one["threshold"])}
        for one in found
        if one["threshold"] is not None
    ]


def by_part(test: Judged, probabilities: np.ndarray) -> pd.DataFrame:
    """The accuracy by length and confidence: by, part, n, accuracy, low, high."""
    found, _ = slices(test.table(probabilities), probabilities, test.truth)
    rows = [
        (one["by"], part["part"], part["n"], part["accuracy"], *part["accuracy_ci95"])
        for one in found
        for part in one["parts"]
    ]
    return pd.DataFrame(rows, columns=["by", "part", "n", "accuracy", "low", "high"])


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_error(answer: float | EllipsisType, of: Judged, n_bins: int) -> Verdict:
    """Exercise 1: the expected calibration error over so many bins of equal width, by hand."""
    if verdict := unanswered(answer):
        return verdict
    right = expected_calibration_error(of.probabilities, of.truth, n_bins)
    bins = calibration_bins(of.probabilities, of.truth, n_bins).query("n > 0")
    distance = bins["confidence"] - bins["accuracy"]

    def found(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-4 <= abs(answer - right))

    return judged(
        {
            "this is the mean over bins as if each had as many texts. Weigh each by its n.": found(
                distance.abs().mean()
            ),
            "overconfident bins and underconfident ones cancel out here. Take each distance without its sign.": (
                found(abs((distance * bins["n"]).sum() / bins["n"].sum()))
            ),
            "this is the largest distance of all bins. Asked is the mean.": found(
                distance.abs().max()
            ),
            "this is a sum over texts. Divide by their number.": found(
                (distance.abs() * bins["n"]).sum()
            ),
            f"{answer:.4g} is not the mean of |confidence - accuracy| over bins, weighed by n.": abs(
                answer - right
            )
            >= 1e-4,
        },
        f"{right:.1%}: so far is the confidence from the accuracy, on average over {len(of.truth):,} texts.",
    )


def check_temperature(answer: float | EllipsisType, valid: Judged, test: Judged) -> Verdict:
    """Exercise 2: the temperature of a classifier that is going to be judged on `test`."""
    if verdict := unanswered(answer):
        return verdict
    right, of_test = (fit_temperature(one.probabilities, one.truth)[0] for one in (valid, test))

    def found(mistake: float) -> bool:
        return bool(abs(answer / mistake - 1) < 5e-3 <= abs(answer / right - 1))

    return judged(
        {
            "a temperature is above 0.": answer <= 0,
            "this one was fitted on the texts that it is to be judged on. Which other split has labels?": found(
                of_test
            ),
            "this is what logits would be multiplied by. They are divided by the temperature.": found(
                1 / right
            ),
            f"{answer:.3g} does not give the lowest log loss on validation.": abs(
                answer / right - 1
            )
            >= 5e-3,
        },
        f"logits divided by {right:.3g} have the lowest log loss on validation, and test has not been looked at.",
    )


def check_threshold(
    answer: float | EllipsisType | None, valid: Scored, test: Scored, error: float
) -> Verdict:
    """Exercise 3: from which confidence on to answer, so that a share of `error` of the answers is wrong.

    The answer may be None: that there is no such confidence.
    """
    if verdict := unanswered(answer):
        return verdict
    curve, of_test = (risk_coverage(*one) for one in (valid, test))
    right = threshold_for(error, curve)

    def found(mistake: float | None) -> bool:
        return _same(answer, mistake) and not _same(answer, right)

    said = "that there is none" if answer is None else f"{answer:.4g}"
    return judged(
        {
            "this one was chosen on the texts that it is going to be judged on.": found(threshold_for(error, of_test)),
            "this is the lowest that fits the validation texts, and luck is in it. Count one wrong answer more than there "
            "are, as threshold_for does.": found(_lowest(error, curve)),
            "this is a share of wrong answers, and asked is a confidence.": found(error),
            f"{said}: not what the rule gives on validation.": not _same(answer, right),
        },
        "no confidence assures it on these few texts, and to say so is right." if right is None
        else f"from {right:.1%} on, {answered(*test, right)['coverage']:.0%} of the test texts are answered, and "
        f"{answered(*test, right)['error'] or 0:.1%} of the answers are wrong.",
    )  # fmt: skip


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) < 1e-6
