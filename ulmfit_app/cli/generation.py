"""The verb generate, which writes with a language model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional, arg

from ulmfit_app.cli.process import set_up_torch
from ulmfit_app.data.characters import escape
from ulmfit_app.errors import SettingError, count_texts
from ulmfit_app.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from ulmfit_app.inference.screening import Screen, Screened


@dataclass(frozen=True)
class GenerateArguments:
    """Go on writing from a prompt with a language model; a model that reads backward writes what
    stood before it. A run's classifier can screen what is written."""

    # a model that comes with the package, such as en-small; the folder of a language model; a run
    # folder; or a causal transformer: a Hugging Face folder or hub name, such as gpt2
    model: Positional[str]
    # empty: the beginning of a text, or its end where the model reads backward
    prompt: Positional[str] = ""
    sampling: Annotated[SamplingSettings, arg(name="")] = SamplingSettings()
    prompts: Path | None = None  # a file with one on each line, in the place of a prompt
    # the run folder of a classifier: samples that it flags are withheld and counted
    screen: Path | None = None
    flag: tuple[str, ...] = ()  # its labels that mark them
    # of the probability of these labels; None: as the classifier decides
    threshold: float | None = None


def generate(argv: list[str]) -> None:
    """Texts that a language model writes."""
    arguments = tyro.cli(GenerateArguments, args=argv, prog="python -m ulmfit_app generate")
    if arguments.prompt and arguments.prompts:
        raise SettingError("A prompt and --prompts are given. Leave one of them out.")
    if arguments.screen is None and (arguments.flag or arguments.threshold is not None):
        raise SettingError(
            "--flag and --threshold are about a classifier. Name its run: --screen RUN"
        )

    set_up_torch()
    from ulmfit_app.inference import generation, language_model
    from ulmfit_app.inference.screening import read_prompts

    prompts = [arguments.prompt]
    if arguments.prompts:
        prompts, blank = read_prompts(arguments.prompts)
        if blank:
            print(f"{count_texts(blank, 'blank line')} left out.", file=sys.stderr)
    screen = _open_screen(arguments)
    trained, screened = language_model.load_named(arguments.model), []
    first = True
    for prompt in prompts:
        texts = generation.generate(trained, prompt, arguments.sampling)
        if screen is not None:
            screened.append(screen.screen(prompt, texts))
            texts = screened[-1].kept
        for text in texts:
            print(text if first else f"\n{text}")
            first = False
    if screened:
        _tell(screened)


def _open_screen(arguments: GenerateArguments) -> "Screen | None":
    """The screen that is asked for, before anything is written; None without one."""
    if arguments.screen is None:
        return None
    from ulmfit_app.inference.predictor import load_predictor
    from ulmfit_app.inference.screening import Screen

    return Screen(load_predictor(arguments.screen), arguments.flag, arguments.threshold)


def _tell(screened: Sequence["Screened"]) -> None:
    """The share that was flagged, by prompt."""
    from ulmfit_app.inference.screening import describe_share

    print("\nScreened; what was flagged is withheld:")
    for one in screened:
        own = "; the prompt is flagged by itself" if one.is_flagged else ""
        name = escape(one.prompt) or "(no prompt)"
        print(f"{describe_share(one.flagged, one.n)}: {name}{own}")
    if len(screened) > 1:
        flagged, n = sum(one.flagged for one in screened), sum(one.n for one in screened)
        print(f"{describe_share(flagged, n)}: all {len(screened):,} prompts together")
