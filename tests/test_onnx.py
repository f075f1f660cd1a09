"""Classifiers as ONNX: the same probabilities, at any length and batch, without the package."""

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession
from onnxruntime.quantization import quantize_dynamic

from tests.test_predictor import SHAPE, TEXTS, made_run, save_validation, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.cli import exported
from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference import export as exporting
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.onnx_runner import OnnxClassifier
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.models.onnx_graph import STEP, awd_lstm_graph
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore

NEAR = 1e-5
BLOCKED = ["torch", "fastai", "ulmfit_app", "pandas", "data_scripts"]


def rows_of(batch, length, n_words, seed=0):
    """Texts of random words, the first of them the longest."""
    draw = np.random.default_rng(seed)
    lengths = [length, *draw.integers(1, length + 1, batch - 1)]
    return [draw.integers(len(SPECIALS), n_words, n).astype(np.int32) for n in lengths]


def store_of(rows, predictor):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    bundle = predictor.bundle
    return TokenStore(np.concatenate(rows), offsets, bundle.vocab, bundle.direction)


def expected(predictor, rows):
    return predictor.probabilities(store_of(rows, predictor), description=None)


def at_once(classifier, rows):
    """All rows as one batch, which the runner would cut."""
    ids = np.full((len(rows), max(map(len, rows))), 1, np.int64)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int64)
    return classifier._session.run(None, {"ids": ids, "lengths": lengths})[0]


def onnx_of(predictor, int8=False):
    model = awd_lstm_graph([predictor.bundle], predictor.decision, int8)
    return OnnxClassifier(model.SerializeToString(), alone=int8, threads=1)


@pytest.fixture
def predictor(tmp_path):
    return Predictor(saved_classifier(tmp_path / "bundle", temperature=1.7), "fp32")


@pytest.fixture
def run(tmp_path):
    """A run of both directions, at a temperature of its own."""
    run = made_run(tmp_path / "run", "forward", "backward")
    for seed, name in enumerate(["classifier", "classifier-backward"]):
        direction = "backward" if seed else "forward"
        saved_classifier(run / name, seed, direction=direction)
        save_validation(run / name, seed)
    return run


# ------------------------------------------------------------------------------------- the graph
@pytest.mark.parametrize("length", [1, 17, 200, 5000])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_batch_and_any_length_has_the_same_probabilities(predictor, batch, length):
    rows = rows_of(batch, length, len(predictor.bundle.vocab))
    found = at_once(onnx_of(predictor), rows)
    assert found.dtype == np.float32 and found.shape == (batch, 3)
    assert np.abs(found - expected(predictor, rows)).max() < NEAR


def test_no_token_is_lost_where_one_step_of_reading_ends(predictor):
    lengths = [STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 1]
    rows = [rows_of(1, n, len(predictor.bundle.vocab), seed=n)[0] for n in lengths]
    assert np.abs(at_once(onnx_of(predictor), rows) - expected(predictor, rows)).max() < NEAR


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_of_any_depth_has_a_graph(tmp_path, monkeypatch, layers):
    monkeypatch.setattr("tests.test_predictor.SHAPE", ModelSettings(12, 16, layers))
    predictor = Predictor(saved_classifier(tmp_path), "fp32")
    rows = rows_of(3, 40, len(predictor.bundle.vocab))
    assert np.abs(at_once(onnx_of(predictor), rows) - expected(predictor, rows)).max() < NEAR
    assert SHAPE.n_layers == 2


def test_a_backward_classifier_reads_from_the_last_token(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path, direction="backward"), "fp32")
    rows = rows_of(5, 30, len(predictor.bundle.vocab))
    found = at_once(onnx_of(predictor), rows)
    assert np.abs(found - expected(predictor, rows)).max() < NEAR
    forward = at_once(onnx_of(predictor), [row[::-1] for row in rows])
    assert np.abs(found - forward).max() > 0.01


def test_memory_does_not_grow_with_the_length_of_a_batch(predictor):
    """Only the first inputs and the states are as long as the texts: no loop's body is."""
    graph = awd_lstm_graph([predictor.bundle], Decision()).graph
    outside = {node.op_type for node in graph.node}
    body = next(node for node in graph.node if node.op_type == "Loop").attribute[0].g
    assert {"LSTM", "Gather"} & outside == set()
    assert {"LSTM", "Gather", "Slice"} <= {node.op_type for node in body.node}


def test_the_runner_keeps_the_order_and_texts_do_not_change_each_other(predictor, monkeypatch):
    rows = rows_of(40, 90, len(predictor.bundle.vocab))
    monkeypatch.setattr("ulmfit_app.inference.onnx_runner.TOKENS", 300)
    classifier = onnx_of(predictor)
    found = classifier.probabilities(rows)
    assert np.abs(found - expected(predictor, rows)).max() < NEAR
    alone = np.concatenate([classifier.probabilities([row]) for row in rows])
    assert np.abs(found - alone).max() < 1e-6
    sizes = [len(batch) for batch in classifier._batches(rows)]
    assert sum(sizes) == 40 and max(sizes) > 3
    assert all(
        len(batch) == 1 or sum(len(rows[batch[0]]) for _ in batch) <= 300
        for batch in classifier._batches(rows)
    )
    assert classifier.probabilities([]).shape == (0, 3)


