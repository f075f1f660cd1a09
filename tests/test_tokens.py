import itertools
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from fastai.text.core import WordTokenizer, tokenize_folder
from fastai.text.data import (
    LMDataLoader,
    Numericalize,
    Pad_Chunk,
    SortedDL,
    TensorText,
    reverse_text,
)
from fastai.text.data import make_vocab as fastais_make_vocab

from tests.conftest import made_store
from tests.test_tokenizer import REVIEWS, random_strings
from ulmfit_app.config import TokenSettings
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.text import tokenizing
from ulmfit_app.text.batches import ClassifierBatches, LanguageModelBatches
from ulmfit_app.text.rules import FAKE, PAD_ID, SPECIALS, UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import numericalize, tokenize
from ulmfit_app.text.vocabulary import make_vocab, word_to_id


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


# ---------------------------------------------------------- stores and the cache
def words_of(store: TokenStore, text: int) -> list[str]:
    return [store.words[i] for i in store[text]]


def test_a_store_gives_back_the_tokens(tokenizer, empty_cache):
    store = TokenStore.open(tokenize(REVIEWS))
    expected = [tokenizer(text) for text in REVIEWS]
    assert len(store) == len(REVIEWS)
    assert [words_of(store, i) for i in range(len(store))] == expected
    assert list(store.lengths()) == [len(text) for text in expected]
    assert store.ids.dtype == np.int32
    assert store.offsets.dtype == np.int64
    assert isinstance(store.ids, np.memmap)
    assert store.words == list(dict.fromkeys(itertools.chain(*expected))), (
        "words stand in order of appearance"
    )


def test_counts_are_those_of_the_texts_asked_for(empty_cache):
    store = TokenStore.open(tokenize(REVIEWS))
    expected = Counter(itertools.chain(*(words_of(store, i) for i in (1, 3, 3))))
    counts = store.counts([1, 3, 3])
    assert {word: n for word, n in zip(store.words, counts, strict=True) if n} == expected


def test_a_backward_store_gives_each_text_whole_and_reversed_as_fastai_does(empty_cache):
    forward = TokenStore.open(tokenize(REVIEWS))
    backward = forward.backward()
    assert (forward.direction, backward.direction) == ("forward", "backward")
    for i in range(len(forward)):
        assert (
            backward[i].tolist() == reverse_text(torch.from_numpy(np.array(forward[i]))).tolist()
        )
        assert words_of(backward, i)[-1] == "xxbos"
    assert np.array_equal(backward.lengths(), forward.lengths())
    assert np.array_equal(backward.counts([1, 3, 3]), forward.counts([1, 3, 3]))


def test_a_backward_store_copies_no_ids(empty_cache):
    store = TokenStore.open(tokenize(REVIEWS))
    assert isinstance(store.backward().ids, np.memmap)
    assert np.shares_memory(store.backward()[1], store.ids)


def test_a_store_of_no_texts_opens(empty_cache):
    assert len(TokenStore.open(tokenize([]))) == 0


def test_a_lone_surrogate_is_stored_as_a_question_mark(empty_cache):
    store = TokenStore.open(tokenize(["good \udfff film", "good ? film"]))
    assert list(store[0]) == list(store[1])


def test_worker_processes_give_what_one_process_gives(tmp_path, monkeypatch):
    texts = [*REVIEWS, *random_strings(20, seed=3)]
    monkeypatch.setattr(tokenizing, "CHUNK", 200)
    stores = []
    for name, little in (("alone", 1_000_000), ("shared", 0)):
        monkeypatch.setattr(tokenizing, "LITTLE_TEXT", little)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        monkeypatch.setattr(tokenizing, "cache_folder", lambda name=name: tmp_path / name)
        stores.append(TokenStore.open(tokenize(texts)))
    alone, shared = stores
    assert np.array_equal(alone.ids, shared.ids)
    assert np.array_equal(alone.offsets, shared.offsets)
    assert alone.words == shared.words


