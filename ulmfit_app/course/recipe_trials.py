"""The classifiers of notebook 09: recipes on one transformer, and an AWD-LSTM on the same labels.

All of a draw learn from the same labelled texts and are scored on the same test texts, as those of
notebook 07, whose draws these are.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np

from ulmfit_app.config import AdapterName, DataSettings, Settings
from ulmfit_app.course.label_trials import NOT_TUNED as LSTM
from ulmfit_app.course.label_trials import TFIDF, LabelTrials
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.stages import train_classifier
from ulmfit_app.training.recipes import Phase, Plan

PLAIN, DISCRIMINATIVE = "one rate", "discriminative rates"
GRADUAL, PAIRS, LORA, TOO_FAST = "gradual unfreezing", "pairs first", "LoRA", "an LSTM's rates"
# So few, or eighty labels would make a handful of steps per pass over them.
BATCH_SIZE = 8


@dataclass(frozen=True)
class Recipe:
    """How a transformer learns.

    Attributes:
        phases: of its plan.
        adapter: what learns in the place of all weights.
    """

    phases: tuple[Phase, ...]
    adapter: AdapterName | None = None


def _all(epochs: int, lr: float, decay: float = 1.0) -> Phase:
    return Phase("all groups", epochs, freeze_to=0, lr=lr, decay=decay)


_HEAD = Phase("head", 1, freeze_to=-1, lr=1e-3)
# Rates of the size that the package's own plans have, times training.choosing.RATES.
RECIPES = {
    PLAIN: Recipe((_all(2, 5e-5),)),
    DISCRIMINATIVE: Recipe((_all(2, 1e-4, 1.3),)),
    GRADUAL: Recipe((_HEAD, Phase("last three groups", 1, -3, 1e-4, 1.3), _all(1, 1e-4, 1.3))),
    PAIRS: Recipe(
        (Phase("pairs", 1, freeze_to=0, lr=5e-5, objective="pairs"), _HEAD, _all(1, 2e-5))
    ),
    LORA: Recipe((_all(2, 5e-4),), "lora"),
    TOO_FAST: Recipe((_all(2, 1e-2),)),
}
WAYS = (PLAIN, DISCRIMINATIVE, GRADUAL, PAIRS, LORA, LSTM, TFIDF)


class RecipeTrials(LabelTrials):
    """Classifiers from a few labels: by any of RECIPES on a transformer, and all those of 07.

    LSTM is the way of notebook 07 that starts from the settings' own AWD-LSTM, not fine-tuned on
    these texts; no transformer is, either.

    Args:
        settings: the texts, how to train, and the AWD-LSTM to start from.
        transformer: to start from, as --pretrained takes it.
    """

    def __init__(self, settings: Settings, transformer: str) -> None:
        super().__init__(settings)
        lm = replace(settings.lm, pretrained=transformer, epochs=0)
        classifier = replace(settings.classifier, batch_size=BATCH_SIZE)
        self._of_transformer = replace(settings, lm=lm, classifier=classifier)
        self._runs: dict[tuple, Run] = {}

    def find_right(self, way: str, n_labels: int, draw: int = 0) -> np.ndarray:
        """Which test texts a classifier gets right, in the order of the table, boolean [n_test].

        Args:
            way: one of RECIPES, or of the ways of `LabelTrials`.
            n_labels: that it learns from and validates on.
            draw: which labels, and the seed of the training.
        """
        point = (way, n_labels, draw)
        if way in RECIPES and point not in self._right:
            self._right[point] = self._learn_recipe(*point)
        return super().find_right(*point)

    def _learn_recipe(self, way: str, n_labels: int, draw: int) -> np.ndarray:
        recipe, run = RECIPES[way], self._find_run(n_labels, draw, RECIPES[way].adapter)
        (forward,) = run.record.directions
        with TemporaryDirectory(dir=self._folder.name) as folder:
            plan = Plan(way, recipe.phases, drop_mult=0.5)
            train_classifier(run, forward, plan, Path(folder))
            predictor = Predictor(Path(folder), self._of_transformer.precision)
        test, truth = run.labelled("test")
        return predictor.probabilities(run.open_tokens(), test).argmax(axis=1) == truth

    def _find_run(self, n_labels: int, draw: int, adapter: AdapterName | None) -> Run:
        """A run whose labelled texts are those of a draw, up to its language model."""
        point = (n_labels, draw, adapter)
        if point not in self._runs:
            folder, s = Path(mkdtemp(dir=self._folder.name)), self._of_transformer
            known = self.table.index.isin(self.draw_labels(n_labels, draw))
            # A transformer knows its own tokens, and needs no other texts for a vocabulary.
            table = self.table[known | (self.table["split"] == "test")]
            path = folder / "texts.csv"
            write_table(path, table)
            data = DataSettings(str(path), text="text", label="label", split="split")
            classifier = replace(s.classifier, adapter=adapter)
            run = begin(
                folder / "run", replace(s, data=data, classifier=classifier, seed=s.seed + draw)
            )
            run.carry_out("lm")
            self._runs[point] = run
        return self._runs[point]
