"""A run is its files: what may be moved, deleted, upgraded or killed without losing a result."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from data_scripts.files import sha256_of
from tests.conftest import keep_run, reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models import bundle
from ulmfit_app.pipeline import plan, record, run_files, stages
from ulmfit_app.pipeline import run as pipeline
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.run import Run, begin, finish_take_over, take_over
from ulmfit_app.presets import PRESETS, TINY
from ulmfit_app.run_folder import AGAIN, NEXT, READY, STAGES, find_part

TEXTS = ["a great film", "a dull plot and an awful end", "music"]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, undrawn):
    """A finished run on the made reviews."""

    def make(csv, folder):
        begin(folder, small_settings(csv)).carry_out()

    return keep_run(tmp_path_factory.mktemp("kept"), make)


@pytest.fixture
def done(kept):
    """Its settings and its folder, as they were when it ended."""
    kept.put_back()
    return small_settings(kept.csv), kept.run


@pytest.fixture
def csv(kept):
    """Its source, as it was then."""
    kept.put_back()
    return kept.csv


def marks(folder):
    return {name: (folder / name / "stage.json").stat().st_mtime_ns for name in STAGES}


def predicted(folder):
    return load_predictor(folder).predict(TEXTS).to_numpy().tolist()


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# ---------------------------------------------------------------------------- what its files hold
def test_the_checked_table_has_texts_labels_splits_and_other_columns_as_they_were(tmp_path):
    path, texts = tmp_path / "odd.csv", reviews(60)
    texts["review"] += ['\r" , \u2028 \U0001f600 \x00 שלום'] * 60
    texts["stars"], texts["row"] = "05", [f"r{i}" for i in range(60)]
    texts.to_json(path.with_suffix(".jsonl"), orient="records", lines=True)
    settings = small_settings(path.with_suffix(".jsonl"))
    run = begin(tmp_path / "run", settings)
    table = read_table(tmp_path / "run" / "data" / "table.csv")
    assert list(table) == ["row", "text", "label", "split", "stars", "column row"]
    assert table["text"].tolist() == texts["review"].tolist()
    assert table["label"].tolist() == texts["sentiment"].tolist()
    assert set(table["stars"]) == {"05"} and table["column row"].tolist() == texts["row"].tolist()
    assert run.record.data.labels == ["neg", "pos"]
    read_back = Run.open(tmp_path / "run").corpus
    pd.testing.assert_frame_equal(read_back.table, run.corpus.table)


def test_a_table_that_lost_a_row_is_told_and_not_used(done):
    _, folder = done
    table = folder / "data" / "table.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(
        RunFolderError, match="has 159 rows, and 160 were written.*Put the file back"
    ):
        Run.open(folder).repeat("report")


def test_a_table_that_was_edited_is_told_and_not_used(done):
    _, folder = done
    table = folder / "data" / "table.csv"
    table.write_text(table.read_text(encoding="utf-8").replace('"pos"', '"neg"', 8), "utf-8")
    for kind in ("report", "classifier"):
        with pytest.raises(RunFolderError, match="is not as it was when the run was made"):
            Run.open(folder).repeat(kind)


def test_opening_a_run_reads_one_file_and_plans_nothing(done, monkeypatch):
    _, folder = done

    def fail(*_):
        pytest.fail("opening a run does no work")

    for name in ("load_corpus", "find_starts", "measure_rates", "select"):
        monkeypatch.setattr(plan, name, fail)
    monkeypatch.setattr(run_files, "read_own_table", fail)
    for other in ("data", "tokens", "lm", "classifier", "report"):
        shutil.rmtree(folder / other)
    assert Run.open(folder).record.data.n_rows == 160


def test_what_is_written_in_run_json_is_read_back_the_same(csv, tmp_path):
    settings = replace(small_settings(csv), bidirectional=True, lm=replace(TINY.lm, epochs=2))
    planned = plan_run(settings, preset="tiny")
    planned.write(tmp_path)
    found = Run.open(tmp_path).record
    data = replace(planned.record.data, table_sha256=sha256_of(tmp_path / "data" / "table.csv"))
    assert found == replace(planned.record, directions=found.directions, data=data)
    for one, other in zip(found.directions, planned.record.directions, strict=True):
        assert (one.plan, one.plan_reason) == (other.plan, other.plan_reason)
        assert one.start == replace(other.start, weights=None, vocab=None)


# ---------------------------------------------------------------- what changes and repeats nothing
@pytest.mark.parametrize("verb", ["report", "classify", "finetune", "predict", "explain"])
def test_every_verb_works_after_the_source_file_is_gone(done, csv, verb):
    _, folder = done
    csv.unlink()
    more = ["a great film"] if verb in ("predict", "explain") else []
    assert cli.main([verb, str(folder), *more]) == 0


def test_the_same_command_repeats_nothing_after_the_source_file_is_gone(done, csv):
    settings, folder = done
    before = marks(folder)
    csv.unlink()
    begin(folder, settings).carry_out()
    assert marks(folder) == before


def test_other_settings_use_the_runs_own_texts_after_the_source_file_is_gone(done, csv, tmp_path):
    settings, folder = done
    csv.unlink()
    classifier = replace(settings.classifier, weight_decay=0.02)
    before = marks(folder)
    begin(folder, replace(settings, classifier=classifier)).carry_out()
    after = marks(folder)
    assert {name for name in before if before[name] != after[name]} == {"classifier", "report"}
    with pytest.raises(DataError, match="no file"):
        begin(folder, replace(settings, seed=7))
    assert marks(folder) == after
    reviews(170).to_csv(csv, index=False)
    begin(folder, replace(settings, classifier=classifier)).carry_out()
    assert Run.open(folder).record.data.n_rows == 170, "it came back changed"


def test_a_run_moved_with_its_source_file_is_the_same_run(done, csv, tmp_path, monkeypatch):
    settings, folder = done
    before, report = marks(folder), (folder / "report" / "predictions.csv").read_bytes()
    home = tmp_path / "another user"
    home.mkdir()
    shutil.move(folder, home / "run")
    shutil.move(csv, home / "moved.csv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "empty cache"))
    moved = replace(settings, data=replace(settings.data, source=str(home / "moved.csv")))
    begin(home / "run", moved).carry_out()
    assert marks(home / "run") == before
    assert Run.open(home / "run").record.settings.data.source == str(home / "moved.csv")
    assert cli.main(["predict", str(home / "run"), "a great film"]) == 0
    assert cli.main(["report", str(home / "run")]) == 0
    assert (home / "run" / "report" / "predictions.csv").read_bytes() == report


def test_another_version_of_torch_repeats_nothing(done, monkeypatch):
    settings, folder = done
    before = marks(folder)
    for module in (bundle, record):
        monkeypatch.setattr(module, "versions", lambda: {"torch": "99.0"})
    for stage in STAGES:
        path = folder / stage / "stage.json"
        facts = json.loads(path.read_text())
        assert facts["versions"]["torch"] != "1.0" and facts["precision"]
        path.write_text(json.dumps(facts | {"versions": {"torch": "1.0"}}))
    before = marks(folder)
    begin(folder, settings).carry_out()
    assert marks(folder) == before


def test_another_precision_repeats_nothing(done, monkeypatch):
    settings, folder = done
    before = marks(folder)
    for precision in ("fp32", "auto"):
        begin(folder, replace(settings, precision=precision)).carry_out()
        assert marks(folder) == before
    assert Run.open(folder).record.settings.precision == "auto"
    assert not (folder / NEXT).exists() and not (folder / READY).exists()


def test_a_changed_source_file_repeats_everything(done, csv):
    settings, folder = done
    before = marks(folder)
    table = pd.read_csv(csv)
    table.loc[0, "review"] += " changed"
    table.to_csv(csv, index=False)
    begin(folder, settings).carry_out()
    after = marks(folder)
    assert all(before[name] != after[name] for name in before)


def test_a_start_that_was_trained_on_repeats_what_starts_from_it(done, csv, tmp_path):
    settings, first = done
    lm = replace(settings.lm, pretrained=str(first / "lm"))
    settings, folder = replace(settings, lm=lm), tmp_path / "second"
    begin(folder, settings).carry_out()
    before = marks(folder)
    begin(folder, settings).carry_out()
    assert marks(folder) == before
    described = json.loads((first / "lm" / "bundle.json").read_text())
    described["about"]["perplexity"] += 1
    sealed = described | {"sha256": bundle.seal_of(described)}
    (first / "lm" / "bundle.json").write_text(json.dumps(sealed))
    begin(folder, settings).carry_out()
    after = marks(folder)
    assert {name for name in before if before[name] != after[name]} >= {"lm", "classifier"}


def test_paths_bounds_and_where_weights_lie_are_no_part_of_a_results_identity(csv, tmp_path):
    settings = small_settings(csv)
    keys = plan_run(settings).record.keys
    copy = shutil.copy(csv, tmp_path / "copy.csv")
    bounded = replace(settings.classifier, max_tokens=10**9)
    for other in (
        replace(settings, data=replace(settings.data, source=str(copy))),
        replace(settings, classifier=bounded, lm=replace(settings.lm, max_tokens=10**9)),
        replace(settings, precision="fp32"),
        replace(settings, classifier=replace(settings.classifier, recompute="yes")),
    ):
        assert plan_run(other).record.keys == keys


def test_everything_that_a_stage_reads_is_a_part_of_its_identity(csv):
    settings = small_settings(csv)
    keys = plan_run(settings).record.keys

    def changed(**changes):
        other = plan_run(replace(settings, **changes)).record.keys
        return {name for name in keys if keys[name] != other[name]}

    of_lm = {"lm", "classifier", "report"}
    assert changed(tokens=replace(settings.tokens, min_freq=1)) == {"tokens", *of_lm}
    assert changed(seed=43) == {"tokens", *of_lm}, "another seed makes other splits"
    for lm in (dict(random_lr=1e-3), dict(drop_mult=0.2), dict(epochs=2), dict(bptt=30)):
        assert changed(lm=replace(settings.lm, **lm)) == of_lm, lm
    assert changed(model=replace(settings.model, n_hid=20)) == of_lm
    for one in (dict(weight_decay=0.5), dict(epochs=7), dict(plan="full"), dict(patience=1)):
        found = changed(classifier=replace(settings.classifier, **one))
        assert found == {"classifier", "report"}, one


# -------------------------------------------------------------------- results and their successors
def test_old_results_stay_and_predict_until_the_new_ones_are_complete(done, monkeypatch):
    settings, folder = done
    old, before = predicted(folder), hashes(folder)
    lm = replace(settings.lm, random_lr=1e-2)
    job = begin(folder, replace(settings, lm=lm))
    assert job.work == folder / NEXT

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "take_over", stop)
        with pytest.raises(KeyboardInterrupt):
            job.carry_out()
    own = {name: one for name, one in hashes(folder).items() if not name.startswith(f"{NEXT}/")}
    assert own == before and predicted(folder) == old
    assert Run.open(folder).record.settings == settings
    begin(folder, replace(settings, lm=lm)).carry_out()
    assert predicted(folder) != old and not (folder / NEXT).exists()
    assert Run.open(folder).record.settings.lm == lm


def test_going_back_to_the_first_settings_discards_what_was_begun_with_others(done):
    settings, folder = done
    before = marks(folder)
    begin(folder, replace(settings, lm=replace(settings.lm, random_lr=1e-2)))
    assert (folder / NEXT).is_dir()
    begin(folder, settings).carry_out()
    assert marks(folder) == before and not (folder / NEXT).exists()


def test_what_was_begun_for_other_settings_never_takes_over_with_other_results(done, monkeypatch):
    settings, folder = done
    old = predicted(folder)
    other = replace(settings, classifier=replace(settings.classifier, weight_decay=0.5, epochs=7))
    begin(folder, other).carry_out("classifier")
    assert Run.open(folder).record.settings == settings, "its report would be lost"
    assert (folder / NEXT / "classifier" / "stage.json").is_file()
    begin(folder, replace(settings, precision="fp32")).carry_out()
    assert Run.open(folder).record.settings.precision == "fp32"
    assert Run.open(folder).is_finished("classifier") and predicted(folder) == old


def test_a_repetition_that_was_cut_off_never_takes_over_with_another_one(done, monkeypatch):
    _, folder = done
    before, old = hashes(folder / "lm"), predicted(folder)

    def fail(*_, **__):
        raise RuntimeError("in the middle of training")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train", fail)
        with pytest.raises(RuntimeError):
            Run.open(folder).repeat("lm")
    assert (folder / AGAIN / "lm").is_dir()
    Run.open(folder).repeat("report")
    assert hashes(folder / "lm") == before and predicted(folder) == old
    assert Run.open(folder).is_finished("lm") and Run.open(folder).is_finished("report")


def test_a_plan_that_was_cut_off_is_made_again(done, monkeypatch):
    settings, folder = done
    other = replace(settings, lm=replace(settings.lm, random_lr=1e-2))
    begin(folder, other)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plan, "write_table", fail)
        with pytest.raises(KeyboardInterrupt):
            begin(folder, replace(other, seed=7))
    assert not (folder / NEXT / "run.json").exists()
    assert begin(folder, other).record.settings == other


def test_an_interrupted_move_shows_only_the_new_results(done, tmp_path):
    settings, folder = done
    other = tmp_path / "other"
    begin(other, replace(settings, lm=replace(settings.lm, random_lr=1e-2))).carry_out()
    new, old = predicted(other), predicted(folder)
    assert new != old
    shutil.copytree(other, folder / READY)
    assert predicted(folder) == new, "what is ready counts"
    shutil.rmtree(folder / "classifier")
    os.rename(folder / READY / "classifier", folder / "classifier")
    assert predicted(folder) == new
    shutil.rmtree(folder / "lm")
    assert find_part(folder, "lm") == folder / READY / "lm"
    finish_take_over(folder)
    assert predicted(folder) == new and not (folder / READY).exists()
    assert Run.open(folder).is_finished("report")


def test_a_bidirectional_run_is_never_seen_half_forward_old_and_half_backward_new(done):
    settings, folder = done
    old = predicted(folder)
    both = begin(folder, replace(settings, bidirectional=True))
    both.carry_out("lm")
    assert predicted(folder) == old and len(Run.open(folder).record.directions) == 1
    begin(folder, replace(settings, bidirectional=True)).carry_out("classifier")
    assert predicted(folder) == old, "its report would be lost"
    begin(folder, replace(settings, bidirectional=True)).carry_out()
    assert predicted(folder) != old and len(Run.open(folder).record.directions) == 2


def test_a_repeated_stage_takes_the_old_ones_place_only_when_it_is_complete(done, monkeypatch):
    _, folder = done
    before, old = hashes(folder / "classifier"), predicted(folder)

    def fail(*_, **__):
        raise RuntimeError("in the middle of training")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train", fail)
        with pytest.raises(RuntimeError):
            Run.open(folder).repeat("classifier")
    assert hashes(folder / "classifier") == before and predicted(folder) == old
    Run.open(folder).repeat("classifier")
    assert predicted(folder) == old, "the same seed"
    assert not list(folder.glob("again"))


# -------------------------------------------------------------------------- folders of other kinds
def test_a_folder_of_the_format_before_is_refused_in_one_sentence_and_left_alone(
    csv, tmp_path, capsys
):
    old = tmp_path / "old"
    for part in ("tokens", "lm"):
        (old / part).mkdir(parents=True)
    (old / "config.json").write_text('{"format": 1}')
    before = hashes(old)
    for command in (["run", str(csv), "--out", str(old)], ["report", str(old)]):
        more = ["--preset", "tiny"] if command[0] == "run" else []
        assert cli.main([*command, *more]) == 5
        said = capsys.readouterr().err
        assert "has format 1" in said and f"--pretrained {old / 'lm'}" in said
    assert cli.main(["predict", str(old), "a text"]) == 5
    assert hashes(old) == before


def test_a_folder_of_a_later_format_is_refused(done, capsys):
    _, folder = done
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    assert cli.main(["predict", str(folder), "a text"]) == 5
    assert "has format 3, and this version reads and writes format 2" in capsys.readouterr().err


def test_presets_ask_for_the_same_as_they_did_when_they_are_read_back():
    for preset in PRESETS.values():
        asked = plan.request(preset, 5.0)
        assert asked == json.loads(json.dumps(asked)) == plan.request(preset, 5)


def test_taking_over_twice_is_taking_over_once(done):
    _, folder = done
    before = hashes(folder)
    work = folder / NEXT
    shutil.copytree(folder / "report", work / "report")
    take_over(folder, work)
    finish_take_over(folder)
    assert hashes(folder) == before
