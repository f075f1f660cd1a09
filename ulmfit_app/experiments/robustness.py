"""How a run's answers bear changed texts, and texts of other sources.

The same test texts are scored unchanged and changed, so that differences are paired. Nothing is
chosen by them; who trains anew until this table looks better has used the test split up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import progress
from ulmfit_app.data.perturbations import Perturbation, perturb, perturbations_of
from ulmfit_app.errors import SettingError, count_texts
from ulmfit_app.evaluation.independent import adjust_holm, same_shares, shares_interval
from ulmfit_app.evaluation.metrics import (
    SIGNIFICANT,
    expected_calibration_error,
    paired_comparison,
)
from ulmfit_app.evaluation.robustness_figure import robustness_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import AGAINST, measure_share
from ulmfit_app.experiments.questioned import (
    Questioned,
    Texts,
    require_one_label,
    save_answers,
)

KIND = "robustness"
UNCHANGED, CHANGED, OPPOSITE, DOMAIN = "unchanged", "changed", "opposite", "domain"  # column kind
MOST_EXAMPLES = 20  # of each kind of change


@dataclass(frozen=True)
class Scored:
    """What a run makes of texts.

    Attributes:
        probabilities: calibrated, [n, n_labels].
        answers: [n].
        right: boolean [n].
    """

    probabilities: np.ndarray
    answers: np.ndarray
    right: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """The probability of each answer, [n]."""
        return self.probabilities[np.arange(len(self.answers)), self.answers]


def run_robustness(
    folder: Path,
    out: Path,
    strengths: Sequence[float],
    max_texts: int,
    seed: int,
    domains: Sequence[Path] = (),
    columns: tuple[str | None, str | None] = (None, None),
) -> tuple[pd.DataFrame, list[str]]:
    """Measure what changes of its test texts, and other sources, do to a run's answers.

    Args:
        folder: of the run, whose classifier is finished.
        out: gets robustness.csv, .md and .png, and where answers go wrong, robustness-texts.csv.
        strengths: of the changes, more than 0 and at most 1.
        max_texts: at most, of the test split and of each domain.
        seed: of the draw and the changes.
        domains: labelled files.
        columns: of their texts and of their labels; None where there is no doubt.

    Returns:
        A row for the unchanged texts, for each change and strength, and for each domain: kind,
        what, strength in %, n, edited (texts that differ), accuracy with low and high, against
        unchanged the columns AGAINST, changed (answers) with changed_low and changed_high,
        confidence (mean) and calibration_error, all shares in %. p_value is McNemar's, of a domain
        that of independent shares, each adjusted by Holm over the table. Opposites have no
        accuracy. And what held, in sentences.

    Raises:
        SettingError: a strength is no share, or texts may have several labels.
        RunFolderError, BundleError, DataError: as `Questioned` raises them.
    """
    _check_strengths(strengths)
    questioned = Questioned(folder)
    require_one_label(questioned, KIND)
    tested = questioned.draw_tested(max_texts, seed)
    others = [
        (path.name, *questioned.read_domain(path, *columns, max_texts, seed)) for path in domains
    ]
    plain = _score(questioned, tested, tested.texts)
    lines, examples, said = _measure_changes(questioned, tested, plain, strengths, seed)
    lines += [_measure_domain(questioned, name, of, plain) for name, of, _ in others]
    table = _adjust(pd.DataFrame(lines))
    notes = [*describe(table), f"{_describe_draw(questioned, tested)} {said}".strip()]
    notes += [note for _, _, notes_of in others for note in notes_of]
    page, figure = format_robustness(table, notes), robustness_figure(table)
    save_answers(out, KIND, table, figure, pd.DataFrame(examples, columns=EXAMPLE), page)
    return table, notes


def _check_strengths(strengths: Sequence[float]) -> None:
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise SettingError(
            "--strengths must be shares, more than 0 and at most 1, such as 0.05 0.25; found "
            f"{' '.join(f'{strength:g}' for strength in strengths) or 'none'}."
        )


# ----------------------------------------------------------------------------------------- figures
EXAMPLE = [
    *("what", "strength", "row", "label", "predicted", "confidence"),
    *("predicted_changed", "confidence_changed", "text", "text_changed"),
]


def _score(
    questioned: Questioned, of: Texts, texts: Sequence[str], plain: Scored | None = None
) -> Scored:
    """What the run makes of texts. plain: what it makes of those of `of`, where some are equal."""
    if plain is None:
        probabilities = questioned.probabilities(texts)
    else:
        probabilities = plain.probabilities.copy()
        differ = [i for i, text in enumerate(texts) if text != of.texts[i]]
        if differ:
            probabilities[differ] = questioned.probabilities([texts[i] for i in differ])
    answers = questioned.answer(probabilities, of)
    return Scored(probabilities, answers, answers == of.truth)


def _describe_line(kind: str, what: str, strength: float, found: Scored, of: Texts) -> dict:
    return {
        "kind": kind,
        "what": what,
        "strength": 100 * strength,
        **measure_share("accuracy", found.right),
        "confidence": 100 * float(found.confidence.mean()),
        "calibration_error": 100 * expected_calibration_error(found.probabilities, of.truth),
    }


def _measure_changes(
    questioned: Questioned, tested: Texts, plain: Scored, strengths: Sequence[float], seed: int
) -> tuple[list[dict], list[dict], str]:
    """A line for the unchanged texts and for each change and strength, the worst examples, and
    what is left out, in sentences."""
    (kinds, left_out), strengths = perturbations_of(questioned.language), sorted(set(strengths))
    lines, examples = [_describe_line(UNCHANGED, UNCHANGED, 0.0, plain, tested)], []
    unfit, n = [], len(kinds) * len(strengths)
    with progress(total=n, description="Changing texts", unit=" times") as bar:
        for by in kinds:
            found, worst = _measure_change(
                questioned, tested, plain, by, strengths, seed, bar.update
            )
            lines, examples = [*lines, *found], [*examples, *worst]
            unfit += [] if found else [by.name]
    said = []
    if left_out:
        said.append(f"Not for texts in {questioned.language}: {_list(left_out)}")
    if unfit:
        said.append(f"Nothing to change was found for: {_list(unfit)}")
    return lines, examples, " ".join(said)


def _measure_change(
    questioned: Questioned,
    of: Texts,
    plain: Scored,
    by: Perturbation,
    strengths: Sequence[float],
    seed: int,
    done: Any,
) -> tuple[list[dict], list[dict]]:
    """Lines of a kind of change, and its worst examples; none where it changes no text."""
    lines, fallen = [], {}
    for strength in strengths:
        texts = perturb(of.texts, of.rows, by, strength, seed)
        found = _score(questioned, of, texts, plain)
        edited = sum(new != old for new, old in zip(texts, of.texts, strict=True))
        line = _describe_line(
            CHANGED if by.keeps_label else OPPOSITE, by.name, strength, found, of
        )
        line |= {"edited": edited} | _compare(found, plain)
        changed = measure_share("changed", found.answers != plain.answers)
        line |= {"changed": changed["changed"]}
        line |= {f"changed_{end}": changed[end] for end in ("low", "high")}
        if not by.keeps_label:
            unknown = ("accuracy", "low", "high", "calibration_error", *AGAINST)
            line |= dict.fromkeys(unknown, np.nan)
        lines.append(line)
        for i in np.flatnonzero(plain.right & ~found.right if by.keeps_label else []):
            # The smallest change that was enough.
            fallen.setdefault(int(i), (strength, found, texts[i]))
        done()
    if not any(line["edited"] for line in lines):
        return [], []
    worst = sorted(fallen, key=lambda i: -fallen[i][1].confidence[i])[:MOST_EXAMPLES]
    return lines, [_show(questioned, of, plain, by, i, *fallen[i]) for i in worst]


def _compare(found: Scored, plain: Scored) -> dict[str, float]:
    """The columns AGAINST, in points: changed less unchanged, on the same texts."""
    compared = paired_comparison(found.right, plain.right)
    bounds = compared["accuracy_difference_ci95"]
    points = [100 * value for value in (compared["accuracy_difference"], *bounds)]
    return dict(zip(AGAINST, [*points, compared["p_value"]], strict=True))


def _show(
    questioned: Questioned,
    of: Texts,
    plain: Scored,
    by: Perturbation,
    i: int,
    strength: float,
    found: Scored,
    text: str,
) -> dict:
    labels = questioned.labels
    return {
        "what": by.name,
        "strength": 100 * strength,
        "row": of.rows[i],
        "label": labels[of.truth[i]],
        "predicted": labels[plain.answers[i]],
        "confidence": plain.confidence[i],
        "predicted_changed": labels[found.answers[i]],
        "confidence_changed": found.confidence[i],
        "text": of.texts[i],
        "text_changed": text,
    }


def _measure_domain(questioned: Questioned, name: str, of: Texts, plain: Scored) -> dict:
    """The line of texts of another source, against other texts of the run's own."""
    found = _score(questioned, of, of.texts)
    n_right, n, own_right, own = (
        *(int(found.right.sum()), len(found.right)),
        *(int(plain.right.sum()), len(plain.right)),
    )
    bounds = shares_interval(n_right, n, own_right, own)
    p_value = same_shares(np.array([[n_right, n - n_right], [own_right, own - own_right]]))
    points = [100 * value for value in (n_right / n - own_right / own, *bounds)]
    line = _describe_line(DOMAIN, name, np.nan, found, of)
    return line | dict(zip(AGAINST, [*points, p_value], strict=True))


