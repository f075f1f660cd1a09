"""A corpus of general text as tokens, with whole documents held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_scripts.documents import RULES_VERSION, read_documents
from ulmfit_app.config import Direction, Settings
from ulmfit_app.errors import DataError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.languages import has_subwords
from ulmfit_app.models.start import Start
from ulmfit_app.text.chinese import converter
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TOKENIZER, TokenStore
from ulmfit_app.text.subword_store import write_subwords
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizing import cached_store, numericalize, tokenize_documents
from ulmfit_app.text.unigram import BEGIN, choose_texts, learn_subwords
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
        held_out_characters: of the held-out documents, as they are read; 0 where tokens are words.
        tokenizer: where tokens are subwords: the text of their tokenizer.json.
    """

    store: TokenStore
    train: np.ndarray
    valid: np.ndarray
    train_tokens: int
    unknown_share: float = 0.0
    held_out_characters: int = 0
    tokenizer: str = ""

    def describe(self) -> str:
        """Its sizes, in a sentence."""
        held_out = self.store.lengths()[self.valid].sum()
        sizes = (
            f"Corpus: {self.train_tokens:,} tokens to learn from, {held_out:,} held out "
            f"({len(self.valid):,} documents); a vocabulary of {len(self.store.words):,} "
        )
        if self.tokenizer:
            each = self.held_out_characters / held_out
            return f"{sizes}subwords, {each:.2f} characters per token."
        return (
            f"{sizes}words, {100 * self.unknown_share:.1f} % of the held-out tokens are unknown."
        )


def read_corpus(
    path: Path, sha256: str, settings: Settings, direction: Direction, start: Start
) -> TokenizedCorpus:
    """Tokenize a corpus into the cache, and hold whole documents out, by `settings.seed`.

    Tokens are words, or subwords where the start has them or the language writes no spaces.

    Args:
        path: as `read_documents` takes it.
        sha256: of the corpus.
        settings: of tokens and batches.
        direction: in which it is to be read.
        start: its words or its subwords; random weights have none.

    Raises:
        DataError: there is too little text.
        SettingError: a package of an extra is not installed.
    """
    identity = f"{RULES_VERSION} {sha256}"
    if start.tokenizer or has_subwords(settings.tokens.language):
        corpus = _in_subwords(path, identity, settings, start)
    else:
        corpus = _in_words(path, identity, settings, start.vocab or ())
    if direction == "forward":
        return corpus
    return replace(corpus, store=corpus.store.backward())


def _in_words(
    path: Path, identity: str, settings: Settings, known: Sequence[str]
) -> TokenizedCorpus:
    tokenized = tokenize_documents(read_documents(path), identity, settings.tokens.language)
    store = TokenStore.open(tokenized)
    valid, train = _hold_out(store.lengths(), settings.seed, HELD_OUT)
    left = _require_enough(path, store.lengths(), train, settings)
    vocab = make_vocab(store, train, settings.tokens, known)
    store = TokenStore.open(numericalize(tokenized, vocab))
    unknown = store.counts(valid)[UNK_ID] / store.lengths()[valid].sum()
    return TokenizedCorpus(store, train, valid, left, float(unknown))


def _in_subwords(path: Path, identity: str, settings: Settings, start: Start) -> TokenizedCorpus:
    convert = converter(settings.tokens.opencc)
    # Characters are all that is known before there are tokens.
    sizes = np.array([len(convert(text)) for text in read_documents(path)])
    valid, train = _hold_out(sizes, settings.seed, HELD_OUT)
    key = [identity, repr(settings.tokens), start.tokenizer or str(settings.seed)]
    folder = cached_store("subwords", sha256_of_strings(key)[:32])
    if not folder.exists():
        definition = start.tokenizer
        if not definition:
            chosen = np.zeros(len(sizes), bool)
            chosen[train] = choose_texts(sizes[train], settings.seed)
            texts = map(convert, _chosen(path, chosen))
            definition = learn_subwords(texts, settings.tokens.max_vocab, settings.tokens.language)
        tokenizer = SubwordTokenizer(definition, BEGIN, settings.tokens.opencc or "")
        write_subwords(folder, read_documents(path, again=True), len(sizes), tokenizer)
    store = TokenStore.open(folder)
    left = _require_enough(path, store.lengths(), train, settings)
    definition = (folder / TOKENIZER).read_text(encoding="utf-8")
    characters = int(sizes[valid].sum())
    return TokenizedCorpus(
        store, train, valid, left, held_out_characters=characters, tokenizer=definition
    )


def _chosen(path: Path, chosen: np.ndarray) -> Iterator[str]:
    for text, is_chosen in zip(read_documents(path, again=True), chosen, strict=True):
        if is_chosen:
            yield text


def _hold_out(sizes: np.ndarray, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Which documents are held out, about so much of them, and which are learned from."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    upto = sizes[order].cumsum()
    found = int(upto[-1]) if len(upto) else 0
    n_valid = int(np.searchsorted(upto, min(most, found // 20))) + 1
    return np.sort(order[:n_valid]), np.sort(order[n_valid:])


def _require_enough(path: Path, lengths: np.ndarray, train: np.ndarray, settings: Settings) -> int:
    """Tokens to learn from; raises DataError where they are too few."""
    found, left, needed = (
        int(lengths.sum()),
        int(lengths[train].sum()),
        count_fewest_tokens(settings),
    )
    if left < needed:
        raise DataError(
            f"{path} is too small to learn a language from: {found:,} tokens in {len(lengths):,} "
            f"documents, {left:,} without the held-out ones. Needed are {needed:,} "
            f"({FEWEST_STEPS} steps of {settings.lm.batch_size} x {settings.lm.bptt}). Give more "
            "text, in more documents, or try with a smaller --lm.batch-size"
        )
    return left


def count_fewest_tokens(settings: Settings) -> int:
    """Tokens below which there is nothing to learn a language from."""
    return FEWEST_STEPS * settings.lm.batch_size * settings.lm.bptt
