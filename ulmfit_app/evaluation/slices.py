"""Where the errors are: accuracy on parts of the tested texts, each with its n and 95 % interval.

`probabilities` and `truth` are as in metrics.
"""

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.tables import probability_columns

MAX_PARTS = 8  # of one slicing; the smallest are merged
MAX_COLUMNS = 5  # that texts are sliced by
MANY = 4  # labels of a text, from which on they are one part
CONFIDENCES = (0.5, 0.75, 0.9, 0.99)  # where the parts by confidence begin
# Columns that say nothing about where a text is from.
OF_THE_PREDICTION = ("text", "label", "predicted", "confidence")


def slices(
    predictions: pd.DataFrame,
    probabilities: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray | None = None,
) -> tuple[list[dict], list[str]]:
    """Accuracy by length, by confidence, and by each column that says more about the texts.

    Lengths, and numbers of many values, are cut into quarters. A column that has one value for all
    texts is left out.

    Args:
        predictions: as report.write_report takes it.
        probabilities: [n, n_classes].
        truth: [n] class indices.
        predicted: as metrics.score takes it.

    Returns:
        One {by, parts: [{part, n, accuracy, accuracy_ci95}]} per slicing, ready for JSON and
        without empty parts; and a sentence for each other column that cannot be sliced by.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(truth)), predicted]
    return slice_by(
        predictions, predicted == truth, {Message("confidence"): _by_confidence(confidence)}
    )


def slices_of_sets(
    predictions: pd.DataFrame, truth: np.ndarray, predicted: np.ndarray
) -> tuple[list[dict], list[str]]:
    """`slices` where a text may have several labels: right are answers of exactly its labels.

    Args:
        predictions: as report.write_report takes it.
        truth, predicted: [n, n_labels].

    Returns:
        As `slices`, by the number of labels instead of the confidence.
    """
    n_labels = np.minimum(truth.sum(axis=1).astype(int), MANY)
    names = [*(f"{n}" for n in range(MANY)), Message("{n} or more", n=MANY)]
    right = (truth == predicted).all(axis=1)
    return slice_by(predictions, right, {Message("number of labels"): (n_labels, names)})


def slice_by(
    predictions: pd.DataFrame,
    right: np.ndarray,
    further: dict[str, tuple[np.ndarray, list[str]]],
) -> tuple[list[dict], list[str]]:
    """The share of right answers by length, by further parts, and by each other column.

    Args:
        predictions: as report.write_report takes it.
        right: [n] whether each text's answer is.
        further: name -> the index of each text's part, [n], and the names of the parts.

    Returns:
        As `slices`.
    """
    parts = {Message("length in characters"): _quarters(predictions["text"].str.len()), **further}
    of_the_prediction = {*OF_THE_PREDICTION, *probability_columns(predictions)}
    columns = [
        name
        for name in predictions
        if name not in of_the_prediction and predictions[name].nunique(dropna=False) > 1
    ]
    notes = []
    for name in columns[:MAX_COLUMNS]:
        found = _parts_of(predictions[name])
        if isinstance(found, str):
            note = Message(
                "The accuracy is not given by the column “{name}”: {reason}.",
                name=name,
                reason=found,
            )
            notes.append(note)
        else:
            # A column may be called like one of those above.
            parts[Message("column {name}", name=name) if name in parts else name] = found
    if columns[MAX_COLUMNS:]:
        note = Message(
            "The accuracy is given by the first {n} of {n_columns} columns that say more of the "
            "texts.",
            n=MAX_COLUMNS,
            n_columns=len(columns),
        )
        notes.append(note)
    return [{"by": by, "parts": _scored(*found, right)} for by, found in parts.items()], notes


def _scored(of: np.ndarray, names: list[str], right: np.ndarray) -> list[dict]:
    """The accuracy on each part that has texts. of: [n] the index of each text's part."""
    rows = []
    for index, name in enumerate(names):
        members = of == index
        n = int(members.sum())
        if n:
            correct = int(right[members].sum())
            interval = list(accuracy_interval(correct, n))
            rows.append({"part": name, "n": n, "accuracy": correct / n, "accuracy_ci95": interval})
    return rows


def _parts_of(column: pd.Series) -> tuple[np.ndarray, list[str]] | str:
    """The parts by a column's values, or why there are none."""
    values = column.fillna("").astype(str).str.strip()
    n_values = values.nunique()
    numbers = pd.to_numeric(values, errors="coerce")
    if n_values > MAX_PARTS and np.isfinite(numbers).all():
        return _quarters(numbers)
    if 2 * n_values > len(values):
        return Message("nearly every text has a value of its own")
    return _commonest(values)


def _commonest(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """One part per value, the commonest first; the rarest of many values share one."""
    counts = values.value_counts().rename_axis("value").reset_index()
    names = counts.sort_values(["count", "value"], ascending=[False, True])["value"]
    of = pd.Index(names).get_indexer(values)
    shown = [name or Message("(none)") for name in names]
    if len(names) <= MAX_PARTS:
        return of, shown
    last = MAX_PARTS - 1
    others = Message("{n:,} others", n=len(names) - last)
    return np.minimum(of, last), [*shown[:last], others]


def _quarters(numbers: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Four parts, as equal in size as they can be with equal numbers kept together."""
    edges = np.quantile(numbers.astype(float), [0.25, 0.5, 0.75], method="lower")
    # Rounded as they are shown, so that the name of a part is true.
    edges = np.unique([float(f"{edge:.6g}") for edge in edges])
    edges = edges[edges < numbers.max()]
    shown = [f"{edge:,.6g}" for edge in edges]
    between = [
        Message("over {low} to {high}", low=low, high=high)
        for low, high in zip(shown, shown[1:], strict=False)
    ]
    names = [f"{numbers.max():,.6g}"]
    if shown:
        first, last = Message("up to {high}", high=shown[0]), Message("over {low}", low=shown[-1])
        names = [first, *between, last]
    return np.searchsorted(edges, numbers, side="left"), names


def _by_confidence(confidence: np.ndarray) -> tuple[np.ndarray, list[str]]:
    shown = [f"{edge:.0%}" for edge in CONFIDENCES]
    between = [
        Message("{low} to under {high}", low=low, high=high)
        for low, high in zip(shown, shown[1:], strict=False)
    ]
    first, last = Message("under {high}", high=shown[0]), Message("{low} or more", low=shown[-1])
    names = [first, *between, last]
    return np.digitize(confidence, CONFIDENCES), names
