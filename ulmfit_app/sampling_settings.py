"""How a language model's next word is drawn, as the verb generate and programs say it."""

import math
from dataclasses import dataclass

from ulmfit_app.errors import SettingError


@dataclass(frozen=True)
class SamplingSettings:
    """What to draw, and from which words.

    Temperature comes first, then top-k, top-p and min-p, each on what the last one left.

    Raises:
        SettingError: a number that cannot be one of its kind.
    """

    # tokens to write: words, punctuation, and the marks of capitals, which are not seen; of a
    # transformer subwords, fewer where it writes its end-of-text token
    words: int = 40
    samples: int = 1  # texts, written side by side
    temperature: float = 0.8  # divides the logits; 0: always the likeliest word
    top_k: int | None = None  # only the k likeliest words; None: all
    # only the likeliest words that together reach this probability; Holtzman et al. 2020
    top_p: float = 1.0
    # only words at least so likely, as a share of the likeliest's probability; Nguyen et al. 2024
    min_p: float = 0.0
    # no sequence of so many tokens comes twice, the prompt's included; None: they may
    no_repeat_ngrams: int | None = None
    seed: int | None = None  # the same seed, the same texts; None: others each time

    def __post_init__(self) -> None:
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
