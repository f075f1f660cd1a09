"""Changes of texts: what they change, what they leave, and that small ones are part of large."""

import re
from difflib import SequenceMatcher

import pytest

from ulmfit_app.data.neutral_sentences import IRRELEVANT, NEGATED, SIMPLIFIED, TRADITIONAL
from ulmfit_app.data.perturbations import (
    EMOJI,
    KEYS,
    LOOK_ALIKES,
    PERTURBATIONS,
    perturb,
    perturbations_of,
)
from ulmfit_app.errors import SettingError

BY = {one.name: one for one in PERTURBATIONS}
TEXT = (
    "Bromwell High is a wonderful cartoon comedy. It isn't dull, and the students' pathetic "
    "teachers were never better! <br />See http://example.org/film for 8.5/10 :-) It could win."
)
CHINESE = "這家飯店的房間很乾淨，服務也很好！下次還會再來嗎？會的。"
IN_ENGLISH = [one.name for one in PERTURBATIONS]


def changed(name, text, strength=1.0, row=0, seed=0):
    return perturb([text], [row], BY[name], strength, seed)[0]


@pytest.mark.parametrize("name", IN_ENGLISH)
def test_a_change_of_nothing_leaves_texts_as_they_are(name):
    assert changed(name, TEXT, 0.0) == TEXT
    assert changed(name, TEXT) != TEXT
    assert [changed(name, text) for text in ("", "7")] in (["", "7"], *[
        [f"{sentence}", f"{place}"]
        for sentence in (*IRRELEVANT["en"], *NEGATED["en"])
        for place in (f"{sentence} 7", f"7 {sentence}")
    ])  # fmt: skip


@pytest.mark.parametrize("name", IN_ENGLISH)
def test_a_text_is_changed_alike_whatever_stands_beside_it(name):
    alone = perturb([TEXT], [5], BY[name], 0.5, 1)
    assert perturb(["Another.", TEXT], [4, 5], BY[name], 0.5, 1)[1:] == alone
    others = {changed(name, TEXT, 0.5, row=row, seed=seed) for row in range(6) for seed in (1, 2)}
    assert len(others) > 1


@pytest.mark.parametrize("name", IN_ENGLISH)
def test_what_changes_at_a_small_strength_changes_so_at_a_larger_one(name):
    """Of each pair, the smaller change is no further from the text, and lies on the way."""

    def parts(text):
        return re.findall(r"\w+|\s+|[^\w\s]", text)

    def new_in(text):
        blocks = SequenceMatcher(None, parts(TEXT), parts(text), autojunk=False).get_opcodes()
        return {tuple(parts(text)[j:k]) for tag, _, _, j, k in blocks if tag != "equal"}

    texts = [changed(name, TEXT, strength) for strength in (0.15, 0.5, 1.0)]
    sizes = [sum(map(len, new_in(text))) + abs(len(TEXT) - len(text)) for text in (TEXT, *texts)]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[1]
    if name in ("typos", "capitals", "lower case", "look-alike letters"):
        words = [re.findall(r"[^\W\d_]+", text) for text in (TEXT, *texts)]
        for own, *new in zip(*words, strict=True):
            first = next((word for word in new if word != own), own)
            assert all(word in (own, first) for word in new), "changed once, in one way"
            assert new == sorted(new, key=lambda word: word != own)


def test_the_share_is_right_in_the_mean_of_short_texts_too():
    words = "some words have been typed here and there again".split()
    texts = [" ".join(words)] * 400
    found = perturb(texts, range(400), BY["capitals"], 0.1, 0)
    n = sum(word.isupper() for text in found for word in text.split())
    assert abs(n / (400 * len(words)) - 0.1) < 0.015


def test_a_typo_is_one_slip_inside_a_word_of_four_letters_or_more():
    kinds = set()
    for row in range(60):
        typed = changed("typos", "Bromwell does it", row=row).split()
        assert typed[2] == "it"
        for own, new in zip(("Bromwell", "does"), typed, strict=False):
            assert new != own and (new[0], new[-1]) == (own[0], own[-1])
            if sorted(new) == sorted(own):
                i = next(i for i, letter in enumerate(own) if letter != new[i])
                assert new == own[:i] + own[i + 1] + own[i] + own[i + 2 :]
                kinds.add("swapped")
            elif len(new) == len(own):
                (i,) = (i for i, letter in enumerate(own) if letter != new[i])
                row_of_keys = next(keys for keys in KEYS if own[i] in keys)
                assert abs(row_of_keys.index(new[i]) - row_of_keys.index(own[i])) == 1
                kinds.add("beside")
            else:
                longer, shorter = sorted((own, new), key=len, reverse=True)
                assert any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
                kinds.add("missing" if new == shorter else "twice")
    assert kinds == {"swapped", "beside", "missing", "twice"}


