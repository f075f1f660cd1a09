"""What makes a run smaller and faster: each way is measured, or left out with a reason."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tests.conftest import reviews, small_settings
from tests.tiny_transformers import make_checkpoint
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DistillationSettings
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.compression_figure import compression_figure
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.experiments import compress, compressed
from ulmfit_app.experiments.compress import (
    format_compress,
    measure_ways,
    run_compress,
    time_in_turns,
)
from ulmfit_app.experiments.compressed import (
    EXACT,
    ONE,
    SOME,
    VALID,
    Texts,
    Way,
    by_predictors,
    cut_text,
    find_ways,
    gather_texts,
    megabytes_of,
    zero_smallest,
)
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.lstm import EvenLSTM
from ulmfit_app.pipeline.run import Run, begin

pytestmark = pytest.mark.usefixtures("undrawn")

# The machine's own precision has no row of its own where it is fp32.
OWN = list(dict.fromkeys((f"run, {resolve_precision('auto')}", EXACT)))


def settings_of(csv):
    """Of a run that learns for one epoch, from random weights."""
    small = small_settings(csv)
    classifier = replace(small.classifier, plan="full", epochs=1)
    return replace(small, lm=replace(small.lm, epochs=0), classifier=classifier)


def made(folder, settings):
    run = begin(folder, settings)
    run.carry_out("classifier")
    return run.folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A CSV of reviews, a run on them, and its student."""
    root = tmp_path_factory.mktemp("compress")
    reviews(160).to_csv(root / "reviews.csv", index=False)
    settings = settings_of(root / "reviews.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        torch.set_num_threads(1)
        made(root / "teacher", settings)
        learns = DistillationSettings((str(root / "teacher"),))
        made(root / "student", replace(settings, distillation=learns))
    return root


@pytest.fixture(scope="module")
def found(root):
    """The student's table and its notes; what was written lies in root / "out"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "TURNS_OF_ONE", 2)
        patch.setattr(compress, "TURNS_OF_MANY", 1)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        return run_compress(root / "student", root / "out", [0.5, 0.25])


def ways_of(run, tmp_path, shares=()):
    """Each way's name with the way, and the reasons why others are none."""
    opened, exact = Run.open(run), load_predictor(run, "fp32")
    texts = gather_texts(opened, exact)
    (tmp_path / "scratch").mkdir()
    ways, left_out = find_ways(
        opened, exact, texts, shares, tmp_path / "out", tmp_path / "scratch"
    )
    return {way.name: way for way in ways}, left_out


# --------------------------------------------------------------------------------- the whole table
def test_a_run_is_set_beside_its_teacher_int8_onnx_pruned_ones_and_zeros(root, found):
    table, _ = found
    onnx = ["int8", "ONNX", "ONNX, int8"]
    pruned = ["pruned by 25 %", "pruned by 50 %"]
    assert table["what"].tolist() == ["teacher", *OWN, *onnx, *pruned, "50 % zeros"]

    run = Run.open(root / "student")
    valid = run.rows[run.rows["split"] == "valid"]
    table = table.set_index("what")
    for name, folder in ((EXACT, run.folder), ("teacher", root / "teacher")):
        predicted = load_predictor(folder, "fp32").predict(valid["text"].tolist())["predicted"]
        n_right = int((predicted.to_numpy() == valid["label"].to_numpy()).sum())
        low, high = accuracy_interval(n_right, len(valid))
        line = table.loc[name]
        assert line["n"] == len(valid) == 12
        assert np.allclose(
            [line["accuracy"], line["low"], line["high"]],
            [100 * n_right / 12, 100 * low, 100 * high],
        )
    assert table.loc[[EXACT, "ONNX"], "changed"].tolist() == [0, 0]
    assert np.allclose(table["changed_share"], 100 * table["changed"] / 12)
    size = table["megabytes"]
    assert size["pruned by 50 %"] < size["pruned by 25 %"] < size[EXACT] == size["int8"]
    assert size["ONNX, int8"] < size["ONNX"]
    assert abs(size["50 % zeros"] - size[EXACT]) < 0.001, "zeros take as many bytes"
    assert (table[["ms", "texts_per_s"]] > 0).all().all()


def test_the_page_says_how_it_was_measured_and_how_pruned_runs_are_finished(root, found):
    table, notes = found
    run, out, said = Run.open(root / "student"), root / "out", " ".join(notes)
    assert "one text of 200 tokens" in said and "1 thread, torch" in said
    assert "The teacher: 'teacher'." in said and "left out" not in said
    n_some = len(run.rows) - int((run.rows["split"] == "test").sum())
    assert f"for {n_some} texts of the run's own" in said
    place = out / "pruned-50"
    assert f"prune {root / 'student'} --share 0.5 --out {place}" in said
    assert not (place / "report").exists(), "the test split stays unread"
    assert {path.name for path in out.iterdir()} == {
        *("pruned-25", "pruned-50", "compress.csv", "compress.md", "compress.png")
    }
    assert read_table(out / "compress.csv")["what"].tolist() == table["what"].tolist()
    page = format_compress(table, notes)
    assert (out / "compress.md").read_text(encoding="utf-8") == page
    assert f"| {EXACT} |" in page and "|  | " in page, "nothing changes against itself"


def test_labels_are_changed_against_the_run_in_fp32():
    classes = {"teacher": [0, 0, 1, 1], EXACT: [0, 1, 1, 0], "ONNX": [0, 1, 1, 1]}
    ways = [
        Way(name, 1.0, lambda which, given=given: lambda: np.eye(2)[given])
        for name, given in classes.items()
    ]
    table = measure_ways(ways, Texts({SOME: ["a"] * 4}), np.array([0, 1, 1, 1]))
    assert table["changed"].tolist() == [2, 0, 1]
    assert table["changed_share"].tolist() == [50, 0, 25]
    assert table["accuracy"].tolist() == [75, 75, 100]
    page = format_compress(table, [])
    assert "| 2 (50.0 %) |" in page and "| 0 (0.0 %) |" not in page


def test_the_texts_that_are_measured_are_none_of_the_test_split(root):
    run = Run.open(root / "student")
    texts = gather_texts(run, load_predictor(run.folder, "fp32")).named
    tested = set(run.rows.loc[run.rows["split"] == "test", "text"])
    assert tested and not tested & {*texts[SOME], *texts[VALID]}
    assert not any(text in texts[ONE][0] for text in tested)
    assert len(texts[SOME]) == len(run.rows) - len(tested)


def test_at_most_512_texts_are_timed_and_the_same_ones_each_time(root, monkeypatch):
    monkeypatch.setattr(compressed, "MANY", 20)
    run = Run.open(root / "student")
    predictor = load_predictor(run.folder, "fp32")
    first, second = (gather_texts(run, predictor).named[SOME] for _ in range(2))
    assert first == second and len(set(first)) == 20


# ------------------------------------------------------------------------------------- single ways
class Fixed:
    """A predictor that gives every text the same probabilities."""

    def __init__(self, labels, probabilities):
        self.labels, self._probabilities = labels, probabilities

    def probabilities(self, store, description):
        assert description is None
        return np.tile(self._probabilities, (len(store), 1))


def test_teachers_are_averaged_label_by_label(monkeypatch):
    texts = Texts({})
    monkeypatch.setattr(texts, "store", lambda predictor, which: [which] * 3)
    teachers = [Fixed(["neg", "pos"], [0.9, 0.1]), Fixed(["pos", "neg"], [0.6, 0.4])]
    found = by_predictors("mean", teachers, 1, ["pos", "neg"], texts).read(VALID)()
    assert np.allclose(found, [[0.35, 0.65]] * 3)


def test_teachers_that_are_gone_or_were_trained_again_have_no_row(root, tmp_path):
    run, away = root / "student", root / "away"
    shutil.move(root / "teacher", away)
    try:
        ways, left_out = ways_of(run, tmp_path)
        assert "teacher" not in ways and EXACT in ways
        assert left_out == [f"teacher is left out: {root / 'teacher'} is gone."]
        shutil.copytree(run, root / "teacher")
        shutil.rmtree(tmp_path / "scratch")
        _, left_out = ways_of(run, tmp_path)
        assert left_out == [
            f"teacher is left out: {root / 'teacher'} was trained again since it taught the run."
        ]
    finally:
        shutil.rmtree(root / "teacher", ignore_errors=True)
        shutil.move(away, root / "teacher")


def test_validation_texts_that_a_teacher_learned_from_are_counted(root, monkeypatch):
    run = Run.open(root / "student")
    assert len(compress.describe_teachers(run)) == 1
    monkeypatch.setattr(compress, "hash_text", lambda text: "the same")
    said = compress.describe_teachers(run)[1]
    assert said.startswith("12 texts of the validation split are among those that the teacher")


def test_without_the_extra_onnx_its_rows_are_left_out(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ways, left_out = ways_of(root / "student", tmp_path)
    assert list(ways) == ["teacher", *OWN]
    assert [line.partition(" is left out: ")[0] for line in left_out] == [
        *("int8", "ONNX", "ONNX, int8")
    ]
    assert all("pip install 'ulmfit-app[onnx]'" in line for line in left_out)


def test_a_run_in_both_directions_is_read_in_both_in_all_ways(root, tmp_path):
    settings = replace(settings_of(root / "reviews.csv"), bidirectional=True)
    run = made(tmp_path / "both", settings)
    ways, left_out = ways_of(run, tmp_path, [0.5])
    assert not left_out
    assert list(ways) == [*OWN, "int8", "ONNX", "ONNX, int8", "pruned by 50 %", "50 % zeros"]
    exact, onnx = (ways[name].read(VALID)() for name in (EXACT, "ONNX"))
    assert np.abs(exact - onnx).max() < 1e-5
    files = [
        *("run.json", "classifier/bundle.json", "classifier-backward/bundle.json"),
        *("classifier/validation.csv", "classifier-backward/validation.csv"),
    ]
    named = [*run.glob("classifier*/weights-*"), *run.glob("classifier*/vocab-*")]
    size = sum(path.stat().st_size for path in [*(run / name for name in files), *named])
    assert len(named) == 4 and megabytes_of(run) == ways[EXACT].megabytes == size / 1e6


def test_a_transformer_has_no_int8_but_by_onnx(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    start = make_checkpoint(tmp_path / "tiny", "bert")
    reviews(60).to_csv(tmp_path / "few.csv", index=False)
    settings = settings_of(tmp_path / "few.csv")
    settings = replace(settings, lm=replace(settings.lm, pretrained=str(start)))
    ways, left_out = ways_of(made(tmp_path / "run", settings), tmp_path, [0.5])
    assert list(ways) == [*OWN, "ONNX", "ONNX, int8", "pruned by 50 %", "50 % zeros"]
    reason = "it is for AWD-LSTM; a transformer has int8 as ONNX alone."
    assert left_out == [f"int8 is left out: {reason}"]
    assert ways["pruned by 50 %"].megabytes < ways[EXACT].megabytes
    own, zeros = (ways[name].read(VALID)() for name in (OWN[0], "50 % zeros"))
    assert own.shape == zeros.shape and np.abs(own - zeros).max() > 1e-4


def test_what_cannot_be_pruned_is_left_out(root, tmp_path):
    ways, left_out = ways_of(root / "student", tmp_path, [0.001])
    assert "pruned by 0.1 %" not in ways and "0.1 % zeros" in ways
    (reason,) = left_out
    assert reason.startswith("pruned by 0.1 % is left out: --share 0.001 is too little")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------- zeros and texts
def test_zeros_take_the_place_of_the_smallest_weights_of_each_matrix_but_embeddings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), EvenLSTM(4, 6), nn.Linear(6, 3))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    zero_smallest(model, 0.25)
    for name, weight in model.state_dict().items():
        changed = weight != before[name]
        if weight.ndim < 2 or name.startswith("0."):
            assert not changed.any(), name
            continue
        assert (weight[changed] == 0).all() and changed.sum() == weight.numel() // 4, name
        assert before[name][changed].abs().max() <= before[name][~changed].abs().min()


def test_the_one_text_begins_the_first_that_is_long_enough():
    def count(text):
        return len(text.split())

    assert cut_text(["a b", "c d e f", "g h i j k"], 4, count) == "c d e f"
    assert cut_text(["a b", "c"], 5, count) == "a b c a b"


def test_works_take_turns_each_behind_its_untimed_one():
    order = []
    before, works = (
        [lambda name=f"{kind}{i}": order.append(name) for i in (1, 2)]
        for kind in ("first", "work")
    )
    assert len(time_in_turns(before, works, 2, None)) == 2
    assert order == ["first1", "work1", "first2", "work2"] * 2


def test_a_time_is_the_median_of_the_turns_and_of_the_work_alone(monkeypatch):
    clock = iter([0, 5, 10, 11, 20, 22])
    monkeypatch.setattr(compress.time, "perf_counter", lambda: next(clock))
    assert time_in_turns([lambda: None], [lambda: None], 3, None) == [2]


# -------------------------------------------------------------------------------------- the figure
def test_the_figure_has_a_line_for_each_way_and_the_run_in_its_own_colour():
    line = {"n": 12, "accuracy": 50.0, "low": 25.0, "high": 75.0, "megabytes": 0.5, "ms": 7.25}
    names = ["teacher", EXACT, "ONNX"]
    table = pd.DataFrame([{"what": name, **line, "texts_per_s": 1234.5} for name in names])
    figure = compression_figure(table)
    first, *others = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == names
    assert len(others) == 3
    for axes, written in zip(others, ("0.50", "7.2", "1,234"), strict=True):
        assert [text.get_text() for text in axes.texts] == [written] * 3
        colours = [bar.get_facecolor() for bar in axes.patches]
        assert colours[0] == colours[2] != colours[1]


# ------------------------------------------------------------------------------------- the command
def fails(capsys, *argv):
    code = cli.main(["experiment", "compress", *map(str, argv)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, " ".join(captured.err.split())


def test_the_command_prints_the_page_and_prunes_nothing_twice(root, found, capsys, monkeypatch):
    monkeypatch.setattr(compress, "TURNS_OF_ONE", 1)
    monkeypatch.setattr(compress, "TURNS_OF_MANY", 1)
    monkeypatch.chdir(root)
    out = Path("experiments/compress-student")
    shutil.copytree("out", out)
    assert cli.main(["experiment", "compress", "student", "--shares", "0.5"]) == 0
    said = capsys.readouterr().out
    assert (out / "compress.md").read_text(encoding="utf-8") in said
    written = [str(out / f"compress.{suffix}") for suffix in ("csv", "md", "png")]
    assert "Written: " + " ".join(written) in said
    assert "Stage classifier: finished before" in said and "epoch 1" not in said


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.5])
def test_a_share_that_is_none_is_refused(root, tmp_path, share):
    expected = f"--shares must be more than 0 and less than 1, not {share:g}"
    with pytest.raises(SettingError, match=expected):
        run_compress(root / "student", tmp_path / "out", [0.5, share])
    assert not (tmp_path / "out").exists()


def test_results_never_lie_in_the_run(root, capsys):
    code, message = fails(capsys, root / "student", "--out", root / "student" / "x")
    assert code == 2 and f"Name a folder outside: --out {root / 'compress-student'}" in message


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    code, message = fails(capsys, tmp_path / "none", "--out", tmp_path / "out")
    assert code == 5 and f"No run in {tmp_path / 'none'}" in message
    assert not (tmp_path / "out").exists()
