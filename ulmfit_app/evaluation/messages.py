"""The words of a report in the language that its readers know, from one table.

Reports are written in English here, and each sentence is looked up by it: messages_zh_tw.json has
the sentences with their placeholders, the names of facts, stages and phases, and patterns of the
notes that a run's data and plan came with.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Literal

ReportLanguage = Literal["en", "zh-tw"]
ENGLISH: ReportLanguage = "en"
# As a page names them in `lang`.
TAGS: dict[ReportLanguage, str] = {"en": "en", "zh-tw": "zh-Hant-TW"}

_spoken: ContextVar[ReportLanguage] = ContextVar("report language", default=ENGLISH)


class Message(str):
    """An English sentence that remembers what it was made of, so that a page can translate it.

    For sentences that metrics.json keeps too, in English whatever the language of the page is.

    Attributes:
        template, values: as `say` takes them.
    """

    __slots__ = ("template", "values")

    def __new__(cls, template: str, /, **values) -> "Message":
        made = super().__new__(cls, template.format(**values))
        made.template, made.values = template, values
        return made

    def __getnewargs_ex__(self):
        return (self.template,), self.values


@contextmanager
def speaking(language: ReportLanguage) -> Iterator[None]:
    """Within it, what `say` gives is in this language."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def spoken() -> ReportLanguage:
    """The language of the report that is being written."""
    return _spoken.get()


def say(template: str, /, **values) -> str:
    """A sentence or a word in the language of the report.

    Args:
        template: in English, with placeholders as str.format has them.
        values: of the placeholders; a Message among them is translated.

    >>> say("{n:,} texts", n=1000)
    '1,000 texts'
    """
    shown = {name: translated(value) for name, value in values.items()}
    return _template(template).format(**shown)


def _template(english: str) -> str:
    return english if spoken() == ENGLISH else _table(spoken())["messages"][english]


def translated(value):
    """A Message in the language of the report; anything else as it is."""
    return say(value.template, **value.values) if isinstance(value, Message) else value


def known(name: str) -> str:
    """A name of ours, or a note of a run, in the language of the report.

    Names are those of facts, stages and phases. Notes were written when the run was planned, with
    their numbers in them; the commonest have patterns.

    Args:
        name: in English; one that has no translation is given back as it is.
    """
    name = translated(name)
    if spoken() == ENGLISH:
        return name
    table = _table(spoken())
    if name in table["names"]:
        return table["names"][name]
    for pattern, template in _patterns(spoken()):
        if match := pattern.fullmatch(name):
            return template.format(**{key: known(part) for key, part in match.groupdict().items()})
    return name


@cache
def _patterns(language: ReportLanguage) -> list[tuple[re.Pattern, str]]:
    """What finds the placeholders' values in an English sentence, and its translation."""
    return [
        (re.compile("".join(_expression(*part) for part in Formatter().parse(english))), other)
        for english, other in _table(language)["patterns"].items()
    ]


def _expression(literal: str, field: str | None, *_) -> str:
    return re.escape(literal) + (f"(?P<{field}>.+)" if field else "")


def characters_of(language: ReportLanguage) -> str:
    """All that `say` and `known` may give in a language, which a font has to have."""
    parts = [] if language == ENGLISH else _table(language).values()
    return "".join(text for part in parts for text in part.values())


@cache
def _table(language: ReportLanguage) -> dict[str, dict[str, str]]:
    name = f"messages_{language.replace('-', '_')}.json"
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
