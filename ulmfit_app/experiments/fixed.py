"""What an experiment sets in its runs, so that they differ only in what it compares.

Without torch, so that the command line can name these settings before it loads anything.
"""

import shlex
from typing import Any

from ulmfit_app.config import Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.models.hub import MINILM, is_transformer

# Howard and Ruder 2018: section 3's recipe with section 4.1's rates, which the ablation gives to
# all its runs. A row of a table changes some of it.
FULL_RECIPE: dict[str, dict[str, Any]] = {
    "lm": {
        "lr": 4e-3,
        "random_lr": 4e-3,
        "decay": 2.6,
        "frozen_lr": None,
        "schedule": "slanted-triangular",
    },
    "classifier": {"plan": "gradual-discr", "schedule": "slanted-triangular"},
}

# Settings that an experiment takes from nobody, by its name on the command line.
SET_BY: dict[str, tuple[str, ...]] = {
    "ablation": (
        *(f"{part}.{name}" for part, names in FULL_RECIPE.items() for name in names),
        *("classifier.adapter", "classifier.lr_mult", "classifier.decay"),
    ),
    "labels": ("data.max_labels",),
    "methods": (
        *("classifier.plan", "classifier.adapter", "classifier.lr_mult", "classifier.decay"),
    ),
    "balance": ("classifier.balance", "classifier.thresholds", "classifier.costs"),
    # The shape is that of the models which are compared.
    "starts": ("lm.pretrained", "model.emb_sz", "model.n_hid", "model.n_layers"),
    "folds": ("data.fold", "data.valid_share", "data.max_valid"),
    "augment": ("augment.method", "data.max_labels"),
    "search": ("data.fold",),
}
# Experiments that also train from random weights, wherever their other runs start from.
ALSO_FROM_RANDOM = ("ablation", "labels", "starts")
OF_TRANSFORMERS_ALONE = ("methods",)


def require_transformer(settings: Settings, kind: str) -> None:
    """Refuse an AWD-LSTM as the start of an experiment.

    Args:
        settings: of the experiment.
        kind: its name on the command line.

    Raises:
        SettingError: the start is no transformer.
    """
    start = settings.lm.pretrained
    if not is_transformer(start):
        raise SettingError(
            f"{kind} compares ways to train a transformer, and the start here, --pretrained "
            f"{start}, is none. Name one: python -m ulmfit_app experiment {kind} "
            f"{shlex.quote(settings.data.source)} --pretrained {MINILM}"
        )
