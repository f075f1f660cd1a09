"""What the optimizer is given at each step of a real training, against formulas written anew here.

A made-up model of a few layer groups, one matrix and one bias each, and the real classifier's.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fastai.callback.schedule import combined_cos
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import default_device

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, ModelSettings
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.training import classifier
from ulmfit_app.training.loop import prepare, seed_everything, train
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import (
    PLANS,
    Plan,
    count_epochs,
    language_model_phases,
    make_plan,
    pretraining_phases,
    rates_over,
)

N_GROUPS, STEPS, SIZE = 4, 10, 3  # steps of an epoch: 10, so that a tenth of them is whole
WEIGHT_DECAY = 0.05

# Rate and momentum at step t of T of a phase, given its peak, all from outside: the paper's
# equation 3 with the 0.7 of its section 4.1, and fastai's fit_one_cycle with the defaults of its
# text learners. The other schedules are in no paper of ours.
FORMULAS: dict[str, Callable[[int, int, float], tuple[float, float]]] = {
    "slanted-triangular": lambda t, T, peak: (equation_3(t, T, peak), 0.7),
    "one-cycle": lambda t, T, peak: (
        float(combined_cos(0.25, peak / 25, peak, peak / 1e5)(t / T)),
        float(combined_cos(0.25, 0.8, 0.7, 0.8)(t / T)),
    ),
    "cosine": lambda t, T, peak: (peak * (1 + math.cos(math.pi * t / T)) / 2, 0.7),
    "constant": lambda t, T, peak: (peak, 0.7),
    "rising": lambda t, T, peak: (peak * t / T, 0.7),
    "falling": lambda t, T, peak: (peak * (T - t) / T, 0.7),
}


def equation_3(t: int, T: int, peak: float, cut_frac: float = 0.1, ratio: float = 32) -> float:
    """As the paper prints it, in iterations."""
    cut = math.floor(T * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return peak * (1 + p * (ratio - 1)) / ratio


# Pairs need a model with a pooled encoder: tests/test_contrastive.py.
BY_LABELS = [name for name in PLANS if name != "contrastive"]


# --------------------------------------------------------------------------------- a made-up model
class Loader:
    """The same batches of random numbers in each epoch."""

    def __init__(self, n_batches: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n_batches, 8, SIZE, generator=generator)
        self.y = torch.randint(0, SIZE, (n_batches, 8), generator=generator)
        self.epoch = self.start = 0
        self.device = default_device()

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self):
        yield from list(zip(self.x, self.y, strict=True))[self.start :]


class Watched(FusedAdam):
    """Writes down what it does: `steps` has one entry per step."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[dict] = []

    def step(self, closure: None = None) -> None:
        before = self._weights()
        learning = [{p.requires_grad for p in group} for group in self.param_lists]
        gradients = [
            [None if p.grad is None else p.grad.clone() for p in group]
            for group in self.param_lists
        ]
        super().step(closure)
        self.steps.append(
            {
                "hypers": [dict(hyper) for hyper in self.hypers],
                "learning": learning,
                "gradients": gradients,
                "before": before,
                "after": self._weights(),
            }
        )

    def _weights(self) -> list[list[torch.Tensor]]:
        return [[p.detach().clone() for p in group] for group in self.param_lists]


def made_learner(n_groups: int = N_GROUPS) -> Learner:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(SIZE, SIZE) for _ in range(n_groups)))
    learn = Learner(
        DataLoaders(Loader(STEPS, seed=1), Loader(2, seed=2)),
        model,
        CrossEntropyLossFlat(),
        Watched,
        metrics=[accuracy],
        splitter=lambda model: [list(layer.parameters()) for layer in model],
    )
    return prepare(learn, "fp32")


def carried_out(phases, schedule, folder, n_groups: int = N_GROUPS) -> list[dict]:
    learn = made_learner(n_groups)
    train(learn, phases, folder, TrainingSettings("made", "k", schedule, WEIGHT_DECAY))
    return learn.opt.steps


@pytest.fixture(scope="module")
def steps_of(tmp_path_factory) -> Callable[[str, str], list[dict]]:
    """The steps of a plan under a schedule, trained once for all tests."""

    @cache
    def steps(name: str, schedule: str) -> list[dict]:
        folder = tmp_path_factory.mktemp("made")
        return carried_out(make_plan(name, N_GROUPS).phases, schedule, folder)

    return steps


def places(phases, n_steps: int = STEPS):
    """Of each step: its phase, its number in the phase, and how many the phase has."""
    for phase in phases:
        total = phase.epochs * n_steps
        yield from ((phase, t, total) for t in range(total))


CONFIGURED = ["one-cycle", "slanted-triangular", "cosine", "constant"]


