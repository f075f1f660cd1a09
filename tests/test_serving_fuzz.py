"""A server that is sent what no good client sends: bodies that break the schema of openapi.json,
and bytes that break HTTP.

Each request is made of its number alone, so that a failure can be repeated. The suite sends some
400; FUZZ_REQUESTS=2000 python -m pytest tests/test_serving_fuzz.py sends as many as it says.
"""

import io
import json
import os
import random
import socket
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import numpy as np
import pytest

from tests.bench.served import Served
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app.inference.predictor import load_predictor

pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")

N = int(os.environ.get("FUZZ_REQUESTS", 400))
AT_ONCE = 8
QUIET = 0.25  # seconds of silence after which a server that waits for more is left
STATUSES = {200, 201, 400, 404, 405, 408, 413, 415, 422, 431, 503}
GOOD = "A great film, and a dull plot."
GROWTH_MB = 100  # of a process whose allocator gives nothing back, and which read 32 MB at a time


# ------------------------------------------------------------------------------ bodies, by schema
ODD_TEXTS = [
    "",
    " \t\n",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff a",
    "\u2028\u2029\x85\x1f\x7f",
    "\u202egreat\u202c \ufeff",
    "👨‍👩‍👧" * 50,
    "e" + "\u0301" * 500,
    "xxpad xxbos xxunk xxmaj",
    "<script>alert(1)</script>",
    "很好" * 100,
    "AB" * 2_000,
    "-" * 3_000,
    "a." * 2_000,
    "1e400 NaN Infinity",
    "%s %n {0} ${x}",
]
ODD_VALUES = [None, True, 0, -1, 1e308, 10**30, [], {}, [[]], {"text": "a"}, ["a", 1], [None], 1.5]
ODD_JSON = [
    b"",
    b" ",
    b"null",
    b"[]",
    b"{",
    b'"text"',
    b"{'text': 'a'}",
    b'{"text": "a",}',
    b'{"text": "a"} {}',
    b'{"text": NaN}',
    b'{"text": Infinity}',
    b'{"text": 1e999}',
    b'{"text": ' + b"9" * 5_000 + b"}",
    b'{"text": "\xff\xfe"}',
    b'{"text": "\xed\xa0\x80"}',
    b'{"text": "\\ud800"}',
    b'{"text": "\\u0000"}',
    b'{"text": "a\nb"}',
    b'{"text": "a", "text": 1}',
    b'\xef\xbb\xbf{"text": "a"}',
    '{"text": "a"}'.encode("utf-16"),
    b'{"text": ' + b"[" * 50_000,
    b'{"text": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    b'{"a":' * 20_000,
    b'{"' + b"k" * 30_000 + b'": 1}',
    b"{" + b",".join(b'"k%d": 1' % i for i in range(5_000)) + b"}",
]
ODD_CSV = [
    b"",
    b"\n\n\n",
    b"body",
    b"body\n",
    b'body\n"open',
    b"body\na\0b\n",
    b"body,body\na,b\n",
    b"a,b\n1,2,3\n4\n",
    b"predicted,body\nx,y\n",
    b"\xff\xfeb\0o\0",
    b"body\n\xff\xfe\n",
    b"\x1f\x8b\x08\0" + b"x" * 40,
    b"PK\x03\x04" + b"\0" * 60,
    b"body\n" + b"a" * 300_000 + b"\n",
    b"body\n" + b"\n".join(b"great film %d" % i for i in range(300)) + b"\n",
    b",".join(b"c%d" % i for i in range(5_000)) + b"\n" + b"x," * 4_999 + b"x\n",
    b'body\n=cmd|"/c calc"!A1\n',
]
TYPES = [
    "application/json; charset=utf-16",
    "text/plain",
    "text/csv",
    "multipart/form-data; boundary=x",
    "",
    "APPLICATION/JSON",
    "application/json\t;x",
    "\xe9",
]


def valid_value(schema, document, rng):
    """A value that a schema allows."""
    schema = document["components"]["schemas"].get(schema.get("$ref", "").split("/")[-1], schema)
    if schema.get("type") == "object":
        allowed = rng.choice(schema.get("oneOf", [{"required": schema.get("required", [])}]))
        names = {*schema.get("required", []), *allowed["required"]}
        fields = schema["properties"]
        return {name: valid_value(fields[name], document, rng) for name in sorted(names)}
    if schema.get("type") == "array":
        n = rng.choice([schema.get("minItems", 0), 2, 5])
        return [valid_value(schema["items"], document, rng) for _ in range(n)]
    assert schema["type"] == "string", schema
    return rng.choice(["good", "A great film.", "dull " * 10])


def mutate(value, schema, rng):
    """A body that is valid but for one thing, or two; sizes at their limits and over them."""
    body = dict(value)
    name = rng.choice(sorted(body))
    most = schema["properties"][name].get("maxLength", 1_000)
    how = rng.randrange(9)
    if how == 0:
        del body[name]
    elif how == 1:
        body[rng.choice(["extra", "Text", "", "__class__", "té", "texts", "text", "label"])] = "a"
    elif how == 2:
        body[name] = rng.choice(ODD_VALUES)
    elif how in (3, 4):
        body[name] = rng.choice(ODD_TEXTS)
    elif how == 5:
        body["texts"] = rng.choices(ODD_TEXTS + ["good film"], k=rng.choice([1, 3, 40]))
    elif how == 6:
        body[name] = rng.choice(["a", "é", "😀", "a "]) * (most + 1)
    elif how == 7:
        body["texts"] = ["a"] * rng.choice([0, 1_001, 2_000])
    else:
        nested = rng.choice(["a", None])
        for _ in range(rng.choice([3, 100, 500])):
            nested = rng.choice([[nested], {"text": nested}])
        body[name] = nested
    return body


def by_schema(document, rng):
    """A request, whole and well-formed as HTTP."""
    path = rng.choice(["/v1/predict", "/v1/predict", "/v1/explain", "/v1/feedback", "/v1/file"])
    kind = "text/csv" if path == "/v1/file" else "application/json"
    if path == "/v1/file":
        body = rng.choice(ODD_CSV)
        query = rng.choice(["", "text=body", "text=", "text=%00", "quotes=x", "encoding=rot13"])
        query = rng.choice(
            [query, "text=body&text=a", "x=1", "encoding=utf-16", "text=" + "a" * 2000]
        )
        path = f"{path}?{query}"
    elif rng.random() < 0.3:
        body = rng.choice(ODD_JSON)
    else:
        schema = document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
        value = valid_value(schema, document, rng)
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
        body = json.dumps(mutate(value, schema, rng), ensure_ascii=rng.random() < 0.5)
        body = body.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        kind = rng.choice(TYPES)
    method = rng.choice(["PUT", "GET", "DELETE", "PATCH"]) if rng.random() < 0.05 else "POST"
    more = rng.choice(["Content-Encoding: gzip\r\n", "X-Request-Id: \x7f" + "a" * 99 + "\r\n", ""])
    return as_http(method, path, body, kind, more if rng.random() < 0.2 else "")


def as_http(method, path, body, kind, more=""):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}"
    return (
        f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode("latin-1") + body
    )


