"""Trained on one data set, tested on another whose labels have the same names."""

from dataclasses import replace

import pandas as pd
import pytest

from tests.conftest import BLAME, PRAISE, reviews, small_settings
from tests.tiny_transformers import make_checkpoint
from ulmfit_app.__main__ import main
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.experiments.cross_lingual import cross, format_cross
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import Run
from ulmfit_app.training import choosing

pytest.importorskip("transformers", reason="needs the extra transformers")
pytestmark = pytest.mark.usefixtures("in_this_process", "undrawn")


@pytest.fixture
def other(tmp_path):
    """Reviews whose every word is another one, in a file of its own."""
    table = reviews(80, seed=1)
    words = {word: word[::-1] for word in (*PRAISE, *BLAME)}
    table["review"] = table["review"].replace(words, regex=True)
    table.to_csv(tmp_path / "other.csv", index=False)
    return str(tmp_path / "other.csv")


@pytest.fixture
def settings(csv, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "STEPS_PER_EPOCH", 1)
    made = small_settings(csv)
    tiny = make_checkpoint(tmp_path / "tiny", "bert")
    classifier = replace(made.classifier, epochs=1, batch_size=64, plan="full")
    lm = replace(made.lm, pretrained=str(tiny), epochs=0)
    return replace(made, lm=lm, classifier=classifier)


def test_each_classifier_is_tested_on_both_test_splits_and_never_learns_from_the_other(
    settings, other, tmp_path
):
    table = cross(tmp_path / "out", settings, other)
    assert table[["tested on", "trained on"]].values.tolist() == [
        ["reviews", "reviews"],
        ["reviews", "other"],
        ["other", "other"],
        ["other", "reviews"],
    ]
    runs = {"reviews": tmp_path / "out" / "1-reviews", "other": tmp_path / "out" / "2-other"}
    sources = {"reviews": settings.data.source, "other": other}
    for line in table.to_dict("records"):
        run = runs[line["trained on"]]
        learned = load_corpus(Run.open(run).record.settings.data, settings.seed)
        assert learned.origin == sources[line["trained on"]]
        assert line["labels"] == len(learned.texts("train")) + len(learned.texts("valid"))
        # The other's test split, by the run's own predictor.
        data = replace(settings.data, source=sources[line["tested on"]])
        tested = load_corpus(data, settings.seed).table.query("split == 'test'")
        predicted = load_predictor(run).predict(tested["text"])["predicted"].tolist()
        right = sum(map(str.__eq__, predicted, tested["label"]))
        assert (line["n"], line["accuracy"]) == (len(tested), 100 * right / len(tested))
        assert line["low"] <= line["accuracy"] <= line["high"]
        commonest = tested["label"].value_counts().max()
        assert line["commonest"] == pytest.approx(100 * commonest / len(tested))
    written = read_own_table(tmp_path / "out" / "cross.csv", 4)
    assert written.columns.tolist() == table.columns.tolist()
    assert written["accuracy"].astype(float).tolist() == table["accuracy"].tolist()


def test_the_page_has_the_same_test_split_side_by_side():
    line = {"trained on": "en", "tested on": "zh", "labels": 1200, "n": 1300}
    line |= {"accuracy": 80.04, "low": 77.0, "high": 83.0, "commonest": 68.5}
    assert format_cross(pd.DataFrame([line])).splitlines()[-1] == (
        "| zh | en | 1,200 | 80.0 (77.0 to 83.0) | 1,300 | 68.5 |"
    )


def test_other_names_of_labels_are_refused_before_anything_is_trained(settings, other, tmp_path):
    table = pd.read_csv(other).replace({"neg": "negative"})
    table.to_csv(other, index=False)
    with pytest.raises(
        DataError, match="labels of reviews are 'neg', 'pos', and those of other '"
    ):
        cross(tmp_path / "out", settings, other)
    assert not (tmp_path / "out").exists()


def test_files_of_the_same_name_are_told_apart_by_their_path(settings, tmp_path, monkeypatch):
    (tmp_path / "zh").mkdir()
    twin = str(tmp_path / "zh" / "reviews.csv")
    reviews(80, seed=1).to_csv(twin, index=False)

    def carry_out(trials, folder, description, executor):
        assert [trial.name for trial in trials] == ["1-reviews-csv", "2-reviews-csv"]
        raise InterruptedError

    monkeypatch.setattr("ulmfit_app.experiments.cross_lingual.carry_out", carry_out)
    with pytest.raises(InterruptedError):
        cross(tmp_path / "out", settings, twin)


def test_what_cannot_be_compared_is_refused_with_what_to_do(settings, other, tmp_path):
    awd_lstm = replace(settings, lm=replace(settings.lm, pretrained="en-small"))
    with pytest.raises(SettingError, match=r"--with .*other.csv --pretrained FOLDER"):
        cross(tmp_path / "out", awd_lstm, other)
    with pytest.raises(SettingError, match="is named twice.* --with DATA"):
        cross(tmp_path / "out", settings, settings.data.source)
    placed = replace(settings, data=replace(settings.data, data=tmp_path))
    with pytest.raises(SettingError, match="cross has two"):
        cross(tmp_path / "out", placed, other)


def test_the_command_prints_the_table_and_where_it_lies(
    settings, other, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    found = {}

    def crossed(folder, settings, other, executor):
        folder.mkdir(parents=True)
        (folder / "cross.csv").touch()
        found.update(folder=folder, first=settings.data.source, other=other)
        line = {"trained on": "a", "tested on": "b", "labels": 1, "n": 2}
        line |= dict.fromkeys(("accuracy", "low", "high", "commonest"), 50.0)
        return pd.DataFrame([line])

    monkeypatch.setattr("ulmfit_app.experiments.cross_lingual.cross", crossed)
    start = settings.lm.pretrained
    argv = ["experiment", "cross", settings.data.source, "--with", "other.csv"]
    assert main([*argv, "--preset", "tiny", "--pretrained", start, "--lm.epochs", "0"]) == 0
    printed = capsys.readouterr().out
    assert found["other"] == other and found["first"] == settings.data.source
    assert "| b | a | 1 | 50.0 (50.0 to 50.0) | 2 | 50.0 |" in printed
    assert f"Data: {other}, from {other}; 2 classes." in printed
    assert str(found["folder"] / "cross.csv") in printed.splitlines()[-1]
