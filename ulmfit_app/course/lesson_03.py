"""Notebook 03, a language model learns: what it expects, what it learns, which way it reads; checks of its exercises."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from types import EllipsisType
from unittest import mock

import numpy as np
import pandas as pd
import torch
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.text import learner as fastai_learner
from fastai.text.core import Tokenizer as FastaiTokenizer
from fastai.text.core import WordTokenizer
from fastai.text.data import TextBlock
from fastai.text.models.awdlstm import awd_lstm_lm_config
from torch.nn import functional as F

from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, judged, unanswered
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.inference.language_model import TrainedModel, load
from ulmfit_app.inference.perplexity import perplexity
from ulmfit_app.inference.sampling import at_temperature
from ulmfit_app.models.awd_lstm import shaped
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.pretrained import MARKS, Start, find_start, locate, write_fastai
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import BOS, SPECIALS, TK_REP, TK_WREP
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory, numericalize, tokenize
from ulmfit_app.text.vocabulary import make_vocab
from ulmfit_app.training.language_model import learner
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import language_model_phases

ROWS, BPTT = 16, 72  # of what is scored
STEPS_AN_EPOCH = 30  # at least, where texts are few: with 64 places side by side, a thousand reviews would make six


# ------------------------------------------------------------------------------------------------------ what it expects
@torch.no_grad()
def _probabilities(trained: TrainedModel, ids: np.ndarray, last: int) -> np.ndarray:
    """What a model expects behind the last tokens of ids [rows, tokens], its state empty before: [rows, last, words]."""
    trained.model.reset()
    device = next(trained.model.parameters()).device
    logits = trained.model(torch.from_numpy(ids.astype(np.int64)).to(device))[0]
    hidden = logits.hidden[:, -last:].float()
    return F.linear(hidden, logits.weight.float(), logits.bias.float()).softmax(-1).cpu().numpy()


def _ids(trained: TrainedModel, text: str) -> np.ndarray:
    return in_memory([text], trained.bundle.language, trained.bundle.vocab)[0]


def next_word(trained: TrainedModel, begun: str) -> pd.Series:
    """How probable each word of a forward model's vocabulary is behind the beginning of a text, the likeliest first."""
    ids = _ids(trained, begun)
    expected = pd.Series(
        _probabilities(trained, ids[None], last=1)[0, 0], trained.bundle.vocab, name="probability"
    )
    return expected.rename_axis("next word").sort_values(ascending=False, kind="stable")


def word_by_word(trained: TrainedModel, text: str) -> pd.DataFrame:
    """A text of at least one word as a forward model reads it, a row a token that it has to predict.

    Columns token, probability (what it gave the token, knowing those before), nats (minus its logarithm), and expected, the
    word that it held likeliest there.
    """
    ids, vocab = _ids(trained, text), np.array(trained.bundle.vocab)
    probabilities = _probabilities(trained, ids[None, :-1], last=len(ids) - 1)[0]
    given = probabilities[np.arange(len(ids) - 1), ids[1:]]
    columns = {"token": vocab[ids[1:]], "probability": given, "nats": -np.log(given)}
    return pd.DataFrame(columns | {"expected": vocab[probabilities.argmax(1)]})


