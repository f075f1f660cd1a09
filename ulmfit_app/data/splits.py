"""Train, validation and test: which rows are held out, and which subsets are taken."""

from itertools import islice

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.characters import escape
from ulmfit_app.data.label_sets import (
    choose_fold_of_sets,
    each_label,
    hold_out_sets,
    rarest_labels,
)
from ulmfit_app.data.labels import SEVERAL_LABELS, find_alike, find_combined
from ulmfit_app.data.sources import Draft
from ulmfit_app.data.time_splits import split_by_time
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted

SPLITS = ("train", "valid", "test", "unlabelled")


def flag_of(name: str) -> str:
    """The option of a setting, as the command line has it.

    >>> flag_of("max_train")
    '--max-train'
    """
    return "--" + name.replace("_", "-")


def check_given_splits(draft: Draft, table: pd.DataFrame) -> None:
    """Say, or refuse, that no row of a split that the source gives can be used.

    Args:
        draft: as it was found; what is done is added to its notes.
        table: the rows of it that can be used.

    Raises:
        DataError: all texts of the split are empty.
    """
    for split, made_of in (("valid", "validation"), ("test", "test")):
        rows = draft.table[draft.table["split"] == split]
        if rows.empty or table["split"].eq(split).any():
            continue
        if not rows["text"].str.strip().astype(bool).any():
            raise DataError(
                f"All {count_texts(len(rows))} of split {split} in {draft.origin} are empty. "
                f"Put texts there, or take these rows or files out: then a {made_of} split is "
                "held out of train."
            )
        draft.notes.append(
            f"No row of split {split} has both a text and a label: a {made_of} split is held out "
            "of train instead."
        )


def strata_of(labels: pd.Series, multilabel: bool) -> pd.Series:
    """What subsets are to have in its shares: the label, or the rarest of several.

    Args:
        labels: of each text; of several, cells of sets.
        multilabel: whether they are that.
    """
    return rarest_labels(labels) if multilabel else labels


def make_splits(
    table: pd.DataFrame, draft: Draft, settings: DataSettings, seed: int
) -> pd.DataFrame:
    """The table with the splits test and valid, carved from train where the source has none.

    Args:
        table: columns text, label, split and group; rows of one group stay together.
        draft: where the texts come from; what is done is added to its notes.
        settings: shares and folds.
        seed: what is held out depends on it.

    Returns:
        The same rows, without unlabelled ones whose text is held out; the index is kept.

    Raises:
        DataError: there is no train, or a class has too few texts.
        SettingError: folds of data that have the split valid already.
    """
    if not table["split"].eq("train").any():
        raise DataError(
            "No row with a text and a label belongs to train. Expected the split train beside the "
            "others."
        )
    shares = {"test": settings.test_share, "valid": settings.valid_share}
    missing = [split for split in shares if not table["split"].eq(split).any()]
    if settings.folds and "valid" not in missing:
        raise SettingError(
            "--folds makes the split valid, but the data has one. Leave --folds or that split out."
        )
    if settings.time:
        return _drop_held_out(split_by_time(table, draft, settings), draft)
    given = table.loc[table["split"].isin(("valid", "test")), "text"]
    free = ~table["text"].isin(given)
    # A single class has its own refusal later, which says more than that there are too few texts.
    if missing and table.loc[table["split"] != "unlabelled", "label"].nunique() > 1:
        _check_enough(table, free, missing, draft.multilabel)
    for done, split in enumerate(missing):
        in_train = table["split"] == "train"
        pool, generator = table[in_train & free], _generator(seed, "split", split)
        if split == "valid" and settings.folds:
            choose = choose_fold_of_sets if draft.multilabel else _choose_fold
            _require_enough_for_folds(pool, settings.folds, draft.multilabel)
            groups = choose(pool, settings.folds, settings.fold, seed)
        elif draft.multilabel:
            groups = hold_out_sets(pool, shares[split], generator)
        else:
            groups = _hold_out(pool, shares[split], len(missing) - done, generator)
        held_out = in_train & free & table["group"].isin(groups)
        table = table.assign(split=table["split"].mask(held_out, split))
        draft.notes.append(
            f"Split {split} is made of {count_texts(held_out.sum())}, "
            f"{held_out.sum() / in_train.sum():.1%} of the {in_train.sum():,} in train, held out "
            f"{draft.carved}, with seed {seed}; copies of a text stay together."
        )
    return _drop_held_out(table, draft)


def _drop_held_out(table: pd.DataFrame, draft: Draft) -> pd.DataFrame:
    """The table without unlabelled rows whose text is held out."""
    leaked = find_held_out(table, table["split"] == "unlabelled")
    if leaked.any():
        draft.notes.append(
            f"Dropped {count_texts(leaked.sum(), 'unlabelled text')} found in valid or test too."
        )
    return table[~leaked]


def _count_groups(rows: pd.DataFrame, multilabel: bool) -> pd.Series:
    """How many different texts have each label."""
    labels = each_label(rows["label"]) if multilabel else rows["label"]
    return rows["group"].reindex(labels.index).groupby(labels.to_numpy()).nunique()


