"""Which plan a classifier is trained by, and for how long: by its start, its labels and the
time."""

import math
from dataclasses import replace

from ulmfit_app.config import ClassifierSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.training.recipes import (
    CONTRASTIVE,
    Phase,
    Plan,
    count_epochs,
    extend_to,
    make_plan,
)

FEW_TEXTS = 1_000  # up to so many labels a transformer learns from pairs first
WHY = {
    "weak-start": "The plan for a weak start, since the language model did not start from one "
    "that learned from general text; the published rates assume an encoder that knows the "
    "language.",
    "published": "The published plan, since the language model started from one that learned from "
    "general text.",
    "contrastive": "Pairs of texts first, of which few labels make many, and then "
    "the labels themselves.",
    "full": "All groups learn from the first step on, at one rate.",
    "full-discr": "All groups learn from the first step on, at discriminative rates: from a start "
    "that learned from general text, that is better than gradual unfreezing where epochs are few.",
}


def choose_plan(
    settings: ClassifierSettings,
    n_groups: int,
    is_strong_start: bool,
    passes: float | None = None,
    n_texts: int | None = None,
    architecture: str = "awd-lstm",
    is_taught: bool = False,
    multilabel: bool = False,
) -> tuple[Plan, str]:
    """Choose the plan that the settings name, and say in sentences why it is this one.

    Args:
        settings: plan, epochs, batch size, and what of the plan they change.
        n_groups: layer groups of the classifier.
        is_strong_start: whether the language model started from one that knows the language.
        passes: over all labelled texts, for which there is time; None: as many as the plan has.
        n_texts: to learn from, where they are known.
        architecture: of the start; a transformer's rates are lower.
        is_taught: whether it learns from a teacher's answers.
        multilabel: whether a text may have several labels, of which pairs cannot tell alike from
            unlike.

    Raises:
        SettingError: fewer epochs than the plan has phases; or pairs of texts with the same label,
            where a teacher gives them shares of all labels.
    """
    if is_taught and settings.plan == "contrastive":
        raise SettingError(
            "--classifier.plan contrastive learns from pairs of texts with the same label, and a "
            "teacher gives each text shares of all labels. Leave it out."
        )
    has_weights = settings.balance == "groups"
    if has_weights and settings.plan == "contrastive":
        raise SettingError(
            "--classifier.plan contrastive learns from pairs of texts, and --classifier.balance "
            "groups weighs single ones. Leave one of them out."
        )
    how = passes, n_texts, architecture, not is_taught and not multilabel and not has_weights
    plan, reason = _choose(settings, n_groups, is_strong_start, *how)
    # A head alone, on states that stay as they are, learns at an AWD-LSTM's rate.
    if architecture == "transformer" and any(phase.freeze_to != -1 for phase in plan.phases):
        plan = scale_rates(plan, RATES[settings.adapter])
    return _change(plan, settings), reason + _describe_changes(settings)


def _choose(
    settings: ClassifierSettings,
    n_groups: int,
    is_strong_start: bool,
    passes: float | None,
    n_texts: int | None,
    architecture: str,
    has_classes: bool,
) -> tuple[Plan, str]:
    """`choose_plan` at the rates of an AWD-LSTM."""
    name, reason = settings.plan, f"The plan {settings.plan!r} was asked for."
    if name == "auto":
        strong = "published" if passes is None else "full-discr"
        name = strong if is_strong_start else "weak-start"
        if architecture == "transformer":
            is_for_pairs = has_classes and _has_time_for_pairs(settings, passes, n_texts)
            name = "contrastive" if is_for_pairs else "full"
        reason = WHY[name]
    plan = make_plan(name, n_groups)
    per_epoch = passes_per_epoch(n_texts, settings.batch_size, architecture) if n_texts else 1
    if settings.epochs is not None:
        try:
            plan = extend_to(plan, settings.epochs)
        except ValueError as error:
            raise SettingError(f"--classifier.epochs {settings.epochs}: {error}") from None
        asked = "1 epoch was" if settings.epochs == 1 else f"{settings.epochs} epochs were"
        return plan, f"{reason} {asked} asked for."
    if settings.plan != "auto" or name == "contrastive":
        return plan, reason
    if is_strong_start and passes is not None:
        plan = fit_plan_to(plan, passes / per_epoch)
        reason += (
            f" The time is enough for {passes:.1f} passes over the labels: {plan.name!r}, "
            f"epochs: {count_epochs(plan)}"
            + (f", of {per_epoch} passes each." if per_epoch > 1 else ".")
        )
    elif n_texts is not None:
        most = math.inf if passes is None else passes
        longer = extend_to_enough_steps(plan, n_texts, settings.batch_size, most)
        if longer != plan:
            times = count_epochs(longer)
            plan, reason = longer, f"{reason} The labels are few, and each is read {times} times."
    return plan, reason


def _change(plan: Plan, settings: ClassifierSettings) -> Plan:
    """The plan with the rates and dropouts that were asked for."""
    plan = scale_rates(plan, settings.lr_mult)
    if settings.decay is not None:
        phases = tuple(replace(phase, decay=settings.decay) for phase in plan.phases)
        plan = replace(plan, phases=phases)
    if settings.drop_mult is not None:
        plan = replace(plan, drop_mult=settings.drop_mult)
    return plan


