"""Notebook 01, text and splits: a finished classifier, baselines, leaks, choosing on the test
split; exercise checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from types import EllipsisType
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.data.corpus import Corpus, find_overlaps
from ulmfit_app.data.inspection import Inspection
from ulmfit_app.data.near_copies import find_copies
from ulmfit_app.evaluation.baselines import majority, tfidf_logistic_regression
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import Run
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import tokenize


# ---------------------------------------------------------------------- the finished classifier
def shorten(settings: Settings) -> Settings:
    """Settings for a first look: about a minute of training, and half of the texts to test on.

    The language model is taken as it is, and the classifier learns for three epochs, all layers at
    once (the paper's table 7, "Full + discr").

    Args:
        settings: of the course.

    Returns:
        The same texts and the same start.
    """
    data = replace(settings.data, test_share=0.5)
    classifier = replace(settings.classifier, plan="full-discr", epochs=3)
    lm = replace(settings.lm, epochs=0)
    return replace(settings, data=data, lm=lm, classifier=classifier)


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same test texts. A notebook shows it as a table and a sentence.

    Attributes:
        scores: one row each: what, n, accuracy, low and high, its 95 % interval.
        paired: of the first against the other, what `paired_comparison` returns.
    """

    scores: pd.DataFrame
    paired: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.scores.to_string(index=False)}\n{self._tell_difference()}"

    def _repr_html_(self) -> str:
        difference = escape(self._tell_difference(), quote=False)
        return f"{self.scores.to_html(index=False)}<p>{difference}</p>"

    def _tell_difference(self) -> str:
        low, high = (100 * bound for bound in self.paired["accuracy_difference_ci95"])
        p_value = self.paired["p_value"]
        p = "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"
        return (
            f"Difference: {100 * self.paired['accuracy_difference']:+.1f} points, 95 % interval "
            f"from {low:+.1f} to {high:+.1f}. The first alone is right about "
            f"{self.paired['only_first_right']} texts, the other alone about "
            f"{self.paired['only_other_right']} (McNemar's test: {p})."
        )


def compare_with_counting(run: Run) -> Comparison:
    """Score a run's classifier on test, once, beside a baseline that learned from the same labels.

    Those are train's and valid's: the classifier learns from the former and keeps the epoch that
    is best on the latter. The baseline has no epochs, so that it can learn from both.

    Args:
        run: whose classifier is trained.

    Returns:
        The classifier and TF-IDF with logistic regression.
    """
    rows, (test, truth) = run.rows, run.labelled("test")
    probabilities = load_predictor(run.folder).probabilities(run.open_tokens(), test)
    known = rows[rows["split"].isin(("train", "valid"))]
    counted = tfidf_logistic_regression(
        known["text"].tolist(),
        run.corpus.truth(known["label"]),
        rows["text"][test].tolist(),
        len(run.corpus.labels),
        run.record.settings.seed,
    )
    right = {
        "language model + classifier": probabilities.argmax(axis=1) == truth,
        "counting words (TF-IDF)": counted.argmax(axis=1) == truth,
    }
    scores = pd.DataFrame([score_row(name, found) for name, found in right.items()])
    return Comparison(scores, paired_comparison(*right.values()))


# ------------------------------------------------------------------------------- texts and splits
def tabulate_findings(inspection: Inspection) -> pd.DataFrame:
    """What was checked and what was found, one row per check, trouble first.

    Args:
        inspection: what `inspect` returns.

    Returns:
        Columns check, verdict ("trouble" or "in order") and found.
    """
    rows = [
        (one.name, "trouble" if one.trouble else "in order", one.found)
        for one in inspection.findings
    ]
    return pd.DataFrame(rows, columns=["check", "verdict", "found"]).sort_values(
        "verdict", ascending=False, kind="stable", ignore_index=True
    )


def _part(corpus: Corpus, split: str) -> tuple[list[str], np.ndarray]:
    """The texts of a split, and the index of each one's label."""
    rows = corpus.table[corpus.table["split"] == split]
    return rows["text"].tolist(), corpus.truth(rows["label"])


