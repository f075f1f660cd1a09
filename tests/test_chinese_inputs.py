"""Chinese files and texts as people have them: encodings, scripts, odd texts; and what is said."""

import gzip
import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("opencc")
pytest.importorskip("sentencepiece")

from tests.test_corpus import csv_file, load, refused
from tests.test_encodings import GERMAN, JAPANESE, KOREAN, RUSSIAN, SIMPLIFIED, TRADITIONAL
from tests.test_predictor import made_run
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, ModelSettings, TokenSettings
from ulmfit_app.data import inspection, language
from ulmfit_app.data.guessing import describe_misread
from ulmfit_app.data.inspection import Inspection, inspect
from ulmfit_app.data.language import find_language, is_open
from ulmfit_app.data.mojibake import find_misread_chinese
from ulmfit_app.data.near_copies import find_copies, group_near_copies
from ulmfit_app.data.reading import read_table, read_texts
from ulmfit_app.data.text_checks import CHINESE
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.models.awd_lstm import build_classifier
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.text.subword_store import subwords_in_memory
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.unigram import BEGIN, BYTES, learn_subwords

SHORT = ["很好看", "難吃", "服務很好，推薦！", "餐點普通", "這部電影太無聊了", "老闆人很親切"]
SHORT_SIMPLIFIED = [
    "很好看",
    "难吃",
    "服务很好，推荐！",
    "餐点普通",
    "这部电影太无聊了",
    "老板人好",
]
OPEN = TokenSettings()  # the texts say their language
PARTS = {
    "zh-tw": "很好看的電影我非常喜歡這部片子演員很棒劇情無聊音樂太長",
    "zh": "很好看的电影我非常喜欢这部片子演员很棒剧情无聊音乐太长",
    "ja": "とても面白い映画で俳優の演技が自然だった",
    "th": "หนังเรื่องนี้ดีมากนักแสดงเล่นได้ดี",
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take as long as all the rest."""
    for name in ("balance_figure", "lengths_figure"):
        monkeypatch.setattr(inspection.data_figures, name, lambda *_: None)


@pytest.fixture(autouse=True)
def no_packaged_model(monkeypatch, tmp_path):
    """Subwords are learned from a test's own texts."""
    monkeypatch.setattr(language, "MODELS", tmp_path / "no-weights")


def rows_of(text: str, n: int) -> list[tuple[str, str]]:
    """The text in `n` forms of its own, so that a file of any length has its characters."""
    return [(f"{text[i % 40 :]}{i}" if n > 1 else text, ("pos", "neg")[i % 2]) for i in range(n)]


def made_texts(part: str, n: int = 60, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(PARTS[part], k=12)) + f"。{i}" for i in range(n)]


def inspected(tmp_path, texts: list[str], tokens: TokenSettings = OPEN) -> Inspection:
    """The inspection of texts with labels."""
    rows = [(text, ("pos", "neg")[i % 2]) for i, text in enumerate(texts)]
    return inspect(DataSettings(str(csv_file(tmp_path / "reviews.csv", rows))), tokens, 42)


def named(found: Inspection, name: str):
    return next(one for one in found.findings if one.name == name)


# ------------------------------------------------------------------------------------- encodings
@pytest.mark.parametrize("n", [1, 40, 2_000])
@pytest.mark.parametrize(
    ("text", "own", "advised"),
    [
        (TRADITIONAL, "big5", "big5"),
        (TRADITIONAL, "cp950", "big5"),
        (TRADITIONAL, "gb18030", "gb18030"),
        (SIMPLIFIED, "gbk", "gb18030"),
        (SIMPLIFIED, "gb18030", "gb18030"),
    ],
)
def test_a_chinese_file_is_refused_as_utf_8_with_its_own_encoding(tmp_path, n, text, own, advised):
    path = csv_file(tmp_path / "a.csv", rows_of(text, n), encoding=own)
    message = refused(path)
    assert "is not utf-8: byte" in message
    assert f"It is probably {advised}, which reads '{text[:9]}" in message
    assert f"'. Add: --encoding {advised}" in message
    read = read_table(path, advised)["text"].tolist()
    assert read == [one for one, _ in rows_of(text, n)]


