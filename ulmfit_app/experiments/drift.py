"""How often `monitor` rings, for nothing and for something: new texts drawn from a run's own test
split, with a share of foreign ones among them.

Where foreign texts have labels, estimates of the accuracy without labels are compared with what it
is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import progress, replacing
from ulmfit_app.data.opening import name_without_suffix
from ulmfit_app.data.reading import read_chunks, read_texts
from ulmfit_app.errors import DataError, RunFolderError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.accuracy_estimate import estimate_accuracy, estimate_by_threshold
from ulmfit_app.evaluation.drift import LARGE, LARGE_DISTANCE, Drift, Sample, compare
from ulmfit_app.evaluation.drift_figures import power_figure
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import save_result
from ulmfit_app.experiments.drift_texts import join, keep_sample
from ulmfit_app.files import sha256_of_path, write_table
from ulmfit_app.inference.file_checks import choose_text_column
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.pipeline.monitored import MOST_STATES, sample_run, sample_texts
from ulmfit_app.pipeline.run import Run
from ulmfit_app.serving.card import name_model

MOST_TESTED, MOST_FOREIGN = 10_000, 1_000  # texts that are drawn from
FEWEST_DRAWS = 20  # of rows with foreign texts, which get a fifth of the draws
ALL = 1.0
QUESTIONS = (
    *("lengths", "unknown words", "language", "confidence", "labels", "unfamiliar texts"),
    *("states", "words"),
)
ESTIMATES = ("difference", "mean", "threshold")  # of the accuracy


@dataclass(frozen=True)
class Pool:
    """Texts to draw from.

    Args:
        name: of a file; "" of the run's own.
        sample: of the foreign ones with all states, of the run's own with those of the first.
        right: the share of each answer that is right, [n]; None without labels.
    """

    name: str
    sample: Sample
    right: np.ndarray | None


def run_drift(
    folder: Path,
    out: Path,
    foreign: Sequence[Path],
    sizes: Sequence[int],
    shares: Sequence[float],
    draws: int,
    label: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Draw new texts many times, and count how often drift is rung for.

    Args:
        folder: of the run, whose test split is drawn from.
        out: gets drift.csv, drift.md, drift.png, draws.csv, and what the run makes of the texts.
        foreign: files of other texts.
        sizes: numbers of new texts.
        shares: of foreign texts among them; ALL is asked, too.
        draws: of the run's own texts; of the others a fifth, but FEWEST_DRAWS.
        label: the column of true labels in the foreign files; None: "label", if they have one.

    Returns:
        One row per foreign file, share and size, as `measure` gives it; and paragraphs of how it
        was measured, and of what is left out.

    Raises:
        RunFolderError, BundleError: the run has no classifier, or too few test texts.
        DataError: a file cannot be read, or has labels that the run lacks.
        SettingError: a share or a size is none.
    """
    _check(sizes, shares, draws)
    run, predictor = Run.open(folder), load_predictor(folder)
    model = name_model(folder, predictor)
    out.mkdir(parents=True, exist_ok=True)
    own = keep_sample(out / "texts-own.npz", model, lambda: _read_own(run, predictor))
    pool = Pool("", *own)
    others = [
        Pool(
            name_without_suffix(path),
            *keep_sample(
                out / f"texts-{name_without_suffix(path)}.npz",
                f"{model} {sha256_of_path(path)} {label}",
                lambda path=path: _read_foreign(run, predictor, path, label),
            ),
        )
        for path in foreign
    ]
    possible = [n for n in sorted(set(sizes)) if 2 * n <= len(pool.sample)]
    if not possible:
        raise RunFolderError(
            f"The run in {folder} has {count_texts(len(pool.sample))} to draw from, and half of "
            f"them are fewer than {min(sizes):,}. Name fewer: --sizes {len(pool.sample) // 2}"
        )
    table, drawn = measure(pool, others, predictor.labels, possible, sorted({*shares, ALL}), draws)
    write_table(out / "draws.csv", drawn)
    notes = _describe(pool, table, [n for n in sizes if n not in possible])
    save_result(out, "drift", table, power_figure(table))
    with replacing(out / "drift.md") as draft:
        draft.write_text(format_drift(table, notes), encoding="utf-8")
    return table, notes


def _check(sizes: Sequence[int], shares: Sequence[float], draws: int) -> None:
    for share in shares:
        if not 0 < share <= 1:
            raise SettingError(f"--shares must be more than 0 and at most 1, not {share:g}.")
    for name, values in (("--sizes", sizes), ("--draws", [draws])):
        if not values or min(values) < 1:
            raise SettingError(f"{name} must be 1 or more.")


