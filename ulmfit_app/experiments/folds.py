"""Cross-validation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.experiments.comparing import each_text_once, on_validation
from ulmfit_app.experiments.trials import Trial, carry_out


# ----------------------------------------------------------------------------------------------------------------- folds
def cross_validation(folder: Path, settings: Settings, n_folds: int, seeds: int) -> pd.DataFrame:
    """Validate on each of `n_folds` folds of the training rows, for `seeds` seeds, and average all models on the test split.

    Each labelled row is scored by a model that did not learn from it, though its fold chose that model's best epoch.
    `folder` gets a run folder a fold and seed, folds.csv, and folds-predictions.csv, which holds the probabilities that each
    labelled row got from them, as predictions.report_predictions takes it. Returns a row each for the folds, the models
    alone, and their mean: what, n, accuracy, low, high (95 %, for so many texts, however many seeds).
    Raises SettingError where seeds would be scored on different test splits, which have no mean.
    """
    every = range(settings.seed, settings.seed + seeds)
    tests = [load_corpus(settings.data, seed).texts("test") for seed in every]
    if any(texts != tests[0] for texts in tests):
        raise SettingError(
            f"--seeds {seeds}: the data has no test split of its own, and each seed would make another. Use --seeds 1, or "
            "name a column that says which rows are the test: --split COLUMN"
        )
    trials = {
        f"fold {fold}, seed {seed}": Trial(
            f"fold{fold}-seed{seed}",
            replace(
                settings,
                seed=seed,
                data=replace(settings.data, folds=n_folds, fold=fold, max_valid=None),
            ),
            last="report",
        )
        for seed in every
        for fold in range(1, n_folds + 1)
    }
    carry_out(list(trials.values()), folder, "Folds")
    runs = {name: folder / trial.name for name, trial in trials.items()}
    on_folds = {name: _on_fold(trial, runs[name]) for name, trial in trials.items()}
    held_out = each_text_once(on_folds.values())
    each, truth = _on_test(list(runs.values()))
    right = {
        **{name: on_fold["right"] for name, on_fold in on_folds.items()},
        f"all {n_folds} folds": held_out["right"],
        **{
            f"test, model of {name}": p.argmax(axis=1) == truth
            for name, p in zip(runs, each, strict=True)
        },
        f"test, mean of {len(each)} models": each.mean(axis=0).argmax(axis=1) == truth,
    }
    table = pd.DataFrame([{"what": what, **_accuracy(hit)} for what, hit in right.items()])
    with replacing(folder / "folds-predictions.csv") as draft:
        held_out.drop(columns="right").to_csv(draft, index=False)
    with replacing(folder / "folds.csv") as draft:
        table.to_csv(draft, index=False)
    return table


def _on_fold(trial: Trial, run: Path) -> pd.DataFrame:
    """`on_validation` of a run, whose validation split is its fold."""
    texts = load_corpus(trial.settings.data, trial.settings.seed).table["text"]
    return on_validation(run, "both" if trial.settings.bidirectional else "forward", texts)


def _on_test(runs: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of runs for the same test texts [n_runs, n, n_classes], and the true classes [n]."""
    # Labels such as 01 and true are words.
    tables = [
        pd.read_csv(
            run / "report" / "predictions.csv", dtype={"label": str}, keep_default_na=False
        )
        for run in runs
    ]
    labels = [column for column in tables[0] if column.startswith("p_")]
    truth = pd.Index(labels).get_indexer("p_" + tables[0]["label"])
    return np.array([table[labels].to_numpy(float) for table in tables]), truth


def _accuracy(right: np.ndarray) -> dict[str, float]:
    """The accuracy in %, with the 95 % interval. right: boolean, or the share of seeds, [n]."""
    low, high = accuracy_interval(float(right.sum()), len(right))
    return {"n": len(right), "accuracy": 100 * right.mean(), "low": 100 * low, "high": 100 * high}


def folds_as_markdown(table: pd.DataFrame) -> str:
    """The folds as a page to read or to paste. table: what `cross_validation` returns."""
    lines = ["| scored on | accuracy in %, with its 95 % interval | n |", "| --- | --- | --- |"]
    for line in table.itertuples():
        lines.append(
            f"| {line.what} | {line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f}) | {line.n:,} |"
        )
    return "\n".join(lines) + "\n"
