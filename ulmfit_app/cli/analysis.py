"""Experiments that question a finished run: what changes its answers, and should not."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.outputs import place_outside_run
from ulmfit_app.cli.process import start
from ulmfit_app.config import Name
from ulmfit_app.errors import SettingError

ROBUSTNESS, COUNTERFACTUALS = "robustness", "counterfactuals"


@dataclass(frozen=True)
class RobustnessArguments:
    """Change a run's test texts as senders and machines do, with typos, capitals, emoji, markup,
    look-alike letters, sentences that say nothing: accuracy by how much is changed, with paired
    intervals, confidence, calibration, and the worst examples.

    The test split is scored, and nothing is chosen by it.
    """

    run: Positional[Path]  # the run folder
    # labelled files of other sources, which the run is scored on, too
    domains: tuple[Path, ...] = ()
    text: Name = None  # the column of the texts in these files; None: guessed where it is clear
    label: Name = None  # the column of their labels, likewise
    # shares of a text's words, gaps or signs that are changed, from 0 to 1
    strengths: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    max_texts: int = 500  # of the test split, and of each domain, drawn at random
    seed: int = 0  # of the texts and the changes
    # of the table, the page and the figure; None: experiments/robustness-RUNNAME
    out: Path | None = None


@dataclass(frozen=True)
class CounterfactualsArguments:
    """Put other people into texts: swap identity terms, such as woman and man, or Muslim and
    Christian, and count the answers that change, by pair of groups.

    Nothing is chosen by the texts, which are the run's test split or those of --file; a file needs
    no labels.
    """

    run: Positional[Path]  # the run folder
    # CSV with the columns kind, group and term; None: those of the package, in the run's language
    terms: Path | None = None
    file: Path | None = None  # texts; None: the run's test split
    text: Name = None  # the column of the texts in the file; None: guessed where it is clear
    # whose log-odds are followed; None: of two labels, the second
    label: Name = None
    max_texts: int = 1000  # drawn at random
    seed: int = 0  # of the draw
    # of the tables, the page and the figure; None: experiments/counterfactuals-RUNNAME
    out: Path | None = None


def robustness(argv: list[str]) -> None:
    """What changes of a text do to a run's answers."""
    prog = f"python -m ulmfit_app experiment {ROBUSTNESS}"
    arguments = tyro.cli(RobustnessArguments, args=argv, prog=prog)
    if not arguments.domains and (arguments.text, arguments.label) != (None, None):
        raise SettingError("--text and --label are columns of --domains, and none is named.")
    out = _begin(arguments.run, arguments.out, ROBUSTNESS)
    from ulmfit_app.experiments.robustness import format_robustness, run_robustness

    table, notes = run_robustness(
        arguments.run,
        out,
        arguments.strengths,
        arguments.max_texts,
        arguments.seed,
        arguments.domains,
        (arguments.text, arguments.label),
    )
    print(format_robustness(table, notes))
    print("Written:", *sorted(out.glob(f"{ROBUSTNESS}*.*")))


def counterfactuals(argv: list[str]) -> None:
    """What other people in a text do to a run's answers."""
    prog = f"python -m ulmfit_app experiment {COUNTERFACTUALS}"
    arguments = tyro.cli(CounterfactualsArguments, args=argv, prog=prog)
    if arguments.text is not None and arguments.file is None:
        raise SettingError("--text is a column of --file, and none is named. Leave it out.")
    out = _begin(arguments.run, arguments.out, COUNTERFACTUALS)
    from ulmfit_app.experiments.counterfactuals import (
        format_counterfactuals,
        run_counterfactuals,
    )

    found = run_counterfactuals(
        arguments.run,
        out,
        arguments.terms,
        arguments.file and (arguments.file, arguments.text),
        arguments.label,
        arguments.max_texts,
        arguments.seed,
    )
    print(format_counterfactuals(*found))
    print("Written:", *sorted(out.glob(f"{COUNTERFACTUALS}*.*")))


def _begin(run: Path, out: Path | None, kind: str) -> Path:
    """Where the results go. Raises SettingError where that is inside the run."""
    out = place_outside_run(run, out, kind)
    start()
    return out
