"""The paper's section 3 as plain data: schedules, discriminative rates, and plans of gradual unfreezing.

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018. Nothing here trains; `training`
carries a plan out.
"""

import math
from dataclasses import dataclass, replace


# ------------------------------------------------------------------------------------------------------------- schedules
def slanted_triangular(
    position: float, peak: float, cut_frac: float = 0.1, ratio: float = 32
) -> float:
    """Learning rate at `position`, from 0 at the start of training to 1 at its end (ULMFiT section 3.2, equation 3).

    Rises in a line to `peak` over the first `cut_frac` of training, then falls in a line; `ratio` is peak over lowest.

    >>> [round(slanted_triangular(p, peak=32), 1) for p in (0, 0.1, 0.55, 1)]
    [1.0, 32.0, 16.5, 1.0]
    """
    # The paper writes this in whole iterations; a position makes it independent of how many there are.
    if position < cut_frac:
        height = position / cut_frac
    else:
        height = 1 - (position - cut_frac) / (1 - cut_frac)
    return peak * (1 + height * (ratio - 1)) / ratio


def _cosine(start: float, end: float, position: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - position))) * (end - start) / 2


def one_cycle(
    position: float, peak: float, start_div: float = 25, end_div: float = 1e5, rising: float = 0.25
) -> float:
    """Learning rate at `position` in [0, 1] of a cosine cycle, with fastai's defaults (after Smith 2018).

    >>> [round(one_cycle(p, peak=1), 5) for p in (0, 0.25, 1)]
    [0.04, 1.0, 1e-05]
    """
    if position < rising:
        return _cosine(peak / start_div, peak, position / rising)
    return _cosine(peak, peak / end_div, (position - rising) / (1 - rising))


def one_cycle_momentum(
    position: float, high: float = 0.8, low: float = 0.7, rising: float = 0.25
) -> float:
    """Momentum of the same cycle: low while the rate is high; fastai's values for text."""
    if position < rising:
        return _cosine(high, low, position / rising)
    return _cosine(low, high, (position - rising) / (1 - rising))


def constant_momentum(position: float) -> float:
    """Adam's first beta beside slanted triangular rates (ULMFiT section 4.1: 0.7 throughout)."""
    return 0.7


# Name of a schedule -> (rate at a position given its peak, momentum at a position).
SCHEDULES = {
    "one-cycle": (one_cycle, one_cycle_momentum),
    "slanted-triangular": (slanted_triangular, constant_momentum),
    "cosine": (lambda position, peak: _cosine(peak, 0, position), constant_momentum),
    "rising": (lambda position, peak: peak * position, constant_momentum),
    "constant": (lambda position, peak: peak, constant_momentum),
    "falling": (lambda position, peak: peak * (1 - position), constant_momentum),
}


def discriminative_rates(top: float, n_groups: int, decay: float = 2.6) -> list[float]:
    """One learning rate a layer group, lowest group first (ULMFiT section 3.2).

    top: peak rate of the last group; each group below gets 1/decay of the one above.
    Raises ValueError when n_groups < 1.

    >>> discriminative_rates(0.01, 3, decay=2)
    [0.0025, 0.005, 0.01]
    """
    if n_groups < 1:
        raise ValueError(f"A model has at least one layer group, not {n_groups}.")
    return [top / decay**below for below in range(n_groups - 1, -1, -1)]


# ----------------------------------------------------------------------------------------------------------------- plans
@dataclass(frozen=True)
class Phase:
    """One cycle of the schedule over some epochs, with some of the layer groups frozen."""

    name: str
    epochs: int
    freeze_to: (
        int  # groups before this index do not learn; negative counts from the last; 0: all learn
    )
    lr: float  # peak rate of the last group
    decay: float = 1.0  # of the peak rate from a group to the one below
    schedule: str | None = None  # a name of SCHEDULES; None: the training's
    freeze_from: int | None = None  # groups from this index on do not learn either; None: they do


@dataclass(frozen=True)
class Plan:
    """How a classifier is trained: its phases in order, and the multiplier of the classifier's dropouts."""

    name: str
    phases: tuple[Phase, ...]
    drop_mult: float


