"""A text to its tokens.

They are those of fastai's spaCy tokenizer and rules, with three differences. Specials that a user typed, such as xxpad, are
broken up, so that they cannot act as specials. The quadratic all-caps rule is written in a linear form. Words of more than
250 characters are cut, because spaCy's own cost grows with the square of a word's length.

Nearly all tokens depend on nothing beyond the whitespace around them. So the words between are tokenized once and
remembered, and only where something reaches further does spaCy see them together.
"""

import gc
import html
import itertools
import operator
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.errors import SettingError

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer as SpacyTokenizer
    from spacy.tokens import Token


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
# These bound what a process keeps of the words it saw: some 70 MB of our own, and 100 MB of spaCy's.
REMEMBERED = 1 << 18
KNOWN_TO_SPACY = 1 << 18
LONGEST_REMEMBERED = 100  # characters; lower-casing at most doubles them, so that no such word is cut


# ---------------------------------------------------------------------------------------------------------- the rules
_typed_special = re.compile(f"(xx)(?={'|'.join(word[2:] for word in (*SPECIALS, FAKE))})", re.IGNORECASE)
_repeated_character = re.compile(r"(\S)(\1\1+)")
_repeated_word = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
# fastai has [A-Z]+[^a-z\s]*: the same words, but the two overlap, and a failed match is retried at every split between them.
_all_caps = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
_capitalised = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")
_long_word = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")
# Words as spaCy finds them where no space follows another: other whitespace is one too, less a space that it begins with.
_word = re.compile(r"\S+|[^\S ]\s*")

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
        part = html.unescape(part)
        parts[i] = _typed_special.sub(r"\1 ", part) if "xx" in part.lower() else part
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
    words = text.split()
    # Few texts have a word twice in a row, and the expression takes its time to find out.
    if not any(map(operator.eq, words, itertools.islice(words, 1, None))):
        return text
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


