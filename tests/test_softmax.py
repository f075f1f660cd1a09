import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.callback.rnn import rnn_cbs
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import Perplexity, accuracy
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
from fastai.text.models.core import get_language_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.hardware import autocast
from ulmfit_app.models import softmax
from ulmfit_app.models.awd_lstm import build_language_model, with_vocabulary_head
from ulmfit_app.models.softmax import SIZES_APART, Logits, Sampler, cross_entropy

WORDS, EMB = 1_000, 16


@pytest.fixture(autouse=True)
def in_pieces(monkeypatch):
    """Small enough that every test has several pieces, the last of them shorter."""
    monkeypatch.setattr(softmax, "TOKENS_AT_A_TIME", 32)
    monkeypatch.setattr(softmax, "WORDS_AT_A_TIME", 300)


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = (2 * torch.randn(5, 21, EMB)).to(dtype).requires_grad_()
    weight, bias = (
        torch.randn(WORDS, EMB).to(dtype).requires_grad_(),
        torch.randn(WORDS).to(dtype).requires_grad_(),
    )
    return (hidden, weight, bias), torch.randint(0, WORDS, (5, 21))


def whole(hidden, weight, bias, targets):
    """The reference: torch's loss over all logits at once."""
    return F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, 1), targets.flatten())


def test_loss_and_gradients_are_those_of_the_whole_softmax():
    tensors, targets = inputs()
    expected = whole(*tensors, targets)
    loss = Logits(*tensors).cross_entropy(targets)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, tensors),
        torch.autograd.grad(3 * expected, tensors),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_in_bf16_loss_and_gradients_are_near_those_of_the_whole_softmax():
    tensors, targets = inputs()
    expected = whole(*tensors, targets)
    low = [t.detach().float().requires_grad_() for t in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        loss = Logits(*low).cross_entropy(targets)
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    for ours, theirs in zip(
        torch.autograd.grad(loss, low), torch.autograd.grad(expected, tensors), strict=True
    ):
        assert ours.dtype == torch.float32
        assert ((ours - theirs).norm() / theirs.norm()).item() < 0.03


def test_without_gradients_the_loss_is_the_same_and_the_likeliest_words_are_known():
    tensors, targets = inputs()
    with torch.no_grad():
        logits = Logits(*tensors)
        torch.testing.assert_close(
            logits.cross_entropy(targets), whole(*tensors, targets), rtol=1e-12, atol=0
        )
    likeliest = F.linear(*tensors).argmax(-1)
    assert torch.equal(logits.argmax(dim=-1), likeliest)
    assert torch.equal(Logits(*tensors).argmax(dim=-1), likeliest), "without a loss before it"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("learns", [True, False])
def test_the_logits_of_one_piece_are_there_at_a_time(learns, precision, monkeypatch):
    made = []

    class Watched(softmax.Packed):
        def __call__(self, x, bias=None):
            if bias is not None:
                assert all(storage.expired() for storage in made)
            found = super().__call__(x, bias)
            if bias is not None:
                made.append(StorageWeakRef(found.untyped_storage()))
            return found

    monkeypatch.setattr(softmax, "Packed", Watched)
    tensors, targets = inputs(torch.float32)
    with torch.set_grad_enabled(learns), autocast(precision, "cpu"):
        Logits(*tensors).cross_entropy(targets)
    assert len(made) == 4, "pieces of 105 tokens"


def test_a_hopeless_target_has_its_true_loss():
    """500 nats, whose probability no number is small enough for, in fp64 neither."""
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [500.0]])
    loss = Logits(hidden.requires_grad_(), weight, torch.zeros(2)).cross_entropy(torch.tensor([0]))
    assert loss.item() == 500


def integers(most: int):
    """Hidden states that pick a column each of weights, which are whole: products are exact."""
    torch.manual_seed(0)
    hidden = torch.eye(EMB).repeat(3, 1)
    weight = torch.randint(-most, most + 1, (WORDS, EMB)).float()
    return [hidden.requires_grad_(), weight.requires_grad_(), torch.zeros(WORDS).requires_grad_()]


