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
from typing import TYPE_CHECKING, NamedTuple

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
_escaped_html = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")  # what html.unescape looks for
_typed_special = re.compile(f"(xx)(?={'|'.join(word[2:] for word in (*SPECIALS, FAKE))})", re.IGNORECASE)
_repeated_character = re.compile(r"(\S)(\1\1+)")
_repeated_word = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
# fastai has [A-Z]+[^a-z\s]*: the same words, but the two overlap, and a failed match is retried at every split between them.
_all_caps = re.compile(r"(\s|^)([A-Z][^a-z\s]*)(?=\s|$)")
_capitalised = re.compile(r"(\s|^)([A-Z][^A-Z\s]*)(?=\s|$)")
_long_word = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")
# Scripts without spaces between words, and Hangul: Thai, Han, kana and bopomofo, their punctuation, full-width forms.
UNSPACED = "\u0e00-\u0e7f\u2e80-\u2fff\u3001-\u9fff\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uffef\U00020000-\U0003ffff"
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
        text = _unspaced_run.sub(lambda run: f"{' '.join(_texts(segment(run[0])))} ", _before_run.sub(" ", text))
    text = mark_repeated_words(text)
    for mark in "/#\\":
        text = text.replace(mark, f" {mark} ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip()


def _cut_long_words(text: str) -> str:
    return _long_word.sub(r"\1 ", text)


# ------------------------------------------------------------------------------------------- where the tokens came from
class Span(NamedTuple):
    """A token and the characters text[start:stop] that it came from."""

    token: str
    start: int
    stop: int


class _Traced:
    """A text on its way through the rules above, and the span of the original that each of its characters came from."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans = [(i, i + 1) for i in range(len(text))]

    def part(self, start: int, stop: int) -> "_Traced":
        part = _Traced("")
        part.text, part.spans = self.text[start:stop], self.spans[start:stop]
        return part

    def add(self, other: "_Traced") -> None:
        self.text += other.text
        self.spans += other.spans

    def sub(self, pattern: re.Pattern, new: Callable[[re.Match], str]) -> None:
        """What pattern.sub(new, text) does."""
        texts, spans, done = [], [], 0
        for match in pattern.finditer(self.text):
            first, its_new = match.start(), new(match)
            texts += [self.text[done:first], its_new]
            spans += self.spans[done:first]
            spans += [self.span(first + start, first + stop) for start, stop in _origins(match[0], its_new)]
            done = match.end()
        self.text = "".join([*texts, self.text[done:]])
        self.spans = spans + self.spans[done:]

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Where text[start:stop] came from."""
        if start < stop:
            return self.spans[start][0], self.spans[stop - 1][1]
        place = self.spans[start - 1][1] if start else 0
        return place, place

    def lower(self) -> None:
        # The capital of the Turkish i becomes two characters.
        self.spans = [span for c, span in zip(self.text, self.spans, strict=True) for _ in c.lower()]
        self.text = self.text.lower()

    def strip(self) -> None:
        start = len(self.text) - len(self.text.lstrip())
        stripped = self.part(start, max(len(self.text.rstrip()), start))
        self.text, self.spans = stripped.text, stripped.spans


def _origins(old: str, new: str) -> list[tuple[int, int]]:
    """Which part of `old` each character of `new` stands for: its own, none where it was added, or all that was replaced.

    >>> _origins("Oh", "xxmaj oh")
    [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 1), (1, 2)]
    >>> _origins("&lt;", "<")
    [(0, 4)]
    """
    if new.replace(" ", "") == old:
        stops = list(itertools.accumulate(int(character != " ") for character in new))
        return list(zip([0, *stops], stops, strict=False))
    # The end first: the x of "xxmaj xylophone" is none of "Xylophone".
    tail = _in_common(old[::-1], new[::-1])
    head = _in_common(old[: len(old) - tail], new[: len(new) - tail])
    own = [(i, i + 1) for i in range(len(old))]
    return own[:head] + [(head, len(old) - tail)] * (len(new) - head - tail) + own[len(old) - tail :]


def _in_common(one: str, other: str) -> int:
    """How many characters two strings share from their beginning, case aside."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs))


def _trace(text: str, segment: "Callable[[str], Iterable[Token]] | None") -> _Traced:
    """`_mark_text`, `mark_case` and `_cut_long_words`, in steps that can be followed."""
    text = _Traced(text.encode("utf-8", "replace").decode("utf-8"))
    whole, done = _Traced(""), 0
    for unknown in [*re.finditer("<unk>", text.text), None]:
        part = text.part(done, unknown.start() if unknown else len(text.text))
        for wrong, right in _REPAIRS:
            part.sub(re.compile(re.escape(wrong)), lambda _, right=right: right)
        part.sub(_escaped_html, lambda m: html.unescape(m[0]))
        part.sub(_typed_special, lambda m: f"{m[1]} ")
        whole.add(part)
        if unknown:
            mark = text.part(*unknown.span())
            mark.sub(re.compile("<unk>"), lambda _: UNK)
            whole.add(mark)
            done = unknown.end()
    whole.sub(_repeated_character, _counted_characters)
    if segment:
        whole.sub(_before_run, lambda _: " ")
        whole.sub(_unspaced_run, lambda run: f"{' '.join(_texts(segment(run[0])))} ")
    if _repeats_a_word(whole.text):
        whole.sub(_repeated_word, _counted_words)
    whole.sub(re.compile(r"[/#\\]"), lambda m: f" {m[0]} ")
    whole.sub(re.compile("  +"), lambda _: " ")
    whole.strip()
    whole.sub(_all_caps, _lower_behind(TK_UP))
    whole.sub(_capitalised, _lower_behind(TK_MAJ))
    whole.lower()
    whole.sub(_long_word, lambda m: f"{m[1]} ")
    return whole


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

    Chinese, which fastai's cannot tokenize, comes as characters, with Latin words and numbers whole.
    Raises SettingError for a language that spaCy does not have, or that needs a package which is not installed.
    """

    def __init__(self, language: str = "en") -> None:
        import spacy
        from spacy.symbols import ORTH

        try:
            # The tokenizer alone, since spaCy's pipeline refuses texts of more than a million characters.
            self._split = spacy.blank(language).tokenizer
            # Korean's misses mecab, a library and no package, at the first text; it has an error of its own for that.
            self._split("")
        except Exception as error:
            raise SettingError(
                f"spaCy cannot tokenize the language {language!r} here: {str(error).rstrip('.')}. "
                "Expected a spaCy language code whose packages are installed, such as en, de or zh: --tokens.language en"
            ) from None
        self._segment = None
        if not hasattr(self._split, "rules"):
            # spaCy's tokenizers of Chinese, Japanese, Korean and Thai take no special cases, so that xxrep would not be safe
            # with them, and the Chinese one gives characters, even of Latin words. So they are asked about their own scripts
            # alone; Latin words, numbers and specials go through the rules that spaCy has for no language in particular.
            self._segment, self._split = self._split, spacy.blank("xx").tokenizer
            self._segment.vocab.lex_attr_getters = {}
        self._first_tokens_of_cases = {rule[0][ORTH] for rule in self._split.rules.values()}
        for special in SPECIALS:
            self._split.add_special_case(special, [{ORTH: special}])
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
        texts = [_mark_text(text, self._segment) for text in texts]
        words = [_word.findall(text) for text in texts]
        known = self._learn(set(itertools.chain.from_iterable(words)))
        return [self._join(*text_and_words, known) for text_and_words in zip(texts, words, strict=True)]

    def spans(self, text: str) -> list[Span]:
        """The tokens of a text, and where in it each came from; that takes far longer than the tokens alone.

        xxbos and what marks the word behind it, as xxmaj, came from no characters: start equals stop. Tokens that stand for
        the same characters, as xxrep 3 o, share them. A rule can drop characters, which then are no token's.
        """
        traced = _trace(text, self._segment)
        found = [Span(BOS, 0, 0)]
        for token, its_text in zip(tokens := self._split(traced.text), _texts(tokens), strict=True):
            start, stop = traced.span(token.idx, token.idx + len(token))
            # What a rule replaced can begin or end with the space beside a word.
            blanks = text[start:stop]
            if blanks.strip():
                start, stop = start + len(blanks) - len(blanks.lstrip()), stop - len(blanks) + len(blanks.rstrip())
            found.append(Span(its_text, start, stop))
        return found

    def known_words(self) -> int:
        """How many different words spaCy holds in memory."""
        return len(self._split.vocab) + (len(self._segment.vocab) if self._segment else 0)

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
