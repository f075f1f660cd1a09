"""Dataset name, folder or file -> one checked table (text, label, split), with every change to the data said in a note.

Validation is carved from train, and the copies of a text never part. On IMDb neither do the reviews of one film, as far
as the data tell: a classifier can otherwise score by a film's name instead of by what is said about it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.reading import LONE_SURROGATE, TABLE_KINDS, quoted, without_lone_surrogates
from ulmfit_app.sources import DATA_SETS, Draft, read_source

SPLITS = ("train", "valid", "test", "unlabelled")


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


def load_corpus(settings: DataSettings, seed: int) -> Corpus:
    """The texts that `settings` name, read, cleaned, split and checked.

    Splits that the source does not give, and subsets, depend on `seed` alone.
    Raises DataError for data that cannot be used, SettingError for settings that contradict each other, and
    data_scripts.fetch.FetchError when IMDb or TREC cannot be had.
    """
    _check_settings(settings)
    draft = read_source(settings)
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
    known = settings.source in DATA_SETS
    columns = [f"--{name}" for name in ("text", "label", "split") if getattr(settings, name) is not None]
    if columns and (known or Path(settings.source).is_dir()):
        raise SettingError(f"{' and '.join(columns)} name columns, but {settings.source} is not a table. Leave them out.")
    if settings.data is not None and not known:
        raise SettingError(
            f"--data says where imdb or trec6 lies, but the source is {settings.source}. Leave one of them out."
        )
    if settings.data is not None and (other := _another_data_set(settings.data, settings.source)):
        raise SettingError(
            f"--data says where {settings.source} lies; {other} is a data set of its own. Name it in the place of "
            f"{settings.source}: python -m ulmfit_app.run {other}"
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


def _another_data_set(data: Path, source: str) -> str | None:
    """What a run's data would be called that --data names by mistake."""
    if data.suffix.lower() in TABLE_KINDS:
        return str(data)
    # The command line makes paths absolute.
    return data.name if data.name in DATA_SETS and data.name != source and not data.exists() else None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


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


def _with_splits(table: pd.DataFrame, draft: Draft, settings: DataSettings, seed: int) -> pd.DataFrame:
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
        alike = n_groups.groupby(n_groups.index.str.casefold()).transform("size")
        spelled = " Some labels differ by capitals alone." if alike[few.index].gt(1).any() else ""
        raise DataError(
            f"Too few different texts in {len(few):,} of {len(n_groups):,} classes: {listed}{more}. Expected at least "
            f"{len(missing) + 1}, one for each of train, {', '.join(reversed(missing))}.{spelled} Drop or merge these "
            f"classes, or check which column holds the labels."
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
