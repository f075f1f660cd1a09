"""The files of a run: where each stage's result lies, and the rows that it uses."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.files import sha256_of_path
from ulmfit_app.pipeline.plan import ROW
from ulmfit_app.pipeline.record import DirectionPlan, RunRecord
from ulmfit_app.run_folder import SELECTION, TABLE, find_part
from ulmfit_app.text.store import TokenStore

BEGUN, MARK = "begun.json", "stage.json"  # of an unfinished result, and of a finished one


def read_mark(path: Path) -> dict[str, Any]:
    """What a mark says; nothing where there is none, or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def is_finished(folder: Path, key: str) -> bool:
    """Whether a folder holds the result of an identity, whole."""
    return read_mark(folder / MARK).get("key") == key


class RunFiles:
    """A run that was decided on, as its files.

    Args:
        folder: of the run.
        record: what is to be in it.
        work: where results that are not finished are made: the folder itself, or one inside it.
    """

    def __init__(self, folder: Path, record: RunRecord, work: Path) -> None:
        self.folder, self.record, self.work = folder, record, work

    def place(self, name: str) -> Path:
        """Where a stage's finished result lies, else where it is to be made."""
        for candidate in (self.work / name, find_part(self.folder, name)):
            if is_finished(candidate, self.record.keys[name]):
                return candidate
        return self.work / name

    def is_finished(self, name: str) -> bool:
        """Whether a stage's result is there."""
        return is_finished(self.place(name), self.record.keys[name])

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
        return Corpus(table, data.labels, data.origin, data.test_name, record.data_notes)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The texts that it uses, in the order of its tokens.

        Columns: row (of the table), split (what it is used as), read (whether the language model
        learns from it), text, label, and truth (the index of the label, -1 for none).
        """
        uses = self._read(SELECTION, sum(self.record.counts.values()))
        row = uses[ROW].astype(int)
        table = self.corpus.table.iloc[row].reset_index(drop=True)
        return pd.DataFrame(
            {
                ROW: row,
                "split": uses["use"],
                "read": uses["read"] == "yes",
                "text": table["text"],
                "label": table["label"],
                "truth": self.corpus.truth(table["label"]),
            }
        )

    def _read(self, name: str, n_rows: int, sha256: str | None = None) -> pd.DataFrame:
        inside = self.work / name
        path = inside if inside.is_file() else find_part(self.folder, "data") / Path(name).name
        try:
            table = read_table(path)
        except DataError as error:
            raise RunFolderError(f"The run in {self.folder} is not whole: {error}") from None
        if len(table) != n_rows:
            raise RunFolderError(
                f"{path} has {len(table):,} rows, and the run was made with {n_rows:,}. Put the "
                "file back as it was, or run into another folder."
            )
        if sha256 is not None and sha256_of_path(path) != sha256:
            raise RunFolderError(
                f"{path} is not as it was when the run was made. Put it back as it was, or change "
                "the source and run into another folder."
            )
        return table

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Which texts of the tokens are used as a split, and the index of each one's label."""
        rows = self.rows[self.rows["split"] == split]
        return rows.index.to_numpy(), rows["truth"].to_numpy(int)

    def open_tokens(self, which: DirectionPlan | None = None) -> TokenStore:
        """The tokens of `rows`, to be read in a direction; forward where none is given."""
        store = TokenStore.open(self.place("tokens"))
        return store.backward() if which and which.start.direction == "backward" else store
