"""Tiny random checkpoints as real Hugging Face folders, for tests: made in less than a second."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ulmfit_app.models.hub import quiet
from ulmfit_app.text.store import OF_SUBWORDS, TokenStore
from ulmfit_app.text.subwords import SubwordTokenizer

MASKED = ["bert", "roberta", "distilbert", "xlm-roberta", "modernbert"]
CAUSAL = ["gpt2", "llama"]
KINDS = [*MASKED, *CAUSAL]
TOKENIZER_CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "modernbert": "PreTrainedTokenizerFast",
    "gpt2": "GPT2Tokenizer",
    "llama": "PreTrainedTokenizerFast",
}

_GOOD = "a great film with fine acting and a story that moves you to tears of joy".split()
_BAD = "a dull film with wooden acting and a plot that bores everyone to death".split()


def make_reviews(n: int = 200, seed: int = 0) -> list[str]:
    """Some made-up reviews of 8 to 20 words."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choices(draw.choice([_GOOD, _BAD]), k=draw.randint(8, 20))) + "."
        for _ in range(n)
    ]


def _tokenizer(kind: str, texts: list[str]):
    """A fast tokenizer of the kind's own algorithm, trained on some texts."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind in ("bert", "distilbert"):
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=specials, show_progress=False
        )
    elif kind == "xlm-roberta":
        specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
    else:
        specials = {
            "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            "modernbert": ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"],
            "gpt2": ["<|endoftext|>"],
            "llama": ["<s>", "</s>"],
        }[kind]
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    around = {
        "bert": ("[CLS]", "[SEP]"),
        "distilbert": ("[CLS]", "[SEP]"),
        "modernbert": ("[CLS]", "[SEP]"),
        "roberta": ("<s>", "</s>"),
        "xlm-roberta": ("<s>", "</s>"),
        "llama": ("<s>", ""),
    }.get(kind)
    if around:
        begin, end = around
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}".strip(),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in around if token],
        )
    return tokenizer


def _special_names(kind: str) -> dict[str, str]:
    if kind == "gpt2":
        return dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
    if kind == "llama":
        return {"bos_token": "<s>", "eos_token": "</s>"}
    if kind in ("roberta", "xlm-roberta"):
        return {
            **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
            **{"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"},
            "mask_token": "<mask>",
        }
    names = ["unk", "sep", "pad", "cls", "mask"]
    return {f"{name}_token": f"[{name.upper()}]" for name in names}


def _model(kind: str, n_tokens: int, ids: dict[str, int], config: dict):
    import transformers as hf

    shape = {
        **{"vocab_size": n_tokens, "hidden_size": 32, "num_hidden_layers": 4},
        **{"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 66},
        **ids,
    }
    if kind == "distilbert":
        shape = {
            **{"vocab_size": n_tokens, "dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64},
            **{"max_position_embeddings": 66, **ids},
        }
    if kind == "gpt2":
        shape = {"vocab_size": n_tokens, "n_embd": 32, "n_layer": 4, "n_head": 2} | {
            "n_positions": 66,
            **ids,
        }
    makers = {
        "bert": (hf.BertConfig, hf.BertForMaskedLM),
        "roberta": (hf.RobertaConfig, hf.RobertaForMaskedLM),
        "distilbert": (hf.DistilBertConfig, hf.DistilBertForMaskedLM),
        "xlm-roberta": (hf.XLMRobertaConfig, hf.XLMRobertaForMaskedLM),
        "modernbert": (hf.ModernBertConfig, hf.ModernBertForMaskedLM),
        "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel),
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
    }
    make_config, make_model = makers[kind]
    return make_model(make_config(**{**shape, **config}))


def make_checkpoint(folder: Path, kind: str, texts: list[str] | None = None, **config) -> Path:
    """Write a tiny checkpoint with random weights and a tokenizer trained on some texts.

    Args:
        folder: where it shall lie; made.
        kind: one of KINDS.
        texts: that the tokenizer is trained on; made-up reviews by default.
        config: what the model's config shall have otherwise.

    Returns:
        The folder.
    """
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = _tokenizer(kind, make_reviews() if texts is None else texts)
    names = _special_names(kind)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    ids = {
        f"{name}_token_id": tokenizer.token_to_id(names[f"{name}_token"])
        for name in ("bos", "eos", "pad", "cls", "sep")
        if f"{name}_token" in names
    }
    if kind == "modernbert":  # its defaults are those of the real one's vocabulary
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(kind, tokenizer.get_vocab_size(), ids, config)
    with quiet():
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
    # A real folder names the class of its architecture.
    path = folder / "tokenizer_config.json"
    facts = json.loads(path.read_text()) | {"tokenizer_class": TOKENIZER_CLASSES[kind]}
    path.write_text(json.dumps(facts))
    return folder


def subwords_in_memory(texts: Sequence[str], tokenizer: SubwordTokenizer) -> TokenStore:
    """Texts as ids of a transformer, in memory: 4 bytes per token."""
    ids = tokenizer.ids(texts)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    together = np.concatenate([np.zeros(0, np.int32), *ids])
    return TokenStore(together, offsets, tokenizer.vocab, padding=OF_SUBWORDS)
