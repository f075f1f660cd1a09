"""Verbs of a run: run, finetune, classify and report; and inspect, which comes before one."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional, arg

from ulmfit_app.cli.outputs import find_outside, folder_of, name_of, require_outside
from ulmfit_app.cli.process import set_up_figures, set_up_torch, set_up_tracker, start
from ulmfit_app.cli.settings import RunSettings, read_settings
from ulmfit_app.config import (
    AugmentationSettings,
    DataSettings,
    Quotes,
    Settings,
    TokenSettings,
)
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.messages import ENGLISH, ReportLanguage
from ulmfit_app.pipeline.tracker import TrackerName

if TYPE_CHECKING:
    from ulmfit_app.pipeline.run import Run


@dataclass(frozen=True, kw_only=True)
class RunArguments(RunSettings):
    """Take ULMFiT from raw texts to a report: data, tokens, language model, classifier, scores on
    the test split.

    The same command continues after an interruption where it stopped. Every setting of the preset
    can be overridden; the defaults shown are those of --preset, or of laptop.
    """

    augment: AugmentationSettings
    # a forward and a backward model, and the mean of their probabilities; twice the time
    bidirectional: bool
    out: Path | None = None  # the run folder; None: runs/DATA-PRESET
    # fit the work into this many minutes, measured on this machine, and again while it runs
    minutes: float | None = None
    # of the report's words and figures; None: as the report was, else en
    report_language: ReportLanguage | None = None
    # mirror losses, metrics and scores there as they grow; changes no result
    track: TrackerName | None = None


@dataclass(frozen=True)
class InspectArguments:
    """Look at texts and labels before anything is trained: what is wrong with them, and what it
    means for a run.

    Prints what was found and writes it as a page, with all texts to look at in suspects.csv. To
    find trouble is not an error: the exit code is 0.
    """

    data: Annotated[DataSettings, arg(name="")]
    tokens: TokenSettings
    seed: int = Settings.seed  # of splits that are made
    out: Path | None = None  # the folder of the page; None: inspection/DATA
    # look for labels that are probably wrong, too: pip install 'ulmfit-app[labels]'
    label_errors: bool = False


@dataclass(frozen=True)
class StageArguments:
    """Carry out one stage of a run again, from what the stages before it left, with the run's
    settings."""

    run: Positional[Path]  # the run folder


@dataclass(frozen=True)
class ReportArguments:
    """Write the report of a run again, or that of anybody's predictions, which needs no model."""

    # the run folder, or a file of predictions: columns of texts and true labels, and p_LABEL for
    # each label
    run: Positional[Path]
    out: Path | None = None  # of predictions: the report's folder; None: reports/FILE
    text: str = "text"  # of predictions: the column of the texts
    label: str = "label"  # of predictions: the column of the true labels
    groups: tuple[str, ...] = ()  # of predictions: columns of groups, which are compared
    time: str | None = None  # of predictions: the column that says when each text is from
    encoding: str = "utf-8"  # of predictions
    # of predictions as a CSV or TSV; literal: a quote is a character like any other
    quotes: Quotes = "csv"
    # of the report's words and figures; None: as a run's report was, else en
    report_language: ReportLanguage | None = None


def run(argv: list[str]) -> None:
    """Everything, from raw texts to a report."""
    preset, arguments, settings = read_settings(
        RunArguments, argv, "python -m ulmfit_app.run", "run"
    )
    default = Path("runs") / f"{name_of(settings.data.source)}-{preset}"
    out, language = arguments.out or default, arguments.report_language
    start_run(out, settings, default, arguments.minutes, preset, language, arguments.track)


def start_run(
    out: Path,
    settings: Settings,
    default: Path,
    minutes: float | None,
    preset: str,
    report_language: ReportLanguage | None = None,
    track: TrackerName | None = None,
) -> None:
    """Begin a run or go on with it, and print what it will do and how it did.

    Args:
        out: its folder.
        settings: of the run.
        default: where it lies when no folder is named.
        minutes: fit the work into so many; None: no bound.
        preset: the name of the preset that the settings were derived from.
        report_language, track: as `carry_out` takes them.
    """
    set_up_tracker(track)
    require_outside(out, folder_of(settings.data), default)
    start()
    from ulmfit_app.run_folder import working_in

    with working_in(out):
        from ulmfit_app.pipeline.run import begin

        carry_out(begin(out, settings, minutes, preset), report_language, track)


def carry_out(
    job: "Run",
    report_language: ReportLanguage | None = None,
    track: TrackerName | None = None,
) -> None:
    """Carry out a run, and print what it does and how it did.

    Args:
        job: the run.
        report_language: of its report; None: as it was, else English.
        track: what follows it; None: nothing does.
    """
    from ulmfit_app.pipeline.forecast import describe
    from ulmfit_app.pipeline.tracking import tracking

    print(*describe(job), sep="\n")
    trained = (n for n in job.stages if n.removesuffix("-backward") in ("lm", "classifier"))
    if not all(map(job.is_finished, trained)):
        print("Measuring this machine …")
        _print_estimate(job)
        print("Interrupt whenever you like: the same command continues.")
    with tracking(job, track):
        report = job.carry_out(report_language=report_language)
    _print_scores(report, job.record.data.test_name)


