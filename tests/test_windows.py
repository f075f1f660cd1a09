"""Subwords on disk, and the windows that a transformer's language model learns from."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")

from tests.tiny_transformers import make_checkpoint, make_reviews, subwords_in_memory
from ulmfit_app.errors import DataError
from ulmfit_app.models.hub import find_checkpoint, load_tokenizer
from ulmfit_app.text import rules, subword_store
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import OF_SUBWORDS, TokenStore
from ulmfit_app.text.subword_store import describe_windows, write_subwords
from ulmfit_app.text.windows import Objective, WindowBatches, mask_tokens

BEGIN, MASK, N_WORDS = 2, 4, 50
SPECIALS = frozenset({0, 1, 2, 3, 4})
MASKED = Objective(MASK, SPECIALS)
CAUSAL = Objective(None, SPECIALS)


def store_of(lengths, seed=0) -> TokenStore:
    """Texts of so many tokens behind the one that begins them."""
    rng = np.random.default_rng(seed)
    texts = [[BEGIN, *rng.integers(5, N_WORDS, n)] for n in lengths]
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    words = [f"w{i}" for i in range(N_WORDS)]
    return TokenStore(np.concatenate(texts).astype(np.int32), offsets, words, padding=OF_SUBWORDS)


LENGTHS = [0, 1, 5, 8, 9, 16, 17, 30, 41]


def batches_of(objective=MASKED, window=8, size=3, **more) -> WindowBatches:
    return WindowBatches(store_of(LENGTHS), range(len(LENGTHS)), size, window, objective, **more)


def whole(batches):
    return [tuple(part.clone() for part in batch) for batch in batches]


def equal(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- store
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "bert", "bert")
    return load_tokenizer(find_checkpoint(str(folder)))[0]


def test_subwords_on_disk_are_those_in_memory(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(subword_store, "AT_A_TIME", 3)
    for texts in ([*make_reviews(7), "", "[MASK] 🙂"], [""], []):
        write_subwords(tmp_path, iter(texts), len(texts), tokenizer)
        found, expected = TokenStore.open(tmp_path), subwords_in_memory(texts, tokenizer)
        assert found.padding == expected.padding == OF_SUBWORDS
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.offsets, expected.offsets)
        assert found.words == expected.words == tokenizer.vocab
        assert (tmp_path / "tokenizer.json").read_text("utf-8") == tokenizer.definition
        assert found.backward().padding == OF_SUBWORDS


@pytest.mark.parametrize(
    ("words", "padding"), [(rules.SPECIALS, 1), (["[CLS]", "a", "xxpad"], OF_SUBWORDS)]
)
def test_padding_is_fastais_own_token_where_the_vocabulary_begins_with_it(
    tmp_path, words, padding
):
    np.save(tmp_path / "offsets.npy", np.array([0, 2]))
    np.array([2, 0], np.int32).tofile(tmp_path / "ids.bin")
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    assert TokenStore.open(tmp_path).padding == padding


def test_what_is_read_in_windows_is_said():
    said = describe_windows(store_of([8, 8, 24, 0]), 8)
    assert said.startswith("Longer than the 8 tokens that the model reads at once: 1 text of 4")
    assert "(25.0%, with 60.0% of the tokens), read in windows" in said
    assert "windows of nearly equal length, whose vectors are averaged" in said
    assert describe_windows(store_of([8, 0]), 8).startswith("All texts have 8 tokens or fewer")


# ----------------------------------------------------------------------------------------- windows
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("window", [1, 3, 8, 100])
def test_the_causal_objective_predicts_each_token_of_each_text_once(window, shuffle):
    batches = batches_of(CAUSAL, window, shuffle=shuffle, seed=3)
    store, rows = store_of(LENGTHS), []
    n = 0
    for x, where, y in batches:
        n += 1
        assert (x[:, 0] == BEGIN).all()
        lengths = (x >= 0).sum(1)
        assert lengths.max() <= window + 1 and x.shape[1] == lengths.max()
        assert torch.equal(where.sum(1), lengths - 1)
        for row, length in zip(x, lengths, strict=True):
            assert (row[:length] >= 0).all() and (row[length:] == OF_SUBWORDS).all()
            rows.append(row[1:length].tolist())
        # What is predicted at a place is the token behind it.
        behind = torch.nn.functional.pad(x[:, 1:], (0, 1), value=-1)
        assert torch.equal(behind[where], y)
    assert n == len(batches)
    for text in range(len(LENGTHS)):
        left = store[text][1:].tolist()
        sizes = []
        while left:
            part = next(
                row for row in sorted(rows, key=len, reverse=True) if left[: len(row)] == row
            )
            rows.remove(part)
            sizes.append(len(part))
            left = left[len(part) :]
        assert not sizes or max(sizes) - min(sizes) <= 1
    assert not rows


def test_windows_of_like_length_stand_together_and_the_longest_come_first():
    for shuffle in (False, True):
        lengths = [x.shape[1] for x, *_ in batches_of(size=2, shuffle=shuffle)]
        assert lengths[0] == max(lengths)
    assert lengths != sorted(lengths, reverse=True), "the others come in any order"


def test_texts_without_a_token_to_predict_are_refused():
    with pytest.raises(DataError, match="at least one token in training and in validation"):
        WindowBatches(store_of([0, 0]), [0, 1], 4, 8, MASKED)


@pytest.mark.parametrize("objective", [MASKED, CAUSAL])
def test_the_same_seed_and_epoch_give_the_same_and_others_do_not(objective):
    def of_epoch(epoch, seed=3, shuffle=True):
        batches = batches_of(objective, seed=seed, shuffle=shuffle)
        batches.epoch = epoch
        return whole(batches)

    assert equal(of_epoch(2), of_epoch(2))
    assert not equal(of_epoch(2), of_epoch(1)) and not equal(of_epoch(2), of_epoch(2, seed=4))
    assert equal(of_epoch(0, shuffle=False), of_epoch(5, shuffle=False)), "in validation"
    torch.manual_seed(8), np.random.seed(8)
    assert equal(of_epoch(2), of_epoch(2)), "whatever ran before"


@pytest.mark.parametrize("objective", [MASKED, CAUSAL])
def test_an_epoch_that_goes_on_in_its_middle_sees_what_was_left(objective):
    batches = batches_of(objective, seed=3, shuffle=True)
    batches.epoch = 4
    everything = whole(batches)
    for start in (1, 3, len(everything) - 1, len(everything)):
        batches.start = start
        assert equal(whole(batches), everything[start:])


# ----------------------------------------------------------------------------------------- masking
def test_of_the_tokens_15_percent_are_predicted_and_replaced_80_10_10():
    rng = np.random.default_rng(0)
    x = rng.integers(5, N_WORDS, (400, 101))
    x[:, 0] = BEGIN
    x[::3, 60:] = OF_SUBWORDS
    masked, where, y = mask_tokens(x, MASKED, N_WORDS, seed=1)
    real = x >= 0
    n = real.sum() - len(x)
    assert where.sum() / n == pytest.approx(0.15, abs=0.006)
    assert np.array_equal(y, x[where]) and np.array_equal(masked[~where], x[~where])
    put = masked[where]
    assert (put == MASK).mean() == pytest.approx(0.8, abs=0.02)
    # Of those that become any token, one in 45 stays by chance.
    assert (put == y).mean() == pytest.approx(0.1 + 0.1 / 45, abs=0.015)
    others = put[(put != MASK) & (put != y)]
    assert len(others) / len(y) == pytest.approx(0.1 * 44 / 45, abs=0.015)
    assert set(others) <= set(range(5, N_WORDS)) and len(set(others)) > 40
    # Each place of a text is as likely as any other.
    share = where[:, 1:60].mean(0)
    assert share.min() > 0.07 and share.max() < 0.24


def test_neither_specials_nor_padding_are_predicted_or_put_in():
    x = np.array([[BEGIN, 0, 1, 7, 3, 4, BEGIN, OF_SUBWORDS]] * 200)
    masked, where, y = mask_tokens(x, MASKED, N_WORDS, seed=0)
    assert (where.sum(0) == [0, 0, 0, 200, 0, 0, 0, 0]).all(), "one in each window at least"
    assert (y == 7).all()
    assert np.array_equal(masked[:, [0, 1, 2, 4, 5, 6, 7]], x[:, [0, 1, 2, 4, 5, 6, 7]])
    assert set(masked[:, 3]) - {MASK} <= set(range(5, N_WORDS))


def test_a_window_of_specials_alone_teaches_nothing():
    x = np.array([[BEGIN, 0, 1], [BEGIN, 9, 9]])
    # Whatever begins a window is no word of it, even where it is no special.
    others = Objective(MASK, SPECIALS - {BEGIN})
    assert not mask_tokens(np.full((99, 3), BEGIN), others, N_WORDS, seed=0)[1][:, 0].any()
    _, where, y = mask_tokens(x, MASKED, N_WORDS, seed=0)
    assert where[0].sum() == 0 and where[1].sum() >= 1 and (y == 9).all()


def test_a_text_of_unknown_pieces_alone_has_these_to_predict():
    """Such as emoji for a BERT: there would be nothing to predict, and no loss."""
    unknown = next(iter(SPECIALS - {BEGIN, MASK}))
    knows = Objective(MASK, SPECIALS, unknown)
    x = np.array([[BEGIN, unknown, unknown], [BEGIN, 9, unknown]])
    _, where, y = mask_tokens(x, knows, N_WORDS, seed=0)
    assert where[0].sum() >= 1 and (y[: where[0].sum()] == unknown).all()
    assert not where[1, 2] and where[1, 1]


def test_the_rows_of_a_batch_are_as_many_as_its_predictions():
    """By them fastai weighs a batch's loss, so that each prediction counts the same."""
    from fastai.torch_core import find_bs

    for objective in (MASKED, CAUSAL):
        found = [
            (find_bs((y,)), int(where.sum()), len(x)) for x, where, y in batches_of(objective)
        ]
        assert all(size == predicted for size, predicted, _ in found)
        assert any(size != rows for size, _, rows in found)


