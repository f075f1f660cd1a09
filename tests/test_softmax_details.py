"""How often the sampled softmax draws a word."""

import numpy as np
import torch

from ulmfit_app.models.softmax import Sampler

COUNTS = np.array([0, 1, 3, 20, 100, 5000])


def test_a_word_is_drawn_in_proportion_to_its_count_and_one_more_to_the_power_of_three_quarters():
    """Bengio and Senécal 2008 sample by frequency; one more, so that all words are drawn."""
    sampler = Sampler(COUNTS, draws=10)
    shares = (COUNTS + 1) ** 0.75 / ((COUNTS + 1) ** 0.75).sum()
    np.testing.assert_allclose(np.diff(sampler.upto, prepend=0), shares, rtol=1e-9)
    # The chance to be drawn at least once in 10 draws.
    np.testing.assert_allclose(sampler.log_chance.exp(), 1 - (1 - shares) ** 10, rtol=1e-9)


def test_words_are_drawn_as_often_as_their_chance_says():
    torch.manual_seed(0)
    sampler, n = Sampler(COUNTS, draws=3), 1500
    weight, bias = torch.arange(6.0)[:, None], torch.zeros(6)
    seen = torch.zeros(6)
    for _ in range(n):
        words, corrected, _ = sampler.choose(weight, bias, torch.tensor([0]))
        seen[words[corrected.isfinite(), 0].long()] += 1
    chance = sampler.log_chance.exp()
    assert seen[0] == n, "the target is always there"
    errors = (seen / n - chance)[1:] / (chance * (1 - chance) / n)[1:] ** 0.5
    assert errors.abs().max() < 4.5