def test_so_is_a_file_of_a_few_words(tmp_path):
    for texts, own, advised in (
        (SHORT, "big5", "big5"),
        (SHORT_SIMPLIFIED, "gbk", "gb18030"),
    ):
        path = csv_file(tmp_path / "a.csv", [(text, "a") for text in texts], encoding=own)
        message = refused(path)
        assert f"--encoding {advised} reads '{texts[0]}" in message or (
            f"It is probably {advised}, which reads '{texts[0]}" in message
        )


@pytest.mark.parametrize(
    ("extra", "own", "place"),
    [
        ("喝一碗粥，恒春的碁盤", "cp950", 3),  # of ETEN's seven characters
        ("喝一碗粥，恒春的碁盤", "cp950", 2_000),  # far behind what is looked at
        ("好吃～瑪麗‧居禮", "cp950", 3),  # which Python's big5 reads as ∼ and •
        ("陳喆、游錫堃，唔係咁㗎", "big5hkscs", 3),
        ("陳喆、游錫堃，唔係咁㗎", "big5hkscs", 2_000),
    ],
)
def test_a_big5_file_with_more_characters_is_told_the_kind_that_has_them(
    tmp_path, extra, own, place
):
    rows = rows_of(TRADITIONAL, 2_000)
    rows.insert(place, (extra, "pos"))
    path = csv_file(tmp_path / "a.csv", rows, encoding=own)
    assert f"Add: --encoding {own}" in refused(path)
    assert extra in load(path, encoding=own).table["text"].tolist()


@pytest.mark.parametrize(("text", "own"), [(TRADITIONAL, "cp950"), (SIMPLIFIED, "gb18030")])
def test_a_damaged_file_is_told_the_command_that_drops_what_cannot_be_read(tmp_path, text, own):
    path = csv_file(tmp_path / "a.csv", rows_of(text, 40), encoding=own)
    # Characters that an office added for its own use; and a byte that begins none.
    path.write_bytes(path.read_bytes() + b"\xfa\x40\xff,pos\n")
    message = refused(path)
    assert f"Nearly all of it is {own}" in message and "--encoding" not in message
    subprocess.run(message[message.index("iconv") :], shell=True)
    assert read_table(tmp_path / "a-mended.csv")["text"].tolist()[:2] == [
        text + "0",
        text[1:] + "1",
    ]
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert f"or unpack it and drop what cannot be read: iconv -c -f {own}" in refused(packed)


def test_bytes_of_no_text_are_not_called_nearly_chinese(tmp_path):
    rng = random.Random(0)
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + rng.randbytes(4_000).replace(b"\0", b"\1"))
    assert "None of the common encodings reads all of it" in refused(tmp_path / "a.csv")
    content = b"\xff".join(TRADITIONAL[i : i + 9].encode("big5") for i in range(0, 90, 9))
    (tmp_path / "b.csv").write_bytes(b"text,label\n" + content + b",pos\n")
    assert "None of the common encodings reads all of it" in refused(tmp_path / "b.csv")


# What Python's codecs read without an error.
MISREAD = [
    (TRADITIONAL, "big5", "gb18030", "big5"),
    (TRADITIONAL[40:], "cp950", "gb18030", "big5"),
    (JAPANESE, "shift_jis", "gb18030", "shift_jis"),
    (KOREAN, "cp949", "gb18030", "cp949"),
]


@pytest.mark.parametrize(("text", "own", "wrong", "advised"), MISREAD)
def test_a_file_read_in_a_wrong_encoding_of_east_asia_is_told_its_own(
    tmp_path, text, own, wrong, advised
):
    path = csv_file(tmp_path / "a.csv", rows_of(text, 40), encoding=own)
    said = (
        (f"The texts are probably {advised} instead of {wrong}: so they read '{text[:9]}"),
        f"--encoding {advised}",
    )
    notes: list[str] = []
    column, chunks = read_texts(path, "text", wrong, notes=notes)
    assert column == "text" and sum(map(len, chunks)) == 40
    for found in (notes, load(path, encoding=wrong).notes):
        assert [note for note in found if note.startswith(said[0]) and note.endswith(said[1])]
    found = inspect(
        DataSettings(str(path), encoding=wrong), TokenSettings(language="zh", min_freq=1), 0
    )
    one = named(found, "Encoding and markup")
    assert one.trouble and one.advice.startswith(said[0])


