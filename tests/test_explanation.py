import itertools
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.conftest import BLAME, PRAISE, reviews
from tests.test_predictor import saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference import explanation, predictor
from ulmfit_app.inference.explanation import explain, find_words
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor
from ulmfit_app.models.awd_lstm import build_classifier
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.models.pooling import TOKENS_AT_A_TIME
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory
from ulmfit_app.text.tracing import Span

TEXT = "A great film, and the plot is dull; the actor, not."
TOKENIZE = Tokenizer()


@pytest.fixture
def predictors(tmp_path):
    """Classifiers of random weights in each direction, and their mean; two are calibrated."""
    forward = saved_classifier(tmp_path / "forward")
    backward = saved_classifier(tmp_path / "backward", seed=1, direction="backward")
    found = {
        "forward": Predictor(forward, "fp32"),
        "backward": Predictor(backward, "fp32"),
        "both": BidirectionalPredictor(forward, backward, "fp32"),
    }
    for name, temperature in (("backward", 0.7), ("both", 1.6)):
        found[name].decision = Decision(temperatures=(temperature,))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier that has learned which words are praise and which blame."""
    table = reviews(300)
    tokens = sorted(
        {token for text in table["review"] for token in TOKENIZE(text)} - set(SPECIALS)
    )
    vocab, shape = [*SPECIALS, *tokens], ModelSettings(emb_sz=24, n_hid=32, n_layers=1)
    torch.manual_seed(0)
    model = build_classifier(len(vocab), 2, shape)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    labels = (table["sentiment"] == "pos").to_numpy(int)
    batches = ClassifierBatches(
        in_memory(table["review"], "en", vocab), np.arange(300), labels, 25, shuffle=True
    )
    for batches.epoch in range(10):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x)[0], y).backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("trained")
    save_bundle(folder, model, Bundle("classifier", shape, "en", vocab, labels=["neg", "pos"]))
    return Predictor(folder, "fp32")


def log_odds(predictor, texts, label):
    table = predictor.predict(texts)
    p = table[f"p_{label}"].to_numpy()
    return np.log(p / (1 - p))


# ------------------------------------------------------------------------------------------- words
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It ISN'T sooo  good, is it?", ["It", "ISN'T", "sooo", "good", ",", "is", "it", "?"]),
        ("very very very bad!!!!", ["very very very", "bad", "!!!!"]),
        (
            "Tom &amp; Jerry<br />(Great)",
            ["Tom", "&", "amp;", "Jerry", "<br />", "(", "Great", ")"],
        ),
        ("well-made 10/10, xxpad", ["well", "-", "made", "10", "/", "10", ",", "xxpad"]),
        ("a 3 @.@ 5 star <unk>", ["a", "3 @.@ 5", "star", "<unk>"]),
        ("first\nsecond", ["first", "\n", "second"]),
        ("'tis “naïve” İSTANBUL 👍🏽", ["'", "tis", "“", "naïve", "”", "İSTANBUL", "👍", "🏽"]),
        ("x" * 600, ["x" * 600]),
        ("Ab" * 300, ["Ab" * 300]),
        (" \t ", []),
    ],
)
def test_words_are_those_that_were_typed(text, expected):
    found = find_words(text, TOKENIZE.spans(text))
    assert [text[word.start : word.stop] for word in found] == expected


def test_chinese_subwords_are_words_of_their_own():
    text = "我買了iPhone12，很好"
    pieces = ["我", "買了", "i", "Phone", "12", "，", "很好"]
    stops = [*itertools.accumulate(map(len, pieces))]
    tokens = [Span("xxbos", 0, 0), *map(Span, pieces, [0, *stops], stops)]
    found = find_words(text, tokens)
    assert [text[word.start : word.stop] for word in found] == [
        "我",
        "買了",
        "iPhone12",
        "，",
        "很好",
    ]


def test_the_tokens_of_the_words_are_all_tokens_but_the_first_in_order():
    text = "It ISN'T sooo GOOD GOOD GOOD! <br /><br />The END; xxmaj 10/10"
    tokens = TOKENIZE.spans(text)
    found = find_words(text, tokens)
    assert [i for word in found for i in range(word.first, word.last)] == list(
        range(1, len(tokens))
    )
    capitals = next(word for word in found if text[word.start : word.stop] == "END")
    assert [token.token for token in tokens[capitals.first : capitals.last]] == ["xxup", "end"]


# -------------------------------------------------------------------------------------- the scores
@pytest.mark.parametrize("which", ["forward", "backward", "both"])
def test_occlusion_says_what_the_text_would_be_given_without_the_word(predictors, which):
    predictor = predictors[which]
    found = explain(predictor, TEXT, label="good")
    whole = log_odds(predictor, [TEXT], "good")
    assert math.isclose(found.probability, predictor.predict([TEXT])["p_good"][0], abs_tol=1e-6)
    assert (
        list(found.words["word"])
        == "A great film , and the plot is dull ; the actor , not .".split()
    )
    for row in found.words.itertuples():
        without = TEXT[: row.start] + TEXT[row.stop :]
        assert math.isclose(
            row.without, predictor.predict([without])["p_good"][0], abs_tol=1e-5
        ), row.word
        assert np.allclose(row.score, whole - log_odds(predictor, [without], "good"), atol=1e-4), (
            row.word
        )


@pytest.mark.parametrize("which", ["forward", "backward", "both"])
def test_gradient_times_input_is_the_slope_by_the_size_of_the_words_embedding(predictors, which):
    """Against finite differences: the embedding made longer and shorter in each direction."""
    predictor = predictors[which]
    found = explain(predictor, TEXT, "gradient", "good")
    assert math.isclose(found.probability, predictor.predict([TEXT])["p_good"][0], abs_tol=1e-6)
    once = [
        row
        for row in found.words.itertuples()
        if row.word in ("great", "film", "plot", "dull", "actor", "and")
    ]
    assert len(once) == 6
    members = [predictor, predictor.backward] if which == "both" else [predictor]
    step = 0.01

    def stretched(word, factor):
        embeddings = [
            member._model[0].module.encoder.weight.data[predictor.bundle.vocab.index(word)]
            for member in members
        ]
        for embedding in embeddings:
            embedding *= factor
        odds = log_odds(predictor, [TEXT], "good")[0]
        for embedding in embeddings:
            embedding /= factor
        return odds

    for row in once:
        slope = (stretched(row.word, 1 + step) - stretched(row.word, 1 - step)) / (2 * step)
        assert math.isclose(row.score, slope, rel_tol=0.02, abs_tol=2e-3), row.word


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_scores_for_one_of_two_labels_are_those_for_the_other_with_the_sign_changed(
    trained, method
):
    pos, neg = (explain(trained, TEXT, method, label) for label in ("pos", "neg"))
    assert np.allclose(pos.words["score"], -neg.words["score"], atol=1e-5)
    predicted = explain(trained, TEXT, method)
    assert predicted.label == trained.predict([TEXT])["predicted"][0]


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_deleting_the_words_that_are_named_moves_the_probability_far_more_than_deleting_others(
    trained, method
):
    rng = np.random.default_rng(0)
    moved = {"named": [], "random": []}
    for text in reviews(30, seed=1)["review"]:
        found = explain(trained, text, method)
        chosen = {"named": found.words.loc[found.words["score"].nlargest(3).index]}
        p = trained.predict([text])[f"p_{found.label}"][0]
        drops = {name: [] for name in moved}
        for name, rows in [
            *chosen.items(),
            *[("random", found.words.sample(3, random_state=rng)) for _ in range(5)],
        ]:
            left = text
            for row in rows.sort_values("start", ascending=False).itertuples():
                left = left[: row.start] + left[row.stop :]
            drops[name].append(abs(p - trained.predict([left])[f"p_{found.label}"][0]))
        for name, each in drops.items():
            moved[name].append(np.mean(each))
    assert np.mean(moved["named"]) > 4 * np.mean(moved["random"])


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_praise_speaks_for_a_positive_review_and_blame_against_it(trained, method):
    found = explain(
        trained,
        "the plot was wonderful and superb but the end dull and the actor awful",
        method,
        "pos",
    )
    words = found.strongest(4)
    assert {row.word for row in words.itertuples() if row.score > 0} <= set(PRAISE)
    assert {row.word for row in words.itertuples() if row.score < 0} <= set(BLAME)
    assert len(words) == 4


# ------------------------------------------------------------------------------ long, empty, wrong
def test_a_long_text_is_taken_out_in_a_bounded_number_of_runs(predictors, monkeypatch):
    monkeypatch.setattr(explanation, "MOST_SPANS", 7)
    text = "great film and dull plot " * 8
    found = explain(predictors["forward"], text)
    assert len(found.words) == 7 and found.n_words == 40
    assert " ".join(found.words["word"]) == text.strip()
    assert "Of 40 words, 6 at a time" in found.terminal()
    assert len(explain(predictors["forward"], text, "gradient").words) == 40


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_without_words_is_explained_by_none(predictors, method, text):
    found = explain(predictors["both"], text, method)
    assert found.words.empty and found.strongest().empty
    assert 0 < found.probability < 1
    assert found.terminal().startswith(f"{found.label} 0.") and found.html()


def test_a_lone_surrogate_is_explained_as_the_character_that_the_predictor_puts_for_it(predictors):
    assert explain(predictors["forward"], "great \ud800 film").text == "great \ufffd film"


def test_gradients_of_a_text_that_is_read_in_steps_are_refused(predictors):
    with pytest.raises(
        SettingError, match=f"less than {TOKENS_AT_A_TIME:,} tokens.*--method occlusion"
    ):
        explain(predictors["forward"], "good film " * (TOKENS_AT_A_TIME // 2), "gradient")


def test_gradients_in_a_low_precision_are_refused(predictors):
    low = Predictor(predictors["forward"].folder, "int8")
    with pytest.raises(SettingError, match='this one computes in int8.*precision="fp32"'):
        explain(low, TEXT, "gradient")
    assert len(explain(low, TEXT).words) == 15


def test_a_label_and_a_method_that_there_are_not_name_those_there_are(predictors):
    with pytest.raises(SettingError, match="no label 'fine'. There are 'bad', 'fair', 'good'"):
        explain(predictors["forward"], TEXT, label="fine")
    for wrong in ("GOOD", "goood", "Good "):
        with pytest.raises(SettingError, match="Did you mean 'good'. There are 'bad', 'fair'"):
            explain(predictors["forward"], TEXT, label=wrong)
    with pytest.raises(SettingError, match="no method 'lime'. There are: occlusion, gradient"):
        explain(predictors["forward"], TEXT, "lime")


# --------------------------------------------------------------------------------------- the looks
class Marks(HTMLParser):
    """A fragment's second paragraph: its text, its tags, and each marked word with its title."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.marked, self.title = [], "", [], None
        self.feed(html.partition("</p>")[2])

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.title = dict(attrs).get("title")

    def handle_endtag(self, tag):
        self.title = None

    def handle_data(self, data):
        self.text += data
        if self.title:
            self.marked.append((self.tags[-1], data, self.title))


