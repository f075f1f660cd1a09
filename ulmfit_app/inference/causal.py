"""A causal transformer to read and write with: GPT-2, Llama and their like, by transformers."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ulmfit_app.config import Precision
from ulmfit_app.errors import BundleError, quoted
from ulmfit_app.hardware import DTYPES, cast_parameters, choose_device, resolve_precision
from ulmfit_app.models.architectures import tokenizer_of
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.models.hub import (
    Checkpoint,
    TokenizerFacts,
    find_checkpoint,
    load_tokenizer,
    quiet,
)
from ulmfit_app.models.transformer import load_language_model
from ulmfit_app.text.subwords import SubwordTokenizer

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True)
class CausalModel:
    """A causal transformer to read and write with.

    Args:
        model: in evaluation, all weights in `precision`, on a GPU where there is one.
        tokenizer: its own.
        facts: what it expects around a text.
        name: what it was asked for by.
        precision: resolved, never "auto".
    """

    model: "PreTrainedModel"
    tokenizer: SubwordTokenizer
    facts: TokenizerFacts
    name: str
    precision: str

    @property
    def positions(self) -> int | None:
        """Tokens that it reads at once, specials included; None where it has no limit."""
        config = self.model.config
        return getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))

    @cached_property
    def ends(self) -> list[int]:
        """Ids of the tokens that end a text, of which some models have several."""
        found = self.model.generation_config.eos_token_id
        several = found if isinstance(found, list) else [found]
        return sorted({*several, self.facts.eos} - {None})

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """Ids that its tokenizer puts before a text, and behind it; GPT-2's puts none."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokens = tokenizer.encode("a")
        inner = [i for i, special in enumerate(tokens.special_tokens_mask) if not special]
        return tokens.ids[: inner[0]], tokens.ids[inner[-1] + 1 :]

    def to_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """The tokens of each of some texts, as transformers' `tokenizer(text)` gives them.

        But specials that were typed are text.
        """
        before, behind = self.around
        return [[*before, *ids[1:].tolist(), *behind] for ids in self.tokenizer.ids(texts)]

    def read(
        self, ids: Tensor, cache: "Cache | None" = None, *, last: bool = False
    ) -> "tuple[Tensor, Cache]":
        """Read on.

        Args:
            ids: [rows, tokens].
            cache: keys and values of all that was read before; it grows.
            last: only what follows the last token is wanted.

        Returns:
            Logits [rows, tokens, vocabulary] of what follows each token; with `last`
            [rows, 1, vocabulary]. And the cache.
        """
        ids = ids.to(self.model.device)
        n_before = 0 if cache is None else cache.get_seq_length()
        options = {
            # Without it transformers warns of ids that are the model's padding.
            "attention_mask": ids.new_ones(len(ids), n_before + ids.shape[1]),
            self._cache_name: cache,
            "use_cache": True,
        }
        if last and "logits_to_keep" in self._options:
            options["logits_to_keep"] = 1
        output = self.model(ids, **options)
        return output.logits[:, -1:] if last else output.logits, output[self._cache_name]

    @cached_property
    def _options(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    @property
    def _cache_name(self) -> str:
        # Version 5.24 began to rename it, model by model.
        return "cache" if "cache" in self._options else "past_key_values"


class CacheWriter:
    """Goes on from what a causal transformer has read, whose keys and values it keeps.

    So one more token costs little more however long the text is. Where the model's positions are
    full, it reads the last half of them anew, as if nothing but the tokenizer's specials stood
    before, and goes on from there. So a text can be of any length, and each token is read twice
    at most.
    """

    def __init__(self, trained: CausalModel) -> None:
        self._trained = trained
        self._ids: Tensor | None = None  # [rows, tokens], of all so far
        self._cache: Cache | None = None

    @torch.no_grad()
    def begin(self, ids: list[int], rows: int) -> Tensor:
        """Read a prompt, for so many texts; logits [rows, vocabulary], on the CPU."""
        self._ids = torch.tensor([ids])
        logits = self._read_window()
        self._cache.batch_repeat_interleave(rows)
        self._ids = self._ids.repeat(rows, 1)
        return logits.repeat(rows, 1)

    @torch.no_grad()
    def next(self, ids: Tensor) -> Tensor:
        """Read on by a token for each text, ids [rows]; logits as those of `begin`."""
        self._ids = torch.cat([self._ids, ids[:, None]], 1)
        if self._cache.get_seq_length() == self._trained.positions:
            return self._read_window()
        logits, self._cache = self._trained.read(ids[:, None], self._cache)
        return logits[:, -1].double().cpu()

    def _read_window(self) -> Tensor:
        """Read all so far, or what is left of it where it is more than the model's positions."""
        ids, positions = self._ids, self._trained.positions
        if positions is not None and ids.shape[1] > positions:
            n_before = len(self._trained.around[0])
            ids = torch.cat([ids[:, :n_before], ids[:, n_before:][:, -(positions // 2) :]], 1)
        logits, self._cache = self._trained.read(ids, last=True)
        return logits[:, -1].double().cpu()


def load_causal(name: str, precision: Precision = "auto") -> CausalModel:
    """Load a causal transformer.

    Args:
        name: a folder of the Hugging Face format, or a model of its hub, such as gpt2.
        precision: of all weights.

    Raises:
        BundleError: it is a masked model, or cannot be trusted, or lacks weights.
        SettingError: transformers is not installed; or this machine lacks the precision.
        data_scripts.fetch.FetchError: the hub cannot be reached.
    """
    checkpoint = find_checkpoint(name)
    _require_causal(name, checkpoint.kind, checkpoint.config["model_type"])
    precision = resolve_precision(precision)
    tokenizer, facts = load_tokenizer(checkpoint)
    model = _load_weights(checkpoint, DTYPES[precision]).to(choose_device())
    trained = CausalModel(model, tokenizer, facts, name, precision)
    _require_cache(trained, checkpoint)
    return trained


def bundled_causal(bundle: Bundle, name: str, precision: Precision = "auto") -> CausalModel:
    """The causal transformer of a loaded bundle, as a run has fine-tuned it.

    Args:
        bundle: of a language model that is a transformer.
        name: what it was asked for by.
        precision: of all weights.

    Raises:
        BundleError: it is a masked model, or its weights do not fit.
        SettingError: transformers is not installed; or this machine lacks the precision.
    """
    shape = bundle.shape
    _require_causal(name, shape.kind, shape.model["model_type"])
    precision = resolve_precision(precision)
    model = load_language_model(bundle).give_back().eval()
    tokenizer, ends = tokenizer_of(bundle), shape.model.get("eos_token_id")
    eos = ends[0] if isinstance(ends, list) else ends
    facts = TokenizerFacts(tokenizer.begin, shape.begin, shape.end, shape.mask, eos)
    cast_parameters(model, precision)
    model.to(choose_device())
    return CausalModel(model, tokenizer, facts, name, precision)


def _require_causal(name: str, kind: str, its_type: str) -> None:
    if kind != "causal":
        raise BundleError(
            f"{name} is a masked model ({its_type}): it fills in words that are hidden from it, "
            "and does not write or predict the next word. Expected a causal model, such as gpt2, "
            "or a language model of this application, such as en-small. A run can start from it: "
            "python -m ulmfit_app.run --help"
        )


def _require_cache(trained: CausalModel, checkpoint: Checkpoint) -> None:
    """Refuse a model that keeps something else than keys and values of all that it has read."""
    try:
        CacheWriter(trained).begin([trained.facts.begin_id], 2)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # each in its own way
        raise BundleError(
            f"The model in {checkpoint.folder} has the type {checkpoint.config['model_type']!r}, "
            "which cannot go on from keys and values of what it has read "
            f"({(str(error) or type(error).__name__).splitlines()[0]}). Expected a transformer "
            "such as GPT-2 or Llama."
        ) from None


def _load_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many kinds
        raise BundleError(
            f"{checkpoint.folder} cannot be loaded as a causal model: "
            f"{str(error).splitlines()[0].rstrip('.')}. Copy or save its files again."
        ) from None
    if info["missing_keys"]:
        # transformers would make them up at random.
        raise BundleError(
            f"The weights in {checkpoint.folder} lack {quoted(sorted(info['missing_keys']))}, "
            "which its config.json asks for. Copy or save the model again, with its head."
        )
    return model.eval()
