"""Checks of how many rows there are, of their labels, and of copies; each returns a finding."""

import numpy as np
import pandas as pd

from ulmfit_app.data.characters import escape
from ulmfit_app.data.corpus import find_overlaps
from ulmfit_app.data.described import NOTABLE, Described, count_share
from ulmfit_app.data.label_set_checks import LABEL_SET_CHECKS
from ulmfit_app.data.labels import (
    SEVERAL_LABELS,
    describe_combined,
    find_alike,
    find_combined,
    find_hidden,
)
from ulmfit_app.data.near_copies import ALIKE, RUN
from ulmfit_app.data.splits import SPLITS
from ulmfit_app.errors import quoted
from ulmfit_app.evaluation.baselines import FOLDS, out_of_fold
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.evaluation.metrics import accuracy_interval

# From where on a finding counts as trouble.
WIDE = 0.1  # width of the interval of an accuracy of 90 % in test
FEW = 20  # training texts of a class
LOPSIDED = 0.8  # of the test texts in one class
SHIFTED = 0.1  # between a class's shares of train and of test
SUSPECTED = 0.05  # of the labels of train


def _sizes(data: Described) -> Finding:
    sizes = (
        data.table.groupby("split")["tokens"].agg(["size", "sum"]).reindex(SPLITS, fill_value=0)
    )
    n = sizes["size"]
    low, high = accuracy_interval(round(0.9 * n["test"]), int(n["test"]))
    what = "All labels right for 90% of the texts" if data.multilabel else "An accuracy of 90%"
    found = (
        f"{n['train']:,} texts to train on, {n['valid']:,} to validate, {n['test']:,} to test, "
    )
    return Finding(
        "Sizes",
        found + f"{n['unlabelled']:,} unlabelled.",
        f"{what} in test will stand with the 95% interval {low:.1%} to {high:.1%}, "
        "within which nothing can be told apart.",
        f"Label more texts, or hold more out where the split is made: {data.go_on} --test-share "
        "0.4",
        high - low > WIDE,
        pd.DataFrame(
            {
                "split": SPLITS,
                "texts": n.map("{:,}".format),
                "tokens": sizes["sum"].map("{:,}".format),
            }
        ),
    )


def _classes(data: Described) -> Finding:
    counts = data.class_counts()
    shares = counts / counts.sum()
    top, rare = counts.index[0], counts.index[counts["train"] < FEW].tolist()
    shift = (shares["train"] - shares["test"]).abs()
    moved, lopsided = shift.idxmax(), shares["test"][top] >= LOPSIDED
    found = (
        f"{len(counts):,} classes, of {counts['train'].iloc[-1]:,} to "
        f"{counts['train'].iloc[0]:,} texts in train."
    )
    advice = []
    if rare:
        found += f" Under {FEW} have {escape(quoted(rare))}."
        advice.append(
            "Add texts of the smallest classes, or merge them: what is seen so rarely is hardly "
            "ever predicted."
        )
    if shift[moved] > SHIFTED:
        found += (
            f" {escape(quoted([moved]))} is {shares['train'][moved]:.1%} of train, but "
            f"{shares['test'][moved]:.1%} of test."
        )
        advice.append("Check that test is of the same kind as train.")
    if lopsided:
        advice.append(
            "Go by macro F1 in the report, not by accuracy; of the rare classes more are found "
            "with: --classifier.balance weights"
        )
    return Finding(
        "Classes",
        found,
        f"To say {escape(quoted([top]))} of every text is right on {shares['test'][top]:.1%} of "
        "test: that much has to be beaten.",
        " ".join(advice),
        bool(advice),
        counts.map("{:,}".format)
        .rename(escape)
        .reset_index()
        .rename(columns={"label": "class"})
        .rename_axis(columns=None),
    )


def _label_spelling(data: Described) -> Finding:
    each = data.each_label()
    n = each.value_counts()
    alike, hidden = find_alike(n.index), find_hidden(n.index)
    odd = [*(label for labels in alike for label in labels[1:]), *hidden]
    concerned = dict.fromkeys([*(label for labels in alike for label in labels), *hidden])
    suspected = each[each.isin(odd)]
    groups = "; ".join(escape(quoted(labels)) for labels in alike)
    return Finding(
        "Spelling of labels",
        "Labels that differ only in capitals, spaces, hidden characters or the writing of a "
        f"number: {groups or 'none'}. Labels with hidden characters: "
        f"{escape(quoted(hidden)) or 'none'}.",
        "Each spelling is a class of its own, so that answers count as wrong which are right.",
        data.mend("Spell each label in one way"),
        bool(odd),
        pd.DataFrame(
            [[escape(label), f"{n[label]:,}"] for label in concerned], columns=["label", "texts"]
        ),
        data.suspects(suspected.index, suspected.map(escape)),
    )


def _combined_labels(data: Described) -> Finding:
    n = data.each_label().value_counts()
    combined = find_combined(n.index)
    rows = data.table["label"].isin(combined)
    return Finding(
        "Several labels in one",
        describe_combined(n, combined) if combined else "No label looks like several in one.",
        "A classifier gives one class to a text: of a combination that it has not seen it knows "
        "nothing, and one part right counts as wrong.",
        SEVERAL_LABELS,
        bool(combined),
        pd.DataFrame(
            [[escape(label), f"{n[label]:,}"] for label in combined], columns=["label", "texts"]
        ),
        data.suspects(data.table.index[rows], data.table["label"][rows].map(escape)),
    )


