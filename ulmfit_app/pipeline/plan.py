"""Deciding what a run will do: its texts, its starts, its plans, its bounds, and its stages' keys.

Planning reads the data and loads the starts, once; what was decided is the run's record, and a run
that is opened again reads that.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.costs import read_costs
from ulmfit_app.data.sources import DATA_SETS
from ulmfit_app.files import sha256_of_path, write_table
from ulmfit_app.models.pretrained import find_starts
from ulmfit_app.models.shapes import architecture_of
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline.augmenting import (
    check_augmentation,
    describe_augmentation,
)
from ulmfit_app.pipeline.budget import fit_settings, measure_rates
from ulmfit_app.pipeline.keys import stage_keys
from ulmfit_app.pipeline.language import (
    describe_script,
    find_language,
    is_open,
    require_same_tokens,
    require_used,
)
from ulmfit_app.pipeline.parents import describe_parent, open_parent
from ulmfit_app.pipeline.record import (
    NO,
    YES,
    DataRecord,
    DirectionPlan,
    RunRecord,
)
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.selection import (
    Selection,
    count_tokens_to_learn,
    growth_of,
    select,
    texts_to_learn,
)
from ulmfit_app.pipeline.teachers import check_teachers, describe_teaching
from ulmfit_app.pipeline.updated import (
    describe_words,
    load_extended,
    plan_update,
    select_update,
)
from ulmfit_app.presets import PAPER, PRESETS
from ulmfit_app.run_folder import ROW, SELECTION, TABLE
from ulmfit_app.settings_json import to_json
from ulmfit_app.training.balance import check_balance, check_groups
from ulmfit_app.training.choosing import choose_plan, passes_per_epoch
from ulmfit_app.training.recipes import Plan


@dataclass(frozen=True)
class Planned:
    """A run that was decided on, with the rows that its folder will hold, and its parent."""

    record: RunRecord
    corpus: Corpus
    selection: Selection
    parent: RunFiles | None = None

    def write(self, folder: Path) -> None:
        """Write data/ and then run.json into a folder."""
        table = self.corpus.table.copy()
        table.insert(0, ROW, range(len(table)))
        write_table(folder / TABLE, table)
        data = replace(self.record.data, table_sha256=sha256_of_path(folder / TABLE))
        write_selection(self.selection, bool(self.record.teachers), folder)
        replace(self.record, data=data).write(folder)


def write_selection(selection: Selection, has_teachers: bool, folder: Path) -> None:
    """Write data/selection.csv into a folder."""
    split = selection.split
    used = split.index[split != ""]
    uses = pd.DataFrame({ROW: used, "use": split[used]})
    # Without a teacher, learned are those of use train.
    for name in ("read", *(["learned"] if has_teachers else [])):
        uses[name] = getattr(selection, name)[used].map({True: YES, False: NO})
    write_table(folder / SELECTION, uses)


def request(settings: Settings, minutes: float | None) -> dict[str, Any]:
    """What a command asked for, as JSON reads it back."""
    return json.loads(json.dumps({"settings": to_json(settings), "minutes": minutes}))


def source_sha256(settings: Settings) -> str | None:
    """The hash of the file or folder that holds a run's data; None where there is none.

    Data sets known by name have none: their archives are held to hashes when they are fetched.
    """
    source = settings.data.source
    if source in DATA_SETS or not Path(source).exists():
        return None
    return sha256_of_path(Path(source))


def plan_run(
    settings: Settings,
    minutes: float | None = None,
    preset: str = "",
    corpus: Corpus | None = None,
    costs: list[list[float]] | None = None,
) -> Planned:
    """Decide what a run will do.

    Args:
        settings: of the run.
        minutes: fit the work into so many, measured on this machine.
        preset: the name of the preset that the settings were derived from.
        corpus, costs: its texts and what mistakes cost, where they were read before.

    Raises:
        DataError, SettingError, BundleError, data_scripts.fetch.FetchError: as `load_corpus`,
            `find_starts`, `choose_plan`, `check_teachers` and `fit_settings` do.
        RunFolderError: as `open_parent` does.
    """
    began = time.monotonic()
    parent = open_parent(settings) if settings.update.parent else None
    requested = request(settings, minutes)
    read, notes = corpus, []
    if is_open(settings) and parent is None:
        read = read or load_corpus(settings.data, settings.seed)
        settings, notes = find_language(settings, read.table["text"])
    starts = find_starts(settings.starts, settings.model)
    require_same_tokens(settings, starts)
    require_used(settings, preset, starts)
    check_augmentation(settings)
    # Before the texts are read, so that a wrong plan is told at once.
    _choose_plans(settings, starts)
    if minutes is not None:
        corpus, settings = _fit_minutes(minutes, began, settings, preset, starts[0], corpus)
    else:
        corpus = read
    if corpus is None and parent is not None:
        corpus = load_extended(settings, parent)
    corpus = corpus or load_corpus(settings.data, settings.seed)
    check_balance(settings.classifier, corpus.multilabel, bool(settings.distillation.teachers))
    check_groups(settings, corpus.labels, corpus.multilabel)
    if parent is not None:
        costs = parent.record.data.costs
        notes += describe_words(corpus, starts[0])
    if costs is None:
        costs = read_costs(settings.classifier.costs, corpus.labels, corpus.multilabel)
    notes += describe_script(settings, corpus.table["text"], starts[0])
    teachers = check_teachers(settings, corpus)
    directions, selection = choose(corpus, settings, starts)
    about = _record_data(corpus, settings, costs)
    of_parent = parent and describe_parent(parent)
    keys = stage_keys(settings, corpus, selection, directions, teachers, costs, of_parent)
    notes += _describe_selection(settings, selection)
    counts = count_uses(selection)
    asked = settings, requested, preset, about, counts
    said = selection.lm_epochs, corpus.notes, notes
    seconds = 0.0 if minutes is None else round(time.monotonic() - began, 1)
    record = RunRecord(*asked, *said, directions, keys, teachers, of_parent, seconds)
    return Planned(record, corpus, selection, parent)


def _record_data(corpus: Corpus, settings: Settings, costs: list[list[float]]) -> DataRecord:
    return DataRecord(
        corpus.origin,
        corpus.test_name,
        corpus.labels,
        len(corpus.table),
        source_sha256(settings),
        text_column=corpus.text_column,
        multilabel=corpus.multilabel,
        costs=costs,
        groups=list(corpus.groups),
        time=corpus.time,
    )


def count_uses(selection: Selection) -> dict[str, int]:
    """Texts by what they are used as."""
    counts = selection.split[selection.split != ""].value_counts()
    return {name: int(n) for name, n in counts.items()}


def _describe_selection(settings: Settings, selection: Selection) -> list[str]:
    """What was left out, and what is learned beside the labels, in sentences."""
    taught = describe_teaching(settings, selection)
    made = describe_augmentation(settings, count_uses(selection)["train"])
    return [*selection.notes, *taught, *made]


def choose(
    corpus: Corpus, settings: Settings, starts: list[Start]
) -> tuple[list[DirectionPlan], Selection]:
    """The classifiers' plans, and the texts that fit the settings' bounds."""
    table, most = corpus.table, settings.classifier.max_tokens
    growth = growth_of(table, settings)
    passes = most and most / (count_tokens_to_learn(table, settings) * growth)
    n_texts = round(len(texts_to_learn(table, settings)) * growth)
    directions = _choose_plans(settings, starts, passes, n_texts, corpus.multilabel)
    if settings.update.parent:
        return directions, select_update(corpus, settings)
    architecture = architecture_of(starts[0].shape)
    new_words = starts[0].is_pretrained and not starts[0].tokenizer
    how = new_words, architecture, corpus.multilabel
    return directions, select(table, settings, directions[0].plan, *how)


def _choose_plans(
    settings: Settings,
    starts: Iterable[Start],
    passes: float | None = None,
    n_texts: int | None = None,
    multilabel: bool = False,
) -> list[DirectionPlan]:
    directions = []
    for name, start in zip(settings.starts, starts, strict=True):
        plan, reason = _plan_for(start, settings, passes, n_texts, multilabel)
        directions.append(DirectionPlan(name, start, plan, reason))
    return directions


def _plan_for(
    start: Start,
    settings: Settings,
    passes: float | None,
    n_texts: int | None,
    multilabel: bool,
) -> tuple[Plan, str]:
    how, shape = settings.classifier, start.shape
    if settings.update.parent:
        return plan_update(settings, architecture_of(shape))
    of_start = shape.count_groups(how), start.is_strong
    of_labels = bool(settings.distillation.teachers), multilabel
    return choose_plan(how, *of_start, passes, n_texts, architecture_of(shape), *of_labels)


def _fit_minutes(
    minutes: float,
    began: float,
    settings: Settings,
    preset: str,
    start: Start,
    corpus: Corpus | None,
) -> tuple[Corpus | None, Settings]:
    """Settings for so many minutes, and the texts where those are the ones that were measured."""
    # A preset's own bounds are for its own time; others were asked for.
    data, presets = settings.data, PRESETS.get(preset, PAPER).data
    names = ("max_train", "max_unlabelled")
    bounds = [name for name in names if getattr(data, name) == getattr(presets, name)]
    settings = replace(settings, data=replace(data, **dict.fromkeys(bounds)))
    corpus = corpus or load_corpus(settings.data, settings.seed)
    rates = measure_rates(corpus.table["text"], start, settings)
    elapsed = time.monotonic() - began
    how = how_to_learn(corpus, settings, start)
    fitted = fit_settings(minutes, elapsed, corpus.table, settings, rates, *how)
    return corpus if fitted.data == settings.data else None, fitted


def how_to_learn(
    corpus: Corpus, settings: Settings, start: Start
) -> tuple[Callable[[float], Plan], float]:
    """The classifier's plan, given the passes over all labels that there is time for; and the
    passes that an epoch of it makes."""
    growth = growth_of(corpus.table, settings)
    n_texts = round(len(texts_to_learn(corpus.table, settings)) * growth)
    largest, architecture = settings.classifier.batch_size, architecture_of(start.shape)

    def plan_for(passes: float) -> Plan:
        return _plan_for(start, settings, passes / growth, n_texts, corpus.multilabel)[0]

    return plan_for, growth * passes_per_epoch(n_texts, largest, architecture)
