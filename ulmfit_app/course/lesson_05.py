"""Notebook 05, the classifier: what its encoder hands over, knows and forgets; exercise checks."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from types import EllipsisType

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner, Metric
from fastai.text.data import TensorText, pad_chunk
from fastai.text.models.core import SequentialRNN
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, check_answered, check_number, judge, lesson_01, lesson_04
from ulmfit_app.course.forgetting import KeptPerplexity
from ulmfit_app.course.neighbours import BATCH_SIZE, BPTT
from ulmfit_app.hardware import choose_device
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.models.awd_lstm import load_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.reader import read_classifier
from ulmfit_app.text.batches import ClassifierBatches, LanguageModelBatches
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import in_memory
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import PUBLISHED, Plan, rates_over

ROWS = 16  # in which a language model is scored


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier that was trained by a plan.

    Attributes:
        history: one row per epoch: phase, epoch, train_loss and valid_loss (nats), accuracy,
            seconds, and what the lab watches.
        folder: its bundle, of the most accurate epoch, at temperature 1.
    """

    history: pd.DataFrame
    folder: Path

    @cached_property
    def model(self) -> nn.Sequential:
        """Encoder and head as they predict, in fp32; they learn no more."""
        return read_classifier(load_bundle(self.folder, "classifier")).requires_grad_(False)


class ClassifierLab(lesson_04.PlanTrials):
    """The trials of notebook 04, with an encoder to look into, and classifiers that are kept.

    After each epoch it puts the classifier's encoder back into the language model, and watches
    the perplexity of that on the validation texts.

    Args:
        settings: the texts, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings, self.corpus = settings, self._read_corpus()
        self.store, self.rows = TokenStore.open(self._find_stage("tokens")), self._read_rows()

    @cached_property
    def language_model(self) -> Bundle:
        return load_bundle(self._find_stage("lm"), "language model")

    @cached_property
    def model(self) -> SequentialRNN:
        """An untrained classifier: the encoder of the fine-tuned language model, and a head."""
        return self._make_learner(PUBLISHED).model.eval()

    def find_part(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Which texts of the store are in a split, and the index of each one's label."""
        rows = self.rows[self.rows["split"] == split]
        return rows.index.to_numpy(), self.corpus.truth(rows["label"])

    def number_texts(self, *texts: str) -> TokenStore:
        """Texts as ids of the language model's vocabulary."""
        return in_memory(texts, self.language_model.language, self.language_model.vocab)

    # ---- what the encoder hands over
    def encode_batch(self, *texts: str) -> tuple[np.ndarray, np.ndarray]:
        """The output of the encoder's last layer after each token of some texts.

        Args:
            *texts: the texts. Shorter ones are padded at the end, and the padding is read too.

        Returns:
            Outputs, [n_texts, longest, emb_sz], and the lengths in tokens, int [n_texts].
        """
        store = self.number_texts(*texts)
        x = np.full((len(store), store.lengths().max()), PAD_ID, np.int64)
        for row in range(len(store)):
            x[row, : store.lengths()[row]] = store[row]
        encoder = self.model[0]
        encoder.reset()
        with torch.no_grad():
            outputs = encoder.module(_place_beside(encoder, torch.from_numpy(x)))
        return _to_array(outputs), store.lengths()

    def tabulate_outputs(self, text: str) -> pd.DataFrame:
        """`encode_batch` of one text as a table: one row per token, one column per unit."""
        store = self.number_texts(text)
        return pd.DataFrame(self.encode_batch(text)[0][0], [store.words[i] for i in store[0]])

    def pool(self, *texts: str) -> np.ndarray:
        """What the encoder hands to the head, [n_texts, 3 * emb_sz]."""
        return pool_texts(self.model, self.number_texts(*texts))

    def measure_perplexity(self) -> float:
        """The perplexity of the fine-tuned language model on the validation texts."""
        model = load_language_model(self.language_model)
        return measure_perplexity(model, self._read_validation()).perplexity

    # ---- how it learns
    def count_weights(self) -> pd.Series:
        """How many weights each layer group has, the head first."""
        learn = self._make_learner(PUBLISHED)
        learn.create_opt()
        n = [sum(parameter.numel() for parameter in group) for group in learn.opt.param_lists]
        names = ["embeddings", *(f"LSTM {i}" for i in range(1, len(n) - 1)), "head"]
        return pd.Series(n, names, name="weights").iloc[::-1]

    def keep(self, plan: Plan) -> TrainedClassifier:
        """Train a classifier, and keep it for as long as the lab lives.

        Args:
            plan: who learns when, and at what rate.

        Returns:
            The classifier and its history.

        Raises:
            Diverged: the loss is not finite.
        """
        # Before the seed is set: what it draws would give other dropouts than in notebook 04.
        watch = self._watch()
        learn, s, lm = self._make_learner(plan), self.settings.classifier, self.language_model
        learn.metrics = [*learn.metrics, watch]
        folder = Path(mkdtemp(dir=self._folder.name))
        how = replace(classifier.training_settings(s, lm.direction, key=plan.name), patience=None)
        history = train(learn, plan.phases, folder, how)
        labels = self.corpus.labels
        bundle = Bundle("classifier", lm.shape, lm.language, lm.vocab, labels)
        save_bundle(folder, learn.model, bundle)
        return TrainedClassifier(history, folder)

    def _make_learner(self, plan: Plan) -> Learner:
        s, n_labels = self.settings, len(self.corpus.labels)
        seed_everything(s.seed)
        parts = self.find_part("train"), self.find_part("valid")
        how = (plan, s.classifier, s.precision, s.seed)
        return classifier.make_learner(self.store, *parts, n_labels, self.language_model, *how)

    def _watch(self) -> Metric:
        model = load_language_model(self.language_model)
        return KeptPerplexity(model.to(choose_device()), self._read_validation())

    def _read_validation(self) -> LanguageModelBatches:
        return LanguageModelBatches(self.store, self.find_part("valid")[0], ROWS, BPTT)

    def make_encoders(self) -> dict[str, SequentialRNN]:
        """Classifiers whose encoders know less and more, none of which has seen a label."""
        s, start = self.settings, self._find_start()
        starts = {
            "encoder of random weights": find_start("none", start.shape),
            "before fine-tuning": start,
        }
        splits = [self.find_part(split)[0] for split in ("train", "valid")]
        models = {}
        for name, one in starts.items():
            model = self._make_learner(PUBLISHED).model
            how = (one, s.lm, s.precision, s.seed)
            lm = language_model.make_learner(self.store, *splits, *how).model
            model[0].module.load_state_dict(lm[0].state_dict())
            models[name] = model
        return models | {"fine-tuned, before any label": self.model}


