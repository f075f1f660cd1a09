import json
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from tests.conftest import reviews
from ulmfit_app.config import ModelSettings, Settings
from ulmfit_app.errors import BundleError, DataError, RunFolderError, SettingError
from ulmfit_app.evaluation.calibration import fit_temperature
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import (
    BidirectionalPredictor,
    Predictor,
    load_predictor,
    read_validation,
)
from ulmfit_app.models.awd_lstm import build_classifier
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.settings_json import to_json
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer

SHAPE = ModelSettings(emb_sz=12, n_hid=16, n_layers=2)
DIRECTIONS = ("forward", "backward")
TEXTS = [
    "A great film.",
    "",
    "dull " * 400,
    "The plot, the actors; all GREAT!!!",
    "xxpad xxpad xxpad",
    "\udcff broken",
    "很好",
]


def saved_classifier(folder, seed=0, **changes):
    """A classifier of random weights, large enough for texts to differ."""
    tokenize = Tokenizer()
    words = sorted(
        {token for text in reviews(40)["review"] for token in tokenize(text)} - set(SPECIALS)
    )
    vocab = [*SPECIALS, *words]
    torch.manual_seed(seed)
    model = build_classifier(len(vocab), 3, SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    described = {"language": "en", "vocab": vocab, "labels": ["bad", "fair", "good"]} | changes
    if "temperature" in described:
        described["decision"] = Decision(temperatures=(described.pop("temperature"),))
    save_bundle(folder, model, Bundle("classifier", SHAPE, **described))
    return folder


@pytest.fixture
def bundle(tmp_path):
    return saved_classifier(tmp_path / "bundle")


@pytest.fixture
def backward(tmp_path):
    """The same labels and words, other weights, the other direction."""
    return saved_classifier(tmp_path / "backward", seed=1, direction="backward")


def test_probabilities_sum_to_one_and_keep_the_order_of_the_texts(bundle):
    predictor = Predictor(bundle)
    together = predictor.predict(TEXTS)
    assert list(together["text"]) == [text.replace("\udcff", "\ufffd") for text in TEXTS]
    columns = ["p_bad", "p_fair", "p_good"]
    assert np.allclose(together[columns].sum(axis=1), 1)
    for i, text in enumerate(TEXTS):
        alone = predictor.predict([text])
        assert np.allclose(alone[columns], together.loc[[i], columns], atol=1e-6), text


@pytest.mark.parametrize(("precision", "largest"), [("bf16", 0.05), ("int8", 0.1)])
def test_a_lower_precision_is_near_fp32(bundle, monkeypatch, precision, largest):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    columns = ["p_bad", "p_fair", "p_good"]
    exact, low = (
        Predictor(bundle, p).predict(TEXTS)[columns].to_numpy() for p in ("fp32", precision)
    )
    assert 0 < np.abs(low - exact).max() < largest


def test_in_int8_too_a_text_does_not_depend_on_those_beside_it(bundle):
    predictor = Predictor(bundle, "int8")
    columns = ["p_bad", "p_fair", "p_good"]
    together = predictor.predict(TEXTS)[columns]
    for i, text in enumerate(TEXTS):
        assert np.array_equal(predictor.predict([text])[columns], together.loc[[i]]), text


def test_a_precision_that_this_machine_does_not_have_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="CPU has no fp16.*--precision auto"):
        Predictor(bundle, "fp16")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_int8_without_its_extra_names_it(bundle, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        SettingError, match=r"not installed. Run: pip install 'ulmfit-app\[onnx\]'"
    ):
        Predictor(bundle, "int8")


def test_a_typed_special_is_read_as_words(bundle):
    predictor = Predictor(bundle)
    store = predictor.store(["xxpad xxbos great"])
    assert SPECIALS.index("xxpad") not in store.ids
    assert list(store.ids).count(SPECIALS.index("xxbos")) == 1


