"""Errors with intervals, and differences on the same texts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data_scripts.files import replacing
from ulmfit_app.config import GENERAL, Settings
from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.metrics import (
    SIGNIFICANT,
    accuracy_interval,
    difference_interval,
    paired_comparison,
)
from ulmfit_app.pipeline.run import VALIDATION, validated

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


def from_general_text(settings: Settings) -> Settings:
    """The same from general text: what `auto` names may have read a data set's unlabelled texts, whose worth is compared."""
    pretrained = GENERAL if settings.lm.pretrained == "auto" else settings.lm.pretrained
    return replace(settings, lm=replace(settings.lm, pretrained=pretrained))


def save(folder: Path, name: str, table: pd.DataFrame, figure: Figure) -> None:
    """The result of an experiment, as a table and as a figure."""
    with replacing(folder / f"{name}.csv") as draft:
        table.to_csv(draft, index=False)
    with replacing(folder / f"{name}.png") as draft:
        save_png(figure, draft)


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
    return (
        pd.concat(numbered)
        .groupby(["text", "label", "copy"])
        .mean()
        .reset_index()
        .drop(columns="copy")
    )


def compared(name: str, rows: list[Row], right: list[np.ndarray], source: str) -> pd.DataFrame:
    """One table of the paper with our figures: a row each, the last of them ULMFIT's, errors in %.

    right: for each row, the share of seeds that labelled a text rightly [n], the same texts for each row.
    Columns: table, row, paper, n, error, low, high (its 95 % interval), and against ULMFIT on the same texts: difference in
    points, positive where the row is worse, difference_low, difference_high and p_value; NaN in ULMFIT's row.
    """
    found = []
    for row, hit in zip(rows, right, strict=True):
        line = {
            "table": name,
            "row": row.name,
            "paper": row.paper.get(source, np.nan),
            **errors_of(hit),
        }
        if row.name != ULMFIT:
            line |= against(right[-1], hit)
        found.append(line)
    return pd.DataFrame(
        found, columns=["table", "row", "paper", "n", "error", "low", "high", *AGAINST]
    )


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
    in_points = [
        100 * float(value) for value in (differences.mean(), *difference_interval(differences))
    ]
    return dict(zip(AGAINST, (*in_points, p_value), strict=True))


def finding(table: pd.DataFrame) -> str:
    """What held of one table, in a paragraph. table: what `compared` returns."""
    kinds: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    against_paper = []
    ours = table[table["row"] == ULMFIT].iloc[0]
    for line in table[table["row"] != ULMFIT].itertuples():
        apart = line.p_value < SIGNIFICANT
        kind = (
            "not told apart from"
            if not apart
            else "better than"
            if line.difference > 0
            else "worse than"
        )
        interval = f"{line.difference:+.1f} points, {line.difference_low:+.1f} to {line.difference_high:+.1f}"
        kinds[kind].append(f"{line.row!r} ({interval}, p = {line.p_value:.2g})")
        if not np.isnan(line.paper) and (kind == "better than") != (line.paper > ours["paper"]):
            against_paper.append(repr(line.row))
    sentences = [f"ULMFiT is {kind} {'; '.join(rows)}." for kind, rows in kinds.items() if rows]
    if table["paper"].notna().sum() > 1:
        sentences.append(
            f"Otherwise than in the paper: {', '.join(against_paper)}."
            if against_paper
            else "The paper's order holds."
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
        lines.append(
            f"| {line.table} | {line.row} | {error_as_text(line)} | {paper} | {worse_by} |"
        )
    return "\n".join([*lines, "", *(f"{text}\n" for text in findings)])
