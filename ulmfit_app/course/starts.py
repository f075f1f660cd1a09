"""What notebooks 03, 07 and 08 say of the language models that come with the package."""

import json

import pandas as pd

from ulmfit_app.config import GENERAL, REVIEWS
from ulmfit_app.models.pretrained import locate, packaged

_CORPORA = {"wiki-en.tar.xz": "English Wikipedia"}  # files whose name does not say what they hold


def without_reviews(pretrained: str) -> str:
    """The start that has read no reviews: `en-small` for `en-reviews-small`, else the same."""
    return GENERAL if pretrained == REVIEWS else pretrained


def list_starts() -> pd.DataFrame:
    """The language models that come with the package, and what their bundles say of their origin.

    Returns:
        Columns model, started from, then read, million tokens (that it learned from, each as often
        as it was read), hours (of reading, on one core) and reads (the direction).
    """
    rows = []
    for name in packaged():
        found = json.loads((locate(name) / "bundle.json").read_text(encoding="utf-8"))
        about = found["about"]
        corpus = about["corpus"]["name"]
        row = {
            "model": name,
            "started from": about["start"].split(",")[0],
            "then read": _CORPORA.get(corpus, corpus),
            "million tokens": round(about["tokens_trained_on"] / 1e6),
            "hours": round(about["hours"], 1),
            "reads": found["direction"],
        }
        rows.append(row)
    return pd.DataFrame(rows)