# --------------------------------------------------------------------------------------- in int8
def test_int8_is_near_and_texts_beside_a_text_do_not_change_it(predictor):
    rows = rows_of(12, 60, len(predictor.bundle.vocab))
    low = onnx_of(predictor, int8=True)
    found = low.probabilities(rows)
    assert 0 < np.abs(found - expected(predictor, rows)).max() < 0.1
    assert (low.probabilities(rows[:1]) == found[:1]).all()


def lstm_alone(graph, operator):
    """The first LSTM layer of a graph as a model of its own: x, lengths, hidden, cell to y."""
    body = next(node for node in graph.node if node.op_type == "Loop").attribute[0].g
    node = next(node for node in body.node if node.op_type == operator)
    constants = [each for each in graph.initializer if each.name in node.input]
    named = [node.input[i] for i in (0, 4, 5, 6)]
    kinds = [onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, *[onnx.TensorProto.FLOAT] * 2]
    shapes = [["t", "b", SHAPE.emb_sz], ["b"], *[[1, "b", SHAPE.n_hid]] * 2]
    described = map(onnx.helper.make_tensor_value_info, named, kinds, shapes)
    output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "lstm", list(described), [output], constants)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_int8_is_what_onnxruntimes_own_quantizer_makes_of_the_lstm(predictor, tmp_path):
    whole, low = (
        awd_lstm_graph([predictor.bundle], Decision(), int8).graph for int8 in (False, True)
    )
    plain, ours = lstm_alone(whole, "LSTM"), lstm_alone(low, "DynamicQuantizeLSTM")
    quantize_dynamic(plain, tmp_path / "theirs.onnx", per_channel=True)
    draw = np.random.default_rng(0)
    given = [draw.normal(size=(9, 2, SHAPE.emb_sz)), [9, 4], *np.zeros((2, 1, 2, SHAPE.n_hid))]
    outputs = []
    for model in (plain, onnx.load(tmp_path / "theirs.onnx"), ours):
        session = InferenceSession(model.SerializeToString())
        kinds = [np.float32, np.int32, np.float32, np.float32]
        values = [np.asarray(each, kind) for each, kind in zip(given, kinds, strict=True)]
        names = [each.name for each in session.get_inputs()]
        outputs.append(session.run(None, dict(zip(names, values, strict=True)))[0])
    exact, theirs, found = outputs
    assert 0.001 < np.abs(theirs - exact).max() < 0.1
    assert np.abs(found - theirs).max() < np.abs(theirs - exact).max() / 4
    body = next(node for node in low.node if node.op_type == "Loop").attribute[0].g
    assert [node.op_type for node in body.node].count("DynamicQuantizeLSTM") == SHAPE.n_layers


def test_int8_takes_a_quarter_of_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_predictor.SHAPE", ModelSettings(64, 192, 2))
    bundle = Predictor(saved_classifier(tmp_path), "fp32").bundle
    sizes = [awd_lstm_graph([bundle], Decision(), int8).ByteSize() for int8 in (False, True)]
    assert 0.25 < sizes[1] / sizes[0] < 0.35


# ------------------------------------------------------------------------------------ the folder
def run_alone(folder, *texts, given=""):
    """`python run.py` where neither torch nor the package can be imported."""
    script = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({BLOCKED})); del sys.argv[0]; "
        "sys.path[0] = sys.argv[0]; runpy.run_path(sys.argv[0] + '/run.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", script, str(folder), *texts]
    return subprocess.run(command, input=given, capture_output=True, encoding="utf-8")


def test_the_runner_prints_what_predict_prints_without_torch(run, tmp_path, capsys):
    texts = [text for text in TEXTS if "\udcff" not in text] + ["tab\there 😀", "é\u200b " * 300]
    out = export_onnx(run, tmp_path / "out")
    assert cli.main(["predict", str(run), *texts, "--precision", "fp32"]) == 0
    expected = capsys.readouterr().out
    found = run_alone(out, *texts)
    assert (found.stderr, found.returncode) == ("", 0)
    assert found.stdout == expected and expected.count("\n") == len(texts)


def test_both_directions_and_their_temperature_are_one_graph(run, tmp_path):
    predictor = load_predictor(run, "fp32")
    assert predictor.decision.temperature > 1.2
    classifier = OnnxClassifier.open(export_onnx(run, tmp_path / "out"))
    rows = rows_of(20, 80, len(predictor.bundle.vocab))
    assert np.abs(classifier.probabilities(rows) - expected(predictor, rows)).max() < NEAR
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["directions"] == ["forward", "backward"]
    assert settings["temperature"] == predictor.decision.temperature


