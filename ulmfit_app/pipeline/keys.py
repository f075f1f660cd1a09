"""Stages' identities: what each stage's result depends on, hashed."""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline.augmenting import read_by_augmentation
from ulmfit_app.pipeline.record import DECIDED, DirectionPlan, Parent, Teacher
from ulmfit_app.pipeline.selection import Selection
from ulmfit_app.run_folder import AUGMENT, TEACHER
from ulmfit_app.settings_json import section_to_json
from ulmfit_app.training.balance import chooses_thresholds

OF_DECISION = ("thresholds", "costs", "equal_recall")  # that no weights depend on
# What planning reads of a stage's settings; the stage itself reads what comes of it.
PLANNED = {
    "lm": ("pretrained", "epochs", "max_tokens", "test_texts"),
    "classifier": (
        *("plan", "epochs", "max_tokens", "lr_mult", "decay", "drop_mult"),
        *OF_DECISION,
        "recompute",  # of the machine: no result depends on it
    ),
    "distillation": ("teachers",),
    "update": ("parent", "replay", "epochs", "lr", "new_labels"),
    "augment": (),
}


def key_of(*parts: Any) -> str:
    """A hash of JSON-ready parts."""
    strings = (json.dumps(part, sort_keys=True, default=str) for part in parts)
    return sha256_of_strings(strings)[:32]


def stage_keys(
    settings: Settings,
    corpus: Corpus,
    selection: Selection,
    directions: list[DirectionPlan],
    teachers: list[Teacher],
    costs: list[list[float]],
    parent: Parent | None,
    kept: dict[str, str] | None = None,
) -> dict[str, str]:
    """What each stage's result depends on, hashed: its inputs and the settings that it reads.

    Versions, precision and paths are facts beside a result: another torch, a slower precision or a
    moved folder makes no finished stage unfinished.

    kept: of stages that stay as they are, where the selection was made anew behind them.
    """
    kept = kept or {}
    table, split = corpus.table, selection.split
    rows = split.index[split != ""]
    read = selection.read[rows].astype(str)
    content = sha256_of_strings([*table["text"][rows], *table["label"][rows], *split[rows], *read])
    words = _hash_known(directions[0].start)
    # What is left of a pruned teacher has no words but its own.
    only = [True] if settings.distillation.pruned else []
    pulled = [settings.update.pull] if parent else []
    updated = [parent.fingerprint, _read_by("update", settings)] if parent else []
    how = {name: value for name, value in asdict(settings.tokens).items() if value is not None}
    keys = {"tokens": key_of(content, how, words, *only, *(["grown"] if parent else []))} | kept
    # The tokens' identity says which texts are for what, unless that was decided after them.
    anew = [content] if kept else []
    taught: tuple[Any, ...] = ()
    if teachers:
        learned = selection.learned[rows].astype(str).tolist()
        fingerprints = [each.fingerprint for each in teachers]
        has_states = bool(settings.distillation.states_weight)
        keys[TEACHER] = key_of(content, learned, fingerprints, has_states)
        taught = (keys[TEACHER], _read_by("distillation", settings))
    for each in directions:
        start = each.start
        keys[each.named("lm")] = key_of(
            keys["tokens"], _read_by("lm", settings), selection.lm_epochs, start.fingerprint,
            start.direction, settings.seed, *pulled, *anew,
        )  # fmt: skip
    keys |= kept
    augmented = _augmented(settings, keys, anew)
    if settings.augment.makes_texts:
        (keys[AUGMENT],) = augmented
    classifiers, weighed = [], _weighed(settings, corpus, rows)
    for each in directions:
        how = _read_by("classifier", settings), each.plan.to_json()
        decided = _decided(settings, corpus.multilabel, costs)
        others = *taught, *augmented, *weighed, *updated, *anew
        weights = key_of(keys[each.named("lm")], *how, *others)
        classifiers.append(weights + decided)
        keys[each.named("classifier")] = classifiers[-1]
    learned = sha256_of_strings(table["text"][table["split"] == "train"])
    compared = [[*corpus.groups], corpus.time] if corpus.groups or corpus.time else []
    keys["report"] = key_of(learned, *classifiers, *compared)
    return keys


def _hash_known(start: Start) -> str | None:
    # A transformer's tokens are those of its tokenizer.
    known = [start.tokenizer] if start.tokenizer else start.vocab
    return sha256_of_strings(known) if known else None


def _augmented(settings: Settings, keys: dict[str, str], anew: list[str]) -> list[Any]:
    """What a classifier's identity has of augmentation; of texts, that of their stage."""
    if settings.augment.method == "none":
        return []
    how = _read_by("augment", settings)
    if not settings.augment.makes_texts:
        return [how]
    read = [keys[name] for name in ("tokens", *read_by_augmentation(settings))]
    return [key_of(how, settings.seed, *read, *anew)]


def _decided(settings: Settings, multilabel: bool, costs: list[list[float]]) -> str:
    """What a classifier's identity has behind that of its weights."""
    has_thresholds = chooses_thresholds(settings.classifier, multilabel)
    label = settings.classifier.equal_recall
    if not costs and not has_thresholds and label is None:
        return ""
    by_group = [] if label is None else [label, settings.data.groups[0]]
    return f"{DECIDED}{key_of(has_thresholds, costs, *by_group)}"


def _weighed(settings: Settings, corpus: Corpus, rows: pd.Index) -> list[str]:
    """What a classifier's identity has of groups that its texts are weighed by."""
    if settings.classifier.balance != "groups":
        return []
    return [sha256_of_strings(corpus.table.loc[rows, name]) for name in corpus.groups]


def _read_by(section: str, settings: Settings) -> dict[str, Any]:
    values = section_to_json(settings, section)
    return {name: value for name, value in values.items() if name not in PLANNED[section]}
