"""The paper's comparisons by command: the ablations of its tables 4 to 7; and cross-validation.

Howard and Ruder 2018, section 5. As there, an ablation is scored on a part of the training data that nothing was trained
on; the test split stays unread. Each run has an ordinary run folder, and what several of them start from is one of them.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from data_scripts.files import replacing, write_json
from ulmfit_app import budget, language_model
from ulmfit_app.bundle import versions
from ulmfit_app.config import GENERAL, Settings, from_json, to_json
from ulmfit_app.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.figures import ablation_figure, save_png
from ulmfit_app.evaluation.metrics import SIGNIFICANT, accuracy_interval, difference_interval, paired_comparison
from ulmfit_app.run import VALIDATION, validated
from ulmfit_app.trials import Trial, at_once, carry_out

AGAINST = ("difference", "difference_low", "difference_high", "p_value")  # columns
# Folders of a run whose mean is a direction's answer.
CLASSIFIERS = {"forward": ["classifier"], "backward": ["classifier-backward"], "both": ["classifier", "classifier-backward"]}
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
ULMFIT = "ULMFiT, all of it"


def slug(name: str) -> str:
    """The name as part of a folder's: its letters and digits, and a dash for what stands between.

    >>> slug("full + discr, chain-thaw")
    'full-discr-chain-thaw'
    """
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).lower().split())


@dataclass(frozen=True)
class Row:
    """One row of a table: a language model, how the classifier is trained, and the paper's error.

    paper: validation error in % on "imdb" and "trec6", where the paper has one.
    """

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    lm: str = "full + discr + stlr"
    classifier: dict[str, Any] = field(default_factory=dict)
    direction: str = "forward"  # backward, or both: the mean of the two's probabilities

    @property
    def folder(self) -> str:
        """The name of its trials, which rows that differ in direction alone share."""
        settings = [self.lm, *(str(value) for value in self.classifier.values())]
        return slug("-".join(settings))


FULL_ROW = Row(ULMFIT, {"imdb": 5.00, "trec6": 5.69})
CONSTANT = {"schedule": "constant"}
TABLES: dict[str, list[Row]] = {
    "Table 4, pretraining": [
        Row("without pretraining", {"imdb": 5.63, "trec6": 10.67}, lm="without pretraining"),
        FULL_ROW,
    ],
    "Table 5, the language model": [
        Row("fine-tuned without AWD's dropouts", {"imdb": 5.98, "trec6": 7.41}, lm="without dropouts"),
        FULL_ROW,
    ],
    "Table 6, fine-tuning the language model": [
        Row("no fine-tuning", {"imdb": 6.99, "trec6": 6.38}, lm="none"),
        Row("full", {"imdb": 5.86, "trec6": 6.54}, lm="full"),
        Row("full + discr", {"imdb": 5.55, "trec6": 6.36}, lm="full + discr"),
        FULL_ROW,
    ],
    "Table 7, fine-tuning the classifier": [
        Row("from scratch", {"imdb": 9.93, "trec6": 13.36}, "scratch", {"plan": "full", **CONSTANT}),
        Row("full", {"imdb": 6.87, "trec6": 6.86}, classifier={"plan": "full", **CONSTANT}),
        Row("full + discr", {"imdb": 5.57, "trec6": 6.21}, classifier={"plan": "full-discr", **CONSTANT}),
        Row("last", {"imdb": 6.49, "trec6": 16.09}, classifier={"plan": "last", **CONSTANT}),
        Row("chain-thaw", {"imdb": 5.39, "trec6": 6.71}, classifier={"plan": "chain-thaw", **CONSTANT}),
        Row("freez", {"imdb": 6.37, "trec6": 6.86}, classifier={"plan": "gradual", **CONSTANT}),
        Row("freez + discr", {"imdb": 5.39, "trec6": 5.86}, classifier={"plan": "gradual-discr", **CONSTANT}),
        Row("freez + stlr", {"imdb": 5.04, "trec6": 6.02}, classifier={"plan": "gradual"}),
        Row("freez + cos", {"imdb": 5.70, "trec6": 6.38}, classifier={"plan": "gradual", "schedule": "cosine"}),
        FULL_ROW,
    ],
    "Section 5, direction": [
        Row("backward", direction="backward"),
        Row("both, averaged", direction="both"),
        FULL_ROW,
    ],
}


def from_general_text(settings: Settings) -> Settings:
    """The same from general text: what `auto` names may have read a data set's unlabelled texts, whose worth is compared."""
    pretrained = GENERAL if settings.lm.pretrained == "auto" else settings.lm.pretrained
    return replace(settings, lm=replace(settings.lm, pretrained=pretrained))


# ------------------------------------------------------------------------------------------------------------- ablations
def _language_model_trial(name: str, settings: Settings, seed: int) -> Trial:
    changed = replace(settings.lm, **LANGUAGE_MODELS[name])
    both = any(row.lm == name and row.direction != "forward" for row in _rows())
    return Trial(f"lm-{slug(name)}-seed{seed}", replace(settings, seed=seed, lm=changed, bidirectional=both), last="lm")


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
    return replace(settings, lm=lm, classifier=replace(settings.classifier, plan="gradual-discr", epochs=epochs, **stlr))


