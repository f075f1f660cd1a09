"""Where in the user's text each token came from."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar


class Span(NamedTuple):
    """A token and the characters text[start:stop] that it came from."""

    token: str
    start: int
    stop: int


class Traced:
    """A string that knows where in the text it was made from each of its characters came from.

    Its methods are those of str that the rules use, so that a rule is written once for both.

    >>> traced = Traced("Good &lt; bad").replace("&lt;", "<").lower()
    >>> str(traced), traced.span(5, 6)
    ('good < bad', (5, 9))
    """

    def __init__(self, text: str, spans: list[tuple[int, int]] | None = None) -> None:
        self.text = text
        self.spans = [(i, i + 1) for i in range(len(text))] if spans is None else spans

    def __str__(self) -> str:
        return self.text

    def __contains__(self, part: str) -> bool:
        return part in self.text

    def __getitem__(self, part: slice) -> "Traced":
        return Traced(self.text[part], self.spans[part])

    def join(self, parts: Iterable["Traced"]) -> "Traced":
        pieces = [piece for part in parts for piece in (self, part)][1:]
        return Traced("".join(map(str, pieces)), [span for p in pieces for span in p.spans])

    def sub(self, pattern: re.Pattern, new: str | Callable[[re.Match], str]) -> "Traced":
        """What pattern.sub(new, text) gives."""
        texts, spans, done = [], [], 0
        for match in pattern.finditer(self.text):
            first, its_new = match.start(), new(match) if callable(new) else match.expand(new)
            texts += [self.text[done:first], its_new]
            spans += self.spans[done:first]
            spans += [
                self.span(first + start, first + stop)
                for start, stop in _origins(match[0], its_new)
            ]
            done = match.end()
        return Traced("".join([*texts, self.text[done:]]), spans + self.spans[done:])

    def replace(self, old: str, new: str) -> "Traced":
        return self.sub(re.compile(re.escape(old)), lambda _: new)

    def lower(self) -> "Traced":
        # The capital of the Turkish i becomes two characters.
        lengths = (len(character.lower()) for character in self.text)
        spans = [
            span for span, length in zip(self.spans, lengths, strict=True) for _ in range(length)
        ]
        return Traced(self.text.lower(), spans)

    def strip(self) -> "Traced":
        text = self.text.strip()
        start = len(self.text) - len(self.text.lstrip())
        return self[start : start + len(text)]

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Where text[start:stop] came from.

        Args:
            start: first character, in this text.
            stop: behind the last one.

        Returns:
            Start and stop in the text that was traced; an empty span behind the character before
            where start == stop.
        """
        if start < stop:
            return self.spans[start][0], self.spans[stop - 1][1]
        place = self.spans[start - 1][1] if start else 0
        return place, place


# A rule gives back what it was given.
AnyText = TypeVar("AnyText", str, Traced)


def substitute(
    pattern: re.Pattern, new: str | Callable[[re.Match], str], text: AnyText
) -> AnyText:
    """pattern.sub(new, text), which str has no method for.

    >>> substitute(re.compile("o+"), r"<\\g<0>>", "good")
    'g<oo>d'
    """
    return text.sub(pattern, new) if isinstance(text, Traced) else pattern.sub(new, text)


def _origins(old: str, new: str) -> list[tuple[int, int]]:
    """Which part of `old` each character of `new` stands for.

    Its own character, none where it was added, or all that was replaced.

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
    replaced = [(head, len(old) - tail)] * (len(new) - head - tail)
    return own[:head] + replaced + own[len(old) - tail :]


def _in_common(one: str, other: str) -> int:
    """How many characters two strings share from their beginning, case aside."""
    same = (a.lower() == b.lower() for a, b in zip(one, other, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))
