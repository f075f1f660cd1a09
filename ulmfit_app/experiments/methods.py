"""How much of a transformer should learn: all of it, its head, or a few weights beside its own.

A method may be chosen by its error, so it is scored on a validation part of the training texts;
the test split stays unread.
"""

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import Settings
from ulmfit_app.evaluation.study_figures import methods_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import (
    AGAINST,
    average_over_seeds,
    format_difference,
    format_error,
    measure_difference,
    measure_share,
    name_language,
    read_texts,
    save_result,
    score_validation,
    slug,
)
from ulmfit_app.experiments.fixed import require_transformer
from ulmfit_app.experiments.on_transformers import epochs_for, short_name
from ulmfit_app.experiments.trials import Trial, carry_out, read_facts
from ulmfit_app.models.bundle import load_bundle

FULL = "full"
# name -> what differs from a run's classifier
METHODS: dict[str, dict[str, Any]] = {
    FULL: {"plan": "full"},
    "full, discriminative rates": {"plan": "full-discr"},
    "gradual unfreezing, discriminative rates": {"plan": "gradual-discr"},
    "head alone": {"plan": "last"},
    "LoRA": {"plan": "full", "adapter": "lora"},
    "IA3": {"plan": "full", "adapter": "ia3"},
    "prompt tuning": {"plan": "full", "adapter": "prompt"},
}


def run_methods(
    folder: Path, settings: Settings, seeds: int, executor: Executor | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Measure validation errors, time, memory and trained parameters of METHODS.

    All start from the same language model of a seed, and have the same epochs.

    Args:
        folder: gets a run folder per method and seed, and methods.csv, methods.md and methods.png.
        settings: of the runs.
        seeds: how many, from settings.seed on.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row per method: method, n, error, low, high (95 %), against the first one the columns
        AGAINST; of each run minutes, and peak_memory_gb of its process; trained_parameters and
        parameters, NaN where the system or the bundle does not say it. And paragraphs of how.

    Raises:
        SettingError: the start is no transformer, or the epochs are too few for a method.
    """
    require_transformer(settings, "methods")
    settings = name_language(settings)
    epochs = epochs_for([how["plan"] for how in METHODS.values()], settings)
    settings = replace(settings, classifier=replace(settings.classifier, epochs=epochs))
    every = range(settings.seed, settings.seed + seeds)
    if settings.lm.epochs:
        lms = [Trial(_name_of_lm(seed), replace(settings, seed=seed), "lm") for seed in every]
        carry_out(lms, folder, "Language models", executor)
    trials = {
        name: [_plan_method(name, settings, seed, folder) for seed in every] for name in METHODS
    }
    carry_out(sum(trials.values(), []), folder, "Methods", executor)
    table = _compare(trials, folder)
    notes = _describe(settings)
    save_result(folder, "methods", table, methods_figure(table))
    with replacing(folder / "methods.md") as draft:
        draft.write_text(format_methods(table, notes), encoding="utf-8")
    return table, notes


def _name_of_lm(seed: int) -> str:
    return f"lm-seed{seed}"


def _plan_method(name: str, settings: Settings, seed: int, folder: Path) -> Trial:
    lm = settings.lm
    if lm.epochs:
        start = folder / _name_of_lm(seed) / "lm"
        lm = replace(lm, pretrained=str(start.absolute()), epochs=0)
    classifier = replace(settings.classifier, **METHODS[name])
    changed = replace(settings, seed=seed, lm=lm, classifier=classifier)
    return Trial(f"{slug(name)}-seed{seed}", changed)


def _compare(trials: dict[str, list[Trial]], folder: Path) -> pd.DataFrame:
    """The table of the finished trials, a seed's each."""
    texts = {t.settings.seed: read_texts(folder / t.name) for t in trials[FULL]}
    right = {
        name: average_over_seeds(
            score_validation(folder / trial.name, "forward", texts[trial.settings.seed])
            for trial in of_method
        )["right"].to_numpy()
        for name, of_method in trials.items()
    }
    found = []
    for name, of_method in trials.items():
        line = {"method": name, **measure_share("error", 1 - right[name])}
        if name != FULL:
            line |= measure_difference(right[FULL], right[name])
        facts = [read_facts(trial, folder) for trial in of_method]
        line["minutes"] = float(np.mean([fact["minutes"] for fact in facts]))
        line["peak_memory_gb"] = max(fact["peak_memory_gb"] or np.nan for fact in facts)
        about = load_bundle(folder / of_method[0].name / "classifier", "classifier").about
        line |= {part: about.get(part, np.nan) for part in ("trained_parameters", "parameters")}
        found.append(line)
    columns = ["method", "n", "error", "low", "high", *AGAINST, "minutes", "peak_memory_gb"]
    return pd.DataFrame(found, columns=[*columns, "trained_parameters", "parameters"])


def _describe(settings: Settings) -> list[str]:
    start, epochs = short_name(settings.lm.pretrained), settings.classifier.epochs
    as_it_is = "fine-tuned on the training texts" if settings.lm.epochs else "as it came"
    return [
        f"Each method trains a classifier on {start}, {as_it_is}, for {epochs} epochs, of which "
        "the best one is kept. Minutes are those of a run beside others; memory is the peak of "
        "its whole process."
    ]


def format_methods(table: pd.DataFrame, notes: list[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_methods` returns."""
    rows = []
    for line in table.itertuples():
        worse_by = "" if line.method == FULL else format_difference(line)
        learn, memory = "", ""
        if not np.isnan(line.trained_parameters):
            learn = f"{line.trained_parameters:,.0f} of {line.parameters:,.0f}"
        if not np.isnan(line.peak_memory_gb):
            memory = f"{line.peak_memory_gb:.1f} GB"
        minutes = f"{line.minutes:.1f}"
        rows.append([line.method, format_error(line), worse_by, learn, minutes, memory])
    header = ["method", "error", f"against {FULL!r}", "parameters that learn", "minutes", "memory"]
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, "
        f"over all seeds; against {FULL!r}: difference in points on the same texts, its interval, "
        "and McNemar's p-value.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
