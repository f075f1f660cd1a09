"""Mixing the hidden states of texts while a classifier learns (Guo et al. 2019)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.test_contrastive import PLAN, make_learner, start  # noqa: F401 (fixtures)
from tests.test_training import interrupted
from ulmfit_app.models.bundle import unique_tensors
from ulmfit_app.training import loop
from ulmfit_app.training.balance import make_loss
from ulmfit_app.training.contrastive import LearnFromPairs, loss_of_pairs
from ulmfit_app.training.loop import train
from ulmfit_app.training.mixing import MixStates

PHASES = tuple(replace(phase, epochs=1) for phase in PLAN.phases)


class Head(nn.Module):
    """Gives back what it is given."""

    def forward(self, encoded):
        return encoded


def mixing(loss=F.cross_entropy, training=True, cbs=()):
    """A MixStates that is in a fit, and its Learner."""
    learn = SimpleNamespace(loss_func=loss, model=[None, Head()], cbs=list(cbs), training=training)
    callback = MixStates()
    callback.learn = learn
    callback.before_fit()
    callback.before_train()
    return callback, learn


def test_the_head_reads_means_of_two_texts_with_a_share_for_the_batch():
    callback, learn = mixing()
    pooled, outputs = torch.randn(6, 4), torch.randn(6, 3, 4)
    mixed, others = learn.model[1]((pooled, outputs))
    assert others is outputs
    assert sorted(callback.other.tolist()) == list(range(6))
    expected = callback.share * pooled + (1 - callback.share) * pooled[callback.other]
    assert torch.allclose(mixed, expected)


def test_shares_are_uniform_and_other_ones_in_each_batch():
    torch.manual_seed(0)
    callback, learn = mixing()
    shares = []
    for _ in range(400):
        learn.model[1]((torch.zeros(4, 2), torch.zeros(0)))
        shares.append(callback.share)
    found = np.histogram(shares, bins=4, range=(0, 1))[0]
    assert found.sum() == 400 and (found > 70).all()


@pytest.mark.parametrize("balance", ["none", "weights"])
@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_that_of_mixed_targets(balance, several):
    torch.manual_seed(1)
    truth = np.array([0, 1, 2, 2, 0, 2])
    if several:
        truth = np.eye(3, dtype=np.float32)[truth] + np.eye(3, dtype=np.float32)[[1, 0, 0] * 2]
    callback, learn = mixing(make_loss(balance, truth, 3))
    learn.model[1]((torch.randn(6, 4), torch.zeros(0)))
    logits, targets = torch.randn(6, 3), torch.tensor(truth)
    found = float(learn.loss_func(logits, targets))
    share, other = callback.share, callback.other
    own = targets if several else F.one_hot(targets, 3).float()
    mixed = share * own + (1 - share) * own[other]
    if several:
        weights = (6 - own.sum(0)) / own.sum(0) if balance == "weights" else None
        expected = F.binary_cross_entropy_with_logits(logits, mixed, pos_weight=weights)
    elif balance == "none":
        expected = F.cross_entropy(logits, mixed)
    else:  # each term is divided by the sum of its texts' weights, which a permutation keeps
        weights = 6 / (3 * own.sum(0))
        expected = F.cross_entropy(logits, mixed, weights, reduction="sum") / weights[truth].sum()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_nothing_is_mixed_in_validation():
    callback, learn = mixing(training=False)
    callback.before_validate()
    pooled = torch.randn(3, 2)
    assert learn.model[1]((pooled, torch.zeros(0)))[0] is pooled
    assert learn.loss_func is F.cross_entropy


def test_where_pairs_are_learned_nothing_is_mixed():
    _, learn = mixing(cbs=[LearnFromPairs()], loss=loss_of_pairs)
    pooled = torch.randn(3, 2)
    assert learn.model[1]((pooled, torch.zeros(0)))[0] is pooled
    assert learn.loss_func is loss_of_pairs


def mixed(make_learner, folder, **more):  # noqa: F811
    learn, settings = make_learner(folder, **more)
    learn.add_cb(MixStates())
    return learn, train(learn, PHASES, folder, settings)


def test_it_changes_what_is_learned_from_labels_and_leaves_all_as_it_was(
    make_learner,  # noqa: F811
    tmp_path,
):
    learn, settings = make_learner(tmp_path / "plain")
    plain = train(learn, PHASES, tmp_path / "plain", settings)
    learn, history = mixed(make_learner, tmp_path / "mixed")
    same = history["train_loss"] == plain["train_loss"]
    assert same.tolist() == [True, False, False], "pairs are as ever"
    assert not learn.model[1]._forward_pre_hooks
    loss, accuracy = learn.validate()[:2]
    best = history[history["phase"] != "pairs"].sort_values(["accuracy", "valid_loss"])
    assert accuracy == pytest.approx(best["accuracy"].max())
    assert np.isfinite(loss)


@pytest.mark.parametrize("make_learner", ["awd-lstm"], indirect=True)
def test_killed_anywhere_it_ends_with_the_same_weights(
    make_learner,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)

    def job(folder):
        return mixed(make_learner, folder)

    whole, history = job(tmp_path / "whole")
    n = len(whole.dls.train)
    for at in (n + 2, 2 * n + 1):
        resumed, again = interrupted(job, tmp_path / str(at), monkeypatch, at)
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)
        pd.testing.assert_frame_equal(
            history.drop(columns="seconds"), again.drop(columns="seconds")
        )
