"""What a data set's name, a folder or a file holds, as it was found.

Texts, labels, the splits that it says itself, and its other columns.
"""

from pathlib import Path

import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.columns import (
    find_text_and_label_columns,
    find_text_column,
    rename_by_meaning,
)
from ulmfit_app.data.draft import Draft
from ulmfit_app.data.encodings import LONE_SURROGATE, replace_lone_surrogates
from ulmfit_app.data.folders import read_class_folders
from ulmfit_app.data.known_sets import DATA_SETS, read_known
from ulmfit_app.data.label_sets import find_label_columns, sets_of_cells, sets_of_columns
from ulmfit_app.data.reading import read_labelled_lines, read_lines, read_table
from ulmfit_app.data.split_column import find_split_column, read_splits
from ulmfit_app.errors import DataError, SettingError


def read_source(settings: DataSettings) -> Draft:
    """What `settings` name, as it was found.

    Args:
        settings: the source, and which of its columns is which.

    Raises:
        DataError: it is none of the kinds that are read, or broken.
        SettingError: there is no such encoding, or a setting would be ignored.
        data_scripts.fetch.FetchError: a data set known by name cannot be had.
    """
    path = Path(settings.source)
    if settings.quotes != "csv" and (settings.source in DATA_SETS or path.is_dir()):
        raise SettingError(
            f"--quotes {settings.quotes} is about CSV and TSV, and {path} is neither. Leave it "
            "out."
        )
    if settings.source in DATA_SETS:
        return read_known(settings)
    if path.is_dir():
        return _folder(path, settings.encoding)
    if _has_labelled_lines(path, settings.encoding):
        return _labelled_file(path, settings)
    if not path.exists() and not path.suffix and not path.is_symlink():
        raise DataError(
            f"{settings.source} is neither {', '.join(DATA_SETS)}, nor a file or folder that "
            "exists."
        )
    return _file(path, settings)


def _has_labelled_lines(path: Path, encoding: str) -> bool:
    """Whether a .txt begins with a line `label<TAB>text` that cannot be one of column names."""
    if path.suffix.lower() != ".txt" or not path.is_file():
        return False
    first, *others = read_lines(path, encoding)
    return any(line.startswith(first.split("\t")[0] + "\t") for line in others)


def _labelled_file(path: Path, settings: DataSettings) -> Draft:
    given = [
        f"--{name}"
        for name in ("text", "label", "split", "quotes")
        if getattr(settings, name) != getattr(DataSettings, name)
    ]
    if given:
        raise SettingError(
            f"{' and '.join(given)}: {path} is no table with column names, its lines are "
            "'label<TAB>text'. Leave out what names columns or quotes."
        )
    table = read_labelled_lines(path, "train", settings.encoding)
    note = f"Took each line of {path.name} for a label, a tab and a text; it names no columns."
    return Draft(table, str(path), None, "stratified by label", [note])


def _folder(path: Path, encoding: str) -> Draft:
    """Class folders, in train, valid and test folders or without."""
    table, notes = read_class_folders(path, encoding)
    return Draft(table, str(path), None, "stratified by label", notes)


def _file(path: Path, settings: DataSettings) -> Draft:
    notes: list[str] = []
    found = read_table(path, settings.encoding, settings.quotes, notes, settings.multilabel)
    taken = [name for name in (settings.text, settings.label) if name is not None]
    split = find_split_column(found, path, settings.split, taken, notes)
    if settings.multilabel and (columns := find_label_columns(found, path, settings)):
        return _labels_in_columns(found, path, settings, split, columns, notes)
    candidates = found.drop(
        columns=[*settings.groups, *filter(None, [settings.time])], errors="ignore"
    )
    how = settings.text, settings.label, split
    text, label = find_text_and_label_columns(candidates, path, *how)
    if (settings.text, settings.label) != (text, label):
        notes.append(
            f"Took column '{text}' of {path.name} for the texts and '{label}' for the labels."
        )
    splits = "train" if split is None else read_splits(found[split], split, path)
    labels = found[label]
    if settings.multilabel:
        labels = sets_of_cells(labels, path, settings.separator, notes)
    table = pd.DataFrame({"text": found[text], "label": labels}).assign(split=splits)
    # A run's own table has a column row, the number of each row.
    meanings = {"text": text, "label": label, "split": split, "row": None}
    table = table.join(_other_columns(found, meanings, notes))
    about = str(path), None, "stratified by label", notes, None, text
    return Draft(table, *about, settings.multilabel)


def _labels_in_columns(
    found: pd.DataFrame,
    path: Path,
    settings: DataSettings,
    split: str | None,
    columns: list[str],
    notes: list[str],
) -> Draft:
    """A file with a column for each of several labels."""
    labels = sets_of_columns(found, columns, path, notes)
    others = found.drop(columns=[*columns, *([split] if split else [])])
    only = others.columns[0] if settings.text is None and others.shape[1] == 1 else settings.text
    text = find_text_column(others, path, only)
    splits = "train" if split is None else read_splits(found[split], split, path)
    table = pd.DataFrame({"text": found[text], "label": labels}).assign(split=splits)
    meanings = {"text": text, "split": split, "label": None, "row": None}
    table = table.join(_other_columns(found.drop(columns=columns), meanings, notes))
    return Draft(table, str(path), None, "stratified by label", notes, None, text, True)


def _other_columns(
    found: pd.DataFrame, meanings: dict[str, str | None], notes: list[str]
) -> pd.DataFrame:
    """What a file holds beside texts, labels and splits, under names that are not theirs."""
    used = [column for column in meanings.values() if column is not None]
    others = found.drop(columns=used)
    names = {
        column: name
        for column, name in rename_by_meaning(list(found), meanings).items()
        if column in others
    }
    notes += [
        f"Kept column '{old}' as '{new}', since {old} has another meaning here."
        for old, new in names.items()
    ]
    lone = others.map(lambda cell: len(LONE_SURROGATE.findall(cell))).to_numpy().sum()
    if lone:
        notes.append(
            f"Replaced every lone surrogate, which is no character, by U+FFFD: {lone:,} in other "
            "columns than the texts'."
        )
        others = others.apply(replace_lone_surrogates)
    return others.rename(columns=names)
