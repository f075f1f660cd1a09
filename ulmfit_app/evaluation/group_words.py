"""What is said of groups: which numbers of theirs differ from those of all other texts."""

from collections.abc import Iterator
from functools import reduce

from ulmfit_app.evaluation.calibration import MAX_NAMES
from ulmfit_app.evaluation.independent import smallest_noticed
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import SIGNIFICANT

# Texts that a share is judged on: half of 30 is known to 17 points up or down, of fewer to less.
FEWEST = 30


def numbers_of(group: dict) -> Iterator[tuple[str, str | None, dict]]:
    """A group's numbers that are compared with those of all other texts: kind, label, number.

    Args:
        group: one of those that groups.compare_groups returns.
    """
    yield "accuracy", None, group["accuracy"]
    for kind in ("recall", "selection_rate"):
        for label, number in group[kind].items():
            yield kind, label, number


def is_sure(number: dict) -> bool:
    """Whether a group's number differs from that of all other texts beyond chance."""
    return number["p_adjusted"] is not None and number["p_adjusted"] < SIGNIFICANT


def describe_groups(found: dict, n_labels: int, n_merged: int) -> list[str]:
    """What groups.compare_groups found, in sentences.

    Args:
        found: what it returns.
        n_labels: labels in all.
        n_merged: values of the column that share its last group; 0 where none do.
    """
    groups = found["groups"]
    if len(groups) == 1:
        only = Message(
            "All tested texts are of the group “{group}”: there is nothing to compare.",
            group=groups[0]["group"],
        )
        return [only]
    judged = [group for group in groups if group["judged"]]
    said = [*_describe_accuracy(groups, judged, found["n_questions"])] if judged else []
    # Of two groups each is all the others of the other.
    if judged and (others := _describe_shares(judged[:1] if len(groups) == 2 else judged)):
        said.append(others)
    if small := [group["group"] for group in groups if not group["judged"]]:
        said.append(_describe_small(small, len(groups), n_merged))
    if len(found["labels"]) < n_labels:
        note = Message(
            "Recall, and how often a label is given, are compared for the {n} commonest of "
            "{n_labels} labels alone: the more questions, the less each can be told from chance.",
            n=len(found["labels"]),
            n_labels=n_labels,
        )
        said.append(note)
    return said


def _describe_accuracy(groups: list[dict], judged: list[dict], n_questions: int) -> Iterator[str]:
    sure = [group for group in judged if is_sure(group["accuracy"])]
    of_all = {"n_judged": len(judged), "n_questions": n_questions}
    if sure:
        sure.sort(key=lambda group: group["accuracy"]["difference"])
        yield Message(
            "{n} of {n_judged} judged groups differ in accuracy from all other texts beyond "
            "chance, in points: {names} (Holm over {n_questions:,} questions).",
            n=len(sure),
            names=_listed(
                [
                    Message(
                        "{group} {points:+.1f}",
                        group=group["group"],
                        points=100 * group["accuracy"]["difference"],
                    )
                    for group in sure
                ]
            ),
            **of_all,
        )
        return
    yield Message(
        "None of {n_judged} judged groups differs in accuracy from all other texts beyond chance "
        "(Holm over {n_questions:,} questions).",
        **of_all,
    )
    least = min(judged, key=lambda group: group["n"])
    n, n_all = least["n"], sum(group["n"] for group in groups)
    everywhere = sum(group["n"] * group["accuracy"]["value"] for group in groups) / n_all
    yield Message(
        "That is no proof that there is none: in the smallest of them, “{group}” with {n:,} "
        "texts, a difference under {points:.0f} points is missed at least one time in five.",
        group=least["group"],
        n=n,
        points=100 * smallest_noticed(everywhere, n, n_all - n),
    )


def _describe_shares(judged: list[dict]) -> str | None:
    """How many differences of recall and selection rates are sure, in a sentence."""
    kinds = {"recall": [], "selection_rate": []}
    for group in judged:
        for kind, _, number in numbers_of(group):
            if kind in kinds and number["p_adjusted"] is not None:
                kinds[kind].append(is_sure(number))
    if not any(kinds.values()):
        return None
    recall, selected = kinds.values()
    return Message(
        "Beyond chance are {n_recall} of {of_recall} differences in recall, and {n_selected} of "
        "{of_selected} in how often a label is given.",
        n_recall=sum(recall),
        of_recall=len(recall),
        n_selected=sum(selected),
        of_selected=len(selected),
    )


def _describe_small(small: list[str], n_groups: int, n_merged: int) -> str:
    return Message(
        "Too small to be judged are {n:,} of {n_groups:,} groups, with fewer than {fewest} texts, "
        "or with fewer beside them: {names}. An accuracy of 50% on {fewest} texts is known to 17 "
        "points up or down.",
        n=len(small) + max(n_merged - 1, 0),
        n_groups=n_groups + max(n_merged - 1, 0),
        fewest=FEWEST,
        names=_listed(small),
    )


def _listed(names: list[str]) -> str:
    """The first of them; a Message, since there may be some among them."""
    shown = names[:MAX_NAMES] + ["…"] * (len(names) > MAX_NAMES)
    return reduce(lambda first, next: Message("{first}, {next}", first=first, next=next), shown)
