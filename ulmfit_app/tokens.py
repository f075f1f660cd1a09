"""Text to tokens to ids, and ids to batches.

The tokens are those of fastai's spaCy tokenizer and rules, with three differences. Specials that a user typed, such as
xxpad, are broken up, so that they cannot act as specials. The quadratic all-caps rule is written in a linear form. Words of
more than 250 characters are cut, because spaCy's own cost grows with the square of a word's length.

Ids live in memory-mapped files in a cache whose keys are hashes of everything that goes in: another text, rule, spaCy
version or vocabulary is another key, so that nothing stale can be served.
"""

import hashlib
import html
import json
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_scripts.fetch import cache_folder
from data_scripts.files import progress, replacing
from ulmfit_app.config import TokenSettings
from ulmfit_app.errors import DataError, SettingError

if TYPE_CHECKING:
    import torch


# fastai's names, in fastai's order: their position is their id.
SPECIALS = UNK, PAD, BOS, EOS, FLD, TK_REP, TK_WREP, TK_UP, TK_MAJ = [
    "xxunk",
    "xxpad",
    "xxbos",
    "xxeos",
    "xxfld",
    "xxrep",
    "xxwrep",
    "xxup",
    "xxmaj",
]
FAKE = "xxfake"  # fastai fills the vocabulary with it to a multiple of 8, which tensor cores like
UNK_ID, PAD_ID = SPECIALS.index(UNK), SPECIALS.index(PAD)

# Part of every cache key: raise it with each change to a rule below.
RULES_VERSION = 1
LONGEST_WORD = 250  # characters
FEW_TEXTS = 2_000  # below it, starting worker processes costs more than they save
CHUNK = 256  # texts a worker takes at a time


# ---------------------------------------------------------------------------------------------------------- the rules
_typed_special = re.compile(f"(xx)(?={'|'.join(word[2:] for word in (*SPECIALS, FAKE))})", re.IGNORECASE)
_repeated_character = re.compile(r"(\S)(\1{2,})")
_repeated_word = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
_spaced_out = re.compile(r"([/#\\])")
_spaces = re.compile(" {2,}")
# fastai has [A-Z]+[^a-z\s]*: the same words, but the two overlap, and a failed match is retried at every split between them.
_all_caps = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
_capitalised = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")
_long_word = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")

# What is wrong in many a scraped corpus; fastai's `fix_html`, in its order.
_REPAIRS = [
    ("#39;", "'"), ("amp;", "&"), ("#146;", "'"), ("nbsp;", " "), ("#36;", "$"), ("\\n", "\n"), ("quot;", "'"),
    ("<br />", "\n"), ('\\"', '"'), (" @.@ ", "."), (" @-@ ", "-"), ("...", " …"),
]  # fmt: skip


def repair_html(text: str) -> str:
    """Undo escaped HTML, and break up specials that are part of the text itself.

    >>> repair_html("It#39;s good<br />xxpad")
    "It's good\\nxx pad"
    """
    parts = text.split("<unk>")
    for i, part in enumerate(parts):
        for wrong, right in _REPAIRS:
            part = part.replace(wrong, right)
        # After unescaping, because "xx&#112;ad" is one more way to type a special.
        parts[i] = _typed_special.sub(r"\1 ", html.unescape(part))
    # WikiText marks its unknown words so; they are the one special that a corpus may bring along.
    return UNK.join(parts)


def mark_repeated_characters(text: str) -> str:
    """
    >>> mark_repeated_characters("sooo good")
    's xxrep 3 o  good'
    """
    return _repeated_character.sub(lambda m: f" {TK_REP} {len(m[2]) + 1} {m[1]} ", text)


def mark_repeated_words(text: str) -> str:
    """
    >>> mark_repeated_words("very very very good")
    ' xxwrep 3 very  good'
    """
    return _repeated_word.sub(lambda m: f" {TK_WREP} {len(m[2].split()) + 2} {m[1]} {m[3]}", text)


def _lower_behind(marker: str) -> Callable[[re.Match], str]:
    return lambda m: f"{m[1]}{marker + ' ' if len(m[2]) > 1 else ''}{m[2].lower()}"


