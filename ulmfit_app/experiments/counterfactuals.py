"""Whether a run's answers depend on who a text is about: identity terms swapped, answers compared.

The gap is that of counterfactual token fairness (Garg et al. 2019, "Counterfactual Fairness in
Text Classification through Robustness", section 3): the mean distance of two probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import progress
from ulmfit_app.data.encodings import replace_lone_surrogates
from ulmfit_app.data.identity_terms import Kind, Mention, load_terms, read_terms
from ulmfit_app.data.reading import read_texts
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.independent import adjust_holm
from ulmfit_app.evaluation.metrics import SIGNIFICANT, paired_comparison
from ulmfit_app.evaluation.robustness_figure import counterfactuals_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import measure_share
from ulmfit_app.experiments.questioned import Questioned, Texts, save_answers

KIND = "counterfactuals"
EXCHANGED = "exchanged"  # in the place of a group, where a text mentions both
SHIFT = ("log_odds", "log_odds_low", "log_odds_high")
COLUMNS = [
    *("kind", "before", "after", "n", "changed", "changed_share", "low", "high", "label"),
    *("gained", "lost", "p_value", *SHIFT, "gap"),
]
CHANGED = [
    *("kind", "before", "after", "row", "predicted", "probability", "predicted_swapped"),
    *("probability_swapped", "log_odds", "text", "text_swapped"),
]
TINIEST = np.finfo(float).eps
MOST_NAMED = 5  # swaps, in a sentence
FEWEST = 10  # texts of a swap that is tested and shown; of fewer, the table alone has it


@dataclass(frozen=True)
class Asked:
    """What is followed: a label of a run.

    Attributes:
        questioned: the run.
        label: its index.
    """

    questioned: Questioned
    label: int

    @property
    def name(self) -> str:
        """The label's."""
        return self.questioned.labels[self.label]


@dataclass(frozen=True)
class Swap:
    """Texts of a kind in which one group's terms are swapped for another's.

    Attributes:
        kind, before, after: names; after is EXCHANGED where texts mention both groups.
        places: of the texts, [n].
        texts: swapped, [n].
    """

    kind: str
    before: str
    after: str
    places: list[int]
    texts: list[str]


def run_counterfactuals(
    folder: Path,
    out: Path,
    terms: Path | None,
    file: tuple[Path, str | None] | None,
    label: str | None,
    max_texts: int,
    seed: int,
) -> tuple[pd.DataFrame, list[str]]:
    """Measure how a run's answers change with the people that texts mention.

    Args:
        folder: of the run, whose classifier is finished.
        out: gets counterfactuals.csv, .md and .png, and where answers change,
            counterfactuals-texts.csv.
        terms: a table as `read_terms` reads it; None: the package's, in the texts' language.
        file: texts, and the name of their column; None: the run's test split.
        label: that is followed; None: of two, the second.
        max_texts: at most, of those that are asked about.
        seed: of the draw.

    Returns:
        A row for each kind and two groups, in the order in which one takes the other's place, and
        for texts that mention both: kind, before, after, n (texts), changed (answers),
        changed_share in % with low and high, label (that is followed), gained and lost (answers
        with it), p_value (McNemar's, of the two, adjusted by Holm over the table; NaN for fewer
        than FEWEST texts), log_odds (its mean shift) with log_odds_low and log_odds_high, gap
        (mean distance of the label's probability, in points). And what held, in sentences.

    Raises:
        SettingError: no label is named, where there are several; a name is none; or the package
            has no terms in the language.
        DataError: no text mentions any term, or as `read_terms` and `read_texts` raise it.
        RunFolderError, BundleError: as `Questioned` raises them.
    """
    questioned = Questioned(folder)
    asked = Asked(questioned, find_label(questioned, label))
    kinds = read_terms(terms) if terms else load_terms(questioned.language)
    if file:
        texts = _read_texts(*file, max_texts, seed)
    else:
        texts = questioned.draw_tested(max_texts, seed)
    swaps, n_mention = find_swaps(kinds, texts.texts)
    if not swaps:
        raise DataError(
            f"No term of {quoted([kind.name for kind in kinds])} that can be swapped stands in "
            f"{count_texts(len(texts))}. Give other texts: --file, or other terms: --terms"
        )
    table, changed = measure_swaps(asked, texts, swaps)
    notes = describe(table)
    drawn = f"{n_mention:,} of {count_texts(len(texts))} mention one of the groups"
    source = file[0].name if file else f"the {questioned.run.corpus.test_name}"
    notes.append(f"Texts: {source}; {drawn}. Nothing was chosen by them.")
    if questioned.predictor.decision.by_group is not None:
        notes.append("Thresholds by group stay those of the group that a text had before.")
    page = format_counterfactuals(table, notes)
    save_answers(out, KIND, table, counterfactuals_figure(find_shown(table)), changed, page)
    return table, notes


