"""Notebook 07, few labels: errors by number of labels, comparisons, luck; exercise checks."""

import math
from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.course.label_trials import WAYS, LabelTrials
from ulmfit_app.course.starts import list_starts
from ulmfit_app.evaluation.metrics import SIGNIFICANT, accuracy_interval, paired_comparison

SECONDS_PER_LABEL = 20  # of a person who reads a short review and says what it is


def tabulate_curve(
    trials: LabelTrials, at: Sequence[int], draws: int = 1, ways: Sequence[str] = WAYS
) -> pd.DataFrame:
    """Test errors in % by the number of labels, the mean of several draws.

    The 95 % interval covers the chance in drawing the test texts, at the mean of the draws.
    `tabulate_draws` shows what the draws of labels do.

    Args:
        trials: the classifiers.
        at: numbers of labels.
        draws: number of draws.
        ways: of WAYS, NOT_TUNED and GENERAL_TEXT.

    Returns:
        Columns way, labels, n (test texts), error, low, high, for label_curve_figure.
    """
    rows = []
    for way in ways:
        for n_labels in at:
            right = [trials.find_right(way, n_labels, draw) for draw in range(draws)]
            wrong = np.mean(~np.array(right), axis=0)
            low, high = accuracy_interval(round(wrong.sum()), len(wrong))
            point = {"way": way, "labels": n_labels, "n": len(wrong)}
            shares = {"error": wrong.mean(), "low": low, "high": high}
            rows.append(point | {name: 100 * share for name, share in shares.items()})
    return pd.DataFrame(rows)


def tabulate_draws(
    trials: LabelTrials, n_labels: int, draws: int, ways: Sequence[str] = WAYS
) -> pd.DataFrame:
    """Test errors in % at one number of labels: one row per draw, one column per way."""
    found = {
        way: [100 * (1 - trials.find_right(way, n_labels, draw).mean()) for draw in range(draws)]
        for way in ways
    }
    return pd.DataFrame(found).rename_axis("draw")


def compare_ways(
    trials: LabelTrials, pairs: Sequence[tuple[str, str]], at: Sequence[int], draw: int = 0
) -> pd.DataFrame:
    """Pairs of ways on the same test texts; `format_comparison` makes a table to read of it.

    Args:
        trials: the classifiers.
        pairs: of ways, (first, other).
        at: numbers of labels.
        draw: which labels.

    Returns:
        One row per pair and number of labels: labels, first, other, only_first and only_other
        (test texts that one alone gets right), difference (of the accuracies, first minus other,
        in points), low and high (95 %), p_value (McNemar's exact test).
    """
    rows = []
    for way, other in pairs:
        for n_labels in at:
            right = (trials.find_right(one, n_labels, draw) for one in (way, other))
            found = paired_comparison(*right)
            low, high = found["accuracy_difference_ci95"]
            row = {
                "labels": n_labels,
                "first": way,
                "other": other,
                "only_first": found["only_first_right"],
                "only_other": found["only_other_right"],
                "difference": 100 * found["accuracy_difference"],
                "low": 100 * low,
                "high": 100 * high,
                "p_value": found["p_value"],
            }
            rows.append(row)
    return pd.DataFrame(rows)


def pick_favourable(
    trials: LabelTrials,
    favoured: str,
    other: str,
    at: Sequence[int],
    draws: int = 1,
    size: int = 100,
    intervals: bool = False,
) -> pd.DataFrame:
    """What two ways can be made to show by someone who may choose the draw and the test texts.

    Of all draws, and all blocks of neighbouring test texts, it takes those on which one way looks
    best against the other.

    Args:
        trials: the classifiers.
        favoured: the way that should look best.
        other: the other one.
        at: numbers of labels.
        draws: how many draws there are to choose from.
        size: test texts in a block.
        intervals: whether to give them; without, low and high are the error itself.

    Returns:
        Columns as those of `tabulate_curve`.
    """
    n_test = int((trials.table["split"] == "test").sum())
    size = min(size, n_test)

    def find_wrong(way: str) -> np.ndarray:
        """[draws, numbers of labels, n_test]."""
        right = [[trials.find_right(way, n, draw) for n in at] for draw in range(draws)]
        return ~np.array(right)

    wrong = {way: find_wrong(way) for way in sorted((favoured, other), key=WAYS.index)}
    gain = (wrong[other].astype(int) - wrong[favoured]).sum(axis=1)
    blocks = range(0, n_test - size + 1, size)
    places = [(draw, begin) for draw in range(draws) for begin in blocks]
    draw, begin = max(places, key=lambda place: gain[place[0], place[1] : place[1] + size].sum())
    rows = []
    for way, found in wrong.items():
        for n_labels, of_texts in zip(at, found[draw], strict=True):
            n_wrong = int(of_texts[begin : begin + size].sum())
            share = n_wrong / size
            low, high = accuracy_interval(n_wrong, size) if intervals else (share, share)
            row = {"way": way, "labels": n_labels, "n": size, "error": 100 * share}
            rows.append(row | {"low": 100 * low, "high": 100 * high})
    return pd.DataFrame(rows)


