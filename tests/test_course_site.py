"""The course as pages: links lead somewhere, nothing is loaded, and a phone can show it."""

import base64
import importlib.util
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.test_browser import CHROMIUM, chromium

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SPEC = importlib.util.spec_from_file_location("course_site", NOTEBOOKS / "site.py")
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)

PNG = base64.b64encode(b"\x89PNG\r\n").decode()
# Each page stands in a frame of the width of a phone or of a screen, and says how wide it would
# be and how high.
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">FRAMES
<script>
addEventListener("load", () => {
  const sizes = [...document.querySelectorAll("iframe")].map(({contentDocument: page}) => {
    const root = page.documentElement;
    const drawn = [...page.images].filter((image) => image.getBoundingClientRect().width > 0);
    return [root.scrollWidth, root.clientWidth, drawn.length, page.images.length];
  });
  const shown = document.createElement("pre");
  shown.textContent = JSON.stringify(sizes);
  document.body.append(shown);
});
</script></body>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[Path, BeautifulSoup]:
    """Path from the site's folder -> page, of the course as it is."""
    folder = tmp_path_factory.mktemp("site") / "course"
    paths = site.write_site(NOTEBOOKS, folder)
    return {path: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in paths}


def write_course(folder: Path, **texts: str) -> Path:
    """Two notebooks, their solutions and a README, all small.

    Args:
        folder: to write them in.
        texts: name of a file without its ending, such as notebook_2 -> Markdown at its end.
    """
    cells = {
        "notebook_1": [
            "# 01 One",
            "## Why?\n\nNotice: 5 % of it.",
            "[answers](solutions/01.ipynb)",
        ],
        "notebook_2": ["# 02 Two", "[one](01.ipynb#Why?)"],
        "solution_1": ["# Solutions of 01", "[questions](../01.ipynb#why)"],
        "solution_2": ["# Solutions of 02"],
    }
    (folder / "solutions").mkdir(parents=True)
    readme = (
        "# The course\n\n[One](01.ipynb), [solutions](solutions/), [words](#words)\n\n## Words\n"
    )
    (folder / "README.md").write_text(readme + texts.pop("readme", ""), "utf-8")
    for name, sources in cells.items():
        kind, number = name.split("_")
        made = new_notebook(cells=[new_markdown_cell(one) for one in sources])
        made.cells.append(new_markdown_cell(texts.pop(name, "")))
        data = {"image/png": PNG, "text/plain": 'Figure. "Two"\nlines.'}
        output = new_output("display_data", data=data)
        made.cells.append(new_code_cell("draw()", outputs=[output]))
        place = folder / "solutions" if kind == "solution" else folder
        nbformat.write(made, place / f"0{number}.ipynb")
    assert not texts
    return folder


def page_language(name: str) -> str:
    """Of a page of the course, by the name of its file."""
    return "zh-Hant" if "chinese" in name else "en"


