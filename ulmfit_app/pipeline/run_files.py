"""The files of a run: where each stage's result lies, and the rows that it uses."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import write_json
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.files import sha256_of_path
from ulmfit_app.pipeline.record import YES, DirectionPlan, RunRecord
from ulmfit_app.run_folder import (
    BEGUN,
    MARK,
    ROW,
    SELECTION,
    TABLE,
    VALIDATION,
    command_of_run,
    find_part,
    is_finished,
)
from ulmfit_app.text.store import TOKENIZER, TokenStore
from ulmfit_app.training.watching import Watch


def write_mark(folder: Path, facts: dict[str, Any]) -> None:
    """Mark a folder's result as finished, with the names and sizes of its files."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # The probabilities of the validation split are written again where they are missing.
    kept = sorted(name for name in names - {BEGUN, MARK, VALIDATION} if not name.startswith("."))
    files = {name: (folder / name).stat().st_size for name in kept}
    write_json(folder / MARK, facts | {"files": files})


def open_tokens(folder: Path, again: str) -> TokenStore:
    """The token store in a folder.

    Args:
        folder: of the tokens.
        again: how they are made again, as the end of a sentence.

    Raises:
        RunFolderError: a file is missing, or shorter than the others say.
    """
    try:
        store = TokenStore.open(folder)
        if len(store.ids) == store.offsets[-1]:
            return store
        found = f"{len(store.ids):,} ids of {store.offsets[-1]:,}"
    except (EOFError, IndexError, OSError, TypeError, ValueError) as error:
        found = str(error)
    raise RunFolderError(
        f"The tokens in {folder} are missing or damaged: {found}. Delete that folder and {again}"
    )


class RunFiles:
    """A run that was decided on, as its files.

    Args:
        folder: of the run.
        record: what is to be in it.
        work: where results that are not finished are made: the folder itself, or one inside it.
    """

    def __init__(self, folder: Path, record: RunRecord, work: Path) -> None:
        self.folder, self.record, self.work = folder, record, work
        self.watches: list[Watch] = []  # are told of its trainings

    def tell(self, title: str, history: list[dict[str, Any]], share: float) -> None:
        """Tell all who watch; it is the `Watch` of the run's trainings."""
        for watch in self.watches:
            watch(title, history, share)

    def place(self, name: str) -> Path:
        """Where a stage's finished result lies, else where it is to be made."""
        for candidate in (self.work / name, find_part(self.folder, name)):
            if is_finished(candidate, self.record.keys[name]):
                return candidate
        return self.work / name

    def classifiers(self) -> list[Path]:
        """Where the classifier of each direction lies, the forward one first."""
        return [self.place(each.named("classifier")) for each in self.record.directions]

    def again(self) -> str:
        """How to go on with the run, as the end of a sentence."""
        return (
            "give the command again that made the run, with the options that it had: "
            f"{self._command()}"
        )

    def _command(self, new: bool = False) -> str:
        folder = f"{self.folder}-new" if new else self.folder
        return command_of_run(folder, self.record.settings.data.source)

    def is_finished(self, name: str) -> bool:
        """Whether a stage's result is there."""
        return is_finished(self.place(name), self.record.keys[name])

    def has_texts(self) -> bool:
        """Whether its table and its selection are there."""
        return all(self.find_data(name).is_file() for name in (TABLE, SELECTION))

    def find_data(self, name: str) -> Path:
        """Where its table or its selection lies."""
        inside = self.work / name
        return inside if inside.is_file() else find_part(self.folder, "data") / Path(name).name

    def is_fresh(self) -> bool:
        """Whether no stage has left anything yet."""
        return not any((self.work / name).exists() for name in self.record.keys)

    @cached_property
    def corpus(self) -> Corpus:
        """Its checked texts, from its folder.

        Raises:
            RunFolderError: the table is missing or not whole.
        """
        record = self.record
        data = record.data
        table = self._read(TABLE, data.n_rows, data.table_sha256).drop(columns=ROW)
        about = data.labels, data.origin, data.test_name, record.data_notes
        others = data.multilabel, tuple(data.groups), data.time
        return Corpus(table, *about, data.text_column, *others)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The texts that it uses, in the order of its tokens.

        Columns: row (of the table), split (what it is used as), read (whether the language model
        learns from it), learned (whether the classifier does), text and label.
        """
        uses = self._read(SELECTION, sum(self.record.counts.values()))
        row = uses[ROW].astype(int)
        table = self.corpus.table.iloc[row].reset_index(drop=True)
        return pd.DataFrame(
            {
                ROW: row,
                "split": uses["use"],
                "read": uses["read"] == YES,
                "learned": uses["learned"] == YES if "learned" in uses else uses["use"] == "train",
                "text": table["text"],
                "label": table["label"],
            }
        )

    def column(self, name: str) -> pd.Series:
        """A column of the source for `rows`."""
        found = self.corpus.table[name].iloc[self.rows[ROW]]
        return found.reset_index(drop=True)

    def groups(self, column: str, texts: np.ndarray | pd.Series | pd.Index) -> list[str]:
        """The groups that some of `rows` are of, by a column. texts: numbers, or a mask."""
        return self.column(column)[texts].str.strip().tolist()

    def groups_for(
        self, decision: Decision, texts: np.ndarray | pd.Series | pd.Index
    ) -> list[str] | None:
        """The groups of some of `rows` that answers depend on, as `Decision.answer` takes them."""
        by_group = decision.by_group
        return None if by_group is None else self.groups(by_group.column, texts)

    def _read(self, name: str, n_rows: int, sha256: str | None = None) -> pd.DataFrame:
        path = self.find_data(name)
        try:
            table = read_own_table(path, n_rows)
        except DataError as error:
            raise RunFolderError(
                f"The run in {self.folder} is not whole: {error} Put the file back as it was, or "
                f"make a new run: {self._command(new=True)}"
            ) from None
        if sha256 is not None and sha256_of_path(path) != sha256:
            raise RunFolderError(
                f"{path} is not as it was when the run was made. Put it back as it was, or change "
                f"the source and make a new run: {self._command(new=True)}"
            )
        return table

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Which texts of the tokens are used as a split, and their labels as `Corpus.truth` has
        them."""
        rows = self.rows[self.rows["split"] == split]
        return rows.index.to_numpy(), self.corpus.truth(rows["label"])

    def read_tokenizer(self) -> str:
        """Where its tokens are subwords: the text of their tokenizer.json; else ""."""
        path = self.place("tokens") / TOKENIZER
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def open_tokens(self, which: DirectionPlan | None = None) -> TokenStore:
        """The tokens of `rows`, to be read in a direction; forward where none is given.

        Raises:
            RunFolderError: they are missing or damaged.
        """
        store = open_tokens(self.place("tokens"), self.again())
        return store.backward() if which and which.start.direction == "backward" else store
