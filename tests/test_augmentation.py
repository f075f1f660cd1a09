"""Texts made of other texts by changing words: EDA, WordNet, an embedding, and a command."""

import shlex
import sys

import numpy as np
import pytest
from numpy.linalg import norm

from ulmfit_app.data.augmentation import (
    EDA,
    CutText,
    count_changes,
    generator_for,
    in_case_of,
    make_copies,
    nearest_words,
    stop_words,
)
from ulmfit_app.data.back_translation import count_lines_joined, translate
from ulmfit_app.data.wordnet import DEBIANS, WordNet, find_wordnet
from ulmfit_app.errors import SettingError

TEXT = "The movie was great, but my wife didn't like it (much)."
LICENCE = "  1 This software and database is being provided to you, the LICENSEE.\n"
# wndb(5WN): offset, file, part of speech, number of words (hexadecimal), words, pointers, gloss
DATA = {
    "noun": "00000001 06 n 03 film 0 movie 0 motion_picture 0 001 ~ 00000009 n 0000 | a film  \n"
    "00000002 06 n 02 film 1 celluloid 0 000 | a medium  \n"
    "00000003 06 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 eleven 0 000 | eleven words  \n"
    "00000004 06 n 01 wolf 0 000 | alone  \n00000005 06 n 02 goose 0 bird 0 000 | geese  \n",
    "verb": "00000006 30 v 02 go 0 travel 0 001 + 00000001 n 0101 01 + 02 00 | move  \n"
    "00000007 30 v 02 film 0 shoot 1 000 01 + 08 00 | record  \n",
    "adj": "00000008 00 s 02 galore(ip) 0 abounding 0 000 | many  \n"
    "00000009 00 a 02 Great 0 big 0 000 | large  \n",
    "adv": "00000010 02 r 02 quickly 0 fast 0 000 | with speed  \n",
}


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """A folder of WordNet's files, of a few words."""
    for kind, lines in DATA.items():
        (tmp_path / f"data.{kind}").write_text(LICENCE + lines)
        (tmp_path / f"{kind}.exc").write_text("")
    (tmp_path / "noun.exc").write_text("geese goose\n")
    (tmp_path / "verb.exc").write_text("went go\n")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    return tmp_path


def drawn(seed=0):
    return np.random.default_rng(seed)


def only(operation, synonyms=lambda word: [], without=(), share=0.1):
    """EDA with one operation alone."""
    eda = EDA(synonyms, without, share)
    eda.operations = (getattr(eda, operation),)
    return eda


# -------------------------------------------------------------------------------------- WordNet
def test_synonyms_are_those_of_all_meanings_and_parts_of_speech(wordnet):
    found = WordNet(wordnet).synonyms("film")
    assert found == ["celluloid", "motion picture", "movie", "shoot"]
    assert WordNet(wordnet).synonyms("eleven") == list("abcdefghij"), "0b is hexadecimal"
    assert WordNet(wordnet).synonyms("abounding") == ["galore"], "without (ip)"
    assert WordNet(wordnet).synonyms("BIG") == ["Great"]


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("films", ["celluloid", "motion picture", "movie", "shoot"]),
        ("filmed", ["shoot"]),
        ("geese", ["bird"]),
        ("went", ["travel"]),
        ("bigger", []),  # morphy(7WN) doubles no letter; adj.exc has such forms
        ("wolf", []),
        ("zebra", []),
    ],
)
def test_an_inflected_word_has_the_synonyms_of_its_base_forms(wordnet, word, synonyms):
    assert WordNet(wordnet).synonyms(word) == synonyms


@pytest.mark.skipif(not DEBIANS.is_dir(), reason="Debian's wordnet-base is not installed")
def test_synonyms_are_those_that_wordnets_own_program_lists(monkeypatch):
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    found = WordNet(find_wordnet()).synonyms("movies")  # wn movie -synsn
    listed = "film, picture, moving picture, moving-picture show, motion picture, "
    listed += "motion-picture show, picture show, pic, flick"
    assert found == sorted(listed.split(", "))
    assert "prompt" not in WordNet(find_wordnet()).synonyms("quickly")
    assert "promptly" in WordNet(find_wordnet()).synonyms("quickly")  # wn quickly -synsr


def test_a_missing_wordnet_names_debians_package_and_the_other_way(wordnet):
    (wordnet / "data.adv").unlink()
    with pytest.raises(SettingError) as told:
        find_wordnet()
    for part in ("data.adv", "apt-get install wordnet-base", "--augment.synonyms embedding"):
        assert part in str(told.value)


