"""Notebook 05, the classifier: what its encoder hands over, knows and forgets; texts and their neighbours; checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from types import EllipsisType
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from fastai.learner import Learner, Metric
from fastai.text.data import Pad_Chunk, SortedDL, TensorText, pad_chunk
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.text.models.core import SequentialRNN, get_text_classifier
from fastai.torch_core import default_device
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, judged, lesson_04, unanswered
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.perplexity import perplexity
from ulmfit_app.models import awd_lstm, pretrained
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights, save_bundle
from ulmfit_app.text.batches import ClassifierBatches, LanguageModelBatches
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import in_memory
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import PUBLISHED, Plan, rates_over

BPTT = 72  # tokens a step, fastai's
ROWS = 16  # in which a language model is scored
AT_A_TIME = 64  # texts a batch, fastai's


# ------------------------------------------------------------------------------------------------ the encoder and its plan
class _Kept(Metric):
    """What the classifier's encoder still knows: the perplexity of the language model with it put back, after each epoch."""

    name = "perplexity"

    def __init__(self, model: SequentialRNN, batches: LanguageModelBatches) -> None:
        self._model, self._batches = model, batches

    def reset(self) -> None:
        pass

    def accumulate(self, learn: Learner) -> None:
        self._encoder = learn.model[0].module

    @property
    def value(self) -> float:
        self._model[0].load_state_dict(self._encoder.state_dict())
        return perplexity(self._model, self._batches).perplexity


@dataclass(frozen=True)
class Trained:
    """A classifier that a plan has trained.

    history: a row an epoch: phase, epoch, train_loss, valid_loss (nats), accuracy, seconds, and what the bench watches.
    folder: its bundle, of the most accurate epoch, at temperature 1.
    """

    history: pd.DataFrame
    folder: Path


