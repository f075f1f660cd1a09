"""A second model answers a share of the texts: the same ones each time, wherever they come."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from tests.serving_tools import fake_version, serving
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app.errors import SettingError
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.serving.records import ANSWERS, FEEDBACK, JsonLines
from ulmfit_app.serving.versions import Routing, load_routing

pytest.importorskip("prometheus_client", reason="needs the extra serve")

LABELS = ["bad", "fair", "good"]
TEXTS = [f"A great film, number {i}; but dull." for i in range(60)]


def made(folder, seed, labels=LABELS):
    saved_classifier(folder / "classifier", seed, labels=labels)
    return made_run(folder, "forward")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return made(root / "old", 0), made(root / "new", 1, ["good", "bad", "fair"])


@pytest.fixture(scope="module")
def server(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    answers = JsonLines(folder / "answers.jsonl", 10**6, ANSWERS)
    feedback = JsonLines(folder / "feedback.jsonl", 10**6, FEEDBACK)
    routing = load_routing(*runs, share=0.3, precision="fp32")
    with serving(routing, answers=answers, feedback=feedback) as server:
        server.folder = folder
        yield server


def expected_model(server, text):
    """By the definition: the hash of the text, as a number from 0 to 1, is below the share."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return server.service.routing.versions[number < 0.3].id


def test_a_text_goes_to_the_same_model_alone_in_bulk_and_explained(server):
    together = server.post("/v1/predict", {"texts": TEXTS}).json["predictions"]
    models = [expected_model(server, text) for text in TEXTS]
    assert [one["model"] for one in together] == models and len(set(models)) == 2
    for text, one in zip(TEXTS[:8], together, strict=False):
        assert (
            server.post("/v1/predict", {"text": text}).json["predictions"][0]["model"]
            == one["model"]
        )
        explained = server.post("/v1/explain", {"text": text}).json
        assert (explained["model"], explained["label"]) == (one["model"], one["label"])
        assert explained["probability"] == pytest.approx(one["confidence"], abs=1e-6)
        assert server.post("/v1/feedback", {"text": text, "label": "fair"}).status == 201
        line = (server.folder / "feedback.jsonl").read_text().splitlines()[-1]
        assert json.loads(line)["model"] == one["model"]
        assert json.loads(line)["predicted"] == one["label"]


def test_labels_in_another_order_are_the_same_labels(server, runs):
    predictors = [load_predictor(run, "fp32") for run in runs]
    by_model = dict(zip((v.id for v in server.service.routing.versions), predictors, strict=True))
    for one, text in zip(
        server.post("/v1/predict", {"texts": TEXTS}).json["predictions"], TEXTS, strict=True
    ):
        assert list(one["probabilities"]) == LABELS
        direct = by_model[one["model"]].predict([text]).iloc[0]
        for label in LABELS:
            assert one["probabilities"][label] == pytest.approx(direct[f"p_{label}"], abs=1e-6)
        assert one["label"] == direct["predicted"]


def test_both_are_in_metrics_the_log_and_the_description(server):
    server.post("/v1/predict", {"texts": TEXTS})
    ids = {version.id for version in server.service.routing.versions}
    about = server.get("/v1/model").json
    assert {about["model"]["id"], about["canary"]["id"]} == ids and about["share"] == 0.3
    metrics = server.get("/metrics").body.decode()
    assert all(f'ulmfit_confidence_count{{model="{model}"}}' in metrics for model in ids)
    assert all(f'ulmfit_queue_texts{{model="{model}"}} 0.0' in metrics for model in ids)
    lines = (server.folder / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == ids


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_the_share_is_that_of_different_texts(share):
    routing = Routing(fake_version("a@1"), fake_version("b@2"), share)
    chosen = [routing.choose(f"text {i}") is routing.canary for i in range(4_000)]
    assert np.mean(chosen) == pytest.approx(share, abs=3 * (share * (1 - share) / 4_000) ** 0.5)
    assert [routing.choose(f"text {i}") is routing.canary for i in range(50)] == chosen[:50]
    larger = Routing(routing.model, routing.canary, min(1.0, 2 * share))
    # Who had the canary keeps it when its share grows.
    assert all(larger.choose(f"text {i}") is larger.canary for i in range(4_000) if chosen[i])
    routing.close()


def test_a_request_of_both_that_is_given_up_leaves_both_queues():
    routing = Routing(fake_version("a@1"), fake_version("b@2"), 0.5)
    for version in routing.versions:
        version.predictor.gate.clear()
    with serving(routing, seconds=0.1) as server:
        assert server.post("/v1/predict", {"texts": TEXTS}).status == 503
        assert [version.batcher.texts for version in routing.versions] == [0, 0]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_canary_needs_a_share(runs, share):
    with pytest.raises(SettingError, match="--canary needs the --share.*above 0 and at most 1"):
        load_routing(*runs, share=share)


def test_the_same_model_is_no_canary(runs, tmp_path):
    copied = shutil.copytree(runs[0], tmp_path / "copied")
    with pytest.raises(SettingError, match="hold the same model. Name another --canary"):
        load_routing(runs[0], copied, 0.5)


def test_a_model_of_other_labels_is_no_canary(runs, tmp_path):
    other = made(tmp_path / "other", 2, ["bad", "fair", "Good"])
    with pytest.raises(SettingError, match="different labels.*'good'.*'Good'"):
        load_routing(runs[0], other, 0.5)


def test_a_models_name_changes_with_all_that_changes_its_answers(tmp_path):
    names = set()
    for i, about in enumerate([{}, {"temperature": 2.0}, {"labels": ["b", "f", "g"]}]):
        folder = tmp_path / str(i) / "same"
        folder.mkdir(parents=True)
        saved_classifier(folder / "classifier", 0, **about)
        routing = load_routing(made_run(folder, "forward"))
        routing.close()
        names.add(routing.model.id)
    assert len(names) == 3 and {name.partition("@")[0] for name in names} == {"same"}
