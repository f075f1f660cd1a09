"""What is done with a trained model of subwords that reads texts as OpenCC converts them."""

import json
import math
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.serving_tools import serving
from tests.test_predictor import made_run, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.cli import exported
from ulmfit_app.config import (
    CHINESE,
    GENERAL,
    DataSettings,
    DistillationSettings,
    ModelSettings,
    TokenSettings,
)
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.experiments import label_curve
from ulmfit_app.experiments.comparing import name_language, start_from_general_text
from ulmfit_app.experiments.compressed import Texts
from ulmfit_app.experiments.used import check_used
from ulmfit_app.inference import language_model
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.perplexity import score_file
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor, load_predictor
from ulmfit_app.models import hub
from ulmfit_app.models.awd_lstm import build_classifier, build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, seal_of
from ulmfit_app.models.pretrained import find_start, write_fastai
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline import budget
from ulmfit_app.pipeline.forecast import describe
from ulmfit_app.pipeline.pupils import prune_run
from ulmfit_app.pipeline.run import begin
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import TEACHER
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.serving.versions import load_routing
from ulmfit_app.text import chinese
from ulmfit_app.text.unigram import learn_subwords

SHAPE = ModelSettings(emb_sz=12, n_hid=16, n_layers=2)
GOOD, BAD = ("房间很干净", "服务热情", "值得推荐"), ("房间太脏", "服务很差", "再也不来")
PLAIN = ("酒店", "早餐", "出租车", "的", "软件", "网络", "，", "位置", "哈哈哈哈哈", "wifi")
SIMPLIFIED = "这家酒店的U盘和出租车哈哈哈哈哈，龘"


def hotel_reviews(n: int) -> pd.DataFrame:
    """n made reviews in Simplified Chinese, half of them praise."""
    rng, rows = random.Random(0), []
    for i in range(n):
        words = rng.choices((GOOD, BAD)[i % 2], k=4) + rng.choices(PLAIN, k=8)
        rng.shuffle(words)
        rows.append(("".join(words) + f"{i}。", "負正"[i % 2]))
    return pd.DataFrame(rows, columns=["text", "label"])


@pytest.fixture(scope="module")
def definition():
    return learn_subwords(hotel_reviews(200)["text"].tolist(), 700, "zh-tw")


@pytest.fixture(scope="module")
def saved(definition, tmp_path_factory):
    """Saves a language model or a classifier of random weights, and gives its folder."""

    def save(kind="classifier", seed=0, **changes):
        folder = tmp_path_factory.mktemp("model") / "bundle"
        vocab = [token for token, _ in json.loads(definition)["model"]["vocab"]]
        torch.manual_seed(seed)
        if kind == "classifier":
            model = build_classifier(len(vocab), 2, SHAPE)
        else:
            model = build_language_model(len(vocab), SHAPE)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        labels = {"labels": ["負", "正"]} if kind == "classifier" else {}
        facts = {"language": "zh-tw", "vocab": vocab, "tokenizer": definition, "opencc": "s2twp"}
        save_bundle(folder, model, Bundle(kind, SHAPE, **facts | labels | changes))
        return folder

    return save


@pytest.fixture(scope="module")
def classifier(saved):
    return saved()


@pytest.fixture(scope="module")
def lm(saved):
    return saved("language model")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "hotel.csv"
    hotel_reviews(60).to_csv(path, index=False)
    return path


def small_settings(data, **changes):
    return replace(
        TINY,
        data=DataSettings(source=str(data), text="text", label="label"),
        tokens=TokenSettings(max_vocab=700),
        model=SHAPE,
        lm=replace(TINY.lm, pretrained="none", epochs=1, batch_size=4, bptt=20),
        classifier=replace(TINY.classifier, epochs=1, plan="full"),
        precision="fp32",
        **changes,
    )


def without(monkeypatch, package):
    """As where a package is not installed."""
    for known in (chinese.converter, chinese._kind):
        known.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)


def change(folder, **values):
    """Change a bundle's description, and seal it again."""
    path = folder / "bundle.json"
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps(found | {"sha256": seal_of(found)}))


