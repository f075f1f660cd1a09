import inspect
import math

import pytest
from fastai.callback.schedule import combined_cos
from fastai.learner import Learner
from fastai.text.learner import TextLearner
from fastai.torch_core import even_mults

from ulmfit_app.config import PAPER
from ulmfit_app.training.recipes import (
    BRIEF,
    FULL_DISCR,
    MOST_EPOCHS,
    PLANS,
    PUBLISHED,
    SCHEDULES,
    batch_size_for,
    constant_momentum,
    discriminative_rates,
    epochs_of,
    fitted,
    language_model_phases,
    lasting,
    one_cycle,
    one_cycle_momentum,
    rates_over,
    slanted_triangular,
    with_enough_steps,
)

POSITIONS = [i / 400 for i in range(401)]


def default(function, name):
    return inspect.signature(function).parameters[name].default


def test_one_cycle_is_fastais_with_its_defaults():
    div, div_final, pct_start = (
        default(Learner.fit_one_cycle, name) for name in ("div", "div_final", "pct_start")
    )
    assert (div, div_final, pct_start) == (25, 1e5, 0.25)
    for peak in (2e-2, 2e-3):
        fastais = combined_cos(pct_start, peak / div, peak, peak / div_final)
        expected = [float(fastais(p)) for p in POSITIONS]
        # fastai computes in single precision.
        assert [one_cycle(p, peak) for p in POSITIONS] == pytest.approx(
            expected, rel=1e-6, abs=1e-7 * peak
        )


def test_one_cycles_momentum_is_that_of_fastais_text_learners():
    fastais = combined_cos(0.25, *default(TextLearner.__init__, "moms"))
    assert [one_cycle_momentum(p) for p in POSITIONS] == pytest.approx(
        [float(fastais(p)) for p in POSITIONS], rel=1e-6
    )


def equation_3(t, total, peak, cut_frac=0.1, ratio=32):
    """The paper's slanted triangular rate of iteration t of `total`, as it is printed."""
    cut = math.floor(total * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return peak * (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize("total", [10, 50, 1000, 7810])
def test_slanted_triangular_is_equation_3(total):
    iterations = range(total + 1)
    ours = [slanted_triangular(t / total, peak=0.01) for t in iterations]
    assert ours == pytest.approx([equation_3(t, total, peak=0.01) for t in iterations], rel=1e-9)


def test_slanted_triangular_is_equation_3_to_an_iteration_where_the_cut_is_rounded():
    total, peak = 1237, 0.01
    step = peak / math.floor(total * 0.1)
    for t in range(total + 1):
        assert slanted_triangular(t / total, peak) == pytest.approx(
            equation_3(t, total, peak), abs=step
        )


def test_slanted_triangular_takes_another_cut_and_ratio():
    ours = [slanted_triangular(t / 100, 1.0, cut_frac=0.25, ratio=10) for t in range(101)]
    assert ours == pytest.approx(
        [equation_3(t, 100, 1.0, cut_frac=0.25, ratio=10) for t in range(101)]
    )
    assert max(ours) == ours[25] == 1


def test_momentum_beside_slanted_triangular_rates_is_the_papers():
    rate, momentum = SCHEDULES["slanted-triangular"]
    assert (rate, momentum) == (slanted_triangular, constant_momentum)
    assert {momentum(p) for p in POSITIONS} == {0.7}


def test_each_group_learns_2_6_times_slower_than_the_one_above():
    rates = discriminative_rates(0.01, 5)
    assert rates[-1] == 0.01
    assert [high / low for low, high in zip(rates, rates[1:], strict=False)] == pytest.approx(
        [2.6] * 4
    )


def test_discriminative_rates_are_those_that_fastai_makes_of_the_published_slice():
    for top in (1e-2, 5e-3, 1e-3):
        assert discriminative_rates(top, 5) == pytest.approx(
            list(even_mults(top / 2.6**4, top, 5)), rel=1e-9
        )


def test_without_decay_all_groups_learn_alike():
    assert discriminative_rates(0.02, 4, decay=1) == [0.02] * 4


@pytest.mark.parametrize("n_groups", [0, -1])
def test_a_model_without_groups_is_refused(n_groups):
    with pytest.raises(ValueError, match=f"at least one layer group, not {n_groups}"):
        discriminative_rates(0.01, n_groups)


def test_the_published_plan_is_what_the_authors_published():
    """fit_one_cycle(1, 2e-2), then slices from 1/2.6^4 of 1e-2, 5e-3 and 1e-3, unfreezing a group a phase."""
    phases = PUBLISHED.phases
    assert [phase.freeze_to for phase in phases] == [-1, -2, -3, 0]
    assert [phase.epochs for phase in phases] == [1, 1, 1, 2]
    assert [phase.lr for phase in phases] == [2e-2, 1e-2, 5e-3, 1e-3]
    for phase in phases[1:]:
        fastais = even_mults(phase.lr / 2.6**4, phase.lr, 5)
        assert discriminative_rates(phase.lr, 5, phase.decay) == pytest.approx(
            list(fastais), rel=1e-9
        )
    assert PUBLISHED.drop_mult == 0.5


def test_a_plan_is_found_by_its_name():
    assert {name: plan.name for name, plan in PLANS.items()} == {name: name for name in PLANS}
    assert PLANS["published"] is PUBLISHED


def test_a_pretrained_language_model_starts_with_an_epoch_for_the_embeddings_alone():
    frozen, everything = language_model_phases(
        1 + PAPER.lm.epochs, PAPER.lm.lr, PAPER.lm.frozen_lr
    )
    assert (frozen.epochs, frozen.freeze_to, frozen.lr, frozen.decay) == (1, -1, 2e-2, 1)
    assert (everything.epochs, everything.freeze_to, everything.lr, everything.decay) == (
        10,
        0,
        2e-3,
        1,
    )


def test_a_single_epoch_is_not_spent_on_the_embeddings_alone():
    (phase,) = language_model_phases(1, 2e-3, 2e-2)
    assert (phase.epochs, phase.freeze_to, phase.lr) == (1, 0, 2e-3)


def test_random_weights_are_never_frozen():
    (phase,) = language_model_phases(4, 4e-3, None)
    assert (phase.epochs, phase.freeze_to, phase.lr) == (4, 0, 4e-3)


def test_cosine_annealing_falls_from_its_peak_as_in_loshchilov_and_hutter():
    rate, _ = SCHEDULES["cosine"]
    assert [rate(p, 0.01) for p in POSITIONS] == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * p)) for p in POSITIONS]
    )


