"""The table of a run and new rows behind it."""

import pandas as pd
import pytest

from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.extending import UPDATE, extend_corpus
from ulmfit_app.errors import DataError, SettingError


def corpus(*rows, labels=("neg", "pos"), origin="old.csv", notes=("a note",), **others):
    table = pd.DataFrame(rows, columns=["text", "label", "split"]).assign(**others)
    return Corpus(table, list(labels), origin, f"test split of {origin}", list(notes))


OLD = corpus(
    ("learned", "pos", "train"),
    ("learned too", "neg", "train"),
    ("validated", "pos", "valid"),
    ("tested", "neg", "test"),
    ("without a label", "", "unlabelled"),
)


def extended(*rows, old=OLD, is_update=False, grow=False, labels=("neg", "pos"), **others):
    new = corpus(*rows, labels=labels, origin="new.csv", notes=["new note"], **others)
    return extend_corpus(old, new, "runs/old", is_update, grow)


def test_new_rows_stand_behind_those_of_the_run_which_stay_as_they_are():
    found = extended(("fresh", "pos", "train"), ("fresh too", "neg", "test")).corpus
    columns = ["text", "label", "split"]
    pd.testing.assert_frame_equal(found.table.loc[:4, columns], OLD.table)
    assert found.table["text"].tolist()[5:] == ["fresh", "fresh too"]
    assert found.table[UPDATE].tolist() == [*"00000", *"11"]
    assert found.notes == ["a note", "New texts: new note"]
    assert found.test_name == "test split of old.csv (old) and test split of new.csv (new)"
    assert OLD.table.columns.tolist() == columns


def test_an_update_of_an_update_counts_on():
    first = extended(("fresh", "pos", "train"))
    second = extended(("fresher", "neg", "train"), old=first.corpus, is_update=True)
    assert second.corpus.table[UPDATE].tolist() == [*"00000", "1", "2"]


def test_a_text_that_the_run_tests_or_validates_on_is_never_learned():
    rows = ("  TESTED ", "pos", "train"), ("validated", "pos", "valid"), ("fresh", "pos", "train")
    found = extended(*rows).corpus
    assert found.table["text"].tolist()[5:] == ["fresh"]
    assert "New texts: dropped 2 texts that the run validates or tests on." in found.notes


def test_a_text_that_the_run_has_learned_from_is_not_tested_on():
    rows = ("Learned", "pos", "test"), ("without a label", "pos", "valid"), ("x", "pos", "train")
    found = extended(*rows).corpus
    assert found.table["text"].tolist() == [*OLD.table["text"], "x"]
    assert (
        "New texts: dropped 2 texts of the new validation and test splits, which the run has "
        "learned from."
    ) in found.notes


def test_a_text_that_comes_again_goes_by_its_new_label():
    rows = (
        ("learned", "neg", "train"),
        ("learned too", "neg", "train"),
        ("without a label", "pos", "train"),
    )
    found = extended(*rows).corpus
    assert found.table["text"].tolist() == [
        *("learned too", "validated", "tested"),
        *("learned", "without a label"),
    ]
    assert found.table["label"].tolist()[3:] == ["neg", "pos"]
    assert found.notes[-2:] == [
        "New texts: dropped 1 text that the run has already.",
        "New texts: 2 texts that the run has under another label, or without one, go by the new "
        "one.",
    ]


def test_a_label_that_the_run_does_not_know_is_refused_or_learned():
    rows = ("fresh", "Pos", "train"), ("fresh too", "mixed", "train")
    labels = ("Pos", "mixed", "neg")
    with pytest.raises(SettingError) as error:
        extended(*rows, labels=labels)
    assert str(error.value) == (
        "new.csv has 2 labels that runs/old does not know: 'Pos', 'mixed'. It knows 'neg', "
        "'pos'. Spelled in several ways: 'pos', 'Pos'. Correct them, or let the classifier learn "
        "them: --new-labels"
    )
    found = extended(*rows, labels=labels, grow=True)
    assert found.new_labels == ["Pos", "mixed"]
    assert found.corpus.labels == ["Pos", "mixed", "neg", "pos"]


def test_where_all_new_texts_are_known_nothing_is_left_to_learn():
    with pytest.raises(DataError) as error:
        extended(("learned", "pos", "train"), ("tested", "pos", "train"))
    assert str(error.value) == (
        "None of the 2 new texts in new.csv is left to learn from: New texts: dropped 1 text that "
        "the run validates or tests on. New texts: dropped 1 text that the run has already. Give "
        "others."
    )


def test_columns_of_one_side_alone_are_empty_on_the_other():
    old = extended(("fresh", "pos", "train"), source="web").corpus
    assert old.table["source"].tolist() == ["", "", "", "", "", "web"]
    assert old.table.columns.tolist()[-1] == UPDATE


def test_a_column_of_the_users_that_is_called_update_gets_another_name():
    found = extended(("fresh", "pos", "train"), update="v2").corpus
    assert found.table["column update"].tolist()[-1] == "v2"
    assert found.table[UPDATE].tolist()[-1] == "1"
    assert "Kept column 'update' as 'column update', since update has another meaning here." in (
        found.notes
    )
