"""The site of notebook 12: made groups and dates, texts that change, and the runs on them.

The reviews are those of the course. Who wrote them and when is made up here, so that what a
classifier can learn of groups, and what changes with time, is known.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from ulmfit_app.config import Balance, DataSettings, Settings, UpdateSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.updating import begin_update

WRITER, DATE = "writer", "date"  # columns
# How the reviews of each group are signed.
SIGNATURES = {
    "women": ("mother", "grandmother", "sister", "wife", "aunt", "daughter"),
    "men": ("father", "grandfather", "brother", "husband", "uncle", "son"),
    "children": ("child",),
    "unsigned": (),
}
# Shares of the groups among the reviews that blame, and among those that praise; first in the
# months before CHANGE, then from it on.
BEFORE = {"women": (0.74, 0.06), "men": (0.06, 0.74), "children": (0.02, 0.02)}
AFTER = {"women": (0.4, 0.4), "men": (0.4, 0.4), "children": (0.02, 0.02)}
CHANGE = pd.Timestamp("2025-08-01")
FIRST, DAYS = pd.Timestamp("2025-01-01"), 365
FRESH = 0.12  # share of the reviews that no run gets
LABEL = "pos"  # whose recall is followed: what a site would show to others
MANUAL = "manual"  # the label of sentences of Python's manual
_sentence = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Answers:
    """What a run's classifier makes of some of its texts.

    Attributes:
        labels: in the order of the columns.
        probabilities: at temperature 1, [n, n_labels].
        truth: class indices, [n].
        writers, dates: of the texts, [n].
        decision: the classifier's own.
    """

    labels: list[str]
    probabilities: np.ndarray
    truth: np.ndarray
    writers: pd.Series
    dates: pd.Series
    decision: Decision

    @property
    def calibrated(self) -> np.ndarray:
        """Probabilities by the decision's temperature, [n, n_labels]."""
        return self.decision.calibrate(self.probabilities)

    def answer(self, decision: Decision | None = None) -> np.ndarray:
        """Class indices [n]. decision: another one than the classifier's own."""
        return (decision or self.decision).answer(self.calibrated, self.writers.tolist())


class Site:
    """The reviews of a made site, and runs on them.

    Args:
        settings: the reviews, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        self._settings = settings
        whole = replace(settings.data, max_train=None, max_valid=None, max_test=None)
        reviews = load_corpus(whole, settings.seed).table
        generator = np.random.default_rng(settings.seed)
        made = make_site(reviews[reviews["label"] != ""], generator)
        n_fresh = round(FRESH * len(made))
        self.fresh, self.table = made[:n_fresh], made[n_fresh:].reset_index(drop=True)
        self._runs: dict[str, Run] = {}
        self._updates: dict[tuple, Run] = {}

    def train(self, name: str, balance: Balance = "none", by_time: bool = False) -> Run:
        """A run with a trained classifier, trained once for each name.

        Args:
            name: of its folder.
            balance: of its classifier.
            by_time: whether the latest reviews are tested, instead of some drawn at random.
        """
        if name not in self._runs:
            path = self.write("site", self.table)
            data = replace(
                self._settings.data,
                source=str(path),
                text="text",
                label="label",
                groups=(WRITER,),
                time=DATE if by_time else None,
            )
            how = replace(self._settings.classifier, balance=balance)
            lm = replace(self._settings.lm, epochs=0)
            settings = replace(self._settings, data=data, classifier=how, lm=lm)
            self._runs[name] = self._carry_out(begin(self.place(name), settings))
        return self._runs[name]

    def update(self, run: Run, new: pd.DataFrame, replay: float) -> Run:
        """A run that goes on from another one, trained once for each new table and replay.

        Args:
            run: that one.
            new: columns text and label.
            replay: old training texts that are learned again, for each new one.
        """
        key = (run.folder.name, replay, *new["text"], *new["label"])
        if key not in self._updates:
            name = f"update {len(self._updates) + 1}"
            path = self.write(name, new.assign(**{WRITER: ""}))
            data = DataSettings(str(path), text="text", label="label")
            how = UpdateSettings(replay=replay, new_labels=True)
            updated = begin_update(run.folder, self.place(name), data, how, lm_epochs=0)
            self._updates[key] = self._carry_out(updated)
        return self._updates[key]

    def place(self, name: str) -> Path:
        """A folder for a name, which goes with the site."""
        return Path(self._folder.name) / name

    def write(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table of texts as CSV, and return its path."""
        path = self.place(f"{name}.csv")
        write_table(path, table)
        return path

    @staticmethod
    def _carry_out(run: Run) -> Run:
        run.carry_out("classifier")
        return run


