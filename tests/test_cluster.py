"""A Dask cluster of two workers on loopback, started as docs/cluster.md says, and local processes.

What the workers answer is what this process answers; who is killed loses nothing.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import ulmfit_app
from tests.conftest import reviews, small_settings
from tests.test_predictor import run_with_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app import cluster
from ulmfit_app.errors import DataError, JobKilled, SettingError, WorkerError
from ulmfit_app.executors import open_executor
from ulmfit_app.experiments import trials
from ulmfit_app.files import write_table
from ulmfit_app.inference import predicted_file
from ulmfit_app.inference.predicted_parts import Parts, find_parts, predict_parts
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.inference.spread import SharedPredictor
from ulmfit_app.jobs import BrokenProcessPool, in_order, result_of
from ulmfit_app.text import tokenizing

PLACE = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def start(*words, **more):
    command = [sys.executable, "-m", *words, "--no-dashboard"]
    return subprocess.Popen(command, env={**os.environ, **more}, **PLACE)


def end(*processes):
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a scheduler with two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"tcp://127.0.0.1:{port}"
    scheduler = start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
    worker = ("distributed.cli.dask_worker", where, "--nworkers", "1", "--nthreads", "1")
    workers = [start(*worker, DASK_DISTRIBUTED__WORKER__DAEMON="False") for _ in range(2)]
    try:
        from distributed import Client

        with Client(where, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield where
    finally:
        end(scheduler, *workers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_with_classifier(tmp_path_factory)


def made_parts(folder, place, n=12):
    texts = reviews(8 * n)["review"]
    for i in range(n):
        rows = pd.DataFrame({"body": texts[8 * i : 8 * i + 8]}, dtype=object)
        write_table(place / "in" / f"part-{i:02}.csv", rows)
    shared = SharedPredictor.of(load_predictor(folder, "fp32"), folder)
    return Parts(find_parts([place / "in"]), place / "out", shared, own="body")


def is_alive(pid):
    """Whether a process works; one that ended and was not waited for does not."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def await_file(path):
    end = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(path.read_text())


def await_end(pid):
    end = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < end, "it goes on alone"
        time.sleep(0.1)


def say_and_sleep(path):
    path.write_text(str(os.getpid()))
    time.sleep(600)


