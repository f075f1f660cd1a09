"""Trainings by several processes, which torchrun starts, beside the same ones by one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from tests import shared_training
from tests.conftest import made_store, reviews
from tests.small_runs import SMALL
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import RunFolderError, SettingError, WorkerError
from ulmfit_app.models.awd_lstm import build_classifier
from ulmfit_app.text.batches import ClassifierBatches, LanguageModelBatches
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.windows import Objective, WindowBatches
from ulmfit_app.training import data_parallel, following, loop, processes
from ulmfit_app.training.recipes import Phase

ROOT = Path(__file__).parent.parent


@contextmanager
def torchrun(n, *words):
    """n processes, which end with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n)]
    command += ["--standalone", *map(str, words)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, **pipes, env=environment)
    try:
        yield job
    finally:
        job.terminate()  # it ends its own, too
        job.communicate(timeout=60)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of the trainings by one process, and by three."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
        alone = shared_training.carry_out(folder / "one")
        patch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
        alone["cut"] = shared_training.train_lm(folder / "one-cut", epochs=1)
        (folder / "three").mkdir()
        with torchrun(3, "-m", "tests.shared_training", folder / "three", folder / "one-cut") as p:
            _, errors = p.communicate(timeout=150)
        assert p.returncode == 0, errors
        together = json.loads((folder / "three" / "results.json").read_text())
        alone["from three"] = shared_training.go_on(folder / "three" / "cut")
    return alone, together


def assert_close(found, expected, atol=1e-4):
    assert len(found["losses"]) == len(expected["losses"])
    np.testing.assert_allclose(found["losses"], expected["losses"], atol=atol)
    assert found["history"].keys() == expected["history"].keys()
    for name, values in found["history"].items():
        if name == "phase":
            assert values == expected["history"][name]
        else:
            rtol = 1e-3 if name == "grad_norm" else 0
            np.testing.assert_allclose(values, expected["history"][name], rtol, atol)
    for name, weights in found["weights"].items():
        np.testing.assert_allclose(weights, expected["weights"][name], atol=2e-3, err_msg=name)


def test_the_loss_after_200_steps_is_that_of_one_process(results):
    """Of 5 places, the three processes read 1, 2 and 2."""
    alone, together = results
    assert len(together["lm"]["losses"]) >= shared_training.STEPS
    assert min(together["lm"]["losses"]) < together["lm"]["losses"][0] - 0.05
    assert_close(together["lm"], alone["lm"])


def test_processes_without_a_place_to_read_change_nothing(results):
    alone, together = results
    assert_close(together["one place"], alone["one place"])


def test_in_bf16_the_losses_are_those_of_one_process_to_its_precision(results):
    alone, together = results
    assert_close(together["bf16"], alone["bf16"], atol=5e-3)


def test_a_classifier_learns_as_in_one_process(results):
    """Its batch normalisation, its regularised activations and its macro F1 included."""
    alone, together = results
    assert "macro_f1" in together["classifier"]["history"]
    assert_close(together["classifier"], alone["classifier"])


def test_a_classifier_learns_the_same_where_processes_have_no_text_of_a_batch(results):
    """Of two rows, normalisation leaves signs: later steps differ by what rounding does to
    them."""
    alone, together = (each["pairs"]["losses"] for each in results)
    assert len(together) == len(alone)
    np.testing.assert_allclose(together[:10], alone[:10], atol=1e-4)


def test_batch_normalisation_sees_the_rows_of_all_processes(results):
    found = results[1]["normalised"]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 2 + 50
    x.requires_grad_()
    layer = torch.nn.BatchNorm1d(3)
    out = layer(x)
    out.pow(3).sum().backward()
    for name, expected in (
        ("out", out), ("grad", x.grad), ("mean", layer.running_mean), ("var", layer.running_var)
    ):  # fmt: skip
        np.testing.assert_allclose(found[name], expected.detach(), atol=2e-4, err_msg=name)


def test_one_process_goes_on_from_the_checkpoint_of_three(results):
    alone, together = results
    cut = together["cut"]
    again = alone["from three"]
    assert again["losses"] == pytest.approx(cut["losses"][shared_training.CUT :], abs=1e-4)
    assert again["history"]["valid_loss"] == pytest.approx(cut["history"]["valid_loss"], abs=1e-4)
    assert again["history"]["train_loss"] == pytest.approx(cut["history"]["train_loss"], abs=1e-4)


def test_three_processes_go_on_from_the_checkpoint_of_one(results):
    alone, together = results
    whole, again = alone["cut"], together["from one"]
    assert again["losses"] == pytest.approx(whole["losses"][shared_training.CUT :], abs=1e-4)
    assert again["history"]["valid_loss"] == pytest.approx(
        whole["history"]["valid_loss"], abs=1e-4
    )


def test_as_many_processes_go_on_to_the_same_bit_with_dropout_too(results):
    whole, again = results[1]["dropped"], results[1]["dropped again"]
    assert again["losses"] == whole["losses"][shared_training.CUT :]
    assert again["weights"] == whole["weights"]


