"""A text to its tokens, which are words.

They are those of fastai's spaCy tokenizer and rules, with three differences. Specials that a user
typed, such as xxpad, are broken up, so that they cannot act as specials. The quadratic all-caps
rule is written in a linear form. Words of more than 250 characters are cut, because spaCy's own
cost grows with the square of a word's length.

Nearly all tokens depend on nothing beyond the whitespace around them. So the words between are
tokenized once and remembered, and only where something reaches further does spaCy see them
together.
"""

import gc
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.errors import SettingError
from ulmfit_app.languages import has_subwords
from ulmfit_app.text.known_words import KnownWords
from ulmfit_app.text.rules import (
    BOS,
    SPECIALS,
    cut_long_words,
    mark_case,
    mark_text,
    token_texts,
)
from ulmfit_app.text.tracing import Span, Traced

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer as SpacyTokenizer

# These bound what a process keeps of the words it saw: some 80 MB of our own, and 100 MB of
# spaCy's.
REMEMBERED = 1 << 18
KNOWN_TO_SPACY = 1 << 18
LONGEST_REMEMBERED = 100  # characters; lower-casing at most doubles them: no such word is cut

# Whitespace that is a word to spaCy where no space follows another: other than a space, with all
# that follows.
_whitespace = re.compile(r"([^\S ]\s*)")


def _split_at_whitespace(text: str) -> list[str]:
    """The words of a text as spaCy finds them, xxbos before them."""
    words = [BOS]
    for i, part in enumerate(_whitespace.split(text)):
        words += (part,) if i % 2 else part.split()
    return words


def _copy(split: "SpacyTokenizer", rules: dict, unless: Callable[[str], bool]) -> "SpacyTokenizer":
    """A spaCy tokenizer that searches no text for affixes of which `unless` is true."""

    def search_less(search: Callable | None, nothing: tuple | None = None) -> Callable | None:
        return search and (lambda text: nothing if unless(text) else search(text))

    return type(split)(
        split.vocab,
        rules,
        search_less(split.prefix_search),
        search_less(split.suffix_search),
        search_less(split.infix_finditer, ()),
        split.token_match,
        search_less(split.url_match),
    )


def _not_joining(split: "SpacyTokenizer") -> "SpacyTokenizer":
    """A copy of a spaCy tokenizer without its last pass.

    That pass joins tokens to special cases, such as : and ) to :).
    """
    loading = True
    # spaCy gives the last pass only special cases with a space, or with something to split off
    # when they are loaded.
    rules = {case: rule for case, rule in split.rules.items() if " " not in case}
    bare = _copy(split, rules, lambda text: loading)
    loading = False
    return bare


def _split_each(split: "SpacyTokenizer", words: list[str]) -> Iterator[tuple[str, ...]]:
    """The tokens of each word, none of which is whitespace."""
    # Together they take spaCy two thirds of the time, and nothing reaches over the end of a line.
    tokens = iter(token_texts(split(mark_case("\n".join(words)))))
    return (tuple(iter(tokens.__next__, "\n")) for _ in words)


def _tokens_among(words: list[str], i: int, split: "SpacyTokenizer", reach: int) -> list[str]:
    """Tokens of a word between those beside it, as far as those of a special case reach."""
    if words[i].isspace():
        return token_texts(split(words[i]))
    first = max(i - reach, 0)
    marked = [cut_long_words(mark_case(word)) for word in words[first : i + reach + 1]]
    start = sum(len(word) + 1 for word in marked[: i - first])
    stop = start + len(marked[i - first])
    return token_texts(token for token in split(" ".join(marked)) if start <= token.idx < stop)


