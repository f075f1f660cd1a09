"""What a search found: the best trial, how much of it is luck, and its run's report."""

import json
import logging
import math
import shlex
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import progress, replacing, write_json
from ulmfit_app.config import Settings
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.search_figures import (
    history_figure,
    importance_figure,
    parallel_figure,
)
from ulmfit_app.evaluation.search_scores import expected_best, resampled_difference
from ulmfit_app.experiments.comparing import average_over_seeds, measure_difference
from ulmfit_app.experiments.search import Search
from ulmfit_app.experiments.search_journal import AT_RANDOM, RESULT, require_optuna
from ulmfit_app.experiments.search_plan import name_of_trial, runs_of, values_of
from ulmfit_app.experiments.search_trial import Job, carry_out_trial
from ulmfit_app.experiments.spaces import Range, fields_of, settings_of
from ulmfit_app.experiments.used import flag_of
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import read_validation
from ulmfit_app.jobs import result_of
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import PRESETS
from ulmfit_app.training.balance import metric_to_select_by

log = logging.getLogger(__name__)

COMPLETE = "complete"


@dataclass(frozen=True)
class Answers:
    """What a run's classifier made of its validation split.

    Attributes:
        texts: [n].
        truth: as `read_validation` has it.
        probabilities: [n, n_classes].
    """

    texts: list[str]
    truth: np.ndarray
    probabilities: np.ndarray


def table_of(search: Search) -> pd.DataFrame:
    """One row per trial that ended: trial, state, error (a share), valid_loss, epochs, seconds,
    at_random, reason, and the settings that it ran with, by name."""
    rows = []
    for trial in search.trials():
        if RESULT not in trial.user_attrs:
            continue
        result = trial.user_attrs[RESULT]
        row = {"trial": trial.number, "state": result["state"]}
        row |= {name: result.get(name, math.nan) for name in ("error", "valid_loss", "epochs")}
        row |= {"seconds": result["seconds"], "reason": result.get("reason", "")}
        row |= {"at_random": trial.user_attrs.get(AT_RANDOM, False)}
        if trial.number == 0:
            values = values_of(search.first, search.settings, search.space)
        else:
            values = {**search.space.fixed, **trial.params}
            settings = _settings_of(search, trial.number)
            if settings is not None:
                own = fields_of(settings)
                values = {name: own[name] for name in values}
        rows.append({**row, **{name: values.get(name) for name in search.space.drawn}})
    return pd.DataFrame(rows)


def _settings_of(search: Search, number: int) -> Settings | None:
    """What a trial ran with; None where its values contradict each other."""
    if number == 0:
        return search.settings
    values = {**search.space.fixed, **search.trials()[number].params}
    try:
        return settings_of(values, search.settings)
    except SettingError:
        return None


def find_best(table: pd.DataFrame) -> int:
    """The number of the best trial: the least error, and of equals the least validation loss.

    Raises:
        SettingError: no trial was trained to its end.
    """
    whole = table[table["state"] == COMPLETE] if len(table) else table
    if not len(whole):
        why = table["reason"].iloc[-1] if len(table) else "the time is not enough for one"
        raise SettingError(f"No trial was trained to its end. The last one: {why}")
    return int(whole.sort_values(["error", "valid_loss", "trial"])["trial"].iloc[0])


def read_answers(folders: Iterable[Path]) -> list[Answers]:
    """What the classifiers of runs made of their validation splits.

    Raises:
        RunFolderError: one has none, or it is damaged.
    """
    found = []
    for folder in folders:
        run = Run.open(folder)
        data, rows = run.record.data, run.rows[run.rows["split"] == "valid"]
        known = read_validation([run.place("classifier")], len(rows), data.multilabel)
        if known is None:
            raise RunFolderError(
                f"{folder} has lost its classifier. Have it made again: "
                f"rm -r {shlex.quote(str(folder))}, and then the same command."
            )
        found.append(Answers(rows["text"].tolist(), known[1], known[0]))
    return found


