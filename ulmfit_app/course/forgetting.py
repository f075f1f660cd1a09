"""In the middle of notebook 05: what an encoder still knows after each epoch and each phase."""

import pandas as pd
from fastai.learner import Learner, Metric
from fastai.text.models.core import SequentialRNN

from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.text.batches import LanguageModelBatches


class KeptPerplexity(Metric):
    """What the encoder still knows: the perplexity of the language model with it put back.

    Args:
        model: the language model.
        batches: the texts that it is scored on.
    """

    name = "perplexity"

    def __init__(self, model: SequentialRNN, batches: LanguageModelBatches) -> None:
        self._model, self._batches = model, batches

    def reset(self) -> None:
        """fastai calls it before each validation."""

    def accumulate(self, learn: Learner) -> None:
        """fastai calls it for each batch."""
        self._encoder = learn.model[0].module

    @property
    def value(self) -> float:
        """The perplexity."""
        self._model[0].load_state_dict(self._encoder.state_dict())
        return measure_perplexity(self._model, self._batches).perplexity


def tabulate_phases(history: pd.DataFrame, n: int) -> pd.DataFrame:
    """How a classifier does at the end of each phase.

    Args:
        history: one row per epoch: phase, accuracy and perplexity among its columns.
        n: texts that it was scored on.

    Returns:
        One row per phase: phase, n, accuracy, low, high (95 %), perplexity.
    """
    ends = history[history["phase"] != history["phase"].shift(-1)]
    rows = []
    for one in ends.itertuples():
        low, high = accuracy_interval(round(one.accuracy * n), n)
        scores = {"n": n, "accuracy": one.accuracy, "low": low, "high": high}
        rows.append({"phase": one.phase} | scores | {"perplexity": one.perplexity})
    return pd.DataFrame(rows)