def test_worker_processes_refuse_a_language_as_one_process_does(empty_cache, monkeypatch):
    monkeypatch.setattr(tokenizing, "LITTLE_TEXT", 0)
    with pytest.raises(SettingError, match="cannot tokenize the language 'qq'"):
        tokenize(REVIEWS, "qq")


def test_worker_processes_do_not_run_the_main_module(tmp_path):
    """It imports what they have no use for; without a guard it would start more processes."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('main')\n"
        "from ulmfit_app.text import store, tokenizing\n"
        "tokenizing.LITTLE_TEXT = 0\n"
        "print(len(store.TokenStore.open(tokenizing.tokenize(['good film']))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout == "main\n1\n", done.stderr


class TokenizedAgain(Exception):
    pass


@pytest.fixture
def tokenized_once(empty_cache, monkeypatch):
    """Reviews whose tokens are in the cache; from now on, tokenizing raises TokenizedAgain."""
    folder = tokenize(REVIEWS)

    def refuse(*_):
        raise TokenizedAgain

    monkeypatch.setattr(tokenizing, "_tokenize_chunks", refuse)
    return folder


def test_the_same_texts_are_served_from_the_cache(tokenized_once):
    assert tokenize(list(REVIEWS)) == tokenized_once


@pytest.mark.parametrize(
    "texts",
    [
        [*REVIEWS[:-1], "another"],
        REVIEWS[:-1],
        REVIEWS[::-1],
        [REVIEWS[0] + REVIEWS[1], "", *REVIEWS[2:]],
    ],
    ids=["one changed", "one less", "another order", "another cut between texts"],
)
def test_changed_texts_are_tokenized_again(tokenized_once, texts):
    with pytest.raises(TokenizedAgain):
        tokenize(texts)


def test_plain_fastai_serves_the_tokens_of_texts_that_have_changed(tmp_path):
    text = tmp_path / "texts" / "review.txt"
    text.parent.mkdir()
    found = []
    for written in ("good", "dull"):
        text.write_text(written)
        folder = tokenize_folder(text.parent, folders=["."], n_workers=0, tok=WordTokenizer())
        found.append((folder / "review.txt").read_text())
    assert "good" in found[0] and found[1] == found[0]


def test_another_language_is_tokenized_again(tokenized_once):
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS, "de")


def test_changed_rules_tokenize_again(tokenized_once, monkeypatch):
    monkeypatch.setattr(tokenizing, "RULES_VERSION", tokenizing.RULES_VERSION + 1)
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS)


def test_another_spacy_tokenizes_again(tokenized_once, monkeypatch):
    monkeypatch.setattr(tokenizing, "version", lambda _: "0.0")
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS)


def test_two_runs_that_tokenize_the_same_texts_at_once_both_get_them(empty_cache, monkeypatch):
    real, others = tokenizing._tokenize_chunks, []

    def overtaken(texts, language, executor):
        with monkeypatch.context() as patch:
            patch.setattr(tokenizing, "_tokenize_chunks", real)
            others.append(tokenize(REVIEWS))
        yield from real(texts, language)

    monkeypatch.setattr(tokenizing, "_tokenize_chunks", overtaken)
    folder = tokenize(REVIEWS)
    assert others == [folder] and len(TokenStore.open(folder)) == len(REVIEWS)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no drafts are left"


def test_tokenizing_that_is_cut_short_leaves_nothing_to_be_served(empty_cache, monkeypatch):
    real = tokenizing._tokenize_chunks

    def cut_short(texts, language, executor):
        yield from itertools.islice(real(texts, language), 1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokenizing, "_tokenize_chunks", cut_short)
        patch.setattr(tokenizing, "CHUNK", 300)
        with pytest.raises(OSError, match="No space left"):
            tokenize(REVIEWS)
    assert not any(path.is_file() for path in empty_cache.rglob("*"))
    assert len(TokenStore.open(tokenize(REVIEWS))) == len(REVIEWS)


# ---------------------------------------------------------- vocabulary and ids
CORPUS = [*REVIEWS, *REVIEWS[3:9], *random_strings(50, seed=4)]


@pytest.mark.parametrize("min_freq", [1, 2, 3])
@pytest.mark.parametrize("max_vocab", [12, 16, 40, 60_000])
def test_the_vocabulary_is_fastais(empty_cache, min_freq, max_vocab):
    store = TokenStore.open(tokenize(CORPUS))
    count = Counter(itertools.chain(*(words_of(store, i) for i in range(len(store)))))
    expected = fastais_make_vocab(count, min_freq=min_freq, max_vocab=max_vocab)
    found = make_vocab(
        store, range(len(store)), TokenSettings(max_vocab=max_vocab, min_freq=min_freq)
    )
    assert found == expected
    assert len(found) % 8 == 0
    assert found[-1] == FAKE


def test_known_words_enter_the_vocabulary_however_rare_they_are(empty_cache):
    store = TokenStore.open(tokenize(["good a good b good c good rare unknown", "elsewhere"]))
    settings = TokenSettings(min_freq=3)
    plain, known = (make_vocab(store, [0], settings, known) for known in ((), ["rare", "good"]))
    assert "good" in plain and not {"rare", "unknown"} & set(plain)
    assert "rare" in known and not {"unknown", "elsewhere"} & set(known)
    assert [word for word in known if word != "rare"][: len(SPECIALS) + 1] == plain[
        : len(SPECIALS) + 1
    ]


@pytest.mark.parametrize(
    ("max_vocab", "kept"), [(100, ["later", "never"]), (len(SPECIALS) + 2, ["later"])]
)
def test_known_words_that_the_texts_lack_stand_behind_theirs_as_far_as_there_is_room(
    empty_cache, max_vocab, kept
):
    """Plain fastai reads a word that only a later text holds as unknown.

    The pretrained model may know it.
    """
    store = TokenStore.open(tokenize(["good"]))
    known = [*SPECIALS, "later", "good", FAKE, "never"]
    vocab = make_vocab(store, [0], TokenSettings(max_vocab=max_vocab, min_freq=1), known)
    assert [word for word in vocab if word != FAKE] == [*SPECIALS, "good", *kept]
    assert len(vocab) % 8 == 0
    fastais = fastais_make_vocab(Counter(words_of(store, 0)), min_freq=1, max_vocab=max_vocab)
    assert [word for word in fastais if word != FAKE] == [*SPECIALS, "good"]


def test_words_of_other_texts_do_not_enter_the_vocabulary(empty_cache):
    store = TokenStore.open(tokenize(["good film", "dull plot"]))
    vocab = make_vocab(store, [0], TokenSettings(min_freq=0))
    assert "good" in vocab
    assert "dull" not in vocab


def test_too_little_text_for_a_vocabulary_is_refused(empty_cache):
    store = TokenStore.open(tokenize(["good film"]))
    with pytest.raises(
        DataError,
        match=r"No token occurs 3 times in the training texts \(3 tokens.*--tokens.min-freq 1",
    ):
        make_vocab(store, [0], TokenSettings(min_freq=3))


def test_ids_are_fastais(empty_cache):
    folder = tokenize(CORPUS)
    store = TokenStore.open(folder)
    texts = [words_of(store, i) for i in range(len(store))]
    fastais = Numericalize(min_freq=2)
    fastais.setups(texts)
    vocab = make_vocab(store, range(len(store)), TokenSettings(min_freq=2))
    assert vocab == fastais.vocab
    found = TokenStore.open(numericalize(folder, vocab))
    assert found.words == vocab
    assert len(found) == len(texts)
    for i, text in enumerate(texts):
        assert list(found[i]) == fastais(text).tolist()
    assert UNK_ID in found.ids


def test_a_word_cannot_have_the_id_of_the_filling():
    assert FAKE not in word_to_id([*SPECIALS, "film", FAKE, FAKE])


def test_another_vocabulary_of_equal_size_has_other_ids(empty_cache):
    folder = tokenize(["good film"])
    one, two = [*SPECIALS, "good", "film"], [*SPECIALS, "film", "good"]
    assert list(TokenStore.open(numericalize(folder, one))[0]) == [2, 9, 10]
    assert list(TokenStore.open(numericalize(folder, two))[0]) == [2, 10, 9]
    assert (
        numericalize(folder, one) == numericalize(folder, list(one)) != numericalize(folder, two)
    )


# ---------------------------------------------------------- language-model batches
def counted_store(lengths) -> TokenStore:
    """Texts in which no token occurs twice: token i of the stream is i."""
    total = int(sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenStore(np.arange(total, dtype=np.int32), offsets, [str(i) for i in range(total)])


def lm_batches(lengths=(7, 1, 30, 12, 55, 3, 3, 90, 21), batch_size=4, bptt=10, **settings):
    store = counted_store(lengths)
    return LanguageModelBatches(store, np.arange(len(store)), batch_size, bptt, **settings)


def tensors(store: TokenStore) -> list[TensorText]:
    """The texts as fastai's loaders take them."""
    return [TensorText(torch.from_numpy(store[i].astype(np.int64))) for i in range(len(store))]


