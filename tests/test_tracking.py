"""What trackers are told, read back by TensorBoard's and MLflow's own readers."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import small_settings
from tests.small_runs import metrics, run
from tests.test_pretraining import lasting
from ulmfit_app.cli import process
from ulmfit_app.pipeline import tensorboard_tracker, tracker
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.pretraining import pretrain
from ulmfit_app.pipeline.run import begin
from ulmfit_app.pipeline.tracking import following, tracking
from ulmfit_app.presets import TINY

pytestmark = pytest.mark.usefixtures("undrawn")


def row(epoch, loss, **more):
    return {
        "phase": "all groups",
        "epoch": epoch,
        "train_loss": 2 * loss,
        "valid_loss": loss,
    } | more


def rows(n):
    return [row(i + 1, 1 / (i + 1)) for i in range(n)]


# ------------------------------------------------------------------------------------- TensorBoard
def scalars(folder):
    """Every number that lies in event files, also those that a reader would leave out: (name,
    step) -> values."""
    loaders = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in loaders.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" or value.tensor.float_val:
                    key = value.tag, event.step
                    found.setdefault(key, []).append(value.tensor.float_val[0])
    return found


def accumulated(folder):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return module.EventAccumulator(str(folder)).Reload()


def test_a_tracked_run_shows_its_history_in_tensorboard_and_is_the_same_run(csv, tmp_path):
    out, untracked = tmp_path / "tracked", tmp_path / "untracked"
    assert run(csv, out, "--track", "tensorboard") == 0
    assert run(csv, untracked) == 0
    assert metrics(out) == metrics(untracked)
    for stage, name in {"lm": "language-model", "classifier": "classifier"}.items():
        found, history = accumulated(out / "tensorboard" / name), read_history(out / stage)
        names = [column for column in history if column not in ("phase", "epoch")]
        assert sorted(found.Tags()["scalars"]) == sorted(names)
        for column in names:
            told = found.Scalars(column)
            assert [each.step for each in told] == list(range(1, len(history) + 1))
            assert [each.value for each in told] == pytest.approx(history[column].tolist())
    written = json.loads(metrics(out))["model"]
    test = accumulated(out / "tensorboard" / "test")
    assert test.Scalars("accuracy")[0].value == pytest.approx(written["accuracy"])
    (text,) = accumulated(out / "tensorboard" / "classifier").Tensors("settings/text_summary")
    assert b"| classifier.batch_size | 8 |" in text.tensor_proto.string_val[0]


def test_the_settings_are_hyperparameters_of_the_training_itself(tmp_path):
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    with following("tensorboard", tmp_path, "key", TINY) as watch:
        watch("Classifier", rows(1))
    (folder,) = [each for each in (tmp_path / "tensorboard").iterdir() if each.is_dir()]
    content = accumulated(folder).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    start = plugin.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["lm.lr"].string_value == json.dumps(TINY.lm.lr)


@pytest.mark.parametrize("cut", [0, 7, 60])
def test_a_training_killed_and_continued_writes_no_step_twice_and_leaves_none_out(tmp_path, cut):
    """Two epochs were written that the checkpoint has not, and of the file the end is lost."""
    with (
        pytest.raises(KeyboardInterrupt),
        following("tensorboard", tmp_path, "key", TINY) as watch,
    ):
        for n in range(6):
            watch("Classifier", rows(n))
        raise KeyboardInterrupt
    folder = tmp_path / "tensorboard" / "classifier"
    (file,) = folder.glob("events.*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
    time.sleep(1.1)  # the names of event files are of the second
    with following("tensorboard", tmp_path, "key", TINY) as watch:
        for n in (3, 4, 5, 6, 7):
            watch("Classifier", rows(n))
    found = scalars(folder)
    assert {key: len(values) for key, values in found.items()} == {
        (name, step): 1 for name in ("train_loss", "valid_loss") for step in range(1, 8)
    }
    told = accumulated(folder).Scalars("valid_loss")
    assert [each.value for each in told] == pytest.approx([1 / step for step in range(1, 8)])


def test_events_of_a_training_with_other_settings_are_forgotten(tmp_path):
    for key, n in (("one", 5), ("another", 2)):
        with following("tensorboard", tmp_path, key, TINY) as watch:
            watch("Classifier", rows(n))
    assert len(scalars(tmp_path / "tensorboard" / "classifier")) == 2 * 2


def test_a_run_that_was_finished_untracked_is_told_whole(csv, tmp_path):
    job = begin(tmp_path / "run", small_settings(csv))
    job.carry_out("lm")
    with tracking(job, "tensorboard"):
        job.carry_out("classifier")
    for stage, name in {"lm": "language-model", "classifier": "classifier"}.items():
        told = accumulated(tmp_path / "run" / "tensorboard" / name).Scalars("valid_loss")
        assert len(told) == len(read_history(tmp_path / "run" / stage))


def test_what_is_no_number_is_not_drawn(tmp_path):
    with following("tensorboard", tmp_path, "key", TINY) as watch:
        watch("Classifier", [row(1, 0.5, grad_norm=math.nan, warnings="gradients exploding")])
    names = {name for name, _ in scalars(tmp_path / "tensorboard" / "classifier")}
    assert names == {"train_loss", "valid_loss"}


# ----------------------------------------------------------------------------------- in both cases
class Unreachable:
    """A tracker that cannot be told for a while."""

    def __init__(self, kind, n):
        self.left, self.real = n, kind.write

    def __call__(self, its, *about):
        if self.left:
            self.left -= 1
            raise OSError(28, "No space left on device")
        self.real(its, *about)


def test_what_a_tracker_could_not_be_told_is_said_once_and_told_later(
    tmp_path, monkeypatch, caplog
):
    kind = tensorboard_tracker.TensorBoard
    failing = Unreachable(kind, 3)
    monkeypatch.setattr(kind, "write", lambda its, *about: failing(its, *about))
    with following("tensorboard", tmp_path, "key", TINY) as watch:
        for n in range(6):
            watch("Classifier", rows(n))
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert said == [
        "tensorboard could not be told (OSError: [Errno 28] No space left on device). The "
        "training goes on. What is missing is told with the next epoch, or when the same command "
        "is given again."
    ]
    steps = Counter(step for _, step in scalars(tmp_path / "tensorboard" / "classifier"))
    assert steps == dict.fromkeys(range(1, 6), 2)


def test_a_tracker_that_is_never_reached_costs_no_training(csv, tmp_path, monkeypatch, capsys):
    kind = tensorboard_tracker.TensorBoard
    monkeypatch.setattr(kind, "write", Unreachable(kind, -1).__call__)
    assert run(csv, tmp_path / "run", "--track", "tensorboard") == 0
    assert (tmp_path / "run" / "report" / "metrics.json").is_file()
    assert capsys.readouterr().out.count("could not be told") == 1


@pytest.mark.parametrize("verb", ["run", "distill", "pretrain"])
def test_a_missing_package_is_named_before_anything_is_done(
    csv, tmp_path, monkeypatch, capsys, verb
):
    from ulmfit_app import __main__ as cli

    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    command = {
        "run": ["run", str(csv), "--preset", "tiny"],
        "distill": ["distill", str(csv), "--preset", "tiny", "--teacher", str(tmp_path)],
        "pretrain": ["pretrain", str(csv)],
    }[verb]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--track", "mlflow"]) == 2
    printed = capsys.readouterr()
    assert "pip install 'ulmfit-app[mlflow]'" in printed.err
    assert "Starting" not in printed.out
    assert not (tmp_path / "out").exists()


def test_a_pretraining_is_tracked_in_its_models_folder_and_again_when_it_is_longer(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n".join(f"the plot of film {i} was dull and the end {i} ." for i in range(300))
    )
    folder, steps = tmp_path / "m", []
    for tokens in (6_000, 12_000):
        pretrain(corpus, folder, lasting(tokens), track="tensorboard")
        told = accumulated(folder / "tensorboard" / "language-model").Scalars("valid_loss")
        history = read_history(folder)
        assert [each.value for each in told] == pytest.approx(history["valid_loss"].tolist())
        steps.append(len(told))
    assert steps[0] < steps[1]


# ------------------------------------------------------------------------------------------ MLflow
@pytest.fixture
def client(tmp_path, monkeypatch):
    """Gives MLflow's own client of the store beside a run's folder, or of a server."""
    pytest.importorskip(
        "mlflow", reason="needs the extra mlflow: pip install 'ulmfit-app[mlflow]'"
    )
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in process.FOR_MLFLOW.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient

    return lambda uri=f"sqlite:///{tmp_path / 'mlflow.db'}": MlflowClient(uri)


def runs_in(client):
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    return [run for one in experiments for run in client.search_runs([one.experiment_id])]


def test_a_tracked_run_is_one_run_of_mlflow_with_settings_metrics_and_report(
    csv, tmp_path, client
):
    out = tmp_path / "my-run"
    assert run(csv, out, "--track", "mlflow") == 0
    (found,) = runs_in(client())
    assert (found.info.run_name, found.info.status) == ("my-run", "FINISHED")
    assert found.data.params["classifier.batch_size"] == "8"
    assert found.data.params["lm.pretrained"]
    history = read_history(out / "classifier")
    told = client().get_metric_history(found.info.run_id, "classifier/valid_loss")
    assert {each.step: each.value for each in told} == dict(
        enumerate(history["valid_loss"].tolist(), start=1)
    )
    assert found.data.metrics["test/accuracy"] == json.loads(metrics(out))["model"]["accuracy"]
    files = [each.path for each in client().list_artifacts(found.info.run_id)]
    assert files == ["metrics.json", "report.html"]
    # The same command adds nothing.
    assert run(csv, out, "--track", "mlflow") == 0
    (again,) = runs_in(client())
    assert len(client().get_metric_history(again.info.run_id, "classifier/valid_loss")) == len(
        told
    )
    assert len(client().get_metric_history(again.info.run_id, "test/accuracy")) == 1


def test_a_run_that_was_killed_goes_on_in_the_same_run_of_mlflow(tmp_path, client):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), following("mlflow", folder, "key", TINY) as watch:
        watch("Classifier", rows(3))
        raise KeyboardInterrupt
    (found,) = runs_in(client())
    assert found.info.status == "KILLED"
    with pytest.raises(ValueError, match="bad"), following("mlflow", folder, "key", TINY) as watch:
        watch("Classifier", rows(2))
        watch("Classifier", rows(4))
        (found,) = runs_in(client())
        assert found.info.status == "RUNNING"
        raise ValueError("bad")
    (found,) = runs_in(client())
    assert found.info.status == "FAILED"
    told = client().get_metric_history(found.info.run_id, "classifier/valid_loss")
    assert [each.step for each in told] == [1, 2, 3, 4]
    with following("mlflow", folder, "of other settings", TINY) as watch:
        watch("Classifier", rows(1))
    assert len(runs_in(client())) == 2


def test_a_server_that_does_not_answer_costs_no_training(
    csv, tmp_path, client, monkeypatch, capsys
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run(csv, tmp_path / "run", "--track", "mlflow") == 0
    assert (tmp_path / "run" / "report" / "metrics.json").is_file()
    assert capsys.readouterr().out.count("mlflow could not be told (MlflowException: API") == 1


@pytest.mark.slow  # half a minute, until it answers
def test_a_real_server_on_loopback_is_told_and_keeps_the_report(
    csv, tmp_path, client, monkeypatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_for(f"{uri}/health", server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "reviews")
        assert run(csv, tmp_path / "run", "--track", "mlflow") == 0
        (found,) = runs_in(client(uri))
        assert found.data.metrics["classifier/valid_loss"]
        path = client(uri).download_artifacts(found.info.run_id, "report.html", str(tmp_path))
        report = tmp_path / "run" / "report" / "report.html"
        assert Path(path).read_bytes() == report.read_bytes()
        assert client(uri).get_experiment(found.info.experiment_id).name == "reviews"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url, server):
    """Until a server answers; it has half a minute."""
    for _ in range(300):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
