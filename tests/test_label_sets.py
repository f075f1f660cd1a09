"""Several labels a text: as files write them, and shared out over splits and folds."""

import json

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.label_sets import rarest_labels, share_out
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.evaluation.tables import read_set

LABELS = ["anger", "fear", "joy"]


def written(tmp_path, cells, name="moods.csv", **columns):
    """A table of so many different texts, in a file."""
    table = pd.DataFrame({"text": [f"text number {i}" for i in range(len(cells))], "label": cells})
    table.assign(**columns).to_csv(tmp_path / name, index=False)
    return tmp_path / name


def loaded(path, **settings):
    return load_corpus(DataSettings(str(path), multilabel=True, **settings), seed=1)


def sets_of(corpus):
    """The labels of each text, by its number."""
    number = corpus.table["text"].str.split().str[-1].astype(int)
    return {n: read_set(cell) for n, cell in zip(number, corpus.table["label"], strict=True)}


SETS = [["joy"], ["anger", "fear"], ["fear"], ["anger"], ["joy", "fear"], ["anger", "joy"]] * 10


@pytest.mark.parametrize(
    "spell",
    [
        json.dumps,
        str,
        ", ".join,
        ";".join,
        " | ".join,
    ],
    ids=["JSON list", "Python list", "comma", "semicolon", "bar"],
)
def test_lists_and_separators_give_the_same_labels(tmp_path, spell):
    corpus = loaded(written(tmp_path, [spell(one) for one in SETS]))
    assert corpus.labels == LABELS and corpus.multilabel
    assert {n: set(found) for n, found in sets_of(corpus).items()} == {
        n: set(one) for n, one in enumerate(SETS)
    }
    assert any("several a text" in note for note in corpus.notes)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_lists_of_json_and_parquet_give_the_same_labels(tmp_path, kind):
    table = pd.DataFrame({"text": [f"text number {i}" for i in range(len(SETS))], "label": SETS})
    path = tmp_path / f"moods.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=kind == "jsonl")
    assert {n: set(found) for n, found in sets_of(loaded(path)).items()} == {
        n: set(one) for n, one in enumerate(SETS)
    }
    with pytest.raises(DataError, match="--multilabel"):
        load_corpus(DataSettings(str(path)), seed=1)


def test_one_column_a_label_gives_the_same_labels(tmp_path):
    columns = {label: [str(int(label in one)) for one in SETS] for label in LABELS}
    path = written(tmp_path, [f"row {i}" for i in range(len(SETS))], **columns)
    table = pd.read_csv(path).drop(columns="label")
    table.to_csv(path, index=False)
    for settings in ({}, {"label_columns": ("joy", "anger", "fear")}):
        corpus = loaded(path, **settings)
        assert {n: set(found) for n, found in sets_of(corpus).items()} == {
            n: set(one) for n, one in enumerate(SETS)
        }


def test_columns_may_say_yes_in_several_ways_and_nothing_at_all(tmp_path):
    cells = {"joy": ["1.0", "TRUE", "yes", "0.0", ""] * 12, "fear": ["0", "1", "no", "1", ""] * 12}
    path = written(tmp_path, ["x"] * 60, **cells)
    corpus = loaded(path, label_columns=("joy", "fear"))
    found = sets_of(corpus)
    assert [found[n] for n in range(4)] == [["joy"], ["joy", "fear"], ["joy"], ["fear"]]
    assert len(found) == 48 and any("Dropped 12 of 60 rows" in note for note in corpus.notes)


def test_a_text_counts_by_the_rarest_of_its_labels():
    cells = pd.Series(['["a", "b"]', '["a"]', '["b"]', '["b", "c"]', "[]"])
    assert rarest_labels(cells).tolist() == ["a", "a", "b", "c", ""]


def test_truth_is_a_column_of_ones_for_each_label(tmp_path):
    corpus = loaded(written(tmp_path, [",".join(one) for one in SETS]))
    truth = corpus.truth(corpus.table["label"])
    assert truth.shape == (len(SETS), 3) and truth.dtype == np.float32
    found = [[LABELS[i] for i in np.flatnonzero(row)] for row in truth]
    assert found == [sorted(read_set(cell)) for cell in corpus.table["label"]]