def _mark_text(text: str) -> str:
    """The rules that see more than a word."""
    # UTF-8 has no place for a lone surrogate, and hashing and spaCy need UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = mark_repeated_words(mark_repeated_characters(repair_html(text)))
    for mark in "/#\\":
        text = text.replace(mark, f" {mark} ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip()


def _cut_long_words(text: str) -> str:
    return _long_word.sub(r"\1 ", text)


# ------------------------------------------------------------------------------------------------------- the tokenizer
def _not_joining(split: "SpacyTokenizer") -> "SpacyTokenizer":
    """A copy of a spaCy tokenizer without its last pass, which joins tokens to special cases, such as : and ) to :)."""
    loading = True

    def once_loaded(search: Callable | None, nothing: tuple | None = None) -> Callable | None:
        return search and (lambda text: nothing if loading else search(text))

    # spaCy gives the last pass only special cases with a space, or with something to split off when they are loaded.
    rules = {case: rule for case, rule in split.rules.items() if " " not in case}
    bare = type(split)(
        split.vocab,
        rules,
        once_loaded(split.prefix_search),
        once_loaded(split.suffix_search),
        once_loaded(split.infix_finditer, ()),
        split.token_match,
        split.url_match,
    )
    loading = False
    return bare


def _texts(tokens: "Iterable[Token]") -> list[str]:
    return [token.text.replace(" ", "▁") for token in tokens]


class Tokenizer:
    """A text to the list of its tokens, as fastai 2.8's `WordTokenizer` with its default rules gives them.

    Raises SettingError for a language that spaCy does not have or that needs packages of its own.
    """

    def __init__(self, language: str = "en") -> None:
        import spacy
        from spacy.symbols import ORTH

        try:
            # The tokenizer alone, since spaCy's pipeline refuses texts of more than a million characters.
            self._split = spacy.blank(language).tokenizer
            self._first_tokens_of_cases = {rule[0][ORTH] for rule in self._split.rules.values()}
            # Chinese and a few others have tokenizers of their own kind, without special cases.
            for special in SPECIALS:
                self._split.add_special_case(special, [{ORTH: special}])
        except (ImportError, AttributeError) as error:
            raise SettingError(
                f"spaCy cannot tokenize the language {language!r} here: {error}. "
                "Expected a spaCy language code such as en, de or fr: --tokens.language en"
            ) from None
        # spaCy works out what it can say of each new word, such as its shape, which takes longer than finding the word.
        self._split.vocab.lex_attr_getters = {}
        self._split_only = _not_joining(self._split)
        # Special cases of several words, such as the Russian в н.в.
        self._phrases = [case for case in self._split.rules if len(case.split()) > 1]
        self._longest_case = max(map(len, self._split.rules))
        self._known: dict[str, tuple[str, ...] | None] = {}

    def __call__(self, text: str) -> list[str]:
        return self.each([text])[0]

    def each(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each of some texts. It costs less than one text after the other."""
        texts = [_mark_text(text) for text in texts]
        words = [_word.findall(text) for text in texts]
        known = self._learn(set(itertools.chain.from_iterable(words)))
        return [self._join(*text_and_words, known) for text_and_words in zip(texts, words, strict=True)]

    def known_words(self) -> int:
        """How many different words spaCy holds in memory."""
        return len(self._split.vocab)

    def _learn(self, words: set[str]) -> dict[str, tuple[str, ...] | None]:
        """The tokens that a word is in any text; None for one whose tokens depend on the words beside it."""
        if len(self._known) > REMEMBERED:
            self._known = {}
        # By a name of its own, for another thread may start anew.
        known = self._known
        new = [word for word in words.difference(known) if len(word) <= LONGEST_REMEMBERED]
        spaces = [word for word in new if word.isspace()]
        new = [word for word in new if not word.isspace()]
        for word in spaces:
            known[word] = tuple(_texts(self._split(word)))
        # Together they take spaCy two thirds of the time, and nothing reaches over the end of a line.
        tokens = iter(_texts(self._split(mark_case("\n".join(new)))))
        for word in new:
            its_tokens = list(iter(tokens.__next__, "\n"))
            known[word] = tuple(its_tokens) if self._stands_alone(word, its_tokens) else None
        return known

    def _stands_alone(self, word: str, tokens: list[str]) -> bool:
        # The words beside it can keep spaCy from joining: "fun:)" ends in :) but "fun:) )" in three tokens.
        return self._first_tokens_of_cases.isdisjoint(tokens) or tokens == _texts(self._split_only(mark_case(word)))

    def _join(self, text: str, words: list[str], known: dict[str, tuple[str, ...] | None]) -> list[str]:
        found = list(map(known.get, words))
        unsure = [i for i, tokens in enumerate(found) if tokens is None]
        if self._has_phrase(text) or len(unsure) * self._longest_case > len(words):
            return [BOS, *_texts(self._split(_cut_long_words(mark_case(text))))]
        for i in unsure:
            found[i] = self._tokens_among(words, i)
        return [BOS, *itertools.chain.from_iterable(found)]

    def _has_phrase(self, text: str) -> bool:
        if not self._phrases:
            return False
        lowered = _cut_long_words(text.lower())
        return any(phrase in lowered for phrase in self._phrases)

    def _tokens_among(self, words: list[str], i: int) -> list[str]:
        """Tokens of a word between those beside it, as far as the tokens of a special case can reach."""
        if words[i].isspace():
            return _texts(self._split(words[i]))
        first = max(i - self._longest_case, 0)
        marked = [_cut_long_words(mark_case(word)) for word in words[first : i + self._longest_case + 1]]
        start = sum(len(word) + 1 for word in marked[: i - first])
        stop = start + len(marked[i - first])
        return _texts(token for token in self._split(" ".join(marked)) if start <= token.idx < stop)


# --------------------------------------------------------------------------------------------------- worker processes
def without_torch() -> None:
    """Let this process never import torch: spaCy would, for what is not used here, and spend most of its start on it."""
    sys.modules.setdefault("torch", None)


_tokenizer = lru_cache(1)(Tokenizer)


def tokenize_chunk(language: str, texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Words of a chunk in the order they appear, ids into them, and tokens a text: little to send between processes.

    Returns the words, int32 [n_tokens] and int64 [n_texts]. Raises SettingError as Tokenizer does.
    """
    if _tokenizer(language).known_words() > KNOWN_TO_SPACY:
        # spaCy forgets no word, so its memory would grow with the corpus.
        _tokenizer.cache_clear()
        gc.collect()
    tokenizer = _tokenizer(language)
    id_of = defaultdict(itertools.count().__next__)
    ids, lengths = [], []
    for tokens in tokenizer.each(texts):
        ids += map(id_of.__getitem__, tokens)
        lengths.append(len(tokens))
    return list(id_of), np.array(ids, np.int32), np.array(lengths, np.int64)
