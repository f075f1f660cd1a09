"""Write the course as pages that open without a server, a network or a script.

    python notebooks/site.py FOLDER

Each notebook and each solution becomes a page with the outputs that it stores; README.md becomes
index.html, glossary included. nbconvert renders them; what stands around them, how they look and
where their links lead is decided here and in site.css. A page holds its pictures and its style,
and its policy keeps it from loading anything else.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from string import Template
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
COURSE = "ULMFiT in ten notebooks"
MADE_BY = "notebooks/site.py"  # a page with this may be replaced
SOLUTIONS = "solutions/"
PAGE = Template("""<!DOCTYPE html>
<html lang="$language"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src \
'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="$made_by">
<title>$title</title>
<style>
$style</style></head><body>
<a class="skip" href="#content">$skip</a>
<header><nav aria-label="$course">$around</nav></header>
<main id="content">
$body
</main>
<footer><nav aria-label="$beside">$around</nav></footer>
</body></html>
""")
# What stands around a page, by the language that its notebook's metadata names.
WORDS = {
    "en": dict(
        skip="Skip to the text",
        course="Course",
        beside="Before and after",
        contents="On this page",
        notebook="The notebook",
        solutions="Solutions",
        figure="Figure. ",
    ),
    "zh-Hant": dict(
        skip="跳到內文",
        course="課程",
        beside="上一頁與下一頁",
        contents="本頁內容",
        notebook="筆記本",
        solutions="解答",
        figure="圖：",
    ),
}
# Classes of paragraphs, by what they begin with.
MARKS = {"Notice:": "notice", "Try:": "try", "請注意：": "notice", "試試看：": "try"}


class SiteError(Exception):
    """What is wrong with a page, and where."""


@dataclass
class Page:
    """A page of the site.

    Attributes:
        source: of it, from the folder of the notebooks; a folder where it lists that folder.
        path: of it, from the folder of the site.
        body: its HTML, with the links of its source until they are rewritten.
        title: text of its first heading.
        headings: the ids and texts of its second-level headings, in order.
        language: of WORDS.
    """

    source: str
    path: PurePosixPath
    body: BeautifulSoup
    title: str = ""
    headings: dict[str, str] = field(default_factory=dict)
    language: str = "en"

    def __post_init__(self) -> None:
        used: set[str] = set()
        for heading in self.body.find_all(re.compile("^h[1-6]$")):
            heading["id"] = name = _unused(slug(heading.get_text()), used)
            used.add(name)
            if heading.name == "h2":
                self.headings[name] = heading.get_text()
        first = self.body.find("h1")
        if first is None:
            raise SiteError(f"{self.source} has no heading of the first level, such as: # 01 Text")
        self.title = first.get_text()

    def ids(self) -> set[str]:
        """What its anchors can lead to."""
        return {tag["id"] for tag in self.body.find_all(id=True)} | {"content"}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it.

    >>> slug("Break it: what is a leak worth?")
    'break-it-what-is-a-leak-worth'
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _unused(name: str, used: set[str]) -> str:
    return next(
        one for n in range(len(used) + 1) if (one := f"{name}-{n}" if n else name) not in used
    )


# ------------------------------------------------------------------------------ from files to HTML
def read_pages(folder: Path) -> list[Page]:
    """The pages of a folder of notebooks: index, notebooks, solutions, and the list of these.

    Raises:
        SiteError: a notebook has no solution, a solution has no notebook, or there are none.
    """
    notebooks, solutions = (
        sorted(path.relative_to(folder).as_posix() for path in place.glob("*.ipynb"))
        for place in (folder, folder / SOLUTIONS)
    )
    if not notebooks:
        raise SiteError(f"Expected notebooks in {folder}. Found none.")
    alone = {SOLUTIONS + name for name in notebooks} ^ set(solutions)
    if alone:
        raise SiteError(f"Each notebook needs a solution of its name. Alone: {sorted(alone)}")
    readme = markdown2html((folder / "README.md").read_text(encoding="utf-8"))
    pages = [Page("README.md", PurePosixPath("index.html"), _parse(readme))]
    # One for all: it compiles its templates.
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    for source in (*notebooks, *solutions):
        html, language = render_notebook(folder / source, exporter)
        path = PurePosixPath(source).with_suffix(".html")
        pages.append(Page(source, path, _parse(html), language=language))
    items = "".join(
        f'<li><a href="{PurePosixPath(page.source).name}" lang="{page.language}">'
        f"{escape(page.title)}</a></li>"
        for page in pages
        if page.source in solutions
    )
    listed = _parse(f'<h1>Solutions</h1><ul class="pages">{items}</ul>')
    return [*pages, Page(SOLUTIONS, PurePosixPath(SOLUTIONS) / "index.html", listed)]


def render_notebook(path: Path, exporter: HTMLExporter) -> tuple[str, str]:
    """A notebook with its stored outputs as HTML, without a page around it; and its language.

    A picture's alternative text is what the output says in words.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except ValueError as error:
        raise SiteError(f"{path} is no notebook: {error}") from error
    language = notebook.metadata.get("lang", "en")
    if language not in WORDS:
        raise SiteError(
            f"{path} has the language {language!r} in its metadata. Expected one of: "
            f"{', '.join(WORDS)}"
        )
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                words = " ".join(output["data"].get("text/plain", "").split())
                words = words.replace("Figure. ", WORDS[language]["figure"], 1)
                output["metadata"] = {"image/png": {"alt": words}}
    return exporter.from_notebook_node(notebook)[0], language


