"""How good the answers are from one period to the next, and whether that is a trend or chance."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.independent import adjust_holm, same_shares
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import SIGNIFICANT, Z_95, accuracy_interval, spell_p

FEWEST = 50  # texts of a period: an accuracy of 50% on them is known to 13 points up or down
MAX_PERIODS = 24
MAX_PARTS = 12  # of equal size, where no unit of the calendar fits
# From the finest on: as people call them, as pandas does, and how their beginning is written.
UNITS = (
    ("hour", "h", "%Y-%m-%d %H:00"),
    ("day", "D", "%Y-%m-%d"),
    ("week", "W", "%Y-%m-%d"),
    ("month", "M", "%Y-%m"),
    ("quarter", "Q", "%Y-%m"),
    ("year", "Y", "%Y"),
)


def accuracy_over_time(
    times: pd.Series, right: np.ndarray, confidence: np.ndarray | None = None
) -> dict:
    """The accuracy in periods of the tested texts, and what a straight line says of it.

    Periods are of the finest unit of the calendar in which there are 3 to MAX_PERIODS, each but
    the first and the last with FEWEST texts or more; these two join the next where they have
    fewer. Where no unit fits, periods have equally many texts.

    The trend is tested by the score test of a logistic regression on time, which is the test of
    Cochran (1954) and Armitage (1955) with the times as scores; the periods by Pearson's
    chi-square. The two p-values are adjusted together (Holm 1979).

    Args:
        times: when each text is from, datetime64 [n]; NaT is left out, and counted.
        right: whether its answer is, bool [n].
        confidence: of its answer, [n]; None of several labels a text.

    Returns:
        column; n and n_without (a time); unit, None of periods with equally many texts; periods:
        period, first, last (ISO 8601), n, accuracy, accuracy_ci95 and perhaps confidence (mean);
        trend: change of the accuracy from the first text to the last along the straight line of
        least squares, change_ci95 (White 1980, whatever the variance), p_value, p_adjusted,
        mean_place (of the texts, from 0 to 1 along the time) and mean_accuracy, which the line
        passes through; difference of the periods: p_value and p_adjusted, None with fewer than
        two; and said, what was found, sentences. The trend is None where all texts are of one
        moment, or all answers are right, or wrong.
    """
    known = times.notna().to_numpy()
    of, unit = _periods_of(times[known])
    moments, right = times[known].to_numpy("datetime64[ns]"), right[known]
    table = {"time": moments, "right": right, "period": of}
    if confidence is not None:
        table["confidence"] = confidence[known]
    periods = [_period(part, unit) for _, part in pd.DataFrame(table).groupby("period", sort=True)]
    found = {"column": str(times.name), "n": int(known.sum()), "n_without": int((~known).sum())}
    found |= {"unit": unit, "periods": periods, "trend": _trend(moments, right)}
    found["difference"] = {"p_value": _difference(periods), "p_adjusted": None}
    questions = [found["trend"], found["difference"]]
    questions = [one for one in questions if one["p_value"] is not None]
    for one, p_value in zip(
        questions, adjust_holm([one["p_value"] for one in questions]), strict=True
    ):
        one["p_adjusted"] = p_value
    span = [spell(moments.min()), spell(moments.max())] if len(moments) else ["", ""]
    return found | {"said": list(_describe(found, *span))}


def spell(moment: np.datetime64) -> str:
    """A moment for people: its day, with the time of day where it has one.

    >>> spell(np.datetime64("2026-01-31")), spell(np.datetime64("2026-01-31T09:30"))
    ('2026-01-31', '2026-01-31 09:30')
    """
    stamp = pd.Timestamp(moment)
    return stamp.strftime("%Y-%m-%d" if stamp == stamp.normalize() else "%Y-%m-%d %H:%M")


def _periods_of(times: pd.Series) -> tuple[np.ndarray, str | None]:
    """The index of each text's period, and their unit. times: without NaT."""
    for unit, code, _ in UNITS:
        ordinals = times.dt.to_period(code).map(lambda period: period.ordinal).to_numpy(int)
        if len(times) == 0 or np.ptp(ordinals) >= MAX_PERIODS:
            continue
        of = ordinals - ordinals.min()
        counts = np.bincount(of)
        if len(counts) > 1 and counts[0] < FEWEST:
            of, counts = np.maximum(of - 1, 0), np.bincount(np.maximum(of - 1, 0))
        if len(counts) > 1 and counts[-1] < FEWEST:
            of = np.minimum(of, len(counts) - 2)
            counts = np.bincount(of)
        if len(counts) >= 3 and counts.min() >= FEWEST:
            return of, unit
    n_parts = min(max(len(times) // FEWEST, 1), MAX_PARTS)
    edges = np.arange(1, n_parts) * len(times) // n_parts
    # Texts of one moment stay together.
    starts = np.unique(np.sort(times.to_numpy())[edges])
    _, of = np.unique(np.searchsorted(starts, times.to_numpy(), side="right"), return_inverse=True)
    return of, None


def _period(part: pd.DataFrame, unit: str | None) -> dict:
    """The numbers of one period. part: its texts."""
    first, last = part["time"].min(), part["time"].max()
    ends = [spell(first), spell(last)]
    for name, code, form in UNITS:
        if name == unit:
            ends = [of.to_period(code).start_time.strftime(form) for of in (first, last)]
    n, correct = len(part), int(part["right"].sum())
    found = {
        "period": ends[0]
        if ends[0] == ends[1]
        else Message("{first} to {last}", first=ends[0], last=ends[1]),
        "first": first.isoformat(),
        "last": last.isoformat(),
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(accuracy_interval(correct, n)),
    }
    if "confidence" in part:
        found["confidence"] = float(part["confidence"].mean())
    return found


def _trend(moments: np.ndarray, right: np.ndarray) -> dict:
    """The straight line through right answers over time, and how likely chance makes a steeper."""
    found = dict.fromkeys(("change", "change_ci95", "p_value", "p_adjusted"))
    seconds = (moments - moments.min()).astype(float) if len(moments) else np.zeros(0)
    if not seconds.any() or right.all() or not right.any():
        return found
    # Of the span's length 1, so that the slope is the change from the first text to the last.
    place, accuracy = float((seconds / seconds.max()).mean()), float(right.mean())
    along = seconds / seconds.max() - place
    off = right - accuracy
    squares = (along**2).sum()
    change = float((along * off).sum() / squares)
    rest = off - change * along
    variance = float((along**2 * rest**2).sum()) * len(rest) / max(len(rest) - 2, 1)
    spread = math.sqrt(variance) / float(squares)
    score = (along * off).sum() / math.sqrt(squares * accuracy * (1 - accuracy))
    return found | {
        "change": change,
        "change_ci95": [change - Z_95 * spread, change + Z_95 * spread],
        "p_value": math.erfc(abs(score) / math.sqrt(2)),
        "mean_place": place,
        "mean_accuracy": accuracy,
    }


def _difference(periods: list[dict]) -> float | None:
    """How likely periods of the same accuracy differ so much; None of fewer than two."""
    if len(periods) < 2:
        return None
    right = np.array([round(one["accuracy"] * one["n"]) for one in periods])
    wrong = np.array([one["n"] for one in periods]) - right
    # Right and wrong answers as the two samples, which the periods are the classes of.
    return same_shares(np.stack([right, wrong]))


def _describe(found: dict, first: str, last: str) -> Iterator[str]:
    trend, periods = found["trend"], found["periods"]
    if trend["change"] is None:
        yield Message(
            "Nothing can be said of a trend: the texts are of one moment, or all answers are "
            "right, or all are wrong."
        )
    else:
        yield _describe_trend(trend, first, last)
    p_value = found["difference"]["p_adjusted"]
    if p_value is not None:
        ranked = sorted(periods, key=lambda one: one["accuracy"])
        values = {
            "low": ranked[0]["period"],
            "high": ranked[-1]["period"],
            "p_value": spell_p(p_value),
            "accuracy_low": ranked[0]["accuracy"],
            "accuracy_high": ranked[-1]["accuracy"],
        }
        if p_value < SIGNIFICANT:
            yield Message(
                "Periods differ beyond chance ({p_value}): {accuracy_low:.1%} in {low}, "
                "{accuracy_high:.1%} in {high}.",
                **values,
            )
        else:
            yield Message(
                "Periods do not differ beyond chance ({p_value}): the lowest is {low} with "
                "{accuracy_low:.1%}, the highest {high} with {accuracy_high:.1%}.",
                **values,
            )
    else:
        yield Message(
            "The texts are too few, or of too few moments, for two periods of {n} texts or more.",
            n=FEWEST,
        )
    if found["n_without"]:
        yield Message("Left out, without a time: {n:,} of the tested texts.", n=found["n_without"])


def _describe_trend(trend: dict, first: str, last: str) -> str:
    change, (low, high) = trend["change"], trend["change_ci95"]
    values = {"first": first, "last": last, "p_value": spell_p(trend["p_adjusted"])}
    if trend["p_adjusted"] >= SIGNIFICANT:
        return Message(
            "From {first} to {last} no trend of the accuracy can be told from chance: "
            "{points:+.1f} points along a straight line (95% interval {low:+.1f} to {high:+.1f}; "
            "{p_value}).",
            points=100 * change,
            low=100 * low,
            high=100 * high,
            **values,
        )
    if change < 0:
        return Message(
            "From {first} to {last} the accuracy falls by {points:.1f} points along a straight "
            "line (95% interval {low:.1f} to {high:.1f}; {p_value}).",
            points=-100 * change,
            low=-100 * high,
            high=-100 * low,
            **values,
        )
    return Message(
        "From {first} to {last} the accuracy rises by {points:.1f} points along a straight line "
        "(95% interval {low:.1f} to {high:.1f}; {p_value}).",
        points=100 * change,
        low=100 * low,
        high=100 * high,
        **values,
    )
