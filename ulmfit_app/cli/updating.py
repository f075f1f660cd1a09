"""The verb update, which goes on from a run with new texts."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.outputs import find_outside
from ulmfit_app.cli.process import set_up_tracker, start
from ulmfit_app.cli.runs import carry_out
from ulmfit_app.config import DataSettings, Name, Quotes, UpdateSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.messages import ReportLanguage
from ulmfit_app.pipeline.tracker import TrackerName
from ulmfit_app.run_folder import working_in

LM_EPOCHS = 1


@dataclass(frozen=True)
class UpdateArguments:
    """Go on from a finished run with new texts, in minutes instead of training it again: its
    language model learns from the new texts, and its classifier from these and some of the old
    ones again.

    Writes a run folder of its own, which is a run like any other; the old run stays as it is. The
    report compares both on old and new test texts. The same command continues after an
    interruption where it stopped.
    """

    run: Positional[Path]  # the run folder that is gone on from
    # the new texts, in any form that a run reads, and what a server collected as feedback
    new: Positional[Path]
    text: Name = None  # column of the new texts; None: guessed where there is no doubt
    label: Name = None  # column of the labels, likewise
    split: Name = None  # column that says train, valid or test; None: splits are made
    separator: Name = DataSettings.separator  # as a run has it
    label_columns: tuple[str, ...] = ()  # as a run has it
    encoding: str = DataSettings.encoding
    quotes: Quotes = DataSettings.quotes
    valid_share: float = DataSettings.valid_share  # of the new training rows
    test_share: float = DataSettings.test_share  # of the new rows, where they have no test split
    replay: float = UpdateSettings.replay  # old training texts learned again, for each new one
    # of the weights towards those of the old run, times the rate, at each step (Li et al. 2018),
    # in the place of weight decay; 0: none
    pull: float = UpdateSettings.pull
    # of what the language model learns, that is added to the classifier's encoder, from 0 to 1
    # (Ilharco et al. 2023)
    task_vector: float = UpdateSettings.task_vector
    lm_epochs: int = LM_EPOCHS  # of the language model; 0: it stays as it is
    epochs: int = UpdateSettings.epochs  # of the classifier
    lr: float = UpdateSettings.lr  # peak of the classifier's last layer group
    new_labels: bool = False  # let the new texts bring labels that the run does not know
    # train the same from the start as well, to compare: RUN-updated/retrained
    retrain: bool = False
    out: Path | None = None  # the new run's folder; None: RUN-updated
    # of the report's words and figures; None: as the report was, else en
    report_language: ReportLanguage | None = None
    # mirror losses, metrics and scores there as they grow; changes no result
    track: TrackerName | None = None


def update(argv: list[str]) -> None:
    """A run that goes on from a run with new texts."""
    arguments = tyro.cli(UpdateArguments, args=argv, prog="python -m ulmfit_app update")
    if arguments.lm_epochs < 0:
        raise SettingError(f"--lm-epochs must be at least 0, not {arguments.lm_epochs}.")
    old = arguments.run.resolve()
    out = arguments.out or old.with_name(f"{old.name}-updated")
    _require_own_folder(out, old)
    source = arguments.new.absolute()
    if outside := find_outside(out, source, Path(out.name)):
        raise SettingError(
            f"The results would lie in {source}, which holds the new texts. Name a folder "
            f"outside: --out {shlex.quote(str(outside))}"
        )
    set_up_tracker(arguments.track)
    start()
    with working_in(out):
        _update(arguments, out)


def _require_own_folder(out: Path, old: Path) -> None:
    if out.resolve().is_relative_to(old):
        raise SettingError(
            f"{out} is the folder of the run that is gone on from, or inside it, and an update "
            f"needs one of its own: --out {shlex.quote(f'{old}-updated')}"
        )


def _update(arguments: UpdateArguments, out: Path) -> None:
    from ulmfit_app.pipeline.judging import RETRAINED
    from ulmfit_app.pipeline.tracking import tracking
    from ulmfit_app.pipeline.updating import begin_retraining, begin_update

    names = {each.name for each in fields(DataSettings)} & set(vars(arguments))
    given = {name: getattr(arguments, name) for name in names}
    new = DataSettings(source=_absolute(arguments.new), **given)
    how = {each.name: getattr(arguments, each.name) for each in fields(UpdateSettings)[1:]}
    run = begin_update(arguments.run, out, new, UpdateSettings(**how), arguments.lm_epochs)
    if not arguments.retrain:
        carry_out(run, arguments.report_language, arguments.track)
        return
    with tracking(run, arguments.track):
        run.carry_out("classifier")
    print(f"From the start, to compare: {out / RETRAINED}")
    retrained = begin_retraining(run)
    with working_in(retrained.folder):
        carry_out(retrained, track=arguments.track)
    print(f"The update: {out}")
    if run.is_finished("report"):  # it may be from before there was anything to compare
        run.repeat("report", arguments.report_language)
    carry_out(run, arguments.report_language, arguments.track)


def _absolute(new: Path) -> str:
    from ulmfit_app.data.sources import DATA_SETS

    return str(new) if str(new) in DATA_SETS else str(new.absolute())
