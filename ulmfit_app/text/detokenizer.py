"""Tokens back to a text that reads well: `tokenizer.py` in reverse, as far as tokens still tell.

They do not tell where spaces were, nor which capitals were inside a word: spaces follow the rules
of English punctuation. fastai joins tokens with spaces and leaves xxmaj and xxrep in the text
(test_plain_fastai_leaves_markers_in_the_text). Subwords tell both: `SubwordTokenizer.decode`.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from ulmfit_app.text.rules import BOS, EOS, FAKE, FLD, PAD, TK_MAJ, TK_REP, TK_UP, TK_WREP

# A language model that repeats "9999999" times would otherwise fill the memory.
MOST_REPEATS = 100

_SILENT = {BOS, EOS, FLD, PAD, FAKE}
_CLOSING = set(".,;:!?%)]}…”’°")  # they touch what stands before them
_OPENING = set("([{“‘$£€#¿¡")  # and these what follows
_JOINING = {"/", "\\", "—"}  # and these both
_CLITIC = re.compile(r"['’](s|m|d|ll|re|ve)|n['’]?t|ll|re|ve|s")  # spaCy splits "thats", too
_HALVES = {("can", "not"), ("gon", "na"), ("got", "ta"), ("y'", "all"), ("c'm", "on")}
# What stands before the repeated letter of "sooo", "hmmm", "whooo".
_SHORT_WORD = re.compile(r"(?<!\w)[^\W\d_]{1,2}$")
_BEHIND_ZEROS = re.compile(r"\d|(s|th|st|nd|rd)$")
_SENTENCE_START = re.compile(r"(^|[.!?]|\n)[\s\"'“‘(]*$")


class _Word(NamedTuple):
    text: str
    case: str | None = None  # TK_UP or TK_MAJ
    is_repetition: bool = False  # of a character


def _without_markers(tokens: Iterable[str]) -> Iterator[_Word]:
    case = marker = times = None
    for token in tokens:
        if token in _SILENT:
            continue
        if token in (TK_UP, TK_MAJ):
            case = token
        elif token in (TK_REP, TK_WREP):
            marker, times = token, None
        elif marker and times is None and token.isdecimal():
            # Python refuses to read thousands of digits as a number.
            times = min(int(token[:9]), MOST_REPEATS)
        else:
            if times is not None and marker == TK_REP:
                if times:
                    yield _Word(token * times, case, is_repetition=True)
            else:
                yield from [_Word(token, case)] * (times if times is not None else 1)
            case = marker = times = None


class _Line:
    """A text that grows by a word at a time."""

    def __init__(self, start: str, language: str, single_quotes: int) -> None:
        self.text, self.language = start.rstrip(" "), language
        end = self.text[-1:]
        # The next word follows without a space.
        self.touching = end.isspace() or end in _OPENING or (end == '"' and self._in_quotes())
        self.capitals = False  # xxup holds for all that stands without a space between
        self.last = _Word("")
        self.single_quotes = single_quotes  # how many of them are still to come
        self.in_single_quotes = False

    def add(self, word: _Word, following: _Word) -> None:
        space = word.text.replace("▁", " ")
        if space.isspace():
            self.text += space
            self.touching, self.last = True, _Word("")
            return
        before, after = self._touches(word, following)
        apart = bool(self.text) and not self.touching and not before
        if apart:
            self.text += " "
        self.capitals = word.case == TK_UP or (
            self.capitals and not apart and self.last.text not in _JOINING
        )
        self.text += self._in_case(word)
        self.touching, self.last = after, word

    def _touches(self, word: _Word, following: _Word) -> tuple[bool, bool]:
        """Whether a word touches what stands before it, and what follows it."""
        text, end = word.text, self.text[-1:]
        if text == '"':
            return self._in_quotes(), not self._in_quotes()
        if text == "'":
            return self._single_quote(following)
        if text in _JOINING:
            return True, True
        if text == "-":
            both = end.isalnum() and following.text[:1].isalnum()
            return both, both
        if set(text) <= _CLOSING:
            return True, False
        if set(text) <= _OPENING:
            return False, True
        # French and Italian articles, as in l'homme.
        elided = self.language != "en" and len(text) > 1 and text[-1] in "'’"
        return self._continues(word, following), elided

    def _in_quotes(self) -> bool:
        return self.text.rpartition("\n")[2].count('"') % 2 == 1

    def _single_quote(self, following: _Word) -> tuple[bool, bool]:
        """A quotation mark, or an apostrophe.

        Of an odd number, the first one outside a quotation is an apostrophe.
        """
        odd = self.single_quotes % 2 == 1
        self.single_quotes -= 1
        if self.in_single_quotes:
            self.in_single_quotes = False
            return True, False
        if odd:
            # As in '90s on the one hand, in the actors' on the other.
            return not following.text[:1].isdigit(), following.text[:1].isdigit()
        self.in_single_quotes = True
        return False, True

    def _continues(self, word: _Word, following: _Word) -> bool:
        """Whether a word is the rest of the one before it."""
        text, last = word.text, self.last
        if word.is_repetition and text[0].isdigit():
            return bool(re.search(r"\d[.,]?$", self.text))
        if word.is_repetition:
            is_word = self.language == "en" and text[0] in "iw"  # III and www
            return not is_word and text[0].isalpha() and bool(_SHORT_WORD.search(self.text))
        if last.is_repetition and last.text[0].isdigit():
            return bool(_BEHIND_ZEROS.match(text))
        if last.is_repetition and last.text[0].isalpha() and len(text) == 1:
            return text not in "ai"
        if _CLITIC.fullmatch(text):
            is_prefix = text == "re" and following.text == "-"  # re-elected
            return self.text[-1:].isalnum() and not following.is_repetition and not is_prefix
        return (last.text, text) in _HALVES

    def _in_case(self, word: _Word) -> str:
        text = word.text
        if self.capitals:
            return text.upper()
        # The tokenizer marks no capital that stands alone.
        if word.case == TK_MAJ or (len(text) == 1 and _SENTENCE_START.search(self.text)):
            return text[:1].upper() + text[1:]
        is_i = text == "i" or (word.is_repetition and text[0] == "i")
        return text.upper() if self.language == "en" and is_i else text


def detokenize(tokens: Iterable[str], language: str = "en", start: str = "") -> str:
    """The text of some tokens, with the capitals, repetitions and spaces that they stand for.

    Every sequence of tokens has a text: a language model also writes what no text becomes. A
    character or a word repeated 0 times is left out, and so is a marker with nothing behind it.

    Args:
        tokens: as `Tokenizer` or a language model gives them.
        language: spaCy's code of it.
        start: text that they go on from; kept as it is, but for spaces at its end.

    Returns:
        `start` and what the tokens say.

    >>> detokenize("xxbos xxmaj it is n't s xxrep 3 o bad xxrep 3 !".split())
    "It isn't sooo bad!!!"
    """
    words = list(_without_markers(tokens))
    line = _Line(start, language, sum(word.text == "'" for word in words))
    for word, following in pairwise([*words, _Word("")]):
        line.add(word, following)
    return line.text
