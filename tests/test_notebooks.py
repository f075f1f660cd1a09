"""Every notebook runs, solutions are right, all keep one shape, and what pages name exists."""

import ast
import base64
import builtins
import io
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import ulmfit_app
from ulmfit_app import __main__ as verbs
from ulmfit_app.course import OVERRIDE
from ulmfit_app.text.rules import FAKE, SPECIALS

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
TEXTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.md")),
]
PAGES = [*TEXTS, *NOTEBOOKS, *SOLUTIONS]
LONGEST_CELL = 8  # lines
LARGEST = 300_000  # bytes of a notebook with its outputs
OTHERS = {"save_encoder", "isin"}  # what the text of notebooks names of other packages
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_file = pytest.mark.parametrize(
    "path", NOTEBOOKS + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
each_page = pytest.mark.parametrize(
    "path", PAGES, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@dataclass(frozen=True)
class Words:
    """What the parts of a notebook are called in its language.

    Attributes:
        asks: what a heading that asks ends with.
        notice, attempt: what lines begin with, their colon left out.
        paper: how a section of the paper is named, and between is what divides sentences: regular
            expressions.
        check, questions, exercise: headings; the number follows that of an exercise.
        verdicts: not yet, right.
    """

    asks: str
    notice: str
    attempt: str
    colon: str
    paper: str
    between: str
    check: str
    questions: str
    exercise: str
    verdicts: tuple[str, str]


WORDS = {
    "en": Words(
        asks="?",
        notice="Notice",
        attempt="Try",
        colon=": ",
        paper=r"[Ss]ections? \d",
        between=r"(?<=[.?!])\s+(?=[A-Z`])",
        check="Check yourself",
        questions="Questions",
        exercise="Exercise ",
        verdicts=("Not yet", "Right"),
    ),
    "zh-Hant": Words(
        asks="？",
        notice="請注意",
        attempt="試試看",
        colon="：",
        paper=r"第 \d(?:\.\d)? 節",
        between=r"(?<=[。？！])(?=.)",
        check="自我檢查",
        questions="問題",
        exercise="練習 ",
        verdicts=("還不對", "正確"),
    ),
}


def words_of_notebook(path: Path) -> Words:
    return WORDS[read(path).metadata.get("lang", "en")]


def code_of(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def lesson_of(path: Path) -> str:
    """lesson_04, of 04-recipes.ipynb."""
    return f"lesson_{path.stem[:2]}"


def shown(cell: nbformat.NotebookNode) -> str:
    """All text among a cell's outputs."""
    texts = []
    for output in cell.outputs:
        texts += [output.get("text", ""), *output.get("traceback", [])]
        texts += [
            value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
        ]
    return "\n".join(texts).strip()


def noise(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Errors, and what stands on stderr: warnings, bars and log lines."""
    outputs = [output for cell in cells for output in cell.outputs]
    return [str(o)[:500] for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


# ------------------------------------------------------------------------------------ they all run
@each_notebook
def test_a_notebook_runs_anywhere_and_its_solutions_are_right(path, tmp_path, monkeypatch):
    monkeypatch.setenv(OVERRIDE, "tiny")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # As make notebooks does: a slow machine would say how far it is.
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook, solution = read(path), read(path.parent / "solutions" / path.name)
    n, words = len(notebook.cells), words_of_notebook(path)
    # In one kernel, since importing takes longer than running; but the solution gets no name of
    # the notebook.
    drawn_by = nbformat.v4.new_code_cell("import matplotlib\nmatplotlib.get_backend()")
    notebook.cells += [nbformat.v4.new_code_cell("%reset -f"), *solution.cells, drawn_by]
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [
        [cell for cell in part if cell.cell_type == "code"]
        for part in (notebook.cells[:n], notebook.cells[n:])
    ]
    assert noise(cells[0] + cells[1]) == []
    assert "inline" in shown(drawn_by), "what readers draw with pyplot would not be shown"
    verdicts = [
        [shown(cell) for cell in part if f"{lesson_of(path)}.check_" in cell.source]
        for part in cells
    ]
    for said, wanted in zip(verdicts, words.verdicts, strict=True):
        assert [one.split(words.colon.strip())[0] for one in said] == [wanted] * 3, said


# ------------------------------------------------------------------------------ as they are stored
@each_file
def test_stored_outputs_are_those_of_one_run_from_top_to_bottom(path):
    cells = code_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "Run: make notebooks"
    )
    assert noise(cells) == []


@each_file
def test_stored_outputs_are_small_and_name_no_machine(path):
    assert path.stat().st_size < LARGEST
    found = re.findall(
        r"\S*(?:/home/|/root/|/tmp/|/Users/|/work/|site-packages|[A-Z]:\\)\S*",
        "\n".join(map(shown, code_of(path))),
    )
    assert found == []


@each_file
def test_stored_figures_are_png(path):
    pictures = [
        o.data["image/png"]
        for cell in code_of(path)
        for o in cell.outputs
        if "image/png" in o.get("data", {})
    ]
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "<Figure" not in "".join(shown(cell) for cell in code_of(path) if not pictures)


# ----------------------------------------------------------------------------- they keep one shape
@each_file
def test_cells_are_short_and_define_no_function(path):
    for cell in code_of(path):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LONGEST_CELL, cell.source
        assert len(ast.parse(cell.source).body) <= LONGEST_CELL, cell.source
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(cell.source))), (
            cell.source
        )


@each_file
def test_the_first_cell_has_the_one_name_that_scales(path):
    first = code_of(path)[0].source.splitlines()
    assert first[0] == "from ulmfit_app.course import setup", (
        "what it silences is imported after it"
    )
    assert first[2].startswith('PRESET = "laptop"')
    assert first[3] == "settings = setup(PRESET)"


@each_notebook
def test_a_section_asks_answers_and_says_what_to_notice_and_to_try(path):
    cells, words = read(path).cells, words_of_notebook(path)
    asking = [
        i
        for i, cell in enumerate(cells)
        if cell.cell_type == "markdown" and cell.source.split("\n")[0].endswith(words.asks)
    ]
    asking = [i for i in asking if not cells[i].source.startswith(f"## {words.exercise}")]
    marks = f"({words.notice}|{words.attempt})"
    hidden = re.compile(rf"^[*_> ]+{marks}\b", re.MULTILINE)
    assert not [cell.source for cell in cells if hidden.search(cell.source)], "no mark before it"
    assert len(asking) >= 6
    for i in asking:
        question, *text = cells[i].source.split("\n")
        assert question.startswith("## ")
        text = " ".join(text)
        assert re.search(words.paper, text), f"{question}: which section of the paper?"
        sentences = re.split(words.between, text.strip())
        assert 2 <= len(sentences) <= 4, (question, sentences)
        assert cells[i + 1].cell_type == "code" and cells[i + 1].outputs, (
            f"{question}: nothing to see"
        )
        starts = [
            line.split(words.colon.strip())[0]
            for line in cells[i + 2].source.split("\n")
            if re.match(rf"{marks}{words.colon}\S", line)
        ]
        assert starts == [words.notice, words.attempt], question


@each_notebook
def test_a_notebook_ends_with_questions_and_three_exercises_that_a_cell_checks(path):
    cells, words = read(path).cells, words_of_notebook(path)
    heading = f"## {words.questions}"
    (start,) = [i for i, cell in enumerate(cells) if cell.source.startswith(heading)]
    assert f"(solutions/{path.name})" in cells[start].source
    exercises = [cells[i : i + 2] for i in range(start + 1, len(cells), 2)]
    for number, (task, answer) in enumerate(exercises, start=1):
        assert task.source.startswith(f"## {words.exercise}{number}{words.colon}")
        assert re.search(r"^\w+ = \.\.\.", answer.source, re.MULTILINE), (
            "three dots stand for the answer"
        )
        assert f"\n{lesson_of(path)}.check_" in answer.source
    assert len(exercises) == 3
    assert find_spec(f"ulmfit_app.course.{lesson_of(path)}")


@each_notebook
def test_solutions_answer_every_question_and_exercise(path):
    notebook, solution = prose_of(path), prose_of(path.parent / "solutions" / path.name)
    questions = re.findall(r"^\d\. (.+)$", notebook, re.MULTILINE)
    answered = re.findall(r"<summary>\d\. (.+?)</summary>", solution, re.DOTALL)
    assert [re.sub(r"</?code>", "`", " ".join(one.split())) for one in answered] == questions
    headings = re.compile(rf"^## {words_of_notebook(path).exercise}.+$", re.MULTILINE)
    assert headings.findall(solution) == headings.findall(notebook)


def test_no_solution_is_without_its_notebook():
    assert [path.name for path in SOLUTIONS] == [path.name for path in NOTEBOOKS]


# --------------------------------------------------------- what they, README and docs/ name exists
def snippets(path: Path) -> list[str]:
    """What stands in code spans and blocks of a page, a line each."""
    prose = prose_of(path)
    blocks = re.findall(r"^```\w*\n(.*?)^```", prose, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    return [line for block in blocks for line in block.splitlines()] + spans


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # not a command
        return []


def modules_run(path: Path) -> list[tuple[str, list[str]]]:
    """The module and the words behind it, of each `python -m` in a page."""
    lines = [words_of(line) for line in snippets(path)]
    found = [
        line[line.index("-m") + 1 :]
        for line in lines
        if "-m" in line and "python" in line[line.index("-m") - 1]
    ]
    return [(words[0], words[1:]) for words in found if words]


@lru_cache
def options(verb: str, kind: str = "") -> frozenset[str]:
    """What the verb's --help says it takes."""
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        verbs.main([verb, *([kind] if kind else []), "--help"])
    return frozenset(re.findall(r"--[a-z][\w.-]*", said.getvalue()))


def kinds_of_experiment() -> list[str]:
    return re.findall(r"ulmfit_app experiment (\w+)", verbs.__doc__)


@each_page
def test_commands_have_the_verbs_and_options_that_pages_say(path):
    for module, words in modules_run(path):
        if module in ("ulmfit_app", "ulmfit_app.run"):
            verb = "run" if module == "ulmfit_app.run" else words[0]
            assert verb in verbs.VERBS, words
            kind = words[1] if verb == "experiment" else ""
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= options(verb, kind), (module, words)
        elif module not in ("pip", "pytest", "venv"):
            assert find_spec(module), module


@each_page
def test_options_named_in_the_text_exist(path):
    known = frozenset().union(*(options(verb) for verb in verbs.VERBS if verb != "experiment"))
    known |= frozenset().union(*(options("experiment", kind) for kind in kinds_of_experiment()))
    scripts = {
        word for module, words in modules_run(path) if "ulmfit_app" not in module for word in words
    }
    named = {
        words[0]
        for words in map(words_of, snippets(path))
        if words and re.match(r"--[a-z]", words[0])
    }
    assert {name.partition("=")[0] for name in named} <= known | scripts


@each_page
def test_targets_of_make_exist(path):
    targets = re.findall(
        r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    named = [
        words[1]
        for words in map(words_of, snippets(path))
        if len(words) > 1 and words[0] == "make"
    ]
    assert set(named) <= set(targets)


@lru_cache
def defined() -> frozenset[str]:
    """Every name that the package defines: functions, classes, fields, parameters, constants."""
    names = set(dir(builtins)) | {*SPECIALS, FAKE}
    for path in Path(ulmfit_app.__file__).parent.rglob("*.py"):
        names.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
    return frozenset(names)


def names_in(code: str) -> set[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return names | {
        part for node in imports for alias in node.names for part in alias.name.split(".")
    }


@each_file
def test_names_in_the_text_of_a_notebook_exist(path):
    """A word alone may be a label or a token; what looks like code is held."""
    code = "\n".join(cell.source for cell in code_of(path))
    known = defined() | names_in(code) | set(re.findall(r"\w+", code)) | {OVERRIDE}
    looks_like_code = [
        one for one in snippets(path) if re.search(r"[_.(\[=]", one) and not one.endswith(".csv")
    ]
    known |= {name for one in snippets(path) if " import " in one for name in names_in(one)}
    unknown = {name for one in looks_like_code for name in names_in(one) if name not in known}
    assert unknown <= OTHERS, unknown
