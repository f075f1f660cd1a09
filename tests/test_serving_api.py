"""What a server answers: what the predictor says, whoever else asks; and what it does not tell."""

import hashlib
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests import test_report
from tests.serving_tools import PATIENCE, FakeModel, fake_version, serving, wait_until
from tests.test_predictor import DIRECTIONS, TEXTS, made_run, save_validation, saved_classifier
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.serving import batching
from ulmfit_app.serving.card import SCORES
from ulmfit_app.serving.guard import HEADERS
from ulmfit_app.serving.records import ANSWERS, FEEDBACK, JsonLines
from ulmfit_app.serving.telemetry import Telemetry
from ulmfit_app.serving.versions import Routing, load_routing

pytest.importorskip("prometheus_client", reason="needs the extra serve")

LABELS = ["bad", "fair", "good"]
SENDABLE = [text.replace("\udcff", "\ufffd") for text in TEXTS]


def forward(folder):
    saved_classifier(folder / "classifier", temperature=1.5)
    return made_run(folder, "forward")


def bidirectional(folder):
    for seed, direction in enumerate(DIRECTIONS):
        name = "classifier" if direction == "forward" else "classifier-backward"
        save_validation(saved_classifier(folder / name, seed, direction=direction), seed)
    return made_run(folder, *DIRECTIONS)


def transformer(folder):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    from tests import test_transformer
    from tests.tiny_transformers import make_checkpoint
    from ulmfit_app.models.transformer_start import read_transformer

    checkpoint = make_checkpoint(folder / "start", "bert")
    start = read_transformer(checkpoint, str(checkpoint))
    test_transformer.saved_classifier(folder / "classifier", start)
    return made_run(folder, "forward")


@pytest.fixture(scope="module", params=[forward, bidirectional, transformer])
def served(request, tmp_path_factory):
    """A server of a run, and the run's own predictor."""
    run = request.param(tmp_path_factory.mktemp(request.param.__name__))
    with serving(load_routing(run, precision="fp32")) as server:
        yield server, load_predictor(run, "fp32")


@pytest.fixture(scope="module")
def fake():
    with serving(fake_version()) as server:
        yield server


def probabilities(answer):
    assert answer.status == 200, answer.body
    found = answer.json["predictions"]
    assert all(list(one["probabilities"]) == LABELS for one in found)
    for one in found:
        assert one["label"] == max(LABELS, key=one["probabilities"].get)
        assert one["confidence"] == one["probabilities"][one["label"]]
        assert sum(one["probabilities"].values()) == pytest.approx(1)
    return np.array([list(one["probabilities"].values()) for one in found])


# ------------------------------------------------------------------------------- what is predicted
def test_probabilities_are_the_predictors_alone_and_among_others(served):
    server, predictor = served
    direct = predictor.probabilities(predictor.store(SENDABLE))
    together = server.post("/v1/predict", {"texts": SENDABLE})
    assert np.allclose(probabilities(together), direct, rtol=0, atol=1e-6)
    assert together.json["notes"] == ["Empty texts: 1. Their predictions say nothing."]
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda t: server.post("/v1/predict", {"text": t}), SENDABLE * 3))
    found = np.concatenate([probabilities(answer) for answer in alone])
    assert np.allclose(found, np.tile(direct, (3, 1)), rtol=0, atol=1e-6)
    assert alone[0].json["notes"] == []


def test_a_thousand_texts_come_in_their_order(served):
    server, predictor = served
    texts = [f"{SENDABLE[i % 7][:40]} {i} " + "great dull " * (i % 5) for i in range(1_000)]
    found = probabilities(server.post("/v1/predict", {"texts": texts}))
    assert np.allclose(found, predictor.probabilities(predictor.store(texts)), rtol=0, atol=1e-6)


