"""The paper's comparisons by command: the ablations of its tables 4 to 7; and cross-validation.

Howard and Ruder 2018, section 5. As there, an ablation is scored on a part of the training data that nothing was trained
on; the test split stays unread. Each run has an ordinary run folder, and what several of them start from is one of them.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from data_scripts.files import replacing, write_json
from ulmfit_app.config import Settings, from_json, to_json
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import ablation_figure
from ulmfit_app.experiments.comparing import (
    ULMFIT,
    Row,
    as_markdown,
    compared,
    each_text_once,
    finding,
    from_general_text,
    on_validation,
    save,
    slug,
)
from ulmfit_app.experiments.trials import Trial, at_once, carry_out
from ulmfit_app.models import pretrained
from ulmfit_app.models.bundle import versions
from ulmfit_app.pipeline import budget, selection

CLASSIFIER_SHARE = 0.75  # of --minutes
SECONDS_A_TRIAL = 12  # imports, tokens, files, a temperature

# The language models that classifiers start from: name -> what differs from the full recipe of section 3.2, whose rates are
# discriminative and slanted triangular, the largest 0.004 (section 4.1).
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "full + discr + stlr": {},
    "full + discr": {"schedule": "constant"},
    "full": {"schedule": "constant", "decay": 1.0},
    "none": {"epochs": 0},
    "without pretraining": {"pretrained": "none"},
    "without dropouts": {"drop_mult": 0.0},
    "scratch": {"pretrained": "none", "epochs": 0},
}


FULL_ROW = Row(ULMFIT, {"imdb": 5.00, "trec6": 5.69})
CONSTANT = {"schedule": "constant"}
TABLES: dict[str, list[Row]] = {
    "Table 4, pretraining": [
        Row("without pretraining", {"imdb": 5.63, "trec6": 10.67}, lm="without pretraining"),
        FULL_ROW,
    ],
    "Table 5, the language model": [
        Row(
            "fine-tuned without AWD's dropouts",
            {"imdb": 5.98, "trec6": 7.41},
            lm="without dropouts",
        ),
        FULL_ROW,
    ],
    "Table 6, fine-tuning the language model": [
        Row("no fine-tuning", {"imdb": 6.99, "trec6": 6.38}, lm="none"),
        Row("full", {"imdb": 5.86, "trec6": 6.54}, lm="full"),
        Row("full + discr", {"imdb": 5.55, "trec6": 6.36}, lm="full + discr"),
        FULL_ROW,
    ],
    "Table 7, fine-tuning the classifier": [
        Row(
            "from scratch", {"imdb": 9.93, "trec6": 13.36}, "scratch", {"plan": "full", **CONSTANT}
        ),
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


# ------------------------------------------------------------------------------------------------------------- ablations
def _language_model_trial(name: str, settings: Settings, seed: int) -> Trial:
    changed = replace(settings.lm, **LANGUAGE_MODELS[name])
    both = any(row.lm == name and row.direction != "forward" for row in _rows())
    return Trial(
        f"lm-{slug(name)}-seed{seed}",
        replace(settings, seed=seed, lm=changed, bidirectional=both),
        last="lm",
    )


def _classifier_trial(row: Row, settings: Settings, seed: int, folder: Path) -> Trial:
    start = folder / _language_model_trial(row.lm, settings, seed).name / "lm"
    both = any(other.folder == row.folder and other.direction != "forward" for other in _rows())
    changed = replace(
        settings,
        seed=seed,
        bidirectional=both,
        lm=replace(settings.lm, pretrained=str(start.absolute()), epochs=0),
        classifier=replace(settings.classifier, **row.classifier),
    )
    return Trial(f"{row.folder}-seed{seed}", changed)


def _rows() -> list[Row]:
    """Each row once, in the order of the tables."""
    return list({row.name + row.folder: row for rows in TABLES.values() for row in rows}.values())


def _full_recipe(settings: Settings) -> Settings:
    """The paper's section 3 with the rates of its section 4.1, on the shape, the data and the bounds of `settings`."""
    stlr = {"schedule": "slanted-triangular"}
    lm = replace(settings.lm, lr=4e-3, random_lr=4e-3, decay=2.6, frozen_lr=None, **stlr)
    epochs = settings.classifier.epochs or 8
    return replace(
        settings,
        lm=lm,
        classifier=replace(settings.classifier, plan="gradual-discr", epochs=epochs, **stlr),
    )