def test_a_backward_classifier_reads_each_text_from_its_end(tmp_path, bundle):
    """The same weights in both directions: what differs is the order of the tokens alone."""
    backward = Predictor(saved_classifier(tmp_path / "same", direction="backward"), "fp32")
    forward = Predictor(bundle, "fp32")
    store = forward.store(["great film dull"])
    turned = TokenStore(store.ids[::-1], store.offsets, store.words)
    assert np.allclose(
        backward.probabilities(backward.store(["great film dull"])), forward.probabilities(turned)
    )
    assert not np.allclose(forward.probabilities(store), forward.probabilities(turned), atol=1e-3)


def test_a_store_in_the_other_direction_is_refused(bundle, backward):
    store = Predictor(bundle).store(TEXTS)
    with pytest.raises(
        BundleError, match=r"in .*backward learned to read backward, but is to read forward here"
    ):
        Predictor(backward).probabilities(store)
    with pytest.raises(BundleError, match="learned to read forward, but is to read backward here"):
        Predictor(bundle).probabilities(store.backward())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_both_directions_together_give_the_mean_of_their_probabilities(
    bundle, backward, precision
):
    columns = ["p_bad", "p_fair", "p_good"]
    alone = [
        Predictor(folder, precision).predict(TEXTS)[columns].to_numpy()
        for folder in (bundle, backward)
    ]
    assert not np.allclose(*alone, atol=0.01)
    both = BidirectionalPredictor(bundle, backward, precision)
    together = both.predict(TEXTS)
    assert np.allclose(together[columns], (alone[0] + alone[1]) / 2, rtol=0, atol=1e-12)
    assert list(together["predicted"]) == [
        both.labels[i] for i in together[columns].to_numpy().argmax(1)
    ]
    each = both.each(both.store(TEXTS))
    assert list(each) == ["forward", "backward"]
    assert all(
        np.allclose(one, other, rtol=0, atol=1e-12)
        for one, other in zip(each.values(), alone, strict=True)
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"labels": ["good", "fair", "bad"]}, "differ in labels"),
        ({"language": "de"}, "differ in language"),
        ({"direction": "forward"}, "learned to read forward, but is to read backward"),
    ],
    ids=str,
)
def test_two_classifiers_that_do_not_belong_together_are_not_averaged(
    bundle, tmp_path, other, words
):
    second = saved_classifier(tmp_path / "other", **{"direction": "backward", **other})
    with pytest.raises(BundleError, match=words):
        BidirectionalPredictor(bundle, second)


def test_two_vocabularies_of_one_length_are_not_averaged(bundle, tmp_path):
    vocab = Predictor(bundle).bundle.vocab
    second = saved_classifier(
        tmp_path / "other", direction="backward", vocab=[*vocab[:-2], vocab[-1], vocab[-2]]
    )
    with pytest.raises(
        BundleError, match="differ in vocab.*one run: its command with --bidirectional"
    ):
        BidirectionalPredictor(bundle, second)


def test_two_classifiers_in_changed_places_are_refused(bundle, backward):
    with pytest.raises(BundleError, match="learned to read backward, but is to read forward"):
        BidirectionalPredictor(backward, bundle)


