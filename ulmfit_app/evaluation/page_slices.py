"""The report's section on parts of the texts."""

from ulmfit_app.evaluation.markup import MAX_NAME, cut, interval, listed, table, text
from ulmfit_app.evaluation.messages import known, say, translated

OWN_COLUMN = "copy_in_train"  # of a run's predictions, whose values are ours, not the user's


def slices_section(metrics: dict, everywhere: float, how: str) -> str:
    """How often the answers are right on parts of the texts.

    Args:
        metrics: with slices and not_sliced, as slices.slices returns them.
        everywhere: the share of all texts that are answered right.
        how: what that means, and what the comparison with it, in sentences.

    Returns:
        HTML.
    """
    html = f'<p class="how">{how}</p>' + listed(metrics["not_sliced"])
    for slicing in metrics["slices"]:
        by, is_ours = slicing["by"], slicing["by"] == OWN_COLUMN
        rows = []
        for part in slicing["parts"]:
            low, high = part["accuracy_ci95"]
            against = ""
            if high < everywhere or low > everywhere:
                against = say("lower") if high < everywhere else say("higher")
            accuracy = f"{part['accuracy']:.1%}"
            name = known(part["part"]) if is_ours else part["part"]
            rows.append([name, f"{part['n']:,}", accuracy, interval(part), against])
        by = translated(by).replace("_", " ")
        by = text(cut(known(by) if is_ours else by, MAX_NAME))
        heads = ["", say("texts"), say("accuracy"), say("95% interval"), say("against all")]
        html += f"<h3>{say('By {what}', what=by)}</h3>" + table(heads, rows, names=(0, 4))
    return html