def compare(metric: str, ours: list[Answers], other: list[Answers]) -> dict[str, float]:
    """How many points less we err than others, on the same texts.

    Args:
        metric: whose errors these are; accuracy, macro_f1 or average_precision.
        ours, other: of the same runs' texts, in the same order.

    Returns:
        difference in points, above 0 where the others err more, low and high (95 %), and n, how
        many texts they are.
    """
    if any(a.texts != b.texts for a, b in zip(ours, other, strict=True)):
        raise RunFolderError(
            "The runs that are compared have different validation texts: the data have changed "
            "since the first of them. Search in another folder: --out FOLDER"
        )
    ids = {text: i for i, text in enumerate(dict.fromkeys(t for a in ours for t in a.texts))}
    if metric != "accuracy":
        both = zip(ours, other, strict=True)
        pairs = [(a.probabilities, b.probabilities, a.truth) for a, b in both]
        texts = [np.array([ids[text] for text in each.texts]) for each in ours]
        found = [100 * each for each in resampled_difference(metric, pairs, texts)]
        return dict(zip(("difference", "low", "high"), found, strict=True)) | {"n": len(ids)}
    right = []
    for answers in (ours, other):
        tables = [
            pd.DataFrame({"text": each.texts, "label": each.truth}).assign(
                right=each.probabilities.argmax(axis=1) == each.truth
            )
            for each in answers
        ]
        right.append(average_over_seeds(tables)["right"].to_numpy())
    found = measure_difference(*right)
    low, high = found["difference_low"], found["difference_high"]
    return {"difference": found["difference"], "low": low, "high": high, "n": len(right[0])}


def command_of(settings: Settings, preset: str, out: Path) -> str:
    """The command that makes a run with these settings: those that differ from the preset's."""
    words = ["python", "-m", "ulmfit_app.run", settings.data.source, "--preset", preset]
    usual = fields_of(PRESETS[preset])
    for name, value in fields_of(settings).items():
        if name == "data.source" or value == usual[name]:
            continue
        flag = flag_of(name)
        if isinstance(value, bool):
            *section, key = flag.removeprefix("--").split(".")
            words.append("--" + ".".join([*section, key if value else f"no-{key}"]))
        else:
            several = value if isinstance(value, tuple) else (value,)
            words += [flag, *map(str, several)]
    return shlex.join([*words, "--out", str(out)])


# ----------------------------------------------------------------------------------------- figures
def draw_figures(
    search: Search, table: pd.DataFrame, expected: list[float], beside: list[Path]
) -> dict[str, float]:
    """Draw figures/history.png, importance.png and parallel.png; how much each setting mattered,
    where that can be told."""
    whole = table["state"] == COMPLETE
    others = {path.name: read_errors(path) for path in beside}
    figures = {"history": history_figure(table["error"], whole, expected, others)}
    ended = table[whole]
    names = [name for name in search.space.drawn if ended[name].nunique(dropna=False) > 1]
    importances = _importances(search)
    if importances:
        figures["importance"] = importance_figure(importances)
    if len(ended) > 1 and names:
        columns = {name: _shown(ended[name]) for name in names}
        spaces = search.space.drawn
        logs = [n for n in names if isinstance(spaces[n], Range) and spaces[n].log]
        figures["parallel"] = parallel_figure(columns, ended["error"], logs)
    for name, figure in figures.items():
        with replacing(search.folder / "figures" / f"{name}.png") as draft:
            save_png(figure, draft)
    return importances


def _shown(values: pd.Series) -> list[Any]:
    """A column's values as a figure has them: numbers, or words."""
    each = [value.item() if isinstance(value, np.generic) else value for value in values]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in each):
        return each
    return [str(value) for value in each]


def read_errors(folder: Path) -> list[float]:
    """Errors of another search's trials, NaN where one was not trained to its end.

    Args:
        folder: of that search.

    Raises:
        RunFolderError: it has no search.json, or another kind of file of that name.
    """
    path = folder / "search.json"
    try:
        trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
        return [each["error"] if each["state"] == COMPLETE else math.nan for each in trials]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise RunFolderError(
            f"--beside {folder} is no finished search: {path}: {why}. Expected a folder with a "
            "search.json, which the verb search writes at its end."
        ) from None


def _importances(search: Search) -> dict[str, float]:
    importance = require_optuna().importance
    evaluator = importance.FanovaImportanceEvaluator(seed=search.settings.seed)
    try:
        found = importance.get_param_importances(search.study, evaluator=evaluator)
    except (RuntimeError, ValueError):  # too few trials, or all alike
        return {}
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