class Bench(lesson_04.Bench):
    """The bench of notebook 04, whose encoder can be looked into, and which keeps the classifiers that it trains.

    It watches the perplexity of the language model with the classifier's encoder put back, on the validation texts.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings, self.corpus = settings, self._run.corpus
        folder = self._run.stages["tokens"].folder
        self.store = TokenStore.open(folder)
        self.rows = pd.read_csv(
            folder / "rows.csv", dtype={"split": str, "label": str}, keep_default_na=False
        )

    @cached_property
    def language_model(self) -> Bundle:
        return load_bundle(self._run.stages["lm"].folder, "language model")

    @cached_property
    def model(self) -> SequentialRNN:
        """A classifier that has learned nothing yet: the encoder of the fine-tuned language model, and a head."""
        return self._learner(PUBLISHED).model.eval()

    def part(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Which texts of the store are in a split, and the index of each one's label."""
        rows = self.rows[self.rows["split"] == split]
        return rows.index.to_numpy(), self.corpus.truth(rows["label"])

    def ids(self, *texts: str) -> TokenStore:
        """Texts as ids of the vocabulary."""
        return in_memory(texts, self.language_model.language, self.language_model.vocab)

    # ---- what the encoder hands over
    def batch(self, *texts: str) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder's last layer says after each token of some texts, and how many tokens each text has.

        Returns [n_texts, longest, emb_sz] and int [n_texts]. Shorter texts are padded at the end, and padding is read too.
        """
        store = self.ids(*texts)
        x = np.full((len(store), store.lengths().max()), PAD_ID, np.int64)
        for row in range(len(store)):
            x[row, : store.lengths()[row]] = store[row]
        encoder = self.model[0]
        encoder.reset()
        with torch.no_grad():
            return _array(encoder.module(_like(encoder, torch.from_numpy(x)))), store.lengths()

    def outputs(self, text: str) -> pd.DataFrame:
        """`batch` of one text as a table: a row a token, a column a unit."""
        store = self.ids(text)
        return pd.DataFrame(self.batch(text)[0][0], [store.words[i] for i in store[0]])

    def pooled(self, *texts: str) -> np.ndarray:
        """What the encoder hands to the head: a row a text, [n_texts, 3 * emb_sz]."""
        return encoded(self.model, self.ids(*texts))

    # ---- what it knows before it has seen a label
    def probe(self) -> pd.DataFrame:
        """What logistic regression makes of pooled texts: of an encoder that knows nothing, of the start, and of ours.

        It learns from the split train, and is scored on valid. Columns what, n, accuracy, low, high.
        """
        (known, known_truth), (new, truth) = self.part("train"), self.part("valid")
        rows = []
        for name, model in self._encoders().items():
            # There are nearly as many numbers a text as texts: with a weaker penalty it would know them by heart.
            head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2_000))
            head.fit(encoded(model, self.store, known), known_truth)
            right = head.predict(encoded(model, self.store, new)) == truth
            low, high = accuracy_interval(int(right.sum()), len(right))
            rows.append(
                {"what": name, "n": len(right), "accuracy": right.mean(), "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def _encoders(self) -> dict[str, SequentialRNN]:
        s, start = self.settings, self._run.directions[0].start
        starts = {
            "encoder of random weights": pretrained.find_start("none", start.shape),
            "before fine-tuning": start,
        }
        splits = [self.part(split)[0] for split in ("train", "valid")]
        models = {}
        for name, one in starts.items():
            model = self._learner(PUBLISHED).model
            lm = language_model.learner(self.store, *splits, one, s.lm, s.precision, s.seed).model
            model[0].module.load_state_dict(lm[0].state_dict())
            models[name] = model
        return models | {"fine-tuned, before any label": self.model}

    # ---- how it learns
    def sizes(self) -> pd.Series:
        """How many weights each layer group has, the head first."""
        learn = self._learner(PUBLISHED)
        learn.create_opt()
        n = [sum(parameter.numel() for parameter in group) for group in learn.opt.param_lists]
        names = ["embeddings", *(f"LSTM {i}" for i in range(1, len(n) - 1)), "head"]
        return pd.Series(n, names, name="weights").iloc[::-1]

    def phases(self, plan: Plan) -> pd.DataFrame:
        """How many weights of each layer group learn in each phase of a plan, 0 where it is frozen: the head first."""
        sizes = self.sizes()
        learns = np.array(rates_over(plan, len(sizes), "constant", points=1))[::-1] > 0
        firsts = np.cumsum([0, *(phase.epochs for phase in plan.phases[:-1])])
        columns = {
            phase.name: sizes * learns[:, first]
            for phase, first in zip(plan.phases, firsts, strict=True)
        }
        return pd.DataFrame(columns)

    def perplexity(self) -> float:
        """Of the fine-tuned language model, on the validation texts."""
        return perplexity(awd_lstm.with_weights(self.language_model), self._batches()).perplexity

    def keep(self, plan: Plan) -> Trained:
        """Train a classifier by a plan, and keep it. Raises Diverged when the loss is not finite."""
        learn, s, lm = self._learner(plan), self.settings.classifier, self.language_model
        learn.metrics = [*learn.metrics, self._watched()]
        folder = Path(mkdtemp(dir=self._folder.name))
        history = train(
            learn, plan.phases, folder, plan.name, section="classifier", schedule=s.schedule, weight_decay=s.weight_decay,
            grad_clip=s.grad_clip,
        )  # fmt: skip
        save_bundle(
            folder,
            learn.model,
            Bundle("classifier", lm.shape, lm.language, lm.vocab, self.corpus.labels),
        )
        return Trained(history, folder)

    def _learner(self, plan: Plan) -> Learner:
        s, labels = self.settings, self.corpus.labels
        seed_everything(s.seed)
        parts = self.part("train"), self.part("valid")
        return classifier.learner(
            self.store,
            *parts,
            len(labels),
            self.language_model,
            plan,
            s.classifier,
            s.precision,
            s.seed,
        )

    def _watched(self) -> Metric:
        model = awd_lstm.with_weights(self.language_model)
        return _Kept(model.to(default_device()), self._batches())

    def _batches(self) -> LanguageModelBatches:
        return LanguageModelBatches(self.store, self.part("valid")[0], ROWS, BPTT)


def encoded(
    model: SequentialRNN, store: TokenStore, texts: np.ndarray | None = None
) -> np.ndarray:
    """What a classifier's encoder hands to its head, without dropout: [n_texts, 3 * emb_sz], of all texts or those named."""
    batches = ClassifierBatches(
        store, np.arange(len(store)) if texts is None else texts, None, AT_A_TIME
    )
    encoder = model.eval()[0]
    with torch.no_grad():
        found = np.concatenate([_array(encoder(_like(encoder, x))[0]) for (x,) in batches])
    return found[batches.order.argsort()]


