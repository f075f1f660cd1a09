"""What an inspection says of groups: how many texts each has, and its commonest label."""

import pandas as pd

from ulmfit_app.data.characters import escape
from ulmfit_app.data.described import Described
from ulmfit_app.data.label_sets import each_label
from ulmfit_app.errors import quoted
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.evaluation.group_words import FEWEST

MOST_SHOWN = 30  # groups of a column, the largest first
NOTHING = "(none)"  # a text without a group


def check_groups_of(data: Described) -> list[Finding]:
    """A finding for each column of groups."""
    return [_check(data, name) for name in data.groups]


def _check(data: Described, name: str) -> Finding:
    values = data.groups[name].str.strip().replace("", NOTHING)
    n = pd.crosstab(values, data.table["split"]).reindex(columns=["train", "test"], fill_value=0)
    n = n.sort_values(["test", "train"], ascending=False, kind="stable")
    few = n.index[n["test"] < FEWEST].tolist()
    found = f"{len(n):,} groups in the column {escape(name)!r}, of {n['test'].min():,} to "
    found += f"{n['test'].max():,} texts in test."
    if few:
        found += f" Under {FEWEST} there have {len(few):,}: {escape(quoted(few))}."
    labels = data.labelled()["label"]
    labels = each_label(labels) if data.multilabel else labels
    rows = []
    for group, counts in n.head(MOST_SHOWN).iterrows():
        own = labels[labels.index.isin(values.index[values == group])]
        share = own.value_counts(normalize=True)
        commonest = f"{escape(share.index[0])} {share.iloc[0]:.0%}" if len(share) else ""
        rows.append([escape(group), *(f"{counts[split]:,}" for split in n), commonest])
    return Finding(
        f"Groups in {escape(name)}",
        found,
        "A run's report compares the groups; of one with few texts in test it cannot tell whether "
        "the classifier serves it worse.",
        f"Label more texts of the small groups, or hold more out: {data.go_on} --test-share 0.4",
        bool(few),
        pd.DataFrame(rows, columns=["group", *n, "commonest label"]),
    )
