"""The paper's tables 4 to 7, and its comparison of directions (Howard and Ruder 2018, section 5).

As there, an ablation is scored on a part of the training data that nothing was trained on; the
test split stays unread. Each run has an ordinary run folder, and what several of them start from
is one of them.

Three tables are not the paper's to the letter:

- Table 5 sets an AWD-LSTM beside a language model without any dropout. Here both come from the
  same pretrained model, so that the row is about dropout in fine-tuning alone. Its two language
  models have AWD's dropouts and none; the other tables keep the preset's dropouts, a tenth of
  AWD's on a laptop, whose models are too small to overfit.
- Table 4's and table 7's rows from random weights are trained as such weights need it, and not by
  a recipe that protects what a pretrained model knows: one rate for all layers of the language
  model, the plan for weak starts, and LONGER times the epochs. Else the tables would show what
  pretraining is worth to a training that was cut short.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from data_scripts.files import replacing, write_json
from ulmfit_app.config import (
    ClassifierSettings,
    LanguageModelSettings,
    Settings,
    from_json,
    to_json,
)
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import ablation_figure
from ulmfit_app.experiments.comparing import (
    ULMFIT,
    Row,
    average_over_seeds,
    compare_rows,
    format_tables,
    read_texts,
    save_result,
    score_validation,
    slug,
    start_from_general_text,
    state_finding,
)
from ulmfit_app.experiments.fixed import FULL_RECIPE
from ulmfit_app.experiments.trials import Trial, at_once, carry_out
from ulmfit_app.models import pretrained
from ulmfit_app.models.bundle import versions
from ulmfit_app.pipeline.budget import measure_rates
from ulmfit_app.pipeline.selection import count_labelled_tokens

Part = TypeVar("Part", LanguageModelSettings, ClassifierSettings)

CLASSIFIER_SHARE = 0.75  # of --minutes
SECONDS_PER_TRIAL = 12  # imports, tokens, files, a temperature
# Times the epochs of the others, from random weights. The paper has 50 for all classifiers, and
# stops all but ULMFiT's early (section 5).
LONGER = 3

# The language models that classifiers start from: name -> what differs from the full recipe of
# section 3.2, whose rates are discriminative and slanted triangular.
FROM_RANDOM = {"pretrained": "none", "decay": 1.0}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "full + discr + stlr": {},
    "full + discr": {"schedule": "constant"},
    "full": {"schedule": "constant", "decay": 1.0},
    "none": {"epochs": 0},
    "without pretraining": FROM_RANDOM,
    "with dropouts": {"drop_mult": 1.0},
    "without dropouts": {"drop_mult": 0.0},
    "scratch": {**FROM_RANDOM, "epochs": 0},
}

FULL_ROW = Row(ULMFIT, {"imdb": 5.00, "trec6": 5.69})
CONSTANT = {"schedule": "constant"}
WEAK_START = {"plan": "weak-start", "schedule": "one-cycle"}  # as in an ordinary run
TABLES: dict[str, list[Row]] = {
    "Table 4, pretraining": [
        Row(
            "without pretraining",
            {"imdb": 5.63, "trec6": 10.67},
            "without pretraining",
            WEAK_START,
        ),
        FULL_ROW,
    ],
    "Table 5, dropout in the language model": [
        Row("fine-tuned without dropout", {"imdb": 5.98, "trec6": 7.41}, "without dropouts"),
        Row("fine-tuned with AWD's dropouts", FULL_ROW.paper, "with dropouts"),
    ],
    "Table 6, fine-tuning the language model": [
        Row("no fine-tuning", {"imdb": 6.99, "trec6": 6.38}, lm="none"),
        Row("full", {"imdb": 5.86, "trec6": 6.54}, lm="full"),
        Row("full + discr", {"imdb": 5.55, "trec6": 6.36}, lm="full + discr"),
        FULL_ROW,
    ],
    "Table 7, fine-tuning the classifier": [
        Row("from scratch", {"imdb": 9.93, "trec6": 13.36}, "scratch", WEAK_START),
        Row("full", {"imdb": 6.87, "trec6": 6.86}, classifier={"plan": "full", **CONSTANT}),
        Row(
            "full + discr",
            {"imdb": 5.57, "trec6": 6.21},
            classifier={"plan": "full-discr", **CONSTANT},
        ),
        Row("last", {"imdb": 6.49, "trec6": 16.09}, classifier={"plan": "last", **CONSTANT}),
        Row(
            "chain-thaw",
            {"imdb": 5.39, "trec6": 6.71},
            classifier={"plan": "chain-thaw", **CONSTANT},
        ),
        Row("freez", {"imdb": 6.37, "trec6": 6.86}, classifier={"plan": "gradual", **CONSTANT}),
        Row(
            "freez + discr",
            {"imdb": 5.39, "trec6": 5.86},
            classifier={"plan": "gradual-discr", **CONSTANT},
        ),
        Row("freez + stlr", {"imdb": 5.04, "trec6": 6.02}, classifier={"plan": "gradual"}),
        Row(
            "freez + cos",
            {"imdb": 5.70, "trec6": 6.38},
            classifier={"plan": "gradual", "schedule": "cosine"},
        ),
        FULL_ROW,
    ],
    "Section 5, direction": [
        Row("backward", direction="backward"),
        Row("both, averaged", direction="both"),
        FULL_ROW,
    ],
}


def plan_language_model(name: str, settings: Settings, seed: int) -> Trial:
    """The trial of one of LANGUAGE_MODELS."""
    lm = lengthen(settings.lm, choose_length(name))
    changed = replace(lm, **LANGUAGE_MODELS[name])
    both = any(row.lm == name and row.direction != "forward" for row in list_rows())
    return Trial(
        f"lm-{slug(name)}-seed{seed}",
        replace(settings, seed=seed, lm=changed, bidirectional=both),
        last="lm",
    )


def plan_classifier(row: Row, settings: Settings, seed: int, folder: Path) -> Trial:
    """The trial of a row, from its language model, whose run lies in `folder`."""
    start = folder / plan_language_model(row.lm, settings, seed).name / "lm"
    both = any(
        other.folder == row.folder and other.direction != "forward" for other in list_rows()
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


def list_rows() -> list[Row]:
    """Each row once, in the order of the tables."""
    return list({row.name + row.folder: row for rows in TABLES.values() for row in rows}.values())


def with_full_recipe(settings: Settings) -> Settings:
    """The paper's full recipe on the shape, the data and the bounds of `settings`."""
    lm = replace(settings.lm, **FULL_RECIPE["lm"])
    epochs = settings.classifier.epochs or 8
    classifier = replace(settings.classifier, **FULL_RECIPE["classifier"], epochs=epochs)
    return replace(settings, lm=lm, classifier=classifier)


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
    trained = [name for name, lm in LANGUAGE_MODELS.items() if lm.get("epochs") != 0]
    of_lms = [choose_length(name) for name in trained]
    of_classifiers = [
        choose_length(row.lm) for row in {row.folder: row for row in list_rows()}.values()
    ]
    # One of each twice, for both directions.
    n_trainings = seeds * (len(of_lms) + 1 + len(of_classifiers) + 1)
    seconds = 60 * minutes * at_once() - SECONDS_PER_TRIAL * n_trainings
    lm_seconds = (1 - CLASSIFIER_SHARE) * seconds / seeds / (sum(of_lms) + 1)
    classifier_seconds = CLASSIFIER_SHARE * seconds / seeds / (sum(of_classifiers) + 1)
    lm_tokens = int(lm_seconds / rates.lm_training)
    classifier_tokens = int(classifier_seconds / rates.classifier_training)
    passes = classifier_tokens / count_labelled_tokens(table, settings)
    if passes < 0.1:
        raise SettingError(
            f"{minutes:g} minutes are not enough for {n_trainings} trainings here. "
            "Give more --minutes, or fewer --seeds."
        )
    # Chain-thaw has six phases; more than twelve epochs are past the best one on TREC-6.
    epochs = min(max(int(passes), 6), 12)
    return replace(
        settings,
        lm=replace(settings.lm, max_tokens=lm_tokens),
        classifier=replace(settings.classifier, max_tokens=classifier_tokens, epochs=epochs),
    )


