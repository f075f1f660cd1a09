"""fastai's rules before tokenization: repairs, and marks for repetitions and capitals."""

import html
import itertools
import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Token
from ulmfit_app.languages import UNSPACED

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


# ---------------------------------------------------------------------------------------------------------- the rules
_escaped_html = re.compile(
    r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)"
)  # what html.unescape looks for
_typed_special = re.compile(
    f"(xx)(?={'|'.join(word[2:] for word in (*SPECIALS, FAKE))})", re.IGNORECASE
)
_repeated_character = re.compile(r"(\S)(\1\1+)")
_repeated_word = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
# fastai has [A-Z]+[^a-z\s]*: the same words, but the two overlap, and a failed match is retried at every split between them.
_all_caps = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
_capitalised = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")
_long_word = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")
# Sudachi, which spaCy takes for Japanese, refuses more than 49,149 bytes; spaCy's Chinese one takes quadratic time.
_unspaced_run = re.compile(f"[{UNSPACED}]{{1,10000}}")
_before_run = re.compile(f"(?<=[^\\s{UNSPACED}])(?=[{UNSPACED}])")
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
    return _repeated_character.sub(_counted_characters, text)


def _counted_characters(m: re.Match) -> str:
    return f" {TK_REP} {len(m[2]) + 1} {m[1]} "


def mark_repeated_words(text: str) -> str:
    """
    >>> mark_repeated_words("very very very good")
    ' xxwrep 3 very  good'
    """
    return _repeated_word.sub(_counted_words, text) if _repeats_a_word(text) else text


def _repeats_a_word(text: str) -> bool:
    """Few texts have a word twice in a row, and the expression takes its time to find out."""
    words = text.split()
    return any(map(operator.eq, words, itertools.islice(words, 1, None)))


def _counted_words(m: re.Match) -> str:
    return f" {TK_WREP} {len(m[2].split()) + 2} {m[1]} {m[3]}"


def _lower_behind(marker: str) -> Callable[[re.Match], str]:
    return lambda m: f"{m[1]}{marker + ' ' if len(m[2]) > 1 else ''}{m[2].lower()}"


def mark_case(text: str) -> str:
    """Lower-case the text, keeping what capitals said in a token before the word.

    >>> mark_case("GREAT Film")
    'xxup great xxmaj film'
    """
    text = _all_caps.sub(_lower_behind(TK_UP), text)
    return _capitalised.sub(_lower_behind(TK_MAJ), text).lower()


def _mark_text(text: str, segment: "Callable[[str], Iterable[Token]] | None" = None) -> str:
    """The rules that see more than a word. segment: what finds the words where no spaces are."""
    # UTF-8 has no place for a lone surrogate, and hashing and spaCy need UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = mark_repeated_characters(repair_html(text))
    if segment:
        # Before words are counted, for xxwrep repeats a single token.
        text = _unspaced_run.sub(
            lambda run: f"{' '.join(_texts(segment(run[0])))} ", _before_run.sub(" ", text)
        )
    text = mark_repeated_words(text)
    for mark in "/#\\":
        text = text.replace(mark, f" {mark} ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip()


def _cut_long_words(text: str) -> str:
    return _long_word.sub(r"\1 ", text)


def _texts(tokens: "Iterable[Token]") -> list[str]:
    return [token.text.replace(" ", "▁") for token in tokens]
