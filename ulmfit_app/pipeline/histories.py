"""The history of a training as its file, which is there while it still goes on."""

from pathlib import Path

import pandas as pd

from ulmfit_app.data.reading import read_table
from ulmfit_app.run_folder import HISTORY
from ulmfit_app.training.symptoms import WARNINGS

_WORDS = ("phase", WARNINGS)


def read_history(folder: Path) -> pd.DataFrame:
    """A stage's history.csv, one row per epoch: phase and warnings are words, epoch an integer,
    the rest are float.

    Raises:
        DataError: it is missing or damaged.
    """
    table = read_table(folder / HISTORY)
    numbers = [name for name in table if name not in _WORDS]
    # What was not measured, such as the loss of a training of no epochs, is written as nothing.
    table[numbers] = table[numbers].replace("", "nan").astype(float)
    return table.astype({"epoch": int})
