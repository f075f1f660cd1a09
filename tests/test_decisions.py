"""How probabilities become answers: temperatures, thresholds, and what bundles keep of them."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tests.test_bundle import described, made_model
from ulmfit_app.errors import BundleError
from ulmfit_app.evaluation.calibration import fit_temperature
from ulmfit_app.evaluation.decisions import Decision, fit_decision
from ulmfit_app.models.bundle import load_bundle, save_bundle, save_decision, seal_of

DECISIONS = {
    "plain": (Decision(temperatures=(1.5,)), 2),
    "thresholds": (Decision(thresholds=(0.3, 0.7)), 3),
    "costs": (Decision(costs=((0.0, 1.0), (5.0, 0.0))), 3),
    "several labels": (Decision(True, (0.5, 2.0), (0.2, 0.4)), 3),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_bundle_keeps_its_decision(tmp_path, name):
    decision, version = DECISIONS[name]
    bundle = described(kind="classifier", labels=["a", "b"], decision=decision)
    save_bundle(tmp_path, made_model(), bundle)
    assert load_bundle(tmp_path, "classifier").decision == decision
    assert json.loads((tmp_path / "bundle.json").read_text())["format"] == version


def test_a_decision_takes_the_place_of_another_one_whole(tmp_path):
    bundle = described(kind="classifier", labels=["a", "b"], decision=DECISIONS["costs"][0])
    save_bundle(tmp_path, made_model(), bundle)
    for decision, version in DECISIONS.values():
        save_decision(tmp_path, decision)
        found = json.loads((tmp_path / "bundle.json").read_text())
        assert load_bundle(tmp_path, "classifier").decision == decision
        assert found["format"] == version


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": [0.5]},
        {"thresholds": [0.0, 1.0]},
        {"thresholds": [0.5, 1.5]},
        {"costs": [[0, 1]]},
        {"costs": [[0, 1], [1]]},
        {"costs": [[0, -1], [1, 0]]},
        {"costs": [[0, float("nan")], [1, 0]]},
        {"multilabel": True, "temperature": [1.0, 1.0, 1.0]},
        {"multilabel": True, "temperature": [1.0, 0.0]},
    ],
)
def test_a_decision_that_cannot_be_is_refused(tmp_path, changes):
    save_bundle(tmp_path, made_model(), described(kind="classifier", labels=["a", "b"]))
    path = tmp_path / "bundle.json"
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(found | {"sha256": seal_of(found)}))
    with pytest.raises(BundleError, match="is not a description of a model"):
        load_bundle(tmp_path, "classifier")


def drawn(n=600, seed=0):
    """Probabilities of three classes of which one is rare, and what is true."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(3, n, p=[0.7, 0.25, 0.05])
    logits = generator.normal(size=(n, 3)) + 1.5 * np.eye(3)[truth] + [2, 1, -1.5]
    weights = np.exp(3 * logits)
    return weights / weights.sum(axis=1, keepdims=True), truth


def test_a_decision_on_one_label_has_the_temperature_of_the_validation_part():
    probabilities, truth = drawn()
    decision, reasons = fit_decision(probabilities, truth, has_thresholds=False)
    assert decision.temperature == fit_temperature(probabilities, truth)[0] > 1.5
    assert decision.thresholds == () and reasons == [""]


def test_thresholds_raise_macro_f1_on_other_texts_too():
    probabilities, truth = drawn()
    decision, _ = fit_decision(probabilities, truth, has_thresholds=True)
    assert sum(decision.thresholds) == pytest.approx(1)
    others, other_truth = drawn(seed=1)
    plain = f1_score(other_truth, others.argmax(axis=1), average="macro")
    decided = decision.answer(decision.calibrate(others))
    assert f1_score(other_truth, decided, average="macro") > plain + 0.02


def test_each_of_several_labels_has_a_temperature_of_its_own():
    generator = np.random.default_rng(0)
    right = generator.normal(size=(3_000, 2))
    truth = (generator.random((3_000, 2)) < 1 / (1 + np.exp(-right))).astype(np.float32)
    said = 1 / (1 + np.exp(-right * [1, 4]))  # the second label's logits are four times too large
    decision, reasons = fit_decision(said, truth, has_thresholds=False)
    assert decision.temperatures == pytest.approx((1, 4), rel=0.15)
    assert decision.multilabel and reasons[1] == ""
    calibrated = decision.calibrate(said)
    assert np.abs(calibrated[:, 1] - 1 / (1 + np.exp(-right[:, 1]))).max() < 0.05


def test_of_several_labels_those_that_reach_their_thresholds_are_given():
    decision = Decision(True, (1.0, 1.0), (0.2, 0.8))
    assert decision.answer(np.array([[0.2, 0.79], [0.19, 0.8]])).tolist() == [
        [True, False],
        [False, True],
    ]
    assert Decision(True).answer(np.array([[0.5, 0.49]])).tolist() == [[True, False]]
