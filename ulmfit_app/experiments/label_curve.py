"""How the error falls with the number of labels (Howard and Ruder 2018, figure 3).

Of n labels, all ways get the same n texts. A run of ULMFiT learns from four fifths of them and
keeps its best epoch, and fits its temperature, on the last fifth; what needs no validation learns
from all. A label curve is scored on the test split, since nothing is chosen by it.
"""

import math
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.few_labels import Sizes, divide_labels
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import (
    AGAINST,
    average_over_seeds,
    format_difference,
    format_error,
    measure_difference,
    measure_share,
    name_language,
    save_result,
    slug,
    start_from_general_text,
)
from ulmfit_app.experiments.on_transformers import short_name
from ulmfit_app.experiments.rivals import fine_tuned_minilm, require_minilm, setfit
from ulmfit_app.experiments.trials import Trial, carry_out, read_facts
from ulmfit_app.models.hub import is_transformer
from ulmfit_app.training.choosing import batch_size_for
from ulmfit_app.training.recipes import count_epochs, make_plan

SEMI_SUPERVISED = "ULMFiT, semi-supervised"
SUPERVISED = "ULMFiT, supervised"
RANDOM_START = "the same without pretraining"
SCRATCH = "classifier from scratch"
AS_IT_CAME = "supervised, from the transformer as it came"
TFIDF = "TF-IDF + logistic regression"
MINILM = {"MiniLM, fine-tuned": fine_tuned_minilm, "SetFit on MiniLM": setfit}
# The language models that classifiers of any number of labels start from.
SHARED = {SEMI_SUPERVISED: {}, RANDOM_START: {"pretrained": "none"}}

# Random weights learn slowly; few labels are read more often, or their error would be that of a
# training which was stopped in the middle.
FEWEST_STEPS = 300

Points = dict[tuple[str, int], list[Trial]]  # of a way and a number of labels, a trial per seed


