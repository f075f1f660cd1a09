import logging
import math

import numpy as np
import pytest
import torch
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_language_model

from data_scripts.documents import DocumentError, read_documents
from tests.conftest import made_store, reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.config import LanguageModelSettings, ModelSettings
from ulmfit_app.errors import BundleError, DataError
from ulmfit_app.inference import generation, perplexity
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import load
from ulmfit_app.inference.perplexity import measure_perplexity, score_file
from ulmfit_app.models import hub, pretrained
from ulmfit_app.models.awd_lstm import build_language_model, language_model_config
from ulmfit_app.models.bundle import Bundle, load_weights, save_bundle
from ulmfit_app.models.pretrained import locate
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import BOS, FAKE, SPECIALS, TK_UP
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory, numericalize, tokenize
from ulmfit_app.training import language_model

SHAPE = ModelSettings(emb_sz=12, n_hid=20, n_layers=2)
TOKENIZE = Tokenizer()
WORDS = sorted(
    {token for text in reviews(40)["review"] for token in TOKENIZE(text)} - set(SPECIALS)
)
VOCAB = [*SPECIALS, *WORDS, *[FAKE] * (8 - (len(SPECIALS) + len(WORDS)) % 8)]
PROMPT = "The plot, and GREAT actor music"
GREEDY = SamplingSettings(words=30, temperature=0)


def save(folder, direction="forward", prepare=lambda model: None):
    """A language model's bundle of random weights, large enough for words to differ."""
    torch.manual_seed(0)
    model = build_language_model(len(VOCAB), SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        prepare(model)
    save_bundle(folder, model, Bundle("language model", SHAPE, "en", VOCAB, direction=direction))
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "model")


@pytest.fixture
def backward(tmp_path):
    return save(tmp_path / "model-bwd", "backward")


def plain_model(trained):
    """fastai's own model with the same weights."""
    plain = get_language_model(AWD_LSTM, len(VOCAB), config=language_model_config(SHAPE))
    load_weights(trained.bundle, plain)
    return plain.eval()


@torch.no_grad()
def plain_logits(plain, ids):
    """[tokens, words] of ids, read as a whole from an empty state."""
    plain.reset()
    return plain(torch.tensor([ids]))[0][0]


def ids_of(tokens):
    return [VOCAB.index(token) if token in VOCAB else 0 for token in tokens]


def written(trained, prompt, settings):
    """Ids that the model writes behind a prompt, [samples][words]: `generate` without its end."""
    never = torch.tensor([i for i, word in enumerate(VOCAB) if word in generation.NEVER_WRITTEN])
    writer = generation.StateWriter(trained.model)
    return generation.continue_ids(writer, prompt, never, settings)


# -------------------------------------------------------------------------------------- generation
def test_greedy_words_are_those_of_plain_fastai_that_reads_all_again_each_time(folder):
    trained = load(folder, "fp32")
    plain, ids = plain_model(trained), ids_of(TOKENIZE(PROMPT))
    allowed = [i for i, word in enumerate(VOCAB) if word not in generation.NEVER_WRITTEN]
    expected = []
    for _ in range(GREEDY.words):
        logits = plain_logits(plain, [*ids, *expected])[-1]
        expected.append(max(allowed, key=lambda i: logits[i]))
    assert len(set(expected)) > 3
    assert written(trained, ids, GREEDY) == [expected]


def test_the_prompt_is_read_once_and_then_one_token_per_step(folder):
    trained, shapes = load(folder, "fp32"), []
    trained.model.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    generate(trained, PROMPT, SamplingSettings(words=7, samples=3, seed=0))
    assert shapes == [(1, len(TOKENIZE(PROMPT))), *[(3, 1)] * 6]