def read_all(batches):
    return [tuple(tensor.tolist() for tensor in batch) for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
@pytest.mark.parametrize("bptt", [1, 10, 27])
def test_language_model_batches_are_fastais(batch_size, bptt):
    store = made_store([7, 1, 30, 12, 55, 3, 3, 90, 21])
    texts = [torch.from_numpy(store[i].astype(np.int64)) for i in range(len(store))]
    fastais = LMDataLoader(
        texts, bs=batch_size, seq_len=bptt, shuffle=False, device=torch.device("cpu")
    )
    ours = LanguageModelBatches(store, np.arange(len(store)), batch_size, bptt)
    expected = read_all(fastais)
    assert read_all(ours) == expected
    assert len(ours) == len(expected)


def test_backward_language_model_batches_are_fastais_of_reversed_texts():
    store = made_store([7, 1, 30, 12, 55, 3, 3, 90, 21])
    texts = [reverse_text(torch.from_numpy(store[i].astype(np.int64))) for i in range(len(store))]
    fastais = LMDataLoader(texts, bs=4, seq_len=10, shuffle=False, device=torch.device("cpu"))
    assert read_all(
        LanguageModelBatches(store.backward(), np.arange(len(store)), 4, 10)
    ) == read_all(fastais)


def test_backward_texts_come_in_the_order_of_the_forward_epoch():
    store = counted_store([7, 1, 30, 12, 55, 3, 3, 90, 21])
    streams = []
    for one in (store, store.backward()):
        batches = list(
            LanguageModelBatches(
                one, np.arange(len(one)), batch_size=1, bptt=10, seed=3, shuffle=True
            )
        )
        streams.append(
            [*torch.cat([x for x, _ in batches], dim=1)[0].tolist(), int(batches[-1][1][0, -1])]
        )
    texts = [set(store[i].tolist()) for i in range(len(store))]
    text_of = {token: i for i, tokens in enumerate(texts) for token in tokens}
    orders = [list(dict.fromkeys(text_of[token] for token in stream)) for stream in streams]
    assert orders[0] == orders[1] != sorted(orders[0])
    expected = itertools.chain(*(store[i][::-1].tolist() for i in orders[1]))
    assert streams[1] == list(expected)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_target_is_the_next_token(shuffle):
    for x, y in lm_batches(shuffle=shuffle):
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_batches_cover_the_stream_once():
    batches = lm_batches()
    x, y = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    total = 222
    # One row per place in the stream; what is left over is shorter than one token per row.
    assert x.flatten().tolist() == list(range(len(x) * batches.row))
    assert y.flatten().tolist() == list(range(1, len(x) * batches.row + 1))
    assert total - 1 - x.numel() < len(x)


def test_a_shuffled_epoch_reads_whole_texts_once():
    lengths = [7, 1, 30, 12, 55, 3, 3, 90, 21]
    batches = lm_batches(lengths, batch_size=1, shuffle=True)
    x, y = (torch.cat(parts, dim=1)[0].tolist() for parts in zip(*batches, strict=True))
    stream = [*x, y[-1]]
    assert sorted(stream) == list(range(sum(lengths)))
    assert stream != sorted(stream)
    breaks = sum(after != before + 1 for before, after in itertools.pairwise(stream))
    assert breaks < len(lengths)


@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs_of_so_many_tokens_go_on_where_the_one_before_ended(shuffle):
    store = made_store([30, 7, 50, 12, 61, 41])
    whole = LanguageModelBatches(store, range(6), 1, 10, seed=1, shuffle=shuffle)
    parts = LanguageModelBatches(
        store, range(6), 1, 10, seed=1, shuffle=shuffle, tokens_per_epoch=50
    )
    # 201 tokens have 200 successors.
    assert len(whole) == 20 and len(parts) == 5
    read = []
    for parts.epoch in range(4):
        read += [x for x, _ in parts]
    assert torch.equal(torch.cat(read, 1), torch.cat([x for x, _ in whole], 1))
    again = []
    for parts.epoch in range(4, 8):
        again += [x for x, _ in parts]
    assert torch.equal(torch.cat(read, 1), torch.cat(again, 1)) != shuffle, (
        "each time all was read, another order"
    )


def test_counts_are_of_the_texts_asked_for(monkeypatch):
    monkeypatch.setattr("ulmfit_app.text.store.COUNTED_AT_A_TIME", 2)
    store = made_store([30, 0, 50, 12, 61, 41])
    some = [4, 1, 0, 5, 2]
    expected = Counter(int(i) for text in some for i in store[text])
    assert Counter(dict(enumerate(store.counts(some)))) == expected
    assert store.counts([]).sum() == 0


def test_an_order_depends_on_seed_and_epoch_alone():
    one, two = lm_batches(shuffle=True, seed=5), lm_batches(shuffle=True, seed=5)
    one.epoch = two.epoch = 3
    np.random.seed(0)
    torch.manual_seed(0)
    first = read_all(one)
    np.random.seed(1)
    torch.manual_seed(1)
    assert read_all(one) == read_all(two) == first
    two.epoch = 4
    assert read_all(two) != first
    assert sorted(read_all(two)[0][0]) != sorted(first[0][0])
    other_seed = lm_batches(shuffle=True, seed=6)
    other_seed.epoch = 3
    assert read_all(other_seed) != first


@pytest.mark.parametrize("shuffle", [False, True])
def test_language_model_batches_go_on_from_any_batch(shuffle):
    batches = lm_batches(shuffle=shuffle, seed=2)
    whole = read_all(batches)
    for start in range(len(batches) + 1):
        batches.start = start
        assert read_all(batches) == whole[start:]


def test_a_corpus_too_short_for_its_batch_size_is_read_in_fewer_rows():
    batches = lm_batches([15, 10], batch_size=64, bptt=10)
    assert [x.shape for x, _ in batches] == [(2, 10), (2, 2)]
    assert [x.shape for x, _ in lm_batches([2], batch_size=64, bptt=72)] == [(1, 1)]


def test_plain_fastai_gives_no_batches_of_a_corpus_too_short_for_its_batch_size():
    assert list(LMDataLoader(tensors(counted_store([15, 10])), bs=64, seq_len=10)) == []


@pytest.mark.parametrize("make", [LMDataLoader, SortedDL])
def test_plain_fastais_loaders_order_depends_on_what_ran_before(make):
    """So that no second run can go on from the middle of an epoch of the first."""
    texts = tensors(counted_store(range(3, 43)))

    def orders(state: int) -> list[list[int]]:
        """The first token of each batch, in two epochs of a loader made with the same seeds."""
        random.seed(0)
        np.random.seed(0)
        settings = {"bs": 4, "shuffle": True, "num_workers": 0, "device": torch.device("cpu")}
        if make is SortedDL:
            settings["before_batch"] = Pad_Chunk(pad_first=False)
            batches = make([(text, 0) for text in texts], **settings)
        else:
            batches = make(texts, seq_len=10, **settings)
        random.seed(state)
        np.random.seed(state)
        return [[int(x[0, 0]) for x, _ in batches] for _ in range(2)]

    first, second = orders(0)
    assert orders(0) == [first, second]
    assert orders(1)[0] != first, "something else drew random numbers meanwhile"
    assert second != first, "an epoch came before, and a new loader cannot be told so"


@pytest.mark.parametrize("lengths", [[], [1]])
def test_a_corpus_without_a_second_token_is_refused(lengths):
    with pytest.raises(DataError, match="at least two tokens"):
        lm_batches(lengths)


# ---------------------------------------------------------- classifier batches
def classifier_batches(lengths, batch_size=4, labelled=True, **settings) -> ClassifierBatches:
    """Token ids from 10 on, none twice, so that none is padding; a text's label is its number."""
    store = counted_store(lengths)
    store = TokenStore(store.ids + 10, store.offsets, store.words)
    labels = np.arange(len(lengths)) if labelled else None
    return ClassifierBatches(store, np.arange(len(lengths)), labels, batch_size, **settings)


def random_lengths(n: int, seed: int = 0, longest: int = 500) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(1, longest) for _ in range(n)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 9, 23])
def test_every_text_comes_once_and_whole_padded_on_the_right(n, shuffle):
    batches = classifier_batches(random_lengths(n, longest=30), shuffle=shuffle)
    seen = []
    for x, y in batches:
        assert x.dtype == y.dtype == torch.int64
        longest = 0
        for row, text in zip(x.tolist(), y.tolist(), strict=True):
            tokens_of_it = batches.store[text].tolist()
            assert row == tokens_of_it + [PAD_ID] * (x.shape[1] - len(tokens_of_it))
            longest = max(longest, len(tokens_of_it))
        assert x.shape[1] == longest, "not a column more than needed"
        seen += y.tolist()
    assert sorted(seen) == list(range(n))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", range(1, 30))
