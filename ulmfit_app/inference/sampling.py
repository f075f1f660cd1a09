"""How the next word is chosen from a language model's logits: settings, and filters that leave the words to draw from."""

import math
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ulmfit_app.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor


FORBIDDEN = -math.inf  # the logit of a word that cannot be drawn


@dataclass(frozen=True)
class SamplingSettings:
    """What to draw, and from which words: temperature first, then top-k, top-p and min-p, each on what the last one left."""

    words: int = (
        40  # tokens to write: words, punctuation, and the marks of capitals, which are not seen
    )
    samples: int = 1  # texts, written side by side
    temperature: float = 0.8  # divides the logits; 0: always the likeliest word
    top_k: int | None = None  # only the k likeliest words; None: all
    top_p: float = (
        1.0  # only the likeliest words that together reach this probability; Holtzman et al. 2020
    )
    min_p: float = 0.0  # only words at least so likely, as a share of the likeliest's probability; Nguyen et al. 2024
    no_repeat_ngrams: int | None = (
        None  # no sequence of so many tokens comes twice, the prompt's included; None: they may
    )
    seed: int | None = None  # the same seed, the same texts; None: others each time

    def __post_init__(self) -> None:
        """Raises SettingError for a number that cannot be one of its kind."""
        for name in ("words", "samples", "top_k", "no_repeat_ngrams"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "at least 1")
        self._require(0 <= self.temperature < math.inf, "temperature", "at least 0")
        self._require(0 < self.top_p <= 1, "top_p", "more than 0 and at most 1")
        self._require(0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        self._require(
            self.seed is None or 0 <= self.seed < 2**63, "seed", "at least 0 and below 2^63"
        )

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise SettingError(
                f"--{name.replace('_', '-')} must be {expected}, not {getattr(self, name)}."
            )


def at_temperature(logits: "Tensor", temperature: float) -> "Tensor":
    """Logits [..., words] less their largest, which changes no probability, divided by a temperature above 0."""
    # A small temperature would otherwise carry the largest beyond what a float holds.
    return (logits - logits.max(-1, keepdim=True).values) / temperature


def top_k(logits: "Tensor", k: int) -> "Tensor":
    """Logits [..., words] with all but the k largest FORBIDDEN; of words as likely as the last of them, none is."""
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < kth, FORBIDDEN)


def top_p(logits: "Tensor", p: float) -> "Tensor":
    """Logits [..., words] with all FORBIDDEN but the fewest words whose probabilities reach p (Holtzman et al. 2020).

    The likeliest word always stays.
    """
    ordered, words = logits.sort(descending=True, stable=True)
    shares = ordered.softmax(-1)
    # A word goes when those before it reach p without it.
    goes = shares.cumsum(-1) - shares >= p
    return logits.masked_fill(goes.scatter(-1, words, goes), FORBIDDEN)


def min_p(logits: "Tensor", p: float) -> "Tensor":
    """Logits [..., words] with all FORBIDDEN whose probability is below p times the largest one (Nguyen et al. 2024)."""
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.max(-1, keepdim=True).values, FORBIDDEN)


def filtered(logits: "Tensor", settings: SamplingSettings) -> "Tensor":
    """Logits [..., words] after temperature, top-k, top-p and min-p, in this order; a temperature above 0."""
    logits = at_temperature(logits, settings.temperature)
    if settings.top_k is not None:
        logits = top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = top_p(logits, settings.top_p)
    return min_p(logits, settings.min_p) if settings.min_p > 0 else logits


class NGrams:
    """The n-grams of a growing text, by what follows their first n - 1 tokens: asking costs the same however long it is.

    >>> ngrams = NGrams(2, [5, 6, 5])
    >>> ngrams.completing()
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

    def completing(self) -> set[int]:
        """The ids that would end the text with an n-gram that it has already."""
        return self._following.get(tuple(self._last), set())
