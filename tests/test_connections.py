"""What a client may take its time with, and for how long; and how a server starts and stops.

uvicorn alone has none of these limits: tests whose names begin with `test_plain_uvicorn` show it.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import uvicorn

from tests.serving_tools import PATIENCE, fake_version, parse, receive_all, serving, wait_until
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import SettingError
from ulmfit_app.serving import connections, requests, uploads
from ulmfit_app.serving.guard import HEADERS

pytest.importorskip("prometheus_client", reason="needs the extra serve")

SHORT = 0.05  # seconds, instead of ten and more
POST = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def server(monkeypatch):
    """A server with little patience, and a model whose gate a test may close."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", SHORT)
    monkeypatch.setattr(connections, "SEND_SECONDS", SHORT)
    monkeypatch.setattr(requests, "BODY_SECONDS", SHORT)
    with serving(fake_version()) as server:
        server.model = server.service.routing.model.predictor
        yield server


@pytest.fixture(scope="module")
def plain():
    """uvicorn as it is, with an application that reads all it is sent and answers with a lot."""

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        size = int(scope["path"].strip("/") or 0)
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    bound = connections.bind("127.0.0.1", 0)
    options = dict(lifespan="off", log_level="critical", http="httptools", timeout_keep_alive=1)
    server = uvicorn.Server(uvicorn.Config(app, **options))
    server.address = bound.getsockname()
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    wait_until(lambda: server.started)
    yield server
    server.should_exit = server.force_exit = True
    thread.join(PATIENCE)


def send(server, *pieces):
    """What comes back of some pieces, until the server closes the connection."""
    with server.connect() as client:
        for piece in pieces:
            client.sendall(piece)
        return parse(receive_all(client))


def refused(answer, status):
    assert answer.status == status and list(answer.json) == ["error"]
    assert answer.headers["connection"] == "close"
    assert HEADERS.items() <= answer.headers.items()
    return answer.json["error"]


