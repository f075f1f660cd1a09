"""Notebook 08: what a run's folder holds, a bundle that was changed; checked exercises."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.course import PRESETS, lesson_08
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import BundleError, DataError
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline.run import Run, begin

from .test_course import says

pytestmark = pytest.mark.usefixtures("undrawn")


# -------------------------------------------------------------------------------------- the lesson
@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    settings = PRESETS["tiny"]
    data = replace(settings.data, max_train=60, max_valid=20, max_test=20)
    found = begin(
        tmp_path_factory.mktemp("runs") / "run",
        replace(settings, data=data, classifier=replace(settings.classifier, epochs=1)),
    )
    found.carry_out()
    return found


def test_every_file_of_a_run_is_there_with_its_size_and_what_it_holds(run):
    table = lesson_08.list_contents(run.folder)
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(table) == len([path for path in files if path.parent.name != "figures"]) + 1
    assert (table["what"] != "").all(), "WHAT lacks a file that runs leave"
    assert table["kB"].sum() == pytest.approx(
        sum(path.stat().st_size for path in files) / 1e3, abs=0.1 * len(table)
    )
    stages = list(dict.fromkeys(name.split("/")[0] for name in table["file"]))
    assert stages == ["run.json", "data", "tokens", "lm", "classifier", "report"]


def test_a_file_that_is_not_a_runs_own_is_listed_all_the_same(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert lesson_08.list_contents(tmp_path).values.tolist() == [["notes.txt", 0.0, ""]]


def test_a_bundle_with_other_labels_is_refused_and_the_first_one_stays(run, tmp_path):
    bundle = run.folder / "classifier"
    copy = lesson_08.swap_labels(bundle, tmp_path / "copy")
    labels = load_bundle(bundle, "classifier").labels
    assert json.loads((copy / "bundle.json").read_text(encoding="utf-8"))["labels"] == labels[::-1]
    with pytest.raises(BundleError, match="altered or damaged"):
        load_bundle(copy, "classifier")


# -------------------------------------------------------------------------------------- exercise 1
@pytest.fixture
def path(tmp_path) -> Path:
    return lesson_08.write_german_file(tmp_path)


@pytest.fixture
def german(path) -> DataSettings:
    return DataSettings(
        str(path), text="Rezension", label="Urteil", split="Teil", encoding="latin-1"
    )


def test_settings_are_right_when_the_file_is_read_as_it_is_meant(path, german):
    assert lesson_08.check_settings(german, path).right
    assert lesson_08.check_settings(replace(german, encoding="cp1252"), path).right, (
        "the same letters"
    )


def test_what_the_loader_refuses_is_said_in_its_words_without_the_folder(path, german):
    for wrong, said in (
        (replace(german, encoding="utf-8"), "Add: --encoding cp1252"),
        (replace(german, text=None, label=None), "which one holds the texts"),
        (replace(german, label="Urteile"), "Did you mean --label Urteil?"),
        (replace(german, encoding="klingon"), "There is no text encoding"),
        (replace(german, source=str(path.with_name("other.csv"))), "There is no file other.csv"),
    ):
        found = says(lesson_08.check_settings(wrong, path))
        assert said in found and str(path.parent) not in found


def test_settings_that_are_read_otherwise_are_told_from_the_right_ones(path, german):
    assert "labels are ['1', '2', '4', '5']" in says(
        lesson_08.check_settings(replace(german, label="Sterne"), path)
    )
    assert "drawn by chance" in says(lesson_08.check_settings(replace(german, split=None), path))
    assert "another encoding than cp850" in says(
        lesson_08.check_settings(replace(german, encoding="cp850"), path)
    )
    assert "Which column has the reviews" in says(
        lesson_08.check_settings(replace(german, text="Nr"), path)
    )
    assert "expected DataSettings" in says(lesson_08.check_settings(str(path), path))


# -------------------------------------------------------------------------------------- exercise 2
@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    return lesson_08.add_films(load_corpus(PRESETS["tiny"].data, 42))


def by_film(reviews: pd.DataFrame, share: float, word: str = "test") -> pd.DataFrame:
    """The table with about a share of its reviews in test, film by film."""
    films = reviews["film"].drop_duplicates()
    n_so_far = reviews["film"].value_counts()[films].cumsum()
    chosen = n_so_far.index[n_so_far <= share * len(reviews)]
    return reviews.assign(split=np.where(reviews["film"].isin(chosen), word, "train"))


def test_films_have_several_reviews_and_are_the_same_each_time(reviews):
    assert reviews["film"].value_counts().median() > 1
    again = lesson_08.add_films(load_corpus(PRESETS["tiny"].data, 42))
    assert again.equals(reviews)


def test_a_column_of_parts_is_right_when_no_film_is_parted(reviews):
    right = by_film(reviews, 0.22)
    assert lesson_08.check_split(right, reviews).right
    assert lesson_08.check_split(right.sample(frac=1, random_state=0), reviews).right, (
        "in any order"
    )


def test_parts_that_are_not_what_was_asked_for_are_told_apart(reviews):
    right = by_film(reviews, 0.22)
    by_chance = reviews.assign(split=np.where(np.arange(len(reviews)) % 5, "train", "test"))
    assert "draw films" in says(lesson_08.check_split(by_chance, reviews))
    assert "from 15 % to 25 %" in says(lesson_08.check_split(by_film(reviews, 0.05), reviews))
    assert "knows no part ['held out']" in says(
        lesson_08.check_split(by_film(reviews, 0.2, "held out"), reviews)
    )
    assert "rows are gone" in says(lesson_08.check_split(right[1:], reviews))
    assert "rows are gone" in says(lesson_08.check_split(pd.concat([right, right[:1]]), reviews))
    assert "rows are gone" in says(lesson_08.check_split(right.assign(label="pos"), reviews))
    assert "a fourth one, split" in says(lesson_08.check_split(reviews, reviews))
    one_label = reviews.assign(film=reviews["label"].where(reviews.index % 3 == 0, "other"))
    of_pos = one_label.assign(split=np.where(one_label["film"] == "pos", "test", "train"))
    assert "no review of the class neg" in says(lesson_08.check_split(of_pos, one_label))


# -------------------------------------------------------------------------------------- exercise 3
QUOTED = ("A good cast, wasted on a bad script.", '"A good cast, wasted on a bad script."')
CLOSED = ('"So this', "So this")
SPELLED = ("pso", "pos")


def mended(*faults: tuple[str, str]) -> str:
    found = lesson_08.BROKEN
    for old, new in faults:
        assert old in found
        found = found.replace(old, new)
    return found


def test_each_fault_of_the_broken_file_is_met_in_turn():
    assert "line 4: expected 2 fields" in says(lesson_08.check_mended(lesson_08.BROKEN))
    assert "line 6: a quote opens" in says(lesson_08.check_mended(mended(QUOTED)))
    assert "1 of 3 classes: 'pso'" in says(lesson_08.check_mended(mended(QUOTED, CLOSED)))
    assert lesson_08.check_mended(mended(QUOTED, CLOSED, SPELLED)).right
    assert lesson_08.check_mended(mended(QUOTED, ("comedy?,", 'comedy?",'), SPELLED)).right


def test_a_file_is_not_mended_by_losing_or_changing_a_review():
    whole = mended(QUOTED, CLOSED, SPELLED)
    assert "do not delete" in says(
        lesson_08.check_mended(whole.replace("Go and see it.,pos\n", ""))
    )
    assert "do not delete" in says(
        lesson_08.check_mended(mended(("cast, wasted", "cast wasted"), CLOSED, SPELLED))
    )
    assert "not what was meant" in says(
        lesson_08.check_mended(mended(QUOTED, CLOSED, ("pso", "neg")))
    )
    assert "1 more reviews" in says(lesson_08.check_mended(whole + "Nothing new.,neg\n"))
    assert "a string" in says(lesson_08.check_mended(["line"]))


def test_three_dots_are_no_answer_in_any_of_the_exercises(path, reviews):
    for verdict in (
        lesson_08.check_settings(..., path),
        lesson_08.check_split(..., reviews),
        lesson_08.check_mended(...),
    ):
        assert "in place of the three dots" in says(verdict)


# ------------------------------------------------------------- what plain fastai does, in the labs
def test_plain_fastai_serves_old_tokens_of_a_corrected_text(tmp_path):
    from fastai.text.core import Tokenizer

    folder = tmp_path / "texts"
    folder.mkdir()
    read = []
    for review in ("I hated it.", "I loved it."):
        (folder / "1.txt").write_text(review, encoding="utf-8")
        read.append(list(Tokenizer.from_folder(folder, n_workers=0)(folder / "1.txt")))
    assert "hated" in read[1] and read[0] == read[1]


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="pandas 2 takes a comma")
@pytest.mark.filterwarnings("ignore")
def test_the_line_that_plain_fastai_reads_tables_with_cuts_texts_at_a_letter(tmp_path):
    path = tmp_path / "lines.csv"
    path.write_text(
        "text\nA masterpiece from start to end.\nToo long by far.\nI want my money back.\n",
        encoding="utf-8",
    )
    assert pd.read_csv(path, header="infer", delimiter=None).columns.tolist() != ["text"]
    with pytest.raises(DataError, match="has one column, 'text'"):
        load_corpus(DataSettings(str(path)), 42)
