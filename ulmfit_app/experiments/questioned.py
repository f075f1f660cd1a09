"""A finished run that experiments put questions to: its predictor, and texts with their labels."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data_scripts.files import replacing
from ulmfit_app.data.columns import find_text_and_label_columns
from ulmfit_app.data.encodings import replace_lone_surrogates
from ulmfit_app.data.labels import strip_labels
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted
from ulmfit_app.experiments.comparing import save_result
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import Run


@dataclass(frozen=True)
class Texts:
    """Texts that are asked about.

    Attributes:
        texts: [n].
        rows: of each in its table, [n].
        truth: classes, [n]; of several labels a text, [n, n_labels]. None where there is none.
        groups: where the run has thresholds by group, which one each text is of, [n].
    """

    texts: list[str]
    rows: list[int]
    truth: np.ndarray | None = None
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)


class Questioned:
    """A run and its classifier.

    Args:
        folder: of a run whose classifier is finished.

    Raises:
        RunFolderError, BundleError: there is no such run, or its classifier cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.run, self.predictor = Run.open(folder), load_predictor(folder)

    @property
    def labels(self) -> list[str]:
        """Of the classifier, in order."""
        return self.predictor.labels

    @property
    def language(self) -> str:
        """The code of the texts' language."""
        return self.run.record.settings.tokens.language

    def draw_tested(self, most: int, seed: int) -> Texts:
        """Texts of the test split, in order, drawn at random where there are more than `most`.

        Raises:
            SettingError: `most` is no number of texts.
        """
        if most < 1:
            raise SettingError(f"--max-texts must be 1 or more, not {most}.")
        rows = self.run.rows
        rows = rows[rows["split"] == "test"]
        drawn = rows.index.to_numpy()
        if len(drawn) > most:
            drawn = np.sort(np.random.default_rng(seed).choice(drawn, most, replace=False))
        rows, groups = rows.loc[drawn], self.run.groups_for(self.predictor.decision, drawn)
        truth = self.run.corpus.truth(rows["label"])
        return Texts(rows["text"].tolist(), drawn.tolist(), truth, groups)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated, [n, n_labels]."""
        return self.predictor.probabilities(self.predictor.store(texts), description=None)

    def answer(self, probabilities: np.ndarray, texts: Texts) -> np.ndarray:
        """As `Decision.answer` gives answers to the texts' probabilities."""
        return self.predictor.decision.answer(probabilities, texts.groups)

    def read_domain(
        self, path: Path, text: str | None, label: str | None, most: int, seed: int
    ) -> tuple[Texts, list[str]]:
        """Labelled texts of another source.

        Args:
            path: CSV, TSV, JSON or Parquet.
            text, label: its columns; None where there is no doubt.
            most, seed: as `draw_tested` takes them.

        Returns:
            The texts, and what was left out, in sentences.

        Raises:
            DataError: it cannot be read, or has a label that the run does not know.
        """
        table = read_table(path)
        text, label = find_text_and_label_columns(table, path, text, label, None)
        texts, (labels, notes) = replace_lone_surrogates(table[text]), strip_labels(table[label])
        empty = texts.str.strip().eq("") | labels.eq("")
        known = texts.isin(set(self.run.rows.loc[self.run.rows["split"] != "test", "text"]))
        for which, why in ((empty, "no text or no label"), (known & ~empty, "the run's own")):
            if which.any():
                notes.append(f"{path.name}: {count_texts(int(which.sum()))} left out, {why}.")
        table = pd.DataFrame({"text": texts, "label": labels})[~empty & ~known]
        unknown = sorted(set(table["label"]) - set(self.labels))
        if unknown or table.empty:
            found = f"has {quoted(unknown)}" if unknown else "has no text that is left"
            raise DataError(
                f"{path}: the run's labels are {quoted(self.labels)}, and the column {label!r} "
                f"{found}. Name another column with --label, or spell them as the run does."
            )
        if len(table) > most:
            table = table.sample(most, random_state=seed).sort_index()
        truth = pd.Index(self.labels).get_indexer(table["label"])
        return Texts(table["text"].tolist(), table.index.tolist(), truth), notes


def require_one_label(questioned: Questioned, kind: str) -> None:
    """Refuse a run whose texts may have several labels.

    Raises:
        SettingError: they may.
    """
    if questioned.run.corpus.multilabel:
        folder = questioned.run.folder
        raise SettingError(
            f"experiment {kind} counts right answers of one label a text, and the texts of "
            f"{folder} may have several. What its test texts get stands in its report: "
            f"{shlex.quote(str(folder / 'report' / 'report.html'))}"
        )


def save_answers(
    out: Path, kind: str, table: pd.DataFrame, figure: Figure, examples: pd.DataFrame, page: str
) -> None:
    """Save what came of an experiment.

    Args:
        out: the folder; it is made where it is missing.
        kind: of the experiment, the name of its files.
        table: becomes KIND.csv.
        figure: becomes KIND.png.
        examples: texts; they become KIND-texts.csv. Without one there is no such file, not even
            an older one.
        page: becomes KIND.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    save_result(out, kind, table, figure)
    texts = out / f"{kind}-texts.csv"
    texts.unlink(missing_ok=True)
    if len(examples):
        write_table(texts, examples)
    with replacing(out / f"{kind}.md") as draft:
        draft.write_text(page, encoding="utf-8")
