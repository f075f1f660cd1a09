"""Cross-validation, and the mean of all folds' models."""

from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.tables import markdown_table, probability_columns, true_classes
from ulmfit_app.experiments.comparing import (
    average_over_seeds,
    measure_share,
    name_language,
    read_texts,
    score_validation,
)
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.files import write_table
from ulmfit_app.pipeline.run import Run


def cross_validate(
    folder: Path, settings: Settings, n_folds: int, seeds: int, executor: Executor | None = None
) -> pd.DataFrame:
    """Validate on each fold of the training rows, and average all models on the test split.

    Each labelled row is scored by a model that did not learn from it, though its fold chose that
    model's best epoch.

    Args:
        folder: gets a run folder per fold and seed, folds.csv, and folds-predictions.csv, which
            holds the probabilities that each labelled row got from them, as
            predictions.report_predictions takes it.
        settings: of the runs.
        n_folds: of the training rows.
        seeds: how many, from settings.seed on.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row each for the folds, the models alone, and their mean: what, n, accuracy, low, high
        (95 %, for so many texts, however many seeds).

    Raises:
        SettingError: seeds would be scored on different test splits, which have no mean.
    """
    settings = name_language(settings)
    every = range(settings.seed, settings.seed + seeds)
    trials = {
        f"fold {fold}, seed {seed}": _plan_fold(settings, n_folds, fold, seed)
        for seed in every
        for fold in range(1, n_folds + 1)
    }
    _check_test_split(settings, every)
    carry_out(list(trials.values()), folder, "Folds", executor)
    direction = "both" if settings.bidirectional else "forward"
    # Each fold has its own texts: its subset of train, and unlabelled copies of what it holds out.
    runs = {name: folder / trial.name for name, trial in trials.items()}
    on_folds = {
        name: score_validation(run, direction, read_texts(run)) for name, run in runs.items()
    }
    held_out = average_over_seeds(on_folds.values())
    each, truth = _read_test(list(runs.values()))
    right = {
        **{name: on_fold["right"] for name, on_fold in on_folds.items()},
        f"all {n_folds} folds": held_out["right"],
        **{
            f"test, model of {name}": p.argmax(axis=1) == truth
            for name, p in zip(runs, each, strict=True)
        },
        f"test, mean of {len(each)} models": each.mean(axis=0).argmax(axis=1) == truth,
    }
    shares = [{"what": what, **measure_share("accuracy", hit)} for what, hit in right.items()]
    table = pd.DataFrame(shares)
    write_table(folder / "folds-predictions.csv", held_out.drop(columns="right"))
    write_table(folder / "folds.csv", table)
    return table


def _plan_fold(settings: Settings, n_folds: int, fold: int, seed: int) -> Trial:
    data = replace(settings.data, folds=n_folds, fold=fold, max_valid=None)
    return Trial(f"fold{fold}-seed{seed}", replace(settings, seed=seed, data=data), last="report")


def _check_test_split(settings: Settings, every: range) -> None:
    """Raises SettingError where each seed would make another one."""
    tests = [load_corpus(settings.data, seed).texts("test") for seed in every]
    if any(texts != tests[0] for texts in tests):
        raise SettingError(
            f"--seeds {len(every)}: the data has no test split of its own, and each seed would "
            "make another. Use --seeds 1, or name a column that says which rows are the test: "
            "--split COLUMN"
        )


def _read_test(runs: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Runs' probabilities of the same test texts, [n_runs, n, n_classes], and the classes, [n]."""
    tables = [
        read_own_table(run / "report" / "predictions.csv", Run.open(run).record.counts["test"])
        for run in runs
    ]
    columns = probability_columns(tables[0])
    probabilities = np.array([table[columns].to_numpy(float) for table in tables])
    return probabilities, true_classes(tables[0])


def format_folds(table: pd.DataFrame) -> str:
    """The folds as a page to read or to paste. table: what `cross_validate` returns."""
    header = ["scored on", "accuracy in %, with its 95 % interval", "n"]
    rows = [
        [line.what, f"{line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f})", f"{line.n:,}"]
        for line in table.itertuples()
    ]
    return markdown_table(header, rows) + "\n"