def test_so_is_simplified_chinese_that_big5_can_read():
    texts = [text.encode("gbk").decode("big5") for text in SHORT_SIMPLIFIED[:4] * 4]
    assert describe_misread(texts, "Big5").endswith("To read them so: --encoding gb18030")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        *((TRADITIONAL, own) for own in ("big5", "cp950", "big5hkscs", "gb18030", "gbk", "utf-8")),
        *((SIMPLIFIED, own) for own in ("gb2312", "gbk", "gb18030")),
        *((JAPANESE, own) for own in ("shift_jis", "cp932", "euc-jp")),
        *((KOREAN, own) for own in ("euc-kr", "cp949")),
        (RUSSIAN, "gb18030"),
        (GERMAN, "gb18030"),
        ("plain", "big5"),
    ],
)
def test_a_file_read_in_its_own_encoding_is_told_none(text, own):
    for texts in ([text], [text[i : i + 30] for i in range(0, len(text), 7)], []):
        assert describe_misread(texts, own) == ""


def test_too_few_characters_are_no_proof_of_a_wrong_encoding():
    assert describe_misread(["很好看".encode("big5").decode("gb18030")], "gb18030") == ""


@pytest.mark.parametrize("text", [TRADITIONAL, SIMPLIFIED, "很好看！", "謝謝老闆", "錕斤拷�"])
def test_utf_8_that_was_read_as_gbk_is_recognised(text):
    assert find_misread_chinese(text.encode().decode("gb18030", "replace"))
    if "斤" not in text:
        assert not find_misread_chinese(text)


def test_texts_that_were_saved_so_are_to_be_mended(tmp_path):
    texts = [text.encode().decode("gb18030", "replace") for text in made_texts("zh")]
    found = named(inspected(tmp_path, texts), "Encoding and markup")
    assert found.trouble and dict(found.table.to_numpy())[CHINESE] == "60"
    assert "text.encode('gb18030').decode('utf-8', 'replace')" in found.advice
    assert (
        texts[0].encode("gb18030", "replace").decode("utf-8", "replace")[:11]
        == (made_texts("zh")[0][:11])
    )


# --------------------------------------------------------------------- the language and its tokens
@pytest.mark.parametrize("code", PARTS)
def test_an_inspection_reads_the_language_that_the_script_says(tmp_path, code):
    found = inspected(tmp_path, made_texts(code))
    assert found.notes[0].startswith(f"Language: {code}, by the script of the texts.")
    assert found.go_on.endswith(f"--tokens.language {code}")
    assert "subwords per text" in named(found, "Lengths").found
    assert "runs of 4 subwords" in named(found, "Duplicates").found


def test_a_language_that_was_named_is_not_asked_for(tmp_path):
    found = inspected(tmp_path, made_texts("zh"), TokenSettings(language="zh-tw"))
    assert not [note for note in found.notes if "Language" in note]
    assert found.go_on.endswith("--tokens.language zh-tw")


def test_chinese_that_has_no_words_of_another_language_is_told_its_own(tmp_path):
    texts = [text[:12] for text in made_texts("zh")]
    with pytest.raises(DataError, match="Add their language: --tokens.language zh$"):
        inspected(tmp_path, texts, TokenSettings(language="de"))


def test_chinese_in_words_of_another_language_is_told_its_own(tmp_path):
    tokens = TokenSettings(language="de", min_freq=1)
    found = named(inspected(tmp_path, made_texts("zh-tw"), tokens), "Scripts")
    assert found.trouble and "Name the language that they are in, such as zh-tw" in found.advice


def test_texts_that_are_converted_are_not_asked_for_their_script():
    texts = pd.Series(made_texts("zh"))
    data, tokens = DataSettings("reviews.csv"), TokenSettings()
    assert is_open(data, tokens) and find_language(data, tokens, texts)[0].language == "zh"
    tokens = TokenSettings(opencc="s2twp")
    assert find_language(data, tokens, texts)[0].language == "zh-tw"


def test_a_conversion_of_chinese_for_another_language_is_refused(tmp_path):
    for part in ("ja", "th"):
        with pytest.raises(SettingError, match=f"the language of the texts is {part}. Leave it"):
            inspected(tmp_path, made_texts(part), TokenSettings(opencc="s2twp"))


