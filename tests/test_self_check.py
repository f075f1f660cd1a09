"""Questions with choices teach whichever choice is opened, and every term is explained."""

import json
import re
from html.parser import HTMLParser

import pytest

from tests.test_notebooks import NOTEBOOKS, ROOT, each_notebook, read, words_of_notebook
from ulmfit_app.course import self_check

README = ROOT / "notebooks" / "README.md"
TERMS = (
    "accuracy",
    "adapter",
    "attention",
    "batch",
    "batch normalisation",
    "calibration",
    "dropout",
    "embedding",
    "encoder",
    "epoch",
    "fine-tuning",
    "language model",
    "learning rate",
    "log-odds",
    "logits",
    "loss",
    "LoRA",
    "LSTM",
    "perplexity",
    "softmax",
    "subword",
    "temperature",
    "token",
    "transformer",
    "vocabulary",
)


def number_of(path) -> int:
    return int(path.stem[:2])


# ------------------------------------------------------------------------------- the questions
@each_notebook
def test_a_notebook_has_five_questions_each_with_one_right_choice_and_a_reason_for_all(path):
    asked = self_check.questions(number_of(path))
    assert len(asked) == 5
    for question in asked:
        assert question.text.endswith(words_of_notebook(path).asks), question.text
        assert 3 <= len(question.choices) <= 4, question.text
        assert sum(choice.right for choice in question.choices) == 1, question.text
        assert len({choice.text for choice in question.choices}) == len(question.choices)
        # Of Chinese every character counts.
        assert all(
            len(re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+", choice.why)) >= 4
            for choice in question.choices
        ), question.text


def test_the_right_choice_is_not_given_away_by_its_place_or_length():
    asked = [one for path in NOTEBOOKS for one in self_check.questions(number_of(path))]
    places = [[choice.right for choice in one.choices].index(True) for one in asked]
    assert max(places.count(place) for place in set(places)) <= len(asked) / 2
    longest = [max(one.choices, key=lambda choice: len(choice.text)).right for one in asked]
    assert sum(longest) <= len(asked) / 2


@each_notebook
def test_the_questions_come_before_those_without_choices(path):
    cells = read(path).cells
    (here,) = [
        i
        for i, cell in enumerate(cells)
        if f"self_check.questions({number_of(path)})" in cell.source
    ]
    words = words_of_notebook(path)
    assert cells[here - 1].source.startswith(f"## {words.check}")
    assert cells[here + 1].source.startswith(f"## {words.questions}")


@each_notebook
def test_the_stored_questions_are_those_of_the_package(path):
    (cell,) = [cell for cell in read(path).cells if "self_check.questions(" in cell.source]
    (output,) = cell.outputs
    asked = self_check.questions(number_of(path))
    assert output.data["text/html"] == asked._repr_html_(), "Run: make notebooks"
    assert output.data["text/plain"] == repr(asked)


@pytest.fixture
def two_questions(tmp_path, monkeypatch):
    choices = [
        {"text": "`a < b`", "right": True, "why": "So it is & stays."},
        {"text": "no", "right": False, "why": "Look at `a`."},
    ]
    both = [{"question": "Is `a` less?", "choices": choices}] * 2
    (tmp_path / "questions-01.json").write_text(json.dumps(both), encoding="utf-8")
    monkeypatch.setattr(self_check, "DATA", tmp_path)
    return self_check.questions(1)


class Reader(HTMLParser):
    """What a browser makes of it: open tags, and text by the tag that holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1], data))


def test_a_choice_opens_without_a_script_and_its_code_is_code(two_questions):
    page, reader = two_questions._repr_html_(), Reader()
    reader.feed(page)
    assert not reader.open
    assert page.count("<details>") == 4 and "<script" not in page
    assert ("code", "a < b") in reader.texts and ("p", " So it is & stays.") in reader.texts
    assert [text for tag, text in reader.texts if tag == "b"] == ["Right:", "Not so:"] * 2


def test_text_alone_has_the_questions_and_does_not_tell_the_answers(two_questions):
    said = repr(two_questions)
    assert said.splitlines()[:3] == ["1. Is `a` less?", "   a) `a < b`", "   b) no"]
    assert "stays" not in said and "Right" not in said


# ------------------------------------------------------------------------------------- the words
def glossary() -> dict[str, str]:
    _, _, rest = README.read_text(encoding="utf-8").partition("\n## Glossary\n")
    items = re.findall(r"^- \*\*(.+?)\*\*:? (.+?)(?=^- |^#|\Z)", rest, re.MULTILINE | re.DOTALL)
    return {term: " ".join(text.split()) for term, text in items}


def test_the_glossary_explains_each_term_in_alphabetical_order():
    terms = glossary()
    assert {term.casefold() for term in TERMS} <= {term.casefold() for term in terms}
    assert list(terms) == sorted(terms, key=str.casefold)
    assert all(len(text.split()) >= 5 and text.endswith(".") for text in terms.values())


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_explained_where_the_course_first_uses_it(term):
    """In the cell of its first use it is in bold, which marks the place of its explanation."""
    written = re.compile(rf"(?<![\w-]){re.escape(term)}(?:s|es)?(?![\w-])", re.IGNORECASE)
    for path in NOTEBOOKS:
        for cell in read(path).cells:
            prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", cell.source)
            if cell.cell_type == "markdown" and written.search(prose):
                bold = [
                    re.sub(r"\s+", " ", one)
                    for one in re.findall(r"\*\*(.+?)\*\*", prose, re.DOTALL)
                ]
                assert any(written.fullmatch(one) for one in bold), f"{path.stem}: {prose[:400]}"
                return
    pytest.fail(f"no notebook uses {term!r}: take it out of the glossary")