HOSTILE = "<script>alert('x')</script> A great \"film\" &lt;b&gt; <b onclick=x>dull</b> & \n\nplot"


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_html_shows_a_text_as_it_was_typed_and_runs_none_of_it(predictors, method):
    found = explain(predictors["forward"], HOSTILE, method)
    marks = Marks(found.html(top=50))
    assert marks.text == HOSTILE
    assert set(marks.tags) <= {"p", "b", "u"}
    assert found._repr_html_() == found.html()
    assert found.html(how=False) == found.html().partition("</p>")[2]


def test_html_says_without_colour_what_speaks_for_a_label_and_how_much(trained):
    found = explain(trained, TEXT)
    rows = {row.word: row for row in found.strongest(4).itertuples()}
    marks = Marks(found.html(top=4))
    assert len(marks.marked) == 4
    for tag, word, title in marks.marked:
        assert tag == ("b" if rows[word].score > 0 else "u")
        assert title.startswith(f"{rows[word].score:+.2f} to the log-odds of {found.label}; ")
        assert float(re.search("; [<>]?(.*) without it$", title)[1]) == pytest.approx(
            rows[word].without, abs=1.1e-3
        )


def test_a_label_is_escaped_too(tmp_path):
    labels = ['<img src=x onerror="x">', "fair", "good"]
    found = explain(
        Predictor(saved_classifier(tmp_path, labels=labels), "fp32"), TEXT, label=labels[0]
    )
    assert "<img" not in found.html() and 'onerror="' not in found.html()


