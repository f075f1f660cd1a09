"""The server's page in headless Chromium: a text, its words, feedback, a file."""

import io
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pandas as pd
import pytest

from tests.served_page import HOSTILE, TEXT, answer, bars, csv, expected, predict, problem
from tests.test_browser import CHROMIUM
from ulmfit_app.evaluation.markup import percent
from ulmfit_app.inference.explanation import explain

pytest.importorskip("playwright", reason="needs playwright")
pytest_plugins = ["tests.served_page"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")


# ------------------------------------------------------------------------------------------ a text
def test_a_text_is_answered_with_its_label_and_all_probabilities(page, server):
    predict(page)
    wanted = expected(server, TEXT)
    assert bars(page) == wanted
    assert page.inner_text("#verdict") == " ".join(wanted[0])
    drawn = page.locator("#bars .fill").evaluate_all(
        "bars => bars.map(bar => bar.offsetWidth / bar.parentElement.offsetWidth)"
    )
    shares = sorted(server.predictor.predict([TEXT]).iloc[0][-3:], reverse=True)
    assert drawn == pytest.approx(shares, abs=0.01)
    page.press("#text", "End")
    page.type("#text", "!")
    assert page.is_visible("text=The text above has changed since this answer.")


def test_the_words_that_moved_it_are_marked_where_they_stand(page, server):
    predict(page)
    assert not page.is_visible("#marked")
    page.click("text=Which words moved it?")
    page.locator("#marked").wait_for()
    strongest = explain(server.predictor, TEXT).strongest().sort_values("start")
    marks = page.locator("#marked > *").evaluate_all(
        "marks => marks.map(mark => [mark.localName, mark.firstChild.data, mark.title])"
    )
    assert [(tag, text) for tag, text, _ in marks] == [
        ("b" if row.score > 0 else "u", row.word) for row in strongest.itertuples()
    ]
    for (_, _, title), row in zip(marks, strongest.itertuples(), strict=True):
        score = f"{row.score:+.2f}".replace("-", "−")
        assert title.startswith(f"{score} to the log-odds of ") and percent(row.without) in title
    text = "p => { p = p.cloneNode(true); p.querySelectorAll('.unseen').forEach(e => e.remove()); "
    assert page.eval_on_selector("#marked", text + "return p.textContent; }") == TEXT
    page.click("text=These words as a table")
    assert page.locator("#word-rows th").all_inner_texts() == [
        row.word for row in explain(server.predictor, TEXT).strongest().itertuples()
    ]


def test_a_new_answer_takes_away_what_was_said_of_the_old_one(page):
    predict(page)
    page.click("text=Which words moved it?")
    page.locator("#marked").wait_for()
    page.fill("#text", "dull")
    page.click("text=Predict >> nth=0")
    page.locator("#explanation").wait_for(state="hidden")
    assert page.inner_text("#of-words .status") == ""


def test_of_many_labels_ten_are_shown_and_the_others_on_demand(page):
    shares = {f"label {i}": (i + 1) / 300 for i in range(24)}
    said = {"label": "label 23", "confidence": 0.08, "probabilities": shares, "model": "m"}
    answer(page, "v1/predict", predictions=[said], notes=["One note.", "Two."])
    predict(page)
    assert [name for name, _ in bars(page)] == [f"label {i}" for i in range(23, 13, -1)]
    page.click("text=Show all 24 labels")
    assert [name for name, _ in bars(page)] == [f"label {i}" for i in range(23, -1, -1)]
    assert not page.is_visible("#more")
    assert page.locator("#answer-notes li").all_inner_texts() == ["One note.", "Two."]


def test_what_is_not_certain_is_not_shown_as_if_it_were(page):
    shares = {"a": 0.99972, "b": 0.0002, "c": 0.0}
    said = {"label": "a", "confidence": 0.99972, "probabilities": shares, "model": "m"}
    answer(page, "v1/predict", predictions=[said], notes=[])
    predict(page)
    assert [share for _, share in bars(page)] == ["over 99.9%", "under 0.1%", "0.0%"]


def test_a_right_label_is_stored_with_its_text(page, server):
    predict(page, "dull, they said: " + HOSTILE)
    assert page.locator("#right option").count() == 3
    page.select_option("#right", "good" if "good" not in page.inner_text("#verdict") else "bad")
    right = page.input_value("#right")
    page.click("text=Send")
    page.locator("text=The text and your label are stored").wait_for()
    stored = json.loads(server.feedback.read_text("utf-8").splitlines()[-1])
    assert stored["label"] == right and stored["text"] == "dull, they said: " + HOSTILE
    assert not page.is_visible("#feedback")
    predict(page, "another")
    assert page.is_visible("#feedback")


def test_where_feedback_is_off_nobody_is_asked(visit, server):
    page = visit()
    about = page.evaluate("fetch('v1/model').then(answer => answer.json())")
    answer(page, "v1/model", **about | {"feedback": False})
    page.reload()
    page.locator("#of-model summary").wait_for()
    predict(page)
    assert not page.is_visible("#of-feedback")


def test_beside_a_second_model_an_answer_says_whose_it_is(page, server):
    about = page.evaluate("fetch('v1/model').then(answer => answer.json())")
    predict(page)
    assert not page.is_visible("#answered-by")
    second = about["model"] | {"id": "other@1", "metrics": None, "report": None}
    answer(page, "v1/model", **about | {"canary": second, "share": 0.1})
    page.reload()
    page.locator("#of-model summary").nth(1).wait_for()
    predict(page)
    assert page.is_visible(f"text=Answered by {about['model']['id']}")
    assert page.is_visible("text=A second model answers 10.0% of the texts:")


# ------------------------------------------------------------------------------------------ a file
def test_a_file_comes_back_with_a_prediction_for_each_row(page, server, tmp_path):
    sent = csv(300)
    page.set_input_files("#file", sent)
    page.click("text=Predict the file")
    page.locator("#result").wait_for()
    assert page.inner_text("#of-file .status") == "Done: 300 rows."
    assert page.inner_text("#done") == "300 of 300 rows"
    assert page.eval_on_selector("#bar", "bar => [bar.value, bar.max]") == [300, 300]
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "our reviews-predicted.csv"
    download.value.save_as(tmp_path / "p.csv")
    got = pd.read_csv(tmp_path / "p.csv")
    rows = pd.read_csv(io.BytesIO(sent["buffer"]))
    assert got[["id", "body"]].equals(rows)
    wanted = server.predictor.predict(rows["body"].tolist())
    assert got["predicted"].tolist() == wanted["predicted"].tolist()
    assert got["p_good"].tolist() == pytest.approx(wanted["p_good"].tolist(), abs=1e-4)


def test_a_file_may_be_dropped_anywhere(page):
    data = page.evaluate_handle(
        "() => { const data = new DataTransfer();"
        "data.items.add(new File(['body\\ngood\\n'], 'dropped.csv')); return data; }"
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": data})
    assert "over" in page.get_attribute("#drop", "class")
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    assert page.get_attribute("#drop", "class") == ""
    assert page.evaluate("document.activeElement.id") == "predict-file"
    page.keyboard.press("Enter")
    page.locator("text=Download dropped-predicted.csv").wait_for()


def test_a_column_and_an_encoding_may_be_named(page):
    file = csv() | {"buffer": "wörter,body\nschön,dull\nübel,great\n".encode("cp1252")}
    page.set_input_files("#file", file)
    page.click("text=Predict the file")
    page.locator("#of-file .problem:not(:empty)").wait_for()
    assert "encoding=cp1252" in page.inner_text("#of-file .problem")
    page.fill("#encoding", "cp1252")
    page.fill("#column", "wörter")
    with page.expect_response("**/v1/file?*") as response:
        page.click("text=Predict the file")
    page.locator("#result").wait_for()
    assert response.value.url.endswith("?text=w%C3%B6rter&encoding=cp1252")
    assert page.inner_text("#of-file .problem") == ""


def test_notes_on_a_file_are_shown(page):
    page.set_input_files("#file", csv() | {"buffer": b"body\ngood\n\n\nbad\n"})
    page.route(
        "**/v1/file*",
        lambda route: route.fulfill(
            status=200,
            body="body,predicted\ngood,x\n",
            headers={"X-Rows": "1", "X-Notes": '["Two \\u00e9."]'},
        ),
    )
    page.click("text=Predict the file")
    page.locator("#result").wait_for()
    assert page.locator("#file-notes li").all_inner_texts() == ["Two é."]


@contextmanager
def two_of_three_rows(hangs_up: bool):
    """The address of a server that sends two rows of three, and then hangs up, or waits."""
    leave = Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("X-Rows", "3")
            self.end_headers()
            part = b'body,predicted\n"a\nb",x\n"""c""",x\n'
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if not hangs_up:
                leave.wait()
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        leave.set()
        server.shutdown()
        thread.join()


def test_a_file_that_breaks_off_is_not_taken_for_whole(page):
    with two_of_three_rows(hangs_up=True) as url:
        page.route("**/v1/file*", lambda route: route.continue_(url=url))
        page.set_input_files("#file", csv())
        page.click("text=Predict the file")
        assert problem(page, "of-file").startswith("The answer broke off after ")
        assert not page.is_visible("#result") and not page.is_visible("#progress")


def test_a_file_can_be_cancelled_by_keyboard(page):
    with two_of_three_rows(hangs_up=False) as url:
        page.route("**/v1/file*", lambda route: route.continue_(url=url))
        page.set_input_files("#file", csv())
        page.click("text=Predict the file")
        page.locator("#done:text-is('2 of 3 rows')").wait_for()
        assert page.text_content("#heard") == "50% of the rows are done."
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "cancel"
        page.keyboard.press("Enter")
        assert page.inner_text("#of-file .status") == "Cancelled."
        assert not page.is_visible("#result") and not page.is_visible("#progress")
        assert page.evaluate("document.activeElement.id") == "predict-file"
