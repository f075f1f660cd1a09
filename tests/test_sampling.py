import math
import re

import pytest
import torch

from ulmfit_app.errors import SettingError
from ulmfit_app.inference.sampling import (
    FORBIDDEN,
    NGrams,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    scale_logits,
)
from ulmfit_app.sampling_settings import SamplingSettings

LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def left(logits: torch.Tensor) -> list[set[int]]:
    """The words of each row that can still be drawn."""
    return [set(torch.nonzero(row > FORBIDDEN)[:, 0].tolist()) for row in logits]


def likeliest_first(row: torch.Tensor) -> list[int]:
    return sorted(range(len(row)), key=lambda i: -float(row[i]))


def probabilities(row: torch.Tensor) -> list[float]:
    exponentials = [math.exp(x) for x in row.tolist()]
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_takes_probabilities_to_the_power_of_its_inverse(temperature):
    for row, cooled in zip(LOGITS, scale_logits(LOGITS, temperature).softmax(-1), strict=True):
        powers = [p ** (1 / temperature) for p in probabilities(row)]
        assert cooled.tolist() == pytest.approx([p / sum(powers) for p in powers])


def test_a_temperature_near_zero_leaves_the_likeliest_word_alone():
    shares = scale_logits(LOGITS * 100, 1e-300).softmax(-1)
    assert torch.equal(shares, torch.nn.functional.one_hot(LOGITS.argmax(-1), 40).double())


@pytest.mark.parametrize("k", [1, 3, 40, 1000])
def test_top_k_leaves_the_k_likeliest_words(k):
    assert left(keep_top_k(LOGITS, k)) == [set(likeliest_first(row)[:k]) for row in LOGITS]


def test_top_k_leaves_words_as_likely_as_the_last_one():
    assert left(keep_top_k(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), 2)) == [{0, 1, 2}]


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 1.0])
def test_top_p_leaves_the_fewest_likeliest_words_that_reach_p(p):
    expected = []
    for row in LOGITS:
        shares, words, total = probabilities(row), set(), 0.0
        for word in likeliest_first(row):
            if total < p:
                words.add(word)
            total += shares[word]
        expected.append(words)
    assert left(keep_top_p(LOGITS, p)) == expected


def test_top_p_leaves_as_many_as_the_paper_says_where_it_can_be_counted():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert [left(keep_top_p(logits, p)) for p in (0.4, 0.6, 0.8, 0.95)] == [
        [{1}],
        [{1, 3}],
        [{1, 2, 3}],
        [{0, 1, 2, 3}],
    ]


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0])
def test_min_p_leaves_words_at_least_so_likely_as_its_share_of_the_likeliest(p):
    expected = []
    for row in LOGITS:
        shares = probabilities(row)
        expected.append({i for i, share in enumerate(shares) if share >= p * max(shares)})
    assert left(keep_min_p(LOGITS, p)) == expected


def test_what_is_left_keeps_its_logits():
    for result in (keep_top_k(LOGITS, 5), keep_top_p(LOGITS, 0.5), keep_min_p(LOGITS, 0.2)):
        assert torch.equal(result[result > FORBIDDEN], LOGITS[result > FORBIDDEN])


def test_filters_follow_temperature_top_k_top_p_min_p():
    settings = SamplingSettings(temperature=0.7, top_k=10, top_p=0.8, min_p=0.2)
    expected = keep_min_p(keep_top_p(keep_top_k(scale_logits(LOGITS, 0.7), 10), 0.8), 0.2)
    assert torch.equal(filter_logits(LOGITS, settings), expected)
    others = [
        keep_min_p(keep_top_k(keep_top_p(scale_logits(LOGITS, 0.7), 0.8), 10), 0.2),
        scale_logits(keep_min_p(keep_top_p(keep_top_k(LOGITS, 10), 0.8), 0.2), 0.7),
    ]
    assert all(left(other) != left(expected) for other in others), "the order matters here"


def test_filters_that_are_off_change_no_probability():
    settings = SamplingSettings(temperature=1.0)
    torch.testing.assert_close(filter_logits(LOGITS, settings).softmax(-1), LOGITS.softmax(-1))


def test_forbidden_words_stay_forbidden():
    logits = LOGITS.clone()
    logits[:, :20] = FORBIDDEN
    result = filter_logits(
        logits, SamplingSettings(temperature=0.5, top_k=30, top_p=0.99, min_p=0.01)
    )
    assert all(words and min(words) >= 20 for words in left(result))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_what_would_complete_an_n_gram_again_is_found_by_looking_at_all_of_them(n):
    ids = torch.randint(4, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    ngrams = NGrams(n, ids[:5])
    for length in range(5, len(ids)):
        text = ids[:length]
        held = {tuple(text[i : i + n]) for i in range(length - n + 1)}
        assert ngrams.find_repeats() == {
            word for word in range(4) if (*text[length - n + 1 :], word) in held
        }
        ngrams.add(ids[length])


def test_a_text_shorter_than_an_n_gram_completes_none():
    assert NGrams(4, [7, 7]).find_repeats() == set()
    assert NGrams(1, []).find_repeats() == set()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -0.1}, "--temperature must be at least 0, not -0.1."),
        ({"temperature": math.nan}, "--temperature must be at least 0, not nan."),
        ({"temperature": math.inf}, "--temperature must be at least 0, not inf."),
        ({"top_k": 0}, "--top-k must be at least 1, not 0."),
        ({"top_p": 0.0}, "--top-p must be more than 0 and at most 1, not 0.0."),
        ({"top_p": 1.1}, "--top-p must be more than 0 and at most 1, not 1.1."),
        ({"min_p": -0.1}, "--min-p must be from 0 to 1, not -0.1."),
        ({"min_p": 2.0}, "--min-p must be from 0 to 1, not 2.0."),
        ({"no_repeat_ngrams": 0}, "--no-repeat-ngrams must be at least 1, not 0."),
        ({"samples": 0}, "--samples must be at least 1, not 0."),
        ({"words": 0}, "--words must be at least 1, not 0."),
        ({"seed": -1}, "--seed must be at least 0 and below 2^63, not -1."),
        ({"seed": 2**63}, "--seed must be at least 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_flag(setting, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        SamplingSettings(**setting)
