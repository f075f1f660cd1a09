"""What a language model says: texts that go on from a prompt, and how well it predicts a text or a corpus.

The model's hidden state stands for all that it has read, so a token more costs the same however long the text is.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fastai.text.models.core import SequentialRNN
from torch import Tensor, nn
from torch.nn import functional as F

from data_scripts.documents import documents
from data_scripts.files import progress
from ulmfit_app.bundle import Bundle, load_bundle
from ulmfit_app.detokenizer import detokenize
from ulmfit_app.errors import DataError
from ulmfit_app.hardware import DTYPES, resolve_precision
from ulmfit_app.language_model import with_weights
from ulmfit_app.lstm import EvenLSTM
from ulmfit_app.sampling import FORBIDDEN, NGrams, SamplingSettings, filtered
from ulmfit_app.tokenizer import BOS, FAKE, SPECIALS, TK_MAJ, TK_REP, TK_UP, TK_WREP, UNK_ID, Tokenizer
from ulmfit_app.tokens import LanguageModelBatches, TokenStore, in_memory, word_to_id

log = logging.getLogger(__name__)

NEVER_WRITTEN = {*SPECIALS, FAKE} - {TK_MAJ, TK_UP, TK_REP, TK_WREP}
ROWS = 32  # places of a corpus that are read side by side
ROW = 2_000  # tokens at least, for each row begins as if nothing stood before it
TOKENS_A_STEP = 2_304  # of all rows together


@dataclass(frozen=True)
class TrainedModel:
    """A language model to read with: layers without dropout, all weights in `precision`, on a GPU where there is one."""

    model: SequentialRNN
    bundle: Bundle
    precision: str

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.bundle.language)


def load(folder: Path, precision: str = "auto") -> TrainedModel:
    """The language model of a bundle. Raises BundleError when it cannot be trusted, SettingError as `resolve_precision`."""
    bundle, precision = load_bundle(folder, "language model"), resolve_precision(precision)
    model = with_weights(bundle)
    encoder = model[0]
    encoder.rnns = nn.ModuleList(layer.without_dropout(EvenLSTM) for layer in encoder.rnns)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"), DTYPES[precision])
    return TrainedModel(model.eval(), bundle, precision)


# ------------------------------------------------------------------------------------------------------------ generation
def _next_logits(model: SequentialRNN, ids: Tensor) -> Tensor:
    """Logits [rows, words], on the CPU, of what follows ids [rows, tokens]; the state of `model` moves on."""
    prediction = model(ids.to(next(model.parameters()).device))[0]
    return F.linear(prediction.hidden[:, -1], prediction.weight, prediction.bias).double().cpu()


def _repeat_state(model: SequentialRNN, rows: int) -> None:
    """Let a model that has read one row go on with as many copies of it."""
    encoder = model[0]
    encoder.hidden = [tuple(state.repeat(1, rows, 1) for state in layer) for layer in encoder.hidden]
    encoder.bs = rows


def _chosen(logits: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """Ids [rows] drawn from logits [rows, words]."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(filtered(logits, settings).softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
def continuations(model: SequentialRNN, ids: list[int], never: Tensor, settings: SamplingSettings) -> Tensor:
    """Ids [samples, words] of what a language model writes behind the ids of a prompt, of which there must be one.

    never: the ids of words that it may not write.
    """
    generator = torch.Generator()
    if settings.seed is None:
        generator.seed()
    else:
        generator.manual_seed(settings.seed)
    n, rows = settings.no_repeat_ngrams, settings.samples
    ngrams = [NGrams(n, ids) for _ in range(rows)] if n else []
    model.reset()
    logits = _next_logits(model, torch.tensor([ids])).repeat(rows, 1)
    _repeat_state(model, rows)
    written = []
    while True:
        logits[:, never] = FORBIDDEN
        for row, of_row in enumerate(ngrams):
            fresh = logits[row].clone()
            fresh[list(of_row.completing())] = FORBIDDEN
            # Where every word would repeat something, repeating is all that is left.
            if fresh.max() > FORBIDDEN:
                logits[row] = fresh
        chosen = _chosen(logits, settings, generator)
        for of_row, token in zip(ngrams, chosen.tolist(), strict=False):
            of_row.add(token)
        written.append(chosen)
        if len(written) == settings.words:
            return torch.stack(written, 1)
        logits = _next_logits(model, chosen[:, None])