def test_an_explanation_is_that_of_the_command(served):
    server, predictor = served
    text = "A \U0001f600 great film; the plot, DULL."
    answer = server.post("/v1/explain", {"text": text}).json
    own = explain(predictor, text)
    assert (answer["label"], answer["n_words"]) == (own.label, own.n_words)
    assert answer["method"] == "occlusion" and answer["model"] == server.service.routing.model.id
    assert answer["probability"] == pytest.approx(own.probability, abs=1e-6)
    assert [text[word["start"] : word["stop"]] for word in answer["words"]] == [
        word["word"] for word in answer["words"]
    ]
    assert [word["word"] for word in answer["words"]] == own.words["word"].tolist()
    for column in ("score", "without"):
        found = [word[column] for word in answer["words"]]
        assert np.allclose(found, own.words[column], atol=1e-4)
    other = next(label for label in LABELS if label != own.label)
    assert server.post("/v1/explain", {"text": text, "label": other}).json["label"] == other


def test_the_label_to_explain_is_one_of_the_models(served):
    answer = served[0].post("/v1/explain", {"text": "A film.", "label": "goods"})
    assert answer.status == 422
    assert answer.json["error"].startswith(
        "label: There is no label 'goods'. Did you mean 'good'?"
    )


def test_explanations_and_predictions_at_once_are_each_right(served):
    """spaCy's tokenizer is asked by several threads."""
    server, predictor = served
    texts = [f"{word} film number {i}, GREAT!!!" for i, word in enumerate(["dull", "great"] * 6)]
    direct = predictor.probabilities(predictor.store(texts)).max(1)
    with ThreadPoolExecutor(12) as pool:
        explained = pool.map(lambda t: server.post("/v1/explain", {"text": t}), texts)
        predicted = pool.map(lambda t: server.post("/v1/predict", {"text": t}), texts)
        found = [probabilities(answer).max() for answer in predicted]
        assert np.allclose(found, direct, atol=1e-6)
        assert np.allclose([answer.json["probability"] for answer in explained], direct, atol=1e-6)


@pytest.mark.parametrize("text", ["\u200b", "...", "\u0301", "\U0001f600", "xxbos xxpad", "很好"])
def test_an_odd_text_is_explained(served, text):
    answer = served[0].post("/v1/explain", {"text": text})
    assert answer.status == 200 and answer.json["n_words"] == len(answer.json["words"])


def test_a_run_without_a_report_has_a_card(served):
    server, predictor = served
    answer = server.get("/v1/model").json
    card = answer["model"]
    assert answer["canary"] is None and answer["share"] == 0 and answer["feedback"] is False
    assert card["labels"] == LABELS and card["temperature"] == predictor.decision.temperature
    assert card["metrics"] is None and card["report"] is None and card["baselines"] == {}
    assert re.fullmatch(rf"{card['run']}@[0-9a-f]{{12}}", card["id"])
    assert card["precision"] == "fp32" and "torch" in card["served_with"]
    assert server.get("/report").status == 404


def test_the_report_and_its_figures_are_served_with_a_policy_of_their_own(tmp_path):
    run = forward(tmp_path / "run")
    metrics = test_report.write(run / "report", test_report.table(), test_report.FACTS)
    with serving(load_routing(run)) as server:
        card = server.get("/v1/model").json["model"]
        report = server.get("/" + card["report"])
        # What the run is trained to meanwhile is not what is served.
        (run / "report" / "report.html").write_text("<!DOCTYPE html> another model's")
        assert server.get("/report").body == report.body
    assert card["metrics"]["accuracy_ci95"] == metrics["model"]["accuracy_ci95"]
    assert card["metrics"]["test"] == test_report.FACTS.get("test_name", card["metrics"]["test"])
    assert set(card["baselines"]) == set(metrics["baselines"])
    assert report.status == 200 and report.body.startswith(b"<!DOCTYPE html>")
    policy = report.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy and "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert "allow-same-origin" not in policy


WHOLE = json.dumps({"model": dict.fromkeys(SCORES, 0), "baselines": {"a": 1}})


@pytest.mark.parametrize("damage", ['{"model": {}}', '{"model": 1}', "{", WHOLE])
def test_damaged_metrics_are_said_in_a_sentence(tmp_path, damage):
    run = forward(tmp_path / "run")
    (run / "report").mkdir()
    (run / "report" / "metrics.json").write_text(damage)
    with pytest.raises(RunFolderError, match=r"metrics.json is damaged.*ulmfit_app report"):
        load_routing(run)


