"""Several labels a text: how files write them, and how texts are shared out so that each part has
each label.

A set of labels is one cell here, a JSON list, as `evaluation.tables.spell_set` writes it. "" is no
answer at all.
"""

import ast
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.columns import LABEL_NAMES, require_column
from ulmfit_app.data.labels import label_order
from ulmfit_app.errors import DataError, count_texts, quoted
from ulmfit_app.evaluation.tables import read_set, spell_set

SEPARATORS = (",", ";", "|")
HAS, HAS_NOT = ("1", "true", "yes"), ("0", "false", "no", "")


# ----------------------------------------------------------------------------------------- reading
def find_label_columns(found: pd.DataFrame, path: Path, settings: DataSettings) -> list[str]:
    """The columns that have one label each: those named, or those of 1 and 0 where one column of
    labels is neither named nor called so.

    Args:
        found: the table, all strings.
        path: of its file, for messages.
        settings: what was named.

    Returns:
        Columns in the order of the file; none where one column holds all labels of a text.

    Raises:
        DataError: a named column is not there.
    """
    for name in settings.label_columns:
        require_column(found, path, "--label-columns", name)
    if settings.label_columns:
        return [name for name in found.columns if name in settings.label_columns]
    if settings.label is not None or settings.separator is not None:
        return []
    if any(name.casefold() in LABEL_NAMES for name in found.columns):
        return []
    of_two = [
        name
        for name in found.columns
        if name not in (settings.text, settings.split)
        and {_plain(cell) for cell in found[name]} in ({"0", "1"}, {"false", "true"})
    ]
    return of_two if len(of_two) > 1 else []


def _plain(cell: str) -> str:
    return cell.strip().casefold().removesuffix(".0")


def sets_of_columns(
    found: pd.DataFrame, columns: Sequence[str], path: Path, notes: list[str]
) -> pd.Series:
    """Cells of labels from columns that say yes or no to one label each.

    Raises:
        DataError: a cell says neither.
    """
    values = found[list(columns)].map(_plain)
    known = values.isin([*HAS, *HAS_NOT])
    if not known.all(axis=None):
        row, column = np.argwhere(~known.to_numpy())[0]
        raise DataError(
            f"{path}, row {row} (counted from 0): expected 1 or 0 in column {columns[column]!r}, "
            f"which is a label, found {found[columns[column]].iloc[row][:60]!r}. Correct it, or "
            "leave the column out of --label-columns."
        )
    notes.append(
        f"Took {len(columns)} columns of {path.name} for a label each, 1 where a text has it: "
        f"{quoted(columns)}."
    )
    has, names = values.isin(HAS).to_numpy(), np.array(columns, object)
    cells = [spell_set(names[row]) for row in has]
    # Nothing in any column is no answer, as in the rows of a split without labels.
    empty = values.eq("").all(axis=1)
    return pd.Series(cells, found.index, dtype=object).mask(empty, "")


def sets_of_cells(
    cells: pd.Series, path: Path, separator: str | None, notes: list[str]
) -> pd.Series:
    """Cells of labels from cells that are lists, or have a separator between the labels.

    Args:
        cells: of one column.
        path: of its file, for messages.
        separator: None: found, where only one occurs.
        notes: gets what was found, and what was left out.

    Raises:
        DataError: the separator, or any, occurs nowhere; several do; or a list is broken.
    """
    stripped = cells.map(str.strip)
    is_list = stripped.str.startswith("[") & stripped.str.endswith("]")
    others = stripped[~is_list]
    broken = ~is_list & stripped.str.startswith("[")
    if is_list.any() and broken.any():
        row = int(broken.to_numpy().argmax())
        _refuse_list(f"{path}, row {row} (counted from 0)", stripped.iloc[row])
    if separator is not None and not stripped.str.contains(separator, regex=False).any():
        raise DataError(
            f"--separator {separator!r} never occurs in the labels of {path}, which are such as "
            f"{quoted(stripped[stripped != ''].unique()[:5])}. Name another, or leave "
            "--multilabel out where each text has one label."
        )
    if separator is None and others.ne("").any():
        separator = _find_separator(others, path, bool(is_list.any()))
    parts = stripped.map(lambda cell: _parts_of(cell, separator, path))
    kept = parts.map(lambda found: list(dict.fromkeys(part for part in found if part)))
    how = "as lists" if separator is None else f"separated by {separator!r}"
    notes.append(f"Took the labels of {path.name}: several a text, {how}.")
    n_odd = int((parts.map(len) != kept.map(len))[stripped != ""].sum())
    if n_odd:
        notes.append(f"Left out labels that are empty or repeated in the cells of {n_odd:,} rows.")
    return kept.map(spell_set).mask(stripped.eq(""), "")


def _find_separator(cells: pd.Series, path: Path, has_lists: bool) -> str | None:
    found = [one for one in SEPARATORS if cells.str.contains(one, regex=False).any()]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{quoted(found)} all occur in the labels of {path}, and one of them separates the "
            "labels of a text. Add --separator and the right one, in quotes."
        )
    if has_lists:  # the others are single labels
        return None
    raise DataError(
        f"--multilabel: no cell of labels in {path} is a list or has one of {quoted(SEPARATORS)} "
        f"in it; they are such as {quoted(cells[cells != ''].unique()[:5])}. Name what separates "
        "labels with --separator, or their columns with --label-columns, or leave --multilabel "
        "out where each text has one label."
    )


