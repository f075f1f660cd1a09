"""The paper's comparisons by command: the ablations of its tables 4 to 7.

Howard and Ruder 2018, section 5. As there, what is compared is scored on a part of the training data that nothing was
trained on; the test split stays unread. Each run is an ordinary run folder, and what several rows start from is one of them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_scripts.files import replacing
from ulmfit_app import budget, language_model
from ulmfit_app.bundle import versions
from ulmfit_app.config import Settings, from_json, to_json
from ulmfit_app.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.figures import ablation_figure, save_png
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.run import validated
from ulmfit_app.trials import Trial, at_once, carry_out

SIGNIFICANT = 0.05
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
        return "-".join(settings).replace(" + ", "-").replace(" ", "-")


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


# ----------------------------------------------------------------------------------------------------------- what is run
def _language_model_trial(name: str, settings: Settings, seed: int) -> Trial:
    changed = replace(settings.lm, **LANGUAGE_MODELS[name])
    both = any(row.lm == name and row.direction != "forward" for row in _rows())
    folder = f"lm-{name}-seed{seed}".replace(" + ", "-").replace(" ", "-")
    return Trial(folder, replace(settings, seed=seed, lm=changed, bidirectional=both), last="lm")


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
    requested = {"settings": to_json(settings), "seeds": seeds, "minutes": minutes}
    settings = _full_recipe(_planned(folder, requested, settings, minutes and (lambda: _fit(minutes, settings, seeds))))
    every = range(settings.seed, settings.seed + seeds)
    lms = [_language_model_trial(name, settings, seed) for seed in every for name in LANGUAGE_MODELS]
    carry_out(lms, folder, "Language models")
    rows = {row.folder: row for row in _rows()}
    trials = [_classifier_trial(row, settings, seed, folder) for seed in every for row in rows.values()]
    carry_out(trials, folder, "Classifiers")

    right = {
        row.name: np.concatenate([_right(row, folder / f"{row.folder}-seed{seed}") for seed in every]) for row in _rows()
    }
    source = settings.data.source
    table = pd.concat([compared(name, rows, right, source) for name, rows in TABLES.items()], ignore_index=True)
    findings = [finding(part) for _, part in table.groupby("table", sort=False)]
    with replacing(folder / "ablation.csv") as draft:
        table.to_csv(draft, index=False)
    with replacing(folder / "ablation.png") as draft:
        save_png(ablation_figure(table), draft)
    with replacing(folder / "ablation.md") as draft:
        draft.write_text(as_markdown(table, findings), encoding="utf-8")
    return table, findings


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
    with replacing(path) as draft:
        facts = {"requested": requested, "settings": to_json(found), "versions": versions()}
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


# ----------------------------------------------------------------------------------------------------- what came out of it
def _right(row: Row, run: Path) -> np.ndarray:
    """Which validation texts a trial's classifier, or the mean of both, gets right: boolean [n]."""
    names = {"forward": ["classifier"], "backward": ["classifier-backward"]}
    folders = [run / name for name in names.get(row.direction, ["classifier", "classifier-backward"])]
    probabilities, truth = validated(folders)
    return probabilities.argmax(axis=1) == truth


def compared(name: str, rows: list[Row], right: dict[str, np.ndarray], source: str) -> pd.DataFrame:
    """One table of the paper with our figures: a row each, errors in %.

    right: for each row's name, which texts were labelled rightly, [n] over all seeds, the same texts for each row.
    Columns: table, row, paper, n, error, low, high (its 95 % interval), and against ULMFIT on the same texts: difference in
    points, positive where the row is worse, difference_low, difference_high and p_value (McNemar); NaN in ULMFIT's row.
    """
    found = []
    for row in rows:
        hits, n = int(right[row.name].sum()), len(right[row.name])
        low, high = accuracy_interval(n - hits, n)
        line = {"table": name, "row": row.name, "paper": row.paper.get(source, np.nan), "n": n}
        line |= {"error": 100 * (n - hits) / n, "low": 100 * low, "high": 100 * high}
        if row.name != ULMFIT:
            against = paired_comparison(right[ULMFIT], right[row.name])
            line["difference"] = 100 * against["accuracy_difference"]
            line["difference_low"], line["difference_high"] = (100 * x for x in against["accuracy_difference_ci95"])
            line["p_value"] = against["p_value"]
        found.append(line)
    columns = [
        "table",
        "row",
        "paper",
        "n",
        "error",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "p_value",
    ]
    return pd.DataFrame(found, columns=columns)


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


def as_markdown(table: pd.DataFrame, findings: list[str]) -> str:
    """The whole table and the paragraphs, as a page to read or to paste."""
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train (all seeds); against "
        "ULMFiT: difference in points on the same texts, its interval, and McNemar's p-value.",
        "",
        "| table | row | error here | paper | against ULMFiT |",
        "| --- | --- | --- | --- | --- |",
    ]
    for line in table.itertuples():
        paper = "" if np.isnan(line.paper) else f"{line.paper:.2f}"
        against = ""
        if line.row != ULMFIT:
            against = (
                f"{line.difference:+.1f} ({line.difference_low:+.1f} to {line.difference_high:+.1f}), p = {line.p_value:.2g}"
            )
        error = f"{line.error:.1f} ({line.low:.1f} to {line.high:.1f})"
        lines.append(f"| {line.table} | {line.row} | {error} | {paper} | {against} |")
    return "\n".join([*lines, "", *(f"{text}\n" for text in findings)])
