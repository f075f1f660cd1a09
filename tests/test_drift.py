"""How far two samples of texts differ, against scipy and scikit-learn; and when it rings."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import chi2_contingency, ks_2samp, norm
from sklearn.metrics import roc_auc_score

from ulmfit_app.evaluation import drift_tests
from ulmfit_app.evaluation.accuracy_estimate import estimate_accuracy, estimate_by_threshold
from ulmfit_app.evaluation.drift import LARGE, Sample, compare, smallest_seen
from ulmfit_app.evaluation.drift_tests import (
    area_under_curve,
    compare_means,
    compare_sets,
    compare_shares,
    compare_values,
    count_unfamiliar,
    tell_apart,
)
from ulmfit_app.evaluation.writing import name_writing

LABELS = ["neg", "pos"]


def made(n, seed, shift=0.0, spread=3, **more):
    """A sample of n texts that are all of one kind; `shift` moves all that is known of them."""
    draw = np.random.default_rng(seed)
    confidence = np.clip(draw.beta(6, 1, n) - shift / 4, 0.5, 1)
    words = draw.poisson(
        np.linspace(0.1, 0.6, 40) * (1 + shift * np.linspace(1, -0.8, 40)), (n, 40)
    )
    sample = Sample(
        (draw.random(n) < 0.5 + shift / 3).astype(int),
        confidence,
        draw.integers(5, 50, n) + round(20 * shift),
        draw.beta(1 + spread * shift, 20, n),
        np.where(draw.random(n) < 0.9 - shift / 2, "Latin letters", "no letters"),
        csr_matrix(words.astype(np.float32)),
        draw.normal(shift, 1, (n, 6)).astype(np.float32),
    )
    return replace(sample, **more)


# ----------------------------------------------------------------------------------- each question
def test_the_distance_of_two_distributions_is_scipys():
    draw = np.random.default_rng(0)
    old, new = draw.normal(size=300), draw.normal(0.3, 1, 200)
    found, expected = compare_values(old, new), ks_2samp(old, new)
    assert (found.effect, found.p_value) == (expected.statistic, expected.pvalue)


def test_the_interval_of_a_distance_covers_it_nineteen_times_in_twenty():
    true, covered = 2 * norm.cdf(0.25) - 1, 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        found = compare_values(draw.normal(size=300), draw.normal(0.5, 1, 300), seed)
        covered += found.low <= true <= found.high
    assert covered >= 54


def test_the_distance_of_shares_is_their_total_variation_with_pearsons_p():
    counts = np.array([[50, 30, 20], [30, 30, 40]])
    found = compare_shares(counts)
    assert found.effect == pytest.approx(0.2)
    assert found.p_value == pytest.approx(chi2_contingency(counts, correction=False).pvalue)
    assert 0 < found.low < 0.2 < found.high < 0.5


def test_of_several_labels_the_one_that_moved_most_is_found_and_p_is_for_all():
    old, new = np.zeros((200, 3), bool), np.zeros((100, 3), bool)
    old[:100, 0] = new[:50, 0] = True
    new[:20, 2] = True
    found, most = compare_sets(old, new)
    alone = drift_tests.same_shares(np.array([[0, 200], [20, 80]]))
    assert (most, found.effect) == (2, 0.2)
    assert found.p_value == pytest.approx(3 * alone)
    assert 0.1 < found.low < 0.2 < found.high < 0.3


def test_mmd_is_that_of_two_loops():
    draw = np.random.default_rng(1)
    old, new = draw.normal(size=(12, 3)), draw.normal(1, 1, (9, 3))
    pooled = np.concatenate([old, new])
    scaled = pooled / pooled.std(axis=0)
    squares = ((scaled[:, None] - scaled) ** 2).sum(axis=2)
    kernel = np.exp(-squares / (2 * np.median(squares[np.triu_indices(21, 1)])))

    def mean(rows, columns):
        return np.mean([kernel[i, j] for i in rows for j in columns if i != j])

    first, other = range(12), range(12, 21)
    within = mean(first, first), mean(other, other)
    squared = sum(within) - 2 * mean(first, other)
    found = compare_means(old, new)
    assert found.effect == pytest.approx(np.sqrt(squared / (1 - sum(within) / 2)), rel=1e-4)


def test_the_p_value_of_mmd_is_no_smaller_than_its_permutations_allow_and_fair_without_drift():
    draw = np.random.default_rng(2)
    assert compare_means(draw.normal(size=(40, 4)), draw.normal(3, 1, (40, 4))).p_value == 0.002
    p = [
        compare_means(draw.normal(size=(30, 4)), draw.normal(size=(20, 4)), seed).p_value
        for seed in range(40)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.15
    assert 0.35 < np.mean(p) < 0.65


def test_an_area_under_the_curve_is_scikit_learns_and_its_deviation_delongs():
    draw = np.random.default_rng(3)
    low, high = draw.integers(0, 9, 30).astype(float), draw.integers(3, 12, 20).astype(float)
    area, deviation = area_under_curve(low, high)
    truth = np.repeat([0, 1], [30, 20])
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate([low, high])))
    wins = (high[:, None] > low) + (high[:, None] == low) / 2
    parts = wins.mean(axis=1).var(ddof=1) / 20 + wins.mean(axis=0).var(ddof=1) / 30
    assert deviation == pytest.approx(np.sqrt(parts))


def test_a_classifier_tells_words_apart_and_its_weights_name_them():
    old, new = (np.random.default_rng(seed).poisson(1, (100, 5)) for seed in (0, 1))
    new[:, 3] += 4
    found, weights = tell_apart(csr_matrix(old), csr_matrix(new))
    assert found.effect > 0.8
    assert found.p_value < 1e-6
    assert weights.argmax() == 3
    same, _ = tell_apart(csr_matrix(old), csr_matrix(np.random.default_rng(9).poisson(1, (90, 5))))
    assert same.p_value > 0.01
    assert same.low < 0 < same.high
    with pytest.raises(ValueError, match="expected 20 texts of each sample"):
        tell_apart(csr_matrix(old), csr_matrix(new[:19]))


def test_texts_far_from_all_others_are_unfamiliar():
    draw = np.random.default_rng(4)
    old, new = (draw.normal(size=(400, 8)).astype(np.float32) for _ in range(2))
    new[:40] += 30
    found, distances, before = count_unfamiliar(old, new)
    assert (distances[:40] > 2).all()
    assert 0 < before < 0.12
    assert found.effect == pytest.approx((distances > 1).mean() - before)
    assert found.low > 0.02
    assert found.p_value < 0.001


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a film", "Latin letters"),
        ("ein schöner Film", "Latin letters"),
        ("很好的電影", "Traditional Chinese"),
        ("很好的电影，这里", "Simplified Chinese"),
        ("とても良い映画", "Japanese"),
        ("ταινία", "Greek letters"),
        ("5/10 :-)", "no letters"),
        ("", "no letters"),
    ],
)
def test_the_writing_system_of_a_text_is_named(text, name):
    assert name_writing(text) == name


# ------------------------------------------------------------------------------------- the verdict
def test_texts_of_the_same_kind_rarely_ring():
    rings = [compare(made(120, i), made(80, 1000 + i), LABELS, i).rings for i in range(15)]
    assert sum(rings) <= 2


def test_all_p_values_are_adjusted_for_all_questions_that_were_asked():
    found = compare(made(300, 0), made(150, 1), LABELS)
    assert len(found.changes) == 8
    smallest = min(found.changes, key=lambda one: one.difference.p_value)
    assert smallest.p_adjusted == pytest.approx(min(8 * smallest.difference.p_value, 1))
    few = compare(Sample(made(300, 0).answers), Sample(made(150, 1).answers), LABELS)
    (change,) = few.changes
    assert change.p_adjusted == change.difference.p_value


def test_a_change_rings_and_the_verdict_says_what_and_by_how_much():
    old = made(400, 0)
    longer = replace(made(300, 1), lengths=made(300, 1).lengths + 30)
    found = compare(old, longer, LABELS)
    assert found.rings
    before, now = np.median(old.lengths), np.median(longer.lengths)
    assert found.verdict() == (
        f"Drift: texts are longer: a median of {now:.0f} tokens, before {before:.0f}."
    )


def test_a_sure_change_that_is_too_small_to_matter_does_not_ring():
    draw = np.random.default_rng(0)
    old, new = (Sample((draw.random(20_000) < p).astype(int)) for p in (0.5, 0.53))
    found = compare(old, new, LABELS)
    (change,) = found.changes
    assert change.p_adjusted < 1e-6
    assert change.difference.effect < LARGE
    assert not found.rings
    assert found.verdict().startswith("No drift that matters. A change is sure, but small: ")
    assert "get the label “pos”" in found.verdict()


def test_a_large_change_that_chance_explains_does_not_ring():
    found = compare(Sample(np.repeat([0, 1], 6)), Sample(np.repeat([0, 1], [2, 4])), LABELS)
    assert found.changes[0].difference.effect > LARGE
    assert not found.rings


def test_what_only_a_model_sees_is_said_where_nothing_plain_is():
    found = compare(made(400, 0), replace(made(400, 1), states=made(400, 1, 0.6).states), LABELS)
    plain = [one for one in found.changes if one.matters and one.plain]
    (states,) = (one for one in found.changes if one.question == "states")
    assert states.matters
    assert plain or states.said in found.verdict()
    assert "standard deviations" in states.said


def test_of_few_texts_it_is_said_what_cannot_be_seen():
    found = compare(made(300, 0), made(15, 1), LABELS)
    (note,) = found.notes
    points = 100 * smallest_seen(300, 15, len(found.changes))
    assert f"moves from 50 % by {points:.2g} points is seen in four cases of five" in note
    assert "Fewer than 50 texts show large changes alone" in note
    assert "No classifier learns from fewer than 20 texts: it was not asked." in note
    assert found.verdict().startswith("No drift found, of too few texts to see much (15)")
    assert "words" not in {one.question for one in found.changes}


def test_a_single_text_is_compared_as_far_as_one_can_be():
    found = compare(made(100, 0), made(1, 1), LABELS)
    questions = {one.question for one in found.changes}
    assert questions == {"lengths", "unknown words", "language", "confidence", "labels"}
    assert not found.rings


def test_the_smallest_change_that_is_seen_is_seen_four_times_in_five():
    share = smallest_seen(400, 400, 1)
    draw, seen = np.random.default_rng(0), 0
    for _ in range(300):
        counts = [draw.binomial(400, 0.5 + s * share / 2) for s in (-1, 1)]
        seen += drift_tests.same_shares(np.array([[c, 400 - c] for c in counts])) < 0.05
    assert 0.74 < seen / 300 < 0.87


# ------------------------------------------------------------------------------------ the estimate
def test_without_a_change_the_accuracy_is_estimated_as_it_was():
    draw = np.random.default_rng(0)
    confidence = draw.beta(6, 1, 1000)
    right = (draw.random(1000) < confidence - 0.1).astype(float)  # it was too sure
    found = estimate_accuracy(confidence, confidence, right)
    assert found.accuracy == pytest.approx(right.mean())
    assert estimate_by_threshold(confidence, confidence, right) == pytest.approx(
        right.mean(), abs=0.002
    )


def test_the_interval_of_an_estimate_holds_where_confidence_means_what_it_did():
    inside = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        old, new = draw.beta(6, 1, 150), draw.beta(3, 1, 400)
        right, now = ((draw.random(len(one)) < one).astype(float) for one in (old, new))
        found = estimate_accuracy(new, old, right)
        inside += found.low <= now.mean() <= found.high
    assert 90 <= inside <= 99