def test_each_sample_goes_on_from_its_own_words(folder):
    trained, ids = load(folder, "fp32"), ids_of(TOKENIZE(PROMPT))
    rows = written(trained, ids, SamplingSettings(words=12, samples=4, seed=1, temperature=2.0))
    assert len({tuple(row) for row in rows}) == 4
    states = trained.model[0].hidden
    plain = plain_model(trained)
    for i, row in enumerate(rows):
        plain_logits(plain, [*ids, *row[:-1]])
        for state, alone in zip(states, plain[0].hidden, strict=True):
            for ours, theirs in zip(state, alone, strict=True):
                torch.testing.assert_close(ours[:, i], theirs[:, 0], rtol=1e-4, atol=1e-5)


def test_words_are_drawn_as_often_as_they_are_likely(folder):
    trained, ids = load(folder, "fp32"), ids_of([BOS, "the"])
    settings = SamplingSettings(words=1, samples=40_000, seed=0, temperature=1.5)
    drawn = (
        np.bincount([row[0] for row in written(trained, ids, settings)], minlength=len(VOCAB))
        / settings.samples
    )
    logits = plain_logits(plain_model(trained), ids)[-1].double()
    logits[[i for i, word in enumerate(VOCAB) if word in generation.NEVER_WRITTEN]] = -torch.inf
    expected = (logits / 1.5).softmax(-1).numpy()
    # Four standard deviations of a share, of which one word in 16,000 is further off.
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected / settings.samples) + 1e-9).all()


def test_a_seed_gives_the_same_texts_each_time_and_another_one_others(folder):
    trained = load(folder)
    texts = [
        generate(trained, PROMPT, SamplingSettings(samples=2, seed=seed))
        for seed in (1, 1, 2, None, None)
    ]
    assert texts[0] == texts[1]
    assert len(set(map(tuple, texts))) == 4


def test_one_word_to_draw_from_is_greedy(folder):
    trained = load(folder, "fp32")
    greedy = generate(trained, PROMPT, GREEDY)
    assert generate(trained, PROMPT, SamplingSettings(words=30, top_k=1)) == greedy
    assert generate(trained, PROMPT, SamplingSettings(words=30, top_p=1e-9)) == greedy
    assert generate(trained, PROMPT, SamplingSettings(words=30, min_p=1.0)) == greedy


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_what_no_text_holds_is_never_written(tmp_path, temperature):
    unwanted = [
        i
        for i, word in enumerate(VOCAB)
        if word in ("xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxfake")
    ]
    assert len(unwanted) > 5

    def prefer_it(model):
        model[1].decoder.bias[unwanted] += 100

    trained = load(save(tmp_path, prepare=prefer_it))
    settings = SamplingSettings(words=50, samples=5, temperature=temperature, seed=0)
    rows = written(trained, ids_of([BOS]), settings)
    assert not set(unwanted) & {token for row in rows for token in row}
    assert "xx" not in " ".join(generate(trained, "A film", settings))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_n_gram_comes_twice_where_that_is_asked_for(tmp_path, n):
    def be_repetitive(model):
        model[1].decoder.bias[[VOCAB.index("film"), VOCAB.index("plot")]] += 20

    trained, prompt = (
        load(save(tmp_path, prepare=be_repetitive)),
        ids_of([BOS, "the", "film", "the"]),
    )
    free = written(trained, prompt, GREEDY)[0]
    assert len({tuple(free[i : i + n]) for i in range(31 - n)}) < 31 - n
    for settings in (
        SamplingSettings(words=30, temperature=0, no_repeat_ngrams=n),
        SamplingSettings(words=30, samples=3, no_repeat_ngrams=n, seed=0),
    ):
        for row in written(trained, prompt, settings):
            whole = [*prompt, *row]
            found = [tuple(whole[i : i + n]) for i in range(len(whole) - n + 1)]
            repeated = {gram for gram in found if found.count(gram) > 1}
            assert repeated <= {(VOCAB.index("the"),)}, "only the prompt repeats itself"


def test_where_every_word_was_written_words_may_come_again(folder):
    trained = load(folder)
    (row,) = written(
        trained, ids_of([BOS]), SamplingSettings(words=len(VOCAB) + 5, no_repeat_ngrams=1, seed=0)
    )
    assert len(set(row)) == len([word for word in VOCAB if word not in generation.NEVER_WRITTEN])


