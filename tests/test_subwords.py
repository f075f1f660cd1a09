"""Subword tokens: the tokenizers that models come with, held to transformers' own."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("transformers")

from tests.tiny_transformers import KINDS, make_checkpoint
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.models.hub import find_checkpoint, load_tokenizer
from ulmfit_app.text.subwords import SubwordTokenizer

ORDINARY = [
    "A great film, with fine acting!",
    "two  blanks\tand\nlines ",
    "Ｆｕｌｌ width ﬃ and é, é, naïve Straße 漢字 😀👍🏽",
    "",
    " \n ",
    "!",
    "a" * 300,
]
TYPED = [
    "[SEP]",
    "a [CLS] film[MASK]",
    "<s>",
    "a <s> film</s><mask> <pad> joy",
    "<s><s><s>",
    "＜s＞ to ＜/s＞",
    "<|endoftext|> a film<|endoftext|>",
    "[PAD] [UNK] <unk>",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, folders):
    """Ours and transformers' own tokenizer of the same folder."""
    from transformers import AutoTokenizer

    ours, _ = load_tokenizer(find_checkpoint(str(folders[request.param])))
    return ours, AutoTokenizer.from_pretrained(folders[request.param])


@pytest.fixture(scope="module")
def of_xlm_r(folders):
    return load_tokenizer(find_checkpoint(str(folders["xlm-roberta"])))[0]


def test_the_tokens_of_ordinary_texts_are_those_of_transformers(pair):
    ours, theirs = pair
    for text in ORDINARY:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.ids([text])[0].tolist() == [ours.vocab.index(ours.begin), *expected]
        assert ours(text) == [ours.begin, *theirs.convert_ids_to_tokens(expected)]


def test_ids_tokens_and_spans_agree_token_by_token(pair):
    ours, _ = pair
    texts = ORDINARY + TYPED + ["\ud800 a lone surrogate \udc00"]
    ids, tokens = ours.ids(texts), ours.each(texts)
    for i, text in enumerate(texts):
        spans = ours.spans(text)
        assert ids[i].dtype == np.int32
        assert tokens[i] == ours(text) == [span.token for span in spans]
        assert tokens[i] == [ours.vocab[token] for token in ids[i]]
        starts, stops = [span.start for span in spans], [span.stop for span in spans]
        assert starts == sorted(starts) and stops == sorted(stops)
        assert spans[0][1:] == (0, 0) and stops[-1] <= len(text)


def test_a_texts_tokens_are_the_same_among_many(pair):
    ours, _ = pair
    many = (ORDINARY + TYPED) * 80
    assert len(many) > 1000
    alone = {text: ours.ids([text])[0].tolist() for text in many[: len(ORDINARY + TYPED)]}
    assert [ids.tolist() for ids in ours.ids(iter(many))] == [alone[text] for text in many]


def test_a_special_that_a_user_typed_is_text(pair):
    ours, theirs = pair
    specials = set(theirs.all_special_ids) - {theirs.unk_token_id}
    specials.add(ours.vocab.index(ours.begin))
    for text in TYPED:
        ids = ours.ids([text])[0].tolist()
        assert not specials & set(ids[1:]), (text, ours(text))
        # Every character that is no white space still has its token.
        covered = set()
        for span in ours.spans(text)[1:]:
            covered |= set(range(span.start, span.stop))
        assert {i for i, letter in enumerate(text) if letter.strip()} <= covered


def test_transformers_takes_a_typed_special_for_one(pair):
    """Else the test above would show nothing."""
    _, theirs = pair
    typed = theirs.mask_token or theirs.eos_token
    assert theirs.convert_tokens_to_ids(typed) in theirs(typed, add_special_tokens=False).input_ids


def test_the_librarys_own_setting_lets_a_piece_act_as_a_special(of_xlm_r):
    """Why specials are looked for here: a Unigram vocabulary has <s> as a piece."""
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(of_xlm_r.definition)
    theirs.encode_special_tokens = True
    assert theirs.token_to_id("<s>") in theirs.encode("a <s> film", add_special_tokens=False).ids


def test_what_stands_around_a_typed_special_keeps_its_tokens(of_xlm_r):
    tokens = of_xlm_r("a great <s> film")
    assert tokens[:3] == ["<s>", "▁a", "▁great"] and tokens[-2:] != ["▁", "film"]
    spans = {span.token: span[1:] for span in of_xlm_r.spans("a great <s> film")[1:]}
    assert spans["▁great"] == (2, 7) and spans["s"] == (9, 10) and spans["▁film"] == (12, 16)


