"""Checks of labels where a text may have several, or none; each returns a finding."""

import numpy as np
import pandas as pd

from ulmfit_app.data.characters import escape
from ulmfit_app.data.described import Described, count_share
from ulmfit_app.errors import quoted
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.evaluation.tables import sets_to_truth

# From where on a finding counts as trouble.
FEW = 20  # training texts of a label
SHIFTED = 0.1  # between a label's shares of train and of test
WITHOUT = 0.5  # of the texts have none of the labels
EXPECTED = 5  # texts with two labels together, if neither said anything of the other
MOST_PAIRS = 10  # that are named


def check_labels(data: Described) -> Finding:
    """How many texts have each label, and in which share of the splits."""
    counts = data.class_counts()
    shares = counts / data.labelled()["split"].value_counts()[counts.columns]
    rare = counts.index[counts["train"] < FEW].tolist()
    shift = (shares["train"] - shares["test"]).abs()
    moved, top = shift.idxmax(), counts.index[0]
    found = (
        f"{len(counts):,} labels, of {counts['train'].iloc[-1]:,} to "
        f"{counts['train'].iloc[0]:,} texts in train."
    )
    advice = []
    if rare:
        found += f" Under {FEW} have {escape(quoted(rare))}."
        advice.append(
            "Add texts of the rarest labels, or merge them: what is seen so rarely is hardly ever "
            f"predicted. Or weigh them: {data.go_on} --classifier.balance weights"
        )
    if shift[moved] > SHIFTED:
        found += (
            f" {escape(quoted([moved]))} have {shares['train'][moved]:.1%} of train, but "
            f"{shares['test'][moved]:.1%} of test."
        )
        advice.append("Check that test is of the same kind as train.")
    return Finding(
        "Labels",
        found,
        f"To give every text {escape(quoted([top]))} alone finds that label in the "
        f"{shares['test'][top]:.1%} of test that have it, and no other: that much has to be "
        "beaten. Go by F1, not by the share of right answers: a rare label is absent from most "
        "texts.",
        " ".join(advice),
        bool(advice),
        counts.map("{:,}".format).rename(escape).reset_index().rename_axis(columns=None),
    )


def check_set_sizes(data: Described) -> Finding:
    """How many labels a text has."""
    has, split = _has_labels(data), data.labelled()["split"].to_numpy()
    sizes = has.sum(axis=1).astype(int)
    table = pd.crosstab(sizes, split).reindex(columns=["train", "valid", "test"], fill_value=0)
    n_none = int((sizes == 0).sum())
    without = n_none / len(sizes)
    different = len(np.unique(has, axis=0))
    return Finding(
        "Labels per text",
        f"{sizes.mean():.2f} labels per text on average, {sizes.max():,} at most; "
        f"{count_share(n_none, len(sizes), 'labelled texts')} have none. "
        f"{different:,} different sets.",
        "A text without labels teaches that each label is absent: right where somebody looked for "
        "all of them, wrong where nobody did.",
        f"Where they were not looked at, leave them out: {data.go_on} --without-label drop",
        without >= WITHOUT,
        table.map("{:,}".format)
        .rename_axis(index="labels", columns=None)
        .reset_index()
        .astype({"labels": str}),
    )


def check_pairs(data: Described) -> Finding:
    """Labels that always stand together, and that never do."""
    has, names = _has_labels(data).astype(int), np.array(data.labels, object)
    n, counts, both = len(has), has.sum(axis=0), has.T @ has
    lines, always, never = [], [], []
    for one in range(len(names)):
        for other in range(one + 1, len(names)):
            together, least = both[one, other], min(counts[one], counts[other])
            expected = counts[one] * counts[other] / n
            is_always = least >= FEW and together == least
            if not is_always and (together or expected < EXPECTED):
                continue
            (always if is_always else never).append((one, other))
            lines.append([one, other, together, expected, is_always])
    # The surest first: always before never, then by how many texts say so.
    lines.sort(key=lambda line: (not line[4], -max(line[2], line[3])))

    def listed(pairs: list[tuple[int, int]]) -> str:
        return (
            "; ".join(escape(quoted(names[list(pair)].tolist())) for pair in pairs[:3]) or "none"
        )

    return Finding(
        "Labels together",
        f"{len(always):,} pairs in which one label never stands without the other: "
        f"{listed(always)}. {len(never):,} that never stand together, though by chance "
        f"{EXPECTED} texts or more would have both: {listed(never)}.",
        "A label that another always brings along says nothing of its own. Labels that exclude "
        "each other may still be predicted together, for each is decided by itself.",
        "Leave out the label that another implies, if it is not wanted for itself; where all "
        "labels exclude each other, train with one label per text, without --multilabel.",
        bool(always),
        pd.DataFrame(
            [
                [escape(f"{names[a]} + {names[b]}"), f"{together:,}", f"{expected:.1f}"]
                for a, b, together, expected, _ in lines[:MOST_PAIRS]
            ],
            columns=["pair", "texts with both", "by chance"],
        ),
    )


def _has_labels(data: Described) -> np.ndarray:
    """Which labels each labelled text has, float32 [n, n_labels]."""
    return sets_to_truth(data.labelled()["label"], data.labels)


LABEL_SET_CHECKS = (check_labels, check_set_sizes, check_pairs)
LEFT_OUT = (
    "Left out, for a text may have several labels: whether a label looks like several in one, and "
    "whether one class outweighs all others."
)
