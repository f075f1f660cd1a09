"""What augmentation is worth: test errors without it and with each method, by number of labels.

Of n labels, all methods get the same n texts, as in a label curve, and start from the same
language model of a seed, which was fine-tuned on all training texts and the unlabelled ones. No
method is chosen here, so that all are scored on the test split; whoever chooses one for data of
their own compares validation errors.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import AugmentationSettings, Settings
from ulmfit_app.data.few_labels import divide_labels
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.metrics import SIGNIFICANT
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import (
    AGAINST,
    format_difference,
    format_error,
    measure_difference,
    measure_share,
    name_language,
    save_result,
)
from ulmfit_app.experiments.label_curve import Points, read_sizes, read_tests
from ulmfit_app.experiments.trials import Trial, carry_out, read_facts
from ulmfit_app.pipeline.augmenting import check_augmentation, growth_by

NONE = "none"


def run_augment(
    folder: Path,
    settings: Settings,
    at: list[int],
    seeds: int,
    methods: Sequence[str],
    executor: Executor | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Measure test errors without augmentation, and with each of some methods.

    Args:
        folder: gets a run folder per method, number of labels and seed, and augment.csv,
            augment.md and augment.png.
        settings: of the runs; those of augmentation but for the method.
        at: numbers of labels, those for validation among them.
        seeds: how many, from settings.seed on.
        methods: of augmentation.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row per number of labels and method: labels, method, growth (how many times as many
        texts it learns from), n, error (mean over seeds), low, high (95 %, for so many texts),
        against none at as many labels the columns AGAINST, and minutes of a run; and what held,
        in sentences.

    Raises:
        SettingError: numbers of labels that the data do not have, a method that cannot be carried
            out, or a command without the method that it is for.
        RunFolderError: the folder holds runs on other test texts.
    """
    settings = name_language(settings)
    ways = {method: _by(method, settings.augment) for method in dict.fromkeys([NONE, *methods])}
    if settings.augment.command is not None and "translate" not in ways:
        raise SettingError(
            "--augment.command is for the method translate, which is not compared. Add it: "
            f"--methods {' '.join([*methods, 'translate'])}"
        )
    every = range(settings.seed, settings.seed + seeds)
    sizes = {seed: read_sizes(at, settings, seed) for seed in every}
    for how in ways.values():
        check_augmentation(replace(settings, augment=how))
    if settings.lm.epochs:
        lms = [Trial(_name_of_lm(seed), replace(settings, seed=seed), "lm") for seed in every]
        carry_out(lms, folder, "Language models", executor)
    points = {
        (method, n): [
            _plan_point(method, how, divide_labels(n, sizes[seed]), settings, seed, folder)
            for seed in every
        ]
        for n in sorted(set(at))
        for method, how in ways.items()
    }
    carry_out(sum(points.values(), []), folder, "Classifiers", executor)
    table = _compare(points, folder, {seed: found.test for seed, found in sizes.items()})
    notes = state_findings(table)
    figure = label_curve_figure(table.rename(columns={"method": "way"}))
    save_result(folder, "augment", table, figure)
    with replacing(folder / "augment.md") as draft:
        draft.write_text(format_augment(table, notes), encoding="utf-8")
    return table, notes


def _by(method: str, how: AugmentationSettings) -> AugmentationSettings:
    """The settings of a method, without those that it would ignore."""
    if method == NONE:
        return AugmentationSettings()
    copies = {} if method in ("eda", "lm") else {"copies": 1}
    command = {"command": how.command if method == "translate" else None}
    return replace(how, method=method, **copies, **command)


def _name_of_lm(seed: int) -> str:
    return f"lm-seed{seed}"


def _plan_point(
    method: str,
    how: AugmentationSettings,
    labels: tuple[int, int],
    settings: Settings,
    seed: int,
    folder: Path,
) -> Trial:
    """A classifier from so many labels, as `divide_labels` divides them."""
    (n_train, n_valid), lm = labels, settings.lm
    if lm.epochs:
        start = folder / _name_of_lm(seed) / "lm"
        lm = replace(lm, pretrained=str(start.absolute()), epochs=0)
    data = replace(settings.data, max_train=n_train, max_valid=n_valid, max_unlabelled=0)
    changed = replace(settings, seed=seed, data=data, lm=lm, augment=how)
    return Trial(f"{method}-{sum(labels)}-seed{seed}", changed, "report", n_labels=sum(labels))


def _compare(points: Points, folder: Path, n_test: dict[int, int]) -> pd.DataFrame:
    """The table of the finished trials. n_test: texts of the test split, by seed."""
    tested = read_tests(points, folder, n_test)
    found = []
    for (method, n_labels), trials in points.items():
        right = tested[method, n_labels]["right"].to_numpy()
        growth = growth_by(trials[0].settings.augment)
        line = {"labels": n_labels, "method": method, "growth": growth}
        line |= measure_share("error", 1 - right)
        if method != NONE:
            line |= measure_difference(tested[NONE, n_labels]["right"].to_numpy(), right)
        line["minutes"] = float(np.mean([read_facts(t, folder)["minutes"] for t in trials]))
        found.append(line)
    columns = ["labels", "method", "growth", "n", "error", "low", "high", *AGAINST, "minutes"]
    return pd.DataFrame(found, columns=columns)


def state_findings(table: pd.DataFrame) -> list[str]:
    """Which methods help and which hurt, in sentences. table: what `run_augment` returns."""
    compared = table[table["method"] != NONE]
    if compared.empty:
        return []
    kinds: dict[str, list[str]] = {"Better": [], "Worse": [], "Not told apart": []}
    for line in compared.itertuples():
        kind = "Not told apart"
        if line.p_value < SIGNIFICANT:
            kind = "Better" if line.difference < 0 else "Worse"
        said = f"{line.method} at {line.labels:,} labels ({format_difference(line)})"
        kinds[kind].append(said)
    found = [f"{kind} than none: {'; '.join(said)}." for kind, said in kinds.items() if said]
    found = [each.replace("Not told apart than", "Not told apart from") for each in found]
    return [
        *found,
        f"Of {len(compared)} comparisons, one in {round(1 / SIGNIFICANT)} would look better or "
        "worse where no method changes anything.",
    ]


def format_augment(table: pd.DataFrame, notes: list[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_augment` returns."""
    rows = []
    for line in table.itertuples():
        differs = "" if line.method == NONE else format_difference(line)
        times = f"{line.growth} times as many" if line.growth > 1 else "those labelled"
        shown = line.method, times, format_error(line), differs, f"{line.minutes:.1f}"
        rows.append([f"{line.labels:,}", *shown])
    header = ["labels", "method", "texts to learn from", "error", "against none", "minutes"]
    lines = [
        "Test errors in %, means over seeds, with 95 % intervals for "
        f"n = {table['n'].max():,} texts; against none at as many labels: difference in points on "
        "the same texts, negative where the method helps, its interval, and McNemar's p-value.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
