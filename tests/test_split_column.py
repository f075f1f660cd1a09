"""Which column says the splits, what is refused in it, and what the tested texts are called."""

from collections import Counter

import pandas as pd
import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import DataError

TRAIN, TEST = ["train"] * 80, ["test"] * 20


def write(path, **columns):
    """A table of 100 texts with two labels, and these columns, each cell as it is."""
    table = {
        "text": [f"text number {i} of a review" for i in range(100)],
        "label": ["pos", "neg"] * 50,
    }
    pd.DataFrame(table | columns).to_csv(path, index=False)
    return path


def load(path, **settings):
    return load_corpus(DataSettings(source=str(path), **settings), seed=0)


def refused(path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", ["split", "Split"])
@pytest.mark.parametrize("odd", ["tset", "", " ", "holdout"])
def test_an_odd_or_empty_word_in_a_split_column_is_refused_with_its_row(tmp_path, name, odd):
    words = [*TRAIN, *TEST]
    words[70] = words[90] = odd
    message = refused(write(tmp_path / "a.csv", **{name: words}))
    found = odd or ""
    assert f"Column '{name}' of {tmp_path / 'a.csv'} has '{found}' in 2 of 100 rows" in message
    assert "first in row 70 (counted from 0)" in message
    assert "Expected train, valid, test or unlabelled" in message and "--split COLUMN" in message


def test_a_split_column_of_which_few_cells_are_filled_is_refused_and_never_ignored(tmp_path):
    message = refused(write(tmp_path / "a.csv", split=[""] * 80 + TEST))
    assert "has '' in 80 of 100 rows, first in row 0" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["top", "bottom"] * 50, "Column 'split' holds 'top', 'bottom' instead of train, valid"),
        ([""] * 100, "Column 'split' is empty instead of train, valid and test"),
    ],
)
def test_a_column_called_split_that_is_none_is_left_unused_and_said(tmp_path, words, said):
    corpus = load(write(tmp_path / "a.csv", split=words))
    assert any(note.startswith(said) and "not used" in note for note in corpus.notes)
    assert Counter(corpus.table["split"]) == {"train": 72, "valid": 8, "test": 20}
    assert "column split" in corpus.table


def test_of_two_split_columns_the_one_that_is_one_is_taken_and_doubt_is_refused(tmp_path):
    words = [*TRAIN, *TEST]
    corpus = load(write(tmp_path / "a.csv", split=["x", "y"] * 50, Split=words))
    assert corpus.texts("test")[0].startswith("text number 80") and len(corpus.texts("test")) == 20
    message = refused(write(tmp_path / "b.csv", split=words, SPLIT=words))
    assert "'split', 'SPLIT'; which one holds the splits" in message
    assert "--split COLUMN" in message
    assert load(tmp_path / "b.csv", split="SPLIT").texts("test")


@pytest.mark.parametrize("yes_and_no", [("True", "False"), ("1", "0"), ("1.0", "0.0")])
@pytest.mark.parametrize("named", [True, False])
def test_fastais_is_valid_is_understood(tmp_path, yes_and_no, named):
    yes, no = yes_and_no
    path = write(tmp_path / "a.csv", is_valid=[no] * 90 + [yes] * 10)
    corpus = load(path, **({"split": "is_valid"} if named else {}))
    assert corpus.texts("valid") == [f"text number {i} of a review" for i in range(90, 100)]
    assert Counter(corpus.table["split"]) == {"train": 72, "valid": 10, "test": 18}
    assert ("Took the splits from column 'is_valid'." in corpus.notes) != named


def test_a_split_column_comes_before_is_valid(tmp_path):
    corpus = load(
        write(
            tmp_path / "a.csv",
            is_valid=["True", "True", "False", "False"] * 25,
            split=[*TRAIN, *TEST],
        )
    )
    assert Counter(corpus.table["split"]) == {"train": 72, "valid": 8, "test": 20}
    assert "is_valid" in corpus.table
    unused = load(
        write(
            tmp_path / "b.csv", is_valid=["True", "True", "False", "False"] * 25, split=["x"] * 100
        )
    )
    assert len(unused.texts("valid")) == 50


def test_an_odd_cell_in_is_valid_is_refused(tmp_path):
    cells = ["False"] * 90 + ["True"] * 9 + ["maybe"]
    message = refused(write(tmp_path / "a.csv", is_valid=cells))
    assert "has 'maybe' in 1 of 100 rows, first in row 99" in message
    assert "Expected true or false in every row" in message
    words = refused(write(tmp_path / "b.csv", part=["True", "False"] * 50), split="part")
    assert "Expected train, valid, test or unlabelled" in words