@pytest.mark.parametrize("line", ["no number of words\n", "1 2 n 0q word 0\n", "\xe9\n"])
def test_a_damaged_file_of_wordnet_is_named(wordnet, line):
    (wordnet / "data.verb").write_text(line, encoding="latin-1")
    with pytest.raises(SettingError, match="data.verb is not a file of WordNet 3"):
        WordNet(wordnet)


# ------------------------------------------------------------------------------------------ EDA
def test_a_text_is_cut_into_words_and_what_stands_between_and_put_together_again():
    cut = CutText("It's a U.S. film — state-of-the-art, 2 stars!")
    assert cut.words == ["It's", "a", "U.S", "film", "state-of-the-art", "stars"]
    for text in (TEXT, "", "  ", "12?", "word", "\nTwo  lines\n"):
        assert str(CutText(text)) == text


def test_replacement_takes_synonyms_of_words_that_are_no_stop_words_and_their_capitals():
    eda = only("replace", lambda word: [f"new{word.lower()}"], stop_words("en"), share=0.4)
    for seed in range(20):
        made = eda("The Movie was GREAT, but my wife hates it.", drawn(seed))
        changed = {word for word in CutText(made).words if word.lower().startswith("new")}
        assert len(changed) == 3  # 0.4 of 9 words
        assert changed <= {"Newmovie", "NEWGREAT", "newwife", "newhates"}


def test_a_letter_alone_has_no_synonyms():
    eda = only("replace", lambda word: ["new"], share=1.0)
    assert eda("What 's x", drawn()) == "New 's x"


def test_insertion_adds_as_many_synonyms_anywhere_and_keeps_the_rest_in_order():
    eda = only("insert", lambda word: ["new"] if word == "wife" else [], share=0.2)
    places = set()
    for seed in range(40):
        words = CutText(eda(TEXT, drawn(seed))).words
        assert words.count("new") == 2  # 0.2 of 11
        places |= {i for i, word in enumerate(words) if word == "new"}
        assert [word for word in words if word != "new"] == CutText(TEXT).words
    assert {0, 12} <= places, "before the first word, and behind the last"


def test_swap_exchanges_words_and_leaves_the_signs():
    cut = CutText(TEXT)
    for seed in range(20):
        made = CutText(only("swap")(TEXT, drawn(seed)))
        assert made.gaps == cut.gaps
        assert sorted(made.words) == sorted(cut.words)
        assert sum(a != b for a, b in zip(made.words, cut.words, strict=True)) == 2


def test_deletion_leaves_out_each_word_with_a_chance_of_the_share_but_one():
    text = " ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400))
    kept = [len(only("delete", share=0.3)(text, drawn(seed)).split()) for seed in range(5)]
    assert np.mean(kept) == pytest.approx(280, abs=15)
    assert only("delete", share=1.0)("some three words", drawn()) in ("some", "three", "words")


@pytest.mark.parametrize(
    ("text", "place", "left"),
    [("A good film", 1, "A film"), ("A film, too", 1, "A, too"), ("A film", 0, "film"),
     ("A film.", 1, "A."), ("(good) film", 0, "() film"), ("Good\nfilm", 1, "Good\n")],
)  # fmt: skip
def test_a_deleted_word_takes_one_of_the_spaces_beside_it_with_it(text, place, left):
    cut = CutText(text)
    cut.delete(place)
    assert str(cut) == left


@pytest.mark.parametrize(
    ("place", "made"), [(0, "new A film."), (1, "A new film."), (2, "A film new.")]
)
def test_an_inserted_word_stands_between_spaces_and_before_the_signs_behind(place, made):
    cut = CutText("A film.")
    cut.insert(place, "new")
    assert str(cut) == made


def test_an_operation_that_changes_nothing_gives_way_to_another():
    eda = EDA(lambda word: [], (), share=0.1)  # no synonyms: two operations change nothing
    made = {eda("Good old film", drawn(seed)) for seed in range(30)}
    assert None not in made and "Good old film" not in made
    assert EDA(lambda word: [], (), 0.1)("12 !", drawn()) is None
    assert only("replace")("Good old film", drawn()) is None


def test_all_four_operations_are_drawn_alike():
    calls = []
    eda = EDA(lambda word: ["new"], ())
    names = ("replace", "insert", "swap", "delete")

    def noted(name, real):
        def call(cut, generator):
            calls.append(name)
            real(cut, generator)
            cut.words[0] = "changed"

        return call

    eda.operations = tuple(noted(name, getattr(eda, name)) for name in names)
    for seed in range(400):
        eda("some words to change", drawn(seed))
    assert all(70 < calls.count(name) < 130 for name in names)