# ----------------------------------------------------------------------------------------- headers
def all_answers(server):
    yield from map(
        server.get, ["/", "/page.js", "/page.css", "/icon.svg", "/v1/model", "/metrics"]
    )
    yield from map(server.get, ["/healthz", "/readyz", "/openapi.json", "/no", "/v1/predict"])
    yield server.post("/v1/predict", {"text": "a"})
    yield server.post("/v1/predict", {"text": 1})
    yield server.post("/v1/predict", {"text": "poison"})
    yield server.post("/v1/file", b"text\na\n", "text/csv")
    yield server.ask("HEAD", "/")


def test_every_answer_has_the_headers_and_no_cookie(fake):
    found = list(all_answers(fake))
    assert {answer.status for answer in found} == {200, 404, 405, 422, 500}
    for answer in found:
        assert HEADERS.items() <= answer.headers.items()
        assert "set-cookie" not in answer.headers and "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy and "connect-src 'self'" in policy
    assert HEADERS["x-content-type-options"] == "nosniff"


def test_the_page_and_its_parts_have_their_media_types(fake):
    for path, media in [("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")]:
        assert fake.get(path).headers["content-type"] == f"text/{media}; charset=utf-8"
    assert fake.get("/icon.svg").headers["content-type"] == "image/svg+xml"
    # What the scripts import is there.
    for part in re.findall(rb'from "\./([\w.]+)"', fake.get("/page.js").body):
        assert fake.get("/" + part.decode()).status == 200


@pytest.mark.parametrize("given", ["a" * 65, "a b", "<b>", "ä", "a,b", ""])
def test_a_request_id_is_echoed_only_if_harmless(fake, given):
    echoed = fake.get("/healthz", **{"x-request-id": "run_7.a-B"}).headers["x-request-id"]
    assert re.fullmatch(r"run_7\.a-B\.[0-9a-f]{16}", echoed)
    made = fake.get("/healthz", **{"x-request-id": given.encode("latin-1")}).headers[
        "x-request-id"
    ]
    assert re.fullmatch("[0-9a-f]{16}", made)


def test_other_origins_may_read_answers_only_if_they_are_named():
    here, there = "https://here.example", "https://there.example"
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    with serving(fake_version(), origins=[here]) as server:
        allowed = server.post("/v1/predict", {"text": "a"}, origin=here)
        assert allowed.headers["access-control-allow-origin"] == here
        assert "access-control-allow-credentials" not in allowed.headers
        assert HEADERS.items() <= allowed.headers.items()
        other = server.post("/v1/predict", {"text": "a"}, origin=there)
        assert "access-control-allow-origin" not in other.headers
        asked = server.ask("OPTIONS", "/v1/predict", None, preflight | {"origin": here})
        assert asked.status == 200 and asked.headers["access-control-allow-origin"] == here
        asked = server.ask("OPTIONS", "/v1/predict", None, preflight | {"origin": there})
        assert asked.status == 400 and "access-control-allow-origin" not in asked.headers
        refused = server.post("/v1/predict", {"text": 1}, origin=here)
        assert refused.status == 422
        assert refused.headers["access-control-allow-origin"] == here


def test_without_cors_a_preflight_is_refused(fake):
    asked = {"origin": "https://here.example", "access-control-request-method": "POST"}
    answer = fake.ask("OPTIONS", "/v1/predict", None, asked)
    assert answer.status == 405 and "access-control-allow-origin" not in answer.headers


# --------------------------------------------------------------------------- what does not go well
def test_a_defect_is_answered_in_json_and_logged_without_texts(fake, caplog):
    answer = fake.post(
        "/v1/predict", {"text": "poison of a private text"}, **{"x-request-id": "r1"}
    )
    assert answer.status == 500
    assert answer.json == {"error": "This is a defect of the server; its log says more."}
    (record,) = caplog.records
    assert re.match(
        r"Request r1\.\w+: ValueError at .*serving_tools\.py:\d+ < .*\.$", record.message
    )
    assert "private" not in caplog.text and "Traceback" not in caplog.text
    assert fake.get("/healthz").status == 200
    assert fake.post("/v1/predict", {"text": "a"}).status == 200


def test_two_failing_models_are_one_error(caplog):
    routing = Routing(fake_version("a@1"), fake_version("b@2"), 0.5)
    with serving(routing) as server:
        texts = [f"poison {i}" for i in range(20)]
        assert server.post("/v1/predict", {"texts": texts}).status == 500
    assert len(caplog.records) == 1  # and nothing of asyncio's about what nobody retrieved


