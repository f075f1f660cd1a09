import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.external import URLs
from fastai.losses import CrossEntropyLossFlat
from fastai.text import learner as fastais_learner
from fastai.text.learner import language_model_learner, match_embeds
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import LinearDecoder
from fastcore.xtras import save_pickle
from matplotlib import pyplot
from PIL import Image

from data_scripts.fetch import FetchError, Source
from tests.conftest import made_store
from ulmfit_app.config import LanguageModelSettings, ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models import pretrained
from ulmfit_app.models.awd_lstm import build_language_model, language_model_config
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.models.pretrained import (
    Start,
    find_start,
    find_starts,
    has_changed,
    read_fastai,
)
from ulmfit_app.models.softmax import VocabularyHead, cross_entropy
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.training.language_model import make_learner, save_lr_finder_plot

SHAPE = ModelSettings(emb_sz=16, n_hid=24, n_layers=2)
SETTINGS = LanguageModelSettings(batch_size=4, bptt=10)
RANDOM = Start("random weights", "random", SHAPE)
BACKWARD = replace(RANDOM, direction="backward")


def plain_learner(store, drop_mult=1.0):
    """fastai's own, over the same batches."""
    batches = LanguageModelBatches(store, np.arange(len(store)), 4, 10)
    config = language_model_config(SHAPE)
    dls = DataLoaders(batches, batches)
    return language_model_learner(
        dls, AWD_LSTM, config=config, drop_mult=drop_mult, pretrained=False
    )


def save_as_fastai(folder: Path, model, vocab) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "lm.pth")
    save_pickle(folder / "lm_vocab.pkl", vocab)
    return folder


@pytest.fixture
def saved(tmp_path):
    """What plain fastai saves of a language model: (folder, the model, its vocabulary)."""
    torch.manual_seed(0)
    store = made_store([30] * 8)
    model = plain_learner(store).model
    return save_as_fastai(tmp_path / "fastais", model, store.words), model, store.words


def logits(model, x):
    model.eval()
    model.reset()
    with torch.no_grad():
        return whole(model(x)[0])


def whole(prediction):
    """A prediction's logits [batch, tokens, words], whichever head made it."""
    if torch.is_tensor(prediction):
        return prediction
    return torch.nn.functional.linear(prediction.hidden, prediction.weight, prediction.bias)


