"""A run: its folder, what was decided for it, and its stages.

tokens, language model, classifier, report, in this order, each from the files of the one before. A
bidirectional run has language model and classifier twice, forward and then backward. A run that
learns from other runs' answers has a stage teacher, which holds these; one that makes more texts
of its labelled ones has a stage augment, behind all language models.

A run is its files. `Run.open` reads run.json and does no work; `begin` decides what a command asks
for, once. A stage whose key stands in its folder is finished and not repeated; one that was
interrupted goes on from its checkpoint. After changed settings the new results are made in
RUN/next, and take the old ones' place together when the last one asked for is complete: until then
the old ones stay, and predict.
"""

import logging
import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ulmfit_app.config import Settings
from ulmfit_app.data.costs import read_costs
from ulmfit_app.data.sources import DATA_SETS
from ulmfit_app.errors import RunFolderError, SettingError, quoted
from ulmfit_app.evaluation.messages import ENGLISH, ReportLanguage
from ulmfit_app.models.pretrained import has_changed
from ulmfit_app.pipeline.augmenting import augment, check_translation
from ulmfit_app.pipeline.pace import Pace
from ulmfit_app.pipeline.parents import (
    has_parent_changed,
    keep_parent,
    require_same_parent,
)
from ulmfit_app.pipeline.plan import plan_run, request, source_sha256
from ulmfit_app.pipeline.record import RunRecord
from ulmfit_app.pipeline.refitting import is_due, refit
from ulmfit_app.pipeline.report import LANGUAGE, make_report
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.stages import (
    Stage,
    classify,
    finetune,
    make_tokens,
    resolved_precision,
)
from ulmfit_app.pipeline.teachers import has_changed as has_teacher_changed
from ulmfit_app.pipeline.teachers import teach
from ulmfit_app.run_folder import (
    AGAIN,
    AUGMENT,
    BEGUN,
    MARK,
    NEXT,
    RECORD,
    TEACHER,
    find_part,
    finish_take_over,
    read_mark,
    read_record,
    require_record,
    take_over,
    working_in,
)

log = logging.getLogger(__name__)


