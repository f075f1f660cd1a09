"""Which of many texts are nearly the same.

In time that grows with the number of texts, and not with its square.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore

# Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", section 19.6: runs
# of four words ("shingles"), and what two texts have in common of theirs, as a share of what they
# have together (Jaccard).
RUN = 4
ALIKE = 0.8
# The smallest hashes of a text's runs are a sample of them, and nearly the same one in a near copy
# (Broder 1997, "On the resemblance and containment of documents"). So only texts that share one
# need be compared.
SAMPLE = 8
NEXT = 8
_FACTORS = np.random.default_rng(0).integers(
    1 << 62, 1 << 63, RUN + 1, dtype=np.uint64
) | np.uint64(1)


def group_near_copies(store: TokenStore, copies: np.ndarray) -> np.ndarray:
    """Number texts so that those have a number in common that are linked by near copies.

    Case, punctuation and markup do not count; a text of fewer than RUN words is a run of its own.
    Subwords take the place of words where tokens are subwords; their case counts.

    Args:
        store: the texts' tokens.
        copies: a number that texts have in common when they are equal, int [n_texts].

    Returns:
        The numbers, int64 [n_texts].
    """
    is_word = np.array(
        [any(map(str.isalnum, word)) and word not in SPECIALS for word in store.words]
    )

    def runs_of(text: int) -> np.ndarray:
        ids = store[text]
        return hash_runs(ids[is_word[ids]])

    distinct, first = np.unique(copies, return_index=True)
    samples, sizes = np.zeros((len(first), SAMPLE), np.uint64), np.zeros(len(first), np.int64)
    for i, text in enumerate(first):
        found = runs_of(text)
        sizes[i] = len(found)
        samples[i, : len(found)] = found[:SAMPLE]
    of, _ = np.nonzero(samples)
    hashes = samples[samples > 0]
    # Of the texts that share a hash each meets the few next in size alone, or a phrase would pair
    # all who use it.
    order = np.lexsort((of, sizes[of], hashes))
    of, hashes = of[order], hashes[order]
    meetings = []
    for step in range(1, NEXT + 1):
        a, b = of[:-step], of[step:]
        met = (hashes[:-step] == hashes[step:]) & (sizes[a] >= ALIKE * sizes[b])
        meetings.append(np.minimum(a, b)[met] * len(first) + np.maximum(a, b)[met])
    pairs, times = np.unique(np.concatenate(meetings), return_counts=True)
    a, b = np.divmod(pairs, len(first))
    # Near copies share most of their samples; a quarter is what hardly any misses, and few other
    # texts reach.
    likely = 4 * times >= np.minimum(np.minimum(sizes[a], sizes[b]), SAMPLE)
    alike = [
        resemblance(runs_of(first[i]), runs_of(first[j])) >= ALIKE
        for i, j in zip(a[likely], b[likely], strict=True)
    ]
    linked = (a[likely][alike], b[likely][alike])
    graph = coo_array((np.ones(sum(alike), bool), linked), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][
        np.searchsorted(distinct, copies)
    ].astype(np.int64)


def find_copies(
    store: TokenStore, texts: Sequence[str], of: np.ndarray, among: np.ndarray
) -> np.ndarray:
    """Which of some texts have a copy among others.

    Args:
        store: the tokens of all texts.
        texts: the same texts as they are.
        of: which are asked about, bool [n_texts].
        among: where copies are looked for, bool [n_texts].

    Returns:
        "word for word", "nearly" or "no" for each text of `of`, in order.
    """
    equal = np.unique(np.asarray(texts, object), return_inverse=True)[1]
    found = [
        np.isin(groups[of], groups[among]) for groups in (equal, group_near_copies(store, equal))
    ]
    return np.select(found, ["word for word", "nearly"], "no")


def hash_runs(words: np.ndarray) -> np.ndarray:
    """Hashes of the runs of RUN words in a text.

    Args:
        words: the ids of the text's words, int [n_words].

    Returns:
        Distinct and in order, uint64; none for a text without words.
    """
    if not len(words):
        return np.zeros(0, np.uint64)
    padded = np.zeros(max(len(words), RUN), np.uint64)
    padded[: len(words)] = words.astype(np.uint64) + np.uint64(1)  # 0 stands for no word
    n = len(padded) - RUN + 1
    hashes = np.zeros(n, np.uint64)
    for i in range(RUN):
        hashes += padded[i : i + n] * _FACTORS[i]
    # Without a second round the smallest hashes would be those of the words that were seen first.
    hashes = (hashes ^ (hashes >> np.uint64(32))) * _FACTORS[RUN]
    return np.unique(hashes ^ (hashes >> np.uint64(29)))


def resemblance(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard: what two sets have in common, as a share of what they have together.

    Args:
        a: distinct elements, in any order.
        b: likewise; not both are empty.

    >>> resemblance(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)
