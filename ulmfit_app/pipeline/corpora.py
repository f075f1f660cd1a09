"""A corpus of general text as tokens, with whole documents held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_scripts.documents import RULES_VERSION, read_documents
from ulmfit_app.config import Direction, Settings
from ulmfit_app.errors import DataError
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import numericalize, tokenize_documents
from ulmfit_app.text.vocabulary import make_vocab

HELD_OUT = 100_000  # tokens of whole documents, or a twentieth of a small corpus
FEWEST_STEPS = 10  # in a corpus; below it there is nothing to learn a language from


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as token ids.

    Args:
        store: of its documents, in the direction that the model reads.
        train, valid: which documents are learned from, and which are held out.
        train_tokens: to learn from.
        unknown_share: of the held-out tokens.
    """

    store: TokenStore
    train: np.ndarray
    valid: np.ndarray
    train_tokens: int
    unknown_share: float

    def describe(self) -> str:
        """Its sizes, in a sentence."""
        held_out = self.store.lengths()[self.valid].sum()
        return (
            f"Corpus: {self.train_tokens:,} tokens to learn from, {held_out:,} held out "
            f"({len(self.valid):,} documents); a vocabulary of {len(self.store.words):,} words, "
            f"{100 * self.unknown_share:.1f} % of the held-out tokens are unknown."
        )


def read_corpus(
    path: Path,
    sha256: str,
    settings: Settings,
    direction: Direction = "forward",
    known: Sequence[str] = (),
) -> TokenizedCorpus:
    """Tokenize a corpus into the cache, and hold whole documents out, by `settings.seed`.

    Args:
        path: as `read_documents` takes it.
        sha256: of the corpus.
        settings: of tokens and batches.
        direction: in which it is to be read.
        known: words that the weights to start from have an embedding of.

    Raises:
        DataError: there is too little text.
    """
    identity = f"{RULES_VERSION} {sha256}"
    tokenized = tokenize_documents(read_documents(path), identity, settings.tokens.language)
    store = TokenStore.open(tokenized)
    order = np.random.default_rng(settings.seed).permutation(len(store))
    upto = store.lengths()[order].cumsum()
    needed = count_fewest_tokens(settings)
    found = int(upto[-1]) if len(upto) else 0
    n_valid = int(np.searchsorted(upto, min(HELD_OUT, found // 20))) + 1
    left = found - int(upto[min(n_valid, len(upto)) - 1]) if found else 0
    if left < needed:
        raise DataError(
            f"{path} is too small to learn a language from: {found:,} tokens in {len(store):,} "
            f"documents, {left:,} without the held-out ones. Needed are {needed:,} "
            f"({FEWEST_STEPS} steps of {settings.lm.batch_size} x {settings.lm.bptt}). Give more "
            "text, in more documents, or try with a smaller --lm.batch-size"
        )
    valid, train_documents = np.sort(order[:n_valid]), np.sort(order[n_valid:])
    vocab = make_vocab(store, train_documents, settings.tokens, known)
    store = TokenStore.open(numericalize(tokenized, vocab))
    unknown = store.counts(valid)[UNK_ID] / store.lengths()[valid].sum()
    store = store.backward() if direction == "backward" else store
    return TokenizedCorpus(store, train_documents, valid, left, float(unknown))


def count_fewest_tokens(settings: Settings) -> int:
    """Tokens below which there is nothing to learn a language from."""
    return FEWEST_STEPS * settings.lm.batch_size * settings.lm.bptt
