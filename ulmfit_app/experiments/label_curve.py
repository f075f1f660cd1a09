"""How the error falls with the number of labels (Howard and Ruder 2018, figure 3).

A label curve is scored on the test split, since nothing is chosen by it.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import (
    AGAINST,
    average_over_seeds,
    format_difference,
    format_error,
    measure_difference,
    measure_share,
    save_result,
    slug,
    start_from_general_text,
)
from ulmfit_app.experiments.rivals import fine_tuned_minilm, require_minilm, setfit
from ulmfit_app.experiments.trials import Trial, carry_out, read_facts

SEMI_SUPERVISED = "ULMFiT, semi-supervised"
SUPERVISED = "ULMFiT, supervised"
RANDOM_START = "the same without pretraining"
SCRATCH = "classifier from scratch"
TFIDF = "TF-IDF + logistic regression"
MINILM = {"MiniLM, fine-tuned": fine_tuned_minilm, "SetFit on MiniLM": setfit}
# The language models that classifiers of any number of labels start from.
SHARED = {SEMI_SUPERVISED: {}, RANDOM_START: {"pretrained": "none"}}

Points = dict[tuple[str, int], list[Trial]]  # of a way and a number of labels, a trial per seed


def run_label_curve(
    folder: Path, settings: Settings, at: list[int], seeds: int, minilm: bool = False
) -> pd.DataFrame:
    """Measure test errors against the number of labels.

    Semi-supervised, the language model is fine-tuned on all training texts and the unlabelled
    ones, and may start from one that has read such texts, as `auto` does on IMDb. Supervised, it
    starts from general text, and is fine-tuned on the labelled texts alone. Each run also uses the
    validation part, to keep its best epoch.

    Args:
        folder: gets a run folder per point and seed, and labels.csv and labels.png.
        settings: of the runs.
        at: numbers of labels.
        seeds: how many, from settings.seed on.
        minilm: MiniLM and SetFit, too.

    Returns:
        One row per way and number of labels: way, labels, n (texts), error (mean over seeds), low,
        high (95 %, for so many texts), against semi-supervised ULMFiT the columns AGAINST, and of
        each run minutes, and peak_memory_gb where the system says it.

    Raises:
        SettingError: numbers of labels that the data do not have, or a missing extra.
    """
    ways = [SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, TFIDF]
    if minilm:
        require_minilm()
        ways += MINILM
    every = range(settings.seed, settings.seed + seeds)
    _check_numbers(at, settings, every)
    lms = [
        Trial(
            f"lm-{slug(way)}-seed{seed}",
            replace(settings, seed=seed, lm=replace(settings.lm, **changes)),
            "lm",
        )
        for seed in every
        for way, changes in SHARED.items()
    ]
    carry_out(lms, folder, "Language models")
    # A start that has read unlabelled texts is no start of the supervised way.
    general = start_from_general_text(settings)
    points = {
        (way, n): [_plan_point(way, n, general, seed, folder) for seed in every]
        for n in sorted(at)
        for way in ways
    }
    carry_out([trial for trials in points.values() for trial in trials], folder, "Classifiers")
    table = _compare(points, folder)
    save_result(folder, "labels", table, label_curve_figure(table))
    return table


def _check_numbers(at: list[int], settings: Settings, every: range) -> None:
    """Raises SettingError for numbers of labels that cannot be, or are too many for a seed."""
    if not at or min(at) < 2:
        raise SettingError(
            f"--at {' '.join(map(str, at))}: expected numbers of labels, each 2 or more, "
            "such as --at 100 500"
        )
    for seed in every:
        most = (load_corpus(settings.data, seed).table["split"] == "train").sum()
        if max(at) > most:
            raise SettingError(
                f"--at {max(at)}: there are {most:,} labelled training texts besides the "
                "validation part."
            )


def _plan_point(way: str, n_labels: int, settings: Settings, seed: int, folder: Path) -> Trial:
    """A classifier from so many labels, or what stands in its place."""
    data = replace(settings.data, max_train=n_labels, max_unlabelled=0)
    s = replace(settings, seed=seed, data=data)
    name = f"{slug(way)}-{n_labels}-seed{seed}"
    if way == TFIDF:
        count_words = partial(tfidf_logistic_regression, language=s.tokens.language)
        return Trial(name, s, instead=count_words)
    if way in MINILM:
        return Trial(name, s, instead=MINILM[way])
    if way in SHARED:
        start = folder / f"lm-{slug(way)}-seed{seed}" / "lm"
        s = replace(s, lm=replace(s.lm, pretrained=str(start.absolute()), epochs=0))
    elif way == SCRATCH:
        s = replace(s, lm=replace(s.lm, pretrained="none", epochs=0))
    return Trial(name, s, last="report")


def _compare(points: Points, folder: Path) -> pd.DataFrame:
    """The table of the finished trials."""
    right = {point: read_right_on_test(trials, folder) for point, trials in points.items()}
    found = []
    for (way, n_labels), trials in points.items():
        hit = right[way, n_labels]
        line = {"way": way, "labels": n_labels, **measure_share("error", 1 - hit)}
        if way != SEMI_SUPERVISED:
            line |= measure_difference(right[SEMI_SUPERVISED, n_labels], hit)
        facts = [read_facts(trial, folder) for trial in trials]
        line["minutes"] = float(np.mean([fact["minutes"] for fact in facts]))
        line["peak_memory_gb"] = max(fact["peak_memory_gb"] or np.nan for fact in facts)
        found.append(line)
    names = ["way", "labels", "n", "error", "low", "high", *AGAINST, "minutes", "peak_memory_gb"]
    return pd.DataFrame(found, columns=names)


def read_right_on_test(trials: list[Trial], folder: Path) -> np.ndarray:
    """Read which test texts the finished trials of some seeds label rightly.

    Returns:
        The share of seeds that does, [n], in an order that is the same for all ways.
    """
    tables = [
        pd.read_csv(
            folder / trial.name / "report" / "predictions.csv", dtype=str, keep_default_na=False
        )
        for trial in trials
    ]
    known = (
        table[["text", "label"]].assign(right=table["predicted"] == table["label"])
        for table in tables
    )
    return average_over_seeds(known)["right"].to_numpy()


def format_curve(table: pd.DataFrame) -> str:
    """The label curve as a page to read or to paste. table: what `run_label_curve` returns."""
    rows = []
    for line in table.itertuples():
        worse_by = "" if line.way == SEMI_SUPERVISED else format_difference(line)
        memory = "" if np.isnan(line.peak_memory_gb) else f"{line.peak_memory_gb:.1f} GB"
        minutes = f"{line.minutes:.1f}"
        rows.append([f"{line.labels:,}", line.way, format_error(line), worse_by, minutes, memory])
    header = ["labels", "way", "error", "against semi-supervised", "minutes", "memory"]
    lines = [
        "Test errors in %, means over seeds, with 95 % intervals for "
        f"n = {table['n'].max():,} texts; against semi-supervised ULMFiT: difference in points on "
        "the same texts, its interval, and McNemar's p-value.",
        "",
        markdown_table(header, rows),
    ]
    return "\n".join(lines) + "\n"