def test_copies_depend_on_seed_row_and_number_and_on_no_other_text():
    texts, rows = ["some words of a text", "other words of another"], [3, 8]
    eda = EDA(lambda word: ["new", "newer", "newest"], ())
    both = make_copies(texts, rows, 2, 5, eda)
    assert make_copies(texts[1:], rows[1:], 2, 5, eda) == both[1:]
    assert make_copies(texts, rows, 2, 6, eda) != both
    assert make_copies(texts, [4, 8], 2, 5, eda)[0] != both[0]
    streams = [generator_for(1, 2, 3), generator_for(2, 2, 3), generator_for(1, 3, 3)]
    streams += [generator_for(1, 2, 4)]
    assert len({each.random() for each in streams}) == 4


def test_no_copy_is_like_its_text_or_another_copy():
    made = make_copies(["a b", "12", "a"], [0, 1, 2], 6, 0, EDA(lambda word: [], ()))
    assert set(made[0]) <= {"a", "b", "b a"}
    assert len(made[0]) == len(set(made[0])) > 1
    assert made[1:] == [[], []]


def test_a_share_of_words_changes_but_one_at_least():
    assert [count_changes(0.1, n) for n in (1, 9, 10, 29, 30)] == [1, 1, 1, 2, 3]


def test_stop_words_are_spacys_of_the_language():
    assert {"the", "not", "never"} <= stop_words("en")
    assert "nicht" in stop_words("de") and "nicht" in stop_words("de-at")
    assert stop_words("xx") == frozenset()


def test_a_word_gets_the_capitals_of_the_one_it_replaces():
    assert in_case_of("tea", "I") == "Tea"
    assert in_case_of("tea", "") == "tea"


# ------------------------------------------------------------------------------------- embedding
def test_the_nearest_words_are_those_of_the_largest_cosines(monkeypatch):
    monkeypatch.setattr("ulmfit_app.data.augmentation.ASKED_AT_A_TIME", 3)
    vectors = drawn().normal(size=(20, 6)) * drawn(1).uniform(0.1, 9, (20, 1))
    words = [f"word{i}" for i in range(20)]
    found = nearest_words(words, vectors, [*words[::-1], "unknown", words[0]], n=4)
    assert list(found) == words[::-1]
    for i, word in enumerate(words):
        cosines = vectors @ vectors[i] / norm(vectors, axis=1) / norm(vectors[i])
        order = [words[j] for j in np.argsort(-cosines) if j != i]
        assert found[word] == order[:4]


def test_a_word_without_a_vector_and_few_words_are_no_trouble():
    found = nearest_words(["a", "b"], np.array([[0.0, 0.0], [1.0, 0.0]]), ["a"], n=5)
    assert found == {"a": ["b"]}
    assert nearest_words(["a"], np.ones((1, 2)), ["a"]) == {"a": []}


# --------------------------------------------------------------------------------------- a command
def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


SHOUTING = python("import sys; sys.stdout.write(sys.stdin.read().upper())")


def test_texts_go_through_a_command_a_line_each():
    texts = ["two\r\nlines", "tab\tand “é” 車", "", " a\u2028b ", "$(echo no) `no` ; no"]
    back = translate(texts, f"{SHOUTING} | cat")
    assert back == ["TWO LINES", "TAB\tAND “É” 車", "", "A B", "$(ECHO NO) `NO` ; NO"]
    assert count_lines_joined(texts) == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("head -n 1", "expected a line for each of 2 texts, found 1. Try it: echo"),
        (python("pass"), "expected a line for each of 2 texts, found 0"),
        (f"{SHOUTING}; echo more", "expected a line for each of 2 texts, found 3"),
        ("no-such-program-here", "a program of it is missing. It said: "),
        ("no-such-apertium eng-spa", "apt-get install apertium-eng-spa"),
        ("no-such-apertium eng-spa | cat", "apt-get install apertium-eng-spa"),
        (
            python("import sys; sys.exit('no model')"),
            "failed with exit code 1. It said: no model.",
        ),
        (python("import os; os.write(1, bytes([200, 10, 10]))"), "expected UTF-8, and byte 0"),
    ],
)
def test_a_command_that_does_not_give_a_line_for_each_is_told(command, said):
    with pytest.raises(SettingError, match="--augment.command") as told:
        translate(["one", "two"], command)
    assert said in str(told.value)