def test_an_explanation_is_shown_as_lines_where_no_html_is(trained):
    found = explain(trained, TEXT)
    assert repr(found) == found.terminal() and "Explanation(" not in repr(found)


def test_the_terminal_shows_the_same_with_and_without_colour(trained):
    found = explain(trained, TEXT)
    plain, coloured = found.terminal(3), found.terminal(3, colour=True)
    assert "\x1b" not in plain
    as_plain = re.sub(r"\x1b\[1;34m(.*?)\x1b\[0m", r"{+\1+}", coloured)
    as_plain = re.sub(r"\x1b\[4;33m(.*?)\x1b\[0m", r"[-\1-]", as_plain)
    # In the list, the sign says it already.
    assert as_plain.splitlines()[-2:] == plain.splitlines()[-2:]
    assert re.sub(r"\{\+|\+\}|\[-|-\]", "", plain.splitlines()[-1]) == TEXT
    for row in found.strongest(3).itertuples():
        line = re.search(
            rf"^ +{re.escape(f'{row.score:+.2f}')} +[<>]?(\S+)  {re.escape(row.word)}$",
            plain,
            re.M,
        )
        assert float(line[1]) == pytest.approx(row.without, abs=1.1e-3)


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.99951, ">0.999"), (1, "1.000"), (1e-5, "<0.001"), (0, "0.000"), (0.5, "0.500")],
)
def test_what_is_not_quite_certain_is_not_shown_as_if_it_were(predictors, p, shown):
    found = replace(explain(predictors["forward"], TEXT, label="good"), probability=p)
    assert found.terminal().startswith(f"good {shown}: ")
    assert found.html().startswith(f'<p class="how">good {escape(shown)}: ')


