"""Texts to files of the ids of subwords."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from data_scripts.files import progress, replacing
from ulmfit_app.config import Direction
from ulmfit_app.errors import count_texts
from ulmfit_app.text.store import TOKENIZER, TokenStore
from ulmfit_app.text.subwords import SubwordTokenizer

AT_A_TIME = 1_024  # texts whose ids are in memory


def write_subwords(
    folder: Path, texts: Iterable[str], n_texts: int, tokenizer: SubwordTokenizer
) -> None:
    """Write the files of a TokenStore. Not cached: the library is as fast as reading them.

    Args:
        folder: of the files, and of the tokenizer's definition.
        texts: as they were typed; may be a stream.
        n_texts: how many they are.
        tokenizer: of a transformer, or one that `unigram` learned.
    """
    lengths, waiting = [0], iter(texts)
    with (
        replacing(folder / "ids.bin") as draft,
        open(draft, "wb") as file,
        progress(total=n_texts, description="Tokenizing", unit=" texts") as bar,
    ):
        while some := list(islice(waiting, AT_A_TIME)):
            found = tokenizer.ids(some)
            for ids in found:
                file.write(ids.tobytes())
            lengths += map(len, found)
            bar.update(len(found))
    with replacing(folder / "offsets.npy") as draft, open(draft, "wb") as file:
        np.save(file, np.cumsum(lengths, dtype=np.int64))
    with replacing(folder / TOKENIZER) as draft:
        draft.write_text(tokenizer.definition, encoding="utf-8")
    with replacing(folder / "vocab.json") as draft:
        draft.write_text(json.dumps(tokenizer.vocab, ensure_ascii=False), encoding="utf-8")


def subwords_in_memory(
    texts: Iterable[str], tokenizer: SubwordTokenizer, direction: Direction = "forward"
) -> TokenStore:
    """Texts as ids of subwords that `unigram` learned, in memory.

    Args:
        texts: as they were typed; may be a stream.
        tokenizer: of them.
        direction: backward for texts from their last token to their first.
    """
    found = tokenizer.ids(texts)
    offsets = np.cumsum([0, *map(len, found)])
    ids = np.concatenate([np.zeros(0, np.int32), *found])
    return TokenStore(ids, offsets, tokenizer.vocab, direction)


def describe_windows(store: TokenStore, window: int) -> str:
    """How many texts are longer than a model reads at once, and their share of the tokens.

    Args:
        store: of subwords, each text with the token that begins it.
        window: tokens that are read at once, that one aside.
    """
    lengths = store.lengths() - 1
    long = lengths > window
    if not long.any():
        return f"All texts have {window} tokens or fewer, which the model reads at once."
    share = lengths[long].sum() / lengths.sum()
    return (
        f"Longer than the {window} tokens that the model reads at once: "
        f"{count_texts(int(long.sum()))} of {len(lengths):,} ({long.mean():.1%}, with {share:.1%} "
        "of the tokens), read in windows of nearly equal length, whose vectors are averaged."
    )