# --------------------------------------------------------------------------------- bytes, by HTTP
POST = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"text": GOOD})
WHOLE = f"{POST}Content-Length: {len(BODY)}\r\n\r\n{BODY}"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n"
PATHS = [
    "/",
    "//",
    "/nope",
    "/%00",
    "/%ff%fe",
    "/../../etc/passwd",
    "/v1/predict/",
    "/a?" + "b" * 900,
]
PATHS += [
    "*",
    "http://other/v1/model",
    "/v1/%70redict",
    "/report",
    "/metrics?x=%0d%0a",
    "/\xe9",
    "/a b",
]
METHODS = [
    "GET",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PUT",
    "DELETE",
    "PROPFIND",
    "get",
    "X" * 50,
]


def by_bytes(document, rng):
    """Bytes that are no whole request, or none that the server would like; as pieces."""
    n = len(BODY)
    odd = rng.choice(
        [
            rng.randbytes(rng.choice([1, 50, 5_000])),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(100),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\r\n" * rng.choice([1, 100, 20_000]),
            b"GET /",
            b"GET / HTTP/0.9\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"GET /healthz HTTP/1.0\r\n\r\n",
            b"GET /healthz HTTP/1.1\n\n",
            b"GET /healthz HTTP/1.1\r\nno colon here\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n: empty\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nA: \0\xff\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nA: " + b"x" * rng.choice([30_000, 40_000, 300_000]),
            b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * rng.choice([500, 20_000]) + b"\r\n",
            b"GET /" + b"a" * rng.choice([8_000, 70_000]) + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            f"{POST}Expect: 100-continue\r\nContent-Length: {n}\r\n\r\n{BODY}",
            f"{POST}Content-Length: {n}\r\nContent-Length: {n + 1}\r\n\r\n{BODY}",
            f"{POST}Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}",
            *(
                f"{POST}Content-Length: {k}\r\n\r\n{BODY}"
                for k in (-1, "x", n + 9, n - 9, "9" * 30)
            ),
            f"{POST}Content-Length: 1000001\r\n\r\n{BODY}",
            f"{POST}\r\n{BODY}",
            f"{CHUNKED}{n:x}\r\n{BODY}\r\n0\r\n\r\n",
            f"{CHUNKED}{n:x}\r\n{BODY}",
            f"{CHUNKED}{n + 7:x}\r\n{BODY}\r\n0\r\n\r\n",
            f"{CHUNKED}{n - 7:x}\r\n{BODY}\r\n0\r\n\r\n",
            f"{CHUNKED}ffffffffffffffffff\r\n{BODY}",
            f"{CHUNKED}zz\r\n{BODY}",
            f"{CHUNKED}{n:x};{'x' * 40_000}\r\n{BODY}\r\n0\r\n\r\n",
            CHUNKED + "".join(f"1\r\n{c}\r\n" for c in BODY) + "0\r\nTrailer: x\r\n\r\n",
            CHUNKED + f"{10_000:x}\r\n{' ' * 10_000}\r\n" * 120 + "0\r\n\r\n",
            WHOLE * rng.choice([2, 5, 40]),
            WHOLE + "GARBAGE\r\n\r\n",
            WHOLE[: rng.randrange(1, len(WHOLE))],
            "".join(c if rng.random() < 0.97 else chr(rng.randrange(256)) for c in WHOLE),
            f"{rng.choice(METHODS)} {rng.choice(PATHS)} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            f"GET {rng.choice(PATHS)} HTTP/1.1\r\n\r\n",
        ]
    )
    odd = odd if isinstance(odd, bytes) else odd.encode("latin-1")
    if rng.random() < 0.2 and len(odd) < 10_000:
        cuts = sorted(rng.randrange(len(odd) + 1) for _ in range(3))
        return [odd[a:b] for a, b in zip([0, *cuts], [*cuts, len(odd)], strict=True)]
    return [odd]


