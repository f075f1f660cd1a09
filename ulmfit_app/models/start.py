"""What a run starts from, and so which architecture it has."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ulmfit_app.config import Direction
from ulmfit_app.models.shapes import CONFIGS, Shape, TransformerShape, architecture_of

RANDOM = "random weights"


@dataclass(frozen=True)
class Start:
    """What a language model starts from.

    Args:
        origin: for people; RANDOM for random weights.
        fingerprint: another start has another one.
        shape: the config of its architecture.
        weights: parameters by fastai's names, on the CPU; None for random ones, and where only the
            facts of a start are known.
        vocab: the word of each embedding, likewise.
        is_strong: whether it learned from general text, and not only from a domain's.
        direction: in which it reads.
        n_words: in its vocabulary.
        tokenizer: where tokens are subwords: the text of their tokenizer.json.
        has_subwords: whether it has a tokenizer, also where only the facts are known.
    """

    origin: str
    fingerprint: str
    shape: Shape
    weights: dict[str, torch.Tensor] | None = None
    vocab: list[str] | None = None
    is_strong: bool = False
    direction: Direction = "forward"
    n_words: int = 0
    tokenizer: str = ""
    has_subwords: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_subwords", self.has_subwords or bool(self.tokenizer))

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from weights that have learned something."""
        return self.origin != RANDOM

    def facts(self) -> dict[str, Any]:
        """All of it but the weights, words and tokenizer, JSON-ready."""
        known = {name: value for name, value in vars(self).items() if name not in _LOADED}
        return known | {"architecture": architecture_of(self.shape), "shape": asdict(self.shape)}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "Start":
        """The start that `facts` described, without weights, words and tokenizer."""
        # Before there were others, all were AWD-LSTMs.
        kind = CONFIGS[facts.get("architecture", "awd-lstm")]
        rest = {name: value for name, value in facts.items() if name != "architecture"}
        # And then transformers alone had subwords.
        rest.setdefault("has_subwords", kind is TransformerShape)
        return cls(**{**rest, "shape": kind(**facts["shape"])})


_LOADED = ("weights", "vocab", "tokenizer")