TEXT = torch.randint(9, 60, (3, 25), generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------- fastai's own format
def test_what_fastai_saved_gives_the_same_logits(saved):
    folder, model, vocab = saved
    start = read_fastai(folder)
    assert (start.vocab, start.shape, start.is_pretrained) == (vocab, SHAPE, True)
    ours = build_language_model(len(start.vocab), start.shape)
    assert not torch.allclose(logits(ours, TEXT), logits(model, TEXT))
    ours.load_state_dict(start.weights)
    assert torch.equal(logits(ours, TEXT), logits(model, TEXT))


def test_what_learner_save_wrote_is_read(saved):
    """It lays the weights under "model" when it saves the optimizer beside them."""
    folder, model, _ = saved
    plain = read_fastai(folder)
    torch.save({"model": model.state_dict(), "opt": None}, folder / "lm.pth")
    again = read_fastai(folder)
    assert again.fingerprint != plain.fingerprint
    assert all(torch.equal(again.weights[name], value) for name, value in plain.weights.items())


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "the-payload-ran"


def test_the_payload_of_these_tests_would_run(marker):
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()


@pytest.mark.parametrize(
    "wrapped",
    [lambda p: p, lambda p: ["xxunk", p], lambda p: {"a": p}],
    ids=["bare", "list", "dict"],
)
def test_a_vocabulary_with_a_payload_is_refused_and_nothing_runs(saved, marker, wrapped):
    folder, *_ = saved
    (folder / "lm_vocab.pkl").write_bytes(pickle.dumps(wrapped(Payload(marker))))
    with pytest.raises(
        BundleError, match=r"lm_vocab.pkl was refused: it calls .*open.*nothing in it was run"
    ):
        read_fastai(folder)
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_with_a_payload_are_refused_and_nothing_runs(saved, marker, legacy):
    folder, model, _ = saved
    state = {**model.state_dict(), "extra": Payload(marker)}
    torch.save(state, folder / "lm.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BundleError, match=r"lm.pth was refused, nothing in it was run"):
        read_fastai(folder)
    assert not marker.exists()


@pytest.mark.parametrize("vocab", [{"a": 1}, ["a", 1], "words", None], ids=str)
def test_a_vocabulary_that_is_no_list_of_words_is_refused(saved, vocab):
    folder, *_ = saved
    save_pickle(folder / "lm_vocab.pkl", vocab)
    with pytest.raises(
        BundleError, match="holds no vocabulary. Expected fastai's format, a pickled list of words"
    ):
        read_fastai(folder)


@pytest.mark.parametrize("name", ["lm_vocab.pkl", "lm.pth"])
@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x04"], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_pickle_is_refused(saved, name, data):
    folder, *_ = saved
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was refused"):
        read_fastai(folder)


@pytest.mark.parametrize(
    "content",
    [{}, {"weight": torch.zeros(3)}, torch.zeros(3), [1, 2], {"0.encoder.weight": 1}],
    ids=str,
)
def test_weights_of_something_else_are_refused(saved, content):
    folder, *_ = saved
    torch.save(content, folder / "lm.pth")
    with pytest.raises(BundleError, match=r"lm.pth is no AWD-LSTM language model of fastai's"):
        read_fastai(folder)


def test_a_vocabulary_of_another_length_is_refused(saved):
    folder, _, vocab = saved
    save_pickle(folder / "lm_vocab.pkl", vocab[:-1])
    with pytest.raises(BundleError, match="lm_vocab.pkl has 59 words, lm.pth 60 embeddings"):
        read_fastai(folder)


@pytest.mark.parametrize(("name", "suffix"), [("lm.pth", ".pth"), ("lm_vocab.pkl", ".pkl")])
def test_a_missing_or_doubtful_file_is_refused(saved, name, suffix):
    folder, *_ = saved
    (folder / f"second{suffix}").write_bytes(b"")
    with pytest.raises(BundleError, match=f"Expected one {suffix} file in .*, found 2"):
        read_fastai(folder)
    (folder / f"second{suffix}").unlink()
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"Expected one {suffix} file in .*, found 0"):
        read_fastai(folder)


# ---------------------------------------------------------------------------------- where to start
def test_none_starts_from_random_weights():
    start = find_start("none", SHAPE)
    assert (start.origin, start.is_pretrained, start.shape) == ("random weights", False, SHAPE)
    assert start.fingerprint != find_start("none", replace(SHAPE, n_hid=32)).fingerprint


def test_wt103_brings_its_shape_and_says_its_source(saved, monkeypatch):
    folder, *_ = saved
    monkeypatch.setattr(
        pretrained.wt103, "fetch", lambda direction: Source(folder, "fastai's wt103-fwd.tgz")
    )
    start = find_start("wt103", ModelSettings())
    assert (start.origin, start.shape) == ("fastai's wt103-fwd.tgz", SHAPE)
    assert start.fingerprint == read_fastai(folder).fingerprint


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_wt103_that_cannot_be_had_is_an_error_that_names_other_starts(
    monkeypatch, tmp_path, direction
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # others may have fetched it before

    def unreachable(*_, **__):
        raise FetchError("No answer within 10 seconds.")

    monkeypatch.setattr(pretrained.wt103, "download_archive", unreachable)
    names = "No answer within 10 seconds.*--pretrained FOLDER.*--pretrained en-small.*"
    with pytest.raises(FetchError, match=f"{names}--pretrained none"):
        find_start("wt103", SHAPE, direction)


def test_a_damaged_wt103_is_not_passed_over(saved, monkeypatch):
    folder, *_ = saved
    (folder / "lm.pth").write_bytes(b"")
    monkeypatch.setattr(pretrained.wt103, "fetch", lambda direction: Source(folder, "fastai's"))
    with pytest.raises(BundleError, match=r"lm.pth was refused"):
        find_start("wt103", SHAPE)


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.write_text("x")], ids=["missing", "a file"]
)
def test_a_start_that_is_no_folder_is_refused(tmp_path, make):
    make(tmp_path / "typo")
    packaged = "en-reviews-small, en-small, en-small-bwd, zh-tw-small, zh-tw-small-bwd"
    names = f"{packaged}, wt103, none, minilm, or a"
    expected = f"typo to start from. Expected for --pretrained: {names}"
    with pytest.raises(BundleError, match=expected):
        find_start(str(tmp_path / "typo"), SHAPE)


