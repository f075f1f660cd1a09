"""Texts to files of token ids, and ids to batches.

Ids live in memory-mapped files in a cache whose keys are hashes of everything that goes in: another text, rule, spaCy
version or vocabulary is another key, so that nothing stale can be served.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from data_scripts.fetch import cache_folder
from data_scripts.files import progress, replacing, unless_made
from ulmfit_app.config import Direction, TokenSettings
from ulmfit_app.errors import DataError
from ulmfit_app.tokenizer import FAKE, PAD_ID, RULES_VERSION, SPECIALS, UNK_ID, tokenize_chunk, without_torch

# The rooms below ask for it here.

if TYPE_CHECKING:
    import torch

LITTLE_TEXT = 3_000_000  # characters; below it, starting worker processes costs more than they save
CHUNK = 300_000  # characters that a worker takes at a time
COUNTED_AT_A_TIME = 1_000  # texts


# ------------------------------------------------------------------------------------------- texts to files of token ids
@dataclass(frozen=True)
class TokenStore:
    """Token ids of many texts, one behind the other, memory-mapped.

    ids: int32 [n_tokens]; offsets: int64 [n_texts + 1], text i is ids[offsets[i]:offsets[i + 1]];
    words: the word of each id; direction: a backward store gives each text from its last token to its first, xxbos.
    """

    ids: np.ndarray
    offsets: np.ndarray
    words: list[str]
    direction: Direction = "forward"

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Map the files of a folder that `tokenize` or `numericalize` wrote."""
        offsets = np.load(folder / "offsets.npy")
        words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        # np.memmap refuses an empty file.
        ids = np.memmap(folder / "ids.bin", np.int32, "r") if offsets[-1] else np.zeros(0, np.int32)
        return cls(ids, offsets, words)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        ids = self.ids[self.offsets[text] : self.offsets[text + 1]]
        return ids[::-1] if self.direction == "backward" else ids

    def backward(self) -> "TokenStore":
        """The same texts read backward, as fastai's `reverse_text` does; the ids stay where they are."""
        return replace(self, direction="backward")

    def lengths(self) -> np.ndarray:
        """Tokens a text, int64 [n_texts]."""
        return np.diff(self.offsets)

    def counts(self, texts: Iterable[int]) -> np.ndarray:
        """How often each id occurs in the given texts, int64 [n_words]."""
        texts, total = np.asarray(texts, np.int64), np.zeros(len(self.words), np.int64)
        # A count costs the whole vocabulary each time; so it is made of many texts at once, but not of all in memory.
        for some in np.array_split(texts, len(texts) // COUNTED_AT_A_TIME + 1):
            total += np.bincount(np.concatenate([self.ids[:0], *(self[text] for text in some)]), minlength=len(total))
        return total


def sha256_of_strings(strings: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of a sequence of strings that no other sequence shares."""
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        # With its length before each, ["ab", "c"] and ["a", "bc"] differ.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextmanager
def _no_main_module() -> Iterator[None]:
    """A spawned process runs the main module of its parent again, and with it imports all that workers have no use for."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _tokenize_chunks(texts: Iterable[str], language: str) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Results of `tokenize_chunk` in order, at most a few chunks ahead of what was taken, so that memory stays flat."""
    chunks = _chunks(texts)
    first = list(islice(chunks, LITTLE_TEXT // CHUNK))
    if len(first) < LITTLE_TEXT // CHUNK:
        yield from map(partial(tokenize_chunk, language), first)
        return
    workers = os.cpu_count() or 1
    # Forking a process that runs torch's threads can deadlock; a spawned one starts clean.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, without_torch) as pool:
        waiting = deque()
        for chunk in chain(first, chunks):
            with _no_main_module():
                waiting.append(pool.submit(tokenize_chunk, language, chunk))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_store(folder: Path, pieces: Iterable[np.ndarray], lengths: list[np.ndarray], words: Iterable[str]) -> None:
    """`pieces` is consumed before `lengths` and `words` are read, so that it may fill them."""
    with unless_made(folder), replacing(folder) as draft:
        draft.mkdir()
        with open(draft / "ids.bin", "wb") as file:
            for piece in pieces:
                file.write(piece.astype(np.int32).tobytes())
        np.save(draft / "offsets.npy", np.concatenate([[0], *lengths]).cumsum().astype(np.int64))
        (draft / "vocab.json").write_text(json.dumps(list(words), ensure_ascii=False), encoding="utf-8")


def tokenize(texts: Sequence[str], language: str = "en") -> Path:
    """Tokenize texts on all cores into the cache; the folder of a TokenStore whose words stand in order of appearance.

    Served from the cache when the same texts were tokenized by the same rules, language and spaCy version before.
    Raises SettingError for a language spaCy cannot tokenize.
    """
    with progress(texts, total=len(texts), description="Tokenizing", unit=" texts") as bar:
        return tokenize_documents(bar, sha256_of_strings(texts), language)


def tokenize_documents(documents: Iterable[str], sha256: str, language: str = "en") -> Path:
    """`tokenize` for a corpus that need not fit into memory; `sha256` tells it from any other corpus."""
    key = sha256_of_strings([f"{RULES_VERSION} {version('spacy')} {language}", sha256])[:32]
    folder = cache_folder() / "tokens" / key
    if not folder.exists():
        words: dict[str, int] = {}
        lengths = []

        def pieces() -> Iterator[np.ndarray]:
            for chunk_words, ids, chunk_lengths in _tokenize_chunks(documents, language):
                lengths.append(chunk_lengths)
                here = np.array([words.setdefault(word, len(words)) for word in chunk_words], np.int32)
                yield here[ids]

        _write_store(folder, pieces(), lengths, words)
    return folder


def make_vocab(store: TokenStore, texts: Iterable[int], settings: TokenSettings, known: Iterable[str] = ()) -> list[str]:
    """The vocabulary of some of a store's texts, most frequent first, as fastai's `make_vocab` orders and fills it.

    known: words that have an embedding already, most frequent first. They need not occur `min_freq` times to be learned, and
    those that do not occur at all stand behind the others, as far as `max_vocab` reaches: a text that comes later may hold
    them. fastai forgets them.
    Raises DataError when the texts have too few tokens for any vocabulary.
    """
    counts = store.counts(texts)
    ranked = np.argsort(-counts, kind="stable")[: settings.max_vocab]
    known = dict.fromkeys(known)
    frequent = [
        store.words[i] for i in ranked if counts[i] >= max(settings.min_freq, 1) or (counts[i] and store.words[i] in known)
    ]
    found = dict.fromkeys([*SPECIALS, *frequent])
    if len(found) == len(SPECIALS):
        raise DataError(
            f"No token occurs {settings.min_freq} times in the training texts ({counts.sum():,} tokens in all): too little "
            "text for a vocabulary. Add texts, or lower the bound: --tokens.min-freq 1"
        )
    vocab = [word for word in {**found, **known} if word != FAKE][: settings.max_vocab]
    return vocab + [FAKE] * (8 - len(vocab) % 8)


def word_to_id(vocab: list[str]) -> dict[str, int]:
    """The id of each word that a text can hold; every other word has UNK_ID."""
    return {word: i for i, word in enumerate(vocab) if word != FAKE}


def numericalize(store_folder: Path, vocab: list[str]) -> Path:
    """The texts of a tokenized store as ids of `vocab`: the folder of another TokenStore, cached by both."""
    key = sha256_of_strings([store_folder.name, *vocab])[:32]
    folder = cache_folder() / "ids" / key
    if not folder.exists():
        store = TokenStore.open(store_folder)
        ids_of = word_to_id(vocab)
        lookup = np.array([ids_of.get(word, UNK_ID) for word in store.words], np.int32)
        # In pieces: the corpus may be larger than memory.
        pieces = (lookup[store.ids[i : i + (1 << 20)]] for i in range(0, len(store.ids), 1 << 20))
        _write_store(folder, pieces, [store.lengths()], vocab)
    return folder


def in_memory(texts: Iterable[str], language: str, vocab: list[str], direction: Direction = "forward") -> TokenStore:
    """Texts as ids of `vocab` in memory, 4 bytes a token; nothing is cached, and `texts` may be a stream."""
    ids_of = word_to_id(vocab)
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for words, chunk_ids, chunk_lengths in _tokenize_chunks(texts, language):
        ids.append(np.array([ids_of.get(word, UNK_ID) for word in words], np.int32)[chunk_ids])
        lengths.append(chunk_lengths)
    return TokenStore(np.concatenate(ids), np.concatenate(lengths).cumsum(), vocab, direction)


# --------------------------------------------------------------------------------------------------- ids to batches
class Batches:
    """What fastai's Learner asks of a loader, plus a place to go on from: `epoch` and `start` (batches to leave out)."""

    def __init__(self, store: TokenStore, texts: Sequence[int], batch_size: int, seed: int, shuffle: bool) -> None:
        self.store, self.texts = store, np.asarray(texts, np.int64)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.epoch = self.start = 0

    @property
    def vocab(self) -> list[str]:
        return self.store.words

    @property
    def device(self) -> "torch.device":
        from fastai.torch_core import default_device

        return default_device()

    def _generator(self, epoch: int) -> np.random.Generator:
        """The same order for the same epoch, whatever ran before: that is what makes a resumed run equal."""
        return np.random.default_rng([self.seed, epoch])


class LanguageModelBatches(Batches):
    """The texts as one stream, read in `batch_size` places at once (Merity et al. 2017).

    Yields (x, y): int64 [batch_size, bptt], y one token later than x; the last batch may be shorter. Each time that the
    texts have been read, they come in another order when `shuffle`. A corpus too short for `batch_size` places is read in
    fewer. tokens_an_epoch: an epoch is so many tokens of the stream, the next one goes on behind them; None: all of it.
    Raises DataError when there is no second token to predict.
    """

    def __init__(
        self,
        store: TokenStore,
        texts: Sequence[int],
        batch_size: int,
        bptt: int,
        seed: int = 0,
        shuffle: bool = False,
        tokens_an_epoch: int | None = None,
    ) -> None:
        super().__init__(store, texts, batch_size, seed, shuffle)
        # The last token has no successor, so it is only ever a target.
        tokens = int(store.lengths()[self.texts].sum()) - 1
        if tokens < 1:
            raise DataError("The language model needs texts of at least two tokens in training and in validation.")
        self.bptt = bptt
        self.parts = max(1, tokens // (tokens_an_epoch or tokens))
        tokens //= self.parts
        self.batch_size = max(1, min(batch_size, tokens // bptt))
        self.row = tokens // self.batch_size

    def __len__(self) -> int:
        return -(-self.row // self.bptt)

    def __iter__(self):
        import torch

        times_read, part = divmod(self.epoch, self.parts)
        texts = self._generator(times_read).permutation(self.texts) if self.shuffle else self.texts
        begin = part * self.row * self.batch_size
        ends = self.store.lengths()[texts].cumsum()

        def read(start: int, stop: int) -> np.ndarray:
            """Tokens start to stop of the stream."""
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            tokens = np.concatenate([self.store[t] for t in texts[first : last + 1]])
            skipped = start - (ends[first - 1] if first else 0)
            return tokens[skipped : skipped + stop - start]

        for batch in range(self.start, len(self)):
            left = batch * self.bptt
            right = min(left + self.bptt, self.row)
            places = range(begin, begin + self.row * self.batch_size, self.row)
            rows = [read(place + left, place + right + 1) for place in places]
            block = torch.from_numpy(np.stack(rows).astype(np.int64))
            yield block[:, :-1], block[:, 1:]


class ClassifierBatches(Batches):
    """Texts of like length together, padded on the right.

    Yields (x, y): int64 [n, longest] padded with PAD_ID, and int64 [n]; without labels, (x,). When `shuffle`, batches and
    what is in them change each epoch, and the longest comes first, so that a batch too large for memory fails at once;
    otherwise the longest texts come first, and `order` says which text a row is.
    """

    def __init__(
        self,
        store: TokenStore,
        texts: Sequence[int],
        labels: Sequence[int] | None,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        super().__init__(store, texts, batch_size, seed, shuffle)
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        self.lengths = store.lengths()[self.texts]

    def __len__(self) -> int:
        whole, rest = divmod(len(self.texts), self.batch_size)
        # Batch normalisation cannot train on a single row: it joins the batch before.
        return max(whole + (rest > (1 if self.shuffle and whole else 0)), 1)

    @property
    def order(self) -> np.ndarray:
        """Positions in `texts`, in the order in which rows come when not shuffled."""
        return np.argsort(-self.lengths, kind="stable")

    def _batches(self) -> list[np.ndarray]:
        order = self.order
        if self.shuffle:
            # Sorted by lengths that are off by up to 2 %: little padding, and another mixture each epoch. fastai sorts
            # within blocks of 50 batches, which pads twice as much.
            jitter = self._generator(self.epoch).uniform(0.98, 1.02, len(self.lengths))
            order = np.argsort(-self.lengths * jitter, kind="stable")
        cuts = np.arange(1, len(self)) * self.batch_size
        batches = np.split(order, cuts)
        if self.shuffle:
            longest = max(range(len(batches)), key=lambda i: self.lengths[batches[i]].max())
            others = [batches[i] for i in self._generator(self.epoch).permutation(len(batches)) if i != longest]
            batches = [batches[longest], *others]
        return batches

    def __iter__(self):
        import torch

        for rows in self._batches()[self.start :]:
            x = np.full((len(rows), self.lengths[rows].max()), PAD_ID, np.int64)
            for i, row in enumerate(rows):
                x[i, : self.lengths[row]] = self.store[self.texts[row]]
            batch = (torch.from_numpy(x),)
            yield batch if self.labels is None else (*batch, torch.from_numpy(self.labels[rows]))
