"""Splits by time, columns of groups, and the refusal of those that cannot be compared by."""

from dataclasses import replace

import pandas as pd
import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import DataError, SettingError

N = 100


@pytest.fixture
def table():
    """100 texts, one a day, in an order that says nothing of the time."""
    days = pd.date_range("2026-01-01", periods=N).strftime("%Y-%m-%d")
    texts = [f"the {i}th of many films was {'good' if i % 2 else 'bad'}" for i in range(N)]
    labels = ["pos" if i % 2 else "neg" for i in range(N)]
    rows = pd.DataFrame({"text": texts, "label": labels, "day": days})
    return rows.assign(who=["a", "b", "b", ""] * (N // 4)).sample(frac=1, random_state=3)


@pytest.fixture
def load(table, tmp_path):
    def made(changed=table, **how):
        changed.to_csv(tmp_path / "films.csv", index=False)
        settings = DataSettings(str(tmp_path / "films.csv"), time="day")
        return load_corpus(replace(settings, **how), seed=1)

    return made


def spans(corpus):
    days = corpus.table.groupby("split")["day"]
    return {split: (days.min()[split], days.max()[split], days.size()[split]) for split, _ in days}


def test_the_latest_are_tested_and_the_latest_before_them_validated_on(load):
    corpus = load(test_share=0.2, valid_share=0.25)
    assert spans(corpus) == {
        "train": ("2026-01-01", "2026-03-01", 60),
        "valid": ("2026-03-02", "2026-03-21", 20),
        "test": ("2026-03-22", "2026-04-10", 20),
    }
    said = "Split valid is made of 20 texts, 25.0% of the 80 in train: those of column 'day' from"
    assert any(note.startswith(said) for note in corpus.notes)
    assert corpus.time == "day"


def test_texts_of_one_moment_are_in_one_split(load, table):
    months = load(table.assign(day=table["day"].str[:7]))
    assert not set(months.table.loc[months.table["split"] == "test", "day"]) & set(
        months.table.loc[months.table["split"] != "test", "day"]
    )


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_a_fold_validates_on_a_period_and_learns_what_is_before_it(load, fold):
    corpus = load(folds=3, fold=fold)
    days = corpus.table.groupby("split")["day"]
    counts = corpus.table["split"].value_counts()
    assert counts.to_dict() == {"train": 20 * fold, "valid": 20, "test": 20}
    assert days.max()["train"] < days.min()["valid"] <= days.max()["valid"] < days.min()["test"]
    left_out = [note for note in corpus.notes if "after it are left out" in note]
    assert bool(left_out) == (fold < 3)


def test_many_texts_of_one_moment_leave_no_fold_empty(load, table):
    day = table["day"].where(table["day"] > "2026-03-01", "2026-01-01")
    for fold in (1, 2, 3, 4):
        counts = load(table.assign(day=day), folds=4, fold=fold).table["split"].value_counts()
        assert counts.min() > 0


def test_a_text_without_a_time_is_dropped_and_counted(load, table):
    corpus = load(table.assign(day=table["day"].where(table["day"] > "2026-01-05", "")))
    assert len(corpus.table) == N - 5
    assert "Dropped 5 texts without a time in column 'day'." in corpus.notes


def test_unlabelled_texts_of_the_time_that_is_tested_are_not_read(load, table):
    new = pd.DataFrame({"text": ["an old one", "a late one", "one of no day"], "who": "a"})
    new = new.assign(label="", day=["2026-01-02", "2026-04-09", ""], split="unlabelled")
    corpus = load(pd.concat([table.assign(split="train"), new]))
    assert corpus.texts("unlabelled") == ["an old one"]
    assert any("Dropped 2 unlabelled texts from after" in note for note in corpus.notes)


def test_a_given_test_split_stays_and_what_train_has_after_it_is_counted(load, table):
    split = table["day"].between("2026-02-01", "2026-02-10").map({True: "test", False: "train"})
    corpus = load(table.assign(split=split))
    assert spans(corpus)["test"] == ("2026-02-01", "2026-02-10", 10)
    said = "begins at 2026-02-01: 59 texts of train are not before it."
    assert any(said in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"time": "date"}, "has no column 'date', which --time names. Its other columns: 'day'"),
        ({"time": "who"}, "Column 'who' holds no dates"),
        ({"folds": 99}, "--folds 99 needs 100 periods"),
        ({"groups": ("whom",)}, "has no column 'whom', which --groups names"),
        ({"groups": ("day",), "time": None}, "has 100 values in the 100 rows that are used"),
    ],
)
def test_a_column_that_is_not_there_or_holds_something_else_is_refused(load, how, said):
    with pytest.raises(DataError) as refused:
        load(**how)
    assert said in str(refused.value)


def test_one_time_or_one_group_for_all_is_refused(load, table):
    with pytest.raises(DataError, match="No split test can be made by time: all 100 texts"):
        load(table.assign(day="2026-01-01"))
    with pytest.raises(DataError, match="has the one value 'a' in all 100 rows"):
        load(table.assign(who="a"), groups=("who",))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"groups": ("who", "who")}, "name a column twice: 'who', 'who'"),
        ({"groups": ("day",)}, "name a column twice: 'day' and 'day'"),
        ({"groups": ("label",)}, "holds the texts, the labels or the splits"),
        ({"groups": ("text",), "text": "text"}, "holds the texts, the labels or the splits"),
    ],
)
def test_a_column_has_one_meaning(load, how, said):
    with pytest.raises(SettingError) as refused:
        load(**how)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["predicted", "p_who", "update"])
def test_a_column_called_as_predictions_are_is_refused(load, table, name):
    with pytest.raises(SettingError, match=f"--groups {name}: predictions have columns of such"):
        load(table.rename(columns={"who": name}), groups=(name,))


def test_columns_of_groups_and_times_are_not_taken_for_texts_or_labels(load, table):
    corpus = load(table.rename(columns={"who": "class", "text": "words"}), groups=("class",))
    assert set(corpus.labels) == {"neg", "pos"}
    assert corpus.groups == ("class",)
    assert set(corpus.table["class"]) == {"a", "b", ""}


def test_the_first_moment_is_learned_however_large_a_share_is_tested(load, table):
    months = table["day"].str[:7].replace("2026-04", "2026-03")
    with pytest.raises(DataError) as refused:
        load(table.assign(day=months), test_share=0.99)
    said = "No split valid can be made by time: all 31 texts that may be cut have the same time in"
    assert f"{said} column 'day', 2026-01-01." in str(refused.value)
