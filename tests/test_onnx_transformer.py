"""Transformers as ONNX: the same probabilities, at any length and batch, without transformers."""

import ast
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.test_onnx import run_alone
from tests.test_predictor import made_run
from tests.test_transformer import TEXTS, folders, saved_classifier, starts  # noqa: F401
from tests.tiny_transformers import KINDS
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import SettingError
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.onnx_runner import OnnxClassifier, Windows
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.models import onnx_transformer
from ulmfit_app.models.onnx_transformer import transformer_graph
from ulmfit_app.models.transformer import frame
from ulmfit_app.text.windows import cut_into_windows

NEAR = 1e-5


def onnx_of(predictor, int8=False):
    model = transformer_graph(predictor.bundle, int8).SerializeToString()
    shape = predictor.bundle.shape
    return OnnxClassifier(model, Windows(shape.window, shape.end), int8, threads=1)


def difference(predictor, classifier, texts):
    store = predictor.store(texts)
    ids = [np.asarray(store[i]) for i in range(len(store))]
    return np.abs(classifier.probabilities(ids) - predictor.probabilities(store)).max()


@pytest.mark.parametrize("kind", KINDS)
def test_any_batch_and_any_length_has_the_same_probabilities(starts, kind, tmp_path):  # noqa: F811
    predictor = Predictor(saved_classifier(tmp_path, starts[kind]), "fp32")
    classifier = onnx_of(predictor)
    assert difference(predictor, classifier, TEXTS) < NEAR
    draw = np.random.default_rng(0)
    words = [word for word in predictor.bundle.vocab if word.isalpha()]
    for batch, length in ((1, 1), (3, 17), (64, 200), (1, 5000)):
        lengths = [length, *draw.integers(0, length + 1, batch - 1)]
        texts = [" ".join(draw.choice(words, n)) for n in lengths]
        assert difference(predictor, classifier, texts) < NEAR, (batch, length)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "concat"])
def test_each_pooling_is_that_of_the_classifier(starts, pooling, tmp_path):  # noqa: F811
    start = starts["roberta"]
    folder = saved_classifier(tmp_path, start, pooling=pooling)
    predictor = Predictor(folder, "fp32")
    assert difference(predictor, onnx_of(predictor), TEXTS) < NEAR


def test_windows_that_are_not_read_at_once_are_all_read(starts, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(onnx_transformer, "READ_AT_A_TIME", 130)  # two windows of 66
    predictor = Predictor(saved_classifier(tmp_path, starts["bert"]), "fp32")
    assert difference(predictor, onnx_of(predictor), TEXTS) < NEAR


def test_a_text_is_cut_into_windows_as_the_package_cuts_it(starts):  # noqa: F811
    shape = starts["bert"].shape
    windows = Windows(shape.window, shape.end)
    for n in (1, 2, 64, 65, 66, 129, 1000):
        ids = np.arange(100, 100 + n)
        cut = cut_into_windows(np.array([n - 1]), shape.window)
        framed, mask, _ = frame(torch.tensor(ids)[None], torch.tensor(cut), shape)
        expected = [row[own].tolist() for row, own in zip(framed, mask, strict=True)]
        assert [row.tolist() for row in windows.cut(ids)] == expected


def test_int8_is_near_and_texts_beside_a_text_do_not_change_it(starts, tmp_path):  # noqa: F811
    predictor = Predictor(saved_classifier(tmp_path, starts["distilbert"]), "fp32")
    low = onnx_of(predictor, int8=True)
    assert 0 < difference(predictor, low, TEXTS) < 0.25
    store = predictor.store(TEXTS)
    ids = [np.asarray(store[i]) for i in range(len(store))]
    assert (low.probabilities(ids[:1]) == low.probabilities(ids)[:1]).all()
    sizes = [transformer_graph(predictor.bundle, int8).ByteSize() for int8 in (False, True)]
    assert sizes[1] < 0.7 * sizes[0], "nodes and their names weigh as much as so few weights"


def test_the_runner_prints_what_predict_prints(starts, tmp_path, capsys):  # noqa: F811
    run = made_run(tmp_path / "run", "forward")
    saved_classifier(run / "classifier", replace(starts["bert"]))
    texts = [text for text in TEXTS if "\udcff" not in text] + ["[SEP] xxpad 😀 very GREAT"]
    out = export_onnx(run, tmp_path / "out")
    assert cli.main(["predict", str(run), *texts, "--precision", "fp32"]) == 0
    expected = capsys.readouterr().out
    found = run_alone(out, *texts)
    assert (found.stderr, found.stdout) == ("", expected)
    roots = {
        node.module.split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name
        for path in out.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    own = {"onnx_runner", "tokens"}
    # opencc where texts are converted; spaCy's types are named, and not imported.
    beside = {"tokenizers", "opencc", "spacy"}
    assert roots - set(sys.stdlib_module_names) - own == {"numpy", "onnxruntime", *beside}
    needs = (out / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needs] == ["numpy", "onnxruntime", "tokenizers"]


def test_a_model_too_large_for_one_file_is_refused(starts, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(onnx_transformer, "LARGEST", 1000)
    predictor = Predictor(saved_classifier(tmp_path, starts["bert"]), "fp32")
    with pytest.raises(SettingError, match="GB of weights; an ONNX file holds 2.1 GB at most"):
        transformer_graph(predictor.bundle)


def test_an_operator_that_onnx_lacks_is_an_error_of_one_line(starts, tmp_path, monkeypatch):  # noqa: F811
    def refuse(*_, **__):
        raise torch.onnx.errors.UnsupportedOperatorError("aten::heard_of", 17, None)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    predictor = Predictor(saved_classifier(tmp_path, starts["bert"]), "fp32")
    with pytest.raises(
        SettingError, match="cannot write this bert as ONNX: .*aten::heard_of.*serve"
    ):
        transformer_graph(predictor.bundle)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(starts, tmp_path, monkeypatch, package):  # noqa: F811
    predictor = Predictor(saved_classifier(tmp_path, starts["bert"]), "fp32")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[onnx\]'"):
        transformer_graph(predictor.bundle, int8=True)
