"""What clients and other people's pages may do to a server at its edges."""

import logging
import os
import re
import signal
import socket
import struct

import pytest

from tests.serving_tools import fake_version, parse, receive_all, serving, wait_until
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import RunFolderError
from ulmfit_app.run_folder import require_record
from ulmfit_app.serving import api, connections, guard, versions
from ulmfit_app.serving.reading import read_answers
from ulmfit_app.serving.records import ANSWERS, FEEDBACK, JsonLines

pytest.importorskip("prometheus_client", reason="needs the extra serve")

POST = "POST /v1/predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
BODY = b'{"text": "a"}'
PREDICT = f"{POST}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


@pytest.fixture
def server():
    with serving(fake_version()) as server:
        server.model = server.service.routing.model.predictor
        yield server


def metrics(server):
    return server.get("/metrics").body.decode()


# ------------------------------------------------------------------------- clients that go away
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_several_requests_behind_is_no_defect(server, caplog, how):
    """And what it no longer waits for is not computed."""
    server.model.gate.clear()
    batcher = server.service.routing.model.batcher
    for _ in range(5):
        with server.connect() as client:
            client.sendall(PREDICT * 5)
            wait_until(lambda: batcher.texts == 1)
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: batcher.texts == 0)
    server.model.gate.set()
    wait_until(lambda: 'route="/v1/predict",status="499"} 5.0' in metrics(server))
    assert sum(server.model.sizes()) < 10
    assert not caplog.records


# ------------------------------------------------------------------------------------- long heads
@pytest.mark.parametrize("size", [33_000, 60_000])
def test_a_long_head_is_refused_even_if_it_comes_in_one_piece(server, size):
    head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Long: " + b"x" * size + b"\r\n\r\n"
    with server.connect() as client:
        client.sendall(head)
        answer = parse(receive_all(client))
    assert answer.status == 431 and "at most 32,768 bytes" in answer.json["error"]