def _like(model: torch.nn.Module, x: Tensor) -> Tensor:
    return x.to(next(model.parameters()).device)


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


# ------------------------------------------------------------------------------------------------- a text and its neighbours
class Reader(Protocol):
    """What gives texts probabilities, rows in the order of the texts: a Predictor, or PlainFastai."""

    def probabilities(self, store: TokenStore) -> np.ndarray: ...


class PlainFastai:
    """fastai's own classifier with the weights of a bundle. It reads batches as fastai makes them: SortedDL and Pad_Chunk.

    Raises BundleError when the bundle cannot be trusted.
    """

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder, "classifier")
        config = awd_lstm.shaped(awd_lstm_clas_config, bundle.shape)
        self._model = get_text_classifier(
            AWD_LSTM, len(bundle.vocab), len(bundle.labels), BPTT, config=config
        ).eval()
        load_weights(bundle, self._model)

    @torch.no_grad()
    def probabilities(self, store: TokenStore) -> np.ndarray:
        """Probabilities of each label for the texts of a store, [n_texts, n_labels], rows in their order."""
        texts = [
            (TensorText(torch.from_numpy(store[i].astype(np.int64))),) for i in range(len(store))
        ]
        batches = SortedDL(
            texts, bs=AT_A_TIME, before_batch=Pad_Chunk(pad_idx=PAD_ID, seq_len=BPTT), device="cpu"
        )
        found = [self._model(x.as_subclass(Tensor))[0].softmax(1) for (x,) in batches]
        return torch.cat(found).double().numpy()[np.argsort(batches.get_idxs(), kind="stable")]


def alone(reader: Reader, store: TokenStore) -> np.ndarray:
    """Probabilities of texts that are read one by one, [n_texts, n_labels]."""
    return np.concatenate([reader.probabilities(some(store, [i])) for i in range(len(store))])


def together(reader: Reader, store: TokenStore, tokens: int) -> np.ndarray:
    """Probabilities of texts each of which shares its batch with a text of so many tokens, [n_texts, n_labels].

    That one is the store's texts, one behind the other, again and again.
    """
    parts = [range(len(store))[i : i + AT_A_TIME - 1] for i in range(0, len(store), AT_A_TIME - 1)]
    neighbour = np.resize(store.ids, tokens)
    return np.concatenate(
        [reader.probabilities(some(store, part, neighbour))[: len(part)] for part in parts]
    )


def beside(readers: dict[str, Reader], text: TokenStore, lengths: Iterable[int]) -> pd.DataFrame:
    """The probability of the last label for the one text of a store, by how long the text beside it is.

    A row a length, in tokens; a column a reader.
    """
    lengths = pd.Index(lengths, name="tokens of the text beside it")
    found = {
        name: [together(reader, text, n)[0, -1] for n in lengths]
        for name, reader in readers.items()
    }
    return pd.DataFrame(found, lengths)


def moved(reader: Reader, store: TokenStore, lengths: Iterable[int]) -> pd.DataFrame:
    """How far probabilities move when a text of so many tokens shares the batch, against each text read alone.

    A row a length. Columns beside, n, mean and largest (of each text's largest difference of a probability), other_label
    (how many texts are given another label).
    """
    before, rows = alone(reader, store), []
    for tokens in lengths:
        after = together(reader, store, tokens)
        difference = np.abs(after - before).max(axis=1)
        other = int((after.argmax(axis=1) != before.argmax(axis=1)).sum())
        rows.append((tokens, len(store), difference.mean(), difference.max(), other))
    return pd.DataFrame(rows, columns=["beside", "n", "mean", "largest", "other_label"])