@pytest.mark.parametrize(("n", "share"), [(0, 0), (15, 0.25), (60, 1)])
def test_the_share_of_simplified_is_said_with_the_option_that_converts_it(tmp_path, n, share):
    texts = [*made_texts("zh-tw", 60 - n), *made_texts("zh", n)]
    found = named(inspected(tmp_path, texts), "Scripts")
    said = float(found.found.rpartition("tell, ")[2].partition("%")[0]) / 100
    assert said == pytest.approx(share, abs=0.03) and found.trouble == (n > 0)
    if not n:
        return
    code = "zh" if n == 60 else "zh-tw"
    assert found.advice.endswith(
        f"inspect {tmp_path / 'reviews.csv'} --tokens.language {code} --tokens.opencc s2twp"
    )
    found = named(inspected(tmp_path, texts, TokenSettings(code, opencc="s2twp")), "Scripts")
    assert not found.trouble and found.found.endswith("read as OpenCC's s2twp converts them.")


def test_the_script_of_other_languages_is_not_asked_about(tmp_path):
    assert "Simplified" not in named(inspected(tmp_path, made_texts("ja")), "Scripts").found


def test_characters_that_the_vocabulary_lacks_are_counted_and_shown(tmp_path):
    table = pd.DataFrame({"text": made_texts("zh-tw", 200), "label": ["pos", "neg"] * 100})
    table["split"] = ["train"] * 120 + ["valid"] * 20 + ["test"] * 60
    table.loc[150:, "text"] += "囍囍😀"
    path = tmp_path / "reviews.csv"
    table.to_csv(path, index=False)
    found = named(inspect(DataSettings(str(path)), TokenSettings(), 0), "Unknown characters")
    definition = learn_subwords(table["text"][:120], 60_000, "zh-tw")
    tokens = SubwordTokenizer(definition, BEGIN).each(table["text"][140:])
    n = sum(token in BYTES for text in tokens for token in text)
    assert n == 50 * (3 + 3 + 4)
    share = n / sum(map(len, tokens))
    assert found.trouble and found.found.startswith(f"{share:.1%} of test's tokens and 0.0% of")
    assert found.table.to_numpy().tolist() == [["囍", "100"], ["😀", "50"]]


def test_chinese_is_read_in_the_subwords_of_the_model_that_comes_with_the_package(
    tmp_path, monkeypatch
):
    packaged = tmp_path / "weights" / "zh-tw-small"
    packaged.mkdir(parents=True)
    definition = learn_subwords(made_texts("zh-tw", 300, seed=1), 600, "zh-tw")
    (packaged / "tokenizer-0123.json").write_text(definition, encoding="utf-8")
    monkeypatch.setattr(language, "MODELS", tmp_path / "weights")
    n = len(SubwordTokenizer(definition, BEGIN).vocab)
    found = named(inspected(tmp_path, made_texts("zh")), "Unknown characters")
    # Those that Simplified writes in its own way.
    assert f"the vocabulary of {n} subwords" in found.found and found.trouble
    tokens = TokenSettings("zh", opencc="s2twp")
    assert not named(inspected(tmp_path, made_texts("zh"), tokens), "Unknown characters").trouble
    found = named(inspected(tmp_path, made_texts("ja")), "Unknown characters")
    assert f"of {n} subwords" not in found.found


def test_near_copies_in_subwords_are_found(tmp_path):
    parts = [text.partition("。")[0] for text in made_texts("zh-tw", 80)]
    texts = ["，".join(parts[i : i + 8]) + "。" for i in range(0, 80, 8)]
    copy = texts[0].replace("，", "！").replace("。", "")
    changed = texts[1][:50] + "囍" + texts[1][51:]
    everything = [*texts, copy, changed, "😀", "👎", "囍", "堃"]
    tokenizer = SubwordTokenizer(learn_subwords(texts, 1_000, "zh-tw"), BEGIN)
    store = subwords_in_memory(everything, tokenizer)
    groups = group_near_copies(store, np.arange(len(everything)))
    assert groups[len(texts)] == groups[0] and groups[len(texts) + 1] == groups[1]
    assert len(set(groups)) == len(texts) + 4
    of = pd.Series(range(len(everything))).isin([len(texts), len(texts) + 2]).to_numpy()
    assert find_copies(store, everything, of, ~of).tolist() == ["nearly", "no"]


