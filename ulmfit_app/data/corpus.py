"""Dataset name, folder or file -> one checked table: text, label, split, and other columns.

Every change to the data is said in a note. Validation is carved from train, and the copies of a
text never part. On IMDb neither do the reviews of one film, as far as the data tell: a classifier
can otherwise score by a film's name instead of by what is said about it.
"""

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.characters import escape
from ulmfit_app.data.encodings import LONE_SURROGATE, replace_lone_surrogates
from ulmfit_app.data.few_labels import hide_labels
from ulmfit_app.data.group_checks import check_columns, check_meanings, require_comparable
from ulmfit_app.data.guessing import describe_misread
from ulmfit_app.data.known_sets import ONE_TABLE
from ulmfit_app.data.label_sets import apply_without_label, each_label
from ulmfit_app.data.labels import (
    find_alike,
    label_order,
    notes_on_labels,
    strip_labels,
)
from ulmfit_app.data.sources import DATA_SETS, Draft, read_source
from ulmfit_app.data.splits import (
    check_given_splits,
    flag_of,
    make_splits,
    take_subsets,
)
from ulmfit_app.data.tables import is_table_name
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.tables import sets_to_truth


@dataclass(frozen=True)
class Corpus:
    """Texts that passed every check before training, and what was done to them.

    Attributes:
        table: columns text, label and split, then the other columns of the source, all strings;
            split is one of SPLITS, label is "" where that is unlabelled. Of several labels a text,
            label is a JSON list.
        labels: the classes, numbers by value before words by alphabet.
        origin: what served the data, for people.
        test_name: what the texts of split test are, for people.
        notes: one sentence for each thing that was done to the data.
        text_column: the column of the source file that held the texts; None where there is none,
            as in folders and in data sets known by name.
        multilabel: whether a text may have several labels, or none.
        groups: columns of whom a text is from or about.
        time: the column of dates or times; None where none is named.
    """

    table: pd.DataFrame
    labels: list[str]
    origin: str
    test_name: str
    notes: list[str]
    text_column: str | None = None
    multilabel: bool = False
    groups: tuple[str, ...] = ()
    time: str | None = None

    def texts(self, split: str) -> list[str]:
        """The texts of one split, in the order of the source."""
        return self.table.loc[self.table["split"] == split, "text"].tolist()

    def truth(self, labels: pd.Series) -> np.ndarray:
        """The index of each label's class in `self.labels`, int [n]; -1 for what is no class.

        Of several labels a text: 1 for each that it has and 0 for the others, float32
        [n, n_labels].
        """
        if self.multilabel:
            return sets_to_truth(labels, self.labels)
        return pd.Index(self.labels).get_indexer(labels)


def load_corpus(settings: DataSettings, seed: int, known: Collection[str] = ()) -> Corpus:
    """The texts that `settings` name, read, cleaned, split and checked.

    Args:
        settings: where the texts lie, and how they are split.
        seed: what splits that the source does not give, and subsets, depend on alone.
        known: labels that were learned from other texts already, so that one label alone is
            enough here.

    Raises:
        DataError: the data cannot be used.
        SettingError: settings contradict each other.
        data_scripts.fetch.FetchError: a data set known by name cannot be had.
    """
    _check_names(settings)
    check_meanings(settings)
    _check_numbers(settings)
    draft = read_source(settings)
    check_columns(draft, settings)
    if settings.multilabel and not draft.multilabel:
        raise SettingError(
            f"--multilabel: the texts of {settings.source} have one label each. Leave it out."
        )
    notes = draft.notes
    # To the end rows keep their index in the draft, where the other columns wait.
    table = draft.table[["text", "label", "split"]].assign(group=draft.groups or "")
    table = _clean(table, draft, settings)
    if said := describe_misread(table["text"], settings.encoding):
        notes.append(said)
    check_given_splits(draft, table)
    test_name = draft.test_name or _name_test(table, Path(draft.origin))
    table = make_splits(table, draft, settings, seed)
    labels = _check_labels(table, draft, known)
    _note_overlaps(table, notes)
    if settings.max_labels is not None:
        table = hide_labels(table, settings.max_labels, seed, notes, draft.multilabel)
    table = take_subsets(table, settings, seed, notes, draft.multilabel)
    require_comparable(draft.table.loc[table.index, list(settings.groups)])
    table = table.drop(columns="group").join(draft.table.drop(columns=["text", "label", "split"]))
    return Corpus(
        table=pd.DataFrame({name: table[name].tolist() for name in table}),
        labels=labels,
        origin=draft.origin,
        test_name=test_name,
        notes=notes,
        text_column=draft.text_column,
        multilabel=draft.multilabel,
        groups=settings.groups,
        time=settings.time,
    )


