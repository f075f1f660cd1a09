import json
import pickle
import random
import sys

import numpy as np
import pytest

from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.text.chinese import converter, origins, simplified_share
from ulmfit_app.text.rules import BOS, PAD_ID, SPECIALS, UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import subwords_in_memory, write_subwords
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.unigram import BEGIN, BYTES, learn_subwords

WORDS = [
    *("計程車", "司機", "軟體", "房間", "服務", "早餐", "飯店", "網路", "iPhone", "台北", "車站"),
    *("很", "好", "不", "我", "去", "的", "了", "，", "。", "！", "哈哈", " 12 "),
]


def make_texts(n: int = 600) -> list[str]:
    rng = random.Random(1)
    return ["，".join(rng.choices(WORDS, k=20)) + "\n第二行。" for _ in range(n)]


@pytest.fixture(scope="module")
def definition() -> str:
    return learn_subwords(make_texts(), 700, "zh-tw")


@pytest.fixture(scope="module")
def tokenizer(definition) -> SubwordTokenizer:
    return SubwordTokenizer(definition, BEGIN)


def typed(tokenizer: SubwordTokenizer, text: str) -> list[str]:
    return tokenizer(text)[1:]


# ------------------------------------------------------------------------------- what is learned
def test_fastais_specials_have_their_own_ids_and_bytes_follow(tokenizer):
    assert tokenizer.vocab[: len(SPECIALS)] == SPECIALS
    assert tokenizer.vocab[len(SPECIALS) : len(SPECIALS) + 256] == BYTES
    assert tokenizer.specials == frozenset(range(len(SPECIALS)))
    assert (tokenizer.unknown, tokenizer.begin) == (None, BOS)


def test_a_vocabulary_has_the_size_that_was_asked_for_where_the_texts_give_it():
    rng = random.Random(2)
    letters = [chr(0x4E00 + i) for i in range(60)]
    texts = ["".join(rng.choices(letters, k=30)) for _ in range(2_000)]
    assert len(SubwordTokenizer(learn_subwords(texts, 700, "zh"), BEGIN).vocab) == 700


def test_words_that_stand_together_often_are_one_piece(tokenizer):
    assert "計程車" in typed(tokenizer, "我去計程車")


def test_a_line_begins_without_a_space(tokenizer):
    assert not [
        piece for piece in tokenizer.vocab if piece[:1] == " " and "一" <= piece[1:2] <= "龥"
    ]


def test_long_lines_are_learned_to_their_end():
    words = "，".join(["早餐", "房間"] * 1_500)
    learned = learn_subwords([f"{words}，{'飛機場，' * 600}"], 700, "zh-tw")
    assert {"飛", "機", "場"} <= set(SubwordTokenizer(learned, BEGIN).vocab)


def test_the_same_texts_teach_the_same_vocabulary(definition):
    assert learn_subwords(make_texts(), 700, "zh-tw") == definition


def test_bopomofo_and_full_width_forms_have_pieces_in_chinese_alone(tokenizer):
    assert typed(tokenizer, "ㄅㄆＡ１　") == ["ㄅ", "ㄆ", "Ａ", "１", "\u3000"]
    other = SubwordTokenizer(learn_subwords(make_texts(), 700, "ja"), BEGIN)
    assert typed(other, "ㄅ") == ["<0xE3>", "<0x84>", "<0x85>"]


