"""What the log of a server says about two versions of a model that it served side by side.

Which of them answers is decided by a hash of the text, and by nothing else. So their texts are two
random samples, and what their answers differ in beyond chance comes from the models.
"""

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.data.characters import escape
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.independent import (
    adjust_holm,
    means_interval,
    same_shares,
    shares_interval,
)
from ulmfit_app.evaluation.tables import read_set
from ulmfit_app.serving.reading import read_answers, read_feedback

FEWEST_TIMES = 100  # requests, for a 99th percentile


@dataclass(frozen=True)
class Comparison:
    """What two models said.

    Attributes:
        models: ids of both, the canary's last, or as they were named; "first" and "other" below.
        sides: a row for each: n (texts), answers, confidence (mean; NaN of several labels a text),
            given (mean number of labels that a text is given), seconds (median) and p99 of
            n_times requests of one text (NaN without any), and wrong: how many texts feedback says
            were labelled wrongly, NaN without any feedback.
        labels: a row for each label, the surest differences first: label, n, other_n (texts),
            difference (share of the other less that of the first), low, high (its 95 % interval)
            and p_value, adjusted by Holm where there are more than two labels, or two of several.
        p_value: of one test of all labels; of several a text, the smallest of theirs.
        several: whether a text may have several labels, or none.
        confidence: 95 % interval of the difference of mean confidences; None for fewer than two
            texts, and of several labels a text.
        by_hash: whether the hashes of their texts keep to two sides of one share.
        notes: a sentence for each thing that was left out or is odd.
    """

    models: tuple[str, str]
    sides: pd.DataFrame
    labels: pd.DataFrame
    p_value: float
    several: bool
    confidence: tuple[float, float] | None
    by_hash: bool
    notes: list[str]


def compare_served(
    log: Path, feedback: Path | None = None, models: tuple[str, str] | None = None
) -> Comparison:
    """Compare what two models answered; a text that was sent again counts once for each of them.

    Args:
        log: what `serve --log` wrote.
        feedback: what `serve --feedback` wrote meanwhile.
        models: ids of the two; None where there are no others.

    Raises:
        DataError: a file is missing or another one, the log has answers of one model or of more
            than two, or the two never answered at the same time.
        SettingError: `models` are not in the log.
    """
    written = read_answers(log)
    notes = list(written.notes)
    models = _choose_models(log, written.table, models)
    answers = written.table[written.table["model"].isin(models)]
    several = _are_sets(log, answers)
    # In the order of `models`; category codes are 0 and 1.
    answers = answers.assign(model=answers["model"].cat.set_categories(models))
    answers, by_hash = _keep_common_times(log, answers, models, notes)
    texts = _keep_each_text_once(answers, models, several, notes)
    groups = [texts[texts["model"] == model] for model in models]
    counts = [_count_labels(group, several) for group in groups]

    sides = pd.DataFrame(
        {
            "n": [len(group) for group in groups],
            "answers": [int((answers["model"] == model).sum()) for model in models],
            "confidence": [group["confidence"].mean() for group in groups],
            "given": [n.sum() / len(group) for n, group in zip(counts, groups, strict=True)],
            **_measure_times(answers, models),
            "wrong": _count_wrong(feedback, texts, models, notes),
        },
        index=list(models),
    )
    labels, p_value = _compare_labels(counts, sides["n"].tolist(), several)
    confidence = None
    if not several:
        confidence = means_interval(
            groups[1]["confidence"].to_numpy(), groups[0]["confidence"].to_numpy()
        )
    return Comparison(models, sides, labels, p_value, several, confidence, by_hash, notes)


