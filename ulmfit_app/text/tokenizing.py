"""Texts to files of token ids.

Ids live in memory-mapped files in a cache whose keys are hashes of everything that goes in:
another text, rule, spaCy version or vocabulary is another key, so that nothing stale can be
served. fastai's `tokenize_folder` serves what it once wrote, however the texts change
(test_plain_fastai_serves_the_tokens_of_texts_that_have_changed).
"""

import json
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType

import numpy as np

from data_scripts.fetch import cache_folder
from data_scripts.files import progress, replacing, unless_made
from ulmfit_app.config import Direction
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.jobs import in_order, slots_of, without_interrupts
from ulmfit_app.text.rules import RULES_VERSION, UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import start_worker, tokenize_chunk
from ulmfit_app.text.vocabulary import word_to_id

log = logging.getLogger(__name__)

# Characters; below it, starting worker processes costs more than they save.
LITTLE_TEXT = 3_000_000
CHUNK = 300_000  # characters that a worker takes at a time


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
    """Hide the main module from processes that start meanwhile.

    A spawned one runs its parent's again, and with it imports all that workers have no use for.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _tokenize_chunks(
    texts: Iterable[str], language: str, executor: Executor | None = None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Results of `tokenize_chunk` in order.

    They are at most a few chunks ahead of what was taken, so that memory stays flat.
    """
    chunks = _chunks(texts)
    if executor is not None:
        yield from _in_order(partial(executor.submit, tokenize_chunk, language), chunks, executor)
        return
    first = list(islice(chunks, LITTLE_TEXT // CHUNK))
    if len(first) < LITTLE_TEXT // CHUNK:
        yield from map(partial(tokenize_chunk, language), first)
        return
    # Forking a process that runs torch's threads can deadlock; a spawned one starts clean.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, context, start_worker) as pool:

        def submit(chunk: list[str]) -> Future:
            with _no_main_module(), without_interrupts():
                return pool.submit(tokenize_chunk, language, chunk)

        yield from _in_order(submit, chain(first, chunks), pool)


def _in_order(
    submit: Callable[[list[str]], Future], chunks: Iterable[list[str]], executor: Executor
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    return in_order(submit, chunks, lambda: 3 * slots_of(executor), "some texts")


def cached_store(kind: str, key: str) -> Path:
    """The folder of a store in the cache, or in a temporary one where it cannot be written."""
    found = cache_folder() / kind / key
    try:
        if found.exists():
            return found
        found.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found.parent):
            return found
    except OSError as error:
        instead = _instead_of(cache_folder(), error.strerror)
        return Path(instead.name) / kind / key


@cache  # once per process
def _instead_of(folder: Path, why: str) -> tempfile.TemporaryDirectory:
    """Its folder is removed when the process ends."""
    log.info(
        "The cache %s cannot be written (%s): tokens are not kept for the next command. To keep "
        "them in another place: export XDG_CACHE_HOME=FOLDER",
        *(folder, why),
    )
    return tempfile.TemporaryDirectory(prefix="ulmfit-app-", ignore_cleanup_errors=True)


def _write_store(
    folder: Path, pieces: Iterable[np.ndarray], lengths: list[np.ndarray], words: Iterable[str]
) -> None:
    """`pieces` is consumed before `lengths` and `words` are read, so that it may fill them."""
    with unless_made(folder), replacing(folder) as draft:
        draft.mkdir()
        with open(draft / "ids.bin", "wb") as file:
            for piece in pieces:
                file.write(piece.astype(np.int32).tobytes())
        np.save(draft / "offsets.npy", np.concatenate([[0], *lengths]).cumsum().astype(np.int64))
        (draft / "vocab.json").write_text(
            json.dumps(list(words), ensure_ascii=False), encoding="utf-8"
        )


def tokenize(texts: Sequence[str], language: str = "en", executor: Executor | None = None) -> Path:
    """Tokenize texts on all cores into the cache.

    Served from it when the same texts were tokenized by the same rules, language and spaCy version
    before.

    Args:
        texts: as they were typed.
        language: spaCy's code of it.
        executor: does the work, whatever its number of texts; None: processes of this machine,
            where they are worth their start.

    Returns:
        The folder of a TokenStore whose words stand in order of appearance.

    Raises:
        SettingError: spaCy cannot tokenize the language.
    """
    with progress(texts, total=len(texts), description="Tokenizing", unit=" texts") as bar:
        return tokenize_documents(bar, sha256_of_strings(texts), language, executor)


def tokenize_documents(
    documents: Iterable[str], sha256: str, language: str = "en", executor: Executor | None = None
) -> Path:
    """`tokenize` for a corpus that need not fit into memory.

    Args:
        documents: read once, and not at all where the cache has them.
        sha256: tells the corpus from any other.
        language: spaCy's code of it.
        executor: as in `tokenize`.

    Returns:
        The folder of a TokenStore whose words stand in order of appearance.

    Raises:
        SettingError: spaCy cannot tokenize the language.
    """
    key = sha256_of_strings([f"{RULES_VERSION} {version('spacy')} {language}", sha256])[:32]
    folder = cached_store("tokens", key)
    if not folder.exists():
        words: dict[str, int] = {}
        lengths = []

        def pieces() -> Iterator[np.ndarray]:
            for chunk_words, ids, chunk_lengths in _tokenize_chunks(documents, language, executor):
                lengths.append(chunk_lengths)
                here = np.array(
                    [words.setdefault(word, len(words)) for word in chunk_words], np.int32
                )
                yield here[ids]

        _write_store(folder, pieces(), lengths, words)
    return folder


def numericalize(store_folder: Path, vocab: list[str]) -> Path:
    """The texts of a tokenized store as ids of a vocabulary, cached by both.

    Args:
        store_folder: what `tokenize` gave.
        vocab: the word of each id; all others become UNK_ID.

    Returns:
        The folder of another TokenStore.
    """
    key = sha256_of_strings([store_folder.name, *vocab])[:32]
    folder = cached_store("ids", key)
    if not folder.exists():
        store = TokenStore.open(store_folder)
        ids_of = word_to_id(vocab)
        lookup = np.array([ids_of.get(word, UNK_ID) for word in store.words], np.int32)
        # In pieces: the corpus may be larger than memory.
        pieces = (lookup[store.ids[i : i + (1 << 20)]] for i in range(0, len(store.ids), 1 << 20))
        _write_store(folder, pieces, [store.lengths()], vocab)
    return folder


def in_memory(
    texts: Iterable[str], language: str, vocab: list[str], direction: Direction = "forward"
) -> TokenStore:
    """Texts as ids of a vocabulary, in memory: 4 bytes per token; nothing is cached.

    Args:
        texts: as they were typed; may be a stream.
        language: spaCy's code of it.
        vocab: the word of each id; all others become UNK_ID.
        direction: backward for texts from their last token to their first.

    Returns:
        The texts in their order.

    Raises:
        SettingError: spaCy cannot tokenize the language.
    """
    ids_of = word_to_id(vocab)
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for words, chunk_ids, chunk_lengths in _tokenize_chunks(texts, language):
        ids.append(np.array([ids_of.get(word, UNK_ID) for word in words], np.int32)[chunk_ids])
        lengths.append(chunk_lengths)
    return TokenStore(np.concatenate(ids), np.concatenate(lengths).cumsum(), vocab, direction)
