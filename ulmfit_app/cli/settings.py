"""The arguments that all runs share, and the presets."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import arg

from ulmfit_app.config import (
    ClassifierSettings,
    DataSettings,
    LanguageModelSettings,
    ModelSettings,
    Precision,
    Settings,
    TokenSettings,
)
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.used import check_used
from ulmfit_app.models.hub import MINILM, is_transformer
from ulmfit_app.presets import PRESETS

MOST_MINUTES = 1_000_000  # two years: what is longer, was meant otherwise
PresetName = Literal["tiny", "laptop", "paper"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings that all runs have."""

    data: Annotated[DataSettings, arg(name="")]
    tokens: TokenSettings
    model: ModelSettings
    lm: LanguageModelSettings
    classifier: ClassifierSettings
    seed: int  # of weights, dropout, splits and the order of texts
    # of matrix products; auto: bf16 where the GPU or CPU has it, fp16 on other GPUs, else fp32
    precision: Precision
    # tiny: seconds; laptop: 20 minutes on two cores; paper: full size. None: the machine decides
    preset: PresetName | None = None


Arguments = TypeVar("Arguments", bound=RunSettings)


def preset_in(argv: list[str]) -> str | None:
    """The value of --preset, which decides every other default and so is looked up first."""
    for i, word in enumerate(argv):
        if word.startswith("--preset="):
            return word.partition("=")[2]
        if word == "--preset" and i + 1 < len(argv):
            return argv[i + 1]
    return None


def _choose_preset() -> str:
    """The preset for this machine, which is said."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        print(f"No --preset given: 'paper', since there is a GPU ({gpu}).")
        return "paper"
    print(f"No --preset given: 'laptop', since there is no GPU ({torch.get_num_threads()} cores).")
    return "laptop"


def _parse(kind: type[Arguments], argv: list[str], prog: str, preset: str) -> Arguments:
    """Arguments whose defaults are the preset's."""
    known = {f.name for f in fields(kind)} & {f.name for f in fields(Settings)}
    values = {name: getattr(PRESETS[preset], name) for name in known}
    arguments = tyro.cli(kind, args=argv, default=kind(**values), prog=prog)
    minutes = getattr(arguments, "minutes", None)
    if minutes is not None and not 0 < minutes <= MOST_MINUTES:
        raise SettingError(
            f"--minutes must be more than 0 and at most {MOST_MINUTES:,}, not {minutes:g}."
        )
    fewest = getattr(kind, "fewest_seeds", 1)
    if getattr(arguments, "seeds", fewest) < fewest:
        raise SettingError(f"--seeds must be {fewest} or more, not {arguments.seeds}.")
    return arguments


def _with_absolute_paths(settings: Settings) -> Settings:
    """The same settings, whose data and start are found from any working directory."""
    # They bring pandas and torch, which a wrong option need not wait for.
    from ulmfit_app.data.sources import DATA_SETS
    from ulmfit_app.models.pretrained import packaged

    data, lm, costs = settings.data, settings.lm, settings.classifier.costs
    source = data.source if data.source in DATA_SETS else str(Path(data.source).absolute())
    start = lm.pretrained
    is_name = start in ("auto", "none", "wt103", MINILM, *packaged())
    # What is no path may be a name of the hub.
    if not is_name and (Path(start).exists() or not is_transformer(start)):
        start = str(Path(start).absolute())
    teachers = tuple(str(Path(run).absolute()) for run in settings.distillation.teachers)
    return replace(
        settings,
        data=replace(data, source=source, data=data.data and data.data.absolute()),
        lm=replace(lm, pretrained=start),
        classifier=replace(settings.classifier, costs=costs and costs.absolute()),
        distillation=replace(settings.distillation, teachers=teachers),
    )


def read_settings(
    kind: type[Arguments], argv: list[str], prog: str, verb: str
) -> tuple[str, Arguments, Settings]:
    """Read the command line of a run or an experiment.

    Args:
        kind: the class of its arguments; its `fewest_seeds` are 1 unless it says otherwise.
        argv: the words behind the verb.
        prog: the command, as its help shows it.
        verb: run, or the experiment's name.

    Returns:
        The preset's name, the arguments, and the settings that both give, with absolute paths.

    Raises:
        SettingError: a value that cannot be, or that would be ignored.
        SystemExit: from the parser, for --help or an option that does not exist.
    """
    named = preset_in(argv)
    preset = named if named in PRESETS else "laptop"
    arguments = _parse(kind, argv, prog, preset)
    # After parsing, so that nobody waits for torch to hear of a wrong option.
    if named is None and (chosen := _choose_preset()) != preset:
        preset = chosen
        arguments = _parse(kind, argv, prog, preset)
    known = [f.name for f in fields(Settings) if hasattr(arguments, f.name)]
    settings = Settings(**{name: getattr(arguments, name) for name in known})
    check_used(settings, PRESETS[preset], verb)
    return preset, arguments, _with_absolute_paths(settings)