def generate(trained: TrainedModel, prompt: str, settings: SamplingSettings) -> list[str]:
    """Texts that begin with the prompt, or with a backward model end with it: one a sample.

    The model starts as at the beginning of a text, or the end where it reads backward, even when the prompt is empty. It
    never writes unknown words or the end of a text. Raises SettingError as `Tokenizer` does.
    """
    bundle, ids_of = trained.bundle, word_to_id(trained.bundle.vocab)
    backward = bundle.direction == "backward"
    tokens = trained.tokenizer(prompt)[1:]
    unknown = sorted({token for token in tokens if token not in ids_of})
    if unknown:
        log.info("The model does not know, and reads as %s: %s", SPECIALS[UNK_ID], ", ".join(unknown))
    # A backward model reads xxbos last in a text, so that it stands before the next one in both directions.
    read = [ids_of.get(token, UNK_ID) for token in [BOS, *(tokens[::-1] if backward else tokens)]]
    never = torch.tensor([i for i, word in enumerate(bundle.vocab) if word in NEVER_WRITTEN])
    texts = []
    for row in continuations(trained.model, read, never, settings).tolist():
        written = [bundle.vocab[i] for i in row]
        if backward:
            texts.append(detokenize([*written[::-1], *tokens], bundle.language))
        else:
            texts.append(detokenize(written, bundle.language, start=prompt))
    return texts


# ------------------------------------------------------------------------------------------------------------ perplexity
@dataclass(frozen=True)
class Score:
    """How well a text was predicted. Tokens are predicted ones, marks of capitals and of a text's beginning included.

    nats: negative log-likelihood of all tokens together; unknown: how many of the tokens are xxunk, which a model with a
    small vocabulary predicts easily; so only scores with like shares of them compare.
    """

    tokens: int
    unknown: int
    nats: float

    @property
    def nats_a_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_a_token)

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.tokens


@torch.no_grad()
def perplexity(model: SequentialRNN, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Score a language model by the softmax over all its words, the state carried from batch to batch.

    batches: what `LanguageModelBatches` gives, (x, y) with y a token later than x. A model in training is so again
    afterwards; its state begins anew.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    model.reset()
    tokens = unknown = nats = 0
    for x, y in batches:
        nats += float(model(x.to(device))[0].cross_entropy(y.to(device))) * y.numel()
        tokens += y.numel()
        unknown += int((y == UNK_ID).sum())
    model.train(was_training)
    model.reset()
    return Score(tokens, unknown, nats)


def _texts(path: Path) -> Iterable[str]:
    if path.suffix.lower() != ".txt" or not path.is_file():
        return documents(path)
    try:
        return [path.read_text(encoding="utf-8-sig")]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} cannot be read so. Convert it from the encoding that it has: "
            "iconv -f ENCODING -t UTF-8 OLD > NEW"
        ) from None


def score_file(trained: TrainedModel, path: Path) -> tuple[Score, int]:
    """Score a .txt as one text, or a corpus that `documents` reads, its documents as one stream; also how many they are.

    Raises DataError for too little text and another encoding than UTF-8, and DocumentError as `documents` does.
    """
    bundle = trained.bundle
    store = in_memory(_texts(path), bundle.language, bundle.vocab, bundle.direction)
    return perplexity(trained.model, _batches(store, path)), len(store)


def _batches(store: TokenStore, path: Path) -> Iterable[tuple[Tensor, Tensor]]:
    tokens = len(store.ids)
    if tokens < 2:
        raise DataError(
            f"{path} has {tokens} tokens, the mark of a text's beginning included. A perplexity needs at least two, for "
            "each token is predicted from those before it. Give a file with text."
        )
    rows = min(max(tokens // ROW, 1), ROWS)
    batches = LanguageModelBatches(store, np.arange(len(store)), rows, TOKENS_A_STEP // rows)
    return progress(batches, total=len(batches), description="Scoring", unit=" batches")