# -------------------------------------------------------------------------- a model that is there
def test_a_text_is_read_as_its_own_conversion(classifier, saved):
    predictor = Predictor(classifier, "fp32")
    one, other = predictor.predict([SIMPLIFIED, "這家酒店的隨身碟和計程車哈哈哈哈哈，龘"])["p_正"]
    assert one == pytest.approx(other, abs=1e-6)
    as_it_is = Predictor(saved(opencc=""), "fp32").predict([SIMPLIFIED])["p_正"][0]
    assert abs(as_it_is - one) > 1e-4


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_words_that_moved_a_prediction_are_the_users_own_characters(classifier, method):
    found = explain(Predictor(classifier, "fp32"), SIMPLIFIED, method)
    assert "".join(found.words["word"]) == SIMPLIFIED
    assert "哈哈哈哈哈" in found.words["word"].tolist() and found.words["score"].abs().min() > 0
    # OpenCC makes three characters of these two.
    assert any("U盘" in word for word in found.words["word"])


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("prompt", [SIMPLIFIED, "龘龘龘龘龘", "出租车 ", "", "xxrep 5 哈"])
def test_a_prompt_stays_as_it_was_typed(saved, direction, prompt):
    trained = language_model.load(saved("language model", direction=direction), "fp32")
    texts = generate(trained, prompt, SamplingSettings(words=30, samples=4, seed=3))
    for text in texts:
        assert text.startswith(prompt) if direction == "forward" else text.endswith(prompt)
        assert len(text) > len(prompt) and "<0x" not in text[len(prompt) :]
        assert "xx" not in text.replace(prompt, "")


def test_a_perplexity_of_subwords_is_said_per_character_of_what_is_read(lm, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text(SIMPLIFIED)
    trained = language_model.load(lm, "fp32")
    score, _ = score_file(trained, path)
    # U盘 is read as 隨身碟, and 出租车 as 計程車.
    assert (score.unknown, score.characters) == (None, len(SIMPLIFIED) + 1)
    assert score.perplexity_per_character == pytest.approx(
        math.exp(score.nats / (len(SIMPLIFIED) + 1))
    )
    assert cli.main(["perplexity", str(lm), str(path)]) == 0
    said = capsys.readouterr().out
    assert " per character; " in said and "unknown" not in said


@pytest.fixture
def one_run(saved, tmp_path):
    """What a predictor needs of a run's folder."""
    run = made_run(tmp_path / "run", "forward")
    saved().rename(run / "classifier")
    return run


def test_an_exported_classifier_prints_what_predict_prints(one_run, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from tests.test_onnx import run_alone

    texts = [
        *hotel_reviews(20)["text"],
        SIMPLIFIED,
        "<0xE5> xxbos",
        "ａ　「好」\t😀",
        "龘" * 30,
        "",
    ]
    out = export_onnx(one_run, tmp_path / "out")
    assert cli.main(["predict", str(one_run), *texts, "--precision", "fp32"]) == 0
    expected = capsys.readouterr().out
    found = run_alone(out, *texts)
    assert (found.stderr, found.stdout) == ("", expected) and expected.count("\n") == len(texts)
    needs = [line.partition("==")[0] for line in (out / "requirements.txt").read_text().split()]
    assert needs == ["numpy", "onnxruntime", "tokenizers", "opencc"]


@pytest.mark.parametrize("package", ["tokenizers", "opencc"])
def test_an_exported_folder_names_its_own_list_of_what_is_missing(
    one_run, tmp_path, monkeypatch, capsys, package
):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    out = export_onnx(one_run, tmp_path / "out")
    monkeypatch.setattr(exported, "FOLDER", out)
    monkeypatch.syspath_prepend(str(out))
    monkeypatch.setitem(sys.modules, package, None)
    assert exported.main(["一"]) == 2
    said = capsys.readouterr().err
    assert package in said and "pip install -r requirements.txt" in said


def test_a_server_reads_and_explains_what_was_typed(one_run):
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    predictor = Predictor(one_run / "classifier", "fp32")
    with serving(load_routing(one_run, precision="fp32")) as server:
        answer = server.post("/v1/predict", {"texts": [SIMPLIFIED]}).json["predictions"][0]
        words = server.post("/v1/explain", {"text": SIMPLIFIED}).json["words"]
        card = server.get("/v1/model").json["model"]
    (expected,) = predictor.predict([SIMPLIFIED]).to_dict("records")
    assert answer["confidence"] == pytest.approx(expected["confidence"])
    assert "".join(word["word"] for word in words) == SIMPLIFIED
    assert card["language"] == "zh-tw"


def test_threads_share_a_tokenizer(classifier):
    tokenizer, texts = Predictor(classifier).tokenizer, hotel_reviews(40)["text"].tolist()
    expected = [ids.tolist() for ids in tokenizer.ids(texts)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: tokenizer.ids([text])[0].tolist(), texts * 5))
    assert found == expected * 5


def test_directions_that_convert_otherwise_are_not_averaged(classifier, saved):
    other = saved(seed=1, direction="backward", opencc="s2tw")
    with pytest.raises(BundleError, match="differ in opencc"):
        BidirectionalPredictor(classifier, other)


def test_texts_to_compare_runs_by_are_tokens_of_each_conversion(classifier, saved):
    texts = Texts({"one": [SIMPLIFIED]})
    first, other = (
        texts.store(predictor, "one").ids.tolist()
        for predictor in (Predictor(classifier), Predictor(saved(opencc="")))
    )
    assert first != other


# --------------------------------------------------------------------------------- what is refused
def test_a_conversion_that_this_version_does_not_know_is_refused(saved):
    folder = saved()
    change(folder, opencc="s2mars")
    with pytest.raises(BundleError, match=r"OpenCC's 's2mars'.*This version knows: s2twp"):
        load_bundle(folder, "classifier")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_bundle_without_its_tokenizer_is_refused(saved, damage):
    folder = saved()
    (path,) = folder.glob("tokenizer-*.json")
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-9])
    with pytest.raises(BundleError, match=r"is missing\." if damage == "missing" else "damaged"):
        load_bundle(folder, "classifier")


