"""The report's sections on how a model was trained, for one label a text and for several."""

from ulmfit_app.evaluation.markup import text
from ulmfit_app.evaluation.messages import known, say

# Facts that have a place of their own.
OF_THE_HEADING = ("model", "data_set", "test_name", "notes", "durations")


def training_section(pictures: list[str]) -> str:
    """The curves of each stage that was trained; "" without any. pictures: HTML."""
    how = say(
        "Epochs are counted over all phases; dotted lines separate the phases, which are named "
        "above the axes. A validation loss that rises while the training loss falls is "
        "overfitting. The training loss is measured with dropout on, so that it may lie above the "
        "validation loss."
    )
    if not pictures:
        return ""
    return f'<h2>{say("Training")}</h2><p class="how">{how}</p>{"".join(pictures)}'


def run_section(facts: dict) -> str:
    """What else is known of the run. facts: as in report.write_report."""
    others = {key: value for key, value in facts.items() if key not in OF_THE_HEADING}
    html = f"<h2>{say('The run')}</h2>{_facts(others)}" if others else ""
    if facts.get("durations"):
        html += f"<h3>{say('Minutes per stage')}</h3>" + _facts(facts["durations"])
    return html


def _facts(value) -> str:
    """Nested facts as nested tables."""
    if isinstance(value, dict):
        rows = (
            f"<tr><th>{text(known(str(key).replace('_', ' ')))}</th><td>{_facts(one)}</td></tr>"
            for key, one in value.items()
        )
        return f'<div class="wide" tabindex="0"><table>{"".join(rows)}</table></div>'
    if isinstance(value, (list, tuple)):
        return "<br>".join(_facts(one) for one in value) or say("none")
    if isinstance(value, bool) or value is None:
        return {True: say("yes"), False: say("no"), None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    # str() would make a plain string of a Message.
    return text(known(value) if isinstance(value, str) else f"{value:,.6g}")
