"""What helps rare classes: weights, the focal loss, resampling, and thresholds of their own.

The ways are those that He and Garcia 2009, "Learning from Imbalanced Data", sections 3.1 and 3.2,
call sampling and cost-sensitive learning, and the choice of thresholds. Each is scored on the test
split, which chooses nothing here: epochs, temperatures and thresholds come from the validation
part. What thresholds gain could not be seen on the texts that chose them.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import Balance, Settings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.balance_figure import balance_figure
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.calibration import tempered
from ulmfit_app.evaluation.decisions import fit_decision
from ulmfit_app.evaluation.metrics import expected_calibration_error
from ulmfit_app.evaluation.several_seeds import macro_f1_difference, macro_f1_interval, recalls
from ulmfit_app.evaluation.tables import (
    PREFIX,
    markdown_table,
    probability_columns,
    true_classes,
)
from ulmfit_app.experiments.comparing import (
    average_over_seeds,
    measure_share,
    name_language,
    save_result,
    slug,
)
from ulmfit_app.experiments.trials import Trial, carry_out, read_facts
from ulmfit_app.inference.predictor import read_validation
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline.run import Run

NONE, WEIGHTS = "none", "weights"
# Weights by groups are about groups, not about rare classes.
BALANCES = tuple(balance for balance in get_args(Balance) if balance != "groups")
THRESHOLDS = {balance: f"{balance}, thresholds for F1" for balance in (NONE, WEIGHTS)}
TFIDF = "TF-IDF, class weights"
MACRO_F1 = ("macro_f1", "macro_f1_low", "macro_f1_high")
AGAINST = ("difference", "difference_low", "difference_high")
COLUMNS = (
    *("balance", "n", *MACRO_F1, *AGAINST),
    *("balanced_accuracy", "accuracy", "low", "high", "rarest_recall"),
    *("calibration_error_before", "calibration_error", "minutes"),
)


@dataclass(frozen=True)
class Tested:
    """What one seed's classifier made of the test split.

    Attributes:
        texts: columns text and label, n rows.
        truth: class indices [n].
        predicted: class indices [n].
        probabilities: [n, n_classes], at the temperature.
        before: the same at temperature 1; None of a classifier that has no temperature.
    """

    texts: pd.DataFrame
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    before: np.ndarray | None


def run_balance(
    folder: Path, settings: Settings, seeds: int, executor: Executor | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Measure what each way does for rare classes, and what it costs.

    All classifiers of a seed start from the same language model. Thresholds are chosen for a
    classifier that is trained already, so that their rows have no run of their own.

    Args:
        folder: gets a run folder per way and seed, and balance.csv, balance.md and balance.png.
        settings: of the runs.
        seeds: how many, from settings.seed on.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row per way, means over seeds, in % but for minutes: balance; n (texts); macro_f1 with
        macro_f1_low and macro_f1_high (95 %, bootstrap over texts); against `none` the columns
        AGAINST, in points on the same texts; balanced_accuracy; accuracy, low, high; rarest_recall
        (of the class with the fewest texts); calibration_error_before and calibration_error, the
        expected calibration error without and with a temperature; minutes of a run. And paragraphs
        of how.

    Raises:
        SettingError: a text has several labels.
        RunFolderError: the folder holds runs on other test texts.
    """
    settings = name_language(settings)
    if settings.classifier.select_by == "auto":
        # The runs are to differ in their balance, and not also in the epoch that is kept.
        how = replace(settings.classifier, select_by="macro-f1")
        settings = replace(settings, classifier=how)
    every = range(settings.seed, settings.seed + seeds)
    corpora = [load_corpus(settings.data, seed) for seed in every]
    if corpora[0].multilabel:
        raise SettingError(
            f"balance compares ways for one label a text, and those of {settings.data.source} "
            "have several. Compare runs instead: python -m ulmfit_app run DATA "
            "--classifier.balance weights"
        )
    if settings.lm.epochs:
        lms = [Trial(_name_of_lm(seed), replace(settings, seed=seed), "lm") for seed in every]
        carry_out(lms, folder, "Language models", executor)
    trials = {
        way: [_plan(way, settings, seed, folder) for seed in every] for way in (*BALANCES, TFIDF)
    }
    carry_out(sum(trials.values(), []), folder, "Ways", executor)
    table = _compare(trials, folder, corpora)
    notes = _describe(table, settings, corpora[0])
    save_result(folder, "balance", table, balance_figure(table))
    with replacing(folder / "balance.md") as draft:
        draft.write_text(format_balance(table, notes), encoding="utf-8")
    return table, notes