def _parts_of(cell: str, separator: str | None, path: Path) -> list[str]:
    if cell.startswith("[") and cell.endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(cell)
            except (ValueError, SyntaxError, RecursionError):
                continue
            if all(isinstance(part, str | int | float) for part in found):
                return [str(part).strip() for part in found]
        _refuse_list(str(path), cell)
    return [part.strip() for part in cell.split(separator)] if separator else [cell]


def _refuse_list(where: str, cell: str) -> NoReturn:
    raise DataError(
        f'{where}: expected a list of labels, such as ["a", "b"], found {cell[:80]!r}. Correct it.'
    )


def apply_without_label(
    labels: pd.Series, how: str, is_labelled: pd.Series, notes: list[str]
) -> pd.Series:
    """Decide what becomes of texts that have none of the labels, and count them.

    Args:
        labels: cells of sets.
        how: auto, keep or drop, as `DataSettings.without_label` says.
        is_labelled: which rows are of a split with labels.
        notes: gets a sentence.

    Returns:
        Cells, "" where a row is to be dropped.
    """
    missing, none = labels.eq("") & is_labelled, labels.eq("[]") & is_labelled
    if how == "keep":
        labels, none = labels.mask(missing, "[]"), none | missing
    elif how == "drop":
        labels, none = labels.mask(none, ""), none & False
    if none.any():
        notes.append(
            f"{none.sum():,} of {count_texts(int(is_labelled.sum()))} have none of the labels, "
            "and count as that: --without-label drop leaves them out."
        )
    return labels


# ----------------------------------------------------------------------------------------- sharing
def order_labels(cells: pd.Series) -> list[str]:
    """The labels that occur in cells of sets, numbers by value before words by alphabet."""
    return sorted({label for cell in cells for label in read_set(cell)}, key=label_order)


def each_label(cells: pd.Series) -> pd.Series:
    """One row for each label of each cell, with the index of its cell."""
    return cells.map(read_set).explode().dropna()


def rarest_labels(cells: pd.Series) -> pd.Series:
    """Of each cell, the label that the fewest cells have, "" of an empty one.

    Parts with the same shares of these have about the same shares of all labels.
    """
    counts = Counter(each_label(cells))

    def rarest(cell: str) -> str:
        return min(read_set(cell), key=lambda label: (counts[label], label), default="")

    return cells.map(rarest)


def share_out(
    has: np.ndarray, sizes: np.ndarray, shares: Sequence[float], generator: np.random.Generator
) -> np.ndarray:
    """Divide groups of texts into parts that have each label in their share.

    Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-label Data",
    algorithm 1): the label with the fewest groups left is dealt with first, each of its groups
    going to the part that lacks it most.

    Args:
        has: how many texts of a group have each label, [n_groups, n_labels].
        sizes: texts of each group, [n_groups].
        shares: of each part, summing to 1.
        generator: breaks ties.

    Returns:
        The part of each group, int [n_groups].
    """
    shares = np.array(shares, float)
    wanted, room = shares[:, None] * has.sum(0), shares * sizes.sum()
    part, left = np.full(len(has), -1), has > 0
    counts, order = left.sum(0), generator.permutation(len(has))
    left = left[order]

    def put(row: int, into: int) -> None:
        part[order[row]] = into
        wanted[into] -= has[order[row]]
        room[into] -= sizes[order[row]]

    while (counts > 0).any():
        label = int(np.where(counts > 0, counts, np.iinfo(int).max).argmin())
        for row in np.flatnonzero(left[:, label]):
            best = np.flatnonzero(wanted[:, label] == wanted[:, label].max())
            best = best[room[best] == room[best].max()]
            put(row, int(generator.choice(best)))
            counts -= left[row]
            left[row] = False
    for row in np.flatnonzero(part[order] < 0):  # texts without labels
        put(row, int(room.argmax()))
    return part


def hold_out_sets(pool: pd.DataFrame, share: float, generator: np.random.Generator) -> list[str]:
    """Groups with `share` of each label's texts, at least one with each label; none is left
    without.

    Args:
        pool: columns group and label, cells of sets.
        share: of the texts.
        generator: what is drawn from.
    """
    names, has, sizes = _groups_of(pool)
    # A share below one text still takes one, so that every label can be measured.
    part = share_out(has, sizes, [share, 1 - share], generator)
    for held, other in ((0, 1), (1, 0)):
        for label in np.flatnonzero(has[part == held].sum(0) == 0):
            candidates = np.flatnonzero((has[:, label] > 0) & (part == other))
            if len(candidates) > 1 or held == 1:
                part[candidates[sizes[candidates].argmin()]] = held
    return names[part == 0].tolist()


def choose_fold_of_sets(pool: pd.DataFrame, n_folds: int, number: int, seed: int) -> list[str]:
    """The groups of fold `number`, from 1 on; arguments otherwise as `hold_out_sets` has them."""
    names, has, sizes = _groups_of(pool)
    generator = np.random.default_rng([seed, n_folds])
    part = share_out(has, sizes, [1 / n_folds] * n_folds, generator)
    return names[part == number - 1].tolist()


def _groups_of(pool: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of groups, how many texts of each have each label, and how many it has."""
    codes, names = pd.factorize(pool["group"])
    each = each_label(pool["label"].reset_index(drop=True))
    labels, known = pd.factorize(each)
    has = np.zeros((len(names), max(len(known), 1)), int)
    np.add.at(has, (codes[each.index.to_numpy(int)], labels), 1)
    return np.asarray(names, object), has, np.bincount(codes)
