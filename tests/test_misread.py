"""An inspection tells a wrong encoding and an unnamed language, and what to do about them."""

import random

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data.inspection import Inspection, inspect
from ulmfit_app.data.mojibake import MISREAD_UTF8, find_misread_alphabet, original_bytes
from ulmfit_app.data.reading import read_table
from ulmfit_app.data.text_checks import ALPHABET, UTF8
from ulmfit_app.errors import DataError
from ulmfit_app.text.scripts import language_without_spaces
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.vocabulary import make_vocab

FOREIGN = {
    "cp1251": "Отличный фильм, рекомендую всем друзьям.",
    "koi8-r": "Отличный фильм, рекомендую всем друзьям.",
    "gb18030": "这部电影很好看,我非常喜欢。",
    "big5": "這部電影很好看,我非常喜歡。",
    "shift_jis": "この映画はとても面白かったです。",
    "cp949": "이 영화는 정말 재미있었어요. 추천합니다.",
    "cp1253": "Πολύ καλή ταινία, τη συνιστώ σε όλους.",
    "cp1256": "فيلم رائع جدا وأنصح به للجميع",
}
RUSSIAN = "отличный скучный фильм очень хороший плохой сюжет музыка актёры игра длинный".split()


def read_as(text: str, own: str, wrong: str) -> str:
    """What Python has no character for, browsers read as Latin-1 has it."""
    content = text.encode(own)
    return "".join(bytes([byte]).decode(wrong, "ignore") or chr(byte) for byte in content)


def inspected(tmp_path, texts: list[str], own: str = "utf-8", **settings) -> Inspection:
    """The inspection of texts that were saved in an encoding."""
    path = tmp_path / "reviews.csv"
    rows = [f"{text},{('pos', 'neg')[i % 2]}\n" for i, text in enumerate(texts)]
    path.write_text("text,label\n" + "".join(rows), encoding=own)
    return inspect(DataSettings(str(path), **settings), TokenSettings(min_freq=1), 42)


def named(found: Inspection, name: str):
    return next(one for one in found.findings if one.name == name)


def russian(n: int = 60) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(RUSSIAN, k=8)) + f" {i}" for i in range(n)]


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
@pytest.mark.parametrize("own", FOREIGN)
def test_another_alphabet_read_as_western_letters_is_recognised(own, wrong):
    text = FOREIGN[own]
    read = read_as(text, own, wrong)
    assert find_misread_alphabet(read)
    assert original_bytes([read]) == text.encode(own)
    assert find_misread_alphabet(read_as(text, "utf-8", wrong)) is None, "that is UTF-8"


@pytest.mark.parametrize(
    "text",
    [
        "Größe und Maß: „Spaß“…",
        "Il a dit : « voilà »",
        "«Ça…»",
        "PRÉCÉDÉE",
        "ações não são vãs",
        "Þýðið æði",
        "jäääär öööö",
        "“…”—«»",
        "100 °C ± 5 µm², ½ × ¾ €",
        "¡¿Qué?!",
        "Привет",
        "你好",
        "plain",
    ],
)
def test_western_letters_and_signs_are_no_misread_alphabet(text):
    assert find_misread_alphabet(text) is None


@pytest.mark.parametrize("text", ["Привет", "фильм № 5", "очень “хороший” фильм", "Ёлка"])
def test_utf_8_read_as_windows_1251_is_recognised(text):
    assert MISREAD_UTF8.search(read_as(text, "utf-8", "cp1251"))


@pytest.mark.parametrize(
    "text", ["Рівне і Сім'я", "РІСТ", "С «Мир» №5 — «Сёстры»", "Срби Ђорђе Ћирић", "в „Ђ“"]
)
def test_cyrillic_itself_is_no_misread_utf_8(text):
    assert MISREAD_UTF8.search(text) is None


@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_a_file_read_in_a_wrong_encoding_is_told_its_own(tmp_path, wrong):
    found = named(inspected(tmp_path, russian(), "cp1251", encoding=wrong), "Encoding and markup")
    assert found.trouble and dict(found.table.to_numpy())[ALPHABET] == "60"
    assert f"instead of {wrong}" in found.advice and "--encoding cp1251" in found.advice
    right = named(
        inspected(tmp_path, russian(), "cp1251", encoding="cp1251"), "Encoding and markup"
    )
    assert not right.trouble


