"""Notebook 01, text and splits: what baselines score, what choosing on the test split does; checks of its exercises."""

from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.course import Verdict, judged, unanswered
from ulmfit_app.data.corpus import Corpus, overlaps
from ulmfit_app.data.inspection import Inspection
from ulmfit_app.data.near_copies import copied
from ulmfit_app.evaluation.baselines import majority, tfidf_logistic_regression
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import tokenize


def findings_table(inspection: Inspection) -> pd.DataFrame:
    """What was looked for and what was found, a row a check, trouble first."""
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


def baselines(corpus: Corpus, split: str, seed: int = 0) -> pd.DataFrame:
    """What the two baselines that learned from train score on a split, with the 95 % interval.

    Columns what, n, accuracy, low, high.
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


def by_copy_in_train(corpus: Corpus, seed: int = 0) -> pd.DataFrame:
    """What TF-IDF with logistic regression scores on the test split, by whether train has a copy of the text.

    Columns what, n, accuracy, low, high.
    """
    (texts, truth), (test_texts, test_truth) = _part(corpus, "train"), _part(corpus, "test")
    right = (
        tfidf_logistic_regression(texts, truth, test_texts, len(corpus.labels), seed).argmax(
            axis=1
        )
        == test_truth
    )
    everything = corpus.table["text"].tolist()
    of, among = (corpus.table["split"].to_numpy() == split for split in ("test", "train"))
    copies = copied(TokenStore.open(tokenize(everything)), everything, of, among)
    groups = {
        "the whole test split": copies != "",
        "no copy in train": copies == "no",
        "a copy in train": copies != "no",
    }
    return pd.DataFrame(
        [_row(name, right[group]) for name, group in groups.items() if group.any()]
    )


def candidates(
    corpus: Corpus, n: int, n_train: int = 100, n_chosen_on: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Classifiers that differ by chance alone, each scored on a few test texts, and on the rest of the split.

    Each is TF-IDF with logistic regression from n_train other texts of train. n_chosen_on: the few, at most half the split.
    Returns a row a classifier: on_few, on_rest, accuracies.
    """
    (texts, truth), (test_texts, test_truth) = _part(corpus, "train"), _part(corpus, "test")
    few = min(n_chosen_on, len(test_texts) // 2)
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        chosen = generator.permutation(len(texts))[:n_train]
        known = [texts[i] for i in chosen]
        guesses = tfidf_logistic_regression(
            known, truth[chosen], test_texts, len(corpus.labels), seed
        ).argmax(axis=1)
        right = guesses == test_truth
        rows.append({"on_few": right[:few].mean(), "on_rest": right[few:].mean()})
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_leaked(answer: int | EllipsisType, corpus: Corpus) -> Verdict:
    """Exercise 1: how many texts of test stand in train, word for word."""
    shared = next(
        mask
        for split, earlier, mask in overlaps(corpus.table)
        if (split, earlier) == ("test", "train")
    )
    train, test = (set(corpus.texts(split)) for split in ("train", "test"))
    return unanswered(answer) or judged(
        {
            "these are texts of train that stand in test. Asked is the other way round: count rows of test.": (
                answer == sum(text in test for text in corpus.texts("train")) != shared.sum()
            ),
            "this counts every text that comes more than once. Only those count that stand in both parts.": (
                answer == corpus.table["text"].duplicated().sum() != shared.sum()
            ),
            f"{answer} is not the number of rows of test whose text is also the text of a row of train. "
            'The method isin of a column may help: test["text"].isin(train["text"]).': answer
            != shared.sum(),
        },
        f"{answer} of {len(shared)} test texts, and {len(train & test)} different ones, can be answered by memory.",
    )


def check_cleaned(answer: pd.DataFrame | EllipsisType, corpus: Corpus) -> Verdict:
    """Exercise 2: the table without what spoils it: two labels, no contradiction in train, no text of test in train."""
    if verdict := unanswered(answer):
        return verdict
    if not isinstance(answer, pd.DataFrame) or not {"text", "label", "split"} <= set(
        answer.columns
    ):
        return Verdict(
            False,
            "expected a table with the columns text, label and split, as corpus.table has them.",
        )
    lost = len(corpus.texts("test")) - (answer["split"] == "test").sum()
    leaks = {
        f"{split} in {other}": int(shared.sum())
        for split, other, shared in overlaps(answer)
        if shared.any()
    }
    train = answer[answer["split"] == "train"]
    contradicted = train.groupby("text")["label"].nunique().gt(1).sum()
    spellings = set(answer["label"]) - set(corpus.table["label"].str.lower())
    gone = (
        set(corpus.texts("train"))
        - set(corpus.texts("test"))
        - set(corpus.texts("valid"))
        - set(train["text"])
    )
    own = corpus.table[corpus.table["split"] == "train"].assign(
        label=corpus.table["label"].str.lower()
    )
    sure = own.groupby("text")["label"].transform("nunique").eq(1)
    return judged(
        {
            f"{lost} rows of test are gone. The test split stays as it is: drop the copies from train.": lost
            > 0,
            f"there are still labels that differ by case alone, or new ones: {sorted(set(answer['label']))}.": bool(
                spellings or (answer["label"] != answer["label"].str.lower()).any()
            ),
            f"texts still stand in two parts ({leaks}).": bool(leaks),
            f"{contradicted} texts of train still have two labels. Of such a text no row can be trusted.": contradicted
            > 0,
            "more is gone than had to go: some texts of train were neither copies of held-out ones nor contradictory.": bool(
                gone & set(own["text"][sure])
            ),
        },
        f"{len(answer)} of {len(corpus.table)} rows are left, and what is scored on them means what it says.",
    )


def check_enough(answer: int | EllipsisType, accuracy: float, width: float) -> Verdict:
    """Exercise 3: how many test texts give an accuracy a 95 % interval no wider than `width`, to a tenth."""
    if verdict := unanswered(answer):
        return verdict

    def wide(n: float) -> float:
        low, high = accuracy_interval(round(accuracy * n), round(n))
        return high - low

    return judged(
        {
            f"with {answer:,} texts the interval is {wide(answer):.1%} wide, more than {width:.0%}.": wide(
                answer
            )
            > width,
            f"with {answer:,} texts the interval is {wide(answer):.1%} wide. That is enough; but how few would do?": (
                wide(0.9 * answer) <= width
            ),
        },
        f"with {answer:,} texts the interval is {wide(answer):.1%} wide. Half the width would take four times the texts.",
    )
