"""How well a language model predicts a text or a corpus."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_scripts.files import progress
from ulmfit_app.errors import DataError
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import in_memory

ROWS = 32  # places of a corpus that are read side by side
ROW = 2_000  # tokens at least, for each row begins as if nothing stood before it
TOKENS_PER_STEP = 2_304  # of all rows together


@dataclass(frozen=True)
class Score:
    """How well a text was predicted.

    Args:
        tokens: predicted ones, marks of capitals and of a text's beginning included.
        unknown: how many of them are xxunk, which a model with a small vocabulary predicts easily;
            so only scores with like shares of them compare.
        nats: negative log-likelihood of all tokens together.
    """

    tokens: int
    unknown: int
    nats: float

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the power of the nats per token."""
        return math.exp(self.nats_per_token)

    @property
    def unknown_share(self) -> float:
        """Of the predicted tokens."""
        return self.unknown / self.tokens


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


def score_file(trained: TrainedModel, path: Path) -> tuple[Score, int]:
    """Score a .txt as one text, or a corpus that `read_documents` reads as one stream.

    Returns:
        The score, and the number of documents.

    Raises:
        DataError: too little text, or another encoding than UTF-8.
        data_scripts.documents.DocumentError: as `read_documents` does.
    """
    bundle = trained.bundle
    store = in_memory(_texts(path), bundle.language, bundle.vocab, bundle.direction)
    return measure_perplexity(trained.model, _batches(store, path)), len(store)


def _batches(store: TokenStore, path: Path) -> Iterable[tuple[Tensor, Tensor]]:
    tokens = len(store.ids)
    if tokens < 2:
        raise DataError(
            f"{path} has {tokens} tokens, the mark of a text's beginning included. A perplexity "
            "needs at least two, since each token is predicted from those before it. Give a file "
            "with text."
        )
    rows = min(max(tokens // ROW, 1), ROWS)
    batches = LanguageModelBatches(store, np.arange(len(store)), rows, TOKENS_PER_STEP // rows)
    return progress(batches, total=len(batches), description="Scoring", unit=" batches")
