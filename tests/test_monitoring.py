"""`monitor RUN NEW`: silent on texts like the run's own, loud on others; what bad input gets."""

import json
import random
from dataclasses import replace
from html import escape

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import reviews, small_settings
from tests.tiny_transformers import make_checkpoint
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.experiments import drift
from ulmfit_app.experiments.drift import run_drift
from ulmfit_app.files import write_table
from ulmfit_app.inference.file_checks import find_text_column
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline import monitored, monitoring
from ulmfit_app.pipeline.monitored import sample_run
from ulmfit_app.pipeline.monitoring import to_json, write_monitored
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.serving.card import name_model
from ulmfit_app.serving.new_texts import read_new
from ulmfit_app.serving.records import answer_records, feedback_record

OTHERS = "rooms staff breakfast pool beach taxi lobby towels sea clean noisy reception".split()


def hotels(n: int, seed: int = 0) -> list[str]:
    """Short texts of another domain."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(OTHERS, k=draw.randint(3, 6))) + f" {i}." for i in range(n)]


def settings_of(source, **data):
    """Of a run that learns for an epoch, from random weights."""
    small = small_settings(source)
    classifier = replace(small.classifier, plan="full", epochs=1)
    kept = replace(small.data, **data)
    return replace(small, data=kept, lm=replace(small.lm, epochs=0), classifier=classifier)


def made(folder, settings, last="classifier"):
    run = begin(folder, settings)
    run.carry_out(last)
    return run.folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        torch.set_num_threads(1)
        reviews(700).to_csv(root / "reviews.csv", index=False)
        made(root / "run", settings_of(root / "reviews.csv"), "report")
        yield root


@pytest.fixture(scope="module")
def folder(root):
    return root / "run"


def written(path, **columns):
    write_table(path, pd.DataFrame(columns, dtype=object))
    return path


def monitor(folder, path):
    """As the command does."""
    predictor = load_predictor(folder)
    about = find_text_column(folder), name_model(folder, predictor)
    return monitoring.monitor(folder, predictor, read_new(path, None, "utf-8", "csv", *about))


def own_texts(n: int) -> list[str]:
    return reviews(n, seed=5)["review"].tolist()


# ------------------------------------------------------------------------------------- the verdict
def test_texts_of_the_runs_own_kind_are_silent_and_pass(folder, tmp_path, capsys):
    path = written(tmp_path / "new.csv", review=own_texts(120))
    out = tmp_path / "out"
    command = ["monitor", str(folder), str(path), "--out", str(out), "--fail-on-drift"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "No drift" in said
    assert f"Page: {out / 'drift.html'}" in said
    found = json.loads((out / "drift.json").read_text("utf-8"))
    assert not found["drift"]
    assert len(found["questions"]) == 8


def test_another_domain_rings_with_code_0_and_with_10_where_a_script_asks(
    folder, tmp_path, capsys
):
    path = written(tmp_path / "hotels.csv", review=hotels(100))
    command = ["monitor", str(folder), str(path), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    verdict = capsys.readouterr().out.split("\n")[-3]
    assert verdict.startswith("Drift: ")
    assert "words are unknown to the run, before " in verdict
    assert cli.main([*command, "--fail-on-drift"]) == 10
    assert "Error: a change counts, and --fail-on-drift asks for" in capsys.readouterr().err


def test_what_is_written_holds_what_was_found(folder, tmp_path):
    found = monitor(folder, written(tmp_path / "hotels.csv", review=hotels(100)))
    page = write_monitored(tmp_path / "out", found)
    html = page.read_text("utf-8")
    assert escape(found.drift.verdict()) in html
    assert "the true accuracy may be far lower" in html
    assert "its smallest p is 0.002, at most 0.016 adjusted" in html
    assert "breakfast" in html
    words = read_table(tmp_path / "out" / "words.csv")
    assert set(words["more"]) <= {"new", "old", "unknown"}
    assert "pool" in set(words["word"][words["more"] == "unknown"])
    far = read_table(tmp_path / "out" / "unfamiliar.csv")
    assert far["distance"].astype(float).is_monotonic_decreasing
    assert set(far["text"]) <= set(hotels(100))
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"changes", "lengths", "unknown_words", "confidence", "labels"}
    assert json.loads((tmp_path / "out" / "drift.json").read_text("utf-8")) == to_json(found)


def test_the_labels_of_new_texts_are_not_read(folder, tmp_path):
    texts = own_texts(60)
    plain = monitor(folder, written(tmp_path / "a.csv", review=texts))
    labelled = monitor(folder, written(tmp_path / "b.csv", review=texts, sentiment=["?"] * 60))
    assert to_json(plain)["questions"] == to_json(labelled)["questions"]


def test_what_the_report_has_is_what_the_classifier_says(folder, monkeypatch):
    run, predictor = Run.open(folder), load_predictor(folder)
    monkeypatch.setattr(monitored, "FEWEST_TESTED", 20)
    reported, right, name = sample_run(run, predictor, 0)
    monkeypatch.setattr(monitored, "_reported", lambda run: None)
    read, right_too, _ = sample_run(run, predictor, 0)
    assert np.allclose(reported.confidence, read.confidence)
    assert (reported.answers == read.answers).all()
    assert (right == right_too).all()
    metrics = json.loads((folder / "report" / "metrics.json").read_text("utf-8"))
    assert right.mean() == pytest.approx(metrics["model"]["accuracy"])
    assert name == run.record.data.test_name


def test_the_words_of_a_text_are_counted_without_the_tokenizers_marks(folder):
    predictor = load_predictor(folder)
    sample, unknown = monitored.sample_texts(["The FILM film towels!", "x"], predictor, 2)
    vocab = predictor.bundle.vocab
    assert sample.words[0, vocab.index("film")] == 2
    assert sample.words[:, : len(monitored.SPECIALS)].sum() == 0
    assert unknown["towels"] == 1
    assert sample.unknown[0] == pytest.approx(sum(w in unknown for w in ("towels", "!")) / 5)


# --------------------------------------------------------------------------------------- bad input
def test_of_fewer_than_50_texts_it_is_said_what_cannot_be_seen(folder, tmp_path):
    found = monitor(folder, written(tmp_path / "few.csv", review=own_texts(12)))
    assert any("Fewer than 50 texts show large changes alone" in note for note in found.notes)
    assert any("No classifier learns from fewer than 20" in note for note in found.notes)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"review": []}, "has no rows"),
        ({"review": ["", "  "]}, "all 2 are empty"),
        ({"body": ["a", "b"], "id": ["1", "2"]}, "has no column 'review'"),
    ],
)
def test_a_file_without_texts_is_one_message(folder, tmp_path, capsys, columns, words):
    path = written(tmp_path / "new.csv", **columns)
    assert cli.main(["monitor", str(folder), str(path), "--out", str(tmp_path / "out")]) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_file_and_an_out_that_is_a_file_are_told(folder, tmp_path, capsys):
    assert cli.main(["monitor", str(folder), str(tmp_path / "gone.csv")]) == 3
    assert "There is no file" in capsys.readouterr().err
    path = written(tmp_path / "new.csv", review=["a"])
    assert cli.main(["monitor", str(folder), str(path), "--out", str(path)]) == 2
    assert "is a file, and the results need a folder" in capsys.readouterr().err


def test_texts_in_another_writing_ring_and_are_named(folder, tmp_path):
    texts = [f"房間很乾淨，早餐也好吃，服務親切 {i}" for i in range(60)]
    found = monitor(folder, written(tmp_path / "new.csv", review=texts))
    (language,) = (one for one in found.drift.changes if one.question == "language")
    assert language.matters
    assert language.said.startswith("100.0% of the texts are in Traditional Chinese, before 0.0%")


def test_copies_and_texts_that_the_run_learned_from_are_counted(folder, tmp_path):
    rows = Run.open(folder).rows
    learned = rows["text"][rows["learned"]].tolist()[:7]
    texts = [*own_texts(30), *learned, *own_texts(4)]
    notes = " ".join(monitor(folder, written(tmp_path / "new.csv", review=texts)).notes)
    assert "4 texts stand there again, word for word." in notes
    assert "7 texts of the 41 are among those that the run learned from" in notes


def test_a_run_without_test_and_validation_texts_is_told(folder, tmp_path, monkeypatch):
    nothing = np.zeros(0, int), np.zeros(0, int)
    monkeypatch.setattr(Run, "labelled", lambda self, split: nothing)
    with pytest.raises(RunFolderError, match="no test and no validation texts"):
        monitor(folder, written(tmp_path / "new.csv", review=own_texts(20)))


def test_of_many_texts_some_are_drawn_and_it_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "MOST_NEW", 40)
    monkeypatch.setattr(monitoring, "MOST_STATES", 25)
    found = monitor(folder, written(tmp_path / "new.csv", review=own_texts(90)))
    assert "40 of the 90 texts were drawn at random." in found.notes
    assert any("States were compared for 25 of the new texts" in note for note in found.notes)
    assert len(found.new) == 40
    assert len(found.new.states) == 25


# -------------------------------------------------------------------------------- a server's files
def log_of(folder, path, n, label=None, model=None, texts=False):
    predictor = load_predictor(folder)
    some = own_texts(n)
    said = predictor.predict(some)
    labels = [label] * n if label else said["predicted"].tolist()
    model = model or name_model(folder, predictor)
    records = answer_records(
        "r", 0.1, some, labels, said["confidence"].tolist(), [model] * n, texts
    )
    path.write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")
    return path


def test_of_a_log_without_texts_labels_and_confidence_are_compared(folder, tmp_path):
    found = monitor(folder, log_of(folder, tmp_path / "log.jsonl", 80))
    assert [one.question for one in found.drift.changes] == ["confidence", "labels"]
    assert not found.drift.rings
    assert any("only labels and confidence are compared" in note for note in found.notes)
    write_monitored(tmp_path / "out", found)
    one_label = monitor(folder, log_of(folder, tmp_path / "pos.jsonl", 80, label="pos"))
    assert one_label.drift.rings
    assert "100.0% of the texts get the label “pos”" in one_label.drift.verdict()


def test_a_log_with_texts_and_feedback_are_files_of_texts(folder, tmp_path):
    found = monitor(folder, log_of(folder, tmp_path / "log.jsonl", 60, texts=True))
    assert len(found.drift.changes) == 8
    records = [feedback_record(text, "pos", "neg", 0.7, "m") for text in own_texts(60)]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")
    again = monitor(folder, path)
    assert to_json(again)["questions"] == to_json(found)["questions"]


def test_a_log_of_another_model_or_with_other_labels_is_told(folder, tmp_path):
    path = log_of(folder, tmp_path / "log.jsonl", 5, model="other@1")
    with pytest.raises(DataError, match=r"has no answers of this run's model.*other@1 \(5 ans"):
        monitor(folder, path)
    path = log_of(folder, tmp_path / "log.jsonl", 5, label="mixed")
    with pytest.raises(DataError, match="answer that the run does not give: 'mixed'"):
        monitor(folder, path)


# ----------------------------------------------------------------------------------- other kinds
def test_several_labels_in_two_directions_are_compared_label_by_label(root, tmp_path):
    table = reviews(200)
    labels = [f"{mood},long" if len(text) > 150 else mood for text, mood in table.to_numpy()]
    path = written(tmp_path / "t.csv", text=table["review"], label=labels)
    how = replace(TINY.classifier, epochs=1, plan="full", max_tokens=None)
    data = DataSettings(str(path), multilabel=True)
    model = small_settings(path).model
    settings = replace(TINY, data=data, model=model, classifier=how, bidirectional=True)
    settings = replace(settings, lm=replace(TINY.lm, epochs=0))
    folder = made(tmp_path / "run", settings)
    found = monitor(folder, written(tmp_path / "new.csv", text=hotels(60)))
    assert found.old.answers.dtype == bool
    assert found.drift.rings
    html = write_monitored(tmp_path / "out", found).read_text("utf-8")
    assert "of the yes and no answers for each label are estimated to be right" in html


def test_a_transformer_has_no_unknown_words_and_rings_as_well(root, tmp_path):
    table = reviews(120)
    make_checkpoint(tmp_path / "bert", "bert", table["review"].tolist())
    table.to_csv(tmp_path / "reviews.csv", index=False)
    settings = settings_of(tmp_path / "reviews.csv")
    lm = replace(settings.lm, pretrained=str(tmp_path / "bert"))
    settings = replace(settings, lm=lm, model=TINY.model, precision="fp32")
    out = made(tmp_path / "run", settings)
    found = monitor(out, written(tmp_path / "new.csv", review=hotels(60)))
    assert "unknown words" not in {one.question for one in found.drift.changes}
    assert any("pieces of words" in note for note in found.notes)
    assert found.drift.rings


# ---------------------------------------------------------------------------------- the experiment
def test_the_experiment_draws_from_a_runs_own_texts_and_reads_no_text_twice(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(drift, "FEWEST_DRAWS", 2)
    moods = ["pos", "neg"] * 20
    far = written(tmp_path / "hotels.csv", review=hotels(40), label=moods)
    given = dict(foreign=[far], sizes=[40, 4000], shares=[0.5], draws=2)
    table, notes = run_drift(folder, tmp_path / "out", **given)
    assert table[["foreign", "share", "n"]].to_numpy().tolist() == [
        ["", 0.0, 40],
        ["hotels", 0.5, 40],
        ["hotels", 1.0, 40],
    ]
    assert table["rate"].tolist()[-1] == 1
    assert table["accuracy"].notna().all()
    assert any("Left out: 4,000 new texts" in note for note in notes)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"drift.csv", "drift.md", "drift.png", "draws.csv"}
    for of in ("sample_run", "sample_texts"):
        monkeypatch.setattr(drift, of, None)
    again, _ = run_drift(folder, tmp_path / "out", **given)
    pd.testing.assert_frame_equal(table, again)


def test_foreign_texts_with_other_labels_or_without_their_column_are_told(folder, tmp_path):
    path = written(tmp_path / "far.csv", review=["a", "b"], label=["pos", "joy"])
    given = dict(sizes=[20], shares=[0.5], draws=2)
    with pytest.raises(DataError, match="has the label 'joy', which the run lacks"):
        run_drift(folder, tmp_path / "out", [path], **given)
    with pytest.raises(DataError, match="has no column 'mood'"):
        run_drift(folder, tmp_path / "out", [path], **given, label="mood")
    with pytest.raises(
        RunFolderError, match=r"half of them are fewer than 9,000. Name fewer: --s"
    ):
        run_drift(folder, tmp_path / "out", [], **given | {"sizes": [9_000]})
