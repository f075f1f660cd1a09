"""Near copies: those that a comparison of all pairs finds, and no others."""

import random

import numpy as np
from scipy.sparse.csgraph import connected_components

from ulmfit_app.data.near_copies import ALIKE, RUN, find_copies, group_near_copies, hash_runs
from ulmfit_app.text.tokenizing import in_memory

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nprst"]
OPENING = "this is one of the best films that i have ever seen and"


def near(texts: list[str]) -> np.ndarray:
    vocab = sorted({word for text in texts for word in text.lower().split()})
    return group_near_copies(
        in_memory(texts, "en", ["xxunk", *vocab]), np.unique(texts, return_inverse=True)[1]
    )


def by_all_pairs(texts: list[str]) -> np.ndarray:
    """Groups by the definition: sets of runs as Python has them, each compared with each."""
    sets = []
    for text in texts:
        words = text.lower().split()
        sets.append({tuple(words[i : i + RUN]) for i in range(max(len(words) - RUN + 1, 1))})
    alike = np.array([[len(a & b) / len(a | b) >= ALIKE for b in sets] for a in sets])
    return connected_components(alike, directed=False)[1]


def test_groups_are_those_of_a_comparison_of_all_pairs():
    rng = random.Random(0)
    texts = []
    for _ in range(150):
        # A phrase that all texts share brings them together without making them copies.
        words = OPENING.split() + rng.choices(WORDS, k=rng.randint(5, 120))
        texts.append(" ".join(words))
        for _ in range(rng.choice((0, 0, 1, 3))):
            changed = list(words)
            for place in rng.sample(range(len(changed)), rng.randint(1, 6)):
                changed[place] = rng.choice(WORDS)
            texts.append(" ".join(changed[: rng.choice((None, -1, -3))]))
    rng.shuffle(texts)
    found, expected = near(texts), by_all_pairs(texts)
    assert 20 < len(texts) - len(set(expected)) < 150
    assert (np.equal.outer(found, found) == np.equal.outer(expected, expected)).all()


def test_case_punctuation_and_markup_make_no_difference():
    one, *others = near(
        [
            "A fine film, truly.",
            "a FINE film<br />truly!!!",
            "fine film truly",
            "A fine film, truly.",
        ]
    )
    assert [other == one for other in others] == [True, False, True]


def test_texts_without_words_are_near_nothing_but_their_copies():
    found = near(["!!!", "???", "!!!", "a film"])
    assert found[0] == found[2] and len(set(found)) == 3


def test_texts_shorter_than_a_run_are_compared_whole():
    found = near(["good", "Good!", "good good", "bad", "film good"])
    assert found[0] == found[1] and len(set(found)) == 4


def test_the_order_of_texts_does_not_matter():
    texts = [f"{OPENING} {word} {word[::-1]}" for word in WORDS[:40]] + [OPENING] * 3
    shuffled = np.random.default_rng(0).permutation(len(texts))
    found, again = near(texts), near([texts[i] for i in shuffled])
    assert (
        np.equal.outer(found, found)[np.ix_(shuffled, shuffled)] == np.equal.outer(again, again)
    ).all()


def test_equal_runs_have_equal_hashes_wherever_they_stand():
    words = np.arange(20)
    assert len(hash_runs(words)) == 20 - RUN + 1
    assert set(hash_runs(words[3:9])) < set(hash_runs(words))
    assert len(hash_runs(words[:0])) == 0 and len(hash_runs(words[:2])) == 1
    assert not set(hash_runs(words[:3])) & set(hash_runs(np.array([0, 1])))


def test_copies_among_other_texts_are_told_from_near_ones():
    texts = ["A fine film.", "a FINE film", "A fine film.", "dull", "bad", "bad", "fine film"]
    vocab = sorted({word for text in texts for word in text.lower().replace(".", " .").split()})
    of, among = np.array([0, 1, 0, 1, 1, 1, 1], bool), np.array([1, 0, 1, 0, 0, 0, 0], bool)
    found = find_copies(in_memory(texts, "en", ["xxunk", *vocab]), texts, of, among)
    assert found.tolist() == ["nearly", "no", "no", "no", "no"]
    found = find_copies(in_memory(texts, "en", ["xxunk", *vocab]), texts, ~of, of)
    assert found.tolist() == ["nearly", "nearly"]
    found = find_copies(in_memory(texts, "en", ["xxunk", *vocab]), texts, of, np.arange(7) == 5)
    assert found.tolist() == ["no", "no", "word for word", "word for word", "no"]