def run_ablation(
    folder: Path, settings: Settings, seeds: int, minutes: float | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Carry out the paper's tables 4 to 7, and its comparison of directions.

    Args:
        folder: gets a run folder per trial, and ablation.csv, ablation.md and ablation.png.
        settings: of the runs, but for FULL_RECIPE, and for what a row says.
        seeds: how many, from settings.seed on.
        minutes: fit the work into this many, measured on this machine.

    Returns:
        The table, whose columns are those of `compare_rows`, and a paragraph per table of it.

    Raises:
        SettingError: the minutes are not enough.
    """
    settings = start_from_general_text(settings)
    requested = {"settings": to_json(settings), "seeds": seeds, "minutes": minutes}
    every = range(settings.seed, settings.seed + seeds)

    def fit() -> Settings:
        return fit_to_minutes(minutes, settings, seeds)

    planned = with_full_recipe(plan_once(folder, requested, settings, fit if minutes else None))
    lms = [plan_language_model(name, planned, seed) for seed in every for name in LANGUAGE_MODELS]
    carry_out(lms, folder, "Language models")
    rows = {row.folder: row for row in list_rows()}
    trials = [
        plan_classifier(row, planned, seed, folder) for seed in every for row in rows.values()
    ]
    carry_out(trials, folder, "Classifiers")

    texts = {seed: read_texts(folder / f"{FULL_ROW.folder}-seed{seed}") for seed in every}
    table = _compare(folder, texts, settings.data.source)
    findings = [state_finding(part) for _, part in table.groupby("table", sort=False)]
    save_result(folder, "ablation", table, ablation_figure(table))
    with replacing(folder / "ablation.md") as draft:
        draft.write_text(format_tables(table, findings), encoding="utf-8")
    return table, findings


def _compare(folder: Path, texts: dict[int, pd.Series], source: str) -> pd.DataFrame:
    """All TABLES. texts: of each seed's runs, by their row."""
    tables = []
    for name, rows in TABLES.items():
        right = [
            average_over_seeds(
                score_validation(folder / f"{row.folder}-seed{seed}", row.direction, of_seed)
                for seed, of_seed in texts.items()
            )["right"].to_numpy()
            for row in rows
        ]
        tables.append(compare_rows(name, rows, right, source))
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