@pytest.mark.parametrize("wrong", ["latin-1", "cp1251"])
def test_utf_8_read_in_a_wrong_encoding_is_told_the_command(tmp_path, wrong):
    # Windows-1251 has no character for a byte of и.
    texts = [text.replace("и", "е") for text in russian()]
    found = named(inspected(tmp_path, texts, "utf-8", encoding=wrong), "Encoding and markup")
    assert found.trouble and dict(found.table.to_numpy())[UTF8] == "60"
    # UTF-8 is what is read without --encoding.
    assert found.advice == (
        "Read the file as UTF-8, which it seems to be: python -m ulmfit_app inspect "
        f"{tmp_path / 'reviews.csv'} --tokens.min-freq 1"
    )


def test_a_file_that_was_saved_misread_is_to_be_mended_itself(tmp_path):
    texts = [read_as(text, "cp1251", "latin-1") for text in russian()]
    found = named(inspected(tmp_path, texts), "Encoding and markup")
    assert found.trouble and "mend each text" in found.advice
    assert "text.encode('cp1252').decode('cp1251')" in found.advice
    assert texts[0].encode("cp1252").decode("cp1251") == russian()[0]


# ---------------------------------------------------------------------------------- the language
@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("这部电影很好看", "zh"),
        ("這部電影 is great 很好看的電影", "zh"),
        ("この映画は面白い", "ja"),
        ("หนังเรื่องนี้ดีมาก", "th"),
        ("ຮູບເງົາດີ", "lo"),
        ("រឿងល្អ", "km"),
        ("ရုပ်ရှင်ကောင်း", "my"),
        ("Отличный фильм", None),
        ("이 영화는", None),
        ("a film", None),
        ("12 !", None),
        ("", None),
    ],
)
def test_the_language_of_a_script_without_spaces_is_told(text, language):
    assert language_without_spaces(text) == language


def test_too_few_words_are_told_the_lower_bound():
    store = TokenStore(np.array([0, 1]), np.array([0, 2]), ["one", "two"])
    with pytest.raises(DataError, match="lower the bound: --tokens.min-freq 1$"):
        make_vocab(store, [0], TokenSettings())


# ---------------------------------------------------------------------------------- suspects.csv
ODD = [
    "a\rb",
    "two\nlines\r\n",
    'say "no"',
    ",;\t",
    "a\0b",
    "emoji 👩\u200d👧 ❤\ufe0f",
    "\u202eשלום\u202c עברית",
    "a\u2028b\u2029c\x85d",
    "=1+1",
]


@pytest.mark.parametrize("odd", ODD)
def test_suspects_are_read_back_as_they_were_written_row_for_row(tmp_path, odd):
    rng = random.Random(0)
    words = "kettle chair train lamp soup garden phone ticket".split()
    label = f"good {odd} one"
    path = tmp_path / "odd.jsonl"
    table = pd.DataFrame(
        {
            "text": [f"{odd} {' '.join(rng.choices(words, k=6))} {odd}\ufffd" for i in range(60)],
            f"col{odd}umn": ["x"] * 60,
            "label": [label, f"{label}\u200b"] * 30,
        }
    )
    table.to_json(path, orient="records", lines=True)
    settings = DataSettings(str(path), text="text", label="label")
    found = inspect(settings, TokenSettings(min_freq=1), 42)
    found.write(tmp_path / "page")
    read = read_table(tmp_path / "page" / "suspects.csv")
    suspects = [one.suspects.assign(check=one.name) for one in found.findings
                if one.suspects is not None]  # fmt: skip
    written = pd.concat(suspects)[read.columns.tolist()]
    assert (
        len(written) > 60 and read.to_numpy().tolist() == written.astype(str).to_numpy().tolist()
    )
    assert {label.strip(), f"{label}\u200b"} == set(read["label"])
