"""Thresholds by group, for the same recall of a label in all groups.

Hardt et al. 2016, "Equality of Opportunity in Supervised Learning", section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 20  # validation texts of the label in a group: with fewer, its recall is a guess


@dataclass(frozen=True)
class ByGroup:
    """What the probability of one label has to reach in each group.

    A text of a group that has no threshold, or whose group is not known, is answered as without.

    Attributes:
        column: that says the groups.
        label: index of the label.
        thresholds: (group, threshold) pairs.
    """

    column: str
    label: int
    thresholds: tuple[tuple[str, float], ...]

    def check(self, n_labels: int) -> None:
        """Refuse numbers that are no thresholds of a label.

        Raises:
            ValueError: they cannot be.
        """
        if not 0 <= self.label < n_labels:
            raise ValueError(f"label {self.label} of {n_labels}")
        if not all(0 <= threshold <= 1 for _, threshold in self.thresholds):
            raise ValueError(f"thresholds {self.thresholds}")

    def answer(
        self, probabilities: np.ndarray, plain: np.ndarray, groups: Sequence[str]
    ) -> np.ndarray:
        """Answers by the threshold of each text's group.

        Args:
            probabilities: calibrated, [n, n_labels].
            plain: answers without groups, [n].
            groups: of the texts, [n].

        Returns:
            The label where its probability reaches the threshold, else the likeliest other one,
            int [n].

        >>> by = ByGroup("who", 1, (("a", 0.2),))
        >>> by.answer(np.array([[0.7, 0.3], [0.7, 0.3]]), np.array([0, 0]), ["a", "b"]).tolist()
        [1, 0]
        """
        others = probabilities.copy()
        others[:, self.label] = -1
        found, values = plain.copy(), np.asarray(groups, object)
        for group, threshold in self.thresholds:
            rows = np.flatnonzero(values == group)
            reach = probabilities[rows, self.label] >= threshold
            found[rows] = np.where(reach, self.label, others[rows].argmax(axis=1))
        return found


def fit_equal_recall(
    probabilities: np.ndarray,
    truth: np.ndarray,
    plain: np.ndarray,
    groups: Sequence[str],
    column: str,
    label: int,
) -> ByGroup:
    """The threshold of each group with which its recall is nearest to that of all groups now.

    Args:
        probabilities: of validation texts, calibrated, [n, n_labels].
        truth: [n] class indices.
        plain: answers without groups, [n].
        groups: of the texts, [n].
        column: that says the groups.
        label: index of the label.

    Returns:
        Thresholds of the groups that have FEWEST validation texts of the label.
    """
    has = truth == label
    recall = float((plain[has] == label).mean()) if has.any() else 0.0
    values, thresholds = np.asarray(groups, object), []
    for group in sorted(set(values[has])):
        own = np.sort(probabilities[has & (values == group), label])[::-1]
        if len(own) < FEWEST:
            continue
        n_found = round(recall * len(own))
        # Between two texts' probabilities, so that a rounding of either changes nothing.
        edges = np.concatenate([[1.0], own, [0.0]])
        thresholds.append((group, float(edges[n_found : n_found + 2].mean())))
    return ByGroup(column, label, tuple(thresholds))