def find_label(questioned: Questioned, name: str | None) -> int:
    """The index of the label that is followed.

    Raises:
        SettingError: it is none of the run's, or none is named and there are not two.
    """
    labels, several = questioned.labels, questioned.run.corpus.multilabel
    if name is None and len(labels) == 2 and not several:
        return 1
    if name not in labels:
        found = "none is named" if name is None else f"{name!r} is none of them"
        raise SettingError(
            f"The labels of {questioned.run.folder} are {quoted(labels)}, and {found}. Name the "
            f"one whose log-odds are followed: --label {labels[0]}"
        )
    return labels.index(name)


def _read_texts(path: Path, column: str | None, most: int, seed: int) -> Texts:
    """A file's texts, drawn at random where there are more than `most`."""
    column, frames = read_texts(path, column)
    texts = replace_lone_surrogates(pd.concat([frame[column] for frame in frames]))
    texts = texts.reset_index(drop=True)
    if len(texts) > most:
        texts = texts.sample(most, random_state=seed).sort_index()
    return Texts(texts.tolist(), texts.index.tolist())


# ------------------------------------------------------------------------------------------- swaps
def find_swaps(kinds: Sequence[Kind], texts: Sequence[str]) -> tuple[list[Swap], int]:
    """Texts with swapped terms, by kind and groups; and how many texts mention any group.

    A text that mentions one of two groups counts where that one gives way to the other; one that
    mentions both has them exchanged.
    """
    swaps, mentioning = [], set()
    bar = progress(kinds, description="Finding identity terms", unit=" kinds")
    for kind in bar:
        found = [kind.find(text) for text in texts]
        mentioning |= {i for i, mentions in enumerate(found) if mentions}
        for one, other in kind.pairs():
            ways = {(one, other): [], (other, one): [], (f"{one}, {other}", EXCHANGED): []}
            for i, mentions in enumerate(found):
                new = kind.swap(texts[i], mentions, one, other) if mentions else texts[i]
                if new != texts[i]:
                    ways[_way_of(mentions, one, other)].append((i, new))
            swaps += [
                Swap(kind.name, *way, *map(list, zip(*of, strict=True)))
                for way, of in ways.items()
                if of
            ]
    return swaps, len(mentioning)


def _way_of(mentions: Sequence[Mention], one: str, other: str) -> tuple[str, str]:
    there = {mention.group for mention in mentions} & {one, other}
    if len(there) == 2:
        return f"{one}, {other}", EXCHANGED
    return (one, other) if one in there else (other, one)