def by_memory(
    trained: TrainedModel,
    texts: Sequence[str],
    lengths: Sequence[int],
    n: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """The perplexity of tokens when a forward model sees so many of those before them, and nothing else; a row a length.

    lengths: how many. The tokens are always the same n, or fewer where texts are few, and have all these before them in
    their text. Columns: as they stand, and the same ones in any order. Raises ValueError when all texts are too short.
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

    def score(contexts: np.ndarray) -> float:
        given = _probabilities(trained, contexts, last=1)[np.arange(len(targets)), 0, targets]
        return float(np.exp(-np.log(given).mean()))

    rows = {}
    for length in lengths:
        seen = before[:, -length:]
        rows[length] = {
            "as they stand": score(seen),
            "shuffled": score(generator.permuted(seen, axis=1)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokens that it sees")


# ------------------------------------------------------------------------------------------------------- what it learns
@dataclass(frozen=True)
class FineTuned:
    """A language model that was fine-tuned, as it was after its best epoch.

    course: its perplexity on the validation texts before the first epoch, and after each.
    """

    course: list[float]
    model: TrainedModel


class Bench:
    """The texts of a corpus under one vocabulary, on which language models are fine-tuned from one start or another.

    The vocabulary is that of the start of `settings`, and of the texts. It is the same for each start, since perplexities
    over different words do not compare.
    """

    def __init__(self, corpus: Corpus, settings: Settings) -> None:
        self.settings, self.start = settings, find_start(settings.lm.pretrained, settings.model)
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

    def finetune(self, start: Start, epochs: int) -> FineTuned:
        """Fine-tune from a start for so many epochs, by `settings`, with all layers learning from the first step on.

        epochs: 0 takes the start as it is. Raises Diverged when the loss is not finite, BundleError as `learner` does.
        """
        s = self.settings
        tokens = int(self.store.lengths()[self.train].sum())
        places = max(1, min(s.lm.batch_size, tokens // (STEPS_AN_EPOCH * s.lm.bptt)))
        seed_everything(s.seed)
        lm = replace(s.lm, batch_size=places)
        learn = learner(self.store, self.train, self.valid, start, lm, s.precision, s.seed)
        rate = lm.lr if start.is_pretrained else lm.random_lr
        how = dict(
            section="lm",
            schedule=lm.schedule,
            weight_decay=lm.weight_decay,
            grad_clip=lm.grad_clip,
        )
        with TemporaryDirectory(dir=self._folder.name) as name:
            folder, course = Path(name), []
            for phases in (
                (),
                language_model_phases(epochs, rate, frozen_lr=None, decay=lm.decay),
            )[: 1 + (epochs > 0)]:
                course += train(learn, phases, folder, "", **how)["perplexity"].tolist()
            bundle = Bundle("language model", start.shape, s.tokens.language, self.store.words)
            save_bundle(folder, learn.model, bundle)
            return FineTuned(course, load(folder, s.precision))


# --------------------------------------------------------------------------------------------------- in which direction
def by_direction(models: Mapping[str, TrainedModel], texts: Sequence[str]) -> pd.DataFrame:
    """The perplexity of language models, a row each, on texts read from the first token on, and from the last."""
    rows = {}
    for name, trained in models.items():
        store = in_memory(texts, trained.bundle.language, trained.bundle.vocab)
        read = {"texts read forward": store, "texts read backward": store.backward()}
        batches = {
            way: LanguageModelBatches(of, range(len(of)), ROWS, BPTT) for way, of in read.items()
        }
        rows[name] = {way: perplexity(trained.model, of).perplexity for way, of in batches.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def plain_fastai(
    texts: Sequence[str], vocab: Sequence[str], backwards: bool = False
) -> DataLoaders:
    """fastai's own batches of texts for a language model, in memory; the last half of the texts are its validation part."""
    block = TextBlock(
        FastaiTokenizer(WordTokenizer()),
        list(vocab),
        is_lm=True,
        seq_len=BPTT,
        backwards=backwards,
    )
    last_half = IndexSplitter(range(len(texts) // 2, len(texts)))
    return DataBlock((block,), splitter=last_half).dataloaders(list(texts), bs=ROWS)


@contextmanager
def weights_at_hand(forward: str = "en-small") -> Iterator[dict]:
    """While it is open, fastai finds two of the package's models where it would download its own of that direction.

    forward: the name of the one that reads forward. Yields the configuration of their shape, which fastai's learner takes.
    """
    with TemporaryDirectory() as name:

        def find(url: str, **_: object) -> Path:
            """In place of untar_data. url: fastai's, which ends in the direction's mark: wt103-fwd, wt103-bwd."""
            direction = next(known for known, mark in MARKS.items() if mark in url)
            ours = locate(forward if direction == "forward" else f"{forward}-{MARKS[direction]}")
            if not (folder := Path(name) / ours.name).exists():
                write_fastai(copytree(ours, folder), ours.name)
            return folder

        with mock.patch.object(fastai_learner, "untar_data", find):
            yield shaped(awd_lstm_lm_config, load_bundle(locate(forward), "language model").shape)


def seen_by(learn: Learner, n_tokens: int = 14) -> dict[str, object]:
    """What one of fastai's language-model learners reads: the beginning of its validation part, and its perplexity there."""
    x, _ = learn.dls.valid.one_batch()
    with learn.no_bar(), learn.no_logging():
        loss = learn.validate()[0]
    return {
        "reads": " ".join(learn.dls.vocab[i] for i in x[0, :n_tokens]),
        "perplexity": float(np.exp(loss)),
    }


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_perplexity(answer: float | EllipsisType, probabilities: Sequence[float]) -> Verdict:
    """Exercise 1: the perplexity of a text whose tokens were given these probabilities."""
    if verdict := unanswered(answer):
        return verdict
    p = np.asarray(probabilities, float)
    nats = -np.log(p).mean()
    right = np.exp(nats)

    def is_instead(value: float) -> bool:
        return bool(
            np.isclose(answer, value, rtol=2e-3) and not np.isclose(answer, right, rtol=2e-3)
        )

    return judged(
        {
            "this is the mean of the nats, which is the loss. Perplexity is e to the power of it.": is_instead(
                nats
            ),
            "this is the perplexity of the whole text in one. The nats are to be averaged, not added up.": (
                is_instead(np.exp(nats * len(p)))
            ),
            "here the probabilities were averaged. One word that was held impossible has to spoil a text, and in this mean "
            "it hardly counts: average the logarithms.": is_instead(1 / p.mean()),
            "here 1/probability was averaged, so that the rarest word counts for nearly all. Average the logarithms.": (
                is_instead((1 / p).mean())
            ),
            "the logarithms are to base e, and so is the power: np.exp, not 2 ** …": is_instead(
                2**nats
            ),
            f"it is not {answer:.4g}. Average minus the logarithms of the probabilities, then take e to that power.": (
                not np.isclose(answer, right, rtol=2e-3)
            ),
        },
        f"perplexity {right:.4g}. As if at each step one of {right:.4g} words had to be guessed, all alike.",
    )


def check_temperature(answer: float | EllipsisType, expected: pd.Series, wanted: float) -> Verdict:
    """Exercise 2: the temperature at which the likeliest word has the probability `wanted`. expected: of `next_word`."""
    if verdict := unanswered(answer):
        return verdict
    if not answer > 0:
        return Verdict(False, "expected a temperature above 0.")
    logits = torch.tensor(np.log(expected.to_numpy(np.float64).clip(1e-300)))
    here, turned = (
        float(at_temperature(logits, t).softmax(-1).max()) for t in (answer, 1 / answer)
    )
    way = "more than wanted. A higher temperature evens the words out." if here > wanted else (
        "less than wanted. A lower temperature favours the likeliest."
    )  # fmt: skip
    return judged(
        {
            "this is 1 over the temperature. Logits are divided by it, so below 1 the likeliest gains.": (
                abs(turned - wanted) <= 0.005 < abs(here - wanted)
            ),
            f"at a temperature of {answer:.3g} the likeliest word has {here:.1%}, {way}": abs(
                here - wanted
            )
            > 0.005,
        },
        f"at a temperature of {answer:.3g}, {expected.index[0]!r} has {here:.1%} instead of {expected.iloc[0]:.1%}.",
    )


def _with_their_marks(tokens: Sequence[str]) -> list[list[str]]:
    """Tokens in groups of a word and the marks before it: xxmaj with its word, xxrep with its number and letter."""
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
    if verdict := unanswered(answer):
        return verdict
    if isinstance(answer, str) or not all(isinstance(token, str) for token in answer):
        return Verdict(False, "expected a list of tokens, such as ['.', 'good'].")
    answer, tokenizer = list(answer), Tokenizer()
    tokens = tokenizer(text)
    wanted = tokens[::-1]
    if answer == wanted:
        return Verdict(True, f"the model reads {wanted[0]!r} first and {wanted[-1]!r} last.")
    words_turned = tokenizer(" ".join(text.split()[::-1]))
    marks_kept = [token for group in _with_their_marks(tokens)[::-1] for token in group]
    letters_turned = tokenizer(text[::-1])
    ended = min(len(answer), len(wanted))
    same = next((i for i in range(ended) if answer[i] != wanted[i]), ended)
    got, right = (part[same] if same < len(part) else "nothing more" for part in (answer, wanted))
    otherwise = f"the first {same} tokens are right; then comes {got!r} where {right!r} should."
    mistakes = {
        "this is how a forward model reads it.": answer == tokens,
        "the letters were turned. A word stays as it is; the words change places.": (
            answer in (letters_turned, letters_turned[1:], letters_turned[::-1])
        ),
        "the text was turned before it was tokenized: signs stick to other words, and xxbos stands first again. "
        "Turn the tokens.": answer in (words_turned, words_turned[1:]),
        "the marks went with their words. Whoever reads from the end meets the word first, then the mark that describes "
        "it: turn every token alike.": answer in (marks_kept, [BOS, *marks_kept[:-1]]),
        "xxbos is turned with the rest: a backward model reads it last, as the sign that the text is over.": (
            answer in ([BOS, *wanted[:-1]], wanted[:-1])
        ),
    }
    return Verdict(False, next((says for says, holds in mistakes.items() if holds), otherwise))