def probe(lab: ClassifierLab) -> pd.DataFrame:
    """How well logistic regression labels pooled texts, by what the encoder has learned before.

    The encoder is of random weights, of the start, or of the fine-tuned language model. The
    regression learns from train and is scored on valid.

    Args:
        lab: has the texts and the encoders.

    Returns:
        One row per encoder: what, n, accuracy, low, high (95 %).
    """
    (known, known_truth), (new, truth) = lab.find_part("train"), lab.find_part("valid")
    rows = []
    for name, model in lab.make_encoders().items():
        # There are nearly as many numbers per text as texts. With a weaker penalty the regression
        # would learn them by heart.
        head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2_000))
        head.fit(pool_texts(model, lab.store, known), known_truth)
        right = head.predict(pool_texts(model, lab.store, new)) == truth
        rows.append(lesson_01.score_row(name, right))
    return pd.DataFrame(rows)


def count_learning(plan: Plan, weights: pd.Series) -> pd.DataFrame:
    """How many weights of each layer group learn in each phase of a plan, 0 where frozen.

    Args:
        plan: the plan.
        weights: of each group, as `ClassifierLab.count_weights` returns them.

    Returns:
        One row per group, the head first; one column per phase.
    """
    learns = np.array(rates_over(plan, len(weights), "constant", points=1))[::-1] > 0
    firsts = np.cumsum([0, *(phase.epochs for phase in plan.phases[:-1])])
    columns = {
        phase.name: weights * learns[:, first]
        for phase, first in zip(plan.phases, firsts, strict=True)
    }
    return pd.DataFrame(columns)


def pool_texts(
    model: SequentialRNN, store: TokenStore, texts: np.ndarray | None = None
) -> np.ndarray:
    """What a classifier's encoder hands to its head, without dropout.

    Args:
        model: the classifier.
        store: the texts.
        texts: which of them; None: all.

    Returns:
        Last state, maximum and mean of each text, [n_texts, 3 * emb_sz].
    """
    chosen = np.arange(len(store)) if texts is None else texts
    batches = ClassifierBatches(store, chosen, None, BATCH_SIZE)
    encoder = model.eval()[0]
    with torch.no_grad():
        found = [_to_array(encoder(_place_beside(encoder, x))[0]) for (x,) in batches]
    return np.concatenate(found)[batches.order.argsort()]


def _place_beside(model: nn.Module, x: Tensor) -> Tensor:
    return x.to(next(model.parameters()).device)