# ------------------------------------------------------------------------------------------- texts
def _read_own(run: Run, predictor: Predictor) -> tuple[Sample, np.ndarray]:
    # Enough for those of a draw's new texts and of its old ones.
    sample, right, _ = sample_run(run, predictor, 2 * MOST_STATES, MOST_TESTED)
    return sample, right


def _read_foreign(
    run: Run, predictor: Predictor, path: Path, label: str | None
) -> tuple[Sample, np.ndarray | None]:
    columns = list(next(read_chunks(path, "utf-8", 1)))
    if label is not None and label not in columns:
        raise DataError(
            f"{path} has no column {quoted([label])}. Its columns are {quoted(columns)}. Leave "
            "--label out, or name one of them."
        )
    text = choose_text_column(columns, path, None, run.record.data.text_column)
    column, frames = read_texts(path, text)
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows[column].str.strip() != ""]
    rows = rows.sample(min(len(rows), MOST_FOREIGN), random_state=0)
    sample, _ = sample_texts(rows[column].tolist(), predictor, MOST_FOREIGN)
    named = label or ("label" if "label" in columns and column != "label" else None)
    if named is None:
        return sample, None
    truth = run.corpus.truth(rows[named])
    if (truth < 0).any():
        wrong = rows[named][truth < 0].iloc[0]
        raise DataError(
            f"{path} has the label {quoted([wrong])}, which the run lacks; it has "
            f"{quoted(predictor.labels)}. Rename it, or drop the column {quoted([named])}."
        )
    same = sample.answers == truth
    return sample, same.mean(axis=1) if same.ndim == 2 else same.astype(float)