class Run(RunFiles):
    """A run that was decided on, and its stages.

    Args:
        folder, record, work: as `RunFiles` has them.
    """

    def __init__(self, folder: Path, record: RunRecord, work: Path) -> None:
        super().__init__(folder, record, work)
        self.report_language: ReportLanguage = ENGLISH
        self.pace: Pace | None = None  # once it was measured
        self.stages = _stages_of(self)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run in a folder. Reads run.json and does no work.

        Raises:
            RunFolderError: there is none, or it is of another format or damaged.
        """
        return cls(folder, RunRecord.understand(require_record(folder), folder), folder)

    # ---- its stages
    def carry_out(
        self, last: str = "report", report_language: ReportLanguage | None = None
    ) -> Path:
        """Make what is not finished, up to the stages of a kind; the report's path.

        Args:
            last: the kind.
            report_language: a report in another one is made again; None: as it was, else English.

        Raises:
            RunFolderError: another process works in the folder.
        """
        with working_in(self.folder):
            self.report_language = report_language or self._last_language()
            return self._carry_out(last)

    def _carry_out(self, last: str) -> Path:
        if AUGMENT in self.stages and self.stages[AUGMENT].comes_before(last, or_is=True):
            check_translation(self)
        for name in list(self.stages):
            if self.stages[name].comes_before(last, or_is=True):
                if is_due(self, self.stages[name].kind):
                    self._fit_to_time(self.stages[name].kind)
                self._make(self.stages[name])
        if self.work != self.folder and not self._would_lose_results():
            take_over(self.folder, self.work)
            self.work = self.folder
        return self.place("report") / "report.html"

    def follow_pace(self) -> Pace:
        """How fast it goes; the machine is measured when it is first asked for."""
        if self.pace is None:
            self.pace = Pace(self)
            self.watches.append(self.pace)
        return self.pace

    def _fit_to_time(self, kind: str) -> None:
        """Decide anew what is done from a stage on, where the time that is left asks for it."""
        if (refitted := refit(self, kind, self.follow_pace())) is None:
            return
        refitted.write(self.work / AGAIN)
        take_over(self.work, self.work / AGAIN)
        self.record = refitted.record
        del self.rows
        self.stages = _stages_of(self)
        self.follow_pace().plan_anew()

    def repeat(self, kind: str, report_language: ReportLanguage | None = None) -> list[Path]:
        """Carry out the stages of a kind again, from what the stages before them left.

        Args:
            kind: of the stages.
            report_language: of a report; None: as it was, else English.

        Returns:
            Their folders.

        Raises:
            RunFolderError: a stage before them is not finished, or another process works in the
                folder.
        """
        with working_in(self.folder):
            self.report_language = report_language or self._last_language()
            return self._repeat(kind)

    def _repeat(self, kind: str) -> list[Path]:
        _require_finished_before(kind, self)
        finish_take_over(self.folder)
        again = [stage for stage in self.stages.values() if stage.kind == kind]
        self._make_again(again)
        return [self.folder / stage.name for stage in again]

    def _make_again(self, stages: list[Stage]) -> None:
        """Make results anew; until they are complete, what there is of the old ones stays."""
        work = self.folder / AGAIN
        _remove_all_but(stages, work)
        for stage in stages:
            if not stage.is_finished(work / stage.name):
                stage.carry_out(work / stage.name, resolved_precision(self))
        take_over(self.folder, work)

    def _last_language(self) -> ReportLanguage:
        """The language that there is a report in; English where there is none."""
        marks = [read_mark(place / "report" / MARK) for place in (self.work, self.folder)]
        return next((mark[LANGUAGE] for mark in marks if LANGUAGE in mark), ENGLISH)

    def _would_lose_results(self) -> bool:
        """Whether a kind of result that the folder has is not complete among the new ones."""
        stages = self.stages.values()
        marks = {each: find_part(self.folder, each.name) / MARK for each in stages}
        there = {each.kind for each, mark in marks.items() if mark.is_file()}
        return any(each.kind in there and not self.is_finished(each.name) for each in stages)

    def _make(self, stage: Stage) -> None:
        finished = self.is_finished(stage.name)
        if finished and stage.name == "report" and self.report_language != self._last_language():
            log.info("Stage report: finished in another language, it is made again.")
            if self.work == self.folder:
                self._make_again([stage])
            else:
                stage.carry_out(self.work / stage.name, resolved_precision(self))
            return
        if finished:
            log.info("Stage %s: finished before, not repeated.", stage.name)
            return
        before, now = self.folder / stage.name, self.work / stage.name
        if before != now and stage.is_begun(before) and not now.exists():
            # It goes on from its checkpoint.
            now.parent.mkdir(parents=True, exist_ok=True)
            os.rename(before, now)
        elif lost := stage.find_lost(now):
            how = "Stage %s: not as it was written (%s), it is made again."
            log.info(how, stage.name, quoted(lost))
            if now == before:
                self._make_again([stage])
                return
        elif before.exists() and not (before / BEGUN).exists():
            log.info("Stage %s: what it depends on has changed, it is made anew.", stage.name)
        stage.carry_out(now, resolved_precision(self))


def _stages_of(run: Run) -> dict[str, Stage]:
    record = run.record
    works = {"tokens": partial(make_tokens, run)}
    if record.settings.augment.makes_texts:  # of all language models, perhaps
        for each in record.directions:
            works[each.named("lm")] = partial(finetune, run, each)
        works[AUGMENT] = partial(augment, run)
    for each in record.directions:
        works[each.named("lm")] = partial(finetune, run, each)
        if record.teachers:
            works.setdefault(TEACHER, partial(teach, run))
        works[each.named("classifier")] = partial(classify, run, each)
    works["report"] = lambda folder: make_report(run, folder, run.report_language)
    return {name: Stage(name, record.keys[name], do) for name, do in works.items()}


def _require_finished_before(kind: str, run: Run) -> None:
    for stage in run.stages.values():
        if stage.comes_before(kind) and not run.is_finished(stage.name):
            lost = stage.find_lost(find_part(run.folder, stage.name))
            what = "is not finished with the run's settings, which this one starts from"
            if lost:
                what = f"is not as it was written: {quoted(lost)}"
            raise RunFolderError(
                f"The stage {stage.name!r} of {run.folder} {what}. To make it, {run.again()}"
            )


# --------------------------------------------------------------------------------------- beginning
def begin(
    folder: Path,
    settings: Settings,
    minutes: float | None = None,
    preset: str = "",
    like: Run | None = None,
) -> Run:
    """The run that a command asks for: opened where the same was asked before, planned otherwise.

    Args:
        folder: of the run.
        settings: of the run.
        minutes: fit the work into so many, measured on this machine; the bounds found are stored
            with the run, and the same command uses them again.
        preset: the name of the preset that the settings were derived from.
        like: a run with the same data settings and seed, whose own copy of the texts is used.

    Raises:
        RunFolderError: the folder holds a run on other data, or one that cannot be read, or
            another process works in it.
        SettingError: it is the folder of a teacher, or as `plan_run` does.
        DataError, BundleError, data_scripts.fetch.FetchError: as `plan_run` does.
    """
    with working_in(folder):
        return _begin(folder, settings, minutes, preset, like)


def _begin(
    folder: Path, settings: Settings, minutes: float | None, preset: str, like: Run | None
) -> Run:
    for place in (folder, folder / NEXT):
        finish_take_over(place)
    current = _open_at(folder, folder)
    asked = request(settings, minutes)
    for run in (current, _open_at(folder, folder / NEXT)):
        if run and run.record.requested == asked and run.has_texts() and not _inputs_changed(run):
            if run is current:
                shutil.rmtree(folder / NEXT, ignore_errors=True)
            return run
    _require_other_than_teachers(folder, settings)
    own = like or (current if current and _has_lost_source(current, settings) else None)
    costs = _own_costs(like or current, settings)
    planned = plan_run(settings, minutes, preset, own and own.corpus, costs)
    if own:
        # Of the source as it was read: when it comes back changed, that has to be seen.
        data = replace(planned.record.data, source_sha256=own.record.data.source_sha256)
        planned = replace(planned, record=replace(planned.record, data=data))
    if current is not None:
        require_same_parent(folder, current.record.parent, planned.record.parent)
    if planned.parent is not None:
        keep_parent(planned.parent, folder)
    if current is None:
        planned.write(folder)
    else:
        _require_same_data(current, planned.record)
        _require_same_kind(current, planned.record)
        # What was begun there for other settings must not take over with the results for these.
        run = Run(folder, planned.record, folder / NEXT)
        _remove_all_but(run.stages.values(), run.work)
        planned.write(run.work)
    # From its own files, as every later command will see it.
    return _open_at(folder, folder if current is None else folder / NEXT)


def _remove_all_but(stages: Iterable[Stage], work: Path) -> None:
    """Remove what a folder inside a run holds, but whole or begun results of some stages."""
    if not work.is_dir():
        return
    kept = [s.name for s in stages if s.is_finished(work / s.name) or s.is_begun(work / s.name)]
    # First of all the record: without it, what is cut off here is planned again.
    (work / RECORD).unlink(missing_ok=True)
    for part in work.iterdir():
        if part.name not in kept:
            shutil.rmtree(part)


def _open_at(folder: Path, work: Path) -> Run | None:
    """The run whose run.json lies in `work`, the folder itself or one inside it; None without."""
    values = read_record(work)
    return values and Run(folder, RunRecord.understand(values, work), work)


def _inputs_changed(run: Run) -> bool:
    """Whether the source, the table of costs, or a bundle that it starts from, is another one
    than when it was planned.

    One that is gone is not: the run has its own copy of the texts, and its own language model.
    """
    now, before = source_sha256(run.record.settings), run.record.data.source_sha256
    changed = now is not None and before is not None and now != before
    changed = changed or any(has_changed(d.start, d.pretrained) for d in run.record.directions)
    costs, data = run.record.settings.classifier.costs, run.record.data
    if costs is not None and costs.is_file():
        changed = changed or read_costs(costs, data.labels, data.multilabel) != data.costs
    changed = changed or has_parent_changed(run.record.parent)
    return changed or any(map(has_teacher_changed, run.record.teachers))


def _own_costs(run: Run | None, settings: Settings) -> list[list[float]] | None:
    """A run's own copy of a table of costs that is asked for, where its file is gone."""
    path = settings.classifier.costs
    if run is None or path is None or path.exists():
        return None
    return run.record.data.costs if run.record.settings.classifier.costs == path else None