def _parse(html: str) -> BeautifulSoup:
    """HTML, with what the style of the site needs and without any other style."""
    soup = BeautifulSoup(html, "html.parser")
    for tag in soup.find_all(["style", "script"]) + soup.find_all(class_="anchor-link"):
        tag.decompose()
    for table in soup.find_all("table"):
        del table["border"]
        table.wrap(soup.new_tag("div", attrs={"class": "wide", "tabindex": "0"}))
    for code in soup.find_all("pre"):
        code["tabindex"] = "0"
    for text in soup.find_all(string=re.compile(r"\d %")):
        if not text.find_parent(["code", "pre"]):
            text.replace_with(re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text))
    for paragraph in soup.find_all("p"):
        begun = paragraph.get_text()
        names = [name for mark, name in MARKS.items() if begun.startswith(mark)]
        if names:
            paragraph["class"] = names
    return soup


# ------------------------------------------------------------------------------------------- links
def link_pages(pages: list[Page]) -> None:
    """Make links between sources links between pages.

    Raises:
        SiteError: a link leads to what is no page, or to an anchor that a page does not have; or a
            page would load a file.
    """
    by_source = {page.source: page for page in pages}
    ids = {page.source: page.ids() for page in pages}
    for page in pages:
        for image in page.body.find_all(src=True):
            if not image["src"].startswith("data:"):
                raise SiteError(
                    f"{page.source} loads a file, which a page may not: {image['src']}"
                )
        for link in page.body.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = page.source
            if parts.path:
                target = _resolve(page.source, unquote(parts.path))
            anchor = slug(unquote(parts.fragment).replace("-", " "))
            if target not in by_source or (anchor and anchor not in ids[target]):
                wanted = f"#{parts.fragment} of {target}" if target in by_source else target
                raise SiteError(
                    f"{page.source} has a link that leads nowhere: {link['href']}. The site has "
                    f"no {wanted}."
                )
            path = "" if target == page.source and anchor else _from(page, by_source[target])
            link["href"] = path + (f"#{anchor}" if anchor else "")


def _resolve(source: str, path: str) -> str:
    """A path in a source, from the folder of the notebooks."""
    resolved = os.path.normpath(PurePosixPath(source).parent / path).replace(os.sep, "/")
    return f"{resolved}/" if path.endswith("/") else resolved


def _from(page: Page, other: Page) -> str:
    """The path that leads from a page to another one."""
    return os.path.relpath(other.path, page.path.parent).replace(os.sep, "/")


