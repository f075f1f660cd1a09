"""Identity terms: found where they are meant, and swapped with grammar and capitals kept."""

import json
from itertools import combinations

import pandas as pd
import pytest

from ulmfit_app.data.identity_terms import TERMS, Kind, load_terms, read_terms
from ulmfit_app.errors import DataError, SettingError

ENGLISH = {kind.name: kind for kind in load_terms("en")}


def swapped(kind, text, one=None, other=None):
    groups = list(kind.terms)
    one, other = one or groups[0], other or groups[1]
    return kind.swap(text, kind.find(text), one, other)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("She took her bag; it is hers.", "He took his bag; it is his."),
        ("I saw her, and gave her a book.", "I saw him, and gave him a book."),
        ("I like her and her friends.", "I like him and his friends."),
        ("His wife knows him.", "Her husband knows her."),
        ("The women's rooms; a policewoman.", "The men's rooms; a policeman."),
        ("SHE LEFT. She's here.", "HE LEFT. He's here."),
        ("An aunt met a niece.", "An uncle met a nephew."),
        ("Her own work, and hers alone", "His own work, and his alone"),
    ],
)
def test_gender_is_exchanged_both_ways(text, other):
    assert swapped(ENGLISH["gender"], text) == other
    assert swapped(ENGLISH["gender"], other) == text


def test_a_text_with_both_groups_has_them_exchanged():
    kind = ENGLISH["gender"]
    assert swapped(kind, "He loves his mother.") == "She loves her father."


def test_articles_fit_the_new_word():
    kind = ENGLISH["origin"]
    text = "An American met a German. AN AMERICAN! A Nigerian friend"
    assert swapped(kind, text, "Americans", "Germans") == (
        "A German met an American. A GERMAN! A Nigerian friend"
    )
    assert swapped(kind, "a Nigerian", "Nigerians", "Americans") == "an American"
    people = Kind("people", {"one": ("union",), "other": ("hour",)})
    assert swapped(people, "a union, A UNION, a clear union") == "an hour, AN HOUR, a clear hour"


def test_nouns_stand_for_nouns_and_adjectives_for_adjectives():
    kind = ENGLISH["religion"]
    text = "A Muslim woman and a Muslim; Muslims, muslims and MUSLIMS of Islam"
    assert swapped(kind, text, "Muslims", "Jews") == (
        "A Jewish woman and a Jew; Jews, jews and JEWS of Judaism"
    )
    back = swapped(kind, "The Jewish actor is no Jew.", "Jews", "Christians")
    assert back == "The Christian actor is no Christian."


def test_colours_are_people_only_before_a_word_for_people():
    kind = ENGLISH["colour"]
    text = "Black people in a black car, a white woman, black humour"
    assert swapped(kind, text, "black people", "Asian people") == (
        "Asian people in a black car, a white woman, black humour"
    )
    assert swapped(kind, "an Asian man", "Asian people", "black people") == "a black man"


def test_names_and_titles_are_left_alone():
    gender, religion = ENGLISH["gender"], ENGLISH["religion"]
    for text in ("I saw Iron Man and Mean Girls.", "the other", "Mother Teresa", "he or she"):
        assert gender.find(text) == []
    for text in ("Christian Bale", "Christianity Today"):
        assert religion.find(text) == []
    assert [mention.group for mention in gender.find('"Women lie," she said. Men too.')] == [
        *("women", "women", "men")
    ]  # fmt: skip


def test_a_word_begins_a_sentence_with_a_capital_as_the_one_before_it():
    kind = Kind("target", {"a": ("Muslims",), "b": ("women",), "c": ("gay *",)})
    assert swapped(kind, "Muslims left. Some Muslims stayed.") == "Women left. Some women stayed."
    assert swapped(kind, "Women left. Some women stayed.") == "Muslims left. Some Muslims stayed."


def test_terms_that_a_group_does_not_have_stay():
    kind = Kind("k", {"gay": ("gays", "gay *"), "trans": ("", "trans *")})
    assert swapped(kind, "gays and gay people") == "gays and trans people"
    assert swapped(kind, "gays") == "gays"


def test_chinese_words_are_found_without_spaces_and_in_both_scripts():
    traditional, simplified = load_terms("zh-tw")[0], load_terms("zh")[0]
    text, other = (
        "她媽媽和其他女人說他很好，爸爸彈吉他。",
        "他爸爸和其他男人說她很好，媽媽彈吉他。",
    )
    assert swapped(traditional, text) == other
    assert swapped(simplified, "她妈妈的吉他，其他女儿") == "他爸爸的吉他，其他儿子"
    assert simplified.name == "性别"


def test_the_packages_groups_fit_each_other(tmp_path):
    """By the check of terms of one's own; and swapping back gives the text again."""
    for language, known in json.loads(TERMS.read_text(encoding="utf-8")).items():
        for name, groups in known["kinds"].items():
            rows = [(name, group, term) for group, terms in groups.items() for term in terms]
            path = tmp_path / "terms.csv"
            pd.DataFrame(rows, columns=["kind", "group", "term"]).to_csv(path, index=False)
            (kind,) = read_terms(path)
            assert kind.terms == {group: tuple(terms) for group, terms in groups.items()}
            assert kind.pairs() == list(combinations(groups, 2))
        assert {kind.name for kind in load_terms(language)} == set(known["kinds"])


def test_a_language_without_terms_is_told_what_to_give():
    with pytest.raises(SettingError, match="in en and zh-tw, and the texts are in de. Give some"):
        load_terms("de")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("kind,group\nk,a\n", r"no 'term'. Expected kind, group, term: python -m ulmfit_app"),
        ("kind,group,term\nk,a,x\n", "the kind 'k' has one group, 'a', and nothing to swap"),
        ("kind,group,term\nk,a,x\nk,a,y\nk,b,z\n", "different numbers of terms: a 2, b 1"),
        ("kind,group,term\nk,a,x\nk,b,X\n", "'X' is a term of 'a' and of 'b' in the kind 'k'"),
    ],
)
def test_terms_that_do_not_fit_each_other_are_refused(tmp_path, rows, message):
    path = tmp_path / "terms.csv"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_terms(path)
