import inspect
import math

import pytest
from fastai.callback.schedule import combined_cos
from fastai.learner import Learner
from fastai.text.learner import TextLearner
from fastai.torch_core import even_mults

from ulmfit_app.presets import PAPER, TINY
from ulmfit_app.training.choosing import (
    BRIEF,
    MOST_EPOCHS,
    batch_size_for,
    extend_to_enough_steps,
    fit_plan_to,
)
from ulmfit_app.training.recipes import (
    FULL_DISCR,
    PLANS,
    PUBLISHED,
    SCHEDULES,
    constant_momentum,
    count_epochs,
    discriminative_rates,
    extend_to,
    gradual,
    language_model_phases,
    make_plan,
    one_cycle,
    one_cycle_momentum,
    pretraining_phases,
    rates_over,
    slanted_triangular,
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


def test_a_model_of_one_group_has_the_top_rate():
    assert discriminative_rates(0.02, 1) == [0.02]


@pytest.mark.parametrize("n_groups", [0, -1])
def test_a_model_without_groups_is_refused(n_groups):
    with pytest.raises(ValueError, match=f"at least one layer group, not {n_groups}"):
        discriminative_rates(0.01, n_groups)


def test_the_published_plan_is_what_the_authors_published():
    """fit_one_cycle(1, 2e-2), then slices from 1/2.6^4 of 1e-2, 5e-3 and 1e-3.

    One more group learns in each phase.
    """
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
    assert {name: make_plan(name, 5).name for name in PLANS} == {name: name for name in PLANS}
    assert make_plan("published", 5) is PUBLISHED


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
    """0.01 where they are discriminative; chain-thaw's as Felbo et al. have them; else 0.001."""
    plans = {name: make_plan(name, 5) for name in PLANS}
    rates = {name: {phase.lr for phase in plan.phases} for name, plan in plans.items()}
    assert rates["full-discr"] == rates["gradual-discr"] == {0.01}
    assert rates["full"] == rates["last"] == rates["gradual"] == {0.001}
    assert [phase.lr for phase in plans["chain-thaw"].phases] == [0.001] + [0.0001] * 5
    decays = {name for name, plan in plans.items() if plan.phases[-1].decay == 2.6}
    assert decays == {"published", "full-discr", "gradual-discr"}


def test_what_table_7_compares_trains_as_long_and_drops_as_much_in_the_papers_five_groups():
    names = ["full", "full-discr", "last", "chain-thaw", "gradual", "gradual-discr"]
    plans = [make_plan(name, 5) for name in names]
    assert {count_epochs(plan) for plan in plans} == {8}
    assert {plan.drop_mult for plan in plans} == {PUBLISHED.drop_mult}


GROUPS = [3, 5, 13]


@pytest.mark.parametrize("n", GROUPS)
@pytest.mark.parametrize("name", ["gradual", "gradual-discr"])
def test_gradual_unfreezing_adds_one_group_per_phase_down_to_the_embeddings(name, n):
    phases = make_plan(name, n).phases
    learning = [phase.learning(n) for phase in phases]
    assert learning == [list(range(first, n)) for first in range(n - 1, -1, -1)]
    assert [phase.epochs for phase in phases] == [1] * (n - 1) + [4]
    assert len({phase.name for phase in phases}) == n, "patience counts by a phase's name"


@pytest.mark.parametrize("n", GROUPS)
def test_chain_thaw_lets_the_head_learn_then_each_lower_group_alone_then_all(n):
    phases = make_plan("chain-thaw", n).phases
    learning = [phase.learning(n) for phase in phases]
    assert learning == [[n - 1], *([i] for i in range(n - 1)), list(range(n))]
    assert [phase.epochs for phase in phases] == [1] * n + [3]
    layers = [f"layer {i} alone" for i in range(1, n - 1)]
    names = ["head", "embeddings alone", *layers, "all groups"]
    assert [phase.name for phase in phases] == names


@pytest.mark.parametrize("n", GROUPS)
@pytest.mark.parametrize("name", PLANS)
def test_every_group_learns_in_the_last_phase_but_of_the_plan_for_the_head_alone(name, n):
    learning = make_plan(name, n).phases[-1].learning(n)
    assert learning == ([n - 1] if name == "last" else list(range(n)))


def test_the_model_of_two_layers_has_three_phases_that_freeze():
    """The preset tiny's: embeddings, two layers and the head are four groups."""
    n = TINY.model.n_layers + 2
    assert n == 4
    phases = gradual(n, lr=1e-3)
    freezing = [phase for phase in phases if len(phase.learning(n)) < n]
    assert len(freezing) == 3 and len(phases) == 4


def test_a_plan_that_there_is_not_is_an_error():
    with pytest.raises(KeyError, match="magic"):
        make_plan("magic", 5)


def test_a_plans_last_phase_takes_the_epochs_that_the_others_leave():
    for name in PLANS:
        plan = make_plan(name, 5)
        longer = extend_to(plan, 12)
        assert count_epochs(longer) == 12 and longer.phases[:-1] == plan.phases[:-1]
    with pytest.raises(ValueError, match="'chain-thaw' has 6 phases: it needs 6 epochs or more"):
        extend_to(make_plan("chain-thaw", 5), 5)


def test_few_labels_are_read_in_smaller_batches_and_more_often():
    assert [batch_size_for(n, 64) for n in (10, 100, 960, 1920, 25_000)] == [16, 16, 32, 64, 64]
    assert batch_size_for(100, largest=8) == 8
    assert count_epochs(extend_to_enough_steps(PUBLISHED, 100, 64)) == 3 + MOST_EPOCHS
    steps = math.ceil(500 / 16)
    assert count_epochs(extend_to_enough_steps(PUBLISHED, 500, 64)) == math.ceil(200 / steps)
    steps = math.ceil(1000 / 33)
    assert count_epochs(extend_to_enough_steps(PUBLISHED, 1000, 64)) == math.ceil(200 / steps)
    assert extend_to_enough_steps(PUBLISHED, 5_000, 64) == PUBLISHED
    assert count_epochs(extend_to_enough_steps(PUBLISHED, 100, 64, passes=6.5)) == 6


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 23])
def test_from_scratch_all_groups_learn_while_the_rate_rises_stays_and_falls(epochs):
    phases = pretraining_phases(epochs, 0.005)
    assert {phase.freeze_to for phase in phases} == {0} and {p.lr for p in phases} == {0.005}
    assert sum(phase.epochs for phase in phases) == max(epochs, 2)
    lengths = {phase.schedule: phase.epochs for phase in phases}
    assert lengths["rising"] == 1 and lengths["falling"] == max(1, round(0.2 * epochs))
    assert list(lengths) == [name for name in ("rising", "constant", "falling") if name in lengths]


