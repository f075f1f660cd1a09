"""The reader beside the models that are trained: same bundle, same outputs."""

from dataclasses import replace

import pytest
import torch
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_language_model
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models.awd_lstm import (
    build_classifier,
    build_language_model,
    language_model_config,
)
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights, save_bundle
from ulmfit_app.models.int8 import Int8Encoder
from ulmfit_app.models.lstm import EvenLSTM
from ulmfit_app.models.reader import read_classifier, read_language_model
from ulmfit_app.text.rules import PAD_ID, SPECIALS

VOCAB = [*SPECIALS, *(f"w{i}" for i in range(50))]
SHAPES = [ModelSettings(16, 24, n_layers) for n_layers in (1, 2, 3)]
IDS = torch.randint(len(SPECIALS), len(VOCAB), (5, 40), generator=torch.Generator().manual_seed(3))


def scatter(model):
    """Weights large enough for outputs to differ; statistics that the head has learned."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def language_model(folder, shape=SHAPES[1], **changes):
    """A saved language model: (its bundle, the model that is trained)."""
    model = scatter(build_language_model(len(VOCAB), shape))
    save_bundle(folder, model, Bundle("language model", shape, "en", VOCAB, **changes))
    return load_bundle(folder, "language model"), model.eval()


def classifier(folder, shape=SHAPES[1]):
    """A saved classifier: (its bundle, the model that is trained)."""
    model = scatter(build_classifier(len(VOCAB), 3, shape))
    described = Bundle("classifier", shape, "en", VOCAB, labels=["a", "b", "c"])
    save_bundle(folder, model, described)
    return load_bundle(folder, "classifier"), model.eval()


def padded(*lengths):
    rows = torch.full((len(lengths), max(lengths)), PAD_ID)
    words = torch.Generator().manual_seed(2)
    for row, n in zip(rows, lengths, strict=True):
        row[:n] = torch.randint(len(SPECIALS), len(VOCAB), (n,), generator=words)
    return rows


def logits(model, ids):
    """[batch, tokens, words], whichever head made them."""
    found = model(ids)[0]
    return found if torch.is_tensor(found) else F.linear(found.hidden, found.weight, found.bias)


def relative_error(ours, reference):
    return ((ours.float() - reference.float()).norm() / reference.float().norm()).item()


# ------------------------------------------------------------------------------- the same outputs
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_language_model_is_read_as_it_was_trained(tmp_path, shape):
    bundle, trained = language_model(tmp_path, shape)
    fastais = get_language_model(AWD_LSTM, len(VOCAB), config=language_model_config(shape)).eval()
    load_weights(bundle, fastais)
    ours = read_language_model(bundle)
    for model in (trained, fastais, ours):
        model.reset()
    # Two batches: the second goes on from the state that the first one left.
    for ids in (IDS[:, :25], IDS[:, 25:]):
        expected = logits(fastais, ids)
        torch.testing.assert_close(logits(ours, ids), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(trained, ids), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_classifier_is_read_as_it_was_trained(tmp_path, shape):
    bundle, trained = classifier(tmp_path, shape)
    ours = read_classifier(bundle)
    for ids in (padded(7), padded(3, 200, 71, 72, 73, 1)):
        expected = trained(ids)[0]
        torch.testing.assert_close(ours(ids)[0], expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
def test_in_bf16_both_are_read_as_they_were_trained_under_autocast(tmp_path):
    bundle, trained = language_model(tmp_path / "lm")
    ours = read_language_model(bundle).to(torch.bfloat16)
    trained.reset()
    exact = logits(trained, IDS)
    trained.reset()
    with torch.autocast("cpu", torch.bfloat16):
        low = logits(trained, IDS)
    assert 0 < relative_error(low, exact) < 0.03
    assert relative_error(logits(ours, IDS), exact) < 0.03
    bundle, trained = classifier(tmp_path / "classifier")
    ours, ids = read_classifier(bundle), padded(3, 90, 33, 7)
    ours[0].module.to(torch.bfloat16)
    exact = trained(ids)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = trained(ids)[0]
    assert 0 < relative_error(low, exact) < 0.03
    assert relative_error(ours(ids)[0], exact) < 0.03


def test_nothing_is_dropped_and_no_layer_is_fastais(tmp_path):
    for model in (
        read_language_model(language_model(tmp_path / "lm")[0]),
        read_classifier(classifier(tmp_path / "classifier")[0]),
    ):
        assert not any(module.training for module in model.modules())
        assert not any(type(m).__module__.startswith("fastai") for m in model.modules())
        assert sum(type(module) is EvenLSTM for module in model.modules()) == 2


def test_the_weights_of_embedding_and_decoder_are_one(tmp_path):
    model = read_language_model(language_model(tmp_path)[0])
    assert model[1].decoder.weight is model[0].encoder.weight


# ------------------------------------------------------------------------------- the hidden state
@torch.no_grad()
def test_the_hidden_state_goes_on_from_batch_to_batch_until_reset(tmp_path):
    model = read_language_model(language_model(tmp_path)[0])
    whole = logits(model, IDS)
    assert not torch.allclose(logits(model, IDS), whole, atol=1e-3), "it went on from the end"
    model.reset()
    parts = torch.cat([logits(model, IDS[:, :13]), logits(model, IDS[:, 13:])], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fewer_rows_go_on_as_the_first_ones_of_those_before(tmp_path):
    model = read_language_model(language_model(tmp_path)[0])
    whole = logits(model, IDS)
    model.reset()
    logits(model, IDS[:, :13])
    rest = logits(model, IDS[:2, 13:])
    torch.testing.assert_close(rest, whole[:2, 13:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_repeated_state_goes_on_alike_in_each_row(tmp_path):
    model = read_language_model(language_model(tmp_path)[0])
    begun, after = IDS[:1, :13], IDS[:4, 13:]
    model(begun)
    model[0].repeat_state(4)
    rows = logits(model, after)
    for i in range(4):
        model.reset()
        alone = logits(model, torch.cat([begun, after[i : i + 1]], 1))[:, 13:]
        torch.testing.assert_close(rows[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_classifier_begins_each_batch_anew(tmp_path):
    model = read_classifier(classifier(tmp_path)[0])
    ids = padded(9, 30)
    assert torch.equal(model(ids)[0], model(ids)[0])


# --------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("save", "read"), [(language_model, read_language_model), (classifier, read_classifier)]
)
def test_weights_of_another_shape_are_refused(tmp_path, save, read):
    bundle, _ = save(tmp_path)
    for shape in (ModelSettings(16, 24, 3), ModelSettings(16, 25, 2), ModelSettings(16, 24, 1)):
        with pytest.raises(BundleError, match=f"does not fit the {bundle.kind} it is loaded for"):
            read(replace(bundle, shape=shape))


@torch.no_grad()
def test_an_encoder_in_int8_is_near(tmp_path):
    bundle, trained = classifier(tmp_path)
    ours, ids = read_classifier(bundle), padded(20)
    exact, low = ours[0](ids)[0], Int8Encoder(bundle)(ids)[0]
    assert 0 < relative_error(low, exact) < 0.1
    ours[0] = Int8Encoder(bundle)
    assert 0 < relative_error(ours(ids)[0], trained(ids)[0]) < 0.1


@torch.no_grad()
def test_an_encoder_in_int8_reads_each_text_by_its_own_length(tmp_path):
    bundle, _ = classifier(tmp_path)
    encoder, ids = Int8Encoder(bundle), padded(20, 5, 1)
    together = encoder(ids)[0]
    for row, n in zip(range(3), (20, 5, 1), strict=True):
        alone = encoder(ids[row : row + 1, :n])[0]
        assert relative_error(together[row], alone[0]) < 0.1
    assert together.shape == (3, 3 * bundle.shape.emb_sz)
