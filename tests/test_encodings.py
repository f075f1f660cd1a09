"""Bytes to characters: a wrong encoding is refused, with the one that it probably is."""

import codecs
import gzip
import subprocess
from pathlib import Path

import pytest

from tests.test_corpus import REVIEWS, csv_file, load, refused
from ulmfit_app.data import guessing
from ulmfit_app.data.encodings import find_codec
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import SettingError

RUSSIAN = (
    "Фильм оказался неожиданно хорошим: актёры играют живо, сюжет держит до конца, и даже музыка "
    "на месте. Но второй раз я бы смотреть его не стал, слишком длинный. Пересмотрел с друзьями в "
    "прошлую субботу, и все остались довольны, хотя ждали совсем другого."
)
SIMPLIFIED = (
    "这部电影比我想象的要好得多，演员的表演非常自然，故事情节也很紧凑，音乐配得恰到好处。不过片子有点"
    "长，第二次看的时候就觉得有些无聊了。总的来说，我还是会推荐给喜欢这类题材的朋友们去看一看。"
)
TRADITIONAL = (
    "這部電影比我想像的要好得多，演員的表演非常自然，故事情節也很緊湊，音樂配得恰到好處。不過片子有點"
    "長，第二次看的時候就覺得有些無聊了。總的來說，我還是會推薦給喜歡這類題材的朋友們去看一看。"
)
JAPANESE = (
    "この映画は思っていたよりもずっと面白かった。俳優の演技はとても自然で、物語も最後まで飽きさせない。"
    "音楽もよく合っていた。ただ少し長すぎるので、二度目に見たときは退屈に感じた。それでもこの種の作品が"
    "好きな人には勧めたい。"
)
KOREAN = (
    "이 영화는 생각보다 훨씬 재미있었다. 배우들의 연기가 아주 자연스럽고 이야기도 끝까지 지루하지 "
    "않았다. 음악도 잘 어울렸다. 다만 조금 길어서 두 번째로 볼 때는 지루하게 느껴졌다."
)
GERMAN = (
    "Der Film war überraschend gut: die Schauspieler spielen natürlich, die Geschichte hält bis "
    "zum Schluss, und sogar die Musik passt. Ein zweites Mal würde ich ihn nicht ansehen, dafür "
    "ist er viel zu lang. Größere Schwächen hat höchstens das Drehbuch, das müsste kürzer sein."
)
FRENCH = (
    "Un film très long et très beau, vraiment. Les acteurs sont à la hauteur, l’histoire tient "
    "jusqu’au bout, et la musique est bien choisie. Je ne l’ai pas regretté, même si la deuxième "
    "fois m’a semblé plutôt ennuyeuse. À voir entre amis, un été où l’on s’ennuie."
)
POLISH = (
    "Film okazał się zaskakująco dobry: aktorzy grają naturalnie, historia trzyma w napięciu aż "
    "do końca, a nawet muzyka jest na miejscu. Drugi raz bym go jednak nie oglądał, bo jest zbyt "
    "długi. Żałuję tylko, że zakończenie było tak łatwe do przewidzenia."
)


def refused_text(path: Path, text: str, encoding: str) -> str:
    """What is said of a text as a CSV in an encoding."""
    csv_file(path, [(text, "pos"), ("plain", "neg")], encoding=encoding)
    return refused(path)


def test_latin_1_is_refused_with_byte_and_flag_and_then_read_with_it(tmp_path):
    rows = [*REVIEWS, ("Un film très long et très beau, vraiment.", "pos")]
    path = csv_file(tmp_path / "reviews.csv", rows, encoding="latin-1")
    position = path.read_bytes().index("è".encode("latin-1"))
    message = refused(path)
    assert f"byte {position} " in message and "--encoding cp1252" in message
    assert rows[-1][0] in load(path, encoding="latin-1").table["text"].tolist()


