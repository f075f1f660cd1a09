"""Carrying out the paper's tables 4 to 7, and its comparison of directions.

As there, an ablation is scored on a part of the training data that nothing was trained on; the
test split stays unread. Each run has an ordinary run folder, and what several of them start from
is one of them. What the rows are is in `paper_tables`.
"""

import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from data_scripts.files import replacing, write_json
from ulmfit_app.config import ClassifierSettings, LanguageModelSettings, Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import ablation_figure
from ulmfit_app.executors import at_once
from ulmfit_app.experiments.comparing import (
    Row,
    average_over_seeds,
    compare_rows,
    format_tables,
    name_language,
    read_texts,
    save_result,
    score_validation,
    slug,
    start_from_general_text,
    state_finding,
)
from ulmfit_app.experiments.fixed import FULL_RECIPE
from ulmfit_app.experiments.on_transformers import epochs_for
from ulmfit_app.experiments.paper_tables import (
    FULL_ROW,
    LANGUAGE_MODELS,
    LONGER,
    describe_left_out,
    list_language_models,
    list_rows,
    tables_for,
)
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.models import pretrained
from ulmfit_app.models.bundle import versions
from ulmfit_app.models.hub import is_transformer
from ulmfit_app.pipeline.budget import measure_rates
from ulmfit_app.pipeline.selection import count_tokens_to_learn
from ulmfit_app.settings_json import from_json, to_json

Part = TypeVar("Part", LanguageModelSettings, ClassifierSettings)

CLASSIFIER_SHARE = 0.75  # of --minutes
SECONDS_PER_TRIAL = 12  # imports, tokens, files, a temperature


def plan_language_model(name: str, settings: Settings, seed: int) -> Trial:
    """The trial of one of LANGUAGE_MODELS."""
    lm = lengthen(settings.lm, choose_length(name))
    changed = replace(lm, **LANGUAGE_MODELS[name])
    both = any(row.lm == name and row.direction != "forward" for row in list_rows(settings))
    return Trial(
        f"lm-{slug(name)}-seed{seed}",
        replace(settings, seed=seed, lm=changed, bidirectional=both),
        last="lm",
    )


def plan_classifier(row: Row, settings: Settings, seed: int, folder: Path) -> Trial:
    """The trial of a row, from its language model, whose run lies in `folder`."""
    start = folder / plan_language_model(row.lm, settings, seed).name / "lm"
    both = any(
        other.folder == row.folder and other.direction != "forward"
        for other in list_rows(settings)
    )
    changed = replace(
        settings,
        seed=seed,
        bidirectional=both,
        lm=replace(settings.lm, pretrained=str(start.absolute()), epochs=0),
        classifier=replace(lengthen(settings.classifier, choose_length(row.lm)), **row.classifier),
    )
    return Trial(f"{row.folder}-seed{seed}", changed)


def choose_length(lm: str) -> int:
    """Choose how many times the epochs of the settings a language model of LANGUAGE_MODELS, and a
    classifier from it, are trained for."""
    return LONGER if LANGUAGE_MODELS[lm].get("pretrained") == "none" else 1


def lengthen(part: Part, n: int) -> Part:
    """Settings of a training with n times the epochs, and n times the tokens that bound it: as
    many labels per epoch."""
    return replace(
        part, epochs=n * part.epochs, max_tokens=part.max_tokens and n * part.max_tokens
    )


def with_full_recipe(settings: Settings) -> Settings:
    """The paper's full recipe on the shape, the data and the bounds of `settings`.

    Raises:
        SettingError: a row has more phases on a transformer than the epochs that were asked for.
    """
    lm = replace(settings.lm, **FULL_RECIPE["lm"])
    epochs = settings.classifier.epochs or 8
    if is_transformer(settings.lm.pretrained):
        epochs = epochs_for(_plans_of(settings), settings)
    classifier = replace(settings.classifier, **FULL_RECIPE["classifier"], epochs=epochs)
    return replace(settings, lm=lm, classifier=classifier)


def _plans_of(settings: Settings) -> list[str]:
    recipe = FULL_RECIPE["classifier"]["plan"]
    return [row.classifier.get("plan", recipe) for row in list_rows(settings)]