def score_row(name: str, right: np.ndarray) -> dict[str, object]:
    """A row of a table of scores: what, n, accuracy, low, high (95 %); right is boolean [n]."""
    low, high = accuracy_interval(int(right.sum()), len(right))
    return {"what": name, "n": len(right), "accuracy": right.mean(), "low": low, "high": high}


def score_baselines(corpus: Corpus, split: str, seed: int = 0) -> pd.DataFrame:
    """The accuracy on a split of the two baselines that learn from train.

    Args:
        corpus: the texts.
        split: the one to score, "valid" or "test" as a rule.
        seed: of the logistic regression.

    Returns:
        One row per baseline: what, n, accuracy, and low and high, its 95 % interval.
    """
    (texts, truth), (other_texts, other_truth) = _part(corpus, "train"), _part(corpus, split)
    n_classes = len(corpus.labels)
    scored = {
        "the most common label": majority(truth, len(other_truth), n_classes),
        "TF-IDF + logistic regression": tfidf_logistic_regression(
            texts, truth, other_texts, n_classes, seed
        ),
    }
    return pd.DataFrame(
        [score_row(name, p.argmax(axis=1) == other_truth) for name, p in scored.items()]
    )


def score_by_copy(corpus: Corpus, seed: int = 0) -> pd.DataFrame:
    """The test accuracy of TF-IDF with logistic regression, by whether train has a copy of a text.

    Args:
        corpus: the texts.
        seed: of the logistic regression.

    Returns:
        One row for the whole split and one per group: what, n, accuracy, low, high (95 %).
    """
    (texts, truth), (test_texts, test_truth) = _part(corpus, "train"), _part(corpus, "test")
    p = tfidf_logistic_regression(texts, truth, test_texts, len(corpus.labels), seed)
    right = p.argmax(axis=1) == test_truth
    everything = corpus.table["text"].tolist()
    of, among = (corpus.table["split"].to_numpy() == split for split in ("test", "train"))
    copies = find_copies(TokenStore.open(tokenize(everything)), everything, of, among)
    groups = {
        "the whole test split": copies != "",
        "no copy in train": copies == "no",
        "a copy in train": copies != "no",
    }
    return pd.DataFrame(
        [score_row(name, right[group]) for name, group in groups.items() if group.any()]
    )


def train_candidates(corpus: Corpus, n: int, n_train: int = 100, seed: int = 0) -> np.ndarray:
    """Train classifiers that differ by chance alone, and see which texts of test each gets right.

    Args:
        corpus: the texts.
        n: number of classifiers, each TF-IDF with logistic regression.
        n_train: training texts per classifier, drawn anew for each.
        seed: of the draws.

    Returns:
        Boolean, [n, n_test].
    """
    (texts, truth), (test_texts, test_truth) = _part(corpus, "train"), _part(corpus, "test")
    generator = np.random.default_rng(seed)
    right = np.zeros((n, len(test_texts)), bool)
    for row in right:
        chosen = generator.permutation(len(texts))[:n_train]
        known = [texts[i] for i in chosen]
        p = tfidf_logistic_regression(known, truth[chosen], test_texts, len(corpus.labels), seed)
        row[:] = p.argmax(axis=1) == test_truth
    return right


