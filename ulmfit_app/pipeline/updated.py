"""What an updated run is: its rows, its plan, and the weights that it begins with.

The run goes on from another one, its parent: from that one's language model, on new texts; and
from that one's classifier, on the labels of these and of some old ones again.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.extending import UPDATE, extend_corpus
from ulmfit_app.data.language import SAMPLE
from ulmfit_app.data.sources import read_source
from ulmfit_app.data.splits import strata_of, stratified_order
from ulmfit_app.errors import DataError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.writing import NO_LETTERS, name_writing
from ulmfit_app.models.bundle import Bundle, load_bundle
from ulmfit_app.models.growing import Grown, grow_classifier
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline.parents import PARENT
from ulmfit_app.pipeline.record import DirectionPlan
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.selection import Selection
from ulmfit_app.training.choosing import RATES, scale_rates
from ulmfit_app.training.recipes import Phase, Plan

HEAD_RATE = 1e-2  # of new labels' outputs, while all else stays as it is
DECAY = 2.6  # of the rate from a group to the one below; the paper's
DROP_MULT = 0.5
RARE = 0.01  # share of the old texts, below which a script is another one
WORD = re.compile(r"[^\W\d_]+")
NOTABLE, TIMES = 0.2, 3  # unknown words of the new texts: a share, and as many times the old ones'


# ---------------------------------------------------------------------------------------- its rows
def load_extended(settings: Settings, parent: RunFiles) -> Corpus:
    """The parent's table and the new rows behind it.

    Args:
        settings: of the updated run; its data are the new texts.
        parent: as `open_parent` gives it.

    Raises:
        DataError, SettingError: as `load_corpus` and `extend_corpus` do; or the new texts are in
            another script than the old ones.
        RunFolderError: the parent's table is missing or not whole.
    """
    old, grow = parent.corpus, settings.update.new_labels
    known = () if old.multilabel else old.labels
    new = _load_new(settings, old, known)
    _require_same_script(new, old, parent.folder)
    is_update = parent.record.parent is not None
    found = extend_corpus(old, new, str(parent.folder), is_update, grow)
    if found.new_labels and parent.record.data.costs:
        raise SettingError(
            f"{parent.folder} answers by costs, which know nothing of new labels. Train a run "
            "from the start on old and new texts, with a table of costs that has all labels: "
            "--costs FILE.csv"
        )
    return found.corpus


def _load_new(settings: Settings, old: Corpus, known: Sequence[str]) -> Corpus:
    """The new texts, with empty cells in columns of groups and times that only the old ones have,
    as feedback has neither."""
    # All new texts may be of one group, or of few.
    data = replace(settings.data, groups=())
    if data.time is not None and data.time not in read_source(data).table:
        data = replace(data, time=None)
    new = load_corpus(data, settings.seed, known)
    named = [*old.groups, *([old.time] if old.time else [])]
    missing = [name for name in named if name not in new.table]
    if not missing:
        return new
    note = f"No column {quoted(missing)}: of these texts it is not known."
    if old.time in missing:
        note += " Their splits are drawn at random."
    table = new.table.assign(**dict.fromkeys(missing, ""))
    return replace(new, table=table, notes=[*new.notes, note])


def _require_same_script(new: Corpus, old: Corpus, parent: Path) -> None:
    own, others = (_count_writings(of.table["text"]) for of in (new, old))
    name, share = own.index[0], own.iloc[0]
    if share > 0.5 and others.get(name, 0.0) < RARE:
        raise SettingError(
            f"The new texts in {new.origin} are in another script than those of {parent}: "
            f"{share:.0%} are in {name}, and that run read {others.index[0]}. Train a run of "
            "their own: python -m ulmfit_app.run DATA"
        )


def _count_writings(texts: pd.Series) -> pd.Series:
    """The shares of writing systems among texts with letters, the commonest first."""
    some = texts.iloc[:: max(1, len(texts) // SAMPLE)]
    named = some.map(name_writing)
    named = named[named != NO_LETTERS]
    return named.value_counts(normalize=True) if len(named) else pd.Series({NO_LETTERS: 1.0})


def is_new(table: pd.DataFrame) -> pd.Series:
    """Which rows of an updated run's table came with the latest update."""
    number = table[UPDATE].astype(int)
    return number == number.max()


