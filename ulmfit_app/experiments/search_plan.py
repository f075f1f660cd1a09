"""What a search is of: its settings, the folders of its trials, and what the next command may
change."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ulmfit_app.config import Settings
from ulmfit_app.experiments.search_journal import (
    MADE_WITH,
    PrunerName,
    SamplerName,
    open_storage,
    require_same,
)
from ulmfit_app.experiments.spaces import Choices, Space, fields_of, with_values
from ulmfit_app.models.pretrained import find_starts
from ulmfit_app.pipeline.plan import source_sha256
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.run_folder import RECORD, find_part
from ulmfit_app.settings_json import to_json
from ulmfit_app.training.recipes import count_epochs


@dataclass(frozen=True)
class How:
    """How a search goes on; the next command may do it otherwise.

    Attributes:
        trials: in all, of all commands.
        minutes: no trial begins that would not end within so many; None: no bound.
        sampler, pruner: their names.
        at_once: trials.
    """

    trials: int = 30
    minutes: float | None = None
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "median"
    at_once: int = 1


def made_with(settings: Settings, space: Space) -> dict[str, Any]:
    """What a search is of, as its journal has it."""
    values = to_json(settings)
    values |= {"texts": source_sha256(settings), "space": space.to_json()}
    return json.loads(json.dumps(values))


def require_same_search(folder: Path, settings: Settings) -> None:
    """Refuse to go on with a search of other data or settings, before anything is planned.

    Args:
        folder: of a search, or one that is to be.
        settings: the command's.

    Raises:
        RunFolderError: naming what differs.
    """
    known = _known(folder)
    if known is not None:
        space = {"space": known["space"]}
        require_same(made_with(settings, Space({}, {})) | space, known, folder)


def _known(folder: Path) -> dict[str, Any] | None:
    """What the journal in a folder is of; None where there is no journal."""
    if not folder.is_dir():
        return None
    studies = open_storage(folder).get_all_studies()
    return studies[0].user_attrs.get(MADE_WITH) if studies else None


def require_starts(settings: Settings, space: Space) -> None:
    """Refuse a start that cannot be had, before anything is trained.

    Args:
        settings: the command's.
        space: whose starts are looked at.

    Raises:
        UserError: as `find_start` does.
    """
    drawn = space.drawn.get("lm.pretrained")
    own = [space.fixed["lm.pretrained"]] if "lm.pretrained" in space.fixed else []
    for name in drawn.values if isinstance(drawn, Choices) else own:
        of_trial = with_values(settings, {"lm.pretrained": name})
        find_starts(of_trial.starts, of_trial.model)


def fix_metric(settings: Settings, space: Space) -> Settings:
    """The settings with one metric for all trials, where `auto` would follow a drawn balance."""
    several = settings.data.multilabel or settings.data.label_columns
    if "classifier.balance" not in space.drawn or several:
        return settings
    if settings.classifier.select_by != "auto":
        return settings
    return replace(settings, classifier=replace(settings.classifier, select_by="macro-f1"))


def runs_of(folder: Path, name: str, settings: Settings) -> tuple[tuple[Path, Settings], ...]:
    """The runs of a trial, one or one for each fold: their folders and settings.

    Args:
        folder: that holds them.
        name: of the trial.
        settings: of the trial.
    """
    data = settings.data
    if data.folds is None:
        return ((folder / name, settings),)
    folds = range(1, data.folds + 1)
    every = [replace(data, fold=fold, max_valid=None) for fold in folds]
    return tuple(
        (folder / f"{name}-fold{each.fold}", replace(settings, data=each)) for each in every
    )


def name_of_trial(number: int) -> str:
    """Of its folder.

    >>> name_of_trial(7)
    '007'
    """
    return f"{number:03}"


def begin_first(folder: Path, settings: Settings, preset: str) -> Run:
    """The run of trial 0, or of its first fold, planned where it is not.

    Args:
        folder: of the search.
        settings: the command's.
        preset: the name of the preset that they were derived from.

    Raises:
        UserError: as `begin` does.
    """
    (place, of_first), *_ = runs_of(folder / "trials", name_of_trial(0), settings)
    if _known(folder) is not None and find_part(place, RECORD).is_file():
        return Run.open(place)  # another command's process may be working there
    return begin(place, of_first, preset=preset)


def values_of(run: Run, settings: Settings, space: Space) -> dict[str, Any]:
    """What the command's settings are in a space, with what is left to the plan spelled out.

    Args:
        run: that was planned with them.
        settings: the command's.
        space: names what is drawn.
    """
    plan = run.record.directions[0].plan
    decided = {
        "classifier.plan": plan.name,
        "classifier.epochs": count_epochs(plan),
        "classifier.decay": plan.phases[-1].decay,
        "classifier.drop_mult": plan.drop_mult,
        "lm.pretrained": settings.starts[0],
    }
    own = fields_of(settings)
    return {
        name: decided.get(name, own[name]) if own[name] in (None, "auto") else own[name]
        for name in space.drawn
    }