def test_the_texts_begin_with_the_prompt_as_it_was_typed(folder):
    for prompt in (PROMPT, "Zyzzyva…  qwrtp", "", '"'):
        for text in generate(load(folder), prompt, SamplingSettings(samples=2, words=5, seed=0)):
            assert text.startswith(prompt) and len(text) > len(prompt)


def test_words_that_the_model_does_not_know_are_said(folder, caplog):
    trained = load(folder)
    with caplog.at_level(logging.INFO):
        generate(trained, "The zyzzyva plot", GREEDY)
        generate(trained, "The plot", GREEDY)
    assert [record.getMessage() for record in caplog.records] == [
        "The model does not know, and reads as xxunk: zyzzyva"
    ]


def test_an_empty_prompt_starts_where_a_text_begins(folder):
    trained = load(folder, "fp32")
    expected = written(trained, ids_of([BOS]), GREEDY)
    shown = generate(trained, "", GREEDY)
    assert shown == [generation.detokenize([VOCAB[i] for i in expected[0]])]
    assert generate(trained, "  ", GREEDY)[0].strip() == shown[0]


def test_a_backward_model_writes_what_stood_before_the_prompt(backward):
    trained = load(backward, "fp32")
    prompt = TOKENIZE("the plot and music.")[1:]
    read = ids_of([BOS, *reversed(prompt)])
    before = [VOCAB[i] for i in written(trained, read, GREEDY)[0]][::-1]
    (text,) = generate(trained, "the plot and music.", GREEDY)
    assert text == generation.detokenize([*before, *prompt])
    assert text.endswith("the plot and music.") and len(text) > 40


def test_markers_of_case_are_written_as_capitals(tmp_path):
    def shout(model):
        model[1].decoder.bias[VOCAB.index(TK_UP)] += 30

    settings = SamplingSettings(words=20, no_repeat_ngrams=2, seed=0)
    (text,) = generate(load(save(tmp_path, prepare=shout)), "the", settings)
    assert text.startswith("the ") and text[4:].isupper()


# -------------------------------------------------------------------------------------- perplexity
def plain_nats(plain, ids):
    """Negative log-likelihoods of ids[1:], each behind all before it."""
    return torch.nn.functional.cross_entropy(
        plain_logits(plain, ids[:-1]), torch.tensor(ids[1:]), reduction="none"
    )


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(
        "\ufeffThe plot, the actors.\nA GREAT camera story, schön!\n" * 3, encoding="utf-8"
    )
    return path


