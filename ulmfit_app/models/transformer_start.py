"""A pretrained transformer as the start of a run."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_scripts.files import sha256_of
from ulmfit_app.errors import BundleError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.hub import Checkpoint, find_checkpoint, load_tokenizer, quiet
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.models.transformer import (
    TransformerLanguageModel,
    blocks_of,
    count_positions,
    load_language_model,
)

# Tokens that are read at once, where a model could read more: attention costs their square.
LONGEST_WINDOW = 512


def read_transformer(folder: Path, name: str) -> Start:
    """The start that a name means, with its weights in fp32.

    Args:
        folder: of a bundle, where the name is a bundle's or a run's.
        name: as `models.hub.find_checkpoint` takes it, or a bundle's.

    Raises:
        SettingError, BundleError, data_scripts.fetch.FetchError: as `find_checkpoint` does; or its
            weights do not belong to its config.
    """
    if (folder / "bundle.json").is_file():
        return _read_bundle(folder)
    checkpoint = find_checkpoint(name)
    tokenizer, facts = load_tokenizer(checkpoint)
    whole, is_new_head = _load_whole(checkpoint)
    config = whole.config
    positions = count_positions(whole.base_model, config) or LONGEST_WINDOW
    shape = TransformerShape(
        model={**_plain(config), "model_type": config.model_type},
        kind=checkpoint.kind,
        begin=facts.begin_id,
        end=facts.end,
        mask=facts.mask,
        n_blocks=len(blocks_of(whole.base_model)[1]),
        width=config.hidden_size,
        window=min(positions, LONGEST_WINDOW) - 1 - len(facts.end),
    )
    model = _with_open_head(checkpoint, whole, shape)
    told = ", whose head for masked tokens is new" if is_new_head else ""
    return Start(
        f"{checkpoint.origin}{told}",
        sha256_of_strings([*_hashes(checkpoint.folder), tokenizer.definition]),
        shape,
        model.state_dict(),
        tokenizer.vocab,
        is_strong=True,
        n_words=len(tokenizer.vocab),
        tokenizer=tokenizer.definition,
    )


def _plain(config: Any) -> dict[str, Any]:
    """transformers' config as its file has it, versions aside."""
    found = json.loads(config.to_json_string())
    return {name: value for name, value in found.items() if name != "transformers_version"}


def _hashes(folder: Path) -> list[str]:
    """Of the files that decide what the model computes."""
    return [
        sha256_of(file) for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    ]


def _load_whole(checkpoint: Checkpoint) -> tuple[nn.Module, bool]:
    """transformers' language model with the checkpoint's weights, and whether its head is new."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto = AutoModelForMaskedLM if checkpoint.kind == "masked" else AutoModelForCausalLM
    try:
        # A head that is new has the same weights each time.
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole, found = auto.from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"The weights in {checkpoint.folder} do not fit its config.json: "
            f"{str(error).splitlines()[0]} Copy or download the model again."
        ) from None
    below = f"{whole.base_model_prefix}."
    lacking = sorted(name for name in found["missing_keys"] if name.startswith(below))
    if lacking:
        raise BundleError(
            f"The weights in {checkpoint.folder} are incomplete: {len(lacking)} are missing, the "
            f"first of them {lacking[0]}. Copy or download the model again."
        )
    # A decoder that shares the embeddings is counted as missing, and its bias with the head.
    return whole, any("bias" not in name for name in found["missing_keys"])


def _with_open_head(
    checkpoint: Checkpoint, whole: nn.Module, shape: TransformerShape
) -> TransformerLanguageModel:
    """The language model around transformers' own, whose logits have to be the same."""
    ids = torch.arange(8)[None] % shape.model["vocab_size"]
    whole.eval()
    with torch.inference_mode():
        expected = whole(input_ids=ids).logits
        model = TransformerLanguageModel(whole, shape)
        found = model.decoder(whole(input_ids=ids).logits)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise BundleError(
            f"The logits of {checkpoint.origin} are more than a linear layer on its states, "
            f"which is all that is known here: a {shape.model['model_type']} cannot be trained. "
            "Give another model, such as --pretrained minilm"
        )
    return model


def _read_bundle(folder: Path) -> Start:
    bundle = load_bundle(folder, "language model")
    before = bundle.about.get("start", "a start that it does not name")
    return Start(
        f"the bundle {folder}, which started from {before}",
        sha256_of(folder / "bundle.json"),
        bundle.shape,
        load_language_model(bundle).state_dict(),
        bundle.vocab,
        is_strong=True,
        n_words=len(bundle.vocab),
        tokenizer=bundle.tokenizer,
    )