def test_as_many_batches_come_as_are_announced(n, shuffle):
    batches = classifier_batches(random_lengths(n, longest=20), shuffle=shuffle)
    assert len(list(batches)) == len(batches)


@pytest.mark.parametrize("n", [5, 9, 13, 401])
def test_training_has_no_batch_of_one_row(n):
    """Batch normalisation cannot train on it."""
    assert (
        min(len(y) for _, y in classifier_batches(random_lengths(n, longest=20), shuffle=True)) > 1
    )
    assert (
        max(len(y) for _, y in classifier_batches(random_lengths(n, longest=20), shuffle=True))
        == 5
    )


def test_order_says_which_text_a_row_is():
    batches = classifier_batches(random_lengths(23, longest=30))
    rows = np.concatenate([y for _, y in batches])
    assert np.array_equal(rows, batches.order)
    # So are results put back: results[order] = rows.
    results = np.empty(23, int)
    results[batches.order] = rows
    assert np.array_equal(results, np.arange(23))


def test_without_labels_only_texts_come():
    assert {len(batch) for batch in classifier_batches([3, 5, 9, 2, 7], labelled=False)} == {1}


@pytest.mark.parametrize("shuffle", [False, True])
def test_little_is_padding(shuffle):
    lengths = random_lengths(2_000)
    cells = sum(x.numel() for x, _ in classifier_batches(lengths, batch_size=32, shuffle=shuffle))
    assert 1 - sum(lengths) / cells < 0.05
    unsorted = sum(32 * max(lengths[i : i + 32]) for i in range(0, 2_000, 32))
    assert 1 - sum(lengths) / unsorted > 0.4, "what it would be in the order of the data"


