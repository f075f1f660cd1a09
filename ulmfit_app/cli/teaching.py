"""Verbs of runs that learn from a run: distill, selftrain and prune."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.outputs import folder_of, name_of, require_outside
from ulmfit_app.cli.process import start
from ulmfit_app.cli.runs import carry_out, start_run
from ulmfit_app.cli.settings import RunSettings, read_settings
from ulmfit_app.config import DistillationSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.pipeline.tracker import TrackerName


@dataclass(frozen=True, kw_only=True)
class DistillArguments(RunSettings):
    """Train a run whose classifier learns from a trained run's answers to all texts, unlabelled
    ones included, and not from labels alone.

    A slow teacher that needs few labels, such as a transformer, teaches a student that is several
    times as fast. The teacher has the same labels, and did not learn from the texts that the
    student is tested on.

    The same command continues after an interruption where it stopped.
    """

    distillation: DistillationSettings
    # a forward and a backward model, and the mean of their probabilities; twice the time
    bidirectional: bool
    out: Path | None = None  # the run folder; None: runs/DATA-PRESET-student
    # mirror losses, metrics and scores there as they grow; changes no result
    track: TrackerName | None = None


@dataclass(frozen=True)
class SelfTrainArguments:
    """Train a run again on what it says itself of its unlabelled texts, those that it is surest
    of, in rounds; and keep the best one by its validation split.

    The same command continues after an interruption where it stopped.
    """

    run: Positional[Path]  # the run folder
    rounds: int = 3  # at most: they end where validation gets worse
    out: Path | None = None  # gets a run folder for each round; None: RUN-selftrained


@dataclass(frozen=True)
class PruneArguments:
    """Make a smaller and faster run of a run: LSTM units, or attention heads and feed-forward
    rows, are removed whole, the least important ones, and what is left learns for an epoch from
    what the whole one answers.

    The same command continues after an interruption where it stopped.
    """

    run: Positional[Path]  # the run folder
    share: float = 0.5  # of the units of each layer, that is removed
    out: Path | None = None  # the new run's folder; None: RUN-pruned-50, by the share


def distill(argv: list[str]) -> None:
    """A run that learns from a trained run's answers."""
    preset, arguments, settings = read_settings(
        DistillArguments, argv, "python -m ulmfit_app distill", "distill"
    )
    if not settings.distillation.teachers:
        raise SettingError(
            "Expected a teacher, the folder of a trained run: python -m ulmfit_app distill "
            f"{shlex.quote(settings.data.source)} --teacher RUN"
        )
    again = f"python -m ulmfit_app.run {shlex.quote(settings.data.source)} --multilabel"
    for teacher in settings.distillation.teachers:
        require_one_label(
            Path(teacher),
            "distill learns from shares of labels, of which each text has one",
            f"Train a run on the labels themselves: {again}",
        )
    default = Path("runs") / f"{name_of(settings.data.source)}-{preset}-student"
    out = arguments.out or default
    start_run(out, settings, default, None, preset, track=arguments.track)


def selftrain(argv: list[str]) -> None:
    """A run that learns from its own answers, in rounds."""
    arguments = tyro.cli(SelfTrainArguments, args=argv, prog="python -m ulmfit_app selftrain")
    out = arguments.out or _beside(arguments.run, "selftrained")
    _start(arguments.run, out)
    require_one_label(
        arguments.run,
        "selftrain learns the one label that it is surest of",
        "Label more of its texts, or have the labelled ones mixed: the command that made it with "
        "--augment.method mix",
    )
    from ulmfit_app.run_folder import working_in

    with working_in(out):
        _self_train(arguments.run, out, arguments.rounds)


def _self_train(run: Path, out: Path, rounds: int) -> None:
    from ulmfit_app.pipeline.pupils import self_train
    from ulmfit_app.pipeline.run import Run

    done = []
    for found in self_train(run, out, rounds):
        against = f", against the best before it p = {found.p_value:.2g}" if done else ""
        print(f"{found.run}: {found.describe()}{against}.")
        done.append(found)
    first, best = done[0], max(done, key=lambda each: each.right.sum())  # of equals, the first
    if best is first:
        hurt = "did not help" if done[-1].right.sum() >= first.right.sum() else "hurt"
        print(
            f"Self-training {hurt}: no run is better on the validation split than {first.run} "
            "itself, whose report stays what it was."
        )
        return
    print(f"The best by its validation split is {best.run}; its test split is scored now.")
    carry_out(Run.open(best.run))


def prune(argv: list[str]) -> None:
    """A smaller run of a run."""
    arguments = tyro.cli(PruneArguments, args=argv, prog="python -m ulmfit_app prune")
    out = arguments.out or _beside(arguments.run, f"pruned-{100 * arguments.share:g}")
    _start(arguments.run, out)
    require_one_label(arguments.run, "prune learns from answers that share a text out")
    from ulmfit_app.pipeline.pupils import prune_run
    from ulmfit_app.run_folder import working_in

    with working_in(out):
        carry_out(prune_run(arguments.run, out, arguments.share))


def _start(run: Path, out: Path) -> None:
    """Set the process up. Raises SettingError for a folder in that of a run's data."""
    start()
    from ulmfit_app.pipeline.run import Run

    require_outside(out, folder_of(Run.open(run).record.settings.data), Path(out.name))


def require_one_label(run: Path, why: str, instead: str = "") -> None:
    """Refuse a run whose texts may have several labels.

    Args:
        run: its folder.
        why: what the verb does, as the beginning of a sentence.
        instead: what to do, in a sentence; "": write it as ONNX, for a smaller model.

    Raises:
        SettingError: they may.
        RunFolderError: its record is damaged.
    """
    from ulmfit_app.run_folder import read_record

    # A teacher may be gone when its pupil is finished.
    data = (read_record(run) or {}).get("data")
    if isinstance(data, dict) and data.get("multilabel"):
        smaller = (
            "For a smaller model, write it as ONNX in int8: python -m ulmfit_app export "
            f"{shlex.quote(str(run))} --int8"
        )
        raise SettingError(f"{why}, and the texts of {run} may have several. {instead or smaller}")


def _beside(run: Path, ending: str) -> Path:
    """A folder beside a run's, named after it."""
    run = run.resolve() if run.name in ("", "..") else run
    return run.with_name(f"{run.name}-{ending}")