@pytest.mark.parametrize("package", ["opencc", "tokenizers"])
def test_a_model_of_subwords_names_the_extra_that_it_lacks(
    classifier, monkeypatch, capsys, package
):
    without(monkeypatch, package)
    with pytest.raises(SettingError, match=rf"package {package}, .*ulmfit-app\[chinese\]"):
        Predictor(classifier).predict(["一"])


@pytest.mark.parametrize("package", ["opencc", "sentencepiece"])
def test_a_run_in_chinese_names_the_extra_that_it_lacks(data, tmp_path, monkeypatch, package):
    without(monkeypatch, package)
    with pytest.raises(SettingError, match=rf"package {package}, .*ulmfit-app\[chinese\]"):
        begin(tmp_path / "run", small_settings(data)).carry_out("tokens")


def test_english_needs_no_package_of_chinese(csv, monkeypatch, tmp_path):
    for package in ("opencc", "sentencepiece", "tokenizers"):
        without(monkeypatch, package)
    data = DataSettings(str(csv), text="review", label="sentiment")
    begin(tmp_path / "run", replace(small_settings(csv), data=data))
    Predictor(saved_classifier(tmp_path / "classifier")).predict(["a great film"])


def test_fastais_format_takes_no_model_of_subwords(lm):
    with pytest.raises(BundleError, match=r"no place for the tokenizer.*--pretrained"):
        write_fastai(lm, "mine")


@pytest.mark.parametrize(
    ("start", "language", "name"),
    [("none", "zh", "min_freq"), (CHINESE, "en", "max_vocab"), (CHINESE, "en", "min_freq")],
)
def test_what_subwords_have_no_use_for_is_refused(monkeypatch, start, language, name):
    monkeypatch.setattr(hub, "packaged", lambda: [CHINESE])
    lm = replace(TINY.lm, pretrained=start)
    tokens = replace(TINY.tokens, language=language, **{name: 777})
    option = name.replace("_", "-")
    with pytest.raises(SettingError, match=f"--tokens.{option} is for .*Leave it out"):
        check_used(replace(TINY, lm=lm, tokens=tokens), replace(TINY, lm=lm), "run")


# ---------------------------------------------------------------------------------- planning a run
def test_a_start_that_is_opened_again_still_has_subwords(lm):
    start = find_start(str(lm), SHAPE)
    again = Start.from_facts(json.loads(json.dumps(start.facts())))
    assert (start.has_subwords, again.has_subwords, again.tokenizer) == (True, True, "")
    assert not find_start("none", SHAPE).has_subwords


def test_a_run_of_subwords_is_forecast_with_subwords(data, lm, tmp_path, definition):
    settings = small_settings(data)
    said = "\n".join(describe(begin(tmp_path / "random", settings)))
    assert "at most 700 subwords" in said and " words" not in said
    settings = replace(settings, lm=replace(settings.lm, pretrained=str(lm)))
    said = "\n".join(describe(begin(tmp_path / "pretrained", settings)))
    assert f"{len(json.loads(definition)['model']['vocab']):,} subwords of its own" in said