def compare_with_fp64(tensors, targets, dtype):
    """Losses in training and evaluation are fp64's; the relative errors of the gradients."""
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = F.cross_entropy(F.linear(*exact), targets)
    with torch.autocast("cpu", dtype):
        loss = Logits(*tensors).cross_entropy(targets)
        with torch.no_grad():
            evaluated = Logits(*tensors).cross_entropy(targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-7)
    assert evaluated.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-7)
    pairs = zip(
        torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, exact), strict=True
    )
    return [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_target_40_nats_below_the_likeliest_word_has_its_loss_in_low_precision(dtype):
    """e^-40 is less than half of fp16's least number."""
    tensors = integers(20)
    with torch.no_grad():
        tensors[1][0], tensors[1][1] = -20, 20
    errors = compare_with_fp64(tensors, torch.zeros(3 * EMB, dtype=torch.int64), dtype)
    assert max(errors) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_targets_that_are_nearly_certain_still_have_a_gradient_in_low_precision(dtype):
    """Their probability, 0.9994 to 0.9997, is 1 in bf16, and would leave them without one."""
    tensors = integers(2)
    with torch.no_grad():
        tensors[1][7] = 16
    targets = torch.full((3 * EMB,), 7)
    probabilities = F.linear(*tensors).softmax(1)[:, 7]
    assert 0.999 < probabilities.min() < probabilities.max() < 0.9999
    assert max(compare_with_fp64(tensors, targets, dtype)) < 0.01


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu_losses_and_gradients_are_those_of_the_whole_softmax(dtype):
    tensors, targets = inputs(torch.float32)
    on_gpu = [t.detach().cuda().requires_grad_() for t in tensors]
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = Logits(*on_gpu).cross_entropy(targets.cuda())
    expected = whole(*tensors, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    pairs = zip(
        torch.autograd.grad(loss, on_gpu), torch.autograd.grad(expected, tensors), strict=True
    )
    for ours, theirs in pairs:
        assert ((ours.cpu() - theirs).norm() / theirs.norm()).item() < 0.03


def test_softmax_may_write_over_its_input():
    """torch does not promise it for `out`; the head relies on it."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = (5 * torch.randn(64, 5_001)).to(dtype)
        expected = x.softmax(1)
        assert torch.equal(torch.softmax(x, 1, out=x), expected)


# --------------------------------------------------------------------------------- sampled softmax
COUNTS = np.random.default_rng(0).zipf(1.3, WORDS).clip(0, 10_000)


def test_the_sampled_softmax_estimates_the_sum_over_all_words_without_bias():
    """Over many draws, the mean of its sum of exponentials is the full sum."""
    (hidden, weight, bias), targets = inputs()
    hidden, targets = hidden.detach().flatten(0, 1)[:40], targets.flatten()[:40]
    full = F.linear(hidden, weight, bias).exp().sum(1)
    sampler = Sampler(COUNTS, draws=300)
    sums = []
    for _ in range(600):
        w, b, _ = sampler.choose(weight, bias, targets)
        sums.append(F.linear(hidden, w, b).exp().sum(1).detach())
    sums = torch.stack(sums)
    error = (sums.mean(0) - full) / (sums.std(0) / len(sums) ** 0.5)
    assert error.abs().max() < 4.5, "in standard errors, the largest of 40"
    assert sums.std() > 0


def test_the_sampled_softmax_finds_the_targets_among_its_words():
    (_, weight, bias), targets = inputs()
    w, b, places = Sampler(COUNTS, draws=50).choose(weight, bias, targets.flatten())
    assert torch.equal(w[places], weight[targets.flatten()])
    assert torch.equal(b[places], bias[targets.flatten()]), (
        "the true word is always there, so it is not corrected"
    )
    assert b.isfinite().sum() < WORDS


def test_a_sampled_softmax_has_few_sizes_for_which_code_is_compiled_and_kept():
    (_, weight, bias), targets = inputs()
    sizes = {
        len(Sampler(COUNTS, draws=n).choose(weight, bias, targets.flatten())[0])
        for n in range(10, 90)
    }
    assert sizes == {SIZES_APART}


def test_with_every_word_drawn_the_sampled_softmax_is_the_full_one():
    tensors, targets = inputs()
    loss = Logits(*tensors, Sampler(np.full(WORDS, 7), draws=100_000)).cross_entropy(targets)
    assert loss.item() == pytest.approx(whole(*tensors, targets).item(), rel=1e-9)


def test_the_sampled_softmax_is_for_training_only():
    shape = ModelSettings(emb_sz=EMB, n_hid=20, n_layers=2)
    model = build_language_model(WORDS, shape, drop_mult=0.0)
    model[1].sampler = Sampler(COUNTS, draws=20)
    x = torch.randint(0, WORDS, (3, 7))
    model.train()
    assert model(x)[0].sampler is not None
    model.eval()
    assert model(x)[0].sampler is None


# ----------------------------------------------------------------------------- in fastai's Learner
def test_in_a_learner_metrics_and_regularisation_are_those_of_fastais_head():
    """Two models of the same weights, one with each head, take the same steps."""

    class Batches(list):
        device, bs, dataset = torch.device("cpu"), 4, range(12)

    torch.manual_seed(1)
    data = Batches(
        (torch.randint(0, 200, (4, 9)), torch.randint(0, 200, (4, 9))) for _ in range(3)
    )
    config = {**awd_lstm_lm_config, "emb_sz": 12, "n_hid": 16, "n_layers": 2}
    results = []
    for ours in (False, True):
        torch.manual_seed(2)
        model = get_language_model(AWD_LSTM, 200, config=config, drop_mult=0.5)
        if ours:
            model = with_vocabulary_head(model)
        learn = Learner(
            DataLoaders(data, data),
            model,
            loss_func=cross_entropy if ours else CrossEntropyLossFlat(),
            metrics=[accuracy, Perplexity()],
            cbs=rnn_cbs(alpha=2.0, beta=1.0),
        ).remove_cb(ProgressCallback)
        torch.manual_seed(3)
        with learn.no_logging():
            learn.fit(2, lr=1e-2)
        results.append((learn.recorder.values, model))
    (values, plain), (our_values, our_model) = results
    np.testing.assert_allclose(np.array(our_values, float), np.array(values, float), rtol=1e-4)
    for ours, theirs in zip(our_model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert our_model[1].decoder.weight is our_model[0].encoder.weight
