"""The paper's section 3 as plain data: schedules, discriminative rates, gradual unfreezing.

Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018. Nothing
here trains; `loop` carries a plan out. A recipe knows the number of a model's layer groups, lowest
first, and no layer by name: `gradual(3, …)` and `gradual(13, …)` are the same recipe.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


# --------------------------------------------------------------------------------------- schedules
def slanted_triangular(
    position: float, peak: float, cut_frac: float = 0.1, ratio: float = 32
) -> float:
    """Learning rate at `position`, from 0 at the start of training to 1 at its end (ULMFiT section
    3.2, equation 3).

    Rises in a line to `peak` over the first `cut_frac` of training, then falls in a line; `ratio`
    is peak over lowest.

    >>> [round(slanted_triangular(p, peak=32), 1) for p in (0, 0.1, 0.55, 1)]
    [1.0, 32.0, 16.5, 1.0]
    """
    # The paper writes this in whole iterations; a position makes it independent of how many there
    # are.
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
    """Learning rate at `position` in [0, 1] of a cosine cycle, with fastai's defaults (after Smith
    2018).

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
    """One learning rate per layer group, lowest group first (ULMFiT section 3.2).

    Args:
        top: peak rate of the last group; each group below gets 1/decay of the one above.
        n_groups: layer groups, embeddings included.
        decay: 2.6 in the paper.

    Returns:
        Rates, [n_groups].

    Raises:
        ValueError: n_groups < 1.

    >>> discriminative_rates(0.01, 3, decay=2)
    [0.0025, 0.005, 0.01]
    """
    if n_groups < 1:
        raise ValueError(f"A model has at least one layer group, not {n_groups}.")
    return [top / decay**below for below in range(n_groups - 1, -1, -1)]


# ------------------------------------------------------------------------------------------ plans
@dataclass(frozen=True)
class Phase:
    """One cycle of the schedule over some epochs, with some of the layer groups frozen.

    Args:
        name: for people, and in the history.
        epochs: in it.
        freeze_to: groups before this index do not learn; negative counts from the last; 0: all do.
        lr: peak rate of the last group.
        decay: of the peak rate from a group to the one below.
        schedule: a key of SCHEDULES; None: the training's.
        freeze_from: groups from this index on do not learn either; None: they do.
        objective: labels, or pairs: whether two texts have the same label, by the cosine of their
            pooled states (Tunstall et al. 2022, section 3).
    """

    name: str
    epochs: int
    freeze_to: int
    lr: float
    decay: float = 1.0
    schedule: str | None = None
    freeze_from: int | None = None
    objective: str = "labels"

    def learning(self, n_groups: int) -> list[int]:
        """Indices of the groups that learn, of a model with so many."""
        return list(range(n_groups)[self.freeze_to : self.freeze_from])