def _to_array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


# --------------------------------------------------------------------------------- the exercises
def check_pooled(
    answer: np.ndarray | EllipsisType, wanted: np.ndarray, outputs: np.ndarray, lengths: np.ndarray
) -> Verdict:
    """Exercise 1: texts of different lengths, pooled by hand.

    Args:
        answer: the pooled texts.
        wanted: what the encoder hands over, [n, 3 * units].
        outputs: of `ClassifierLab.encode_batch`, [n, longest, units].
        lengths: of the texts, in tokens, [n].

    Returns:
        The verdict.
    """
    if verdict := check_answered(answer):
        return verdict
    answer = np.asarray(answer, float)
    if answer.shape != wanted.shape:
        expected = f"expected the shape {wanted.shape}, one row per text"
        return Verdict(False, f"{expected}, and found {answer.shape}.")

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return np.allclose(a, b, atol=1e-3)

    (last, largest, mean), of = np.split(answer, 3, axis=1), np.split(wanted, 3, axis=1)
    thirds = {
        "last state": same(last, of[0]),
        "maximum": same(largest, of[1]),
        "mean": same(mean, of[2]),
    }
    wrong = [name for name, right in thirds.items() if not right]
    all_there = all(any(same(one, other) for other in of) for one in (last, largest, mean))
    # Each of these is right where no text has padding.
    of_last_column = "last state" in wrong and same(last, outputs[:, -1])
    padded_maximum = "maximum" in wrong and same(largest, outputs.max(axis=1))
    padded_mean = "mean" in wrong and same(mean, outputs.mean(axis=1))
    padded_sum = "mean" in wrong and same(mean, outputs.sum(axis=1) / lengths[:, None])
    return judge(
        {
            "all three are there, but in another order than in the paper: last state, maximum, "
            "mean.": bool(wrong) and all_there,
            "the last state is that of the last column, where the shorter text has padding. Its "
            "own last token is at its length - 1.": of_last_column,
            "the maximum is taken over padding, too.": padded_maximum,
            "the mean is taken over padding, too.": padded_mean,
            "the sum is divided by the text's own length, but padding is still in it.": padded_sum,
            f"{' and '.join(wrong)}: not what the encoder hands over.": bool(wrong),
        },
        f"{len(answer)} texts of {' and '.join(map(str, lengths))} tokens, and padding is in none "
        "of the three parts.",
    )


def check_share(
    answer: float | EllipsisType, phases: pd.DataFrame, weights: pd.Series, phase: str
) -> Verdict:
    """Exercise 2: the share of all weights that learns in a phase.

    `phases` and `weights` are what `count_learning` and `count_weights` return.
    """
    if verdict := check_number(answer):
        return verdict
    learning = phases[phase]
    right = learning.sum() / weights.sum()

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 5e-4 <= abs(answer - right))

    return judge(
        {
            "expected a share, between 0 and 1.": not 0 <= answer <= 1,
            "this is the share that is frozen.": is_instead(1 - right),
            "this is only the group that is new in this phase; those of the phases before go on "
            "learning.": is_instead(learning[learning > 0].iloc[-1] / weights.sum()),
            "this counts layer groups as if they were all the same size.": is_instead(
                (learning > 0).mean()
            ),
            f"{answer:.2%} is not the share of the {weights.sum():,} weights that learns in the "
            f"phase {phase!r}.": abs(answer - right) >= 5e-4,
        },
        f"{right:.1%}: {learning.sum():,} of {weights.sum():,} weights.",
    )


def check_start(answer: int | EllipsisType, tokens: int, longest: int) -> Verdict:
    """Exercise 3: the column in which a text begins when `Pad_Chunk` pads it to `longest`."""
    if verdict := check_number(answer):
        return verdict
    text = TensorText(torch.full((tokens,), PAD_ID + 1))
    padded = pad_chunk(text, pad_idx=PAD_ID, seq_len=BPTT, pad_len=longest)
    start = int((padded != PAD_ID).int().argmax())
    all_before = answer == longest - tokens != start
    return judge(
        {
            "then all padding would be after the text, as in this package.": answer == 0 != start,
            "then all padding would be before the text. fastai puts whole chunks before it, and "
            "the rest after it.": all_before,
            f"a chunk has {BPTT} tokens, and {answer} is not a multiple of it.": answer % BPTT > 0,
            f"whole chunks of {BPTT} come before the text, as many as there is padding for, and "
            f"{answer} is not that many.": answer != start,
        },
        f"it begins in column {start}, and {longest - tokens - start} columns of padding follow "
        "it.",
    )
