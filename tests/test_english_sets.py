"""English data sets known by name: many classes, several labels a text, rare classes.

From a server on 127.0.0.1, with files of the same format.
"""

import hashlib
import re
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from data_scripts import english, fetch
from data_scripts.fetch import FetchError, Source
from tests.test_data_scripts import NOBODY, Server
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.known_sets import DATA_SETS, language_of, read_known
from ulmfit_app.errors import DataError, SettingError

# As the publishers write them.
BANKING = "text,category\r\n" + "".join(
    f'"Where is card {i}, I wonder?",card_arrival\r\nHow much is fee {i}?,"fees"\r\n'
    for i in range(15)
)
EMOTIONS = "joy\nlove\nsurprise\nneutral"  # without a line feed at the end
LINES = "".join(
    f'What a "day number {i}!\t{("0", "0,1", "3", "2,0")[i % 4]}\ted{i}\n' for i in range(24)
)
TWEETS = ",count,hate_speech,offensive_language,neither,class,tweet\n" + "".join(
    f'{i},3,0,0,3,{(0, 1, 1, 2)[i % 4]},"Tweet {i}, on two\nlines &amp; more"\n' for i in range(48)
)
CASES = ",functionality,case_id,test_case,label_gold,target_ident,direction,templ_id\n" + "".join(
    f"{i},{('emote_h', 'object_nh')[i % 2]},{i},Case number {i}. ,{('', 'non-')[i % 2]}hateful,"
    f"{('women', '')[i % 2]},{('general', '-')[i % 2]},{i}\n"
    for i in range(12)
)
FILES = {
    "banking77": {"train.csv": BANKING, "test.csv": BANKING.replace("is ", "was ")},
    "goemotions": {
        "train.tsv": LINES,
        "dev.tsv": "A fine thing.\t1,3\tee1\n",
        "test.tsv": LINES.replace("day", "night"),
        "emotions.txt": EMOTIONS,
    },
    "hatespeech": {"labeled_data.csv": TWEETS},
    "hatecheck": {"labeled_data.csv": TWEETS, "hatecheck.csv": CASES},
}
REAL = dict(english.SETS)


def point_at(url: str, monkeypatch) -> None:
    """Let the sets lie elsewhere, in a folder each, and hold FILES."""
    for name, known in REAL.items():
        files = {
            file: hashlib.sha256(text.encode()).hexdigest() for file, text in FILES[name].items()
        }
        elsewhere = {file: f"{url}/{name}/elsewhere/{file}" for file in known.elsewhere}
        there = replace(known, url=f"{url}/{name}", files=files, elsewhere=elsewhere)
        monkeypatch.setitem(english.SETS, name, there)


@pytest.fixture(autouse=True)
def unreachable(tmp_path, monkeypatch):
    """An empty cache and no network, unless a test brings its own server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    point_at(NOBODY, monkeypatch)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    server.files = {
        f"{name}/{'elsewhere/' if file in REAL[name].elsewhere else ''}{file}": text.encode()
        for name, files in FILES.items()
        for file, text in files.items()
    }
    point_at(server.url, monkeypatch)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def folders(tmp_path) -> Path:
    """A user's own copies, a folder of each set."""
    for name, files in FILES.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text, encoding="utf-8", newline="")
    return tmp_path


def load(name: str, data: Path, seed: int = 0, **settings) -> Corpus:
    return load_corpus(DataSettings(name, data=data, **settings), seed)


# Where they come from


@pytest.mark.parametrize("name", FILES)
def test_a_set_comes_from_its_url_and_then_from_the_cache(server, name):
    source = english.fetch(name)
    place = fetch.cache_folder() / name
    assert source.path == (place if len(FILES[name]) > 1 else place / "labeled_data.csv")
    assert {file: (place / file).read_bytes().decode() for file in FILES[name]} == FILES[name]
    assert source.origin.startswith("the publisher's ")
    asked = len(server.asked)
    assert english.fetch(name) == source
    assert len(server.asked) == asked