def test_a_column_that_is_named_for_texts_or_labels_is_no_split(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame(
        {"text": [f"text {i}" for i in range(60)], "split": ["train", "test"] * 30}
    ).to_csv(path, index=False)
    assert load(path, text="text", label="split").labels == ["test", "train"]
    table = {"text": [f"is text {i} valid" for i in range(60)], "is_valid": ["True", "False"] * 30}
    pd.DataFrame(table).to_csv(tmp_path / "b.csv", index=False)
    assert load(tmp_path / "b.csv").labels == ["False", "True"]


# ---------------------------------------------------------------------- splits that cannot be used
@pytest.mark.parametrize("missing", ["", "nan"])
def test_a_test_split_without_labels_is_said_and_the_tested_part_named_as_held_out(
    tmp_path, missing
):
    labels = ["pos", "neg"] * 40 + [missing] * 20
    corpus = load(write(tmp_path / "a.csv", label=labels, split=[*TRAIN, *TEST]))
    assert corpus.test_name == "held-out part of a.csv"
    note = "No row of split test has both a text and a label: a test split is held out of train"
    assert any(one.startswith(note) for one in corpus.notes)
    assert not {f"text number {i} of a review" for i in range(80, 100)} & set(corpus.table["text"])


def test_a_test_split_of_which_some_rows_have_labels_stays_the_test_split(tmp_path):
    labels = ["pos", "neg"] * 45 + [""] * 10
    corpus = load(write(tmp_path / "a.csv", label=labels, split=[*TRAIN, *TEST]))
    assert corpus.test_name == "test split of a.csv" and len(corpus.texts("test")) == 10


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_given_split_of_empty_texts_is_refused(tmp_path, split):
    texts = [f"text number {i}" for i in range(80)] + [" \t"] * 20
    message = refused(write(tmp_path / "a.csv", text=texts, split=[*TRAIN, *[split] * 20]))
    assert f"All 20 texts of split {split} in {tmp_path / 'a.csv'} are empty" in message
    assert "held out of train" in message


def test_a_test_folder_of_blank_files_is_refused(tmp_path):
    for split, label, text in (
        *(("train", label, "a text") for label in ("pos", "neg")),
        *(("test", label, " \n") for label in ("pos", "neg")),
    ):
        folder = tmp_path / "data" / split / label
        folder.mkdir(parents=True)
        for i in range(10):
            (folder / f"{i}.txt").write_text(text if not text.strip() else f"{text} {label} {i}")
    assert "All 20 texts of split test" in refused(tmp_path / "data")


# ----------------------------------------------------------------------------------- other columns
def test_the_column_of_the_texts_is_remembered_and_none_where_there_is_none(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame(
        {"body": [f"a body {i}" for i in range(40)], "text": "x", "team": ["a", "b"] * 20}
    ).to_csv(path, index=False)
    assert load(path, text="body", label="team").text_column == "body"
    assert load(write(tmp_path / "b.csv")).text_column == "text"
    for label in ("pos", "neg"):
        (tmp_path / "c" / label).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "c" / label / f"{i}.txt").write_text(f"a {label} text {i}")
    assert load(tmp_path / "c").text_column is None


def test_a_column_called_row_gets_another_name_and_it_is_said(tmp_path):
    corpus = load(write(tmp_path / "a.csv", row=[str(i) for i in range(100)]))
    assert "row" not in corpus.table and corpus.table["column row"][7] == "7"
    note = "Kept column 'row' as 'column row', since row has another meaning here."
    assert note in corpus.notes
    table = pd.DataFrame({"row": [f"text {i}" for i in range(40)], "label": ["a", "b"] * 20})
    table.to_csv(tmp_path / "b.csv", index=False)
    assert load(tmp_path / "b.csv", text="row").table.columns.tolist() == [
        "text",
        "label",
        "split",
    ]


def test_columns_called_none_are_columns(tmp_path):
    table = pd.DataFrame(
        {
            "None": [f"text {i} of a review" for i in range(40)],
            "none": ["a", "b"] * 20,
            "NONE": ["train", "train", "test", "test"] * 10,
        }
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    corpus = load(tmp_path / "a.csv", text="None", label="none", split="NONE")
    assert corpus.text_column == "None" and len(corpus.texts("test")) == 20