# -------------------------------------------------------------------------------------- odd texts
ODD = [
    "好",
    "",
    " \u3000",
    "😀😍",
    "👎🏽",
    "好\ud83d看",
    "\udc00",
    "哈" * 500,
    "a\x00b",
    "xxpad xxbos",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run whose classifier reads subwords, by random weights."""
    definition = learn_subwords([*made_texts("zh-tw", 200), "哈哈 456789"], 700, "zh-tw")
    vocab = SubwordTokenizer(definition, BEGIN).vocab
    shape = ModelSettings(emb_sz=8, n_hid=12, n_layers=2)
    torch.manual_seed(0)
    model = build_classifier(len(vocab), 2, shape)
    bundle = Bundle("classifier", shape, "zh-tw", vocab, ["neg", "pos"], tokenizer=definition)
    run = made_run(tmp_path_factory.mktemp("runs") / "run", "forward", text_column="text")
    save_bundle(run / "classifier", model, bundle)
    return run


def test_a_json_file_of_odd_texts_is_read_and_what_was_done_is_said(tmp_path):
    rows = [*((text, "pos") for text in made_texts("zh-tw")), *((text, "neg") for text in ODD)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows))
    notes = load(path).notes
    assert "Dropped 2 of 70 rows, whose text is empty." in notes
    assert [note for note in notes if "every lone surrogate" in note and "2 in 2 texts" in note]
    found = inspect(DataSettings(str(path)), TokenSettings(), 0)
    assert "Language: zh-tw" in found.notes[0]
    # A laughter of 500 is 56 marks with a number and 哈, which train has not: three bytes.
    assert f"at most {1 + 56 * (2 + 3)}, " in named(found, "Lengths").found


def test_emoji_alone_are_no_language_and_are_read(tmp_path):
    emoji = ["😀", "😍", "👎🏽", "💩", "😡", "🥰", "👍", "💔"]
    rng = random.Random(0)
    texts = ["".join(rng.choices(emoji, k=6)) for _ in range(60)]
    found = inspected(tmp_path, texts)
    assert not [note for note in found.notes if "Language" in note]
    found = inspected(tmp_path, texts, TokenSettings(language="zh-tw"))
    assert "No character tells Simplified from Traditional." in named(found, "Scripts").found
    assert "no letters (100.0%)" in named(found, "Scripts").found


def test_texts_of_one_character_are_inspected(tmp_path):
    found = inspected(tmp_path, list("好壞棒爛讚差優劣美醜") * 4)
    assert "Language: zh-tw" in found.notes[0]
    assert "Median 2 subwords per text" in named(found, "Lengths").found


def test_texts_of_nothing_are_refused(tmp_path):
    for blank in ("", "\u3000", " "):
        with pytest.raises(DataError, match="None of the 40 rows has both a text and a label"):
            inspected(tmp_path, [blank] * 40)


def test_odd_texts_are_predicted_each_and_alone_as_together(folder):
    predictor = Predictor(folder / "classifier", "fp32")
    together = predictor.predict(ODD)
    assert list(together["text"]) == [
        text.encode("utf-8", "replace").decode().replace("?", "\ufffd") for text in ODD
    ]
    for i, text in enumerate(ODD):
        alone = predictor.predict([text])
        assert alone["p_pos"][0] == pytest.approx(together["p_pos"][i], abs=1e-6)


def test_a_command_predicts_them_and_says_how_many_are_empty(folder, tmp_path, capsys):
    path, out = tmp_path / "odd.jsonl", tmp_path / "out.csv"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ODD))
    assert cli.main(["predict", str(folder), "--file", str(path), "--out", str(out)]) in (0, None)
    said = capsys.readouterr()
    assert "Empty texts: 2" in said.out + said.err
    read = read_table(out)
    assert len(read) == len(ODD) and read["text"][5] == "好\ufffd看"


def test_a_command_is_told_of_the_wrong_encoding_and_of_one_that_reads_other_characters(
    folder, tmp_path, capsys
):
    path, out = tmp_path / "texts.csv", tmp_path / "out.csv"
    path.write_text("text\n" + "".join(f"{TRADITIONAL}{i}\n" for i in range(20)), encoding="big5")
    call = ["predict", str(folder), "--file", str(path), "--out", str(out)]
    assert cli.main(call) not in (0, None)
    said = capsys.readouterr()
    assert "is not utf-8: byte 5 cannot be read so. It is probably big5" in said.out + said.err
    assert "Traceback" not in said.err and not out.exists()
    assert cli.main([*call, "--encoding", "gb18030"]) in (0, None)
    said = capsys.readouterr()
    assert "The texts are probably big5 instead of gb18030" in said.out + said.err
    assert cli.main([*call, "--encoding", "big5"]) in (0, None)
    assert "probably" not in capsys.readouterr().out
    assert read_table(out)["text"][0] == f"{TRADITIONAL}0"
