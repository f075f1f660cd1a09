"""What an update gained on new texts and lost on old ones, beside its parent and a retraining."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.evaluation.tables import find_right

UPDATED, PARENT, RETRAINED = "updated", "parent", "retrained"
OLD, NEW = "old", "new"
# What the report's durations call the training of each.
DURATIONS = {
    UPDATED: "training of the update",
    PARENT: "training of its parent",
    RETRAINED: "training from the start",
}


def compare_update(
    answers: Mapping[str, pd.DataFrame], is_new: np.ndarray, multilabel: bool = False
) -> dict:
    """Accuracy on the old test split and on the new one, of an updated run and of others.

    Args:
        answers: UPDATED, PARENT and perhaps RETRAINED -> columns label and predicted, for the same
            n texts. A label that the parent does not know it never answers.
        is_new: which texts came with the update, bool [n].
        multilabel: whether these are sets of labels; a text then counts as right where its set is
            exactly that.

    Returns:
        {"old": scores, "new": scores}, without one that has no texts: n; for each name accuracy
        and accuracy_ci95; for each other than UPDATED, updated_against_it
        (metrics.paired_comparison). Then "forgetting": the parent's accuracy on old texts less
        that of the update, its interval, and its p-value; and, with a retraining that is better
        than the parent on new texts, "share_of_gain": of what it gains there, the share that the
        update gains.
    """
    right = {name: find_right(table, multilabel) for name, table in answers.items()}
    found: dict = {}
    for which, rows in ((OLD, ~is_new), (NEW, is_new)):
        if rows.any():
            found[which] = _scores({name: of[rows] for name, of in right.items()})
    if OLD in found:
        against = found[OLD][PARENT]["updated_against_it"]
        low, high = against["accuracy_difference_ci95"]
        found["forgetting"] = {
            "points": 100 * (0 - against["accuracy_difference"]),  # and not -0.0
            "points_ci95": [-100 * high, -100 * low],
            "lost": against["only_other_right"],
            "gained": against["only_first_right"],
            "p_value": against["p_value"],
        }
    if NEW in found and RETRAINED in answers:
        updated, parent, retrained = (
            found[NEW][name]["accuracy"] for name in (UPDATED, PARENT, RETRAINED)
        )
        if retrained > parent:
            found["share_of_gain"] = (updated - parent) / (retrained - parent)
    return found


def _scores(right: dict[str, np.ndarray]) -> dict:
    """right: for each name which texts are answered rightly, [n]."""
    own = right[UPDATED]
    found: dict = {"n": len(own)}
    for name, of in right.items():
        n_right = int(of.sum())
        found[name] = {
            "accuracy": n_right / len(of),
            "accuracy_ci95": list(accuracy_interval(n_right, len(of))),
        }
        if name != UPDATED:
            found[name]["updated_against_it"] = paired_comparison(own, of)
    return found
