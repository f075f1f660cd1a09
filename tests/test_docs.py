"""The pages that `make docs` writes, and where README and notebooks lead."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pdoc
import pytest

import ulmfit_app

ROOMS = Path(ulmfit_app.__file__).parent
ROOT = Path(__file__).parents[1]
WRITTEN = [*ROOT.glob("*.md"), *ROOT.glob("notebooks/**/*.md"), *ROOT.glob("notebooks/**/*.ipynb")]


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


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_link_to_a_file_or_a_heading_is_dead(path):
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in lines}
    links = [urlsplit(link) for link in re.findall(r"\]\(([^()\s]+)\)", text)]
    own = [to for to in links if not to.scheme]
    assert [
        to.path for to in own if to.path and not (path.parent / unquote(to.path)).exists()
    ] == []
    assert {to.fragment for to in own if to.fragment and not to.path} <= headings
