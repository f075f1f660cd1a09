"""What a notebook says of its outputs holds by other seeds, and no number in its text can rot.

python -m pytest -m slow tests/test_notices.py runs the notebooks at their own size, some minutes
each, by the seed of the stored outputs and by three others; -k "03 and seed2" runs one of them.
"""

import ast
import gc
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.test_notebooks import NOTEBOOKS, each_notebook, names_in, read, words_of_notebook
from ulmfit_app.course import OVERRIDE, PRESETS, SEED

SEEDS = (PRESETS["laptop"].seed, 1, 2, 3)


@dataclass(frozen=True)
class Section:
    """A cell with code, and what is written around it: "" and "" where it belongs to no section.

    Attributes:
        heading: without its marks.
        text: below the heading, before the code.
        code: of the cell.
        notice: from "Notice:" to "Try:", or what these are in its language.
    """

    heading: str
    text: str
    code: str
    notice: str

    @property
    def check(self) -> str:
        """Name of the function that checks the notice."""
        return re.sub(r"\W+", "_", self.heading.lower()).strip("_")


def sections(path: Path) -> list[Section]:
    cells, words, found = read(path).cells, words_of_notebook(path), []
    notices = rf"^{words.notice}{words.colon}(.+?)(?=^{words.attempt}{words.colon}|\Z)"
    for i, cell in enumerate(cells):
        if cell.cell_type == "code":
            before, after = (
                cells[j].source if 0 <= j < len(cells) and cells[j].cell_type == "markdown" else ""
                for j in (i - 1, i + 1)
            )
            heading, _, text = before.partition("\n")
            notice = re.search(notices, after, re.DOTALL | re.MULTILINE)
            heading = heading.removeprefix("## ")
            notice = " ".join(notice[1].split()) if notice else ""
            found.append(Section(heading, " ".join(text.split()), cell.source, notice))
    return found


def checks_of(path: Path) -> ModuleType:
    return importlib.import_module(f"tests.notices.notebook_{path.stem[:2]}")


def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    found = inspect.getmembers(module, inspect.isfunction)
    here = {name: one for name, one in found if one.__module__ == module.__name__}
    return {name: one for name, one in here.items() if not name.startswith("_")}


# ------------------------------------------------------------------------------------ they hold
def run_sections(path: Path) -> Iterator[tuple[Section, dict[str, Any]]]:
    """Run a notebook's cells one by one, and give the names that there are after each."""
    shell = InteractiveShell()
    shell.displayhook.write_output_prompt = lambda: None  # what a cell shows is not printed
    shell.displayhook.write_format_data = lambda *_: None
    try:
        for section in sections(path):
            printed = io.StringIO()
            with redirect_stdout(printed):
                result = shell.run_cell(section.code)
            result.raise_error()
            seen = {"shown": result.result, "printed": printed.getvalue()}
            yield section, shell.user_ns | seen
    finally:
        shell.reset(new_session=False)
        gc.collect()  # models of some GB, which the next notebook needs


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed{seed}")
@each_notebook
def test_no_notice_is_contradicted_by_another_seed(path, seed, tmp_path, monkeypatch):
    monkeypatch.setenv(SEED, str(seed))
    monkeypatch.delenv(OVERRIDE, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.chdir(tmp_path)
    checks, contradicted = functions_of(checks_of(path)), []
    for section, names in run_sections(path):
        if section.notice:
            check = checks[section.check]
            try:
                check(**{name: names[name] for name in inspect.signature(check).parameters})
            except AssertionError as error:
                contradicted.append(f"{section.heading}\n{section.notice}\n{error}")
    assert not contradicted, "\n\n".join(contradicted)


# ------------------------------------------------------------------------- each one has its check
@each_notebook
def test_every_notice_has_a_check_that_can_fail_and_every_check_a_notice(path):
    checks, told = functions_of(checks_of(path)), [one for one in sections(path) if one.notice]
    assert sorted(checks) == sorted(one.check for one in told)
    for name, check in checks.items():
        tree = ast.parse(inspect.getsource(check))
        asserted = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        constant = [node for node in asserted if isinstance(node.test, ast.Constant)]
        assert asserted and not constant, name


@each_notebook
def test_checks_use_names_that_the_notebook_has_by_then(path):
    checks, known = functions_of(checks_of(path)), {"shown", "printed"}
    for section in sections(path):
        known |= names_in(section.code)
        if section.notice:
            parameters = set(inspect.signature(checks[section.check]).parameters)
            assert parameters <= known, section.heading
            assert parameters, f"{section.heading}: nothing that the notebook computed is checked"


# --------------------------------------------------------------------------- numbers in the text
# Facts of the paper, of the files that come with the package, and of arithmetic.
FACTS = (
    "103 million words",
    "95 %",
    "0.69, the logarithm of 2",
    # Notebook 01: the definition of an interval, arithmetic, and the paper's.
    "of 100 test parts drawn in the same way, about 95 give",
    "by a factor of 4, and the width of the interval shrinks by a factor of about 2",
    "10 % of the training texts",
    "`xxunk` is id 0 and `xxpad` is id 1",  # notebook 02
    "TREC-6",
    "95 of 100 samples",  # notebook 06, what chance gives
    "Guo et al. 2017",
    "chunks of 72 tokens",  # fastai's
    # Notebook 09: when papers came out; a model's name.
    "Hu et al. 2021",
    "Tunstall et al. 2022",
    "GPT-2",
    "(IA)3",
    "SmolLM2",
    # Notebook 10: papers, the standard's name of a name, and what an interval is.
    "Kudo 2018",
    "UTF-8",
    "95%",
    "F1",  # notebook 11, a name
    # Notebook 12: papers.
    "Kamiran and Calders 2012",
    "Hardt et al. 2016",
    "Garg et al. 2019",
    "Guillory et al. 2021",
    # Notebook 08: versions.
    "pandas 2",
    "pandas 3",
)
QUANTITY = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty"
    "|sixty|seventy|eighty|ninety"
    "|half|quarter|third|tenth|dozen|hundred)s?"
)
MEASURED = re.compile(rf"\b{QUANTITY}\b(?: \w+){{0,2}} (?:points?|times|percent|per cent|%)")
REFERENCE = re.compile(
    r"`[^`]*`|\]\([^)]*\)|fastai#\d+"
    r"|(?:[Ss]ections?|tables?|figures?|equations?|notebooks?|exercises?) [\d., and]*\d"
    r"|第 [\d.]+ 節|(?:圖|表|筆記) \d+"
)


def numbers_in_text(section: Section) -> set[str]:
    """Numbers in a section's text that are neither of its code nor a fact that stays."""
    text = f"{section.heading} {section.text} {section.notice}"
    for fact in FACTS:
        text = text.replace(fact, "")
    text = REFERENCE.sub("", text)
    in_code = {one.replace("_", "") for one in re.findall(r"\d[\d_.]*", section.code)}
    found = {one.rstrip(".,") for one in re.findall(r"\d[\d.,]*", text)}
    found = {one for one in found if one.replace(",", "") not in in_code}
    return found | {one[0] for one in MEASURED.finditer(section.notice)}


@each_notebook
def test_no_number_in_the_text_could_be_contradicted_by_an_output(path):
    told = {one.heading: numbers_in_text(one) for one in sections(path) if one.notice}
    assert not {heading: found for heading, found in told.items() if found}


def test_there_is_a_seed_beside_that_of_the_stored_outputs_for_every_notebook():
    assert len(set(SEEDS)) == 4 and NOTEBOOKS