def _contradictions(data: Described) -> Finding:
    table = data.labelled()
    exact, near = (table.groupby(by)["label"].transform("nunique") > 1 for by in ("copy", "near"))
    other, mend = "another label", "Settle which label is right"
    meaning = (
        "At most one of the labels is right: the other unteaches it in train, and costs an error "
        "in test."
    )
    if data.multilabel:
        other, mend = "other labels", "Settle which labels are right"
        meaning = "A label that one copy lacks is taught as absent there: often it was forgotten."
    return Finding(
        "Contradictory labels",
        f"{count_share(exact.sum(), len(table), 'labelled texts')} have {other} elsewhere, "
        f"and {(near & ~exact).sum():,} more have a near copy with {other}.",
        meaning,
        data.mend(mend),
        near.mean() >= NOTABLE,
        suspects=data.grouped(
            table.index[near], exact.reindex(data.table.index, fill_value=False)
        ),
    )


def _duplicates(data: Described) -> Finding:
    near, n = data.table["near"], len(data.table)
    exact, all_copies = n - data.table["copy"].nunique(), n - near.nunique()
    several = data.table.groupby("near")["copy"].transform("nunique") > 1
    beside, unit = ("case, signs and markup", "words")
    if data.in_subwords:
        beside, unit = "signs", "subwords"
    return Finding(
        "Duplicates",
        f"{count_share(exact, n)} repeat an earlier one word for word, and {all_copies - exact:,} "
        f"more nearly: but for {beside} they have {ALIKE:.0%} of their runs of {RUN} {unit} in "
        "common.",
        "What comes n times counts n times, in learning as in the score.",
        data.mend("Drop all but one of each group"),
        all_copies >= NOTABLE * n,
        suspects=data.grouped(data.table.index[near.duplicated(keep=False)], several),
    )


def _leaks(data: Described) -> Finding:
    lines, leaked = [], pd.Series(False, data.table.index)
    for (split, earlier, exact), (_, _, near) in zip(
        find_overlaps(data.table, "copy"), find_overlaps(data.table, "near"), strict=True
    ):
        lines.append(
            [
                f"{split} in {earlier}",
                f"{exact.sum():,}",
                f"{(near & ~exact).sum():,}",
                f"{near.mean():.1%}",
            ]
        )
        of_both = data.table["split"].isin((split, earlier))
        leaked |= of_both & data.table["near"].isin(data.table["near"][near.index[near]])
    shares = [float(line[-1].rstrip("%")) for line in lines]
    return Finding(
        "Leaks between splits",
        f"Of test, {lines[0][1]} texts are in train word for word, and {lines[0][2]} nearly; "
        "a split that is made keeps only the former together.",
        "They can be remembered, not understood: accuracy in test can come out up to "
        f"{shares[0]:.1f} points too high.",
        data.mend("Keep one of each group, or all of it in one split"),
        max(shares) >= 100 * NOTABLE,
        pd.DataFrame(lines, columns=["texts of", "word for word", "nearly", "share"]),
        data.grouped(data.table.index[leaked], leaked),
    )


def find_label_errors(data: Described, seed: int) -> Finding:
    """Labels of train that are probably wrong, by confident learning.

    Northcutt et al. 2021, J. Artif. Intell. Res. 70: what contradicts a label more than is usual.

    Args:
        data: texts and labels.
        seed: no text is judged by a model that learned from it; how they are parted depends on it.
    """
    from cleanlab.filter import find_label_issues

    train = data.table[data.table["split"] == "train"]
    # A class that not every fold can hold out would be improbable everywhere, and all its labels
    # suspect.
    judged = train[train.groupby("label")["near"].transform("nunique") >= FOLDS]
    skipped = sorted(set(train["label"]) - set(judged["label"]))
    truth, labels = pd.factorize(judged["label"], sort=True)
    rows, guesses = np.zeros(0, int), []
    if len(labels) > 1:
        groups, language = judged["near"].to_numpy(), data.tokens.language
        probabilities = out_of_fold(
            judged["text"].tolist(), truth, len(labels), groups, seed, language
        )
        rows = find_label_issues(
            truth, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        guesses = [
            f"probably {labels[of.argmax()]} ({of.max():.0%})" for of in probabilities[rows]
        ]
    found = "No label could be judged, which takes two classes that have enough texts."
    if len(labels) > 1:
        found = (
            f"{count_share(len(rows), len(judged), 'labels of train')} look wrong to cleanlab, by "
            "what TF-IDF with logistic regression says of each text after learning from the "
            f"others ({FOLDS} folds)."
        )
    if skipped:
        found += (
            f" Not judged, for they have under {FOLDS} different texts: {escape(quoted(skipped))}."
        )
    return Finding(
        "Suspected label errors",
        found,
        "A wrong label unteaches the right one. Some of these are right, and their texts hard: "
        "read them.",
        data.mend("Correct the labels that are wrong"),
        len(rows) > 0 and len(rows) >= SUSPECTED * len(judged),
        suspects=data.suspects(judged.index[rows], guesses),
    )


LABEL_CHECKS = (
    _sizes,
    _classes,
    _label_spelling,
    _combined_labels,
    _contradictions,
    _duplicates,
    _leaks,
)
# Where a text may have several labels, or none.
CHECKS_OF_SEVERAL = (
    _sizes,
    *LABEL_SET_CHECKS,
    _label_spelling,
    _contradictions,
    _duplicates,
    _leaks,
)
