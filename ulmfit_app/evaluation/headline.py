"""What a report tells first: the numbers that its run was after, each with its 95 % interval."""

from ulmfit_app.evaluation.messages import say


def measures(metrics: dict) -> list[str]:
    """The scores that a report and a run's last lines begin with, the first one first.

    Where mistakes have costs, the mean cost; where classes were balanced, or thresholds or the
    epoch chosen for it, macro F1; and the accuracy. Of several labels a text, macro F1.

    Args:
        metrics: what metrics.json holds.

    Returns:
        Keys of metrics["model"] that have a _ci95 beside them.
    """
    if metrics.get("multilabel"):
        return ["macro_f1"]
    if "mean_cost" in metrics["model"]:
        return ["mean_cost", "accuracy"]
    by_class = "balance" in metrics.get("facts", {}) or "thresholds" in metrics.get("decision", {})
    return ["macro_f1", "accuracy"] if by_class else ["accuracy"]


def columns(scores: dict[str, dict], of: list[str]) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells of a table of measures: each, and its interval.

    Args:
        scores: by the name of what was scored.
        of: as `measures` has them.
    """
    names = {
        "mean_cost": say("mean cost per text"),
        "macro_f1": say("macro F1"),
        "accuracy": say("accuracy"),
    }
    heads = [head for one in of for head in (names[one], say("95% interval"))]
    rows = [
        [cell for one in of for cell in (spelled(numbers, one), between(numbers, one))]
        for numbers in scores.values()
    ]
    return heads, rows


def spelled(scores: dict, of: str) -> str:
    """A measure as a page shows it; "–" where it is undefined."""
    return "–" if scores[of] is None else f"{scores[of]:{_FORMS[of]}}"


def between(scores: dict, of: str) -> str:
    """Its 95 % interval."""
    low, high = (f"{bound:{_FORMS[of]}}" for bound in scores[f"{of}_ci95"])
    return say("{low} to {high}", low=low, high=high)


_FORMS = {"mean_cost": ",.4g", "macro_f1": ".3f", "accuracy": ".1%"}


def introduce(name: str, scores: dict, of: str) -> str:
    """A sentence on a model's mean cost or macro F1."""
    values = {"name": name, "value": spelled(scores, of), "interval": between(scores, of)}
    if of == "mean_cost":
        return say("{name} costs {value} per text on average, 95% interval {interval}.", **values)
    return say("{name} has a macro F1 of {value}, 95% interval {interval}.", **values)


def against(name: str, baseline: str, paired: dict, of: str) -> str:
    """A sentence on how a model's mean cost or macro F1 differs from a baseline's.

    paired: the baseline's model_against_it.
    """
    form = _FORMS[of]
    low, high = (f"{bound:+{form}}" for bound in paired[f"{of}_difference_ci95"])
    difference = f"{paired[f'{of}_difference']:+{form}}"
    values = {"name": name, "rival": baseline, "difference": difference, "low": low, "high": high}
    if of == "mean_cost":
        return say(
            "{name} against the baseline “{rival}”: mean cost per text {difference} (95% interval "
            "of the difference {low} to {high}).",
            **values,
        )
    return say(
        "{name} against the baseline “{rival}”: macro F1 {difference} (95% interval of the "
        "difference {low} to {high}).",
        **values,
    )


def captions() -> dict[str, str]:
    """What stands below the figure of each measure."""
    return {
        "accuracy": say(
            "Each dot is an accuracy, each line its 95% interval: where the accuracy on unlimited "
            "texts of the same kind is likely to lie. All were scored on the same texts."
        ),
        "macro_f1": say(
            "Each dot is a macro F1, each line its 95% interval (a bootstrap’s over the tested "
            "texts). All were scored on the same texts."
        ),
        "mean_cost": say(
            "Each dot is a mean cost per text, lower is better, each line its 95% interval (a "
            "bootstrap’s over the tested texts). All were scored on the same texts."
        ),
    }
