"""Notebook 01, text and splits: baselines, leaks, choosing on the test split; exercise checks."""

from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.course import Verdict, check_answered, judge
from ulmfit_app.data.corpus import Corpus, find_overlaps
from ulmfit_app.data.inspection import Inspection
from ulmfit_app.data.near_copies import find_copies
from ulmfit_app.evaluation.baselines import majority, tfidf_logistic_regression
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import tokenize


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
        "verdict", ascending=False, kind="stable"
    )


def _part(corpus: Corpus, split: str) -> tuple[list[str], np.ndarray]:
    """The texts of a split, and the index of each one's label."""
    rows = corpus.table[corpus.table["split"] == split]
    return rows["text"].tolist(), corpus.truth(rows["label"])


def _row(name: str, right: np.ndarray) -> dict[str, object]:
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
        "the commonest class": majority(truth, len(other_truth), n_classes),
        "TF-IDF + logistic regression": tfidf_logistic_regression(
            texts, truth, other_texts, n_classes, seed
        ),
    }
    return pd.DataFrame(
        [_row(name, p.argmax(axis=1) == other_truth) for name, p in scored.items()]
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
        [_row(name, right[group]) for name, group in groups.items() if group.any()]
    )


def try_candidates(
    corpus: Corpus, n: int, n_train: int = 100, n_chosen_on: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Train classifiers that differ by chance alone, and score each on two parts of test.

    Args:
        corpus: the texts.
        n: number of classifiers, each TF-IDF with logistic regression.
        n_train: training texts per classifier, drawn anew for each.
        n_chosen_on: test texts in the first part, at most half of the split.
        seed: of the draws.

    Returns:
        One row per classifier: on_few and on_rest, the accuracies on the two parts.
    """
    (texts, truth), (test_texts, test_truth) = _part(corpus, "train"), _part(corpus, "test")
    few = min(n_chosen_on, len(test_texts) // 2)
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        chosen = generator.permutation(len(texts))[:n_train]
        known = [texts[i] for i in chosen]
        p = tfidf_logistic_regression(known, truth[chosen], test_texts, len(corpus.labels), seed)
        right = p.argmax(axis=1) == test_truth
        rows.append({"on_few": right[:few].mean(), "on_rest": right[few:].mean()})
    return pd.DataFrame(rows)


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
    return check_answered(answer) or judge(
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
            f"{sorted(set(answer['label']))}.": by_case,
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
    if verdict := check_answered(answer):
        return verdict

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
