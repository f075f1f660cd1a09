"""Where in the user's text each token came from."""

import html
import itertools
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from spacy.tokens import Token
from ulmfit_app.text.rules import (
    _REPAIRS,
    TK_MAJ,
    TK_UP,
    UNK,
    _all_caps,
    _before_run,
    _capitalised,
    _counted_characters,
    _counted_words,
    _escaped_html,
    _long_word,
    _lower_behind,
    _repeated_character,
    _repeated_word,
    _repeats_a_word,
    _texts,
    _typed_special,
    _unspaced_run,
)


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
            spans += [
                self.span(first + start, first + stop)
                for start, stop in _origins(match[0], its_new)
            ]
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
        self.spans = [
            span for c, span in zip(self.text, self.spans, strict=True) for _ in c.lower()
        ]
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
    return (
        own[:head] + [(head, len(old) - tail)] * (len(new) - head - tail) + own[len(old) - tail :]
    )


def _in_common(one: str, other: str) -> int:
    """How many characters two strings share from their beginning, case aside."""
    pairs = zip(one, other, strict=False)
    return sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs)
    )


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