def test_threads_share_one_predictor(bundle):
    predictor = Predictor(bundle)
    expected = predictor.predict(TEXTS)
    results = [None] * 4

    def work(i):
        results[i] = predictor.predict(TEXTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for result in results:
        pd.testing.assert_frame_equal(result, expected)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_classifiers_logits_are_divided_by_its_temperature(bundle, tmp_path, precision):
    warm = Predictor(saved_classifier(tmp_path / "warm", temperature=2.5), precision)
    predictor = Predictor(bundle, precision)
    before = predictor.probabilities(predictor.store(TEXTS))
    after = warm.probabilities(warm.store(TEXTS))
    assert np.allclose(after, softmax(np.log(before) / 2.5, axis=1), rtol=0, atol=1e-12)
    assert (after.max(1) < before.max(1)).all() and (after.argmax(1) == before.argmax(1)).all()
    assert np.allclose(warm.each(warm.store(TEXTS))["forward"], before, rtol=0, atol=1e-12)


def test_the_mean_of_two_directions_has_a_temperature_of_its_own(tmp_path):
    folders = [
        saved_classifier(tmp_path / d, seed, direction=d, temperature=9.0)
        for seed, d in enumerate(DIRECTIONS)
    ]
    both = BidirectionalPredictor(*folders, decision=Decision(temperatures=(0.5,)))
    mean = np.mean(list(both.each(both.store(TEXTS)).values()), axis=0)
    found = both.probabilities(both.store(TEXTS))
    assert np.allclose(found, softmax(np.log(mean) / 0.5, axis=1), rtol=0, atol=1e-12)
    assert (found.argmax(1) == mean.argmax(1)).all()


def test_a_file_is_predicted_row_by_row_with_its_own_columns(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("ulmfit_app.inference.predicted_file.ROWS_AT_A_TIME", 16)  # several pieces
    table = reviews(50)
    table.insert(0, "id", range(50))
    table.to_csv(tmp_path / "in.csv", index=False)
    assert (
        predict_file(
            Predictor(bundle), tmp_path / "in.csv", tmp_path / "out.csv", "review", "utf-8"
        )
        == 50
    )
    out = pd.read_csv(tmp_path / "out.csv")
    assert list(out.columns) == [
        *table.columns,
        "predicted",
        "confidence",
        "p_bad",
        "p_fair",
        "p_good",
    ]
    assert list(out["id"]) == list(range(50))
    direct = Predictor(bundle).predict(table["review"].tolist())
    assert np.allclose(out["p_good"], direct["p_good"], atol=1e-6)


def test_a_file_that_breaks_off_leaves_no_predictions(bundle, tmp_path):
    (tmp_path / "in.csv").write_text('review,id\n"good",1\n"never closed,2\n')
    with pytest.raises(DataError, match="line 3"):
        predict_file(
            Predictor(bundle), tmp_path / "in.csv", tmp_path / "out.csv", "review", "utf-8"
        )
    assert not (tmp_path / "out.csv").exists()


def test_a_text_of_more_than_a_million_characters_is_predicted(bundle):
    (row,) = Predictor(bundle).predict(["great film and plot. " * 60_000]).to_dict("records")
    assert 0 < row["p_good"] < 1


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    save_bundle(tmp_path, torch.nn.Linear(2, 2), Bundle("language model", SHAPE, "en", ["a"]))
    with pytest.raises(BundleError, match="holds a language model, but a classifier is needed"):
        Predictor(tmp_path)


# -------------------------------------------------------------------------------- a run's folder
def made_run(folder, *directions, format=2, start=None, text_column=None):
    """A run's folder with what a predictor needs of it."""
    folder.mkdir(exist_ok=True)
    starts = [{"direction": each} if start is None else start for each in directions]
    record = {"format": format, "directions": [{"start": each} for each in starts]}
    settings = to_json(Settings())
    record |= {"settings": settings, "requested": {"settings": settings}}
    record |= {"counts": {"valid": 60}, "data": {"text_column": text_column}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def run_with_classifier(tmp_path_factory):
    """A run that was made from a file whose texts stood in the column body, and its classifier."""
    run = made_run(tmp_path_factory.mktemp("runs") / "run", "forward", text_column="body")
    saved_classifier(run / "classifier")
    return run


def save_validation(folder, seed, rows=range(60)):
    """Probabilities of made texts, far too sure of themselves; their classes."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(9).integers(0, 3, len(rows))
    scores = rng.normal(size=(len(rows), 3)) * 8 + 6 * np.eye(3)[truth]
    table = pd.DataFrame(softmax(scores, axis=1), columns=["p_bad", "p_fair", "p_good"])
    table.insert(0, "row", list(rows))
    table.insert(1, "label", [["bad", "fair", "good"][i] for i in truth])
    table.to_csv(folder / "validation.csv", index=False)
    return table


def test_a_runs_predictor_is_its_classifier(tmp_path):
    run = made_run(tmp_path / "run", "forward")
    saved_classifier(run / "classifier", temperature=1.5)
    predictor = load_predictor(run, "fp32")
    assert type(predictor) is Predictor and predictor.decision.temperature == 1.5
    assert predictor.folder == run / "classifier"


def test_a_run_of_a_backward_model_alone_is_read_backward(tmp_path):
    run = made_run(tmp_path / "run", "backward")
    saved_classifier(run / "classifier-backward", direction="backward")
    assert load_predictor(run).bundle.direction == "backward"


def test_the_temperature_of_both_directions_is_fitted_to_what_they_made_of_validation(tmp_path):
    run = made_run(tmp_path / "run", "forward", "backward")
    tables = []
    for seed, (name, direction) in enumerate(
        (("classifier", "forward"), ("classifier-backward", "backward"))
    ):
        saved_classifier(run / name, seed, direction=direction)
        if direction == "backward":
            with pytest.raises(RunFolderError, match=r"validation.csv is missing.*report .*run"):
                load_predictor(run)
        tables.append(save_validation(run / name, seed))
    both = load_predictor(run)
    columns = ["p_bad", "p_fair", "p_good"]
    mean = (tables[0][columns].to_numpy() + tables[1][columns].to_numpy()) / 2
    truth = tables[0]["label"].map({"bad": 0, "fair": 1, "good": 2}).to_numpy()
    expected, reason = fit_temperature(mean, truth)
    assert (type(both), reason) == (BidirectionalPredictor, "")
    assert expected > 1.2 and both.decision.temperature == pytest.approx(expected, rel=1e-6)
    # The mean, at temperature 1, and the classes.
    found, found_truth = read_validation([run / "classifier", run / "classifier-backward"], 60)
    assert np.allclose(found, mean) and (found_truth == truth).all()


def test_results_that_are_complete_but_not_yet_moved_are_read_first(tmp_path):
    run = made_run(tmp_path / "run", "forward")
    saved_classifier(run / "classifier", seed=0)
    made_run(run / "ready", "forward")
    saved_classifier(run / "ready" / "classifier", seed=1)
    assert load_predictor(run).folder == run / "ready" / "classifier"


@pytest.mark.parametrize("directions", [["forward"], ["forward", "backward"]])
def test_a_run_without_a_trained_classifier_says_which_one_is_missing(tmp_path, directions):
    run = made_run(tmp_path / "run", *directions)
    if len(directions) == 2:
        saved_classifier(run / "classifier")
    name = "classifier-backward" if len(directions) == 2 else "classifier"
    with pytest.raises(RunFolderError, match=f"No trained {name} in .*run yet. Finish the run"):
        load_predictor(run)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: run.mkdir(), "No run in .*run: it has no run.json. Start one: python -m"),
        (lambda run: run.write_text("x"), "run is a file; a run needs a folder of its own"),
        (lambda run: made_run(run, "forward", format=3), "has format 3, and this version reads"),
        (lambda run: made_run(run).joinpath("run.json").write_text("{"), "is damaged or was"),
        (lambda run: made_run(run, "forward", start={}), "changed by hand .KeyError: 'direction'"),
    ],
    ids=["empty", "a file", "format 3", "no JSON", "no direction"],
)
def test_what_is_no_run_is_refused(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(RunFolderError, match=message):
        load_predictor(tmp_path / "run")


def test_a_run_of_the_format_before_is_refused_and_left_as_it_is(tmp_path):
    run = tmp_path / "run"
    (run / "tokens").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match="has format 1.*nothing in it was changed.*--pretra"):
        load_predictor(run)
    assert {path.name for path in run.iterdir()} == {"tokens", "config.json"}


def test_validation_files_of_other_texts_are_refused(tmp_path):
    folders = [tmp_path / "run" / name for name in ("classifier", "classifier-backward")]
    for folder, rows in zip(folders, (range(60), range(1, 61)), strict=True):
        folder.mkdir(parents=True)
        save_validation(folder, 0, rows)
    with pytest.raises(RunFolderError, match="they are of other texts.*report .*run"):
        read_validation(folders, 60)
    assert read_validation(folders[:1], 60) is not None
    (folders[0] / "validation.csv").unlink()
    assert read_validation(folders, 60) is None
