"""What every report says of groups and of time, and the figures of it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ulmfit_app.evaluation.calibrated import Calibration
from ulmfit_app.evaluation.calibration import confidence_of
from ulmfit_app.evaluation.groups import compare_groups
from ulmfit_app.evaluation.groups_figure import GROUPS_FIGURE, groups_figure, time_figure
from ulmfit_app.evaluation.over_time import accuracy_over_time
from ulmfit_app.evaluation.times import read_times


def judge_groups_and_time(
    predictions: pd.DataFrame,
    answers: tuple[list[str], np.ndarray, np.ndarray, np.ndarray],
    groups: Sequence[str],
    time: str | None,
    calibration: Calibration | None,
) -> dict:
    """What metrics.json holds of groups and of time.

    Args:
        predictions: as report.write_report takes it.
        answers: the labels' names; probabilities [n, n_labels]; truth and predicted as in metrics,
            or, of several labels, in multilabel.
        groups: columns of predictions whose values are groups.
        time: the column of predictions that says when a text is from; None: there is none.
        calibration: as report.write_report takes it.

    Returns:
        groups, one of what compare_groups returns for each column; over_time, what
        accuracy_over_time returns. Either is left out where it is not asked for.

    Raises:
        DataError: the column of times cannot be read.
    """
    labels, probabilities, truth, predicted = answers
    by = calibration and calibration.decision.by_group
    found = {}
    if groups:
        # As the groups are called, of which one may have no name.
        thresholds = {group or "(none)": least for group, least in by.thresholds} if by else {}
        rare_by = calibration and calibration.validation_truth
        found["groups"] = [
            compare_groups(
                predictions[name],
                truth,
                predicted,
                probabilities,
                labels,
                rare_by,
                thresholds if by and by.column == name else None,
            )
            for name in groups
        ]
    if time is not None:
        times = read_times(predictions[time], time).rename(time)
        if truth.ndim == 2:
            of_texts = ((truth > 0) == predicted).all(axis=1), None
        else:
            confidence, right = confidence_of(probabilities, truth, predicted)
            of_texts = right, confidence
        found["over_time"] = accuracy_over_time(times, *of_texts)
    return found


def draw_groups_and_time(metrics: dict) -> dict[str, Figure]:
    """The figures of what `judge_groups_and_time` found, by name: groups_1 and so on, over_time.

    Args:
        metrics: what metrics.json holds.
    """
    drawn = {
        GROUPS_FIGURE.format(number=number): groups_figure(found)
        for number, found in enumerate(metrics.get("groups", []), start=1)
        if len(found["groups"]) > 1
    }
    over_time = metrics.get("over_time", {"periods": []})
    if len(over_time["periods"]) > 1:
        drawn["over_time"] = time_figure(over_time)
    return drawn
