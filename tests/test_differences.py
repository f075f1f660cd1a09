"""How sure a difference between two models is, against what it says of itself."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import ttest_rel

from ulmfit_app.evaluation.metrics import difference_interval
from ulmfit_app.experiments.comparing import measure_difference


def test_a_difference_of_means_over_seeds_has_the_interval_of_a_normal_mean():
    generator = np.random.default_rng(0)
    ours, other = generator.integers(0, 4, (2, 4_000)) / 3
    other *= 0.975
    found = measure_difference(ours, other)
    difference = 100 * (ours - other)
    error = difference.std(ddof=1) / 4_000**0.5
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["difference_high"] == pytest.approx(difference.mean() + 1.96 * error, abs=0.01)
    expected = ttest_rel(ours, other).pvalue
    assert 0.001 < expected < 0.05, "or its approximation has nothing to show"
    assert found["p_value"] == pytest.approx(expected, rel=0.05)
    assert (
        measure_difference(ours, ours)["p_value"] == 1
        and measure_difference(ours, ours)["difference_low"] < 0
    )


Pairs = tuple[np.ndarray, np.ndarray]


def draw_pairs(generator: np.random.Generator, n_seeds: int, shift: float, n: int = 150) -> Pairs:
    """Whether two models label texts rightly: [n_seeds, n] each.

    A text that is hard for one seed of a model is hard for its others, and mostly for the other
    model. shift: of the other model's log-odds.
    """
    models = generator.normal(1.5, 2, n) + generator.normal(0, 2, (2, n)) + [[0], [shift]]
    chance = generator.random((2, n_seeds, n))
    return tuple((chance < 1 / (1 + np.exp(-models[:, None]))).astype(float))


def draw_many(
    generator: np.random.Generator, n_seeds: int, shift: float, times: int = 2_000
) -> Iterator[Pairs]:
    """`draw_pairs` again and again."""
    return (draw_pairs(generator, n_seeds, shift) for _ in range(times))


def share_holding(truth: float, differences: Iterator[np.ndarray]) -> float:
    """How often the interval of paired differences holds their true mean."""
    intervals = map(difference_interval, differences)
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_nineteen_in_twenty_intervals_hold_the_difference(n_seeds, shift):
    generator = np.random.default_rng(n_seeds)
    many = draw_pairs(generator, 1, shift, n=2_000_000)
    truth = (many[0] - many[1]).mean()
    pairs = draw_many(generator, n_seeds, shift)
    assert 0.93 < share_holding(truth, ((a - b).mean(axis=0) for a, b in pairs)) < 0.975


def test_a_text_counted_once_a_seed_makes_intervals_too_narrow():
    pairs = draw_many(np.random.default_rng(0), 3, 0)
    assert share_holding(0, ((a - b).ravel() for a, b in pairs)) < 0.9


@pytest.mark.parametrize(("n_seeds", "times"), [(1, 500), (3, 2_000)])
def test_one_in_twenty_differences_by_chance_alone_has_a_p_value_below_a_twentieth(n_seeds, times):
    p_values = [
        measure_difference(ours.mean(axis=0), other.mean(axis=0))["p_value"]
        for ours, other in draw_many(np.random.default_rng(n_seeds), n_seeds, 0, times)
    ]
    # The exact test of a single seed keeps below.
    assert 0.025 < np.mean(np.array(p_values) < 0.05) < 0.06
