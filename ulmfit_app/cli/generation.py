"""The verb generate, which writes with a language model."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from ulmfit_app.cli.process import set_up_torch
from ulmfit_app.sampling_settings import SamplingSettings


@dataclass(frozen=True)
class GenerateArguments:
    """Go on writing from a prompt with a language model; a model that reads backward writes what
    stood before it."""

    # a model that comes with the package, such as en-small; the folder of a language model; a run
    # folder; or a causal transformer: a Hugging Face folder or hub name, such as gpt2
    model: Positional[str]
    # empty: the beginning of a text, or its end where the model reads backward
    prompt: Positional[str] = ""
    sampling: Annotated[SamplingSettings, arg(name="")] = SamplingSettings()


def generate(argv: list[str]) -> None:
    """Texts that a language model writes."""
    arguments = tyro.cli(GenerateArguments, args=argv, prog="python -m ulmfit_app generate")

    set_up_torch()
    from ulmfit_app.inference import generation, language_model

    trained = language_model.load_named(arguments.model)
    texts = generation.generate(trained, arguments.prompt, arguments.sampling)
    print(*texts, sep="\n\n")