def test_a_folder_of_fastais_files_is_a_start(saved):
    folder, model, vocab = saved
    start = find_start(str(folder), ModelSettings())
    assert (start.vocab, start.shape) == (vocab, SHAPE)
    assert torch.equal(start.weights["0.encoder.weight"], model[0].encoder.weight)


def test_a_bundle_is_a_start(tmp_path):
    vocab = made_store([3]).words
    model = build_language_model(len(vocab), SHAPE)
    save_bundle(tmp_path, model, Bundle("language model", SHAPE, "en", vocab))
    start = find_start(str(tmp_path), ModelSettings())
    assert (start.vocab, start.shape) == (vocab, SHAPE)
    again = build_language_model(len(start.vocab), start.shape)
    again.load_state_dict(start.weights)
    assert torch.equal(logits(again, TEXT), logits(model, TEXT))


def test_a_classifiers_bundle_is_no_start(tmp_path):
    vocab = made_store([3]).words
    model = build_language_model(len(vocab), SHAPE)
    save_bundle(tmp_path, model, Bundle("classifier", SHAPE, "en", vocab, ["a", "b"]))
    with pytest.raises(
        BundleError, match="holds a classifier, but a language model is needed here"
    ):
        find_start(str(tmp_path), SHAPE)


# ----------------------------------------------------------------------------- facts of a start
def test_the_facts_of_a_start_are_json_and_make_it_again_without_weights(saved):
    start = read_fastai(saved[0], "backward")
    facts = json.loads(json.dumps(start.facts()))
    again = Start.from_facts(facts)
    assert again == replace(start, weights=None, vocab=None)
    assert (again.n_words, again.shape, again.is_strong) == (60, SHAPE, True)
    assert again.is_pretrained and not Start.from_facts(RANDOM.facts()).is_pretrained


def test_a_start_has_changed_where_the_users_bundle_is_another_one_by_now(tmp_path):
    vocab, folder = made_store([3]).words, tmp_path / "lm"

    def save(seed):
        torch.manual_seed(seed)
        described = Bundle("language model", SHAPE, "en", vocab)
        save_bundle(folder, build_language_model(len(vocab), SHAPE), described)

    save(1)
    start = find_start(str(folder), SHAPE)
    assert not has_changed(start, str(folder))
    save(2)
    assert has_changed(start, str(folder))
    shutil.rmtree(folder)
    assert not has_changed(start, str(folder)), "a start that is gone has not changed"
    for name in ("none", "wt103", "en-small"):
        assert not has_changed(start, name)


# -------------------------------------------------------------------------------------- directions
def renamed(folder: Path, mark: str) -> Path:
    """fastai's files under names like those in its own archives."""
    (folder / "lm.pth").rename(folder / f"lstm_{mark}.pth")
    return folder


def test_plain_fastais_backwards_takes_other_weights_and_leaves_the_texts_forward(
    saved, monkeypatch
):
    folder, *_ = saved
    asked = []
    monkeypatch.setattr(
        fastais_learner, "untar_data", lambda url, **_: asked.append(url) or folder
    )
    store = made_store([30] * 8)
    batches = LanguageModelBatches(store, np.arange(8), 1, 10)
    dls = DataLoaders(batches, batches)
    config = language_model_config(SHAPE)
    plain = language_model_learner(dls, AWD_LSTM, config=config, backwards=True)
    assert asked == [URLs.WT103_BWD]
    x, _ = next(iter(plain.dls.train))
    assert x[0].tolist() == store[0][:10].tolist(), "backward weights, forward texts, and no error"