# ------------------------------------------------------------------------------ the same answers
def test_a_file_that_workers_predict_is_the_same_byte_for_byte(
    address, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(predicted_file, "ROWS_AT_A_TIME", 16)
    texts = [*reviews(70)["review"], "", 'two\nlines, and "quotes"', "\r"]
    write_table(tmp_path / "t.csv", pd.DataFrame({"id": range(73), "body": texts}))
    command = ["predict", str(folder), "--file", str(tmp_path / "t.csv")]
    assert cli.main([*command, "--out", str(tmp_path / "here.csv")]) == 0
    assert cli.main([*command, "--out", str(tmp_path / "there.csv"), "--cluster", address]) == 0
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_a_worker_loads_a_classifier_once(address, folder):
    shared = SharedPredictor.of(load_predictor(folder, "fp32"), folder)
    with cluster.open_cluster(address) as workers:
        jobs = [workers.submit(_identity, shared) for _ in range(8)]
        found = {result_of(job, "it") for job in jobs}
    assert len({pid for pid, _ in found}) == len(found) <= 2


def _identity(shared):
    return os.getpid(), id(shared.load())


@pytest.mark.usefixtures("in_this_process")  # here; workers start others
def test_a_trial_on_a_worker_is_that_of_this_machine(address, csv, tmp_path):
    trial = trials.Trial("one", small_settings(csv), last="tokens")
    with open_executor(address, tmp_path / "there") as executor:
        trials.carry_out([trial], tmp_path / "there", "Trials", executor)
    trials.carry_out([trial], tmp_path / "here", "Trials")
    ids = "one/tokens/ids.bin"
    here, there = ((tmp_path / place / ids).read_bytes() for place in ("here", "there"))
    assert here == there and len(here) > 1000
    assert "a vocabulary of" in (tmp_path / "there" / "one" / "log.txt").read_text()


def test_tokens_of_workers_are_those_of_this_process(address, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "CHUNK", 500)
    texts = reviews(40)["review"].tolist()
    here = tokenizing.tokenize(texts)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with cluster.open_cluster(address) as workers:
        there = tokenizing.tokenize(texts, executor=workers)
    assert there != here
    for name in ("ids.bin", "offsets.npy", "vocab.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


# ------------------------------------------------------------------------------------------ kills
def test_parts_survive_workers_that_are_killed(address, folder, tmp_path):
    parts = made_parts(folder, tmp_path)
    alone = replace(parts, out=tmp_path / "alone")
    predict_parts(alone)
    with cluster.open_cluster(address) as workers:
        pids = sorted(workers._client.run(os.getpid).values())
        for source, pid in zip(parts.sources, pids, strict=False):
            job = workers.submit(predict_and_die, parts, source, pid, tmp_path)
            assert result_of(job, "a part")["rows"] == 8
        assert predict_parts(parts, workers) == 96
    assert {path.name for path in parts.out.iterdir()} == {
        path.name for path in alone.out.iterdir()
    }
    for path in parts.out.glob("*.csv"):
        assert path.read_bytes() == (alone.out / path.name).read_bytes()


def predict_and_die(parts, source, pid, place):
    """The worker `pid` dies between a part and its end, the first time."""
    from ulmfit_app.inference import predicted_parts

    mark = place / f"killed-{pid}"
    if not mark.exists():
        mark.touch()
        predictor, target = parts.shared.load(), parts.target(source)
        predicted_parts.predict_file(predictor, source, target, "body", "utf-8")
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)
    return predicted_parts._predict_part(parts, source)


def test_a_job_that_nobody_wants_any_more_ends(address, tmp_path):
    with open_executor(address) as executor:
        job = executor.submit(say_and_sleep, tmp_path / "pid")
        pid = await_file(tmp_path / "pid")
        assert is_alive(pid)
        job.cancel()
        await_end(pid)


def test_a_job_ends_with_the_command_that_was_killed(tmp_path):
    (tmp_path / "code.py").write_text(
        "import os, time\n"
        "def say_and_sleep(path):\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    from ulmfit_app.executors import open_executor\n"
        "    with open_executor() as executor:\n"
        f"        executor.submit(say_and_sleep, {str(tmp_path / 'pid')!r}).result()\n"
    )
    home = {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "code.py")]
    command = subprocess.Popen(command, env={**os.environ, **home}, **PLACE)
    pid = await_file(tmp_path / "pid")
    command.kill()
    command.wait()
    await_end(pid)


@pytest.mark.parametrize("begun", [False, True])
def test_an_interruption_ends_jobs_at_once_and_they_say_nothing(tmp_path, begun):
    """A terminal sends it to all processes of a command, also to one that only just starts."""
    pid = tmp_path / "pid"
    (tmp_path / "command.py").write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from tests.test_cluster import say_and_sleep\n"
        "from ulmfit_app.executors import open_executor\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    with open_executor() as executor:\n"
        f"        jobs = [executor.submit(say_and_sleep, Path({str(pid)!r})) for _ in range(9)]\n"
        "        jobs[0].result()\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    asking = subprocess.Popen(
        [sys.executable, str(tmp_path / "command.py")], env={**os.environ, "PYTHONPATH": path},
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if begun:
        await_file(pid)
    else:
        of_asking = Path(f"/proc/{asking.pid}/task")
        while sum(len(each.read_text().split()) for each in of_asking.glob("*/children")) < 2:
            time.sleep(0.05)  # for the process behind Python's own, which counts semaphores
        time.sleep(0.5)
    os.killpg(asking.pid, signal.SIGINT)
    said = asking.communicate()[1]
    assert said.count("Traceback") == said.count("KeyboardInterrupt\n") == 1, said
    if begun:
        await_end(int(pid.read_text()))


