"""The table of a run and new rows behind it, for a run that goes on from it."""

from dataclasses import dataclass, replace

import pandas as pd

from ulmfit_app.data.columns import rename_by_meaning
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.labels import find_alike, label_order
from ulmfit_app.data.splits import fold
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted

# Column: with which update a row came; "0" of those that the first run had.
UPDATE = "update"
HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Extended:
    """What came of a run's table and new rows.

    Attributes:
        corpus: both, with the column UPDATE behind the others.
        new_labels: those that the run did not know, in order.
    """

    corpus: Corpus
    new_labels: list[str]


def extend_corpus(old: Corpus, new: Corpus, run: str, is_update: bool, grow: bool) -> Extended:
    """The table of a run with new rows behind it.

    What was held out stays so: a new row whose text the run validates or tests on is dropped, and
    so is one in the new validation or test split whose text the run has learned from. A text of
    train that comes again with another label has the new label from now on. Neither case nor
    spaces make another text.

    Args:
        old: of the run.
        new: as `load_corpus` gives it.
        run: its folder, for messages.
        is_update: whether the run was itself made so, and its table has the column UPDATE.
        grow: let the new rows bring labels that the run does not know.

    Raises:
        SettingError: they have some and may not.
        DataError: nothing is left to learn from, or a column has the name UPDATE and is of groups
            or times.
    """
    _check_columns(old, new, is_update)
    new_labels = [label for label in new.labels if label not in old.labels]
    if new_labels and not grow:
        _refuse_labels(old, new, run, new_labels)
    notes = [f"New texts: {note}" for note in new.notes]
    before, after = old.table, _without_ours(new.table, notes)
    if not is_update:
        before = _without_ours(before, notes).assign(**{UPDATE: "0"})
    number = before[UPDATE].astype(int).max() + 1
    before, after = _part(before, after, notes)
    if not after["split"].eq("train").any():
        raise DataError(
            f"None of the {count_texts(len(new.table), 'new text')} in {new.origin} is left to "
            f"learn from: {' '.join(notes[len(new.notes) :])} Give others."
        )
    after = after.assign(**{UPDATE: str(number)})
    table = pd.concat([before, after], ignore_index=True).fillna("")
    table = table[[*(name for name in table if name != UPDATE), UPDATE]]
    corpus = replace(
        old,
        table=table,
        labels=sorted({*old.labels, *new.labels}, key=label_order),
        origin=f"{old.origin}, updated from {new.origin}",
        test_name=f"{old.test_name} (old) and {new.test_name} (new)",
        notes=[*old.notes, *notes],
    )
    return Extended(corpus, new_labels)


def _check_columns(old: Corpus, new: Corpus, is_update: bool) -> None:
    for corpus in (new, *([] if is_update else [old])):
        if UPDATE in (*corpus.groups, corpus.time):
            raise DataError(
                f"The column {UPDATE!r} of {corpus.origin} is one of groups or times, and an "
                "updated run has a column of its own with this name. Give it another name."
            )


def _refuse_labels(old: Corpus, new: Corpus, run: str, new_labels: list[str]) -> None:
    alike = [group for group in find_alike([*old.labels, *new_labels]) if {*group} & {*new_labels}]
    spelled = f" Spelled in several ways: {quoted(alike[0])}." if alike else ""
    raise SettingError(
        f"{new.origin} has {count_texts(len(new_labels), 'label')} that {run} does not know: "
        f"{quoted(new_labels)}. It knows {quoted(old.labels)}.{spelled} Correct them, or let the "
        "classifier learn them: --new-labels"
    )


def _without_ours(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """A table without a column of our name: that has another one."""
    names = rename_by_meaning(list(table), {UPDATE: None})
    notes += [
        f"Kept column '{old}' as '{new}', since {old} has another meaning here."
        for old, new in names.items()
    ]
    return table.rename(columns=names)


def _part(
    before: pd.DataFrame, after: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both without rows that would be learned and held out, or be known under two labels."""
    old, new = before["text"].map(fold), after["text"].map(fold)
    is_held_out = before["split"].isin(HELD_OUT)
    dropped = new.isin(set(old[is_held_out]))
    if dropped.any():
        notes.append(
            f"New texts: dropped {count_texts(int(dropped.sum()))} that the run validates or "
            "tests on."
        )
    learned = new.isin(set(old[~is_held_out])) & ~dropped
    seen = learned & after["split"].isin(HELD_OUT)
    if seen.any():
        notes.append(
            f"New texts: dropped {count_texts(int(seen.sum()))} of the new validation and test "
            "splits, which the run has learned from."
        )
    label_of = dict(zip(old[~is_held_out], before.loc[~is_held_out, "label"], strict=True))
    again = learned & ~seen
    known = again & (after["label"].eq(new.map(label_of)) | after["label"].eq(""))
    if known.any():
        notes.append(
            f"New texts: dropped {count_texts(int(known.sum()))} that the run has already."
        )
    corrected = old.isin(set(new[again & ~known])) & ~is_held_out
    if corrected.any():
        notes.append(
            f"New texts: {count_texts(int(corrected.sum()))} that the run has under another "
            "label, or without one, go by the new one."
        )
    return before[~corrected], after[~(dropped | seen | known)]