def mark_case(text: str) -> str:
    """Lower-case the text, keeping what capitals said in a token before the word.

    >>> mark_case("GREAT Film")
    'xxup great xxmaj film'
    """
    text = _all_caps.sub(_lower_behind(TK_UP), text)
    return _capitalised.sub(_lower_behind(TK_MAJ), text).lower()


def apply_rules(text: str) -> str:
    """What is done to a text before spaCy sees it: fastai's `defaults.text_proc_rules`, in their order.

    >>> apply_rules("A GREAT film!!!")
    'xxbos a xxup great film xxrep 3 !'
    """
    # UTF-8 has no place for a lone surrogate, and hashing and spaCy need UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = mark_repeated_words(mark_repeated_characters(repair_html(text)))
    text = _spaces.sub(" ", _spaced_out.sub(r" \1 ", text))
    text = f"{BOS} {mark_case(text).strip()}"
    return _long_word.sub(r"\1 ", text)


class Tokenizer:
    """A text to the list of its tokens, as fastai 2.8's `WordTokenizer` with its default rules gives them.

    Raises SettingError for a language that spaCy does not have or that needs packages of its own.
    """

    def __init__(self, language: str = "en") -> None:
        import spacy
        from spacy.symbols import ORTH

        try:
            self._split = spacy.blank(language).tokenizer
            # Chinese and a few others have tokenizers of their own kind, without special cases.
            for special in SPECIALS:
                self._split.add_special_case(special, [{ORTH: special}])
        except (ImportError, AttributeError) as error:
            raise SettingError(
                f"spaCy cannot tokenize the language {language!r} here: {error}. "
                "Expected a spaCy language code such as en, de or fr: --tokens.language en"
            ) from None

    def __call__(self, text: str) -> list[str]:
        # The tokenizer is called itself, since spaCy's pipeline refuses texts of more than a million characters.
        return [token.text.replace(" ", "▁") for token in self._split(apply_rules(text))]


# ------------------------------------------------------------------------------------------- texts to files of token ids
@dataclass(frozen=True)
class TokenStore:
    """Token ids of many texts, one behind the other, memory-mapped.

    ids: int32 [n_tokens]; offsets: int64 [n_texts + 1], text i is ids[offsets[i]:offsets[i + 1]];
    words: the word of each id.
    """

    ids: np.ndarray
    offsets: np.ndarray
    words: list[str]

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
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    def lengths(self) -> np.ndarray:
        """Tokens a text, int64 [n_texts]."""
        return np.diff(self.offsets)

    def counts(self, texts: Iterable[int]) -> np.ndarray:
        """How often each id occurs in the given texts, int64 [n_words]."""
        total = np.zeros(len(self.words), np.int64)
        for text in texts:
            # bincount over the whole vocabulary for each text would cost the vocabulary each time.
            ids, n = np.unique(self[text], return_counts=True)
            total[ids] += n
        return total


def sha256_of_strings(strings: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of a sequence of strings that no other sequence shares."""
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        # With its length before each, ["ab", "c"] and ["a", "bc"] differ.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


_tokenizer: Tokenizer


def _start_worker(language: str) -> None:
    global _tokenizer
    _tokenizer = Tokenizer(language)


def _tokenize_chunk(texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Words of a chunk in the order they appear, ids into them, and tokens a text: little to send between processes."""
    words: dict[str, int] = {}
    ids, lengths = [], []
    for text in texts:
        tokens = _tokenizer(text)
        ids += [words.setdefault(token, len(words)) for token in tokens]
        lengths.append(len(tokens))
    return list(words), np.array(ids, np.int32), np.array(lengths, np.int64)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), CHUNK):
        yield list(texts[start : start + CHUNK])


