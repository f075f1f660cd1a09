"""Dataset name, folder or file -> one checked table (text, label, split), with every change to the data said in a note.

Validation is carved from train, and the copies of a text never part. On IMDb neither do the reviews of one film, as far
as the data tell: a classifier can otherwise score by a film's name instead of by what is said about it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts import imdb, trec
from data_scripts.fetch import Source
from ulmfit_app.config import DataSettings
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.reading import (
    LONE_SURROGATE,
    quoted,
    read_folder,
    read_table,
    require_column,
    text_and_label_columns,
    without_lone_surrogates,
)

SPLITS = ("train", "valid", "test", "unlabelled")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "development"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled", "unsup", "unsupervised"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}

# Maas et al. let a film have at most 30 reviews, so a block this long parts two films at its ends and keeps the rest
# whole. A multiple of 128: the registry copy holds the reviews in runs of 128, each from its highest number down.
REVIEWS_PER_BLOCK = 256


@dataclass(frozen=True)
class Corpus:
    """Texts that passed every check before training, and what was done to them.

    table: columns text, label and split, all strings; split is one of SPLITS, label is "" where that is unlabelled.
    labels: the classes, numbers by value before words by alphabet.
    origin: what served the data, for people.
    test_name: what the texts of split test are, for people.
    notes: one sentence for each thing that was done to the data.
    """

    table: pd.DataFrame
    labels: list[str]
    origin: str
    test_name: str
    notes: list[str]

    def texts(self, split: str) -> list[str]:
        """The texts of one split, in the order of the source."""
        return self.table.loc[self.table["split"] == split, "text"].tolist()

    def truth(self, labels: pd.Series) -> np.ndarray:
        """The index of each one's class in `self.labels`, int [n]; -1 for what is no class."""
        return pd.Index(self.labels).get_indexer(labels)


@dataclass
class _Draft:
    """Data as they were found.

    table: text, label, split ("train" also where no split was given) and group; rows of one group are carved into the
    same split, and "" is a text on its own.
    """

    table: pd.DataFrame
    origin: str
    test_name: str
    carved: str  # how splits are carved from train, as the end of a sentence
    notes: list[str]


def load_corpus(settings: DataSettings, seed: int) -> Corpus:
    """The texts that `settings` name, read, cleaned, split and checked.

    Splits that the source does not give, and subsets, depend on `seed` alone.
    Raises DataError for data that cannot be used, SettingError for settings that contradict each other, and
    data_scripts.fetch.FetchError when IMDb or TREC cannot be had.
    """
    _check_settings(settings)
    draft = _draft(settings)
    notes = draft.notes
    table = _cleaned(draft.table, notes)
    table = _with_splits(table, draft, settings, seed)
    labels = _checked_labels(table)
    _note_overlaps(table, notes)
    table = _subsets(table, settings, seed, notes)
    return Corpus(
        table=pd.DataFrame({name: table[name].tolist() for name in ("text", "label", "split")}),
        labels=labels,
        origin=draft.origin,
        test_name=draft.test_name,
        notes=notes,
    )