def test_nothing_in_the_folder_needs_the_package(run, tmp_path):
    out = export_onnx(run, tmp_path / "out")
    beside = {"onnx_runner", "tokens"}
    roots = set()
    for path in out.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                roots.add(node.module.split(".")[0])
                if path.parent.name == "tokens" and node.module.startswith("tokens."):
                    assert (path.parent / f"{node.module.split('.')[1]}.py").is_file()
    assert roots - set(sys.stdlib_module_names) - beside == {"numpy", "onnxruntime", "spacy"}
    assert set(onnx.load(out / "model.onnx").metadata_props) == set()
    needs = (out / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needs] == ["numpy", "onnxruntime", "spacy"]


@pytest.fixture
def runner(run, tmp_path, monkeypatch):
    """The runner of an exported folder, in this process."""
    out = export_onnx(run, tmp_path / "out")
    for name in [name for name in sys.modules if name.split(".")[0] in ("tokens", "onnx_runner")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(out))
    monkeypatch.setattr(exported, "FOLDER", out)
    yield out
    for name in [name for name in sys.modules if name.split(".")[0] in ("tokens", "onnx_runner")]:
        del sys.modules[name]


def test_the_runner_answers_the_lines_of_its_input(runner, monkeypatch, capsys):
    given = io.BytesIO("\ufeffA great film.\r\ndull \n\né".encode() + b"\xff")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, "ascii"))
    monkeypatch.setattr(exported, "AT_ONCE", 2)
    assert exported.main([]) == 0
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert [line.rpartition("\t")[2] for line in lines] == [
        "A great film.",
        "dull ",
        "",
        "é\ufffd",
    ]


def test_a_folder_that_is_not_whole_is_said_by_its_runner(runner, capsys):
    (runner / "model.onnx").write_bytes(b"cut off")
    assert exported.main(["a text"]) == 4
    assert "is not whole: onnxruntime" in capsys.readouterr().err
    (runner / "labels.json").unlink()
    assert exported.main(["a text"]) == 4
    assert "labels.json" in capsys.readouterr().err


def test_a_missing_package_is_named_by_the_runner(runner, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert exported.main(["a text"]) == 2
    assert "onnxruntime" in (said := capsys.readouterr().err)
    assert "Run: pip install -r requirements.txt" in said


def test_a_language_that_spacy_lacks_is_an_error_of_one_line(runner, capsys):
    path = runner / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"language": "tlh"}))
    assert exported.main(["a text"]) == 2
    assert "Error: spaCy cannot tokenize the language 'tlh'" in capsys.readouterr().err


def test_the_runner_says_how_it_is_used(runner, monkeypatch, capsys):
    assert exported.main(["--help"]) == 0
    assert 'python run.py "a text"' in capsys.readouterr().out


# -------------------------------------------------------------------------------------- the verb
def test_the_verb_writes_beside_the_run_and_says_what_to_try(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert cli.main(["export", "run", "--int8"]) == 0
    said = capsys.readouterr().out
    assert (
        "run-onnx-int8/model.onnx: 0." in said and "MB. Try: python run-onnx-int8/run.py" in said
    )
    assert sorted(path.name for path in Path("run-onnx-int8").iterdir()) == [
        *("labels.json", "model.onnx", "onnx_runner.py", "requirements.txt", "run.py"),
        *("settings.json", "tokenizer.json", "tokens"),
    ]
    assert [path.name for path in Path.cwd().iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("run", "run belongs to the run; an export needs a folder of its own"),
        ("run/onnx", "belongs to the run"),
        (
            "full",
            "full is taken.*new or empty, or.*earlier export. Name another: --out .*run-onnx-2",
        ),
        ("file", "file is taken"),
    ],
)
def test_a_folder_that_is_taken_is_left_as_it_is(run, tmp_path, place, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SettingError, match=message):
        export_onnx(run, tmp_path / place)
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"


def test_an_empty_folder_may_be_named(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert (export_onnx(run, tmp_path / "empty") / "run.py").is_file()


def test_an_earlier_export_is_replaced_whole(run, tmp_path):
    out = export_onnx(run, tmp_path / "out")
    (out / "of-before").write_text("gone")
    before = (out / "model.onnx").read_bytes()
    (out / "model.onnx").write_bytes(b"damaged")
    assert export_onnx(run, out) == out
    assert (out / "model.onnx").read_bytes() == before and not (out / "of-before").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(run, tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'ulmfit-app[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_graph_that_computes_otherwise_is_not_written(run, tmp_path, monkeypatch):
    other = Decision(temperatures=(5.0,))
    monkeypatch.setattr(exporting, "awd_lstm_graph", lambda b, d, i: awd_lstm_graph(b, other, i))
    with pytest.raises(
        BundleError, match="is not the classifier: probabilities differ by up to 0"
    ):
        export_onnx(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_onnxruntime_without_an_operator_says_which(run, tmp_path, monkeypatch):
    def other(*_):
        model = awd_lstm_graph([load_predictor(run).bundle], Decision())
        model.graph.node[0].op_type = "Unheard"
        return model

    monkeypatch.setattr(exporting, "awd_lstm_graph", other)
    with pytest.raises(SettingError, match="(?s)cannot run the model: .*Unheard.*--upgrade"):
        export_onnx(run, tmp_path / "out")