def tabulate_doublings(curve: pd.DataFrame, way: str) -> pd.DataFrame:
    """What each doubling of the labels gained, and what it cost.

    Args:
        curve: of `tabulate_curve`, at numbers of labels that double each time.
        way: one of its ways.

    Returns:
        Columns labels, error (%), gained (points against the row before, NaN in the first), hours
        (of labelling the labels that were added) and per_hour (points gained in each of them).
    """
    rows = curve[curve["way"] == way].reset_index(drop=True)
    hours = rows["labels"].diff().fillna(rows["labels"]) * SECONDS_PER_LABEL / 3600
    gained = -rows["error"].diff()
    return rows[["labels", "error"]].assign(gained=gained, hours=hours, per_hour=gained / hours)


def tabulate_costs(trials: LabelTrials, n_labels: int) -> pd.DataFrame:
    """Minutes that unlabelled texts and labels cost: those of a machine, and those of a person.

    Args:
        trials: the classifiers.
        n_labels: that a person gives.

    Returns:
        Columns what, machine and person (minutes). The models of the package are in it where the
        trials start from one; their bundles say how long they read.
    """
    rows, known = [], list_starts().set_index("model")
    for name in trials.models:
        read, hours = known.loc[name, ["then read", "hours"]]
        rows.append((f"{name}: reading {read}", 60 * hours, 0.0))
    seconds = trials.history["seconds"].sum()
    rows.append((f"fine-tuning on {trials.sizes.train:,} texts of train", seconds / 60, 0.0))
    rows.append((f"labelling {n_labels:,} texts", 0.0, n_labels * SECONDS_PER_LABEL / 60))
    return pd.DataFrame(rows, columns=["what", "machine", "person"])


def extrapolate(few: tuple[int, float], many: tuple[int, float], n_labels: int) -> float:
    """The error at another number of labels, by the power law through two points.

    A power law is a straight line where both axes are logarithmic.

    Args:
        few: (labels, error) of the first point.
        many: of the second.
        n_labels: where to read the line.

    Returns:
        The error, in the unit of the points.

    >>> round(extrapolate((100, 40.0), (400, 20.0), 1_600), 6)
    10.0
    """
    slope = math.log(many[1] / few[1]) / math.log(many[0] / few[0])
    return many[1] * (n_labels / many[0]) ** slope


# ------------------------------------------------------------------------------- tables to be read
def format_p(p_value: float) -> str:
    """A p-value to two digits, or that it is below 0.0001.

    >>> [format_p(p) for p in (0.7957, 0.00368, 1.2e-08)]
    ['0.80', '0.0037', '< 0.0001']
    """
    if p_value < 0.0001:
        return "< 0.0001"
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.2g}"


def format_errors(curve: pd.DataFrame) -> pd.DataFrame:
    """The table of `tabulate_curve` with a row per number of labels and a column per way."""
    cells = [f"{row.error:.1f} % ({row.low:.1f} to {row.high:.1f})" for row in curve.itertuples()]
    table = curve.assign(cell=cells).pivot(index="labels", columns="way", values="cell")
    return table[curve["way"].unique()].rename_axis(columns=None).reset_index()


