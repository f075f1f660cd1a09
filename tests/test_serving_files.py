"""A CSV in, the CSV with predictions out: as `predict --file`, and nothing stays behind."""

import gzip
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead

import numpy as np
import pandas as pd
import pytest

from tests.conftest import reviews
from tests.serving_tools import fake_version, parse, receive_all, serving, wait_until
from tests.test_predictor import run_with_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.serving import batching, requests, uploads
from ulmfit_app.serving.guard import HEADERS
from ulmfit_app.serving.records import ANSWERS, JsonLines
from ulmfit_app.serving.versions import Routing, load_routing

pytest.importorskip("prometheus_client", reason="needs the extra serve")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where uploads lie; at the end, none does."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(folder))
    yield folder
    wait_until(lambda: not os.listdir(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_with_classifier(tmp_path_factory)


@pytest.fixture(scope="module")
def server(run):
    with serving(load_routing(run, precision="fp32")) as server:
        yield server


@pytest.fixture(scope="module")
def fake():
    with serving(fake_version()) as server:
        yield server


def upload(server, content, query="", **headers):
    content = content.encode() if isinstance(content, str) else content
    return server.post(f"/v1/file{query}", content, "text/csv", **headers)


def refused(answer, status=422):
    assert answer.status == status and list(answer.json) == ["error"]
    sentence = answer.json["error"]
    assert "ulmfit-" not in sentence and "temporary" not in sentence and "--" not in sentence
    return sentence


ROWS = [
    "body,id,note",
    'A great film.,1,"a, b"',
    '"dull, ""boring""\nand long",2,',
    ",3,",
    "很好 \U0001f600,007,NA",
]


def test_a_file_comes_back_as_the_command_writes_it(server, run, tmp_path):
    content = "\n".join(ROWS) + "\n"
    (tmp_path / "in.csv").write_text(content, encoding="utf-8")
    arguments = ["--file", tmp_path / "in.csv", "--out", tmp_path / "out.csv"]
    command = ["predict", run, *arguments, "--precision", "fp32"]
    assert cli.main(list(map(str, command))) == 0
    answer = upload(server, content)
    assert answer.status == 200 and answer.body == (tmp_path / "out.csv").read_bytes()
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["x-rows"] == "4" and HEADERS.items() <= answer.headers.items()
    notes = json.loads(answer.headers["x-notes"])
    assert notes == ["Empty texts: 1. Their predictions say nothing."]


def test_a_file_of_many_batches_keeps_its_order(server, run):
    table = reviews(700).rename(columns={"review": "body"})
    found = pd.read_csv(io.BytesIO(upload(server, table.to_csv(index=False)).body))
    assert found["body"].tolist() == table["body"].tolist()
    assert list(found)[2:] == ["predicted", "confidence", "p_bad", "p_fair", "p_good"]
    direct = load_predictor(run, "fp32").predict(table["body"].tolist())
    for column in ("confidence", "p_bad", "p_fair", "p_good"):
        assert np.allclose(found[column], direct[column], rtol=0, atol=1e-6)
    assert found["predicted"].tolist() == direct["predicted"].tolist()


def columns(answer):
    return list(pd.read_csv(io.BytesIO(answer.body)))


def test_a_query_says_what_the_commands_options_say(server):
    answer = upload(server, "words,body\na b,c\n", "?text=words")
    assert columns(answer)[:3] == ["words", "body", "predicted"]
    assert answer.body == upload(server, "words,body\na b,c\n", "?text=words&encoding=utf-8").body
    assert answer.body != upload(server, "words,body\na b,c\n").body
    answer = upload(server, "body\ncaf\xe9\n".encode("latin-1"), "?encoding=latin-1")
    assert "caf\xe9" in answer.body.decode()
    answer = upload(server, 'body\n6" wide\n', "?quotes=literal")
    assert answer.headers["x-rows"] == "1" and b'6"" wide' in answer.body
    answer = upload(server, "id\tbody\n1\tso, so\n")
    assert columns(answer)[:3] == ["id", "body", "predicted"] and b'"1","so, so"' in answer.body
    answer = upload(server, "text\na\n")  # the only column
    assert columns(answer)[:2] == ["text", "predicted"]
    answer = upload(server, "\ufeffbody,id\na,1\n\nb,2\n")
    assert columns(answer)[:2] == ["body", "id"] and answer.headers["x-rows"] == "2"
    (note,) = json.loads(answer.headers["x-notes"])
    assert note.startswith("Left out 1 blank line")


BROKEN = {
    "nothing": (b"", "", "The file is empty. Expected a table of texts"),
    "white space": (b"\n \n", "", "The file has no rows: it holds"),
    "names alone": (b"body\n", "", "The file has no rows: it holds only the column names 'body'."),
    "other columns": (b"a,b\n1,2\n", "", "The file has no column 'body', which held the texts"),
    "no such column": (b"body\na\n", "?text=bod", "The file has no column 'bod'. Its columns are"),
    "advice": (b"body\na\n", "?text=bod", "Did you mean text=body?"),
    "latin-1": (b"body\ncaf\xe9\n", "", "The file is not utf-8: byte 8 cannot be read so."),
    "utf-16": ("body\na\n".encode("utf-16"), "", "Add: encoding=utf-16"),
    "no encoding": (b"body\na\n", "?encoding=utf-9", "utf-9"),
    "widths": (b"body,id\na,1\nb\n", "", "The file, line 3: expected 2 fields"),
    "open quote": (b'body\n"a\n', "", "The file, line 2: a quote opens here"),
    "twice": (b"body,body\na,b\n", "", "The file has more than one column named 'body'."),
    "ours": (b"body,predicted\na,b\n", "", "The file has the columns 'predicted' already"),
    "gzip": (gzip.compress(b"body\na\n"), "", "Send it as CSV."),
    "workbook": (b"PK\x03\x04" + b"\0" * 60, "", "The file is"),
    "PDF": (b"%PDF-1.7\n", "", "The file is a PDF"),
    "long text": (b"body\n" + b"x" * 200_001, "", "at most 200,000 characters, found 200,001"),
    "other option": (b"body\na\n", "?top=1", "Expected a query of text, encoding and quotes"),
    "long option": (b"body\na\n", "?text=" + "x" * 1_001, "Expected a query of text, encod"),
    "quotes": (b"body\na\n", "?quotes=none", "quotes: Expected csv or literal."),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_before_its_first_row_is_sent(server, case):
    content, query, says = BROKEN[case]
    assert says in refused(upload(server, content, query))


def test_a_file_of_another_type_or_too_large_is_refused(fake, monkeypatch):
    for media in ["application/json", "text/plain", "multipart/form-data"]:
        answer = fake.post("/v1/file", b"text\na\n", media)
        assert "Content-Type: text/csv" in refused(answer, 415)
    monkeypatch.setattr(uploads, "FILE_BYTES", 1_000)
    for size in (1_001, 500_000):
        answer = upload(fake, b"text\n" + b"x" * (size - 5))
        assert refused(answer, 413) == "Expected a body of at most 1,000 bytes, found more."
    assert upload(fake, b"text\n".ljust(1_000, b"x")).status == 200


ROW = b'"a b","bad"'


def test_rows_are_sent_while_others_are_computed(monkeypatch):
    version = fake_version()
    release = threading.Semaphore(1)  # batches that may be computed
    compute = version.predictor.probabilities
    version.predictor.probabilities = lambda *a, **m: (
        release.acquire(timeout=20),
        compute(*a, **m),
    )[1]
    with serving(version) as server, server.connect() as client:
        content = b"text\n" + b"a b\n" * (2 * uploads.ROWS)
        head = (
            "POST /v1/file HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: text/csv\r\n"
        )
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        found = b""
        while found.count(ROW) < uploads.ROWS and (piece := client.recv(65_536)):
            found += piece
        assert found.count(ROW) == uploads.ROWS
        release.release(5)
        found += receive_all(client)
    assert parse(found).body.count(ROW) == 2 * uploads.ROWS


def test_so_many_files_at_a_time(monkeypatch):
    monkeypatch.setattr(uploads, "FILES", 2)
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version) as server, ThreadPoolExecutor(2) as pool:
        flying = [pool.submit(upload, server, "text\na\n") for _ in range(2)]
        wait_until(lambda: version.batcher.texts == 2)
        answer = upload(server, b"text\n" + b"a\n" * 100_000)
        assert refused(answer, 503) == "2 files are being predicted already."
        assert answer.headers["retry-after"] == "10"
        version.predictor.gate.set()
        assert [one.result(20).status for one in flying] == [200, 200]
        assert (
            refused(upload(server, ""))
            and refused(upload(server, ""))
            and refused(upload(server, ""))
        )
        assert upload(server, "text\na\n").status == 200


@pytest.mark.parametrize("sent", ["head", "half", "all"])
def test_a_client_that_goes_away_leaves_nothing(temporary, monkeypatch, sent):
    monkeypatch.setattr(uploads, "FILES", 1)
    version = fake_version()
    version.predictor.gate.clear()
    content = b"text\n" + b"a\n" * 1_000
    with serving(version) as server:
        with server.connect() as client:
            head = "POST /v1/file HTTP/1.1\r\nHost: h\r\nContent-Type: text/csv\r\n"
            client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
            client.sendall({"head": b"", "half": content[:9], "all": content}[sent])
            wait_until(lambda: os.listdir(temporary))
            if sent == "all":
                wait_until(lambda: version.batcher.texts)
        wait_until(lambda: not os.listdir(temporary) and not version.batcher.texts)
        version.predictor.gate.set()
        wait_until(lambda: upload(server, "text\na\n").status == 200)


def test_a_defect_half_way_breaks_the_stream_off(fake, caplog):
    content = b"text\n" + b"a\n" * uploads.ROWS + b"poison\n"
    with fake.connect() as client:
        head = "POST /v1/file HTTP/1.1\r\nHost: h\r\nContent-Type: text/csv\r\n"
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        found = receive_all(client)
    assert found.startswith(b"HTTP/1.1 200") and found.count(b'"a","bad"') == uploads.ROWS
    assert not found.endswith(b"0\r\n\r\n")  # which ends a whole one
    assert "private" not in caplog.text and "Traceback" not in caplog.text
    assert upload(fake, "text\na\n").status == 200


def test_a_file_waits_while_the_queue_is_full(monkeypatch):
    monkeypatch.setattr(batching, "MOST_CHARACTERS", 1_000)
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, "/v1/predict", {"text": "x" * 900})
        wait_until(lambda: version.batcher.texts == 1)
        monkeypatch.setattr(version.batcher._pace, "speed", {False: 1e9, True: 1e9})
        second = pool.submit(upload, server, "text\n" + "y" * 400 + "\n")
        threading.Event().wait(0.1)
        version.predictor.gate.set()
        assert first.result(20).status == second.result(20).status == 200


def test_a_file_is_counted_and_logged_like_other_texts(tmp_path):
    answers = JsonLines(tmp_path / "answers.jsonl", 10**6, ANSWERS)
    with serving(fake_version(), answers=answers) as server:
        upload(server, "text\n" + "private\n" * 300, **{"x-request-id": "r1"})
        metrics = server.get("/metrics").body.decode()
    assert 'ulmfit_predicted_total{label="bad",model="fake@1"} 300.0' in metrics
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 300 and json.loads(lines[-1])["request"].startswith("r1.")
    assert "private" not in "".join(lines)


def test_with_a_canary_each_row_names_its_model(fake):
    texts = [f"row {i}" for i in range(300)]
    with serving(Routing(fake_version("a@1"), fake_version("b@2"), 0.5)) as server:
        answer = upload(server, "\n".join(["text", *texts, ""]))
        table = pd.read_csv(io.BytesIO(answer.body))
        single = {text: server.post("/v1/predict", {"text": text}) for text in texts[:20]}
        assert "'model' already" in refused(upload(server, "text,model\na,b\n"))
    assert set(table["model"]) == {"a@1", "b@2"} and list(table)[-1] == "model"
    models = dict(zip(table["text"], table["model"], strict=True))
    for text, answer in single.items():
        assert answer.json["predictions"][0]["model"] == models[text]
    # Without one, a column of that name is the user's.
    assert upload(fake, "text,model\na,b\n").status == 200


def test_limits_are_those_that_are_described():
    assert (requests.FILE_BYTES, uploads.FILES) == (32_000_000, 4)


def test_a_file_of_long_texts_is_asked_for_in_pieces():
    version = fake_version()
    with serving(version) as server:
        answer = upload(server, "text\n" + ("w" * 30_000 + "\n") * 5)
    assert answer.status == 200 and answer.body.count(b"\n") == 6
    assert version.predictor.sizes() == [1] * 5


def test_a_file_that_waits_too_long_is_broken_off_and_said(monkeypatch, caplog):
    monkeypatch.setattr(batching, "MOST_CHARACTERS", 1_000)
    monkeypatch.setattr(uploads, "WAIT_SECONDS", 0.1)
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "/v1/predict", {"text": "x" * 900})
        wait_until(lambda: version.batcher.texts == 1)
        with pytest.raises(IncompleteRead):
            upload(server, "text\n" + "y" * 400 + "\n")
        version.predictor.gate.set()
        assert first.result(20).status == 200
        assert upload(server, "text\na\n").status == 200
    assert [record.message for record in caplog.records] == [
        "A file was broken off: its texts waited 0.1 seconds."
    ]


def test_an_option_given_twice_is_refused(fake):
    answer = upload(fake, "text\na\n", "?text=text&text=id")
    assert "each once at most" in refused(answer)


def test_sentences_name_the_querys_options_and_none_of_the_command_line(fake):
    answer = upload(fake, "a,b\n1,2\n", "?text=nix")
    assert "--" not in refused(answer)