def measure_swaps(
    asked: Asked, texts: Texts, swaps: Sequence[Swap]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table that `run_counterfactuals` returns, and the texts whose answers changed."""
    questioned = asked.questioned
    used = sorted({place for swap in swaps for place in swap.places})
    row_of = {place: i for i, place in enumerate(used)}
    before = questioned.probabilities([texts.texts[i] for i in used])
    lines, changed = [], []
    for swap in progress(swaps, description="Asking again", unit=" pairs of groups"):
        own = before[[row_of[place] for place in swap.places]]
        new = questioned.probabilities(swap.texts)
        groups = texts.groups and [texts.groups[i] for i in swap.places]
        of = Texts(swap.texts, swap.places, None, groups)
        answers = [questioned.answer(each, of) for each in (own, new)]
        lines.append(_measure(asked, swap, (own, new), answers))
        changed += _show_changed(asked, texts, swap, (own, new), answers)
    table = pd.DataFrame(lines, columns=COLUMNS)
    table.loc[table["n"] < FEWEST, "p_value"] = np.nan
    known = table["p_value"].notna()
    table.loc[known, "p_value"] = adjust_holm(table.loc[known, "p_value"].tolist())
    shown = pd.DataFrame(changed, columns=CHANGED)
    return table, shown.sort_values("log_odds", key=abs, ascending=False, ignore_index=True)


def _differ(answers: Sequence[np.ndarray]) -> np.ndarray:
    differ = answers[0] != answers[1]
    return differ.any(axis=1) if differ.ndim == 2 else differ


def _shifts(probabilities: tuple[np.ndarray, np.ndarray], label: int) -> np.ndarray:
    """How the log-odds of a label change, [n]."""
    own, new = (np.clip(p[:, label], TINIEST, 1 - TINIEST) for p in probabilities)
    return np.log(new / (1 - new)) - np.log(own / (1 - own))


def _measure(
    asked: Asked,
    swap: Swap,
    probabilities: tuple[np.ndarray, np.ndarray],
    answers: Sequence[np.ndarray],
) -> dict[str, Any]:
    label, differ = asked.label, _differ(answers)
    had, has = (of[:, label] if of.ndim == 2 else of == label for of in answers)
    compared, shifts = paired_comparison(has, had), _shifts(probabilities, label)
    share = measure_share("changed_share", differ)
    gap = np.abs(probabilities[1][:, label] - probabilities[0][:, label]).mean()
    line = {"kind": swap.kind, "before": swap.before, "after": swap.after}
    line |= share | {"changed": int(differ.sum()), "label": asked.name, "gap": 100 * float(gap)}
    line |= {"gained": compared["only_first_right"], "lost": compared["only_other_right"]}
    if swap.after != EXCHANGED:  # which has no direction
        low, high = _mean_interval(shifts)
        line |= {"p_value": compared["p_value"]}
        line |= dict(zip(SHIFT, (float(shifts.mean()), low, high), strict=True))
    return line


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; NaN for a single value."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    half_width = float(t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / n**0.5
    return float(values.mean()) - half_width, float(values.mean()) + half_width


def _show_changed(
    asked: Asked,
    texts: Texts,
    swap: Swap,
    probabilities: tuple[np.ndarray, np.ndarray],
    answers: Sequence[np.ndarray],
) -> list[dict]:
    """The texts whose answers changed, each as a line."""
    shifts, label = _shifts(probabilities, asked.label), asked.label
    said = [[_name(asked, answer) for answer in of] for of in answers]
    return [
        {
            "kind": swap.kind,
            "before": swap.before,
            "after": swap.after,
            "row": texts.rows[swap.places[i]],
            "predicted": said[0][i],
            "probability": probabilities[0][i, label],
            "predicted_swapped": said[1][i],
            "probability_swapped": probabilities[1][i, label],
            "log_odds": shifts[i],
            "text": texts.texts[swap.places[i]],
            "text_swapped": swap.texts[i],
        }
        for i in np.flatnonzero(_differ(answers))
    ]


def _name(asked: Asked, answer: Any) -> str:
    labels = asked.questioned.labels
    if np.ndim(answer):
        return ", ".join(name for name, has in zip(labels, answer, strict=True) if has)
    return labels[answer]


# --------------------------------------------------------------------------------------- its words
def describe(table: pd.DataFrame) -> list[str]:
    """What held, in sentences. table: what `run_counterfactuals` returns."""
    notes, label = [], table["label"].iloc[0]
    for kind, of in table.groupby("kind", sort=False):
        said = f"{kind}: {of['changed'].sum():,} of {of['n'].sum():,} swaps change the answer"
        shown = of[of["n"] >= FEWEST]
        if shown["changed"].any():
            worst = shown.loc[shown["changed_share"].idxmax()]
            share = f"{worst.changed_share:.1f} % ({worst.low:.1f} to {worst.high:.1f})"
            said += f", most often {_way(worst)}, {share} of {worst.n:,}"
        if shown["log_odds"].notna().any():
            largest = shown.loc[shown["log_odds"].abs().idxmax()]
            said += (
                f". The largest shift of the log-odds of {label!r} is that of {_way(largest)}, "
                f"{_shift(largest)}"
            )
        notes.append(f"{said}.")
    few = len(table) - len(find_shown(table))
    if few:
        notes.append(
            f"Swaps of fewer than {FEWEST} texts, which tell little, stand in the CSV alone: "
            f"{few:,} of {len(table):,}."
        )
    sure = table[table["p_value"] < SIGNIFICANT]
    for word, of in (("more", sure[sure["gained"] > sure["lost"]]),
                     ("less", sure[sure["gained"] < sure["lost"]])):  # fmt: skip
        ways = [
            f"{_way(line)} ({line.gained:,} gained, {line.lost:,} lost)"
            for line in of.sort_values("p_value", kind="stable").itertuples()
        ]
        rest = f" and {len(ways) - MOST_NAMED:,} more" if len(ways) > MOST_NAMED else ""
        if ways:
            named = ", ".join(ways[:MOST_NAMED])
            notes.append(f"{label!r} is given {word} often where one swaps: {named}{rest}.")
    if sure.empty:
        notes.append(
            f"No swap of {FEWEST} texts or more changes how often {label!r} is given, beyond "
            "chance."
        )
    return notes


def find_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The swaps of enough texts, or where none has, all; of what `run_counterfactuals` returns."""
    enough = table[table["n"] >= FEWEST]
    return enough if len(enough) else table


def _shift(line: Any) -> str:
    if np.isnan(line.log_odds_low):
        return f"{line.log_odds:+.2f}"
    return f"{line.log_odds:+.2f} ({line.log_odds_low:+.2f} to {line.log_odds_high:+.2f})"


def _way(line: Any) -> str:
    exchanged = line.after == EXCHANGED
    return f"{line.before} exchanged" if exchanged else f"{line.before} to {line.after}"


def format_counterfactuals(table: pd.DataFrame, notes: Sequence[str]) -> str:
    """A page to read or to paste. table, notes: what `run_counterfactuals` returns."""
    rows, label = [], table["label"].iloc[0]
    for line in find_shown(table).itertuples():
        directed = line.after != EXCHANGED
        rows.append(
            [
                line.kind,
                _way(line),
                f"{line.n:,}",
                f"{line.changed_share:.1f} ({line.low:.1f} to {line.high:.1f})",
                f"{line.gained:,}",
                f"{line.lost:,}",
                "" if np.isnan(line.p_value) else f"{line.p_value:.2g}",
                _shift(line) if directed else "",
                f"{line.gap:.1f}",
            ]
        )
    header = ["kind", "swap", "n", "% of answers changed", "gained", "lost", "p"]
    header += [f"log-odds of {label}", "gap"]
    lines = [
        f"Texts with the people in them swapped, with 95 % intervals. Gained and lost: answers "
        f"{label!r}, with the p-value of McNemar's test of the two, adjusted by Holm over the "
        f"table. Log-odds: the mean shift; of twenty such intervals, one is without 0 by chance. "
        "Gap: the mean distance of its probability, in points.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