def select_update(corpus: Corpus, settings: Settings) -> Selection:
    """Which rows an updated run uses: the new ones, those held out before, and of the old training
    texts as many as `update.replay` says for each new one, seeded and stratified. The language
    model reads new texts alone."""
    table, newest = corpus.table, is_new(corpus.table)
    split = table["split"].copy()
    old = split.index[(split == "train") & ~newest]
    n_new = int(((split == "train") & newest).sum())
    n = min(round(settings.update.replay * n_new), len(old))
    strata = strata_of(table.loc[old, "label"], corpus.multilabel)
    order = stratified_order(strata, np.random.default_rng([settings.seed, 5]))
    if n_new + n < 2:
        raise DataError(
            f"{settings.data.source} leaves {count_texts(n_new, 'new text')} to learn from, and "
            f"--replay {settings.update.replay:g} adds {n}: batch normalisation cannot learn from "
            "one. Give more new texts, or raise --replay."
        )
    replayed = old[order[:n]]
    split[old.difference(replayed)] = ""
    split[(split == "unlabelled") & ~newest] = ""
    note = (
        f"The classifier of {Path(settings.update.parent).name} goes on: it learns from "
        f"{count_texts(n_new, 'new text')}, and again from {n:,} of {len(old):,} old ones, so "
        "that it forgets less."
    )
    # Old texts in the language model, too, cost more and gained less (docs/updating.md).
    read = split.isin(["train", "unlabelled"]) & newest
    return Selection(split, read, split == "train", settings.lm.epochs, [note])


def describe_words(corpus: Corpus, start: Start) -> list[str]:
    """A note where the new texts have many words that the parent's vocabulary lacks, roughly."""
    if start.vocab is None or start.has_subwords:
        return []
    newest, have = is_new(corpus.table), set(start.vocab)
    shares = [
        _unknown_share(corpus.table.loc[rows, "text"].head(SAMPLE), have)
        for rows in (newest, ~newest)
    ]
    if shares[0] < NOTABLE or shares[0] < TIMES * shares[1]:
        return []
    return [
        f"Of the words of the new texts, {shares[0]:.0%} are none that the run knows, of the old "
        f"ones’ {shares[1]:.0%}: they may be in another language, of which it knows nothing."
    ]


def _unknown_share(texts: pd.Series, have: set[str]) -> float:
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    return sum(n for word, n in counts.items() if word not in have) / max(counts.total(), 1)


# ---------------------------------------------------------------------------------------- its plan
def plan_update(settings: Settings, architecture: str) -> tuple[Plan, str]:
    """How the parent's classifier goes on learning, and why so, in sentences.

    Args:
        settings: of the updated run.
        architecture: of its start; a transformer's rates are lower.
    """
    how = settings.update
    phases = (Phase("all groups", how.epochs, 0, how.lr, DECAY),)
    reason = "It goes on from the parent's classifier, all groups at low rates."
    if how.new_labels:
        phases = (Phase("head", 1, freeze_to=-1, lr=HEAD_RATE), *phases)
        reason = f"{reason} The head learns for an epoch alone first, since labels may be new."
    plan = Plan("update", phases, DROP_MULT)
    if architecture == "transformer":
        plan = scale_rates(plan, RATES[None])
    return plan, reason


# ------------------------------------------------------------------------------------- its weights
def place_of_start(run: RunFiles) -> Path | None:
    """The folder in that of an updated run that its language models start from; of others None."""
    return run.folder / PARENT if run.record.parent else None


def grow_from_parent(run: RunFiles, which: DirectionPlan, lm: Bundle) -> Grown | None:
    """What an updated run's classifier begins with; of another run None.

    Args:
        run: the updated one.
        which: direction.
        lm: its language model, as a loaded bundle.

    Raises:
        BundleError: what is kept of the parent is gone or was altered.
    """
    if run.record.parent is None:
        return None
    place = run.folder / PARENT
    before = load_bundle(place / which.named("lm"), "language model")
    share = run.record.settings.update.task_vector
    folder = place / which.named("classifier")
    return grow_classifier(folder, run.record.data.labels, before, lm, share)