# -------------------------------------------------------------------------------------- the client
class _Received:
    """Bytes as a socket for HTTPResponse to read from, several answers behind each other."""

    def __init__(self, data):
        self.file = io.BytesIO(data)
        self.file.close = lambda: None

    def makefile(self, mode):
        return self.file


def exchange(port, pieces, seconds=20.0):
    """What comes back, until the server closes, or waits for more."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.02)
            whole = b"Connection: close" in pieces[0]
            client.settimeout(seconds if whole else QUIET)
            while data := client.recv(65_536):
                received += data
        except TimeoutError:
            assert not whole, "no answer to a whole request"
        except ConnectionError:
            pass  # it was closed while something was sent: what came before counts
    return bytes(received)


def answers_in(received, is_head):
    """(status, headers, body) of each answer."""
    stream, found = _Received(received), []
    while stream.file.tell() < len(received):
        answer = HTTPResponse(stream, method="HEAD" if is_head else "POST")
        answer.begin()
        found.append((answer.status, answer.headers, answer.read()))
    return found


def check(number, pieces, received):
    """What holds of every answer; the statuses that came."""
    what = f"request {number}: {pieces[0][:200]!r} got {received[:300]!r}"
    try:
        answers = answers_in(received, pieces[0].startswith(b"HEAD"))
    except HTTPException as error:
        pytest.fail(f"{what}: no HTTP: {error!r}")
    for status, headers, body in answers:
        assert status in STATUSES, what
        assert b"Traceback" not in body and b'File "' not in body, what
        if status >= 400 and not pieces[0].startswith(b"HEAD"):
            if b'{"status"' in body:  # of /healthz and /readyz
                continue
            assert list(json.loads(body)) == ["error"] and json.loads(body)["error"], what
            assert "\n" not in json.loads(body)["error"], what
            assert headers["content-type"] == "application/json", what
    return [status for status, _, _ in answers]


# --------------------------------------------------------------------------------------- the tests
@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A classifier of random weights, and feedback."""
    folder = tmp_path_factory.mktemp("fuzzed")
    run = made_run(folder / "tiny", "forward", text_column="body")
    saved_classifier(run / "classifier")
    how = ["--port", 0, "--precision", "fp32", "--feedback", folder / "feedback.jsonl"]
    served = Served("ulmfit_app", ["serve", run, *how])
    predictor = load_predictor(run, "fp32")
    columns = [f"p_{label}" for label in predictor.labels]
    served.expected = lambda texts: predictor.predict(texts)[columns].to_numpy()
    served.right, served.labels = served.expected([GOOD])[0], predictor.labels
    yield served
    if served.process.poll() is None:
        served.end()