def test_plain_fastai_pads_more():
    """Lengths as those of reviews, with a few long ones."""
    lengths = np.exp(np.random.default_rng(0).normal(5.4, 0.6, 20_000)).clip(10, 3_000).astype(int)
    ours = classifier_batches(lengths, batch_size=64, shuffle=True)._batches()
    texts = [(range(length), 0) for length in lengths]
    order = list(SortedDL(texts, bs=64, shuffle=True, res=lengths.tolist()).get_idxs())
    fastais = [order[i : i + 64] for i in range(0, len(order), 64)]

    def padding(batches) -> int:
        return sum(len(rows) * lengths[rows].max() - lengths[rows].sum() for rows in batches)

    assert padding(fastais) > 2 * padding(ours)


def test_plain_fastai_puts_padding_first():
    store = counted_store([3, 90])
    rows = Pad_Chunk(pad_idx=PAD_ID)([(text, 0) for text in tensors(store)])
    assert rows[0][0][:72].tolist() == [PAD_ID] * 72


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [7, 100, 200, 201, 202, 450])
def test_the_longest_batch_comes_first(n, shuffle):
    for seed in range(5):
        batches = classifier_batches(random_lengths(n, seed), shuffle=shuffle, seed=seed)
        widths = [x.shape[1] for x, _ in batches]
        assert widths[0] == max(widths)