def choose_often(
    right: np.ndarray, sizes: Sequence[int], draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Choose the best of several classifiers on some texts, and score it on the others, often.

    Args:
        right: whether a classifier is right about a text, [n_classifiers, n_texts].
        sizes: numbers of texts to choose on, each less than n_texts.
        draws: of these texts, by chance.
        seed: of the draws.

    Returns:
        One row per size, means over the draws: chosen on (the size), its score there, its score
        on the others (shares), and points too many (the first score less the second).
    """
    generator = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        scores = np.zeros((draws, 2))
        for draw in scores:
            order = generator.permutation(right.shape[1])
            few, others = order[:size], order[size:]
            best = right[right[:, few].mean(axis=1).argmax()]
            draw[:] = best[few].mean(), best[others].mean()
        there, on_others = scores.mean(axis=0)
        row = {"chosen on": size, "its score there": there, "its score on the others": on_others}
        rows.append(row | {"points too many": 100 * (there - on_others)})
    return pd.DataFrame(rows).round({"points too many": 1})


# --------------------------------------------------------------------------------- the exercises
def check_leaked(answer: int | EllipsisType, corpus: Corpus) -> Verdict:
    """Exercise 1: how many texts of test are also in train, word for word."""
    shared = next(
        mask
        for split, earlier, mask in find_overlaps(corpus.table)
        if (split, earlier) == ("test", "train")
    )
    train, test = (set(corpus.texts(split)) for split in ("train", "test"))
    n_shared, n_repeated = shared.sum(), corpus.table["text"].duplicated().sum()
    n_of_train = sum(text in test for text in corpus.texts("train"))
    return check_number(answer) or judge(
        {
            "these are the texts of train that are also in test. The question is the other way "
            "round: count rows of test.": answer == n_of_train != n_shared,
            "this counts every text that occurs more than once. Count only those that are in both "
            "parts.": answer == n_repeated != n_shared,
            f"{answer} is not the number of rows of test whose text is also the text of a row of "
            "train. The method isin of a column may help: "
            'test["text"].isin(train["text"]).': answer != n_shared,
        },
        f"{answer} of {len(shared)} test texts, {len(train & test)} of them different, can be "
        "answered from memory.",
    )


def check_cleaned(answer: pd.DataFrame | EllipsisType, corpus: Corpus) -> Verdict:
    """Exercise 2: the table with two labels, no contradiction in train, and no leak into train."""
    if verdict := check_answered(answer):
        return verdict
    columns = {"text", "label", "split"}
    if not isinstance(answer, pd.DataFrame) or not columns <= set(answer.columns):
        return Verdict(
            False,
            "expected a table with the columns text, label and split, as corpus.table has them.",
        )
    n_lost = len(corpus.texts("test")) - (answer["split"] == "test").sum()
    leaks = {
        f"{split} in {other}": int(shared.sum())
        for split, other, shared in find_overlaps(answer)
        if shared.any()
    }
    train = answer[answer["split"] == "train"]
    n_contradicted = train.groupby("text")["label"].nunique().gt(1).sum()
    spellings = set(answer["label"]) - set(corpus.table["label"].str.lower())
    by_case = bool(spellings or (answer["label"] != answer["label"].str.lower()).any())
    return judge(
        {
            f"{n_lost} rows of test are gone. Leave the test split as it is, and drop the copies "
            "from train.": n_lost > 0,
            "there are still labels that differ by case alone, or new ones: "
            f"{sorted(answer['label'].astype(str).unique())}.": by_case,
            f"some texts are still in two parts ({leaks}).": bool(leaks),
            f"{n_contradicted} texts of train still have two labels. No row of such a text can be "
            "trusted.": n_contradicted > 0,
            "more is gone than necessary: some texts of train that went were neither copies of "
            "held-out ones nor contradictory.": bool(_find_needlessly_lost(train, corpus)),
        },
        f"{len(answer)} of {len(corpus.table)} rows are left, and a score on them means what it "
        "says.",
    )


def _find_needlessly_lost(train: pd.DataFrame, corpus: Corpus) -> set[str]:
    """Texts of the corpus's train that need not go, and that a cleaned train part lacks."""
    held_out = set(corpus.texts("test")) | set(corpus.texts("valid"))
    gone = set(corpus.texts("train")) - held_out - set(train["text"])
    own = corpus.table[corpus.table["split"] == "train"].assign(
        label=corpus.table["label"].str.lower()
    )
    sure = own.groupby("text")["label"].transform("nunique").eq(1)
    return gone & set(own["text"][sure])


def check_enough(answer: int | EllipsisType, accuracy: float, width: float) -> Verdict:
    """Exercise 3: how many test texts narrow the 95 % interval to `width`, to within a tenth."""
    if verdict := check_number(answer, whole=True):
        return verdict
    if answer < 1:
        return Verdict(False, "expected a number of texts, from 1 on.")
    answer = int(answer)

    def find_width(n: float) -> float:
        low, high = accuracy_interval(round(accuracy * n), round(n))
        return high - low

    found = f"with {answer:,} texts the interval is {find_width(answer):.1%} wide"
    return judge(
        {
            f"{found}, more than {width:.0%}.": find_width(answer) > width,
            f"{found}. That is enough; but how few would do?": find_width(0.9 * answer) <= width,
        },
        f"{found}. Half the width would take four times the texts.",
    )