@pytest.mark.parametrize(
    ("start", "backward_texts"), [(BACKWARD, False), (RANDOM, True)], ids=["start", "texts"]
)
def test_a_start_and_texts_of_different_directions_are_refused(start, backward_texts):
    store = made_store([30] * 8)
    with pytest.raises(
        BundleError,
        match="The start, random weights, learned to read (forward|backward), but is to read",
    ):
        made_learner(store.backward() if backward_texts else store, start)


def test_a_backward_learner_is_given_each_text_from_its_end():
    store = made_store([30] * 8)
    learn = made_learner(store.backward(), BACKWARD)
    x, _ = next(iter(learn.dls.valid))
    assert x[0, :10].tolist() == store[6][::-1][:10].tolist()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_random_weights_read_in_the_direction_that_is_asked_for(direction):
    assert find_start("none", SHAPE, direction).direction == direction


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_wt103_is_fetched_in_the_direction_that_is_asked_for(saved, monkeypatch, direction):
    folder, *_ = saved
    asked = []
    monkeypatch.setattr(
        pretrained.wt103, "fetch", lambda which: asked.append(which) or Source(folder, "fastai's")
    )
    assert find_start("wt103", SHAPE, direction).direction == direction
    assert asked == [direction]


def test_files_of_fastais_that_do_not_say_a_direction_take_the_one_asked_for(saved):
    folder, *_ = saved
    assert find_start(str(folder), SHAPE).direction == "forward"
    assert find_start(str(folder), SHAPE, "backward").direction == "backward"


@pytest.mark.parametrize(("mark", "direction"), [("fwd", "backward"), ("BWD", "forward")])
def test_files_of_fastais_named_for_the_other_direction_are_refused(saved, mark, direction):
    folder = renamed(saved[0], mark)
    with pytest.raises(
        BundleError,
        match=rf"By its name, .*lstm_{mark}.pth learned .* to read {direction} here.*NAME-bwd",
    ):
        find_start(str(folder), SHAPE, direction)


def test_a_bundle_of_the_other_direction_is_refused(tmp_path):
    vocab = made_store([3]).words
    described = Bundle("language model", SHAPE, "en", vocab, direction="backward")
    save_bundle(tmp_path, build_language_model(len(vocab), SHAPE), described)
    with pytest.raises(BundleError, match="learned to read backward, but is to read forward here"):
        find_start(str(tmp_path), SHAPE)
    assert find_start(str(tmp_path), SHAPE, "backward").direction == "backward"


@pytest.mark.parametrize(
    ("forward", "backward"),
    [("lm", "lm-backward"), ("small", "small-bwd"), ("wt103-fwd", "wt103-bwd")],
)
def test_the_backward_start_is_the_folder_beside_the_forward_one(tmp_path, forward, backward):
    vocab = made_store([3]).words
    for name, direction in ((forward, "forward"), (backward, "backward")):
        described = Bundle("language model", SHAPE, "en", vocab, direction=direction)
        save_bundle(tmp_path / name, build_language_model(len(vocab), SHAPE), described)
    starts = find_starts([str(tmp_path / forward)] * 2, SHAPE)
    assert [start.direction for start in starts] == ["forward", "backward"]
    for start, name in zip(starts, (forward, backward), strict=True):
        assert start.origin.startswith(f"the bundle {tmp_path / name},")
    assert [start.direction for start in find_starts([str(tmp_path / forward)], SHAPE)] == [
        "forward"
    ]


def test_the_same_files_cannot_start_both_directions(saved):
    with pytest.raises(
        BundleError,
        match="cannot read both forward and backward. Beside a forward model's folder NAME",
    ):
        find_starts([str(saved[0])] * 2, SHAPE)
    assert len(find_starts(["none", "none"], SHAPE)) == 2


# ------------------------------------------------------------------------------------- the learner
def made_learner(store, start=RANDOM, settings=SETTINGS):
    torch.manual_seed(0)
    n = len(store)
    parts = np.arange(n - 2), np.arange(n - 2, n)
    return make_learner(store, *parts, start, settings, "fp32", seed=1)