def test_a_long_address_counts_for_the_head_and_a_body_does_not(server):
    with server.connect() as client:
        client.sendall(f"GET /healthz?{'x' * 33_000} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert parse(receive_all(client)).status == 431
    assert server.post("/v1/predict", {"text": "a" * 100_000}).status == 200


# --------------------------------------------------------------------------- other people's pages
def test_a_name_that_was_pointed_here_is_refused(monkeypatch):
    build = guard.build_app
    monkeypatch.setattr(
        "tests.serving_tools.build_app",
        lambda service, origins: build(service, origins, {"localhost", "127.0.0.1", "[::1]"}),
    )
    with serving(fake_version()) as server:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"):
            assert server.get("/healthz", host=host).status == 200
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.2"):
            answer = server.post("/v1/predict", {"text": "a"}, host=host)
            names = "127.0.0.1, [::1], localhost"
            assert answer.status == 403
            assert answer.json == {"error": f"Expected the header Host to be one of {names}."}
            assert guard.HEADERS.items() <= answer.headers.items()
        with server.connect() as client:  # programs may leave it out
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert parse(receive_all(client)).status == 200


def test_any_name_will_do_where_none_is_asked_for(server):
    assert server.get("/healthz", host="example.org").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_may_post_only_if_they_are_named(site):
    here, there = "https://here.example", "https://there.example"
    text = {"text": "a"}
    with serving(fake_version(), origins=[here]) as server:
        about = {"sec-fetch-site": site}
        assert server.post("/v1/predict", text, origin=here, **about).status == 200
        for origin in ({"origin": there}, {}):
            answer = server.post("/v1/predict", text, **about, **origin)
            assert answer.status == 403 and "of a --cors ORIGIN" in answer.json["error"]
        assert server.get("/", **about).status == 200  # a link to the page


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_page_behind_a_proxy_that_sends_its_own_host_may_post(server, site):
    about = {"sec-fetch-site": site, "origin": "https://example.org", "host": "127.0.0.1:8000"}
    assert server.post("/v1/predict", {"text": "a"}, **about).status == 200


def test_a_refused_preflight_is_json():
    asked = {"origin": "https://there.example", "access-control-request-method": "POST"}
    with serving(fake_version(), origins=["https://here.example"]) as server:
        answer = server.ask("OPTIONS", "/v1/predict", None, asked)
    assert answer.status == 400 and answer.json == {"error": "Disallowed CORS origin."}
    assert answer.headers["vary"].startswith("Origin")


def test_equal_ids_of_clients_do_not_make_two_requests_one(tmp_path):
    path = tmp_path / "answers.jsonl"
    with serving(fake_version(), answers=JsonLines(path, 10**6, ANSWERS)) as server:
        for _ in range(2):
            server.post("/v1/predict", {"text": "a"}, **{"x-request-id": "same"})
        server.post("/v1/predict", {"texts": ["a", "b"]}, **{"x-request-id": "same"})
    assert read_answers(path).table["alone"].tolist() == [True, True, False, False]


# ------------------------------------------------------------------------------------- full disks
def test_a_log_that_cannot_be_written_is_said_and_counted(tmp_path, caplog):
    answers = JsonLines(tmp_path / "answers.jsonl", 10, ANSWERS)
    with serving(fake_version(), answers=answers) as server:
        for _ in range(3):
            assert server.post("/v1/predict", {"texts": ["private", "b"]}).status == 200
        text = server.get("/metrics").body.decode()
    assert "ulmfit_records_lost_total 6.0" in text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.message.startswith(f"Answers could not be written to {answers.path}: ")
    assert record.message.endswith("at most 10. Each is tried; what is not written is lost.")
    assert "private" not in record.message


def test_feedback_that_cannot_be_written_is_said_once_a_minute(tmp_path, caplog, monkeypatch):
    (tmp_path / "gone").mkdir()
    feedback = JsonLines(tmp_path / "gone" / "f.jsonl", 10**6, FEEDBACK)
    feedback.path.unlink()
    feedback.path.parent.rmdir()
    with serving(fake_version(), feedback=feedback) as server:
        for _ in range(2):
            assert server.post("/v1/feedback", {"text": "a", "label": "bad"}).status == 507
        (record,) = caplog.records
        monkeypatch.setattr(api, "QUIET_SECONDS", 0)
        server.post("/v1/feedback", {"text": "a", "label": "bad"})
    assert [each.message for each in caplog.records] == [record.message] * 2
    assert record.message == (
        f"Feedback could not be written to {feedback.path}: No such file or directory. "
        "Each is tried; what is not written is lost."
    )


# ------------------------------------------------------------------------------------ the command
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("runs") / "small", "forward")
    saved_classifier(run / "classifier")
    return run


@pytest.fixture(autouse=True)
def own_handlers():
    """`serve` may say what SIGTERM does to its process, which is not that of the tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_loads_is_a_good_end(run, capsys, monkeypatch, kind):
    def load(*arguments):
        os.kill(os.getpid(), kind)
        raise AssertionError("it goes on")

    monkeypatch.setattr(versions, "load_routing", load)
    assert cli.main(["serve", str(run), "--port", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "Starting …\nStopped.\n" and said.err == ""


@pytest.mark.parametrize(("host", "any_name"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_names_are_asked_for_where_only_this_machine_reaches_it(
    run, capsys, monkeypatch, host, any_name
):
    def build(service, origins, hosts):
        assert hosts == (() if any_name else {"localhost", "127.0.0.1", "[::1]"})

    monkeypatch.setattr(guard, "build_app", build)
    monkeypatch.setattr(connections, "run", lambda app, bound, *more: bound.close())
    assert cli.main(["serve", str(run), "--host", host, "--port", "0"]) == 0


def test_runs_beside_one_that_is_not_there_are_named(run, tmp_path):
    with pytest.raises(RunFolderError) as caught:
        require_record(run.parent / "smal")
    assert f"it has no run.json. Did you mean {run}? Start one: python -m" in str(caught.value)
    for number in range(7):
        made_run(tmp_path / f"imdb {number}", "forward")
    with pytest.raises(RunFolderError) as caught:
        require_record(tmp_path / "nope")
    (names,) = re.findall(r"Did you mean (.*)\? Start one", str(caught.value))
    assert names == ", ".join(f"'{tmp_path}/imdb {number}'" for number in range(5))
    for empty in (tmp_path / "a" / "b", tmp_path / "imdb 0" / "data"):
        with pytest.raises(RunFolderError, match="has no run.json. Start one"):
            require_record(empty)