# Gradual unfreezing (ULMFiT section 3.3) at the rates of fastai's IMDb example, which the paper's authors published.
PUBLISHED = Plan(
    "published",
    (
        Phase("head", 1, freeze_to=-1, lr=2e-2),
        Phase("last two groups", 1, freeze_to=-2, lr=1e-2, decay=2.6),
        Phase("last three groups", 1, freeze_to=-3, lr=5e-3, decay=2.6),
        Phase("all groups", 2, freeze_to=0, lr=1e-3, decay=2.6),
    ),
    drop_mult=0.5,
)

# The published rates keep the encoder near where it was, which is right when it knows the language well. An encoder that
# saw little text has to learn more from the labels: higher rates below, less dropout, no phase with the encoder frozen.
WEAK_START = Plan(
    "weak-start", (Phase("all groups", 5, freeze_to=0, lr=2e-3, decay=1.3),), drop_mult=0.25
)


def _gradual(lr: float, decay: float) -> tuple[Phase, ...]:
    names = ("head", "last two groups", "last three groups", "last four groups")
    freezing = tuple(
        Phase(name, 1, freeze_to=-i, lr=lr, decay=decay) for i, name in enumerate(names, start=1)
    )
    return (*freezing, Phase("all groups", 4, freeze_to=0, lr=lr, decay=decay))


# What the paper compares in its table 7, with its rates: 0.01 where they are discriminative, else 0.001. The rates' course
# over a phase (constant, stlr, cos) is the schedule's.
FULL = Plan("full", (Phase("all groups", 8, freeze_to=0, lr=1e-3),), drop_mult=0.5)
FULL_DISCR = Plan(
    "full-discr", (Phase("all groups", 8, freeze_to=0, lr=1e-2, decay=2.6),), drop_mult=0.5
)
LAST = Plan("last", (Phase("head", 8, freeze_to=-1, lr=1e-3),), drop_mult=0.5)
# Felbo et al. 2017, section 3.3: the new layer, then each of the others alone from the first one on, then all.
CHAIN_THAW = Plan(
    "chain-thaw",
    (
        Phase("head", 1, freeze_to=-1, lr=1e-3),
        Phase("embeddings alone", 1, freeze_to=0, freeze_from=1, lr=1e-4),
        Phase("first layer alone", 1, freeze_to=1, freeze_from=2, lr=1e-4),
        Phase("second layer alone", 1, freeze_to=2, freeze_from=3, lr=1e-4),
        Phase("third layer alone", 1, freeze_to=3, freeze_from=4, lr=1e-4),
        Phase("all groups", 3, freeze_to=0, lr=1e-4),
    ),
    drop_mult=0.5,
)
GRADUAL = Plan("gradual", _gradual(1e-3, 1.0), drop_mult=0.5)
GRADUAL_DISCR = Plan("gradual-discr", _gradual(1e-2, 2.6), drop_mult=0.5)

PLANS = {
    plan.name: plan
    for plan in (PUBLISHED, WEAK_START, FULL, FULL_DISCR, LAST, CHAIN_THAW, GRADUAL, GRADUAL_DISCR)
}


def epochs_of(plan: Plan) -> int:
    """Epochs of all phases together."""
    return sum(phase.epochs for phase in plan.phases)


def lasting(plan: Plan, epochs: int) -> Plan:
    """The plan with so many epochs in all: its last phase takes what the others leave.

    Raises ValueError where that is none.
    """
    *first, last = plan.phases
    before = sum(phase.epochs for phase in first)
    if epochs <= before:
        raise ValueError(
            f"The plan {plan.name!r} has {len(plan.phases)} phases: it needs {before + 1} epochs or more."
        )
    return replace(plan, phases=(*first, replace(last, epochs=epochs - before)))


# Where time bounds the training: each label read once is worth more than a third of them read five times.
BRIEF = Plan("brief", (Phase("all groups", 1, freeze_to=0, lr=5e-3, decay=2.0),), drop_mult=0.3)
MOST_EPOCHS = 10  # of a plan's last phase; the paper trains for 50, and stops early
# Few labels: smaller batches, and more epochs, or a hundred labels would be learned in ten steps.
STEPS_AN_EPOCH, SMALLEST_BATCH, FEWEST_STEPS = 30, 16, 200


def _most_epochs(plan: Plan) -> int:
    last = plan.phases[-1].epochs
    return epochs_of(plan) - last + max(last, MOST_EPOCHS)


