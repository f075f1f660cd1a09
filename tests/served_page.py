"""A served run, and its page in headless Chromium: fixtures and steps of tests about the page."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from tests import test_report
from tests.test_browser import CHROMIUM
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app.evaluation.markup import percent
from ulmfit_app.inference.predictor import load_predictor

HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title = 'run'</script>"
LABELS = ["bad", f"<b>fair</b>{HOSTILE}", "good"]
TEXT = "A great film 😀, \U0001f468‍👩‍👧 moving; but\n\nthe plot was dull 𝔞nd awful."
# What fails and what the policy keeps a page from reach the console as errors. So do refusals and
# broken connections, which some tests are about.
REFUSED = "Failed to load resource:"


class Server:
    """A process that serves a run, and what that run's predictor says in this process."""

    def __init__(self, run, feedback):
        self.run, self.feedback = run, feedback
        command = ["serve", run, "--port", "0", "--feedback", feedback, "--precision", "fp32"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ulmfit_app", *map(str, command)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.predictor = load_predictor(run, "fp32")
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"Serving on (http://127\.0\.0\.1:\d+)", line):
                self.url = found[1]
                return
        raise AssertionError(f"The server ended: {said}")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A run with hostile labels and a report, as it is served to anybody."""
    folder = tmp_path_factory.mktemp("served")
    run = made_run(folder / "tiny", "forward", text_column="body")
    saved_classifier(run / "classifier", labels=LABELS)
    facts = test_report.FACTS | {"notes": [f"Left out: {HOSTILE}"]}
    test_report.write(run / "report", test_report.table(labels=tuple(LABELS)), facts)
    server = Server(run, folder / "feedback.jsonl")
    yield server
    server.process.terminate()
    assert server.process.wait(30) == 0


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page; at the end, nothing may have gone wrong, and nobody else been asked."""
    contexts, wrong = [], []

    def visit(path="/", **options):
        # Bars that grow have no length yet.
        context = browser.new_context(**{"reduced_motion": "reduce"} | options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning")
                and not said.text.startswith(REFUSED)
                and wrong.append(said.text)
            ),
        )
        page.on(
            "request",
            lambda request: (
                request.url.startswith((server.url + "/", "blob:" + server.url))
                or wrong.append(request.url)
            ),
        )
        page.on(
            "response",
            lambda response: (
                response.request.method == "GET" and not response.ok and wrong.append(response.url)
            ),
        )
        page.goto(server.url + path)
        if options.get("java_script_enabled", True):
            page.locator("#of-model summary").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(visit):
    return visit()


def predict(page, text=TEXT):
    page.fill("#text", text)
    page.click("text=Predict >> nth=0")
    page.locator("#answer").wait_for()
    page.locator("#changed").wait_for(state="hidden")


def bars(page):
    names = page.locator("#bars .name").all_inner_texts()
    return list(zip(names, page.locator("#bars .share").all_inner_texts(), strict=True))


def expected(server, text):
    """The labels and probabilities of a text, most probable first, as the page writes them."""
    row = server.predictor.predict([text]).iloc[0]
    shares = sorted(((row[f"p_{label}"], label) for label in LABELS), reverse=True)
    return [(label, percent(share)) for share, label in shares]


def csv(n=7, text="great\nfilm"):
    table = pd.DataFrame({"id": range(n), "body": [f'{text}, "dull" {i}' for i in range(n)]})
    return {
        "name": "our reviews.csv",
        "mimeType": "text/csv",
        "buffer": table.to_csv(index=False).encode(),
    }


def problem(page, part):
    """The sentence of the alert in a part of the page, when it comes."""
    alert = page.locator(f"#{part} .problem:not(:empty)").first
    alert.wait_for()
    assert alert.get_attribute("role") == "alert"
    return alert.inner_text()


def answer(page, path, status=200, headers=None, **body):
    """The server's answers to a path, made up."""
    page.route(
        f"**/{path}",
        lambda route: route.fulfill(status=status, headers=headers or {}, json=body),
    )


def fill_page(page):
    """An answer, its words, a finished file, and the model's card."""
    predict(page)
    page.click("text=Which words moved it?")
    page.set_input_files("#file", csv())
    page.click("text=Predict the file")
    page.locator("#result").wait_for()
    page.locator("#marked").wait_for()
    for summary in page.locator("summary").all():
        summary.click()