def test_a_whole_word_that_the_vocabulary_has_as_special_is_cut():
    """As Llama 3's: with ignore_merges, a word is looked up before its letters are merged."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {piece: i for i, piece in enumerate(["<s>", "<", "s", ">", "a"])}
    theirs = Tokenizer(models.BPE(vocab, [], ignore_merges=True))
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs.add_special_tokens(["<s>"])
    ours = SubwordTokenizer(theirs.to_str(), "<s>")
    assert ours("a <s>") == ["<s>", "a", "<", "s", ">"]
    assert ours.ids(["a <s>"])[0].tolist() == [0, 4, 1, 2, 3]


def test_a_typed_special_has_the_tokens_that_the_library_finds_in_it_as_text():
    from tokenizers import Tokenizer, models

    vocab = {piece: i for i, piece in enumerate(["[S]", "[", "S", "]", "[S"])}
    theirs = Tokenizer(models.BPE(vocab, [("[", "S")]))
    theirs.add_special_tokens(["[S]"])
    assert SubwordTokenizer(theirs.to_str(), "[S]")("[S]") == ["[S]", "[S", "]"]


def test_a_special_of_one_character_becomes_unknown():
    from tokenizers import Tokenizer, models, pre_tokenizers

    theirs = Tokenizer(models.WordLevel({"¤": 0, "a": 1, "[UNK]": 2}, unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ours = SubwordTokenizer(theirs.to_str(), "¤")
    assert ours.ids(["a ¤ a"])[0].tolist() == [0, 1, 2, 1]
    assert [span[1:] for span in ours.spans("a ¤ a")] == [(0, 0), (0, 1), (2, 3), (4, 5)]


def test_spans_point_at_the_users_characters(pair):
    ours, _ = pair
    text = "  A great\tﬁlm"
    for token, start, stop in ours.spans(text)[1:]:
        assert text[start:stop].strip() == text[start:stop] or not text[start:stop].strip()
        shown = token.strip("Ġ▁#").lower()
        if shown in ("a", "great", "eat"):
            assert text[start:stop].lower() == shown


def test_tokens_of_one_character_share_its_span(folders):
    ours, _ = load_tokenizer(find_checkpoint(str(folders["gpt2"])))
    spans = ours.spans("a😀b")
    assert [span[1:] for span in spans] == [(0, 0), (0, 1), *[(1, 2)] * 4, (2, 3)]


def test_a_lone_surrogate_is_read_as_a_replacement_character(pair):
    ours, _ = pair
    assert ours("a \ud83d film") == ours("a \ufffd film")
    assert ours.spans("a \ud83d film") == ours.spans("a \ufffd film")


def test_an_empty_text_is_the_begin_token_alone(pair):
    ours, _ = pair
    assert ours("") == [ours.begin] and ours.ids([]) == [] and ours.each([]) == []


def test_a_text_of_a_million_characters_is_tokenized(pair):
    ours, _ = pair
    for text in ("a film " * 143_000, "<s>" * 334_000):
        (ids,) = ours.ids([text])
        assert len(text) > 1_000_000 and len(ids) > 100_000
    assert len(ours.ids(["a" * 1_000_001])[0]) > 1


def test_padding_and_truncation_of_the_definition_are_ignored(of_xlm_r):
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(of_xlm_r.definition)
    theirs.enable_padding(length=128)
    theirs.enable_truncation(8)
    ours = SubwordTokenizer(theirs.to_str(), "<s>")
    for text in ("a", "a film " * 20):
        assert ours(text) == of_xlm_r(text)


def test_decoding_gives_the_text_without_specials(pair):
    ours, theirs = pair
    ids = [*ours.ids(["a great film"])[0], *theirs("a", add_special_tokens=True)["input_ids"]]
    expected = theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids) == expected
    assert ours.decode(np.array(ids)) == expected and expected.startswith("a great film")
    assert ours.decode([]) == ""


def test_copies_take_typed_specials_for_text_too(of_xlm_r):
    for other in (pickle.loads(pickle.dumps(of_xlm_r)), copy.deepcopy(of_xlm_r)):
        assert other("a <s>") == of_xlm_r("a <s>")
        assert other.vocab == of_xlm_r.vocab and other.begin == "<s>"


def test_the_vocabulary_has_a_place_for_each_id():
    from tokenizers import Tokenizer, models

    theirs = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 3}, unk_token="[UNK]"))
    assert SubwordTokenizer(theirs.to_str(), "a").vocab == ["[UNK]", "", "", "a"]


@pytest.mark.parametrize("definition", ["", "{}", "[]", "no JSON", json.dumps({"model": {}})])
def test_what_is_no_tokenizer_is_refused(definition):
    with pytest.raises(BundleError, match=r"tokenizer cannot be read: .*tokenizer\.json"):
        SubwordTokenizer(definition, "<s>")


def test_a_begin_token_that_it_does_not_have_is_refused(of_xlm_r):
    with pytest.raises(BundleError, match=r"no token '\[CLS\]', which is to begin each text"):
        SubwordTokenizer(of_xlm_r.definition, "[CLS]")


def test_without_the_extra_its_name_is_said(of_xlm_r, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[transformers\]'"):
        SubwordTokenizer(of_xlm_r.definition, "<s>")


def test_tokenizing_needs_no_torch(of_xlm_r, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(of_xlm_r.definition, encoding="utf-8")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ulmfit_app.text.subwords import SubwordTokenizer\n"
        f"ours = SubwordTokenizer(open({str(path)!r}, encoding='utf-8').read(), '<s>')\n"
        "assert ours.spans('a film')[1].token == '▁a'\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