def batch_size_for(n_texts: int, largest: int) -> int:
    """Texts a batch: `largest`, or as few as make STEPS_AN_EPOCH steps an epoch, but no fewer than SMALLEST_BATCH.

    Fewer would make the batch normalisation of the head a lottery.

    >>> [batch_size_for(n, largest=64) for n in (100, 1_000, 25_000)]
    [16, 33, 64]
    """
    return min(largest, max(SMALLEST_BATCH, n_texts // STEPS_AN_EPOCH))


def with_enough_steps(plan: Plan, n_texts: int, largest: int, passes: float = math.inf) -> Plan:
    """The plan with a longer last phase where few texts would make fewer than FEWEST_STEPS steps, up to MOST_EPOCHS.

    largest: the batch size where texts are many; passes: over the texts, for which there is time.
    """
    steps = math.ceil(n_texts / batch_size_for(n_texts, largest))
    return lasting(
        plan,
        max(
            epochs_of(plan), int(min(math.ceil(FEWEST_STEPS / steps), _most_epochs(plan), passes))
        ),
    )


def fitted(plan: Plan, passes: float) -> Plan:
    """A plan for a budget of so many passes over all labelled texts.

    Where its epochs fit, its last phase lasts as long as the budget does, up to MOST_EPOCHS; where they do not, it is BRIEF,
    with as many epochs as fit, at least one.

    >>> fitted(FULL_DISCR, passes=2.7) == replace(BRIEF, phases=(replace(BRIEF.phases[0], epochs=2),))
    True
    """
    if passes < epochs_of(plan):
        return lasting(BRIEF, max(1, int(passes)))
    return lasting(plan, min(int(passes), _most_epochs(plan)))


def rates_over(plan: Plan, n_groups: int, schedule: str, points: int = 100) -> list[list[float]]:
    """The rate of each layer group, lowest first, at `points` places of each epoch of a plan; 0 while a group is frozen.

    schedule: a name of SCHEDULES, for phases that name none.

    >>> rates_over(Plan("two", (Phase("head", 1, freeze_to=-1, lr=1.0),), 0.5), n_groups=2, schedule="constant", points=3)
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    rates = [[] for _ in range(n_groups)]
    for phase in plan.phases:
        peaks, learning = (
            discriminative_rates(phase.lr, n_groups, phase.decay),
            range(n_groups)[phase.freeze_to :],
        )
        rate_at, _ = SCHEDULES[phase.schedule or schedule]
        n = phase.epochs * points
        for group, of_group in enumerate(rates):
            learns = group in learning and (phase.freeze_from is None or group < phase.freeze_from)
            of_group += [
                rate_at(i / max(n - 1, 1), peaks[group]) if learns else 0.0 for i in range(n)
            ]
    return rates


def language_model_phases(
    epochs: int, lr: float, frozen_lr: float | None, decay: float = 1.0
) -> tuple[Phase, ...]:
    """Fine-tuning a language model: one epoch for the embeddings alone, which hold the new words, then all.

    epochs: in all; 0: none. A single one is not spent on the embeddings alone. frozen_lr: peak rate of that first epoch;
    None for random weights, where there is nothing worth keeping still.
    """
    if not epochs:
        return ()
    # fastai puts the tied embedding in the LM's last group, so "lower layers learn slower" does not hold for it.
    everything = Phase("all groups", epochs, freeze_to=0, lr=lr, decay=decay)
    if frozen_lr is None or epochs == 1:
        return (everything,)
    return (
        Phase("embeddings", 1, freeze_to=-1, lr=frozen_lr),
        replace(everything, epochs=epochs - 1),
    )


def pretraining_phases(epochs: int, lr: float, cooling: float = 0.2) -> tuple[Phase, ...]:
    """A language model from scratch: the rate rises, stays, and falls to nothing over the last part of `epochs`.

    cooling: the share of epochs in which it falls. As good as one cycle, but where it stays the end need not be known: a
    training can be made longer by going on from there (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations").

    >>> [(phase.name, phase.epochs) for phase in pretraining_phases(10, 0.005)]
    [('rising rate', 1), ('steady rate', 7), ('falling rate', 2)]
    """
    falling = max(1, round(epochs * cooling))
    lengths = {"rising": 1, "steady": max(epochs - 1 - falling, 0), "falling": falling}
    schedules = {"rising": "rising", "steady": "constant", "falling": "falling"}
    return tuple(
        Phase(f"{name} rate", n, freeze_to=0, lr=lr, schedule=schedules[name])
        for name, n in lengths.items()
        if n
    )