def test_known_words_keep_their_embedding_and_new_ones_get_the_mean(saved):
    folder, model, _ = saved
    start = read_fastai(folder)
    # The target corpus knows half of the words, in another order, and brings ten of its own.
    store = made_store([30] * 8)
    store = replace(
        store, words=[*SPECIALS, *reversed(start.vocab[30:]), *(f"new{i}" for i in range(21))]
    )
    learn = made_learner(store, start)
    embedding, bias = model[0].encoder.weight.detach(), model[1].decoder.bias.detach()
    ours, our_bias = learn.model[0].encoder.weight.detach(), learn.model[1].decoder.bias.detach()
    known = {word: i for i, word in enumerate(start.vocab)}
    assert {word in known for word in store.words} == {True, False}
    for i, word in enumerate(store.words):
        expected = embedding[known[word]] if word in known else embedding.mean(0)
        assert torch.allclose(ours[i], expected, atol=1e-7), word
        assert torch.allclose(
            our_bias[i], bias[known[word]] if word in known else bias.mean(), atol=1e-7
        ), word
    fastais = match_embeds(dict(start.weights), start.vocab, store.words)
    assert torch.equal(ours, fastais["0.encoder.weight"])
    assert learn.model[1].decoder.weight is learn.model[0].encoder.weight, "they stay tied"
    for name in (name for name in start.weights if ".rnns." in name):
        assert torch.equal(learn.model.state_dict()[name], start.weights[name]), name


def test_building_a_learner_leaves_its_start_as_it_was(saved):
    folder, *_ = saved
    start = read_fastai(folder)
    store = made_store([30] * 8)
    first, *others = store.words
    made_learner(replace(store, words=[first, *others[::-1]]), start)
    fresh = read_fastai(folder)
    assert start.weights.keys() == fresh.weights.keys()
    assert all(torch.equal(start.weights[name], fresh.weights[name]) for name in fresh.weights)


def test_random_weights_start_at_the_log_word_frequencies():
    store = made_store([30] * 8)
    bias = made_learner(store).model[1].decoder.bias.detach().double()
    assert float(bias.exp().sum()) == pytest.approx(1, abs=1e-6)
    counts = np.bincount(
        np.concatenate([store[i] for i in range(6)]), minlength=60
    )  # of the training texts alone
    assert np.allclose(bias.exp(), (counts + 1) / (counts + 1).sum(), atol=1e-7)


def test_that_start_is_already_at_the_entropy_of_the_words():
    store = made_store([200] * 8, n_words=400)
    store = replace(store, ids=np.minimum(store.ids, 15))  # a few frequent words, most never
    informed = made_learner(store)
    plain = plain_learner(store)
    entropy = -sum(p * np.log(p) for p in np.bincount(store.ids) / len(store.ids) if p)
    assert informed.validate()[0] < entropy + 0.5
    assert plain.validate()[0] > entropy + 2


def test_a_pretrained_bias_is_not_overwritten(saved):
    folder, model, _ = saved
    with torch.no_grad():
        model[1].decoder.bias.copy_(torch.arange(60.0))
    save_as_fastai(folder, model, made_store([3]).words)
    learn = made_learner(made_store([30] * 8), read_fastai(folder))
    assert torch.equal(learn.model[1].decoder.bias.detach(), torch.arange(60.0))


def test_weights_with_a_part_missing_are_refused(saved):
    folder, model, vocab = saved
    start = read_fastai(folder)
    del start.weights["0.rnns.1.module.bias_hh_l0"]
    with pytest.raises(
        BundleError, match="The weights of fastai's format in fastais do not fit fastai's AWD-LSTM"
    ):
        made_learner(made_store([30] * 8), start)


def test_perplexity_is_the_exponential_of_the_validation_loss():
    loss, accuracy, perplexity = made_learner(made_store([30] * 8)).validate()
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-6)
    assert 0 <= accuracy <= 1


def test_training_without_dropout_works():
    learn = made_learner(made_store([30] * 8), settings=replace(SETTINGS, drop_mult=0.0))
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    names = [name for name, _ in learn.model.named_parameters()]
    learn.fit(2, 1e-2)
    assert [name for name, _ in learn.model.named_parameters()] == names
    # The recurrent weights learn too: they are not cut off from the loss.
    after = learn.model.state_dict()
    assert not torch.equal(after["0.rnns.0.weight_hh_l0_raw"], before["0.rnns.0.weight_hh_l0_raw"])
    assert all(torch.isfinite(value).all() for value in after.values())