# --------------------------------------------------------------------------- what bad input gets
def test_no_scheduler_is_said_with_the_command_that_starts_one(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 0.5)
    (tmp_path / "t.csv").write_text("body\ngood\n")
    command = ["predict", str(folder), "--file", str(tmp_path / "t.csv"), "--cluster"]
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1", "tls://127.0.0.1:9"):
        out = str(tmp_path / "p.csv")
        assert cli.main([*command, address, "--out", out]) == 11
        said = capsys.readouterr().err
        assert f"No Dask scheduler answers at {address}: " in said and "dask scheduler" in said
        assert not Path(out).exists()


def test_a_server_that_is_no_scheduler_is_told(address, monkeypatch):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        worker = next(iter(client.scheduler_info()["workers"]))
    with (
        pytest.raises(WorkerError, match=f"answers at {worker}: a Worker is there"),
        cluster.open_cluster(worker),
    ):
        pass
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        other = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        silence = "nothing was heard in 0.5 s"
        with pytest.raises(WorkerError, match=silence), cluster.open_cluster(other):
            pass


def test_workers_with_another_version_are_named(address, monkeypatch):
    mine = {**cluster.own_versions(), "torch": "99"}
    monkeypatch.setattr(cluster, "own_versions", lambda: mine)
    with (
        pytest.raises(WorkerError, match=r"The worker tcp://.* torch [\d.+a-z]+ there, 99 here\."),
        cluster.open_cluster(address),
    ):
        pass


def test_a_worker_that_joined_later_looks_at_its_version_before_each_job():
    mine = {**cluster.own_versions(), "Python": "2.7"}
    assert cluster._on_a_worker(cluster.own_versions(), lambda: 7) == 7
    with pytest.raises(
        WorkerError, match=rf"worker of process {os.getpid()} .* here: .*2\.7 here"
    ):
        cluster._on_a_worker(mine, lambda: pytest.fail("it works"))


def test_code_that_differs_is_another_version(tmp_path, monkeypatch):
    before = cluster.own_versions()
    for name in ("cluster.py", "errors.py"):
        (tmp_path / name).write_bytes((Path(cluster.__file__).parent / name).read_bytes())
    monkeypatch.setattr(ulmfit_app, "__file__", str(tmp_path / "__init__.py"))
    found = [cluster.own_versions.__wrapped__()]
    (tmp_path / "errors.py").write_text("another = 1\n")
    found.append(cluster.own_versions.__wrapped__())
    assert len({each["files of ulmfit_app"] for each in (before, *found)}) == 3
    assert {**found[0], "files of ulmfit_app": ""} == {**before, "files of ulmfit_app": ""}


class Told:
    """What a client of a cluster says of two workers, one of which is odd."""

    scheduler = type("Scheduler", (), {"address": "tcp://10.0.0.1:8786"})

    def __init__(self, odd, scheduler=None):
        equal = (cluster.own_versions(), False)
        self.answers = {"tcp://10.0.0.2:1": equal, "tcp://10.0.0.3:1": odd}
        self.at_scheduler = scheduler

    def run(self, function, on_error):
        return self.answers

    def run_on_scheduler(self, function):
        if self.at_scheduler:
            raise self.at_scheduler

    def wait_for_workers(self, n, timeout):
        raise TimeoutError


def test_a_worker_that_may_start_no_process_is_told_how_it_may():
    daemon = Told((cluster.own_versions(), True))
    cluster._require_same(daemon, starting_processes=False)
    with pytest.raises(
        WorkerError,
        match="10.0.0.3:1 may not start .*DAEMON=False dask worker tcp://10.0.0.1:8786",
    ):
        cluster._require_same(daemon, starting_processes=True)


