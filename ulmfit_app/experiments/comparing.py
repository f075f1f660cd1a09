"""Errors with intervals, and differences on the same texts."""

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data_scripts.files import replacing
from ulmfit_app.config import CHINESE, GENERAL, Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.metrics import (
    SIGNIFICANT,
    accuracy_interval,
    difference_interval,
    paired_comparison,
)
from ulmfit_app.evaluation.tables import markdown_table, probability_columns
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import read_validation
from ulmfit_app.languages import is_chinese
from ulmfit_app.pipeline.language import find_language, is_open
from ulmfit_app.pipeline.run import Run
from ulmfit_app.run_folder import VALIDATION

AGAINST = ("difference", "difference_low", "difference_high", "p_value")  # columns
# Folders of a run whose mean is a direction's answer.
CLASSIFIERS = {
    "forward": ["classifier"],
    "backward": ["classifier-backward"],
    "both": ["classifier", "classifier-backward"],
}
ULMFIT = "ULMFiT, all of it"


def slug(name: str) -> str:
    """The name as part of a folder's: its letters and digits, and a dash for what stands between.

    >>> slug("full + discr, chain-thaw")
    'full-discr-chain-thaw'
    """
    return "-".join(
        "".join(letter if letter.isalnum() else " " for letter in name).lower().split()
    )


@dataclass(frozen=True)
class Row:
    """One row of a table: a language model, how the classifier is trained, and the paper's error.

    Attributes:
        name: what the row shows.
        paper: validation error in % on "imdb" and "trec6", where the paper has one.
        lm: the language model's name in ablation.LANGUAGE_MODELS.
        classifier: what differs from the classifier of the full recipe.
        direction: forward, backward, or both: the mean of the two's probabilities.
    """

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    lm: str = "full + discr + stlr"
    classifier: dict[str, Any] = field(default_factory=dict)
    direction: str = "forward"

    @property
    def folder(self) -> str:
        """The name of its trials, which rows that differ in direction alone share."""
        settings = [self.lm, *(str(value) for value in self.classifier.values())]
        return slug("-".join(settings))


def name_language(settings: Settings) -> Settings:
    """The same settings with the language that a run would find its texts to be in.

    It is found once, in all of them: a trial of few texts might find another.

    Raises:
        DataError, SettingError: as `load_corpus` and `find_language` do.
    """
    if not is_open(settings):
        return settings
    return find_language(settings, load_corpus(settings.data, settings.seed).table["text"])[0]


def start_from_general_text(settings: Settings) -> Settings:
    """The same settings, which name their language, with a start from general text.

    What `auto` names may have read a data set's unlabelled texts, whose worth is compared.
    """
    if settings.lm.pretrained != "auto":
        return settings
    pretrained = CHINESE if is_chinese(settings.tokens.language) else GENERAL
    return replace(settings, lm=replace(settings.lm, pretrained=pretrained))


def save_result(folder: Path, name: str, table: pd.DataFrame, figure: Figure) -> None:
    """Save the result of an experiment, as NAME.csv and as NAME.png."""
    write_table(folder / f"{name}.csv", table)
    with replacing(folder / f"{name}.png") as draft:
        save_png(figure, draft)


def read_texts(run: Path) -> pd.Series:
    """Read the texts of a run's table, by their row."""
    return Run.open(run).corpus.table["text"]


def score_validation(run: Path, direction: str, texts: pd.Series) -> pd.DataFrame:
    """Set what a run's classifier made of its validation split beside the truth.

    Args:
        run: the run folder.
        direction: one of CLASSIFIERS; both is the mean of the two.
        texts: of the run's table, by their row; runs on the same rows share them.

    Returns:
        One row per text: text, label, right (whether the label is the likeliest), and, at
        temperature 1, a column p_LABEL for each label.

    Raises:
        RunFolderError: there is no run, or its validation.csv is missing or damaged.
    """
    folders = [run / name for name in CLASSIFIERS[direction]]
    n_texts = Run.open(run).record.counts["valid"]
    known = read_validation(folders, n_texts)
    if known is None:
        raise RunFolderError(
            f"{run} has lost a {VALIDATION} of {' or '.join(CLASSIFIERS[direction])}. Have the "
            f"run made again: rm -r {shlex.quote(str(run))}, and then the same command."
        )
    probabilities, truth = known
    written = read_own_table(folders[0] / VALIDATION, n_texts)
    of_rows = texts[written["row"].astype(int)].to_numpy()
    table = pd.DataFrame({"text": of_rows, "label": written["label"]})
    table = table.assign(right=probabilities.argmax(axis=1) == truth)
    return table.join(pd.DataFrame(probabilities, columns=probability_columns(written)))