def _name_of_lm(seed: int) -> str:
    return f"lm-seed{seed}"


def _plan(way: str, settings: Settings, seed: int, folder: Path) -> Trial:
    settings, name = replace(settings, seed=seed), f"{slug(way)}-seed{seed}"
    if way == TFIDF:
        rival = partial(
            tfidf_logistic_regression,
            language=settings.tokens.language,
            class_weight="balanced",
        )
        return Trial(name, settings, instead=rival)
    lm = settings.lm
    if lm.epochs:
        start = folder / _name_of_lm(seed) / "lm"
        lm = replace(lm, pretrained=str(start.absolute()), epochs=0)
    classifier = replace(settings.classifier, balance=way, thresholds="none")
    return Trial(name, replace(settings, lm=lm, classifier=classifier), last="report")


# ----------------------------------------------------------------------------------------- reading
def _read(trial: Trial, folder: Path, n_test: int, has_thresholds: bool = False) -> Tested:
    """What a finished trial made of the test split, perhaps at thresholds that are chosen now."""
    run = folder / trial.name
    table = read_own_table(run / "report" / "predictions.csv", n_test)
    columns = probability_columns(table)
    probabilities = table[columns].to_numpy(float)
    predicted = pd.Index(columns).get_indexer(PREFIX + table["predicted"])
    before = None
    if not trial.instead:
        temperature = load_bundle(run / "classifier", "classifier").decision.temperature
        before = tempered(probabilities, 1 / temperature)
    if has_thresholds:
        n_valid = Run.open(run).record.counts["valid"]
        decision, _ = fit_decision(*read_validation([run / "classifier"], n_valid), True)
        predicted = decision.answer(probabilities)
    return Tested(table[["text", "label"]], true_classes(table), predicted, probabilities, before)


def _read_all(
    trials: dict[str, list[Trial]], folder: Path, corpora: Sequence[Corpus]
) -> dict[str, list[Tested]]:
    """What each row of the table made of the test split, by seed, in the order of the table."""
    n_test = [len(corpus.texts("test")) for corpus in corpora]
    pairs = {way: list(zip(of_way, n_test, strict=True)) for way, of_way in trials.items()}
    found = {way: [_read(trial, folder, n) for trial, n in pairs[way]] for way in BALANCES}
    for way, name in THRESHOLDS.items():
        found[name] = [_read(trial, folder, n, True) for trial, n in pairs[way]]
    found[TFIDF] = [_read(trial, folder, n) for trial, n in pairs[TFIDF]]
    for of_seeds in found.values():
        for tested, first in zip(of_seeds, found[NONE], strict=True):
            if not tested.texts.equals(first.texts):
                raise RunFolderError(
                    f"The runs in {folder} have different test texts: the data have changed since "
                    "the first of them. Give the same command with another --out"
                )
    return found


