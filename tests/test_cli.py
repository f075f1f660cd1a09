"""A mistake costs one message with the next command, an exit code of its class, no traceback."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import pytest

from tests.conftest import reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.cli import runs
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.used import check_used
from ulmfit_app.presets import PRESETS, PRETRAINING_PRESETS


def fails(capsys, *argv):
    """The exit code and the message of a command that must fail."""
    try:
        code = cli.main([str(word) for word in argv])
    except SystemExit as stop:  # the command line's own parser
        code = stop.code
    captured = capsys.readouterr()
    assert code
    assert "Traceback" not in captured.err + captured.out
    return code, " ".join(captured.err.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no file"),
        (b"", "empty"),
        (b"review,sentiment\n", "no rows"),
        (b"review\ngood\nbad\n", "Its columns are 'review'"),
        (b'review,sentiment\n"good,pos\nbad,neg\n', "line 2"),
        ("review,sentiment\nschön,pos\n".encode("latin-1"), "--encoding cp1252"),
        ("review,sentiment\ngood,pos\n".encode("utf-16"), "--encoding utf-16"),
        (b"review,sentiment\ngood,pos\nfine,pos\nwell,pos\n", "class"),
        (b"text;mood\ngood;pos\nbad;neg\n", "--text"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_message(tmp_path, capsys, content, words):
    path = tmp_path / "reviews.csv"
    if content is not None:
        path.write_bytes(content)
    code, message = fails(
        capsys,
        "run",
        path,
        "--preset",
        "tiny",
        "--text",
        "review",
        "--label",
        "sentiment",
        "--out",
        tmp_path / "r",
    )
    assert code == 3
    assert words in message


def test_an_unknown_setting_names_the_nearest(tmp_path, capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "tiny", "--lm.epoch", "3")
    assert code == 2
    assert "--lm.epochs" in message


def test_a_number_that_cannot_be_is_refused_by_its_flag(capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "tiny", "--lm.batch-size", "0")
    assert code == 2 and "--lm.batch-size must be more than 0, not 0" in message


def test_an_unknown_preset_and_an_unknown_verb_name_those_there_are(capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "huge")
    assert code == 2 and "laptop" in message
    code, message = fails(capsys, "train")
    assert code == 2 and "finetune" in message


@pytest.mark.parametrize(("name", "number"), [("config.json", 1), ("run.json", 0)])
def test_a_run_folder_of_another_format_is_left_alone(tmp_path, capsys, name, number):
    (tmp_path / "tokens").mkdir()
    (tmp_path / name).write_text(json.dumps({"format": number}))
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(capsys, "run", tmp_path / "r.csv", "--preset", "tiny", "--out", tmp_path)
    assert code == 5 and f"format {number}" in message and "--out" in message
    assert fails(capsys, "predict", tmp_path, "a text")[0] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["r.csv", "tokens", name])


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path, capsys):
    for verb in ("finetune", "classify", "report"):
        code, message = fails(capsys, verb, tmp_path)
        assert code == 5 and "python -m ulmfit_app.run" in message
    assert fails(capsys, "predict", tmp_path, "a text")[0] == 5


def test_a_run_json_is_taken_for_no_run_and_its_folder_is_named(tmp_path, capsys):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for argv in (["predict", "a text"], ["explain", "a text"], ["classify"]):
        code, message = fails(capsys, argv[0], folder / "run.json", *argv[1:])
        assert code == 5 and message.endswith(f"Name the folder of the run: '{folder}'")
    code, message = fails(capsys, "predict", __file__, "a text")
    assert code == 5 and message.endswith("Name the folder of the run.")
    argv = ["run", folder / "run.json", "--preset", "tiny", "--out", folder / "run.json"]
    code, message = fails(capsys, *argv)
    assert code == 5 and message.endswith(f"Name another: --out '{folder}/run.json-run'")


@pytest.mark.parametrize("content", ["{", '{"format": 3}'])
def test_a_run_that_cannot_be_read_is_answered_with_a_command_that_every_verb_may_name(
    tmp_path, capsys, content
):
    (tmp_path / "run.json").write_text(content)
    expected = f"new run{'' if content == '{' else ', if you like from its language model'}"
    expected += f": python -m ulmfit_app.run DATA --out {tmp_path}-new"
    for verb in (["predict", tmp_path, "a text"], ["report", tmp_path]):
        code, message = fails(capsys, *verb)
        assert code == 5 and expected in message


def test_predict_wants_texts_or_a_file(tmp_path, capsys):
    code, message = fails(capsys, "predict", tmp_path)
    assert code == 2 and "--file" in message


def test_a_pretrained_folder_that_is_not_there_is_a_model_error(tmp_path, capsys):
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(
        capsys,
        "run",
        tmp_path / "r.csv",
        "--preset",
        "tiny",
        "--pretrained",
        tmp_path / "none",
        "--out",
        tmp_path / "o",
    )
    assert code == 4 and "wt103, none, minilm, or a folder" in message


def test_a_language_without_a_tokenizer_is_a_setting_error(tmp_path, capsys):
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(
        capsys,
        "run",
        tmp_path / "r.csv",
        "--preset",
        "tiny",
        "--tokens.language",
        "qq",
        "--out",
        tmp_path / "o",
    )
    assert code == 2 and "--tokens.language" in message


def test_an_archive_that_is_none_has_an_exit_code_of_its_own(tmp_path, capsys):
    (tmp_path / "imdb.tgz").write_bytes(b"\x1f\x8b broken")
    code, _ = fails(
        capsys,
        "run",
        "imdb",
        "--data",
        tmp_path / "imdb.tgz",
        "--preset",
        "tiny",
        "--out",
        tmp_path / "o",
    )
    assert code == 9


def test_an_interruption_exits_with_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupt)
    code, message = fails(capsys, "run", "imdb")
    assert code == 130 and "same command continues" in message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_memory_that_is_used_up_exits_with_12_and_says_what_uses_less(capsys, monkeypatch, error):
    def use_up(argv):
        raise error

    monkeypatch.setattr(runs, "run", use_up)
    code, message = fails(capsys, "run", "imdb")
    assert code == 12 and "--classifier.recompute yes" in message


def test_another_error_of_torchs_is_no_lack_of_memory(monkeypatch):
    def fail(argv):
        raise RuntimeError("shape '[2]' is invalid")

    monkeypatch.setattr(runs, "run", fail)
    with pytest.raises(RuntimeError, match="shape"):
        cli.main(["run", "imdb"])


def test_torch_itself_says_that_it_cannot_allocate(capsys, monkeypatch):
    def use_up(argv):
        import torch

        torch.empty(1 << 60)

    monkeypatch.setattr(runs, "run", use_up)
    assert fails(capsys, "run", "imdb")[0] == 12


def test_a_reader_that_has_read_enough_costs_no_traceback():
    found = subprocess.Popen(
        [sys.executable, "-u", "-m", "ulmfit_app", "run", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found.stdout.close()
    errors = found.stderr.read()
    assert found.wait() == cli.BROKEN_PIPE and not errors


def test_the_kinds_of_experiments_are_listed_when_asked_for(capsys):
    assert cli.main(["experiment", "--help"]) == 0
    assert capsys.readouterr().out.split() == [
        word
        for kind in (
            *("ablation", "labels", "augment", "starts", "methods", "balance", "folds", "cross"),
            *("compress", "robustness", "counterfactuals", "drift"),
        )
        for word in ("python", "-m", "ulmfit_app", "experiment", kind, "--help")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("starts", ["--pretrained", "wt103"]),
        ("starts", ["--model.n-hid", "100"]),
        ("ablation", ["--classifier.plan", "full"]),
        ("ablation", ["--lm.lr", "0.1"]),
        ("ablation", ["--lm.random-lr", "0.1"]),
        ("folds", ["--fold", "2"]),
        ("labels", ["--max-labels", "50"]),
        ("balance", ["--classifier.balance", "focal"]),
        ("balance", ["--classifier.thresholds", "f1"]),
        ("balance", ["--costs", "costs.csv"]),
    ],
)
def test_what_an_experiment_compares_cannot_be_set(capsys, kind, option):
    code, message = fails(capsys, "experiment", kind, "trec6", "--preset", "laptop", *option)
    assert code == 2 and f"{option[0]} is what {kind} compares" in message


@pytest.mark.parametrize(
    "option",
    [
        ["--lm.schedule", "cosine"],
        ["--lm.decay", "2.6"],
        ["--lm.frozen-lr", "0.1"],
        ["--lm.test-texts"],
        ["--lm.lr-find"],
    ],
)
def test_what_pretraining_does_not_use_is_refused(capsys, option):
    code, message = fails(capsys, "pretrain", "corpus.txt", *option)
    assert code == 2 and f"{option[0]} is for fine-tuning, and pretraining does not use" in message


@pytest.mark.parametrize("verb", [["run"], ["pretrain"], ["experiment", "folds"]])
@pytest.mark.parametrize(
    ("start", "option", "words"),
    [
        ("none", ["--lm.lr", "0.1"], "their rate is --lm.random-lr"),
        ("en-small", ["--lm.random-lr", "0.1"], "the rate of such a start is --lm.lr"),
        ("en-small", ["--model.emb-sz", "100"], "en-small, which brings its own shape"),
    ],
)
def test_what_a_start_does_not_use_is_refused(capsys, verb, start, option, words):
    preset = [] if verb == ["pretrain"] else ["--preset", "paper"]
    code, message = fails(capsys, *verb, "data", *preset, "--pretrained", start, *option)
    assert code == 2 and message.startswith(f"Error: {option[0]} is for") and words in message


@pytest.mark.parametrize(
    "option",
    [
        *(["--lm.drop-mult", "0.3"], ["--lm.lr", "0.1"], ["--lm.decay", "2"]),
        *(["--lm.weight-decay", "0.3"], ["--lm.schedule", "cosine"], ["--lm.grad-clip", "1"]),
    ],
)
def test_a_language_model_of_no_epochs_has_no_settings_of_its_training(capsys, option):
    argv = ["run", "imdb", "--preset", "paper", "--pretrained", "en-small", "--lm.epochs", "0"]
    code, message = fails(capsys, *argv, *option)
    assert code == 2
    assert f"{option[0]} is for training the language model, which --lm.epochs 0" in message


def test_what_folds_replace_is_refused_and_a_fold_needs_folds(capsys):
    argv = ["run", "trec6", "--preset", "tiny"]
    code, message = fails(capsys, *argv, "--folds", "5", "--valid-share", "0.2")
    assert code == 2 and "--valid-share is not used with --folds" in message
    code, message = fails(capsys, *argv, "--fold", "2")
    assert code == 2 and "--fold is the number of one of --folds" in message


def test_pretraining_from_random_weights_names_the_rate_that_it_has(capsys):
    code, message = fails(capsys, "pretrain", "corpus.txt", "--lm.lr", "0.1")
    assert code == 2 and "--lm.lr is for a pretrained start, which --pretrained names" in message
    assert "--lm.random-lr" in message and "(--pretrained none)" not in message


def test_no_words_of_an_argument_stand_over_other_boxes_of_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    said = capsys.readouterr().out
    assert said.count("WikiExtractor's folder") == 1 and "How texts become ids." in said


def test_random_weights_have_no_epoch_with_the_encoder_frozen(capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "tiny", "--lm.frozen-lr", "0.1")
    assert code == 2 and "--lm.frozen-lr is for a pretrained start" in message


def with_lm(preset, **changes):
    return replace(preset, lm=replace(preset.lm, **changes))


def test_a_presets_own_values_are_no_complaint():
    pretraining = ("pretrain", PRETRAINING_PRESETS.values())
    kinds = ("run", "ablation", "labels", "starts", "folds")
    for verb, presets in [pretraining, *((kind, PRESETS.values()) for kind in kinds)]:
        for preset in presets:
            check_used(preset, preset, verb)
            if verb == "starts":
                continue
            for start in ("none", "en-small"):
                check_used(with_lm(preset, pretrained=start), preset, verb)


def test_what_some_runs_of_an_experiment_use_can_be_set():
    preset = PRESETS["laptop"]
    rates = with_lm(preset, lr=0.1, random_lr=0.1)
    shaped = replace(rates, model=replace(preset.model, n_hid=100))
    check_used(shaped, preset, "labels")  # has runs with and without pretraining
    check_used(rates, preset, "starts")
    check_used(with_lm(preset, pretrained="none", random_lr=0.1), preset, "run")
    check_used(with_lm(preset, pretrained="none", decay=2.6), preset, "run")
    check_used(with_lm(preset, pretrained="none", epochs=0, max_tokens=9, bptt=9), preset, "run")
    folded = replace(preset, data=replace(preset.data, folds=5, fold=2))
    check_used(folded, preset, "run")
    with pytest.raises(SettingError, match="--lm.lr is for a pretrained start"):
        check_used(with_lm(preset, pretrained="none", lr=0.1), preset, "labels")


def test_each_verb_has_its_function():
    for verb, name in cli.VERBS.items():
        module, _, function = name.partition(":")
        assert callable(getattr(import_module(module), function)), verb


def test_an_empty_text_is_not_explained(tmp_path, capsys):
    assert cli.main(["explain", str(tmp_path), " "]) == 2
    assert "The text is empty" in capsys.readouterr().err


WITHOUT_TORCH = """
import runpy, sys

