"""The modules around transformers' own: windows, pooling, layer groups, the language model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from tests.tiny_transformers import (
    CAUSAL,
    KINDS,
    MASKED,
    make_checkpoint,
    make_reviews,
    subwords_in_memory,
)
from ulmfit_app.config import ClassifierSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.models import transformer
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.hub import quiet
from ulmfit_app.models.transformer import (
    WindowEncoder,
    blocks_of,
    build_classifier,
    build_language_model,
    load_language_model,
    parameter_groups,
    pool,
)
from ulmfit_app.models.transformer_start import read_transformer
from ulmfit_app.text.store import OF_SUBWORDS
from ulmfit_app.text.subwords import SubwordTokenizer

TEXTS = [
    "A great film.",
    "",
    "dull " * 150,
    "The plot, the actors; all GREAT!!!",
    "[MASK] <s> [PAD] <|endoftext|>",
    " ".join(make_reviews(12)),
    "\udcff broken 🙂",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def starts(folders):
    return {kind: read_transformer(folder, str(folder)) for kind, folder in folders.items()}


def tokenizer_of(start) -> SubwordTokenizer:
    return SubwordTokenizer(start.tokenizer, start.vocab[start.shape.begin])


def batch_of(store, texts=None) -> torch.Tensor:
    rows = [torch.tensor(store[i].astype(np.int64)) for i in texts or range(len(store))]
    return torch.nn.utils.rnn.pad_sequence(rows, True, OF_SUBWORDS)


def bold(model, seed=0):
    """Weights large enough for texts to differ."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def encoder_of(start, pooling="mean", **more) -> WindowEncoder:
    model = build_classifier(replace(start.shape, pooling=pooling), 3, **more)
    return bold(model)[0].eval()


