"""What an experiment sets in its runs, so that they differ only in what it compares.

Without torch, so that the command line can name these settings before it loads anything.
"""

from typing import Any

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
    "ablation": tuple(f"{part}.{name}" for part, names in FULL_RECIPE.items() for name in names),
    # The shape is that of the models which are compared.
    "starts": ("lm.pretrained", "model.emb_sz", "model.n_hid", "model.n_layers"),
    "folds": ("data.fold", "data.valid_share", "data.max_valid"),
}
# Experiments that also train from random weights, wherever their other runs start from.
ALSO_FROM_RANDOM = ("ablation", "labels", "starts")