# ------------------------------------------------------------------------------ rates and momentum
@pytest.mark.parametrize("schedule", CONFIGURED)
@pytest.mark.parametrize("name", BY_LABELS)
def test_rates_momentum_and_decay_of_every_step_are_those_of_the_formulas(
    name, schedule, steps_of
):
    plan, steps = make_plan(name, N_GROUPS), steps_of(name, schedule)
    assert len(steps) == count_epochs(plan) * STEPS
    for step, (phase, t, total) in zip(steps, places(plan.phases), strict=True):
        for group, hyper in enumerate(step["hypers"]):
            peak = phase.lr / phase.decay ** (N_GROUPS - 1 - group)
            rate, momentum = FORMULAS[schedule](t, total, peak)
            # fastai computes in single precision.
            assert hyper["lr"] == pytest.approx(rate, rel=1e-5, abs=1e-6 * peak)
            assert hyper["mom"] == pytest.approx(momentum, rel=1e-6)
            assert hyper["wd"] == WEIGHT_DECAY
            assert (hyper["sqr_mom"], hyper["eps"]) == (0.99, 1e-5)


@pytest.mark.parametrize("schedule", CONFIGURED)
@pytest.mark.parametrize("name", BY_LABELS)
def test_the_rates_that_a_plan_shows_are_those_that_the_optimizer_gets(name, schedule, steps_of):
    """Of a frozen group, which the optimizer passes over, a rate of 0 is shown."""
    plan, steps = make_plan(name, N_GROUPS), iter(steps_of(name, schedule))
    for phase in plan.phases:
        # The last place that is shown is the end of the phase, behind its last step.
        total = phase.epochs * STEPS
        alone = Plan("alone", (replace(phase, epochs=1),), plan.drop_mult)
        shown = rates_over(alone, N_GROUPS, schedule, points=total + 1)
        for t in range(total):
            step = next(steps)
            given = [
                hyper["lr"] if learns == {True} else 0.0
                for hyper, learns in zip(step["hypers"], step["learning"], strict=True)
            ]
            assert given == pytest.approx([of_group[t] for of_group in shown], rel=1e-6)
    assert next(steps, None) is None


def test_a_phase_that_names_a_schedule_follows_it_whatever_the_trainings(tmp_path):
    phases = pretraining_phases(6, lr=4e-3)
    assert [phase.schedule for phase in phases] == ["rising", "constant", "falling"]
    steps = carried_out(phases, "one-cycle", tmp_path)
    for step, (phase, t, total) in zip(steps, places(phases), strict=True):
        rate, momentum = FORMULAS[phase.schedule](t, total, 4e-3)
        for hyper in step["hypers"]:
            assert (hyper["lr"], hyper["mom"]) == (pytest.approx(rate), momentum)


def test_a_pretrained_language_models_first_epoch_is_for_its_last_group_alone(tmp_path):
    phases = language_model_phases(3, lr=2e-3, frozen_lr=2e-2, decay=2.6)
    steps = carried_out(phases, "slanted-triangular", tmp_path)
    for step, (phase, t, total) in zip(steps, places(phases), strict=True):
        first = phase is phases[0]
        assert step["learning"] == [{not first}] * (N_GROUPS - 1) + [{True}]
        peak = 2e-2 if first else 2e-3
        assert step["hypers"][-1]["lr"] == pytest.approx(equation_3(t, total, peak))
        if not first:
            lowest = equation_3(t, total, peak / 2.6 ** (N_GROUPS - 1))
            assert step["hypers"][0]["lr"] == pytest.approx(lowest)


# ---------------------------------------------------------------------------------------- freezing
def learning_groups(name: str, n: int) -> list[list[int]]:
    """Which groups learn in each phase of a plan, as the papers tell it."""
    everything, head = list(range(n)), [n - 1]
    growing = [everything[-i:] for i in range(1, n + 1)]
    return {
        "published": [growing[0], growing[1], growing[2], everything],
        "chain-thaw": [head, *([i] for i in range(n - 1)), everything],
        "gradual": growing,
        "gradual-discr": growing,
        "last": [head],
    }.get(name, [everything])


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("name", BY_LABELS)
def test_frozen_groups_stay_to_the_bit_and_the_others_move(name, n, tmp_path):
    phases = make_plan(name, n).phases
    steps = iter(carried_out(phases, "slanted-triangular", tmp_path, n))
    learning = learning_groups(name, n)
    assert len(phases) == len(learning)
    for phase, groups in zip(phases, learning, strict=True):
        of_phase = [next(steps) for _ in range(phase.epochs * STEPS)]
        for group in range(n):
            learns = group in groups
            for step in of_phase:
                assert step["learning"][group] == {learns}
                moved = [
                    not torch.equal(before, after)
                    for before, after in zip(
                        step["before"][group], step["after"][group], strict=True
                    )
                ]
                assert moved == [learns, learns]
            # Nothing else moves it between the steps either, weight decay included.
            first, last = of_phase[0]["before"][group], of_phase[-1]["after"][group]
            for before, after in zip(first, last, strict=True):
                assert torch.equal(before, after) != learns
    assert next(steps, None) is None


