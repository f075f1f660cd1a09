"""What a data set's name, a folder or a file holds, as it was found.

Texts, labels, the splits that it says itself, and its other columns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd

from data_scripts import chinese, imdb, trec
from data_scripts.fetch import Source
from ulmfit_app.config import DataSettings
from ulmfit_app.data.columns import (
    find_text_and_label_columns,
    rename_by_meaning,
)
from ulmfit_app.data.encodings import LONE_SURROGATE, decode, replace_lone_surrogates
from ulmfit_app.data.folders import read_class_folders
from ulmfit_app.data.reading import read_folder, read_table
from ulmfit_app.data.split_column import find_split_column, read_splits
from ulmfit_app.errors import DataError, SettingError, quoted

DATA_SETS = ("imdb", "trec6", *chinese.SETS)  # that are known by name

# Maas et al. let a film have at most 30 reviews, so a block this long parts two films at its ends
# and keeps the rest whole. A multiple of 128: the registry copy holds the reviews in runs of 128,
# each from its highest number down.
REVIEWS_PER_BLOCK = 256


# Sets that are one table: what 1 and 0 stand for, in Chinese where categories stand before it.
POLARITY = {
    "hotel": {"1": "positive", "0": "negative"},
    "shopping": {"1": "正面", "0": "负面"},
}


@dataclass
class Draft:
    """Data as they were found.

    Attributes:
        table: text, label, split ("train" also where no split was given), then the other columns
            of the source in its order, under names of their own. A row each text.
        origin: what served the data, for people.
        test_name: what the texts of split test are, for people; None of a file or folder, where
            it depends on whether any row of a given split test can be used.
        carved: how splits are carved from train, as the end of a sentence.
        notes: one sentence for each thing that was done to the data.
        groups: one for each row; rows of one group are carved into the same split, and "" is a
            text on its own, as all are without groups.
        text_column: the column of a file that holds the texts; None of what is no file.
    """

    table: pd.DataFrame
    origin: str
    test_name: str | None
    carved: str
    notes: list[str]
    groups: list[str] | None = None
    text_column: str | None = None


def language_of(source: str) -> str | None:
    """The language of a data set known by name, as languages.py has it; None of all else.

    >>> language_of("trec6"), language_of("joke"), language_of("reviews.csv")
    ('en', 'zh-tw', None)
    """
    if source in chinese.SETS:
        return chinese.SETS[source].language
    return "en" if source in DATA_SETS else None


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
    if settings.source == "imdb":
        source = imdb.fetch(settings.data)
        return _imdb_table(source) if source.path.is_file() else _imdb_folder(source)
    if settings.source == "trec6":
        return _trec6(trec.fetch(settings.data))
    if settings.source in chinese.SETS:
        source = chinese.fetch(settings.source, settings.data)
        read = _two_files if source.path.is_dir() else _one_table
        return read(settings.source, source)
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


def _imdb_folder(source: Source) -> Draft:
    parts, groups = [], []
    titles = _film_titles(source.path / "train")
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            names, texts = read_folder(source.path / split / label, order=_review_number)
            if split == "train" and titles is not None:
                groups += [_title_of(name, titles[label]) for name in names]
            else:
                groups += _blocks(len(texts), label)
            parts.append(_rows(texts, label, split))
    for folder in (source.path / "unsup", source.path / "train" / "unsup"):
        if folder.is_dir():
            parts.append(_rows(read_folder(folder, order=_review_number)[1], "", "unlabelled"))
    carved = (
        _in_blocks(parts[0], parts[1])
        if titles is None
        else "film by film, all reviews of a film together"
    )
    table = pd.concat(parts, ignore_index=True)
    groups += [""] * (len(table) - len(groups))
    return Draft(table, source.origin, "IMDb test split", carved, [], groups)


def _imdb_table(source: Source) -> Draft:
    """The registry copy: the training reviews, in the order of their file names, then others."""
    found = read_table(source.path)
    if not {"text", "label", "source"} <= set(found.columns):
        raise DataError(
            f"{source.path} is not the registry's table of reviews. Expected the columns 'text', "
            f"'label' and 'source', found {quoted(found.columns)}."
        )
    reviews = found[found["source"] == "imdb"]
    parts, groups = [], []
    for number, label in (("0", "neg"), ("1", "pos")):
        texts = reviews.loc[reviews["label"] == number, "text"].tolist()
        parts.append(_rows(texts, label, "train"))
        groups += _blocks(len(texts), label)
    return Draft(
        pd.concat(parts, ignore_index=True),
        source.origin,
        "held-out blocks of IMDb's training reviews (the registry copy has no test split)",
        _in_blocks(*parts),
        [
            f"Left out {len(found) - len(reviews):,} of {len(found):,} rows, which are not from "
            "IMDb."
        ],
        groups,
    )


def _review_number(name: str) -> int:
    """12 from 12_9.txt, which is review 12 with 9 of 10 stars."""
    number = name.split("_")[0]
    if not number.isdecimal():
        raise DataError(
            f"{name} is not named as IMDb's reviews are. Expected number_stars.txt, such as "
            "12_9.txt."
        )
    return int(number)


def _film_titles(train: Path) -> dict[str, list[str]] | None:
    """The films of train/neg and train/pos by number of the review, where there are their URLs."""
    lists = {label: train / f"urls_{label}.txt" for label in ("neg", "pos")}
    if not all(path.is_file() for path in lists.values()):
        return None
    return {
        label: re.findall(r"/title/(tt\d+)", path.read_text("utf-8"))
        for label, path in lists.items()
    }


def _title_of(name: str, titles: Sequence[str]) -> str:
    number = _review_number(name)
    if number >= len(titles):
        raise DataError(
            f"IMDb's urls_neg.txt or urls_pos.txt has {len(titles):,} films; review {name} needs "
            "one more."
        )
    return titles[number]


def _block_size(n: int) -> int:
    """Reviews per block: fewer in a small copy, so that a class has 20 blocks to hold out."""
    return min(REVIEWS_PER_BLOCK, max(1, n // 20))


def _blocks(n: int, label: str) -> list[str]:
    return [f"{label} {row // _block_size(n)}" for row in range(n)]


def _in_blocks(*parts: pd.DataFrame) -> str:
    size = _block_size(max(map(len, parts)))
    return (
        f"in blocks of {size} reviews of a class that follow each other in the source's order, "
        "where reviews of one film are neighbours (reviews of the other class may remain in train)"
    )


def _rows(texts: list[str], label: str, split: str) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.Series(texts, dtype=object)}).assign(label=label, split=split)


def _trec6(source: Source) -> Draft:
    parts = []
    for split, name in (("train", "train_5500.label"), ("test", "TREC_10.label")):
        for number, line in enumerate(
            (source.path / name).read_text("latin-1").split("\n"), start=1
        ):
            label, question = re.match(r"(?:([A-Z]+):\S+ )?(.*)", line.strip()).groups()
            if label:
                parts.append((question, label, split))
            elif question:
                raise DataError(
                    f"{source.path / name}, line {number}: expected 'COARSE:fine question', found "
                    f"'{question[:60]}'."
                )
    table = pd.DataFrame(parts, columns=["text", "label", "split"], dtype=object)
    return Draft(table, source.origin, "TREC test split", "stratified by label", [])


def _two_files(name: str, source: Source) -> Draft:
    """A Chinese set of two files, train and test."""
    parts = [
        _read_labelled(source.path / file, split)
        for split, file in zip(("train", "test"), chinese.SETS[name].files, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return Draft(table, source.origin, f"{name} test split", "stratified by label", [])


def _read_labelled(path: Path, split: str, encoding: str = "utf-8") -> pd.DataFrame:
    """Lines `label<TAB>text` without column names, of one split; blank ones are none."""
    rows = []
    for number, line in enumerate(_lines(path, encoding), start=1):
        label, tab, text = line.partition("\t")
        if tab:
            rows.append((text, label, split))
        elif line.strip():
            raise DataError(
                f"{path}, line {number}: expected 'label<TAB>text', found '{line[:60]}'."
            )
    return pd.DataFrame(rows, columns=["text", "label", "split"], dtype=object)


def _one_table(name: str, source: Source) -> Draft:
    """A Chinese set that is one table, of whose texts a third is for the test."""
    found = read_table(source.path)
    polarity = POLARITY[name]
    columns = ["cat", "label", "review"] if name == "shopping" else ["label", "review"]
    if not set(columns) <= set(found.columns) or not found["label"].isin(polarity).all():
        raise DataError(
            f"{source.path} is not the table of {name}. Expected the columns {quoted(columns)}, "
            f"with 1 and 0 in label, found {quoted(found.columns)}."
        )
    labels = found["label"].map(polarity)
    if name == "shopping":
        labels = found["cat"] + " " + labels
    table = pd.DataFrame({"text": found["review"], "label": labels})
    note = (
        f"{name} has no test split: a third of each class is taken for it, chosen by a hash of "
        "each text, the same in every run whatever the seed; copies of a text stay together."
    )
    table = table.assign(split=_fixed_third(table))
    return Draft(table, source.origin, f"fixed third of {name}", "stratified by label", [note])


def _fixed_third(table: pd.DataFrame) -> pd.Series:
    """test for the third of each label's texts that has the least hashes, else train."""
    hashes = table["text"].map(lambda text: sha256(text.encode()).hexdigest())
    chosen = table["text"][hashes.groupby(table["label"]).rank(pct=True) <= 1 / 3]
    return table["text"].isin(chosen).map({True: "test", False: "train"})