def format_comparison(compared: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare_ways` in words: differences with their sign, and a verdict.

    The verdict goes by the p-value alone, so that all rows are judged by one rule.
    """
    rows = []
    for row in compared.itertuples():
        better = "the first is better" if row.difference > 0 else "the second is better"
        found = {
            "labels": row.labels,
            "first": row.first,
            "second": row.other,
            "right alone": f"{row.only_first} : {row.only_other}",
            "difference (points)": f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})",
            "p": format_p(row.p_value),
            "on these texts": better if row.p_value < SIGNIFICANT else "not told apart",
        }
        rows.append(found)
    return pd.DataFrame(rows)


def format_draws(draws: pd.DataFrame) -> pd.DataFrame:
    """The table of `tabulate_draws` for two ways, with how far the first is below the second."""
    first, other = draws.columns
    gain = [f"{points:+.1f}" for points in draws[other] - draws[first]]
    shown = draws.map("{:.1f} %".format)
    return shown.assign(**{"difference (points)": gain}).reset_index()


def format_doublings(doublings: pd.DataFrame) -> pd.DataFrame:
    """The table of `tabulate_doublings` with units and signs; the first row gained nothing yet."""
    signed = {
        name: [f"{gain:+.1f}" if gain == gain else "" for gain in doublings[column]]
        for name, column in (("gained (points)", "gained"), ("points per hour", "per_hour"))
    }
    shown = pd.DataFrame(
        {
            "labels": doublings["labels"],
            "error": [f"{error:.1f} %" for error in doublings["error"]],
            "hours for the added labels": [f"{hours:.1f}" for hours in doublings["hours"]],
        }
    )
    return shown.assign(**signed)


def format_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """The table of `tabulate_costs` with units; what costs nothing stays empty."""
    shown = {
        f"{who} (minutes)": [f"{minutes:.1f}" if minutes else "" for minutes in costs[who]]
        for who in ("machine", "person")
    }
    return costs[["what"]].assign(**shown)


# --------------------------------------------------------------------------------- the exercises
def check_only(answer: int | EllipsisType, first: np.ndarray, other: np.ndarray) -> Verdict:
    """Exercise 1: how many test texts the second classifier alone gets right; boolean [n] each."""
    if verdict := check_number(answer):
        return verdict
    only_other, only_first = int((other & ~first).sum()), int((first & ~other).sum())
    n_differ = only_first + only_other
    mistakes = {
        f"{answer} is how many texts the first one alone gets right. The question is the other "
        "way round.": only_first,
        f"{answer} is by how many texts the two differ in all. That hides the texts on which each "
        "is right and the other wrong.": abs(only_other - only_first),
        f"{answer} is how many texts the second gets right, including those that the first gets "
        "right, too.": int(other.sum()),
        f"{answer} is on how many texts the two disagree, either way.": n_differ,
    }
    wrong = {says: answer == mistaken != only_other for says, mistaken in mistakes.items()}
    otherwise = (
        f"{answer} is not how many texts have True in the second and False in the first. "
        "`other & ~first` marks those."
    )
    return judge(
        wrong | {otherwise: answer != only_other},
        f"{only_other} texts, against {only_first} the other way round. McNemar's test asks if "
        f"a fair coin would divide {n_differ} texts like that. Its p-value: "
        f"{format_p(paired_comparison(first, other)['p_value'])}.",
    )


def check_mean_interval(
    answer: Sequence[float] | EllipsisType, errors: Sequence[float]
) -> Verdict:
    """Exercise 2: the 95 % interval (low, high) of the mean error over draws, by Student's t.

    Right is what is within a hundredth of a point.
    """
    if verdict := check_answered(answer):
        return verdict
    found = np.asarray(errors, float)
    try:
        low, high = (float(bound) for bound in answer)
    except (TypeError, ValueError):
        return Verdict(
            False, "expected two numbers, the ends of the interval, such as (30.1, 33.4)."
        )
    n, mean, spread = len(found), found.mean(), found.std(ddof=1)
    factor, root = student_t.ppf(0.975, n - 1), math.sqrt(n)
    half = factor * spread / root

    def is_near(half: float) -> bool:
        return abs(low - (mean - half)) < 0.01 and abs(high - (mean + half)) < 0.01

    of_one_draw = is_near(factor * spread) or is_near(1.96 * spread)
    middle = (low + high) / 2
    off = abs(middle - mean) > 0.01
    return judge(
        {
            "the first end has to be the lower one.": low > high,
            "this is where a single draw may lie. The mean of n draws varies less, by the square "
            "root of n.": of_one_draw,
            f"1.96 is for a known spread. Here it is estimated from {n} draws, which takes "
            f"Student's t with {n - 1} degrees of freedom: "
            "scipy.stats.t.ppf(0.975, …).": is_near(1.96 * spread / root),
            "the spread was divided by n. It is measured around the mean of the same draws: "
            "divide by n - 1, as ddof=1 does.": is_near(factor * found.std(ddof=0) / root),
            f"the middle is {middle:.2f}, and the mean of the draws {mean:.2f}.": off,
            f"the interval is {high - low:.2f} points wide.": not is_near(half),
        },
        f"the mean of {n} draws is {mean:.1f} %, and it is known to ± {half:.1f} points.",
    )


def check_extrapolated(
    answer: float | EllipsisType, few: tuple[int, float], many: tuple[int, float], n_labels: int
) -> Verdict:
    """Exercise 3: the error at `n_labels`, by the power law through two points, to a tenth.

    The points are (labels, error in %).
    """
    if verdict := check_number(answer):
        return verdict
    wanted = extrapolate(few, many, n_labels)
    straight = many[1] + (many[1] - few[1]) / (many[0] - few[0]) * (n_labels - many[0])
    per_doubling = (many[1] - few[1]) / math.log2(many[0] / few[0])
    half_logarithmic = many[1] + per_doubling * math.log2(n_labels / many[0])

    def is_instead(mistake: float) -> bool:
        return abs(answer - mistake) < 0.1 <= abs(wanted - mistake)

    left = extrapolate(few, many, 2 * many[0]) / many[1]
    return judge(
        {
            f"{answer:.1f} % is on the straight line through both points, which falls below zero "
            "in the end. Take logarithms of both, labels and errors.": is_instead(straight),
            f"{answer:.1f} % takes the same points off with each doubling. In a power law it is "
            "the same share.": is_instead(half_logarithmic),
            f"{answer:.3f} is a share. The errors here are in %.": abs(100 * answer - wanted)
            < 0.1,
            f"{answer:.1f} % is above the error from {many[0]:,} labels.": answer
            > many[1]
            > wanted,
            f"{answer:.1f} % is not on the line through both points on logarithmic axes.": abs(
                answer - wanted
            )
            >= 0.1,
        },
        f"{wanted:.1f} %, if the line goes on. Twice the labels leave {left:.0%} of the error.",
    )