def test_a_segmentation_is_sentencepieces_own(definition, tokenizer):
    """SentencePiece, asked with the same pieces and scores, cuts texts at the same places."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto  # noqa: F401

    model = proto.ModelProto()
    model.trainer_spec.unk_id = 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    for i, (piece, score) in enumerate(json.loads(definition)["model"]["vocab"]):
        kind = 2 if i == 0 else 3 if i < len(SPECIALS) else 6 if piece in BYTES else 1
        model.pieces.add(piece=piece.replace(" ", "\u2581"), score=score, type=kind)
    model.trainer_spec.byte_fallback = True
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    lines = [text.split("\n")[0] for text in make_texts(60)]
    lines = [line for line in lines if "，" * 4 not in line]
    assert len(lines) > 20
    for line in lines:
        assert theirs.encode(line) == tokenizer.ids([line])[0][1:].tolist()


def test_too_little_text_for_a_vocabulary_is_refused_with_the_option():
    with pytest.raises(
        DataError, match=r"of 300 subwords.*more different.*--tokens.max-vocab 600"
    ):
        learn_subwords(["好"], 300, "zh")
    with pytest.raises(DataError, match="of 8,000 subwords.*too little text"):
        learn_subwords([], 8_000, "zh")


@pytest.mark.parametrize("package", ["sentencepiece", "opencc"])
def test_a_package_that_is_missing_is_named_with_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    converter.cache_clear()
    with pytest.raises(SettingError, match=rf"{package}.*pip install 'ulmfit-app\[chinese\]'"):
        learn_subwords(["好"], 500, "zh") if package == "sentencepiece" else converter("s2twp")


# ---------------------------------------------------------------------------- ids and back again
ODD = [
    "", "字", " ", "　全形空白　", "xxbos 我 xxpad xxunk xxrep 5 哈", "<0x41><unk></s>", "▁▁ ▁",
    "哈哈哈", "哈哈哈哈", "哈" * 9, "哈" * 10, "哈" * 31, "4444 55555", "\t\r\n\r\n\n\n\n\n\x00",
    "😀😀😀😀😀👨‍👩‍👧", "「你好」『再見』", "GREAT iPhone 12", "ㄋㄧˇㄏㄠˇ", "ＡＢＣ１２３！？",
    "한국어 ไทย ру",
    "𠮷野家𠮷𠮷𠮷𠮷", "e\u0301\u0301\u0301\u0301\u0301", "......" * 20, "a   b    c     ",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_every_text_can_be_had_back_from_its_ids(tokenizer, text):
    (ids,) = tokenizer.ids([text])
    assert tokenizer.decode(ids) == text
    assert [tokenizer.vocab[i] for i in ids] == [span.token for span in tokenizer.spans(text)]


def test_random_texts_can_be_had_back_too(tokenizer):
    rng = random.Random(3)
    alphabet = [*"哈好xxrep456789 \n<0>EF", "xxbos", "xxrep", "<0xE5>", "😀", "é", "\u3000", "𠮷"]
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(2_000)]
    assert [tokenizer.decode(ids) for ids in tokenizer.ids(texts)] == texts


def test_what_a_user_typed_is_never_a_special_or_a_byte(tokenizer):
    ids = tokenizer.ids(["xxbos xxpad xxunk xxrep <0x41> <0xE5>"])[0][1:]
    assert (ids >= len(SPECIALS) + len(BYTES)).all()


def test_four_to_nine_equal_characters_are_counted_and_three_are_a_word(tokenizer):
    assert typed(tokenizer, "哈哈哈哈哈") == ["xxrep", "5", *typed(tokenizer, "哈")]
    assert "xxrep" not in typed(tokenizer, "哈哈哈")
    assert typed(tokenizer, "哈" * 12) == [
        *("xxrep", "9", *typed(tokenizer, "哈")), *typed(tokenizer, "哈哈哈")
    ]  # fmt: skip
    assert "xxrep" not in typed(tokenizer, "好    好")


def test_half_a_surrogate_pair_is_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.ids(["好\ud800好"])[0]) == "好\ufffd好"


def test_whatever_a_model_writes_has_a_text(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, len(tokenizer.vocab), 12)
        assert not any(special in tokenizer.decode(ids) for special in SPECIALS)
    repeat, five = tokenizer.vocab.index("xxrep"), tokenizer.vocab.index("5")
    assert tokenizer.decode([repeat]) == ""
    assert tokenizer.decode([repeat, five]) == ""
    assert tokenizer.decode([repeat, repeat, five]) == ""


def test_spans_are_the_places_of_the_tokens(tokenizer):
    text = "哈哈哈哈哈計程車 iPhone😀"
    spans = tokenizer.spans(text)
    assert [text[one.start : one.stop] for one in spans[1:4]] == ["哈哈哈哈哈"] * 3
    rest = [one for one in spans[4:] if one.token not in BYTES]
    assert all(one.token.strip() == text[one.start : one.stop].strip() for one in rest)
    assert {text[one.start : one.stop] for one in spans if one.token in BYTES} == {"😀"}


def test_a_copy_of_a_tokenizer_reads_as_the_first(definition):
    first = SubwordTokenizer(definition, BEGIN, "s2twp")
    copy = pickle.loads(pickle.dumps(first))
    assert copy("xxrep 软件啊啊啊啊") == first("xxrep 软件啊啊啊啊")


def test_a_store_of_learned_subwords_is_padded_as_one_of_words(tmp_path, tokenizer):
    texts = make_texts(20)
    write_subwords(tmp_path, iter(texts), len(texts), tokenizer)
    found, expected = TokenStore.open(tmp_path), subwords_in_memory(texts, tokenizer)
    assert found.padding == expected.padding == PAD_ID
    assert (found.ids == expected.ids).all() and (found.offsets == expected.offsets).all()
    assert UNK_ID not in found.ids


# --------------------------------------------------------------------- Traditional and Simplified
def test_words_of_taiwan_take_the_place_of_those_of_the_mainland():
    assert converter("s2twp")("软件、网络、出租车") == "軟體、網路、計程車"


def test_a_word_of_both_that_means_another_thing_is_left():
    assert converter("s2twp")("酒店") == "酒店"


def test_a_converting_tokenizer_reads_both_scripts_as_one_and_names_the_users_characters(
    definition,
):
    tokenizer = SubwordTokenizer(definition, BEGIN, "s2twp")
    assert tokenizer("出租车司机") == tokenizer("計程車司機")
    text = "我去出租车"
    shown = {text[one.start : one.stop] for one in tokenizer.spans(text) if one.token == "計程車"}
    assert shown == {"出租车"}


@pytest.mark.parametrize(
    "text", ["", "软件", "U盘和软件", "我坐出租车去看软件和U盘", "计算机里的数据库😀"]
)
def test_origins_cover_a_text_and_never_fall(text):
    new = converter("s2twp")(text)
    found = origins(text, new)
    assert len(found) == len(new)
    assert found == sorted(found)
    assert not text or (found[0][0], found[-1][1]) == (0, len(text))


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("U盘车", "隨身碟車", [(0, 2), (0, 2), (0, 2), (2, 3)]),
        ("出租车U盘", "計程車隨身碟", [(0, 1), (1, 2), (2, 3), (3, 5), (3, 5), (3, 5)]),
    ],
)
def test_what_converts_character_by_character_keeps_its_place(old, new, places):
    assert origins(old, new) == places


def test_the_share_of_simplified_counts_what_only_one_script_writes():
    assert simplified_share(["软件", "人山人海"]) == 1
    assert simplified_share(["軟體"]) == 0
    assert simplified_share(["软", "軟"]) == 0.5
    assert simplified_share(["山", "abc", ""]) is None
    # Traditional writes these, too, whatever OpenCC would make of them.
    assert simplified_share(["台灣", "公里", "皇后", "云"]) == 0
