"""A run's classifier in other processes, which read and load it themselves, once each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd

from data_scripts.files import progress, sha256_of
from ulmfit_app.cluster import Workers
from ulmfit_app.config import PredictorPrecision
from ulmfit_app.errors import RunFolderError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import set_up_cpu
from ulmfit_app.inference.predicted_file import Block, BlockColumns, predict_block
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor, load_predictor
from ulmfit_app.jobs import in_order, slots_of

AHEAD = 3  # tables under way, waiting or done, for each that is predicted at a time


def fingerprint_of(predictor: Predictor) -> str:
    """A hash of a run's classifiers and of how they decide, which its answers depend on."""
    both = [predictor]
    if isinstance(predictor, BidirectionalPredictor):
        both.append(predictor.backward)
    bundles = [sha256_of(each.folder / "bundle.json") for each in both]
    return sha256_of_strings([*bundles, str(predictor.decision)])


@dataclass(frozen=True)
class SharedPredictor:
    """What another process needs to answer as a predictor of this one does.

    Args:
        run: its folder, which the other process sees under the same path.
        precision: that this process has found to be the fastest, or was asked for.
        fingerprint: as `fingerprint_of` has it.
    """

    run: Path
    precision: PredictorPrecision
    fingerprint: str

    @classmethod
    def of(cls, predictor: Predictor, run: Path) -> "SharedPredictor":
        """That of a run."""
        return cls(run.absolute(), predictor.precision, fingerprint_of(predictor))

    def load(self) -> Predictor:
        """The predictor, loaded once per process.

        Raises:
            RunFolderError: the run has been trained again.
            SettingError: this machine does not have the precision.
        """
        set_up_cpu()  # of this thread, as the command line does, on which last digits depend
        return _load(self)

    def spread(
        self, workers: Workers, columns: BlockColumns, frames: Iterator[pd.DataFrame]
    ) -> Iterator[Block]:
        """Tables with predictions in the order of the tables, predicted by a cluster's workers.

        Args:
            workers: of the cluster.
            columns: of the tables.
            frames: read a few ahead.
        """
        job = partial(_predict_there, self, columns)
        with progress(description="Predicting", unit=" rows") as bar:
            for block in in_order(
                partial(workers.submit, job),
                frames,
                lambda: AHEAD * slots_of(workers),
                "some rows",
            ):
                bar.update(block.rows)
                yield block


@lru_cache(1)
def _load(shared: SharedPredictor) -> Predictor:
    predictor = load_predictor(shared.run, shared.precision)
    if fingerprint_of(predictor) != shared.fingerprint:
        raise RunFolderError(
            f"The classifier in {shared.run} is another one than when the command began. Give the "
            "command again, when no training is under way there."
        )
    return predictor


def _predict_there(shared: SharedPredictor, columns: BlockColumns, frame: pd.DataFrame) -> Block:
    return predict_block(shared.load(), columns, frame)