def test_a_request_fails_as_soon_as_one_model_does(caplog):
    routing = Routing(fake_version("a@1"), fake_version("b@2"), 0.5)
    routing.model.predictor.gate.clear()
    with serving(routing) as server:
        texts = [f"poison {i}" for i in range(20)]
        assert server.post("/v1/predict", {"texts": texts}).status == 500
        assert routing.model.batcher.texts == 0


def test_the_time_limit_answers_503_and_frees_the_queue():
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version, seconds=0.1) as server:
        for path, body in [
            ("predict", {"text": "a"}), ("predict", {"texts": ["a"] * 300}),
        ]:  # fmt: skip
            answer = server.post(f"/v1/{path}", body)
            assert answer.status == 503 and "retry-after" not in answer.headers
            assert answer.json["error"] == "The answer was not there within 0.1 seconds."
        wait_until(lambda: version.batcher.texts == 0)
        assert version.batcher.characters == 0
        version.predictor.gate.set()
        wait_until(lambda: server.post("/v1/predict", {"text": "a"}).status == 200)


def test_an_explanation_too_ends_at_its_time(tmp_path):
    run = forward(tmp_path / "run")
    routing = load_routing(run)
    held = threading.Event()
    compute = routing.model.predictor.probabilities
    routing.model.predictor.probabilities = lambda *a, **m: (held.wait(20), compute(*a, **m))[1]
    with serving(routing, seconds=0.1) as server:
        answer = server.post("/v1/explain", {"text": "A film."})
        assert answer.status == 503 and "within 0.1 seconds" in answer.json["error"]
        wait_until(lambda: routing.model.batcher.texts == 0)
        held.set()


def test_an_explanation_that_nobody_waits_for_leaves_the_queue(tmp_path):
    routing = load_routing(forward(tmp_path / "run"))
    held, compute = threading.Event(), routing.model.predictor.probabilities
    routing.model.predictor.probabilities = lambda *a, **m: (
        held.wait(9 * PATIENCE),
        compute(*a, **m),
    )[1]
    with serving(routing, seconds=10 * PATIENCE) as server:
        with server.connect() as client:
            head = "POST /v1/explain HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            client.sendall(f'{head}Content-Length: 13\r\n\r\n{{"text": "a"}}'.encode())
            wait_until(lambda: routing.model.batcher.texts)
        try:
            wait_until(lambda: not routing.model.batcher.texts)
        finally:
            held.set()


def test_a_full_queue_answers_503_and_readiness_says_so(monkeypatch):
    monkeypatch.setattr(batching, "MOST_CHARACTERS", 1_000)
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version) as server, ThreadPoolExecutor(1) as pool:
        assert server.get("/readyz").json == {"status": "ready"}
        kept = pool.submit(server.post, "/v1/predict", {"text": "x" * 900})
        wait_until(lambda: version.batcher.texts == 1)
        answer = server.post("/v1/predict", {"text": "y" * 200})
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert "Too many texts wait already" in answer.json["error"]
        ready = server.get("/readyz")
        assert ready.status == 503 and ready.json == {"status": "full"}
        assert server.get("/healthz").json == {"status": "alive"}
        version.predictor.gate.set()
        assert kept.result(20).status == 200


def test_a_client_that_goes_away_leaves_the_queue():
    version = fake_version()
    version.predictor.gate.clear()
    with serving(version) as server:
        body = json.dumps({"texts": ["a"] * 500}).encode()
        with server.connect() as client:
            head = "POST /v1/predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: version.batcher.texts == 500)
        wait_until(lambda: version.batcher.texts == 0)
        version.predictor.gate.set()
        gone = 'ulmfit_requests_total{route="/v1/predict",status="499"} 1.0'
        wait_until(lambda: gone in server.get("/metrics").body.decode())


def test_a_dead_thread_is_no_health(monkeypatch):
    version = fake_version()
    with serving(version) as server:
        version.batcher.close()
        answer = server.get("/healthz")
        assert answer.status == 503 and answer.json == {"status": "dead"}
        assert server.post("/v1/predict", {"text": "a"}).status == 503


