"""Notebook 07, few labels: classifiers from 50 labels and from 1,000, by several draws; checks of its exercises."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from ulmfit_app.config import GENERAL, REVIEWS, DataSettings, Settings
from ulmfit_app.course import Verdict, judged, unanswered
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF
from ulmfit_app.pipeline.run import Run, load_predictor
from ulmfit_app.text.store import TokenStore

NOT_TUNED = "ULMFiT, from general text alone"
WAYS = (SEMI_SUPERVISED, SCRATCH, TFIDF)
SECONDS_A_LABEL = 20  # of a person who reads a short review and says what it is


class Labels:
    """Texts of which only so many labels are looked at, and ways from these to a classifier.

    The language model is fine-tuned once, on all texts of train without their labels; where the settings have it start from
    general text, `en-small`, it starts from `en-reviews-small`, which read 50,000 unlabelled reviews after that. What was
    trained is kept, so that a point that was asked for before is there at once. All ways learn from the same labels, and are
    scored on the same texts.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = TemporaryDirectory()
        corpus = load_corpus(settings.data, settings.seed)
        self.table, self.labels = corpus.table, corpus.labels
        self._settings = settings
        self._right: dict[tuple[str, int, int], np.ndarray] = {}

    def _reading(self, table: pd.DataFrame, folder: Path, settings: Settings) -> Settings:
        """The settings for a table written into a folder, which says its parts: another seed leaves them as they are."""
        path = folder / "texts.csv"
        table.to_csv(path, index=False)
        return replace(
            settings, data=DataSettings(str(path), text="text", label="label", split="split")
        )

    @cached_property
    def _language_model(self) -> Path:
        """The folder of the language model that was fine-tuned on all texts of train."""
        folder, lm = Path(self._folder.name), self._settings.lm
        lm = replace(lm, pretrained=REVIEWS if lm.pretrained == GENERAL else lm.pretrained)
        settings = replace(self._settings, lm=lm)
        Run(folder / "language-model", self._reading(self.table, folder, settings)).carry_out("lm")
        return folder / "language-model" / "lm"

    @property
    def history(self) -> pd.DataFrame:
        """How the language model was fine-tuned, a row an epoch: phase, epoch, valid_loss (nats), perplexity, seconds."""
        history = pd.read_csv(self._language_model / "history.csv")
        return history[["phase", "epoch", "valid_loss", "perplexity", "seconds"]]

    def drawn(self, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which rows of the table have their labels looked at: drawn from train by chance, stratified by label."""
        # It takes a second, which other notebooks need not wait for.
        from sklearn.model_selection import train_test_split

        train = self.table.index[self.table["split"] == "train"]
        if n_labels >= len(train):
            return train.to_numpy()
        labels, seed = self.table.loc[train, "label"], self._settings.seed + draw
        return np.sort(
            train_test_split(
                train.to_numpy(), train_size=n_labels, stratify=labels, random_state=seed
            )[0]
        )

    def right(self, way: str, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which test texts a classifier from so many labels gets right, boolean [n_test], in the order of the table.

        way: one of WAYS or NOT_TUNED. draw: which labels, and the seed of the training.
        """
        point = (way, n_labels, draw)
        if point not in self._right:
            learn = self._tfidf if way == TFIDF else self._ulmfit
            self._right[point] = learn(*point)
        return self._right[point]

    def _tfidf(self, _: str, n_labels: int, draw: int) -> np.ndarray:
        known, test = (
            self.table.loc[self.drawn(n_labels, draw)],
            self.table[self.table["split"] == "test"],
        )
        index = pd.Index(self.labels)
        probabilities = tfidf_logistic_regression(
            known["text"].tolist(),
            index.get_indexer(known["label"]),
            test["text"].tolist(),
            len(index),
            draw,
        )
        return probabilities.argmax(axis=1) == index.get_indexer(test["label"])

    def _ulmfit(self, way: str, n_labels: int, draw: int) -> np.ndarray:
        start = {SCRATCH: "none", NOT_TUNED: self._settings.lm.pretrained}.get(way) or str(
            self._language_model
        )
        lm = replace(self._settings.lm, pretrained=start, epochs=0)
        hidden = (self.table["split"] == "train") & ~self.table.index.isin(
            self.drawn(n_labels, draw)
        )
        # Unlabelled and not left out: a classifier that reads only the words of fifty texts would not know the others'.
        table = self.table.assign(
            split=self.table["split"].mask(hidden, "unlabelled"),
            label=self.table["label"].mask(hidden, ""),
        )
        settings = replace(self._settings, lm=lm, seed=self._settings.seed + draw)
        with TemporaryDirectory(dir=self._folder.name) as folder:
            run = Run(Path(folder) / "run", self._reading(table, Path(folder), settings))
            run.carry_out("classifier")
            rows = pd.read_csv(
                run.folder / "tokens" / "rows.csv", dtype=str, keep_default_na=False
            )
            test = np.flatnonzero(rows["split"] == "test")
            predictor = load_predictor(run.folder)
            probabilities = predictor.probabilities(TokenStore.open(run.folder / "tokens"), test)
        return probabilities.argmax(axis=1) == pd.Index(self.labels).get_indexer(
            rows["label"][test]
        )

    def curve(self, at: Sequence[int], draws: int = 1, ways: Sequence[str] = WAYS) -> pd.DataFrame:
        """Test errors in % against the number of labels, the mean of several draws, with 95 % intervals.

        The interval is for the chance in which the test texts were drawn, at the mean of the draws; what the draws of
        labels do is seen in `errors`. Columns way, labels, n (test texts), error, low, high, as label_curve_figure has them.
        """
        rows = []
        for way in ways:
            for n_labels in at:
                wrong = np.mean(
                    [~self.right(way, n_labels, draw) for draw in range(draws)], axis=0
                )
                low, high = accuracy_interval(round(wrong.sum()), len(wrong))
                row = {
                    "way": way,
                    "labels": n_labels,
                    "n": len(wrong),
                    "error": 100 * wrong.mean(),
                }
                rows.append(row | {"low": 100 * low, "high": 100 * high})
        return pd.DataFrame(rows)

    def errors(self, n_labels: int, draws: int, ways: Sequence[str] = WAYS) -> pd.DataFrame:
        """Test errors in % of classifiers from so many labels, a row a draw of them, a column a way."""
        found = {
            way: [100 * (1 - self.right(way, n_labels, draw).mean()) for draw in range(draws)]
            for way in ways
        }
        return pd.DataFrame(found).rename_axis("draw")

    def against(self, way: str, other: str, at: Sequence[int], draw: int = 0) -> pd.DataFrame:
        """Two ways on the same test texts, a row a number of labels.

        Columns labels, only_first, only_other (test texts that one alone gets right), difference (of the accuracies, first
        minus other, in points), low, high (95 %), p_value (McNemar's exact test).
        """
        rows = []
        for n_labels in at:
            found = paired_comparison(
                self.right(way, n_labels, draw), self.right(other, n_labels, draw)
            )
            low, high = (100 * bound for bound in found["accuracy_difference_ci95"])
            only = {
                "only_first": found["only_first_right"],
                "only_other": found["only_other_right"],
            }
            row = (
                {"labels": n_labels}
                | only
                | {"difference": 100 * found["accuracy_difference"], "low": low, "high": high}
            )
            rows.append(row | {"p_value": found["p_value"]})
        return pd.DataFrame(rows)

    def told(
        self,
        favoured: str,
        other: str,
        at: Sequence[int],
        draws: int = 1,
        size: int = 100,
        intervals: bool = False,
    ) -> pd.DataFrame:
        """What can be told of two ways by who may choose: one draw, and `size` neighbouring test texts, no intervals.

        Of all draws and all such runs of texts those are taken on which `favoured` looks best. Columns as those of `curve`;
        without intervals low and high are the error itself.
        """
        n_test = int((self.table["split"] == "test").sum())
        size = min(size, n_test)
        wrong = {  # [draws, numbers of labels, n_test]
            way: np.array(
                [[~self.right(way, n_labels, draw) for n_labels in at] for draw in range(draws)]
            )
            for way in sorted((favoured, other), key=WAYS.index)
        }
        places = [
            (draw, begin) for draw in range(draws) for begin in range(0, n_test - size + 1, size)
        ]
        gain = wrong[other].astype(int) - wrong[favoured]
        draw, begin = max(
            places, key=lambda place: gain[place[0], :, place[1] : place[1] + size].sum()
        )
        rows = []
        for way, found in wrong.items():
            for n_labels, of_texts in zip(at, found[draw], strict=True):
                n_wrong = int(of_texts[begin : begin + size].sum())
                share = n_wrong / size
                low, high = accuracy_interval(n_wrong, size) if intervals else (share, share)
                row = {"way": way, "labels": n_labels, "n": size, "error": 100 * share}
                rows.append(row | {"low": 100 * low, "high": 100 * high})
        return pd.DataFrame(rows)


def next_doubling(curve: pd.DataFrame, way: str) -> pd.DataFrame:
    """What each doubling of the labels gained in one way, and what it cost: columns labels, error, gained, hours.

    curve: what Labels.curve returns, at numbers of labels each twice the one before. error in %, gained in points against
    the row before (NaN in the first); hours: of labelling the labels that came in addition.
    """
    rows = curve[curve["way"] == way].reset_index(drop=True)
    hours = rows["labels"].diff().fillna(rows["labels"]) * SECONDS_A_LABEL / 3600
    return rows[["labels", "error"]].assign(gained=-rows["error"].diff(), hours=hours)


def extrapolated(few: tuple[int, float], many: tuple[int, float], n_labels: int) -> float:
    """The error at another number of labels, by the power law through two points: a line where both axes are logarithmic.

    few, many: (labels, error).

    >>> round(extrapolated((100, 40.0), (400, 20.0), 1_600), 6)
    10.0
    """
    slope = math.log(many[1] / few[1]) / math.log(many[0] / few[0])
    return many[1] * (n_labels / many[0]) ** slope


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_only(answer: int | EllipsisType, first: np.ndarray, other: np.ndarray) -> Verdict:
    """Exercise 1: how many test texts the second classifier alone gets right. first, other: boolean [n]."""
    if verdict := unanswered(answer):
        return verdict
    only_other, only_first = int((other & ~first).sum()), int((first & ~other).sum())
    in_all = int(other.sum())
    mistakes = {
        f"{answer} are the texts that the first one alone gets right. Asked is the other way round.": only_first,
        f"{answer} is by how many texts the two differ in all. Where each is right on texts that the other gets wrong, that "
        "hides both.": abs(only_other - only_first),
        f"{answer} texts are all that the second gets right, with those that the first gets right, too.": in_all,
        f"{answer} are the texts on which the two disagree, either way.": only_first + only_other,
    }
    return judged(
        {
            **{says: answer == mistaken != only_other for says, mistaken in mistakes.items()},
            f"{answer} is not how many texts have True in the second and False in the first: `other & ~first` has those.": (
                answer != only_other
            ),
        },
        f"{only_other} texts, against {only_first} the other way round. McNemar's test asks whether a fair coin would part "
        f"{only_first + only_other} texts like that: p = {paired_comparison(first, other)['p_value']:.2g}.",
    )


def check_mean_interval(
    answer: Sequence[float] | EllipsisType, errors: Sequence[float]
) -> Verdict:
    """Exercise 2: the 95 % interval of the mean error over draws, by Student's t: (low, high), to a hundredth of a point."""
    if verdict := unanswered(answer):
        return verdict
    found = np.asarray(errors, float)
    try:
        low, high = (float(bound) for bound in answer)
    except (TypeError, ValueError):
        return Verdict(
            False, "expected two numbers, the ends of the interval, such as (30.1, 33.4)."
        )
    n, mean = len(found), found.mean()
    factor = student_t.ppf(0.975, n - 1)

    def is_near(half: float) -> bool:
        return abs(low - (mean - half)) < 0.01 and abs(high - (mean + half)) < 0.01

    half = factor * found.std(ddof=1) / math.sqrt(n)
    return judged(
        {
            "the first end has to be the lower one.": low > high,
            "this is where a single draw may lie. The mean of n draws varies less, by the square root of n.": (
                is_near(factor * found.std(ddof=1)) or is_near(1.96 * found.std(ddof=1))
            ),
            f"1.96 is for a spread that is known. From {n} draws it is estimated, which takes Student's t with {n - 1} "
            "degrees of freedom: scipy.stats.t.ppf(0.975, …).": is_near(
                1.96 * found.std(ddof=1) / math.sqrt(n)
            ),
            "the spread was divided by n. It was taken around a mean of the same draws: divide by n - 1, as ddof=1 does.": (
                is_near(factor * found.std(ddof=0) / math.sqrt(n))
            ),
            f"the middle is {(low + high) / 2:.2f}, and the mean of the draws {mean:.2f}.": abs(
                (low + high) / 2 - mean
            )
            > 0.01,
            f"the interval is {high - low:.2f} points wide.": not is_near(half),
        },
        f"the mean of {n} draws is {mean:.1f} %, and it is known to ± {half:.1f} points.",
    )


def check_extrapolated(
    answer: float | EllipsisType, few: tuple[int, float], many: tuple[int, float], n_labels: int
) -> Verdict:
    """Exercise 3: the error at `n_labels`, by the power law through two points (labels, error in %), to a tenth."""
    if verdict := unanswered(answer):
        return verdict
    wanted = extrapolated(few, many, n_labels)
    straight = many[1] + (many[1] - few[1]) / (many[0] - few[0]) * (n_labels - many[0])
    per_doubling = (many[1] - few[1]) / math.log2(many[0] / few[0])
    half_logarithmic = many[1] + per_doubling * math.log2(n_labels / many[0])
    return judged(
        {
            f"{answer:.1f} % is on the straight line through both points, which goes below nothing in the end. "
            "Take logarithms of both, labels and errors.": abs(answer - straight)
            < 0.1
            <= abs(wanted - straight),
            f"{answer:.1f} % takes the same points off with each doubling. By a power law it is the same share.": (
                abs(answer - half_logarithmic) < 0.1 <= abs(wanted - half_logarithmic)
            ),
            f"{answer:.3f} is a share. The errors here are in %.": abs(100 * answer - wanted)
            < 0.1,
            f"{answer:.1f} % is above the error from {many[0]:,} labels.": answer
            > many[1]
            > wanted,
            f"{answer:.1f} % is not on the line through both points on logarithmic axes.": abs(
                answer - wanted
            )
            >= 0.1,
        },
        f"{wanted:.1f} %, if the line goes on. Twice the labels leave {extrapolated(few, many, 2 * many[0]) / many[1]:.0%} "
        "of the error.",
    )