# ------------------------------------------------------------------------------ classifier batches
def labelled(passes=1, mixed=False, n=23, **more) -> ClassifierBatches:
    lengths = np.random.default_rng(0).integers(0, 30, n).tolist()
    batches = ClassifierBatches(
        store_of(lengths), np.arange(n), np.arange(n), 4, 5, shuffle=True, passes=passes, **more
    )
    batches.mixed = mixed
    return batches


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("passes", [1, 3])
def test_each_text_comes_as_often_as_there_are_passes(passes, mixed):
    batches = labelled(passes, mixed)
    found = [y.tolist() for _, y in batches]
    assert len(found) == len(batches) == passes * 6
    per_pass = [sum(found[i : i + 6], []) for i in range(0, len(found), 6)]
    assert all(sorted(each) == list(range(23)) for each in per_pass)
    assert len({tuple(each) for each in per_pass}) == passes, "in another order each"
    assert min(map(len, found)) > 1


def test_passes_are_the_epochs_of_one_pass():
    once, thrice = labelled(), labelled(3)
    thrice.epoch = 2
    expected = []
    for epoch in (6, 7, 8):
        once.epoch = epoch
        expected += whole(once)
    assert equal(whole(thrice), expected)
    thrice.start = 8
    assert equal(whole(thrice), expected[8:]), "going on in the middle"


def test_mixed_batches_hold_texts_of_all_lengths():
    def spread(mixed):
        lengths = [(x >= 0).sum(1).float() for x, _ in labelled(20, mixed)]
        return np.mean([each.std() for each in lengths])

    assert spread(True) > 2 * spread(False)
