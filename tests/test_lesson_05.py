"""Notebook 05: what an encoder hands over, knows and forgets; neighbours; checked exercises."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import course_settings, says
from ulmfit_app.course import Verdict, forgetting, lesson_05, neighbours
from ulmfit_app.course.lesson_04 import PLANS
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.training.recipes import PUBLISHED, Phase, Plan

TEXTS = ["Great.", "A long and dull story, and then that ending!"]
HEAD = Plan("head", (Phase("head", 1, freeze_to=-1, lr=1e-2),), 0.5)
ALL = Plan("all", (Phase("all groups", 1, freeze_to=0, lr=5e-2),), 0.5)


@lru_cache
def lab() -> lesson_05.ClassifierLab:
    """One for all tests, on random weights that are not fine-tuned."""
    return lesson_05.ClassifierLab(course_settings(max_test=24))


@lru_cache
def trained() -> lesson_05.TrainedClassifier:
    return lab().keep(ALL)


# ------------------------------------------------------------------------------------- the encoder
def test_the_encoder_hands_over_last_state_maximum_and_mean_of_a_texts_own_tokens():
    outputs, lengths = lab().encode_batch(*TEXTS)
    own = [one[:n] for one, n in zip(outputs, lengths, strict=True)]
    by_hand = [np.concatenate([one[-1], one.max(axis=0), one.mean(axis=0)]) for one in own]
    assert np.allclose(lab().pool(*TEXTS), by_hand, atol=1e-6)
    alone = lab().tabulate_outputs(TEXTS[1])
    assert np.allclose(alone, own[1], atol=1e-6) and alone.index[0] == "xxbos"


def test_an_encoder_is_probed_before_and_after_it_was_fine_tuned():
    found = lesson_05.probe(lab())
    assert len(found) == 3 and (found["n"] == 24).all()
    assert found["accuracy"].between(found["low"], found["high"]).all()


def test_weights_are_counted_where_they_learn():
    learn = lab()._make_learner(PUBLISHED)
    learn.create_opt()
    counted = {}
    for phase in PUBLISHED.phases:
        learn.freeze_to(phase.freeze_to)
        counted[phase.name] = [
            sum(p.numel() for p in group if p.requires_grad) for group in learn.opt.param_lists
        ]
    assert (
        lesson_05.count_learning(PUBLISHED, lab().count_weights()).iloc[::-1].to_dict("list")
        == counted
    )
    assert lab().count_weights().sum() == sum(
        parameter.numel() for parameter in learn.model.parameters()
    )
    assert (
        lesson_05.count_learning(PLANS["chain-thaw"], lab().count_weights())["embeddings alone"]
        > 0
    ).tolist() == [False] * 4 + [True]


def test_a_frozen_encoder_forgets_nothing_and_one_that_learns_does():
    before = lab().measure_perplexity()
    assert lab().keep(HEAD).history["perplexity"].tolist() == pytest.approx([before])
    assert abs(trained().history["perplexity"].iloc[-1] / before - 1) > 1e-3


def test_a_kept_classifier_learns_what_the_trials_of_notebook_04_learn():
    columns = ["phase", "train_loss", "valid_loss", "accuracy"]
    pd.testing.assert_frame_equal(trained().history[columns], lab().train(ALL)[columns])


def test_a_kept_classifier_predicts():
    predicted = Predictor(trained().folder, "fp32").predict(TEXTS)
    assert list(predicted["text"]) == TEXTS and list(predicted)[-2:] == ["p_neg", "p_pos"]


def test_a_kept_classifier_has_its_model_with_the_weights_that_predict():
    store, model = lab().number_texts(*TEXTS), trained().model
    logits = model[1].layers(torch.from_numpy(lesson_05.pool_texts(model, store)))
    wanted = Predictor(trained().folder, "fp32").probabilities(store)
    assert np.allclose(logits.softmax(1), wanted, atol=1e-6)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_phases_are_told_by_their_last_epoch():
    history = pd.DataFrame(
        {
            "phase": ["head", "all", "all"],
            "accuracy": [0.5, 0.9, 0.75],
            "perplexity": [100.0, 110.0, 120.0],
        }
    )
    found = forgetting.tabulate_phases(history, n=40)
    assert found["phase"].tolist() == ["head", "all"]
    assert found["accuracy"].tolist() == [0.5, 0.75] and (found["n"] == 40).all()
    assert found["perplexity"].tolist() == [100.0, 120.0]
    assert (found["low"] < found["accuracy"]).all() and (found["accuracy"] < found["high"]).all()
    assert found["high"][1] == accuracy_interval(30, 40)[1]


# ---------------------------------------------------------------------------- texts and neighbours
@pytest.fixture
def readers():
    folder = trained().folder
    return {"plain": neighbours.FastaiClassifier(folder), "ours": Predictor(folder, "fp32")}


def test_a_text_alone_has_the_same_probabilities_in_plain_fastai(readers):
    store = lab().number_texts(*TEXTS)
    plain, ours = (neighbours.read_alone(reader, store) for reader in readers.values())
    assert np.allclose(plain, ours, atol=1e-6)
    assert np.allclose(readers["plain"].probabilities(store), ours, atol=1e-6), (
        "rows come in the order of the texts"
    )


def test_a_longer_neighbour_moves_plain_fastais_probabilities_and_not_ours(readers):
    store = neighbours.take_texts(lab().store, range(10))
    plain, ours = (
        neighbours.measure_influence(reader, store, [72, 100]).set_index("beside")
        for reader in readers.values()
    )
    assert plain.loc[72, "largest"] < 1e-6 < 1e-3 < plain.loc[100, "largest"]
    assert ours["largest"].max() < 1e-6 and not ours["other_label"].any()
    assert (plain["n"] == 10).all() and (plain["mean"] <= plain["largest"]).all()


def test_rounding_is_told_from_an_influence():
    found = pd.DataFrame(
        [(72, 10, 9.4e-8, 2e-6, 0), (90, 10, 0.04, 0.65, 3)],
        columns=["beside", "n", "mean", "largest", "other_label"],
    )
    told = neighbours.tabulate_influence(found)
    assert told["mean difference"].tolist() == ["below 0.000001", "0.040000"]
    assert told["largest difference"].tolist() == ["0.000002", "0.650000"]
    assert told["tokens beside"].tolist() == [72, 90] and told["other labels"].tolist() == [0, 3]


def test_one_text_is_read_beside_texts_of_each_length(readers):
    found = neighbours.vary_neighbour(readers, lab().number_texts(TEXTS[0]), range(40, 140, 20))
    assert list(found.columns) == ["plain", "ours"] and list(found.index) == [40, 60, 80, 100, 120]
    assert np.ptp(found["ours"]) < 1e-6 < 1e-4 < np.ptp(found["plain"])


# ----------------------------------------------------------------------------------- the exercises
def test_pooled_texts_are_judged_a_third_at_a_time():
    rng = np.random.default_rng(0)
    outputs, lengths = rng.normal(size=(2, 6, 4)), np.array([3, 6])

    def pooled(
        last: bool = True, largest: bool = True, mean: bool = True, sums: bool = False
    ) -> np.ndarray:
        """Right where it is True, over padding where it is not."""
        rows = []
        for one, n in zip(outputs, lengths, strict=True):
            means = one[:n].mean(0) if mean else one.sum(0) / n if sums else one.mean(0)
            rows.append(
                np.concatenate(
                    [one[n - 1] if last else one[-1], (one[:n] if largest else one).max(0), means]
                )
            )
        return np.array(rows)

    def check(answer: object) -> Verdict:
        return lesson_05.check_pooled(answer, pooled(), outputs, lengths)

    assert check(pooled()).right
    assert "the last column" in says(check(pooled(last=False)))
    assert "maximum is taken over padding" in says(check(pooled(largest=False)))
    assert "mean is taken over padding" in says(check(pooled(mean=False)))
    assert "padding is still in it" in says(check(pooled(mean=False, sums=True)))
    assert "another order" in says(check(np.roll(pooled(), 4, axis=1)))
    assert "maximum and mean: not what" in says(
        check(np.concatenate([pooled()[:, :4], outputs[:, 0], outputs[:, 1]], 1))
    )
    assert "shape (2, 12)" in says(check(pooled()[0]))
    assert "three dots" in says(check(...))


def test_a_share_of_weights_counts_all_groups_that_learn():
    sizes = pd.Series({"head": 10, "LSTM 2": 30, "LSTM 1": 60})
    phases = pd.DataFrame({"last two groups": [10, 30, 0]}, sizes.index)

    def check(answer: object) -> Verdict:
        return lesson_05.check_share(answer, phases, sizes, "last two groups")

    assert check(0.4).right
    assert "is frozen" in says(check(0.6))
    assert "new in this phase" in says(check(0.3))
    assert "all the same size" in says(check(2 / 3))
    assert "25.00% is not" in says(check(0.25))
    assert "between 0 and 1" in says(check(40))


def test_a_text_begins_behind_whole_chunks_of_padding():
    assert lesson_05.check_start(144, tokens=20, longest=200).right
    assert "as in this package" in says(lesson_05.check_start(0, 20, 200))
    assert "padding would be before" in says(lesson_05.check_start(180, 20, 200))
    assert "not a multiple" in says(lesson_05.check_start(100, 20, 200))
    assert "not that many" in says(lesson_05.check_start(72, 20, 200))
    assert lesson_05.check_start(0, tokens=60, longest=100).right, "no whole chunk fits before it"
