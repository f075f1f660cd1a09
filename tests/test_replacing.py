"""Words that a forward and a backward language model put in the place of others."""

import pytest
import torch

from ulmfit_app.config import ModelSettings
from ulmfit_app.data.augmentation import stop_words
from ulmfit_app.errors import BundleError
from ulmfit_app.inference import replacing
from ulmfit_app.inference.replacing import CANDIDATES, Replacer
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.models.pretrained import locate
from ulmfit_app.text.rules import SPECIALS

SHAPE = ModelSettings(emb_sz=8, n_hid=12, n_layers=2)
WORDS = """the a film movie plot actor scene story camera music director was is dull great moving
funny boring of and in it ! . 1999 x can't"""
VOCAB = [*SPECIALS, *WORDS.split()]
STOPS = frozenset("the a was is of and in it".split())
TEXTS = [
    "The film was a great story !",
    "It is DULL and the plot of the movie in 1999 boring .",
    "of the in 1999 !",
    "Zebra movie !",
    "film",
]


def save_model(folder, direction, vocab=VOCAB, seed=0):
    torch.manual_seed(seed)
    model = build_language_model(len(vocab), SHAPE)
    with torch.no_grad():  # far from all alike
        model[1].decoder.weight.mul_(12)
    save_bundle(folder, model, Bundle("language model", SHAPE, "en", vocab, direction=direction))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_model(folder / "lm", "forward"), save_model(folder / "back", "backward", seed=1)


@pytest.fixture(scope="module")
def replacer(pair):
    return Replacer(*pair, STOPS, "fp32")


def expected(replacer, tokens, place):
    """Every word's probability at a place, from what stands before it alone, and behind it."""
    total = 0
    for direction, read in (
        ("forward", tokens[:place]),
        ("backward", ["xxbos", *tokens[:place:-1]]),
    ):
        model = replacer.models[direction].model
        model.reset()
        ids = torch.tensor([[VOCAB.index(token) if token in VOCAB else 0 for token in read]])
        with torch.no_grad():
            logits = model[1].decoder(model[0](ids))[0, -1]
        total = total + logits.log_softmax(0)
    possible = [
        i
        for i, word in enumerate(VOCAB)
        if word.isalpha() and len(word) > 1 and word not in (*SPECIALS, *STOPS, tokens[place])
    ]
    best = sorted(possible, key=lambda i: -total[i])[:CANDIDATES]
    return [VOCAB[i] for i in best], total[best].softmax(0).numpy()


@pytest.mark.parametrize("at_a_time", [4_096, 12])
def test_proposed_are_the_words_of_the_largest_products_of_both_models(
    replacer, monkeypatch, at_a_time
):
    monkeypatch.setattr(replacing, "TOKENS_PER_STEP", at_a_time)
    monkeypatch.setattr(replacing, "WORDS_PER_STEP", 2)
    texts = [replacer.tokenizer(text) for text in TEXTS]
    asked = [[place for place, token in enumerate(text) if token in VOCAB[9:]] for text in texts]
    asked[1] = []
    found = replacer.propose(texts, asked)
    assert [list(each) for each in found] == asked
    for tokens, of_text in zip(texts, found, strict=True):
        for place, (words, probabilities) in of_text.items():
            theirs, shares = expected(replacer, tokens, place)
            assert words == theirs
            assert probabilities == pytest.approx(shares, abs=1e-5)
            assert probabilities.sum() == pytest.approx(1)


def test_a_word_is_replaced_where_it_stands_with_its_capitals(replacer):
    copies = replacer.replace(TEXTS, range(5), 30, 0.1, seed=0)
    first = [made.split() for made in copies[0]]
    for words in first:
        changed = [i for i, word in enumerate(TEXTS[0].split()) if word != words[i]]
        assert len(changed) == 1 and changed[0] in (1, 4, 5)
    assert len({words[1] for words in first}) > 2, "the word is drawn"
    for made in copies[1]:
        assert made.split()[2].isupper()
        assert made.split()[0] == "It" and made.split()[-3] == "1999"


def test_stop_words_numbers_and_unknown_words_stay(replacer):
    assert replacer.replace(TEXTS[2:3], [0], 3, 0.5, seed=0) == [[]]
    (made,) = replacer.replace(TEXTS[3:4], [0], 9, 1.0, seed=0)
    assert made and all(text.startswith("Zebra ") for text in made)


def test_a_share_of_the_words_changes_in_each_copy_and_no_two_copies_are_alike(replacer):
    text = "film movie plot actor scene story camera music director dull it is in the a"
    (made,) = replacer.replace([text], [7], 40, 0.2, seed=0)
    assert len(set(made)) == len(made) and text not in made
    for copy in made:
        assert sum(a != b for a, b in zip(copy.split(), text.split(), strict=True)) == 3


def test_copies_depend_on_seed_and_row_and_on_no_other_text(replacer):
    whole = replacer.replace(TEXTS, range(5), 2, 0.3, seed=1)
    assert replacer.replace(TEXTS[1:2], [1], 2, 0.3, seed=1) == whole[1:2]
    assert replacer.replace(TEXTS, range(5), 2, 0.3, seed=2) != whole


def test_a_vocabulary_of_few_words_proposes_as_many_or_none(tmp_path):
    vocab = [*SPECIALS, "the", "film", "movie"]
    pair = [save_model(tmp_path / way, way, vocab) for way in ("forward", "backward")]
    few = Replacer(*pair, frozenset(["the"]), "fp32")
    assert few.replace(["the film"], [0], 3, 0.5, seed=0) == [["the movie"]]
    none = Replacer(*pair, frozenset(["the", "movie"]), "fp32")
    assert none.replace(["the film"], [0], 3, 0.5, seed=0) == [[]]


def test_models_of_other_words_or_of_the_wrong_direction_are_refused(pair, tmp_path):
    other = save_model(tmp_path / "other", "backward", [*VOCAB, "more"])
    with pytest.raises(BundleError, match="know different words, and can agree on none"):
        Replacer(pair[0], other, STOPS)
    with pytest.raises(BundleError, match="learned to read forward, but is to read backward"):
        Replacer(pair[0], pair[0], STOPS)


def test_the_packages_models_agree_on_other_countries_and_other_kinds_of_states():
    packaged = Replacer(locate("en-small"), locate("en-small-bwd"), stop_words("en"))
    tokens = packaged.tokenizer("Paris is the capital of France and has many people.")
    found = packaged.propose([tokens], [[tokens.index("capital"), tokens.index("france")]])[0]
    of_capital, of_france = (words for words, _ in found.values())
    assert {"city", "province"} <= set(of_capital) and {"italy", "germany"} <= set(of_france)