def _check_enough(
    table: pd.DataFrame, free: pd.Series, missing: list[str], multilabel: bool
) -> None:
    """Raises DataError when a class of train has too few groups to be in each split.

    free: which rows may move.
    """
    train = table[table["split"] == "train"]
    n_groups = _count_groups(train.assign(group=train["group"].where(free)), multilabel)
    few = n_groups[n_groups <= len(missing)]
    if len(few):
        listed = ", ".join(
            f"'{escape(label)[:60]}' ({count:,})" for label, count in few.head(10).items()
        )
        more = f" and {len(few) - 10:,} more" if len(few) > 10 else ""
        alike = [group for group in find_alike(n_groups.index) if set(group) & set(few.index)]
        spelled = (
            f" Some differ by their spelling alone: {escape(quoted(alike[0]))}." if alike else ""
        )
        raise DataError(
            f"Too few different texts in {len(few):,} of {len(n_groups):,} classes: "
            f"{listed}{more}. Expected at least {len(missing) + 1}, one for each of train, "
            f"{', '.join(reversed(missing))}.{spelled} {_advise_on_few(n_groups, multilabel)}"
        )


def _advise_on_few(n_groups: pd.Series, multilabel: bool) -> str:
    if multilabel:
        return "Take these labels out of the cells, or merge them with others."
    advice = "Drop or merge these classes, or check which column holds the labels."
    if combined := find_combined(n_groups.index):
        advice += f" Labels such as {quoted(combined[:3])} look like several in one. "
        advice += SEVERAL_LABELS
    return advice


def _hold_out(
    pool: pd.DataFrame, share: float, leave: int, generator: np.random.Generator
) -> list[str]:
    """Groups with `share` of each label's rows, at least one per label; `leave` of them remain."""
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


def _require_enough_for_folds(pool: pd.DataFrame, n_folds: int, multilabel: bool) -> None:
    groups = _count_groups(pool, multilabel)
    if groups.min() < n_folds:
        raise DataError(
            f"The label {groups.idxmin()!r} has {groups.min():,} different texts, too few for "
            f"--folds {n_folds}. Use fewer folds, or drop or merge such classes."
        )


def _choose_fold(pool: pd.DataFrame, n_folds: int, number: int, seed: int) -> pd.Series:
    """The groups of fold `number`, from 1 on."""
    # Takes a second, which no other run needs.
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(
        pool, pool["label"], pool["group"]
    )
    _, held_out = next(islice(folds, number - 1, None))
    return pool["group"].iloc[held_out]


def fold(text: str) -> str:
    """A text's words, in one case and with one space between them.

    >>> fold("A  Great\\nfilm")
    'a great film'
    """
    return " ".join(text.casefold().split())


def find_held_out(table: pd.DataFrame, asked: pd.Series) -> pd.Series:
    """Which of some rows have a text of valid or test, whatever its case and its spaces.

    Args:
        table: columns text and split.
        asked: the rows, as true and false.
    """
    texts = table["text"]
    held_out = set(texts[table["split"].isin(("valid", "test")) & ~asked].map(fold))
    found = pd.Series(False, table.index)
    found[asked] = texts[asked].map(fold).isin(held_out)
    return found


def subset_generator(seed: int, split: str) -> np.random.Generator:
    """What a seed's choice among the rows of a split is drawn from."""
    return _generator(seed, "subset", split)


def _generator(seed: int, purpose: str, split: str) -> np.random.Generator:
    """A stream for each purpose, so that a smaller subset of one split does not change another."""
    return np.random.default_rng([seed, ("split", "subset").index(purpose), SPLITS.index(split)])


def take_subsets(
    table: pd.DataFrame,
    settings: DataSettings,
    seed: int,
    notes: list[str],
    multilabel: bool = False,
) -> pd.DataFrame:
    """At most `max_SPLIT` rows of each split, in the order of the table.

    Args:
        table: columns label and split.
        settings: the limits.
        seed: which rows are taken depends on it.
        notes: gets a sentence for each split that is cut.
        multilabel: whether labels are cells of sets.

    Raises:
        SettingError: the limit of train is below the number of classes.
    """
    kept = np.ones(len(table), dtype=bool)
    for split in SPLITS:
        limit = getattr(settings, f"max_{split}")
        rows = np.flatnonzero(table["split"] == split)
        if limit is None or len(rows) <= limit:
            continue
        labels = strata_of(table["label"].iloc[rows], multilabel)
        if split == "train" and limit < labels.nunique():
            raise SettingError(
                f"--max-train {limit:,} cannot hold one text of each of {labels.nunique():,} "
                f"classes. Run with --max-train {labels.nunique():,} or more."
            )
        kept[rows] = False
        kept[rows[stratified_order(labels, subset_generator(seed, split))[:limit]]] = True
        how = "random" if split == "unlabelled" else "stratified"
        notes.append(
            f"Took a {how} subset of {limit:,} of {count_texts(len(rows))} in {split}, with seed "
            f"{seed}."
        )
    return table[kept]


def stratified_order(labels: pd.Series, generator: np.random.Generator) -> np.ndarray:
    """A random order whose every beginning has the labels in about the shares they have in all.

    The first row of each label stands in front, so that a beginning of as many rows as there are
    labels holds each of them.

    Args:
        labels: one for each row, whatever its index.
        generator: what the order is drawn from.

    Returns:
        Positions in `labels`, int [n].
    """
    shuffled = labels.reset_index(drop=True).iloc[generator.permutation(len(labels))]
    by_label = shuffled.groupby(shuffled)
    rank = by_label.cumcount()
    # Every label advances at the same pace, from the first row of each to the last row of all.
    pace = ((rank + 0.5) / by_label.transform("size")).where(rank > 0, 0)
    return pace.sort_values(kind="stable").index.to_numpy()
