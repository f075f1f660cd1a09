"""The report's section on thresholds and costs: what they are, and what they gain."""

from ulmfit_app.evaluation.markup import table, text
from ulmfit_app.evaluation.messages import say


def decision_section(metrics: dict, several: bool = False) -> str:
    """How probabilities become answers, where it is not by the most probable label alone.

    Args:
        metrics: what metrics.json holds.
        several: whether a text may have several labels.

    Returns:
        HTML; "" without thresholds or costs.
    """
    found = metrics.get("decision")
    if not found:
        return ""
    heading = say("Costs") if "costs" in found else say("Thresholds")
    if "by_group" in found:
        heading = say("Thresholds by group")
    shown = _costs(found["costs"], several) if "costs" in found else ""
    if "thresholds" in found:
        shown = _thresholds(found["thresholds"], several)
    if "by_group" in found:
        shown = _by_group(found["by_group"])
    return f"<h2>{heading}</h2>{shown}<h3>{say('What they gain')}</h3>{_gains(found, several)}"


def _thresholds(thresholds: dict[str, float], several: bool) -> str:
    """What thresholds do; of several labels, the table of labels has them."""
    if several:
        how = say(
            "A text is given each label whose probability reaches the label’s threshold, which "
            "stands in the table of labels: the one of its best F1 on the validation texts. The "
            "fewer of them have the label, the more its calibrated probabilities say instead "
            "which F1 to expect."
        )
        return f'<p class="how">{how}</p>'
    how = say(
        "The answer is the class whose probability is the largest multiple of its threshold, not "
        "the most probable one. The thresholds sum to 1 and have the best macro F1 on the "
        "validation texts that was found: a low one makes a rare class be answered sooner. The "
        "fewer of them a class has, the more its calibrated probabilities say instead which F1 to "
        "expect."
    )
    rows = [[label, f"{threshold:.4f}"] for label, threshold in thresholds.items()]
    return f'<p class="how">{how}</p>{table([say("class"), say("threshold")], rows)}'


def _by_group(found: dict) -> str:
    how = say(
        "A text is answered “{label}” where its probability reaches the threshold of the text’s "
        "group in “{column}”. The thresholds were chosen on the validation texts for the same "
        "recall of “{label}” in all groups (Hardt et al. 2016), so that who a text is from or "
        "about decides its answer. Groups with too few validation texts of “{label}”, and texts "
        "whose group is not known, are answered as without.",
        label=found["label"],
        column=found["column"],
    )
    heads = [found["column"], say("threshold"), "n", say("tested: recall without"), say("with")]
    rows = [
        [
            of["group"] or say("(none)"),
            f"{of['threshold']:.4f}",
            f"{of['n']:,}",
            *(f"{of[key]:.1%}" if of["n"] else "–" for key in ("plain_recall", "recall")),
        ]
        for of in found["groups"]
    ]
    return f'<p class="how">{text(how)}</p>{table(heads, rows)}'


def _costs(costs: dict[str, dict[str, float]], several: bool) -> str:
    if several:
        how = say(
            "A text is given each label that is expected to cost less given than left out: whose "
            "probability reaches what it costs in vain, divided by the sum of both costs."
        )
        heads = [say("label"), say("cost where missed"), say("cost in vain"), say("threshold")]
        rows = [
            [
                label,
                f"{of['missed']:,.6g}",
                f"{of['in_vain']:,.6g}",
                f"{of['in_vain'] / (of['missed'] + of['in_vain']):.4f}",
            ]
            for label, of in costs.items()
        ]
    else:
        how = say(
            "The answer is the class that is expected to cost least, by the calibrated "
            "probabilities. A row has the true class, a column the answer, a cell what that costs."
        )
        heads = [say("true class"), *costs]
        rows = [[label, *(f"{cost:,.6g}" for cost in of.values())] for label, of in costs.items()]
    return f'<p class="how">{how}</p>{table(heads, rows)}'


def _gains(found: dict, several: bool) -> str:
    """On validation and on the tested texts, with and without."""
    exact = say("all labels right") if several else say("accuracy")
    kinds = [(say("macro F1"), "macro_f1", ".3f"), (exact, "accuracy", ".1%")]
    if "costs" in found:
        kinds.insert(0, (say("mean cost per text"), "mean_cost", ",.4g"))
    rows = []
    for name, key, form in kinds:
        row = [name]
        for split in ("validation", "test"):
            of = found[split]
            row += [f"{of[f'plain_{key}']:{form}}", f"{of[key]:{form}}"]
        rows.append([*row, _difference(found["test"], key, form)])
    heads = ["", say("validation: without"), say("with"), say("tested: without"), say("with")]
    heads.append(say("tested: difference (95% interval)"))
    n, n_test = found["validation"]["n"], found["test"]["n"]
    if "by_group" in found:
        how = say(
            "They were chosen on the validation texts (n = {n:,}); the tested texts "
            "(n = {n_test:,}) tell what they cost or gain. Baselines answer without.",
            n=n,
            n_test=n_test,
        )
    elif "thresholds" in found:
        how = say(
            "They were chosen on the validation texts (n = {n:,}), so that the gain there is too "
            "high; the tested texts (n = {n_test:,}) tell what they are worth. Baselines answer "
            "by thresholds of their own, chosen in the same way on the same texts.",
            n=n,
            n_test=n_test,
        )
    else:
        how = say(
            "The probabilities were calibrated on the validation texts (n = {n:,}); the tested "
            "texts (n = {n_test:,}) tell what the costs are worth. Baselines answer by the same "
            "costs, by probabilities that were calibrated on the same texts.",
            n=n,
            n_test=n_test,
        )
    how += say(
        " Without them, the answer is {plain}. The interval is a bootstrap’s over the tested "
        "texts.",
        plain=say("each label whose probability reaches 0.5")
        if several
        else say("the most probable class"),
    )
    return (
        table(heads, rows) + f'<p class="how">{text(how)}</p>' + f"<p>{text(_verdict(found))}</p>"
    )


def _difference(test: dict, key: str, form: str) -> str:
    if f"{key}_difference" not in test:
        # Of shares, whose differences are no shares of anything.
        difference = 100 * (test[key] - test[f"plain_{key}"])
        return say("{difference:+.1f} points", difference=difference)
    low, high = (f"{bound:+{form}}" for bound in test[f"{key}_difference_ci95"])
    shown = f"{test[f'{key}_difference']:+{form}}"
    return say("{difference} ({low} to {high})", difference=shown, low=low, high=high)


def _verdict(found: dict) -> str:
    """Whether the gain on the tested texts can be told from chance."""
    test, key = found["test"], "mean_cost" if "costs" in found else "macro_f1"
    sign = -1 if key == "mean_cost" else 1
    low, high = sorted(sign * bound for bound in test[f"{key}_difference_ci95"])
    if low > 0:
        return say("On the tested texts they gain more than chance would explain.")
    if high < 0:
        return say("On the tested texts they do harm, more than chance would explain.")
    return say("On the tested texts no gain can be told from chance.")