def _choose_models(
    log: Path, table: pd.DataFrame, models: tuple[str, str] | None
) -> tuple[str, str]:
    counts = table["model"].value_counts()
    found = "; ".join(f"{escape(model)} ({n:,} answers)" for model, n in counts.items())
    if models is not None:
        missing = [model for model in models if model not in counts.index]
        if missing or models[0] == models[1]:
            wrong = f"{log} has no answer of {quoted(missing)}" if missing else "Both are the same"
            raise SettingError(f"--models: {wrong}. Expected two of these: {found}.")
        return models
    if len(counts) == 1:
        raise DataError(
            f"{log} has answers of one model alone: {found}. Expected those of two. Serve a "
            "second one beside it, and give this command again when some texts have come: "
            f"python -m ulmfit_app serve RUN --canary RUN2 --share 0.1 --log "
            f"{shlex.quote(str(log))}"
        )
    if len(counts) > 2:
        last = table.groupby("model", observed=True)["time"].max().sort_values().index[-2:]
        command = f"python -m ulmfit_app compare-served {shlex.quote(str(log))} --models"
        raise DataError(
            f"{log} has answers of {len(counts)} models: {found}. Expected those of two. Name "
            f"two, such as the last ones: {command} {' '.join(map(shlex.quote, last))}"
        )
    # Low hashes go to the canary.
    means = table["hash"].astype(float).groupby(table["model"], observed=True).mean()
    first, other = means.sort_values(ascending=False).index
    return first, other


def _are_split_by_hash(answers: pd.DataFrame) -> bool:
    """Whether all hashes of one model are below those of the other."""
    hashes = answers.groupby("model", observed=True)["hash"].agg(["min", "max"])
    if len(hashes) < 2:
        return False
    (low, high), (other_low, other_high) = hashes.to_numpy()
    return high < other_low or other_high < low


def _keep_common_times(
    log: Path, answers: pd.DataFrame, models: tuple[str, str], notes: list[str]
) -> tuple[pd.DataFrame, bool]:
    """The answers from when both models were served, and whether a hash decided who answered.

    Before a canary comes and after it goes, one model gets all texts: those of another time.
    """
    if _are_split_by_hash(answers):
        return answers, True
    times = answers.groupby("model", observed=True)["time"].agg(["min", "max"])
    start, end = times["min"].max(), times["max"].min()
    common = answers[answers["time"].between(start, end)]
    if start > end:
        first, other = (model for model in times.sort_values("min").index)
        raise DataError(
            f"{escape(first)} answered until {minute(times['max'][first])}, and {escape(other)} "
            f"from {minute(times['min'][other])} on: they were not served side by side, and "
            "texts of different times are no fair comparison. Expected a log of: python -m "
            "ulmfit_app serve RUN --canary RUN2 --share 0.1 --log FILE"
        )
    if common["model"].nunique() < 2:
        raise DataError(
            f"{log} has too few answers from when both models were served, {minute(start)} to "
            f"{minute(end)} (UTC). Give this command again when more texts have come."
        )
    if left_out := len(answers) - len(common):
        notes.append(
            f"Left out of {log}: {count_texts(left_out, 'answer')} from before {minute(start)} "
            f"or after {minute(end)} (UTC), when one of the two answered alone."
        )
    by_hash = _are_split_by_hash(common)
    if not by_hash:
        notes.append(_describe_mixture(common, models))
    return common, by_hash


def _describe_mixture(common: pd.DataFrame, models: tuple[str, str]) -> str:
    one, other = (
        common.loc[common["model"] == model, ["hash", "label"]].drop_duplicates("hash")
        for model in models
    )
    pairs = one.merge(other, on="hash")
    differ = int((pairs["label_x"] != pairs["label_y"]).sum())
    both = (
        f" {count_texts(len(pairs))} got answers of both, {differ:,} of them different ones; they "
        "count for both, which makes the intervals a little too wide."
    )
    return (
        "The share of the texts that went to each was changed meanwhile, or several servers wrote "
        f"to the log.{both if len(pairs) else ''} Differences may then also come from which texts "
        "each of them got."
    )


def _are_sets(log: Path, answers: pd.DataFrame) -> bool:
    """Whether a text may have several labels, which then have no confidence together."""
    is_set = answers["confidence"].isna()
    if is_set.any() and not is_set.all():
        raise DataError(
            f"{log} has {is_set.sum():,} answers of several labels a text and {(~is_set).sum():,} "
            "of one, which cannot be compared. Expected those of two models that were served side "
            "by side."
        )
    return bool(is_set.all())