def test_tags_addresses_and_numbers_are_no_words():
    for name in ("typos", "capitals", "look-alike letters", "lower case"):
        new = changed(name, TEXT)
        assert "<br />" in new and "http://example.org/film" in new and "8.5/10" in new
    assert changed("capitals", "a film &amp; @user I") == "a FILM &amp; @user I"


def test_marks_of_faces_and_numbers_stay_where_those_of_sentences_go():
    assert changed("punctuation", 'Don\'t "miss" it: 8.5/10, (really)! :-)') == (
        "Dont miss it 8.5/10, really :-)"
    )
    assert changed("punctuation", "What is it , a film ?") == "What is it a film"
    assert changed("punctuation", CHINESE) == re.sub("[，！？。]", "", CHINESE)


def test_emoji_and_markup_stand_in_the_gaps_between_words():
    new = changed("emoji", TEXT)
    assert re.sub(f" [{EMOJI}]", "", new) == TEXT
    assert sum(new.count(emoji) for emoji in EMOJI) == len(TEXT.replace("<br />", "").split()) - 1
    new = changed("HTML", TEXT)
    assert new.replace("<br />", "\0").count("<") + new.count("&nbsp;") > 20
    assert re.sub(r"<(?!br />)[^<>]*>|(?:</p>)|&nbsp;", "", new) == TEXT
    assert changed("emoji", CHINESE).translate(dict.fromkeys(map(ord, EMOJI))) == CHINESE


def test_look_alikes_are_other_letters_of_the_same_shape():
    new = changed("look-alike letters", TEXT)
    back = {ord(after): before for before, after in LOOK_ALIKES.items()}
    assert new != TEXT and new.translate(back) == TEXT
    assert all(ord(letter) > 0x3FF for letter in LOOK_ALIKES.values())


@pytest.mark.parametrize(("name", "of"), [("irrelevant sentences", IRRELEVANT),
                                          ("irrelevant negations", NEGATED)])  # fmt: skip
def test_irrelevant_sentences_stand_between_the_texts_own(name, of):
    text = "One film. Two actors! Three?"
    for row in range(10):
        new = changed(name, text, row=row)
        said = [sentence for sentence in of["en"] if sentence in new]
        assert len(said) == 3, "as many as its own, and none twice"
        for sentence in said:
            new = new.replace(sentence, "")
        assert " ".join(new.split()) == text
    assert all(("not" in sentence.split()) == (of is NEGATED) for sentence in of["en"])


def test_chinese_gets_sentences_in_its_own_script_and_no_spaces():
    for text, script in ((CHINESE, TRADITIONAL), ("房间很干净，还会再来。", SIMPLIFIED)):
        new = changed("irrelevant sentences", text)
        assert any(sentence in new for sentence in IRRELEVANT[script]) and " " not in new
        for sentence in IRRELEVANT[script]:
            new = new.replace(sentence, "")
        assert new == text


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("It is good.", "It is not good."),
        ("It isn't good", "It is good"),
        ("It was not good", "It was good"),
        ("It's fine. She can't act, and won’t.", "It's not fine. She can act, and will."),
        ("I cannot say", "I can say"),
        ("Is it good? Could they?", "Is it good? Could they?"),
        ("This history", "This history"),
    ],
)
def test_a_negated_statement_says_the_opposite(text, opposite):
    assert changed("negated statements", text) == opposite


def test_languages_get_what_makes_sense_in_them():
    names = {
        language: [one.name for one in perturbations_of(language)[0]]
        for language in ("en", "en-gb", "de", "zh-tw", "zh")
    }
    assert names["en"] == names["en-gb"] == IN_ENGLISH
    assert names["zh"] == names["zh-tw"] == [
        *("punctuation", "emoji", "HTML", "irrelevant sentences", "irrelevant negations")
    ]  # fmt: skip
    left_out = ["irrelevant sentences", "irrelevant negations", "negated statements"]
    assert perturbations_of("de")[1] == left_out
    assert [one.name for one in PERTURBATIONS if not one.keeps_label] == ["negated statements"]


def test_a_strength_that_is_no_share_is_refused():
    with pytest.raises(SettingError, match=r"--strengths must be from 0 to 1, not 1\.5"):
        changed("typos", TEXT, 1.5)
