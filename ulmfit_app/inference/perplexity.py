"""How well a language model predicts a text or a corpus.

An AWD-LSTM reads a corpus as one stream. A transformer, which sees so many tokens and no more,
reads each text alone, and a long one in windows that overlap by half.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_scripts.files import progress
from ulmfit_app.errors import DataError, count_texts
from ulmfit_app.inference.causal import CausalModel
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.models.architectures import store_in_memory
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.chinese import converter
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore

log = logging.getLogger(__name__)

ROWS = 32  # places of a corpus that are read side by side
ROW = 2_000  # tokens at least, for each row begins as if nothing stood before it
TOKENS_PER_STEP = 2_304  # of all rows together
# Of a transformer's, for each has a float for every word of a large vocabulary: 200 MB together.
WINDOW_TOKENS_PER_STEP = 1_024


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Args:
        tokens: predicted ones, marks of capitals and of a text's beginning included.
        unknown: how many of them are xxunk, which a model with a small vocabulary predicts easily;
            so only scores with like shares of them compare. None: of subwords, which spell any
            word.
        nats: negative log-likelihood of all tokens together.
        characters: of the text that was predicted, as the model reads it, that is, converted where
            it converts texts. None: not counted.
    """

    tokens: int
    unknown: int | None
    nats: float
    characters: int | None = None

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood; NaN where nothing was predicted."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """e to the power of the nats per token."""
        return math.exp(self.nats_per_token)

    @property
    def perplexity_per_character(self) -> float | None:
        """The same per character, by which models with other subwords compare; None where
        characters were not counted."""
        return math.exp(self.nats / self.characters) if self.characters else None

    @property
    def unknown_share(self) -> float | None:
        """Of the predicted tokens; None where no word is unknown to the model."""
        return None if self.unknown is None else self.unknown / self.tokens


@torch.no_grad()
def measure_perplexity(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Score a language model by the softmax over all its words.

    The state is carried from batch to batch, and begins anew afterwards. A model in training is so
    again afterwards.

    Args:
        model: of ids it gives `softmax.Logits`.
        batches: what `LanguageModelBatches` gives, (x, y) with y one token later than x.
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
        from data_scripts.documents import read_documents  # with what a download needs

        return read_documents(path)
    try:
        return [path.read_text(encoding="utf-8-sig")]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} cannot be read so. Convert it from the "
            "encoding that it has: iconv -f ENCODING -t UTF-8 OLD > NEW"
        ) from None


def score_file(trained: TrainedModel | CausalModel, path: Path) -> tuple[Score, int]:
    """Score a .txt as one text, or a corpus that `read_documents` reads.

    Args:
        trained: an AWD-LSTM reads the corpus as one stream, a transformer each document alone.
        path: of the file or folder.

    Returns:
        The score, and the number of documents.

    Raises:
        DataError: too little text, or another encoding than UTF-8.
        data_scripts.documents.DocumentError: as `read_documents` does.
    """
    if isinstance(trained, CausalModel):
        return _score_by_transformer(trained, path)
    bundle, lengths = trained.bundle, []
    store = store_in_memory(bundle, _measured(_texts(path), bundle.opencc, lengths))
    score = measure_perplexity(trained.model, _batches(store, path))
    if bundle.tokenizer:
        score = replace(score, unknown=None, characters=sum(lengths))
    return score, len(store)


def _measured(texts: Iterable[str], opencc: str, lengths: list[int]) -> Iterator[str]:
    """The texts, whose characters, as a model reads them, are counted meanwhile."""
    convert = converter(opencc)
    for text in texts:
        lengths.append(len(convert(text)))
        yield text


def _too_short(path: Path, tokens: str) -> DataError:
    return DataError(
        f"{path} has {tokens}. A perplexity needs at least two, since each token is predicted "
        "from those before it. Give a file with text."
    )


def _batches(store: TokenStore, path: Path) -> Iterable[tuple[Tensor, Tensor]]:
    tokens = len(store.ids)
    if tokens < 2:
        raise _too_short(path, f"{tokens} tokens, the mark of a text's beginning included")
    rows = min(max(tokens // ROW, 1), ROWS)
    batches = LanguageModelBatches(store, np.arange(len(store)), rows, TOKENS_PER_STEP // rows)
    return progress(batches, total=len(batches), description="Scoring", unit=" batches")


# ------------------------------------------------------------------------------------ transformers
def cut_windows(n: int, positions: int | None, n_before: int = 0) -> list[tuple[int, int, int]]:
    """How a transformer reads a text of n tokens to predict each but the first, once.

    A text of more tokens than the model's positions is read in windows. Each begins half of the
    positions after the one before and predicts what that has not, so that every token is
    predicted from at least half of the positions where so many stand before it.

    Args:
        n: tokens of the text, those that the tokenizer puts before it included.
        positions: of the model; None: no limit.
        n_before: tokens that the tokenizer puts before a text. They stand before each window.

    Returns:
        (start, first, stop) of each window: it predicts the tokens from first to before stop, and
        reads those from start on.

    >>> cut_windows(5, 4), cut_windows(10, 4)
    ([(0, 1, 5)], [(0, 1, 5), (2, 5, 7), (4, 7, 9), (5, 9, 10)])
    """
    windows, first = [], min(n, 1 if n else 0)
    while first < n:
        if positions is None or not windows:
            stop = n if positions is None else min(n, positions + 1)
            windows.append((0, first, stop))
        else:
            stop = min(n, first + max(positions // 2, 1))
            windows.append((stop - 1 - (positions - n_before), first, stop))
        first = stop
    return windows


def measure_nats(trained: CausalModel, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """How much each token of some texts surprises a causal transformer.

    Args:
        trained: the model.
        texts: ids, as `CausalModel.to_ids` gives them; each text is read alone.

    Returns:
        For each text the negative log-likelihoods of all its tokens but the first, float32
        [n_tokens - 1].
    """
    before = trained.around[0]
    nats = [np.zeros(max(len(ids) - 1, 0), np.float32) for ids in texts]
    windows = [
        (text, *window)
        for text, ids in enumerate(texts)
        for window in cut_windows(len(ids), trained.positions, len(before))
    ]
    windows.sort(key=lambda window: window[1] - window[3])  # the longest first
    done, bar = 0, progress(total=len(windows), description="Scoring", unit=" windows")
    with bar:
        while done < len(windows):
            _, start, _, stop = windows[done]
            n_rows = max(WINDOW_TOKENS_PER_STEP // (stop - start), 1)
            batch = windows[done : done + n_rows]
            rows = [
                [*(before if start else ()), *texts[text][start:stop]]
                for text, start, _, stop in batch
            ]
            found = _read_rows(trained, rows)
            for (text, _, first, stop), row, its in zip(batch, rows, found, strict=True):
                end = len(row) - 1
                nats[text][first - 1 : stop - 1] = its[end - (stop - first) : end]
            done += len(batch)
            bar.update(len(batch))
    return nats


@torch.no_grad()
def _read_rows(trained: CausalModel, rows: list[list[int]]) -> np.ndarray:
    """Negative log-likelihoods [rows, tokens of the longest - 1], behind a row's end any numbers.

    Padding stands behind a row, where no token of it looks.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    step, cache, nats = max(WINDOW_TOKENS_PER_STEP // len(rows), 1), None, []
    for x, y in zip(ids[:, :-1].split(step, 1), ids[:, 1:].split(step, 1), strict=True):
        logits, cache = trained.read(x, cache)
        found = F.cross_entropy(
            logits.flatten(0, 1).float(), y.flatten().to(logits.device), reduction="none"
        )
        nats.append(found.view_as(y).cpu())
    return torch.cat(nats, 1).numpy()


def score_texts(trained: CausalModel, texts: Iterable[str]) -> list[Score]:
    """Score each of some texts alone.

    Args:
        trained: the model.
        texts: as they were typed; may be a stream.

    Returns:
        A score for each; one of no tokens for a text with nothing to predict.
    """
    lengths: list[int] = []
    ids = trained.to_ids(_measured(texts, trained.tokenizer.opencc, lengths))
    if not trained.around[0]:  # a text's own first token is not predicted
        lengths = [
            max(n - len(trained.tokenizer.decode(of_text[:1])), 0)
            for n, of_text in zip(lengths, ids, strict=True)
        ]
    return [
        Score(len(nats), None, float(nats.sum(dtype=np.float64)), n)
        for nats, n in zip(measure_nats(trained, ids), lengths, strict=True)
    ]


def _score_by_transformer(trained: CausalModel, path: Path) -> tuple[Score, int]:
    scores = score_texts(trained, _texts(path))
    tokens = sum(score.tokens for score in scores)
    if not tokens:
        raise _too_short(path, "no text of two tokens")
    if n_empty := sum(not score.tokens for score in scores):
        log.info("%s with fewer than two tokens: nothing to predict.", count_texts(n_empty))
    nats = math.fsum(score.nats for score in scores)
    return Score(tokens, None, nats, sum(score.characters for score in scores)), len(scores)