def average_over_seeds(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Average what several tables say of the same text and label.

    A text that several seeds label is still one text: counted once per seed, it would make
    intervals too narrow. Equal texts within a table count each.

    Args:
        tables: one seed's each, or a part of one, with columns text, label, and numbers.

    Returns:
        One row per text, in an order that follows from the texts.
    """
    numbered = [table.assign(copy=table.groupby(["text", "label"]).cumcount()) for table in tables]
    means = pd.concat(numbered).groupby(["text", "label", "copy"]).mean()
    return means.reset_index().drop(columns="copy")


def measure_share(name: str, counted: np.ndarray) -> dict[str, float]:
    """A share in % with its 95 % interval, such as an error or an accuracy.

    Args:
        name: of the share.
        counted: whether each text counts, or for which share of seeds it does, [n].

    Returns:
        n, the share by its name, low and high.
    """
    n, total = len(counted), float(counted.sum())
    low, high = accuracy_interval(total, n)
    return {"n": n, name: 100 * total / n, "low": 100 * low, "high": 100 * high}


def measure_difference(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How many points more another model errs on the same texts, and how sure that is.

    Sure of these seeds' models on other texts, not of what other seeds would train.

    Args:
        ours: which texts are labelled rightly, or by which share of seeds, [n].
        other: likewise, by the other model.

    Returns:
        The columns AGAINST. The p-value is McNemar's, exact where each text is right or wrong. Of
        shares it is that of McNemar's statistic, the sum of the differences by the root of the sum
        of their squares, which is about normal when only chance decides whom each of them favours.
    """
    differences = ours.astype(float) - other
    if np.isin([ours, other], (0, 1)).all():
        p_value = paired_comparison(ours.astype(bool), other.astype(bool))["p_value"]
    else:
        squares = (differences**2).sum()
        p_value = math.erfc(abs(differences.sum()) / math.sqrt(2 * squares)) if squares else 1.0
    in_points = [
        100 * float(value) for value in (differences.mean(), *difference_interval(differences))
    ]
    return dict(zip(AGAINST, (*in_points, p_value), strict=True))


def compare_rows(name: str, rows: list[Row], right: list[np.ndarray], source: str) -> pd.DataFrame:
    """Set one table of the paper beside our figures.

    Args:
        name: of the table.
        rows: the last of them is ULMFiT's, whose settings it shares but for what they name.
        right: for each row, the share of seeds that labelled a text rightly, [n], the same texts
            for each row.
        source: the data set.

    Returns:
        One row each, errors in %: table, row, paper, n, error, low, high (its 95 % interval), and
        against the last row on the same texts: difference in points, positive where the row is
        worse, difference_low, difference_high and p_value; NaN in the last row.
    """
    found = []
    for row, hit in zip(rows, right, strict=True):
        line = {"table": name, "row": row.name, "paper": row.paper.get(source, np.nan)}
        line |= measure_share("error", 1 - hit)
        if row is not rows[-1]:
            line |= measure_difference(right[-1], hit)
        found.append(line)
    columns = ["table", "row", "paper", "n", "error", "low", "high", *AGAINST]
    return pd.DataFrame(found, columns=columns)


def state_finding(table: pd.DataFrame) -> str:
    """Say what held of one table, in a paragraph. table: what `compare_rows` returns."""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    against_paper = []
    ours = table.iloc[-1]
    for line in table.iloc[:-1].itertuples():
        kind = "better than" if line.difference > 0 else "worse than"
        if not line.p_value < SIGNIFICANT:
            kind = "not told apart from"
        low, high = f"{line.difference_low:+.1f}", f"{line.difference_high:+.1f}"
        interval = f"{line.difference:+.1f} points, {low} to {high}"
        kinds[kind].append(f"{line.row!r} ({interval}, p = {line.p_value:.2g})")
        if not np.isnan(line.paper) and (kind == "better than") != (line.paper > ours["paper"]):
            against_paper.append(repr(line.row))
    sentences = [f"ULMFiT is {kind} {'; '.join(rows)}." for kind, rows in kinds.items() if rows]
    if table["paper"].notna().sum() > 1:
        sentences.append(
            f"Unlike in the paper: {', '.join(against_paper)}."
            if against_paper
            else "The paper's order holds."
        )
    return f"{ours['table']}: {' '.join(sentences)}"


def format_error(line: Any) -> str:
    """A row's error with its interval."""
    return f"{line.error:.1f} ({line.low:.1f} to {line.high:.1f})"


def format_difference(line: Any) -> str:
    """A row's difference, its interval and its p-value."""
    low, high = f"{line.difference_low:+.1f}", f"{line.difference_high:+.1f}"
    return f"{line.difference:+.1f} ({low} to {high}), p = {line.p_value:.2g}"


def format_tables(table: pd.DataFrame, findings: list[str]) -> str:
    """The whole table and the paragraphs, as a page to read or to paste."""
    rows = []
    for line in table.itertuples():
        paper = "" if np.isnan(line.paper) else f"{line.paper:.2f}"
        worse_by = "" if np.isnan(line.difference) else format_difference(line)
        rows.append([line.table, line.row, format_error(line), paper, worse_by])
    header = ["table", "row", "error here", "the paper's AWD-LSTM", "against ULMFiT"]
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, "
        "over all seeds; against ULMFiT: difference in points on the same texts, its interval, "
        "and McNemar's p-value.",
        "",
        markdown_table(header, rows),
        "",
    ]
    return "\n".join([*lines, *(f"{text}\n" for text in findings)])
