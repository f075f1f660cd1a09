"""Few labels: which texts keep theirs, and what becomes of the others."""

import pandas as pd
import pytest

from tests.conftest import reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.few_labels import Sizes, divide_labels
from ulmfit_app.errors import SettingError
from ulmfit_app.settings_json import from_json, to_json

LABELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """150 training texts of three labels, 60 for validation, 30 to test and 20 unlabelled."""
    table = reviews(260)
    table["sentiment"] = [LABELS[i % 7 % 3] for i in range(260)]
    table["split"] = ["train"] * 150 + ["valid"] * 60 + ["test"] * 30 + ["unlabelled"] * 20
    table.loc[table["split"] == "unlabelled", "sentiment"] = ""
    path = tmp_path_factory.mktemp("few") / "reviews.csv"
    table.to_csv(path, index=False)
    return path


def load(source, seed=0, **settings) -> Corpus:
    columns = dict(text="review", label="sentiment", split="split")
    return load_corpus(DataSettings(str(source), **columns, **settings), seed)


# ----------------------------------------------------------------------------- which are kept
@pytest.mark.parametrize("seed", [0, 1])
def test_the_texts_that_keep_their_labels_are_those_of_max_train_and_max_valid(source, seed):
    few = load(source, seed, max_labels=50)
    cut = load(source, seed, max_train=40, max_valid=10)
    for split, n in (("train", 40), ("valid", 10), ("test", 30)):
        assert few.texts(split) == cut.texts(split) and len(few.texts(split)) == n
        rows, others = (each.table[each.table["split"] == split] for each in (few, cut))
        assert rows["label"].tolist() == others["label"].tolist()
    assert few.labels == cut.labels == LABELS


def test_more_labels_keep_those_of_fewer(source):
    few, more = (load(source, max_labels=n) for n in (20, 60))
    for split in ("train", "valid"):
        assert set(few.texts(split)) < set(more.texts(split))


def test_the_other_texts_are_unlabelled_and_none_is_lost(source):
    whole, few = load(source), load(source, max_labels=50)
    assert few.table["text"].tolist() == whole.table["text"].tolist()
    hidden = set(whole.texts("train") + whole.texts("valid"))
    hidden -= set(few.texts("train") + few.texts("valid"))
    assert set(few.texts("unlabelled")) == hidden | set(whole.texts("unlabelled"))
    assert set(few.table.loc[few.table["split"] == "unlabelled", "label"]) == {""}
    assert few.notes[-1] == (
        "Kept the labels of 40 texts to learn from and 10 to validate on; the other 160 of train "
        "and valid are unlabelled, with seed 0."
    )


def test_a_bound_of_unlabelled_texts_counts_those_too(source):
    few = load(source, max_labels=50, max_unlabelled=30)
    assert len(few.texts("unlabelled")) == 30
    assert "subset of 30 of 180 texts in unlabelled" in few.notes[-1]


def test_copies_of_texts_that_are_held_out_are_dropped_and_counted(source, tmp_path):
    table = pd.read_csv(source, keep_default_na=False)
    kept = set(load(source, max_labels=50).texts("train"))
    others = table.index[(table["split"] == "train") & ~table["review"].isin(kept)]
    copies = table.loc[table["split"] == "test", "review"].tolist()[:3]
    # Neither case nor spaces make another text.
    copies[1:] = [copies[1].upper(), f"  {copies[2]}".replace(" ", "  ")]
    table.loc[others[:3], "review"] = copies
    # As many texts of each label as before, so that the same ones are kept.
    table.to_csv(tmp_path / "copies.csv", index=False)
    few = load(tmp_path / "copies.csv", max_labels=50)
    assert not set(few.texts("unlabelled")) & set(few.texts("test"))
    assert len(few.texts("unlabelled")) == 160 - 3 + 20 and len(few.texts("test")) == 30
    assert few.notes[-2].startswith("Kept the labels of 40 texts")
    assert "the other 157 of train and valid are unlabelled" in few.notes[-2]
    assert few.notes[-1] == "Dropped 3 unlabelled texts found in valid or test too."


# ------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (3, "--max-labels 3: expected 4 or more, a text of each of 3 classes to learn from"),
        (0, "--max-labels 0: expected 4 or more"),
        (-5, "--max-labels -5: expected 4 or more"),
        (
            500,
            "--max-labels 500: expected 440 labelled texts in train and 60 in the validation "
            "part, found 150 and 60.",
        ),
    ],
)
def test_numbers_of_labels_that_the_data_do_not_have_are_told_by_the_option(source, n, expected):
    with pytest.raises(SettingError) as caught:
        load(source, max_labels=n)
    assert expected in str(caught.value)


def test_a_command_with_too_few_labels_ends_with_one_message(source, tmp_path, capsys):
    columns = ["--text", "review", "--label", "sentiment", "--split", "split"]
    more = ["--preset", "tiny", "--max-labels", "3", "--out", str(tmp_path / "run")]
    assert cli.main(["run", str(source), *columns, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: --max-labels 3: expected 4 or more") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_is_read_back_from_a_record_and_from_one_that_knows_no_such_setting(source):
    settings = small_settings(source)
    values = to_json(settings)
    assert values["data"].pop("max_labels") is None
    assert from_json(values) == settings
    values["data"]["max_labels"] = 50
    assert from_json(values).data.max_labels == 50


# ----------------------------------------------------------------------------- how they are shared
def test_one_label_in_five_validates_and_every_class_keeps_a_text():
    for n in range(4, 188):
        train, valid = divide_labels(n, Sizes(3, 150, 60, 30))
        assert train + valid == n and train >= 3
        assert valid == min(max(n // 5, 1), n - 3)