def open_predictor(run: Run) -> Predictor:
    """A run's classifier, in the precision that its report would use."""
    return load_predictor(run.folder, run.record.settings.precision)


def read_answers(run: Run, split: str = "test") -> Answers:
    """What a run's classifier makes of a split."""
    predictor = open_predictor(run)
    rows, truth = run.labelled(split)
    (probabilities,) = predictor.each(run.open_tokens(), rows, None).values()
    columns = (run.column(name).iloc[rows].reset_index(drop=True) for name in (WRITER, DATE))
    return Answers(predictor.labels, probabilities, truth, *columns, predictor.decision)


# ------------------------------------------------------------------------------------ made texts
def make_site(reviews: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """The reviews in random order, signed and dated.

    Args:
        reviews: columns text and label, the labels two.
        generator: draws order, dates, groups and signatures.

    Returns:
        Columns text, label, writer and date (ISO 8601).
    """
    reviews = reviews.iloc[generator.permutation(len(reviews))]
    praises = (reviews["label"] == max(reviews["label"])).to_numpy(int)
    dates = FIRST + pd.to_timedelta(generator.integers(DAYS, size=len(reviews)), unit="D")
    writers = np.where(
        dates < CHANGE, _draw_writers(BEFORE, praises, generator),
        _draw_writers(AFTER, praises, generator),
    )  # fmt: skip
    texts = [
        sign(text, writer, generator)
        for text, writer in zip(reviews["text"], writers, strict=True)
    ]
    made = {"text": texts, "label": reviews["label"].to_numpy(), WRITER: writers}
    return pd.DataFrame(made | {DATE: dates.strftime("%Y-%m-%d")})


def _draw_writers(
    shares: dict[str, tuple[float, float]], praises: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    bounds = np.cumsum([shares[group] for group in shares], axis=0)[:, praises]
    drawn = (generator.random(len(praises)) >= bounds).sum(axis=0)
    return np.array([*shares, "unsigned"], object)[drawn]


def sign(text: str, writer: str, generator: np.random.Generator) -> str:
    """A review with a signature of its group behind it.

    >>> sign("a fine film .", "children", np.random.default_rng(0))
    'a fine film . sent in by a child .'
    """
    words = SIGNATURES[writer]
    if not words:
        return text
    word = words[generator.integers(len(words))]
    return f"{text} sent in by {'an' if word[0] in 'aeiou' else 'a'} {word} ."


def read_manual(n: int, generator: np.random.Generator) -> list[str]:
    """Sentences of Python's manual, which comes with Python, [n]."""
    from pydoc_data.topics import topics

    paragraphs = (part for text in topics.values() for part in text.split("\n\n"))
    # Indented ones are code, and others headings, lists and tables.
    plain = (" ".join(part.split()) for part in paragraphs if re.match(r"[A-Z][a-z]", part))
    found = {one for part in plain for one in _sentence.split(part) if 40 <= len(one) <= 200}
    sentences = sorted(one for one in found if one[0].isupper() and one.endswith("."))
    return [sentences[i] for i in generator.permutation(len(sentences))[:n]]