def answers_right(served):
    url = f"http://127.0.0.1:{served.port}/v1/predict"
    request = urllib.request.Request(url, BODY.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        (found,) = json.load(answer)["predictions"]
    return np.allclose(row_of(found, served), served.right, atol=1e-5)


def row_of(prediction, served):
    return [prediction["probabilities"][label] for label in served.labels]


def open_files(served):
    return len(os.listdir(f"/proc/{served.process.pid}/fd"))


def send_all(served, numbers, document):
    """Several at a time; the statuses, counted."""

    def one(number):
        rng = random.Random(number)
        made = by_schema(document, rng) if number % 2 else by_bytes(document, rng)
        pieces = made if isinstance(made, list) else [made]
        return check(number, pieces, exchange(served.port, pieces))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(status for statuses in pool.map(one, numbers) for status in statuses)


def test_requests_that_are_sent_before_the_answers_are_answered_in_order(served):
    texts = [f"great {'dull ' * i}film" for i in range(20)]
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    heads = [f"{POST}Content-Length: {len(body)}\r\n".encode() for body in bodies]
    heads = [head + b"\r\n" for head in heads[:-1]] + [heads[-1] + b"Connection: close\r\n\r\n"]
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(b"".join(h + b for h, b in zip(heads, bodies, strict=True)))
        received = b""
        while data := client.recv(65_536):
            received += data
    answers = answers_in(received, False)
    assert [status for status, _, _ in answers] == [200] * 20
    found = [row_of(json.loads(body)["predictions"][0], served) for _, _, body in answers]
    assert np.allclose(found, served.expected(texts), atol=1e-5)


def test_whatever_is_sent_is_refused_in_a_sentence_and_the_server_answers_on(served):
    document = json.loads(served.get("/openapi.json"))
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(4)]
    slow[0].sendall(b"GET / HT")
    slow[1].sendall(POST.encode())
    slow[2].sendall(f"{POST}Content-Length: {len(BODY)}\r\n\r\n{BODY[:5]}".encode())
    files, statuses, memory, size = 0, Counter(), [], max(N // 8, 1)
    for first in range(0, N, size):
        statuses += send_all(served, range(first, min(first + size, N)), document)
        assert answers_right(served), f"after request {first + size}"
        memory.append(served.memory() / 1024)
        files = files or open_files(served)
    assert all(statuses[s] for s in (200, 400, 404, 405, 413, 415, 422)), statuses
    # Clients that never finish what they began are sent away, in a sentence if they began at all.
    for client in slow:
        received = b""
        while data := client.recv(65_536):
            received += data
        client.close()
        assert [status for status, _, _ in answers_in(received, False)] == [408], received
    metrics = served.metrics()
    assert metrics["ulmfit_queue_texts"] == 0
    assert open_files(served) <= files, "connections or files that stay open"
    assert memory[-1] - memory[len(memory) // 2] < GROWTH_MB, memory
    assert served.process.poll() is None
    assert served.end() == 0
    assert served.errors() == "", "a traceback, or a defect"
    print(f"{N} requests: {dict(sorted(statuses.items()))}, MB of memory: {memory}")
