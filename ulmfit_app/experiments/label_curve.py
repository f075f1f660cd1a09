"""How the error falls: with the number of labels (figure 3 of the paper), and with the text that the start has learned from.

Howard and Ruder 2018, section 5. A label curve is scored on the test split, since nothing is chosen by it. A start may be
chosen by its curve, so that one is scored on a validation part of the training texts.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.experiments.comparing import (
    AGAINST,
    against,
    difference_as_text,
    each_text_once,
    error_as_text,
    errors_of,
    from_general_text,
    save,
    slug,
)
from ulmfit_app.experiments.rivals import fine_tuned_minilm, require_minilm, setfit
from ulmfit_app.experiments.trials import Trial, carry_out, facts_of

# ----------------------------------------------------------------------------------------------------------- label curve
SEMI_SUPERVISED = "ULMFiT, semi-supervised"
SUPERVISED = "ULMFiT, supervised"
RANDOM_START = "the same without pretraining"
SCRATCH = "classifier from scratch"
TFIDF = "TF-IDF + logistic regression"
MINILM = {"MiniLM, fine-tuned": fine_tuned_minilm, "SetFit on MiniLM": setfit}
# The language models that classifiers of any number of labels start from.
SHARED = {SEMI_SUPERVISED: {}, RANDOM_START: {"pretrained": "none"}}


def _point(way: str, n_labels: int, settings: Settings, seed: int, folder: Path) -> Trial:
    """A classifier from so many labels, or what stands in its place."""
    s = replace(
        settings, seed=seed, data=replace(settings.data, max_train=n_labels, max_unlabelled=0)
    )
    name = f"{slug(way)}-{n_labels}-seed{seed}"
    if way in SHARED:
        start = folder / f"lm-{slug(way)}-seed{seed}" / "lm"
        s = replace(s, lm=replace(s.lm, pretrained=str(start.absolute()), epochs=0))
    elif way == SCRATCH:
        s = replace(s, lm=replace(s.lm, pretrained="none", epochs=0))
    elif way != SUPERVISED:
        return Trial(name, s, instead={TFIDF: tfidf_logistic_regression, **MINILM}[way])
    return Trial(name, s, last="report")


def label_curve(
    folder: Path, settings: Settings, at: list[int], seeds: int, minilm: bool = False
) -> pd.DataFrame:
    """Test errors against the number of labels (figure 3 of the paper), with `seeds` seeds from settings.seed on.

    Semi-supervised, the language model is fine-tuned on all training texts and the unlabelled ones, and may start from one
    that has read such texts, as `auto` does on IMDb. Supervised, it starts from general text, and is fine-tuned on the
    labelled texts alone. Each run uses the validation part besides, to keep its best epoch. minilm: MiniLM and SetFit, too.
    `folder` gets a run folder a point and seed, and labels.csv and labels.png. Returns a row a way and number of labels:
    way, labels, n (texts), error (mean over seeds), low, high (95 %, for so many texts), against semi-supervised ULMFiT the
    columns of `compared`, and of each run minutes, and peak_memory_gb where the system says it.
    """
    ways = [SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, TFIDF]
    if minilm:
        require_minilm()
        ways += MINILM
    every = range(settings.seed, settings.seed + seeds)
    if not at or min(at) < 2:
        raise SettingError(
            f"--at {' '.join(map(str, at))}: expected numbers of labels, each 2 or more, such as --at 100 500"
        )
    for seed in every:
        most = (load_corpus(settings.data, seed).table["split"] == "train").sum()
        if max(at) > most:
            raise SettingError(
                f"--at {max(at)}: there are {most:,} labelled training texts besides the validation part."
            )
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
    general = from_general_text(settings)
    points = {
        (way, n): [_point(way, n, general, seed, folder) for seed in every]
        for n in sorted(at)
        for way in ways
    }
    carry_out([trial for trials in points.values() for trial in trials], folder, "Classifiers")

    found, right = [], {point: _right_on_test(trials, folder) for point, trials in points.items()}
    for (way, n_labels), trials in points.items():
        line = {"way": way, "labels": n_labels, **errors_of(right[way, n_labels])}
        if way != SEMI_SUPERVISED:
            line |= against(right[SEMI_SUPERVISED, n_labels], right[way, n_labels])
        facts = [facts_of(trial, folder) for trial in trials]
        line["minutes"] = float(np.mean([fact["minutes"] for fact in facts]))
        line["peak_memory_gb"] = max(fact["peak_memory_gb"] or np.nan for fact in facts)
        found.append(line)
    table = pd.DataFrame(
        found,
        columns=[
            "way",
            "labels",
            "n",
            "error",
            "low",
            "high",
            *AGAINST,
            "minutes",
            "peak_memory_gb",
        ],
    )
    save(folder, "labels", table, label_curve_figure(table))
    return table


def _right_on_test(trials: list[Trial], folder: Path) -> np.ndarray:
    """The share of seeds that label a test text rightly [n], in an order that is the same for all ways."""
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
    return each_text_once(known)["right"].to_numpy()


def curve_as_markdown(table: pd.DataFrame) -> str:
    """The label curve as a page to read or to paste. table: what `label_curve` returns."""
    lines = [
        f"Test errors in %, means over seeds, with 95 % intervals for n = {table['n'].max():,} texts; against "
        "semi-supervised ULMFiT: difference in points on the same texts, its interval, and McNemar's p-value.",
        "",
        "| labels | way | error | against semi-supervised | minutes | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in table.itertuples():
        worse_by = "" if line.way == SEMI_SUPERVISED else difference_as_text(line)
        memory = "" if np.isnan(line.peak_memory_gb) else f"{line.peak_memory_gb:.1f} GB"
        error = error_as_text(line)
        lines.append(
            f"| {line.labels:,} | {line.way} | {error} | {worse_by} | {line.minutes:.1f} | {memory} |"
        )
    return "\n".join(lines) + "\n"
