"""Questions with choices, each of which says why it is right or wrong when it is opened."""

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmfit_app.course import DATA, Language
from ulmfit_app.errors import SettingError

LESSONS = range(1, 13)
CHINESE = {10}  # of them
_VERDICTS = {"en": ("Not so:", "Right:"), "zh-tw": ("不對：", "正確：")}


@dataclass(frozen=True)
class Choice:
    """One answer that a reader can choose.

    Attributes:
        text: the answer.
        right: whether it is the right one.
        why: what makes it right, or what is wrong with it.
    """

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Question:
    """A question, and the answers to choose from, one of which is right."""

    text: str
    choices: tuple[Choice, ...]


class SelfCheck(list[Question]):
    """The questions of a notebook. A notebook shows them as text whose choices can be opened.

    It is HTML without scripts, so that it works in any notebook, on Colab, and on a page.

    Attributes:
        language: of the notebook.
    """

    language: Language = "en"

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self, start=1):
            lines.append(f"{number}. {question.text}")
            lines += [f"   {mark}) {one.text}" for mark, one in _marked(question)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        items, verdicts = [], _VERDICTS[self.language]
        for question in self:
            choices = "".join(
                f"<details><summary>{mark}) {_to_html(one.text)}</summary>"
                f"<p><b>{verdicts[one.right]}</b> {_to_html(one.why)}</p></details>"
                for mark, one in _marked(question)
            )
            items.append(f"<li><p>{_to_html(question.text)}</p>{choices}</li>")
        return f'<ol class="self-check">{"".join(items)}</ol>'


def questions(lesson: int) -> SelfCheck:
    """The questions of a notebook.

    Args:
        lesson: its number.

    Returns:
        The questions, to be shown.
    """
    if lesson not in LESSONS:
        raise SettingError(
            f"No notebook {lesson!r} has questions. Expected a number from 1 to {LESSONS[-1]}."
        )
    asked = SelfCheck(
        Question(one["question"], tuple(Choice(**choice) for choice in one["choices"]))
        for one in _read(DATA / f"questions-{int(lesson):02}.json")
    )
    asked.language = "zh-tw" if lesson in CHINESE else "en"
    return asked


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def _marked(question: Question) -> list[tuple[str, Choice]]:
    return list(zip("abcd", question.choices, strict=False))


def _to_html(text: str) -> str:
    """Escaped text, with `code` between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
