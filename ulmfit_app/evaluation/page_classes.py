"""The report's section on classes: how each fares, and what it is taken for."""

import numpy as np

from ulmfit_app.evaluation.markup import table
from ulmfit_app.evaluation.messages import say

N_CONFUSIONS = 15


def classes_section(model: dict) -> str:
    """What classes are taken for, and the numbers of each.

    Args:
        model: what metrics.score returns.

    Returns:
        HTML.
    """
    return _confusions(model) + _classes(model)


def _confusions(model: dict) -> str:
    """The largest counts beside the diagonal, as a table."""
    matrix = np.array(model["confusion_matrix"])
    support = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    labels = list(model["per_class"])
    cells = np.argsort(-matrix, axis=None, kind="stable")[:N_CONFUSIONS]
    rows = [
        [
            labels[true],
            labels[predicted],
            f"{matrix[true, predicted]:,}",
            f"{matrix[true, predicted] / support[true]:.1%}",
        ]
        for true, predicted in zip(*np.unravel_index(cells, matrix.shape), strict=True)
        if matrix[true, predicted]
    ]
    if not rows:
        return f"<p>{say('No text was given a wrong class.')}</p>"
    heads = [say("true class"), say("predicted class"), say("texts")]
    heads.append(say("share of the true class"))
    return f"<h3>{say('Most frequent confusions')}</h3>" + table(heads, rows, names=(0, 1))


def _classes(model: dict) -> str:
    rows = []
    for number, (label, scores) in enumerate(model["per_class"].items(), start=1):
        interval = "–"
        if scores["recall_ci95"]:
            low, high = scores["recall_ci95"]
            interval = say("{low:.3f} to {high:.3f}", low=low, high=high)
        numbers = [share(scores[key]) for key in ("f1", "average_precision")]
        precision, recall = share(scores["precision"]), share(scores["recall"])
        taken = _taken_for(model, number - 1)
        row = [f"{number}", label, precision, recall, interval, *numbers, taken]
        rows.append([*row, f"{scores['support']:,}"])
    heads = [say("no."), say("class"), say("precision"), say("recall"), say("its 95% interval")]
    heads += ["F1", say("average precision"), say("most often taken for"), say("texts")]
    html = f"<h3>{say('Each class')}</h3>" + table(heads, rows, names=(1, 7))
    if any("undefined" in scores for scores in model["per_class"].values()):
        undefined = say(
            "– means undefined: no text was predicted as this class, or no tested text has it."
        )
        html += f'<p class="how">{undefined}</p>'
    return html


def _taken_for(model: dict, index: int) -> str:
    """The class that texts of this one are most often given by mistake, and the share of them."""
    row = np.array(model["confusion_matrix"][index])
    support, row[index] = row.sum(), 0
    if not row.any():
        return "–"
    other = list(model["per_class"])[int(row.argmax())]
    return say("{label} ({share:.1%})", label=other, share=row.max() / support)


def share(value: float | None) -> str:
    """A number from 0 to 1 with three decimals, or a dash where it is undefined."""
    return "–" if value is None else f"{value:.3f}"
