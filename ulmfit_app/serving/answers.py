"""What models said of texts, as it is sent and as it is written down."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ulmfit_app.evaluation.tables import PREFIX, spell_set
from ulmfit_app.inference.decided import decided_by
from ulmfit_app.serving.versions import Asked, Version


def for_json(asked: Asked, labels: Sequence[str]) -> list[dict[str, Any]]:
    """A prediction per text, as /v1/predict sends it.

    Args:
        asked: what was said.
        labels: in the order of its probabilities.
    """
    each = zip(asked.probabilities.tolist(), asked.chosen, asked.versions, strict=True)
    return [_prediction(labels, row, chosen, version) for row, chosen, version in each]


def _prediction(
    labels: Sequence[str], row: list[float], chosen: list[int], version: Version
) -> dict[str, Any]:
    decision = version.predictor.decision
    probabilities = dict(zip(labels, row, strict=True))
    by = decided_by(decision)
    decided = {"decided_by": by} if by else {}
    if decision.multilabel:
        limits = thresholds_of(version)
        return {
            "labels": [labels[i] for i in chosen],
            "probabilities": probabilities,
            "thresholds": {label: limits[label] for label in labels},
            "model": version.id,
            **decided,
        }
    (number,) = chosen
    return {
        "label": labels[number],
        "confidence": row[number],
        "probabilities": probabilities,
        "model": version.id,
        **decided,
    }


def thresholds_of(version: Version) -> dict[str, float]:
    """What the probability of each of several labels has to reach."""
    labels = version.predictor.labels
    limits = version.predictor.decision.limits(len(labels)).tolist()
    return dict(zip(labels, limits, strict=True))


def as_cells(asked: Asked, labels: Sequence[str]) -> tuple[list[str], list[float | None]]:
    """What was said of each text as it is written down, and how probable it is.

    Returns:
        Labels, and their probabilities. Several of a text are one cell, a JSON list in the order
        of `labels`, and have no probability together: None.
    """
    if is_several(asked):
        return [spell_set(labels[i] for i in sorted(of)) for of in asked.chosen], [None] * len(
            asked.chosen
        )
    numbers = [number for (number,) in asked.chosen]
    probabilities = asked.probabilities[range(len(numbers)), numbers].tolist()
    return [labels[i] for i in numbers], probabilities


def given(asked: Asked, labels: Sequence[str]) -> list[tuple[str, str, float]]:
    """Each label that was given to a text, with the model that gave it and its probability."""
    each = zip(asked.probabilities.tolist(), asked.chosen, asked.models, strict=True)
    return [(model, labels[i], row[i]) for row, chosen, model in each for i in chosen]


def tabulate(texts: Sequence[str], asked: Asked, labels: Sequence[str]) -> pd.DataFrame:
    """As `prediction_table` has it, by the decision of the model that each text went to, whose id
    is in a column model."""
    columns: dict[str, Sequence] = {"text": list(texts)}
    if is_several(asked):
        columns["predicted"] = [spell_set(labels[i] for i in of) for of in asked.chosen]
    else:
        columns["predicted"], columns["confidence"] = as_cells(asked, labels)
    shares = {f"{PREFIX}{label}": asked.probabilities[:, i] for i, label in enumerate(labels)}
    return pd.DataFrame(columns | shares | {"model": asked.models})


def is_several(asked: Asked) -> bool:
    """Whether a text may have several labels, which two models that are served share."""
    return asked.versions[0].predictor.decision.multilabel