def _align(found: dict[str, list[Tested]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Truth [n] and, of each row of the table, answers [n, n_seeds], as `several_seeds` has them.

    The data's own test split is the same for each seed; one that a run makes is not.
    """
    texts = pd.concat(
        [
            one.texts.assign(copy=one.texts.groupby(["text", "label"]).cumcount())
            for one in found[NONE]
        ]
    )
    number = texts.groupby(["text", "label", "copy"]).ngroup().to_numpy()
    rows = np.split(number, np.cumsum([len(one.texts) for one in found[NONE]])[:-1])
    truth = np.zeros(number.max() + 1, int)
    answers = {way: np.full((len(truth), len(rows)), -1) for way in found}
    for seed, its in enumerate(rows):
        truth[its] = found[NONE][seed].truth
        for way, of_seeds in found.items():
            answers[way][its, seed] = of_seeds[seed].predicted
    return truth, answers


# --------------------------------------------------------------------------------------- comparing
def _compare(
    trials: dict[str, list[Trial]], folder: Path, corpora: Sequence[Corpus]
) -> pd.DataFrame:
    """The table of the finished trials."""
    found, labels = _read_all(trials, folder, corpora), corpora[0].labels
    truth, answers = _align(found)
    rarest = labels.index(find_rarest(corpora[0])[0])
    minutes = {
        way: np.mean([read_facts(trial, folder)["minutes"] for trial in of_way])
        for way, of_way in trials.items()
    }
    minutes |= {name: minutes[way] for way, name in THRESHOLDS.items()}
    lines = []
    for way, of_seeds in found.items():
        own = answers[way]
        shares = dict(zip(MACRO_F1, macro_f1_interval(truth, own, len(labels)), strict=True))
        if way != NONE:
            against = macro_f1_difference(truth, own, answers[NONE], len(labels))
            shares |= dict(zip(AGAINST, against, strict=True))
        of_classes = recalls(truth, own, len(labels))
        shares["balanced_accuracy"] = np.nanmean(of_classes, axis=1).mean()
        shares["rarest_recall"] = np.nanmean(of_classes[:, rarest])
        shares |= _calibration_errors(of_seeds)
        right = average_over_seeds(
            one.texts.assign(right=one.predicted == one.truth) for one in of_seeds
        )
        line = {name: 100 * share for name, share in shares.items()}
        line |= measure_share("accuracy", right["right"].to_numpy())
        lines.append(line | {"balance": way, "minutes": minutes[way]})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _calibration_errors(of_seeds: Sequence[Tested]) -> dict[str, float]:
    """In the mean over seeds. What has no temperature has no error with one."""
    errors = [expected_calibration_error(one.probabilities, one.truth) for one in of_seeds]
    if of_seeds[0].before is None:
        return {"calibration_error_before": float(np.mean(errors))}
    before = [expected_calibration_error(one.before, one.truth) for one in of_seeds]
    return {
        "calibration_error_before": float(np.mean(before)),
        "calibration_error": float(np.mean(errors)),
    }


def find_rarest(corpus: Corpus) -> tuple[str, int, int]:
    """Find the class with the fewest texts to learn from, among those that are tested.

    Returns:
        Its label, how many texts of train and valid it has, and how many of test.
    """
    counts = {
        split: corpus.table.loc[corpus.table["split"].isin(splits), "label"].value_counts()
        for split, splits in (("learned", ["train", "valid"]), ("tested", ["test"]))
    }
    label = min(counts["tested"].index.sort_values(), key=counts["learned"].__getitem__)
    return label, int(counts["learned"][label]), int(counts["tested"][label])


# ------------------------------------------------------------------------------------- for people
def _describe(table: pd.DataFrame, settings: Settings, corpus: Corpus) -> list[str]:
    label, n_learned, n_tested = find_rarest(corpus)
    by = settings.classifier.select_by.replace("-", " ").replace("f1", "F1")
    others = table[table["balance"] != NONE]
    kinds = {
        f"better than {NONE!r}": others["difference_low"] > 0,
        f"worse than {NONE!r}": others["difference_high"] < 0,
        f"not told apart from {NONE!r}": (others["difference_low"] <= 0)
        & (others["difference_high"] >= 0),
    }
    said = [
        f"{kind}: {', '.join(map(repr, others['balance'][which]))}."
        for kind, which in kinds.items()
        if which.any()
    ]
    return [
        f"By macro F1: {' '.join(said)}",
        f"Scored on the {corpus.test_name}, which chose nothing here: the epoch of the best {by}, "
        "the temperature and the thresholds come from the validation part, the same in all rows. "
        "Whoever chooses a row by this table has used the test split up.",
        f"The rarest class is {label!r}, with {n_learned:,} texts in train and valid and "
        f"{n_tested:,} tested ones. {TFIDF} learns from the texts of both. Minutes are those of a "
        "run beside others, with its report.",
    ]


def format_balance(table: pd.DataFrame, notes: Sequence[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_balance` returns."""
    rows = []
    for line in table.itertuples():
        against = ""
        if line.balance != NONE:
            low, high = f"{line.difference_low:+.1f}", f"{line.difference_high:+.1f}"
            against = f"{line.difference:+.1f} ({low} to {high})"
        after = line.calibration_error
        rows.append(
            [
                line.balance,
                f"{line.macro_f1:.1f} ({line.macro_f1_low:.1f} to {line.macro_f1_high:.1f})",
                against,
                f"{line.balanced_accuracy:.1f}",
                f"{line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f})",
                f"{line.rarest_recall:.1f}",
                f"{line.calibration_error_before:.1f}",
                "" if np.isnan(after) else f"{after:.1f}",
                f"{line.minutes:.1f}",
            ]
        )
    header = [
        *("balance", "macro F1", f"against {NONE!r}", "balanced accuracy", "accuracy"),
        *("recall of the rarest", "calibration error", "with temperature", "minutes"),
    ]
    lines = [
        f"In %, means over seeds, with 95 % intervals for n = {table['n'].max():,} texts: of "
        f"accuracy Wilson's, of macro F1 and of its difference to {NONE!r} on the same texts by "
        "bootstrap.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