def theirs(encoder, start, tokens, pooling):
    """A text's vector by transformers' own model, a window at a time."""
    shape = start.shape
    n = max(-(-len(tokens) // shape.window), 1)
    parts = np.array_split(np.array(tokens, np.int64), n)
    vectors = []
    for part in parts:
        ids = torch.tensor([[shape.begin, *part, *shape.end]])
        states = encoder.module(input_ids=ids, attention_mask=torch.ones_like(ids))
        states = states.last_hidden_state[0]
        whole = {"mean": states.mean(0), "first": states[0], "last": states[-1]}
        whole["concat"] = torch.cat([states[-1], states.max(0).values, states.mean(0)])
        vectors.append(whole[pooling])
    return torch.stack(vectors), [len(part) for part in parts]


# ---------------------------------------------------------------------------------------- windows
@pytest.mark.parametrize("kind", KINDS)
def test_a_texts_vector_does_not_depend_on_its_neighbours_or_their_order(starts, kind):
    encoder, start = encoder_of(starts[kind]), starts[kind]
    store = subwords_in_memory(TEXTS, tokenizer_of(start))
    assert (store.lengths() > 2 * start.shape.window).any(), "one is read in several windows"
    with torch.inference_mode():
        together = encoder(batch_of(store))[0]
        order = [3, 6, 0, 5, 2, 4, 1]
        other = encoder(torch.nn.functional.pad(batch_of(store, order), (0, 70), value=-1))[0]
        for i in range(len(TEXTS)):
            alone = encoder(batch_of(store, [i]))[0][0]
            assert torch.allclose(alone, together[i], atol=1e-5), TEXTS[i]
        assert torch.allclose(other, together[order], atol=1e-5)
    distances = torch.cdist(together, together) + torch.eye(len(TEXTS))
    assert distances.min() > 1e-3, "else the comparison says nothing"


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "concat"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "gpt2"])
def test_a_vector_is_the_mean_of_windows_read_by_transformers_one_by_one(starts, kind, pooling):
    encoder, start = encoder_of(starts[kind], pooling), starts[kind]
    store = subwords_in_memory(TEXTS, tokenizer_of(start))
    with torch.inference_mode():
        found = encoder(batch_of(store))[0]
        assert found.dtype == torch.float32
        for i in range(len(TEXTS)):
            vectors, sizes = theirs(encoder, start, store[i][1:].tolist(), pooling)
            if len(set(sizes)) == 1:  # else which window is the longer one is ours to choose
                assert torch.allclose(found[i], vectors.mean(0), atol=1e-5), TEXTS[i]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_hold_each_token_once_and_nearly_as_many(starts, kind):
    start = starts[kind]
    encoder, shape = encoder_of(start), start.shape
    seen = []

    def listen(module, args, kwargs):
        for ids, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            seen.append(ids[mask.bool()].tolist())

    encoder.module.register_forward_pre_hook(listen, with_kwargs=True)
    specials = tokenizer_of(start).specials
    ordinary = [i for i in range(len(start.vocab)) if i not in specials]
    w = shape.window
    for length in (0, 1, 2, w - 1, w, w + 1, 2 * w, 2 * w + 1, 3 * w - 2, 7 * w + 3):
        tokens = [ordinary[i % len(ordinary)] for i in range(length)]
        seen.clear()
        with torch.inference_mode():
            encoder(torch.tensor([[shape.begin, *tokens]]))
        assert all(ids[0] == shape.begin for ids in seen)
        n_end = len(shape.end)
        assert all(ids[len(ids) - n_end :] == shape.end for ids in seen)
        parts = [ids[1 : len(ids) - n_end] for ids in seen]
        sizes = [len(part) for part in parts]
        assert len(parts) == max(-(-length // w), 1)
        assert max(sizes) <= w and max(sizes) - min(sizes) <= 1
        # Windows of like length are read together: sought here in the order of the text.
        left = tokens
        while left:
            part = next(p for p in parts if p and left[: len(p)] == p)
            parts.remove(part)
            left = left[len(part) :]
        assert not any(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_fits_is_framed_as_by_transformers_tokenizer(folders, starts, kind):
    from transformers import AutoTokenizer

    start = starts[kind]
    with quiet():
        theirs = AutoTokenizer.from_pretrained(folders[kind])
    text = "A great film, dull acting."
    ids = torch.tensor(tokenizer_of(start).ids([text])[0].astype(np.int64))[None]
    framed, mask, places = transformer.frame(
        ids, torch.tensor([[0, 1, ids.shape[1]]]), start.shape
    )
    expected = theirs(text)["input_ids"]
    if kind == "gpt2":  # it has no token that begins a text but the one that ends one
        expected = [start.shape.begin, *expected]
    assert framed[0].tolist() == expected and mask.all()
    assert places[0].tolist() == [*range(ids.shape[1]), *[-1] * len(start.shape.end)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_window_goes_beyond_the_models_positions(starts, kind):
    """RoBERTa's begin behind the padding's number: of its 66, 64 are there for tokens."""
    shape = starts[kind].shape
    n_positions = 64 if "roberta" in kind else 66
    assert shape.window + 1 + len(shape.end) == n_positions
    encoder = encoder_of(starts[kind])
    with torch.inference_mode():
        found, _ = encoder(torch.full((2, 5 * shape.window + 1), 40))
    assert found.isfinite().all()


def test_pooling_is_what_a_plain_loop_gives():
    torch.manual_seed(0)
    states, lengths = torch.randn(4, 6, 3), [6, 1, 4, 2]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    states[~mask] = torch.nan  # what stands at padding must not matter
    for how in ("mean", "first", "last", "concat"):
        found = pool(states, mask, how)
        for row, n in enumerate(lengths):
            own = states[row, :n]
            parts = {"first": own[0], "last": own[-1], "mean": own.mean(0)}
            parts["concat"] = torch.cat([own[-1], own.max(0).values, own.mean(0)])
            assert torch.allclose(found[row], parts[how], atol=1e-6), how


def test_embeddings_may_stand_in_the_place_of_ids(starts):
    for kind in ("bert", "roberta", "gpt2"):
        encoder, start = encoder_of(starts[kind]), starts[kind]
        ids = batch_of(subwords_in_memory(TEXTS, tokenizer_of(start)))
        with torch.inference_mode():
            embedded = encoder.embed(ids.clamp_min(0))
            assert torch.allclose(encoder(ids, embedded)[0], encoder(ids)[0], atol=1e-5)


# --------------------------------------------------------------------------------------- gradients
def gradients(encoder, ids) -> list[torch.Tensor]:
    encoder.zero_grad()
    # The padding of a text's vector has no gradient, so that each element counts.
    (encoder(ids)[0] * torch.linspace(-1, 1, 32)).sum().backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_gradients_computed_again_are_the_same(starts, kind, monkeypatch):
    start = starts[kind]
    model = build_classifier(start.shape, 3, grad_tokens=10**6)
    encoder = bold(model)[0].train()
    ids = batch_of(subwords_in_memory(TEXTS, tokenizer_of(start)))
    again = []
    real = transformer.checkpoint
    monkeypatch.setattr(
        transformer, "checkpoint", lambda *a, **k: again.append(1) or real(*a, **k)
    )
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    whole = gradients(encoder, ids)
    assert not again, "all windows fit at once"
    monkeypatch.setattr(transformer, "TRAINED_AT_A_TIME", 130)
    parts = gradients(encoder, ids)
    assert len(again) > 2
    assert len(whole) == len(parts) > 10
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_dropout_is_the_same_where_activations_are_computed_again(starts, monkeypatch):
    start = starts["bert"]
    encoder = bold(build_classifier(start.shape, 3, grad_tokens=10**6))[0].train()
    ids = batch_of(subwords_in_memory(TEXTS, tokenizer_of(start)))
    monkeypatch.setattr(transformer, "TRAINED_AT_A_TIME", 130)
    found = []
    for again in (True, False):
        if not again:
            plain = lambda function, *inputs, use_reentrant: function(*inputs)  # noqa: E731
            monkeypatch.setattr(transformer, "checkpoint", plain)
        torch.manual_seed(1)
        found.append(gradients(encoder, ids))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_gradients_reach_back_over_the_last_tokens_only(starts, kind):
    start, w = starts[kind], starts[kind].shape.window
    tokens = torch.arange(4 * w) % 60 + 20
    ids = torch.cat([torch.tensor([start.shape.begin]), tokens])[None]
    for grad_tokens, n_windows in ((1, 1), (w, 1), (w + 1, 2), (4 * w, 4)):
        encoder = bold(build_classifier(start.shape, 3, grad_tokens=grad_tokens))[0]
        encoder.train()
        embedded = encoder.embed(ids).detach().requires_grad_()
        (encoder(ids, embedded)[0] * torch.linspace(-1, 1, 32)).sum().backward()
        reached = embedded.grad[0].abs().sum(1) > 0
        assert not reached[1 : 1 + (4 - n_windows) * w].any(), grad_tokens
        assert reached[1 + (4 - n_windows) * w :].all(), grad_tokens
        with torch.no_grad():
            learned = encoder.eval()(ids)[0]
            encoder.max_len = 10**6
            assert torch.equal(encoder(ids)[0], learned), "all tokens are read, whatever learns"


# ------------------------------------------------------------------------------------ layer groups
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_groups", [1, 2, 3, 4, 9])
def test_every_parameter_is_in_one_group_lowest_first(starts, kind, n_groups):
    shape = replace(starts[kind].shape, groups=n_groups)
    model = build_classifier(shape, 3)
    groups = parameter_groups(model[0].module, shape, model[1].parameters())
    assert len(groups) == shape.count_groups(ClassifierSettings(groups=n_groups))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_group = [[names[id(parameter)] for parameter in group] for group in groups]
    assert sorted(sum(of_group, [])) == sorted(names.values())
    assert of_group[-1] == [name for name in names.values() if name.startswith("1.")]
    name, blocks = blocks_of(model[0].module)
    below = [names[id(p)] for p in model[0].module.get_input_embeddings().parameters()]
    assert set(below) <= set(of_group[0])
    assert not any(f"{name}." in each for each in of_group[0])
    last = [f"0.module.{name}.{len(blocks) - 1}.{n}" for n, _ in blocks[-1].named_parameters()]
    assert set(last) <= set(of_group[-2])
    # What stands behind the last block belongs to its group.
    behind = {"modernbert": "final_norm", "gpt2": "ln_f", "llama": "norm"}.get(kind)
    assert behind is None or f"0.module.{behind}.weight" in of_group[-2]


def test_a_12_layer_bert_is_unfrozen_in_4_blocks_of_3(starts):
    shape = starts["bert"].shape
    shape = replace(shape, model={**shape.model, "num_hidden_layers": 12}, n_blocks=12)
    model = build_classifier(shape, 2)
    groups = parameter_groups(model[0].module, shape, model[1].parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = [
        sorted({int(names[id(p)].split("layer.")[1].split(".")[0]) for p in group})
        for group in groups[1:-1]
    ]
    assert blocks == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_models_groups_hold_each_of_its_parameters_once(starts, kind):
    shape = starts[kind].shape
    model = build_language_model(shape)
    groups = parameter_groups(model.encoder, shape, model.parameters())
    found = [id(parameter) for group in groups for parameter in group]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())


# ---------------------------------------------------------------------------------- language model
@pytest.mark.parametrize("kind", KINDS)
def test_the_language_models_loss_is_transformers_own(folders, starts, kind):
    import transformers as hf

    start = starts[kind]
    auto = hf.AutoModelForMaskedLM if kind in MASKED else hf.AutoModelForCausalLM
    with quiet():
        whole = auto.from_pretrained(folders[kind], dtype=torch.float32).eval()
    model = build_language_model(start.shape).eval()
    model.load_state_dict(start.weights)
    ids = batch_of(subwords_in_memory(["A great film.", "Dull, a wooden plot.", "x"],
                                      tokenizer_of(start)))  # fmt: skip
    windows = torch.stack([torch.arange(3), torch.ones(3).long(), (ids >= 0).sum(1)], 1)
    framed, mask, places = transformer.frame(ids, windows, start.shape)
    labels = torch.full_like(framed, -100)
    if kind in MASKED:
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[0, 2], where[1, 1], where[1, 3], where[2, 1] = True, True, True, True
        y = ids[where] + 1
        labels[:, : ids.shape[1]][where] = y
    else:
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, :-1] = ids[:, 1:] >= 0
        y = ids[:, 1:][where[:, :-1]]
        labels[mask] = framed[mask]
    with torch.inference_mode():
        logits = model(ids, where)[0]
        ours = float(logits.cross_entropy(y))
        expected = float(whole(input_ids=framed, attention_mask=mask.long(), labels=labels).loss)
    assert ours == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_language_models_gradients_computed_again_are_the_same(starts, kind, monkeypatch):
    start = starts[kind]
    ids = batch_of(subwords_in_memory(make_reviews(9), tokenizer_of(start)))
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, 1:9:3] = True
    found, again, real = [], [], transformer.checkpoint
    monkeypatch.setattr(
        transformer, "checkpoint", lambda *a, **k: again.append(1) or real(*a, **k)
    )
    for most in (10**6, 2 * ids.shape[1] + 5):
        monkeypatch.setattr(transformer, "TRAINED_AT_A_TIME", most)
        model = build_language_model(start.shape).train()
        model.load_state_dict(start.weights)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        again.clear()
        loss = model(ids, where)[0].cross_entropy(ids[where])
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        assert len(again) == (0 if most == 10**6 else 5)
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_stay_tied_through_training_and_on_disk(starts, kind, tmp_path):
    start = starts[kind]
    model = build_language_model(start.shape)
    model.load_state_dict(start.weights)
    ids = batch_of(subwords_in_memory(["A great film."], tokenizer_of(start)))
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, 1] = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ids, where)[0].cross_entropy(ids[where]).backward()
    optimizer.step()
    tied = start.shape.model.get("tie_word_embeddings", True)
    about = Bundle("language model", start.shape, "en", start.vocab, tokenizer=start.tokenizer)
    save_bundle(tmp_path, model, about)
    loaded = load_language_model(load_bundle(tmp_path, "language model"))
    for each in (model, loaded):
        embeddings = each.encoder.get_input_embeddings().weight
        assert (each.decoder.weight is embeddings) == tied
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    again = read_transformer(tmp_path, str(tmp_path))
    assert again.shape == start.shape and again.tokenizer == start.tokenizer
    assert str(tmp_path) in again.origin and again.is_strong