class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("torch", "fastai"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "argv", "option"),
    [
        ("ulmfit_app.run", ["imdb", "--presett", "tiny"], "--preset"),
        ("ulmfit_app", ["run", "imdb", "--lm.epoch", "3"], "--lm.epochs"),
        ("ulmfit_app", ["experiment", "starts", "trec6", "--fromm", "en-small"], "--from"),
        ("ulmfit_app", ["pretrain", "corpus", "--lm.decay", "2"], "--lm.decay"),
        ("ulmfit_app", ["predict", "runs/x", "a text", "--fil", "x.csv"], "--file"),
        ("ulmfit_app", ["generate", "en-small", "--topk", "3"], "--top-k"),
    ],
)
def test_a_wrong_option_is_told_without_torch(module, argv, option):
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, module, *argv], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert option in found.stderr and "Traceback" not in found.stderr


def test_figures_are_drawn_without_a_screen_unless_the_environment_says_otherwise():
    code = (
        "import os, matplotlib; from ulmfit_app.cli.process import set_up_figures;"
        "set_up_figures(); print(matplotlib.get_backend().lower(), os.environ.get('MPLBACKEND'))"
    )
    for environment, expected in (({}, "agg None"), ({"MPLBACKEND": "svg"}, "svg svg")):
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | environment,
        )
        assert found.stdout.strip() == expected, found.stderr


# ------------------------------------------------------------------------- what threads wait for
WAITING = """
import json, os, sys
from ulmfit_app import __main__ as cli
before = "torch" in sys.modules
cli.main(["no-such-verb"])
print(json.dumps([before, os.environ.get("GOMP_SPINCOUNT")]))
"""


@pytest.mark.parametrize(
    ("given", "set_to"),
    [
        ({}, cli.WAITS["GOMP_SPINCOUNT"]),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_torchs_threads_do_not_wait_long_unless_the_user_says_otherwise(given, set_to):
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environ = {name: value for name, value in os.environ.items() if name not in ours} | given
    command = [sys.executable, "-c", WAITING]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    torch_was_there, waits = json.loads(done.stdout.splitlines()[-1])
    assert not torch_was_there, "its OpenMP has read the environment by then"
    assert waits == set_to
