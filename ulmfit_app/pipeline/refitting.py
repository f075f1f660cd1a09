"""`--minutes` on the way: what is still to be done is fitted to the time that is really left.

Before a training begins, and never within one: its schedule and its checkpoints are those of a
length that was promised to it. What is finished stays finished. The second direction of a run, and
what augmentation and teachers made, go with the texts that were settled before the first.
"""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ulmfit_app.config import Settings
from ulmfit_app.files import link_file
from ulmfit_app.pipeline.budget import FEWEST_SECONDS, fit_training, seconds_to_test
from ulmfit_app.pipeline.keys import stage_keys
from ulmfit_app.pipeline.pace import ENDING, Pace
from ulmfit_app.pipeline.plan import choose, count_uses, how_to_learn, write_selection
from ulmfit_app.pipeline.record import RunRecord
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.selection import Selection
from ulmfit_app.run_folder import BEGUN, MARK, ORDER, ROW, TABLE, find_part, read_mark
from ulmfit_app.training.recipes import count_epochs

CLOSE = 0.1  # of a bound: by less it is not changed
REFITTED = ORDER[ORDER.index("lm") : ORDER.index("report")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refitted:
    """What a run was decided to do from here on.

    Args:
        record, selection: in the place of the run's own.
        table: the file of its texts, which stay.
    """

    record: RunRecord
    selection: Selection
    table: Path

    def write(self, folder: Path) -> None:
        """Write what takes the place of data/ and run.json into a new folder."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / TABLE).parent.mkdir(parents=True)
        link_file(self.table, folder / TABLE)
        write_selection(self.selection, bool(self.record.teachers), folder)
        self.record.write(folder)


def is_due(run: RunFiles, kind: str) -> bool:
    """Whether a run in minutes comes to its first training, or to what its first classifier learns
    from."""
    if run.record.requested["minutes"] is None or run.record.parent or kind not in REFITTED:
        return False
    later = ORDER[ORDER.index("lm" if kind == "lm" else REFITTED[1]) :]
    names = [name for name in run.record.keys if name.removesuffix("-backward") in later]
    return not any(_was_begun(run, name) for name in names)


def _was_begun(run: RunFiles, name: str) -> bool:
    """Whether there is anything of a stage's result, be it that files of it were lost."""
    places = run.work / name, find_part(run.folder, name)
    marks = (read_mark(place / mark) for place in places for mark in (BEGUN, MARK))
    return any(mark.get("key") == run.record.keys[name] for mark in marks)


def refit(run: RunFiles, kind: str, pace: Pace) -> Refitted | None:
    """What a run is to do from a stage on, by the time that is left.

    Args:
        run: `is_due`.
        kind: of the stage: lm, or what is carried out before the first classifier.
        pace: how fast the run goes.

    Returns:
        None: as it was planned, since that is still close enough.
    """
    # Before more is promised, by what another training took, the machine is measured.
    if pace.is_stale or pace.factor < 1 - CLOSE:
        pace.time_anew()
    record, corpus, start = run.record, run.corpus, run.record.directions[0].start
    rates = replace(pace.rates, tokenizing=0.0)
    rates = replace(rates, **{name: pace.factor * rate for name, rate in vars(rates).items()})
    left = record.requested["minutes"] * 60 - pace.used() - ENDING
    left -= seconds_to_test(corpus.table, record.settings, rates)
    is_first = kind == "lm"
    if not is_first:
        left -= pace.left_of("lm")  # of the other direction
    how = how_to_learn(corpus, record.settings, start)
    asked = corpus.table, record.settings, rates, *how
    settings, spare = fit_training(left, *asked, reads=is_first)
    if _are_close(settings, record.settings):
        return None
    directions, found = choose(corpus, settings, [each.start for each in record.directions])
    selection = _within_tokens(run, found, is_first)
    epochs, plans = selection.lm_epochs, [each[0].plan for each in (directions, record.directions)]
    if plans[0] == plans[1] and epochs == record.lm_epochs and _is_selected(run, selection):
        return None
    stay = ("tokens",) if is_first else ("tokens", "lm")
    kept = {n: key for n, key in record.keys.items() if n.removesuffix("-backward") in stay}
    of = record.teachers, record.data.costs, None
    keys = stage_keys(settings, corpus, selection, directions, *of, kept)
    anew = {"settings": settings, "counts": count_uses(selection), "lm_epochs": epochs}
    new = replace(record, **anew, directions=directions, keys=keys)
    notes = _describe(run, new, selection, spare, pace)
    for note in notes:
        log.info(note)
    new = replace(new, selection_notes=[*record.selection_notes, *notes])
    return Refitted(new, selection, run.find_data(TABLE))


def _are_close(new: Settings, old: Settings) -> bool:
    bounds = ((getattr(each, name).max_tokens for each in (new, old)) for name in _BOUNDED)
    return all(now == old or abs(now - old) <= CLOSE * old for now, old in bounds)


_BOUNDED = ("lm", "classifier")


def _within_tokens(run: RunFiles, found: Selection, is_first: bool) -> Selection:
    """A selection of the texts that have tokens; what the language model has read stays."""
    rows, index = run.rows, found.split.index
    at = index[rows[ROW]]
    split, read, learned = found.split.copy(), found.read.copy(), found.learned.copy()
    split[:] = ""
    split[at] = rows["split"].to_numpy()
    has_tokens = split != ""
    if not is_first:
        read[:] = False
        read[at] = rows["read"].to_numpy()
    learned &= has_tokens
    # Labels that are not used make their texts unlabelled ones.
    labelled = has_tokens & (run.corpus.table["split"] == "train")
    split[labelled] = np.where(learned[labelled], "train", "unlabelled")
    epochs = found.lm_epochs if is_first else run.record.lm_epochs
    return Selection(split, read & has_tokens, learned, epochs, [])


def _is_selected(run: RunFiles, selection: Selection) -> bool:
    at = selection.split.index[run.rows[ROW]]
    return all(
        (getattr(selection, name)[at].to_numpy() == run.rows[name].to_numpy()).all()
        for name in ("split", "read", "learned")
    )


def _describe(
    run: RunFiles, new: RunRecord, found: Selection, spare: float, pace: Pace
) -> list[str]:
    """What was changed, and why, in sentences."""
    old, rows, minutes = run.record, run.rows, run.record.requested["minutes"]
    plans = [count_epochs(record.directions[0].plan) for record in (new, old)]
    changes = (
        ("language model", found.read, rows["read"], new.lm_epochs, old.lm_epochs),
        ("classifier", found.learned, rows["learned"], *plans),
    )
    after = f"After {pace.used() / 60:.1f} of {minutes:g} minutes, at {pace.factor:.1f} times"
    notes = [
        f"{after} the time that was estimated, the {model} was fitted anew: it learns from "
        f"{now.sum():,} texts (epochs: {epochs}), not from {before.sum():,} (epochs: {planned})."
        for model, now, before, epochs, planned in changes
        if (now.sum(), epochs) != (before.sum(), planned)
    ]
    if spare < FEWEST_SECONDS:
        notes.append(
            f"{minutes:g} minutes are not enough any more: training goes on for about "
            f"{FEWEST_SECONDS} seconds, beside validation and test."
        )
    return notes