def test_each_process_draws_its_own_random_numbers(monkeypatch):
    state, drawn = torch.get_rng_state(), []
    for rank in (1, 2, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        data_parallel.draw_apart(state)
        drawn.append(torch.rand(1).item())
    torch.set_rng_state(state)
    first = torch.rand(1).item()
    assert drawn[0] == drawn[2] and len({first, *drawn}) == 3


def test_who_follows_draws_other_numbers_than_the_first(monkeypatch):
    drawn, state = [], torch.get_rng_state()
    sent = iter([(("a training",), state), None])
    monkeypatch.setattr(processes, "receive", lambda: next(sent))
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr(following, "train", lambda what: drawn.append((what, torch.rand(1))))
    following.follow()
    ((what, number),) = drawn
    torch.set_rng_state(state)
    assert what == "a training" and number != torch.rand(1)


def test_a_file_that_another_machine_does_not_see_is_named(monkeypatch):
    def receive():
        raise FileNotFoundError(2, "No such file", "/data/ids.bin")

    monkeypatch.setattr(processes, "receive", receive)
    with pytest.raises(RunFolderError, match=r"does not find /data/ids.bin.*same paths"):
        following.follow()


def test_the_first_process_says_when_a_checkpoint_is_due(monkeypatch):
    """Each has a clock of its own, and all have to take part."""
    monkeypatch.setattr(processes, "sum_up", lambda numbers: numbers)
    asked = []
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        asked.append([processes.agree(wish) for wish in (True, False)])
    assert asked == [[True, False], [False, False]]


# -------------------------------------------------------------------------------------- the shards
def batches_of(make, shard, epoch=1):
    batches = make()
    batches.shard, batches.epoch = shard, epoch
    return [(parts, batches.share) for parts in batches]


STORE = made_store([7, 3, 9, 12, 2, 30, 5, 8, 4, 6, 11])
OBJECTIVE = Objective(mask=4, specials=frozenset(range(9)))
LABELS = np.arange(11)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda shuffle: ClassifierBatches(STORE, range(11), LABELS, 5, shuffle=shuffle),
        lambda shuffle: LanguageModelBatches(STORE, range(11), 5, 4, shuffle=shuffle),
        lambda shuffle: WindowBatches(STORE, range(11), 3, 6, OBJECTIVE, shuffle=shuffle),
        lambda shuffle: WindowBatches(STORE, range(11), 3, 6, Objective(None), shuffle=shuffle),
    ],
    ids=["classifier", "language model", "masked windows", "windows"],
)
def test_processes_read_each_row_of_each_batch_once(make, shuffle, n):
    """And share it so that the means over their rows, weighted, are those over all."""
    (whole, parts) = (
        [batches_of(lambda: make(shuffle), (place, size)) for place in range(size)]
        for size in (1, n)
    )
    shares = np.array([[share for _, share in part] for part in parts if shuffle])
    if shuffle:  # in step, whoever has no row
        assert all(len(part) == len(whole[0]) for part in parts)
        np.testing.assert_allclose(shares.sum(axis=0), 1)
        # Of what the loss is the mean over: places, texts or predictions.
        sizes = np.array([[len(batch[-1]) for batch, _ in part] for part in parts])
        whole_sizes = [len(batch[-1]) for batch, _ in whole[0]]
        np.testing.assert_allclose(shares, np.where(shares, sizes, 0) / whole_sizes)
    expected = sorted(row for batch, _ in whole[0] for row in rows_of(batch))
    found = sorted(
        row for part in parts for batch, share in part if share for row in rows_of(batch)
    )
    assert found == expected


def rows_of(batch):
    """Rows as texts, with what belongs to each."""
    x, *where, y = batch
    if where:
        counts = where[0].sum(1).tolist()
        y = torch.split(y, counts)
    return [str((row[row >= 0].tolist(), each.tolist())) for row, each in zip(x, y, strict=True)]


def test_regularised_places_reach_to_the_longest_text_of_the_whole_batch():
    """Which another process may read: means over places are then of as many in each."""
    model = build_classifier(60, 2, shared_training.SHAPE, bptt=4)
    model[0].max_len = 15  # gradients reach over whole texts
    ids = torch.full((2, 15), PAD_ID)
    ids[:, :5] = 20
    _, outputs, _ = model.train()(ids)
    assert outputs.shape[:2] == (2, 15)
    assert outputs[:, :5].any(2).all() and not outputs[:, 5:].any()


def test_tokens_go_to_another_process_as_the_path_of_their_file(tmp_path):
    STORE.write(tmp_path)
    store = TokenStore.open(tmp_path).backward()
    sent = pickle.dumps(store)
    again = pickle.loads(sent)
    assert [each.tolist() for each in again] == [each.tolist() for each in store]
    assert isinstance(again.ids, np.memmap) and again.direction == "backward"
    assert pickle.loads(pickle.dumps(STORE)).ids.tolist() == STORE.ids.tolist()


# -------------------------------------------------------------------------------- the command line
WORDS = [
    "--model.emb-sz", "8", "--model.n-hid", "12", "--model.n-layers", "2", "--lm.batch-size", "4",
    "--lm.bptt", "10", "--lm.softmax", "exact", "--tokens.min-freq", "1", "--precision", "fp32",
    "--lm.random-lr", "2e-3",
]  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(reviews(600)["review"]))
    return path