# -------------------------------------------------------------------------- the weights themselves
class AdamW:
    """Of one parameter: Loshchilov and Hutter 2019, algorithm 2, in double precision."""

    def __init__(self) -> None:
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, weight, gradient, lr, beta1, decay, beta2=0.99, eps=1e-5):
        weight, gradient = weight.double(), gradient.double()
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        m, v = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
        # Decoupled: the decay is a share of the weight, and no part of the gradient.
        return weight - lr * (m / (v.sqrt() + eps) + decay * weight)


@pytest.mark.parametrize("name", ["published", "chain-thaw"])
def test_each_step_is_adams_with_decoupled_decay_of_matrices_alone(name, steps_of):
    """Momenta begin anew where other groups learn; as in fastai, biases do not decay."""
    phases, steps = make_plan(name, N_GROUPS).phases, steps_of(name, "slanted-triangular")
    before, adam = None, {}
    for step, (phase, t, total) in zip(steps, places(phases), strict=True):
        if phase is not before:
            before, adam = phase, {}
        for group, learns in enumerate(step["learning"]):
            if learns == {False}:
                continue
            peak = phase.lr / phase.decay ** (N_GROUPS - 1 - group)
            rate = equation_3(t, total, peak)
            for i, decay in enumerate((WEIGHT_DECAY, 0.0)):
                arrays = step["before"][group][i], step["gradients"][group][i]
                of_parameter = adam.setdefault((group, i), AdamW())
                expected = of_parameter.step(*arrays, rate, 0.7, decay)
                torch.testing.assert_close(
                    step["after"][group][i].double(), expected, rtol=1e-5, atol=1e-7
                )


def test_phases_of_the_same_groups_go_on_with_the_same_momenta(tmp_path):
    phases = pretraining_phases(5, lr=4e-3)
    steps = carried_out(phases, "one-cycle", tmp_path)
    adam = AdamW()
    for step, (phase, t, total) in zip(steps, places(phases), strict=True):
        rate, momentum = FORMULAS[phase.schedule](t, total, 4e-3)
        arrays = step["before"][0][0], step["gradients"][0][0]
        expected = adam.step(*arrays, rate, momentum, WEIGHT_DECAY)
        torch.testing.assert_close(step["after"][0][0].double(), expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------------------- the real model
SHAPE = ModelSettings(emb_sz=6, n_hid=8, n_layers=2)


def real_classifier(folder, plan: Plan) -> Learner:
    store, labels = made_store([12] * 30, n_words=40), np.arange(30) % 2
    seed_everything(3)
    model = build_language_model(len(store.words), SHAPE)
    save_bundle(folder / "lm", model, Bundle("language model", SHAPE, "en", store.words))
    lm = load_bundle(folder / "lm", "language model")
    parts = (np.arange(20), labels[:20]), (np.arange(20, 30), labels[20:])
    how = ClassifierSettings(batch_size=5, weight_decay=WEIGHT_DECAY)
    learn = classifier.make_learner(store, *parts, 2, lm, plan, how, "fp32", seed=3)
    learn.opt_func = Watched
    training = classifier.training_settings(
        replace(how, schedule="slanted-triangular"), "forward", "k"
    )
    train(learn, plan.phases, folder, training)
    return learn


@pytest.mark.parametrize("name", ["gradual-discr", "chain-thaw"])
def test_the_classifiers_groups_are_embeddings_each_layer_and_the_head(name, tmp_path):
    plan = make_plan(name, SHAPE.count_groups(ClassifierSettings()))
    learn = real_classifier(tmp_path, plan)
    n = SHAPE.count_groups(ClassifierSettings())
    names = {id(p): name for name, p in learn.model.named_parameters()}
    groups = [{names[id(p)] for p in group} for group in learn.opt.param_lists]
    beginnings = [["0.module.encoder"], ["0.module.rnns.0."], ["0.module.rnns.1."], ["1."]]
    for found, beginning in zip(groups, beginnings, strict=True):
        assert found and all(name.startswith(tuple(beginning)) for name in found)
    assert set().union(*groups) == set(names.values())

    batches = len(learn.dls.train)
    steps = iter(learn.opt.steps)
    for phase, learning in zip(plan.phases, learning_groups(name, n), strict=True):
        total = phase.epochs * batches
        of_phase = [next(steps) for _ in range(total)]
        for t, step in enumerate(of_phase):
            for group, hyper in enumerate(step["hypers"]):
                peak = phase.lr / phase.decay ** (n - 1 - group)
                position = t / total
                height = position / 0.1 if position < 0.1 else (1 - position) / 0.9
                assert hyper["lr"] == pytest.approx(peak * (1 + height * 31) / 32)
                assert (hyper["mom"], hyper["wd"]) == (0.7, WEIGHT_DECAY)
                assert step["learning"][group] == {group in learning}
        for group in range(n):
            pairs = zip(of_phase[0]["before"][group], of_phase[-1]["after"][group], strict=True)
            same = [torch.equal(before, after) for before, after in pairs]
            assert not any(same) if group in learning else all(same)
    assert next(steps, None) is None