def _check_names(settings: DataSettings) -> None:
    known = settings.source in DATA_SETS
    columns = [
        f"--{name}" for name in ("text", "label", "split") if getattr(settings, name) is not None
    ]
    if columns and (known or Path(settings.source).is_dir()):
        raise SettingError(
            f"{' and '.join(columns)} name columns, but {settings.source} is not a table. Leave "
            "them out."
        )
    if settings.data is not None and not known:
        raise SettingError(
            f"--data says where a data set known by name lies ({', '.join(DATA_SETS)}), but the "
            f"source is {settings.source}. Leave one of them out."
        )
    if settings.data is not None and (other := _another_data_set(settings.data, settings.source)):
        raise SettingError(
            f"--data says where {settings.source} lies; {other} is a data set of its own. Name it "
            f"in the place of {settings.source}: python -m ulmfit_app.run {shlex.quote(other)}"
        )
    if settings.label_columns and settings.label is not None:
        raise SettingError(
            "--label names one column of labels, and --label-columns a column for each. Leave one "
            "of them out."
        )
    of_several = [
        flag_of(name)
        for name in ("separator", "label_columns", "without_label")
        if getattr(settings, name) != getattr(DataSettings, name)
    ]
    if of_several and not settings.multilabel and not known:
        raise SettingError(
            f"{' and '.join(of_several)}: for texts that may have several labels. Add "
            "--multilabel, or leave it out."
        )
    if settings.multilabel and not known and Path(settings.source).is_dir():
        raise SettingError(
            f"--multilabel: {settings.source} is a folder of class folders, in which a text has "
            "one label. Give a table: CSV, TSV, JSON or Parquet."
        )
    for one, other in combinations(("text", "label", "split"), 2):
        if (column := getattr(settings, one)) and column == getattr(settings, other):
            raise SettingError(
                f"--{one} and --{other} are both {column!r}. Name two different columns."
            )


def _check_numbers(settings: DataSettings) -> None:
    for name in ("valid_share", "test_share"):
        if not 0 < getattr(settings, name) < 1:
            raise SettingError(
                f"{flag_of(name)} {getattr(settings, name)}: expected a share between 0 and 1."
            )
    if settings.folds is not None and settings.folds < 2:
        raise SettingError(
            f"--folds {settings.folds}: expected 2 or more; in a single fold there is nothing "
            "left to train on."
        )
    if not 1 <= settings.fold <= (settings.folds or 1):
        raise SettingError(
            f"--fold {settings.fold}: expected a number from 1 to --folds, which is "
            f"{settings.folds or 1}."
        )
    for name in ("max_train", "max_valid", "max_test", "max_unlabelled"):
        limit = getattr(settings, name)
        if limit is not None and limit < (name != "max_unlabelled"):
            raise SettingError(f"{flag_of(name)} {limit}: expected a number of texts.")


def _another_data_set(data: Path, source: str) -> str | None:
    """What a run's data would be called that --data names by mistake."""
    if is_table_name(data) and source not in ONE_TABLE:
        return str(data)
    # The command line makes paths absolute.
    return (
        data.name if data.name in DATA_SETS and data.name != source and not data.exists() else None
    )


def _clean(table: pd.DataFrame, draft: Draft, settings: DataSettings) -> pd.DataFrame:
    """Rows with a text and, unless unlabelled, a label. Raises DataError when none has both."""
    notes = draft.notes
    surrogates = table["text"].map(lambda text: len(LONE_SURROGATE.findall(text)))
    if surrogates.any():
        notes.append(
            "Replaced every lone surrogate, which is no character, by U+FFFD: "
            f"{surrogates.sum():,} in {count_texts(surrogates.astype(bool).sum())}."
        )
        table = table.assign(text=replace_lone_surrogates(table["text"]))
    unlabelled = table["split"] == "unlabelled"
    if draft.multilabel:
        labels = table["label"].mask(unlabelled, "")
        labels = apply_without_label(labels, settings.without_label, ~unlabelled, notes)
    else:
        labels, said = strip_labels(table.loc[~unlabelled, "label"])
        notes += said
    table = table.assign(label=labels.reindex(table.index, fill_value=""))
    blank = table["text"].map(lambda text: not text or text.isspace())
    no_label = ~blank & ~unlabelled & table["label"].eq("")
    for dropped, what in ((blank, "text is empty"), (no_label, "label is empty or NaN")):
        if dropped.any():
            splits = table.loc[dropped, "split"].value_counts()
            given = table["split"].nunique() > 1
            where = ", ".join(f"{n:,} in {split}" for split, n in splits.items())
            notes.append(
                f"Dropped {dropped.sum():,} of {len(table):,} rows, whose {what}"
                f"{f': {where}' if given else ''}."
            )
    kept = table[~blank & ~no_label]
    if kept["label"].eq("").all():
        raise DataError(
            f"None of the {len(table):,} rows has both a text and a label: {blank.sum():,} have "
            f"an empty text, {no_label.sum():,} an empty label."
        )
    labels = kept.loc[kept["split"] != "unlabelled", "label"]
    each = each_label(labels) if draft.multilabel else labels
    notes += notes_on_labels(each, not draft.multilabel)
    if draft.multilabel:
        _require_labels(each, draft)
    # A copy of a text joins the group of its first appearance, so that copies never part.
    text_ids = pd.Series(pd.factorize(kept["text"])[0], kept.index)
    groups = kept["group"].where(kept["group"] != "", text_ids.astype(str))
    return kept.assign(group=groups.groupby(text_ids).transform("first"))


