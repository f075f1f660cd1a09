"""The pages that `make docs` writes, and what README, docs/ and notebooks lead to and name."""

import ast
import re
import runpy
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pdoc
import pytest
from PIL import Image

import ulmfit_app
from tests.test_notebooks import TEXTS, prose_of, snippets

ROOMS = Path(ulmfit_app.__file__).parent
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))
each_text = pytest.mark.parametrize(
    "path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}"
)


class Page(HTMLParser):
    """Where a page leads, and the names in it to which a link can lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links |= {found[name] for name in ("href", "src") if found.get(name)}
        self.anchors |= {found["id"]} if found.get("id") else set()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("api")
    pdoc.pdoc("ulmfit_app", "data_scripts", output_directory=folder)
    return {path: Page(path) for path in folder.rglob("*.html")}


# --------------------------------------------------------------------------- what make docs writes
def test_every_module_has_a_page(pages):
    # A name that begins with an underscore is nobody's to import.
    modules = {path.stem for path in ROOMS.rglob("*.py") if not path.stem.startswith("_")}
    assert len(modules) > 30
    assert modules <= {path.stem for path in pages}


def test_no_link_between_pages_is_dead(pages):
    dead, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or link == "#":
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            followed += 1
            if not target.is_file() or (
                to.fragment and unquote(to.fragment) not in pages[target].anchors
            ):
                dead.append((path.name, link))
    assert followed > 1_000
    assert dead == []


# ---------------------------------------------------------------------------- where our pages lead
def links_of(path: Path) -> list[str]:
    """Where a page or a notebook leads, pictures included."""
    return re.findall(r"\]\(([^()\s]+)\)", path.read_text(encoding="utf-8"))


def anchors_of(path: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in lines}


def is_dead(path: Path, link: str) -> bool:
    """Whether a link of a page names a file or a heading that is not there."""
    to = urlsplit(link)
    if to.scheme:
        return False
    target = path.parent / unquote(to.path) if to.path else path
    if not target.exists():
        return True
    return target.suffix == ".md" and bool(to.fragment) and to.fragment not in anchors_of(target)


@pytest.mark.parametrize(
    "path", [*TEXTS, *NOTEBOOKS], ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_link_to_a_file_a_picture_or_a_heading_is_dead(path):
    assert [link for link in links_of(path) if is_dead(path, link)] == []


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#two) [c](no.md) ![d](page.md#three)")
    assert [link for link in links_of(page) if is_dead(page, link)] == [
        "#two",
        "no.md",
        "page.md#three",
    ]


def test_the_readme_leads_to_every_page_of_docs():
    linked = {(ROOT / urlsplit(link).path).resolve() for link in links_of(README)}
    assert len(DOCS) > 7
    assert {path.name for path in DOCS if path not in linked} == set()


def test_every_picture_of_docs_is_shown():
    shown = {(path.parent / link).resolve() for path in TEXTS for link in links_of(path)}
    assert {path.name for path in ROOT.glob("docs/**/*.png") if path not in shown} == set()


def test_the_picture_of_the_stages_is_what_its_script_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["three_stages.py", str(tmp_path / "drawn.png")])
    runpy.run_path(str(ROOT / "docs" / "three_stages.py"), run_name="__main__")
    stored, drawn = (
        Image.open(ROOT / "docs" / "three-stages.png"),
        Image.open(tmp_path / "drawn.png"),
    )
    assert stored.size == drawn.size
    # Another version of matplotlib may set a letter a pixel further; a word more or less is seen.
    grey = [np.asarray(picture.convert("L").reduce(16), float) for picture in (stored, drawn)]
    assert np.abs(grey[0] - grey[1]).max() < 25, "Run: python docs/three_stages.py"


# ----------------------------------------------------------------------------- what our pages name
@each_text
def test_modules_that_a_page_names_exist(path):
    named = set(
        re.findall(r"\b(?:ulmfit_app|data_scripts|tests\.bench)(?:\.\w+)+", prose_of(path))
    )
    assert {name for name in named if not find_spec(name)} == set()


@each_text
def test_files_of_python_that_a_page_names_exist(path):
    """By their name alone, behind their room, or behind their package too."""
    named = {one for one in snippets(path) if re.fullmatch(r"[\w./]+\.py", one)}
    files = {file for folder in (ROOMS, ROOT / "data_scripts") for file in folder.rglob("*.py")}
    ends = {"/".join(file.relative_to(ROOT).parts[-n:]) for file in files for n in (1, 2, 3)}
    assert named <= ends, named - ends


@each_text
def test_tests_that_a_page_names_exist(path):
    named = {one for one in snippets(path) if re.fullmatch(r"test_\w+", one)}
    tests = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named <= tests, named - tests


def test_the_map_has_every_room_and_every_file_beside_them():
    rows = prose_of(README).split("## The map")[1].split("\n## ")[0].split("\n\n")[1]
    first = "".join(line.split("|")[1] for line in rows.splitlines()[2:])
    rooms = {f"{path.name}/" for path in ROOMS.iterdir() if path.is_dir()} - {"__pycache__/"}
    files = {path.name for path in ROOMS.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`([^`]+)`", first)) == rooms | files


def test_the_readme_is_short_enough_for_a_newcomer():
    words = [word for word in prose_of(README).split() if any(map(str.isalnum, word))]
    assert 700 <= len(words) <= 1_100