# -------------------------------------------------------------------------------------- conclusion
def conclude(search: Search, executor: Executor, seeds: int, beside: list[Path]) -> dict[str, Any]:
    """Say what a search found: write search.json, trials.csv and the figures, train the best and
    the defaults again with new seeds, and report the best one's run, which alone is tested.

    Args:
        search: whose trials have ended.
        executor: of the runs with new seeds.
        seeds: how many.
        beside: folders of other searches, drawn beside this one.

    Returns:
        What search.json holds.

    Raises:
        SettingError: no trial was trained to its end.
    """
    table = table_of(search)
    best = find_best(table)
    settings = _settings_of(search, best)
    metric = metric_to_select_by(search.settings.classifier, search.first.record.data.multilabel)
    drawn = table[table["at_random"] & table["error"].notna()]["error"].to_numpy()
    n_trained = int((table["state"] == COMPLETE).sum())
    expected = [expected_best(drawn, n) for n in range(1, len(drawn) + 1)]
    write_table(search.folder / "trials.csv", table)
    importances = draw_figures(search, table, expected, beside)
    counts = {str(state): int(n) for state, n in table["state"].value_counts().items()}
    found: dict[str, Any] = {
        "metric": metric,
        "sampler": search.how.sampler,
        "pruner": search.how.pruner,
        "states": counts,
        "defaults": _facts(table, 0),
        "best": _facts(table, best),
        "luck": {
            "drawn_at_random": len(drawn),
            "trials": n_trained,
            "expected_best": expected_best(drawn, n_trained) if len(drawn) else None,
        },
        "importances": importances,
    }
    if best:
        sides = [_folders(search, "trials", name_of_trial(n), settings) for n in (best, 0)]
        found["selected_on"] = compare(metric, *map(read_answers, sides))
        if seeds:
            found["again"] = _train_again(search, settings, executor, seeds, metric)
    run, settings = _report(search, best, settings)
    metrics = json.loads((run.folder / "report" / "metrics.json").read_text(encoding="utf-8"))
    found["test"] = {"name": run.record.data.test_name, **_headline(metrics["model"])}
    found["run"] = str(run.folder)
    found["command"] = command_of(settings, search.preset, run.folder)
    found["trials"] = json.loads(table.to_json(orient="records"))
    write_json(search.folder / "search.json", found)
    return found


def _headline(scores: dict[str, Any]) -> dict[str, Any]:
    """Of a report's numbers those that stand above the others."""
    names = ("n", "accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95")
    return {name: scores[name] for name in names if name in scores}


def _facts(table: pd.DataFrame, number: int) -> dict[str, Any]:
    row = json.loads(table[table["trial"] == number].to_json(orient="records"))
    return row[0] if row else {"trial": number}


def _folders(search: Search, place: str, name: str, settings: Settings) -> list[Path]:
    return [folder for folder, _ in runs_of(search.folder / place, name, settings)]


def _train_again(
    search: Search, settings: Settings, executor: Executor, seeds: int, metric: str
) -> dict[str, Any]:
    """Train the best settings and the command's own with new seeds, and compare them."""
    first = search.settings.seed + 1
    every = range(first, first + seeds)
    sides = {"best": settings, "defaults": search.settings}
    jobs, places = [], {side: [] for side in sides}
    for seed in every:
        for side, of_side in sides.items():
            own = replace(of_side, seed=seed)
            runs = runs_of(search.folder / "again", f"{side}-seed{seed}", own)
            job = Job(search.folder.absolute(), None, runs, search.preset)
            jobs.append((side, executor.submit(carry_out_trial, job)))
            places[side] += [folder for folder, _ in runs]
    errors: dict[str, list[float]] = {side: [] for side in sides}
    for side, job in progress(jobs, description="With new seeds", unit=" runs"):
        result = result_of(job, f"the {side} with a new seed")
        if result["state"] != COMPLETE:
            raise RunFolderError(
                f"With a new seed, the training of the {side} ended otherwise than in the search: "
                f"{result['state']}, {result.get('reason', '')}"
            )
        errors[side].append(result["error"])
    compared = compare(metric, *(read_answers(places[side]) for side in ("best", "defaults")))
    return {"seeds": [*every], "errors": errors, **compared}


def _report(search: Search, best: int, settings: Settings) -> tuple[Run, Settings]:
    """The best trial's run with its report, and what it is made with; of folds, a run of its own
    with the same settings."""
    if settings.data.folds is None:
        ((folder, settings),) = runs_of(search.folder / "trials", name_of_trial(best), settings)
    else:
        folder = search.folder / "best"
        settings = replace(settings, data=replace(settings.data, folds=None, fold=1))
    run = begin(folder, settings, preset=search.preset)
    run.carry_out("report")
    return run, settings
