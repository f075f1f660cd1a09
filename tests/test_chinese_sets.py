"""Chinese data sets known by name, from a server on 127.0.0.1, and files of labelled lines."""

import hashlib
import io
import re
import typing
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data_scripts import chinese, english, fetch
from data_scripts.fetch import FetchError, Source
from data_scripts.published import PublishedSet
from tests.test_data_scripts import NOBODY, Server
from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.known_sets import DATA_SETS, language_of
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.pipeline.language import find_language, is_open
from ulmfit_app.presets import PRESETS

# As the publisher writes them: no column names, a line feed behind each line.
TRAIN = "".join(f"{'冷笑話' if i % 3 else '家庭笑話'}\t第{i}個笑話，很短。\n" for i in range(30))
TEST = "冷笑話\t有個怕老婆的人,\t半夜偷吃。\n家庭笑話\t「我處罰你」\u2028爸爸說。\n"
HOTEL = "label,review\n" + "".join(
    f'{int(i % 4 > 0)},"第{i}家酒店，早餐""不错""，房间小"\n' for i in range(40)
)
SHOPPING = "cat,label,review\n" + "".join(
    f"{('水果', '书籍')[i % 2]},{i // 2 % 2},第{i}件，很好\n" for i in range(48)
)


def zipped(name: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


FILES = {
    "Joke_train.txt": TRAIN.encode(),
    "Joke_test.txt": TEST.encode(),
    "PCNews_train.txt": TRAIN.encode(),
    "PCNews_test.txt": TEST.encode(),
    "ChnSentiCorp_htl_all.csv": HOTEL.encode(),
    "online_shopping_10_cats.zip": zipped("online_shopping_10_cats.csv", SHOPPING),
}


REAL = dict(chinese.SETS)


def known_at(url: str) -> dict[str, PublishedSet]:
    """SETS at another place, whose files are FILES by sha256 or by their lines."""

    def known(file: str, was: str | int) -> str | int:
        content = FILES.get(file, b"")
        if isinstance(was, int):
            return content.count(b"\n")
        return hashlib.sha256(content).hexdigest()

    return {
        name: replace(
            each, url=url, files={file: known(file, was) for file, was in each.files.items()}
        )
        for name, each in REAL.items()
    }


@pytest.fixture(autouse=True)
def unreachable(tmp_path, monkeypatch):
    """An empty cache and no network, unless a test brings its own server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, known in known_at(NOBODY).items():
        monkeypatch.setitem(chinese.SETS, name, known)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    server.files = dict(FILES)
    for name, known in known_at(server.url).items():
        monkeypatch.setitem(chinese.SETS, name, known)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A user's own copy of all."""
    (tmp_path / "mine").mkdir()
    for name, content in FILES.items():
        (tmp_path / "mine" / name).write_bytes(content)
    return tmp_path / "mine"


def load(name: str | Path, data: Path | None = None, seed: int = 0, **settings) -> Corpus:
    return load_corpus(DataSettings(str(name), data=data, **settings), seed)


# Where they come from


@pytest.mark.parametrize("name", ["joke", "pcnews", "hotel", "shopping"])
def test_a_set_comes_from_its_url_and_then_from_the_cache(server, name):
    source = chinese.fetch(name)
    files = list(chinese.SETS[name].files)
    place = fetch.cache_folder() / name
    assert source.path == (place if len(files) == 2 else place / files[0])
    assert {file: (place / file).read_bytes() for file in files} == {f: FILES[f] for f in files}
    assert source.origin == f"the publisher's {' and '.join(files)}"
    asked = len(server.asked)
    assert chinese.fetch(name) == source
    assert len(server.asked) == asked


def test_a_file_of_another_hash_is_refused(server):
    server.files["Joke_test.txt"] += b"\n"
    with pytest.raises(FetchError, match="Joke_test.txt: what came is not the published file"):
        chinese.fetch("joke")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            TEST.encode() * 2,
            "expected 2 lines of 'label<TAB>text', found 4, of which 4 have a tab",
        ),
        (b"<html>\n<p>404</p>\n", "found 2, of which 0 have a tab"),
    ],
)
def test_a_file_that_is_known_by_its_lines_is_refused_with_others_and_not_kept(
    server, content, found
):
    server.files["PCNews_test.txt"] = content
    with pytest.raises(FetchError, match=found):
        chinese.fetch("pcnews")
    assert [path.name for path in (fetch.cache_folder() / "pcnews").iterdir()] == [
        "PCNews_train.txt"
    ]
    server.files["PCNews_test.txt"] = FILES["PCNews_test.txt"]
    assert chinese.fetch("pcnews").path == fetch.cache_folder() / "pcnews"