def _lines(path: Path, encoding: str) -> list[str]:
    # Texts can hold what str.splitlines takes for the end of a line.
    return decode(path.read_bytes(), path, encoding).replace("\r\n", "\n").split("\n")


def _has_labelled_lines(path: Path, encoding: str) -> bool:
    """Whether a .txt begins with a line `label<TAB>text` that cannot be one of column names."""
    if path.suffix.lower() != ".txt" or not path.is_file():
        return False
    first, *others = _lines(path, encoding)
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
    table = _read_labelled(path, "train", settings.encoding)
    note = f"Took each line of {path.name} for a label, a tab and a text; it names no columns."
    return Draft(table, str(path), None, "stratified by label", [note])


def _folder(path: Path, encoding: str) -> Draft:
    """Class folders, in train, valid and test folders or without."""
    table, notes = read_class_folders(path, encoding)
    return Draft(table, str(path), None, "stratified by label", notes)


def _file(path: Path, settings: DataSettings) -> Draft:
    notes: list[str] = []
    found = read_table(path, settings.encoding, settings.quotes, notes)
    taken = [name for name in (settings.text, settings.label) if name is not None]
    split = find_split_column(found, path, settings.split, taken, notes)
    text, label = find_text_and_label_columns(found, path, settings.text, settings.label, split)
    if (settings.text, settings.label) != (text, label):
        notes.append(
            f"Took column '{text}' of {path.name} for the texts and '{label}' for the labels."
        )
    splits = "train" if split is None else read_splits(found[split], split, path)
    table = pd.DataFrame({"text": found[text], "label": found[label]}).assign(split=splits)
    # A run's own table has a column row, the number of each row.
    meanings = {"text": text, "label": label, "split": split, "row": None}
    table = table.join(_other_columns(found, meanings, notes))
    return Draft(table, str(path), None, "stratified by label", notes, text_column=text)


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