def test_no_epochs_are_no_phases():
    assert language_model_phases(0, 2e-3, 2e-2) == ()


def test_a_plan_whose_epochs_fit_lasts_as_long_as_the_budget_up_to_the_most():
    assert fit_plan_to(FULL_DISCR, 8.0) == fit_plan_to(FULL_DISCR, 8.9) == FULL_DISCR
    assert fit_plan_to(FULL_DISCR, 9.4) == extend_to(FULL_DISCR, 9)
    assert fit_plan_to(FULL_DISCR, 1e6) == extend_to(FULL_DISCR, MOST_EPOCHS)
    assert [phase.epochs for phase in fit_plan_to(PUBLISHED, 1e6).phases] == [1, 1, 1, MOST_EPOCHS]


def test_a_budget_too_small_for_a_plan_reads_the_labels_in_a_brief_one():
    for passes, epochs in ((0.2, 1), (1.9, 1), (7.9, 7)):
        (phase,) = fit_plan_to(FULL_DISCR, passes).phases
        assert (phase.epochs, phase.freeze_to, phase.lr) == (epochs, 0, BRIEF.phases[0].lr)


@pytest.mark.parametrize("name", PLANS)
def test_the_rates_over_a_plan_peak_where_a_phase_lets_a_group_learn(name):
    plan = make_plan(name, 5)
    rates = rates_over(plan, 5, "constant", points=2)
    assert {len(of_group) for of_group in rates} == {2 * count_epochs(plan)}
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