def test_a_set_out_of_reach_names_its_files_and_the_command():
    with pytest.raises(
        FetchError,
        match="no connection.* Get Joke_train.txt and Joke_test.txt from .*"
        "python -m data_scripts.chinese joke --data FOLDER",
    ):
        chinese.fetch("joke")


def test_a_folder_or_an_only_file_is_the_user_s_choice_and_not_compared_with_a_hash(folder):
    (folder / "Joke_test.txt").write_text("another")
    (folder / "mine.csv").write_text("label,review\n1,好\n")
    assert chinese.fetch("joke", folder) == Source(folder, "--data mine")
    csv = folder / "ChnSentiCorp_htl_all.csv"
    assert chinese.fetch("hotel", folder) == Source(csv, "--data mine")
    assert chinese.fetch("hotel", folder / "mine.csv") == Source(
        folder / "mine.csv", "--data mine.csv"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pcweb", r"lacks PCWeb_train.txt and PCWeb_test.txt \(found: ChnSenti.*Give the folder"),
        ("hotel", r"lacks ChnSentiCorp_htl_all.csv \(found: .*data_scripts.chinese hotel --data"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_with_what_it_holds(folder, name, message):
    (folder / "ChnSentiCorp_htl_all.csv").rename(folder / "ChnSenti.csv")
    with pytest.raises(FetchError, match=message):
        chinese.fetch(name, folder)


def test_the_urls_are_of_one_commit_each_and_all_sets_can_be_named_on_the_command_line():
    for each in REAL.values():
        assert re.search(r"githubusercontent.com/[^/]+/[^/]+/[0-9a-f]{40}/[^ ]+[^/]$", each.url)
        for was in each.files.values():
            assert isinstance(was, int) or re.fullmatch("[0-9a-f]{64}", was)
    assert sum(REAL["pcnews"].files.values()) == 914
    names = typing.get_args(typing.get_type_hints(chinese.fetch)["name"])
    assert set(names) == set(REAL) == set(DATA_SETS) - {"imdb", "trec6", *english.SETS}


def test_the_script_says_what_it_fetched(server, folder, capsys):
    assert chinese.main(["joke"]) == chinese.main(["hotel", "--data", str(folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(": 30 texts in Joke_train.txt, 2 texts in Joke_test.txt.")
    size = len(FILES["ChnSentiCorp_htl_all.csv"])
    assert second.endswith(f": ChnSentiCorp_htl_all.csv of {size:,} bytes.")
    assert chinese.main(["pcweb"]) == 8


# What they hold


def test_the_two_files_are_train_and_test_and_a_line_is_cut_at_its_first_tab(folder):
    corpus = load("joke", folder)
    assert corpus.labels == ["冷笑話", "家庭笑話"]
    assert corpus.texts("test") == ["有個怕老婆的人,\t半夜偷吃。", "「我處罰你」\u2028爸爸說。"]
    assert len(corpus.texts("train")) + len(corpus.texts("valid")) == 30
    assert corpus.test_name == "joke test split"


def test_copies_between_train_and_test_are_counted(folder):
    (folder / "Joke_test.txt").write_text(TEST + TRAIN.splitlines()[4] + "\n", encoding="utf-8")
    assert "Split test shares 1 of its 3 texts, word for word, with train." in (
        load("joke", folder).notes
    )


def test_a_line_without_a_tab_is_refused(folder):
    (folder / "Joke_test.txt").write_text(f"{TEST}\n沒有標籤\n", encoding="utf-8")
    with pytest.raises(DataError, match="Joke_test.txt, line 4: expected 'label<TAB>text', found"):
        load("joke", folder)


def test_hotel_reviews_are_positive_and_negative_and_a_third_of_each_is_test(folder):
    corpus = load("hotel", folder)
    counts = pd.crosstab(corpus.table["split"], corpus.table["label"])
    assert counts.loc["test"].to_dict() == {"negative": 3, "positive": 10}
    assert counts.sum().to_dict() == {"negative": 10, "positive": 30}
    assert corpus.table["text"].str.contains('早餐"不错"').all()
    assert corpus.test_name == "fixed third of hotel"
    assert corpus.notes[0].startswith("hotel has no test split: a third of each class is taken")


def test_the_third_is_the_same_whatever_the_seed_and_the_order_and_keeps_copies_together(folder):
    lines = HOTEL.splitlines()
    path = folder / "turned.csv"
    path.write_text("\n".join([lines[0], *reversed(lines[1:]), *lines[1:]]), encoding="utf-8")
    once, twice = load("hotel", folder, seed=1), load("hotel", path, seed=2)
    assert sorted(once.texts("test")) * 2 != sorted(twice.texts("test"))  # each stands twice there
    assert set(once.texts("test")) == set(twice.texts("test"))
    assert not set(twice.texts("test")) & {*twice.texts("train"), *twice.texts("valid")}
    assert len(twice.texts("test")) == 2 * len(once.texts("test"))


def test_shopping_has_a_class_for_each_category_and_polarity(folder):
    corpus = load("shopping", folder)
    assert corpus.labels == ["书籍 正面", "书籍 负面", "水果 正面", "水果 负面"]
    assert corpus.table.groupby("label")["split"].apply(lambda s: (s == "test").sum()).eq(4).all()


@pytest.mark.parametrize(
    "table", ["label,text\n1,好\n", "label,review\n1,好\n2,坏\n", "label,review\n1,好\n,坏\n"]
)
def test_another_table_than_that_of_the_set_is_refused(folder, table):
    (folder / "other.csv").write_text(table, encoding="utf-8")
    message = "other.csv is not the table of hotel. Expected the columns 'label', 'review', with 1"
    with pytest.raises(DataError, match=message):
        load("hotel", folder / "other.csv")


def test_a_table_is_still_no_place_of_a_set_of_two_files(folder):
    with pytest.raises(SettingError, match="says where joke lies; .* is a data set of its own"):
        load("joke", folder / "ChnSentiCorp_htl_all.csv")


# Their language


@pytest.mark.parametrize(("name", "language"), [("pcnews", "zh-tw"), ("hotel", "zh")])
def test_a_set_s_own_language_is_taken_and_said(name, language):
    settings = replace(PRESETS["tiny"], data=DataSettings(name))
    assert is_open(settings)
    # Whatever its texts look like.
    found, said = find_language(settings, pd.Series(["abc"]))
    assert found.tokens.language == language
    assert said == [f"Language: {language}, that of {name}."]


def test_english_sets_and_named_languages_are_not_open():
    settings = replace(PRESETS["tiny"], data=DataSettings("trec6"))
    assert language_of("trec6") == "en" and not is_open(settings)
    named = replace(settings, data=DataSettings("hotel"), tokens=TokenSettings(language="ja"))
    assert not is_open(named)


# A user's own file of labelled lines


def test_a_txt_of_labelled_lines_is_read_and_said(tmp_path):
    path = tmp_path / "jokes.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TRAIN.replace("\n", "\r\n").encode())
    corpus = load(path)
    assert corpus.labels == ["冷笑話", "家庭笑話"] and len(corpus.table) == 30
    assert corpus.table["text"].str.endswith("很短。").all()
    assert "Took each line of jokes.txt for a label, a tab and a text" in corpus.notes[0]
    assert corpus.test_name == "held-out part of jokes.txt"


@pytest.mark.parametrize("first", ["label\ttext", "A text alone."])
def test_a_txt_that_may_have_column_names_or_no_labels_is_told_what_to_be_called(tmp_path, first):
    path = tmp_path / "jokes.txt"
    path.write_text(f"{first}\n{TRAIN}", encoding="utf-8")
    with pytest.raises(DataError, match=r"is of no kind that can be read.* mv .*jokes.csv"):
        load(path)


@pytest.mark.parametrize("given", [{"text": "a"}, {"label": "b"}, {"quotes": "literal"}])
def test_what_names_columns_or_quotes_is_refused_of_labelled_lines(tmp_path, given):
    (tmp_path / "jokes.txt").write_text(TRAIN, encoding="utf-8")
    with pytest.raises(
        SettingError, match=f"--{next(iter(given))}: .* no table with column names"
    ):
        load(tmp_path / "jokes.txt", **given)


def test_labelled_lines_in_another_encoding_are_read_in_it(tmp_path):
    (tmp_path / "jokes.txt").write_bytes(TRAIN.encode("big5"))
    assert load(tmp_path / "jokes.txt", encoding="big5").labels == ["冷笑話", "家庭笑話"]
    with pytest.raises(DataError, match="jokes.txt"):
        load(tmp_path / "jokes.txt")
