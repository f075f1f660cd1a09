"""What a server refuses, each with a status and one sentence; and what it says of itself."""

import json

import pytest

from tests.serving_tools import fake_version, parse, receive_all, serving
from ulmfit_app.serving import requests
from ulmfit_app.serving.description import describe
from ulmfit_app.serving.records import FEEDBACK, JsonLines

pytest.importorskip("prometheus_client", reason="needs the extra serve")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    feedback = JsonLines(tmp_path_factory.mktemp("f") / "feedback.jsonl", 10**6, FEEDBACK)
    with serving(fake_version(), feedback=feedback) as server:
        yield server


def refused(answer, status):
    """The sentence of a refusal, which is all that it holds."""
    assert answer.status == status and answer.headers["content-type"] == "application/json"
    (sentence,) = answer.json.values()
    assert list(answer.json) == ["error"] and sentence[-1] in ".?"
    assert "Traceback" not in sentence and len(sentence) < 400
    return sentence


LONG = "x" * 200_001
WRONG = {  # body, status, what is said
    "nothing": (b"", 400, "The body is no JSON: EOF while parsing a value"),
    "half of it": (b'{"text": "a"', 400, "The body is no JSON: EOF while parsing an object"),
    "two": (b'{"text": "a"} {}', 400, "trailing characters"),
    "quotes": (b"{'text': 'a'}", 400, "The body is no JSON"),
    "latin-1": (b'{"text": "caf\xe9"}', 400, "invalid unicode code point"),
    "utf-16": ('{"text": "a"}'.encode("utf-16"), 400, "The body is no JSON"),
    "surrogate": (rb'{"text": "\ud800"}', 400, "half of a surrogate pair"),
    "low surrogate": (rb'{"text": "a\udc00"}', 400, "surrogate in hex escape"),
    "surrogate in UTF-8": (b'{"text": "\xed\xa0\x80"}', 400, "invalid unicode"),
    "deep": (b"[" * 900_000, 400, "recursion limit"),
    "deep within": (b'{"text": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400, "recursion limit"),
    "digits": (b'{"text": ' + b"9" * 900_000 + b"}", 400, "number out of range"),
    "list": ([], 422, "Expected an object, found a list."),
    "null": (None, 422, "Expected an object, found null."),
    "string": ("a", 422, "Expected an object, found a string."),
    "number": (1, 422, "Expected an object, found a number."),
    "neither": ({}, 422, 'Expected either "text" or "texts", found neither.'),
    "both": ({"text": "a", "texts": ["b"]}, 422, 'Expected either "text" or "texts", found both.'),
    "no texts": ({"texts": []}, 422, "texts: Expected at least one text, found none."),
    "1,001 texts": (
        {"texts": ["a"] * 1_001}, 422, "texts: Expected at most 1,000 texts, found 1,001.",
    ),
    "long": ({"text": LONG}, 422, "text: Expected at most 200,000 characters, found 200,001."),
    "one is long": ({"texts": ["a", LONG]}, 422, "texts[1]: Expected at most 200,000 characters"),
    "NUL": ({"text": "ab\0c"}, 422, "text: It has a NUL at character 3."),
    "one has a NUL": ({"texts": ["a", "\0"]}, 422, "texts[1]: It has a NUL at character 1."),
    "text is null": ({"text": None}, 422, "text: Expected a string, found null."),
    "null beside it": ({"text": None, "texts": ["a"]}, 422, "text: Expected a string, found"),
    "text is a number": ({"text": 1}, 422, "text: Expected a string, found a number."),
    "text is infinite": (b'{"text": 1e999}', 422, "text: Expected a string, found a number."),
    "text is true": ({"text": True}, 422, "text: Expected a string, found true or false."),
    "text is a list": ({"text": ["a"]}, 422, "text: Expected a string, found a list."),
    "texts is a string": ({"texts": "a"}, 422, "texts: Expected a list, found a string."),
    "texts is an object": ({"texts": {"0": "a"}}, 422, "texts: Expected a list, found an object."),
    "one is null": ({"texts": ["a", None]}, 422, "texts[1]: Expected a string, found null."),
    "unknown field": ({"text": "a", "top": 1}, 422, "top: There is no such field."),
    "long field": ({"text": "a", "k" * 9_000: 1}, 422, f"{'k' * 60}: There is no such field."),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_body_is_refused_in_a_sentence(server, case):
    body, status, says = WRONG[case]
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert says in refused(server.post("/v1/predict", body), status)


OTHERS = [
    ("explain", {"text": "x" * 5_001}, "text: Expected at most 5,000 characters, found 5,001."),
    ("explain", {"text": " \n"}, "text: Expected a text with words, found none."),
    ("explain", {"label": "good"}, "text: It is missing."),
    ("explain", {"text": "a", "label": None}, "label: Expected a string, found null."),
    ("explain", {"text": "a", "label": "g\0"}, "label: It has a NUL at character 2."),
    ("feedback", {"text": "a"}, "label: It is missing."),
    ("feedback", {"text": "a", "label": 1}, "label: Expected a string, found a number."),
    ("feedback", {"text": "a", "label": "x" * 1_001}, "label: Expected at most 1,000 characters"),
    ("feedback", {"text": " ", "label": "good"}, "text: Expected a text with words, found none."),
    ("feedback", {"text": "a", "label": "fair"}, "label: Expected one of the model's labels"),
]


@pytest.mark.parametrize(("path", "body", "says"), OTHERS)
def test_explanations_and_feedback_are_checked_likewise(server, path, body, says):
    assert says in refused(server.post(f"/v1/{path}", body), 422)


def test_what_is_just_within_the_limits_is_answered(server):
    for body in [{"texts": ["a"] * 1_000}, {"text": "x" * 200_000}, {"text": "\U0001f600\ufeff"}]:
        answer = server.post("/v1/predict", body)
        assert answer.status == 200 and len(answer.json["predictions"]) == len(
            body.get("texts", "1")
        )
    most = json.dumps({"text": "a"}).encode().ljust(requests.BODY_BYTES)
    assert server.post("/v1/predict", most).status == 200


MEDIA = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]


@pytest.mark.parametrize("path", ["predict", "explain", "feedback"])
@pytest.mark.parametrize("media", MEDIA)
def test_what_a_foreign_page_may_send_without_asking_is_refused(server, path, media):
    body = {"text": "a", "label": "good"}
    sentence = refused(server.post(f"/v1/{path}", body, media), 415)
    assert sentence == f"Expected the header Content-Type: application/json, found '{media}'."


def test_parameters_of_the_media_type_do_not_matter(server):
    assert (
        server.post("/v1/predict", {"text": "a"}, "Application/JSON; charset=utf-8").status == 200
    )


def test_a_compressed_body_is_not_unpacked(server):
    answer = server.post("/v1/predict", b"\x1f\x8b", **{"content-encoding": "gzip"})
    assert "not compressed" in refused(answer, 415)
    identity = server.post("/v1/predict", {"text": "a"}, **{"content-encoding": "identity"})
    assert identity.status == 200


@pytest.mark.parametrize("size", [1_000_001, 3_000_000])
def test_a_large_body_is_refused_to_a_client_that_sends_all_of_it(server, size):
    """And the connection can go on: no reset reaches the client before the answer."""
    said = "Expected a body of at most 1,000,000 bytes, found more."
    with server.connect() as client:
        head = "POST /v1/predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + b"x" * size)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        both = receive_all(client)
    assert refused(parse(both), 413) == said
    assert both.endswith(b'{"status": "alive"}')
    # Nothing says how large it is.
    pieces = (b"x" * 65_536 for _ in range(size // 65_536 + 1))
    chunked = server.ask(
        "POST", "/v1/predict", pieces, {"content-type": "application/json"}, encode_chunked=True
    )
    assert refused(chunked, 413) == said


@pytest.mark.parametrize("length", ["9" * 19, "1" + "0" * 40, "-1", "1_0", "²"])
def test_a_made_up_length_is_refused(server, length):
    with server.connect() as client:
        head = "POST /v1/predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {length}\r\nConnection: close\r\n\r\n".encode())
        answer = parse(client.recv(65_536))
    refused(answer, 413 if len(length) == 19 else 400)


def test_there_is_no_such_path(server):
    for path in ["/no", "/v1", "/v1/predict/", "//", "/page.html", "/../run.json", "/report"]:
        sentence = refused(server.get(path), 404)
        assert sentence == "There is no such path. /openapi.json lists what there is."


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_another_method_is_told_which_there_is(server, method):
    answer = server.ask(method, "/v1/predict")
    assert refused(answer, 405) == f"Expected the method POST, found {method}."
    assert answer.headers["allow"] == "POST"
    assert "GET" in refused(server.post("/v1/model", {}), 405)


# ------------------------------------------------------------------------------------ openapi.json
def schemas():
    return describe()["components"]["schemas"]


def validator(name, **more):
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas()}}
    return jsonschema.Draft202012Validator(schema | more)


