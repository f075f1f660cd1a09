"""How many answers to texts without labels are right, as far as confidence tells it.

All of it rests on labelled texts of before. What it cannot know is whether confidence still means
what it did on these: docs/drift.md shows how far off that can be.
"""

import math
from dataclasses import dataclass

import numpy as np

from ulmfit_app.evaluation.metrics import Z_95


@dataclass(frozen=True)
class Estimate:
    """An accuracy that was not measured.

    Attributes:
        accuracy: estimated, of the new texts.
        low, high: 95 % interval, if a confidence is as often right as it was before.
        before: accuracy that was measured on the old texts.
        confidence, confidence_before: means.
        n_before: old texts with labels.
    """

    accuracy: float
    low: float
    high: float
    before: float
    confidence: float
    confidence_before: float
    n_before: int


def estimate_accuracy(new: np.ndarray, old: np.ndarray, right: np.ndarray) -> Estimate:
    """The accuracy before, plus what confidence has risen by (Guillory et al. 2021, ICCV,
    "Predicting with Confidence on Unseen Distributions", difference of confidences).

    Unlike the mean confidence alone, it is right on average where nothing has changed, though the
    confidences were too high or too low.

    Args:
        new: confidence of each new answer, [n].
        old: of each old one, [m].
        right: which share of each old text's answer was right: 0 or 1; of several labels a text
            the share of them, [m].

    Returns:
        Its interval holds the chance in which the new answers are right, each as likely as its
        confidence says, and in which the old texts were drawn.
    """
    estimated = float(right.mean() + new.mean() - old.mean())
    variance = float((new * (1 - new)).mean()) / len(new)
    variance += float((right - old).var()) / len(old)
    half_width = Z_95 * math.sqrt(variance)
    low, high, accuracy = (
        min(max(one, 0.0), 1.0)
        for one in (estimated - half_width, estimated + half_width, estimated)
    )
    means = float(right.mean()), float(new.mean()), float(old.mean())
    return Estimate(accuracy, low, high, *means, len(old))


def estimate_by_threshold(new: np.ndarray, old: np.ndarray, right: np.ndarray) -> float:
    """The share of confidences above the one that the right share of old ones exceeds (Garg et al.
    2022, ICLR, "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", average
    thresholded confidence).

    Args:
        new, old, right: as `estimate_accuracy` takes them.
    """
    return float((new > np.quantile(old, 1 - right.mean())).mean())