def _adjust(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order, and p-values adjusted over all its questions."""
    asked = table["p_value"].notna()
    table.loc[asked, "p_value"] = adjust_holm(table.loc[asked, "p_value"].tolist())
    shares = ["accuracy", "low", "high", *AGAINST, "changed", "changed_low", "changed_high"]
    columns = ["kind", "what", "strength", "n", "edited", *shares]
    return table.reindex(columns=[*columns, "confidence", "calibration_error"])


# --------------------------------------------------------------------------------------- its words
def describe(table: pd.DataFrame) -> list[str]:
    """What held, in sentences. table: what `run_robustness` returns."""
    plain, changes = table.iloc[0], table[table["kind"] == CHANGED]
    hurt, borne = [], []
    for what, of in changes.groupby("what", sort=False):
        sure = of[(of["p_value"] < SIGNIFICANT) & (of["difference"] < 0)]
        if sure.empty:
            borne.append(f"{what} (at most {-of['difference_low'].min():.1f})")
        else:
            first, last = sure.iloc[0], of.iloc[-1]
            said = f"{what} ({first.difference:+.1f} points at {first.strength:g} %"
            if last.name != first.name:
                said += f", {last.difference:+.1f} at {last.strength:g} %"
            hurt.append(f"{said})")
    notes = []
    if hurt:
        notes.append(f"It loses accuracy, from the smallest share that shows it on: {_list(hurt)}")
    if borne:
        notes.append(f"No loss shows, and how many points the intervals allow: {_list(borne)}")
    if len(changes):
        surplus = (changes["confidence"] - changes["accuracy"]).idxmax()
        line, own = changes.loc[surplus], plain["confidence"] - plain["accuracy"]
        notes.append(
            f"Confidence less accuracy is {own:+.1f} points unchanged, and at most "
            f"{line.confidence - line.accuracy:+.1f}: by {line.what} at {line.strength:g} %, "
            f"where it is {line.confidence:.1f} % sure and {line.accuracy:.1f} % right."
        )
    for line in table[table["kind"] == OPPOSITE].groupby("what", sort=False).tail(1).itertuples():
        notes.append(
            f"{line.what.capitalize()}: {line.edited:,.0f} of {line.n:,} texts have one, and "
            f"{line.changed:.1f} % ({line.changed_low:.1f} to {line.changed_high:.1f}) of all "
            f"answers change where {line.strength:g} % of them are. A reader would change many "
            "where labels are opinions."
        )
    for line in table[table["kind"] == DOMAIN].itertuples():
        notes.append(
            f"{line.what}: {line.accuracy:.1f} % ({line.low:.1f} to {line.high:.1f}) of "
            f"{line.n:,}, {line.difference:+.1f} points, {_interval(line)} against the run's own "
            "test texts."
        )
    return notes


def _interval(line: Any) -> str:
    return f"{line.difference_low:+.1f} to {line.difference_high:+.1f}"


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names)}."


def _describe_draw(questioned: Questioned, tested: Texts) -> str:
    n_test = questioned.run.record.counts["test"]
    drawn = f"{len(tested):,} of " if len(tested) < n_test else ""
    name = questioned.run.corpus.test_name
    return f"Scored: {drawn}{count_texts(n_test)} of the {name}; nothing was chosen by them."


def format_robustness(table: pd.DataFrame, notes: Sequence[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_robustness` returns."""
    rows = []
    for line in table.itertuples():
        known, against = not np.isnan(line.accuracy), not np.isnan(line.difference)
        edited = "" if np.isnan(line.edited) else f"{line.edited:,.0f}"
        changed = ""
        if not np.isnan(line.changed):
            changed = f"{line.changed:.1f} ({line.changed_low:.1f} to {line.changed_high:.1f})"
        rows.append(
            [
                line.what,
                f"{line.strength:g}" if line.strength > 0 else "",
                edited,
                f"{line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f})" if known else "",
                f"{line.difference:+.1f} ({_interval(line)})" if against else "",
                f"{line.p_value:.2g}" if against else "",
                changed,
                f"{line.confidence:.1f}",
                f"{line.calibration_error:.1f}" if known else "",
            ]
        )
    header = [
        *("change", "% changed", "texts edited", "accuracy", "points", "p"),
        *("answers changed", "confidence", "calibration error"),
    ]
    own = int(table["n"].iloc[0])
    lines = [
        f"In %, with 95 % intervals, n = {own:,}. Points: accuracy less that of the same texts "
        "unchanged, paired (McNemar); of other sources, of other texts. p is adjusted by Holm "
        "over the table.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