def workers(launcher):
    """RANK -> process id, of the processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_text().split("\0")
        ranks = [line[5:] for line in environment if line.startswith("RANK=")]
        found |= {int(rank): int(child) for rank in ranks}
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for torchrun's children in /proc")
def test_a_killed_process_ends_all_and_the_same_command_goes_on(corpus, tmp_path, capsys):
    tokens = 40_000  # of so few that the loss still falls
    command = ["pretrain", corpus, *WORDS, "--lm.epochs", "50", "--lm.max-tokens", tokens]
    out = tmp_path / "models"
    with torchrun(2, "-m", "ulmfit_app", *command, "--out", out) as job:
        checkpoint = out / "corpus" / "checkpoint.safetensors"
        while not checkpoint.is_file() and job.poll() is None:
            time.sleep(0.02)
        os.kill(workers(job.pid)[1], signal.SIGKILL)
        said, errors = job.communicate(timeout=60)
    ours = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(ours) == 1 and "goes on from the last checkpoint" in ours[0]
    assert ours[0].startswith("Error: Another process of this training has ended")
    assert job.returncode == 1 and errors.count("Traceback") == 1  # torchrun's own
    assert said.count("Corpus: ") == said.count("rising rate, epoch 1") == 1
    done = [str(word) for word in command]
    assert cli.main([*done, "--out", str(out)]) == 0
    assert "going on from the checkpoint" in capsys.readouterr().out
    assert cli.main([*done, "--out", str(tmp_path / "alone")]) == 0
    rows = [
        (folder / "corpus" / "history.csv").read_text().splitlines()[-1].split(",")
        for folder in (out, tmp_path / "alone")
    ]
    assert float(rows[0][3]) == pytest.approx(float(rows[1][3]), abs=2e-4)


def test_a_run_by_two_processes_ends_with_a_report(csv, tmp_path):
    small = [word for word in SMALL if word != "8"]
    with torchrun(
        2, "-m", "ulmfit_app.run", csv, *small[:-1], "--classifier.batch-size", "9",
        "--out", tmp_path / "run", "--classifier.epochs", "2",
    ) as job:  # fmt: skip
        said, errors = job.communicate(timeout=150)
    assert job.returncode == 0, errors
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert said.count("Report: ") == said.count("Starting") == 1
    assert said.count("epoch 1: train loss") == 2  # of both models


def told(monkeypatch, rank):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", str(rank))):
        monkeypatch.setenv(name, value)


def test_a_verb_that_shares_no_training_is_refused_once(monkeypatch, capsys):
    told(monkeypatch, 0)
    assert cli.main(["predict", "runs/a b", "a text"]) == 2
    message = capsys.readouterr().err
    assert "torchrun started 2 processes, and predict has no training" in message
    assert "python -m ulmfit_app predict 'runs/a b' 'a text'" in message


@pytest.mark.parametrize(
    "words", [["predict", "RUN", "a text"], ["pretrain", "nowhere.txt"]], ids=["refused", "wrong"]
)
def test_the_table_of_torchrun_says_what_was_wrong(words, monkeypatch, tmp_path, capsys):
    told(monkeypatch, 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(processes, "join", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    code = cli.main(words)
    error = capsys.readouterr().err.strip()
    failure = ProcessFailure(0, 7, code, str(tmp_path / "error.json"))
    assert error.startswith("Error: ") and error in str(ChildFailedError("run", {0: failure}))


def test_the_other_processes_of_a_refused_verb_say_nothing(monkeypatch, capsys):
    told(monkeypatch, 1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.main(["predict", "runs/a b", "a text"]) == 0
    assert capsys.readouterr() == ("", "")


def test_pairs_of_a_batch_are_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    phases = (Phase("pairs", 1, 0, 1e-3, objective="pairs"),)
    with (
        pytest.raises(SettingError, match="plan contrastive compares all texts of a batch"),
        data_parallel.shared(None, phases, tmp_path, None),
    ):
        pass


def test_fewer_gpus_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="torchrun --nproc-per-node 1"):
        processes.join()


def test_a_collective_that_fails_says_what_to_do():
    def closed():
        raise RuntimeError(
            "[pair.cc:547] Read error [127.0.0.1]:2: Connection reset by peer. GLHF!\nmore"
        )

    said = r"ended \(Read error .*:2: Connection reset by peer\); torchrun .*same command"
    with pytest.raises(WorkerError, match=said):
        processes._try(closed)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_process_does(corpus, tmp_path):
    command = ["pretrain", str(corpus), *WORDS, "--lm.max-tokens", "20000"]
    with torchrun(2, "-m", "ulmfit_app", *command, "--out", tmp_path / "two") as job:
        _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    assert cli.main([*command, "--out", str(tmp_path / "one")]) == 0
    rows = [
        (tmp_path / name / "corpus" / "history.csv").read_text().splitlines()[-1].split(",")
        for name in ("two", "one")
    ]
    assert float(rows[0][3]) == pytest.approx(float(rows[1][3]), abs=1e-3)
