import random

import pytest
from fastai.text.core import Tokenizer as FastaiTokenizer
from fastai.text.core import WordTokenizer

from ulmfit_app.text.detokenizer import MOST_REPEATS, detokenize
from ulmfit_app.text.rules import FAKE, SPECIALS, UNK
from ulmfit_app.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenize():
    return Tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't believe he cannot do 10,000 push-ups in the '90s. WOW!!!",
        "The film (1979) wasn't well-made; it cost $11 million -- and it's the actors' best!",
        "World War III ended. A man said: 'hello there', then left and/or died.",
        "DON'T go, it's ROCK-N-ROLL. She's gonna win 50% of £1000—maybe.",
        "He said no no no no. Very very very good, he said.",
        "It was 10:30 a.m. in the U.S. and Mr. Smith’s “quoted” text; let's go",
        "Isn’t it? We'll see: they've said \"I'd\" (you're right), and I'm off.",
        'He said "no" and she said "yes", and [they] went to #1.',
        "In the 2000s, 1000 people and 100,000,000 dollars; 20001 and the 2000th.",
        "Sooo good, hmmm, the www address and waaay too long!!!",
        "One.\n\nTwo lines\nof a poem, NATO and 5 km.",
        "It was re-published, and you're re-elected.",
        "Naïve Zoë spent 3.5 million on café chairs.",
    ],
)
def test_an_ordinary_text_survives_tokens_and_back(tokenize, text):
    assert detokenize(tokenize(text)) == text


def test_plain_fastai_leaves_markers_in_the_text():
    fastais = FastaiTokenizer(WordTokenizer())
    assert fastais.decode(fastais("Sooo GOOD!")) == "xxbos s xxrep 3 o xxup good !"


def test_a_capital_behind_a_quotation_mark_has_no_token_and_is_lost(tokenize):
    assert (
        detokenize(tokenize('A film called "Alien" (Scott).')) == 'A film called "alien" (scott).'
    )


def test_a_clumsy_text_comes_back_with_the_same_tokens(tokenize):
    for text in [
        "Wait... what ?",
        "re:http://a.org/b-c?d=e",
        "a b -- c / d \\ e",
        "x  y\t\n z",
        "'' \" ' !",
        "xxrep xxpad",
    ]:
        tokens = tokenize(text)
        assert tokenize(detokenize(tokens)) == tokens, text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("xxbos xxmaj the xxup", "The"),
        ("xxmaj xxmaj xxup film xxrep", "FILM"),
        ("xxrep the film", "the film"),
        ("xxwrep 3 xxmaj very good", "Very Very Very good"),
        ("xxwrep xxrep 3 ! xxpad xxfake xxfld xxeos", "!!!"),
        ("3 o good", "3 o good"),
        ("so xxunk is it", "so xxunk is it"),
        ("xxrep ² !", "²!"),
        ("xxrep 0 o", ""),
        ("a xxrep 0 o film", "A film"),
        ("a xxwrep 0 very good film", "A good film"),
        ("xxrep 1 o xxwrep 1 no", "O no"),
        ("a film xxwrep 3", "A film"),
        ("xxrep xxwrep xxmaj", ""),
        ("xxrep film 3", "film 3"),
    ],
)
def test_markers_that_a_model_puts_anywhere_do_no_harm(tokens, text):
    assert detokenize(tokens.split()) == text


def test_any_sequence_of_tokens_becomes_a_text_without_markers():
    rng = random.Random(0)
    markers = [*(set(SPECIALS) - {UNK}), FAKE]
    others = ["0", "1", "3", "00", "²", "٣", "9" * 5000, "-1", "film", "i", "a", "n't", "'s", "re"]
    others += [*"o0.'\"-(/▁\n ", "''", "—", "xxunk", "好", "l'"]
    for _ in range(4000):
        tokens = rng.choices(rng.choice([markers, others, markers + others]), k=rng.randint(1, 9))
        language, start = rng.choice(["en", "fr", "xx"]), rng.choice(["", "The film", "“", "10 "])
        text = detokenize(tokens, language, start)
        assert text.startswith(start.rstrip(" ")), tokens
        assert not any(marker in text.lower() for marker in markers), tokens


def test_repetitions_are_bounded():
    assert detokenize(["xxrep", "9" * 5000, "!"]) == "!" * MOST_REPEATS
    assert detokenize(["xxrep", "9" * 200, "!"]) == "!" * MOST_REPEATS
    assert detokenize(["xxwrep", "1000", "no"]).split() == ["no"] * MOST_REPEATS


@pytest.mark.parametrize(
    ("start", "tokens", "text"),
    [
        ("The film", ["was", "n't", "bad", "."], "The film wasn't bad."),
        ("The film ", ["was"], "The film was"),
        ('He said: "no', ['"', "and", "left"], 'He said: "no" and left'),
        ("The film (", ["1979", ")"], "The film (1979)"),
        ('He said: "', ["no", '"', "."], 'He said: "no".'),
        ("A title\n\n", ["the", "film"], "A title\n\nthe film"),
        ("", ["a", "film"], "A film"),
        ("The end.", ["a", "film"], "The end. A film"),
        ("An   odd…prompt", [",", "kept"], "An   odd…prompt, kept"),
    ],
)
def test_a_continuation_joins_what_stands_before_it_unchanged(start, tokens, text):
    assert detokenize(tokens, start=start) == text


def test_chinese_characters_in_another_language_keep_their_spaces():
    assert detokenize(["xxmaj", "the", "word", "好", "is", "good"]) == "The word 好 is good"


def test_other_languages_have_their_own_words():
    assert detokenize(["l'", "homme", "i"], "fr") == "l'homme i"
    assert detokenize(["doin'", "it", "i"], "en") == "doin' it I"