def _tokenize_chunks(texts: Sequence[str], language: str) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Results of `_tokenize_chunk` in order, at most a few chunks ahead of what was taken, so that memory stays flat."""
    if len(texts) < FEW_TEXTS:
        _start_worker(language)
        yield from map(_tokenize_chunk, _chunks(texts))
        return
    workers = os.cpu_count() or 1
    # Forking a process that runs torch's threads can deadlock; a spawned one starts clean.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (language,)) as pool:
        waiting = deque()
        for chunk in _chunks(texts):
            waiting.append(pool.submit(_tokenize_chunk, chunk))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_store(folder: Path, pieces: Iterable[np.ndarray], lengths: list[np.ndarray], words: Iterable[str]) -> None:
    """`pieces` is consumed before `lengths` and `words` are read, so that it may fill them."""
    with replacing(folder) as draft:
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
    import spacy

    key = sha256_of_strings([f"{RULES_VERSION} {spacy.__version__} {language}", *texts])[:32]
    folder = cache_folder() / "tokens" / key
    if not folder.exists():
        words: dict[str, int] = {}
        lengths = []

        def pieces() -> Iterator[np.ndarray]:
            with progress(total=len(texts), description="Tokenizing", unit=" texts") as bar:
                for chunk_words, ids, chunk_lengths in _tokenize_chunks(texts, language):
                    lengths.append(chunk_lengths)
                    here = np.array([words.setdefault(word, len(words)) for word in chunk_words], np.int32)
                    yield here[ids]
                    bar.update(len(chunk_lengths))

        _write_store(folder, pieces(), lengths, words)
    return folder


def make_vocab(store: TokenStore, texts: Iterable[int], settings: TokenSettings) -> list[str]:
    """The vocabulary of some of a store's texts, most frequent first, as fastai's `make_vocab` orders and fills it.

    Raises DataError when the texts have too few tokens for any vocabulary.
    """
    counts = store.counts(texts)
    ranked = np.argsort(-counts, kind="stable")[: settings.max_vocab]
    frequent = [store.words[i] for i in ranked if counts[i] >= max(settings.min_freq, 1)]
    vocab = [*SPECIALS, *(word for word in frequent if word not in SPECIALS)][: settings.max_vocab]
    if len(vocab) == len(SPECIALS):
        raise DataError(
            f"No token occurs {settings.min_freq} times in the training texts ({counts.sum():,} tokens in all): too little "
            "text for a vocabulary. Add texts, or lower the bound: --tokens.min-freq 1"
        )
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


# --------------------------------------------------------------------------------------------------- ids to batches
class _Batches:
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

    def _generator(self) -> np.random.Generator:
        """The same order for the same epoch, whatever ran before: that is what makes a resumed run equal."""
        return np.random.default_rng([self.seed, self.epoch])


class LanguageModelBatches(_Batches):
    """The texts as one stream, read in `batch_size` places at once (Merity et al. 2017).

    Yields (x, y): int64 [batch_size, bptt], y one token later than x; the last batch may be shorter. Each epoch puts
    the texts in another order when `shuffle`. A corpus too short for `batch_size` places is read in fewer.
    Raises DataError when there is no second token to predict.
    """

    def __init__(
        self, store: TokenStore, texts: Sequence[int], batch_size: int, bptt: int, seed: int = 0, shuffle: bool = False
    ) -> None:
        super().__init__(store, texts, batch_size, seed, shuffle)
        # The last token has no successor, so it is only ever a target.
        tokens = int(store.lengths()[self.texts].sum()) - 1
        if tokens < 1:
            raise DataError("The language model needs texts of at least two tokens in training and in validation.")
        self.bptt = bptt
        self.batch_size = max(1, min(batch_size, tokens // bptt))
        self.row = tokens // self.batch_size

    def __len__(self) -> int:
        return -(-self.row // self.bptt)

    def __iter__(self):
        import torch

        texts = self._generator().permutation(self.texts) if self.shuffle else self.texts
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
            rows = [read(r * self.row + left, r * self.row + right + 1) for r in range(self.batch_size)]
            block = torch.from_numpy(np.stack(rows).astype(np.int64))
            yield block[:, :-1], block[:, 1:]


class ClassifierBatches(_Batches):
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
            # Sorting within blocks of 50 batches, as fastai's SortedDL: like lengths together, another mixture each epoch.
            shuffled = self._generator().permutation(len(order))
            block = self.batch_size * 50
            blocks = [shuffled[i : i + block] for i in range(0, len(shuffled), block)]
            order = np.concatenate([b[np.argsort(-self.lengths[b], kind="stable")] for b in blocks])
        cuts = np.arange(1, len(self)) * self.batch_size
        batches = np.split(order, cuts)
        if self.shuffle:
            longest = max(range(len(batches)), key=lambda i: self.lengths[batches[i]].max())
            others = [batches[i] for i in self._generator().permutation(len(batches)) if i != longest]
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
