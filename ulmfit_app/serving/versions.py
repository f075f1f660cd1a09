"""The models that answer, and which of them a text goes to."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_app.config import PredictorPrecision
from ulmfit_app.errors import SettingError, quoted
from ulmfit_app.inference.decided import choose
from ulmfit_app.inference.file_checks import find_text_column
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.serving.batching import Batcher
from ulmfit_app.serving.card import make_card, name_model
from ulmfit_app.serving.records import hash_text


@dataclass(frozen=True)
class Version:
    """A run's model, loaded.

    Args:
        id: names it in every answer.
        run: its folder.
        predictor: of its labels.
        batcher: that asks the predictor.
        card: what /v1/model says of it.
        text_column: that held the texts of the run's own file.
    """

    id: str
    run: Path
    predictor: Predictor
    batcher: Batcher
    card: dict[str, Any]
    text_column: str | None


@dataclass(frozen=True)
class Asked:
    """What models said of some texts.

    Args:
        probabilities: calibrated, float64 [n_texts, n_labels], labels in the order of the model
            that answers most.
        chosen: numbers of the labels of each text: one, or of several those that it is given,
            likeliest first.
        versions: the model of each text, [n_texts].
    """

    probabilities: np.ndarray
    chosen: list[list[int]]
    versions: list[Version]

    @property
    def models(self) -> list[str]:
        """Ids of the models, [n_texts]."""
        return [version.id for version in self.versions]


def join(parts: Sequence[Asked]) -> Asked:
    """Several answers as one, in their order."""
    return Asked(
        np.concatenate([one.probabilities for one in parts]),
        [chosen for one in parts for chosen in one.chosen],
        [version for one in parts for version in one.versions],
    )


@dataclass(frozen=True)
class Routing:
    """A model, and perhaps a second one that answers a share of the texts.

    Args:
        model: answers the others.
        canary: answers the share.
        share: of all different texts, from 0 to 1.
    """

    model: Version
    canary: Version | None = None
    share: float = 0.0

    @property
    def versions(self) -> list[Version]:
        """One or two."""
        return [self.model] + ([] if self.canary is None else [self.canary])

    def choose(self, text: str) -> Version:
        """Which model answers a text: the same one each time, alone or among others.

        By a hash of the text and not by chance, so that who asks twice gets one answer.
        """
        if self.canary is None:
            return self.model
        digits = hash_text(text)
        number = int(digits, 16) / 16 ** len(digits)
        return self.canary if number < self.share else self.model

    def split(self, texts: Sequence[str]) -> list[tuple[Version, list[int]]]:
        """Which model answers which of some texts, by their positions."""
        chosen = [self.choose(text) for text in texts]
        parts = [
            (version, [i for i, one in enumerate(chosen) if one is version])
            for version in self.versions
        ]
        return [(version, rows) for version, rows in parts if rows]

    async def ask(self, texts: list[str]) -> Asked:
        """Each text's probabilities and labels, by the model that it goes to.

        Raises:
            QueueFull: there is no room for the texts.
        """
        labels = self.model.predictor.labels
        found = np.zeros((len(texts), len(labels)))
        chosen, versions = [[] for _ in texts], [self.model] * len(texts)
        parts = self.split(texts)
        futures: list[asyncio.Future] = []
        try:
            for version, rows in parts:
                queued = version.batcher.submit([texts[i] for i in rows])
                futures.append(asyncio.wrap_future(queued))
            answers = await asyncio.gather(*futures)
            for (version, rows), answer in zip(parts, answers, strict=True):
                own = version.predictor.labels
                found[rows] = answer[:, [own.index(label) for label in labels]]
                here = [labels.index(label) for label in own]
                said = choose(version.predictor.decision, answer)
                for i, numbers in zip(rows, said, strict=True):
                    chosen[i], versions[i] = [here[number] for number in numbers], version
        finally:
            for future in futures:
                future.cancel()
        return Asked(found, chosen, versions)

    def close(self) -> None:
        """Answer what waits, and end the models' threads."""
        for version in self.versions:
            version.batcher.close()


def load_routing(
    run: Path,
    canary: Path | None = None,
    share: float = 0.0,
    precision: PredictorPrecision = "auto",
    on_batch: Callable[[str, int], None] = lambda model, texts: None,
    seconds: float = 30.0,
) -> Routing:
    """Load the models of a server, their hashes checked.

    Args:
        run: whose model answers.
        canary: whose model answers a share of the texts.
        share: with a canary: above 0, up to 1.
        precision: as `Predictor` takes it.
        on_batch: called with a model's id and the number of texts of each batch.
        seconds: that a request may take.

    Raises:
        SettingError: no share, or two models that cannot stand in for each other, for they have
            other labels, give a text one label or several, or are the same one.
        RunFolderError, BundleError: as `load_predictor` does.
    """
    turn = threading.Lock()

    def load(folder: Path, report: str) -> Version:
        predictor = load_predictor(folder, precision)
        name = name_model(folder, predictor)
        card = make_card(folder, name, predictor, report)
        # What is made by the first text, such as the tokenizer, is not for a user to wait for.
        predictor.predict(["ready"])
        batcher = Batcher(predictor, turn, partial(on_batch, name), seconds)
        return Version(name, folder, predictor, batcher, card, find_text_column(folder))

    if canary is None:
        return Routing(load(run, "report"))
    if not 0 < share <= 1:
        raise SettingError(
            "--canary needs the --share of the texts that it answers, above 0 and at most 1, "
            f"such as --share 0.1; it is {share:g}."
        )
    routing = Routing(load(run, "report"), load(canary, "canary/report"), share)
    first, second = (version.predictor.labels for version in routing.versions)
    if len({version.id.rpartition("@")[2] for version in routing.versions}) == 1:
        routing.close()
        raise SettingError(f"{run} and {canary} hold the same model. Name another --canary.")
    several = [version.predictor.decision.multilabel for version in routing.versions]
    if len(set(several)) == 2:
        routing.close()
        raise SettingError(
            f"One of {run} and {canary} gives a text one label, the other several, so that it "
            "cannot answer for it. Name another --canary."
        )
    if set(first) != set(second):
        routing.close()
        raise SettingError(
            "The two models have different labels, so that one cannot answer for the other: "
            f"{quoted(first)}, and {quoted(second)}."
        )
    return routing