# ------------------------------------------------------------------------------------ slow clients
@pytest.mark.parametrize("head", [b"", b"GET /he", b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: "])
def test_a_slow_head_is_answered_and_closed(server, head):
    sentence = refused(send(server, head), 408)
    assert sentence == "Expected the head of a request within 0.05 seconds."


def test_a_slow_body_is_answered_and_closed(server):
    answer = send(server, f"{POST}Content-Length: 999\r\n\r\n".encode(), b'{"text"')
    assert refused(answer, 408) == "Expected the body within 0.05 seconds, found 7 bytes of it."


def test_time_for_the_next_head_begins_with_its_first_byte(server):
    with server.connect() as client:
        client.sendall(GET)
        assert parse(client.recv(65_536)).status == 200
        time.sleep(3 * SHORT)  # idle, which has a limit of its own
        client.sendall(GET[:9])
        rest = receive_all(client)
    refused(parse(rest), 408)


@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
def test_an_empty_line_keeps_no_connection_open(server, line):
    with server.connect() as client:
        client.sendall(GET)
        assert parse(client.recv(65_536)).status == 200
        client.sendall(line)
        assert receive_all(client) == b""


def test_the_rest_of_a_refused_body_keeps_no_connection_open(server):
    with server.connect() as client:
        client.sendall(b"POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n12")
        assert parse(client.recv(65_536)).status == 404
        client.sendall(b"3")
        assert receive_all(client) == b""


def test_an_idle_connection_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", SHORT)
    with serving(fake_version()) as server, server.connect() as client:
        client.sendall(GET)
        assert parse(receive_all(client)).status == 200


def test_a_client_that_does_not_read_is_left(server, monkeypatch):
    """And what it was to get is not kept."""
    alive = "ulmfit_requests_total"
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        texts = json.dumps({"texts": ["a"] * 1_000}).encode()
        head = f"{POST}Content-Length: {len(texts)}\r\n\r\n".encode()
        with pytest.raises(ConnectionError):  # once the server is gone
            for _ in range(10_000):
                client.sendall(head + texts)
        assert alive in server.get("/metrics").body.decode()


def test_plain_uvicorn_waits_for_ever_for_a_client_that_does_not_read(plain):
    with socket.create_connection(plain.address, PATIENCE) as client:
        client.sendall(b"GET /30000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        wait_until(
            lambda: any(one.transport.is_closing() for one in plain.server_state.connections)
        )
        time.sleep(6 * SHORT)
        assert len(plain.server_state.connections) == 1


@pytest.mark.parametrize("piece", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_plain_uvicorn_waits_for_ever_for_a_head(plain, piece):
    with socket.create_connection(plain.address, 2) as client:
        client.sendall(piece)
        time.sleep(1.2)  # more than the second that it lets a connection be idle
        assert [one.timeout_keep_alive_task for one in plain.server_state.connections] == [None]
        client.sendall(b"\r\nHost: h\r\n\r\n" if piece else b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")


def test_plain_uvicorn_reads_a_head_of_any_length(plain):
    with socket.create_connection(plain.address, PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n")
        for _ in range(40):
            client.sendall(b"X-Header: " + b"x" * 9_000 + b"\r\n")
        client.sendall(b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")


# --------------------------------------------------------------------------------- broken requests
def test_a_long_head_is_refused(server, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", PATIENCE)
    answer = send(server, b"GET / HTTP/1.1\r\nHost: h\r\n", b"X-Header: " + b"x" * 40_000)
    assert refused(answer, 431) == "Expected a head of at most 32,768 bytes, found more."


def test_many_headers_are_a_long_head(server):
    answer = send(server, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 6_000)
    refused(answer, 431)


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\x02\x00\r\n", b"HELO h\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"]
)
def test_what_is_no_http_is_refused(server, request_):
    assert refused(send(server, request_), 400) == "The request is no valid HTTP."


def test_a_broken_chunk_is_refused(server):
    answer = send(server, f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
    assert refused(answer, 400) == "The request is no valid HTTP."


def test_more_connections_than_there_may_be_are_refused(server, monkeypatch):
    monkeypatch.setattr(connections, "CONNECTIONS", 2)
    monkeypatch.setattr(connections, "HEADER_SECONDS", PATIENCE)
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.sendall(GET)
            assert parse(client.recv(65_536)).status == 200
        with server.connect() as third:
            answer = parse(receive_all(third))
        assert "Too many connections" in refused(answer, 503)
        assert answer.headers["retry-after"] == "5"
        first.sendall(GET)  # those that are there go on
        assert parse(first.recv(65_536)).status == 200


def test_an_endless_body_is_read_up_to_a_bound(server, monkeypatch):
    """Even of a route that does not read it."""
    monkeypatch.setattr(connections, "MOST_BYTES", 100_000)
    monkeypatch.setattr(connections, "HEADER_SECONDS", PATIENCE)
    with server.connect() as client:
        client.sendall(b"POST /no HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert parse(client.recv(65_536)).status == 404
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                client.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")


# ----------------------------------------------------------------------------- several on one line
def test_requests_in_a_row_are_answered_in_order(server):
    paths = ["/healthz", "/no", "/readyz"]
    requests_ = [f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths]
    with server.connect() as client:
        client.sendall(b"".join(requests_) + GET.replace(b"Host", b"Connection: close\r\nHost"))
        found = receive_all(client)
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]


@pytest.mark.parametrize("behind", [b"GET /he", GET, GET + b"GET /he"])
def test_what_comes_behind_a_request_is_not_answered_in_its_place(server, behind):
    """Of a second request, nothing is sent before the answer to the first."""
    server.model.gate.clear()
    body = b'{"text": "a"}'
    with server.connect() as client:
        client.sendall(f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body + behind)
        wait_until(lambda: server.model.batches)
        time.sleep(3 * SHORT)
        server.model.gate.set()
        client.settimeout(PATIENCE if behind.endswith(b"/he") else 3 * SHORT)
        found = b""
        with suppress(TimeoutError):
            while piece := client.recv(65_536):
                found += piece
    statuses = [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]]
    late = [b"408"] if behind.endswith(b"/he") else []
    assert statuses == [b"200", *[b"200"] * behind.startswith(GET), *late]


def test_a_broken_request_behind_others_is_the_end_of_all(server, caplog):
    server.model.gate.clear()
    body = b'{"text": "a"}'
    first = f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with server.connect() as client:
        client.sendall(first + b"\0\0\r\n\r\n")  # as of a length that is too small
        refused(parse(receive_all(client)), 400)
    with server.connect() as client:
        client.sendall(first + GET + b"\0\0\r\n\r\n")  # whose answer would that be?
        assert receive_all(client) == b""
    server.model.gate.set()
    wait_until(lambda: server.get("/healthz").status == 200 and not server.model.batches)
    assert not caplog.records


# ---------------------------------------------------------------------------------------- stopping
def test_a_stop_answers_what_is_in_flight_and_accepts_nothing_more(server):
    server.model.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        flying = [
            pool.submit(server.post, "/v1/predict", {"texts": ["a"] * 300}) for _ in range(4)
        ]
        wait_until(lambda: server.service.routing.model.batcher.texts == 1_200)
        with server.connect() as idle:
            idle.sendall(GET)
            assert parse(idle.recv(65_536)).status == 200
            server.signal()
            assert receive_all(idle) == b""  # an idle one is closed
        assert server.service.stopping
        with pytest.raises(OSError):
            server.connect()
        server.model.gate.set()
        answers = [answer.result(PATIENCE) for answer in flying]
    assert [answer.status for answer in answers] == [200] * 4
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_readiness_says_that_it_stops(server):
    with server.connect() as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: h\r\n")
        server.service.stopping = True
        client.sendall(b"\r\n")
        assert parse(client.recv(65_536)).json == {"status": "stopping"}


def test_what_the_stop_does_not_wait_for_is_told_so(tmp_path, monkeypatch):
    """An upload may take longer than a request may."""
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    with serving(fake_version(), seconds=0.1) as server, server.connect() as client:
        head = "POST /v1/file HTTP/1.1\r\nHost: h\r\nContent-Type: text/csv\r\n"
        client.sendall(f"{head}Content-Length: 99\r\n\r\ntext".encode())
        wait_until(lambda: os.listdir(tmp_path))
        server.signal()
        answer = parse(receive_all(client))
    assert not os.listdir(tmp_path)
    assert answer.status == 503 and answer.json["error"].startswith("The server stops")
    assert answer.headers["retry-after"] == "5" and HEADERS.items() <= answer.headers.items()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("runs") / "small", "forward")
    saved_classifier(run / "classifier")
    return run


@pytest.fixture
def process(run):
    """`serve` as users start it."""
    command = [sys.executable, "-m", "ulmfit_app", "serve", str(run), "--port", "0"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        process.said = ""
        while "Serving on" not in process.said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            process.said += line
        process.port = int(process.said.rsplit(":", 1)[1].split()[0])
        yield process
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_stop_answers_first_and_exits_with_0(process, kind):
    assert process.said.startswith("Starting …\nModel small@")
    assert "3 labels" in process.said and "threads" in process.said
    body = json.dumps({"texts": ["a dull film " * 50] * 1_000}).encode()
    with socket.create_connection(("127.0.0.1", process.port), PATIENCE) as client:
        client.sendall(f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        client.sendall(b"")
        time.sleep(0.1)  # it has begun, and takes longer than that
        process.send_signal(kind)
        answer = parse(receive_all(client))
    assert answer.status == 200 and len(answer.json["predictions"]) == 1_000
    assert process.wait(PATIENCE) == 0
    assert process.stdout.read() == "Stopped.\n" and process.stderr.read() == ""


# ---------------------------------------------------------------------------------------- starting
@pytest.fixture(autouse=True)
def own_handlers():
    """`serve` may say what SIGTERM does to its process, which is not that of the tests."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def fails(capsys, *arguments):
    code = cli.main(["serve", *map(str, arguments)])
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and "Traceback" not in said and said.count("\n") == 1
    return code, said


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = fails(capsys, tmp_path / "no run", "--port", port)
    assert code == 2 and f"The address 127.0.0.1, port {port}, cannot be had: " in said
    assert "--port 8001" in said


def test_a_port_that_is_taken_meanwhile_is_said_likewise():
    """Linux lets two bind what neither listens to."""
    bound = connections.bind("127.0.0.1", 0)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(bound.getsockname())
        except OSError:
            pytest.skip("another system")
        other.listen()

        async def start():
            await connections._Server(uvicorn.Config(None, lifespan="off"), None, None)._serve(
                [bound]
            )

        with pytest.raises(SettingError, match=r"The address 127.0.0.1, port \d+, cannot be had"):
            asyncio.run(start())
    bound.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 300, "a..b"])
def test_a_host_that_is_not_here_is_said(tmp_path, capsys, host):
    code, said = fails(capsys, tmp_path, "--host", host)
    assert code == 2 and f"The address {host}, port 8000, cannot be had: " in said


def test_a_run_that_cannot_be_served_is_said_in_a_sentence(run, tmp_path, capsys):
    code, said = fails(capsys, tmp_path / "none", "--port", 0)
    assert code == 5 and "none" in said
    without = made_run(tmp_path / "without", "forward")
    code, said = fails(capsys, without, "--port", 0)
    assert code == 5 and "classifier" in said
    altered = shutil.copytree(run, tmp_path / "altered")
    (weights,) = (altered / "classifier").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, said = fails(capsys, altered, "--port", 0)
    assert code == 4


WRONG = [
    (["--port", 70_000], "--port must be 0 to 65535"),
    (["--timeout", 0], "--timeout must be above 0 and at most 3600 seconds"),
    (["--timeout", "nan"], "--timeout must be above 0"),
    (["--timeout", "inf"], "at most 3600"),
    (["--log-texts"], "--log-texts is about a --log FILE"),
    (["--share", 0.5], "--share is about a --canary RUN"),
    (["--cors", "example.org"], "--cors expects origins such as https://example.org"),
    (["--cors", "https://example.org/"], "--cors expects origins"),
    (["--cors", "*"], "--cors expects origins"),
    (["--cors", "https://ex ample"], "--cors expects origins"),
    (["--cors", "https://me@example.org"], "--cors expects origins"),
    (["--cors", "https://example.org?a"], "--cors expects origins"),
    (["--cors", "https://example.org:x"], "--cors expects origins"),
    (["--cors", "https://"], "--cors expects origins"),
    (["--log", "a.jsonl", "--feedback", "a.jsonl"], "Name two files"),
    (["--log", "tests/../a.jsonl", "--feedback", "a.jsonl"], "Name two files"),
    (["--log", "/no/such/folder/a.jsonl", "--port", 0], "there is no folder /no/such/folder"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_settings_that_cannot_be_are_refused(run, capsys, arguments, says):
    code, said = fails(capsys, run, *arguments)
    assert code == 2 and says in said


@pytest.mark.parametrize(("host", "elsewhere"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_who_may_reach_it_is_said_where_it_is_not_this_machine_alone(
    run, capsys, monkeypatch, host, elsewhere
):
    def started(app, bound, seconds, on_start, on_stop):
        on_start()
        bound.close()

    monkeypatch.setattr(connections, "run", started)
    assert cli.main(["serve", str(run), "--host", host, "--port", "0"]) == 0
    said = capsys.readouterr()
    assert ("whoever reaches this machine's port" in said.err) == elsewhere
    assert f"Serving on http://{host}:" in said.out and said.out.endswith("Stopped.\n")