def _count_labels(group: pd.DataFrame, several: bool) -> pd.Series:
    """How many texts were given each label."""
    counts = group["label"].value_counts()
    if not several:
        return counts
    each: Counter[str] = Counter()
    for cell, n in counts.items():
        each.update(dict.fromkeys(read_set(cell), n))
    return pd.Series(each, dtype=int)


def _keep_each_text_once(
    answers: pd.DataFrame, models: tuple[str, str], several: bool, notes: list[str]
) -> pd.DataFrame:
    what = "more than one set of labels" if several else "more than one label"
    texts = answers.drop_duplicates(["model", "hash"])
    kinds = answers.drop_duplicates(["model", "hash", "label"])
    for model in models:
        again = kinds.loc[kinds["model"] == model, "hash"]
        if n := int(again[again.duplicated()].nunique()):
            notes.append(
                f"{escape(model)} gave {count_texts(n)} {what}, as a change of --precision can "
                "make it; the first counts."
            )
    return texts


def _measure_times(answers: pd.DataFrame, models: tuple[str, str]) -> dict[str, list[float]]:
    """Of requests of one text: longer ones go to both models, or have more texts of one."""
    alone = answers[answers["alone"]]
    times = [alone.loc[alone["model"] == model, "seconds"] for model in models]
    p99 = [each.quantile(0.99) if len(each) >= FEWEST_TIMES else np.nan for each in times]
    return {
        "n_times": [len(each) for each in times],
        "seconds": [each.median() for each in times],
        "p99": p99,
    }


def _count_wrong(
    feedback: Path | None, texts: pd.DataFrame, models: tuple[str, str], notes: list[str]
) -> list[float]:
    if feedback is None:
        return [np.nan, np.nan]
    written = read_feedback(feedback)
    notes += written.notes
    if written.table.empty:
        return [np.nan, np.nan]
    # Of what was said of a text's label more than once, the last holds.
    said = written.table.drop_duplicates(["model", "hash"], keep="last")
    known = said.merge(texts[["model", "hash"]].astype({"model": str}), on=["model", "hash"])
    if left_out := len(said) - len(known):
        notes.append(
            f"Left out of {feedback}: {count_texts(left_out, 'label')} for answers that are not "
            "among those compared."
        )
    return [float((known["wrong"] & (known["model"] == model)).sum()) for model in models]


def _compare_labels(
    counts: list[pd.Series], totals: list[int], several: bool
) -> tuple[pd.DataFrame, float]:
    """The table of labels, and the p-value of all of them together."""
    total, other_total = totals
    named = dict(zip(("n", "other_n"), counts, strict=True))
    table = pd.DataFrame(named).fillna(0).astype(int).rename_axis("label").reset_index()
    table = table[table["n"] + table["other_n"] > 0].astype({"label": str})
    pairs = list(zip(table["n"], table["other_n"], strict=True))
    table["difference"] = table["other_n"] / other_total - table["n"] / total
    intervals = [shares_interval(m, other_total, n, total) for n, m in pairs]
    table[["low", "high"]] = np.array(intervals).reshape(-1, 2)
    p_values = [same_shares(np.array([[n, total - n], [m, other_total - m]])) for n, m in pairs]
    # Of two labels one gains what the other loses: a single question, where a text has one.
    is_one = len(table) < 2 + (not several)
    table["p_value"] = p_values if is_one else adjust_holm(p_values)
    order = table.assign(rarity=-table["n"] - table["other_n"])
    table = table.loc[order.sort_values(["p_value", "rarity", "label"]).index]
    table = table.reset_index(drop=True)
    if several:
        return table, table["p_value"].min() if len(table) else 1.0
    return table, same_shares(table[["n", "other_n"]].to_numpy().T)


def minute(time: pd.Timestamp) -> str:
    """A time as people write it."""
    return f"{time:%Y-%m-%d %H:%M}"
