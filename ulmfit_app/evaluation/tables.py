"""Tables of predictions, whose columns `p_LABEL` hold probabilities, and tables in Markdown."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.decisions import Decision

PREFIX = "p_"  # before the label, of a column of its probabilities


def probability_columns(columns: Iterable[str]) -> list[str]:
    """The columns of probabilities, in order. columns: names, or a table, which gives its own.

    >>> probability_columns(["text", "p_neg", "p_pos"])
    ['p_neg', 'p_pos']
    """
    return [column for column in columns if column.startswith(PREFIX)]


def true_classes(table: pd.DataFrame) -> np.ndarray:
    """The class of each row's label, counted in the order of the columns of probabilities.

    Args:
        table: predictions, with a column `label` and one column `p_LABEL` per class.

    Returns:
        Indices [n]; -1 for a label that has no column.
    """
    return pd.Index(probability_columns(table)).get_indexer(PREFIX + table["label"])


def spell_set(labels: Iterable[str]) -> str:
    """Several labels of a text, or none, as one cell: a JSON list.

    >>> spell_set(["joy", "love"]), spell_set([])
    ('["joy", "love"]', '[]')
    """
    return json.dumps(list(labels), ensure_ascii=False)


def read_set(cell: str) -> list[str]:
    """The inverse of `spell_set`; "", which is no answer, has no labels either."""
    return json.loads(cell) if cell else []


def sets_to_truth(cells: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    """Which labels each text has.

    Args:
        cells: n, as `spell_set` gives them.
        labels: in the order of the columns.

    Returns:
        float32 [n, n_labels] of 1 and 0.

    Raises:
        KeyError: a cell has a label that is none of these.

    >>> sets_to_truth(['["a", "c"]', "[]"], ["a", "b", "c"]).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    cells, place = list(cells), {label: i for i, label in enumerate(labels)}
    truth = np.zeros((len(cells), len(labels)), np.float32)
    for row, cell in enumerate(cells):
        truth[row, [place[label] for label in read_set(cell)]] = 1
    return truth


def find_right(predictions: pd.DataFrame, multilabel: bool) -> np.ndarray:
    """Whether each text's answer is what is true: of several labels, exactly its labels.

    Args:
        predictions: with columns label and predicted.
        multilabel: whether these are sets of labels, which may be in another order.

    Returns:
        Boolean [n].

    >>> cells = {"label": ['["a", "b"]', "[]"], "predicted": ['["b", "a"]', '["a"]']}
    >>> find_right(pd.DataFrame(cells), multilabel=True).tolist()
    [True, False]
    """
    if not multilabel:
        return (predictions["label"] == predictions["predicted"]).to_numpy()
    true, said = (
        predictions[column].map(read_set).map(frozenset) for column in ("label", "predicted")
    )
    return (true == said).to_numpy(bool)


def prediction_table(
    texts: Sequence[str],
    probabilities: np.ndarray,
    labels: Sequence[str],
    decision: Decision = Decision(),  # noqa: B008 - frozen
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Texts, answers and probabilities as a table.

    Args:
        texts: n of them.
        probabilities: calibrated, [n, n_labels].
        labels: their names, in the order of the columns of `probabilities`.
        decision: how probabilities become answers.
        groups: as `Decision.answer` takes them.

    Returns:
        One row per text: text, predicted, confidence, and one column `p_LABEL` per label. The
        confidence is the probability of the answer. Of several labels, predicted is a JSON list,
        likeliest first, and there is no confidence but those of the labels.
    """
    answers, names = decision.answer(probabilities, groups), np.array(labels, object)
    columns: dict[str, Sequence] = {"text": list(texts)}
    if decision.multilabel:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        columns["predicted"] = [
            spell_set(names[[i for i in ranked if has[i]]])
            for ranked, has in zip(order, answers, strict=True)
        ]
    else:
        columns["predicted"] = names[answers]
        columns["confidence"] = probabilities[np.arange(len(answers)), answers]
    return pd.DataFrame(
        columns | {f"{PREFIX}{label}": probabilities[:, i] for i, label in enumerate(labels)}
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, without a line break at its end.

    >>> print(markdown_table(["way", "error"], [["ULMFiT", "4.6"]]))
    | way | error |
    | --- | --- |
    | ULMFiT | 4.6 |
    """
    names = f"| {' | '.join(header)} |" if any(header) else "|" + " |" * len(header)
    rule = "|" + " --- |" * len(header)
    return "\n".join([names, rule, *(f"| {' | '.join(row)} |" for row in rows)])
