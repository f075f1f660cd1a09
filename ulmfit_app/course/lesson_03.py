"""Notebook 03, a language model learns: what it expects, what it learns; exercise checks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.course.starts import without_reviews
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import TrainedModel, load
from ulmfit_app.inference.sampling import scale_logits
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.models.pretrained import Start, find_start
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.rules import BOS, SPECIALS, TK_REP, TK_WREP
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory, numericalize, tokenize
from ulmfit_app.text.vocabulary import make_vocab
from ulmfit_app.training.language_model import make_learner, training_settings
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import language_model_phases

# Where texts are few, at least so many. With 64 places side by side, 1,000 reviews would make six.
STEPS_PER_EPOCH = 30


# ------------------------------------------------------------------------------ what it expects
@torch.no_grad()
def _predict(trained: TrainedModel, ids: np.ndarray, last: int) -> np.ndarray:
    """What a model expects after each of the last tokens of ids [rows, tokens].

    Its state is empty before. Returns probabilities, [rows, last, words].
    """
    trained.model.reset()
    device = next(trained.model.parameters()).device
    logits = trained.model(torch.from_numpy(ids.astype(np.int64)).to(device))[0]
    hidden = logits.hidden[:, -last:].float()
    return F.linear(hidden, logits.weight.float(), logits.bias.float()).softmax(-1).cpu().numpy()


def _to_ids(trained: TrainedModel, text: str) -> np.ndarray:
    if trained.bundle.tokenizer:
        return trained.tokenizer.ids([text])[0]
    return in_memory([text], trained.bundle.language, trained.bundle.vocab)[0]


def predict_next_word(trained: TrainedModel, begun: str) -> pd.Series:
    """How probable each word is after the beginning of a text, the likeliest first.

    Args:
        trained: a forward language model.
        begun: the beginning.

    Returns:
        Probabilities by word, [n_words].
    """
    ids = _to_ids(trained, begun)
    expected = pd.Series(
        _predict(trained, ids[None], last=1)[0, 0], trained.bundle.vocab, name="probability"
    )
    return expected.rename_axis("next word").sort_values(ascending=False, kind="stable")


def read_word_by_word(trained: TrainedModel, text: str) -> pd.DataFrame:
    """A text as a language model reads it, one row per token that it has to predict.

    Args:
        trained: a forward language model.
        text: at least one word.

    Returns:
        Columns token, probability (what the model gave the token, knowing those before it), nats
        (minus its logarithm) and likeliest, the word that it held likeliest there.
    """
    ids, vocab = _to_ids(trained, text), np.array(trained.bundle.vocab)
    probabilities = _predict(trained, ids[None, :-1], last=len(ids) - 1)[0]
    given = probabilities[np.arange(len(ids) - 1), ids[1:]]
    columns = {"token": vocab[ids[1:]], "probability": given, "nats": -np.log(given)}
    return pd.DataFrame(columns | {"likeliest": vocab[probabilities.argmax(1)]})


def write_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """What `read_word_by_word` returns, to be read: numbers with four digits behind the point."""
    texts = [f"{p:.4f}" if p >= 0.0001 else "below 0.0001" for p in steps["probability"]]
    return steps.assign(probability=texts, nats=steps["nats"].round(4))


def write(trained: TrainedModel, begun: str, draws: Sequence[SamplingSettings]) -> pd.DataFrame:
    """What a language model writes, and how uncertain it is itself when it reads that again.

    Args:
        trained: a language model.
        begun: the beginning.
        draws: how to draw the words.

    Returns:
        One row per way to draw: temperature, top-p, perplexity (the model's own, on its text) and
        text, in one line.
    """
    rows = []
    for draw in draws:
        text = " ".join(generate(trained, begun, draw)[0].split())
        own = float(np.exp(read_word_by_word(trained, text)["nats"].mean()))
        rows.append((draw.temperature, draw.top_p, round(own, 1), text))
    return pd.DataFrame(rows, columns=["temperature", "top-p", "perplexity", "text"])


def limit_memory(
    trained: TrainedModel,
    texts: Sequence[str],
    lengths: Sequence[int],
    n: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """The perplexity of tokens when a language model sees only the last few tokens before them.

    The predicted tokens are the same at every length. Each has the longest context in its text.

    Args:
        trained: a forward language model.
        texts: what the tokens are drawn from.
        lengths: how many tokens the model sees.
        n: number of tokens to predict, fewer where texts are few.
        seed: of the draw and the shuffling.

    Returns:
        One row per length: "as they stand", and "shuffled", the same context in any order.

    Raises:
        ValueError: all texts are too short.
    """
    store, most = in_memory(texts, trained.bundle.language, trained.bundle.vocab), max(lengths)
    stretches = [
        store[i][end - most : end + 1]
        for i in range(len(store))
        for end in range(most, len(store[i]))
    ]
    if not stretches:
        raise ValueError(f"No text has more than {most} tokens.")
    generator = np.random.default_rng(seed)
    chosen = np.stack(stretches)[generator.permutation(len(stretches))[:n]]
    before, targets = chosen[:, :-1], chosen[:, -1]

    def measure(contexts: np.ndarray) -> float:
        given = _predict(trained, contexts, last=1)[np.arange(len(targets)), 0, targets]
        return float(np.exp(-np.log(given).mean()))

    rows = {}
    for length in lengths:
        seen = before[:, -length:]
        rows[length] = {
            "as they stand": measure(seen),
            "shuffled": measure(generator.permuted(seen, axis=1)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokens that it sees")


# ------------------------------------------------------------------------------- what it learns
@dataclass(frozen=True)
class FineTunedModel:
    """A fine-tuned language model, as it was after its best epoch.

    Attributes:
        perplexities: on the validation texts, before the first epoch and after each.
        model: the model to read with.
    """

    perplexities: list[float]
    model: TrainedModel


class StartTrials:
    """Language models that are fine-tuned on the same texts from one start or another.

    All share one vocabulary, that of the start in the settings and of the texts, since
    perplexities over different words cannot be compared. In place of the model that has read
    reviews, there is the one that has read Wikipedia alone: what reviews add is the question.

    Args:
        corpus: the texts.
        settings: how to fine-tune, and the start.
    """

    def __init__(self, corpus: Corpus, settings: Settings) -> None:
        pretrained = without_reviews(settings.lm.pretrained)
        self.settings, self.start = settings, find_start(pretrained, settings.model)
        tokenized = tokenize(corpus.table["text"].tolist(), settings.tokens.language)
        split = corpus.table["split"].to_numpy()
        self.train, self.valid = (np.flatnonzero(split == name) for name in ("train", "valid"))
        vocab = make_vocab(
            TokenStore.open(tokenized), self.train, settings.tokens, self.start.vocab or ()
        )
        self.store = TokenStore.open(numericalize(tokenized, vocab))
        self._folder = TemporaryDirectory()

    @property
    def random(self) -> Start:
        """Random weights in the shape of the start."""
        return find_start("none", self.start.shape)

    def finetune(self, start: Start, epochs: int) -> FineTunedModel:
        """Fine-tune from a start, with all layers learning from the first step on.

        Args:
            start: the weights to begin with.
            epochs: 0 takes the start as it is.

        Returns:
            The model and its perplexities.

        Raises:
            Diverged: the loss is not finite.
            BundleError: the start cannot be used, as in `make_learner`.
        """
        s = self.settings
        tokens = int(self.store.lengths()[self.train].sum())
        places = max(1, min(s.lm.batch_size, tokens // (STEPS_PER_EPOCH * s.lm.bptt)))
        seed_everything(s.seed)
        lm = replace(s.lm, batch_size=places)
        learn = make_learner(self.store, self.train, self.valid, start, lm, s.precision, s.seed)
        rate = lm.lr if start.is_pretrained else lm.random_lr
        how = training_settings(lm, start.direction, key="")
        phases = language_model_phases(epochs, rate, frozen_lr=None, decay=lm.decay)
        with TemporaryDirectory(dir=self._folder.name) as name:
            folder, perplexities = Path(name), []
            for part in ((), phases)[: 1 + (epochs > 0)]:
                history = train(learn, part, folder, how)
                perplexities += history["perplexity"].tolist()
            bundle = Bundle("language model", start.shape, s.tokens.language, self.store.words)
            save_bundle(folder, learn.model, bundle)
            return FineTunedModel(perplexities, load(folder, s.precision))


# --------------------------------------------------------------------------------- the exercises
def check_perplexity(answer: float | EllipsisType, probabilities: Sequence[float]) -> Verdict:
    """Exercise 1: the perplexity of a text whose tokens were given these probabilities."""
    if verdict := check_number(answer):
        return verdict
    p = np.asarray(probabilities, float)
    nats = -np.log(p).mean()
    right = np.exp(nats)

    def is_near(value: float) -> bool:
        return bool(np.isclose(answer, value, rtol=2e-3))

    def is_instead(value: float) -> bool:
        return is_near(value) and not is_near(right)

    return judge(
        {
            "this is the mean of the nats, which is the loss. Perplexity is e to the power of "
            "it.": is_instead(nats),
            "this is the perplexity of the whole text as one unit. The nats should be averaged, "
            "not added up.": is_instead(np.exp(nats * len(p))),
            "here the probabilities were averaged. One word that the model held impossible has to "
            "spoil a text, and in this mean it hardly counts: average the "
            "logarithms.": is_instead(1 / p.mean()),
            "here 1/probability was averaged, so that the rarest word counts for nearly "
            "everything. Average the logarithms.": is_instead((1 / p).mean()),
            "the logarithms are to base e, and so is the power: np.exp, not 2 ** …": is_instead(
                2**nats
            ),
            f"it is not {answer:.4g}. Average minus the logarithms of the probabilities, then "
            "take e to that power.": not is_near(right),
        },
        f"perplexity {right:.4g}: as if one of {right:.4g} equally likely words had to be guessed "
        "at each step.",
    )


def check_temperature(answer: float | EllipsisType, expected: pd.Series, wanted: float) -> Verdict:
    """Exercise 2: the temperature at which the likeliest word has the probability `wanted`.

    `expected` is what `predict_next_word` returns.
    """
    if verdict := check_number(answer):
        return verdict
    if not answer > 0:
        return Verdict(False, "expected a temperature above 0.")
    logits = torch.tensor(np.log(expected.to_numpy(np.float64).clip(1e-300)))
    here, turned = (float(scale_logits(logits, t).softmax(-1).max()) for t in (answer, 1 / answer))
    way = (
        "more than wanted. A higher temperature makes the words more equal."
        if here > wanted
        else "less than wanted. A lower temperature favours the likeliest."
    )
    off = abs(here - wanted) > 0.005
    return judge(
        {
            "this is 1 over the temperature. Logits are divided by it, so below 1 the likeliest "
            "word gains.": off and abs(turned - wanted) <= 0.005,
            f"at a temperature of {answer:.3g} the likeliest word has {here:.1%}, {way}": off,
        },
        f"at a temperature of {answer:.3g}, {expected.index[0]!r} has {here:.1%} instead of "
        f"{expected.iloc[0]:.1%}.",
    )


def _group_marks(tokens: Sequence[str]) -> list[list[str]]:
    """Each word with the marks before it: xxmaj with its word, xxrep with number and letter."""
    groups, left = [], 0
    for token in tokens:
        if left:
            groups[-1].append(token)
            left -= 1
        else:
            groups.append([token])
        if token in SPECIALS and token != BOS:
            left += 2 if token in (TK_REP, TK_WREP) else 1
    return groups


def check_turned(answer: Sequence[str] | EllipsisType, text: str) -> Verdict:
    """Exercise 3: the tokens of a text in the order in which a backward model reads them."""
    if verdict := check_answered(answer):
        return verdict
    if (
        isinstance(answer, str)
        or not isinstance(answer, Iterable)
        or not all(isinstance(token, str) for token in answer)
    ):
        return Verdict(False, "expected a list of tokens, such as ['.', 'good'].")
    answer, tokenizer = list(answer), Tokenizer()
    tokens = tokenizer(text)
    wanted = tokens[::-1]
    if answer == wanted:
        return Verdict(True, f"the model reads {wanted[0]!r} first and {wanted[-1]!r} last.")
    words_turned = tokenizer(" ".join(text.split()[::-1]))
    marks_kept = [token for group in _group_marks(tokens)[::-1] for token in group]
    letters_turned = tokenizer(text[::-1])
    shorter = min(len(answer), len(wanted))
    same = next((i for i in range(shorter) if answer[i] != wanted[i]), shorter)
    got, right = (part[same] if same < len(part) else "nothing more" for part in (answer, wanted))
    mistakes = {
        "this is how a forward model reads it.": [tokens],
        "the letters were turned. A word stays as it is; the words change places.": [
            letters_turned,
            letters_turned[1:],
            letters_turned[::-1],
        ],
        "the text was turned before it was tokenized: signs stick to other words, and xxbos "
        "comes first again. Turn the tokens.": [words_turned, words_turned[1:]],
        "the marks went with their words. A model that reads from the end meets the word first, "
        "then the mark that describes it: turn every token alike.": [
            marks_kept,
            [BOS, *marks_kept[:-1]],
        ],
        "xxbos is turned with the rest: a backward model reads it last, as the sign that the text "
        "is over.": [[BOS, *wanted[:-1]], wanted[:-1]],
    }
    otherwise = f"the first {same} tokens are right; then comes {got!r} where {right!r} should be."
    says = next((says for says, wrong in mistakes.items() if answer in wrong), otherwise)
    return Verdict(False, says)