def test_the_longest_batch_comes_first_also_when_the_longest_text_is_the_last_row_left_over():
    # 50 batches of 2 and a row more, which joins the last batch: it may hold the longest text.
    lengths = [5] * 101
    lengths[17] = 90
    for seed in range(300):
        x, _ = next(iter(classifier_batches(lengths, batch_size=2, shuffle=True, seed=seed)))
        assert x.shape[1] == 90, f"seed {seed}"


def test_batches_and_their_mixture_change_with_the_epoch_alone():
    batches = classifier_batches(random_lengths(300, longest=40), shuffle=True, seed=5)
    np.random.seed(0)
    first = read_all(batches)
    np.random.seed(1)
    assert read_all(batches) == first
    batches.epoch = 1
    second = read_all(batches)
    assert {frozenset(y) for _, y in first} != {frozenset(y) for _, y in second}
    widths = [len(x[0]) for x, _ in first[1:]]
    assert widths != sorted(widths, reverse=True), "sorted batches would train on long texts first"


@pytest.mark.parametrize("shuffle", [False, True])
def test_classifier_batches_go_on_from_any_batch(shuffle):
    batches = classifier_batches(random_lengths(43, longest=30), shuffle=shuffle, seed=2)
    whole = read_all(batches)
    for start in range(len(batches) + 1):
        batches.start = start
        assert read_all(batches) == whole[start:]


def test_batches_are_of_the_texts_asked_for():
    store = counted_store([3, 5, 9, 2, 7])
    found = ClassifierBatches(store, [4, 1], [1, 0], batch_size=4)
    assert read_all(found) == [([list(range(19, 26)), [*range(3, 8), PAD_ID, PAD_ID]], [1, 0])]


def test_backward_texts_are_padded_on_the_right_too():
    store = counted_store([3, 5])
    found = ClassifierBatches(store.backward(), [0, 1], [0, 1], batch_size=2)
    assert read_all(found) == [([[7, 6, 5, 4, 3], [2, 1, 0, PAD_ID, PAD_ID]], [1, 0])]