def test_table_7s_rates_are_the_papers():
    """0.01 where they are discriminative; 0.001 for chain-thaw's head and 0.0001 for what comes after; else 0.001."""
    rates = {name: {phase.lr for phase in PLANS[name].phases} for name in PLANS}
    assert rates["full-discr"] == rates["gradual-discr"] == {0.01}
    assert rates["full"] == rates["last"] == rates["gradual"] == {0.001}
    assert [phase.lr for phase in PLANS["chain-thaw"].phases] == [0.001] + [0.0001] * 5
    decays = {name for name in PLANS if PLANS[name].phases[-1].decay == 2.6}
    assert decays == {"published", "full-discr", "gradual-discr"}


def test_gradual_unfreezing_adds_a_group_a_phase_down_to_the_embeddings():
    assert [phase.freeze_to for phase in PLANS["gradual"].phases] == [-1, -2, -3, -4, 0]
    assert [phase.epochs for phase in PLANS["gradual"].phases][:-1] == [1] * 4


def test_a_plans_last_phase_takes_the_epochs_that_the_others_leave():
    for plan in PLANS.values():
        longer = lasting(plan, 12)
        assert epochs_of(longer) == 12 and longer.phases[:-1] == plan.phases[:-1]
    with pytest.raises(ValueError, match="'chain-thaw' has 6 phases: it needs 6 epochs or more"):
        lasting(PLANS["chain-thaw"], 5)


def test_few_labels_are_read_in_smaller_batches_and_more_often():
    assert [batch_size_for(n, 64) for n in (10, 100, 960, 1920, 25_000)] == [16, 16, 32, 64, 64]
    assert batch_size_for(100, largest=8) == 8
    assert epochs_of(with_enough_steps(PUBLISHED, 100, 64)) == 3 + MOST_EPOCHS
    assert epochs_of(with_enough_steps(PUBLISHED, 500, 64)) == math.ceil(200 / math.ceil(500 / 16))
    assert with_enough_steps(PUBLISHED, 5_000, 64) == PUBLISHED
    assert epochs_of(with_enough_steps(PUBLISHED, 100, 64, passes=6.5)) == 6


def test_no_epochs_are_no_phases():
    assert language_model_phases(0, 2e-3, 2e-2) == ()


def test_a_plan_whose_epochs_fit_lasts_as_long_as_the_budget_up_to_the_most():
    assert fitted(FULL_DISCR, 8.0) == fitted(FULL_DISCR, 8.9) == FULL_DISCR
    assert fitted(FULL_DISCR, 9.4) == lasting(FULL_DISCR, 9)
    assert fitted(FULL_DISCR, 1e6) == lasting(FULL_DISCR, MOST_EPOCHS)
    assert [phase.epochs for phase in fitted(PUBLISHED, 1e6).phases] == [1, 1, 1, MOST_EPOCHS]


def test_a_budget_too_small_for_a_plan_reads_the_labels_in_a_brief_one():
    for passes, epochs in ((0.2, 1), (1.9, 1), (7.9, 7)):
        (phase,) = fitted(FULL_DISCR, passes).phases
        assert (phase.epochs, phase.freeze_to, phase.lr) == (epochs, 0, BRIEF.phases[0].lr)


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
def test_the_rates_over_a_plan_peak_where_a_phase_lets_a_group_learn(plan):
    rates = rates_over(plan, 5, "constant", points=2)
    assert {len(of_group) for of_group in rates} == {2 * epochs_of(plan)}
    done = 0
    for phase in plan.phases:
        # As fastai's freeze_to counts, and training freezes from above.
        learning = list(range(5))[phase.freeze_to : phase.freeze_from]
        expected = [
            peak if i in learning else 0
            for i, peak in enumerate(discriminative_rates(phase.lr, 5, phase.decay))
        ]
        assert [of_group[done] for of_group in rates] == expected
        done += 2 * phase.epochs


def test_the_rates_over_a_plan_follow_the_schedule():
    (_, head) = rates_over(BRIEF, 2, "one-cycle", points=101)
    assert head == pytest.approx([one_cycle(i / 100, BRIEF.phases[0].lr) for i in range(101)])
