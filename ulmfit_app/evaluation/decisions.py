"""From a classifier's probabilities to its answers: calibrated, at thresholds or by costs.

`probabilities` are [n, n_labels]. Of one label a text, a row sums to 1, and `truth` is [n], the
index of each text's label; of several labels, each is a probability of its own, and `truth` is
[n, n_labels], 1 where a text has the label and 0 where not.
"""

from dataclasses import dataclass

import numpy as np

from ulmfit_app.evaluation.calibration import fit_temperature, tempered

MIDDLE = 0.5  # the threshold of a label where none was chosen


@dataclass(frozen=True)
class Decision:
    """How a classifier's outputs become probabilities, and these become answers.

    Attributes:
        multilabel: whether a text may have several labels, or none.
        temperatures: that logits are divided by: one, or one for each of several labels.
        thresholds: one for each label. Of several labels, a text has those whose probabilities
            reach theirs. Of one, the answer is the label whose probability is the largest
            multiple of its threshold: they sum to 1, and of two labels each is then what its
            probability has to reach. None: MIDDLE, or the most probable label.
        costs: of one label a text: [n_labels][n_labels], what the answer of a column costs where
            the label of the row is true. Of several, one pair for each label: what it costs where
            it is missed, and where it is given in vain. None: all mistakes cost the same.
    """

    multilabel: bool = False
    temperatures: tuple[float, ...] = (1.0,)
    thresholds: tuple[float, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities at these temperatures, [n, n_labels], from those at temperature 1."""
        if not self.multilabel:
            return tempered(probabilities, self.temperatures[0])
        found = probabilities.astype(float)
        for label, temperature in enumerate(self.temperatures):
            if temperature != 1:
                found[:, label] = tempered(_as_two(found[:, label]), temperature)[:, 1]
        return found

    def answer(self, probabilities: np.ndarray) -> np.ndarray:
        """Answers to calibrated probabilities.

        Returns:
            The index of a label, int [n]; of several labels, whether a text has each, bool
            [n, n_labels].

        >>> Decision(thresholds=(0.2, 0.8)).answer(np.array([[0.3, 0.7], [0.1, 0.9]])).tolist()
        [0, 1]
        >>> Decision(costs=((0, 9), (1, 0))).answer(np.array([[0.2, 0.8]])).tolist()
        [0]
        """
        if self.multilabel:
            limits = self.limits(probabilities.shape[1])
            return probabilities >= limits
        if self.costs:
            # The lowest expected cost (Elkan 2001, "The Foundations of Cost-Sensitive Learning",
            # section 1).
            return (probabilities @ np.array(self.costs)).argmin(axis=1)
        if self.thresholds:
            return (probabilities / np.array(self.thresholds)).argmax(axis=1)
        return probabilities.argmax(axis=1)

    def limits(self, n_labels: int) -> np.ndarray:
        """What the probability of each of several labels has to reach, [n_labels]."""
        if self.costs:
            missed, in_vain = np.array(self.costs, float).T
            return in_vain / (missed + in_vain)
        return np.array(self.thresholds) if self.thresholds else np.full(n_labels, MIDDLE)


def _as_two(probabilities: np.ndarray) -> np.ndarray:
    """The probabilities of a label, [n], beside those of not having it, [n, 2]."""
    return np.stack([1 - probabilities, probabilities], axis=1)


def fit_temperatures(
    probabilities: np.ndarray, truth: np.ndarray
) -> tuple[list[float], list[str]]:
    """A temperature for each of several labels, as `fit_temperature` finds that of one.

    Args:
        probabilities: at temperature 1, [n, n_labels].
        truth: [n, n_labels].

    Returns:
        Temperatures; and for each label "", or why its temperature stayed 1.
    """
    pairs = [
        fit_temperature(_as_two(column.astype(float)), has.astype(int))
        for column, has in zip(probabilities.T, truth.T, strict=True)
    ]
    return [temperature for temperature, _ in pairs], [reason for _, reason in pairs]