def corpus_folder(tmp_path):
    """Documents of a line each, one of them twice."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [*reviews(120)["review"], "The plot.", "The plot."]
    (folder / "a.txt").write_text("\n".join(lines))
    return folder


def test_the_perplexity_of_a_text_is_that_of_its_tokens_in_one_stream(folder, text_file):
    trained = load(folder, "fp32")
    ids = ids_of(TOKENIZE(text_file.read_text(encoding="utf-8-sig")))
    nats = plain_nats(plain_model(trained), ids)
    score, n_texts = score_file(trained, text_file)
    assert score.perplexity == pytest.approx(float(nats.mean().exp()), rel=1e-4)
    assert (score.tokens, score.unknown, n_texts) == (len(ids) - 1, ids.count(0), 1)
    assert score.unknown_share == ids.count(0) / (len(ids) - 1) > 0
    assert score.nats_per_token == pytest.approx(math.log(score.perplexity))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_corpus_is_one_stream_of_documents_read_in_the_models_direction(tmp_path, direction):
    trained, corpus = load(save(tmp_path / "model", direction), "fp32"), corpus_folder(tmp_path)
    step = 1 if direction == "forward" else -1
    stream = [i for text in read_documents(corpus) for i in ids_of(TOKENIZE(text))[::step]]
    assert len(stream) < 2 * perplexity.ROW, "one row"
    nats = plain_nats(plain_model(trained), stream)
    score, n_texts = score_file(trained, corpus)
    assert score.perplexity == pytest.approx(float(nats.mean().exp()), rel=1e-4)
    assert (score.tokens, n_texts) == (len(stream) - 1, 121)


def test_a_long_corpus_is_read_in_several_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(perplexity, "ROW", 500)
    monkeypatch.setattr(perplexity, "TOKENS_PER_STEP", 90)
    trained, corpus = load(save(tmp_path / "model"), "fp32"), corpus_folder(tmp_path)
    stream = [i for text in read_documents(corpus) for i in ids_of(TOKENIZE(text))]
    rows = len(stream) // 500
    n = (len(stream) - 1) // rows
    assert rows > 3
    plain = plain_model(trained)
    nats = torch.cat(
        [plain_nats(plain, stream[row * n : (row + 1) * n + 1]) for row in range(rows)]
    )
    score, _ = score_file(trained, corpus)
    assert score.perplexity == pytest.approx(float(nats.mean().exp()), rel=1e-4)
    assert score.tokens == rows * n


def test_what_is_predicted_does_not_depend_on_how_many_tokens_are_read_at_a_time(folder):
    trained, store = load(folder, "fp32"), made_store([50] * 8, n_words=len(VOCAB))
    scores = [
        measure_perplexity(trained.model, LanguageModelBatches(store, range(8), 1, bptt))
        for bptt in (7, 50, 1000)
    ]
    assert {score.tokens for score in scores} == {399}
    assert [score.nats for score in scores] == pytest.approx([scores[0].nats] * 3, rel=1e-5)


def test_a_model_in_training_is_scored_without_dropout_and_goes_on_training():
    torch.manual_seed(0)
    store = made_store([50] * 8)
    model = build_language_model(len(store.words), SHAPE).train()
    batches = LanguageModelBatches(store, range(8), 4, 10)
    first, second = (measure_perplexity(model, batches) for _ in range(2))
    assert first == second
    assert model.training
    x, y = next(iter(batches))
    model(x)[0].cross_entropy(y).backward()


def test_a_models_own_perplexity_while_training_is_this_one():
    # fastai weighs a last batch that is shorter like the others; 120 predicted tokens are three
    # of 4 x 10.
    store = made_store([50] * 6 + [40, 81])
    learn = language_model.make_learner(
        store,
        np.arange(6),
        np.arange(6, 8),
        pretrained.find_start("none", SHAPE),
        LanguageModelSettings(batch_size=4, bptt=10),
        "fp32",
        seed=1,
    )
    assert measure_perplexity(learn.model, learn.dls.valid).perplexity == pytest.approx(
        learn.validate()[2], rel=1e-4
    )


def test_bf16_is_near_fp32(folder, text_file, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    exact, low = (
        score_file(load(folder, precision), text_file)[0].nats_per_token
        for precision in ("fp32", "bf16")
    )
    assert exact != low and low == pytest.approx(exact, rel=0.02)


def test_texts_in_memory_are_those_that_the_cache_holds():
    texts = ["The plot.", "", "A film\n\nof music zyzzyva"]
    cached = TokenStore.open(numericalize(tokenize(texts), VOCAB))
    store = in_memory(iter(texts), "en", VOCAB)
    assert np.array_equal(store.ids, cached.ids) and np.array_equal(store.offsets, cached.offsets)
    assert store.ids.dtype == np.int32 and store.words == VOCAB
    assert np.array_equal(in_memory(iter(texts), "en", VOCAB, "backward")[0], store[0][::-1])
    assert len(in_memory([], "en", VOCAB)) == 0


@pytest.mark.parametrize(("content", "tokens"), [("", 1), (" \n ", 1)])
def test_a_file_with_nothing_to_predict_is_refused(folder, tmp_path, content, tokens):
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(
        DataError,
        match=f"short.txt has {tokens} tokens.*needs at least two.*Give a file with text",
    ):
        score_file(load(folder), path)
    path.write_text("film")
    assert score_file(load(folder), path)[0].tokens == 1


def test_a_file_in_another_encoding_is_refused(folder, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("a schön film".encode("latin-1"))
    with pytest.raises(DataError, match="latin.txt is not UTF-8: byte 5 .*iconv"):
        score_file(load(folder), path)


def test_a_file_that_is_not_there_and_a_folder_without_texts_are_refused(folder, tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DocumentError, match="does not exist|holds no corpus"):
            score_file(load(folder), path)


# ------------------------------------------------------------------------------------- which model
def test_a_model_is_found_by_its_name_its_folder_and_its_runs_folder(tmp_path, monkeypatch):
    for module in (pretrained, hub):
        monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    packaged = save(tmp_path / "models" / "en-tiny")
    run = save(tmp_path / "run" / "lm")
    assert locate("en-tiny") == packaged
    assert locate(str(packaged)) == packaged
    assert locate(str(tmp_path / "run")) == run


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")]
)
def test_a_model_that_is_not_there_names_those_that_are(tmp_path, monkeypatch, make):
    for module in (pretrained, hub):
        monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    save(tmp_path / "models" / "en-tiny")
    make(tmp_path / "typo")
    message = (
        "no language model '.*typo': .*Expected a name .here: en-tiny., the folder.*or a run's"
        ".*pretrain CORPUS"
    )
    with pytest.raises(BundleError, match=message):
        locate(str(tmp_path / "typo"))


def test_a_classifiers_bundle_does_not_write(tmp_path):
    save_bundle(tmp_path, torch.nn.Linear(2, 2), Bundle("classifier", SHAPE, "en", ["a"], ["b"]))
    with pytest.raises(BundleError, match="holds a classifier, but a language model is needed"):
        load(locate(str(tmp_path)))


# ----------------------------------------------------------------------------------- the two verbs
def run(capsys, *argv):
    code = cli.main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return code, captured.out, captured.err


def test_generate_prints_one_text_per_sample(folder, capsys):
    flags = (
        "--samples",
        2,
        "--words",
        8,
        "--seed",
        3,
        "--top-k",
        20,
        "--top-p",
        0.9,
        "--min-p",
        0.01,
    )
    code, out, _ = run(
        capsys,
        "generate",
        folder,
        "The plot",
        *flags,
        "--no-repeat-ngrams",
        3,
        "--temperature",
        0.9,
    )
    settings = SamplingSettings(8, 2, 0.9, 20, 0.9, 0.01, 3, 3)
    assert code == 0
    assert out == "\n\n".join(generate(load(folder), "The plot", settings)) + "\n"


def test_perplexity_prints_the_number_first(folder, text_file, capsys):
    code, out, _ = run(capsys, "perplexity", folder, text_file)
    score, _ = score_file(load(folder), text_file)
    assert code == 0
    assert out.startswith(
        f"perplexity {score.perplexity:.2f} ({score.nats_per_token:.4f} nats per token; "
    )
    unknown = f"{100 * score.unknown_share:.2f} % of them unknown words"
    assert f"; {score.tokens} tokens predicted, {unknown}; texts: 1;" in out


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--temperature", -1),
        ("--top-p", 0),
        ("--min-p", 2),
        ("--top-k", 0),
        ("--samples", 0),
        ("--no-repeat-ngrams", 0),
    ],
)
def test_a_wrong_setting_costs_a_message_and_exit_code_2(folder, capsys, flag, value):
    code, out, err = run(capsys, "generate", folder, "The plot", flag, value)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {flag} must be ")


def test_a_missing_model_or_text_has_its_own_exit_code(folder, tmp_path, capsys):
    assert run(capsys, "generate", tmp_path / "none")[0] == 4
    assert run(capsys, "perplexity", tmp_path / "none", tmp_path)[0] == 4
    assert run(capsys, "perplexity", folder, tmp_path / "none.txt")[0] == 3