def test_the_description_holds_for_real_answers(server):
    asked = {
        "predict": {"texts": ["a", ""]},
        "explain": {"text": "a b"},
        "feedback": {"text": "a", "label": "bad"},
    }
    paths = describe()["paths"]
    for name, body in asked.items():
        post = paths[f"/v1/{name}"]["post"]
        kind = name.capitalize()
        validator(f"{kind}Request").validate(body)
        if name == "explain":
            continue  # the made model has no words; tests/test_serving_api.py explains
        answer = server.post(f"/v1/{name}", body)
        assert str(answer.status) in post["responses"]
        validator(f"{kind}Answer").validate(answer.json)
    validator("ErrorAnswer").validate(server.get("/no").json)


@pytest.mark.parametrize("case", [name for name, case in WRONG.items() if case[1] == 422])
def test_the_description_refuses_what_the_server_refuses(case):
    body = WRONG[case][0]
    body = json.loads(body) if isinstance(body, bytes) else body
    assert not validator("PredictRequest").is_valid(body)


def test_the_description_lists_each_route_and_status(server):
    found = server.get("/openapi.json").json
    assert found == describe() and found["openapi"].startswith("3.1")
    assert sorted(found["paths"]) == sorted(
        ["/v1/predict", "/v1/explain", "/v1/file", "/v1/feedback", "/v1/model"]
        + ["/healthz", "/readyz", "/metrics"]
    )
    for path in ("predict", "explain", "file", "feedback"):
        responses = found["paths"][f"/v1/{path}"]["post"]["responses"]
        assert {"400", "408", "413", "415", "422", "503"} < set(responses)
    text = json.dumps(found)
    assert all(f'"{name}"' in text for name in ("oneOf", "maxLength", "pattern", "maxItems"))
    assert "null" not in json.dumps(schemas()["PredictRequest"])


def test_limits_are_said_where_the_page_looks_for_them(server):
    limits = server.get("/v1/model").json["limits"]
    assert limits == {
        "body_bytes": 1_000_000, "text_characters": 200_000, "texts": 1_000,
        "explain_characters": 5_000, "file_bytes": 32_000_000, "seconds": 20,
    }  # fmt: skip