# ------------------------------------------------------------------------------ the pages, written
def assemble(page: Page, pages: list[Page], style: str) -> str:
    """A whole page: its body, its contents, and links to what stands before and after it."""
    words = WORDS[page.language]
    around = [("", "README.md", "en", COURSE), *_neighbours(page, pages)]
    by_source = {one.source: one for one in pages}
    links = "\n".join(
        f'<a class="{kind or "home"}" href="{_from(page, by_source[source])}" lang="{language}">'
        f"{escape(text)}</a>"
        for kind, source, language, text in around
    )
    items = "".join(
        f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in page.headings.items()
    )
    # Beside the text where there is room for it, else folded; the style hides one of them.
    name = words["contents"]
    beside = f'<nav class="contents" aria-label="{name}"><ol>{items}</ol></nav>'
    folded = f"<details><summary>{name}</summary><ol>{items}</ol></details>"
    if items:
        folded = f'<nav class="contents folded" aria-label="{name}">{folded}</nav>'
        page.body.find("h1").insert_after(_parse(folded))
    return PAGE.substitute(
        made_by=MADE_BY,
        language=page.language,
        **{name: words[name] for name in ("skip", "course", "beside")},
        title=escape(page.title if page.title == COURSE else f"{page.title} · {COURSE}"),
        style=style,
        around=links,
        body=(beside if items else "") + str(page.body),
    )


def _neighbours(page: Page, pages: list[Page]) -> Iterator[tuple[str, str, str, str]]:
    """Kind, source, language and text of the links to the pages around a page."""
    in_solutions = page.source.startswith(SOLUTIONS)
    row = [
        one
        for one in pages
        if one.source.endswith(".ipynb") and one.source.startswith(SOLUTIONS) == in_solutions
    ]
    sources = [one.source for one in row]
    if page.source not in sources:
        yield "next", row[0].source, row[0].language, row[0].title
        return
    place, words = sources.index(page.source), WORDS[page.language]
    if place:
        before = row[place - 1]
        yield "previous", before.source, before.language, before.title
    if in_solutions:
        other, text = page.source.removeprefix(SOLUTIONS), words["notebook"]
    else:
        other, text = SOLUTIONS + page.source, words["solutions"]
    yield "other", other, page.language, text
    if place + 1 < len(row):
        after = row[place + 1]
        yield "next", after.source, after.language, after.title


def read_style() -> str:
    """site.css, and the colours of code for light and dark."""
    light, dark = (
        HtmlFormatter(style=name).get_style_defs(".highlight")
        for name in ("default", "github-dark")
    )
    on_paper = f"@media (prefers-color-scheme: dark) {{ @media screen {{\n{dark}\n}} }}\n"
    return f"{light}\n{on_paper}{(HERE / 'site.css').read_text(encoding='utf-8')}"


def _is_ours(path: Path) -> bool:
    """Whether a path in a site is a folder, or a page that this script wrote."""
    mark = f'<meta name="generator" content="{MADE_BY}">'
    if path.is_dir():
        return not path.is_symlink() and path.name == SOLUTIONS.strip("/")
    return path.suffix == ".html" and mark in path.read_text(encoding="utf-8", errors="replace")


def write_site(source: Path, folder: Path) -> list[Path]:
    """Write the course's pages; they take the place of those that were written before.

    Args:
        source: the folder of the notebooks.
        folder: of the site; new, empty, or written by this script.

    Returns:
        The paths of the pages, the index first.

    Raises:
        SiteError: see read_pages and link_pages; or the folder holds something else.
    """
    folder = folder.resolve()  # a link stays, and leads to the new pages
    is_other = folder.exists() and not folder.is_dir()
    if is_other or not all(map(_is_ours, folder.rglob("*"))):
        raise SiteError(f"{folder} holds something else. Name a folder that is new or empty.")
    pages = read_pages(source)
    link_pages(pages)
    style = read_style()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workspace:
        draft = Path(workspace) / "new"
        for page in pages:
            path = draft / page.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(assemble(page, pages, style), encoding="utf-8")
        if folder.exists():
            os.replace(folder, Path(workspace) / "old")
        os.replace(draft, folder)
    return [folder / page.path for page in pages]


def main(arguments: list[str]) -> None:
    """Write the site into the folder that is the only argument."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    try:
        pages = write_site(HERE, Path(arguments[0]))
    except (SiteError, OSError) as error:
        sys.exit(str(error))
    print(f"{len(pages)} pages. Open {pages[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
