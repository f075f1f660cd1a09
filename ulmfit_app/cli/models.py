"""Verbs that train and measure language models: pretrain and perplexity."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from tyro import MISSING
from tyro.conf import Positional

from ulmfit_app.cli.outputs import name_of, require_outside
from ulmfit_app.cli.process import set_up_torch, set_up_tracker, start
from ulmfit_app.cli.settings import preset_in
from ulmfit_app.config import LanguageModelSettings, ModelSettings, Name, Precision, TokenSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.used import check_used
from ulmfit_app.languages import has_subwords
from ulmfit_app.pipeline.tracker import TrackerName
from ulmfit_app.presets import PRETRAINING_PRESETS


@dataclass(frozen=True)
class PretrainArguments:
    """Stage one: train a language model on general text, from which runs can start: --pretrained
    models/NAME.

    The same command continues after an interruption; with more --lm.max-tokens or --minutes, a
    finished model is trained longer. The defaults shown are those of --preset, or of small.
    """

    # WikiExtractor's folder or archive, a .txt with one document per line, a folder of those, or
    # WikiText's folder or CSV
    corpus: Positional[Path]

    tokens: TokenSettings
    model: ModelSettings
    lm: LanguageModelSettings
    name: Name = None  # of the model; None: the corpus's
    preset: Literal["small", "paper"] = "small"
    backwards: bool = False  # learn to predict the word before instead of the next one
    # train for this many minutes, measured on this machine, instead of --lm.max-tokens
    minutes: float | None = None
    # fastai: write NAME.pth and NAME.pkl beside the bundle, too; int8: a bundle of a quarter of
    # the size in its folder int8
    format: Literal["bundle", "fastai", "int8"] = "bundle"
    out: Path = Path("models")  # the model's folder is OUT/NAME
    seed: int = 42
    # of matrix products; auto: bf16 where the GPU or CPU has it, fp16 on other GPUs, else fp32
    precision: Precision = "auto"
    # mirror losses, metrics and scores there as they grow; changes no result
    track: TrackerName | None = None


@dataclass(frozen=True)
class PerplexityArguments:
    """How well a language model predicts a text or a corpus, by the softmax over all its words.

    Only perplexities by the same tokens compare. Those per character, of models that read
    subwords, compare whatever the tokens are.
    """

    # a model that comes with the package, such as en-small; the folder of a language model; a run
    # folder; or a causal transformer: a Hugging Face folder or hub name, such as gpt2
    model: Positional[str]
    # a .txt, read as one text; or a corpus as pretrain takes it, which includes folders of .txt
    # with one document per line
    file: Positional[Path]


def pretrain(argv: list[str]) -> None:
    """A language model from general text."""
    preset = PRETRAINING_PRESETS.get(preset_in(argv) or "small", PRETRAINING_PRESETS["small"])
    default = PretrainArguments(MISSING, preset.tokens, preset.model, preset.lm)
    arguments = tyro.cli(
        PretrainArguments, args=argv, default=default, prog="python -m ulmfit_app pretrain"
    )
    shared = ("tokens", "model", "lm", "seed", "precision")
    settings = replace(preset, **{name: getattr(arguments, name) for name in shared})
    check_used(settings, preset, "pretrain")
    if arguments.format == "fastai" and has_subwords(arguments.tokens.language):
        raise SettingError(
            f"--format fastai is for words, and texts in {arguments.tokens.language} are read in "
            "subwords, which fastai's files have no place for. Leave it out."
        )
    name = arguments.name or name_of(arguments.corpus).partition(".")[0]
    folder = arguments.out / name
    require_outside(folder, arguments.corpus, Path("models"))

    set_up_tracker(arguments.track)
    start()
    from ulmfit_app.models import pretrained
    from ulmfit_app.pipeline import pretraining

    direction = "backward" if arguments.backwards else "forward"
    how = settings, direction, arguments.minutes
    facts = pretraining.pretrain(arguments.corpus, folder, *how, arguments.track)
    held_out = facts["held_out"]
    each = held_out.get("perplexity_per_character")
    per_character = "" if each is None else f", {each:.2f} per character,"
    measured = f"Perplexity {facts['perplexity']:.1f}{per_character}"
    print(f"{measured} on {held_out['documents']:,} held-out documents.")
    if arguments.format == "fastai":
        print("In fastai's format:", *pretrained.write_fastai(folder, name))
    if arguments.format == "int8":
        print(f"In int8: {pretraining.write_int8(folder)}")
    print(f"Model: {folder}")


def perplexity(argv: list[str]) -> None:
    """How well a language model predicts a text or a corpus."""
    arguments = tyro.cli(PerplexityArguments, args=argv, prog="python -m ulmfit_app perplexity")

    set_up_torch()
    from ulmfit_app.inference import language_model, perplexity

    trained = language_model.load_named(arguments.model)
    score, n_texts = perplexity.score_file(trained, arguments.file)
    share = score.unknown_share
    unknown = "" if share is None else f", {100 * share:.2f} % of them unknown words"
    each = score.perplexity_per_character
    per_character = "" if each is None else f"{each:.2f} per character; "
    print(
        f"perplexity {score.perplexity:.2f} ({per_character}{score.nats_per_token:.4f} nats per "
        f"token; {score.tokens:,} tokens predicted{unknown}; texts: {n_texts:,}; "
        f"{trained.precision})"
    )
