"""The space that a search draws from where none is given: by the number of labels."""

from typing import Any

from ulmfit_app.config import GENERAL, REVIEWS, Settings
from ulmfit_app.experiments.spaces import Space, parse_space
from ulmfit_app.models.hub import is_transformer

FEW, MANY = 1_000, 10_000  # labels


def default_space(settings: Settings, n_labels: int) -> Space:
    """The settings that matter most, in ranges around what works.

    Few labels are read more often, in smaller batches and with more dropout; many need few epochs.
    What changes the language model is a choice of few values, since a language model is trained
    once for each.

    Args:
        settings: the command's.
        n_labels: that a classifier learns from.
    """
    tables = _of_transformer(n_labels) if is_transformer(settings.lm.pretrained) else _of_lstm(
        settings, n_labels
    )  # fmt: skip
    return parse_space(tables, settings, "The default space")


def _of_lstm(settings: Settings, n_labels: int) -> dict[str, Any]:
    if n_labels < FEW:
        by_size = {
            "epochs": {"low": 6, "high": 20},
            "batch_size": [8, 16, 32],
            "drop_mult": {"low": 0.3, "high": 1.2},
            "plan": ["full-discr", "published"],
        }
    elif n_labels < MANY:
        by_size = {
            "epochs": {"low": 5, "high": 15},
            "batch_size": [16, 32, 64],
            "drop_mult": {"low": 0.2, "high": 1.0},
            "plan": ["full-discr", "published"],
        }
    else:
        by_size = {
            "epochs": {"low": 1, "high": 5},
            "batch_size": [32, 64, 128],
            "drop_mult": {"low": 0.1, "high": 0.7},
            "plan": "full-discr",
        }
    classifier = {
        "lr_mult": {"low": 0.2, "high": 3.0, "log": True},
        "decay": {"low": 1.0, "high": 3.0},
        **by_size,
    }
    lm: dict[str, Any] = {}
    if settings.lm.pretrained in ("auto", GENERAL, REVIEWS) and settings.starts[0] in (
        GENERAL,
        REVIEWS,
    ):
        lm["pretrained"] = [GENERAL, REVIEWS]
    if settings.lm.epochs:
        lm["epochs"] = [settings.lm.epochs, 2 * settings.lm.epochs]
    return {"lm": lm, "classifier": classifier}


def _of_transformer(n_labels: int) -> dict[str, Any]:
    if n_labels < FEW:
        by_size = {
            "epochs": {"low": 12, "high": 16},
            "batch_size": [8, 16],
            "plan": ["contrastive", "full"],
        }
    elif n_labels < MANY:
        by_size = {"epochs": {"low": 2, "high": 8}, "batch_size": [16, 32], "plan": "full"}
    else:
        by_size = {"epochs": {"low": 1, "high": 4}, "batch_size": [16, 32, 64], "plan": "full"}
    classifier = {
        "lr_mult": {"low": 0.3, "high": 3.0, "log": True},
        "decay": {"low": 1.0, "high": 2.0},
        "drop_mult": {"low": 0.0, "high": 1.5},
        "groups": [2, 4],
        "pooling": ["mean", "first", "concat"],
        **by_size,
    }
    return {"classifier": classifier}