@pytest.mark.parametrize(("how", "n"), [("auto", 61), ("keep", 62), ("drop", 60)])
def test_texts_without_labels_are_kept_or_dropped_and_counted(tmp_path, how, n):
    cells = [*map(json.dumps, SETS), "[]", ""]
    corpus = loaded(written(tmp_path, cells), without_label=how)
    assert len(corpus.table) == n
    said = " ".join(corpus.notes)
    assert (f"{n - 60:,} of" in said and "none of the labels" in said) == (how != "drop")
    assert ("whose label is empty" in said) == (how != "keep")


def test_repeated_and_empty_labels_of_a_cell_are_left_out_and_counted(tmp_path):
    cells = [",".join(one) for one in SETS[:-1]] + ["joy,,joy,"]
    corpus = loaded(written(tmp_path, cells))
    assert sets_of(corpus)[len(SETS) - 1] == ["joy"]
    assert any("empty or repeated in the cells of 1 rows" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("cells", "settings", "said"),
    [
        (["a", "b"] * 20, {}, "is a list or has one of"),
        (["a", "b"] * 20, {"separator": "/"}, "'/' never occurs"),
        (["a,b", "b;a"] * 20, {}, "one of them separates"),
        (["[a", "['a', b]"] * 20, {}, "expected a list of labels"),
        (["a,b", "b"] * 20, {"label_columns": ("mood",)}, "has no column 'mood'"),
    ],
)
def test_labels_that_cannot_be_read_get_one_clear_error(tmp_path, cells, settings, said):
    with pytest.raises(DataError) as error:
        loaded(written(tmp_path, cells), **settings)
    assert said in str(error.value)


def test_a_column_of_a_label_says_yes_or_no(tmp_path):
    path = written(tmp_path, ["x"] * 4, joy=["1", "0", "2", "1"])
    with pytest.raises(DataError, match=r"row 2 .*expected 1 or 0 in column 'joy'.*found '2'"):
        loaded(path, label_columns=("joy",))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"separator": ","}, "--separator: for texts that may have several labels"),
        ({"multilabel": True, "label": "label", "label_columns": ("a",)}, "Leave one of them out"),
    ],
)
def test_settings_of_labels_that_contradict_each_other_are_refused(tmp_path, settings, said):
    path = written(tmp_path, ["a", "b"])
    with pytest.raises(SettingError) as error:
        load_corpus(DataSettings(str(path), **settings), seed=1)
    assert said in str(error.value)