def test_all_subwords_of_a_start_are_measured(data, lm, monkeypatch):
    sizes = []
    monkeypatch.setattr(budget, "_time", lambda step, repeats=2: 1.0)
    monkeypatch.setattr(
        budget, "measure_language_model", lambda size, *_: sizes.append(size) or 1.0
    )
    settings = small_settings(data)
    settings = replace(settings, tokens=TokenSettings("zh-tw", max_vocab=100))
    texts, start = hotel_reviews(30)["text"], find_start(str(lm), SHAPE)
    budget.measure_rates(texts, start, settings)
    # A run that is opened again knows the facts of its start.
    budget.measure_rates(texts, Start.from_facts(start.facts()), settings)
    assert sizes == [len(start.vocab)] * 2


def test_an_experiment_finds_the_language_once_and_its_general_text(data):
    settings = name_language(small_settings(data))
    assert settings.tokens.language == "zh"
    auto = replace(settings, lm=replace(settings.lm, pretrained="auto"))
    assert start_from_general_text(auto).lm.pretrained == CHINESE
    english = replace(auto, tokens=TokenSettings())
    assert start_from_general_text(english).lm.pretrained == GENERAL
    assert start_from_general_text(settings) == settings


def test_the_rivals_of_a_label_curve_read_characters_where_texts_are_chinese(
    data, tmp_path, monkeypatch
):
    planned = []
    monkeypatch.setattr(label_curve, "carry_out", lambda trials, *_: planned.extend(trials))
    monkeypatch.setattr(label_curve, "_compare", lambda *_: None)
    monkeypatch.setattr(label_curve, "label_curve_figure", lambda *_: None)
    monkeypatch.setattr(label_curve, "save_result", lambda *_: None)
    label_curve.run_label_curve(tmp_path, small_settings(data), [20], 1)
    (rival,) = (trial.instead for trial in planned if trial.instead)
    assert rival.keywords == {"language": "zh"}
    assert {trial.settings.tokens.language for trial in planned} == {"zh"}


# ------------------------------------------------------------------------------------ a whole run
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of both directions, trained for moments; and its settings."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "hotel.csv"
    hotel_reviews(60).to_csv(data, index=False)
    settings = small_settings(data, bidirectional=True)
    settings = replace(settings, tokens=TokenSettings(max_vocab=700, opencc="s2twp"))
    run = begin(folder / "run", settings)
    run.carry_out("classifier")
    return run, settings


def test_the_same_command_goes_on_with_the_run_whose_language_was_found(trained):
    run, settings = trained
    assert run.record.settings.tokens.language == "zh-tw" != settings.tokens.language
    again = begin(run.folder, settings)
    assert again.work == run.folder and not (run.folder / "next").exists()
    assert again.record == run.record


def test_a_run_reads_on_with_its_own_subwords_in_each_direction(trained):
    run, _ = trained
    for part in run.classifiers():
        bundle = load_bundle(part, "classifier")
        assert bundle.tokenizer == run.read_tokenizer() and bundle.opencc == "s2twp"
    predictor = load_predictor(run.folder, "fp32")
    store = predictor.store(run.rows["text"].tolist()[:3])
    assert [ids.tolist() for ids in store] == [run.open_tokens()[i].tolist() for i in range(3)]


def test_a_pruned_run_reads_with_the_subwords_of_its_teacher(trained, tmp_path):
    run, _ = trained
    pruned = prune_run(run.folder, tmp_path / "pruned", 0.5)
    pruned.carry_out("classifier")
    teacher, left = (load_bundle(each.classifiers()[0], "classifier") for each in (run, pruned))
    assert (left.tokenizer, left.opencc) == (teacher.tokenizer, "s2twp")
    assert left.shape.n_hid == 8


def test_a_teacher_reads_with_its_own_tokenizer(trained, saved, tmp_path):
    run, settings = trained
    teacher = DistillationSettings(teachers=(str(run.folder),))
    tokens = TokenSettings(max_vocab=650)  # and texts as they are
    student = begin(tmp_path, replace(settings, tokens=tokens, distillation=teacher))
    student.carry_out(TEACHER)
    texts = student.rows.loc[student.rows["learned"], "text"].tolist()
    answers = read_own_table(student.place(TEACHER) / "probabilities.csv", len(texts))
    expected = load_predictor(run.folder, "fp32").predict(texts)["p_正"]
    np.testing.assert_allclose(answers["p_正"].astype(float), expected, atol=1e-6)
    assert student.read_tokenizer() != run.read_tokenizer()
