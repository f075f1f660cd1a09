"""The classifiers of notebook 07: from 50 labels to 1,000, in several ways, by several draws.

Of n labels, all ways get the same n, as in experiments.label_curve: what keeps its best epoch
learns from four fifths of them and validates on the last fifth; what counts words learns from all.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings, Settings
from ulmfit_app.course.starts import without_reviews
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.few_labels import VALIDATED_ON, Sizes, divide_labels
from ulmfit_app.data.splits import stratified_order
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.experiments.label_curve import (
    SCRATCH,
    SEMI_SUPERVISED,
    TFIDF,
)
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.models.pretrained import packaged
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.run import Run, begin

NOT_TUNED = "ULMFiT, not fine-tuned on these texts"
GENERAL_TEXT = "ULMFiT, from general text alone"
WAYS = (SEMI_SUPERVISED, SCRATCH, TFIDF)


class LabelTrials:
    """Classifiers from a few labels, in several ways, on the same texts.

    The language model is fine-tuned once, on all texts of train without their labels.
    SEMI_SUPERVISED starts from that one; NOT_TUNED from what it started from, such as
    `en-reviews-small`; GENERAL_TEXT from what that had started from, `en-small`, which has read no
    reviews. Where the settings start from other weights, GENERAL_TEXT starts from these, too.
    What was trained is kept, so that a point asked for twice is trained once.

    Args:
        settings: the texts, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        corpus = load_corpus(settings.data, settings.seed)
        self.table, self.labels = corpus.table, corpus.labels
        counts = self.table["split"].value_counts()
        n_texts = (int(counts[split]) for split in ("train", "valid", "test"))
        self.sizes = Sizes(len(self.labels), *n_texts)
        self._settings = settings
        self._right: dict[tuple[str, int, int], np.ndarray] = {}

    @property
    def history(self) -> pd.DataFrame:
        """How the language model was fine-tuned, one row per epoch.

        Columns phase, epoch, perplexity and seconds.
        """
        history = read_history(self._language_model)
        return history[["phase", "epoch", "perplexity", "seconds"]]

    @property
    def models(self) -> list[str]:
        """Names of the package's models that ways start from, the one from general text first."""
        names = [self._find_start(way) for way in (GENERAL_TEXT, NOT_TUNED)]
        return [name for name in dict.fromkeys(names) if name in packaged()]

    def divide(self, n_labels: int) -> tuple[int, int]:
        """How many of so many labels are learned from, and how many validated on.

        Args:
            n_labels: of both together; as many as all texts of train allow, where it is more.
        """
        n_valid = min(self.sizes.valid, self.sizes.train // (VALIDATED_ON - 1))
        return divide_labels(min(n_labels, self.sizes.train + n_valid), self.sizes)

    def draw_labels(self, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which rows of the table have their labels looked at.

        Args:
            n_labels: how many, drawn by chance, stratified by label. `divide` says how many come
                from train and how many from valid; those of fewer labels are among those of more.
            draw: number of the draw.

        Returns:
            Rows in ascending order, [n_labels], or as many as `divide` says.
        """
        drawn = []
        for split, n in zip(("train", "valid"), self.divide(n_labels), strict=True):
            rows = self.table.index[self.table["split"] == split].to_numpy()
            generator = np.random.default_rng([self._settings.seed, draw])
            order = stratified_order(self.table.loc[rows, "label"], generator)
            drawn.append(rows[order[:n]])
        return np.sort(np.concatenate(drawn))

    def find_right(self, way: str, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which test texts a classifier gets right.

        Args:
            way: one of WAYS, NOT_TUNED or GENERAL_TEXT.
            n_labels: that it learns from and validates on.
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
        language = self._settings.tokens.language
        probabilities = tfidf_logistic_regression(*texts, len(self.labels), draw, language)
        return probabilities.argmax(axis=1) == test_truth

    def _learn_ulmfit(self, way: str, n_labels: int, draw: int) -> np.ndarray:
        start = self._find_start(way)
        lm = replace(self._settings.lm, pretrained=start, epochs=0)
        settings = replace(self._settings, lm=lm, seed=self._settings.seed + draw)
        split = self.table["split"]
        unseen = ~self.table.index.isin(self.draw_labels(n_labels, draw))
        hidden = unseen & (split == "train")
        # Unlabelled, but not left out: otherwise a classifier would know only the words of fifty
        # texts, and not those of the others.
        table = self.table.assign(
            split=split.mask(hidden, "unlabelled"), label=self.table["label"].mask(hidden, "")
        )
        return self._run_classifier(table[~(unseen & (split == "valid"))], settings)

    def _find_start(self, way: str) -> str:
        """The name or folder of the language model that a way's classifiers start from."""
        own = self._settings.lm.pretrained
        starts = {SCRATCH: "none", NOT_TUNED: own, GENERAL_TEXT: without_reviews(own)}
        return starts.get(way) or str(self._language_model)

    # What the course knows about runs from few labels is in these two methods, and in _start_run.
    def _run_classifier(self, table: pd.DataFrame, settings: Settings) -> np.ndarray:
        """Train on a table by a run, and say which of its test texts the classifier gets right."""
        with TemporaryDirectory(dir=self._folder.name) as folder:
            run = _start_run(table, Path(folder), settings)
            run.carry_out("classifier")
            return self._score(run, load_predictor(run.folder))

    def _score(self, run: Run, predictor: Predictor) -> np.ndarray:
        """Which test texts of a run its classifier gets right."""
        test, truth = run.labelled("test")
        return predictor.probabilities(run.open_tokens(), test).argmax(axis=1) == truth

    @cached_property
    def _language_model(self) -> Path:
        """The folder of the language model that was fine-tuned on all texts of train."""
        folder = Path(self._folder.name)
        run = _start_run(self.table, folder, self._settings)
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
