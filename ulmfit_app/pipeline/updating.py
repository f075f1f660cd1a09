"""Beginning an updated run, and training the same from the start, to compare both."""

from dataclasses import replace
from pathlib import Path

from ulmfit_app.config import (
    AugmentationSettings,
    DataSettings,
    DistillationSettings,
    Settings,
    UpdateSettings,
)
from ulmfit_app.errors import SettingError
from ulmfit_app.pipeline.judging import RETRAINED
from ulmfit_app.pipeline.parents import recipe_of
from ulmfit_app.pipeline.record import RunRecord
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.run_folder import TABLE, read_record, require_record
from ulmfit_app.settings_json import from_json


def begin_update(
    parent: Path, out: Path, new: DataSettings, how: UpdateSettings, lm_epochs: int
) -> Run:
    """A run that goes on from another one with new texts; opened where it was begun before.

    Args:
        parent: folder of the run that it goes on from, which stays as it is.
        out: the new run's folder.
        new: where the new texts lie, and how they are split.
        how: they are learned.
        lm_epochs: of the language model.

    Returns:
        The run, ready to be carried out.

    Raises:
        RunFolderError: there is no such finished run; or the folder holds another run, or an
            update of the parent as it was before.
        DataError, SettingError, BundleError: as `plan_run` does.
    """
    record = _record_of(parent, out)
    recipe = from_json(recipe_of(record))
    settings = replace(
        recipe,
        data=replace(
            new,
            multilabel=record.data.multilabel,
            groups=tuple(record.data.groups),
            time=record.data.time,
        ),
        lm=replace(
            recipe.lm,
            pretrained=str(parent.absolute()),
            epochs=lm_epochs,
            max_tokens=None,
            test_texts=False,
            lr_find=False,
        ),
        classifier=replace(recipe.classifier, plan="auto", epochs=None, max_tokens=None),
        distillation=DistillationSettings(),
        augment=AugmentationSettings(),
        update=replace(how, parent=str(parent.absolute())),
    )
    return begin(out, settings if not how.pull else _without_decay(settings))


def _record_of(parent: Path, out: Path) -> RunRecord:
    """The parent's record; where it is gone, that of the run that has gone on from it, which has
    all that is asked here."""
    found = read_record(out) if out.exists() else None
    if read_record(parent) is None and found and "parent" in found:
        return RunRecord.understand(found, out)
    return RunRecord.understand(require_record(parent), parent)


def _without_decay(settings: Settings) -> Settings:
    """Settings without weight decay, which pulls to 0: the pull to the parent takes its place."""
    return replace(
        settings,
        lm=replace(settings.lm, weight_decay=0.0),
        classifier=replace(settings.classifier, weight_decay=0.0),
    )


def begin_retraining(run: Run) -> Run:
    """A run on the table of an updated one, by the settings of the first run, from the start.

    It lies in retrained/ of the updated run's folder; the report of that one then compares both.

    Args:
        run: the updated one.

    Raises:
        SettingError: the first run learned from another run's answers.
        DataError, SettingError, BundleError, data_scripts.fetch.FetchError: as `plan_run` does.
    """
    record = run.record
    recipe = from_json(record.parent.recipe)
    if recipe.distillation.teachers:
        raise SettingError(
            f"--retrain: {record.parent.run} learned from another run's answers, and there is no "
            "start that is its own. Leave it out."
        )
    # A name that depends on the data's cannot be found by that of a table.
    start = recipe.lm.pretrained if recipe.bidirectional else recipe.starts[0]
    # The table has its splits; by time, texts without one, as feedback is, would be dropped.
    data = DataSettings(
        source=str((run.folder / TABLE).absolute()),
        text="text",
        label="label",
        split="split",
        multilabel=record.data.multilabel,
        groups=tuple(record.data.groups),
    )
    settings = replace(recipe, data=data, lm=replace(recipe.lm, pretrained=start))
    return begin(run.folder / RETRAINED, settings)
