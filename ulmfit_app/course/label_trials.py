"""The classifiers of notebook 07: from 50 labels to 1,000, in several ways, by several draws."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from ulmfit_app.config import GENERAL, REVIEWS, DataSettings, Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.run_files import read_history

NOT_TUNED = "ULMFiT, from general text alone"
WAYS = (SEMI_SUPERVISED, SCRATCH, TFIDF)


class LabelTrials:
    """Classifiers from a few labels, in several ways, on the same texts.

    The language model is fine-tuned once, on all texts of train without their labels. Where the
    settings have it start from general text, `en-small`, it starts from `en-reviews-small`
    instead, which has also read 50,000 unlabelled reviews. What was trained is kept, so that a
    point asked for twice is trained once.

    Args:
        settings: the texts, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        corpus = load_corpus(settings.data, settings.seed)
        self.table, self.labels = corpus.table, corpus.labels
        self._settings = settings
        self._right: dict[tuple[str, int, int], np.ndarray] = {}

    @property
    def history(self) -> pd.DataFrame:
        """How the language model was fine-tuned, one row per epoch.

        Columns phase, epoch, valid_loss (nats), perplexity and seconds.
        """
        history = read_history(self._language_model)
        return history[["phase", "epoch", "valid_loss", "perplexity", "seconds"]]

    def draw_labels(self, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which rows of the table have their labels looked at.

        Args:
            n_labels: how many, drawn from train by chance, stratified by label.
            draw: number of the draw.

        Returns:
            Rows, [n_labels]; all of train where it has no more.
        """
        # It takes a second to import, which other notebooks need not wait for.
        from sklearn.model_selection import train_test_split

        train = self.table.index[self.table["split"] == "train"].to_numpy()
        if n_labels >= len(train):
            return train
        labels, seed = self.table.loc[train, "label"], self._settings.seed + draw
        chosen, _ = train_test_split(
            train, train_size=n_labels, stratify=labels, random_state=seed
        )
        return np.sort(chosen)

    def find_right(self, way: str, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which test texts a classifier gets right.

        Args:
            way: one of WAYS, or NOT_TUNED.
            n_labels: that it learns from.
            draw: which labels, and the seed of the training.

        Returns:
            Boolean [n_test], in the order of the table.
        """
        point = (way, n_labels, draw)
        if point not in self._right:
            learn = self._learn_tfidf if way == TFIDF else self._learn_ulmfit
            self._right[point] = learn(*point)
        return self._right[point]

    def _learn_tfidf(self, _: str, n_labels: int, draw: int) -> np.ndarray:
        known = self.table.loc[self.draw_labels(n_labels, draw)]
        test = self.table[self.table["split"] == "test"]
        truth, test_truth = (
            pd.Index(self.labels).get_indexer(part["label"]) for part in (known, test)
        )
        texts = known["text"].tolist(), truth, test["text"].tolist()
        probabilities = tfidf_logistic_regression(*texts, len(self.labels), draw)
        return probabilities.argmax(axis=1) == test_truth

    def _learn_ulmfit(self, way: str, n_labels: int, draw: int) -> np.ndarray:
        starts = {SCRATCH: "none", NOT_TUNED: self._settings.lm.pretrained}
        start = starts.get(way) or str(self._language_model)
        lm = replace(self._settings.lm, pretrained=start, epochs=0)
        drawn, split = self.draw_labels(n_labels, draw), self.table["split"]
        hidden = (split == "train") & ~self.table.index.isin(drawn)
        # Unlabelled, but not left out: otherwise a classifier would know only the words of fifty
        # texts, and not those of the others.
        table = self.table.assign(
            split=split.mask(hidden, "unlabelled"), label=self.table["label"].mask(hidden, "")
        )
        settings = replace(self._settings, lm=lm, seed=self._settings.seed + draw)
        return self._run_classifier(table, settings)

    # What the course knows about runs from few labels is in these two methods, and in _start_run.
    def _run_classifier(self, table: pd.DataFrame, settings: Settings) -> np.ndarray:
        """Train on a table by a run, and say which of its test texts the classifier gets right."""
        with TemporaryDirectory(dir=self._folder.name) as folder:
            run = _start_run(table, Path(folder), settings)
            run.carry_out("classifier")
            test, truth = run.labelled("test")
            predictor = load_predictor(run.folder)
            probabilities = predictor.probabilities(run.open_tokens(), test)
        return probabilities.argmax(axis=1) == truth

    @cached_property
    def _language_model(self) -> Path:
        """The folder of the language model that was fine-tuned on all texts of train."""
        lm = self._settings.lm
        lm = replace(lm, pretrained=REVIEWS if lm.pretrained == GENERAL else lm.pretrained)
        folder = Path(self._folder.name)
        run = _start_run(self.table, folder, replace(self._settings, lm=lm))
        run.carry_out("lm")
        return folder / "run" / "lm"


def _start_run(table: pd.DataFrame, folder: Path, settings: Settings) -> Run:
    """A run on a table, which is written into a folder.

    The table names its parts, so that another seed leaves them as they are.
    """
    path = folder / "texts.csv"
    write_table(path, table)
    data = DataSettings(str(path), text="text", label="label", split="split")
    return begin(folder / "run", replace(settings, data=data))