def test_a_file_of_another_hash_is_refused(server):
    server.files["goemotions/dev.tsv"] += b"\n"
    with pytest.raises(FetchError, match="dev.tsv: what came is not the published file"):
        english.fetch("goemotions")


def test_a_set_out_of_reach_names_its_files_and_the_command():
    with pytest.raises(
        FetchError,
        match="Get train.tsv, dev.tsv, test.tsv and emotions.txt from .*"
        "python -m data_scripts.english goemotions --data FOLDER",
    ):
        english.fetch("goemotions")


def test_a_folder_that_lacks_a_file_is_refused_with_what_it_holds(folders):
    (folders / "banking77" / "test.csv").unlink()
    with pytest.raises(FetchError, match=r"lacks test.csv \(found: train.csv\)"):
        english.fetch("banking77", folders / "banking77")


def test_a_file_that_lies_elsewhere_is_fetched_from_there_and_its_place_named(server, monkeypatch):
    english.fetch("hatecheck")
    assert server.asked[-1] == ("GET", "hatecheck/elsewhere/hatecheck.csv")
    point_at(NOBODY, monkeypatch)
    (fetch.cache_folder() / "hatecheck" / "hatecheck.csv").unlink()
    with pytest.raises(FetchError, match="from .*/hatecheck and .*/elsewhere/hatecheck.csv by "):
        english.fetch("hatecheck")


def test_the_published_sets_are_known_by_hash_and_can_be_named_on_the_command_line():
    for known in REAL.values():
        for url in (known.url, *known.elsewhere.values()):
            assert url.startswith("https://raw.githubusercontent.com/")
        assert all(re.fullmatch("[0-9a-f]{64}", was) for was in known.files.values())
    names = typing.get_args(typing.get_type_hints(english.fetch)["name"])
    assert set(names) == set(REAL) < set(DATA_SETS)
    assert {language_of(name) for name in names} == {"en"}


