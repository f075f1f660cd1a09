"""fastai's rules before tokenization: repairs, and marks for repetitions and capitals.

Each rule takes a str and gives a str, or takes a Traced and gives a Traced: the tokens of a text
and the places where they came from are made by the same functions.
"""

import html
import itertools
import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.text.tracing import AnyText, substitute

if TYPE_CHECKING:
    from spacy.tokens import Token

# fastai's names, in fastai's order: their position is their id.
SPECIALS = UNK, PAD, BOS, EOS, FLD, TK_REP, TK_WREP, TK_UP, TK_MAJ = [
    "xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj",
]  # fmt: skip
FAKE = "xxfake"  # fastai fills the vocabulary with it to a multiple of 8, which tensor cores like
UNK_ID, PAD_ID = SPECIALS.index(UNK), SPECIALS.index(PAD)

# Part of every cache key: raise it with each change to a rule below.
RULES_VERSION = 1
LONGEST_WORD = 250  # characters

# What is wrong in many a scraped corpus; fastai's `fix_html`, in its order.
_REPAIRS = [
    ("#39;", "'"), ("amp;", "&"), ("#146;", "'"), ("nbsp;", " "), ("#36;", "$"), ("\\n", "\n"),
    ("quot;", "'"), ("<br />", "\n"), ('\\"', '"'), (" @.@ ", "."), (" @-@ ", "-"), ("...", " …"),
]  # fmt: skip
# What html.unescape looks for.
_escaped_html = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
_typed_special = re.compile(
    f"(xx)(?={'|'.join(word[2:] for word in (*SPECIALS, FAKE))})", re.IGNORECASE
)
# WikiText marks its unknown words so; they are the one special that a corpus may bring along.
_wikitexts_unknown = re.compile("<unk>")
_surrogate = re.compile("[\ud800-\udfff]")
_repeated_character = re.compile(r"(\S)(\1\1+)")
_repeated_word = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
# fastai has [A-Z]+[^a-z\s]*: the same words, but the two overlap, and a failed match is retried at
# every split between them.
_all_caps = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
_capitalised = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")
_long_word = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")


def repair_html(text: AnyText) -> AnyText:
    """Undo escaped HTML, and break up specials that are part of the text itself.

    >>> repair_html("It#39;s good<br />xxpad")
    "It's good\\nxx pad"
    """
    if "<unk>" not in text:
        return _repair_piece(text)
    pieces, done = [], 0
    for unknown in _wikitexts_unknown.finditer(str(text)):
        start, stop = unknown.span()
        pieces += [_repair_piece(text[done:start]), text[start:stop].replace("<unk>", UNK)]
        done = stop
    return text[:0].join([*pieces, _repair_piece(text[done:])])


def _repair_piece(text: AnyText) -> AnyText:
    for wrong, right in _REPAIRS:
        text = text.replace(wrong, right)
    if "&" in text:
        text = substitute(_escaped_html, lambda m: html.unescape(m[0]), text)
    # After unescaping, because "xx&#112;ad" is one more way to type a special.
    return substitute(_typed_special, r"\1 ", text) if "xx" in str(text).lower() else text


def mark_repeated_characters(text: AnyText) -> AnyText:
    """Count a character that stands three times or more in a row.

    >>> mark_repeated_characters("sooo good")
    's xxrep 3 o  good'
    """
    if not _repeats_a_character(str(text)):
        return text
    return substitute(_repeated_character, _counted_characters, text)


def _repeats_a_character(text: str) -> bool:
    """Whether any stands three times in a row: the expression takes three times as long."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    same = characters[1:] == characters[:-1]
    return bool((same[1:] & same[:-1]).any())


def _counted_characters(m: re.Match) -> str:
    return f" {TK_REP} {len(m[2]) + 1} {m[1]} "


def mark_repeated_words(text: AnyText) -> AnyText:
    """Count a word that stands three times or more in a row.

    >>> mark_repeated_words("very very very good")
    ' xxwrep 3 very  good'
    """
    if not _repeats_a_word(str(text)):
        return text
    return substitute(_repeated_word, _counted_words, text)


def _repeats_a_word(text: str) -> bool:
    """Few texts have a word twice in a row, and the expression takes its time to find out."""
    words = text.split()
    return any(map(operator.eq, words, itertools.islice(words, 1, None)))


def _counted_words(m: re.Match) -> str:
    return f" {TK_WREP} {len(m[2].split()) + 2} {m[1]} {m[3]}"


def mark_case(text: AnyText) -> AnyText:
    """Lower-case the text, keeping what capitals said in a token before the word.

    >>> mark_case("GREAT Film")
    'xxup great xxmaj film'
    """
    text = substitute(_all_caps, _lower_all_caps, text)
    return substitute(_capitalised, _lower_capitalised, text).lower()


def _lower_behind(marker: str) -> Callable[[re.Match], str]:
    return lambda m: f"{m[1]}{marker + ' ' if len(m[2]) > 1 else ''}{m[2].lower()}"


_lower_all_caps, _lower_capitalised = _lower_behind(TK_UP), _lower_behind(TK_MAJ)


def cut_long_words(text: AnyText) -> AnyText:
    """Put a space behind every LONGEST_WORD characters of a word.

    spaCy's cost grows with the square of a word's length.
    """
    return substitute(_long_word, r"\1 ", text)


def mark_text(text: AnyText) -> AnyText:
    """All rules that see more than a word; `mark_case` and `cut_long_words` follow.

    Args:
        text: as it was typed.

    Returns:
        The text, with one space where there were several and none at its ends.
    """
    text = mark_repeated_characters(repair_html(_replace_surrogates(text)))
    text = mark_repeated_words(text)
    for mark in "/#\\":
        text = text.replace(mark, f" {mark} ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip()


def _replace_surrogates(text: AnyText) -> AnyText:
    """UTF-8 has no place for a lone surrogate, and hashing and spaCy need UTF-8."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return substitute(_surrogate, "?", text)
    return text


def token_texts(tokens: "Iterable[Token]") -> list[str]:
    """What spaCy's tokens say, with a visible ▁ for each space in them, as fastai writes them."""
    return [token.text.replace(" ", "▁") for token in tokens]