# ------------------------------------------------------------------------------------------ counts
def test_metrics_count_what_was_answered():
    with serving(fake_version("m@1", on_batch=lambda n: telemetry.batch("m@1", n))) as server:
        telemetry = server.service.telemetry
        server.post("/v1/predict", {"texts": ["a", "a b c", "a"]})
        server.post("/v1/predict", {"text": 1})
        server.get("/made/up/by/a/client")
        answer = server.get("/metrics")
    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for line in [
        'ulmfit_requests_total{route="/v1/predict",status="200"} 1.0',
        'ulmfit_requests_total{route="/v1/predict",status="422"} 1.0',
        'ulmfit_requests_total{route="other",status="404"} 1.0',
        'ulmfit_request_seconds_count{route="/v1/predict"} 2.0',
        'ulmfit_batch_texts_sum{model="m@1"} 3.0',
        'ulmfit_queue_texts{model="m@1"} 0.0',
        'ulmfit_predicted_total{label="bad",model="m@1"} 3.0',
        'ulmfit_confidence_count{model="m@1"} 3.0',
        "ulmfit_records_lost_total 0.0",
    ]:
        assert line in text.splitlines(), line
    assert "made" not in text


def test_without_prometheus_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        SettingError, match=r"prometheus-client.*pip install 'ulmfit-app\[serve\]'"
    ):
        Telemetry()


# ---------------------------------------------------------------------------- feedback and the log
def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_feedback_is_off_unless_there_is_a_file(fake):
    answer = fake.post("/v1/feedback", {"text": "a", "label": "bad"})
    assert answer.status == 404 and "started without --feedback FILE" in answer.json["error"]


def test_feedback_is_added_with_what_the_model_says(tmp_path):
    path = tmp_path / "feedback.jsonl"
    earlier = dict(zip(FEEDBACK, ["old", "bad", "good", 1, "m", "t"], strict=True))
    path.write_text(json.dumps(earlier) + "\n")
    with serving(fake_version(), feedback=JsonLines(path, 700, FEEDBACK)) as server:
        assert server.get("/v1/model").json["feedback"] is True
        answer = server.post("/v1/feedback", {"text": "so\ngood \u2028", "label": "good"})
        assert answer.status == 201 and answer.json == {"stored": True}
        first, second = lines(path)
        assert first == earlier and second.pop("time").endswith("Z")
        assert second == {
            "text": "so\ngood \u2028", "label": "good", "predicted": "bad", "confidence": 0.75,
            "model": "fake@1",
        }  # fmt: skip
        statuses = [
            server.post("/v1/feedback", {"text": "x" * 99, "label": "bad"}).status
            for _ in range(9)
        ]
        full = server.post("/v1/feedback", {"text": "x" * 99, "label": "bad"})
    assert set(statuses) == {201, 507} and statuses == sorted(statuses)
    assert full.json == {"error": "The file of feedback takes no more: this was not kept."}
    assert path.stat().st_size <= 700 and len(lines(path)) == 2 + statuses.count(201)


@pytest.mark.parametrize("with_texts", [False, True])
def test_the_log_of_answers_has_texts_only_if_asked_for(tmp_path, with_texts):
    path = tmp_path / "answers.jsonl"
    answers = JsonLines(path, 10**6, ANSWERS)
    with serving(fake_version(), answers=answers, with_texts=with_texts) as server:
        about = {"x-request-id": "r7"}
        answer = server.post("/v1/predict", {"texts": ["private a", "b"]}, **about)
        server.post("/v1/predict", {"text": 5})
    first, second = lines(path)
    assert first["hash"] == hashlib.sha256(b"private a").hexdigest()[:16]
    assert first["request"] == answer.headers["x-request-id"]
    assert (first["model"], first["label"]) == ("fake@1", "bad")
    assert first["confidence"] == 0.75 and second["confidence"] == 0.666667
    assert first["seconds"] > 0
    assert first.get("text") == ("private a" if with_texts else None)
    assert ("private" in path.read_text()) == with_texts


def test_the_made_model_is_what_batchers_ask():
    """So that tests of it are tests of what is served."""
    from ulmfit_app.inference.predictor import Predictor

    assert all(hasattr(Predictor, name) for name in ("store_of", "probabilities", "tokenizer"))
    assert FakeModel.labels == ("bad", "good")
