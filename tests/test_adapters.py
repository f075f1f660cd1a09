"""Adapters beside a transformer's weights, from one layer to a run's folder."""

import json
import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import reviews
from tests.test_training import interrupted
from tests.tiny_transformers import KINDS, make_checkpoint, make_reviews
from ulmfit_app.config import ClassifierSettings, DataSettings, ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.models import adapters
from ulmfit_app.models.adapters import VIRTUAL_TOKENS, hash_base, require_place, with_adapter
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, unique_tensors
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.transformer import (
    blocks_of,
    build_classifier,
    build_language_model,
    is_of_adapter,
    parameter_groups,
)
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.text.store import OF_SUBWORDS, TokenStore
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.training import classifier, loop, transformer
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import Phase, Plan
from ulmfit_app.training.transformer import classifier_shape, count_parameters

pytestmark = pytest.mark.usefixtures("undrawn")

ADAPTERS = ["lora", "ia3", "prompt"]


@pytest.fixture(scope="module")
def start_of(tmp_path_factory):
    """The start of a tiny transformer of a kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda kind: find_start(str(make_checkpoint(folder / kind, kind)), NO_LSTM))


NO_LSTM = ModelSettings()


def encoder_of(start):
    model = build_language_model(start.shape)
    model.load_state_dict(start.weights)
    return model.encoder


def classifier_of(start, adapter, **settings):
    how = ClassifierSettings(adapter=adapter, **settings)
    shape = classifier_shape(start.shape, how)
    torch.manual_seed(1)
    module = with_adapter(encoder_of(start), shape)
    return build_classifier(shape, 2, module).eval(), shape, how


def padded(shape, *lengths):
    """Random texts of the given lengths."""
    ids = torch.randint(5, 60, (len(lengths), max(lengths)))
    ids[:, 0] = shape.begin
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = OF_SUBWORDS
    return ids


# ------------------------------------------------------------------------------------ the modules
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_read_as_it_is_alone_and_as_its_embeddings(start_of, kind, adapter):
    model, shape, _ = classifier_of(start_of(kind), adapter, pooling="concat")
    ids = padded(shape, 150, 20, 3)  # the first is read in windows
    with torch.inference_mode():
        together = model(ids)[0]
        for row, length in enumerate((150, 20, 3)):
            alone = model(ids[row : row + 1, :length])[0][0]
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-6)
        encoder, head = model
        as_embeddings = head(encoder(ids, encoder.embed(ids.clamp_min(0))))[0]
    torch.testing.assert_close(as_embeddings, together, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_groups_hold_the_adapter_and_the_head_and_nothing_of_the_base(start_of, kind, adapter):
    model, shape, how = classifier_of(start_of(kind), adapter)
    groups = parameter_groups(model[0].module, shape, model[1].parameters())
    assert len(groups) == shape.count_groups(how) == {"prompt": 2}.get(adapter, 5)
    names = {id(each): name for name, each in model.named_parameters()}
    learning = {names[id(each)] for group in groups for each in group}
    assert {name for name in names.values() if is_of_adapter(name)} == {
        name for name in learning if name.startswith("0.")
    }
    assert [names[id(each)] for each in groups[-1]] == [
        name for name in names.values() if name.startswith("1.")
    ]
    # What a bundle holds is what learns.
    assert set(unique_tensors(model)) == learning


def test_fewer_groups_hold_more_blocks(start_of):
    model, shape, how = classifier_of(start_of("bert"), "lora", groups=2)
    groups = parameter_groups(model[0].module, shape, model[1].parameters())
    assert len(groups) == shape.count_groups(how) == 3
    # In each block, A and B of 4 layers of 32 x 32 and 2 of 32 x 64, at rank 8.
    per_block = 8 * (4 * (32 + 32) + 2 * (32 + 64))
    assert [sum(map(torch.numel, group)) for group in groups[:2]] == [2 * per_block] * 2


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_begins_at_the_model_as_it_came(start_of, kind, adapter):
    plain, shape, _ = classifier_of(start_of(kind), None)
    model, _, _ = classifier_of(start_of(kind), adapter)
    ids = padded(shape, 90, 20, 3)
    with torch.inference_mode():
        as_it_came, now = plain[0](ids)[0], model[0](ids)[0]
    torch.testing.assert_close(now, as_it_came, rtol=1e-5, atol=1e-6)
    assert hash_base(model[0].module) == hash_base(plain[0].module)


@pytest.mark.parametrize("kind, layer", [("bert", "attention.self.query"), ("gpt2", "mlp.c_fc")])
def test_lora_adds_the_papers_product(start_of, kind, layer):
    """h = W x + (alpha / r) B A x, with alpha 16 and r 8; GPT-2 holds W transposed."""
    model, _, _ = classifier_of(start_of(kind), "lora")
    changed = blocks_of(model[0].module)[1][1].get_submodule(layer)
    a, b = changed.lora_A.default.weight, changed.lora_B.default.weight
    torch.nn.init.normal_(b)
    x = torch.randn(5, a.shape[1])
    with torch.inference_mode():
        expected = changed.base_layer(x) + 16 / 8 * (b @ a @ x.T).T
        torch.testing.assert_close(changed(x), expected, rtol=1e-4, atol=1e-4)
    assert a.shape[0] == 8 == b.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_ia3_multiplies_keys_values_and_inner_activations(start_of, kind):
    model, _, _ = classifier_of(start_of(kind), "ia3")
    scaled = {
        name.partition(".ia3_l")[0].rpartition(".")[2]: each.numel()
        for name, each in blocks_of(model[0].module)[1][0].named_parameters()
        if "ia3_l" in name
    }
    assert scaled == {
        "distilbert": {"k_lin": 32, "v_lin": 32, "lin2": 64},
        "modernbert": {"Wqkv": 96, "Wo": 64},
        "gpt2": {"c_attn": 96, "c_proj": 128},
        "llama": {"k_proj": 32, "v_proj": 32, "down_proj": 64},
    }.get(kind, {"key": 32, "value": 32, "dense": 64})


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_soft_prompt_stands_before_the_text_and_is_not_pooled(start_of, kind):
    """Compared with the transformer itself, given the vectors in front of the embeddings."""
    model, shape, _ = classifier_of(start_of(kind), "prompt")
    encoder = model[0]
    prompt = encoder.module.prompt_encoder.default.embedding.weight
    assert prompt.shape == (VIRTUAL_TOKENS, 32)
    base = encoder.module.base_model
    words = base.get_input_embeddings().weight
    assert all((words == vector).all(1).any() for vector in prompt), "it begins as tokens"
    torch.nn.init.normal_(prompt)
    ids = padded(shape, 12)
    framed = torch.cat([ids, torch.tensor([shape.end], dtype=torch.long)], 1)
    with torch.inference_mode():
        whole = torch.cat([prompt[None], words[framed]], 1)
        states = base(inputs_embeds=whole).last_hidden_state[0]
        expected = states[VIRTUAL_TOKENS:].mean(0)
        torch.testing.assert_close(encoder(ids)[0][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_a_soft_prompt_takes_positions_from_the_window(start_of, kind):
    start = start_of(kind)
    model, shape, _ = classifier_of(start, "prompt")
    assert shape.window == start.shape.window - VIRTUAL_TOKENS
    assert classifier_of(start, "lora")[1].window == start.shape.window
    with torch.inference_mode():
        assert model(padded(shape, 400))[0].isfinite().all()


def test_an_adapter_that_finds_no_place_is_told(start_of, monkeypatch):
    start = start_of("bert")
    monkeypatch.setattr(adapters, "_feed_forward", adapters.re.compile("no such name"))
    with pytest.raises(SettingError, match="'ia3' finds no place in the blocks of a bert.*prompt"):
        classifier_of(start, "ia3")


def test_without_peft_the_extra_is_named(start_of, monkeypatch):
    start = start_of("bert")
    found = adapters.importlib.util.find_spec
    monkeypatch.setattr(
        adapters.importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
    )
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[transformers\]'"):
        classifier_of(start, "lora")
    classifier_of(start, None)


def test_what_is_wrong_with_an_adapter_is_told_before_anything_is_trained(
    start_of, tmp_path, monkeypatch
):
    for kind in KINDS:
        for adapter in (None, *ADAPTERS):
            how = ClassifierSettings(adapter=adapter)
            require_place(classifier_shape(start_of(kind).shape, how))
    monkeypatch.setattr(adapters, "_feed_forward", adapters.re.compile("no such name"))
    job = begin(tmp_path / "run", run_settings(tmp_path, "bert", "ia3", 1))
    with pytest.raises(SettingError, match="finds no place"):
        job.carry_out()
    assert not (tmp_path / "run" / "lm").exists()


# ---------------------------------------------------------------------------------------- training
PLAN = Plan("short", (Phase("upper", 1, 3, 2e-2), Phase("all groups", 2, 0, 1e-2)), drop_mult=1.0)


def learner_of(start, folder, adapter="lora"):
    tokenizer = SubwordTokenizer(start.tokenizer, start.vocab[start.shape.begin])
    ids = tokenizer.ids(make_reviews(30))
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
    store = TokenStore(np.concatenate(ids), offsets, start.vocab, "forward", OF_SUBWORDS)
    model = build_language_model(start.shape)
    model.load_state_dict(start.weights)
    about = Bundle("language model", start.shape, "en", start.vocab, tokenizer=start.tokenizer)
    save_bundle(folder / "lm", model, about)
    lm = load_bundle(folder / "lm", "language model")
    labels = np.arange(30) % 2
    how = ClassifierSettings(batch_size=8, adapter=adapter)
    parts = (np.arange(24), labels[:24]), (np.arange(24, 30), labels[24:])
    seed_everything(3)
    learn = classifier.make_learner(store, *parts, 2, lm, PLAN, how, "fp32", seed=3)
    return learn, classifier.training_settings(how, "forward", "k")


def train_on(start, adapter, folder, plan=PLAN):
    learn, how = learner_of(start, folder, adapter)
    return learn, train(learn, plan.phases, folder, how)


def copied(model):
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_adapter_and_the_head_learn_and_the_base_stays_to_the_bit(start_of, adapter, tmp_path):
    learn, how = learner_of(start_of("bert"), tmp_path, adapter)
    before = copied(learn.model)
    train(learn, PLAN.phases[1:], tmp_path, how)
    changed = {
        name for name, part in learn.model.state_dict().items() if not part.equal(before[name])
    }
    assert changed == set(unique_tensors(learn.model))
    learn.unfreeze()
    own = unique_tensors(learn.model)
    for name, parameter in learn.model.named_parameters():
        assert parameter.requires_grad == (name in own), name


def test_a_frozen_group_of_an_adapter_does_not_learn(start_of, tmp_path):
    learn, how = learner_of(start_of("bert"), tmp_path)
    before = copied(learn.model)
    train(learn, PLAN.phases[:1], tmp_path, how)
    changed = {
        name for name, part in learn.model.state_dict().items() if not part.equal(before[name])
    }
    blocks = {name.split(".layer.")[1][0] for name in changed if name.startswith("0.")}
    assert blocks == {"3"}, "of groups 0 to 4 the last two: the fourth block, and the head"
    upper = Plan("upper", PLAN.phases[:1], 1.0)
    own = unique_tensors(learn.model)
    assert count_parameters(learn, upper)["trained_parameters"] == sum(
        part.numel() for name, part in own.items() if ".layer.3." in name or name[0] == "1"
    )
    assert count_parameters(learn, PLAN) == {
        "trained_parameters": sum(part.numel() for part in own.values()),
        "parameters": sum(part.numel() for part in learn.model.parameters()),
    }


def test_the_normalisations_of_frozen_blocks_are_frozen(start_of, tmp_path):
    """fastai would let them learn: Learner(train_bn=True)."""
    learn, how = learner_of(start_of("bert"), tmp_path, None)
    before = copied(learn.model)
    train(learn, (Phase("head", 1, -1, 1e-2),), tmp_path, how)
    changed = {
        name for name, part in learn.model.state_dict().items() if not part.equal(before[name])
    }
    assert changed and all(name.startswith("1.") for name in changed)


def test_a_training_of_an_adapter_killed_anywhere_ends_with_the_same_weights(
    start_of, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)  # after every step
    monkeypatch.setattr(transformer, "passes_for", lambda *_: 1)
    job = partial(train_on, start_of("bert"), "lora")
    whole, history = job(tmp_path / "whole")
    per_epoch = len(whole.dls.train)
    for at in (2, per_epoch + 1, 3 * per_epoch - 1):
        resumed, _ = interrupted(job, tmp_path / str(at), monkeypatch, at)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (at, name)
    best = load_file(tmp_path / "whole" / "best.safetensors")
    assert set(best) == set(unique_tensors(whole.model))
    checkpoint = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    of_model = {name for name in checkpoint if name.startswith("model.")}
    assert of_model == {f"model.{name}" for name in best}


# ------------------------------------------------------------------------------------------- a run
def run_settings(folder: Path, kind: str, adapter: str, epochs: int):
    checkpoint = make_checkpoint(folder / kind, kind)
    # A name that leads nowhere from elsewhere.
    checkpoint = checkpoint if epochs else checkpoint.relative_to(folder)
    csv = folder / "reviews.csv"
    reviews(60).to_csv(csv, index=False)
    return replace(
        TINY,
        data=DataSettings(source=str(csv), text="review", label="sentiment"),
        lm=replace(TINY.lm, pretrained=str(checkpoint), epochs=epochs, batch_size=8),
        classifier=ClassifierSettings(plan="full", epochs=1, batch_size=16, adapter=adapter),
        precision="fp32",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of LoRA on a fine-tuned BERT, and one of a soft prompt on GPT-2 as it came;
    to be copied, not changed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        patch.setattr(transformer, "passes_for", lambda *_: 2)
        patch.setattr(report, "N_EXPLAINED", 1)
        for name, kind, adapter, epochs in (
            ("lora", "bert", "lora", 1),
            ("prompt", "gpt2", "prompt", 0),
        ):
            begin(folder / name, run_settings(folder, kind, adapter, epochs)).carry_out()
    return folder


def copy_of(finished, name, tmp_path) -> Path:
    return shutil.copytree(finished / name, tmp_path / "run")


TEXT = "a wonderful film with a dull story and superb actors"


@pytest.mark.parametrize("name", ["lora", "prompt"])
def test_a_run_stores_the_adapter_and_the_head_and_names_its_base(finished, name):
    classifier_folder = finished / name / "classifier"
    bundle = load_bundle(classifier_folder, "classifier")
    stored = load_file(bundle.weights)
    of_adapter = {each for each in stored if is_of_adapter(each)}
    assert of_adapter and {each for each in stored if each[0] == "1"} == set(stored) - of_adapter
    assert (
        bundle.shape.base["name"]
        == {
            "lora": "../lm",
            "prompt": str((finished / "gpt2").resolve()),
        }[name]
    )
    lm = load_file(load_bundle(finished / name / "lm", "language model").weights)
    n_stored, n_base = (sum(map(torch.numel, each.values())) for each in (stored, lm))
    assert n_stored < n_base / 2


@pytest.mark.parametrize("name", ["lora", "prompt"])
def test_the_report_says_how_many_parameters_learned(finished, name):
    metrics = json.loads((finished / name / "report" / "metrics.json").read_text())
    stored = load_file(load_bundle(finished / name / "classifier", "classifier").weights)
    learned = sum(map(torch.numel, stored.values()))
    assert metrics["facts"]["trained_parameters"] == learned
    model = load_predictor(finished / name)._model
    assert metrics["facts"]["parameters"] == sum(map(torch.numel, model.parameters()))
    page = (finished / name / "report" / "report.html").read_text()
    assert "<th>trained parameters</th>" in page and "<th>parameters</th>" in page


@pytest.mark.parametrize("name", ["lora", "prompt"])
def test_an_adapters_predictions_are_explained(finished, name):
    predictor = load_predictor(finished / name, "fp32")
    (p,) = predictor.probabilities(predictor.store([TEXT]))
    both = predictor.probabilities(predictor.store([TEXT, "dull"]))
    np.testing.assert_allclose(both[0], p, atol=1e-6)
    for method in ("occlusion", "gradient"):
        found = explain(predictor, TEXT, method=method)
        assert set(TEXT.split()) <= set(found.words["word"])
        assert (found.words["score"] != 0).all()


def test_a_moved_run_predicts_as_before_though_its_start_is_gone(finished, tmp_path):
    for name in ("lora", "prompt"):
        before = load_predictor(finished / name, "fp32").predict([TEXT])
        moved = shutil.copytree(finished / name, tmp_path / name)
        bundle = load_bundle(moved / "classifier", "classifier")
        hidden = Path(bundle.shape.base["name"])
        if hidden.is_absolute():
            hidden.rename(hidden.with_name("hidden"))
        try:
            assert load_predictor(moved, "fp32").predict([TEXT]).equals(before)
        finally:
            if hidden.is_absolute():
                hidden.with_name("hidden").rename(hidden)


def test_a_classifier_alone_finds_its_start_by_name(finished, tmp_path):
    alone = shutil.copytree(finished / "prompt" / "classifier", tmp_path / "alone")
    before = Predictor(finished / "prompt" / "classifier", "fp32").predict([TEXT])
    assert Predictor(alone, "fp32").predict([TEXT]).equals(before)


def test_an_adapter_whose_base_is_gone_is_refused(finished, tmp_path):
    run = copy_of(finished, "lora", tmp_path)
    shutil.rmtree(run / "lm")
    with pytest.raises(BundleError, match="lm, which is not there.*ulmfit_app.run DATA --out"):
        load_predictor(run)


def scale_weights(folder: Path) -> None:
    """Make another language model of the same shape."""
    bundle = load_bundle(folder, "language model")
    model = build_language_model(bundle.shape)
    model.load_state_dict(load_file(bundle.weights), strict=False)
    with torch.no_grad():
        next(model.encoder.parameters()).mul_(1.001)
    save_bundle(folder, model, bundle)


def test_an_adapter_whose_base_has_changed_is_refused_and_can_be_trained_again(finished, tmp_path):
    run = copy_of(finished, "lora", tmp_path)
    scale_weights(run / "lm")
    with pytest.raises(BundleError, match="not those that it was trained on.*classify "):
        load_predictor(run)
    mark = json.loads((run / "lm" / "stage.json").read_text())
    names = [path.name for path in (run / "lm").iterdir() if path.name != "stage.json"]
    mark["files"] = {name: (run / "lm" / name).stat().st_size for name in names}
    (run / "lm" / "stage.json").write_text(json.dumps(mark))
    Run.open(run).repeat("classifier")
    assert len(load_predictor(run).predict([TEXT])) == 1


def test_a_start_that_has_changed_is_refused(finished, tmp_path):
    alone = shutil.copytree(finished / "prompt" / "classifier", tmp_path / "alone")
    start = Path(load_bundle(alone, "classifier").shape.base["name"])
    kept = start.rename(start.with_name("kept"))
    try:
        with pytest.raises(BundleError, match=f"{start}, which is not there"):
            Predictor(alone)
        make_checkpoint(start, "gpt2", initializer_range=0.03)
        with pytest.raises(BundleError, match=f"{start}, whose weights are not those"):
            Predictor(alone)
    finally:
        shutil.rmtree(start, ignore_errors=True)
        kept.rename(start)


def test_other_settings_are_tried_beside_a_finished_adapter(finished, tmp_path):
    """The new classifier is made in RUN/next, on the language model in RUN/lm."""
    run = copy_of(finished, "lora", tmp_path)
    settings = Run.open(run).record.settings
    other = replace(settings, classifier=replace(settings.classifier, adapter="ia3"))
    before = Run.open(run).record.keys
    job = begin(run, other)
    assert job.record.keys["lm"] == before["lm"]
    assert job.record.keys["classifier"] != before["classifier"]
    job.carry_out("classifier")
    assert load_bundle(job.place("classifier"), "classifier").shape.adapter == "ia3"
    assert Predictor(job.place("classifier")).bundle.shape.base["name"] == "../lm"
    job.carry_out()
    assert load_predictor(run).bundle.shape.adapter == "ia3"