# ------------------------------------------------------------------------------------------- draws
def measure(
    own: Pool,
    others: Sequence[Pool],
    labels: Sequence[str],
    sizes: Sequence[int],
    shares: Sequence[float],
    draws: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw, and ask.

    Args:
        own, others: what is drawn from.
        labels: of the run.
        sizes, shares, draws: as `run_drift` takes them.

    Returns:
        Columns foreign, share, n, n_old, draws, rings, rate with low and high (95 %), sure (draws
        with a sure change of any size); of each question how many draws it rang in; accuracy (mean
        over draws, NaN without labels), and of each of ESTIMATES error and worst: the mean and the
        largest, in either direction, of estimate less accuracy, in points; inside: the share of
        draws whose accuracy lies in the interval of `estimate_accuracy`. And a row per draw and
        question: foreign, share, n, draw, question, effect, low, high and p_adjusted.
    """
    work = [(None, 0.0, n, draws) for n in sizes]
    few = max(FEWEST_DRAWS, draws // 5)
    for other in others:
        there = len(other.sample)
        work += [(other, share, n, few) for share in shares for n in sizes if share * n <= there]
    found, drawn = [], []
    for other, share, n, times in progress(work, description="Drawing", unit=" rows"):
        asked = [_draw(own, other, share, n, labels, seed) for seed in range(times)]
        line = {"foreign": other.name if other else "", "share": share, "n": n}
        found.append(line | {"n_old": asked[0][0].n_old} | _summarise(asked))
        drawn += [line | row for row in _rows_of(drift for drift, _ in asked)]
    return pd.DataFrame(found), pd.DataFrame(drawn)


def _rows_of(drifts: Iterable[Drift]) -> Iterator[dict[str, Any]]:
    for draw, drift in enumerate(drifts):
        for one in drift.changes:
            of = one.difference
            row = {"draw": draw, "question": one.question, "effect": of.effect}
            yield row | {"low": of.low, "high": of.high, "p_adjusted": one.p_adjusted}


def _draw(
    own: Pool, other: Pool | None, share: float, n: int, labels: Sequence[str], seed: int
) -> tuple[Drift, dict[str, float] | None]:
    """What is found in n new texts, and how far estimates of their accuracy are off."""
    generator = np.random.default_rng([seed, n, round(1000 * share)])
    with_states = min(n, MOST_STATES)
    n_own, few = n - round(share * n), with_states - round(share * with_states)
    n_known = len(own.sample.states)
    known, unknown = generator.permutation(n_known), np.arange(n_known, len(own.sample))
    # Half of those whose states are known are left for the old texts, or more.
    more = generator.permutation(np.append(unknown, known[few + MOST_STATES :]))
    rows = np.append(known[:few], more[: n_own - few])
    rest = np.append(known[few : few + MOST_STATES], more[n_own - few :])
    new, right = own.sample.take(rows, few), own.right[rows]
    if other is not None:
        chosen = generator.choice(len(other.sample), n - n_own, replace=False)
        new = join(new, other.sample.take(chosen, with_states - few))
        right = None if other.right is None else np.append(right, other.right[chosen])
    old = own.sample.take(rest, min(MOST_STATES, n_known - few))
    drift = compare(old, new, labels, seed)
    if right is None:
        return drift, None
    estimate = estimate_accuracy(new.confidence, old.confidence, own.right[rest])
    accuracy = float(right.mean())
    errors = {
        "difference": estimate.accuracy - accuracy,
        "mean": float(new.confidence.mean()) - accuracy,
        "threshold": estimate_by_threshold(new.confidence, old.confidence, own.right[rest])
        - accuracy,
    }
    inside = float(estimate.low <= accuracy <= estimate.high)
    return drift, errors | {"accuracy": accuracy, "inside": inside}


def _summarise(asked: list[tuple[Drift, dict[str, float] | None]]) -> dict[str, float]:
    n = len(asked)
    rings = sum(drift.rings for drift, _ in asked)
    low, high = accuracy_interval(rings, n)
    line: dict[str, float] = {"draws": n, "rings": rings, "rate": rings / n}
    line |= {"low": low, "high": high}
    line["sure"] = sum(any(one.is_sure for one in drift.changes) for drift, _ in asked)
    for name in QUESTIONS:
        rang = (one.matters for drift, _ in asked for one in drift.changes if one.question == name)
        line[name] = sum(rang)
    known = [errors for _, errors in asked if errors is not None]
    for name in ("accuracy", "inside"):
        line[name] = float(np.mean([one[name] for one in known])) if known else np.nan
    for name in ESTIMATES:
        errors = np.array([100 * one[name] for one in known])
        line[f"error_{name}"] = float(errors.mean()) if known else np.nan
        line[f"worst_{name}"] = float(errors[np.abs(errors).argmax()]) if known else np.nan
    return line


# --------------------------------------------------------------------------------------- its words
def _describe(pool: Pool, table: pd.DataFrame, too_large: Sequence[int]) -> list[str]:
    own = table[table["share"] == 0]
    rings, draws = int(own["rings"].sum()), int(own["draws"].sum())
    low, high = accuracy_interval(rings, draws)
    notes = [
        f"False alarms: {rings:,} of {draws:,} draws of the run's own texts ring, "
        f"{rings / draws:.1%} ({low:.1%} to {high:.1%}).",
        f"New texts are drawn from {count_texts(len(pool.sample))} that the run never learned "
        "from, and compared with those that are left; foreign ones take the place of a share of "
        f"them. It rings for a change that is sure (p below 0.05, adjusted by Holm) and large ("
        f"{LARGE:.0%} of the texts, or {LARGE_DISTANCE} standard deviations between the means of "
        "states). Sure: a change of any size.",
    ]
    if too_large:
        sizes = " and ".join(f"{n:,}" for n in too_large)
        notes.append(f"Left out: {sizes} new texts, more than half of those there are.")
    if table["accuracy"].notna().any():
        notes.append(
            "Estimates of the accuracy without labels, in points above what it is; in brackets "
            "the largest error of a draw. Difference: the accuracy before plus the change of mean "
            "confidence (what `monitor` says); mean: the mean confidence; threshold: average "
            "thresholded confidence (Garg et al. 2022). Inside: how often the accuracy lies in "
            "the 95 % interval of the first."
        )
    return notes


def format_drift(table: pd.DataFrame, notes: list[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_drift` returns."""
    rows, estimates = [], []
    for line in table.to_dict("records"):
        what = f"{line['share']:.0%} {line['foreign']}" if line["foreign"] else "the run's own"
        by = [f"{name} {line[name]:,}" for name in QUESTIONS if line[name]]
        rate = f"{line['rate']:.0%} ({line['low']:.0%} to {line['high']:.0%})"
        sure = f"{line['sure'] / line['draws']:.0%}"
        rows.append([what, f"{line['n']:,}", f"{line['draws']:,}", rate, sure, ", ".join(by)])
        if not np.isnan(line["accuracy"]):
            off = [f"{line[f'error_{e}']:+.1f} ({line[f'worst_{e}']:+.1f})" for e in ESTIMATES]
            inside = f"{line['inside']:.0%}"
            estimates.append(
                [what, f"{line['n']:,}", f"{100 * line['accuracy']:.1f}", *off, inside]
            )
    header = ["new texts", "n", "draws", "rings", "sure", "draws in which a question rings"]
    parts = [markdown_table(header, rows)]
    if estimates:
        header = ["new texts", "n", "accuracy, %", *ESTIMATES, "inside"]
        parts.append(markdown_table(header, estimates))
    return "\n\n".join([*parts, *notes]) + "\n"
