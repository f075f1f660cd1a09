"""What an ablation compares: the paper's tables 4 to 7, and its directions (Howard and Ruder 2018,
section 5).

Not all is the paper's to the letter:

- Table 5 sets an AWD-LSTM beside a language model without any dropout. Here both come from the
  same pretrained model, so that the row is about dropout in fine-tuning alone. Its two language
  models have AWD's dropouts and none; the other tables keep the preset's dropouts, a tenth of
  AWD's on a laptop, whose models are too small to overfit.
- Table 4's and table 7's rows from random weights are trained as such weights need it, and not by
  a recipe that protects what a pretrained model knows: one rate for all layers of the language
  model, the plan for weak starts, and LONGER times the epochs. Else the tables would show what
  pretraining is worth to a training that was cut short.
- On a transformer stand the rows that do not belong to AWD-LSTM alone: table 6, and table 7 with a
  row that the paper does not have, learning from pairs of texts first (Tunstall et al. 2022).
"""

from typing import Any

from ulmfit_app.config import Settings
from ulmfit_app.experiments.comparing import ULMFIT, Row
from ulmfit_app.models.hub import is_transformer

# Times the epochs of the others, from random weights. The paper has 50 for all classifiers, and
# stops all but ULMFiT's early (section 5).
LONGER = 3

# The language models that classifiers start from: name -> what differs from the full recipe of
# section 3.2, whose rates are discriminative and slanted triangular.
FROM_RANDOM = {"pretrained": "none", "decay": 1.0}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "full + discr + stlr": {},
    "full + discr": {"schedule": "constant"},
    "full": {"schedule": "constant", "decay": 1.0},
    "none": {"epochs": 0},
    "without pretraining": FROM_RANDOM,
    "with dropouts": {"drop_mult": 1.0},
    "without dropouts": {"drop_mult": 0.0},
    "scratch": {**FROM_RANDOM, "epochs": 0},
}

FULL_ROW = Row(ULMFIT, {"imdb": 5.00, "trec6": 5.69})
CONSTANT = {"schedule": "constant"}
WEAK_START = {"plan": "weak-start", "schedule": "one-cycle"}  # as in an ordinary run
TABLE_6 = "Table 6, fine-tuning the language model"
TABLE_7 = "Table 7, fine-tuning the classifier"
TABLES: dict[str, list[Row]] = {
    "Table 4, pretraining": [
        Row(
            "without pretraining",
            {"imdb": 5.63, "trec6": 10.67},
            "without pretraining",
            WEAK_START,
        ),
        FULL_ROW,
    ],
    "Table 5, dropout in the language model": [
        Row("fine-tuned without dropout", {"imdb": 5.98, "trec6": 7.41}, "without dropouts"),
        Row("fine-tuned with AWD's dropouts", FULL_ROW.paper, "with dropouts"),
    ],
    TABLE_6: [
        Row("no fine-tuning", {"imdb": 6.99, "trec6": 6.38}, lm="none"),
        Row("full", {"imdb": 5.86, "trec6": 6.54}, lm="full"),
        Row("full + discr", {"imdb": 5.55, "trec6": 6.36}, lm="full + discr"),
        FULL_ROW,
    ],
    TABLE_7: [
        Row("from scratch", {"imdb": 9.93, "trec6": 13.36}, "scratch", WEAK_START),
        Row("full", {"imdb": 6.87, "trec6": 6.86}, classifier={"plan": "full", **CONSTANT}),
        Row(
            "full + discr",
            {"imdb": 5.57, "trec6": 6.21},
            classifier={"plan": "full-discr", **CONSTANT},
        ),
        Row("last", {"imdb": 6.49, "trec6": 16.09}, classifier={"plan": "last", **CONSTANT}),
        Row(
            "chain-thaw",
            {"imdb": 5.39, "trec6": 6.71},
            classifier={"plan": "chain-thaw", **CONSTANT},
        ),
        Row("freez", {"imdb": 6.37, "trec6": 6.86}, classifier={"plan": "gradual", **CONSTANT}),
        Row(
            "freez + discr",
            {"imdb": 5.39, "trec6": 5.86},
            classifier={"plan": "gradual-discr", **CONSTANT},
        ),
        Row("freez + stlr", {"imdb": 5.04, "trec6": 6.02}, classifier={"plan": "gradual"}),
        Row(
            "freez + cos",
            {"imdb": 5.70, "trec6": 6.38},
            classifier={"plan": "gradual", "schedule": "cosine"},
        ),
        FULL_ROW,
    ],
    "Section 5, direction": [
        Row("backward", direction="backward"),
        Row("both, averaged", direction="both"),
        FULL_ROW,
    ],
}
TRANSFORMER_TABLES: dict[str, list[Row]] = {
    TABLE_6: TABLES[TABLE_6],
    TABLE_7: [
        *(row for row in TABLES[TABLE_7][:-1] if row.lm != "scratch"),
        Row("contrastive", classifier={"plan": "contrastive"}),
        FULL_ROW,
    ],
}


def tables_for(settings: Settings) -> dict[str, list[Row]]:
    """The tables of an ablation from the start of its settings."""
    if not is_transformer(settings.lm.pretrained):
        return TABLES
    return {
        name: rows
        for name, rows in TRANSFORMER_TABLES.items()
        if settings.lm.epochs or name != TABLE_6
    }


def list_rows(settings: Settings) -> list[Row]:
    """Each row of `tables_for` once, in their order."""
    tables = tables_for(settings).values()
    return list({row.name + row.folder: row for rows in tables for row in rows}.values())


def list_language_models(settings: Settings) -> list[str]:
    """The names in LANGUAGE_MODELS that the rows start from."""
    return list(dict.fromkeys(row.lm for row in list_rows(settings)))


def describe_left_out(settings: Settings) -> list[str]:
    """What an ablation of a transformer has not, and what it has besides, in a paragraph.

    settings: with the full recipe. Nothing is said of an AWD-LSTM.
    """
    if not is_transformer(settings.lm.pretrained):
        return []
    no_table_6 = " Nor is there table 6: --lm.epochs 0 leaves out what it compares."
    return [
        "The start is a transformer. What belongs to AWD-LSTM alone is left out: tables 4 and 5, "
        "the row from scratch, and the directions."
        f"{'' if settings.lm.epochs else no_table_6} The row 'contrastive' is not the paper's: it "
        "learns from pairs of texts first (Tunstall et al. 2022). Each row has "
        f"{settings.classifier.epochs} epochs. The paper's errors are those of an AWD-LSTM."
    ]
