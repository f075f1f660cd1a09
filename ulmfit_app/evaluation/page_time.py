"""The report's section on time: the accuracy by period, and whether it rises or falls."""

from ulmfit_app.evaluation.markup import interval, listed, table, text
from ulmfit_app.evaluation.messages import known, say


def time_section(metrics: dict, pictures: dict[str, str]) -> str:
    """How the accuracy changes over time.

    Args:
        metrics: what metrics.json holds; where it has no over_time, there is no section.
        pictures: with the HTML of the figure over_time where there are two periods or more.

    Returns:
        HTML.
    """
    found = metrics.get("over_time")
    if not found:
        return ""
    html = f"<h2>{say('Over time')}</h2>{listed(found['said'])}{pictures.get('over_time', '')}"
    rows, has_confidence = [], any("confidence" in period for period in found["periods"])
    for period in found["periods"]:
        row = [period["period"], f"{period['n']:,}", f"{period['accuracy']:.1%}", interval(period)]
        rows.append([*row, f"{period['confidence']:.1%}"] if has_confidence else row)
    heads = [say("period"), say("texts"), say("accuracy"), say("95% interval")]
    heads += [say("mean confidence")] if has_confidence else []
    parts = known(found["unit"]) if found["unit"] else say("equally many texts")
    how = say(
        "Periods by the column “{column}”, divided by: {parts}. The two p-values, of the straight "
        "line and of any difference between periods, are adjusted together by Holm. The line is "
        "the test of Cochran and Armitage; it does not see what falls and rises again, which the "
        "periods show. Where confidence stays as accuracy falls, the classifier does not notice.",
        column=found["column"],
        parts=parts,
    )
    return html + table(heads, rows) + f'<p class="how">{text(how)}</p>'


def caption_time() -> dict[str, str]:
    """What stands below the figure of the accuracy over time, by the figure's name."""
    caption = say(
        "Each dot is the accuracy of a period at the middle of its time, each vertical line its "
        "95% interval. The straight line is the one of least squares through all answers."
    )
    return {"over_time": caption}
