"""The vocabulary: which words have an id of their own."""

from collections.abc import Iterable

import numpy as np

from ulmfit_app.config import TokenSettings
from ulmfit_app.errors import DataError
from ulmfit_app.languages import WITHOUT_SPACES
from ulmfit_app.text.rules import FAKE, SPECIALS
from ulmfit_app.text.scripts import language_without_spaces
from ulmfit_app.text.store import TokenStore


def make_vocab(
    store: TokenStore, texts: Iterable[int], settings: TokenSettings, known: Iterable[str] = ()
) -> list[str]:
    """The vocabulary of some of a store's texts, most frequent first.

    Ordered and filled as by fastai's `make_vocab`. Ours, because fastai's forgets the words that
    the pretrained model knows and the texts lack or hold too rarely: a later text's are read as
    unknown (test_known_words_that_the_texts_lack_stand_behind_theirs_as_far_as_there_is_room).

    Args:
        store: tokenized texts.
        texts: which of them, by number.
        settings: the least frequency and the largest size.
        known: words that have an embedding already, most frequent first. They need not occur
            `min_freq` times, and those that do not occur at all stand behind the others, as far as
            `max_vocab` reaches.

    Returns:
        The word of each id, filled with FAKE to a multiple of 8.

    Raises:
        DataError: the texts have too few tokens for any vocabulary.
    """
    counts = store.counts(texts)
    ranked = np.argsort(-counts, kind="stable")[: settings.max_vocab]
    known = dict.fromkeys(known)
    frequent = [
        store.words[i]
        for i in ranked
        if counts[i] >= max(settings.min_freq, 1) or (counts[i] and store.words[i] in known)
    ]
    found = dict.fromkeys([*SPECIALS, *frequent])
    if len(found) == len(SPECIALS):
        advice = "Add texts, or lower the bound: --tokens.min-freq 1"
        language = language_without_spaces("".join(store.words[i] for i in ranked if counts[i]))
        if language and settings.language not in WITHOUT_SPACES:
            advice = (
                "They have no spaces between words, so that each sentence became one token. Add "
                f"their language: --tokens.language {language}"
            )
        raise DataError(
            f"No token occurs {settings.min_freq} times in the training texts "
            f"({counts.sum():,} tokens in all): too little text for a vocabulary. {advice}"
        )
    vocab = [word for word in {**found, **known} if word != FAKE][: settings.max_vocab]
    return vocab + [FAKE] * (8 - len(vocab) % 8)


def word_to_id(vocab: list[str]) -> dict[str, int]:
    """The id of each word that a text can hold; every other word has UNK_ID."""
    return {word: i for i, word in enumerate(vocab) if word != FAKE}