def _has_lost_source(run: Run, settings: Settings) -> bool:
    """Whether a run's own texts are asked for, and their source is gone."""
    ours = run.record.settings
    same = (ours.data, ours.seed) == (settings.data, settings.seed)
    if settings.data.source in DATA_SETS or Path(settings.data.source).exists() or not same:
        return False
    log.info("%s is gone: the run's own copy of the texts is used.", settings.data.source)
    return True


def _require_other_than_teachers(folder: Path, settings: Settings) -> None:
    """Refuse to put a run in the place of its own teacher, or into its folder."""
    for name in settings.distillation.teachers:
        teacher = Path(name).resolve()
        if folder.resolve().is_relative_to(teacher):
            raise SettingError(
                f"{folder} is the folder of the teacher, or inside it, and a run needs one of its "
                f"own. Run into another: --out {shlex.quote(f'{teacher}-student')}"
            )


def _require_same_kind(run: Run, asked: RunRecord) -> None:
    """Refuse to replace a run by a pupil, a pupil by a run, or a pruned one by another."""
    kinds = [
        (bool(record.teachers), record.settings.distillation.pruned)
        for record in (run.record, asked)
    ]
    if kinds[0] != kinds[1]:
        what = [
            f"pruned by {pruned:.0%}" if pruned else "with a teacher" if taught else "of its own"
            for taught, pruned in kinds
        ]
        raise RunFolderError(
            f"{run.folder} holds a run {what[0]}, and what is asked for is one {what[1]}; it is "
            f"left as it is. Run into another folder: --out {shlex.quote(f'{run.folder}-2')}"
        )


def _require_same_data(run: Run, asked: RunRecord) -> None:
    """Refuse to replace a run on one data set by one on another."""
    before, now = run.record.settings.data.source, asked.settings.data.source
    hashes = {run.record.data.source_sha256, asked.data.source_sha256}
    if before != now and (len(hashes) > 1 or None in hashes):
        raise RunFolderError(
            f"{run.folder} holds a run on {before}, not on {now}; it is left as it is. Run into "
            f"another folder: --out {shlex.quote(f'{run.folder}-2')}"
        )