def test_plain_fastai_fails_without_dropout():
    learn = plain_learner(made_store([30] * 8), drop_mult=0.0)
    with learn.no_logging(), pytest.raises(Exception, match="weight_hh_l0"):
        learn.fit(2, 1e-2)


@pytest.mark.parametrize(
    ("device", "softmax", "head", "loss"),
    [
        ("cuda", "exact", LinearDecoder, CrossEntropyLossFlat),
        ("cuda", "sampled", VocabularyHead, type(cross_entropy)),
        ("cpu", "exact", VocabularyHead, type(cross_entropy)),
        ("cpu", "sampled", VocabularyHead, type(cross_entropy)),
    ],
)
def test_on_cuda_the_exact_softmax_is_fastais_own(monkeypatch, device, softmax, head, loss):
    """The CUDA branch with a mock: no GPU is needed to see which head and loss are taken."""
    monkeypatch.setattr(LanguageModelBatches, "device", torch.device(device))
    learn = made_learner(made_store([30] * 8), settings=replace(SETTINGS, softmax=softmax))
    assert type(learn.model[1]) is head and type(learn.loss_func) is loss
    assert head is LinearDecoder or (learn.model[1].sampler is None) == (softmax == "exact")
    assert learn.model[1].decoder.weight is learn.model[0].encoder.weight


def test_a_learner_with_fastais_head_trains_as_one_with_ours(monkeypatch):
    """What CUDA trains, on the CPU: the same steps, rounding apart, and weights of one name."""
    trained = []
    for device in ("cuda", "cpu"):
        with monkeypatch.context() as patch:
            patch.setattr(LanguageModelBatches, "device", torch.device(device))
            learn = made_learner(made_store([30] * 8))
        torch.manual_seed(5)
        with learn.no_logging():
            learn.fit(1, 1e-3)
        trained.append((learn.recorder.values, learn.model.state_dict()))
    (fastais, plain), (values, ours) = trained
    np.testing.assert_allclose(np.array(values, float), np.array(fastais, float), rtol=1e-4)
    assert list(ours) == list(plain)
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5)


def test_with_dropout_the_weights_are_dropped_as_fastais_are():
    store = made_store([30] * 8)
    ours, plain = made_learner(store).model, plain_learner(store).model
    plain.load_state_dict(ours.state_dict())
    results = []
    for model in (ours, plain):
        model.train()
        model.reset()
        torch.manual_seed(4)
        results.append(whole(model(TEXT)[0]))
    assert torch.equal(*results)


def test_the_learning_rate_finder_draws_and_changes_nothing(tmp_path):
    learn = made_learner(made_store([30] * 60))
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    random_state, open_figures = torch.get_rng_state(), pyplot.get_fignums()
    save_lr_finder_plot(learn, tmp_path / "lr_find.png")
    assert Image.open(tmp_path / "lr_find.png").size == (1050, 675)
    assert all(
        torch.equal(value, before[name]) for name, value in learn.model.state_dict().items()
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    assert learn.opt is None
    assert pyplot.get_fignums() == open_figures, "one of pyplot's would stay open"


def test_the_models_that_come_with_the_package_are_whole_small_and_strong():
    starts = find_starts(["en-small", "en-small"], ModelSettings())
    assert [start.direction for start in starts] == ["forward", "backward"] and all(
        start.is_strong for start in starts
    )
    for start, name in zip(starts, ("en-small", "en-small-bwd"), strict=True):
        assert start.origin.startswith(f"{name}, which learned from ")
        assert len(start.vocab) == len(start.weights["0.encoder.weight"])
    assert starts[0].vocab == starts[1].vocab
    reviews = find_start("en-reviews-small", ModelSettings())
    assert reviews.is_strong and "unlabelled reviews" in reviews.origin
    files = [path for path in pretrained.MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 80e6
    assert all((folder / "MODEL_CARD.md").is_file() for folder in pretrained.MODELS.iterdir())
