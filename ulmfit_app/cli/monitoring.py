"""The verb monitor: are new texts still like those that a run was tested on? And the experiment
drift, which measures how often it rings."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.outputs import name_of, place_outside_run
from ulmfit_app.cli.process import start
from ulmfit_app.config import Name, Quotes
from ulmfit_app.errors import DriftFound, SettingError


@dataclass(frozen=True)
class MonitorArguments:
    """Compare new texts with those that a run was tested on: lengths, unknown words, language,
    labels, confidence, and what the model and a classifier see in them. Nobody has to label any.

    One line says what changed and by how much. The exit code is 0 either way.
    """

    run: Positional[Path]  # the run folder
    # CSV, TSV, JSON or Parquet, or what `serve --log` or `serve --feedback` wrote; of a log
    # without texts, labels and confidence are compared
    new: Positional[Path]
    # the column of the texts; None: that of the run's own file, or the only one
    text: Name = None
    encoding: str = "utf-8"  # of the file
    # of a CSV or TSV; literal: a quote is a character like any other, as in many TSV files
    quotes: Quotes = "csv"
    # of the page, drift.json, figures and tables, in the place of those that are there; None:
    # monitor/NAME
    out: Path | None = None
    fail_on_drift: bool = False  # exit code 10 where a change counts


DRIFT = "drift"


@dataclass(frozen=True)
class DriftArguments:
    """How often `monitor` rings, for nothing and for something: new texts are drawn from a run's
    own test split, with a share of foreign ones among them. And how far estimates of the accuracy
    without labels are off.

    The same command draws again, but no text is read twice.
    """

    run: Positional[Path]  # the run folder
    # files of other texts
    foreign: tuple[Path, ...] = ()
    sizes: tuple[int, ...] = (200, 1000, 5000)  # numbers of new texts
    shares: tuple[float, ...] = (0.05, 0.1, 0.2)  # of foreign texts among them; all, too
    draws: int = 100  # of the run's own texts; a fifth of it, but 20, with foreign ones
    # the column of true labels in the foreign files; None: label, where they have it
    label: Name = None
    # of the table, the figure and what the run makes of the texts; None: experiments/drift-RUNNAME
    out: Path | None = None


def drift(argv: list[str]) -> None:
    """Measure how often drift is rung for."""
    prog = f"python -m ulmfit_app experiment {DRIFT}"
    arguments = tyro.cli(DriftArguments, args=argv, prog=prog)
    out = place_outside_run(arguments.run, arguments.out, DRIFT)

    start()
    from ulmfit_app.experiments.drift import format_drift, run_drift
    from ulmfit_app.hardware import bound_threads

    bound_threads()
    table, notes = run_drift(
        arguments.run,
        out,
        arguments.foreign,
        arguments.sizes,
        arguments.shares,
        arguments.draws,
        arguments.label,
    )
    print(format_drift(table, notes))
    print("Written:", *sorted(out.glob(f"{DRIFT}.*")))


def monitor(argv: list[str]) -> None:
    """Are new texts like the run's own?"""
    arguments = tyro.cli(MonitorArguments, args=argv, prog="python -m ulmfit_app monitor")
    out = arguments.out or Path("monitor") / name_of(arguments.new)
    if out.exists() and not out.is_dir():
        raise SettingError(
            f"{out} is a file, and the results need a folder. Name one: --out FOLDER"
        )

    start()
    from ulmfit_app.evaluation.drift_page import describe_estimate
    from ulmfit_app.hardware import bound_threads
    from ulmfit_app.inference.file_checks import find_text_column
    from ulmfit_app.inference.predictor import load_predictor
    from ulmfit_app.pipeline import monitoring
    from ulmfit_app.serving.card import name_model
    from ulmfit_app.serving.new_texts import read_new

    bound_threads()
    run, predictor = arguments.run, load_predictor(arguments.run)
    file = arguments.new, arguments.text, arguments.encoding, arguments.quotes
    new = read_new(*file, find_text_column(run), name_model(run, predictor))
    found = monitoring.monitor(run, predictor, new)
    page = monitoring.write_monitored(out, found)
    print(*found.notes, sep="\n")
    if found.estimate is not None:
        print(describe_estimate(found))
    print(found.drift.verdict())
    print(f"Page: {page}")
    if arguments.fail_on_drift and found.drift.rings:
        raise DriftFound("a change counts, and --fail-on-drift asks for exit code 10.")
