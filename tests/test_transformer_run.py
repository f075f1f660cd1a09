"""The whole way from a transformer: stages, resuming, the moved folder, explanations, refusals."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")

from tests.conftest import reviews
from tests.tiny_transformers import make_checkpoint, make_reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings
from ulmfit_app.errors import RunFolderError
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import STAGES
from ulmfit_app.training import loop, recipes
from ulmfit_app.training.recipes import Phase, Plan, count_epochs

pytestmark = pytest.mark.usefixtures("undrawn")

KINDS = ["bert", "gpt2"]
SMALL = [
    *("--text", "review", "--label", "sentiment", "--preset", "tiny", "--precision", "fp32"),
    *("--lm.batch-size", "8", "--classifier.epochs", "2"),
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Checkpoints of a BERT and a GPT-2, and a CSV of reviews, some longer than a window."""
    root = tmp_path_factory.mktemp("transformers")
    table = reviews(80)
    table.loc[::20, "review"] = [" ".join(make_reviews(9, seed)) for seed in range(4)]
    table.to_csv(root / "reviews.csv", index=False)
    for kind in KINDS:
        make_checkpoint(root / kind, kind, table["review"].tolist())
    return root


def command(root, kind, out, *more):
    start = ["--pretrained", str(root / kind)]
    return cli.main(["run", str(root / "reviews.csv"), "--out", str(out), *start, *SMALL, *more])


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """A finished run of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        for kind in KINDS:
            assert command(root, kind, root / f"run-{kind}") == 0
    return {kind: root / f"run-{kind}" for kind in KINDS}


def metrics_of(run) -> dict:
    return json.loads((run / "report" / "metrics.json").read_text("utf-8"))


def stages_done(run):
    return {name: (run / name / "stage.json").stat().st_mtime_ns for name in STAGES}


# ------------------------------------------------------------------------------------- the stages
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_through_all_stages_and_says_what_it_was(runs, kind):
    run, found = runs[kind], metrics_of(runs[kind])
    facts = found["facts"]
    kind_of = {"bert": "masked", "gpt2": "causal"}[kind]
    assert facts["language_model"]["shape"]["model"] == kind
    assert facts["language_model"]["shape"]["kind"] == kind_of
    assert f"the folder {run.parent / kind}" in facts["language_model"]["start"]
    name = "validation_perplexity" + ("_of_masked_tokens" if kind == "bert" else "")
    assert 1 < facts["language_model"][name] < 1_000
    page = (run / "report" / "report.html").read_text("utf-8")
    assert ("perplexity of masked tokens" in page) == (kind == "bert")
    window = {"bert": 64, "gpt2": 65}[kind]
    said = f"Longer than the {window} tokens that the model reads at once: 4 texts of 80 (5.0%"
    assert any(note.startswith(said) for note in facts["notes"]) and said in page
    assert f"recipe on {kind} on " in page
    assert {path.name for path in (run / "tokens").iterdir()} >= {"tokenizer.json", "ids.bin"}
    lm = load_bundle(run / "lm", "language model")
    classifier = load_bundle(run / "classifier", "classifier")
    assert lm.shape.kind == classifier.shape.kind == kind_of and lm.tokenizer
    assert lm.vocab_hash == classifier.vocab_hash and lm.tokenizer == classifier.tokenizer


def test_the_language_model_learns_for_as_many_epochs_as_were_asked_for(runs):
    """A transformer knows all of its tokens: no epoch for the embeddings alone comes first."""
    history = pd.read_csv(runs["bert"] / "lm" / "history.csv")
    assert history["phase"].tolist() == ["all groups"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_again_does_no_work(root, runs, kind, capsys):
    before = stages_done(runs[kind])
    assert command(root, kind, runs[kind]) == 0
    assert stages_done(runs[kind]) == before
    assert "Report: " in capsys.readouterr().out


def test_the_same_seed_gives_the_same_metrics(root, runs, tmp_path):
    assert command(root, "bert", tmp_path / "again") == 0
    one, other = (run / "report" / "metrics.json" for run in (runs["bert"], tmp_path / "again"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_its_record_reads_back(runs, kind):
    run = Run.open(runs[kind])
    start = run.record.directions[0].start
    assert isinstance(start.shape, TransformerShape) and start.is_strong
    again = type(start).from_facts(json.loads(json.dumps(start.facts())))
    assert again == replace(start, weights=None, vocab=None, tokenizer="")
    assert all(run.is_finished(name) for name in STAGES)
    assert run.record.directions[0].plan.name == "full"


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_run_predicts_the_same_without_its_start(root, runs, kind, tmp_path, monkeypatch):
    texts = [*reviews(6, seed=5)["review"], "", " ".join(make_reviews(12))]
    expected = load_predictor(runs[kind], "fp32").predict(texts)
    shutil.copytree(runs[kind], tmp_path / "moved")
    hidden = root / f"hidden-{kind}"
    (root / kind).rename(hidden)
    try:
        moved = load_predictor(tmp_path / "moved", "fp32").predict(texts)
        pd.testing.assert_frame_equal(moved, expected)
        before = stages_done(runs[kind])
        assert Run.open(runs[kind]).carry_out().is_file()
        assert stages_done(runs[kind]) == before
    finally:
        hidden.rename(root / kind)


def test_a_changed_start_is_refused_before_anything_is_trained_from_it(root, tmp_path):
    shutil.copytree(root / "bert", tmp_path / "bert")
    settings = settings_of(root, tmp_path / "bert")
    run = begin(tmp_path / "run", settings)
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    changed = config | {"layer_norm_eps": 0.1}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(RunFolderError, match="has changed since this run was planned.*--out"):
        run.carry_out("lm")


def test_a_run_of_a_transformer_starts_another_run(root, runs, tmp_path):
    settings = settings_of(root, runs["gpt2"])
    run = begin(tmp_path / "run", replace(settings, lm=replace(settings.lm, epochs=0)))
    start = run.record.directions[0].start
    assert f"the bundle {runs['gpt2'] / 'lm'}, which started from the folder" in start.origin
    run.carry_out("lm")
    one, other = (
        load_bundle(each / "lm", "language model") for each in (runs["gpt2"], run.folder)
    )
    assert one.shape == other.shape and one.tokenizer == other.tokenizer
    assert one.weights.name == other.weights.name, "of no epochs, the weights are the same"
    history = pd.read_csv(run.folder / "lm" / "history.csv")
    assert history["phase"].tolist() == ["not trained"]


# --------------------------------------------------------------------------------------- resuming
def settings_of(root, start, **classifier):
    return replace(
        TINY,
        data=DataSettings(source=str(root / "reviews.csv"), text="review", label="sentiment"),
        lm=replace(TINY.lm, pretrained=str(start), epochs=2, batch_size=8),
        classifier=replace(TINY.classifier, epochs=None, **classifier),
        precision="fp32",
    )


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_any_stage_or_phase_it_ends_with_the_same_weights(
    root, kind, tmp_path, monkeypatch
):
    phases = (
        Phase("pairs", 1, 0, 1e-3, objective="pairs"),
        Phase("head", 1, -1, 2e-2),
        Phase("all groups", 1, 0, 4e-4),
    )
    small = Plan("contrastive", phases, 0.5)
    monkeypatch.setitem(recipes.PLANS, "contrastive", lambda n_groups: small)
    settings = settings_of(root, root / kind, plan="contrastive")
    seen, limit = [], []
    real = loop._Progress.after_batch

    def counted(self):
        is_last = self.training and limit and len(seen) + 1 == limit[0]
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1 if is_last else 1e9)
        real(self)
        if self.training:
            seen.append((self.job.settings.section, self.job.phase.name))
            if limit and len(seen) == limit[0]:
                raise Killed

    monkeypatch.setattr(loop._Progress, "after_batch", counted)

    def weights(folder):
        return [load_bundle(folder / name, what).weights.name for name, what in
                (("lm", "language model"), ("classifier", "classifier"))]  # fmt: skip

    begin(tmp_path / "whole", settings).carry_out("classifier")
    steps = list(seen)
    moments = {step: i for i, step in enumerate(steps, start=1)}  # the last step of each
    assert list(moments) == [
        ("lm", "all groups"), ("classifier", "pairs"), ("classifier", "head"),
        ("classifier", "all groups"),
    ]  # fmt: skip
    killed = tmp_path / "killed"
    n_seen = 0
    for last in list(moments.values())[: 4 if kind == "bert" else 2]:
        # Whatever is left to do begins behind the step that was killed last.
        seen.clear()
        limit[:] = [last - 3 - n_seen]
        with pytest.raises(Killed):
            begin(killed, settings).carry_out("classifier")
        n_seen = last - 3
        assert steps[n_seen - 1] == seen[-1]
    limit.clear()
    begin(killed, settings).carry_out("classifier")
    assert weights(killed) == weights(tmp_path / "whole")
    histories = [pd.read_csv(each / "classifier" / "history.csv").drop(columns="seconds")
                 for each in (killed, tmp_path / "whole")]  # fmt: skip
    pd.testing.assert_frame_equal(*histories)


# --------------------------------------------------------------------------------------- the plan
def test_few_labels_are_planned_by_pairs_and_a_bound_in_tokens_holds(root):
    settings = settings_of(root, root / "bert")
    loose = replace(settings.classifier, max_tokens=None)
    record = plan_run(replace(settings, classifier=loose)).record
    assert record.directions[0].plan.name == "contrastive" and record.lm_epochs == 2
    assert record.counts["train"] == 58
    for max_tokens in (300_000, 60_000, 20_000, 5_000):
        planned = plan_run(
            replace(settings, classifier=replace(settings.classifier, max_tokens=max_tokens))
        )
        plan, n = planned.record.directions[0].plan, planned.record.counts["train"]
        table, split = planned.corpus.table, planned.selection.split
        characters = table["text"][split == "train"].str.len().sum()
        passes = -(-30 // -(-n // 16))
        assert characters / 5 * passes * count_epochs(plan) < 1.3 * max_tokens or n == 2
        assert plan.phases[0].lr < 1e-3, "rates of a transformer"


def test_minutes_are_fitted_with_the_passes_that_an_epoch_makes(root, monkeypatch):
    from ulmfit_app.pipeline import budget, plan

    asked = []
    real = budget.fit_settings
    monkeypatch.setattr(plan, "fit_settings", lambda *a: asked.append(a) or real(*a))
    settings = settings_of(root, root / "gpt2")
    record = plan_run(settings, minutes=3).record
    assert asked[0][-1] == -(-30 // -(-58 // 16)) == 8
    assert record.settings.classifier.max_tokens and record.settings.lm.max_tokens


# ------------------------------------------------------------------------------------- explaining
TEXT = "A <b>wonderful</b> film 🙂, unforgettable café; not clumsy."


def log_odds(predictor, text, label):
    row = predictor.predict([text]).iloc[0]
    # Not 1 - p: near 1, all of it would be rounding.
    others = sum(row[f"p_{other}"] for other in predictor.labels if other != label)
    return np.log(row[f"p_{label}"] / others)


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_belong_to_the_words_that_the_user_typed(runs, kind, method):
    predictor = load_predictor(runs[kind], "fp32")
    found = explain(predictor, TEXT, method, "pos")
    words = found.words["word"].tolist()
    # Subwords of one word are one word.
    assert {"wonderful", "film", "unforgettable", "café", "clumsy", "not"} <= set(words)
    n_tokens = len(predictor.tokenizer(TEXT))
    assert len(words) < n_tokens - 5, "words of several tokens are there"
    for row in found.words.itertuples():
        assert TEXT[row.start : row.stop] == row.word
    assert (found.words["start"].to_numpy()[1:] >= found.words["stop"].to_numpy()[:-1]).all()
    assert found.probability == pytest.approx(predictor.predict([TEXT])["p_pos"][0], abs=1e-6)
    assert "<b>wonderful" not in found.html() and found.words["score"].abs().max() > 0


def test_occlusion_is_the_fall_of_the_log_odds_without_the_words_tokens(runs):
    for kind in KINDS:
        predictor = load_predictor(runs[kind], "fp32")
        text = "A superb film , and a tedious plot"
        found = explain(predictor, text, "occlusion", "pos")
        for row in found.words[1:].itertuples():
            without = text[: row.start].rstrip() + text[row.stop :]  # the space is the token's
            expected = log_odds(predictor, text, "pos") - log_odds(predictor, without, "pos")
            assert row.score == pytest.approx(expected, abs=1e-3), row.word


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_by_the_inputs_of_transformers_model(runs, kind):
    predictor = load_predictor(runs[kind], "fp32")
    text = "A superb film, and a tedious plot."
    store = predictor.store([text])
    log_p, embedded, _ = predictor.differentiable(store)["forward"]
    (ours,) = torch.autograd.grad(log_p[1], embedded)
    encoder, head = predictor._model
    shape = predictor.bundle.shape
    ids = torch.tensor([[*store[0].tolist(), *shape.end]])
    inputs = encoder.module.get_input_embeddings()(ids).detach().requires_grad_()
    states = encoder.module(inputs_embeds=inputs).last_hidden_state
    theirs = head.layers(states.mean(1)).double().log_softmax(1)[0, 1]
    assert float(log_p[1].detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    (expected,) = torch.autograd.grad(theirs, inputs)
    n = len(store[0])
    assert torch.allclose(ours[0], expected[0, :n], atol=1e-6)
    assert ours.abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_scores_by_gradients_sum_to_what_the_text_adds_to_padding(runs, kind):
    """The axiom of integrated gradients (Sundararajan et al. 2017, proposition 1). The gradient
    times the embedding sums to nothing of the kind behind a layer normalisation."""
    predictor = load_predictor(runs[kind], "fp32")
    text = "A superb film, and a tedious plot."
    found = explain(predictor, text, "gradient", "pos")
    store, odds = predictor.store([text]), []
    for share in (0.0, 1.0):
        log_p = (
            predictor.differentiable(store, share)["forward"][0] / predictor.decision.temperature
        )
        odds.append(float((log_p[1] - log_p[0]).detach()))
    assert abs(odds[1] - odds[0]) > 1e-3
    assert found.words["score"].sum() == pytest.approx(odds[1] - odds[0], rel=0.05, abs=1e-3)


def test_gradients_reach_over_a_text_of_several_windows(runs):
    predictor = load_predictor(runs["bert"], "fp32")
    found = explain(predictor, " ".join(make_reviews(12)), "gradient", "pos")
    assert (found.words["score"] != 0).mean() > 0.95


# -------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bidirectional"], "--bidirectional is for AWD-LSTMs: .* one direction alone"),
        (["--tokens.max-vocab", "9000"], "--tokens.max-vocab is an AWD-LSTM's.*own tokens"),
        (["--tokens.min-freq", "2"], "--tokens.min-freq is an AWD-LSTM's.*own tokens"),
        (["--model.n-hid", "20"], "--model.n-hid is an AWD-LSTM's.*own shape"),
        (["--lm.lr", "0.1"], "--lm.lr is an AWD-LSTM's.*--lm.transformer-lr"),
        (["--lm.frozen-lr", "0.1"], "--lm.frozen-lr is an AWD-LSTM's.*--lm.transformer-lr"),
        (["--lm.random-lr", "0.1"], "--lm.random-lr is an AWD-LSTM's.*--lm.transformer-lr"),
        (["--lm.drop-mult", "0.5"], "--lm.drop-mult is an AWD-LSTM's.*dropouts"),
        (["--lm.bptt", "9"], "--lm.bptt is an AWD-LSTM's.*window"),
        (["--lm.softmax", "sampled"], "--lm.softmax is an AWD-LSTM's.*softmax"),
        (["--classifier.recompute", "yes"], "--classifier.recompute is an AWD-LSTM's"),
    ],
)
def test_what_a_transformer_has_no_use_for_is_refused(root, tmp_path, capsys, options, message):
    assert command(root, "bert", tmp_path / "run", *options) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Leave it out" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--classifier.groups", "3"],
        ["--classifier.pooling", "concat"],
        ["--classifier.adapter", "lora"],
        ["--lm.transformer-lr", "1e-4"],
    ],
)
def test_what_only_a_transformer_uses_is_refused_with_an_awd_lstm(root, tmp_path, capsys, options):
    csv = str(root / "reviews.csv")
    small = ["--out", str(tmp_path / "run"), "--preset", "tiny"]
    assert cli.main(["run", csv, *small, *options]) == 2
    said = capsys.readouterr().err
    assert f"{options[0]} is for transformers, and the start here, none, is an AWD-LSTM" in said


def test_a_transformer_is_not_pretrained_here(root, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("A text.\n" * 50)
    start = ["--pretrained", str(root / "bert"), "--out", str(tmp_path / "model")]
    assert cli.main(["pretrain", str(tmp_path / "corpus.txt"), *start]) == 2
    said = capsys.readouterr().err
    assert "--pretrained names a transformer" in said and "stage one is for AWD-LSTMs" in said
    assert "python -m ulmfit_app" in said


def test_int8_is_refused_in_a_sentence(runs, capsys):
    assert cli.main(["predict", str(runs["bert"]), "A film.", "--precision", "int8"]) == 2
    assert "int8 is for AWD-LSTM" in capsys.readouterr().err


def test_the_language_of_the_texts_is_still_asked_for(root):
    settings = settings_of(root, root / "bert")
    tokens = replace(settings.tokens, language="de")
    assert plan_run(replace(settings, tokens=tokens)).record.settings.tokens.language == "de"


def test_pooling_and_groups_are_the_classifiers(root, tmp_path):
    settings = settings_of(root, root / "bert", plan="last", pooling="concat", groups=2)
    settings = replace(settings, lm=replace(settings.lm, epochs=0))
    settings = replace(settings, classifier=replace(settings.classifier, epochs=1))
    run = begin(tmp_path / "run", settings)
    run.carry_out("classifier")
    bundle = load_bundle(tmp_path / "run" / "classifier", "classifier")
    assert (bundle.shape.pooling, bundle.shape.groups) == ("concat", 2)
    # The plan trained the head alone.
    lm = load_bundle(tmp_path / "run" / "lm", "language model")
    from safetensors.torch import load_file

    before, after = load_file(lm.weights), load_file(bundle.weights)
    below = {k.removeprefix("whole.bert."): v for k, v in before.items() if "whole.bert." in k}
    found = {k.removeprefix("0.module."): v for k, v in after.items() if k.startswith("0.")}
    assert found and all(torch.equal(below[name], value) for name, value in found.items())
    assert after["1.layers.2.weight"].shape == (2, 96)