def test_a_text_cannot_steer_the_terminal(predictors):
    shown = explain(predictors["forward"], "great \x1b[2J\x9b31m film\r\x07").terminal(50)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


# ------------------------------------------------------------------------------------- the command
def test_the_command_explains_a_text_with_a_runs_classifier(trained, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        predictor, "load_predictor", lambda folder, precision: asked.append(precision) or trained
    )
    assert cli.main(["explain", "runs/x", TEXT]) == 0
    assert capsys.readouterr().out == explain(trained, TEXT).terminal() + "\n"
    assert (
        cli.main(
            ["explain", "runs/x", TEXT, "--method", "gradient", "--label", "pos", "--top", "2"]
        )
        == 0
    )
    assert capsys.readouterr().out == explain(trained, TEXT, "gradient", "pos").terminal(2) + "\n"
    assert asked == ["auto", "fp32"]


def test_the_command_colours_on_a_terminal_that_wants_it(trained, monkeypatch, capsys):
    monkeypatch.setattr(predictor, "load_predictor", lambda folder, precision: trained)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    cli.main(["explain", "runs/x", TEXT])
    assert "\x1b[1;34m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    cli.main(["explain", "runs/x", TEXT])
    assert "\x1b" not in capsys.readouterr().out


def test_a_top_of_nothing_is_refused(tmp_path, capsys):
    assert cli.main(["explain", str(tmp_path), TEXT, "--top", "0"]) == 2
    assert "--top must be 1 or more, not 0." in capsys.readouterr().err