def fit_to_minutes(minutes: float, settings: Settings, seeds: int) -> Settings:
    """Bound all trials in tokens, so that they end in time.

    Args:
        minutes: for all trials, measured on this machine.
        settings: of the experiment.
        seeds: how many.

    Raises:
        SettingError: the time is not enough for trainings of any use.
    """
    table = load_corpus(settings.data, settings.seed).table
    table = table[table["split"].isin(["train", "valid", "unlabelled"])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of several trials
    start = pretrained.find_start(settings.lm.pretrained, settings.model)
    rates = measure_rates(table["text"], start, settings)
    torch.set_num_threads(threads)
    trained = [
        name
        for name in list_language_models(settings)
        if LANGUAGE_MODELS[name].get("epochs", settings.lm.epochs)
    ]
    of_lms = [choose_length(name) for name in trained]
    of_classifiers = [
        choose_length(row.lm) for row in {row.folder: row for row in list_rows(settings)}.values()
    ]
    if not is_transformer(settings.lm.pretrained):  # one of each twice, for both directions
        of_lms.append(1)
        of_classifiers.append(1)
    n_trainings = seeds * (len(of_lms) + len(of_classifiers))
    seconds = 60 * minutes * at_once() - SECONDS_PER_TRIAL * n_trainings
    share, lm = CLASSIFIER_SHARE, settings.lm
    if of_lms:
        lm_seconds = (1 - share) * seconds / seeds / sum(of_lms)
        lm = replace(lm, max_tokens=int(lm_seconds / rates.lm_training))
    else:
        share = 1
    classifier_seconds = share * seconds / seeds / sum(of_classifiers)
    classifier_tokens = int(classifier_seconds / rates.classifier_training)
    passes = classifier_tokens / count_tokens_to_learn(table, settings)
    if passes < 0.1:
        raise SettingError(
            f"{minutes:g} minutes are not enough for {n_trainings} trainings here. "
            "Give more --minutes, or fewer --seeds."
        )
    # Chain-thaw has six phases; more than twelve epochs are past the best one on TREC-6.
    epochs = min(max(int(passes), 6), 12)
    if is_transformer(settings.lm.pretrained):  # more groups, so more phases
        epochs = epochs_for(_plans_of(settings), settings)
    return replace(
        settings,
        lm=lm,
        classifier=replace(settings.classifier, max_tokens=classifier_tokens, epochs=epochs),
    )


def run_ablation(
    folder: Path,
    settings: Settings,
    seeds: int,
    minutes: float | None = None,
    executor: Executor | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Carry out the paper's tables 4 to 7, and its comparison of directions.

    From a transformer, those of `paper_tables.TRANSFORMER_TABLES`.

    Args:
        folder: gets a run folder per trial, and ablation.csv, ablation.md and ablation.png.
        settings: of the runs, but for FULL_RECIPE, and for what a row says.
        seeds: how many, from settings.seed on.
        minutes: fit the work into this many, measured on this machine.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        The table, whose columns are those of `compare_rows`, and a paragraph per table of it, and
        of what it leaves out.

    Raises:
        SettingError: the minutes are not enough, or the epochs for the phases of a row.
    """
    settings = start_from_general_text(name_language(settings))
    requested = {"settings": to_json(settings), "seeds": seeds, "minutes": minutes}
    every = range(settings.seed, settings.seed + seeds)

    def fit() -> Settings:
        return fit_to_minutes(minutes, settings, seeds)

    planned = with_full_recipe(plan_once(folder, requested, settings, fit if minutes else None))
    names = list_language_models(planned)
    lms = [plan_language_model(name, planned, seed) for seed in every for name in names]
    carry_out(lms, folder, "Language models", executor)
    rows = {row.folder: row for row in list_rows(planned)}
    trials = [
        plan_classifier(row, planned, seed, folder) for seed in every for row in rows.values()
    ]
    carry_out(trials, folder, "Classifiers", executor)

    texts = {seed: read_texts(folder / f"{FULL_ROW.folder}-seed{seed}") for seed in every}
    table = _compare(folder, texts, planned)
    findings = [state_finding(part) for _, part in table.groupby("table", sort=False)]
    findings += describe_left_out(planned)
    save_result(folder, "ablation", table, ablation_figure(table))
    with replacing(folder / "ablation.md") as draft:
        draft.write_text(format_tables(table, findings), encoding="utf-8")
    return table, findings


def _compare(folder: Path, texts: dict[int, pd.Series], settings: Settings) -> pd.DataFrame:
    """All of the tables. texts: of each seed's runs, by their row."""
    tables = []
    for name, rows in tables_for(settings).items():
        right = [
            average_over_seeds(
                score_validation(folder / f"{row.folder}-seed{seed}", row.direction, of_seed)
                for seed, of_seed in texts.items()
            )["right"].to_numpy()
            for row in rows
        ]
        tables.append(compare_rows(name, rows, right, settings.data.source))
    return pd.concat(tables, ignore_index=True)


def plan_once(
    folder: Path, requested: dict, settings: Settings, fit: Callable[[], Settings] | None
) -> Settings:
    """Fit the settings, unless that was done before, and say in experiment.json what they are.

    Args:
        folder: of the experiment.
        requested: what the same command requests again.
        settings: to use where there is nothing to fit.
        fit: finds settings; None: there is nothing to fit.

    Returns:
        The settings that `fit` finds, or those it found when the same was requested before.
    """
    path = folder / "experiment.json"
    if fit is None:
        found = settings
    else:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        found = from_json(known["settings"]) if known.get("requested") == requested else fit()
    write_json(path, {"requested": requested, "settings": to_json(found), "versions": versions()})
    return found
