"""How the next word is chosen from a language model's logits.

The settings, and filters that leave the words to draw from.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable

from torch import Tensor

from ulmfit_app.sampling_settings import SamplingSettings

FORBIDDEN = -math.inf  # the logit of a word that cannot be drawn


def scale_logits(logits: Tensor, temperature: float) -> Tensor:
    """Logits less their largest, which changes no probability, divided by a temperature.

    Args:
        logits: [..., words].
        temperature: above 0; below 1 it makes likely words likelier.

    Returns:
        [..., words], the largest 0.
    """
    # A small temperature would otherwise carry the largest beyond what a float holds.
    return (logits - logits.max(-1, keepdim=True).values) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Forbid all but the k likeliest words.

    Args:
        logits: [..., words].
        k: at least 1.

    Returns:
        [..., words]; words as likely as the last of the k are kept too.
    """
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < kth, FORBIDDEN)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Forbid all but the fewest words whose probabilities reach p (Holtzman et al. 2020).

    Args:
        logits: [..., words].
        p: in (0, 1].

    Returns:
        [..., words]; the likeliest word always stays.
    """
    ordered, words = logits.sort(descending=True, stable=True)
    shares = ordered.softmax(-1)
    # A word goes when those before it reach p without it.
    goes = shares.cumsum(-1) - shares >= p
    return logits.masked_fill(goes.scatter(-1, words, goes), FORBIDDEN)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Forbid words less likely than a share of the likeliest one (Nguyen et al. 2024).

    Args:
        logits: [..., words].
        p: that share, in [0, 1].

    Returns:
        [..., words]; the likeliest word always stays.
    """
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.max(-1, keepdim=True).values, FORBIDDEN)


def filter_logits(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """Apply temperature, top-k, top-p and min-p, in this order.

    Args:
        logits: [..., words].
        settings: with a temperature above 0.

    Returns:
        [..., words], FORBIDDEN where a word cannot be drawn.
    """
    logits = scale_logits(logits, settings.temperature)
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    return keep_min_p(logits, settings.min_p) if settings.min_p > 0 else logits


class NGrams:
    """The n-grams of a growing text, by what follows their first n - 1 tokens.

    Asking costs the same however long the text is.

    Args:
        n: tokens in each.
        ids: of the text so far.

    >>> ngrams = NGrams(2, [5, 6, 5])
    >>> ngrams.find_repeats()
    {6}
    """

    def __init__(self, n: int, ids: Iterable[int]) -> None:
        self._last = deque(maxlen=n - 1)
        self._following: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Let the text go on with a token's id."""
        if len(self._last) == self._last.maxlen:
            self._following[tuple(self._last)].add(token)
        self._last.append(token)

    def find_repeats(self) -> set[int]:
        """The ids that would end the text with an n-gram that it has already."""
        return self._following.get(tuple(self._last), set())