def _fit(minutes: float, settings: Settings, seeds: int) -> Settings:
    """Settings whose bounds in tokens let all trials end in so many minutes, measured on this machine."""
    table = load_corpus(settings.data, settings.seed).table
    table = table[table["split"].isin(["train", "valid", "unlabelled"])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of several trials
    start = language_model.find_start(settings.lm.pretrained, settings.model)
    rates = budget.measure(table["text"], start, settings)
    torch.set_num_threads(threads)
    folders = {row.folder for row in _rows()}
    n_lms = seeds * (sum(changes.get("epochs") != 0 for changes in LANGUAGE_MODELS.values()) + 1)  # one of them twice
    n_classifiers = seeds * (len(folders) + 1)
    seconds = 60 * minutes * at_once() - SECONDS_A_TRIAL * (n_lms + n_classifiers)
    lm_tokens = int((1 - CLASSIFIER_SHARE) * seconds / (n_lms * rates.lm_training))
    classifier_tokens = int(CLASSIFIER_SHARE * seconds / (n_classifiers * rates.classifier_training))
    passes = classifier_tokens / budget.labelled_tokens(table, settings)
    if passes < 0.1:
        raise SettingError(
            f"{minutes:g} minutes do not reach for {n_lms + n_classifiers} trainings here: more --minutes, or fewer --seeds"
        )
    return replace(
        settings,
        lm=replace(settings.lm, max_tokens=lm_tokens),
        # Chain-thaw has six phases; more than twelve epochs are past the best one on TREC-6.
        classifier=replace(settings.classifier, max_tokens=classifier_tokens, epochs=min(max(int(passes), 6), 12)),
    )


def ablation(folder: Path, settings: Settings, seeds: int, minutes: float | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Carry out the paper's tables 4 to 7, and its comparison of directions, with `seeds` seeds from settings.seed on.

    minutes: fit the work into so many, measured on this machine. `folder` gets a run folder a trial, and ablation.csv,
    ablation.md and ablation.png. Returns the table, whose columns are those of `compared`, and a paragraph a table of it.
    """
    settings = from_general_text(settings)
    requested = {"settings": to_json(settings), "seeds": seeds, "minutes": minutes}
    settings = _full_recipe(_planned(folder, requested, settings, minutes and (lambda: _fit(minutes, settings, seeds))))
    every = range(settings.seed, settings.seed + seeds)
    lms = [_language_model_trial(name, settings, seed) for seed in every for name in LANGUAGE_MODELS]
    carry_out(lms, folder, "Language models")
    rows = {row.folder: row for row in _rows()}
    trials = [_classifier_trial(row, settings, seed, folder) for seed in every for row in rows.values()]
    carry_out(trials, folder, "Classifiers")

    texts = {seed: load_corpus(settings.data, seed).table["text"] for seed in every}
    tables = []
    for name, rows in TABLES.items():
        right = [
            each_text_once(on_validation(folder / f"{row.folder}-seed{seed}", row.direction, texts[seed]) for seed in every)[
                "right"
            ].to_numpy()
            for row in rows
        ]
        tables.append(compared(name, rows, right, settings.data.source))
    table = pd.concat(tables, ignore_index=True)
    findings = [finding(part) for _, part in table.groupby("table", sort=False)]
    save(folder, "ablation", table, ablation_figure(table))
    with replacing(folder / "ablation.md") as draft:
        draft.write_text(as_markdown(table, findings), encoding="utf-8")
    return table, findings


def save(folder: Path, name: str, table: pd.DataFrame, figure: Figure) -> None:
    """The result of an experiment, as a table and as a figure."""
    with replacing(folder / f"{name}.csv") as draft:
        table.to_csv(draft, index=False)
    with replacing(folder / f"{name}.png") as draft:
        save_png(figure, draft)


def _planned(folder: Path, requested: dict, settings: Settings, fit: Callable[[], Settings] | None) -> Settings:
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


def on_validation(run: Path, direction: str, texts: pd.Series) -> pd.DataFrame:
    """What a run's classifier of a direction, or the mean of both, made of its validation split. texts: of its corpus.

    Columns: text, label, right (whether the label is the likeliest), and, at temperature 1, a column p_LABEL for each label.
    """
    folders = [run / name for name in CLASSIFIERS[direction]]
    probabilities, truth = validated(folders)
    table = pd.read_csv(folders[0] / VALIDATION, dtype={"label": str}, keep_default_na=False)
    table.loc[:, [column for column in table if column.startswith("p_")]] = probabilities
    table.insert(0, "text", texts[table.pop("row")].to_numpy())
    return table.assign(right=probabilities.argmax(axis=1) == truth)


def each_text_once(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The means, over tables, of what they say of a text and label: a row a text, in an order that follows from the texts.

    tables: a seed's each, or a part of one. A text that several seeds label is one text still: counted once a seed, it
    would make intervals too narrow. Of equal texts within a table each counts.
    """
    numbered = [table.assign(copy=table.groupby(["text", "label"]).cumcount()) for table in tables]
    return pd.concat(numbered).groupby(["text", "label", "copy"]).mean().reset_index().drop(columns="copy")


def compared(name: str, rows: list[Row], right: list[np.ndarray], source: str) -> pd.DataFrame:
    """One table of the paper with our figures: a row each, the last of them ULMFIT's, errors in %.

    right: for each row, the share of seeds that labelled a text rightly [n], the same texts for each row.
    Columns: table, row, paper, n, error, low, high (its 95 % interval), and against ULMFIT on the same texts: difference in
    points, positive where the row is worse, difference_low, difference_high and p_value; NaN in ULMFIT's row.
    """
    found = []
    for row, hit in zip(rows, right, strict=True):
        line = {"table": name, "row": row.name, "paper": row.paper.get(source, np.nan), **errors_of(hit)}
        if row.name != ULMFIT:
            line |= against(right[-1], hit)
        found.append(line)
    return pd.DataFrame(found, columns=["table", "row", "paper", "n", "error", "low", "high", *AGAINST])


def errors_of(right: np.ndarray) -> dict[str, float]:
    """How many texts are labelled wrongly, in %, with the 95 % interval. right: boolean, or the share of seeds, [n]."""
    n, wrong = len(right), float((1 - right).sum())
    low, high = accuracy_interval(wrong, n)
    return {"n": n, "error": 100 * wrong / n, "low": 100 * low, "high": 100 * high}


def against(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How many points more another model errs on the same texts, and how sure that is: the columns AGAINST.

    ours, other: which texts are labelled rightly, or by which share of seeds [n]. The p-value is McNemar's, exact where each
    text is right or wrong. Of shares it is that of McNemar's statistic, the sum of the differences by the root of the sum of
    their squares, which is about normal when it is chance alone whose favour each of them is in.
    """
    differences = ours.astype(float) - other
    if np.isin([ours, other], (0, 1)).all():
        p_value = paired_comparison(ours.astype(bool), other.astype(bool))["p_value"]
    else:
        squares = (differences**2).sum()
        p_value = math.erfc(abs(differences.sum()) / math.sqrt(2 * squares)) if squares else 1.0
    in_points = [100 * float(value) for value in (differences.mean(), *difference_interval(differences))]
    return dict(zip(AGAINST, (*in_points, p_value), strict=True))


def finding(table: pd.DataFrame) -> str:
    """What held of one table, in a paragraph. table: what `compared` returns."""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    against_paper = []
    ours = table[table["row"] == ULMFIT].iloc[0]
    for line in table[table["row"] != ULMFIT].itertuples():
        apart = line.p_value < SIGNIFICANT
        kind = "not told apart from" if not apart else "better than" if line.difference > 0 else "worse than"
        interval = f"{line.difference:+.1f} points, {line.difference_low:+.1f} to {line.difference_high:+.1f}"
        kinds[kind].append(f"{line.row!r} ({interval}, p = {line.p_value:.2g})")
        if not np.isnan(line.paper) and (kind == "better than") != (line.paper > ours["paper"]):
            against_paper.append(repr(line.row))
    sentences = [f"ULMFiT is {kind} {'; '.join(rows)}." for kind, rows in kinds.items() if rows]
    if table["paper"].notna().sum() > 1:
        sentences.append(
            f"Otherwise than in the paper: {', '.join(against_paper)}." if against_paper else "The paper's order holds."
        )
    return f"{ours['table']}: {' '.join(sentences)}"


def error_as_text(line: Any) -> str:
    """A row's error with its interval."""
    return f"{line.error:.1f} ({line.low:.1f} to {line.high:.1f})"


def difference_as_text(line: Any) -> str:
    """A row's difference, its interval and its p-value."""
    return f"{line.difference:+.1f} ({line.difference_low:+.1f} to {line.difference_high:+.1f}), p = {line.p_value:.2g}"


def as_markdown(table: pd.DataFrame, findings: list[str]) -> str:
    """The whole table and the paragraphs, as a page to read or to paste."""
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, over all seeds; against "
        "ULMFiT: difference in points on the same texts, its interval, and McNemar's p-value.",
        "",
        "| table | row | error here | paper | against ULMFiT |",
        "| --- | --- | --- | --- | --- |",
    ]
    for line in table.itertuples():
        paper = "" if np.isnan(line.paper) else f"{line.paper:.2f}"
        worse_by = "" if line.row == ULMFIT else difference_as_text(line)
        lines.append(f"| {line.table} | {line.row} | {error_as_text(line)} | {paper} | {worse_by} |")
    return "\n".join([*lines, "", *(f"{text}\n" for text in findings)])


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
            replace(settings, seed=seed, data=replace(settings.data, folds=n_folds, fold=fold, max_valid=None)),
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
        **{f"test, model of {name}": p.argmax(axis=1) == truth for name, p in zip(runs, each, strict=True)},
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
    tables = [pd.read_csv(run / "report" / "predictions.csv", dtype={"label": str}, keep_default_na=False) for run in runs]
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
        lines.append(f"| {line.what} | {line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f}) | {line.n:,} |")
    return "\n".join(lines) + "\n"