def read(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


# ---------------------------------------------------------------------------- the course as it is
def test_there_is_a_page_for_each_notebook_and_each_solution_and_an_index(pages):
    names = {path.relative_to(path.parents[len(path.parents) - 1]) for path in pages}
    assert len(names) == len(pages)
    root = next(iter(pages)).parent
    wanted = {"index.html", "solutions/index.html"}
    for source in (*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb")):
        wanted.add(source.relative_to(NOTEBOOKS).with_suffix(".html").as_posix())
    assert {path.relative_to(root).as_posix() for path in pages} == wanted
    assert next(iter(pages)) == root / "index.html"


def test_every_link_of_the_course_leads_to_a_page_and_a_place_on_it(pages):
    ids = {
        path.resolve(): {tag["id"] for tag in page.find_all(id=True)}
        for path, page in pages.items()
    }
    inside = 0
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            if re.match(r"https?://", link["href"]):
                continue
            to, _, anchor = link["href"].partition("#")
            target = (path.parent / unquote(to)).resolve() if to else path.resolve()
            assert target in ids, (path.name, link["href"])
            assert not anchor or anchor in ids[target], (path.name, link["href"])
            inside += 1
    assert inside > 300


def test_from_the_index_each_page_can_be_reached(pages):
    index = next(iter(pages))
    seen, left = set(), [index.resolve()]
    by_path = {path.resolve(): page for path, page in pages.items()}
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        links = [a["href"].partition("#")[0] for a in by_path[path].find_all("a", href=True)]
        left += [(path.parent / one).resolve() for one in links if one and "://" not in one]
    assert seen == set(by_path)


def test_every_picture_of_the_course_is_described(pages):
    pictures = [
        (path.name, image) for path, page in pages.items() for image in page.find_all("img")
    ]
    assert len(pictures) >= 16
    for name, image in pictures:
        alt = image.get("alt", "")
        begins = "圖：" if page_language(name) == "zh-Hant" else "Figure. "
        assert alt.startswith(begins) and len(alt) > 40, (name, alt)


def test_a_page_loads_nothing_and_runs_nothing(pages):
    for path, page in pages.items():
        html = path.read_text("utf-8")
        loading = page.find_all(["script", "link", "iframe", "object", "embed", "base", "form"])
        assert loading == [], path.name
        assert all(tag["src"].startswith("data:") for tag in page.find_all(src=True)), path.name
        assert page.find_all(srcset=True) == [] and "@import" not in html and "url(" not in html
        assert not [
            tag for tag in page.find_all(True) if any(a.startswith("on") for a in tag.attrs)
        ]
        policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        assert "default-src 'none'" in policy and "http" not in policy


def test_a_page_has_what_readers_of_all_kinds_need(pages):
    for path, page in pages.items():
        assert page.html["lang"] == page_language(path.name)
        assert "width=device-width" in page.find("meta", attrs={"name": "viewport"})["content"]
        assert len(page.find_all("h1")) == 1 and page.title.get_text().startswith(
            page.h1.get_text()
        )
        skip = page.find("a", class_="skip")
        assert page.find(id=skip["href"][1:]).name == "main"
        ids = [tag["id"] for tag in page.find_all(id=True)]
        assert len(ids) == len(set(ids)), path.name
        style = page.style.get_text()
        for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 100%"):
            assert rule in style


def test_the_notebooks_follow_each_other_and_name_their_solutions(pages):
    root = next(iter(pages)).parent
    names = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    names = [name.replace(".ipynb", ".html") for name in names]
    for folder in (root, root / "solutions"):
        for before, after in zip(names, names[1:], strict=False):
            header = pages[folder / before].header
            assert header.find("a", class_="next")["href"] == after
            assert pages[folder / after].header.find("a", class_="previous")["href"] == before
    for name in names:
        assert pages[root / name].header.find("a", class_="other")["href"] == f"solutions/{name}"
        other = pages[root / "solutions" / name].header.find("a", class_="other")
        assert other["href"] == f"../{name}"


def test_a_page_lists_its_questions(pages):
    root = next(iter(pages)).parent
    page = pages[root / "03-a-language-model-learns.html"]
    headings = [heading.get_text() for heading in page.find_all("h2")]
    contents = page.find("nav", class_="contents")
    assert [link.get_text() for link in contents.find_all("a")] == headings
    assert sum(heading.endswith("?") for heading in headings) >= 6
    assert "¶" not in page.main.get_text()


def test_the_glossary_is_on_the_index(pages):
    index = next(iter(pages.values()))
    assert index.find("h2", id="glossary")
    assert {"Perplexity", "LSTM"} <= {bold.get_text() for bold in index.find_all("strong")}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [390, 1200])
def test_no_page_is_wider_than_the_screen_and_all_pictures_are_drawn(pages, width):
    root = next(iter(pages)).parent
    frames = "".join(
        f'<iframe src="{path.relative_to(root).as_posix()}" '
        f'style="width: {width}px; height: 800px; border: 0"></iframe>'
        for path in pages
    )
    (root / "frames.html").write_text(FRAMES.replace("FRAMES", frames), "utf-8")
    dom = chromium(root / "frames.html", f"--window-size={width},800", "--dump-dom")
    sizes = json.loads(re.search("<pre>(.*)</pre>", dom, flags=re.DOTALL)[1])
    assert len(sizes) == len(pages)
    for path, (needed, there, drawn, pictures) in zip(pages, sizes, strict=True):
        assert needed <= there <= width, path.name
        assert drawn == pictures, path.name


# --------------------------------------------------------------------------------- small courses
def test_sources_become_pages_and_links_between_them_too(tmp_path):
    folder = write_course(tmp_path / "notebooks")
    site.write_site(folder, tmp_path / "out")
    two, solution = (read(tmp_path / "out" / name) for name in ("02.html", "solutions/01.html"))
    assert two.main.find("a", string="one")["href"] == "01.html#why"
    assert solution.main.find("a", string="questions")["href"] == "../01.html#why"
    assert two.img["alt"] == 'Figure. "Two" lines.'
    index = read(tmp_path / "out" / "index.html").main
    assert [index.find("a", string=one)["href"] for one in ("One", "solutions", "words")] == [
        "01.html",
        "solutions/index.html",
        "#words",
    ]
    notice = read(tmp_path / "out" / "01.html").find("p", class_="notice")
    assert notice.get_text() == "Notice: 5\N{NO-BREAK SPACE}% of it."


def test_around_a_chinese_notebook_the_words_are_chinese_and_links_say_their_language(tmp_path):
    folder = write_course(
        tmp_path / "notebooks", notebook_2="請注意：看這裡。\n\n試試看：再一次。"
    )
    chinese = nbformat.read(folder / "02.ipynb", as_version=4)
    chinese.metadata["lang"] = "zh-Hant"
    nbformat.write(chinese, folder / "02.ipynb")
    site.write_site(folder, tmp_path / "out")
    one, two = (read(tmp_path / "out" / name) for name in ("01.html", "02.html"))
    assert (one.html["lang"], two.html["lang"]) == ("en", "zh-Hant")
    assert one.header.find("a", class_="next")["lang"] == "zh-Hant"
    assert two.header.find("a", class_="previous")["lang"] == "en"
    assert two.find("a", class_="skip").get_text() == "跳到內文"
    assert two.header.find("a", class_="other").get_text() == "解答"
    assert two.find("p", class_="notice").get_text() == "請注意：看這裡。"
    assert two.find("p", class_="try").get_text() == "試試看：再一次。"
    assert two.img["alt"] == '圖："Two" lines.'
    chinese.metadata["lang"] = "xx"
    nbformat.write(chinese, folder / "02.ipynb")
    with pytest.raises(site.SiteError, match="language 'xx' in its metadata. Expected one of: en"):
        site.write_site(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("where", "link", "said"),
    [
        (
            "notebook_2",
            "[three](03.ipynb)",
            r"02\.ipynb has a link that leads nowhere: 03\.ipynb\.",
        ),
        ("solution_1", "[one](01.ipynb#how)", r"solutions/01\.ipynb .*no #how of solutions/01"),
        ("readme", "[up](../docs/trust.md)", r"README\.md .*The site has no \.\./docs/trust\.md"),
        ("readme", "[here](#nowhere)", r"no #nowhere of README\.md"),
        ("notebook_1", "![plot](plot.png)", r"01\.ipynb loads a file, .*: plot\.png"),
    ],
)
def test_a_link_that_leads_nowhere_is_named_with_its_page(tmp_path, where, link, said):
    folder = write_course(tmp_path / "notebooks", **{where: link})
    with pytest.raises(site.SiteError, match=said):
        site.write_site(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


def test_a_notebook_without_a_solution_or_a_title_is_refused(tmp_path):
    folder = write_course(tmp_path / "notebooks")
    (folder / "solutions" / "02.ipynb").rename(folder / "solutions" / "03.ipynb")
    with pytest.raises(
        site.SiteError, match=r"Alone: \['solutions/02.ipynb', 'solutions/03.ipynb'"
    ):
        site.write_site(folder, tmp_path / "out")
    nbformat.write(new_notebook(cells=[new_markdown_cell("## Why?")]), folder / "02.ipynb")
    (folder / "solutions" / "03.ipynb").rename(folder / "solutions" / "02.ipynb")
    with pytest.raises(site.SiteError, match=r"02\.ipynb has no heading of the first level"):
        site.write_site(folder, tmp_path / "out")
    with pytest.raises(site.SiteError, match="Expected notebooks in .*Found none"):
        site.write_site(tmp_path / "elsewhere", tmp_path / "out")


def test_pages_are_replaced_when_all_are_made_and_nothing_else_ever_is(tmp_path, capsys):
    folder, out = write_course(tmp_path / "notebooks"), tmp_path / "out"
    site.write_site(folder, out)
    shutil.copy(out / "01.html", out / "old.html")  # of an earlier course
    site.write_site(folder, out)
    assert not (out / "old.html").exists() and (out / "02.html").exists()
    before = (out / "01.html").read_bytes()
    (folder / "README.md").write_text("# The course\n\n[lost](lost.md)", "utf-8")
    with pytest.raises(site.SiteError, match=r"lost\.md"):
        site.write_site(folder, out)
    assert (out / "01.html").read_bytes() == before
    mended = write_course(tmp_path / "mended")
    for name in ("mynotes.txt", "solutions/mine.html", ".git/config"):
        own = out / name
        own.parent.mkdir(exist_ok=True)
        own.write_text("my own")
        with pytest.raises(site.SiteError, match="out holds something else"):
            site.write_site(mended, out)
        assert own.read_text() == "my own"
        own.unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my own")
    with pytest.raises(site.SiteError, match="mine holds something else. Name a folder"):
        site.write_site(write_course(tmp_path / "again"), tmp_path / "mine")
    assert (tmp_path / "mine" / "index.html").read_text() == "my own"


def test_the_script_says_where_to_open_the_course_and_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(site, "HERE", write_course(tmp_path / "notebooks"))
    shutil.copy(NOTEBOOKS / "site.css", tmp_path / "notebooks")
    site.main([str(tmp_path / "out")])
    assert capsys.readouterr().out == f"6 pages. Open {tmp_path / 'out' / 'index.html'}\n"
    with pytest.raises(SystemExit, match="python notebooks/site.py FOLDER"):
        site.main([])
    (tmp_path / "notebooks" / "README.md").write_text("# The course\n\n[lost](lost.md)", "utf-8")
    with pytest.raises(SystemExit, match=r"README\.md has a link that leads nowhere: lost\.md"):
        site.main([str(tmp_path / "out")])


def test_headings_of_equal_words_have_anchors_of_their_own(tmp_path):
    folder = write_course(tmp_path / "notebooks", notebook_1="## Why?\n\n## Why")
    site.write_site(folder, tmp_path / "out")
    headings = read(tmp_path / "out" / "01.html").find_all("h2")
    assert [heading["id"] for heading in headings] == ["why", "why-1", "why-2"]
