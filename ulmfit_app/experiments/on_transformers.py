"""What experiments on a pretrained transformer share."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ulmfit_app.config import Settings
from ulmfit_app.models.hub import MINILM
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.training.choosing import choose_plan
from ulmfit_app.training.recipes import count_epochs, make_plan


def short_name(pretrained: str) -> str:
    """What a start is called in tables: its name, or that of its folder.

    >>> [short_name(name) for name in ("minilm", "org/bert-tiny", "runs/reviews/lm")]
    ['minilm', 'bert-tiny', 'reviews']
    """
    path = Path(pretrained)
    named = path.parent if path.name == "lm" else path
    return pretrained if pretrained == MINILM else named.name


def epochs_for(plans: Iterable[str], settings: Settings) -> int:
    """Epochs that all of some plans are given, so that each of them reads a label as often.

    Args:
        plans: their names.
        settings: their start, and the epochs that were asked for.

    Returns:
        The epochs of the settings; where they have none, those of the longest plan.

    Raises:
        SettingError: a plan has more phases than the epochs that were asked for.
        BundleError, data_scripts.fetch.FetchError: as `find_start` does.
    """
    how = settings.classifier
    n_groups = find_start(settings.lm.pretrained, settings.model).shape.count_groups(how)
    made = [make_plan(name, n_groups) for name in plans]
    epochs = how.epochs or max(map(count_epochs, made))
    # What is enough for this one is enough for all.
    needs_most = max(made, key=lambda plan: count_epochs(plan) - plan.phases[-1].epochs)
    asked = replace(how, plan=needs_most.name, epochs=epochs)
    choose_plan(asked, n_groups, is_strong_start=True)
    return epochs
