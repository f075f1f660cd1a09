"""The classifiers of notebook 11: of a class that is made rare, and of texts with several labels.

Both kinds of texts are made of the reviews: one class loses most of its texts, or several
sentences become one text, which has the labels of all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from ulmfit_app.config import Balance, DataSettings, Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.baselines import tfidf_one_vs_rest
from ulmfit_app.evaluation.decisions import Decision, fit_decision
from ulmfit_app.evaluation.tables import sets_to_truth, spell_set
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import begin

RARE_SHARE = 0.1  # of the texts, what is left of a class that is made rare
LENGTH = "length"  # the label of a sentence that says how long a film is
LENGTH_SHARE = 0.1  # of the made texts, those that have such a sentence
# Sentences without an opinion, which have no label.
PLAIN = (
    "it was shown on {} at eight .",
    "we saw it on {} .",
    "the ticket was for {} evening .",
    "it has been in the cinema since {} .",
)
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
# Which sentences a made text has: how often each combination comes.
MIXTURES = {("pos",): 0.3, ("neg",): 0.3, ("neg", "pos"): 0.25, (): 0.15}


@dataclass(frozen=True)
class Answers:
    """What a classifier made of the validation and the test split.

    Attributes:
        labels: in the order of the columns.
        valid, test: probabilities at temperature 1, [n, n_labels].
        valid_truth, test_truth: class indices [n], or which labels each text has, [n, n_labels].
    """

    labels: list[str]
    valid: np.ndarray
    valid_truth: np.ndarray
    test: np.ndarray
    test_truth: np.ndarray

    def decide(
        self, has_thresholds: bool = False, costs: list[list[float]] | None = None
    ) -> Decision:
        """The decision that a run would fit on the validation split."""
        return fit_decision(self.valid, self.valid_truth, has_thresholds, costs or [])[0]

    @property
    def calibrated(self) -> np.ndarray:
        """Probabilities of the test split, [n, n_labels]."""
        return self.decide().calibrate(self.test)


class Trials:
    """Classifiers on one made table of texts, each trained once.

    Args:
        settings: the reviews, and how to train.
        make: makes a table with columns text, label and split of that of the reviews, and a
            generator.
        multilabel: whether its labels are cells of sets.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame],
        multilabel: bool = False,
    ) -> None:
        self._folder = TemporaryDirectory()
        reviews = load_corpus(settings.data, settings.seed).table
        self.table = make(reviews, np.random.default_rng(settings.seed))
        path = Path(self._folder.name) / "texts.csv"
        write_table(path, self.table)
        data = DataSettings(str(path), multilabel=multilabel)
        lm = replace(settings.lm, epochs=0)
        self._settings = replace(settings, data=data, lm=lm)
        self._answers: dict[str, Answers] = {}

    @property
    def labels(self) -> list[str]:
        """The single labels, in order."""
        return load_corpus(self._settings.data, self._settings.seed).labels

    def train(self, balance: Balance = "none") -> Answers:
        """The classifier that learns with a balance, with the epoch of the best macro F1, or, of
        several labels, of the best average precision."""
        if balance not in self._answers:
            select_by = "auto" if self._settings.data.multilabel else "macro-f1"
            how = replace(self._settings.classifier, balance=balance, select_by=select_by)
            settings = replace(self._settings, classifier=how)
            run = begin(Path(self._folder.name) / balance, settings)
            run.carry_out("classifier")
            predictor, found = load_predictor(run.folder), []
            for split in ("valid", "test"):
                rows, truth = run.labelled(split)
                (probabilities,) = predictor.each(run.open_tokens(), rows, None).values()
                found += [probabilities, truth]
            self._answers[balance] = Answers(run.record.data.labels, *found)
        return self._answers[balance]

    def count_words(self) -> np.ndarray:
        """What counting words says of the test split, of several labels, [n, n_labels]."""
        known = self.table[self.table["split"] != "test"]
        texts = self.table.loc[self.table["split"] == "test", "text"].tolist()
        truth = sets_to_truth(known["label"], self.labels)
        return tfidf_one_vs_rest(known["text"].tolist(), truth, texts, self._settings.seed)


def make_rare(reviews: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """The same reviews, where of the class that comes last few are left in each split.

    Args:
        reviews: columns text, label and split.
        generator: draws those that are left, so many that they are RARE_SHARE of the texts.
    """
    rare = max(reviews["label"])
    kept = []
    for _, part in reviews[reviews["label"] != ""].groupby("split"):
        common, few = part[part["label"] != rare], part[part["label"] == rare]
        n = max(2, round(RARE_SHARE / (1 - RARE_SHARE) * len(common)))
        kept += [common, few.iloc[generator.permutation(len(few))[:n]]]
    return pd.concat(kept).sort_index()[["text", "label", "split"]].reset_index(drop=True)


def make_mixed(reviews: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Texts of sentences of the reviews, each of which stands in one text alone.

    MIXTURES says which sentences a text has; a part also says how long the film is, which is
    LENGTH. Whoever has none of these gets a sentence without an opinion.

    Args:
        reviews: columns text, label and split.
        generator: draws the sentences.
    """
    rows = []
    kinds, shares = list(MIXTURES), np.array(list(MIXTURES.values()))
    for split, part in reviews[reviews["label"] != ""].groupby("split"):
        left = {
            label: generator.permutation(its["text"]).tolist()
            for label, its in part.groupby("label")
        }
        while True:
            labels = list(kinds[generator.choice(len(kinds), p=shares)])
            if not all(left[label] for label in labels):
                break
            sentences = [left[label].pop() for label in labels]
            if not labels:
                plain = PLAIN[generator.integers(len(PLAIN))]
                sentences.append(plain.format(generator.choice(DAYS)))
            if generator.random() < LENGTH_SHARE:
                labels.append(LENGTH)
                sentences.append(f"it runs {generator.integers(80, 180)} minutes .")
            text = " ".join(generator.permutation(sentences))
            rows.append((text, spell_set(sorted(labels)), split))
    return pd.DataFrame(rows, columns=["text", "label", "split"])