def _check_settings(settings: DataSettings) -> None:
    known = settings.source in ("imdb", "trec6")
    columns = [f"--{name}" for name in ("text", "label", "split") if getattr(settings, name) is not None]
    if columns and (known or Path(settings.source).is_dir()):
        raise SettingError(f"{' and '.join(columns)} name columns, but {settings.source} is not a table. Leave them out.")
    if settings.data is not None and not known:
        raise SettingError(
            f"--data says where imdb or trec6 lies, but the source is {settings.source}. Leave one of them out."
        )
    if settings.text is not None and settings.text in (settings.label, settings.split):
        raise SettingError(f"--text {settings.text} is also given as the label or split. Name two different columns.")
    for name in ("valid_share", "test_share"):
        if not 0 < getattr(settings, name) < 1:
            raise SettingError(f"{_flag(name)} {getattr(settings, name)}: expected a share between 0 and 1.")
    if settings.folds is not None and settings.folds < 2:
        raise SettingError(
            f"--folds {settings.folds}: expected 2 or more; in a single fold there is nothing left to train on."
        )
    if not 1 <= settings.fold <= (settings.folds or 1):
        raise SettingError(f"--fold {settings.fold}: expected a number from 1 to --folds, which is {settings.folds or 1}.")
    for name in ("max_train", "max_valid", "max_test", "max_unlabelled"):
        limit = getattr(settings, name)
        if limit is not None and limit < (name != "max_unlabelled"):
            raise SettingError(f"{_flag(name)} {limit}: expected a number of texts.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _draft(settings: DataSettings) -> _Draft:
    if settings.source == "imdb":
        source = imdb.fetch(settings.data)
        return _imdb_table(source) if source.path.is_file() else _imdb_folder(source)
    if settings.source == "trec6":
        return _trec6(trec.fetch(settings.data))
    path = Path(settings.source)
    if path.is_dir():
        return _folder(path, settings.encoding)
    if not path.exists() and not path.suffix:
        raise DataError(f"{settings.source} is neither imdb, trec6, nor a file or folder that exists.")
    return _file(path, settings)


# What each kind of source holds


def _imdb_folder(source: Source) -> _Draft:
    parts = []
    titles = _film_titles(source.path / "train")
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            names, texts = read_folder(source.path / split / label, order=_review_number)
            groups = _blocks(len(texts), label)
            if split == "train" and titles is not None:
                groups = [_title_of(name, titles[label]) for name in names]
            parts.append(_rows(texts, label, split, groups))
    for folder in (source.path / "unsup", source.path / "train" / "unsup"):
        if folder.is_dir():
            parts.append(_rows(read_folder(folder, order=_review_number)[1], "", "unlabelled"))
    carved = _in_blocks(parts[0], parts[1]) if titles is None else "film by film, all reviews of a film together"
    return _Draft(pd.concat(parts, ignore_index=True), source.origin, "IMDb test split", carved, [])


def _imdb_table(source: Source) -> _Draft:
    """The registry copy: the training reviews alone, in the order of their file names, and other texts after them."""
    found = read_table(source.path)
    if not {"text", "label", "source"} <= set(found.columns):
        raise DataError(
            f"{source.path} is not the registry's table of reviews. Expected the columns 'text', 'label' and 'source', "
            f"found {quoted(found.columns)}."
        )
    reviews = found[found["source"] == "imdb"]
    parts = []
    for number, label in (("0", "neg"), ("1", "pos")):
        texts = reviews.loc[reviews["label"] == number, "text"].tolist()
        parts.append(_rows(texts, label, "train", _blocks(len(texts), label)))
    return _Draft(
        pd.concat(parts, ignore_index=True),
        source.origin,
        "held-out blocks of IMDb's training reviews (the registry copy has no test split)",
        _in_blocks(*parts),
        [f"Left out {len(found) - len(reviews):,} of {len(found):,} rows, which are not from IMDb."],
    )


def _review_number(name: str) -> int:
    """12 from 12_9.txt, which is review 12 with 9 of 10 stars."""
    number = name.split("_")[0]
    if not number.isdecimal():
        raise DataError(f"{name} is not named as IMDb's reviews are. Expected number_stars.txt, such as 12_9.txt.")
    return int(number)


def _film_titles(train: Path) -> dict[str, list[str]] | None:
    """The films of train/neg and train/pos by the number of the review, where the archive lists their URLs."""
    lists = {label: train / f"urls_{label}.txt" for label in ("neg", "pos")}
    if not all(path.is_file() for path in lists.values()):
        return None
    return {label: re.findall(r"/title/(tt\d+)", path.read_text("utf-8")) for label, path in lists.items()}


def _title_of(name: str, titles: Sequence[str]) -> str:
    number = _review_number(name)
    if number >= len(titles):
        raise DataError(f"IMDb's urls_neg.txt or urls_pos.txt has {len(titles):,} films; review {name} needs one more.")
    return titles[number]


def _block_size(n: int) -> int:
    """Reviews a block: at least 20 blocks a class, so that a tenth can be held out of a small copy too."""
    return min(REVIEWS_PER_BLOCK, max(1, n // 20))


def _blocks(n: int, label: str) -> list[str]:
    return [f"{label} {row // _block_size(n)}" for row in range(n)]


def _in_blocks(*parts: pd.DataFrame) -> str:
    size = _block_size(max(map(len, parts)))
    return (
        f"in blocks of {size} reviews of a class that follow each other in the source's order, where reviews of one "
        f"film are neighbours (reviews of the other class may remain in train)"
    )


def _rows(texts: list[str], label: str, split: str, groups: list[str] | str = "") -> pd.DataFrame:
    rows = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    return rows.assign(label=label, split=split, group=groups)


def _trec6(source: Source) -> _Draft:
    parts = []
    for split, name in (("train", "train_5500.label"), ("test", "TREC_10.label")):
        for number, line in enumerate((source.path / name).read_text("latin-1").split("\n"), start=1):
            label, question = re.match(r"(?:([A-Z]+):\S+ )?(.*)", line.strip()).groups()
            if label:
                parts.append((question, label, split))
            elif question:
                raise DataError(
                    f"{source.path / name}, line {number}: expected 'COARSE:fine question', found '{question[:60]}'."
                )
    table = pd.DataFrame(parts, columns=["text", "label", "split"], dtype=object)
    return _Draft(table.assign(group=""), source.origin, "TREC test split", "stratified by label", [])


def _folder(path: Path, encoding: str) -> _Draft:
    """Class folders, in train, valid and test folders or without."""
    notes: list[str] = []
    given = [(_SPLIT_OF_WORD.get(folder.name.casefold()), folder) for folder in _folders_in(path)]
    if any(split == "train" for split, _ in given):
        other = [folder.name for split, folder in given if split is None]
        if other:
            notes.append(f"Left out folders that are no split: {quoted(other)}.")
    else:
        given = [("train", path)]
    parts = []
    for split, folder in given:
        if split == "unlabelled":
            parts.append(_rows(read_folder(folder, encoding)[1], "", split))
        elif split is not None:
            parts += _class_folders(folder, split, encoding, notes)
    if not any(map(len, parts)):
        raise DataError(
            f"{path} has no class folders with texts. Expected a folder a class with a .txt file a text, as in "
            f"{path / 'pos' / '1.txt'}, or the same in folders train, valid and test. Found: {_listing(path)}."
        )
    table = pd.concat(parts, ignore_index=True)
    return _Draft(table, str(path), _test_name(table, path), "stratified by label", notes)


def _class_folders(folder: Path, split: str, encoding: str, notes: list[str]) -> list[pd.DataFrame]:
    parts = []
    for class_folder in _folders_in(folder):
        texts = read_folder(class_folder, encoding)[1]
        unlabelled = _SPLIT_OF_WORD.get(class_folder.name.casefold()) == "unlabelled"
        if texts:
            label_and_split = ("", "unlabelled") if unlabelled else (class_folder.name, split)
            parts.append(_rows(texts, *label_and_split))
        else:
            notes.append(f"Left out {class_folder}, which has no .txt files.")
    return parts


def _folders_in(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _listing(path: Path) -> str:
    return quoted(sorted(entry.name for entry in path.iterdir())) or "nothing"


def _file(path: Path, settings: DataSettings) -> _Draft:
    found = read_table(path, settings.encoding)
    split = settings.split
    require_column(found, path, "--split", split)
    notes: list[str] = []
    if split is None:
        split = _column_named_split(found, notes)
    text, label = text_and_label_columns(found, path, settings.text, settings.label, split)
    if (settings.text, settings.label) != (text, label):
        notes.append(f"Took column '{text}' of {path.name} for the texts and '{label}' for the labels.")
    splits = "train" if split is None else _splits(found[split], split, path)
    table = pd.DataFrame({"text": found[text], "label": found[label]}).assign(split=splits, group="")
    return _Draft(table, str(path), _test_name(table, path), "stratified by label", notes)


def _column_named_split(found: pd.DataFrame, notes: list[str]) -> str | None:
    """A column called split counts as one when it holds nothing but the words of one."""
    named = [name for name in found.columns if name.casefold() == "split"]
    if len(named) != 1:
        return None
    if not set(map(_split_word, found[named[0]].unique())) <= set(_SPLIT_OF_WORD):
        notes.append(f"Column '{named[0]}' holds other words than train, valid and test, so it was not used.")
        return None
    notes.append(f"Took the splits from column '{named[0]}'.")
    return named[0]


def _split_word(value: str) -> str:
    return value.strip().casefold()


def _splits(column: pd.Series, name: str, path: Path) -> pd.Series:
    words = {value: _SPLIT_OF_WORD.get(_split_word(value)) for value in column.unique()}
    unknown = [value for value, split in words.items() if split is None]
    if unknown:
        raise DataError(
            f"Column '{name}' of {path} has {quoted(unknown)} in {column.isin(unknown).sum():,} rows, which is no "
            f"split. Expected train, valid, test or unlabelled."
        )
    return column.map(words)


def _test_name(table: pd.DataFrame, path: Path) -> str:
    return f"test split of {path.name}" if table["split"].eq("test").any() else f"held-out part of {path.name}"


# Cleaning


def _cleaned(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows with a text and, unless unlabelled, a label. Raises DataError when none with a label is left."""
    surrogates = table["text"].map(lambda text: len(LONE_SURROGATE.findall(text)))
    if surrogates.any():
        notes.append(
            f"Replaced every lone surrogate, which is no character, by U+FFFD: {surrogates.sum():,} in "
            f"{_texts(surrogates.astype(bool).sum())}."
        )
        table = table.assign(text=without_lone_surrogates(table["text"]))
    labels = {raw: _label(raw) for raw in table["label"].unique()}
    unlabelled = table["split"] == "unlabelled"
    table = table.assign(label=table["label"].map(labels).mask(unlabelled, ""))
    blank = table["text"].map(lambda text: not text or text.isspace())
    no_label = ~blank & ~unlabelled & table["label"].eq("")
    for dropped, what in ((blank, "text is empty"), (no_label, "label is empty or NaN")):
        if dropped.any():
            notes.append(f"Dropped {dropped.sum():,} of {len(table):,} rows, whose {what}.")
    kept = table[~blank & ~no_label].reset_index(drop=True)
    if kept["label"].eq("").all():
        raise DataError(
            f"None of the {len(table):,} rows has both a text and a label: {blank.sum():,} have an empty text, "
            f"{no_label.sum():,} an empty label."
        )
    # A copy of a text joins the group of its first appearance, so that copies never part.
    text_ids = pd.Series(pd.factorize(kept["text"])[0])
    groups = kept["group"].where(kept["group"] != "", text_ids.astype(str))
    return kept.assign(group=groups.groupby(text_ids).transform("first"))


def _label(raw: str) -> str:
    """One spelling of a label, however the file had it; "" for a missing one.

    >>> [_label(raw) for raw in ("1", "1.0", " pos ", "TRUE", "nan", "01", "0.50")]
    ['1', '1', 'pos', 'true', '', '01', '0.50']
    """
    label = LONE_SURROGATE.sub("\ufffd", raw).strip()
    # Labels that were numbers or booleans in pandas come out of a CSV as 1.0, as True, and as nan where there was none.
    if label.casefold() == "nan":
        return ""
    if label.casefold() in ("true", "false"):
        return label.casefold()
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", label)


# Splits


def _with_splits(table: pd.DataFrame, draft: _Draft, settings: DataSettings, seed: int) -> pd.DataFrame:
    """The table with the splits test and valid, carved from train where the source has none.

    Raises DataError where a class has too few texts for that.
    """
    if not table["split"].eq("train").any():
        raise DataError("No row with a text and a label belongs to train. Expected the split train beside the others.")
    shares = {"test": settings.test_share, "valid": settings.valid_share}
    missing = [split for split in shares if not table["split"].eq(split).any()]
    if settings.folds and "valid" not in missing:
        raise SettingError("--folds makes the split valid, but the data has one. Leave --folds or that split out.")
    given = table.loc[table["split"].isin(("valid", "test")), "text"]
    free = ~table["text"].isin(given)
    # A single class has its own refusal later, which says more than that there are too few texts.
    if missing and table.loc[table["split"] != "unlabelled", "label"].nunique() > 1:
        _check_enough(table, free, missing)
    for done, split in enumerate(missing):
        in_train = table["split"] == "train"
        if split == "valid" and settings.folds:
            groups = _fold(table[in_train & free], settings.folds, settings.fold, seed)
        else:
            groups = _held_out(table[in_train & free], shares[split], len(missing) - done, _generator(seed, "split", split))
        held_out = in_train & table["group"].isin(groups)
        table = table.assign(split=table["split"].mask(held_out, split))
        draft.notes.append(
            f"Split {split} is made of {_texts(held_out.sum())}, {held_out.sum() / in_train.sum():.1%} of the "
            f"{in_train.sum():,} in train, held out {draft.carved}, with seed {seed}; copies of a text stay together."
        )
    held_out_texts = table.loc[table["split"].isin(("valid", "test")), "text"]
    leaked = table["split"].eq("unlabelled") & table["text"].isin(held_out_texts)
    if leaked.any():
        draft.notes.append(f"Dropped {_texts(leaked.sum(), 'unlabelled text')} found in valid or test too.")
    return table[~leaked].reset_index(drop=True)


def _check_enough(table: pd.DataFrame, free: pd.Series, missing: list[str]) -> None:
    """Raises DataError when a class of train has too few groups to be in each split. free: which rows may move."""
    train = table[table["split"] == "train"]
    n_groups = train["group"].where(free).groupby(train["label"]).nunique()
    few = n_groups[n_groups <= len(missing)]
    if len(few):
        listed = ", ".join(f"'{label[:60]}' ({count:,})" for label, count in few.head(10).items())
        more = f" and {len(few) - 10:,} more" if len(few) > 10 else ""
        raise DataError(
            f"Too few different texts in {len(few):,} of {len(n_groups):,} classes: {listed}{more}. Expected at least "
            f"{len(missing) + 1}, one for each of train, {', '.join(reversed(missing))}. Drop or merge these classes, "
            f"or check which column holds the labels."
        )


def _held_out(pool: pd.DataFrame, share: float, leave: int, generator: np.random.Generator) -> list[str]:
    """Groups with `share` of each label's rows, at least one group a label, and `leave` of them left."""
    groups = pool.groupby("group", sort=False)["label"].agg(["size", "first"])
    chosen: list[str] = []
    for _, sizes in groups.groupby("first")["size"]:
        target = share * sizes.sum()
        sizes = sizes.iloc[generator.permutation(len(sizes))]
        small = sizes[sizes <= max(target, 1)]
        fitting = small.index[small.cumsum() - small / 2 <= target]
        # A share below half a group still takes the smallest, so that every class can be measured.
        taken = fitting if len(fitting) else sizes.sort_values(kind="stable").index[:1]
        chosen += taken[: len(sizes) - leave].tolist()
    return chosen


def _fold(pool: pd.DataFrame, n_folds: int, number: int, seed: int) -> pd.Series:
    """The groups of one fold, from 1 on. Raises DataError where a class has fewer groups than there are folds."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second, which no other run needs

    groups = pool.groupby("label")["group"].nunique()
    if groups.min() < n_folds:
        raise DataError(
            f"The label {groups.idxmin()!r} has {groups.min():,} different texts, too few for --folds {n_folds}. "
            "Use fewer folds, or drop or merge such classes."
        )
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(pool, pool["label"], pool["group"])
    _, held_out = next(islice(folds, number - 1, None))
    return pool["group"].iloc[held_out]


def _generator(seed: int, purpose: str, split: str) -> np.random.Generator:
    """A stream for each purpose, so that a smaller subset of one split does not change another."""
    return np.random.default_rng([seed, ("split", "subset").index(purpose), SPLITS.index(split)])


def _checked_labels(table: pd.DataFrame) -> list[str]:
    """The labels of train in order. Raises DataError for a single class, or one that train lacks."""
    seen = {split: set(table.loc[table["split"] == split, "label"]) for split in ("train", "valid", "test")}
    everywhere = set().union(*seen.values())
    if len(everywhere) == 1:
        raise DataError(
            f"All texts have the one label {quoted(list(everywhere))}; a classifier needs two or more. "
            f"Check which column --label names."
        )
    unlearned = sorted(everywhere - seen["train"], key=_label_order)
    if unlearned:
        where = " and ".join(split for split in ("valid", "test") if seen[split] & set(unlearned))
        raise DataError(
            f"Labels seen only in split {where}, never in train: {quoted(unlearned)}. A classifier cannot learn them. "
            f"Add training rows for them, or drop their rows."
        )
    return sorted(seen["train"], key=_label_order)


def _label_order(label: str) -> tuple[bool, float, str]:
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", label)
    return number is None, float(label) if number else 0.0, label


def overlaps(table: pd.DataFrame, by: str = "text") -> Iterator[tuple[str, str, pd.Series]]:
    """Which rows of a split have their `by` in a split that is trained or selected on, too.

    table: columns split and `by`. Yields the split, the other one, and a mask with the index of the split's rows.
    """
    for split, earlier in (("test", "train"), ("test", "valid"), ("valid", "train")):
        values = table.loc[table["split"] == split, by]
        yield split, earlier, values.isin(table.loc[table["split"] == earlier, by])


def _note_overlaps(table: pd.DataFrame, notes: list[str]) -> None:
    """Says how many texts a split shares with an earlier one, as only given splits can."""
    for split, earlier, shared in overlaps(table):
        if shared.any():
            n = f"{shared.sum():,} of its {_texts(len(shared))}"
            notes.append(f"Split {split} shares {n}, word for word, with {earlier}.")


def _subsets(table: pd.DataFrame, settings: DataSettings, seed: int, notes: list[str]) -> pd.DataFrame:
    kept = np.ones(len(table), dtype=bool)
    for split in SPLITS:
        limit = getattr(settings, f"max_{split}")
        rows = np.flatnonzero(table["split"] == split)
        if limit is None or len(rows) <= limit:
            continue
        labels = table["label"].iloc[rows]
        if split == "train" and limit < labels.nunique():
            raise SettingError(
                f"--max-train {limit:,} cannot hold one text of each of {labels.nunique():,} classes. "
                f"Run with --max-train {labels.nunique():,} or more."
            )
        kept[rows] = False
        kept[rows[_stratified(labels, limit, _generator(seed, "subset", split))]] = True
        how = "random" if split == "unlabelled" else "stratified"
        notes.append(f"Took a {how} subset of {limit:,} of {_texts(len(rows))} in {split}, with seed {seed}.")
    return table[kept].reset_index(drop=True)


def _stratified(labels: pd.Series, n: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of n rows with the shares that the labels have in all, and each label at least once where n allows."""
    shuffled = labels.reset_index(drop=True).iloc[generator.permutation(len(labels))]
    by_label = shuffled.groupby(shuffled)
    rank = by_label.cumcount()
    # Along this order every label advances at the same pace, from the first row of each to the last row of all.
    pace = ((rank + 0.5) / by_label.transform("size")).where(rank > 0, 0)
    return pace.sort_values(kind="stable").index[:n].to_numpy()


def _texts(count: int, noun: str = "text") -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