def _print_estimate(job: "Run") -> None:
    from ulmfit_app.pipeline.forecast import estimate_seconds
    from ulmfit_app.pipeline.pace import say_left
    from ulmfit_app.run_folder import AUGMENT

    pace = job.follow_pace()
    without = ", without the teachers' answers" if job.record.teachers else ""
    without = ", without making texts" if AUGMENT in job.stages else without
    if not job.is_fresh():
        print(f"Estimate{without}: about {say_left(pace.left())}.")
        return
    stages = estimate_seconds(job, pace.rates).items()
    seconds = {stage: sum(parts) for stage, parts in stages}
    parts = ", ".join(f"{stage} {part / 60:.1f}" for stage, part in seconds.items())
    print(f"Estimate{without}: {sum(seconds.values()) / 60:.1f} minutes ({parts}).")


def _print_scores(report: Path, test_name: str) -> None:
    from ulmfit_app.evaluation.headline import measures
    from ulmfit_app.evaluation.page import named_scores

    metrics = json.loads(report.with_name("metrics.json").read_text(encoding="utf-8"))
    n, names = metrics["model"]["n"], {"macro_f1": "Macro F1", "mean_cost": "Mean cost per text"}
    for by in measures(metrics):
        what = names.get(by, "Accuracy")
        print(f"\n{what} on {test_name}, {n:,} texts, with its 95 % interval:")
        for name, scores in named_scores(metrics).items():
            value, (low, high) = scores[by], scores[f"{by}_ci95"]
            if by == "mean_cost":
                print(f"  {value:7,.4g}  ({low:,.4g} to {high:,.4g})  {name}")
            else:
                print(f"  {100 * value:5.1f} %  ({100 * low:.1f} to {100 * high:.1f})  {name}")
    for found in metrics.get("groups", []):
        print(f"By {found['column']}: {found['said'][0]}")
    print(f"Report: {report}")


def inspect(argv: list[str]) -> None:
    """What the data are like, before anything is trained."""
    arguments = tyro.cli(InspectArguments, args=argv, prog="python -m ulmfit_app inspect")
    name, folder = name_of(arguments.data.source), folder_of(arguments.data)
    default = Path("inspection") / name
    out = arguments.out or default
    require_outside(out, folder, default)

    print("Starting …", flush=True)
    set_up_figures()
    from ulmfit_app.data import inspection

    inspection.check_out(out, arguments.data.source)
    found = inspection.inspect(
        arguments.data, arguments.tokens, arguments.seed, arguments.label_errors
    )
    # A run would write into the data by default, and refuse to.
    if outside := find_outside(Path("runs") / name, folder, Path("runs") / name):
        found = replace(found, go_on=f"{found.go_on} --out {shlex.quote(str(outside))}")
    page = found.write(out)
    print(found.as_text())
    print(f"Page: {page}, with the texts to look at in {page.with_name('suspects.csv')}")


def finetune(argv: list[str]) -> None:
    """The language model of a run again."""
    _repeat("finetune", "lm", argv)


def classify(argv: list[str]) -> None:
    """The classifier of a run again."""
    _repeat("classify", "classifier", argv)


def _repeat(verb: str, stage: str, argv: list[str]) -> None:
    arguments = tyro.cli(StageArguments, args=argv, prog=f"python -m ulmfit_app {verb}")
    _carry_out_again(arguments.run, stage)


def _carry_out_again(run: Path, stage: str, language: ReportLanguage | None = None) -> None:
    set_up_torch()
    set_up_figures()
    from ulmfit_app.pipeline.run import Run

    print("Done:", *Run.open(run).repeat(stage, language))


def report(argv: list[str]) -> None:
    """The report of a run again, or of a file of predictions."""
    arguments = tyro.cli(ReportArguments, args=argv, prog="python -m ulmfit_app report")
    path = arguments.run
    if path.is_dir():
        language = arguments.report_language
        if arguments != ReportArguments(path, report_language=language):
            raise SettingError(
                f"{path} is a run folder, whose report has its place and its data. Expected: "
                f"python -m ulmfit_app report {shlex.quote(str(path))}"
            )
        _carry_out_again(path, "report", language)
        return

    set_up_figures()
    from ulmfit_app.data.predictions import report_predictions

    out = arguments.out or Path("reports") / name_of(path)
    page = report_predictions(
        path,
        out,
        arguments.text,
        arguments.label,
        arguments.encoding,
        arguments.quotes,
        arguments.report_language or ENGLISH,
        arguments.groups,
        arguments.time,
    )
    print(f"Report: {page}")