def _fit(minutes: float, settings: Settings, seeds: int) -> Settings:
    """Settings whose bounds in tokens let all trials end in so many minutes, measured on this machine."""
    table = load_corpus(settings.data, settings.seed).table
    table = table[table["split"].isin(["train", "valid", "unlabelled"])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of several trials
    start = pretrained.find_start(settings.lm.pretrained, settings.model)
    rates = budget.measure(table["text"], start, settings)
    torch.set_num_threads(threads)
    folders = {row.folder for row in _rows()}
    n_lms = seeds * (
        sum(changes.get("epochs") != 0 for changes in LANGUAGE_MODELS.values()) + 1
    )  # one of them twice
    n_classifiers = seeds * (len(folders) + 1)
    seconds = 60 * minutes * at_once() - SECONDS_A_TRIAL * (n_lms + n_classifiers)
    lm_tokens = int((1 - CLASSIFIER_SHARE) * seconds / (n_lms * rates.lm_training))
    classifier_tokens = int(
        CLASSIFIER_SHARE * seconds / (n_classifiers * rates.classifier_training)
    )
    passes = classifier_tokens / selection.labelled_tokens(table, settings)
    if passes < 0.1:
        raise SettingError(
            f"{minutes:g} minutes do not reach for {n_lms + n_classifiers} trainings here: more --minutes, or fewer --seeds"
        )
    return replace(
        settings,
        lm=replace(settings.lm, max_tokens=lm_tokens),
        # Chain-thaw has six phases; more than twelve epochs are past the best one on TREC-6.
        classifier=replace(
            settings.classifier, max_tokens=classifier_tokens, epochs=min(max(int(passes), 6), 12)
        ),
    )


def ablation(
    folder: Path, settings: Settings, seeds: int, minutes: float | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Carry out the paper's tables 4 to 7, and its comparison of directions, with `seeds` seeds from settings.seed on.

    minutes: fit the work into so many, measured on this machine. `folder` gets a run folder a trial, and ablation.csv,
    ablation.md and ablation.png. Returns the table, whose columns are those of `compared`, and a paragraph a table of it.
    """
    settings = from_general_text(settings)
    requested = {"settings": to_json(settings), "seeds": seeds, "minutes": minutes}
    settings = _full_recipe(
        _planned(folder, requested, settings, minutes and (lambda: _fit(minutes, settings, seeds)))
    )
    every = range(settings.seed, settings.seed + seeds)
    lms = [
        _language_model_trial(name, settings, seed) for seed in every for name in LANGUAGE_MODELS
    ]
    carry_out(lms, folder, "Language models")
    rows = {row.folder: row for row in _rows()}
    trials = [
        _classifier_trial(row, settings, seed, folder) for seed in every for row in rows.values()
    ]
    carry_out(trials, folder, "Classifiers")

    texts = {seed: load_corpus(settings.data, seed).table["text"] for seed in every}
    tables = []
    for name, rows in TABLES.items():
        right = [
            each_text_once(
                on_validation(folder / f"{row.folder}-seed{seed}", row.direction, texts[seed])
                for seed in every
            )["right"].to_numpy()
            for row in rows
        ]
        tables.append(compared(name, rows, right, settings.data.source))
    table = pd.concat(tables, ignore_index=True)
    findings = [finding(part) for _, part in table.groupby("table", sort=False)]
    save(folder, "ablation", table, ablation_figure(table))
    with replacing(folder / "ablation.md") as draft:
        draft.write_text(as_markdown(table, findings), encoding="utf-8")
    return table, findings


def _planned(
    folder: Path, requested: dict, settings: Settings, fit: Callable[[], Settings] | None
) -> Settings:
    """The settings that `fit` finds, or those it found when the same was requested before."""
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
