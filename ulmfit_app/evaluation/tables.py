"""Tables of predictions, whose columns `p_LABEL` hold probabilities, and tables in Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

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


def prediction_table(
    texts: Sequence[str], probabilities: np.ndarray, labels: Sequence[str]
) -> pd.DataFrame:
    """Texts and their probabilities as a table.

    Args:
        texts: n of them.
        probabilities: [n, n_classes].
        labels: the class names, in the order of the columns of `probabilities`.

    Returns:
        One row per text: text, predicted, confidence, and one column `p_LABEL` per class.
    """
    columns = {"text": list(texts), "predicted": np.array(labels, object)[probabilities.argmax(1)]}
    columns["confidence"] = probabilities.max(1)
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
