"""The server's page for everybody: errors, hostile texts, keyboard, screen readers, any window."""

import json
import re
from pathlib import Path

import pytest

from tests.served_page import HOSTILE, TEXT, bars, csv, expected, fill_page, predict, problem
from tests.test_browser import CHROMIUM
from ulmfit_app.evaluation.markup import percent

pytest.importorskip("playwright", reason="needs playwright")
pytest_plugins = ["tests.served_page"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")


# -------------------------------------------------------------------------------- what goes wrong
def test_errors_are_shown_as_the_servers_sentence(page):
    page.click("text=Predict >> nth=0")
    assert problem(page, "of-text") == "There is no text yet: type or paste one."
    page.fill("#text", "NUL \0")
    page.click("text=Predict >> nth=0")
    page.locator("#of-text .problem:has-text('NUL at character 5')").wait_for()
    page.fill("#text", "😀" * 200_001)
    page.click("text=Predict >> nth=0")
    page.locator("#of-text .problem:has-text('more than 200,000 characters')").wait_for()
    predict(page, "word " * 2_001)
    assert page.locator("#of-text .problem").first.inner_text() == ""
    page.click("text=Which words moved it?")
    assert "5,000" in problem(page, "of-words")
    page.click("text=Predict the file")
    assert problem(page, "of-file").startswith("There is no file yet")
    page.set_input_files("#file", csv())
    page.fill("#column", HOSTILE)
    page.click("text=Predict the file")
    page.locator("#of-file .problem:has-text('<img')").wait_for()
    assert "'id'" in problem(page, "of-file")


def test_what_is_no_answer_of_this_server_is_said_too(page):
    page.route("**/v1/predict", lambda route: route.fulfill(status=502, body="<h1>Bad</h1>"))
    page.fill("#text", "good")
    page.click("text=Predict >> nth=0")
    assert problem(page, "of-text") == "The server answered 502, without a reason."


def test_a_server_that_is_gone_is_said(browser, server):
    page = browser.new_page()
    page.goto(server.url)
    page.route("**/v1/predict", lambda route: route.abort())
    page.fill("#text", "good")
    page.keyboard.press("Control+Enter")
    assert problem(page, "of-text").startswith("The server cannot be reached.")
    page.close()


def test_a_busy_server_is_asked_once_more_when_it_says(page):
    busy = {"status": 503, "headers": {"Retry-After": "7"}, "json": {"error": "Too many texts."}}
    asked = []

    def refuse(route):
        asked.append(route)
        route.fulfill(**busy)

    page.clock.install()
    page.route("**/v1/predict", refuse)
    page.fill("#text", TEXT)
    page.click("text=Predict >> nth=0")
    page.locator("text=Too many texts. Trying again in 7 seconds.").wait_for()
    page.clock.fast_forward(6_000)
    assert len(asked) == 1
    page.clock.fast_forward(1_000)
    assert problem(page, "of-text") == "Too many texts. Try again in 7 seconds."
    assert len(asked) == 2
    page.click("text=Predict >> nth=0")
    page.locator("text=Trying again in 7 seconds.").wait_for()
    page.unroute("**/v1/predict")
    page.clock.fast_forward(7_000)
    page.locator("#answer").wait_for()
    assert page.inner_text("#of-text .status >> nth=0") == ""


def test_nothing_that_is_said_becomes_markup(page):
    """Labels and notes are hostile in all tests; here a text, a file and all marks are, too."""
    hostile = HOSTILE + "\u202e\u2066 &amp; </p></textarea> ﷽"
    predict(page, hostile)
    page.click("text=Which words moved it?")
    page.locator("#marked").wait_for()
    page.set_input_files(
        "#file", csv(text=hostile) | {"name": f"{HOSTILE[:40]}.csv".replace("/", "")}
    )
    page.click("text=Predict the file")
    page.locator("#result").wait_for()
    page.click("#of-model summary")
    assert page.is_visible(f"li:text-is({json.dumps('Left out: ' + HOSTILE)})")
    page.wait_for_timeout(100)
    assert page.title() == "ULMFiT on reviews.csv"
    assert page.locator("body :is(img, script, textarea textarea, b b)").count() == 0
    # What turns the order of letters does so inside its own box alone.
    isolated = "e => getComputedStyle(e).unicodeBidi.replace('plaintext', 'isolate')"
    for box in ("#marked", "#bars .name", "#verdict bdi", "#download bdi"):
        assert page.locator(box).first.evaluate(isolated) == "isolate"


# --------------------------------------------------------------------------- for whom, and on what
def test_all_of_it_works_by_keyboard_with_the_focus_seen(visit, server):
    page = visit()
    seen = "getComputedStyle(document.activeElement).outlineStyle"

    def tab_to(name):
        for _ in range(20):
            page.keyboard.press("Tab")
            assert page.evaluate(seen) == "solid"
            if page.evaluate(f"document.activeElement.matches({json.dumps(name)})"):
                return
        raise AssertionError(f"{name} is not reached")

    tab_to("#text")
    page.keyboard.type("a dull plot")
    page.keyboard.press("Control+Enter")
    page.locator("#answer").wait_for()
    assert bars(page) == expected(server, "a dull plot")
    tab_to("#explain")
    page.keyboard.press("Enter")
    page.locator("#marked").wait_for()
    tab_to("#explanation summary")
    page.keyboard.press("Enter")
    assert page.is_visible("#word-rows")
    tab_to("#right")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("text=The text and your label are stored").wait_for()
    tab_to("#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(csv())
    tab_to("#predict-file")
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    tab_to("#download")
    tab_to("#of-model summary")
    page.keyboard.press("Enter")
    tab_to("[href=report]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_automatic_check_of_accessibility_finds_fault(visit, width, scheme):
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    page = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == (scheme == "dark")

    def check():
        needed = page.evaluate("document.documentElement.scrollWidth")
        assert needed <= width
        found = page.evaluate("axe.run()")
        assert [
            (one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]
        ] == []
        return len(found["passes"])

    page.evaluate((Path(axe.__path__[0]) / "axe.min.js").read_text("utf-8"))
    before = check()
    page.click("text=Predict >> nth=0")
    problem(page, "of-text")
    check()
    fill_page(page)
    page.wait_for_timeout(500)
    assert check() > before


def test_on_the_narrowest_phones_nothing_sticks_out_at_the_side(visit):
    page = visit(viewport={"width": 320, "height": 600})
    fill_page(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_nothing_moves_for_those_who_want_no_motion(visit):
    for motion, name in (("reduce", "none"), ("no-preference", "grow")):
        page = visit(reduced_motion=motion)
        predict(page)
        moved = "bar => getComputedStyle(bar).animationName"
        assert page.locator(".fill").first.evaluate(moved) == name


def test_the_model_card_says_what_was_measured_and_links_the_report(page, server):
    page.click("#of-model summary")
    scores = json.loads((server.run / "report" / "metrics.json").read_text("utf-8"))["model"]
    low, high = scores["accuracy_ci95"]
    row = page.locator("#of-model tr:has-text('This model')").inner_text().split("\t")
    assert row == ["This model", percent(scores["accuracy"]), f"{low:.1%} to {high:.1%}"]
    assert page.is_visible(f"text=Accuracy on {scores['n']} texts (a tenth, held out)")
    assert page.is_visible("dd:text-is('English')")
    page.click("text=The report of this model")
    page.wait_for_load_state()
    assert page.url == f"{server.url}/report" and page.title() == "ULMFiT on reviews.csv"


def test_it_works_below_the_path_of_a_proxy(visit, server):
    page = visit()
    prefix = f"{server.url}/a/proxy"
    strayed = []

    def forward(route):
        url = route.request.url
        if not url.startswith(prefix):
            strayed.append(url)
        route.continue_(url=url.replace(prefix, server.url))

    page.route(f"{server.url}/**", forward)
    page.goto(f"{prefix}/")
    page.locator("#of-model summary").wait_for()
    fill_page(page)
    page.click("text=The report of this model")
    page.wait_for_load_state()
    assert strayed == [] and page.url == f"{prefix}/report"


def test_without_javascript_it_says_what_is_missing(visit):
    page = visit(java_script_enabled=False)
    assert page.inner_text("noscript p").startswith("This page needs JavaScript.")