# --------------------------------------------------------------------------------------- predictor
def saved_classifier(folder, start, **more):
    shape = replace(start.shape, **more)
    model = bold(build_classifier(shape, 3))
    labels = ["bad", "fair", "good"]
    about = dict(labels=labels, tokenizer=start.tokenizer)
    save_bundle(folder, model, Bundle("classifier", shape, "en", start.vocab, **about))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_does_not_depend_on_the_texts_beside_it(starts, kind, tmp_path):
    predictor = Predictor(saved_classifier(tmp_path, starts[kind]), "fp32")
    columns = ["p_bad", "p_fair", "p_good"]
    together = predictor.predict(TEXTS)
    assert np.allclose(together[columns].sum(axis=1), 1)
    for i, text in enumerate(TEXTS):
        alone = predictor.predict([text])
        assert np.allclose(alone[columns], together.loc[[i], columns], atol=1e-5), text
    backwards = predictor.predict(TEXTS[::-1])[columns].to_numpy()[::-1]
    assert np.allclose(backwards, together[columns], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2", "llama"])
def test_bf16_is_near_fp32(starts, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    folder = saved_classifier(tmp_path, starts[kind])
    exact, low = (Predictor(folder, p) for p in ("fp32", "bf16"))
    columns = ["p_bad", "p_fair", "p_good"]
    one, other = (each.predict(TEXTS)[columns].to_numpy() for each in (exact, low))
    assert 0 < np.abs(one - other).max() < 0.15
    # A neighbour changes sums in the last digits of bf16 alone.
    for i, text in enumerate(TEXTS):
        assert np.abs(low.predict([text])[columns].to_numpy() - other[i]).max() < 0.02, text
    # Angles of positions in bf16 would be off by a radian at the end of a long window.
    module = low._model[0].module
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any(b.dtype == torch.bfloat16 for b in module.buffers())


def test_int8_is_refused_for_a_transformer(starts, tmp_path):
    folder = saved_classifier(tmp_path, starts["bert"])
    with pytest.raises(SettingError, match="int8 is for AWD-LSTM.*transformer.*--precision auto"):
        Predictor(folder, "int8")


def test_typed_specials_are_text(starts, tmp_path):
    for kind in ("bert", *CAUSAL):
        predictor = Predictor(saved_classifier(tmp_path / kind, starts[kind]), "fp32")
        store = predictor.store(["[CLS] <s> [SEP] great <|endoftext|> [MASK] </s>"])
        specials = predictor.tokenizer.specials
        found = {starts[kind].vocab[i] for i in store.ids.tolist() if i in specials}
        assert found - {"[UNK]"} == {predictor.tokenizer.begin}, "what it has no piece for apart"
        assert (store.ids == starts[kind].shape.begin).sum() == 1