def test_workers_and_schedulers_without_the_package_are_named():
    missing = ModuleNotFoundError("No module named 'ulmfit_app'")
    with pytest.raises(WorkerError, match=r"The worker tcp://10\.0\.0\.3:1 cannot import ulmfit"):
        cluster._require_same(Told(missing), False)
    equal = (cluster.own_versions(), False)
    with pytest.raises(WorkerError, match=r"The scheduler tcp://10\.0\.0\.1:8786 cannot import"):
        cluster._require_same(Told(equal, missing), False)


def test_a_scheduler_without_workers_is_told_how_to_start_one():
    with pytest.raises(WorkerError, match="No worker has joined .* dask worker 'a b' --nw"):
        cluster._require_workers(Told(None), "a b")


def test_a_worker_that_does_not_see_a_folder_is_told_how_to_share_it(address, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 0.1)
    of_this_process = Path("/proc/self/environ")
    with (
        pytest.raises(WorkerError, match="does not see /proc/self/environ .* mount under"),
        cluster.open_cluster(address, [of_this_process]),
    ):
        pass


def test_nothing_is_left_in_a_folder_that_workers_were_asked_for(address, tmp_path):
    with cluster.open_cluster(address, [tmp_path / "new"]):
        assert list((tmp_path / "new").iterdir()) == []


def test_what_a_worker_wrote_elsewhere_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 0.1)
    (tmp_path / "there").touch()
    cluster.require_written(tmp_path / "there")
    with pytest.raises(WorkerError, match="it is not here. All machines have to mount"):
        cluster.require_written(tmp_path / "gone")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"'ulmfit-app\[cluster\]'"), cluster.open_cluster("x"):
        pass


def test_minutes_are_of_this_machine(capsys):
    words = ["trec6", "--minutes", "3", "--cluster", "tcp://127.0.0.1:9"]
    assert cli.main(["experiment", "ablation", *words]) == 2
    assert "--minutes is measured on this machine" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- results
def failed(error):
    job = Future()
    job.set_exception(error)
    return job


def test_results_say_what_became_of_a_job():
    job = Future()
    job.set_result(7)
    assert result_of(job, "x") == 7
    with pytest.raises(DataError, match="own"):
        result_of(failed(DataError("its own")), "x")
    killed = type("KilledWorker", (Exception,), {})
    with pytest.raises(JobKilled, match="Several workers ended, .* worked at the run one: memory"):
        result_of(failed(killed()), "the run one")
    with pytest.raises(JobKilled, match="The process of x was ended from outside"):
        result_of(failed(BrokenProcessPool()), "x")
    with pytest.raises(WorkerError, match="scheduler was lost before x was done"):
        result_of(failed(CancelledError()), "x")


def test_results_come_in_order_and_few_are_ahead():
    begun, read = [], []

    def submit(item):
        job = Future()
        begun.append(job)
        job.set_result(10 * item)
        return job

    items = (read.append(i) or i for i in range(9))
    found = []
    for result in in_order(submit, items, lambda: 2, "x"):
        found.append(result)
        assert len(read) - len(found) <= 2
    assert found == [10 * i for i in range(9)]


def test_the_jobs_behind_one_that_failed_are_given_up():
    jobs = [failed(DataError("broken")), Future(), Future()]
    with pytest.raises(DataError, match="broken"):
        list(in_order(jobs.__getitem__, range(3), lambda: 2, "x"))
    assert [job.cancelled() for job in jobs] == [False, True, True]


# ------------------------------------------------------------------------------- the end of it all
def test_the_death_of_the_scheduler_is_one_error_and_the_parts_stay(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS_TO_ANSWER", 5.0)
    parts = made_parts(folder, tmp_path, 4)
    lost = Future()
    lost.set_exception(CancelledError())

    class Lost:
        def submit(self, function, parts, source):
            if source == parts.sources[0]:
                done = Future()
                done.set_result(function(parts, source))
                return done
            return lost

    with pytest.raises(WorkerError, match="The connection to the cluster's scheduler was lost"):
        predict_parts(parts, Lost())
    assert parts.note(parts.sources[0]).is_file()
    assert predict_parts(parts) == 32