class Tokenizer:
    """A text to the list of its tokens, as fastai 2.8's `WordTokenizer` with its rules gives them.

    Ours, because fastai's takes a typed xxpad for padding, needs a minute for 64 kB of ABAB…a,
    fails on a text of over a million characters, does not say where a token came from, and takes
    five times as long (tests/bench/compare.py, "tokens"). tests/test_tokenizer.py shows each on
    plain fastai:
    test_plain_fastai_takes_a_typed_special_for_one, test_plain_fastais_all_caps_rule_is_quadratic,
    test_a_text_of_over_a_million_characters_is_tokenized.
    """

    def __init__(self, language: str = "en") -> None:
        """Load spaCy's tokenizer of a language.

        Args:
            language: spaCy's code of it, as en.

        Raises:
            SettingError: spaCy does not have it, or it needs a package that is not installed; or
                its texts are read in subwords, by `text.subwords`.
        """
        self._language = language
        self._lock = threading.RLock()
        self._load()

    def _load(self) -> None:
        from spacy.symbols import ORTH

        # Complete before it is used: another thread may tokenize meanwhile.
        split = _load_spacy(self._language)
        # Searching takes most of spaCy's time, and no language has an affix or an address of
        # lower-case letters alone (test_spacy_splits_no_language_at_lower_case_letters_alone).
        split = _copy(split, split.rules, str.isalpha)
        self._first_tokens_of_cases = {rule[0][ORTH] for rule in split.rules.values()}
        for special in SPECIALS:
            split.add_special_case(special, [{ORTH: special}])
        # spaCy works out what it can say of each new word, such as its shape, which takes longer
        # than finding the word.
        split.vocab.lex_attr_getters = {}
        # Special cases of several words, such as the Russian в н.в.
        self._phrases = [case for case in split.rules if len(case.split()) > 1]
        self._longest_case = max(map(len, split.rules))
        self._known = KnownWords(LONGEST_REMEMBERED)
        self._split_only = _not_joining(split)
        self._split = split

    def __call__(self, text: str) -> list[str]:
        return self.each([text])[0]

    def each(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each of some texts, xxbos first; faster than one text after the other."""
        known, numbers, others = self._read(texts)
        tokens = known.tokens
        return [
            others.get(i) or list(itertools.chain.from_iterable(map(tokens.__getitem__, words)))
            for i, words in enumerate(numbers)
        ]

    def ids(self, texts: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The tokens of many texts, as `tokenize_chunk` gives them; faster than `each`."""
        known, numbers, others = self._read(texts)
        with self._lock:
            return known.ids(numbers, others)

    def spans(self, text: str) -> list[Span]:
        """The tokens of a text, and where in it each came from; far slower than the tokens alone.

        xxbos and what marks the word behind it, as xxmaj, came from no characters: start equals
        stop. Tokens that stand for the same characters, as xxrep 3 o, share them. A rule can drop
        characters, which then are no token's.

        Args:
            text: as it was typed.

        Returns:
            The same tokens as for a call, starts and stops never falling.
        """
        traced = cut_long_words(mark_case(mark_text(Traced(text))))
        tokens = self._split(str(traced))
        found = [Span(BOS, 0, 0)]
        for token, its_text in zip(tokens, token_texts(tokens), strict=True):
            start, stop = traced.span(token.idx, token.idx + len(token))
            # What a rule replaced can begin or end with the space beside a word.
            blanks = text[start:stop]
            if blanks.strip():
                start += len(blanks) - len(blanks.lstrip())
                stop -= len(blanks) - len(blanks.rstrip())
            found.append(Span(its_text, start, stop))
        return found

    def known_words(self) -> int:
        """How many different words spaCy holds in memory."""
        return len(self._split.vocab)

    def _read(
        self, texts: Sequence[str]
    ) -> tuple[KnownWords, list[list[int]], dict[int, list[str]]]:
        """The numbers of each text's words; and the tokens of texts that are not those of these
        words."""
        texts = [mark_text(text) for text in texts]
        with self._lock:
            if self.known_words() > KNOWN_TO_SPACY:
                # spaCy forgets no word, so its memory would grow with what is read.
                self._load()
                gc.collect()
            if len(self._known) > REMEMBERED:
                self._known = KnownWords(LONGEST_REMEMBERED)
            # By a name of its own, for another thread may start anew.
            known = self._known
            numbers = [list(map(known.__getitem__, _split_at_whitespace(text))) for text in texts]
            known.learn(self._learn(known.unlearned()))
        others = {
            i: self._join(text, numbers[i], known)
            for i, text in enumerate(texts)
            if not known.unsure.isdisjoint(numbers[i]) or self._has_phrase(text)
        }
        return known, numbers, others

    def _learn(self, words: list[str]) -> list[tuple[str, ...] | None]:
        """The tokens that a word is in any text; None where they depend on the words beside it."""
        found = {word: tuple(token_texts(self._split(word))) for word in words if word.isspace()}
        others = [word for word in words if word not in found]
        found |= zip(others, _split_each(self._split, others), strict=True)
        # The words beside it can keep spaCy from joining: "fun:)" ends in :) but "fun:) )" in
        # three tokens.
        cases = self._first_tokens_of_cases
        joined = [word for word in others if not cases.isdisjoint(found[word])]
        for word, apart in zip(joined, _split_each(self._split_only, joined), strict=True):
            if apart != found[word]:
                found[word] = None
        return [found[word] for word in words]

    def _join(self, text: str, numbers: list[int], known: KnownWords) -> list[str]:
        """The tokens of a text of which some words depend on those beside them."""
        unsure = [i for i, number in enumerate(numbers) if number in known.unsure]
        if self._has_phrase(text) or len(unsure) * self._longest_case > len(numbers):
            return [BOS, *token_texts(self._split(cut_long_words(mark_case(text))))]
        words, found = _split_at_whitespace(text), [known.tokens[number] for number in numbers]
        for i in unsure:
            found[i] = _tokens_among(words, i, self._split, self._longest_case)
        return list(itertools.chain.from_iterable(found))

    def _has_phrase(self, text: str) -> bool:
        if not self._phrases:
            return False
        lowered = cut_long_words(text.lower())
        return any(phrase in lowered for phrase in self._phrases)


def _load_spacy(language: str) -> "SpacyTokenizer":
    """What splits a language's words."""
    if has_subwords(language):
        raise SettingError(
            f"Expected a language with spaces between words, found {language!r}: its texts are "
            "read in subwords. A model of its words was made by an earlier version and cannot be "
            f"used. Train it again: python -m ulmfit_app.run DATA --tokens.language {language}"
        )
    import spacy

    try:
        # The tokenizer alone: spaCy's pipeline refuses texts of more than a million characters.
        # A region, as in pt-br, is no matter of words.
        split = spacy.blank(language.partition("-")[0]).tokenizer
        # Korean's misses mecab, a library and no package, at the first text; it has an error of
        # its own for that.
        split("")
        if not hasattr(split, "rules"):  # Korean's and Vietnamese's have none
            raise TypeError("its tokenizer takes no special cases, such as xxrep")
    except Exception as error:
        raise SettingError(
            f"spaCy cannot tokenize the language {language!r} here: {str(error).rstrip('.')}. "
            "Expected a spaCy language code whose packages are installed, such as en or de, or "
            "xx, which splits any language at its spaces and signs: --tokens.language xx, or "
            "--tokens.language en"
        ) from None
    return split


# ------------------------------------------------------------------------------- worker processes
def start_worker() -> None:
    """Prepare a process that does nothing else than tokenize chunks."""
    without_torch()
    # For spaCy's own command line, a third of its start, which nothing here uses.
    sys.modules.setdefault("spacy.cli.info", SimpleNamespace(info=None))
    # No chunk leaves anything in a circle, and looking for it takes a third of the start.
    gc.disable()


def without_torch() -> None:
    """Let this process never import torch.

    spaCy would, for what is not used here, and spend most of its start on it.
    """
    sys.modules.setdefault("torch", None)


_tokenizer = lru_cache(1)(Tokenizer)


def tokenize_chunk(language: str, texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Tokenize some texts into what is little to send between processes.

    Args:
        language: spaCy's code of it, as en.
        texts: as they were typed.

    Returns:
        The words in the order in which they appear; ids into them, int32 [n_tokens]; and tokens
        per text, int64 [n_texts].

    Raises:
        SettingError: as `Tokenizer` raises it.
    """
    return _tokenizer(language).ids(texts)