def some(store: TokenStore, texts: Iterable[int], *more: np.ndarray) -> TokenStore:
    """A store of some texts of another, and behind them of more texts, given as ids."""
    ids = [*(store[i] for i in texts), *more]
    return TokenStore(np.concatenate(ids), np.cumsum([0, *map(len, ids)]), store.words)


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_pooled(
    answer: np.ndarray | EllipsisType, wanted: np.ndarray, outputs: np.ndarray, lengths: np.ndarray
) -> Verdict:
    """Exercise 1: texts of different lengths, pooled by hand.

    wanted: what the encoder hands over [n, 3 * units]; outputs [n, longest, units], lengths [n]: what Bench.batch returns.
    """
    if verdict := unanswered(answer):
        return verdict
    answer = np.asarray(answer, float)
    if answer.shape != wanted.shape:
        return Verdict(
            False, f"expected the shape {wanted.shape}, a row a text, and found {answer.shape}."
        )

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return np.allclose(a, b, atol=1e-3)

    (last, largest, mean), of = np.split(answer, 3, axis=1), np.split(wanted, 3, axis=1)
    thirds = {
        "last state": same(last, of[0]),
        "maximum": same(largest, of[1]),
        "mean": same(mean, of[2]),
    }
    wrong = [name for name, right in thirds.items() if not right]
    swapped = all(any(same(one, other) for other in of) for one in (last, largest, mean))
    return judged(
        {
            "all three are there, in another order than the paper's: last state, maximum, mean.": bool(
                wrong
            )
            and swapped,
            "the last state is that of the last column, where the shorter text has padding. Its own last token stands at "
            "its length - 1.": not thirds["last state"] and same(last, outputs[:, -1]),
            "the maximum is taken over padding, too.": not thirds["maximum"]
            and same(largest, outputs.max(axis=1)),
            "the mean is taken over padding, too.": not thirds["mean"]
            and same(mean, outputs.mean(axis=1)),
            "the sum is divided by the text's own length, but padding is still in it.": (
                not thirds["mean"] and same(mean, outputs.sum(axis=1) / lengths[:, None])
            ),
            f"{' and '.join(wrong)}: not what the encoder hands over.": bool(wrong),
        },
        f"{len(answer)} texts of {' and '.join(map(str, lengths))} tokens, and padding is in none of the three parts.",
    )


def check_share(
    answer: float | EllipsisType, phases: pd.DataFrame, sizes: pd.Series, phase: str
) -> Verdict:
    """Exercise 2: which share of all weights learns in a phase. phases, sizes: as Bench gives them."""
    if verdict := unanswered(answer):
        return verdict
    learning = phases[phase]
    right, lowest = learning.sum() / sizes.sum(), learning[learning > 0].iloc[-1] / sizes.sum()
    return judged(
        {
            "expected a share, between 0 and 1.": not 0 <= answer <= 1,
            "this is the share that is frozen.": abs(answer - (1 - right))
            < 5e-4
            <= abs(answer - right),
            "this is the group that is new in this phase; those of the phases before go on learning.": (
                abs(answer - lowest) < 5e-4 <= abs(answer - right)
            ),
            "this counts layer groups as if they were of one size.": (
                abs(answer - (learning > 0).mean()) < 5e-4 <= abs(answer - right)
            ),
            f"{answer:.2%} is not the share of the {sizes.sum():,} weights that learns in the phase {phase!r}.": (
                abs(answer - right) >= 5e-4
            ),
        },
        f"{right:.1%}: {learning.sum():,} of {sizes.sum():,} weights.",
    )


def check_start(answer: int | EllipsisType, tokens: int, longest: int) -> Verdict:
    """Exercise 3: in which column a text of so many tokens begins when `Pad_Chunk` pads it to `longest`."""
    if verdict := unanswered(answer):
        return verdict
    padded = pad_chunk(
        TensorText(torch.full((tokens,), PAD_ID + 1)),
        pad_idx=PAD_ID,
        seq_len=BPTT,
        pad_len=longest,
    )
    start = int((padded != PAD_ID).int().argmax())
    return judged(
        {
            "then all padding would stand behind the text, as it does in this package.": answer
            == 0
            != start,
            "then all padding would stand before the text. fastai puts whole chunks before it, and the rest behind.": (
                answer == longest - tokens != start
            ),
            f"a chunk has {BPTT} tokens, and {answer} is not a multiple of it.": answer % BPTT
            != 0,
            f"whole chunks of {BPTT} are put before the text, as many as there is padding for, and {answer} is not so "
            "many.": answer != start,
        },
        f"it begins in column {start}, and {longest - tokens - start} columns of padding stand behind it.",
    )