def test_a_data_set_of_one_label_a_text_takes_no_multilabel(tmp_path):
    for name in ("pos", "neg"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.txt").write_text("a text")
    with pytest.raises(SettingError, match="class folders, in which a text has one label"):
        loaded(tmp_path / "set")


def test_a_label_in_test_alone_is_an_error(tmp_path):
    split = ["train"] * 30 + ["valid"] * 10 + ["test"] * 20
    cells = [",".join(one) for one in SETS[:-1]] + ["joy,awe"]
    with pytest.raises(DataError, match="only in split test, never in train: 'awe'"):
        loaded(written(tmp_path, cells, split=split))


def test_a_label_with_one_text_is_an_error_where_splits_are_made(tmp_path):
    cells = [",".join(one) for one in SETS[:-1]] + ["joy,awe"]
    with pytest.raises(DataError, match=r"Too few different texts in 1 of 4 classes: 'awe' \(1\)"):
        loaded(written(tmp_path, cells))


def many_sets(n, seed=0):
    """Sets of labels of very different frequency."""
    generator, names = np.random.default_rng(seed), [f"l{i}" for i in range(8)]
    shares = 0.5 ** np.arange(1, 9)
    has = generator.random((n, 8)) < shares
    has[:16] |= np.tile(np.eye(8, dtype=bool), (2, 1))  # each label twice at least
    return [[name for name, one in zip(names, row, strict=True) if one] for row in has]


def test_made_splits_have_each_label_in_about_its_share(tmp_path):
    cells = [json.dumps(one) for one in many_sets(1_000)]
    corpus = loaded(written(tmp_path, cells))
    truth = corpus.truth(corpus.table["label"])
    for split, share in (("test", 0.2), ("valid", 0.1 * 0.8)):
        part = truth[(corpus.table["split"] == split).to_numpy()].sum(axis=0)
        assert (part >= 1).all()
        assert np.abs(part - share * truth.sum(axis=0)).max() <= 2
    assert (truth[(corpus.table["split"] == "train").to_numpy()].sum(axis=0) >= 1).all()


def test_folds_have_each_label_in_its_share_where_drawn_ones_do_not(tmp_path):
    cells = [json.dumps(one) for one in many_sets(1_000)]
    path = written(tmp_path, cells, split=["train"] * 900 + ["test"] * 100)
    seen, counts = [], []
    for fold in range(1, 6):
        corpus = loaded(path, folds=5, fold=fold)
        valid = corpus.table[corpus.table["split"] == "valid"]
        seen += valid["text"].tolist()
        counts.append(corpus.truth(valid["label"]).sum(axis=0))
    assert len(seen) == len(set(seen)) == 900  # each text is validated on once
    off = np.ptp(counts, axis=0)
    whole = np.sum(counts, axis=0)
    assert (off[whole >= 10] <= 2).all()
    drawn = np.random.default_rng(0).permutation(900)
    truth = corpus.truth(corpus.table.loc[corpus.table["split"] != "test", "label"])
    by_chance = np.ptp([truth[part].sum(axis=0) for part in np.array_split(drawn, 5)], axis=0)
    assert off.max() < by_chance.max()


def test_copies_of_a_text_stay_together(tmp_path):
    cells = [json.dumps(one) for one in many_sets(400)]
    table = pd.DataFrame({"text": [f"text {i // 2}" for i in range(400)], "label": cells})
    table.to_csv(tmp_path / "copies.csv", index=False)
    corpus = loaded(tmp_path / "copies.csv")
    assert (corpus.table.groupby("text")["split"].nunique() == 1).all()


def test_texts_are_shared_out_as_the_shares_say():
    generator = np.random.default_rng(0)
    has = (generator.random((300, 5)) < 0.3).astype(int)
    part = share_out(has, np.ones(300, int), [0.5, 0.3, 0.2], generator)
    sizes = np.bincount(part) / 300
    assert np.abs(sizes - [0.5, 0.3, 0.2]).max() < 0.03


def test_where_parts_lack_a_label_alike_the_emptier_one_gets_the_text():
    labels = np.eye(40, dtype=int)  # each text has a label of its own
    part = share_out(labels, np.ones(40, int), [0.5, 0.5], np.random.default_rng(0))
    assert np.bincount(part).tolist() == [20, 20]


def test_subsets_and_few_labels_have_each_label(tmp_path):
    path = written(tmp_path, [json.dumps(one) for one in many_sets(600)])
    for settings in ({"max_train": 40}, {"max_labels": 50}):
        corpus = loaded(path, **settings)
        train = corpus.table[corpus.table["split"] == "train"]
        assert len(train) == 40
        # A text of each label that is the rarest of some text is among them.
        assert (corpus.truth(train["label"]).sum(axis=0) >= 1).all()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["[]"] * 40, "Expected two labels or more in .*No text has one"),
        (['["a"]', "[]"] * 20, "The one label is 'a'.*a column of yes and no"),
        (['["a", "b"]', '["a"]', '["b", "c'] * 10, r"row 2 .*expected a list of labels.*b.*, .*c"),
    ],
)
def test_cells_that_hold_too_few_labels_or_a_broken_list_are_refused(tmp_path, cells, said):
    with pytest.raises(DataError, match=said):
        loaded(written(tmp_path, cells))


def test_a_label_that_all_texts_have_is_said(tmp_path):
    corpus = loaded(written(tmp_path, [",".join(["every", *one]) for one in SETS]))
    assert any(note.startswith("All texts have 'every'") for note in corpus.notes)


def test_labels_that_look_like_several_are_hinted_at_where_their_sets_are_rare(tmp_path):
    cells = [";".join(one) for one in many_sets(60) if one]
    with pytest.raises(DataError, match="Too few .* look like several in one.*--multi"):
        load_corpus(DataSettings(str(written(tmp_path, cells))), seed=1)


def test_columns_of_labels_are_hinted_at_and_found(tmp_path):
    columns = {label: [str(label in one).upper() for one in SETS] for label in LABELS}
    path = written(tmp_path, SETS, **columns)
    table = pd.read_csv(path, dtype=str).drop(columns="label")
    table.rename(columns={"text": "body"}).to_csv(path, index=False)
    assert loaded(path).labels == LABELS  # the one column that is left holds the texts
    table.replace({"TRUE": "1", "FALSE": "0"}).rename(columns={"text": "body"}).to_csv(path)
    with pytest.raises(DataError, match="are labels of their own, add: --multilabel"):
        load_corpus(DataSettings(str(path)), seed=1)


def test_empty_cells_are_not_counted_as_odd_ones(tmp_path):
    corpus = loaded(written(tmp_path, [*(",".join(one) for one in SETS), "", ""]))
    assert not any("empty or repeated" in note for note in corpus.notes)
