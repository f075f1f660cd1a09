"""Random tables, full of copies: what is held out is never what is learned from."""

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.data import corpus
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.sources import Draft
from ulmfit_app.pipeline.selection import select
from ulmfit_app.presets import TINY
from ulmfit_app.training.recipes import make_plan

LABELS = ["neg", "pos"]
LEARNED = ("train", "unlabelled")
N, BLOCK = 120, 6  # rows of each label, and of a block of neighbours


def draft_of(rng: random.Random, blocks: bool, given: tuple[str, ...] = ()) -> Draft:
    """Rows of which a third are copies of others, of the other label too."""
    texts: list[str] = []
    rows, groups = [], []
    for label in LABELS:
        for i in range(N):
            copied = texts and rng.random() < 0.35
            texts.append(rng.choice(texts) if copied else f"text {len(texts)}")
            # As IMDb has them: neighbours are of one film, as far as the data tell.
            groups.append(f"{label} {i // BLOCK}")
            rows.append((texts[-1], label, "train"))
    for split in given:
        rows += [(f"{split} {i}", rng.choice(LABELS), split) for i in range(20)]
    for _ in range(60):
        rows.append((rng.choice(rows)[0], "", "unlabelled"))
    groups += [""] * (len(rows) - len(groups))
    table = pd.DataFrame(rows, columns=["text", "label", "split"], dtype=object)
    return Draft(table, "made", "test", "by chance", [], groups if blocks else None)


def split_by(draft: Draft, monkeypatch, seed: int, **settings) -> pd.DataFrame:
    monkeypatch.setattr(corpus, "read_source", lambda _: draft)
    return load_corpus(DataSettings("made", **settings), seed).table


def splits_of_texts(table: pd.DataFrame) -> dict[str, set[str]]:
    found = defaultdict(set)
    for text, split in table[["text", "split"]].itertuples(index=False):
        found[text].add(split)
    return found


def expect_apart(table: pd.DataFrame) -> None:
    """No text is in two of train, valid and test, and none of the last two is read unlabelled."""
    for text, splits in splits_of_texts(table).items():
        assert len(splits) == 1 or splits == set(LEARNED), (text, splits)
    assert set(table["split"]) == {"train", "valid", "test", "unlabelled"}


@pytest.mark.parametrize("blocks", [False, True], ids=["texts", "blocks"])
@pytest.mark.parametrize("given", [(), ("test",), ("valid",)], ids="-".join)
def test_no_text_is_in_two_splits_that_are_made(blocks, given, monkeypatch):
    for seed in range(8):
        draft = draft_of(random.Random(seed), blocks, given)
        expect_apart(split_by(draft, monkeypatch, seed))


@pytest.mark.parametrize(
    "blocks",
    [
        False,
        True,
    ],
    ids=["texts", "blocks"],
)
def test_a_made_validation_split_holds_no_text_of_a_given_test_split(blocks, monkeypatch):
    for seed in range(8):
        rng = random.Random(seed)
        draft = draft_of(rng, blocks, ("test",))
        table = draft.table
        train = table.loc[table["split"] == "train", "text"].tolist()
        shared = table.index[table["split"] == "test"][:6]
        table.loc[shared, "text"] = rng.sample(train, 6)
        found = splits_of_texts(split_by(draft, monkeypatch, seed))
        assert any({"train", "test"} <= splits for splits in found.values())
        for split in ("train", "test"):
            assert not [text for text, splits in found.items() if {"valid", split} <= splits]


@pytest.mark.parametrize("blocks", [False, True], ids=["texts", "blocks"])
def test_no_text_is_in_two_splits_of_any_fold_and_each_is_held_out_in_one(blocks, monkeypatch):
    for seed in range(3):
        held_out, tested = [], []
        for fold in range(1, 5):
            draft = draft_of(random.Random(seed), blocks)
            table = split_by(draft, monkeypatch, seed, folds=4, fold=fold)
            expect_apart(table)
            held_out.append(set(table.loc[table["split"] == "valid", "text"]))
            tested.append(set(table.loc[table["split"] == "test", "text"]))
        assert all(texts == tested[0] for texts in tested)
        every = set(draft.table["text"]) - tested[0]
        assert set().union(*held_out) == every and sum(map(len, held_out)) == len(every)


def test_a_block_stays_together_but_for_copies_of_texts_of_earlier_blocks(monkeypatch):
    """They go where the text was first."""
    for seed in range(8):
        draft = draft_of(random.Random(seed), blocks=True)
        table = split_by(draft, monkeypatch, seed)
        split_of = {
            text: splits - {"unlabelled"} for text, splits in splits_of_texts(table).items()
        }
        of_block, first = defaultdict(set), {}
        for text, group in zip(draft.table["text"], draft.groups, strict=True):
            if group and first.setdefault(text, group) == group:
                of_block[group] |= split_of[text]
        assert len(of_block) == 2 * N // BLOCK
        assert {len(splits) for splits in of_block.values()} == {1}


@pytest.mark.parametrize("test_texts", [False, True])
def test_no_bound_makes_a_held_out_text_one_that_is_learned_from(test_texts, monkeypatch):
    rng = random.Random(0)
    plan = make_plan("full", 4)
    for seed in range(20):
        table = split_by(draft_of(rng, blocks=False), monkeypatch, seed)
        bounds = [rng.choice([None, rng.randint(50, 900)]) for _ in range(2)]
        settings = replace(
            TINY,
            seed=seed,
            lm=replace(TINY.lm, max_tokens=bounds[0], test_texts=test_texts),
            classifier=replace(TINY.classifier, max_tokens=bounds[1] and 8 * bounds[1]),
        )
        selection = select(table, settings, plan)
        split, use = table["split"].to_numpy(), selection.split.to_numpy()
        for held_out in ("valid", "test"):
            assert np.array_equal(use == held_out, split == held_out)
        assert set(split[use == "train"]) == {"train"}
        assert set(split[use == "unlabelled"]) <= set(LEARNED)
        assert set(table["label"][use == "train"]) == set(LABELS)
        readable = {*LEARNED, *(["test"] if test_texts else [])}
        assert set(split[selection.read.to_numpy()]) <= readable
        assert any("test split too" in note for note in selection.notes) == test_texts
        expect_apart(table)