@dataclass(frozen=True)
class Plan:
    """How a classifier is trained.

    Args:
        name: of it.
        phases: in order.
        drop_mult: times the classifier's dropouts.
    """

    name: str
    phases: tuple[Phase, ...]
    drop_mult: float

    def to_json(self) -> dict[str, Any]:
        """It as JSON writes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Plan":
        """The inverse of `to_json`."""
        phases = tuple(Phase(**phase) for phase in values["phases"])
        return cls(values["name"], phases, values["drop_mult"])


# Gradual unfreezing (ULMFiT section 3.3) at the rates of fastai's IMDb example, which the paper's
# authors published.
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

# The published rates keep the encoder near where it was, which is right when it knows the language
# well. An encoder that saw little text has to learn more from the labels: higher rates below, less
# dropout, no phase with the encoder frozen.
WEAK_START = Plan("weak-start", (Phase("all groups", 5, 0, lr=2e-3, decay=1.3),), drop_mult=0.25)

# What the paper compares in its table 7, with its rates: 0.01 where they are discriminative, else
# 0.001. The rates' course over a phase (constant, stlr, cos) is the schedule's.
FULL = Plan("full", (Phase("all groups", 8, 0, lr=1e-3),), drop_mult=0.5)
FULL_DISCR = Plan("full-discr", (Phase("all groups", 8, 0, lr=1e-2, decay=2.6),), drop_mult=0.5)
LAST = Plan("last", (Phase("head", 8, freeze_to=-1, lr=1e-3),), drop_mult=0.5)

# Few labels: each pair of texts says something, and there are many more pairs than texts (Tunstall
# et al. 2022). Then the head from nothing, and all of it together for a little.
CONTRASTIVE = Plan(
    "contrastive",
    (
        Phase("pairs", 8, freeze_to=0, lr=1e-3, objective="pairs"),
        Phase("head", 3, freeze_to=-1, lr=2e-2),
        Phase("all groups", 2, freeze_to=0, lr=4e-4),
    ),
    drop_mult=0.5,
)

NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()


def gradual(n_groups: int, lr: float, decay: float = 1.0) -> tuple[Phase, ...]:
    """Gradual unfreezing (section 3.3): the head, then one more group per epoch, then all for
    four.

    >>> [(phase.name, phase.freeze_to) for phase in gradual(3, lr=0.001)]
    [('head', -1), ('last two groups', -2), ('all groups', 0)]
    """
    names = ["head", *(f"last {_in_words(n)} groups" for n in range(2, n_groups))]
    freezing = [Phase(name, 1, -i, lr, decay) for i, name in enumerate(names, start=1)]
    return (*freezing, Phase("all groups", 4, 0, lr, decay))


def chain_thaw(n_groups: int, lr: float = 1e-4, head_lr: float = 1e-3) -> tuple[Phase, ...]:
    """Felbo et al. 2017, section 3.3: the new layer, then each other group alone, then all.

    >>> [(phase.name, phase.learning(3)) for phase in chain_thaw(3)]
    [('head', [2]), ('embeddings alone', [0]), ('layer 1 alone', [1]), ('all groups', [0, 1, 2])]
    """
    names = ["embeddings alone", *(f"layer {n} alone" for n in range(1, n_groups - 1))]
    alone = [Phase(name, 1, freeze_to=i, freeze_from=i + 1, lr=lr) for i, name in enumerate(names)]
    head, everything = Phase("head", 1, -1, head_lr), Phase("all groups", 3, 0, lr)
    return (head, *alone, everything)


# Name of a plan -> it for a model with so many layer groups.
PLANS: dict[str, Callable[[int], Plan]] = {
    **{
        plan.name: lambda _, plan=plan: plan
        for plan in (PUBLISHED, WEAK_START, FULL, FULL_DISCR, LAST, CONTRASTIVE)
    },
    "chain-thaw": lambda n: Plan("chain-thaw", chain_thaw(n), drop_mult=0.5),
    "gradual": lambda n: Plan("gradual", gradual(n, 1e-3), drop_mult=0.5),
    "gradual-discr": lambda n: Plan("gradual-discr", gradual(n, 1e-2, 2.6), drop_mult=0.5),
}


def make_plan(name: str, n_groups: int) -> Plan:
    """The plan of a name, for a model with so many layer groups.

    Raises:
        KeyError: there is no such plan.
    """
    return PLANS[name](n_groups)


def phases_of_pairs(phases: Sequence[Phase]) -> set[str]:
    """Names of the phases that learn from pairs: no head learns in them, and no epoch is kept.

    >>> phases_of_pairs(CONTRASTIVE.phases)
    {'pairs'}
    """
    return {phase.name for phase in phases if phase.objective == "pairs"}


def count_epochs(plan: Plan) -> int:
    """Epochs of all phases together."""
    return sum(phase.epochs for phase in plan.phases)


def extend_to(plan: Plan, epochs: int) -> Plan:
    """The plan with so many epochs in all: its last phase takes what the others leave.

    Raises:
        ValueError: they leave none.
    """
    *first, last = plan.phases
    before = sum(phase.epochs for phase in first)
    if epochs <= before:
        raise ValueError(
            f"The plan {plan.name!r} has {len(plan.phases)} phases: it needs {before + 1} epochs "
            "or more."
        )
    return replace(plan, phases=(*first, replace(last, epochs=epochs - before)))


def rates_over(plan: Plan, n_groups: int, schedule: str, points: int = 100) -> list[list[float]]:
    """The rate of each layer group over a plan.

    Args:
        plan: its phases.
        n_groups: of the model.
        schedule: a key of SCHEDULES, for phases that name none.
        points: places per epoch.

    Returns:
        Lowest group first, one rate per place; 0 while a group is frozen.

    >>> once = Plan("once", (Phase("head", 1, freeze_to=-1, lr=1.0),), 0.5)
    >>> rates_over(once, n_groups=2, schedule="constant", points=3)
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    rates = [[] for _ in range(n_groups)]
    for phase in plan.phases:
        peaks = discriminative_rates(phase.lr, n_groups, phase.decay)
        learning = phase.learning(n_groups)
        rate_at, _ = SCHEDULES[phase.schedule or schedule]
        n = phase.epochs * points
        for group, of_group in enumerate(rates):
            learns = group in learning
            of_group += [
                rate_at(i / max(n - 1, 1), peaks[group]) if learns else 0.0 for i in range(n)
            ]
    return rates


def language_model_phases(
    epochs: int, lr: float, frozen_lr: float | None, decay: float = 1.0
) -> tuple[Phase, ...]:
    """Fine-tuning a language model: one epoch for the embeddings alone, then all.

    The embeddings hold the new words.

    Args:
        epochs: in all; 0: none. A single one is not spent on the embeddings alone.
        lr: peak rate.
        frozen_lr: peak rate of that first epoch; None for random weights, where there is nothing
            worth keeping still.
        decay: of the peak rate from a group to the one below.
    """
    if not epochs:
        return ()
    # fastai puts the tied embedding in the LM's last group, so "lower layers learn slower" does
    # not hold for it.
    everything = Phase("all groups", epochs, freeze_to=0, lr=lr, decay=decay)
    if frozen_lr is None or epochs == 1:
        return (everything,)
    return (
        Phase("embeddings", 1, freeze_to=-1, lr=frozen_lr),
        replace(everything, epochs=epochs - 1),
    )


def pretraining_phases(epochs: int, lr: float, cooling: float = 0.2) -> tuple[Phase, ...]:
    """A language model from scratch: the rate rises, stays, and falls to nothing at the end.

    As good as one cycle, but where it stays the end need not be known: a training can be made
    longer by going on from there (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training
    Beyond Fixed Training Durations").

    Args:
        epochs: in all.
        lr: peak rate.
        cooling: the share of epochs in which it falls.

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


def _in_words(n: int) -> str:
    return NUMBERS[n - 1] if n <= len(NUMBERS) else str(n)
