"""What a model is built from: the config of its architecture."""

from dataclasses import dataclass
from typing import Any, Literal

from ulmfit_app.config import AdapterName, ClassifierSettings, ModelSettings, Pooling


@dataclass(frozen=True)
class TransformerShape:
    """Shape of a pretrained transformer, and how its classifier reads texts.

    Args:
        model: its config.json.
        kind: masked (an encoder, such as BERT) or causal (a decoder, such as GPT-2).
        begin: id of the token that begins each text and window, such as [CLS].
        end: ids behind each window, such as [SEP]'s; none for decoders.
        mask: id of the mask token; None for decoders.
        n_blocks: transformer blocks.
        width: of a state.
        window: tokens of a text that are read at once.
        groups: of a classifier's blocks, which are unfrozen together.
        pooling: of a classifier's states.
        adapter: of a classifier; None: all its weights are its own.
        base: of an adapter: the name and hash of the weights below it.
        heads: attention heads of each block, where pruning left fewer than `model` says.
    """

    model: dict[str, Any]
    kind: Literal["masked", "causal"]
    begin: int
    end: list[int]
    mask: int | None
    n_blocks: int
    width: int
    window: int
    groups: int = 4
    pooling: Pooling = "mean"
    adapter: AdapterName | None = None
    base: dict[str, str] | None = None
    heads: int | None = None

    def count_groups(self, settings: ClassifierSettings) -> int:
        """Layer groups of a classifier: the embeddings, the groups of blocks, the head.

        An adapter changes no embeddings, and a soft prompt stands before all blocks.
        """
        of_blocks = min(settings.groups, self.n_blocks)
        groups = {None: of_blocks + 1, "prompt": 1}
        return groups.get(settings.adapter, of_blocks) + 1

    def describe(self) -> str:
        """Architecture and sizes, for people."""
        name = self.model["model_type"]
        return f"{name}, {self.n_blocks} blocks of width {self.width}, {self.kind}"


Shape = ModelSettings | TransformerShape
# architecture -> what its config holds
CONFIGS: dict[str, type[Shape]] = {"awd-lstm": ModelSettings, "transformer": TransformerShape}


def architecture_of(shape: Shape) -> str:
    """The architecture whose config a shape is."""
    return next(name for name, kind in CONFIGS.items() if isinstance(shape, kind))