def test_the_script_says_what_it_fetched(server, folders, capsys):
    assert english.main(["hatespeech"]) == 0
    assert english.main(["banking77", "--data", str(folders / "banking77")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(f": labeled_data.csv of {len(TWEETS):,} bytes.")
    assert second.startswith("--data banking77, in ") and "train.csv of" in second
    assert english.main(["goemotions", "--data", str(folders)]) == 8


# What they hold


def test_banking77_has_its_own_test_split(folders):
    corpus = load("banking77", folders / "banking77")
    assert corpus.labels == ["card_arrival", "fees"]
    assert "Where was card 3, I wonder?" in corpus.texts("test")
    assert (len(corpus.texts("test")), len(corpus.table)) == (30, 60)
    assert corpus.test_name == "banking77 test split"


def test_other_columns_than_those_of_banking77_are_refused(folders):
    (folders / "banking77" / "test.csv").write_text("question,category\na,b\n")
    with pytest.raises(DataError, match="test.csv is not a table of banking77. Expected the colu"):
        load("banking77", folders / "banking77")


def test_goemotions_has_several_labels_a_text_and_splits_of_its_own(folders):
    draft = read_known(DataSettings("goemotions", data=folders / "goemotions"))
    assert draft.multilabel
    assert draft.table["split"].value_counts().to_dict() == {"train": 24, "valid": 1, "test": 24}
    assert draft.table["label"].tolist()[:4] == [
        '["joy"]',
        '["joy", "love"]',
        '["neutral"]',
        '["joy", "surprise"]',
    ]
    # A quote is a character like any other.
    assert draft.table["text"][1] == 'What a "day number 1!'


def test_goemotions_is_read_under_the_names_of_copies_too(folders):
    there = folders / "goemotions"
    for file, other in english.SETS["goemotions"].also_named.items():
        (there / file).rename(there / other)
    assert english.fetch("goemotions", there) == Source(there, "--data goemotions")
    assert len(read_known(DataSettings("goemotions", data=there)).table) == 49


@pytest.mark.parametrize(
    "line", ["no tabs", "text\t4\tid", "text\tjoy\tid", "text\t1,\tid", "a\t1"]
)
def test_a_line_of_goemotions_that_names_no_emotion_is_refused(folders, line):
    path = folders / "goemotions" / "dev.tsv"
    path.write_text(f"A fine thing.\t1,3\tee1\n\n{line}\n")
    with pytest.raises(DataError, match="dev.tsv, line 3: expected 'text<TAB>numbers<TAB>id', wi"):
        read_known(DataSettings("goemotions", data=folders / "goemotions"))


def test_hatespeech_has_named_classes_and_a_fixed_third_of_each_is_test(folders):
    once = load("hatespeech", folders / "hatespeech", seed=1)
    assert once.labels == ["hate speech", "neither", "offensive"]
    tested = once.table[once.table["split"] == "test"]
    assert tested["label"].value_counts().to_dict() == {
        "hate speech": 4,
        "neither": 4,
        "offensive": 8,
    }
    twice = load("hatespeech", folders / "hatespeech" / "labeled_data.csv", seed=2)
    assert once.texts("test") == twice.texts("test")
    assert once.texts("valid") != twice.texts("valid")
    assert once.notes[0].startswith("hatespeech has no test split: a third of each class is taken")


def test_another_table_than_that_of_hatespeech_is_refused(folders):
    path = folders / "hatespeech" / "labeled_data.csv"
    path.write_text(TWEETS.replace(",2,", ",3,", 1))
    message = "Expected the columns 'class', 'tweet', with 0 or 1 or 2 in class, found '', 'count'"
    with pytest.raises(DataError, match=message):
        load("hatespeech", path)


def test_hatecheck_learns_from_tweets_and_is_tested_on_cases_with_their_groups(folders):
    corpus = load("hatecheck", folders / "hatecheck")
    assert corpus.labels == ["hateful", "non-hateful"]
    assert corpus.test_name == "HateCheck"
    tested = corpus.table[corpus.table["split"] == "test"]
    assert list(corpus.table)[3:] == ["target", "functionality", "direction"]
    assert tested.iloc[:2, 1:].values.tolist() == [
        ["hateful", "test", "women", "emote_h", "general"],
        ["non-hateful", "test", "none", "object_nh", "none"],
    ]
    learned = corpus.table[corpus.table["split"] != "test"]
    assert learned["label"].value_counts().to_dict() == {"hateful": 12, "non-hateful": 36}
    assert (learned[["target", "functionality", "direction"]] == "").all(axis=None)
    assert corpus.notes[0].startswith("Train are the 48 tweets of hatespeech: 12 of hate speech")


def test_hatecheck_has_its_cases_under_their_publishers_name_too(folders):
    there = folders / "hatecheck"
    (there / "hatecheck.csv").rename(there / "test_suite_cases.csv")
    assert len(read_known(DataSettings("hatecheck", data=there)).table) == 60


@pytest.mark.parametrize(
    ("file", "column", "message"),
    [
        ("hatecheck.csv", "target_ident", "Expected the columns 'test_case', 'label_gold', 'targ"),
        ("labeled_data.csv", "tweet", "not labeled_data.csv of hatecheck. Expected the columns"),
    ],
)
def test_other_columns_than_those_of_hatecheck_are_refused(folders, file, column, message):
    path = folders / "hatecheck" / file
    path.write_text(path.read_text().replace(column, "other", 1))
    with pytest.raises(DataError, match=message):
        load("hatecheck", path.parent)


def test_a_table_is_no_place_of_a_set_of_several_files(folders):
    with pytest.raises(SettingError, match="says where goemotions lies; .* is a data set of its"):
        load("goemotions", folders / "goemotions" / "train.tsv")