def run_label_curve(
    folder: Path,
    settings: Settings,
    at: list[int],
    seeds: int,
    minilm: bool = False,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Measure test errors against the number of labels.

    Of n labels, `divide_labels` says how many a run of ULMFiT learns from; on the others it keeps
    its best epoch and fits its temperature. The rivals learn from all n. Fewer labels are among
    those of more, and the validation part lends its labels, not its other texts: no language model
    reads them.

    Semi-supervised, the language model is fine-tuned on all training texts and the unlabelled
    ones, and may start from one that has read such texts, as `auto` does on IMDb. Supervised, it
    starts from general text, and is fine-tuned on the texts that the classifier learns from alone.
    From random weights, a classifier is trained for FEWEST_STEPS steps or more.

    A transformer has no ways from random weights. Supervised, its classifier starts from it as it
    came: a few texts teach it nothing of their language.

    Args:
        folder: gets a run folder per point and seed, and labels.csv and labels.png.
        settings: of the runs.
        at: numbers of labels, those for validation among them.
        seeds: how many, from settings.seed on.
        minilm: MiniLM and SetFit, too.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row per way and number of labels: way, labels, n (texts), error (mean over seeds), low,
        high (95 %, for so many texts), against the first way the columns AGAINST, and of each
        run minutes, and peak_memory_gb where the system says it.

    Raises:
        SettingError: numbers of labels that the data do not have, or a missing extra.
        RunFolderError: the folder holds runs on other test texts.
    """
    settings = name_language(settings)
    ways = choose_ways(settings, minilm)
    if minilm:
        require_minilm()
    every = range(settings.seed, settings.seed + seeds)
    sizes = {seed: read_sizes(at, settings, seed) for seed in every}
    shared = [(way, kind) for way, kind in ways.items() if kind in SHARED]
    lms = [_plan_language_model(*which, settings, seed) for seed in every for which in shared]
    carry_out(lms, folder, "Language models", executor)
    divided = {(n, seed): divide_labels(n, sizes[seed]) for n in at for seed in every}
    points = {
        (way, n): [_plan_point(way, kind, divided[n, s], settings, s, folder) for s in every]
        for n in sorted(at)
        for way, kind in ways.items()
    }
    carry_out(sum(points.values(), []), folder, "Classifiers", executor)
    table = _compare(points, folder, {seed: found.test for seed, found in sizes.items()})
    save_result(folder, "labels", table, label_curve_figure(table))
    return table


def choose_ways(settings: Settings, minilm: bool) -> dict[str, str]:
    """The ways that are compared, in the order of the table: name -> what each does.

    Where ULMFiT itself starts from random weights, there is no other one without pretraining.
    """
    rivals = [TFIDF, *(MINILM if minilm else ())]
    start = settings.lm.pretrained
    if is_transformer(start):
        ours = f"ULMFiT's recipe on {short_name(start)}"
        ways = {f"{ours}, semi-supervised": SEMI_SUPERVISED} if settings.lm.epochs else {}
        ways |= {f"{ours}, supervised": AS_IT_CAME}
        return ways | {rival: rival for rival in rivals}
    ways = [SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, *rivals]
    return {way: way for way in ways if way != RANDOM_START or start != "none"}


def describe_left_out(settings: Settings) -> list[str]:
    """What a label curve of a transformer has not, in a sentence or two; nothing of an AWD-LSTM's.

    settings: of the runs.
    """
    if not is_transformer(settings.lm.pretrained):
        return []
    no_stage_two = " --lm.epochs 0 leaves out stage two, and so the semi-supervised way."
    return [
        "The start is a transformer, which comes pretrained: the ways from random weights are "
        "left out. Supervised, its classifier starts from it as it came."
        f"{'' if settings.lm.epochs else no_stage_two}"
    ]


def read_sizes(at: list[int], settings: Settings, seed: int) -> Sizes:
    """What a seed's data offer.

    Raises:
        SettingError: numbers of labels that they do not, or texts with several labels.
    """
    if not at or min(at) < 3:
        raise SettingError(
            f"--at {' '.join(map(str, at))}: expected numbers of labels, each 3 or more, "
            "such as --at 100 500"
        )
    corpus = load_corpus(settings.data, seed)
    if corpus.multilabel:
        raise SettingError(
            f"--at counts texts with one label, and those of {settings.data.source} have several. "
            "Compare runs instead: python -m ulmfit_app.run DATA --max-labels 500"
        )
    counts = corpus.table["split"].value_counts()
    sizes = Sizes(len(corpus.labels), *(int(counts[name]) for name in ("train", "valid", "test")))
    for n_labels in at:
        divide_labels(n_labels, sizes)
    return sizes


def _plan_language_model(way: str, kind: str, settings: Settings, seed: int) -> Trial:
    """What the classifiers of a way start from, whatever their number of labels.

    kind: in SHARED.
    """
    s = replace(settings, seed=seed, lm=replace(settings.lm, **SHARED[kind]))
    return Trial(f"lm-{slug(way)}-seed{seed}", s, "lm")


def _plan_point(
    way: str, kind: str, labels: tuple[int, int], settings: Settings, seed: int, folder: Path
) -> Trial:
    """A classifier from so many labels, or what stands in its place.

    kind: what the way does. labels: as `divide_labels` divides them.
    """
    (n_train, n_valid), n_labels = labels, sum(labels)
    data = replace(settings.data, max_train=n_train, max_valid=n_valid, max_unlabelled=0)
    # A start that has read unlabelled texts is no start of the supervised way.
    s = replace(start_from_general_text(settings), seed=seed, data=data)
    name = f"{slug(way)}-{n_labels}-seed{seed}"
    if kind == TFIDF:
        count_words = partial(tfidf_logistic_regression, language=s.tokens.language)
        return Trial(name, s, instead=count_words, n_labels=n_labels)
    if kind in MINILM:
        rival = MINILM[kind]
        if rival is fine_tuned_minilm:
            rival = partial(rival, precision=s.precision)
        return Trial(name, s, instead=rival, n_labels=n_labels)
    starts_at_random = kind in (RANDOM_START, SCRATCH) or s.lm.pretrained == "none"
    if kind in SHARED:
        start = folder / f"lm-{slug(way)}-seed{seed}" / "lm"
        s = replace(s, lm=replace(s.lm, pretrained=str(start.absolute()), epochs=0))
    elif kind == SCRATCH:
        s = replace(s, lm=replace(s.lm, pretrained="none", epochs=0))
    elif kind == AS_IT_CAME:
        s = replace(s, lm=replace(s.lm, epochs=0))
    if starts_at_random:
        s = train_to_the_end(s, n_train)
    return Trial(name, s, last="report", n_labels=n_labels)


def train_to_the_end(settings: Settings, n_train: int) -> Settings:
    """The settings with a classifier that makes FEWEST_STEPS steps or more from random weights.

    The epoch that is kept is the best on validation, so that too many do no harm. Time does not
    bound them.

    Args:
        settings: of a run that starts from random weights.
        n_train: texts that its classifier learns from.
    """
    how = settings.classifier
    n_groups = settings.model.count_groups(how)
    plan = make_plan("weak-start" if how.plan == "auto" else how.plan, n_groups)
    whole, rest = divmod(n_train, batch_size_for(n_train, how.batch_size))
    steps = max(whole + (rest > 1), 1)  # a text alone joins the batch before
    epochs = max(how.epochs or count_epochs(plan), math.ceil(FEWEST_STEPS / steps))
    return replace(settings, classifier=replace(how, epochs=epochs, max_tokens=None))


def _compare(points: Points, folder: Path, n_test: dict[int, int]) -> pd.DataFrame:
    """The table of the finished trials. n_test: texts of the test split, by seed."""
    tested = read_tests(points, folder, n_test)
    (first, _), *_ = points
    found = []
    for (way, n_labels), trials in points.items():
        hit = tested[way, n_labels]["right"].to_numpy()
        line = {"way": way, "labels": n_labels, **measure_share("error", 1 - hit)}
        if way != first:
            line |= measure_difference(tested[first, n_labels]["right"].to_numpy(), hit)
        facts = [read_facts(trial, folder) for trial in trials]
        line["minutes"] = float(np.mean([fact["minutes"] for fact in facts]))
        line["peak_memory_gb"] = max(fact["peak_memory_gb"] or np.nan for fact in facts)
        found.append(line)
    names = ["way", "labels", "n", "error", "low", "high", *AGAINST, "minutes", "peak_memory_gb"]
    return pd.DataFrame(found, columns=names)


def read_tests(
    points: Points, folder: Path, n_test: dict[int, int]
) -> dict[tuple[str, int], pd.DataFrame]:
    """Read which test texts the finished trials of each point label rightly.

    Args:
        points: the trials of each, a seed's each.
        folder: of the experiment.
        n_test: texts of the test split, by seed.

    Returns:
        By point, one row per text, in an order that is the same for all: text, label, and right,
        the share of seeds that labels it rightly.

    Raises:
        DataError: predictions are missing or not whole.
        RunFolderError: they are of different texts.
    """
    tested = {point: read_test(trials, folder, n_test) for point, trials in points.items()}
    first, *others = (table[["text", "label"]] for table in tested.values())
    if not all(table.equals(first) for table in others):
        raise RunFolderError(
            f"The runs in {folder} have different test texts: the data have changed since the "
            "first of them. Give the same command with another --out"
        )
    return tested


def read_test(trials: list[Trial], folder: Path, n_test: dict[int, int]) -> pd.DataFrame:
    """Read which test texts the finished trials of some seeds label rightly.

    Args:
        trials: a seed's each.
        folder: of the experiment.
        n_test: texts of the test split, by seed.

    Returns:
        One row per text, in an order that is the same for all ways: text, label, and right, the
        share of seeds that labels it rightly.

    Raises:
        DataError: predictions are missing or not whole.
    """
    tables = (
        read_own_table(
            folder / trial.name / "report" / "predictions.csv", n_test[trial.settings.seed]
        )
        for trial in trials
    )
    return average_over_seeds(
        table[["text", "label"]].assign(right=table["predicted"] == table["label"])
        for table in tables
    )


def format_curve(table: pd.DataFrame, notes: Iterable[str] = ()) -> str:
    """The label curve as a page to read or to paste.

    Args:
        table: what `run_label_curve` returns.
        notes: paragraphs below it.
    """
    rows, first = [], table["way"].iloc[0]
    for line in table.itertuples():
        worse_by = "" if line.way == first else format_difference(line)
        memory = "" if np.isnan(line.peak_memory_gb) else f"{line.peak_memory_gb:.1f} GB"
        minutes = f"{line.minutes:.1f}"
        rows.append([f"{line.labels:,}", line.way, format_error(line), worse_by, minutes, memory])
    header = ["labels", "way", "error", "against the first", "minutes", "memory"]
    lines = [
        "Test errors in %, means over seeds, with 95 % intervals for "
        f"n = {table['n'].max():,} texts; against the first, {first!r}: difference in points on "
        "the same texts, its interval, and McNemar's p-value.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