def _require_labels(each: pd.Series, draft: Draft) -> None:
    """Refuse a single label, or none, and say which labels all texts have. each: label and
    text."""
    n_texts, counts = int((draft.table["split"] != "unlabelled").sum()), each.value_counts()
    if len(counts) < 2:
        said = (
            f"The one label is {quoted(list(counts.index))}" if len(counts) else "No text has one"
        )
        raise DataError(
            f"Expected two labels or more in {draft.origin}. {said}. Whether a text has a single "
            "label is a column of yes and no: name it with --label, without --multilabel."
        )
    if always := counts.index[counts >= n_texts].tolist():
        draft.notes.append(
            f"All texts have {quoted(always[:5])}: nothing can be learned of who has not."
        )


def _name_test(table: pd.DataFrame, path: Path) -> str:
    """What the tested texts of a file or folder are. table: cleaned, before splits are made."""
    given = table["split"].eq("test").any()
    return f"{'test split' if given else 'held-out part'} of {path.name}"


def _check_labels(table: pd.DataFrame, draft: Draft, known: Collection[str]) -> list[str]:
    """The labels of train in order. Raises DataError for one class alone, or one not in train."""
    labels = table[["split", "label"]]
    if draft.multilabel:
        each = each_label(table["label"])
        labels = pd.DataFrame({"split": table["split"].reindex(each.index), "label": each})
    seen = {
        split: set(labels.loc[labels["split"] == split, "label"])
        for split in ("train", "valid", "test")
    }
    everywhere = set().union(*seen.values())
    if len(everywhere) == 1 and not known:
        raise DataError(
            f"All texts have the one label {quoted(list(everywhere))}; a classifier needs two or "
            f"more. {_why_one_label(table, draft)}"
        )
    unlearned = sorted(everywhere - seen["train"] - {*known}, key=label_order)
    if unlearned:
        where = " and ".join(split for split in ("valid", "test") if seen[split] & set(unlearned))
        alike = [group for group in find_alike(sorted(everywhere)) if set(group) & set(unlearned)]
        spelled = f" Spelled in several ways: {quoted(alike[0])}." if alike else ""
        found = f"Labels seen only in split {where}, never in train: {quoted(unlearned)}.{spelled}"
        raise DataError(
            f"{escape(found)} A classifier cannot learn them. Add training rows for them, or "
            f"{'take them out of the cells' if draft.multilabel else 'drop their rows'}."
        )
    return sorted(seen["train"], key=label_order)


def _why_one_label(table: pd.DataFrame, draft: Draft) -> str:
    labelled = draft.table[draft.table["split"] != "unlabelled"]
    dropped = labelled.loc[~labelled.index.isin(table.index), "label"]
    if len(dropped):
        n = strip_labels(dropped)[0].value_counts()
        listed = [
            f"{count:,} {f'of {quoted([label])}' if label else 'without a label'}"
            for label, count in n[:10].items()
        ]
        more = f" and {len(n) - 10:,} more labels" if len(n) > 10 else ""
        return (
            f"Of {len(labelled):,} rows {len(dropped):,} were dropped, whose text or label is "
            f"empty: {', '.join(listed)}{more}."
        )
    if draft.text_column is None:
        return f"Expected a folder with texts for each class in {draft.origin}."
    return "Check which column --label names."


def find_overlaps(table: pd.DataFrame, by: str = "text") -> Iterator[tuple[str, str, pd.Series]]:
    """Which rows of a split have their `by` in a split that is trained or selected on, too.

    Args:
        table: columns split and `by`.
        by: the column that is compared.

    Yields:
        The split, the other one, and a mask with the index of the split's rows.
    """
    for split, earlier in (("test", "train"), ("test", "valid"), ("valid", "train")):
        values = table.loc[table["split"] == split, by]
        yield split, earlier, values.isin(table.loc[table["split"] == earlier, by])


def _note_overlaps(table: pd.DataFrame, notes: list[str]) -> None:
    """Says how many texts a split shares with an earlier one, as only given splits can."""
    for split, earlier, shared in find_overlaps(table):
        if shared.any():
            n = f"{shared.sum():,} of its {count_texts(len(shared))}"
            notes.append(f"Split {split} shares {n}, word for word, with {earlier}.")