def test_the_byte_of_a_wrong_encoding_is_right_across_blocks(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_bytes(b"text,label\n" + "é".encode() * (1 << 20) + b",pos\nx\xffy,neg\n")
    assert f"byte {path.read_bytes().index(0xFF)} " in refused(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_with_the_flag_that_reads_it(tmp_path, encoding):
    path = csv_file(tmp_path / "reviews.csv", REVIEWS, encoding=encoding)
    message = refused(path)
    assert "byte" in message and message.endswith(f"--encoding {encoding}")
    assert len(load(path, encoding=encoding).table) == 100


def test_utf_16_in_a_class_folder_names_the_file(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_bytes(codecs.BOM_UTF16_LE + "fine".encode("utf-16-le"))
    message = refused(tmp_path)
    assert str(Path("neg", "1.txt")) in message and "--encoding utf-16" in message


def test_an_encoding_that_does_not_exist_is_refused(tmp_path):
    path = csv_file(tmp_path / "reviews.csv", REVIEWS)
    assert "no text encoding 'utf-9'" in refused(path, SettingError, encoding="utf-9")


NO_CHARACTER_SETS = "punycode idna unicode_escape raw-unicode-escape undefined rot13 hex base64"


@pytest.mark.parametrize("encoding", [*NO_CHARACTER_SETS.split(), "\0", "utf-8\0", "\ud800", ""])
def test_a_codec_that_is_no_character_set_is_refused(encoding):
    with pytest.raises(SettingError, match="There is no text encoding '.*'. Expected for"):
        find_codec(encoding)
    assert find_codec("UTF8") == "utf-8-sig" and find_codec("cp1251") == "cp1251"


# What a file is probably encoded in


@pytest.mark.parametrize(
    ("text", "encoding", "advised"),
    [
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (SIMPLIFIED, "gb18030", "gb18030"),
        (SIMPLIFIED, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE, "euc-jp", "euc-jp"),
        (KOREAN, "euc-kr", "cp949"),
        (GERMAN, "cp1252", "cp1252"),
        (GERMAN, "latin-1", "cp1252"),
        (POLISH, "iso8859-2", "iso8859-2"),
        # In iso8859-2 the ś of cp1250 is a control character.
        (f"{POLISH} Wieść niosła się po wsi.", "cp1250", "cp1250"),
    ],
)
def test_the_probable_encoding_is_advised_and_reads_the_file(tmp_path, text, encoding, advised):
    message = refused_text(tmp_path / "a.csv", text, encoding)
    first = next(word for word in text.split() if not word.isascii())
    assert f"It is probably {advised}, which reads '" in message and first[:10] in message
    assert f"Add: --encoding {advised}" in message
    rows = [(text, "pos")] + [(f"{text} {i}", "neg") for i in range(30)]
    rows += [(f"{text[::-1]} {i}", "pos") for i in range(30)]
    path = csv_file(tmp_path / "b.csv", rows, encoding=encoding)
    assert text in load(path, encoding=advised).table["text"].tolist()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (POLISH, "cp1250"),
        ("schön", "latin-1"),
        (RUSSIAN[:22], "koi8-r"),
        (RUSSIAN[:14], "cp1251"),
    ],
)
def test_readings_are_shown_where_it_is_not_sure(tmp_path, text, encoding):
    message = refused_text(tmp_path / "a.csv", text, encoding)
    assert "is not sure" in message and "probably" not in message
    first = next(word for word in text.split() if not word.isascii())
    reading = message.partition(f"--encoding {encoding.replace('latin-1', 'cp1252')} reads '")[2]
    assert first in reading.partition("';")[0]
    assert message.count("--encoding") <= 3


def test_an_encoding_that_fails_further_down_is_not_advised(tmp_path):
    # 0x98 is no character in cp1251.
    rows = [(RUSSIAN, "pos"), ("plain", "neg")] * 300
    path = csv_file(tmp_path / "a.csv", rows, encoding="cp1251")
    path.write_bytes(path.read_bytes() + b"\x98,pos\n")
    assert len(path.read_bytes()) > guessing.SAMPLE and "--encoding cp1251" not in refused(path)


def test_a_utf_8_file_with_a_damaged_place_is_not_taken_for_another_encoding(tmp_path):
    path = csv_file(tmp_path / "a.csv", [(RUSSIAN, "pos"), (GERMAN, "neg")])
    path.write_bytes(path.read_bytes() + b"Beyonc\xe9,pos\n")
    message = refused(path)
    assert "Nearly all else in it is UTF-8" in message and "--encoding" not in message
    subprocess.run(message[message.index("iconv") :], shell=True)
    assert read_table(tmp_path / "a-mended.csv")["text"].tolist() == [RUSSIAN, GERMAN, "Beyonc"]


@pytest.mark.parametrize("wrong", ["ascii", "shift_jis", "cp1252"])
def test_utf_8_that_was_called_something_else_is_recognised(tmp_path, wrong):
    path = csv_file(tmp_path / "a.csv", [(RUSSIAN, "pos"), (JAPANESE, "neg")])
    assert "It is probably utf-8" in refused(path, encoding=wrong)
    path = csv_file(tmp_path / "b.csv", [("A naïve film.", "pos"), ("plain", "neg")])
    assert "It is probably utf-8" in refused(path, encoding="ascii")


def test_utf_16_without_its_mark_is_refused_without_a_traceback(tmp_path):
    path = csv_file(tmp_path / "a.csv", REVIEWS)
    assert "is not utf-16: byte 0 cannot be read so" in refused(path, encoding="utf-16")


def test_a_compressed_file_of_another_encoding_gets_the_same_advice(tmp_path):
    path = csv_file(tmp_path / "a.csv", [(RUSSIAN, "pos"), ("plain", "neg")], encoding="cp1251")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    plain, packed = refused(path), refused(tmp_path / "a.csv.gz")
    assert packed == plain.replace("a.csv", "a.csv.gz") and "cp1251" in packed


def test_files_of_class_folders_are_told_by_name_with_advice(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text(RUSSIAN, encoding="koi8-r")
    message = refused(tmp_path)
    assert str(Path("neg", "1.txt")) in message and "--encoding koi8-r" in message
