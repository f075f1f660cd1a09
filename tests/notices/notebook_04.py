"""What notebook 04 says of its outputs."""

from itertools import pairwise

import numpy as np
import torch

from ulmfit_app.course import compare_intervals
from ulmfit_app.training.recipes import rates_over

COIN = np.log(2)  # the loss of one, in nats


def what_is_one_step_of_training(model, texts, labels, stepped, loss):
    assert model.weight.grad.shape == model.weight.shape
    assert torch.nn.functional.cross_entropy(stepped, labels) < loss


def how_does_the_learning_rate_move(curves):
    first_three = [sum(curves[name]) for name in ("slanted-triangular", "one-cycle", "cosine")]
    assert all(np.isclose(max(curve), 0.01) for curve in curves.values())
    assert max(first_three) < 1.05 * min(first_three)
    assert 1.9 * max(first_three) < sum(curves["constant"]) < 2.1 * min(first_three)
    assert curves["constant"][0] == curves["constant"][-1]


def does_the_paper_s_formula_give_the_same_rates(by_hand, ours, cut, T):
    assert by_hand.shape == ours.shape and np.allclose(by_hand, ours, rtol=1e-9)
    assert by_hand.argmax() == cut == T // 10
    assert np.allclose(np.diff(by_hand[cut:], 2), 0, atol=1e-12)


def why_does_each_layer_get_a_rate_of_its_own(rates):
    assert np.isclose(rates["divided by 2.6"][-1] / rates["divided by 2.6"][0], 2.6**4)
    assert len(set(rates["divided by 1.0"])) == 1


def what_do_two_rates_do_in_one_step(by_hand, embeddings):
    assert len(by_hand) == 2
    for part, new in by_hand.items():
        assert torch.allclose(part.weight, new) and abs(part.weight.grad).max() > 0
    assert embeddings.weight.grad is None


def which_layers_learn_when(published, lesson_04):
    rates = np.array(rates_over(published, lesson_04.GROUPS, "one-cycle"))
    assert (rates[-1] > 0).all() and (rates[0] == 0).any()
    assert all(one.lr > later.lr for one, later in pairwise(published.phases))


def which_plans_did_the_paper_compare(plans):
    highest = plans.set_index("plan")["highest rate"]
    for name in ("full", "gradual"):
        assert plans.set_index("plan")["divided by"][name] == 1
        assert highest[name] < highest[f"{name}-discr"]


def what_does_a_plan_do_to_a_classifier(history):
    first, last = history.iloc[0], history.iloc[-1]
    assert last["train_loss"] < 0.9 * first["train_loss"]
    fallen = {name: first[name] - last[name] for name in ("train_loss", "valid_loss")}
    assert fallen["train_loss"] > fallen["valid_loss"]


def break_it_what_if_the_rate_is_too_high_or_too_low(compared, printed):
    losses = dict(zip(compared["plan"], compared["train_loss"], strict=True))
    assert losses["rate 0.01"] < COIN - 0.15
    assert losses["rate 0.5"] > COIN - 0.02 and losses["rate 1e-05"] > COIN - 0.06
    assert compare_intervals(compared, name="plan") in printed


def break_it_what_if_the_rates_are_upside_down(both):
    typed, slipped = both["slice(lowest, top)"], both["slice(top, lowest)"]
    assert np.allclose(sorted(typed), sorted(slipped))
    assert slipped["head"] == slipped.min() and slipped["embeddings"] == slipped.max()
    assert typed["head"] == typed.max()


def does_that_break_the_classifier(ways, printed):
    losses = dict(zip(ways["plan"], ways["train_loss"], strict=True))
    assert losses.pop("divided by 1/2.6") > COIN - 0.02
    assert len(losses) == 3 and max(losses.values()) < COIN - 0.1
    assert compare_intervals(ways, name="plan") in printed