def _describe_changes(settings: ClassifierSettings) -> str:
    """What `_change` does, as a sentence behind others; nothing where it does nothing."""
    asked = []
    if settings.lr_mult != 1:
        asked.append(f"its rates times {settings.lr_mult:.3g}")
    if settings.decay is not None:
        asked.append(f"a decay of {settings.decay:.3g} from a group to the one below")
    if settings.drop_mult is not None:
        asked.append(f"dropouts times {settings.drop_mult:.3g}")
    return f" Asked for: {', '.join(asked)}." if asked else ""


def _has_time_for_pairs(
    settings: ClassifierSettings, passes: float | None, n_texts: int | None
) -> bool:
    """Whether labels are few, and the epochs and passes enough for the plan of pairs."""
    epochs = count_epochs(CONTRASTIVE)
    if n_texts is None or n_texts > FEW_TEXTS or (settings.epochs or epochs) < epochs:
        return False
    per_epoch = passes_per_epoch(n_texts, settings.batch_size, "transformer")
    return passes is None or passes >= epochs * per_epoch


# Times the plans' rates, which are an AWD-LSTM's: a transformer forgets what it knows at a
# twentieth of them, and an adapter's few weights, which begin at nothing, learn faster.
RATES = {None: 0.05, "lora": 0.5, "ia3": 2.0, "prompt": 5.0}


def scale_rates(plan: Plan, factor: float) -> Plan:
    """The plan with other rates.

    >>> from ulmfit_app.training.recipes import FULL
    >>> scale_rates(FULL, 0.5).phases[0].lr
    0.0005
    """
    return replace(plan, phases=tuple(replace(p, lr=p.lr * factor) for p in plan.phases))


# ---------------------------------------------------------------------------------- how long
# Where time bounds the training: each label read once is worth more than a third of them read five
# times.
BRIEF = Plan("brief", (Phase("all groups", 1, 0, lr=5e-3, decay=2.0),), drop_mult=0.3)
MOST_EPOCHS = 10  # of a plan's last phase; the paper trains for 50, and stops early
# Few labels: smaller batches, and more epochs, or a hundred labels would be learned in ten steps.
STEPS_PER_EPOCH, SMALLEST_BATCH, FEWEST_STEPS = 30, 16, 200


def _most_epochs(plan: Plan) -> int:
    last = plan.phases[-1].epochs
    return count_epochs(plan) - last + max(last, MOST_EPOCHS)


def batch_size_for(n_texts: int, largest: int) -> int:
    """Texts per batch: `largest`, or as few as make STEPS_PER_EPOCH steps per epoch.

    No fewer than SMALLEST_BATCH, which would make the batch normalisation of the head a lottery.

    >>> [batch_size_for(n, largest=64) for n in (100, 1_000, 25_000)]
    [16, 33, 64]
    """
    return min(largest, max(SMALLEST_BATCH, n_texts // STEPS_PER_EPOCH))


def passes_for(n_texts: int, batch_size: int) -> int:
    """Passes over few texts that make an epoch of STEPS_PER_EPOCH steps or more.

    A large model is not validated and saved each few steps.

    >>> [passes_for(n, 16) for n in (80, 400, 4_900)]
    [6, 2, 1]
    """
    return math.ceil(STEPS_PER_EPOCH / math.ceil(n_texts / batch_size))


def passes_per_epoch(n_texts: int, largest: int, architecture: str) -> int:
    """Passes over the labelled texts that an epoch of a classifier makes: an AWD-LSTM's is one.

    Args:
        n_texts: labelled ones.
        largest: the batch size where texts are many.
        architecture: of the start.

    >>> [passes_per_epoch(100, 64, name) for name in ("awd-lstm", "transformer")]
    [1, 5]
    """
    if architecture != "transformer":
        return 1
    return passes_for(n_texts, batch_size_for(n_texts, largest))


def extend_to_enough_steps(
    plan: Plan, n_texts: int, largest: int, passes: float = math.inf
) -> Plan:
    """The plan with a longer last phase where texts are few.

    Args:
        plan: it is made to last FEWEST_STEPS steps, up to MOST_EPOCHS epochs of its last phase.
        n_texts: per epoch.
        largest: the batch size where texts are many.
        passes: over the texts, for which there is time.
    """
    steps = math.ceil(n_texts / batch_size_for(n_texts, largest))
    enough = min(math.ceil(FEWEST_STEPS / steps), _most_epochs(plan), passes)
    return extend_to(plan, max(count_epochs(plan), int(enough)))


def fit_plan_to(plan: Plan, passes: float) -> Plan:
    """A plan for a budget of so many passes over all labelled texts.

    Where its epochs fit, its last phase lasts as long as the budget does, up to MOST_EPOCHS; where
    they do not, it is BRIEF, with as many epochs as fit, at least one.

    >>> from ulmfit_app.training.recipes import FULL_DISCR
    >>> fit_plan_to(FULL_DISCR, passes=2.7) == extend_to(BRIEF, 2)
    True
    """
    if passes < count_epochs(plan):
        return extend_to(BRIEF, max(1, int(passes)))
    return extend_to(plan, min(int(passes), _most_epochs(plan)))
