"""The pull towards the weights that training began with."""

import copy

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
from torch.utils.data import DataLoader

from ulmfit_app.training.loop import prepare
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.pull import PullToStart

LR = 0.01


def learner(model, *callbacks, frozen=()):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(3, generator=generator), torch.randn(2, generator=generator))
        for _ in range(24)
    ]
    dls = DataLoaders(DataLoader(pairs, 8), DataLoader(pairs, 8))
    learn = Learner(dls, model, nn.MSELoss(), opt_func=FusedAdam, cbs=list(callbacks))
    for parameter in frozen:
        parameter.requires_grad_(False)
    return prepare(learn, "fp32")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def fitted(model, *callbacks, epochs=1, **others):
    learn = learner(model, *callbacks, **others)
    learn.fit(epochs, LR, wd=0)
    return model


def test_each_step_is_adams_and_then_the_gradient_step_of_the_penalty(model):
    """torch's own Adam, and the gradient of strength / 2 * |w - start|^2 by autograd."""
    strength, start, reference = 20.0, copy.deepcopy(model), copy.deepcopy(model)
    fitted(model, PullToStart(model, strength))
    adam = torch.optim.Adam(reference.parameters(), LR, betas=(0.9, 0.99), eps=1e-5)
    for x, y in learner(copy.deepcopy(start)).dls.train:
        adam.zero_grad()
        nn.functional.mse_loss(reference(x), y).backward()
        adam.step()
        pairs = list(zip(reference.parameters(), start.parameters(), strict=True))
        penalty = strength / 2 * sum(((w - w0.detach()) ** 2).sum() for w, w0 in pairs)
        gradients = torch.autograd.grad(penalty, [w for w, _ in pairs])
        with torch.no_grad():
            for (w, _), gradient in zip(pairs, gradients, strict=True):
                w -= LR * gradient
    for own, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, theirs)


def test_a_stronger_pull_leaves_weights_nearer_to_where_they_were(model):
    start, moved = model.weight.detach().clone(), []
    for strength in (0.0, 10.0, 1e9):
        other = copy.deepcopy(model)
        fitted(other, PullToStart(other, strength), epochs=3)
        moved.append((other.weight - start).abs().max().item())
    assert moved[0] > 1.1 * moved[1] > 0 and moved[2] == pytest.approx(0, abs=1e-7)


def test_rows_that_the_start_did_not_have_are_not_pulled(model):
    start = model.weight.detach().clone()
    fresh = {"weight": torch.tensor([False, True]), "not there": torch.tensor([True])}
    fitted(model, PullToStart(model, 1e9, fresh))
    torch.testing.assert_close(model.weight[0], start[0])
    assert (model.weight[1] - start[1]).abs().max() > LR / 2


def test_what_is_frozen_is_left_alone(model):
    pull = PullToStart(model, 1e9)
    with torch.no_grad():
        model.bias += 1
    moved = model.bias.detach().clone()
    fitted(model, pull, frozen=[model.bias])
    assert torch.equal(model.bias, moved)
